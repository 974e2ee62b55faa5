//! The wire: generated messages, and the vocabulary that the rest of the house speaks.
//!
//! Generated types stop at the edges (`grpc/`, `transport.rs`, `raft/`); everything behind them
//! uses the newtypes of [`types`].

mod types;

pub use types::{InvalidName, JournalId, JournalName, NodeId, Position};

/// What clients and operators call.
pub mod journal {
    #![allow(clippy::all, clippy::unwrap_used)]
    tonic::include_proto!("journal.v1");
}

/// What journal nodes say to each other.
pub mod peer {
    #![allow(clippy::all, clippy::unwrap_used)]
    tonic::include_proto!("journal.peer.v1");
}

/// What the load program sends to learn the price of a message.
pub mod bench {
    #![allow(clippy::all, clippy::unwrap_used)]
    tonic::include_proto!("journal.bench.v1");
}

/// As much of etcd's protocol as it takes to drive etcd with the same load.
pub mod etcd {
    #![allow(clippy::all, clippy::unwrap_used)]
    tonic::include_proto!("etcdserverpb");
}
