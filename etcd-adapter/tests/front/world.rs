//! What the rules have in common: an adapter, and clients of all its services.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use etcd_adapter::adapter::Adapter;
use etcd_adapter::config::Config;
use proto::etcd::kv_client::KvClient;
use proto::etcd::lease_client::LeaseClient;
use proto::etcd::watch_client::WatchClient;
use proto::etcd::watch_request::RequestUnion;
use proto::etcd::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

pub struct World {
    pub adapter: Adapter,
    pub kv: KvClient<Channel>,
    pub lease: LeaseClient<Channel>,
    pub channel: Channel,
}

impl World {
    pub async fn new() -> World {
        World::with(&[]).await
    }

    /// An adapter that keeps everything in itself, with these flags too.
    pub async fn with(flags: &[&str]) -> World {
        World::of(config(flags, "http://127.0.0.1:0")).await
    }

    pub async fn of(config: Config) -> World {
        let adapter = Adapter::start(config).await.unwrap();
        let channel = Endpoint::from_shared(format!("http://{}", adapter.addresses[0])).unwrap();
        let channel = channel.tcp_nodelay(true).connect().await.unwrap();
        World {
            adapter,
            kv: KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            lease: LeaseClient::new(channel.clone()),
            channel,
        }
    }

    /// Writes, and answers the revision.
    pub async fn put(&mut self, key: &str, value: &str) -> i64 {
        let request = PutRequest { key: bytes(key), value: bytes(value), ..Default::default() };
        self.kv.put(request).await.unwrap().into_inner().header.unwrap().revision
    }

    pub async fn delete(&mut self, key: &str) -> i64 {
        let request = DeleteRangeRequest { key: bytes(key), ..Default::default() };
        self.kv.delete_range(request).await.unwrap().into_inner().header.unwrap().revision
    }

    pub async fn range(&mut self, request: RangeRequest) -> Result<RangeResponse, Status> {
        self.kv.range(request).await.map(tonic::Response::into_inner)
    }

    pub async fn compact(&mut self, revision: i64) {
        self.kv.compact(CompactionRequest { revision, physical: false }).await.unwrap();
    }

    pub async fn watch(&self) -> Watching {
        Watching::open(&self.channel).await.unwrap()
    }
}

pub async fn start(flags: &[&str], listen: &str) -> Adapter {
    Adapter::start(config(flags, listen)).await.unwrap()
}

pub fn config(flags: &[&str], listen: &str) -> Config {
    let args = ["etcd-adapter", "--ephemeral", "--listen-client-urls", listen, "--advertise-client-urls", listen];
    Config::load(args.iter().chain(flags).copied(), BTreeMap::new()).unwrap()
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::from(text.to_owned())
}

/// One watch stream.
pub struct Watching {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

/// A request to watch a prefix from a revision on.
pub fn from(prefix: &str, start_revision: i64) -> WatchCreateRequest {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    WatchCreateRequest { key: bytes(prefix), range_end: end.into(), start_revision, ..Default::default() }
}

impl Watching {
    pub async fn open(channel: &Channel) -> Result<Watching, Status> {
        let (requests, stream) = mpsc::channel(64);
        let mut client = WatchClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
        let responses = client.watch(ReceiverStream::new(stream)).await?.into_inner();
        Ok(Watching { requests, responses })
    }

    async fn send(&self, request: RequestUnion) {
        self.requests.send(WatchRequest { request_union: Some(request) }).await.unwrap();
    }

    /// Asks for a watch, and takes its first response.
    pub async fn create(&mut self, request: WatchCreateRequest) -> WatchResponse {
        self.ask(request).await;
        let created = self.next().await;
        assert!(created.created, "{created:?}");
        created
    }

    pub async fn ask(&self, request: WatchCreateRequest) {
        self.send(RequestUnion::CreateRequest(request)).await;
    }

    pub async fn cancel(&self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })).await;
    }

    pub async fn ask_progress(&self) {
        self.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    }

    pub async fn next(&mut self) -> WatchResponse {
        let next = tokio::time::timeout(Duration::from_secs(5), self.responses.message()).await;
        next.expect("one more response").unwrap().expect("the stream goes on")
    }

    /// Whether nothing comes for a while.
    pub async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(200), self.responses.message()).await.is_err()
    }

    /// So many events, over as many responses as it takes, each with its key, value and revision.
    pub async fn events(&mut self, count: usize) -> Vec<(String, String, i64)> {
        let mut events = Vec::new();
        while events.len() < count {
            let response = self.next().await;
            assert!(!response.canceled, "{response:?}");
            events.extend(response.events.iter().map(told));
        }
        assert_eq!(events.len(), count);
        events
    }
}

pub fn told(event: &proto::mvccpb::Event) -> (String, String, i64) {
    let kv = event.kv.as_ref().unwrap();
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&kv.key), text(&kv.value), kv.mod_revision)
}
