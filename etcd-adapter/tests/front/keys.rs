//! etcd's rules of KV, as far as the front has a part in them.

use proto::etcd::kv_client::KvClient;
use proto::etcd::range_request::{SortOrder, SortTarget};
use proto::etcd::*;
use tonic::Code;

use crate::world::{World, bytes};

#[tokio::test]
async fn invalid_requests_are_refused_in_etcds_words() {
    let mut world = World::new().await;
    let range = world.range(RangeRequest::default()).await.unwrap_err();
    assert_eq!((range.code(), range.message()), (Code::InvalidArgument, "etcdserver: key is not provided"));
    let put = PutRequest { key: bytes("k"), value: bytes("v"), ignore_value: true, ..Default::default() };
    let put = world.kv.put(put).await.unwrap_err();
    assert_eq!((put.code(), put.message()), (Code::InvalidArgument, "etcdserver: value is provided"));
    let sort = RangeRequest { key: bytes("k"), sort_target: 9, ..Default::default() };
    let sort = world.range(sort).await.unwrap_err();
    assert_eq!((sort.code(), sort.message()), (Code::InvalidArgument, "etcdserver: invalid sort option"));
    let lease = PutRequest { key: bytes("k"), lease: 99, ..Default::default() };
    let lease = world.kv.put(lease).await.unwrap_err();
    assert_eq!((lease.code(), lease.message()), (Code::NotFound, "etcdserver: requested lease not found"));
}

#[tokio::test]
async fn requests_that_are_too_large_are_refused_as_etcd_does() {
    let mut world = World::with(&["--max-request-bytes=1000"]).await;
    let put = |size: usize| PutRequest { key: bytes("k"), value: vec![0; size].into(), ..Default::default() };
    let large = world.kv.put(put(1000)).await.unwrap_err();
    assert_eq!((large.code(), large.message()), (Code::InvalidArgument, "etcdserver: request is too large"));
    let larger = world.kv.put(put(600_000)).await.unwrap_err();
    assert_eq!(larger.code(), Code::ResourceExhausted);
    let text = larger.message().to_owned();
    assert!(text.starts_with("grpc: received message larger than max (600") && text.ends_with("vs. 525288)"), "{text}");
    assert!(world.kv.put(put(900)).await.is_ok());
}

#[tokio::test]
async fn hdr_2_a_read_of_the_past_tells_the_present_revision() {
    let mut world = World::new().await;
    let first = world.put("k", "1").await;
    let second = world.put("k", "2").await;
    let past = RangeRequest { key: bytes("k"), revision: first, ..Default::default() };
    let past = world.range(past).await.unwrap();
    assert_eq!(past.kvs[0].value, "1");
    let header = past.header.unwrap();
    assert_eq!(header.revision, second);
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term > 0);
}

#[tokio::test]
async fn pages_of_one_revision_know_how_many_keys_remain() {
    let mut world = World::new().await;
    for number in 0..25 {
        world.put(&format!("p/{number:02}"), "x").await;
    }
    let mut request = RangeRequest { key: bytes("p/"), range_end: bytes("p0"), limit: 10, ..Default::default() };
    let mut remaining = Vec::new();
    let mut keys = 0;
    loop {
        let page = world.range(request.clone()).await.unwrap();
        remaining.push(page.count);
        keys += page.kvs.len();
        request.revision = if request.revision == 0 { page.header.unwrap().revision } else { request.revision };
        // Nobody who writes in between changes what the pages show.
        world.put(&format!("p/new-{keys}"), "x").await;
        if !page.more {
            break;
        }
        request.key = [&page.kvs.last().unwrap().key[..], &[0]].concat().into();
    }
    assert_eq!((keys, remaining), (25, vec![25, 15, 5]));
}

#[tokio::test]
async fn kv_r2_a_streamed_range_is_the_range_in_pieces() {
    let mut world = World::new().await;
    for number in 0..100 {
        world.put(&format!("s/{number:03}"), &"x".repeat(100)).await;
    }
    let request = RangeRequest { key: bytes("s/"), range_end: bytes("s0"), ..Default::default() };
    for limit in [0, 1, 10, 37, 100, 200] {
        let request = RangeRequest { limit, ..request.clone() };
        let whole = world.range(request.clone()).await.unwrap();
        let mut stream = world.kv.range_stream(request).await.unwrap().into_inner();
        let mut joined = RangeResponse::default();
        let mut pieces = Vec::new();
        while let Some(piece) = stream.message().await.unwrap() {
            let piece = piece.range_response.unwrap();
            assert!(joined.header.is_none(), "only the last piece has a header");
            pieces.push(piece.kvs.len());
            joined.kvs.extend(piece.kvs);
            (joined.header, joined.more, joined.count) = (piece.header, piece.more, piece.count);
        }
        assert_eq!(joined, whole, "limit {limit}, pieces {pieces:?}");
    }
    let sorted = RangeRequest { sort_order: SortOrder::Descend.into(), ..request.clone() };
    let status = stream_fails(&mut world.kv, sorted).await;
    assert_eq!(status.message(), "RangeStream does not support custom sort orders");
    let by_version = RangeRequest {
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Version.into(),
        ..request.clone()
    };
    assert_eq!(stream_fails(&mut world.kv, by_version).await.code(), Code::Unimplemented);
    let filtered = RangeRequest { min_mod_revision: 3, ..request };
    let status = stream_fails(&mut world.kv, filtered).await;
    assert_eq!(status.message(), "RangeStream does not support revision filters");
}

async fn stream_fails(kv: &mut KvClient<tonic::transport::Channel>, request: RangeRequest) -> tonic::Status {
    match kv.range_stream(request).await {
        Err(status) => status,
        Ok(stream) => stream.into_inner().message().await.unwrap_err(),
    }
}

#[tokio::test]
async fn mt_4_beyond_the_quota_only_what_grows_is_refused() {
    let mut world = World::with(&["--quota-backend-bytes=20000"]).await;
    let mut refused = None;
    for number in 0..100 {
        let put = PutRequest { key: bytes(&format!("q/{number}")), value: vec![0; 1000].into(), ..Default::default() };
        if let Err(status) = world.kv.put(put).await {
            refused = Some(status);
            break;
        }
    }
    let refused = refused.expect("there is a quota");
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded")
    );
    let mut maintenance = maintenance_client::MaintenanceClient::new(world.channel.clone());
    let list = AlarmRequest { action: alarm_request::AlarmAction::Get.into(), ..Default::default() };
    let alarms = maintenance.alarm(list).await.unwrap().into_inner().alarms;
    assert_eq!(alarms.len(), 1);
    assert_eq!(alarms[0].alarm(), AlarmType::Nospace);

    world.delete("q/0").await;
    let revision = world.delete("q/1").await;
    world.compact(revision).await;
    assert!(world.range(RangeRequest { key: bytes("q/2"), ..Default::default() }).await.is_ok());
    let small = PutRequest { key: bytes("q/small"), ..Default::default() };
    assert!(world.kv.put(small.clone()).await.is_err(), "the alarm stays until somebody takes it away");
    let off = AlarmRequest {
        action: alarm_request::AlarmAction::Deactivate.into(),
        member_id: alarms[0].member_id,
        alarm: AlarmType::Nospace.into(),
    };
    assert_eq!(maintenance.alarm(off).await.unwrap().into_inner().alarms, alarms);
}

#[tokio::test]
async fn a_txn_that_only_reads_never_reaches_the_journal() {
    let mut world = World::new().await;
    let revision = world.put("k", "1").await;
    let read = RequestOp {
        request: Some(request_op::Request::RequestRange(RangeRequest { key: bytes("k"), ..Default::default() })),
    };
    let response = world.kv.txn(TxnRequest { success: vec![read], ..Default::default() }).await.unwrap().into_inner();
    assert!(response.succeeded);
    assert_eq!(response.header.unwrap().revision, revision);
    match response.responses[0].response.clone().unwrap() {
        response_op::Response::ResponseRange(range) => {
            assert_eq!(range.kvs[0].value, "1");
            let header = range.header.unwrap();
            assert_eq!((header.revision, header.member_id), (revision, 0), "inner headers say a revision only");
        }
        other => panic!("{other:?}"),
    }
}
