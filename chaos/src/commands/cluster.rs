//! `chaos cluster`: a cluster that lives until Ctrl-C.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use chaos::cluster::{Cluster, Options, is_free};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

/// The server's own default port.
const USUAL_PORT: u16 = 7400;

#[derive(clap::Args)]
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
    /// Where everything lives
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
    /// Further flags for every journal-server
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<String>,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(keep(args))
}

async fn keep(args: Args) -> anyhow::Result<()> {
    ensure!(args.adapters == 0, "there are no adapters yet: --adapters must be 0");
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
    if args.json {
        print_json(&cluster)
    } else {
        print_text(&cluster)
    }

    let watch = async {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            if let Some(dead) = cluster.nodes().iter().find(|node| node.end().is_some()) {
                return dead;
            }
        }
    };
    let died = tokio::select! {
        biased;
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        dead = watch => Some(dead),
    };
    if let Some(dead) = died {
        // The others go on: a cluster of three without one still works, and may be what is tried.
        eprintln!("{} ended; {}\nthe others go on; Ctrl-C stops them", dead.name(), dead.last_words());
        tokio::select! {
            biased;
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }

    eprintln!("\nstopping (again Ctrl-C: kill)");
    let killed = tokio::select! {
        biased;
        _ = interrupt.recv() => return Ok(()),
        killed = cluster.stop() => killed,
    };
    ensure!(killed.is_empty(), "had to be killed, because they did not stop: {}", killed.join(", "));
    eprintln!("stopped; the data is in {}", cluster.dir().display());
    Ok(())
}

fn print_json(cluster: &Cluster) {
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
    println!("{}", json!({ "dir": cluster.dir(), "endpoints": cluster.endpoints(), "nodes": nodes, "adapters": [] }));
}

fn print_text(cluster: &Cluster) {
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
    let journal = chaos::cluster::beside_this_program("journal").unwrap_or_else(|_| "journal".into());
    let journal = journal.display();
    println!();
    println!("  try, in another terminal:");
    println!("    export JOURNAL_ENDPOINTS={}", cluster.endpoints().join(","));
    println!("    {journal} status");
    println!("    {journal} create greetings");
    println!("    {journal} append greetings hello world");
    println!("    {journal} tail greetings --follow");
    println!();
    println!("  Ctrl-C stops it; the data stays in {}", cluster.dir().display());
}
