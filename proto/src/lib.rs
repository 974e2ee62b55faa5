//! The wire: generated messages, and the vocabulary that the rest of the house speaks.
//!
//! Generated types stop at the edges (`grpc/`, `transport.rs`, `raft/`); everything behind them
//! uses the newtypes of `types.rs`.

mod types;

pub use types::{InvalidName, JournalId, JournalName, NodeId, Position};

/// What journal nodes say to each other.
pub use generated::journal::peer::v1 as peer;
/// What control entries say, and the replicated state written down.
pub use generated::journal::state::v1 as state;
/// What clients and operators call.
pub use generated::journal::v1 as journal;

/// One module a package, nested as the packages are: the generated code counts on it.
mod generated {
    #![allow(clippy::all, clippy::unwrap_used, rustdoc::all, missing_debug_implementations)]
    pub mod journal {
        pub mod v1 {
            tonic::include_proto!("journal.v1");
        }
        pub mod peer {
            pub mod v1 {
                tonic::include_proto!("journal.peer.v1");
            }
        }
        pub mod state {
            pub mod v1 {
                tonic::include_proto!("journal.state.v1");
            }
        }
    }
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
