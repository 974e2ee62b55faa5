//! What every call between nodes opens with: which cluster, from whom, to whom.
//!
//! It is checked before anything reaches Raft: a vote or an entry of another cluster, or one meant for
//! a node whose disk was wiped since, must not be looked at. It proves nothing; the certificate does.

use journal_client::{Reason, Refusal};
use proto::NodeId;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use super::{ClusterId, Identity};

const CLUSTER: &str = "journal-cluster";
const FROM: &str = "journal-from";
const TO: &str = "journal-to";

/// The three, as a node says them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    pub cluster: ClusterId,
    pub from: NodeId,
    pub to: NodeId,
}

impl Handshake {
    /// Says it on a request.
    pub fn write(&self, metadata: &mut MetadataMap) {
        metadata.insert(CLUSTER, hex(self.cluster));
        metadata.insert(TO, hex(self.to));
        write_from(self.from, metadata);
    }

    /// Hears it on a request to `identity`'s node, and answers who is calling.
    pub fn check(metadata: &MetadataMap, identity: &Identity) -> Result<NodeId, Refusal> {
        let cluster: ClusterId = read(metadata, CLUSTER)?;
        let (from, to): (NodeId, NodeId) = (read(metadata, FROM)?, read(metadata, TO)?);
        let here = identity.node_id();
        match identity.cluster_id() {
            None => {
                Err(refuse(format!("node {here} belongs to no cluster yet; {from} of cluster {cluster} called it")))
            }
            Some(ours) if ours != cluster => {
                Err(refuse(format!("node {here} belongs to cluster {ours}; {from} of cluster {cluster} called it")))
            }
            Some(_) if to != here => Err(refuse(format!(
                "this is node {here}, not {to}: the data directory at this address is another one now; \
                 {to} has to be replaced"
            ))),
            Some(_) if from == here => Err(refuse(format!("node {here} called itself: two nodes share one address"))),
            Some(_) => Ok(from),
        }
    }
}

/// While there is no cluster yet, a node only says who it is.
pub fn write_from(from: NodeId, metadata: &mut MetadataMap) {
    metadata.insert(FROM, hex(from));
}

pub fn read_from(metadata: &MetadataMap) -> Result<NodeId, Refusal> {
    read(metadata, FROM)
}

fn hex(value: impl std::fmt::Display) -> MetadataValue<Ascii> {
    value.to_string().parse().expect("hex digits are ASCII")
}

fn read<T: std::str::FromStr>(metadata: &MetadataMap, key: &'static str) -> Result<T, Refusal> {
    let text = metadata.get(key).and_then(|value| value.to_str().ok());
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| refuse(format!("`{key}` is missing or wrong: only journal-server nodes call this service")))
}

fn refuse(message: String) -> Refusal {
    Refusal { reason: Reason::WrongCluster, message, leader: None }
}
