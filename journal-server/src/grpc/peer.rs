//! The service `Peer`: what the other nodes ask. Every call shows a node's certificate and names its
//! cluster, its sender and its receiver; all of it is checked before Raft hears anything.

use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};
use proto::NodeId;
use proto::peer::{self as wire, control_reply, control_request, peer_server};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status, Streaming};

use super::{Door, Doorway, denied};
use crate::caller::Caller;
use crate::disk::DiskHealth;
use crate::identity::Identity;
use crate::identity::handshake::Handshake;
use crate::node::Node;
use crate::offload::Offload;
use crate::raft::MESSAGE_BYTES_MAX;
use crate::refusal::{Reason, Refusal};
use crate::repair::{Answer, Repairs};
use crate::rules::Rules;
use crate::segment::LogEntry;
use crate::state;

/// Control requests of one peer that are answered at the same time: all groups' heartbeats and more.
const CONTROL_CONCURRENCY: usize = 512;

#[derive(Clone)]
pub struct PeerService {
    pub door: Doorway,
    pub identity: Identity,
    pub rules: Rules,
    pub node: Arc<Node>,
    pub repairs: Arc<Repairs>,
    pub offload: Offload,
}

impl PeerService {
    fn admit(&self, metadata: &MetadataMap, extensions: &Extensions) -> Result<(NodeId, Door), Status> {
        self.admit_node(extensions)?;
        let from = Handshake::check(metadata, &self.identity)?;
        Ok((from, self.door.open_to_nodes()?))
    }

    fn admit_node(&self, extensions: &Extensions) -> Result<(), Status> {
        let caller = extensions.get::<Caller>().unwrap_or(&Caller::Anonymous);
        Ok(self.rules.decide_node(caller).map_err(denied)?)
    }
}

#[tonic::async_trait]
impl peer_server::Peer for PeerService {
    type ReplicateStream = BoxStream<'static, Result<wire::AppendEntriesReply, Status>>;
    type ControlStream = BoxStream<'static, Result<wire::ControlReply, Status>>;

    async fn replicate(
        &self,
        request: Request<Streaming<wire::AppendEntries>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        let (_, door) = self.admit(request.metadata(), request.extensions())?;
        let group = request.metadata().get("journal-group").and_then(|value| value.to_str().ok());
        let group = group.and_then(|text| text.parse().ok());
        let group = group.ok_or_else(|| Refusal::new(Reason::Invalid, "`journal-group` is missing or wrong"))?;
        let replica = door.groups.get(group)?.replica().clone();
        let replies = replica.replicate(request.into_inner(), Arc::new(self.node.disk.clone()));
        Ok(Response::new(replies.map(Ok).boxed()))
    }

    async fn control(
        &self,
        request: Request<Streaming<wire::ControlRequest>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let (from, door) = self.admit(request.metadata(), request.extensions())?;
        let service = self.clone();
        let answer = move |request: wire::ControlRequest| {
            let (service, door) = (service.clone(), door.clone());
            async move {
                let kind = match request.kind {
                    Some(kind) => service.control_one(&door, from, kind).await,
                    None => Err("a control request without content".to_owned()),
                };
                let kind = Some(kind.unwrap_or_else(control_reply::Kind::Failed));
                Ok::<_, Status>(wire::ControlReply { number: request.number, kind })
            }
        };
        let requests = in_order_until_error(request.into_inner());
        Ok(Response::new(requests.map(answer).buffer_unordered(CONTROL_CONCURRENCY).boxed()))
    }

    async fn snapshot(&self, request: Request<wire::SnapshotRequest>) -> Result<Response<wire::SnapshotReply>, Status> {
        let (_, door) = self.admit(request.metadata(), request.extensions())?;
        let request = request.into_inner();
        let replica = door.groups.get(request.group_id)?.replica().clone();
        Ok(Response::new(replica.snapshot(request).await.map_err(Status::internal)?))
    }

    async fn fetch(&self, request: Request<wire::FetchRequest>) -> Result<Response<wire::FetchReply>, Status> {
        // Answered whether the groups run or not: whoever is damaged asks who may be damaged too.
        self.admit_node(request.extensions())?;
        Handshake::check(request.metadata(), &self.identity)?;
        let wire::FetchRequest { group_id, from, to } = request.into_inner();
        let max_bytes = MESSAGE_BYTES_MAX / 2;
        let answer = self.repairs.answer(self.offload, group_id, from, to, max_bytes).await;
        let answer = answer.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(answer.map(answer_out).unwrap_or_default()))
    }

    async fn propose(&self, request: Request<wire::ProposeRequest>) -> Result<Response<wire::ProposeReply>, Status> {
        let (_, door) = self.admit(request.metadata(), request.extensions())?;
        let command = state::decode_command(&request.into_inner().command);
        let command = command.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let reply = match door.groups.system().command(&command).await {
            Ok(_) => wire::ProposeReply { accepted: true, why: String::new() },
            Err(error) => wire::ProposeReply { accepted: false, why: error.to_string() },
        };
        Ok(Response::new(reply))
    }

    async fn probe(&self, request: Request<wire::ProbeRequest>) -> Result<Response<wire::ProbeReply>, Status> {
        self.admit_node(request.extensions())?;
        Ok(Response::new(self.node.forming.probe()))
    }

    async fn offer(&self, request: Request<wire::OfferRequest>) -> Result<Response<wire::OfferReply>, Status> {
        self.admit_node(request.extensions())?;
        let (metadata, _, request) = request.into_parts();
        Ok(Response::new(self.node.forming.offer(&metadata, request).await?))
    }
}

impl PeerService {
    async fn control_one(
        &self,
        door: &Door,
        from: NodeId,
        kind: control_request::Kind,
    ) -> Result<control_reply::Kind, String> {
        let replica = |group| match door.groups.get(group) {
            Ok(group) => Ok(group.replica().clone()),
            Err(refusal) => Err(refusal.to_string()),
        };
        Ok(match kind {
            control_request::Kind::Heartbeat(request) => {
                control_reply::Kind::Heartbeat(replica(request.group_id)?.heartbeat(request).await?)
            }
            control_request::Kind::Vote(request) => {
                control_reply::Kind::Vote(replica(request.group_id)?.vote(request).await?)
            }
            control_request::Kind::PreVote(request) => {
                control_reply::Kind::PreVote(replica(request.group_id)?.pre_vote(request).await?)
            }
            control_request::Kind::Transfer(_) if self.node.disk.health() >= DiskHealth::Slow => {
                // Whoever leads has not heard of it yet.
                let why = format!("the disk here is {}", self.node.disk.health());
                control_reply::Kind::Transfer(wire::TransferReply { accepted: false, why })
            }
            control_request::Kind::Transfer(request) => {
                control_reply::Kind::Transfer(replica(request.group_id)?.transfer(request).await?)
            }
            control_request::Kind::Health(health) => {
                self.node.heard(from, health);
                control_reply::Kind::Health(self.node.answer(from, &door.groups))
            }
        })
    }
}

/// A broken stream simply ends: its peer opens another.
fn in_order_until_error<T>(requests: Streaming<T>) -> impl Stream<Item = T> + Send
where
    T: Send + 'static,
{
    stream::unfold(requests, |mut requests| async move {
        let request = requests.try_next().await.ok()??;
        Some((request, requests))
    })
}

fn answer_out(answer: Answer) -> wire::FetchReply {
    wire::FetchReply {
        entries: answer.entries.into_iter().map(entry_out).collect(),
        vote: answer.vote.map(|v| wire::Vote { term: v.term, node_id: v.node, committed: v.committed }),
        last: answer.last.map(|id| wire::LogId { term: id.term, position: id.position }),
        first: answer.first,
        damaged: answer.damaged,
        known: true,
    }
}

fn entry_out(entry: LogEntry) -> wire::LogEntry {
    wire::LogEntry {
        position: entry.id.position,
        term: entry.id.term,
        kind: entry.kind as u32,
        crc: entry.crc,
        body: entry.body,
    }
}
