//! A cluster of real journal-server processes on this machine.
//!
//! It owns their directories, ports, logs and lives: nothing that it starts outlives it. What lies in
//! its directory does, when a directory was named: the same cluster starts again from there, on the
//! same ports.
//!
//! It never talks Raft and never touches a node's files while that node runs, unless a test asks for
//! just that.

mod adapter;
mod client;
mod http;
mod memory;
mod node;
mod ports;
mod process;
mod tls;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::time::{Instant, sleep};

pub use adapter::{Adapter, AdapterOptions, place_in_memory};
pub use http::{Page, get};
use memory::Memory;
pub use node::Node;
pub use ports::{Ports, is_free};
pub use process::{Process, Signal};
pub use tls::{Papers, Renewal, issue, papers};

use crate::proxy::Proxy;

/// What a cluster shall be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Nodes that form it. Nothing: as many as the directory remembers, else three.
    pub nodes: Option<usize>,
    /// Further nodes that wait to be taken in. They have their place from the beginning, and run
    /// only once they are started.
    pub spares: usize,
    /// Where it lives. Nothing: in a temporary directory that goes with it.
    pub dir: Option<PathBuf>,
    /// Its first port. Nothing: those that the directory remembers, else free ones.
    pub base_port: Option<u16>,
    /// Nothing: the journal-server that stands beside this program.
    pub server: Option<PathBuf>,
    /// Whether nodes call each other through proxies, so that links between them can fail while
    /// clients, which connect directly, see nothing of it.
    pub links: bool,
    /// Whether everybody shows certificates. The authority and the papers are made for this cluster.
    pub tls: bool,
    /// Names of further clients that get certificates.
    pub people: Vec<String>,
    /// For every node, behind the flags that the cluster gives itself.
    pub flags: Vec<String>,
    pub environment: BTreeMap<String, String>,
    /// How long everything may take to become ready.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            nodes: None,
            spares: 0,
            dir: None,
            base_port: None,
            server: None,
            links: false,
            tls: false,
            people: Vec::new(),
            flags: Vec::new(),
            environment: BTreeMap::new(),
            patience: Duration::from_secs(60),
        }
    }
}

/// Running, stopped and waiting nodes, and the links between them.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    /// By (who calls, who is called).
    links: BTreeMap<(usize, usize), Proxy>,
    dir: PathBuf,
    tls: bool,
    patience: Duration,
    _ports: Ports,
    _lock: memory::Lock,
    /// Last, so that it is removed when all else is gone.
    _temporary: Option<tempfile::TempDir>,
}

/// What a node says that runs on after its removal.
const REMOVED: &str = "was removed from the cluster";

/// Where the papers lie, in the cluster's directory.
const TLS: &str = "tls";

/// How long a node gets to stop by itself: a little more than its own drain timeout.
const GRACE: Duration = Duration::from_secs(15);

impl Cluster {
    /// Starts the nodes and waits until all of them are ready.
    pub async fn start(options: Options) -> anyhow::Result<Cluster> {
        Cluster::start_telling(options, |_| {}).await
    }

    /// The same, telling from time to time who is not ready yet, and why.
    pub async fn start_telling(options: Options, tell: impl FnMut(&str)) -> anyhow::Result<Cluster> {
        let cluster = Cluster::prepare(options).await?;
        for node in cluster.nodes.iter().filter(|node| node.founds()) {
            node.start()?;
        }
        cluster.wait_ready_telling(tell).await?;
        Ok(cluster)
    }

    /// Gives every node its place and starts none.
    pub async fn prepare(options: Options) -> anyhow::Result<Cluster> {
        let (dir, temporary) = match &options.dir {
            Some(dir) => (dir.clone(), None),
            None => {
                let temporary = tempfile::Builder::new().prefix("journal-cluster-").tempdir()?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let lock = memory::Lock::take(&dir)?;
        let server = match &options.server {
            Some(server) => server.clone(),
            None => beside_this_program("journal-server")?,
        };

        let (memory, ports) = recall_or_decide(&dir, &options)?;
        if options.tls {
            let nodes = memory.nodes.iter().map(|place| place.name.as_str());
            let names: Vec<_> = nodes.chain(options.people.iter().map(String::as_str)).collect();
            tls::issue(&dir.join(TLS), &names)?;
        }
        let links = if options.links { make_links(&memory).await? } else { BTreeMap::new() };
        let mut nodes = Vec::new();
        for (number, place) in memory.nodes.iter().enumerate() {
            let mut flags = memory.flags_of(number);
            let detours: Vec<String> = (0..memory.nodes.len())
                .filter_map(|other| {
                    let link = links.get(&(number, other))?;
                    Some(format!("{}={}", memory.nodes[other].address(), link.address()))
                })
                .collect();
            if !detours.is_empty() {
                flags.push(format!("--dial={}", detours.join(",")));
            }
            if options.tls {
                flags.extend(tls_flags(&dir, place, &memory));
            }
            flags.extend(options.flags.iter().cloned());
            let home = dir.join(&place.name);
            nodes.push(Node::new(place.clone(), home, server.clone(), flags, options.environment.clone())?);
        }
        Ok(Cluster {
            nodes,
            links,
            dir,
            tls: options.tls,
            patience: options.patience,
            _ports: ports,
            _lock: lock,
            _temporary: temporary,
        })
    }

    /// Node `number`, from 0. Spares come last.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    /// All of them, running or not.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A port for adapter `number`, which is `which` 0 for its clients and 1 for its metrics.
    pub fn adapter_port(&self, number: usize, which: u16) -> u16 {
        self._ports.of(number, 5 + which)
    }

    /// Where clients may connect: the founders, in order.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().filter(|node| node.founds()).map(|node| node.endpoint().to_string()).collect()
    }

    /// The link on which node `from` calls node `to`.
    ///
    /// Panics without [`Options::links`], and for a node's link to itself.
    pub fn link(&self, from: usize, to: usize) -> &Proxy {
        self.links.get(&(from, to)).expect("links exist between different nodes of a cluster with Options::links")
    }

    /// Holds every byte between node `number` and all others, both ways. Clients still reach it.
    pub fn isolate(&self, number: usize) {
        self.links_of(number).for_each(Proxy::hold);
    }

    /// Every link as it was at first.
    pub fn heal(&self) {
        self.links.values().for_each(Proxy::heal);
    }

    /// Waits until every node that runs is ready.
    pub async fn wait_ready(&self) -> anyhow::Result<()> {
        self.wait_ready_telling(|_| {}).await
    }

    /// Asks every node to stop, and kills whoever does not within its grace time. The list of those
    /// is the answer.
    pub async fn stop(&self) -> Vec<String> {
        self.stop_within(GRACE).await
    }

    /// The same with another grace time.
    pub async fn stop_within(&self, grace: Duration) -> Vec<String> {
        for node in &self.nodes {
            node.resume();
            node.terminate();
        }
        let mut killed = Vec::new();
        let deadline = Instant::now() + grace;
        for node in &self.nodes {
            if node.wait_end(deadline.saturating_duration_since(Instant::now())).await.is_none() && node.runs() {
                killed.push(node.name().to_owned());
                node.kill9();
            }
        }
        killed
    }

    async fn wait_ready_telling(&self, mut tell: impl FnMut(&str)) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut told = Instant::now();
        let mut waiting: Vec<&Node> = self.nodes.iter().filter(|node| node.runs()).collect();
        loop {
            let mut reasons = Vec::new();
            let mut still = Vec::new();
            for node in waiting {
                if let Some(status) = node.end() {
                    bail!("{} ended while it started ({status}); {}", node.name(), node.last_words());
                }
                if let Err(why) = node.ready().await {
                    if why.contains(REMOVED) {
                        // It will never be: it belongs to the cluster no more.
                        tell(&format!("{} {REMOVED}: it is not waited for", node.name()));
                        continue;
                    }
                    reasons.push(format!("{}: {why}", node.name()));
                    still.push(node);
                }
            }
            if still.is_empty() {
                return Ok(());
            }
            waiting = still;
            let waited = begun.elapsed();
            if waited > self.patience {
                let words = waiting.first().map(|node| node.last_words()).unwrap_or_default();
                bail!("not ready after {} s: {}; {words}", waited.as_secs(), reasons.join("; "));
            }
            if told.elapsed() > Duration::from_secs(1) {
                tell(&format!("{} s: waiting for {}", waited.as_secs(), reasons.join("; ")));
                told = Instant::now();
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn tls_dir(&self) -> Option<PathBuf> {
        self.tls.then(|| self.dir.join(TLS))
    }

    fn links_of(&self, number: usize) -> impl Iterator<Item = &Proxy> {
        self.links.iter().filter(move |((from, to), _)| *from == number || *to == number).map(|(_, link)| link)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // What a failed test leaves behind is what explains it.
        if let Some(temporary) = self._temporary.take_if(|_| std::thread::panicking()) {
            eprintln!("the cluster's directory is kept: {}", temporary.keep().display());
        }
    }
}

/// The program of that name in the directory of this one, or above it, as for tests.
pub fn beside_this_program(name: &str) -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe().context("this program does not know where it stands")?;
    let found = this.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!("there is no {name} beside {}: build it first (cargo build --workspace --bins)", this.display())
    })
}

fn recall_or_decide(dir: &Path, options: &Options) -> anyhow::Result<(Memory, Ports)> {
    if let Some(memory) = Memory::recall(dir)? {
        let founders = memory.nodes.iter().filter(|place| place.founds).count();
        if let Some(nodes) = options.nodes {
            ensure!(
                nodes == founders,
                "{} holds a cluster of {founders} nodes, not {nodes}: leave --nodes out, or name another directory",
                dir.display()
            );
        }
        let base = memory.base_port;
        if let Some(asked) = options.base_port {
            ensure!(
                asked == base,
                "{} holds a cluster on the ports from {base} on, not {asked}: leave --base-port out, or name another \
                 directory",
                dir.display()
            );
        }
        for place in &memory.nodes {
            for port in [place.port, place.metrics_port] {
                ensure!(
                    is_free(port),
                    "port {port}, which {} has in {}, is taken by another program",
                    place.name,
                    dir.display()
                );
            }
        }
        return Ok((memory, Ports::at(base)));
    }
    let ports = match options.base_port {
        Some(first) => Ports::at(first),
        None => Ports::claim()?,
    };
    let founders = options.nodes.unwrap_or(3);
    ensure!(founders > 0, "a cluster has at least one node");
    let all = founders + options.spares;
    ensure!(all <= usize::from(ports::NODES_MAX), "at most {} nodes fit on one machine here", ports::NODES_MAX);
    let memory = Memory::decide(founders, options.spares, &ports);
    for place in &memory.nodes {
        ensure!(is_free(place.port), "port {} is taken: choose another --base-port", place.port);
    }
    memory.store(dir)?;
    Ok((memory, ports))
}

fn tls_flags(dir: &Path, place: &memory::Place, memory: &Memory) -> Vec<String> {
    let papers = tls::papers(&dir.join(TLS), &place.name);
    let names: Vec<_> = memory.nodes.iter().map(|place| place.name.as_str()).collect();
    vec![
        format!("--tls-ca={}", papers.ca.display()),
        format!("--tls-cert={}", papers.cert.display()),
        format!("--tls-key={}", papers.key.display()),
        format!("--tls-peer-names={}", names.join(",")),
    ]
}

async fn make_links(memory: &Memory) -> anyhow::Result<BTreeMap<(usize, usize), Proxy>> {
    let mut links = BTreeMap::new();
    for from in 0..memory.nodes.len() {
        for (to, place) in memory.nodes.iter().enumerate().filter(|(to, _)| *to != from) {
            links.insert((from, to), Proxy::start(place.address()).await?);
        }
    }
    Ok(links)
}

/// This machine, and a port of it.
fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
