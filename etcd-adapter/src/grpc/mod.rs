//! etcd's services: translate, ask, translate back. What a request means is decided elsewhere.
//!
//! Wire types stop here. Errors get their codes and words in [`status`], once.

mod auth;
mod calls;
mod cluster;
mod convert;
mod election;
mod health;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod session;
pub mod status;
mod unary;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response};
use proto::etcd::ResponseHeader;
use proto::etcd::auth_server::AuthServer;
use proto::etcd::cluster_server::ClusterServer;
use proto::etcd::kv_server::KvServer;
use proto::etcd::lease_server::LeaseServer;
use proto::etcd::maintenance_server::MaintenanceServer;
use proto::health::health_server::HealthServer;
use proto::v3electionpb::election_server::ElectionServer;
use proto::v3lockpb::lock_server::LockServer;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use crate::answers::{Budget, Claim, NoRoom};
use crate::applier::Standings;
use crate::command::{self, AlarmAction, AlarmKind, Command};
use crate::config::Config;
use crate::lease_clock::LeaseClock;
use crate::meters::{Kind, Meters};
use crate::mvcc::{Answer, Refusal, Reply, Revision};
use crate::proposal::{Failed, Proposer};
use crate::reads::{Reads, Unconfirmed};
use crate::room::Room;
use crate::view::View;
use crate::watch::Hub;

pub use calls::Calls;
pub use cluster::NOT_PROMOTED;
pub use unary::Unary;

/// What a message may have around a request of the largest size.
const MESSAGE_OVERHEAD_BYTES: usize = 512 << 10;
/// What is done is not waited for as long as a compaction leaves those alone who still read.
const DONE_PATIENCE: Duration = Duration::from_secs(5);
/// A leader that was not heard for so many election timeouts is none.
const LEADER_LOST_AFTER: u32 = 3;
/// Between looks whether a leader is still there.
const LEADER_EVERY: Duration = Duration::from_millis(500);

/// What all services of an adapter share.
pub struct Shared {
    pub config: Config,
    pub cluster_id: u64,
    /// Stays the same for as long as the process: the first `Hello` told it.
    pub member_id: std::sync::OnceLock<u64>,
    pub view: View,
    pub proposer: Proposer,
    pub reads: Reads,
    pub hub: Hub,
    pub leases: Arc<parking_lot::Mutex<LeaseClock>>,
    pub standing: Standings,
    pub calls: Arc<Calls>,
    pub answers: Budget,
    pub meters: Arc<Meters>,
    /// Of the store, if it has a directory.
    pub room: Option<Room>,
    pub stopping: CancellationToken,
}

impl Shared {
    pub fn header(&self, revision: Revision) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id.get().copied().unwrap_or_default(),
            revision,
            raft_term: RAFT_TERM,
        }
    }

    pub fn message_bytes_max(&self) -> usize {
        self.config.limits.request_bytes + MESSAGE_OVERHEAD_BYTES
    }

    /// Whether this adapter joined as a learner, and was not promoted yet.
    pub fn is_learner(&self) -> bool {
        self.member_id.get().is_some_and(|own| self.view.is_learner(*own))
    }

    /// Whether the journal answered lately that it has a leader.
    pub fn has_leader(&self) -> bool {
        let patience = self.config.limits.election_timeout.max(Duration::from_secs(1)) * LEADER_LOST_AFTER;
        self.reads.heard().is_some_and(|heard| heard.at.elapsed() < patience)
    }

    /// Returns once the journal has had no leader for a while: then streams that require one end.
    async fn leader_lost(&self) {
        let mut looks = tokio::time::interval(LEADER_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.has_leader() {
            looks.tick().await;
        }
    }

    /// Proposes a client's command, of which the request was `bytes` long.
    pub async fn propose(&self, command: Command, bytes: usize) -> Result<Reply, Status> {
        self.check_quota(&command)?;
        command::validate(&command, self.config.limits.txn_ops).map_err(status_of_invalid)?;
        if bytes > self.config.limits.request_bytes {
            return Err(status::REQUEST_TOO_LARGE.into());
        }
        self.say(command).await
    }

    /// Proposes, and tells what became of it in etcd's words.
    pub async fn say(&self, command: Command) -> Result<Reply, Status> {
        let (kind, began) = (Kind::of(&command), Instant::now());
        let outcome = self.proposer.propose(command).await;
        if let Some(kind) = kind {
            self.meters.request(kind, outcome.is_ok(), began.elapsed());
        }
        outcome.map_err(|failed| match failed {
            Failed::Timeout => status::TIMEOUT.into(),
            Failed::NoRoom => status::NO_SPACE.into(),
            Failed::TooMany => status::TOO_MANY_REQUESTS.into(),
            Failed::Stopped => status::STOPPED.into(),
        })
    }

    /// Waits until everything that was acknowledged before is visible here.
    pub async fn confirm(&self) -> Result<(), Status> {
        self.reads.confirm().await.map_err(|unconfirmed| match unconfirmed {
            Unconfirmed::Timeout => status::TIMEOUT.into(),
            Unconfirmed::TooMany => status::TOO_MANY_REQUESTS.into(),
            Unconfirmed::Stopped => status::STOPPED.into(),
        })
    }

    /// Makes an answer in the memory that there is for it. If there is none, it is given up, and made anew
    /// once there is.
    async fn within<T>(
        &self,
        mut claim: Claim,
        patience: Patience,
        mut make: impl FnMut(&mut Claim) -> Result<T, Status>,
    ) -> Result<Made<T>, Status> {
        let (wait, otherwise) = match patience {
            Patience::Reads => (self.config.limits.request_timeout(), status::TOO_MANY_REQUESTS),
            Patience::Done => (DONE_PATIENCE, status::TIMEOUT),
        };
        // Most answers wait for nothing.
        let mut until = None;
        loop {
            claim.restart();
            let message = make(&mut claim)?;
            if !claim.is_refused() {
                return Ok(Made { message, claim });
            }
            drop(message);
            let until = *until.get_or_insert_with(|| Instant::now() + wait);
            claim.wait(until).await.map_err(|NoRoom| Status::from(otherwise))?;
        }
    }

    /// Writes end where the quota does, and the first one that meets it raises the alarm.
    fn check_quota(&self, command: &Command) -> Result<(), Status> {
        let cost = command::quota_cost(command);
        let quota = self.config.limits.quota_bytes.unwrap_or(u64::MAX);
        if cost == 0 || (self.view.logical_bytes() + cost < quota && !self.is_tight()) {
            return Ok(());
        }
        self.raise_no_space();
        Err(status::NO_SPACE.into())
    }

    /// Whether the store has less room left than its reserve.
    pub fn is_tight(&self) -> bool {
        self.room.as_ref().is_some_and(Room::is_tight)
    }

    /// Says to all adapters that there is no space for writes, unless it was said.
    pub fn raise_no_space(&self) {
        let member = self.member_id.get().copied().unwrap_or_default();
        if !self.view.has_alarm(AlarmKind::NoSpace) {
            self.proposer.say(Command::Alarm { action: AlarmAction::Activate, member, kind: AlarmKind::NoSpace });
        }
    }
}

/// How long an answer waits for memory, and what is said then.
#[derive(Clone, Copy)]
enum Patience {
    /// As long as any request.
    Reads,
    /// What it tells of is done, and may be compacted away meanwhile. Nothing is known of it then.
    Done,
}

/// What an answer says, and its claim to the memory that this takes.
pub struct Made<T> {
    pub message: T,
    claim: Claim,
}

impl<T> Made<T> {
    /// A message so short that nobody counts it.
    fn free(message: T) -> Made<T> {
        Made { message, claim: Claim::unbounded() }
    }

    fn map<U>(self, change: impl FnOnce(T) -> U) -> Made<U> {
        Made { message: change(self.message), claim: self.claim }
    }

    /// For the services: they hold what was claimed until the answer is sent.
    fn into_response(self) -> tonic::Response<T> {
        let mut response = tonic::Response::new(self.message);
        if let Some(held) = self.claim.made(usize::MAX) {
            response.extensions_mut().insert(held);
        }
        response
    }
}

/// It rises when a store is restored from elsewhere, which there is no way to do yet.
pub const RAFT_TERM: u64 = 2;

/// The services. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    shared: Arc<Shared>,
    kv: KvServer<kv::KvService>,
    lease: LeaseServer<lease::LeaseService>,
    cluster: ClusterServer<cluster::ClusterService>,
    maintenance: MaintenanceServer<maintenance::MaintenanceService>,
    auth: AuthServer<auth::AuthService>,
    lock: LockServer<lock::LockService>,
    election: ElectionServer<election::ElectionService>,
    health: HealthServer<health::HealthService>,
    watch: watch::WatchService,
}

impl Services {
    pub fn new(shared: Arc<Shared>) -> Services {
        let max = shared.message_bytes_max();
        Services {
            kv: KvServer::new(kv::KvService(shared.clone()))
                .max_decoding_message_size(max)
                .max_encoding_message_size(usize::MAX),
            lease: LeaseServer::new(lease::LeaseService(shared.clone())),
            cluster: ClusterServer::new(cluster::ClusterService(shared.clone())),
            maintenance: MaintenanceServer::new(maintenance::MaintenanceService(shared.clone())),
            auth: AuthServer::new(auth::AuthService),
            lock: LockServer::new(lock::LockService(shared.clone())),
            election: ElectionServer::new(election::ElectionService(shared.clone())),
            health: HealthServer::new(health::HealthService(shared.clone())),
            watch: watch::WatchService(shared.clone()),
            shared,
        }
    }

    /// Answers one call.
    pub async fn call<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let request = request.map(Body::new);
        let started = self.shared.calls.started(request.uri().path());
        let version = request.headers().get("client-api-version").map(HeaderValue::as_bytes);
        self.shared.calls.called(request.uri().path(), version);
        let checked = check_learner(request.uri().path(), &self.shared)
            .and_then(|()| check_metadata(request.headers(), &self.shared));
        let response = match checked {
            Err(status) => status.into_http(),
            Ok(()) => self.route(request).await,
        };
        started.handled(response)
    }

    async fn route(&self, request: Request<Body>) -> Response<Body> {
        let service = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
        let through_a_client = matches!(service, "v3lockpb.Lock" | "v3electionpb.Election");
        let answered = match service {
            "etcdserverpb.KV" => self.kv.clone().call(request).await,
            "etcdserverpb.Watch" => {
                return match request.uri().path() {
                    "/etcdserverpb.Watch/Watch" => self.watch.clone().call(request).await,
                    path => unknown(path).into_http(),
                };
            }
            "etcdserverpb.Lease" => self.lease.clone().call(request).await,
            "etcdserverpb.Cluster" => self.cluster.clone().call(request).await,
            "etcdserverpb.Maintenance" => self.maintenance.clone().call(request).await,
            "etcdserverpb.Auth" => self.auth.clone().call(request).await,
            "v3lockpb.Lock" => self.lock.clone().call(request).await,
            "v3electionpb.Election" => self.election.clone().call(request).await,
            "grpc.health.v1.Health" => self.health.clone().call(request).await,
            _ => return unknown(request.uri().path()).into_http(),
        };
        match answered {
            Ok(response) if through_a_client => as_of_a_client(response),
            Ok(response) => in_etcds_words(response),
            Err(never) => match never {},
        }
    }
}

fn unknown(path: &str) -> Status {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    match KNOWN_SERVICES.contains(&service) {
        true => Status::unimplemented(format!("unknown method {method} for service {service}")),
        false => Status::unimplemented(format!("unknown service {service}")),
    }
}

const KNOWN_SERVICES: [&str; 9] = [
    "etcdserverpb.KV",
    "etcdserverpb.Watch",
    "etcdserverpb.Lease",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Auth",
    "v3lockpb.Lock",
    "v3electionpb.Election",
    "grpc.health.v1.Health",
];

/// The transport has words of its own for a message that is too long, and for a method that it does not
/// know.
fn in_etcds_words(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers();
    let Some(code) = headers.get("grpc-status") else { return response };
    let text = headers.get("grpc-message").and_then(|text| text.to_str().ok()).unwrap_or_default();
    if code == "11" && text.starts_with("Error,%20decoded%20message%20length%20too%20large") {
        let text = text.replace("%20", " ");
        let numbers: Vec<&str> = text.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty()).collect();
        let (found, limit) = (numbers.first().copied().unwrap_or("0"), numbers.last().copied().unwrap_or("0"));
        let told = format!("grpc: received message larger than max ({found} vs. {limit})");
        response = Status::resource_exhausted(told).into_http();
    }
    response
}

/// etcd's own locks and elections are made through a client within it, whose errors have lost their
/// codes.
fn as_of_a_client(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    if headers.get("grpc-message").is_some_and(|text| text.as_bytes().starts_with(b"etcdserver:")) {
        headers.insert("grpc-status", HeaderValue::from_static("2"));
    }
    response
}

/// What a learner answers. Of ranges only the serializable ones: [`Shared::range`] sees which are.
const FOR_LEARNERS: [&str; 3] =
    ["/etcdserverpb.KV/Range", "/etcdserverpb.Maintenance/Status", "/etcdserverpb.Maintenance/Snapshot"];

/// Clients are not to use a learner, and whatever they call tells them so; an unknown method is just unknown.
fn check_learner(path: &str, shared: &Shared) -> Result<(), Status> {
    match calls::method(path).is_some() && !FOR_LEARNERS.contains(&path) && shared.is_learner() {
        true => Err(status::NOT_SUPPORTED_FOR_LEARNER.into()),
        false => Ok(()),
    }
}

/// What every call's metadata must satisfy.
fn check_metadata(headers: &HeaderMap, shared: &Shared) -> Result<(), Status> {
    if headers.get("client-api-version").is_some_and(|version| version.to_str().is_err()) {
        return Err(status::INVALID_CLIENT_API_VERSION.into());
    }
    let required = headers.get_all("hasleader").iter().any(|value| value == "true");
    match required && !shared.has_leader() {
        true => Err(status::NO_LEADER.into()),
        false => Ok(()),
    }
}

/// Whether the caller wants its stream to end when the journal has no leader.
fn require_leader<T>(request: &tonic::Request<T>) -> bool {
    request.metadata().get_all("hasleader").iter().any(|value| value == "true")
}

fn status_of_invalid(invalid: command::Invalid) -> Status {
    use command::Invalid;
    match invalid {
        Invalid::EmptyKey => status::KEY_NOT_PROVIDED,
        Invalid::EmptyOp => status::KEY_NOT_FOUND,
        Invalid::ValueProvided => status::VALUE_PROVIDED,
        Invalid::LeaseProvided => status::LEASE_PROVIDED,
        Invalid::TooManyOps => status::TOO_MANY_OPS,
        Invalid::DuplicateKey => status::DUPLICATE_KEY,
        Invalid::InvalidSortOption => status::INVALID_SORT_OPTION,
    }
    .into()
}

pub fn status_of_refusal(refusal: Refusal) -> Status {
    match refusal {
        Refusal::KeyNotFound => status::KEY_NOT_FOUND,
        Refusal::LeaseNotFound => status::LEASE_NOT_FOUND,
        Refusal::LeaseExists => status::LEASE_EXISTS,
        Refusal::Compacted => status::COMPACTED,
        Refusal::FutureRevision => status::FUTURE_REVISION,
        Refusal::NoSpace => status::NO_SPACE,
        Refusal::Corrupt => status::CORRUPT,
        Refusal::MemberNotFound => status::MEMBER_NOT_FOUND,
        Refusal::PeerUrlsExist => status::PEER_URL_EXISTS,
        Refusal::NotLearner => status::MEMBER_NOT_LEARNER,
        Refusal::LearnerNotReady => status::LEARNER_NOT_READY,
        Refusal::TooManyLearners => status::TOO_MANY_LEARNERS,
        Refusal::BadTransferee => status::BAD_LEADER_TRANSFEREE,
        Refusal::DowngradeInProgress => status::DOWNGRADE_IN_PROGRESS,
        Refusal::HelloOutdated | Refusal::HelloRemoved | Refusal::Misplaced => {
            return status::internal(&refusal.to_string());
        }
        Refusal::Panicked(what) => return status::internal(&what),
    }
    .into()
}

/// The answer of a reply, or its refusal in etcd's words.
fn answer_of(reply: Reply) -> Result<(Revision, Answer), Status> {
    let revision = reply.revision;
    reply.result.map(|answer| (revision, answer)).map_err(status_of_refusal)
}

/// Apply answers each command in kind.
fn unexpected(answer: &Answer) -> Status {
    status::internal(&format!("an answer of another kind: {answer:?}"))
}
