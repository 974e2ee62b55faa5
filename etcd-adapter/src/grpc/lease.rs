//! etcd's Lease service.

use std::sync::Arc;

use proto::etcd::lease_server::Lease;
use proto::etcd::*;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Shared, answer_of, require_leader, status, unexpected};
use crate::command::{AlarmKind, Command};
use crate::mvcc::Answer;

/// etcd's longest TTL, in seconds.
const TTL_MAX: i64 = 9_000_000_000;
/// Answers that are made before the client has taken the ones before them.
const OUTBOUND_MAX: usize = 16;

#[derive(Clone)]
pub struct LeaseService(pub Arc<Shared>);

impl Shared {
    pub async fn grant(&self, id: i64, ttl: i64) -> Result<LeaseGrantResponse, Status> {
        if ttl > TTL_MAX {
            // Whoever asks for too much is told first that there is nothing to be had.
            if self.view.has_alarm(AlarmKind::Corrupt) {
                return Err(status::CORRUPT.into());
            }
            if self.view.has_alarm(AlarmKind::NoSpace) {
                return Err(status::NO_SPACE.into());
            }
            return Err(status::LEASE_TTL_TOO_LARGE.into());
        }
        let ttl = ttl.max(self.config.limits.lease_ttl_min());
        match answer_of(self.propose(Command::LeaseGrant { id, ttl }, 0).await?)? {
            (revision, Answer::LeaseGrant { id, ttl }) => {
                Ok(LeaseGrantResponse { header: Some(self.header(revision)), id, ttl, error: String::new() })
            }
            (_, other) => Err(unexpected(&other)),
        }
    }

    pub async fn revoke(&self, id: i64) -> Result<LeaseRevokeResponse, Status> {
        match answer_of(self.say(Command::LeaseRevoke { id }).await?)? {
            (revision, Answer::LeaseRevoke) => Ok(LeaseRevokeResponse { header: Some(self.header(revision)) }),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// A TTL of 0 says that there is no such lease, and nothing else does.
    pub async fn keep_alive(&self, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        match answer_of(self.say(Command::KeepAlive { id }).await?)? {
            (revision, Answer::KeepAlive { id, ttl }) => {
                Ok(LeaseKeepAliveResponse { header: Some(self.header(revision)), id, ttl })
            }
            (_, other) => Err(unexpected(&other)),
        }
    }

    pub async fn time_to_live(&self, request: LeaseTimeToLiveRequest) -> Result<LeaseTimeToLiveResponse, Status> {
        let LeaseTimeToLiveRequest { id, keys } = request;
        self.confirm().await?;
        let header = Some(self.header(self.view.revision()));
        let known = self.view.with_state(|state| {
            let lease = state.lease(id)?;
            let attached = if keys { lease.keys.iter().map(|key| key.to_vec().into()).collect() } else { Vec::new() };
            Some((lease.ttl, attached))
        });
        let Some((granted_ttl, keys)) = known else {
            return Ok(LeaseTimeToLiveResponse { header, id, ttl: -1, granted_ttl: 0, keys: Vec::new() });
        };
        let ttl = self.leases.lock().remaining(id).unwrap_or(granted_ttl);
        Ok(LeaseTimeToLiveResponse { header, id, ttl, granted_ttl, keys })
    }

    pub fn all_leases(&self) -> LeaseLeasesResponse {
        let leases = self.leases.lock().by_end().into_iter().map(|id| LeaseStatus { id }).collect();
        LeaseLeasesResponse { header: Some(self.header(self.view.revision())), leases }
    }
}

#[tonic::async_trait]
impl Lease for LeaseService {
    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Result<Response<LeaseGrantResponse>, Status> {
        let LeaseGrantRequest { id, ttl } = request.into_inner();
        self.0.grant(id, ttl).await.map(Response::new)
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        self.0.revoke(request.into_inner().id).await.map(Response::new)
    }

    type LeaseKeepAliveStream = ReceiverStream<Result<LeaseKeepAliveResponse, Status>>;

    /// One answer for each request, in their order.
    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let shared = self.0.clone();
        let leader_required = require_leader(&request);
        let mut requests = request.into_inner();
        let (answers, stream) = tokio::sync::mpsc::channel(OUTBOUND_MAX);
        tokio::spawn(async move {
            let serve = async {
                while let Some(request) = requests.message().await.inspect_err(|error| {
                    if error.code() != tonic::Code::Cancelled {
                        shared.meters.keep_alive_receive_failures.add(1);
                    }
                })? {
                    let answer = shared.keep_alive(request.id).await?;
                    if answers.send(Ok(answer)).await.is_err() {
                        break;
                    }
                }
                Ok::<_, Status>(())
            };
            let served = tokio::select! {
                biased;
                () = answers.closed() => Ok(()),
                () = shared.stopping.cancelled() => Err(status::STOPPED.into()),
                // Of a client that says nothing, too: it would take its lease for alive.
                () = shared.leader_lost(), if leader_required => Err(status::NO_LEADER.into()),
                served = serve => served,
            };
            if let Err(status) = served {
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        self.0.time_to_live(request.into_inner()).await.map(Response::new)
    }

    async fn lease_leases(&self, _: Request<LeaseLeasesRequest>) -> Result<Response<LeaseLeasesResponse>, Status> {
        Ok(Response::new(self.0.all_leases()))
    }
}
