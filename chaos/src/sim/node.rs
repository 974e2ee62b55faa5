//! One node of the simulated cluster: a machine with a disk, and the lives of the server on it.
//!
//! The server is the real one. A life ends by a clean stop, by its own latch, or from outside: its disk
//! handle and its network go dead in the same moment, so nothing that is left of it in memory can have
//! an effect any more; then that rest is taken down. A supervisor starts the next life.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use journal_server::config::{Config, InitialCluster, Start};
use journal_server::env::{Drive, Env, Pace, Rng};
use journal_server::latch::{Exit, Latch};
use journal_server::segment::fault_disk::{FaultDisk, Loss};
use journal_server::server::Server;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore, SeedableRng};
use tokio::time::sleep;

use super::flip;
use super::plant::{self, Plant};
use super::trace::Trace;
use super::wire::{Death, Host, Wire};

/// How a life is ended from outside.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// `kill -9`: what was written is in the page cache.
    Kill,
    /// The power goes, and takes any part of what was not synced.
    Power,
    /// The power goes, and takes all of it.
    PowerAll,
}

/// How fast a node's disk is.
#[derive(Debug, Clone, Copy)]
pub struct DiskSpeed {
    pub least: Duration,
    pub spread: Duration,
    pub spike_in: u32,
    pub spike: Duration,
}

pub struct SimNode {
    pub name: String,
    pub host: Host,
    disk: Mutex<FaultDisk>,
    config: Config,
    plant: Option<Plant>,
    wire: Wire,
    trace: Trace,
    speed: Arc<Mutex<(StdRng, DiskSpeed)>>,
    state: Mutex<State>,
}

struct State {
    rng: StdRng,
    life: u32,
    running: Option<Arc<Server>>,
    /// What becomes of the process once its machine has stopped within a step.
    stopping: Option<End>,
    /// The supervisor starts the server again when it is gone.
    wanted: bool,
    /// A clean stop is under way.
    ending: bool,
    /// The disk is replaced before the next life.
    wipe_due: bool,
    last_exit: Option<Exit>,
}

/// A process that left by itself is started again after so long.
const RESTART: Duration = Duration::from_millis(200);
/// What a disk holds that nobody filled.
const CAPACITY_BYTES: u64 = 1 << 40;
const DATA_DIR: &str = "/data";

/// Sizes that make rings, segments and batches turn over within seconds.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub segment_bytes: u64,
    pub ring_bytes: u64,
    pub entry_bytes_max: u64,
}

/// What a node is made of.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    pub host: Host,
    pub sizes: Sizes,
    pub speed: DiskSpeed,
    pub plant: Option<Plant>,
}

impl SimNode {
    /// `members`: the names and hosts that form the cluster; a node that is not among them joins.
    pub fn new(seed: u64, machine: Machine, members: &[(String, Host)], wire: &Wire, trace: &Trace) -> Arc<SimNode> {
        let Machine { host, sizes, speed, plant } = machine;
        let name = format!("n{}", host.0);
        let seed = seed ^ (u64::from(host.0) << 56);
        let mut rng = StdRng::seed_from_u64(seed);
        let config = config(&name, host, members, sizes);
        Arc::new(SimNode {
            disk: Mutex::new(FaultDisk::new(rng.next_u64())),
            speed: Arc::new(Mutex::new((StdRng::seed_from_u64(rng.next_u64()), speed))),
            name,
            host,
            config,
            plant,
            wire: wire.clone(),
            trace: trace.clone(),
            state: Mutex::new(State {
                rng,
                life: 0,
                running: None,
                stopping: None,
                wanted: false,
                ending: false,
                wipe_due: false,
                last_exit: None,
            }),
        })
    }

    /// The server, while it runs.
    pub fn server(&self) -> Option<Arc<Server>> {
        self.state.lock().running.clone()
    }

    /// The disk in the machine.
    pub fn disk(&self) -> FaultDisk {
        self.disk.lock().clone()
    }

    /// There is as much room on the disk as there was at first.
    pub fn empty_disk(&self) {
        self.disk().set_capacity(CAPACITY_BYTES);
    }

    /// The process is killed, and its machine gets another disk: what a restored backup is.
    pub fn put_disk(&self, disk: FaultDisk) {
        self.end(End::Kill, "its disk is exchanged");
        *self.disk.lock() = disk;
    }

    pub fn life(&self) -> u32 {
        self.state.lock().life
    }

    /// Why the process last left by itself.
    pub fn last_exit(&self) -> Option<Exit> {
        self.state.lock().last_exit
    }

    pub fn set_speed(&self, speed: DiskSpeed) {
        self.speed.lock().1 = speed;
    }

    /// Starts the server, and starts it again whenever it has ended, until told otherwise.
    pub fn want(&self, wanted: bool) {
        self.state.lock().wanted = wanted;
    }

    /// Watches over the lives, for ever.
    pub async fn supervise(self: Arc<Self>) {
        loop {
            sleep(Duration::from_millis(2)).await;
            let (running, wanted, wipe) = {
                let mut state = self.state.lock();
                if state.ending {
                    continue;
                }
                let wipe = state.running.is_none() && std::mem::take(&mut state.wipe_due);
                (state.running.clone(), state.wanted, wipe)
            };
            if wipe {
                self.trace.event(format_args!("{} has a new disk", self.name));
                self.disk().wipe();
            }
            match running {
                Some(server) => {
                    if self.disk().is_stopped() {
                        let end = self.state.lock().stopping.take().unwrap_or(End::Power);
                        self.end(end, "stopped within a step");
                        sleep(self.boot_time(end)).await;
                    } else if let Some(failure) = server.latch().failure() {
                        // The process leaves by itself.
                        self.trace.event(format_args!("{} exits: {}", self.name, failure.why));
                        self.state.lock().last_exit = Some(failure.exit);
                        self.end(End::Kill, "exited");
                        sleep(RESTART).await;
                    }
                }
                None if wanted => self.start().await,
                None => {}
            }
        }
    }

    /// Machines without power take longer to be back than processes.
    fn boot_time(&self, end: End) -> Duration {
        let up_to = if matches!(end, End::Kill) { 20 } else { 400 };
        Duration::from_millis(self.state.lock().rng.random_range(0..up_to))
    }

    /// One try to start a life.
    async fn start(&self) {
        let (seed, life) = {
            let mut state = self.state.lock();
            state.life += 1;
            (state.rng.next_u64(), state.life)
        };
        let net = self.wire.boot(self.host);
        let speed = self.speed.clone();
        let env = Env {
            fs: plant::fs(self.plant, self.disk().mount()),
            net: Arc::new(net.clone()),
            rng: Rng::from_seed(seed),
            drive: Drive::Tasks,
            pace: Pace::new(move || speed.lock().next()),
        };
        let latch = Latch::default();
        let started = Server::start(self.config.clone(), env, Arc::new(net), latch.clone()).await;
        match started {
            Ok(server) => {
                self.trace.event(format_args!("{} starts as {} (life {life})", self.name, server.node_id));
                self.state.lock().running = Some(Arc::new(server));
            }
            Err(failure) => {
                self.trace.event(format_args!("{} cannot start: {}", self.name, failure.why));
                // What is left of the attempt must not touch the disk of the next one.
                self.wire.end(self.host, Death::Process);
                latch.fail(Exit::Start, failure.why);
                let stopping = self.state.lock().stopping.take();
                self.end_disk(stopping.unwrap_or(End::Kill));
                sleep(RESTART).await;
            }
        }
    }

    /// The life ends now.
    pub fn end(&self, end: End, why: &str) {
        let server = {
            let mut state = self.state.lock();
            state.stopping = None;
            state.running.take()
        };
        let Some(server) = server else { return };
        self.trace.event(format_args!("{} {end:?}: {why}", self.name));
        self.wire.end(self.host, if matches!(end, End::Kill) { Death::Process } else { Death::Power });
        self.end_disk(end);
        server.latch().fail(Exit::FailedDisk, "ended from outside");
        tokio::spawn(take_down(server));
    }

    fn end_disk(&self, end: End) {
        let mut rng = StdRng::seed_from_u64(self.state.lock().rng.next_u64());
        match end {
            End::Kill => self.disk().kill(),
            End::Power => self.disk().crash(&mut rng),
            End::PowerAll => self.disk().crash_with(Loss::ALL, &mut rng),
        }
        self.disk().heal();
    }

    /// The machine stops within one of the next steps on its disk; then the life ends like this.
    pub fn stop_within(&self, steps: u64, end: End) {
        self.state.lock().stopping = Some(end);
        self.disk().stop_after(steps);
    }

    /// A clean stop, as on SIGTERM.
    pub async fn stop(&self) {
        let server = {
            let mut state = self.state.lock();
            let Some(server) = state.running.take() else { return };
            state.ending = true;
            server
        };
        self.trace.event(format_args!("{} is told to stop", self.name));
        match Arc::try_unwrap(server) {
            Ok(server) => drop(server.shutdown().await),
            Err(server) => take_down(server).await,
        }
        self.trace.event(format_args!("{} has stopped", self.name));
        self.wire.end(self.host, Death::Process);
        self.disk().kill();
        self.state.lock().ending = false;
    }

    /// A clean stop that the power does not wait for: it goes within one of the next steps on the disk, or
    /// right after.
    pub async fn stop_and_power_off(&self, steps: u64, end: End) {
        let server = {
            let mut state = self.state.lock();
            let Some(server) = state.running.take() else { return };
            state.stopping = None;
            state.ending = true;
            server
        };
        self.trace.event(format_args!("{} is told to stop, and its power goes", self.name));
        self.disk().stop_after(steps);
        let latch = server.latch().clone();
        let stopped = tokio::spawn(async move {
            match Arc::try_unwrap(server) {
                Ok(server) => drop(server.shutdown().await),
                Err(server) => take_down(server).await,
            }
        });
        // A machine that has stopped does not hear that its process would still like to wait.
        while !stopped.is_finished() && !self.disk().is_stopped() {
            sleep(Duration::from_millis(1)).await;
        }
        self.trace.event(format_args!("{} {end:?}: within a clean stop", self.name));
        self.wire.end(self.host, Death::Power);
        self.end_disk(end);
        latch.fail(Exit::FailedDisk, "ended from outside");
        self.state.lock().ending = false;
    }

    /// Flips a bit of what lies on the disk for some group. Only while nothing runs there.
    pub fn flip(&self) {
        let mut rng = StdRng::seed_from_u64(self.state.lock().rng.next_u64());
        if let Some((path, at)) = flip::anywhere(&self.disk(), Path::new(DATA_DIR), &mut rng) {
            self.trace.event(format_args!("{}: a bit flips at {at} of {}", self.name, path.display()));
        }
    }

    /// Flips a bit of the last thing that was written for a group. Only while nothing runs there.
    /// Whether anything proves that it was synced.
    pub fn flip_last(&self, group: u64) -> anyhow::Result<bool> {
        let mut rng = StdRng::seed_from_u64(self.state.lock().rng.next_u64());
        let proven = flip::last(&self.disk(), Path::new(DATA_DIR), group, &mut rng)?;
        self.trace.event(format_args!("{}: a bit of the end of group {group} flips, proven: {proven}", self.name));
        Ok(proven)
    }

    /// The machine has power again, though nobody runs there yet.
    pub fn power(&self) {
        self.wire.power(self.host);
    }

    /// The disk is replaced by an empty one once nothing runs on it.
    pub fn wipe_when_ended(&self) {
        self.state.lock().wipe_due = true;
    }
}

impl DiskSpeed {
    fn draw(&self, rng: &mut StdRng) -> Duration {
        let mut time = self.least + self.spread.mul_f64(rng.random::<f64>());
        if self.spike_in > 0 && rng.random_range(0..self.spike_in) == 0 {
            time += self.spike.mul_f64(rng.random::<f64>());
        }
        time
    }
}

trait Draw {
    fn next(&mut self) -> Duration;
}

impl Draw for (StdRng, DiskSpeed) {
    fn next(&mut self) -> Duration {
        let (rng, speed) = self;
        speed.draw(rng)
    }
}

/// Ends what is left of a life in memory. Its disk and its network are dead already.
async fn take_down(server: Arc<Server>) {
    if let Some(groups) = server.groups() {
        let _ = tokio::time::timeout(Duration::from_secs(5), groups.close()).await;
    }
    if let Ok(server) = Arc::try_unwrap(server) {
        server.shutdown().await;
    }
}

fn config(name: &str, host: Host, members: &[(String, Host)], sizes: Sizes) -> Config {
    let address = host.address();
    let flags = ["journal-server", "--name", name, "--data-dir", DATA_DIR, "--listen", &address];
    let mut flags: Vec<String> = flags.iter().map(|flag| flag.to_string()).collect();
    flags.extend(["--allow-plaintext=true".to_owned(), format!("--entry-max={}", sizes.entry_bytes_max)]);
    flags.push(format!("--segment-size={}", sizes.segment_bytes));
    flags.push(format!("--ring-size={}", sizes.ring_bytes));
    flags.push("--join=true".to_owned());
    let config = Config::load(flags, Default::default());
    let mut config = config.unwrap_or_else(|error| panic!("the simulation's configuration is wrong: {error}"));
    if members.iter().any(|(member, _)| member == name) {
        let members = members.iter().map(|(name, host)| (name.clone(), host.address())).collect();
        config.start = Start::Form(InitialCluster { members, token: "simulation".to_owned() });
    }
    config
}
