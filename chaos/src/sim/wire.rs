//! The simulated network: hosts, links between them, and what is done to links.
//!
//! Connections behave as TCP does where it matters: bytes arrive in order, or late, or never; what a
//! cut link holds back arrives when the link is mended, unless somebody gave up meanwhile; a killed
//! process's connections are reset by its machine, a machine without power says nothing at all. Every
//! message draws its own latency, so connections overtake each other.
//!
//! [`Wire`] is the one owner of all of it; [`super::pipe`] is what a connection's ends hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use journal_client::Connector;
use journal_server::env::{BoxedIo, Listener, Net};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};

use super::pipe::End;
use super::trace::Trace;

/// A machine. Its address follows from its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host(pub u8);

impl Host {
    pub fn address(self) -> String {
        format!("10.0.0.{}:7400", self.0)
    }

    fn of(address: &str) -> Option<Host> {
        let address: SocketAddr = address.parse().ok()?;
        match address.ip() {
            std::net::IpAddr::V4(ip) => Some(Host(ip.octets()[3])),
            std::net::IpAddr::V6(_) => None,
        }
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "h{}", self.0)
    }
}

/// How a process on a host ended, as its connections see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// The machine is there and resets what the process had open.
    Process,
    /// Nobody is there any more.
    Power,
}

/// How long messages take.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    pub least: Duration,
    /// On top, evenly.
    pub spread: Duration,
    /// One in so many takes `spike` more; 0 means none.
    pub spike_in: u32,
    pub spike: Duration,
}

#[derive(Clone)]
pub struct Wire {
    state: Arc<Mutex<Switch>>,
    changed: Arc<Notify>,
    trace: Trace,
}

pub(super) struct Switch {
    rng: StdRng,
    latency: Latency,
    /// Links that carry nothing, by direction.
    cut: BTreeSet<(Host, Host)>,
    /// Machines whose process stands still.
    frozen: BTreeSet<Host>,
    /// Hosts whose links are slower, by so much.
    slow: BTreeMap<Host, Duration>,
    /// Machines with power. Processes that ended on them are known by their life.
    lives: BTreeMap<Host, Life>,
    listeners: BTreeMap<Host, mpsc::Sender<(BoxedIo, SocketAddr)>>,
    pub pipes: BTreeMap<u64, Pipe>,
    next_pipe: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Life {
    number: u32,
    up: bool,
    power: bool,
}

/// One direction of a connection.
pub(super) struct Pipe {
    pub from: (Host, u32),
    pub to: (Host, u32),
    pub chunks: VecDeque<(Instant, Bytes)>,
    pub bytes: usize,
    /// Nothing arrives before what was sent earlier.
    last_arrival: Instant,
    /// The writer closed; arrives after the chunks.
    pub fin: bool,
    /// The reader closed: the writer is told when it writes.
    pub deaf: bool,
    /// Both ends are told that the connection is lost.
    pub reset: bool,
    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
    /// Ends that still know it: two, then one, then it is gone.
    pub ends: u8,
}

/// Bytes under way in one direction before its writer waits.
pub(super) const PIPE_BYTES: usize = 1 << 20;

impl Wire {
    pub fn new(seed: u64, latency: Latency, trace: Trace) -> Wire {
        let switch = Switch {
            rng: StdRng::seed_from_u64(seed),
            latency,
            cut: BTreeSet::new(),
            frozen: BTreeSet::new(),
            slow: BTreeMap::new(),
            lives: BTreeMap::new(),
            listeners: BTreeMap::new(),
            pipes: BTreeMap::new(),
            next_pipe: 1,
        };
        Wire { state: Arc::new(Mutex::new(switch)), changed: Arc::new(Notify::new()), trace }
    }

    // ---- hosts -----------------------------------------------------------------------------

    /// A process starts on the host, which has power from now on. What is left of connections of
    /// earlier processes is reset. Its network is of this life only.
    pub fn boot(&self, host: Host) -> HostNet {
        let mut switch = self.state.lock();
        let life = switch.lives.entry(host).or_default();
        life.number += 1;
        (life.up, life.power) = (true, true);
        let number = life.number;
        switch.reset_if(|pipe| {
            let old = |end: (Host, u32)| end.0 == host && end.1 < number;
            old(pipe.from) || old(pipe.to)
        });
        drop(switch);
        self.changed.notify_waiters();
        HostNet { wire: self.clone(), host, life: number }
    }

    /// The process on the host ends: nothing that it says from now on is heard.
    pub fn end(&self, host: Host, death: Death) {
        let mut switch = self.state.lock();
        let life = switch.lives.entry(host).or_default();
        life.up = false;
        life.power = death == Death::Process;
        let listener = switch.listeners.remove(&host);
        match death {
            Death::Process => switch.reset_if(|pipe| pipe.from.0 == host || pipe.to.0 == host),
            // The ended process's own ends must notice; the others are woken and see nothing.
            Death::Power => switch.wake_if(|pipe| pipe.from.0 == host || pipe.to.0 == host),
        }
        drop(switch);
        drop(listener);
        self.changed.notify_waiters();
    }

    /// The machine has power again, whether or not a process runs.
    pub fn power(&self, host: Host) {
        let mut switch = self.state.lock();
        let life = switch.lives.entry(host).or_default();
        if !life.power {
            life.power = true;
            switch.reset_if(|pipe| pipe.from.0 == host || pipe.to.0 == host);
        }
        drop(switch);
        self.changed.notify_waiters();
    }

    // ---- links -----------------------------------------------------------------------------

    /// From `from` nothing reaches `to`.
    pub fn cut(&self, from: Host, to: Host) {
        self.state.lock().cut.insert((from, to));
    }

    pub fn mend(&self, from: Host, to: Host) {
        let mut switch = self.state.lock();
        if switch.cut.remove(&(from, to)) {
            switch.redeliver(from, to);
        }
        drop(switch);
        self.changed.notify_waiters();
    }

    /// Nothing gets into the machine or out of it, until it thaws.
    pub fn freeze(&self, host: Host) {
        self.state.lock().frozen.insert(host);
    }

    pub fn thaw(&self, host: Host) {
        let mut switch = self.state.lock();
        if switch.frozen.remove(&host) {
            let links: BTreeSet<(Host, Host)> = switch
                .pipes
                .values()
                .map(|pipe| (pipe.from.0, pipe.to.0))
                .filter(|(from, to)| *from == host || *to == host)
                .collect();
            links.into_iter().for_each(|(from, to)| switch.redeliver(from, to));
        }
        drop(switch);
        self.changed.notify_waiters();
    }

    pub fn mend_all(&self) {
        let frozen: Vec<_> = self.state.lock().frozen.iter().copied().collect();
        frozen.into_iter().for_each(|host| self.thaw(host));
        let cut: Vec<_> = self.state.lock().cut.iter().copied().collect();
        cut.into_iter().for_each(|(from, to)| self.mend(from, to));
        self.state.lock().slow.clear();
    }

    /// Everything to and from the host takes so much longer.
    pub fn slow(&self, host: Host, by: Duration) {
        match by.is_zero() {
            true => drop(self.state.lock().slow.remove(&host)),
            false => drop(self.state.lock().slow.insert(host, by)),
        }
    }

    /// Resets every connection between the two.
    pub fn reset(&self, a: Host, b: Host) {
        let between = |pipe: &Pipe| (pipe.from.0, pipe.to.0) == (a, b) || (pipe.from.0, pipe.to.0) == (b, a);
        self.state.lock().reset_if(between);
    }

    pub(super) fn lock(&self) -> parking_lot::MutexGuard<'_, Switch> {
        self.state.lock()
    }

    pub(super) fn trace(&self) -> &Trace {
        &self.trace
    }
}

impl Switch {
    fn latency(&mut self, from: Host, to: Host) -> Duration {
        let Latency { least, spread, spike_in, spike } = self.latency;
        let mut latency = least + spread.mul_f64(self.rng.random::<f64>());
        if spike_in > 0 && self.rng.random_range(0..spike_in) == 0 {
            latency += spike.mul_f64(self.rng.random::<f64>());
        }
        let slow = |host| self.slow.get(&host).copied().unwrap_or_default();
        latency + slow(from) + slow(to)
    }

    pub fn is_cut(&self, from: Host, to: Host) -> bool {
        self.cut.contains(&(from, to)) || self.frozen.contains(&from) || self.frozen.contains(&to)
    }

    /// Whether the process at this end of a pipe still runs.
    pub fn lives(&self, end: (Host, u32)) -> bool {
        self.lives.get(&end.0).is_some_and(|life| life.up && life.number == end.1)
    }

    /// Sends a chunk; it draws its latency.
    pub fn send(&mut self, number: u64, bytes: Bytes) {
        let Some((from, to)) = self.pipes.get(&number).map(|pipe| (pipe.from.0, pipe.to.0)) else { return };
        let arrival = Instant::now() + self.latency(from, to);
        let pipe = self.pipes.get_mut(&number).expect("just seen");
        pipe.last_arrival = pipe.last_arrival.max(arrival);
        pipe.bytes += bytes.len();
        pipe.chunks.push_back((pipe.last_arrival, bytes));
        wake(&mut pipe.reader);
    }

    fn reset_if(&mut self, which: impl Fn(&Pipe) -> bool) {
        for pipe in self.pipes.values_mut().filter(|pipe| which(pipe)) {
            pipe.reset = true;
            wake(&mut pipe.reader);
            wake(&mut pipe.writer);
        }
    }

    fn wake_if(&mut self, which: impl Fn(&Pipe) -> bool) {
        for pipe in self.pipes.values_mut().filter(|pipe| which(pipe)) {
            wake(&mut pipe.reader);
            wake(&mut pipe.writer);
        }
    }

    /// What was held back is sent again, and takes its time.
    fn redeliver(&mut self, from: Host, to: Host) {
        let latency = self.latency(from, to);
        let at = Instant::now() + latency;
        for pipe in self.pipes.values_mut().filter(|pipe| pipe.from.0 == from && pipe.to.0 == to) {
            pipe.chunks.iter_mut().for_each(|(arrival, _)| *arrival = (*arrival).max(at));
            pipe.last_arrival = pipe.last_arrival.max(at);
            wake(&mut pipe.reader);
        }
        // Those who were not told that the other side is gone are told now.
        for pipe in self.pipes.values_mut().filter(|pipe| pipe.from.0 == to && pipe.to.0 == from) {
            wake(&mut pipe.writer);
        }
    }

    fn pipe(&mut self, from: (Host, u32), to: (Host, u32)) -> u64 {
        let number = self.next_pipe;
        self.next_pipe += 1;
        let pipe = Pipe {
            from,
            to,
            chunks: VecDeque::new(),
            bytes: 0,
            last_arrival: Instant::now(),
            fin: false,
            deaf: false,
            reset: false,
            reader: None,
            writer: None,
            ends: 2,
        };
        self.pipes.insert(number, pipe);
        number
    }
}

pub(super) fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// The network as one process on a host has it.
#[derive(Clone)]
pub struct HostNet {
    wire: Wire,
    host: Host,
    life: u32,
}

impl std::fmt::Debug for HostNet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "network of {}", self.host)
    }
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, why.to_owned())
}

impl HostNet {
    /// There and back once; then the two ends exist, or the other machine said that nobody listens.
    async fn open(&self, address: &str) -> io::Result<End> {
        let to = Host::of(address).ok_or_else(|| refused("no such address"))?;
        loop {
            let changed = self.wire.changed.notified();
            let way = {
                let mut switch = self.wire.lock();
                if !switch.lives((self.host, self.life)) {
                    return Err(refused("this process has ended"));
                }
                let open = !switch.is_cut(self.host, to) && !switch.is_cut(to, self.host);
                let there = switch.lives.get(&to).is_some_and(|life| life.power);
                (open && there).then(|| switch.latency(self.host, to) + switch.latency(to, self.host))
            };
            match way {
                Some(way) => {
                    sleep(way).await;
                    break;
                }
                None => changed.await,
            }
        }
        let mut switch = self.wire.lock();
        let life = switch.lives.get(&to).copied().unwrap_or_default();
        let listener = switch.listeners.get(&to).cloned().filter(|_| life.up);
        let listener = listener.ok_or_else(|| refused("nobody listens there"))?;
        let (near, far) = ((self.host, self.life), (to, life.number));
        let (there, back) = (switch.pipe(near, far), switch.pipe(far, near));
        drop(switch);
        self.wire.trace.number("connection", there);
        let far_end = End::new(self.wire.clone(), there, back);
        let peer = SocketAddr::from(([10, 0, 0, self.host.0], 1024));
        let near_end = End::new(self.wire.clone(), back, there);
        listener.try_send((Box::new(far_end), peer)).map_err(|_| refused("too many connections wait there"))?;
        Ok(near_end)
    }
}

#[async_trait]
impl Net for HostNet {
    async fn listen(&self, _: SocketAddr) -> io::Result<Box<dyn Listener>> {
        let (sender, connections) = mpsc::channel(1024);
        let before = self.wire.lock().listeners.insert(self.host, sender);
        drop(before);
        self.wire.changed.notify_waiters();
        Ok(Box::new(Accepting { host: self.host, connections }))
    }

    async fn connect(&self, address: &str) -> io::Result<BoxedIo> {
        Ok(Box::new(self.open(address).await?))
    }
}

#[async_trait]
impl Connector for HostNet {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn journal_client::transport::Io>> {
        Ok(Box::new(self.open(address).await?))
    }
}

struct Accepting {
    host: Host,
    connections: mpsc::Receiver<(BoxedIo, SocketAddr)>,
}

#[async_trait]
impl Listener for Accepting {
    async fn accept(&mut self) -> io::Result<(BoxedIo, SocketAddr)> {
        match self.connections.recv().await {
            Some(connection) => Ok(connection),
            // The process has ended; nobody is told.
            None => std::future::pending().await,
        }
    }

    fn local_address(&self) -> io::Result<SocketAddr> {
        self.host.address().parse().map_err(io::Error::other)
    }
}
