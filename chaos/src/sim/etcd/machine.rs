//! One adapter of the simulation: a machine with memory, and the lives of the adapter on it.
//!
//! The adapter is the real one. A life ends by a clean stop, by itself, or from outside: then its
//! network goes dead at once, and what is left of it writes to a store that nobody will open again.

use std::sync::Arc;
use std::time::Duration;

use etcd_adapter::adapter::Adapter;
use etcd_adapter::applier::Standings;
use etcd_adapter::config::{Config, Url};
use etcd_adapter::env::{Chance, Drive, Env, Shelf};
use etcd_adapter::http::listen::Door;
use etcd_adapter::store::{Memory, Store, StoreError};
use journal_client::Journal;
use journal_client::transport::Io;
use journal_server::env::Net;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use super::around::Around;
use super::ledger::Ledger;
use crate::sim::plant::Plant;
use crate::sim::trace::Trace;
use crate::sim::wire::{Death, Host, HostNet, Wire};

/// How a life is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// `kill -9`: the store is there, up to its last flush.
    Kill,
    /// The same, and the store is gone with it.
    KillEmpty,
    /// The power goes: nobody is told, and nothing is left.
    Power,
    /// As on SIGTERM.
    Stop,
}

pub struct Machine {
    pub name: String,
    pub host: Host,
    config: Config,
    wire: Wire,
    trace: Trace,
    ledger: Ledger,
    plant: Option<Plant>,
    state: Mutex<State>,
    changed: Notify,
}

/// Where a life finds its store, and leaves it.
type Slot = Arc<Mutex<Arc<Memory>>>;

struct State {
    rng: StdRng,
    life: u32,
    wanted: bool,
    order: Option<End>,
    store: Slot,
    standing: Option<Standings>,
    /// Why processes left by themselves.
    exits: Vec<String>,
}

/// What a machine is made of.
pub struct Parts {
    pub name: String,
    pub host: Host,
    pub endpoints: Vec<String>,
    pub nearest: bool,
    pub plant: Option<Plant>,
    pub seed: u64,
}

/// A process that left by itself is started again after so long.
const RESTART: Duration = Duration::from_millis(200);

impl Machine {
    pub fn new(parts: Parts, wire: &Wire, trace: &Trace, ledger: &Ledger) -> Arc<Machine> {
        let state = State {
            rng: StdRng::seed_from_u64(parts.seed),
            life: 0,
            wanted: false,
            order: None,
            store: Arc::default(),
            standing: None,
            exits: Vec::new(),
        };
        let machine = Arc::new(Machine {
            config: config(&parts),
            name: parts.name,
            host: parts.host,
            wire: wire.clone(),
            trace: trace.clone(),
            ledger: ledger.clone(),
            plant: parts.plant,
            state: Mutex::new(state),
            changed: Notify::new(),
        });
        tokio::spawn(machine.clone().supervise());
        machine
    }

    /// Starts it, and starts it again whenever it has ended, until told otherwise.
    pub fn want(&self, wanted: bool) {
        self.state.lock().wanted = wanted;
        self.changed.notify_one();
    }

    /// The life ends, if there is one.
    pub fn end(&self, end: End) {
        self.state.lock().order = Some(end);
        self.changed.notify_one();
    }

    /// What is written now survives the process, as it does whenever the engine flushes by itself.
    pub fn flush(&self) {
        let store = self.state.lock().store.lock().clone();
        Store::memory(store).flush().expect("the ordered map has no way to fail");
    }

    pub fn is_wanted(&self) -> bool {
        self.state.lock().wanted
    }

    pub fn life(&self) -> u32 {
        self.state.lock().life
    }

    /// Where its apply is, while it runs.
    pub fn standing(&self) -> Option<Standings> {
        self.state.lock().standing.clone()
    }

    pub fn exits(&self) -> Vec<String> {
        self.state.lock().exits.clone()
    }

    async fn supervise(self: Arc<Self>) {
        loop {
            let wanted = {
                let mut state = self.state.lock();
                // There is nobody whom it could end.
                if let Some(end) = state.order.take()
                    && matches!(end, End::KillEmpty | End::Power)
                {
                    state.store = Arc::default();
                }
                state.wanted
            };
            match wanted {
                true => self.live().await,
                false => self.changed.notified().await,
            }
        }
    }

    async fn ordered(&self) -> End {
        loop {
            if let Some(end) = self.state.lock().order.take() {
                return end;
            }
            self.changed.notified().await;
        }
    }

    async fn live(&self) {
        let net = self.wire.boot(self.host);
        let (seed, life) = {
            let mut state = self.state.lock();
            state.life += 1;
            (state.rng.next_u64(), state.life)
        };
        self.trace.event(format_args!("{} starts (life {life})", self.name));
        let started = tokio::select! {
            biased;
            end = self.ordered() => return self.down(end, None).await,
            started = self.start(net, seed, life) => started,
        };
        let mut adapter = match started {
            Ok(adapter) => adapter,
            Err(error) => return self.left(format!("{error:#}"), None).await,
        };
        self.trace.event(format_args!("{} serves (life {life})", self.name));
        self.state.lock().standing = Some(adapter.standing());
        let failed = tokio::select! {
            biased;
            end = self.ordered() => Err(end),
            failed = adapter.failed() => Ok(failed),
        };
        match failed {
            Err(end) => self.down(end, Some(adapter)).await,
            Ok(error) => self.left(format!("{error:#}"), Some(adapter)).await,
        }
    }

    /// The process left by itself.
    async fn left(&self, why: String, adapter: Option<Adapter>) {
        self.trace.event(format_args!("{} exits: {why}", self.name));
        self.ledger.left(&self.name, &why);
        self.state.lock().exits.push(why);
        self.down(End::Kill, adapter).await;
        sleep(RESTART).await;
    }

    async fn down(&self, end: End, adapter: Option<Adapter>) {
        self.trace.event(format_args!("{} ends: {end:?}", self.name));
        if end == End::Stop
            && let Some(adapter) = adapter
        {
            adapter.shutdown().await;
            self.cut_off(end);
            return;
        }
        self.cut_off(end);
        if let Some(adapter) = adapter {
            tokio::spawn(adapter.abandon());
        }
    }

    /// From now on nothing that is left of the process is heard, or found.
    fn cut_off(&self, end: End) {
        self.wire.end(self.host, if end == End::Power { Death::Power } else { Death::Process });
        let mut state = self.state.lock();
        state.standing = None;
        let left = match end {
            End::KillEmpty | End::Power => Memory::new(),
            End::Kill | End::Stop => state.store.lock().copy(),
        };
        left.crash();
        state.store = Arc::new(Mutex::new(Arc::new(left)));
    }

    async fn start(&self, net: HostNet, seed: u64, life: u32) -> anyhow::Result<Adapter> {
        let mut listener = Net::listen(&net, ([10, 0, 0, self.host.0], 7400).into()).await?;
        let (accepted, connections) = mpsc::channel::<Box<dyn Io>>(64);
        tokio::spawn(async move {
            loop {
                let connection = tokio::select! {
                    biased;
                    () = accepted.closed() => break,
                    connection = listener.accept() => connection,
                };
                let Ok((connection, _)) = connection else { break };
                if accepted.send(Box::new(connection)).await.is_err() {
                    break;
                }
            }
        });
        let url: Url = self.config.listen_client[0].clone();
        let doors = vec![Door::given(connections, url)];
        let rng = Mutex::new(StdRng::seed_from_u64(seed));
        let (name, ledger, plant) = (format!("{}/{life}", self.name), self.ledger.clone(), self.plant);
        let env = Env {
            connector: Some(Arc::new(net)),
            around: Some(Arc::new(move |journal: Arc<dyn Journal>| -> Arc<dyn Journal> {
                Arc::new(Around::new(journal, name.clone(), ledger.clone(), plant))
            })),
            shelf: Some(Arc::new(Kept(self.state.lock().store.clone()))),
            chance: Chance::new(move || rng.lock().next_u64()),
            drive: Drive::Tasks,
        };
        Adapter::start_in(self.config.clone(), env, None, Some(doors)).await
    }
}

/// A store that outlives its process.
struct Kept(Slot);

impl Shelf for Kept {
    fn open(&self) -> Result<Store, StoreError> {
        Ok(Store::memory(self.0.lock().clone()))
    }

    fn discard(&self) -> std::io::Result<()> {
        *self.0.lock() = Arc::default();
        Ok(())
    }

    fn place(&self) -> String {
        "memory".into()
    }
}

fn config(parts: &Parts) -> Config {
    let url = format!("http://{}", parts.host.address());
    let flags = [
        "etcd-adapter".to_owned(),
        format!("--name={}", parts.name),
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
        format!("--initial-advertise-peer-urls=http://{}.peer:2380", parts.name),
        format!("--journal-endpoints={}", parts.endpoints.join(",")),
        "--journal-allow-plaintext=true".to_owned(),
        format!("--tail-from={}", if parts.nearest { "nearest" } else { "leader" }),
        "--max-request-bytes=131072".to_owned(),
        "--serving-threads=0".to_owned(),
        "--watch-progress-notify-interval=700ms".to_owned(),
    ];
    Config::load(flags, Default::default()).unwrap_or_else(|error| panic!("the simulation's flags are wrong: {error}"))
}
