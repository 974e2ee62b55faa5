//! What a million objects take: memory of an adapter with all its files, against a member of etcd with
//! its database.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use proto::etcd::CompactionRequest;
use proto::etcd::kv_client::KvClient;

use super::super::{Comparison, Figure, Plan, Table, say};
use super::name;
use super::scene::{Scene, closed};
use crate::load::Profile;
use crate::{etcd, procfs};

pub const NAMES: [&str; 1] = ["memory"];

const OBJECTS: u64 = 1_000_000;
const OBJECT_BYTES: usize = 1024;

struct Taken {
    files: f64,
    process: f64,
}

pub async fn measure(plan: &Plan, table: &mut Table) -> anyhow::Result<()> {
    let Some(program) = etcd::program(&plan.repository)? else { return Ok(()) };
    say(format!("{OBJECTS} objects of {OBJECT_BYTES} bytes into an adapter"));
    let ours = taken(plan, Scene::adapters(plan, 1).await?).await?;
    say(format!("{OBJECTS} objects of {OBJECT_BYTES} bytes into etcd"));
    let theirs = taken(plan, Scene::etcd(plan, &program).await?).await?;
    let shown = |taken: &Taken| format!("{:.0} MB of files + {:.0} MB PSS", taken.files / 1e6, taken.process / 1e6);
    table.push(Figure {
        name: name(1, NAMES[0]).into(),
        what:
            "a million objects of 1 KiB, one compaction, idle: an adapter's tmpfs + PSS, over a member's database + PSS"
                .into(),
        unit: "x",
        comparison: Comparison::Below,
        target: 1.0,
        value: Some((ours.files + ours.process) / (theirs.files + theirs.process)),
        note: format!(
            "{}; etcd {}; values of `chaos load`: 32 random bytes, then words and hexadecimal numbers as in an object \
             of the API, of which `gzip -1` leaves {}",
            shown(&ours),
            shown(&theirs),
            compressed()?
        ),
    });
    Ok(())
}

async fn taken(plan: &Plan, scene: Scene) -> anyhow::Result<Taken> {
    // All keys are put before anything is read.
    scene.load("objects", closed(Profile::Get, 8, OBJECTS, OBJECT_BYTES, 1)).await?;
    compact(&scene.endpoints()[0]).await?;
    tokio::time::sleep(Duration::from_secs(plan.idle_s)).await;
    let files = bytes_of(&scene.replica_files())? as f64;
    let pid = scene.replica_pids()[0];
    let process = procfs::proportional_bytes(pid).context("the replica runs")? as f64;
    scene.strike().await?;
    Ok(Taken { files, process })
}

/// At the current revision, which is answered.
pub async fn compact(endpoint: &str) -> anyhow::Result<i64> {
    let mut client = KvClient::connect(format!("http://{endpoint}")).await?;
    let here = client.range(proto::etcd::RangeRequest { key: b"x".as_slice().into(), ..Default::default() }).await?;
    let revision = here.into_inner().header.map_or(0, |header| header.revision);
    client.compact(CompactionRequest { revision, physical: false }).await?;
    Ok(revision)
}

/// The share that is left of values like those that were put, each compressed with its neighbours.
fn compressed() -> anyhow::Result<String> {
    let sample = crate::load::sample_values(256, OBJECT_BYTES);
    let mut gzip = Command::new("gzip").args(["-1", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = gzip.stdin.take().context("its input is piped")?;
    let bytes = sample.len();
    let feeding = std::thread::spawn(move || input.write_all(&sample));
    let output = gzip.wait_with_output()?;
    feeding.join().ok().context("nobody panics while writing")??;
    Ok(format!("{:.2}", output.stdout.len() as f64 / bytes as f64))
}

/// What a file, or everything in a directory, takes.
fn bytes_of(path: &Path) -> anyhow::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let here = path.symlink_metadata().with_context(|| format!("cannot look at {}", path.display()))?;
    if !here.is_dir() {
        return Ok(here.blocks() * 512);
    }
    let mut all = 0;
    for entry in std::fs::read_dir(path)? {
        all += bytes_of(&entry?.path())?;
    }
    Ok(all)
}
