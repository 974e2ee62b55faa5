//! `chaos cluster`: a cluster that lives until Ctrl-C.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use chaos::cluster::{Adapter, AdapterOptions, Cluster, Options, is_free, place_in_memory};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

/// How long an adapter may take to stop.
const GRACE: Duration = Duration::from_secs(15);
/// The server's own default port.
const USUAL_PORT: u16 = 7400;

#[derive(Clone, clap::Args)]
#[command(
    after_help = "The data in DIR survives: the same command starts the same cluster again, on the same ports.\n\
    Logs are in DIR/<node>/log. Ctrl-C stops all nodes in an orderly way, a second one kills them."
)]
pub struct Args {
    /// Journal nodes [default: as many as DIR holds, else 3]
    #[arg(long, value_name = "N")]
    nodes: Option<usize>,
    /// Adapters in front of them
    #[arg(long, value_name = "N", default_value_t = 0)]
    adapters: usize,
    /// Where the first adapter serves etcd's clients; adapter i serves on P + 10 i
    #[arg(long, value_name = "P", default_value_t = 2379)]
    client_port: u16,
    /// Where journals and logs live; adapters have their stores in /dev/shm, where that has room
    #[arg(long, default_value = "data")]
    dir: PathBuf,
    /// The first port; node i serves on P + 10 i [default: what DIR remembers, else 7400 or free ones]
    #[arg(long, value_name = "P")]
    base_port: Option<u16>,
    /// Print one JSON object when ready, instead of text
    #[arg(long)]
    json: bool,
    /// Seconds that the nodes may take to become ready
    #[arg(long, value_name = "S", default_value_t = 60)]
    patience: u64,
    /// The journal-server to start [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    server: Option<PathBuf>,
    /// The etcd-adapter to start [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    adapter: Option<PathBuf>,
    /// Further flags for every journal-server
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<String>,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(keep(args))
}

async fn keep(args: Args) -> anyhow::Result<()> {
    for number in 0..args.adapters {
        let port = client_port(&args, number);
        ensure!(is_free(port), "port {port} is taken: name another with --client-port");
    }
    let asked = args.clone();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let known = args.dir.join("cluster.json").exists();
    let nodes = args.nodes.unwrap_or(3) as u16;
    let usual_is_free = (0..nodes).all(|node| (0..2).all(|port| is_free(USUAL_PORT + 10 * node + port)));
    let base_port = args.base_port.or((!known && usual_is_free).then_some(USUAL_PORT));
    let options = Options {
        nodes: args.nodes,
        dir: Some(args.dir.clone()),
        base_port,
        server: args.server,
        flags: args.flags,
        patience: Duration::from_secs(args.patience),
        ..Options::default()
    };

    let cluster = tokio::select! {
        biased;
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
        started = Cluster::start_telling(options, |line| eprintln!("    {line}")) => started?,
    };
    let memory = (args.adapters > 0).then(place_in_memory).flatten();
    let memory = memory.as_ref().map(tempfile::TempDir::path);
    let adapters = tokio::select! {
        biased;
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
        started = start_adapters(&asked, &cluster, memory) => started?,
    };
    if asked.json {
        print_json(&cluster, &adapters)
    } else {
        print_text(&cluster, &adapters)
    }

    let watch = async {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            if let Some(dead) = cluster.nodes().iter().find(|node| node.end().is_some()) {
                return (dead.name().to_owned(), dead.last_words());
            }
            if let Some(dead) = adapters.iter().find(|adapter| adapter.end().is_some()) {
                return (dead.name().to_owned(), dead.last_words());
            }
        }
    };
    let died = tokio::select! {
        biased;
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        dead = watch => Some(dead),
    };
    if let Some((name, last_words)) = died {
        // The others go on: a cluster of three without one still works, and may be what is tried.
        eprintln!("{name} ended; {last_words}\nthe others go on; Ctrl-C stops them");
        tokio::select! {
            biased;
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }

    eprintln!("\nstopping (again Ctrl-C: kill)");
    let stopping = async {
        // Adapters first: what they still have to say needs the nodes.
        let mut killed = Vec::new();
        for adapter in &adapters {
            if adapter.stop(GRACE).await {
                killed.push(adapter.name().to_owned());
            }
        }
        killed.extend(cluster.stop().await);
        killed
    };
    let killed = tokio::select! {
        biased;
        _ = interrupt.recv() => return Ok(()),
        killed = stopping => killed,
    };
    ensure!(killed.is_empty(), "had to be killed, because they did not stop: {}", killed.join(", "));
    eprintln!("stopped; the data is in {}", cluster.dir().display());
    Ok(())
}

fn client_port(args: &Args, number: usize) -> u16 {
    args.client_port + 10 * number as u16
}

async fn start_adapters(args: &Args, cluster: &Cluster, memory: Option<&Path>) -> anyhow::Result<Vec<Adapter>> {
    let mut adapters = Vec::new();
    for number in 0..args.adapters {
        let name = format!("a{}", number + 1);
        let options = AdapterOptions {
            home: cluster.dir().join(&name),
            store: memory.map(|memory| memory.join(&name)),
            name,
            client_port: client_port(args, number),
            // Where kubeadm has etcd's metrics, too.
            metrics_port: client_port(args, number) + 2,
            journal: cluster.endpoints(),
            program: args.adapter.clone(),
            flags: Vec::new(),
        };
        let adapter = Adapter::prepare(options)?;
        adapter.start()?;
        adapters.push(adapter);
    }
    for adapter in &adapters {
        adapter.wait_ready(Duration::from_secs(args.patience)).await?;
    }
    Ok(adapters)
}

fn print_json(cluster: &Cluster, adapters: &[Adapter]) {
    let nodes: Vec<_> = cluster
        .nodes()
        .iter()
        .filter(|node| node.founds())
        .map(|node| {
            json!({
                "name": node.name(),
                "endpoint": node.endpoint().to_string(),
                "metrics": node.metrics_endpoint().to_string(),
                "pid": node.pid(),
                "dir": node.dir(),
                "log": node.log(),
            })
        })
        .collect();
    let adapters: Vec<_> = adapters
        .iter()
        .map(|adapter| {
            json!({
                "name": adapter.name(),
                "endpoint": adapter.endpoint().to_string(),
                "metrics": adapter.metrics_endpoint().to_string(),
                "pid": adapter.pid(),
                "dir": adapter.dir(),
                "log": adapter.log(),
            })
        })
        .collect();
    let page = json!({ "dir": cluster.dir(), "endpoints": cluster.endpoints(), "nodes": nodes, "adapters": adapters });
    println!("{page}");
}

fn print_text(cluster: &Cluster, adapters: &[Adapter]) {
    println!("ready");
    for node in cluster.nodes().iter().filter(|node| node.founds()) {
        let pid = node.pid().map_or("-".into(), |pid| pid.to_string());
        println!(
            "  {:<4} {:<16} pid {:<8} metrics http://{}/metrics  log {}",
            node.name(),
            node.endpoint().to_string(),
            pid,
            node.metrics_endpoint(),
            node.log().display()
        );
    }
    for adapter in adapters {
        let pid = adapter.pid().map_or("-".into(), |pid| pid.to_string());
        println!(
            "  {:<4} {:<16} pid {:<8} metrics http://{}/metrics  log {}",
            adapter.name(),
            adapter.endpoint().to_string(),
            pid,
            adapter.metrics_endpoint(),
            adapter.log().display()
        );
    }
    let journal = chaos::cluster::beside_this_program("journal").unwrap_or_else(|_| "journal".into());
    let journal = journal.display();
    println!();
    println!("  try, in another terminal:");
    if !adapters.is_empty() {
        let endpoints: Vec<_> = adapters.iter().map(|adapter| adapter.endpoint().to_string()).collect();
        println!("    export ETCDCTL_ENDPOINTS={}", endpoints.join(","));
        println!("    etcdctl put greeting hello");
        println!("    etcdctl get greeting");
        println!("    etcdctl watch greeting &");
        println!("    etcdctl put greeting 'hello again'");
        println!("    etcdctl member list -w table");
        println!("    curl http://{}/readyz?verbose", adapters[0].endpoint());
        println!();
        println!("  and the journal beneath:");
    }
    println!("    export JOURNAL_ENDPOINTS={}", cluster.endpoints().join(","));
    println!("    {journal} status");
    println!("    {journal} create greetings");
    println!("    {journal} append greetings hello world");
    println!("    {journal} tail greetings --follow");
    println!();
    println!("  Ctrl-C stops it; the data stays in {}", cluster.dir().display());
}
