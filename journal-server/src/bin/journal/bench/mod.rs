//! `journal bench`: what this disk, this network and this cluster can do, in one run, so that the
//! numbers stand beside what limits them.

mod cpu;
mod disk;
mod etcd;
mod journal;
mod lag;
mod load;
mod ping;
mod report;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::ValueEnum;
use journal_client::{Admin, Journal, TailFrom, TrimPolicy};
use proto::{JournalId, JournalName, Position};

use crate::connect::Connection;
use crate::exit::Usage;
use crate::format::parse_bytes;
use load::{Plan, Target, Times};
pub use ping::SERVE as PING_SERVER;
pub use ping::serve as serve_pings;
use report::{Disk, LOAD_HEADER, Load, Report};

#[derive(clap::Args)]
#[command(after_help = "\
Closed loop: so many appenders, each of which waits for its answer. Open loop (--rates): entries are due
at fixed times, and latency counts from then, whether or not earlier ones were answered.

Examples:
  journal bench
  journal bench --only closed --appenders 256 --sizes 256 --duration 30
  journal bench --rates 1000,20000 --server-pids 4711,4712,4713
  journal bench --only closed --etcd 127.0.0.1:2379,127.0.0.1:2380,127.0.0.1:2381")]
pub struct Args {
    /// The journal to write into; it is made, and deleted in the end, if it is not there
    #[arg(long, default_value = "bench")]
    journal: JournalName,
    /// Concurrent appenders of the closed loops
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,16,64,256,1000")]
    appenders: Vec<usize>,
    /// Bytes of an entry
    #[arg(long, value_name = "SIZE,...", value_delimiter = ',', default_value = "256,4KiB", value_parser = parse_bytes)]
    sizes: Vec<u64>,
    /// Entries a second of the open loops
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1000,5000")]
    rates: Vec<u64>,
    /// Seconds that do not count, at the beginning of each load
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    warm_up: f64,
    /// Seconds that count
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    duration: f64,
    /// Append streams (connections, for etcd) that the appenders share
    #[arg(long, value_name = "N", default_value_t = 4)]
    streams: usize,
    /// Only these parts
    #[arg(long, value_name = "PART,...", value_delimiter = ',', value_enum)]
    only: Vec<Part>,
    /// Where to measure the disk: the one that holds the journals
    #[arg(long, value_name = "DIR", default_value = ".")]
    disk_dir: PathBuf,
    /// Servers whose CPU is counted, on this machine
    #[arg(long, value_name = "PID,...", value_delimiter = ',')]
    server_pids: Vec<u32>,
    /// Drive these etcd members with the same loads
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    etcd: Vec<String>,
    /// Read the tail at this node during the open loops, and tell how far it is behind the answers
    #[arg(long, value_name = "HOST:PORT")]
    tail_node: Option<String>,
    /// Do not drive the journal, only etcd
    #[arg(long, requires = "etcd")]
    skip_journal: bool,
    /// etcd's processes
    #[arg(long, value_name = "PID,...", value_delimiter = ',')]
    etcd_pids: Vec<u32>,
    /// Print one JSON object in the end; progress goes to standard error
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A write and a sync of 4 KiB, in 1 and in 3 concurrent streams
    Disk,
    /// One message there and back
    Ping,
    /// Appenders that wait for their answers
    Closed,
    /// Entries due at fixed times
    Open,
}

pub async fn run(connection: &Connection, args: Args) -> anyhow::Result<()> {
    let times = Times { warm_up: seconds(args.warm_up)?, duration: seconds(args.duration)? };
    let wants = |part| args.only.is_empty() || args.only.contains(&part);
    let mut printer = Printer { report: Report::default(), json: args.json, headed: false };

    if wants(Part::Disk) {
        for streams in [1, 3] {
            printer.disk(&args.disk_dir, streams, times.duration)?;
        }
    }
    if wants(Part::Ping) {
        printer.ping(times.duration).await?;
    }
    let mut leftover = None;
    if !args.skip_journal && (wants(Part::Closed) || wants(Part::Open)) {
        leftover =
            drive_journal(connection, &args, times, &mut printer, wants(Part::Closed), wants(Part::Open)).await?;
    }
    if !args.etcd.is_empty() {
        for size in &args.sizes {
            let value = value(*size)?;
            let plan = plan("etcd", &value, times, &args.etcd_pids);
            let target = Arc::new(etcd::Etcd::connect(&args.etcd, args.streams, value).await?);
            let closed: &[usize] = if wants(Part::Closed) { &args.appenders } else { &[] };
            let open: &[u64] = if wants(Part::Open) { &args.rates } else { &[] };
            drive(target, closed, open, &plan, &mut printer).await;
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&printer.report)?);
    }
    // Last: what was measured is not lost if this fails.
    match leftover {
        Some(made) => made.delete().await,
        None => Ok(()),
    }
}

/// A journal that was made to be measured.
struct Made {
    admin: Admin,
    name: JournalName,
}

impl Made {
    async fn delete(self) -> anyhow::Result<()> {
        let deleted = self.admin.delete(&self.name).await;
        deleted.with_context(|| format!("cannot delete the journal {}", self.name))
    }
}

async fn drive_journal(
    connection: &Connection,
    args: &Args,
    times: Times,
    printer: &mut Printer,
    closed: bool,
    open: bool,
) -> anyhow::Result<Option<Made>> {
    let admin = connection.admin()?;
    let created = admin.create(&args.journal, TrimPolicy::Free, 0).await;
    let (journal, new) = created.with_context(|| format!("cannot make the journal {}", args.journal))?;
    // A cluster handle is a connection to each node, so each stream gets one of its own.
    let clusters = (0..args.streams.max(1)).map(|_| connection.cluster()).collect::<Result<Vec<_>, _>>()?;
    let only_trims = clusters[0].journal_with_id(journal.id);
    for size in &args.sizes {
        let value = value(*size)?;
        let plan = plan("journal", &value, times, &args.server_pids);
        let appenders: &[usize] = if closed { &args.appenders } else { &[] };
        for one in appenders {
            let target = streams(&clusters, journal.id, &value, *one, None);
            drive(target, &[*one], &[], &plan, printer).await;
            trim(&only_trims).await;
        }
        let rates: &[u64] = if open { &args.rates } else { &[] };
        for rate in rates {
            let lag = args.tail_node.as_ref().map(|_| Arc::new(lag::Lag::default()));
            let reader = match (&args.tail_node, &lag) {
                (Some(node), Some(lag)) => {
                    let (connection, node) = (connection.clone(), node.clone());
                    let connect = move || connection.cluster_read_from(TailFrom::Node(node));
                    Some(lag::Reader::start(connect, journal.id, lag.clone())?)
                }
                _ => None,
            };
            let target = streams(&clusters, journal.id, &value, usize::MAX, lag.clone());
            let mut load = load::open(target, *rate, &plan).await;
            if let Some(reader) = reader {
                reader.stop()?;
            }
            load.tail_lag = lag.map(|lag| lag.take(times.warm_up + times.duration));
            printer.load(load);
            trim(&only_trims).await;
        }
    }
    Ok(new.then(|| Made { admin, name: args.journal.clone() }))
}

/// No more streams than appenders.
fn streams(
    clusters: &[journal_client::Cluster],
    id: JournalId,
    value: &Bytes,
    appenders: usize,
    lag: Option<Arc<lag::Lag>>,
) -> Arc<journal::Streams> {
    let clusters = &clusters[..clusters.len().min(appenders.max(1))];
    Arc::new(journal::Streams::open(clusters, id, value.clone(), lag))
}

/// Gives the disk back between loads. If that fails the next load may lack room, and will say so.
async fn trim(journal: &impl Journal) {
    if let Ok(tail) = journal.check_tail().await {
        let _: Result<Position, _> = journal.trim(tail.tail).await;
    }
}

async fn drive<T: Target>(target: Arc<T>, appenders: &[usize], rates: &[u64], plan: &Plan, printer: &mut Printer) {
    for appenders in appenders {
        printer.load(load::closed(target.clone(), *appenders, plan).await);
    }
    for rate in rates {
        printer.load(load::open(target.clone(), *rate, plan).await);
    }
}

fn plan(target: &'static str, value: &Bytes, times: Times, pids: &[u32]) -> Plan {
    Plan { target, entry_bytes: value.len(), times, server_pids: pids.to_vec() }
}

/// Bytes that no compressor on the way could shrink.
fn value(size: u64) -> anyhow::Result<Bytes> {
    let size = usize::try_from(size).context("--sizes")?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    Ok(bytes.take(size).collect::<Vec<u8>>().into())
}

fn seconds(seconds: f64) -> anyhow::Result<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|_| Usage(format!("{seconds} is no time")).into())
}

/// Tells each figure as soon as it is there, and keeps it.
struct Printer {
    report: Report,
    json: bool,
    headed: bool,
}

impl Printer {
    fn disk(&mut self, dir: &std::path::Path, streams: usize, duration: Duration) -> anyhow::Result<()> {
        let latency = disk::measure(dir, streams, duration)?;
        let dir = dir.canonicalize()?.display().to_string();
        if streams == 1 {
            self.say(format!("disk of {dir}: write and fdatasync, pre-written, {} bytes", disk::WRITE_BYTES));
        }
        self.say(format!("  {streams} at once   {}", latency.line()));
        self.report.disk.push(Disk { dir, streams, latency });
        Ok(())
    }

    async fn ping(&mut self, duration: Duration) -> anyhow::Result<()> {
        let latency = ping::measure(duration).await?;
        self.say("network of this machine: one message there and back, one at a time".into());
        self.say(format!("             {}", latency.line()));
        self.report.ping = Some(latency);
        Ok(())
    }

    fn load(&mut self, load: Load) {
        if !self.headed {
            self.headed = true;
            self.say(LOAD_HEADER.into());
        }
        self.say(load.line());
        if let Some(lag) = &load.tail_lag {
            self.say(format!("    seen at the tail after the answer: {}", lag.line()));
        }
        self.report.loads.push(load);
    }

    fn say(&self, line: String) {
        if self.json { eprintln!("{line}") } else { println!("{line}") }
    }
}
