//! Adapters and journals that do not hear each other. An adapter that is not heard is declared gone, what it
//! said late has no effect, and it comes back when it can; one that hears nothing finds out by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_adapter::adapter::Adapter;
use etcd_adapter::config::Config;
use journal_client::MemoryJournal;
use proto::etcd::cluster_client::ClusterClient;
use proto::etcd::kv_client::KvClient;
use proto::etcd::lease_client::LeaseClient;
use proto::etcd::watch_client::WatchClient;
use proto::etcd::{
    LeaseGrantRequest, LeaseKeepAliveRequest, MemberListRequest, PutRequest, RangeRequest, WatchRequest,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::hurt::Way;
use crate::world::{bytes, from};

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

/// A call on a stream that requires a leader, with this to be said first.
fn requiring_a_leader<T: Send + 'static>(
    said: Vec<T>,
) -> (Request<impl futures::Stream<Item = T> + Send + 'static>, tokio::sync::mpsc::Sender<T>) {
    let (sender, stream) = tokio::sync::mpsc::channel(4);
    said.into_iter().for_each(|one| sender.try_send(one).unwrap());
    let mut request = Request::new(ReceiverStream::new(stream));
    request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    (request, sender)
}

#[tokio::test]
async fn w_19_streams_that_require_a_leader_end_without_one_also_those_that_say_nothing() {
    let way = Way::to(&MemoryJournal::new("silence"));
    let (_one, channel) = start(&way, "one").await;
    let (mut lease, mut watch) = (LeaseClient::new(channel.clone()), WatchClient::new(channel.clone()));
    lease.lease_grant(LeaseGrantRequest { id: 7, ttl: 600 }).await.unwrap();
    let (request, _quiet) = requiring_a_leader::<LeaseKeepAliveRequest>(Vec::new());
    let mut quiet = lease.lease_keep_alive(request).await.unwrap().into_inner();
    let (request, _once) = requiring_a_leader(vec![LeaseKeepAliveRequest { id: 7 }]);
    let mut once = lease.lease_keep_alive(request).await.unwrap().into_inner();
    assert_eq!(once.message().await.unwrap().unwrap().ttl, 600);
    let create = proto::etcd::watch_request::RequestUnion::CreateRequest(from("k", 0));
    let (request, _watching) = requiring_a_leader(vec![WatchRequest { request_union: Some(create) }]);
    let mut watching = watch.watch(request).await.unwrap().into_inner();
    assert!(watching.message().await.unwrap().unwrap().created);
    // And one that does not ask for that much.
    let (mut request, _patient) = requiring_a_leader::<LeaseKeepAliveRequest>(Vec::new());
    request.metadata_mut().remove("hasleader");
    let mut patient = lease.lease_keep_alive(request).await.unwrap().into_inner();

    way.hold(true);
    let ended = futures::future::join3(quiet.message(), once.message(), watching.message());
    let ended = tokio::time::timeout(Duration::from_secs(6), ended).await.expect("they end by themselves");
    let no_leader =
        |status: Status| assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: no leader"));
    no_leader(ended.0.unwrap_err());
    no_leader(ended.1.unwrap_err());
    no_leader(ended.2.unwrap_err());
    let (request, _late) = requiring_a_leader::<LeaseKeepAliveRequest>(Vec::new());
    no_leader(lease.lease_keep_alive(request).await.unwrap_err());
    assert!(tokio::time::timeout(Duration::from_millis(50), patient.message()).await.is_err(), "it goes on");
}

/// Nobody asks this adapter for anything, and the stream that it follows brings nothing more.
#[tokio::test]
async fn a_quiet_adapter_finds_out_that_it_is_stale_and_reads_another_tail() {
    let journal = MemoryJournal::new("silence");
    let (heard, deaf) = (Way::to(&journal), Way::to(&journal));
    let (_one, first) = start(&heard, "heard").await;
    let (quiet, second) = start(&deaf, "deaf").await;
    put(first.clone(), "before").await.unwrap();
    assert_eq!(version_of(&second, "before").await, 1);
    deaf.silence_tails();
    let applied = || quiet.standing().lock().applied;
    let stale = applied();
    put(first.clone(), "after").await.unwrap();
    let began = std::time::Instant::now();
    while applied() <= stale.next() {
        assert!(began.elapsed() < Duration::from_secs(6), "it does not know that it is stale");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It was silent for a while indeed.
    assert!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());
    let read = RangeRequest { key: bytes("after"), serializable: true, ..Default::default() };
    assert_eq!(KvClient::new(second).range(read).await.unwrap().into_inner().count, 1);
}
