//! What adapters say to the journal: every write once, whatever becomes of streams, leaders and
//! processes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_adapter::adapter::Adapter;
use etcd_adapter::config::Config;
use journal_client::{Fate, Journal, MemoryJournal, Reason};
use proto::etcd::kv_client::KvClient;
use proto::etcd::lease_client::LeaseClient;
use proto::etcd::maintenance_client::MaintenanceClient;
use proto::etcd::{
    CompactionRequest, HashKvRequest, LeaseGrantRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest,
    StatusRequest,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::world::bytes;

async fn try_to_start(journal: &MemoryJournal, name: &str) -> anyhow::Result<Adapter> {
    let listen = "http://127.0.0.1:0";
    let args = ["etcd-adapter", "--ephemeral", "--name", name, "--listen-client-urls", listen];
    let args = args.into_iter().chain(["--advertise-client-urls", listen]);
    let config = Config::load(args, BTreeMap::new()).unwrap();
    Adapter::start_on(config, Some(Arc::new(journal.clone()))).await
}

async fn start(journal: &MemoryJournal, name: &str) -> (Adapter, Channel) {
    let adapter = try_to_start(journal, name).await.unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", adapter.addresses[0])).unwrap();
    let channel = endpoint.connect_lazy();
    (adapter, channel)
}

fn journal() -> MemoryJournal {
    MemoryJournal::new("speaking")
}

async fn version_of(channel: &Channel, key: &str) -> i64 {
    let request = RangeRequest { key: bytes(key), ..Default::default() };
    let response = KvClient::new(channel.clone()).range(request).await.unwrap().into_inner();
    response.kvs.first().map_or(0, |kv| kv.version)
}

async fn hash_of(channel: &Channel, revision: i64) -> u32 {
    let request = HashKvRequest { revision };
    MaintenanceClient::new(channel.clone()).hash_kv(request).await.unwrap().into_inner().hash
}

/// Writers on two adapters, while the journal loses answers, entries and leaders by this seed.
async fn every_write_once(seed: u64) {
    let journal = journal();
    let (one, first) = start(&journal, "one").await;
    let (other, second) = start(&journal, "other").await;
    let until = Instant::now() + Duration::from_millis(1500);
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..6 {
        let channel = if number % 2 == 0 { first.clone() } else { second.clone() };
        writers.spawn(async move {
            let key = format!("once/{number}");
            let mut written = 0;
            let mut kv = KvClient::new(channel);
            while Instant::now() < until {
                let put = PutRequest { key: bytes(&key), ..Default::default() };
                kv.put(put).await.unwrap_or_else(|status| panic!("seed {seed}: {status}"));
                written += 1;
            }
            (key, written)
        });
    }
    let mut rng = StdRng::seed_from_u64(seed);
    while Instant::now() + Duration::from_millis(200) < until {
        tokio::time::sleep(Duration::from_millis(rng.random_range(10..120))).await;
        match rng.random_range(0..5) {
            0 => journal.next(Fate::Rejected(Reason::NoQuorum)),
            1 => journal.next(Fate::UnknownAndThere),
            2 => journal.next(Fate::UnknownAndGone),
            3 => journal.change_leader(),
            _ => {
                // One after the other, and both ways at once.
                journal.next(Fate::UnknownAndThere);
                journal.next(Fate::UnknownAndGone);
                journal.next(Fate::UnknownAndThere);
            }
        }
    }
    let mut all = 0;
    while let Some(ended) = writers.join_next().await {
        let (key, written) = ended.unwrap();
        all += written;
        for channel in [&first, &second] {
            assert_eq!(version_of(channel, &key).await, written, "seed {seed}: {key}");
        }
    }
    assert!(all > 30, "seed {seed}: hardly anything was written: {all}");
    assert_eq!(hash_of(&first, 0).await, hash_of(&second, 0).await, "seed {seed}");
    one.shutdown().await;
    other.shutdown().await;
}

#[tokio::test]
async fn every_write_happens_once_whatever_becomes_of_answers_entries_and_leaders() {
    let seeds: Vec<u64> = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (1..=12).collect(),
    };
    for chunk in seeds.chunks(4) {
        futures::future::join_all(chunk.iter().map(|seed| every_write_once(*seed))).await;
    }
}

#[tokio::test]
async fn the_second_process_of_a_name_ends_the_first_which_says_why() {
    let journal = journal();
    let (mut first, channel) = start(&journal, "same").await;
    let put = |key: &str| PutRequest { key: bytes(key), ..Default::default() };
    KvClient::new(channel).put(put("a")).await.unwrap();
    let (_second, channel) = start(&journal, "same").await;
    KvClient::new(channel.clone()).put(put("b")).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), first.failed()).await.unwrap();
    assert!(ended.to_string().contains("another process has this adapter's name"), "{ended}");
    assert_eq!((version_of(&channel, "a").await, version_of(&channel, "b").await), (1, 1));
}

#[tokio::test]
async fn an_adapter_started_anew_has_everything_and_keeps_its_member_id() {
    let journal = journal();
    let (adapter, channel) = start(&journal, "one").await;
    for number in 0..50 {
        let put = PutRequest { key: bytes(&format!("k/{number}")), ..Default::default() };
        KvClient::new(channel.clone()).put(put).await.unwrap();
    }
    let header = |status: proto::etcd::StatusResponse| status.header.unwrap();
    let status = |channel: &Channel| {
        let mut client = MaintenanceClient::new(channel.clone());
        async move { client.status(StatusRequest {}).await.unwrap().into_inner() }
    };
    let before = header(status(&channel).await);
    let hash = hash_of(&channel, 0).await;
    adapter.shutdown().await;
    let (_again, channel) = start(&journal, "one").await;
    let after = header(status(&channel).await);
    assert_eq!(
        (after.member_id, after.cluster_id, after.revision),
        (before.member_id, before.cluster_id, before.revision)
    );
    assert_eq!(hash_of(&channel, before.revision).await, hash);
}

#[tokio::test]
async fn ls_10_what_was_left_of_a_lease_is_not_remembered_by_an_adapter_started_anew() {
    let journal = journal();
    let (adapter, channel) = start(&journal, "one").await;
    let left = |channel: &Channel| {
        let mut lease = LeaseClient::new(channel.clone());
        let ask = LeaseTimeToLiveRequest { id: 7, keys: false };
        async move { lease.lease_time_to_live(ask).await.unwrap().into_inner() }
    };
    LeaseClient::new(channel.clone()).lease_grant(LeaseGrantRequest { id: 7, ttl: 600 }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let before = left(&channel).await.ttl;
    assert!(before <= 597, "{before}");
    adapter.shutdown().await;
    let (_again, channel) = start(&journal, "one").await;
    let after = left(&channel).await;
    assert!(after.ttl >= 598 && after.granted_ttl == 600, "{after:?}");
}

#[tokio::test]
async fn an_entry_that_no_adapter_wrote_is_passed_over_by_all() {
    let journal = journal();
    let (_one, first) = start(&journal, "one").await;
    let put = PutRequest { key: bytes("a"), ..Default::default() };
    KvClient::new(first.clone()).put(put.clone()).await.unwrap();
    journal.append(journal_client::Entry::new("not an entry of ours")).await.unwrap();
    KvClient::new(first.clone()).put(put).await.unwrap();
    let (_other, second) = start(&journal, "other").await;
    assert_eq!((version_of(&first, "a").await, version_of(&second, "a").await), (2, 2));
}

#[tokio::test]
async fn without_room_deletes_go_on_and_writes_are_told_that_there_is_no_space() {
    let journal = journal();
    let (_one, channel) = start(&journal, "one").await;
    let mut kv = KvClient::new(channel.clone());
    let put = PutRequest { key: bytes("a"), ..Default::default() };
    kv.put(put.clone()).await.unwrap();
    // Beats may meet it, too: what meets it is refused once.
    journal.next(Fate::Rejected(Reason::NoRoom));
    use proto::etcd::request_op::Request;
    let op = |request| proto::etcd::RequestOp { request: Some(request) };
    let refused = loop {
        if let Err(status) = kv.put(put.clone()).await {
            break status;
        }
    };
    assert_eq!(refused.message(), "etcdserver: mvcc: database space exceeded");
    let delete = proto::etcd::DeleteRangeRequest { key: bytes("a"), ..Default::default() };
    // As an API server does it: compared, and read where the comparison fails.
    let txn = proto::etcd::TxnRequest {
        success: vec![op(Request::RequestDeleteRange(delete.clone()))],
        failure: vec![op(Request::RequestRange(proto::etcd::RangeRequest { key: bytes("a"), ..Default::default() }))],
        ..Default::default()
    };
    assert!(kv.txn(txn).await.unwrap().into_inner().succeeded);
    let deleted = kv.delete_range(delete).await.unwrap().into_inner();
    assert_eq!(deleted.deleted, 0, "it was there still");
    tokio::time::sleep(Duration::from_millis(1200)).await;
    kv.put(put).await.unwrap();
}

#[tokio::test]
async fn an_entry_above_our_level_stops_apply_and_is_no_reason_to_restart() {
    use etcd_adapter::command::{EntryBody, LEVEL, encode};
    let journal = journal();
    let (one, channel) = start(&journal, "one").await;
    let mut kv = KvClient::new(channel);
    for _ in 0..5 {
        kv.put(PutRequest { key: bytes("a"), ..Default::default() }).await.unwrap();
    }
    let revision = kv.put(PutRequest { key: bytes("a"), ..Default::default() }).await.unwrap();
    let revision = revision.into_inner().header.unwrap().revision;
    kv.compact(CompactionRequest { revision, physical: false }).await.unwrap();
    let level = LEVEL + 1;
    let body = EntryBody { producer: proto::Position(1), seq: 1, level, beat: None, commands: Vec::new() };
    journal.append(journal_client::Entry::new(encode(&body))).await.unwrap();

    let page = async |path: &str| crate::transport::ask_http1(&one.addresses[0], path).await;
    let said = format!("[-]level failed: an entry needs level {level}: upgrade this adapter");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !page("/readyz").await.contains(&said) {
        assert!(Instant::now() < deadline, "{}", page("/readyz").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(page("/livez").await.starts_with("HTTP/1.1 200"));
    // What it has it still shows to whoever asks for no more.
    let range = RangeRequest { key: bytes("a"), serializable: true, ..Default::default() };
    assert_eq!(kv.range(range).await.unwrap().into_inner().count, 1);
    let late = try_to_start(&journal, "late").await.map(drop).unwrap_err();
    assert!(late.to_string().contains(&format!("an entry of level {level}")), "{late:#}");
    // What was acknowledged by others is beyond it.
    let refused = kv.range(RangeRequest { key: bytes("a"), ..Default::default() }).await.unwrap_err();
    assert_eq!(refused.message(), "etcdserver: request timed out");
    // And it keeps its house: what the compaction left behind is flushed, forgotten and dropped.
    let deadline = Instant::now() + Duration::from_secs(15);
    let swept = format!("adapter_swept_revision {revision}\n");
    while !page("/metrics").await.contains(&swept) {
        assert!(Instant::now() < deadline, "{}", page("/metrics").await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let metrics = page("/metrics").await;
    assert!(metrics.contains("adapter_versions 1\n"), "{metrics}");
}

/// What a producer that is not there says of itself.
async fn lie(journal: &MemoryJournal, name: &str) {
    use etcd_adapter::command::{Beat, EntryBody, Hello, encode};
    let hello = Hello {
        name: name.into(),
        peer_urls: Vec::new(),
        client_urls: Vec::new(),
        nonce: 4711,
        replaces: proto::Position::NONE,
        level: 1,
    };
    let producer = journal.append(journal_client::Entry::new(encode(&EntryBody::hello(hello)))).await.unwrap();
    let beat = Beat { applied: producer, hash: 1, flushed: producer, level: 1, ready: true };
    let body = EntryBody { producer, seq: 1, level: 1, beat: Some(beat), commands: Vec::new() };
    journal.append(journal_client::Entry::new(encode(&body))).await.unwrap();
}

#[tokio::test]
async fn of_two_that_disagree_the_older_begins_anew() {
    let journal = journal();
    let (mut one, channel) = start(&journal, "one").await;
    KvClient::new(channel).put(PutRequest { key: bytes("a"), ..Default::default() }).await.unwrap();
    lie(&journal, "liar").await;
    let ended = tokio::time::timeout(Duration::from_secs(5), one.failed()).await.unwrap();
    assert!(ended.to_string().contains("another state"), "{ended}");
}

#[tokio::test]
async fn the_majority_goes_on_and_shows_that_somebody_disagrees() {
    let journal = journal();
    let (one, first) = start(&journal, "one").await;
    let (_other, _) = start(&journal, "other").await;
    // A beat a second: by then they have compared themselves.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    lie(&journal, "liar").await;
    KvClient::new(first).put(PutRequest { key: bytes("a"), ..Default::default() }).await.unwrap();
    let metrics = crate::transport::ask_http1(&one.addresses[0], "/metrics").await;
    assert!(metrics.contains("adapter_disagrees 1\n"), "{metrics}");
    let ready = crate::transport::ask_http1(&one.addresses[0], "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
}
