//! etcd's Lock service: a queue of keys under a name, the one created first holds the lock.

use std::sync::Arc;

use bytes::Bytes;
use proto::etcd::{DeleteRangeRequest, RangeRequest};
use proto::v3lockpb::lock_server::Lock;
use proto::v3lockpb::*;
use tonic::{Request, Response, Status};

use super::session::{alive, contend, key_of, lease_or_own, prefix_of, wait_for_earlier};
use super::{Shared, status};

#[derive(Clone)]
pub struct LockService(pub Arc<Shared>);

/// Takes a contender's key away when its caller goes before he holds the lock.
pub struct Contender {
    shared: Arc<Shared>,
    key: Option<Bytes>,
}

impl Contender {
    pub fn new(shared: Arc<Shared>, key: Bytes) -> Contender {
        Contender { shared, key: Some(key) }
    }

    /// The key stays.
    pub fn stays(mut self) {
        self.key = None;
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let delete = crate::command::DeleteRange { key, ..Default::default() };
            self.shared.proposer.say(crate::command::Command::DeleteRange(delete));
        }
    }
}

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let LockRequest { name, lease } = request.into_inner();
        let shared = &self.0;
        let lease = lease_or_own(shared, lease).await?;
        let key = key_of(&name, lease.0);
        let prefix = prefix_of(&name);
        let (response, _, own) = contend(shared, &key, Bytes::new(), lease.0, &prefix).await?;
        let contender = Contender::new(shared.clone(), key.clone());
        let first = response.responses.last().and_then(|op| match &op.response {
            Some(proto::etcd::response_op::Response::ResponseRange(range)) => range.kvs.first(),
            _ => None,
        });
        if first.is_none_or(|first| first.create_revision == own.create_revision) {
            contender.stays();
            return Ok(Response::new(LockResponse { header: response.header, key }));
        }
        alive(shared, lease, wait_for_earlier(shared, &prefix, own.create_revision)).await?;
        let read = RangeRequest { key: key.clone(), ..Default::default() };
        let again = shared.range(read).await?.message;
        if again.kvs.is_empty() {
            return Err(status::SESSION_EXPIRED.into());
        }
        contender.stays();
        Ok(Response::new(LockResponse { header: again.header, key }))
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let key = request.into_inner().key;
        let deleted = self.0.delete_range(DeleteRangeRequest { key, ..Default::default() }).await?.message;
        Ok(Response::new(UnlockResponse { header: deleted.header }))
    }
}
