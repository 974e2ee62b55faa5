//! Speaks what [`crate::identity::forming`] decides: asks the others of the list who they are, offers
//! the cluster, and answers those who ask or offer.

use std::sync::Arc;
use std::time::Duration;

use proto::NodeId;
use proto::peer::{self as wire, peer_client::PeerClient};
use tonic::metadata::MetadataMap;

use crate::config::{InitialCluster, Start};
use crate::env::Rng;
use crate::health::Check;
use crate::identity::forming::{self as plan, Offer, Probed, Step};
use crate::identity::{Cluster, ClusterId, Identity, Member, Origin, handshake};
use crate::raft::Dial;
use crate::refusal::{Reason, Refusal};

const ASK_TIMEOUT: Duration = Duration::from_secs(1);
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// One node's part in forming a cluster and in letting others join.
#[derive(Clone)]
pub struct Forming(Arc<Inner>);

struct Inner {
    identity: Identity,
    name: String,
    address: String,
    list: Option<InitialCluster>,
    dial: Arc<dyn Dial>,
    rng: Rng,
}

impl Forming {
    pub fn new(identity: Identity, name: &str, address: &str, start: &Start, dial: Arc<dyn Dial>, rng: Rng) -> Self {
        let list = match start {
            Start::Form(list) => Some(list.clone()),
            Start::Join | Start::Resume => None,
        };
        let (name, address) = (name.to_owned(), address.to_owned());
        Forming(Arc::new(Inner { identity, name, address, list, dial, rng }))
    }

    fn list_hash(&self) -> u64 {
        self.0.list.as_ref().map_or(0, plan::list_hash)
    }

    // ---- answering -------------------------------------------------------------------------

    pub fn probe(&self) -> wire::ProbeReply {
        let cluster = self.0.identity.cluster_id();
        wire::ProbeReply {
            node_id: self.0.identity.node_id().0,
            name: self.0.name.clone(),
            address: self.0.address.clone(),
            cluster_id: cluster.map(|id| id.to_string()).unwrap_or_default(),
            formed: cluster.is_some(),
            list_hash: self.list_hash(),
        }
    }

    /// Takes the offer, or says why not; what is taken is durable before it is answered.
    pub async fn offer(
        &self,
        metadata: &MetadataMap,
        request: wire::OfferRequest,
    ) -> Result<wire::OfferReply, Refusal> {
        let from = handshake::read_from(metadata)?;
        let cluster = request.cluster_id.parse::<ClusterId>();
        let cluster = cluster.map_err(|_| Refusal::new(Reason::Invalid, "the offer's cluster id cannot be read"))?;
        let member =
            |m: wire::Member| Member { node_id: NodeId(m.node_id), name: m.name, address: m.address, voter: true };
        let offer = Offer {
            from,
            cluster,
            list_hash: request.list_hash,
            members: request.members.into_iter().map(member).collect(),
            join: request.join,
        };
        let (name, list) = (&self.0.name, self.0.list.as_ref());
        let taken = self.0.identity.change(|file| plan::take(file, name, list, &offer)).await;
        let node_id = self.0.identity.node_id().0;
        Ok(match taken {
            Ok(Ok(())) => wire::OfferReply { node_id, accepted: true, why: String::new() },
            Ok(Err(why)) => wire::OfferReply { node_id, accepted: false, why },
            Err(error) => {
                wire::OfferReply { node_id, accepted: false, why: format!("the node file cannot be written: {error}") }
            }
        })
    }

    // ---- asking ----------------------------------------------------------------------------

    /// Lets a node that waits at `address` into this cluster; answers its id and name.
    pub async fn admit(&self, address: &str, members: Vec<Member>) -> Result<(u64, String), Refusal> {
        let not_ready = |why: String| Refusal::new(Reason::NotReady, format!("{address}: {why}"));
        let probed = self.ask(address).await.map_err(not_ready)?;
        let ours = self.0.identity.cluster_id();
        if probed.cluster.is_some() && probed.cluster != ours {
            let message = format!("{address} belongs to another cluster; a joining node needs an empty data directory");
            return Err(Refusal::new(Reason::Invalid, message));
        }
        let cluster = ours.ok_or_else(|| not_ready("this node has no cluster itself".into()))?;
        let request = self.offer_out(cluster, &members, true);
        let reply = self.send_offer(address, request).await.map_err(not_ready)?;
        match reply.accepted {
            true => Ok((probed.node_id.0, probed.name)),
            false => Err(Refusal::new(Reason::Invalid, format!("{address}: {}", reply.why))),
        }
    }

    /// Forms the cluster of the list, or waits to be taken in; ends once there is nothing left to say.
    pub async fn run(self, check: Check) {
        let Some(list) = self.0.list.clone() else {
            if self.0.identity.cluster().is_none() {
                check.not_ready("waiting to be added to a cluster: `journal members add` at any of its nodes");
            }
            self.0.identity.in_cluster().await;
            return;
        };
        let mut forming = plan::Forming::new(&self.0.name, &list);
        let mut said = String::new();
        loop {
            match forming.next(&self.0.identity.file()) {
                Step::Wait(why) => {
                    check.not_ready(format!("forming the cluster: {why}"));
                    if why != said {
                        tracing::info!("forming the cluster: {why}");
                        said = why;
                    }
                    let others: Vec<_> = forming.others().map(|(n, a)| (n.clone(), a.clone())).collect();
                    for (name, address) in others {
                        forming.heard(&name, self.ask(&address).await);
                    }
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Step::Record(members) => {
                    let id = ClusterId(self.0.rng.next_u128() | 1);
                    let cluster = Cluster { id, origin: Origin::Forming, list_hash: self.list_hash(), members };
                    let record = self.0.identity.change(|file| {
                        file.cluster.get_or_insert(cluster);
                    });
                    let record = record.await;
                    if let Err(error) = record {
                        check.not_ready(format!("the node file cannot be written: {error}"));
                        tokio::time::sleep(ASK_AGAIN).await;
                    }
                }
                Step::Offer(members) => {
                    let Some(cluster) = self.0.identity.cluster() else { continue };
                    for member in members {
                        let request = self.offer_out(cluster.id, &cluster.members, false);
                        match self.send_offer(&member.address, request).await {
                            Ok(reply) if reply.accepted => forming.settled(member.node_id),
                            // Whoever is there now is a stranger, and never takes this offer.
                            Ok(reply) if reply.node_id != member.node_id.0 => forming.settled(member.node_id),
                            Ok(reply) => tracing::warn!("{} refuses the cluster: {}", member.name, reply.why),
                            Err(why) => tracing::debug!("{} cannot be offered the cluster yet: {why}", member.name),
                        }
                    }
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Step::Settle => {
                    let settle = |file: &mut crate::identity::NodeFile| {
                        if let Some(cluster) = file.cluster.as_mut().filter(|c| c.origin == Origin::Forming) {
                            cluster.origin = Origin::Formed;
                        }
                    };
                    match self.0.identity.change(settle).await {
                        Ok(()) => return,
                        Err(error) => tracing::error!("the node file cannot be written: {error}"),
                    }
                    tokio::time::sleep(ASK_AGAIN).await;
                }
            }
        }
    }

    fn offer_out(&self, cluster: ClusterId, members: &[Member], join: bool) -> wire::OfferRequest {
        let member =
            |m: &Member| wire::Member { node_id: m.node_id.0, name: m.name.clone(), address: m.address.clone() };
        wire::OfferRequest {
            list_hash: self.list_hash(),
            cluster_id: cluster.to_string(),
            members: members.iter().map(member).collect(),
            join,
        }
    }

    async fn ask(&self, address: &str) -> Result<Probed, String> {
        let request = self.stamped(wire::ProbeRequest { list_hash: self.list_hash() });
        let mut client = PeerClient::new(self.0.dial.channel(address));
        let reply = tokio::time::timeout(ASK_TIMEOUT, client.probe(request)).await;
        let reply = reply.map_err(|_| "no answer in time".to_owned())?.map_err(text)?.into_inner();
        let cluster = match reply.cluster_id.as_str() {
            "" => None,
            id => Some(id.parse::<ClusterId>().map_err(|_| "its cluster id cannot be read".to_owned())?),
        };
        Ok(Probed { node_id: NodeId(reply.node_id), name: reply.name, cluster, list_hash: reply.list_hash })
    }

    async fn send_offer(&self, address: &str, request: wire::OfferRequest) -> Result<wire::OfferReply, String> {
        let mut client = PeerClient::new(self.0.dial.channel(address));
        let reply = tokio::time::timeout(ASK_TIMEOUT, client.offer(self.stamped(request))).await;
        Ok(reply.map_err(|_| "no answer in time".to_owned())?.map_err(text)?.into_inner())
    }

    fn stamped<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        handshake::write_from(self.0.identity.node_id(), request.metadata_mut());
        request
    }
}

fn text(status: tonic::Status) -> String {
    format!("{}: {}", status.code(), status.message())
}
