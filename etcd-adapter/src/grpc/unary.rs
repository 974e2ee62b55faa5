//! Calls of KV and Lease that take one message and answer with one: most of all that is asked. They go
//! from the bytes of the request to those of the answer without a task, a body or a map of headers.
//!
//! What they mean, how they are counted and what is refused is the same as through [`Services::call`];
//! whatever is unusual about a call makes it one for there.

use std::future::Future;
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use futures::future::BoxFuture;
use prost::Message;
use proto::etcd::{LeaseGrantRequest, LeaseLeasesRequest, LeaseRevokeRequest};
use tonic::{Code, Status};

use super::{Made, Services, Shared, calls, status};
use crate::http2::{self, Fields};

/// A call, as its headers tell it.
#[derive(Debug, Clone, Copy)]
pub struct Unary {
    method: Method,
    /// Where it is counted.
    counted: Option<usize>,
    leader_required: bool,
    /// Who calls, as [`calls::Clients`] knows him.
    client: usize,
}

#[derive(Debug, Clone, Copy)]
enum Method {
    Range,
    Put,
    DeleteRange,
    Txn,
    Compact,
    Grant,
    Revoke,
    TimeToLive,
    Leases,
}

fn method(path: &str) -> Option<Method> {
    Some(match path {
        "/etcdserverpb.KV/Range" => Method::Range,
        "/etcdserverpb.KV/Put" => Method::Put,
        "/etcdserverpb.KV/DeleteRange" => Method::DeleteRange,
        "/etcdserverpb.KV/Txn" => Method::Txn,
        "/etcdserverpb.KV/Compact" => Method::Compact,
        "/etcdserverpb.Lease/LeaseGrant" => Method::Grant,
        "/etcdserverpb.Lease/LeaseRevoke" => Method::Revoke,
        "/etcdserverpb.Lease/LeaseTimeToLive" => Method::TimeToLive,
        "/etcdserverpb.Lease/LeaseLeases" => Method::Leases,
        _ => return None,
    })
}

impl Services {
    /// The call that these headers begin, if it is one of these, and nothing about it is unusual.
    pub fn unary(&self, fields: &Fields) -> Option<Unary> {
        let (mut found, mut is_grpc, mut leader_required, mut version) = (None, false, false, None);
        for (name, value) in fields.iter() {
            match name {
                b":path" => found = std::str::from_utf8(value).ok().and_then(|path| Some((path, method(path)?))),
                b":method" if value != b"POST" => return None,
                b"content-type" => is_grpc = value.starts_with(b"application/grpc"),
                b"grpc-encoding" if value != b"identity" => return None,
                b"client-api-version" if !value.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) => return None,
                b"client-api-version" => version = Some(value),
                b"hasleader" => leader_required |= value == b"true",
                _ => {}
            }
        }
        let (path, method) = found.filter(|_| is_grpc)?;
        let client = self.shared.calls.clients.of(version);
        Some(Unary { method, counted: calls::method(path), leader_required, client })
    }

    pub fn message_bytes_max(&self) -> usize {
        self.shared.message_bytes_max()
    }

    /// Answers a message with another, in its envelope.
    pub fn answer(&self, call: Unary, message: Bytes) -> BoxFuture<'static, Result<http2::Answer, Status>> {
        let shared = self.shared.clone();
        match call.method {
            Method::Range => answered(shared, call, message, |shared, asked| async move { shared.range(asked).await }),
            Method::Put => answered(shared, call, message, |shared, asked| async move { shared.put(asked).await }),
            Method::DeleteRange => {
                answered(shared, call, message, |shared, asked| async move { shared.delete_range(asked).await })
            }
            Method::Txn => answered(shared, call, message, |shared, asked| async move { shared.txn(asked).await }),
            Method::Compact => {
                answered(
                    shared,
                    call,
                    message,
                    |shared, asked| async move { shared.compact(asked).await.map(Made::free) },
                )
            }
            Method::Grant => answered(shared, call, message, |shared, asked: LeaseGrantRequest| async move {
                shared.grant(asked.id, asked.ttl).await.map(Made::free)
            }),
            Method::Revoke => answered(shared, call, message, |shared, asked: LeaseRevokeRequest| async move {
                shared.revoke(asked.id).await.map(Made::free)
            }),
            Method::TimeToLive => answered(shared, call, message, |shared, asked| async move {
                shared.time_to_live(asked).await.map(Made::free)
            }),
            Method::Leases => answered(shared, call, message, |shared, _: LeaseLeasesRequest| async move {
                Ok(Made::free(shared.all_leases()))
            }),
        }
    }
}

fn answered<Asked, Answer, Asking>(
    shared: Arc<Shared>,
    call: Unary,
    message: Bytes,
    ask: impl FnOnce(Arc<Shared>, Asked) -> Asking + Send + 'static,
) -> BoxFuture<'static, Result<http2::Answer, Status>>
where
    Asked: Message + Default,
    Answer: Message,
    Asking: Future<Output = Result<Made<Answer>, Status>> + Send,
{
    Box::pin(async move {
        let started = shared.calls.begun(call.counted);
        shared.calls.clients.unary(call.client);
        let answer = match asked(&shared, call, message) {
            Ok(asked) => ask(shared, asked).await.and_then(enveloped),
            Err(status) => Err(status),
        };
        started.ended(answer.as_ref().map_or_else(Status::code, |_| Code::Ok));
        answer
    })
}

fn asked<Asked: Message + Default>(shared: &Shared, call: Unary, message: Bytes) -> Result<Asked, Status> {
    if !matches!(call.method, Method::Range) && shared.is_learner() {
        return Err(status::NOT_SUPPORTED_FOR_LEARNER.into());
    }
    if call.leader_required && !shared.has_leader() {
        return Err(status::NO_LEADER.into());
    }
    Asked::decode(message).map_err(|error| Status::internal(error.to_string()))
}

/// A message as gRPC sends it: uncompressed, behind its length.
fn enveloped(Made { message, claim }: Made<impl Message>) -> Result<http2::Answer, Status> {
    let length = message.encoded_len();
    let Ok(told) = u32::try_from(length) else {
        return Err(Status::resource_exhausted(format!("an answer of {length} bytes, of which 4 GB can be sent")));
    };
    let mut bytes = Vec::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(told);
    message.encode_raw(&mut bytes);
    drop(message);
    Ok(http2::Answer { held: claim.made(bytes.len()), message: bytes.into() })
}
