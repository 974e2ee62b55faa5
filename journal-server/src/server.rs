//! The whole node: opens what it is made of, in order; owns its sockets and its long-lived tasks; ends
//! in order, or at once when the disk failed.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use journal_client::Connector;
use journal_client::tls::{Identity as Certificate, Reloading, Tls};
use journal_client::transport::{self, ChannelOptions};
use proto::NodeId;
use proto::journal::{catalogue_server::CatalogueServer, cluster_server::ClusterServer, journal_server::JournalServer};
use proto::peer::peer_server::PeerServer;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use crate::caller::Caller;
use crate::catalogue::Groups;
use crate::config::{Config, Start};
use crate::disk::{self, Disk};
use crate::env::{BoxedIo, Drive, Env, Listener};
use crate::forming::Forming;
use crate::group::{Limits, Shared};
use crate::grpc::{CatalogueService, ClusterService, Door, Doorway, JournalService, PeerService};
use crate::health::Health;
use crate::http::{Pages, is_grpc};
use crate::identity::{DirLock, Identity};
use crate::latch::{Exit, Failure, Latch};
use crate::node::{self, Node};
use crate::offload::Offload;
use crate::raft::{Dial, MESSAGE_BYTES_MAX, Peers, Speaker, Timing};
use crate::repair::{Pace, Repairs};
use crate::rules::Rules;
use crate::segment::Options;
use crate::state::Member;

/// Unanswered bytes of entries that one node takes, over all its append streams.
const NODE_INFLIGHT_BYTES: usize = 256 << 20;

/// A node that runs.
pub struct Server {
    pub address: SocketAddr,
    pub node_id: NodeId,
    latch: Latch,
    stop: CancellationToken,
    tasks: TaskTracker,
    groups: watch::Receiver<Option<Arc<Groups>>>,
    node: Arc<Node>,
    drain: Duration,
    /// Held for as long as the node lives.
    _lock: Option<DirLock>,
}

fn failure(exit: Exit, why: impl std::fmt::Display) -> Failure {
    Failure { exit, why: why.to_string() }
}

impl Server {
    /// Opens the data directory, binds the sockets, and goes on in the background: forming or joining
    /// a cluster, opening groups, serving.
    pub async fn start(
        config: Config,
        env: Env,
        connector: Arc<dyn Connector>,
        latch: Latch,
    ) -> Result<Server, Failure> {
        let data_dir = config.data_dir.clone();
        let lock = match env.drive {
            Drive::Threads => {
                env.fs.create_dir(&data_dir).map_err(|error| failure(Exit::DataDir, error))?;
                Some(DirLock::take(&data_dir).map_err(|error| failure(Exit::DataDir, error))?)
            }
            Drive::Tasks => None,
        };
        let identity = {
            let (env, data_dir) = (env.clone(), data_dir.clone());
            let open = env.clone().blocking(move || Identity::open(env, &data_dir)).await;
            open.map_err(|error| failure(Exit::DataDir, error))?
        };
        if config.start == Start::Resume && identity.cluster().is_none() {
            let why = "this data directory belongs to no cluster: say --initial-cluster or --join";
            return Err(failure(Exit::Config, why));
        }
        let disk = Disk::open(env.fs.clone(), &config).map_err(|error| failure(Exit::DataDir, error))?;
        let rules = rules(&config).map_err(|why| failure(Exit::Config, why))?;
        let tls = acceptor(&config).map_err(|why| failure(Exit::Config, why))?;

        let mut listeners = Vec::new();
        for address in &config.listen {
            let listener = env.net.listen(*address).await;
            listeners
                .push(listener.map_err(|error| failure(Exit::Start, format!("cannot listen on {address}: {error}")))?);
        }
        let first = listeners.first().ok_or_else(|| failure(Exit::Config, "no listen address"))?;
        let address = first.local_address().map_err(|error| failure(Exit::Start, error))?;
        let advertise = match config.advertise.strip_suffix(":0") {
            Some(host) => format!("{host}:{}", address.port()),
            None => config.advertise.clone(),
        };

        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let health = Health::default();
        let pages = Pages { health: health.clone(), metrics: crate::metrics::handle() };
        let dial: Arc<dyn Dial> = Arc::new(Dialer { connector, tasks: tasks.clone(), stop: stop.clone() });
        let forming =
            Forming::new(identity.clone(), &config.name, &advertise, &config.start, dial.clone(), env.rng.clone());
        let (publish_door, doors) = watch::channel(None);
        let (publish_groups, groups) = watch::channel(None);
        let repairs = Arc::new(Repairs::default());
        let node = Node::new(
            &config,
            &advertise,
            identity.clone(),
            disk.clone(),
            health.clone(),
            forming.clone(),
            repairs.clone(),
        );

        let routes = {
            let doorway = Doorway::new(doors, node.watch_removed());
            let limit = config.limits.message_bytes();
            let peers = PeerService {
                door: doorway.clone(),
                identity: identity.clone(),
                rules: rules.clone(),
                node: node.clone(),
                repairs: repairs.clone(),
                offload: Offload::of(env.drive),
            };
            let (receive, send) = (limit, MESSAGE_BYTES_MAX);
            let journal = JournalServer::new(JournalService(doorway.clone()));
            let catalogue = CatalogueServer::new(CatalogueService(doorway.clone()));
            let cluster = ClusterServer::new(ClusterService { door: doorway, node: node.clone() });
            let peers = PeerServer::new(peers);
            Routes::new(journal.max_decoding_message_size(receive).max_encoding_message_size(send))
                .add_service(catalogue)
                .add_service(cluster)
                .add_service(peers.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(send))
                .prepare()
        };
        for listener in listeners {
            let front = Front { routes: Some(routes.clone()), pages: pages.clone(), tls: tls.clone() };
            tasks.spawn(front.accept(listener, latch.clone(), stop.clone(), tasks.clone()));
        }
        if let Some(address) = config.metrics_listen {
            let listener = env.net.listen(address).await;
            let listener =
                listener.map_err(|error| failure(Exit::Start, format!("cannot listen on {address}: {error}")))?;
            let front = Front { routes: None, pages, tls: None };
            tasks.spawn(front.accept(listener, latch.clone(), stop.clone(), tasks.clone()));
        }

        let until_stop = |task: BoxFuture<'static, ()>| {
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(task).await });
        };
        until_stop(Box::pin(disk.clone().watch_room(env.clone(), health.check("room"))));
        until_stop(Box::pin(disk.clone().watch_health(health.check("disk"), latch.clone())));
        until_stop(Box::pin(forming.run(health.check("cluster"))));
        until_stop(Box::pin(upkeep()));
        if let Some(path) = config.rules.clone() {
            until_stop(Box::pin(reload_rules(rules.clone(), path, config.reload, env.clone())));
        }
        let opening = Opening {
            env,
            config: config.clone(),
            identity: identity.clone(),
            disk,
            dial,
            rules,
            health,
            repairs,
            node: node.clone(),
            latch: latch.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        tasks.spawn(async move {
            let stop = opening.stop.clone();
            stop.run_until_cancelled(opening.run(publish_groups, publish_door)).await;
        });
        Ok(Server {
            address,
            node_id: identity.node_id(),
            latch,
            stop,
            tasks,
            groups,
            node,
            drain: config.drain,
            _lock: lock,
        })
    }

    pub fn latch(&self) -> &Latch {
        &self.latch
    }

    /// The groups, once the node belongs to a cluster and has opened `system`.
    pub fn groups(&self) -> Option<Arc<Groups>> {
        self.groups.borrow().clone()
    }

    /// Stops in order: hands leaderships over, answers what it can, writes the clean-stop marks.
    pub async fn shutdown(self) -> Exit {
        if let Some(failure) = self.latch.failure() {
            self.stop.cancel();
            return failure.exit;
        }
        let groups = self.groups();
        let _stopping = self.node.stopping();
        let orderly = async {
            if let Some(groups) = groups {
                groups.hand_over(|id| self.node.may_lead(id)).await;
                groups.close().await;
            }
            self.stop.cancel();
            self.tasks.close();
            self.tasks.wait().await;
        };
        if tokio::time::timeout(self.drain, orderly).await.is_err() {
            tracing::warn!("the stop took longer than {:?}: leaving the rest", self.drain);
            self.stop.cancel();
        }
        match self.latch.failure() {
            Some(failure) => failure.exit,
            None => Exit::Clean,
        }
    }
}

/// What is needed to open the groups, once there is a cluster.
struct Opening {
    env: Env,
    config: Config,
    identity: Identity,
    disk: Disk,
    dial: Arc<dyn Dial>,
    rules: Rules,
    health: Health,
    repairs: Arc<Repairs>,
    node: Arc<Node>,
    latch: Latch,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Opening {
    async fn run(self, publish_groups: watch::Sender<Option<Arc<Groups>>>, publish_door: watch::Sender<Option<Door>>) {
        let check = self.health.check("groups");
        check.not_ready("not opened yet");
        let cluster = self.identity.in_cluster().await;
        let node = self.identity.node_id();
        let speaker = Speaker { cluster: cluster.id, node };
        let config = &self.config;
        let (failed, mut failures) = mpsc::channel(4);
        let shared = Arc::new(Shared {
            env: self.env.clone(),
            identity: self.identity.clone(),
            options: Options {
                segment_bytes: config.limits.segment_bytes,
                ring_bytes: config.limits.ring_bytes as usize,
                sync_watch: Some(Arc::new(self.disk.clone())),
                ..Options::default()
            },
            timing: Timing {
                heartbeat_ms: config.raft.heartbeat.as_millis() as u64,
                election_ms_min: config.raft.election_min.as_millis() as u64,
                election_ms_max: config.raft.election_max.as_millis() as u64,
            },
            peers: Arc::new(Peers::new(self.dial.clone(), speaker)),
            admission: self.node.clone(),
            limits: Limits {
                entry_bytes: config.limits.entry_bytes as usize,
                stream_bytes: config.limits.inflight_bytes as usize,
                ..Limits::default()
            },
            inflight: Arc::new(Semaphore::new(NODE_INFLIGHT_BYTES)),
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
            failed,
            health: self.health.clone(),
            repairs: self.repairs.clone(),
            scrub: Pace { bytes_per_second: config.scrub.bytes_per_second, every: config.scrub.every },
            look: Notify::new(),
        });
        {
            let (latch, stop) = (self.latch.clone(), self.stop.clone());
            // The groups outlive the orderly stop, and hold the other end: only the stop ends this.
            self.tasks.spawn(async move {
                if let Some(Some(why)) = stop.run_until_cancelled(failures.recv()).await {
                    latch.fail(Exit::FailedDisk, why);
                }
            });
        }
        let own =
            |m: &crate::identity::Member| (m.node_id.0, Member { name: m.name.clone(), address: m.address.clone() });
        let voters = match cluster.origin {
            crate::identity::Origin::Joined => Default::default(),
            _ => cluster.members.iter().map(own).collect(),
        };
        match Groups::start(shared, voters).await {
            Ok(groups) => {
                publish_door.send_replace(Some(Door { groups: groups.clone(), rules: self.rules.clone() }));
                publish_groups.send_replace(Some(groups.clone()));
                node::look_after(self.node, groups, self.disk, check, self.stop).await;
            }
            Err(error) => self.latch.fail(Exit::DataDir, format!("the groups cannot be opened: {error:#}")),
        }
    }
}

/// Connections to other nodes.
struct Dialer {
    connector: Arc<dyn Connector>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Dial for Dialer {
    fn channel(&self, address: &str) -> tonic::transport::Channel {
        // Every call between nodes has its own limit; a dead connection must only not stay for ever.
        let options = ChannelOptions { keep_alive_interval: Duration::from_secs(2), ..ChannelOptions::default() };
        let channel = transport::channel(address, self.connector.clone(), &options);
        channel.unwrap_or_else(|error| {
            tracing::error!("a member's address cannot be used: {error}");
            tonic::transport::Endpoint::from_static("http://invalid.invalid:1").connect_lazy()
        })
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(task).await });
    }
}

impl crate::segment::SyncWatch for Disk {
    fn watch(&self, sync: &mut dyn FnMut() -> std::io::Result<()>) -> std::io::Result<()> {
        let timer = self.sync_begins();
        let result = sync();
        timer.done();
        result
    }

    fn begins(&self) -> Box<dyn Send> {
        struct UnderWay(Option<disk::SyncTimer>);
        impl Drop for UnderWay {
            fn drop(&mut self) {
                self.0.take().map(disk::SyncTimer::done);
            }
        }
        Box::new(UnderWay(Some(self.sync_begins())))
    }
}

impl crate::raft::Room for Disk {
    fn takes(&self, entries: &[proto::peer::LogEntry]) -> Result<(), String> {
        // What frees space, and what precedes it, may use the reserve.
        const WAY_OUT_BYTES: usize = 8 << 20;
        let room = self.room();
        if room < disk::Room::Reserve || entries.is_empty() {
            return Ok(());
        }
        let frees = |kind: u32| kind != crate::segment::Kind::Entry as u32;
        let bytes: usize = entries.iter().map(|entry| entry.body.len()).sum();
        match room < disk::Room::Floor && bytes <= WAY_OUT_BYTES && entries.iter().any(|entry| frees(entry.kind)) {
            true => Ok(()),
            false => Err(room.to_string()),
        }
    }
}

/// What stands behind a listening socket.
#[derive(Clone)]
struct Front {
    routes: Option<Routes>,
    pages: Pages,
    tls: Option<Arc<Reloading<rustls::ServerConfig>>>,
}

impl Front {
    async fn accept(self, mut listener: Box<dyn Listener>, latch: Latch, stop: CancellationToken, tasks: TaskTracker) {
        let graceful = GracefulShutdown::new();
        let cut = latch.token().child_token();
        loop {
            let accepted = tokio::select! {
                biased;
                () = latch.token().cancelled() => return,
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((io, _)) => {
                    metrics::counter!("journal_connections_total").increment(1);
                    let (front, watcher) = (self.clone(), graceful.watcher());
                    let cut = cut.clone();
                    tasks.spawn(async move { cut.run_until_cancelled(front.serve(io, watcher)).await });
                }
                Err(error) => {
                    tracing::warn!("cannot accept connections: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        // GOAWAY to everybody; long streams are cut after a moment.
        let _ = tokio::time::timeout(Duration::from_secs(1), graceful.shutdown()).await;
        cut.cancel();
    }

    async fn serve(self, io: BoxedIo, watcher: hyper_util::server::graceful::Watcher) {
        let (io, caller) = match &self.tls {
            None => (io, Caller::Anonymous),
            Some(tls) => match handshake(tls.clone(), io).await {
                Ok(secured) => secured,
                Err(error) => {
                    metrics::counter!("journal_tls_failures_total").increment(1);
                    return tracing::debug!("a connection failed its handshake: {error}");
                }
            },
        };
        let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            let front = self.clone();
            request.extensions_mut().insert(caller.clone());
            async move {
                let response = match front.routes {
                    Some(mut routes) if is_grpc(&request) => tower::Service::call(&mut routes, request).await?,
                    _ => front.pages.answer(&request),
                };
                Ok::<_, Infallible>(response)
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(4096)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            // Whoever dialled asks more often: it has something to lose.
            .keep_alive_interval(Some(Duration::from_secs(5)))
            .keep_alive_timeout(Duration::from_secs(2));
        builder.http1().timer(TokioTimer::new());
        let connection = builder.serve_connection(TokioIo::new(io), service).into_owned();
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!("a connection ended: {error}");
        }
    }
}

async fn handshake(
    tls: Arc<Reloading<rustls::ServerConfig>>,
    io: BoxedIo,
) -> Result<(BoxedIo, Caller), Box<dyn std::error::Error + Send + Sync>> {
    let config = tokio::task::spawn_blocking(move || tls.current()).await?;
    let accept = tokio_rustls::TlsAcceptor::from(config).accept(io);
    let stream = tokio::time::timeout(Duration::from_secs(5), accept).await??;
    let caller = {
        let (_, connection) = stream.get_ref();
        let certificate = connection.peer_certificates().and_then(|chain| chain.first());
        Caller::of_certificate(certificate.ok_or("no certificate was shown")?)?
    };
    Ok((Box::new(stream), caller))
}

fn acceptor(config: &Config) -> Result<Option<Arc<Reloading<rustls::ServerConfig>>>, String> {
    let Some(tls) = client_tls(config) else { return Ok(None) };
    // When the certificate ends is told at once: somebody must be there to hear it.
    crate::metrics::handle();
    let made = Reloading::new(tls, |tls| {
        let made = tls.server_config(&[b"h2", b"http/1.1"])?;
        if let Some(identity) = &tls.identity {
            tell_expiry(&identity.cert);
        }
        Ok(made)
    });
    made.map(|made| Some(Arc::new(made))).map_err(|error| error.to_string())
}

/// Shows when the certificate in use ends, so that somebody can be woken before.
fn tell_expiry(path: &std::path::Path) {
    let Ok(pem) = std::fs::read(path) else { return };
    let Some(Ok(first)) = x509_parser::pem::Pem::iter_from_buffer(&pem).next() else { return };
    if let Ok(certificate) = first.parse_x509() {
        let ends = certificate.validity().not_after.timestamp();
        metrics::gauge!("journal_tls_certificate_expiry_seconds").set(ends as f64);
    }
}

/// The certificates that this node shows, as a server and as a client of the other nodes.
pub fn client_tls(config: &Config) -> Option<Tls> {
    config.tls.as_ref().map(|tls| Tls {
        ca: tls.ca.clone(),
        identity: Some(Certificate { cert: tls.cert.clone(), key: tls.key.clone() }),
        server_name: None,
    })
}

fn rules(config: &Config) -> Result<Rules, String> {
    let peer_names = config.tls.as_ref().map(|tls| tls.peer_names.clone());
    match &config.rules {
        None => Ok(Rules::open(peer_names)),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            Rules::parse(path, &text, peer_names)
        }
    }
}

async fn reload_rules(rules: Rules, path: std::path::PathBuf, every: Duration, env: Env) {
    let mut last = String::new();
    loop {
        tokio::time::sleep(every).await;
        let read = path.clone();
        match env.blocking(move || std::fs::read_to_string(read)).await {
            Ok(text) if text != last => {
                if let Err(why) = rules.replace(&path, &text) {
                    metrics::counter!("journal_reload_failures_total").increment(1);
                    tracing::error!("changed rules cannot be used, the old ones stay: {why}");
                }
                last = text;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("{}: {error}; the old rules stay", path.display()),
        }
    }
}

async fn upkeep() {
    loop {
        tokio::time::sleep(crate::metrics::UPKEEP).await;
        crate::metrics::handle().run_upkeep();
    }
}
