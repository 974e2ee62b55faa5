//! etcd's Election service: a queue of keys under a name, the one created first leads, its value is what
//! it proclaims.

use std::sync::Arc;

use proto::etcd::request_op::Request as Op;
use proto::etcd::*;
use proto::mvccpb::KeyValue;
use proto::v3electionpb::election_server::Election;
use proto::v3electionpb::*;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::lock::Contender;
use super::session::{alive, contend, end_of, first_created, key_of, lease_or_own, prefix_of, wait_for_earlier};
use super::{Shared, status};
use crate::watch::{Item, Keys, Session, Wish, key_value};

#[derive(Clone)]
pub struct ElectionService(pub Arc<Shared>);

/// A Txn that does something only as long as its caller leads.
fn while_leading(leader: &LeaderKey, then: Op) -> TxnRequest {
    let leads = Compare {
        target: compare::CompareTarget::Create.into(),
        key: leader.key.clone(),
        target_union: Some(compare::TargetUnion::CreateRevision(leader.rev)),
        ..Default::default()
    };
    TxnRequest { compare: vec![leads], success: vec![RequestOp { request: Some(then) }], failure: Vec::new() }
}

impl ElectionService {
    async fn current(&self, prefix: &[u8]) -> Result<(Option<ResponseHeader>, Option<KeyValue>), Status> {
        let response = self.0.range(first_created(prefix)).await?.message;
        Ok((response.header, response.kvs.into_iter().next()))
    }

    async fn say_while_leading(&self, leader: &LeaderKey, put: PutRequest) -> Result<Option<ResponseHeader>, Status> {
        let response = self.0.txn(while_leading(leader, Op::RequestPut(put))).await?.message;
        match response.succeeded {
            true => Ok(response.header),
            false => Err(status::ELECTION_NOT_LEADER.into()),
        }
    }

    async fn give_up(&self, leader: &LeaderKey) -> Result<Option<ResponseHeader>, Status> {
        let delete = DeleteRangeRequest { key: leader.key.clone(), ..Default::default() };
        let response = self.0.txn(while_leading(leader, Op::RequestDeleteRange(delete))).await?.message;
        Ok(response.header)
    }

    /// Tells who leads, and every change of it or of what he proclaims.
    async fn observe_into(
        &self,
        name: bytes::Bytes,
        told: &tokio::sync::mpsc::Sender<Result<LeaderResponse, Status>>,
    ) -> Result<(), Status> {
        let prefix = prefix_of(&name);
        let mut session = Session::open(&self.0.hub);
        let keys = Keys::of_request(prefix.clone().into(), end_of(&prefix)).expect("what a prefix begins is a range");
        session.create(0, Wish::plain(keys));
        let mut leader: Option<KeyValue> = None;
        // What happened up to here is known.
        let mut seen = 0;
        loop {
            if leader.is_none() {
                let (header, now) = self.current(&prefix).await?;
                seen = header.as_ref().map_or(seen, |header| header.revision);
                if let Some(kv) = now {
                    leader = Some(kv.clone());
                    if told.send(Ok(LeaderResponse { header, kv: Some(kv) })).await.is_err() {
                        return Ok(());
                    }
                }
            }
            session.woken().await;
            let (items, behind) = session.take();
            if !behind.is_empty() {
                session.caught_up(behind.into_iter().map(|(id, ..)| (id, self.0.hub.revision() + 1)));
                leader = None;
            }
            for event in items.into_iter().flat_map(|item| match item {
                Item::Events { events, .. } => events,
                _ => Vec::new(),
            }) {
                let of_leader = leader.as_ref().is_some_and(|leader| leader.key[..] == event.row.key[..]);
                if !of_leader || event.row.at.main <= seen {
                    continue;
                }
                if event.row.is_tombstone() {
                    leader = None;
                    break;
                }
                let kv = key_value(&event.row);
                let header = Some(self.0.header(event.row.at.main));
                leader = Some(kv.clone());
                if told.send(Ok(LeaderResponse { header, kv: Some(kv) })).await.is_err() {
                    return Ok(());
                }
            }
            if leader.is_none() {
                session.wake();
            }
        }
    }
}

#[tonic::async_trait]
impl Election for ElectionService {
    async fn campaign(&self, request: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, Status> {
        let CampaignRequest { name, lease, value } = request.into_inner();
        let shared = &self.0;
        let lease = lease_or_own(shared, lease).await?;
        let key = key_of(&name, lease.0);
        let prefix = prefix_of(&name);
        let (response, new, own) = contend(shared, &key, value.clone(), lease.0, &prefix).await?;
        let leader = LeaderKey { name, key: key.clone(), rev: own.create_revision, lease: lease.0 };
        if !new && own.value != value {
            let put = PutRequest { key: key.clone(), value, lease: lease.0, ..Default::default() };
            if let Err(status) = self.say_while_leading(&leader, put).await {
                // Who cannot say what he stands for stands no longer.
                let _ = self.give_up(&leader).await;
                return Err(status);
            }
        }
        let contender = Contender::new(shared.clone(), key);
        alive(shared, lease, wait_for_earlier(shared, &prefix, own.create_revision)).await?;
        contender.stays();
        Ok(Response::new(CampaignResponse { header: response.header, leader: Some(leader) }))
    }

    async fn proclaim(&self, request: Request<ProclaimRequest>) -> Result<Response<ProclaimResponse>, Status> {
        let ProclaimRequest { leader, value } = request.into_inner();
        let leader = leader.ok_or(status::LEADER_KEY_MISSING)?;
        let put = PutRequest { key: leader.key.clone(), value, lease: leader.lease, ..Default::default() };
        let header = self.say_while_leading(&leader, put).await?;
        Ok(Response::new(ProclaimResponse { header }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let (header, kv) = self.current(&prefix_of(&request.into_inner().name)).await?;
        match kv {
            Some(kv) => Ok(Response::new(LeaderResponse { header, kv: Some(kv) })),
            None => Err(status::ELECTION_NO_LEADER.into()),
        }
    }

    type ObserveStream = ReceiverStream<Result<LeaderResponse, Status>>;

    async fn observe(&self, request: Request<LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let name = request.into_inner().name;
        let (told, stream) = tokio::sync::mpsc::channel(16);
        let service = self.clone();
        tokio::spawn(async move {
            let observed = tokio::select! {
                biased;
                () = told.closed() => Ok(()),
                () = service.0.stopping.cancelled() => Err(status::STOPPED.into()),
                observed = service.observe_into(name, &told) => observed,
            };
            if let Err(status) = observed {
                let _ = told.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let leader = request.into_inner().leader.ok_or(status::LEADER_KEY_MISSING)?;
        let header = self.give_up(&leader).await?;
        Ok(Response::new(ResignResponse { header }))
    }
}
