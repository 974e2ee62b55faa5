//! A journal, as its users see it.
//!
//! [`Journal`] is the contract. [`RemoteJournal`] speaks it to a cluster, [`MemoryJournal`]
//! within a process, and the [`conformance`] suite holds both to it.
//!
//! Wire types stop at [`refusal`] and within the remote journal; sockets at [`transport`].

mod admin;
pub mod conformance;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod journal;
mod memory;
mod metrics;
pub mod refusal;
mod remote;
pub mod tls;
pub mod transport;

pub use admin::{Admin, Change, JournalInfo, NodeStatus, Recorded, TrimPolicy};
pub use error::{AppendError, Error, Reason, Refusal, TailError};
pub use journal::{Appender, Description, Entry, Journal, Run, Tail, TailEntry, TailStream, Ticket};
pub use memory::{Fate, MemoryJournal};
pub use remote::{Cluster, RemoteJournal, Settings, TailFrom};
pub use tls::Tls;
pub use transport::{Connector, TcpConnector};
