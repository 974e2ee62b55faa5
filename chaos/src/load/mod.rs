//! Load for anything that speaks etcd's protocol: the shapes that kube-apiserver sends, from a client
//! that costs so little that it is not what is measured.
//!
//! `plan` says what a load is to be, `profile` knows what is asked, `connection` (with `headers`) how it travels, `run` when,
//! `report` and `plot` what came of it.

mod connection;
mod headers;
mod plan;
mod plot;
mod profile;
mod report;
mod run;

pub use plan::Plan;
pub use plot::svg;
pub use profile::{Profile, sample_values};
pub use report::{Latency, Outcome};
pub use run::run;
