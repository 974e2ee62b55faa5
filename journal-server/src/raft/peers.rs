//! The connections to the other nodes: per peer one for bulk and one for control, shared by all
//! groups. openraft opens a stream for every heartbeat; here all heartbeats, votes and transfers of
//! all groups share one long-lived control stream per peer instead.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use proto::NodeId;
use proto::peer::peer_client::PeerClient;
use proto::peer::{ControlReply, ControlRequest, control_reply, control_request};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::identity::ClusterId;
use crate::identity::handshake::Handshake;

/// Opens lazy connections; the transport decides about TLS and sockets.
pub trait Dial: Send + Sync + 'static {
    fn channel(&self, address: &str) -> Channel;
    /// Runs a task for as long as the server does.
    fn spawn(&self, task: futures::future::BoxFuture<'static, ()>);
}

/// Who speaks: checked by the other side before anything reaches Raft.
#[derive(Debug, Clone, Copy)]
pub struct Speaker {
    pub cluster: ClusterId,
    pub node: NodeId,
}

impl Speaker {
    fn to(self, node: u64) -> Handshake {
        Handshake { cluster: self.cluster, from: self.node, to: NodeId(node) }
    }
}

/// Calls that wait for the control stream of one peer.
const CONTROL_QUEUE: usize = 1024;
/// A control stream that cannot be opened in this time is tried again by the next call.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);
/// Messages between nodes carry runs of entries: the largest entry and its frame must fit.
pub const MESSAGE_BYTES_MAX: usize = (16 << 20) + (64 << 10);

/// All peers of this node, by id. An address that changed gets new connections.
pub struct Peers {
    dial: Arc<dyn Dial>,
    speaker: Speaker,
    peers: Mutex<BTreeMap<u64, Arc<Peer>>>,
}

pub struct Peer {
    node: u64,
    address: String,
    bulk: Channel,
    control: mpsc::Sender<ControlCall>,
    speaker: Speaker,
}

struct ControlCall {
    kind: control_request::Kind,
    reply: oneshot::Sender<Result<control_reply::Kind, String>>,
}

impl Peers {
    pub fn new(dial: Arc<dyn Dial>, speaker: Speaker) -> Self {
        Peers { dial, speaker, peers: Mutex::new(BTreeMap::new()) }
    }

    pub fn speaker(&self) -> Speaker {
        self.speaker
    }

    pub fn get(&self, node: u64, address: &str) -> Arc<Peer> {
        let mut peers = self.peers.lock();
        if let Some(peer) = peers.get(&node).filter(|peer| peer.address == address) {
            return peer.clone();
        }
        let (control, calls) = mpsc::channel(CONTROL_QUEUE);
        let peer = Peer {
            node,
            address: address.to_owned(),
            bulk: self.dial.channel(address),
            control,
            speaker: self.speaker,
        };
        let task = ControlTask { channel: self.dial.channel(address), handshake: self.speaker.to(node), calls };
        self.dial.spawn(Box::pin(task.run()));
        let peer = Arc::new(peer);
        peers.insert(node, peer.clone());
        peer
    }
}

impl Peer {
    pub fn node(&self) -> u64 {
        self.node
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// The bulk connection itself, for services that are not Raft's.
    pub fn channel(&self) -> Channel {
        self.bulk.clone()
    }

    /// A client on the bulk connection.
    pub fn bulk(&self) -> PeerClient<Channel> {
        client(self.bulk.clone())
    }

    /// A request that carries who speaks to whom.
    pub fn stamped<T>(&self, message: T) -> tonic::Request<T> {
        stamped(self.speaker.to(self.node), message)
    }

    /// One call on the control stream.
    pub async fn control(&self, kind: control_request::Kind, timeout: Duration) -> Result<control_reply::Kind, String> {
        let call = async {
            let (reply, answer) = oneshot::channel();
            let gone = |_| "the control stream's task is gone".to_owned();
            self.control.send(ControlCall { kind, reply }).await.map_err(|_| gone(()))?;
            answer.await.map_err(|_| gone(()))?
        };
        match tokio::time::timeout(timeout, call).await {
            Ok(Ok(control_reply::Kind::Failed(why))) => Err(why),
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer from {} within {timeout:?}", self.address)),
        }
    }
}

fn client(channel: Channel) -> PeerClient<Channel> {
    PeerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
}

fn stamped<T>(handshake: Handshake, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    handshake.write(request.metadata_mut());
    request
}

/// Owns the control stream of one peer: opened by the first call, reopened by the next one after it
/// broke. Ends when the peer is forgotten.
struct ControlTask {
    channel: Channel,
    handshake: Handshake,
    calls: mpsc::Receiver<ControlCall>,
}

impl ControlTask {
    async fn run(mut self) {
        while let Some(first) = self.calls.recv().await {
            let mut waiting = BTreeMap::new();
            let why = match self.stream(first, &mut waiting).await {
                Ok(()) => return,
                Err(why) => why,
            };
            for (_, reply) in std::mem::take(&mut waiting) {
                answer(reply, Err(why.clone()));
            }
            // What queued up while the stream could not be opened is stale: its callers go on.
            while let Ok(call) = self.calls.try_recv() {
                answer(call.reply, Err(why.clone()));
            }
        }
    }

    /// Serves calls until the stream breaks (`Err`) or the peer is forgotten (`Ok`).
    async fn stream(
        &mut self,
        first: ControlCall,
        waiting: &mut BTreeMap<u64, oneshot::Sender<Result<control_reply::Kind, String>>>,
    ) -> Result<(), String> {
        let (out, requests) = mpsc::channel::<ControlRequest>(64);
        let mut number = 1u64;
        waiting.insert(number, first.reply);
        // The queue was just made: there is room for one.
        let _ = out.try_send(ControlRequest { number, kind: Some(first.kind) });
        let mut client = client(self.channel.clone());
        let open = client.control(stamped(self.handshake, ReceiverStream::new(requests)));
        let mut replies = match tokio::time::timeout(OPEN_TIMEOUT, open).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(format!("{}: {}", status.code(), status.message())),
            Err(_) => return Err("the control stream cannot be opened in time".to_owned()),
        };
        loop {
            tokio::select! {
                biased;
                reply = replies.next() => match reply {
                    Some(Ok(ControlReply { number, kind: Some(kind) })) => {
                        if let Some(reply) = waiting.remove(&number) {
                            answer(reply, Ok(kind));
                        }
                    }
                    Some(Ok(_)) => return Err("a control reply without content".to_owned()),
                    Some(Err(status)) => return Err(format!("{}: {}", status.code(), status.message())),
                    None => return Err("the peer ended the control stream".to_owned()),
                },
                call = self.calls.recv() => {
                    let Some(call) = call else { return Ok(()) };
                    number += 1;
                    waiting.retain(|_, reply| !reply.is_closed());
                    waiting.insert(number, call.reply);
                    let request = ControlRequest { number, kind: Some(call.kind) };
                    if out.try_send(request).is_err() {
                        return Err("the control stream is stuck".to_owned());
                    }
                }
            }
        }
    }
}

/// A caller that stopped waiting is no error.
fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    let _ = reply.send(value);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::{BoxFuture, join_all};
    use futures::stream::{BoxStream, Empty};
    use proto::peer::{self, peer_server};
    use tonic::{Request, Response, Status, Streaming};

    use super::*;

    /// A peer that answers heartbeats, and counts the streams on which they come.
    #[derive(Clone, Default)]
    struct Counting(Arc<AtomicUsize>);

    fn no<T>() -> Result<Response<T>, Status> {
        Err(Status::unimplemented("nobody asks for this here"))
    }

    #[tonic::async_trait]
    impl peer_server::Peer for Counting {
        type ReplicateStream = Empty<Result<peer::AppendEntriesReply, Status>>;
        type ControlStream = BoxStream<'static, Result<ControlReply, Status>>;

        async fn control(
            &self,
            request: Request<Streaming<ControlRequest>>,
        ) -> Result<Response<Self::ControlStream>, Status> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let replies = request.into_inner().map(|request| {
                let request = request?;
                let Some(control_request::Kind::Heartbeat(heartbeat)) = request.kind else {
                    return Err(Status::invalid_argument("only heartbeats come here"));
                };
                // Who asked sees by the term that this is the answer to his own.
                let reply = peer::AppendEntriesReply { term: heartbeat.group_id, outcome: None };
                Ok(ControlReply { number: request.number, kind: Some(control_reply::Kind::Heartbeat(reply)) })
            });
            Ok(Response::new(replies.boxed()))
        }

        async fn replicate(
            &self,
            _: Request<Streaming<peer::AppendEntries>>,
        ) -> Result<Response<Self::ReplicateStream>, Status> {
            no()
        }
        async fn snapshot(&self, _: Request<peer::SnapshotRequest>) -> Result<Response<peer::SnapshotReply>, Status> {
            no()
        }
        async fn fetch(&self, _: Request<peer::FetchRequest>) -> Result<Response<peer::FetchReply>, Status> {
            no()
        }
        async fn propose(&self, _: Request<peer::ProposeRequest>) -> Result<Response<peer::ProposeReply>, Status> {
            no()
        }
        async fn probe(&self, _: Request<peer::ProbeRequest>) -> Result<Response<peer::ProbeReply>, Status> {
            no()
        }
        async fn offer(&self, _: Request<peer::OfferRequest>) -> Result<Response<peer::OfferReply>, Status> {
            no()
        }
    }

    struct Plain;

    impl Dial for Plain {
        fn channel(&self, address: &str) -> Channel {
            tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
        }

        fn spawn(&self, task: BoxFuture<'static, ()>) {
            tokio::spawn(task);
        }
    }

    #[tokio::test]
    async fn the_heartbeats_of_all_groups_share_one_stream() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let counting = Counting::default();
        let server = tonic::transport::Server::builder().add_service(peer_server::PeerServer::new(counting.clone()));
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(server.serve_with_incoming(incoming));

        let speaker = Speaker { cluster: ClusterId(1), node: NodeId(1) };
        let peers = Peers::new(Arc::new(Plain), speaker);
        for _ in 0..10 {
            let beat = async |group_id| {
                let heartbeat = peer::AppendEntries { group_id, ..peer::AppendEntries::default() };
                let peer = peers.get(2, &address);
                let sent = peer.control(control_request::Kind::Heartbeat(heartbeat), Duration::from_secs(5)).await;
                let Ok(control_reply::Kind::Heartbeat(reply)) = sent else { panic!("{sent:?}") };
                assert_eq!(reply.term, group_id, "the answer to somebody else's");
            };
            join_all((1..=50).map(beat)).await;
        }
        assert_eq!(counting.0.load(Ordering::Relaxed), 1, "streams for 500 heartbeats");
    }
}
