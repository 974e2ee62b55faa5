//! What locks and elections are made of: a lease that is kept alive while its owner waits, keys that
//! live on it, and waiting for those that came before.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::etcd::range_request::{SortOrder, SortTarget};
use proto::etcd::request_op::Request;
use proto::etcd::*;
use proto::mvccpb::KeyValue;
use tokio::time::interval;
use tonic::Status;

use super::Shared;
use crate::watch::{Keys, Session, Wish};

/// The TTL, in seconds, of a lease that nobody brought along.
const TTL: i64 = 60;

/// The lease to live on: the one given, or one of our own.
pub async fn lease_or_own(shared: &Shared, lease: i64) -> Result<(i64, i64), Status> {
    match lease {
        0 => shared.grant(0, TTL).await.map(|granted| (granted.id, granted.ttl)),
        lease => Ok((lease, shared.view.with_state(|state| state.lease(lease).map_or(TTL, |lease| lease.ttl)))),
    }
}

/// Keeps a lease alive while something takes its time.
pub async fn alive<T>(
    shared: &Shared,
    (lease, ttl): (i64, i64),
    waiting: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let third = Duration::from_millis(u64::try_from(ttl).unwrap_or(1).max(1) * 1000 / 3);
    let keep = async {
        let mut ticks = interval(third);
        loop {
            ticks.tick().await;
            let _ = shared.keep_alive(lease).await;
        }
    };
    tokio::select! {
        biased;
        () = shared.stopping.cancelled() => Err(super::status::STOPPED.into()),
        done = waiting => done,
        never = keep => never,
    }
}

/// `name/`, which all contenders' keys begin with.
pub fn prefix_of(name: &Bytes) -> Vec<u8> {
    [&name[..], b"/"].concat()
}

/// A contender's own key. Clients know it by heart: Go writes a negative lease with a minus.
pub fn key_of(name: &Bytes, lease: i64) -> Bytes {
    let mut key = prefix_of(name);
    let sign = if lease < 0 { "-" } else { "" };
    key.extend_from_slice(format!("{sign}{:x}", lease.unsigned_abs()).as_bytes());
    key.into()
}

/// The first key behind all that begin with this.
pub fn end_of(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(&[0])
}

/// A read of the key under the prefix that was created first.
pub fn first_created(prefix: &[u8]) -> RangeRequest {
    RangeRequest {
        key: prefix.to_vec().into(),
        range_end: end_of(prefix),
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..Default::default()
    }
}

/// Writes the contender's key unless it is there, and reads who came first. Answers the response, whether
/// the key is new, and its creation revision with its value.
pub async fn contend(
    shared: &Shared,
    key: &Bytes,
    value: Bytes,
    lease: i64,
    prefix: &[u8],
) -> Result<(TxnResponse, bool, KeyValue), Status> {
    let op = |request| RequestOp { request: Some(request) };
    let read = RangeRequest { key: key.clone(), ..Default::default() };
    let write = PutRequest { key: key.clone(), value, lease, ..Default::default() };
    let absent = Compare {
        target: compare::CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(compare::TargetUnion::CreateRevision(0)),
        ..Default::default()
    };
    let first = first_created(prefix);
    let request = TxnRequest {
        compare: vec![absent],
        success: vec![
            op(Request::RequestPut(write)),
            op(Request::RequestRange(read.clone())),
            op(Request::RequestRange(first.clone())),
        ],
        failure: vec![op(Request::RequestRange(read)), op(Request::RequestRange(first))],
    };
    let response = shared.txn(request).await?.message;
    let own = response.responses.iter().find_map(|op| match &op.response {
        Some(response_op::Response::ResponseRange(range)) => range.kvs.first().cloned(),
        _ => None,
    });
    let own = own.ok_or_else(|| super::status::internal("a key that was just written is not there"))?;
    let new = response.succeeded;
    Ok((response, new, own))
}

/// Waits until nothing under the prefix is left that was created before `revision`.
pub async fn wait_for_earlier(shared: &Arc<Shared>, prefix: &[u8], revision: i64) -> Result<(), Status> {
    loop {
        let earlier = RangeRequest {
            sort_order: SortOrder::Descend.into(),
            max_create_revision: revision - 1,
            ..first_created(prefix)
        };
        let Some(last) = shared.range(earlier).await?.message.kvs.into_iter().next() else { return Ok(()) };
        wait_for_end(shared, last.key, last.create_revision).await?;
    }
}

/// Waits until the key, as it was created at that revision, is gone.
async fn wait_for_end(shared: &Arc<Shared>, key: Bytes, created: i64) -> Result<(), Status> {
    let mut session = Session::open(&shared.hub);
    let keys = Keys::of_request(key.clone(), Bytes::new()).expect("one key is a range");
    session.create(0, Wish::plain(keys));
    loop {
        let read = RangeRequest { key: key.clone(), serializable: true, ..Default::default() };
        if shared.range(read).await?.message.kvs.first().is_none_or(|kv| kv.create_revision != created) {
            return Ok(());
        }
        session.woken().await;
        session.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contenders_key_ends_in_its_lease_as_go_writes_it() {
        let name = Bytes::from_static(b"name");
        for (lease, key) in [(1, "name/1"), (0x7fff_0000, "name/7fff0000"), (-4, "name/-4")] {
            assert_eq!(key_of(&name, lease), key);
        }
    }
}
