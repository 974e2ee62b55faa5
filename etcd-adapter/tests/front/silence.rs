//! Producers' ends: an adapter that is not heard is declared gone, what it said late has no effect, and
//! it comes back when it can.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_adapter::adapter::Adapter;
use etcd_adapter::config::Config;
use journal_client::MemoryJournal;
use proto::etcd::cluster_client::ClusterClient;
use proto::etcd::kv_client::KvClient;
use proto::etcd::{MemberListRequest, PutRequest, RangeRequest};
use tonic::transport::{Channel, Endpoint};

use crate::hurt::Way;
use crate::world::bytes;

/// Long enough to be heard twice in it.
const SILENCE: Duration = Duration::from_millis(2500);

async fn start(way: &Way, name: &str) -> (Adapter, Channel) {
    let listen = "http://127.0.0.1:0";
    let args = ["etcd-adapter", "--ephemeral", "--name", name, "--listen-client-urls", listen];
    let args = args.into_iter().chain(["--advertise-client-urls", listen]);
    let config = Config { silence: SILENCE, ..Config::load(args, BTreeMap::new()).unwrap() };
    let adapter = Adapter::start_on(config, Some(Arc::new(way.clone()))).await.unwrap();
    let channel = Endpoint::from_shared(format!("http://{}", adapter.addresses[0])).unwrap().connect_lazy();
    (adapter, channel)
}

async fn members(channel: &Channel) -> Vec<String> {
    let request = MemberListRequest { linearizable: true };
    let list = ClusterClient::new(channel.clone()).member_list(request).await.unwrap().into_inner();
    let mut names: Vec<_> = list.members.into_iter().map(|member| member.name).collect();
    names.sort();
    names
}

async fn until_members_are(channel: &Channel, names: &[&str]) {
    for _ in 0..120 {
        if members(channel).await == names {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{:?} are the members, and not {names:?}", members(channel).await);
}

async fn put(channel: Channel, key: &'static str) -> Result<(), tonic::Status> {
    let put = PutRequest { key: bytes(key), ..Default::default() };
    KvClient::new(channel).put(put).await.map(|_| ())
}

async fn version_of(channel: &Channel, key: &str) -> i64 {
    let request = RangeRequest { key: bytes(key), ..Default::default() };
    let response = KvClient::new(channel.clone()).range(request).await.unwrap().into_inner();
    response.kvs.first().map_or(0, |kv| kv.version)
}

#[tokio::test]
async fn an_adapter_that_is_not_heard_leaves_the_list_and_comes_back_with_every_write_once() {
    let journal = MemoryJournal::new("silence");
    let (heard, silent) = (Way::to(&journal), Way::to(&journal));
    let (_one, first) = start(&heard, "heard").await;
    let (mut other, second) = start(&silent, "silent").await;
    put(second.clone(), "before").await.unwrap();
    until_members_are(&first, &["heard", "silent"]).await;

    silent.hold(true);
    // It is sent on a stream that delivers it only after its producer was declared gone.
    let late = tokio::spawn(put(second.clone(), "late"));
    until_members_are(&first, &["heard"]).await;
    assert_eq!(version_of(&first, "late").await, 0);
    put(first.clone(), "meanwhile").await.unwrap();
    silent.hold(false);

    late.await.unwrap().unwrap();
    for channel in [&first, &second] {
        assert_eq!(version_of(channel, "late").await, 1);
        assert_eq!(version_of(channel, "meanwhile").await, 1);
    }
    until_members_are(&second, &["heard", "silent"]).await;
    let failed = tokio::time::timeout(Duration::from_millis(100), other.failed()).await;
    assert!(failed.is_err(), "it goes on: {failed:?}");
}

#[tokio::test]
async fn a_write_that_was_told_to_have_timed_out_never_happens_after_its_adapter_was_gone() {
    let journal = MemoryJournal::new("silence");
    let (heard, silent) = (Way::to(&journal), Way::to(&journal));
    let (_one, first) = start(&heard, "heard").await;
    let (_other, second) = start(&silent, "silent").await;
    put(second.clone(), "before").await.unwrap();
    silent.hold(true);
    let refused = put(second.clone(), "late").await.unwrap_err();
    assert_eq!(refused.message(), "etcdserver: request timed out");
    until_members_are(&first, &["heard"]).await;
    silent.hold(false);
    put(second.clone(), "after").await.unwrap();
    for channel in [&first, &second] {
        assert_eq!((version_of(channel, "late").await, version_of(channel, "after").await), (0, 1));
    }
}

#[tokio::test]
async fn a_restart_ends_what_the_streams_of_the_process_before_it_still_deliver() {
    let journal = MemoryJournal::new("silence");
    let way = Way::to(&journal);
    let (adapter, channel) = start(&way, "same").await;
    put(channel.clone(), "before").await.unwrap();
    way.hold(true);
    let late = tokio::spawn(put(channel.clone(), "late"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Another process of that name, while the first one's stream still holds what it was given.
    let (_again, again) = start(&Way::to(&journal), "same").await;
    put(again.clone(), "after").await.unwrap();
    way.hold(false);
    assert!(late.await.unwrap().is_err(), "it was told something that nobody can know");
    let mut adapter = adapter;
    let ended = tokio::time::timeout(Duration::from_secs(5), adapter.failed()).await.unwrap();
    assert!(ended.to_string().contains("another process has this adapter's name"), "{ended}");
    assert_eq!((version_of(&again, "late").await, version_of(&again, "after").await), (0, 1));
}
