//! The loop: one thread, all connections, closed or open.
//!
//! In a closed loop every client waits for its answer before it goes on. In an open one operations
//! are due at fixed times whatever became of those before; latency counts from the time at which one
//! was due, so that what a stall costs those who come behind it is not omitted.

use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use mio::{Events, Interest, Poll, Token, Waker};
use prost::Message;
use proto::etcd::WatchResponse;

use super::connection::{Connection, Happened};
use super::plan::Plan;
use super::profile::{self, Kind, Profile, Work};
use super::report::{Outcome, Tally};

const FILL_CLIENTS: usize = 256;
/// An answer that takes longer ends the run.
const PATIENCE: Duration = Duration::from_secs(20);
/// In an open loop, how often it is looked what is due.
const PACE: Duration = Duration::from_micros(250);
const WAKER: Token = Token(usize::MAX);
/// Of so many messages with events, one is looked into for its latency.
const LOOK_INTO: u64 = 16;
/// Calls of watchers have numbers from here on.
const WATCHES: u64 = 1 << 32;

pub fn run(plan: &Plan) -> anyhow::Result<Outcome> {
    let mut work = Work::new(plan.profile, plan.clients, plan.keys, plan.value_bytes, plan.seed);
    if plan.profile.reads() || plan.profile == Profile::Nodes {
        let filling = Plan { connections: plan.connections.min(8), ..plan.clone() };
        Driver::open(&filling, FILL_CLIENTS)?.fill(&mut work)?;
    }
    Driver::open(plan, plan.clients)?.load(&mut work, plan)
}

struct Driver {
    poll: Poll,
    connections: Vec<Connection>,
    /// So many of them carry calls; those behind them carry watches.
    unary: usize,
    /// Has something to write.
    dirty: Vec<bool>,
    /// The socket takes no more: it will say when it does.
    full: Vec<bool>,
    calls: Vec<Call>,
    origin: Instant,
    request: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Call {
    kind: Kind,
    due: Instant,
}

impl Driver {
    fn open(plan: &Plan, clients: usize) -> anyhow::Result<Driver> {
        let addresses = plan.endpoints.iter().map(|text| resolve(text)).collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(!addresses.is_empty(), "no endpoint is named");
        let poll = Poll::new()?;
        let mut connections = Vec::new();
        for number in 0..plan.connections.max(1) {
            let (address, authority) = &addresses[number % addresses.len()];
            connections.push(Connection::open(*address, authority)?);
        }
        let mut driver = Driver {
            poll,
            unary: connections.len(),
            dirty: vec![true; connections.len()],
            full: vec![false; connections.len()],
            connections,
            calls: vec![Call { kind: Kind::Put, due: Instant::now() }; clients],
            origin: Instant::now(),
            request: Vec::new(),
        };
        for number in 0..driver.connections.len() {
            driver.register(number)?;
        }
        Ok(driver)
    }

    fn register(&mut self, number: usize) -> anyhow::Result<()> {
        let both = Interest::READABLE.add(Interest::WRITABLE);
        self.poll.registry().register(&mut self.connections[number].socket, Token(number), both)?;
        Ok(())
    }

    /// Puts all keys, in order.
    fn fill(&mut self, work: &mut Work) -> anyhow::Result<()> {
        let count = work.keys();
        let (mut next, mut done) = (0, 0);
        let mut free: Vec<usize> = (0..self.calls.len()).rev().collect();
        let mut events = Events::with_capacity(256);
        let mut last_answer = Instant::now();
        while done < count {
            while next < count
                && let Some(client) = free.pop()
            {
                let op = work.fill(next, &mut self.request);
                self.send(client, op.kind, op.path, Instant::now())?;
                next += 1;
            }
            self.flush()?;
            self.poll.poll(&mut events, Some(Duration::from_secs(1)))?;
            let mut trouble = None;
            self.take(&events, |call, happened| match happened {
                Happened::Answered { .. } => {
                    done += 1;
                    free.push(call as usize);
                }
                Happened::Failed { why, .. } => trouble = Some(why.to_owned()),
                Happened::Message { .. } => {}
            })?;
            if let Some(why) = trouble {
                bail!("cannot put the keys that are to be read: {why}");
            }
            if !events.is_empty() {
                last_answer = Instant::now();
            }
            ensure!(last_answer.elapsed() < PATIENCE, "no answer to puts for {PATIENCE:?}");
        }
        Ok(())
    }

    fn load(&mut self, work: &mut Work, plan: &Plan) -> anyhow::Result<Outcome> {
        let watchers = if plan.profile == Profile::Watch { plan.watchers } else { 0 };
        self.watch(work, plan, watchers)?;
        let begun = Instant::now();
        let (from, upto) = (begun + plan.warm_up, begun + plan.warm_up + plan.length);
        let mut tally = Tally::new(plan, from, upto);
        let pacer = plan.rate.map(|rate| Pacer::start(&self.poll, rate, begun)).transpose()?;
        let mut late: VecDeque<Instant> = VecDeque::new();
        let mut free: VecDeque<usize> = (0..self.calls.len()).collect();
        let mut events = Events::with_capacity(1024);
        let mut answered = Vec::new();
        // When the put of each stamp was answered, for those who ask when its events came.
        let mut stamps = vec![0; self.calls.len()];
        let mut answers: HashMap<u64, Instant> = HashMap::new();
        let mut last_answer = begun;
        let mut sent = 0u64;
        loop {
            let now = Instant::now();
            tally.tick(now);
            if now >= upto || plan.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                break;
            }
            // What is to be begun now.
            if let Some(pacer) = &pacer {
                while let Some(due) = pacer.due(sent, now) {
                    late.push_back(due);
                    sent += 1;
                }
                ensure!(late.len() < 10_000_000, "the servers fall behind for ever: lower the rate");
            }
            while let Some(client) = free.front().copied() {
                let due = match plan.rate {
                    None => now,
                    Some(_) => match late.pop_front() {
                        Some(due) => due,
                        None => break,
                    },
                };
                free.pop_front();
                // Those that are sent together differ in it, too.
                let stamp = now.duration_since(self.origin).as_nanos() as u64 + client as u64;
                stamps[client] = stamp;
                let op = work.next(client, stamp, &mut self.request);
                self.send(client, op.kind, op.path, due)?;
            }
            self.flush()?;
            self.poll.poll(&mut events, Some(Duration::from_millis(100)))?;
            let now = Instant::now();
            let origin = self.origin;
            self.take(&events, |call, happened| match happened {
                Happened::Answered { head, .. } => {
                    let wrong = work.answered(call as usize, head).err();
                    answered.push((call as usize, wrong.map(str::to_owned)));
                }
                Happened::Failed { status, why, .. } if call < WATCHES => {
                    work.failed(call as usize);
                    answered.push((call as usize, Some(format!("status {status}: {why}"))));
                }
                Happened::Failed { why, .. } => tally.watch_ended(why),
                Happened::Message { message, .. } => {
                    let look = tally.take_events(profile::events(message), now, LOOK_INTO);
                    if look {
                        each_stamp(message, |stamp| {
                            let sent = origin + Duration::from_nanos(stamp);
                            let after_answer = answers.get(&stamp).map_or(Duration::ZERO, |at| now.duration_since(*at));
                            tally.event_latency(now.saturating_duration_since(sent), after_answer);
                        });
                    }
                }
            })?;
            for (client, wrong) in answered.drain(..) {
                last_answer = now;
                if watchers > 0 {
                    answers.insert(stamps[client], now);
                }
                let Call { kind, due } = self.calls[client];
                tally.count(kind, now, now.duration_since(due), wrong);
                free.push_back(client);
            }
            let waits = free.len() < self.calls.len();
            ensure!(!waits || last_answer.elapsed() < PATIENCE, "no answer for {PATIENCE:?}");
        }
        drop(pacer);
        Ok(tally.finish(plan))
    }

    /// Opens the watchers' streams, on connections of their own.
    fn watch(&mut self, work: &Work, plan: &Plan, watchers: usize) -> anyhow::Result<()> {
        if watchers == 0 {
            return Ok(());
        }
        let first = self.connections.len();
        let count = watchers.div_ceil(25);
        for number in 0..count {
            let (address, authority) = resolve(&plan.endpoints[number % plan.endpoints.len()])?;
            self.connections.push(Connection::open(address, &authority)?);
            self.dirty.push(true);
            self.full.push(false);
            self.register(first + number)?;
        }
        work.watch(&mut self.request);
        for watcher in 0..watchers {
            let number = first + watcher % count;
            self.connections[number].call(WATCHES + watcher as u64, profile::WATCH, &self.request, true)?;
        }
        self.flush()?;
        // Everybody must have heard that it watches.
        let mut events = Events::with_capacity(256);
        let (mut created, begun) = (0, Instant::now());
        while created < watchers {
            self.poll.poll(&mut events, Some(Duration::from_millis(100)))?;
            let mut trouble = None;
            self.take(&events, |_, happened| match happened {
                Happened::Message { .. } => created += 1,
                Happened::Failed { why, .. } => trouble = Some(why.to_owned()),
                Happened::Answered { .. } => {}
            })?;
            self.flush()?;
            if let Some(why) = trouble {
                bail!("cannot watch: {why}");
            }
            ensure!(begun.elapsed() < PATIENCE, "only {created} of {watchers} watches were created");
        }
        Ok(())
    }

    fn send(&mut self, client: usize, kind: Kind, path: &'static str, due: Instant) -> anyhow::Result<()> {
        self.calls[client] = Call { kind, due };
        let number = client % self.unary;
        self.dirty[number] = true;
        self.connections[number].call(client as u64, path, &self.request, false)
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        for number in 0..self.connections.len() {
            if self.dirty[number] && !self.full[number] {
                let done = self.connections[number].flush().context("the connection has failed")?;
                self.full[number] = !done;
                self.dirty[number] = !done;
            }
        }
        Ok(())
    }

    fn take(&mut self, events: &Events, mut tell: impl FnMut(u64, Happened<'_>)) -> anyhow::Result<()> {
        for event in events.iter().filter(|event| event.token() != WAKER) {
            let Token(number) = event.token();
            if event.is_writable() {
                self.full[number] = false;
            }
            if event.is_readable() || event.is_error() || event.is_read_closed() {
                self.connections[number].read(|happened| {
                    let call = match &happened {
                        Happened::Answered { call, .. }
                        | Happened::Message { call, .. }
                        | Happened::Failed { call, .. } => *call,
                    };
                    tell(call, happened);
                })?;
                // Acknowledgements and windows leave too.
                self.dirty[number] = true;
            }
        }
        Ok(())
    }
}

fn resolve(endpoint: &str) -> anyhow::Result<(SocketAddr, String)> {
    ensure!(!endpoint.starts_with("https:"), "{endpoint}: the load client speaks plaintext only");
    let authority = endpoint.trim_start_matches("http://").trim_end_matches('/');
    let address = authority.to_socket_addrs().with_context(|| format!("`{endpoint}` is no host:port"))?.next();
    Ok((address.with_context(|| format!("`{endpoint}` has no address"))?, authority.to_owned()))
}

/// The times in the values of the events of a response.
fn each_stamp(message: &[u8], mut tell: impl FnMut(u64)) {
    let Ok(response) = WatchResponse::decode(message) else { return };
    for event in response.events {
        let value = event.kv.map(|kv| kv.value).unwrap_or_default();
        if let Some(stamp) = value.first_chunk::<8>() {
            tell(u64::from_le_bytes(*stamp));
        }
    }
}

/// Says when operations are due, and wakes the loop for it from a thread of its own: timers of the
/// system calls that wait for sockets round to milliseconds.
struct Pacer {
    every: Duration,
    begun: Instant,
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Pacer {
    fn start(poll: &Poll, rate: u64, begun: Instant) -> anyhow::Result<Pacer> {
        let waker = Waker::new(poll.registry(), WAKER)?;
        let over = Arc::new(AtomicBool::new(false));
        let told = over.clone();
        let every = Duration::from_nanos(1_000_000_000 / rate.max(1));
        let rest = every.max(PACE);
        let thread = std::thread::Builder::new().name("pacer".into()).spawn(move || {
            while !told.load(Ordering::Relaxed) {
                std::thread::sleep(rest);
                if waker.wake().is_err() {
                    return;
                }
            }
        })?;
        Ok(Pacer { every, begun, over, thread: Some(thread) })
    }

    /// When the operation of this number is due, if it is.
    fn due(&self, number: u64, now: Instant) -> Option<Instant> {
        let due = self.begun + Duration::from_nanos(self.every.as_nanos() as u64 * number);
        (due <= now).then_some(due)
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
