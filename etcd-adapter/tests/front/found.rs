//! What the oracle found: answers that were once told from etcd's.

use proto::etcd::maintenance_client::MaintenanceClient;
use proto::etcd::range_request::{SortOrder, SortTarget};
use proto::etcd::request_op::Request as Op;
use proto::etcd::*;

use crate::world::{World, bytes, from};

#[tokio::test]
async fn kv_range_equals_keep_the_order_of_their_keys_when_sorted_downwards() {
    let mut world = World::new().await;
    for key in ["s/a", "s/b", "s/c"] {
        world.put(key, "same").await;
    }
    world.put("s/b", "same").await;
    for (target, expected) in [(SortTarget::Version, ["s/b", "s/a", "s/c"]), (SortTarget::Value, ["s/a", "s/b", "s/c"])]
    {
        let request = RangeRequest {
            key: bytes("s/"),
            range_end: bytes("s0"),
            sort_order: SortOrder::Descend.into(),
            sort_target: target.into(),
            ..Default::default()
        };
        let keys: Vec<_> = world.range(request).await.unwrap().kvs.into_iter().map(|kv| kv.key).collect();
        assert_eq!(keys, expected, "{target:?}");
    }
}

#[tokio::test]
async fn tx_8_the_first_bad_operation_says_why_a_txn_is_refused() {
    let mut world = World::new().await;
    let op = |request| RequestOp { request: Some(request) };
    let future = op(Op::RequestRange(RangeRequest { key: bytes("k"), revision: 1000, ..Default::default() }));
    let leased = op(Op::RequestPut(PutRequest { key: bytes("l"), lease: 99, ..Default::default() }));
    let kept = op(Op::RequestPut(PutRequest { key: bytes("m"), ignore_value: true, ..Default::default() }));
    let both = PutRequest { key: bytes("m"), lease: 99, ignore_value: true, ..Default::default() };
    let both = op(Op::RequestPut(both));
    let nested = |inner: RequestOp| op(Op::RequestTxn(TxnRequest { success: vec![inner], ..Default::default() }));
    for (ops, why) in [
        (vec![future.clone(), leased.clone()], "etcdserver: mvcc: required revision is a future revision"),
        (vec![leased.clone(), future.clone()], "etcdserver: requested lease not found"),
        (vec![nested(kept.clone()), future.clone()], "etcdserver: key not found"),
        (vec![nested(future), kept], "etcdserver: mvcc: required revision is a future revision"),
        (vec![both], "etcdserver: requested lease not found"),
    ] {
        let refused = world.kv.txn(TxnRequest { success: ops, ..Default::default() }).await.unwrap_err();
        assert_eq!(refused.message(), why);
    }
}

#[tokio::test]
async fn w_15_a_watch_of_what_comes_next_is_owed_progress_at_once() {
    let mut world = World::new().await;
    let revision = world.put("a", "1").await;
    let mut watching = world.watch().await;
    watching.create(from("a", 0)).await;
    watching.ask_progress().await;
    let progress = watching.next().await;
    assert_eq!((progress.watch_id, progress.header.unwrap().revision), (-1, revision));
    // One that asked for the next revision by its number is told when that has come.
    watching.create(from("a", revision + 1)).await;
    watching.ask_progress().await;
    assert!(watching.is_silent().await);
}

#[tokio::test]
async fn w_16_a_watch_that_a_compaction_ended_has_its_id_until_it_is_canceled() {
    let mut world = World::new().await;
    let first = world.put("a", "1").await;
    let second = world.put("a", "2").await;
    world.compact(second).await;
    let mut watching = world.watch().await;
    watching.create(WatchCreateRequest { watch_id: 5, ..from("a", first) }).await;
    assert_eq!(watching.next().await.compact_revision, second);
    let again = WatchCreateRequest { watch_id: 5, ..from("a", 0) };
    assert!(watching.create(again.clone()).await.canceled);
    watching.cancel(5).await;
    let canceled = watching.next().await;
    assert_eq!((canceled.watch_id, canceled.canceled, canceled.compact_revision), (5, true, 0));
    assert!(!watching.create(again).await.canceled);
}

#[tokio::test]
async fn w_3_a_negative_start_is_refused_before_an_empty_range() {
    let world = World::new().await;
    let mut watching = world.watch().await;
    let request =
        WatchCreateRequest { key: bytes("b"), range_end: bytes("a"), start_revision: -1, ..Default::default() };
    let refused = watching.create(request).await;
    assert_eq!(refused.cancel_reason, "etcdserver: mvcc: required revision has been compacted");
}

#[tokio::test]
async fn mt_3_alarms_are_listed_whichever_member_is_named() {
    let mut world = World::new().await;
    let mut maintenance = MaintenanceClient::new(world.channel.clone());
    let ask = |action: alarm_request::AlarmAction, member_id| AlarmRequest {
        action: action.into(),
        member_id,
        alarm: AlarmType::Nospace.into(),
    };
    use alarm_request::AlarmAction::{Activate, Get};
    maintenance.alarm(ask(Activate, 7)).await.unwrap();
    let listed = maintenance.alarm(ask(Get, 3)).await.unwrap().into_inner();
    assert_eq!(listed.alarms.len(), 1);
    // And without space that is what is said first.
    let long = LeaseGrantRequest { id: 1, ttl: 9_000_000_001 };
    let refused = world.lease.lease_grant(long).await.unwrap_err();
    assert_eq!(refused.message(), "etcdserver: mvcc: database space exceeded");
}

#[tokio::test]
async fn mt_8_nothing_is_hashed_of_a_negative_revision() {
    let mut world = World::new().await;
    let mut maintenance = MaintenanceClient::new(world.channel.clone());
    let before = maintenance.hash_kv(HashKvRequest { revision: -2 }).await.unwrap().into_inner();
    world.put("a", "1").await;
    let after = maintenance.hash_kv(HashKvRequest { revision: -2 }).await.unwrap().into_inner();
    assert_eq!((after.hash, after.hash_revision), (before.hash, -2));
    assert_eq!(after.hash, 1_084_519_789);
}

#[tokio::test]
async fn errors_of_locks_have_lost_their_codes() {
    let world = World::new().await;
    let mut lock = proto::v3lockpb::lock_client::LockClient::new(world.channel.clone());
    let refused = lock.lock(proto::v3lockpb::LockRequest { name: bytes("l"), lease: 99 }).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (tonic::Code::Unknown, "etcdserver: requested lease not found"));
}

#[tokio::test]
async fn mt_12_the_clusters_version_has_two_numbers() {
    let world = World::new().await;
    let mut maintenance = MaintenanceClient::new(world.channel.clone());
    let request = DowngradeRequest { version: "3.6.0".into(), ..Default::default() };
    assert_eq!(maintenance.downgrade(request).await.unwrap().into_inner().version, "3.7");
}
