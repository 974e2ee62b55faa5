//! A cluster of scripted nodes: real gRPC over pipes in memory, and one log that all nodes share. It
//! does what nodes do, on good days and on those that a test asks for.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use journal_client::transport::Io;
use journal_client::{AppendError, Cluster, Connector, Entry, Reason, Refusal, RemoteJournal, Settings};
use parking_lot::Mutex;
use proto::journal::{self as wire, append_reply::Outcome, tail_reply};
use proto::{JournalId, Position};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tonic::{Request, Response, Status, Streaming};

pub const JOURNAL: JournalId = JournalId(7);
pub const NAME: &str = "seven";

/// The cluster. Clones are the same one.
#[derive(Clone)]
pub struct World(Arc<Inner>);

struct Inner {
    nodes: Vec<Node>,
    log: Mutex<Log>,
    /// Moves with every change of the log or of the leadership.
    changed: watch::Sender<u64>,
}

pub struct Log {
    pub entries: BTreeMap<u64, (Bytes, bool)>,
    pub start: u64,
    pub tail: u64,
    pub term: u64,
    pub leader: Option<usize>,
    pub created: Vec<String>,
    pub deleted: Vec<String>,
}

struct Node {
    address: String,
    network: watch::Sender<Network>,
    incoming: mpsc::Sender<DuplexStream>,
    script: Mutex<Script>,
    counts: Counts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    Up,
    /// Nothing connects, and what was connected is cut.
    Down,
    /// Bytes are swallowed.
    Frozen,
    /// Everything is cut once; then up.
    Cut(u64),
}

/// What a node does differently from a good one.
#[derive(Default)]
pub struct Script {
    /// For the next messages with entries, in order.
    pub appends: VecDeque<OnAppend>,
    /// Says that this one leads.
    pub hint: Option<String>,
    /// Believes that it leads, whatever the others think: the term it leads.
    pub deposed: Option<u64>,
    /// Answers no CheckTail for as long as this is set.
    pub hold_checks: bool,
    /// Answers CheckTail with this.
    pub false_tail: Option<u64>,
    /// What it serves to the next readers, once, before it goes on as a good node would.
    pub tails: VecDeque<OnTail>,
    /// What it does with the next calls of the catalogue.
    pub catalogue: VecDeque<OnCall>,
    pub inflight_bytes_max: Option<u64>,
    pub entry_bytes_max: Option<u64>,
    /// The terms that it led and moved away from, and to whom.
    moved: BTreeMap<u64, usize>,
}

#[derive(Debug, Clone)]
pub enum OnAppend {
    /// Takes the first `commit` entries and rejects the rest.
    Reject { commit: usize, reason: Reason },
    /// Takes them, and loses the connection before it answers.
    TakeAndCut,
    /// Loses the connection before it has taken anything.
    Cut,
    /// Takes them, and says that it does not know.
    TakeAndSayUnknown,
    /// Never answers, and takes nothing.
    Hang,
    /// Takes them only after this long.
    Delay(Duration),
    /// Answers for more entries than there are.
    Overanswer,
    /// Moves the leadership to that node, having taken the first `commit` entries.
    Move { commit: usize, to: usize },
}

#[derive(Debug, Clone)]
pub enum OnTail {
    Say(wire::TailReply),
    Behind,
    /// Serves nothing, and stays silent.
    Silence,
    /// Serves that many runs, one entry each, and ends the stream.
    EndAfter(usize),
}

#[derive(Debug, Clone, Copy)]
pub enum OnCall {
    /// Does what is asked, and loses the connection before it answers.
    DoAndCut,
}

#[derive(Default)]
pub struct Counts {
    pub append_streams: AtomicUsize,
    pub open_streams: AtomicUsize,
    pub messages: AtomicUsize,
    pub entries: AtomicUsize,
    pub largest_message: AtomicUsize,
    pub most_unanswered: AtomicUsize,
    pub checks: AtomicUsize,
    pub tails: AtomicUsize,
    pub tail_bytes: AtomicUsize,
}

fn add(count: &AtomicUsize, n: usize) -> usize {
    count.fetch_add(n, Ordering::SeqCst) + n
}

pub fn read(count: &AtomicUsize) -> usize {
    count.load(Ordering::SeqCst)
}

impl World {
    /// Nodes that are up; the first one leads term 1.
    pub fn new(nodes: usize) -> World {
        let mut listeners = Vec::new();
        let nodes = (0..nodes).map(|number| {
            let (incoming, accepted) = mpsc::channel(64);
            listeners.push(accepted);
            Node {
                address: format!("node-{number}:1"),
                network: watch::Sender::new(Network::Up),
                incoming,
                script: Mutex::default(),
                counts: Counts::default(),
            }
        });
        let world = World(Arc::new(Inner {
            nodes: nodes.collect(),
            log: Mutex::new(Log {
                entries: BTreeMap::new(),
                start: 1,
                tail: 2,
                term: 1,
                leader: Some(0),
                created: vec![NAME.into()],
                deleted: vec![],
            }),
            changed: watch::Sender::new(0),
        }));
        for (number, accepted) in listeners.into_iter().enumerate() {
            let service = Service { world: world.clone(), number };
            let incoming = stream::unfold(accepted, |mut accepted| async {
                accepted.recv().await.map(|io| (Ok::<_, io::Error>(io), accepted))
            });
            let server = tonic::transport::Server::builder()
                .add_service(
                    wire::journal_server::JournalServer::new(service.clone()).max_decoding_message_size(8 << 20),
                )
                .add_service(wire::catalogue_server::CatalogueServer::new(service));
            tokio::spawn(server.serve_with_incoming(incoming));
        }
        world
    }

    pub fn cluster(&self, settings: Settings) -> Cluster {
        let endpoints = self.0.nodes.iter().map(|node| node.address.clone());
        Cluster::new(endpoints, Arc::new(self.clone()), settings).unwrap()
    }

    pub fn journal(&self) -> RemoteJournal {
        self.journal_with(quick())
    }

    pub fn journal_with(&self, settings: Settings) -> RemoteJournal {
        self.cluster(settings).journal_with_id(JOURNAL)
    }

    pub fn address(&self, node: usize) -> String {
        self.0.nodes[node].address.clone()
    }

    pub fn script<T>(&self, node: usize, edit: impl FnOnce(&mut Script) -> T) -> T {
        let edited = edit(&mut self.0.nodes[node].script.lock());
        self.wake();
        edited
    }

    pub fn on_append(&self, node: usize, steps: impl IntoIterator<Item = OnAppend>) {
        self.script(node, |script| script.appends.extend(steps));
    }

    pub fn counts(&self, node: usize) -> &Counts {
        &self.0.nodes[node].counts
    }

    pub fn look<T>(&self, look: impl FnOnce(&Log) -> T) -> T {
        look(&self.0.log.lock())
    }

    pub fn change<T>(&self, edit: impl FnOnce(&mut Log) -> T) -> T {
        let edited = edit(&mut self.0.log.lock());
        self.wake();
        edited
    }

    /// Puts an entry into the journal, past all nodes.
    pub fn write(&self, text: &str) {
        self.change(|log| {
            log.entries.insert(log.tail, (Bytes::copy_from_slice(text.as_bytes()), false));
            log.tail += 1;
        });
    }

    /// Everything in the journal, as text.
    pub fn texts(&self) -> Vec<String> {
        let text = |(payload, _): &(Bytes, bool)| String::from_utf8(payload.to_vec()).unwrap();
        self.look(|log| log.entries.values().map(text).collect())
    }

    /// A new leader, or none, in a new term, whose first position holds no entry.
    pub fn elect(&self, leader: Option<usize>) {
        self.change(|log| {
            log.leader = leader;
            log.term += 1;
            log.tail += 1;
        });
    }

    pub fn kill(&self, node: usize) {
        self.0.nodes[node].network.send_replace(Network::Down);
    }

    pub fn revive(&self, node: usize) {
        self.0.nodes[node].network.send_replace(Network::Up);
    }

    pub fn freeze(&self, node: usize) {
        self.0.nodes[node].network.send_replace(Network::Frozen);
    }

    /// Breaks every connection to the node, which stays up.
    pub fn cut(&self, node: usize) {
        self.0.nodes[node].network.send_modify(|network| {
            *network = match *network {
                Network::Cut(n) => Network::Cut(n + 1),
                _ => Network::Cut(0),
            }
        });
    }

    /// Returns once that is true of the cluster.
    pub async fn until(&self, mut is_true: impl FnMut(&World) -> bool) {
        let waiting = async {
            while !is_true(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it never came true");
    }

    fn wake(&self) {
        self.0.changed.send_modify(|n| *n += 1);
    }
}

/// Settings for tests: patient enough for a busy machine, and not for more.
pub fn quick() -> Settings {
    Settings { patience: Duration::from_secs(5), ..Settings::default() }
}

pub fn impatient(patience: Duration) -> Settings {
    Settings { patience, ..quick() }
}

pub fn entry(text: impl Into<String>) -> Entry {
    Entry::new(text.into())
}

#[track_caller]
pub fn assert_unknown(outcome: &Result<Position, AppendError>) {
    assert!(matches!(outcome, Err(AppendError::Unknown(_))), "unknown was expected: {outcome:?}");
}

#[track_caller]
pub fn assert_rejected(outcome: &Result<Position, AppendError>, reason: Reason) {
    match outcome {
        Err(AppendError::Rejected(refusal)) if refusal.reason == reason => {}
        other => panic!("{reason:?} was expected: {other:?}"),
    }
}

// ---- the network ---------------------------------------------------------------------------

#[async_trait]
impl Connector for World {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Io>> {
        let node = self.0.nodes.iter().find(|node| node.address == address);
        let refused = || io::Error::new(io::ErrorKind::ConnectionRefused, "refused");
        let node = node.ok_or_else(refused)?;
        let mut network = node.network.subscribe();
        let now = *network.borrow_and_update();
        match now {
            Network::Down => return Err(refused()),
            Network::Frozen => std::future::pending::<()>().await,
            Network::Up | Network::Cut(_) => {}
        }
        let (client, mut outer) = tokio::io::duplex(64 << 10);
        let (mut inner, server) = tokio::io::duplex(64 << 10);
        node.incoming.send(server).await.map_err(|_| refused())?;
        tokio::spawn(async move {
            let changed = tokio::select! {
                biased;
                _ = tokio::io::copy_bidirectional(&mut outer, &mut inner) => false,
                changed = network.changed() => changed.is_ok(),
            };
            if changed && *network.borrow() == Network::Frozen {
                let _ = network.wait_for(|network| *network != Network::Frozen).await;
            }
        });
        Ok(Box::new(client))
    }
}

// ---- a node --------------------------------------------------------------------------------

#[derive(Clone)]
struct Service {
    world: World,
    number: usize,
}

impl Service {
    fn node(&self) -> &Node {
        &self.world.0.nodes[self.number]
    }

    fn script<T>(&self, edit: impl FnOnce(&mut Script) -> T) -> T {
        edit(&mut self.node().script.lock())
    }

    /// The term that this node leads, or why it does not.
    fn leads(&self) -> Result<u64, Refusal> {
        if let Some(term) = self.script(|script| script.deposed) {
            return Ok(term);
        }
        let (leader, term) = self.world.look(|log| (log.leader, log.term));
        if leader == Some(self.number) {
            return Ok(term);
        }
        let hint = self.script(|script| script.hint.clone());
        let hint = hint.or(leader.map(|leader| self.world.address(leader)));
        Err(Refusal::new(Reason::NotLeader, "not the leader").with_leader(hint))
    }

    fn moved(&self, term: u64) -> Option<Refusal> {
        let to = self.script(|script| script.moved.get(&term).copied())?;
        let to = self.world.address(to);
        Some(Refusal::new(Reason::Moved, "moving").with_leader(Some(to)))
    }

    fn exists(&self, id: u64) -> Result<(), Status> {
        match id == JOURNAL.0 {
            true => Ok(()),
            false => Err(Refusal::new(Reason::NoSuchJournal, format!("no journal {id}")).into()),
        }
    }

    fn entry_bytes_max(&self) -> u64 {
        self.script(|script| script.entry_bytes_max).unwrap_or(4 << 20)
    }

    fn commit(&self, entries: Vec<wire::Entry>) -> wire::Committed {
        self.world.change(|log| {
            let first = log.tail;
            for entry in entries {
                log.entries.insert(log.tail, (entry.payload, entry.urgent));
                log.tail += 1;
            }
            wire::Committed { first, last: log.tail - 1 }
        })
    }
}

/// The way out of an append stream.
enum Done {
    /// With that last word.
    Ended(Refusal),
    Broken,
}

struct Session {
    service: Service,
    term: u64,
    replies: mpsc::Sender<Result<wire::AppendReply, Status>>,
    unanswered: usize,
}

impl Session {
    async fn run(mut self, mut requests: Streaming<wire::AppendRequest>) {
        let counts = self.service.node();
        add(&counts.counts.open_streams, 1);
        let service = self.service.clone();
        let mut changed = service.world.0.changed.subscribe();
        let done = loop {
            if let Some(moved) = service.moved(self.term) {
                break Done::Ended(moved);
            }
            if service.leads() != Ok(self.term) {
                let refusal = service.leads().err();
                let refusal = refusal.unwrap_or(Refusal::new(Reason::NotLeader, "another term"));
                break Done::Ended(refusal);
            }
            let request = tokio::select! {
                biased;
                changed = changed.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => break Done::Broken,
                },
                request = requests.message() => request,
            };
            match request {
                Ok(Some(request)) if request.entries.is_empty() => {}
                Ok(Some(request)) => {
                    if let Err(done) = self.on_entries(request.entries).await {
                        break done;
                    }
                }
                Ok(None) | Err(_) => break Done::Broken,
            }
        };
        if let Done::Ended(refusal) = done {
            self.reply(Outcome::Rejected(wire::Rejected { count: 0, why: Some(refusal.into()) })).await;
        }
        service.node().counts.open_streams.fetch_sub(1, Ordering::SeqCst);
    }

    async fn on_entries(&mut self, mut entries: Vec<wire::Entry>) -> Result<(), Done> {
        let service = self.service.clone();
        let counts = &service.node().counts;
        add(&counts.messages, 1);
        add(&counts.entries, entries.len());
        let bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
        counts.largest_message.fetch_max(bytes, Ordering::SeqCst);
        self.unanswered += bytes;
        counts.most_unanswered.fetch_max(self.unanswered, Ordering::SeqCst);
        let step = service.script(|script| script.appends.pop_front());
        match step {
            None => {}
            Some(OnAppend::Delay(delay)) => tokio::time::sleep(delay).await,
            Some(OnAppend::Cut) => return Err(self.cut()),
            Some(OnAppend::Hang) => std::future::pending::<()>().await,
            Some(OnAppend::TakeAndCut) => {
                service.commit(entries);
                return Err(self.cut());
            }
            Some(OnAppend::TakeAndSayUnknown) => {
                let count = entries.len() as u64;
                service.commit(entries);
                self.reply(Outcome::Unknown(wire::Unknown { count, why: "a test".into() })).await;
                return Err(Done::Ended(Refusal::new(Reason::ShuttingDown, "a test")));
            }
            Some(OnAppend::Overanswer) => {
                let mut committed = service.commit(entries);
                committed.last += 1;
                self.reply(Outcome::Committed(committed)).await;
                return Ok(());
            }
            Some(OnAppend::Reject { commit, reason }) => {
                let rest = entries.split_off(commit.min(entries.len()));
                self.answer(entries).await;
                return self.reject(rest.len(), Refusal::new(reason, "a test")).await;
            }
            Some(OnAppend::Move { commit, to }) => {
                let rest = entries.split_off(commit.min(entries.len()));
                self.answer(entries).await;
                service.script(|script| script.moved.insert(self.term, to));
                service.world.change(|log| log.leader = None);
                // It takes a moment until the next leader is one.
                let world = service.world.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(3)).await;
                    world.elect(Some(to));
                });
                let why = service.moved(self.term).expect("it was just noted");
                return self.reject(rest.len(), why).await;
            }
        }
        let max = service.entry_bytes_max();
        let bad = entries
            .iter()
            .position(|entry| entry.payload.len() as u64 > max || crc32fast::hash(&entry.payload) != entry.crc);
        let Some(bad) = bad else {
            self.answer(entries).await;
            return Ok(());
        };
        let too_large = entries[bad].payload.len() as u64 > max;
        let reason = if too_large { Reason::TooLarge } else { Reason::BadChecksum };
        let rest = entries.split_off(bad);
        self.answer(entries).await;
        self.reject(rest.len(), Refusal::new(reason, "bad")).await
    }

    async fn answer(&mut self, entries: Vec<wire::Entry>) {
        if entries.is_empty() {
            return;
        }
        self.unanswered -= entries.iter().map(|entry| entry.payload.len()).sum::<usize>();
        let committed = self.service.commit(entries);
        self.reply(Outcome::Committed(committed)).await;
    }

    async fn reject(&mut self, count: usize, why: Refusal) -> Result<(), Done> {
        let rejected = wire::Rejected { count: count as u64, why: Some(why.clone().into()) };
        self.reply(Outcome::Rejected(rejected)).await;
        Err(Done::Ended(why))
    }

    async fn reply(&self, outcome: Outcome) {
        let reply = wire::AppendReply { term: self.term, outcome: Some(outcome) };
        let _ = self.replies.send(Ok(reply)).await;
    }

    fn cut(&self) -> Done {
        self.service.world.cut(self.service.number);
        Done::Broken
    }
}

#[tonic::async_trait]
impl wire::journal_server::Journal for Service {
    type AppendStream = BoxStream<'static, Result<wire::AppendReply, Status>>;
    type TailStream = BoxStream<'static, Result<wire::TailReply, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<wire::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.expect("the first message names the journal");
        self.exists(first.journal_id)?;
        assert!(first.entries.is_empty(), "entries before the stream is open");
        let term = self.leads()?;
        add(&self.node().counts.append_streams, 1);
        let (replies, out) = mpsc::channel(16);
        let opened = wire::Opened {
            entry_bytes_max: self.entry_bytes_max(),
            inflight_bytes_max: self.script(|s| s.inflight_bytes_max).unwrap_or(4 << 20),
        };
        let session = Session { service: self.clone(), term, replies, unanswered: 0 };
        session.reply(Outcome::Opened(opened)).await;
        tokio::spawn(session.run(requests));
        Ok(Response::new(tokio_stream::wrappers::ReceiverStream::new(out).boxed()))
    }

    async fn tail(&self, request: Request<wire::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let request = request.into_inner();
        self.exists(request.journal_id)?;
        add(&self.node().counts.tails, 1);
        let steps: VecDeque<_> = self.script(|script| script.tails.drain(..1.min(script.tails.len())).collect());
        let reader = Reader {
            service: self.clone(),
            changed: self.world.0.changed.subscribe(),
            next: request.from,
            steps,
            runs_left: None,
            ended: false,
        };
        Ok(Response::new(stream::unfold(reader, Reader::next).boxed()))
    }

    async fn check_tail(
        &self,
        request: Request<wire::CheckTailRequest>,
    ) -> Result<Response<wire::CheckTailReply>, Status> {
        self.exists(request.into_inner().journal_id)?;
        let term = self.leads()?;
        add(&self.node().counts.checks, 1);
        let reply = self.world.look(|log| wire::CheckTailReply { tail: log.tail, start: log.start, term });
        while self.script(|script| script.hold_checks) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let false_tail = self.script(|script| script.false_tail);
        Ok(Response::new(wire::CheckTailReply { tail: false_tail.unwrap_or(reply.tail), ..reply }))
    }

    async fn trim(&self, request: Request<wire::TrimRequest>) -> Result<Response<wire::TrimReply>, Status> {
        let request = request.into_inner();
        self.exists(request.journal_id)?;
        self.leads()?;
        let start = self.world.change(|log| {
            if request.before > log.tail {
                return Err(Refusal::new(Reason::Invalid, "above the tail"));
            }
            log.start = log.start.max(request.before);
            log.entries = log.entries.split_off(&log.start);
            Ok(log.start)
        });
        Ok(Response::new(wire::TrimReply { start: start? }))
    }

    async fn describe(&self, request: Request<wire::DescribeRequest>) -> Result<Response<wire::DescribeReply>, Status> {
        use wire::describe_request::Which;
        match request.into_inner().which {
            Some(Which::Id(id)) => self.exists(id)?,
            Some(Which::Name(name)) => {
                if !self.world.look(|log| log.created.contains(&name)) {
                    return Err(Refusal::new(Reason::NoSuchJournal, name).into());
                }
            }
            None => return Err(Status::invalid_argument("which?")),
        }
        let address =
            |number: usize| wire::NodeAddress { node_id: number as u64 + 1, address: self.world.address(number) };
        let deposed = self.script(|script| script.deposed);
        let hint = self.script(|script| script.hint.clone());
        let (start, tail, term, leader) = self.world.look(|log| (log.start, log.tail, log.term, log.leader));
        let leader = deposed.map(|_| self.number).or(leader).map(address);
        let hinted = hint.map(|address| wire::NodeAddress { node_id: 99, address });
        Ok(Response::new(wire::DescribeReply {
            journal: Some(info(NAME, 2)),
            start,
            tail,
            term: deposed.unwrap_or(term),
            leader: hinted.or(leader),
            cluster_id: "scripted".into(),
            nodes: (0..self.world.0.nodes.len()).map(address).collect(),
            entry_bytes_max: self.entry_bytes_max(),
            disk_bytes: 0,
        }))
    }
}

fn info(name: &str, policy: i32) -> wire::JournalInfo {
    wire::JournalInfo { id: JOURNAL.0, name: name.into(), policy, quota_bytes: 0 }
}

struct Reader {
    service: Service,
    changed: watch::Receiver<u64>,
    next: u64,
    steps: VecDeque<OnTail>,
    runs_left: Option<usize>,
    ended: bool,
}

impl Reader {
    async fn next(mut self) -> Option<(Result<wire::TailReply, Status>, Reader)> {
        if self.ended || self.runs_left == Some(0) {
            return None;
        }
        match self.steps.pop_front() {
            None => {}
            Some(OnTail::Say(reply)) => return self.say(reply),
            Some(OnTail::Silence) => std::future::pending::<()>().await,
            Some(OnTail::EndAfter(runs)) => self.runs_left = Some(runs),
            Some(OnTail::Behind) => {
                self.ended = true;
                let behind = wire::Behind { holds_from: self.next + 1 };
                return self.say(wire::TailReply { kind: Some(tail_reply::Kind::Behind(behind)) });
            }
        }
        loop {
            self.changed.borrow_and_update();
            let one_by_one = self.runs_left.is_some();
            let kind = self.service.world.look(|log| run(log, self.next, one_by_one));
            if let Some(kind) = kind {
                match &kind {
                    tail_reply::Kind::Run(run) => {
                        self.next = run.to;
                        let bytes = run.entries.iter().map(|entry| entry.payload.len()).sum();
                        add(&self.service.node().counts.tail_bytes, bytes);
                    }
                    _ => self.ended = true,
                }
                self.runs_left = self.runs_left.map(|runs| runs - 1);
                return self.say(wire::TailReply { kind: Some(kind) });
            }
            self.changed.changed().await.ok()?;
        }
    }

    fn say(self, reply: wire::TailReply) -> Option<(Result<wire::TailReply, Status>, Reader)> {
        Some((Ok(reply), self))
    }
}

fn run(log: &Log, from: u64, one: bool) -> Option<tail_reply::Kind> {
    if from < log.start {
        return Some(tail_reply::Kind::Gap(wire::Gap { start: log.start }));
    }
    if from >= log.tail {
        return None;
    }
    let mut entries = Vec::new();
    let mut to = log.tail;
    let mut bytes = 0;
    for (&position, (payload, _)) in log.entries.range(from..) {
        if !entries.is_empty() && (one || bytes + payload.len() > 1 << 20) {
            to = position;
            break;
        }
        bytes += payload.len();
        let crc = crc32fast::hash(payload);
        entries.push(wire::TailEntry { position, payload: payload.clone(), crc });
    }
    let run = wire::TailRun { from, to, entries, watermark: log.tail, term: log.term };
    Some(tail_reply::Kind::Run(run))
}

#[tonic::async_trait]
impl wire::catalogue_server::Catalogue for Service {
    async fn create(&self, request: Request<wire::CreateRequest>) -> Result<Response<wire::CreateReply>, Status> {
        self.leads()?;
        let request = request.into_inner();
        let created = self.world.change(|log| {
            let new = !log.created.contains(&request.name);
            if new {
                log.created.push(request.name.clone());
            }
            new
        });
        self.after_call()?;
        let journal = Some(info(&request.name, request.policy));
        Ok(Response::new(wire::CreateReply { journal, created }))
    }

    async fn delete(&self, request: Request<wire::DeleteRequest>) -> Result<Response<wire::DeleteReply>, Status> {
        self.leads()?;
        self.world.change(|log| log.deleted.push(request.into_inner().name));
        self.after_call()?;
        Ok(Response::new(wire::DeleteReply {}))
    }

    async fn list(&self, _: Request<wire::ListRequest>) -> Result<Response<wire::ListReply>, Status> {
        let journals = self.world.look(|log| log.created.iter().map(|name| info(name, 1)).collect());
        Ok(Response::new(wire::ListReply { journals }))
    }

    async fn set_quota(&self, _: Request<wire::SetQuotaRequest>) -> Result<Response<wire::SetQuotaReply>, Status> {
        self.leads()?;
        Err(Status::data_loss("this is no refusal"))
    }
}

impl Service {
    fn after_call(&self) -> Result<(), Status> {
        match self.script(|script| script.catalogue.pop_front()) {
            None => Ok(()),
            Some(OnCall::DoAndCut) => {
                self.world.cut(self.number);
                Err(Status::unknown("nobody hears this"))
            }
        }
    }
}
