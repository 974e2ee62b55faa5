//! The wire: generated messages, and the vocabulary that the rest of the house speaks.
//!
//! Generated types stop at the edges (`grpc/`, `transport.rs`, `raft/`); everything behind them
//! uses the newtypes of `types.rs`.

mod status;
mod types;

pub use types::{InvalidName, JournalId, JournalName, NodeId, Position};

/// What journal nodes say to each other.
pub use generated::journal::peer::v1 as peer;
/// What control entries say, and the replicated state written down.
pub use generated::journal::state::v1 as state;
/// What clients and operators call.
pub use generated::journal::v1 as journal;

/// The health service that gRPC clients know.
pub use generated::grpc::health::v1 as health;
/// etcd's protocol, version 3.
pub use generated::{authpb, etcdserverpb as etcd, mvccpb, v3electionpb, v3lockpb};

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
    pub mod etcdserverpb {
        tonic::include_proto!("etcdserverpb");
    }
    pub mod mvccpb {
        tonic::include_proto!("mvccpb");
    }
    pub mod authpb {
        tonic::include_proto!("authpb");
    }
    pub mod v3lockpb {
        tonic::include_proto!("v3lockpb");
    }
    pub mod v3electionpb {
        tonic::include_proto!("v3electionpb");
    }
    pub mod grpc {
        pub mod health {
            pub mod v1 {
                tonic::include_proto!("grpc.health.v1");
            }
        }
    }
}

/// What the load program sends to learn the price of a message.
pub mod bench {
    #![allow(clippy::all, clippy::unwrap_used)]
    tonic::include_proto!("journal.bench.v1");
}
