//! A journal, as its users see it.
//!
//! [`Journal`] is the contract. `RemoteJournal` speaks it to a cluster, `MemoryJournal`
//! within a process, and the conformance suite holds both to it.

mod error;
mod journal;

pub use error::{AppendError, Error, Reason, Refusal, TailError};
pub use journal::{Appender, Description, Entry, Journal, Run, Tail, TailEntry, TailStream, Ticket};
