//! Whole clusters in one thread: the real server and the real client on a simulated network, disk and
//! clock, all of it decided by one number.
//!
//! What runs is what runs in production, save what stands behind the seams: bytes cross `wire`
//! instead of sockets, files lie on the failing disk of `journal-server`'s crash tests, threads are
//! tasks. One process runs one seed (`chaos sim --seed N`): libraries beneath us ask the process for
//! time and chance, and get both from `clock`. See `docs/TESTING.md` for what is claimed.

pub mod clock;
mod etcd;
mod faults;
mod flip;
mod node;
mod operator;
mod pipe;
mod plant;
mod profile;
mod reader;
mod run;
mod stage;
mod stories;
mod trace;
mod wire;
mod witness;
mod world;

pub use plant::Plant;
pub use run::{Options, Outcome, run};
pub use stories::Story;
pub use trace::Detail;
