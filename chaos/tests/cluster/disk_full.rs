//! A small disk that fills up, and has room again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use chaos::cluster::{Cluster, Options};
use journal_client::{AppendError, Journal};
use tokio::time::sleep;

use crate::support::{append, eventually, skipped};

/// Of each node's file system, and of its marks.
const DISK: &str = "96m";
const FLAGS: [&str; 6] = [
    "--segment-size=1MiB",
    "--entry-max=64KiB",
    "--room-low=24MiB",
    "--room-urgent=16MiB",
    "--room-reserve=12MiB",
    "--room-floor=2MiB",
];

#[tokio::test]
async fn one_full_disk_stops_nobody() {
    let Some(OnSmallDisks { cluster, disks, .. }) = &cluster_on_small_disks().await else { return };
    let journal = cluster.journal("small").await.unwrap();
    let leader = cluster.leader_of(journal.id()).await.unwrap();
    let full = cluster.others(leader).next().unwrap().0;
    disks[full].fill();
    for number in 0..200 {
        append(&journal, &format!("{number}")).await.unwrap();
    }
    disks[full].empty();
    eventually("the node is ready again, without a restart", Duration::from_secs(30), async || {
        cluster.node(full).ready().await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_full_leader_hands_over_and_a_full_majority_refuses_and_recovers() {
    let Some(OnSmallDisks { cluster, disks, .. }) = &cluster_on_small_disks().await else { return };
    let journal = cluster.journal("small").await.unwrap();
    let first = append(&journal, "before").await.unwrap();

    let leader = cluster.leader_of(journal.id()).await.unwrap();
    disks[leader].fill();
    eventually("somebody else leads", Duration::from_secs(20), async || {
        cluster.leader_of(journal.id()).await.unwrap() != leader
    })
    .await;
    append(&journal, "at the new leader").await.unwrap();

    disks.iter().for_each(SmallDisk::fill);
    let hasty = cluster
        .client_with(journal_client::Settings { patience: Duration::from_secs(1), ..Default::default() })
        .unwrap();
    let hasty = hasty.journal(&"small".parse().unwrap()).await.unwrap();
    eventually("appends are refused with a definite answer", Duration::from_secs(20), async || {
        matches!(append(&hasty, "too much").await, Err(AppendError::Rejected(_)))
    })
    .await;
    // Reading, trimming and the linearizable tail go on.
    let tail = journal.check_tail().await.unwrap();
    assert!(tail.tail > first);
    journal.trim(first.next()).await.unwrap();
    assert!(cluster.nodes().iter().all(|node| node.runs()), "a full disk ended a node");

    disks.iter().for_each(SmallDisk::empty);
    eventually("appends are taken again", Duration::from_secs(30), async || append(&journal, "after").await.is_ok())
        .await;
}

/// In the order in which they go: processes, mounts, directory.
struct OnSmallDisks {
    cluster: Cluster,
    disks: Vec<SmallDisk>,
    _dir: tempfile::TempDir,
}

async fn cluster_on_small_disks() -> Option<OnSmallDisks> {
    let dir = tempfile::tempdir().unwrap();
    let mut disks = Vec::new();
    for node in ["n1", "n2", "n3"] {
        match SmallDisk::mount(dir.path().join(node)) {
            Some(disk) => disks.push(disk),
            None => {
                skipped("this user may not mount a small file system");
                return None;
            }
        }
    }
    let flags = FLAGS.map(str::to_owned).to_vec();
    let options = Options { dir: Some(dir.path().to_owned()), flags, ..Options::default() };
    let cluster = Cluster::start(options).await.unwrap();
    sleep(Duration::from_millis(500)).await;
    Some(OnSmallDisks { cluster, disks, _dir: dir })
}

/// A file system of its own, in memory. Dropping it unmounts it.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Option<SmallDisk> {
        std::fs::create_dir_all(&at).ok()?;
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={DISK}"), "tmpfs"]).arg(&at).output();
        mounted.is_ok_and(|mounted| mounted.status.success()).then_some(SmallDisk(at))
    }

    /// Leaves a few megabytes: below every mark but the floor.
    fn fill(&self) {
        let ballast = std::fs::File::create(self.ballast()).unwrap();
        let free = free_bytes(&self.0);
        let megabyte = vec![0x5a; 1 << 20];
        for _ in 0..(free >> 20).saturating_sub(10) {
            use std::io::Write;
            (&ballast).write_all(&megabyte).unwrap();
        }
    }

    fn empty(&self) {
        let _ = std::fs::remove_file(self.ballast());
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the nodes may still be there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

fn free_bytes(at: &Path) -> u64 {
    let answer = Command::new("df").args(["--output=avail", "-B1"]).arg(at).output().unwrap();
    String::from_utf8_lossy(&answer.stdout).lines().last().unwrap().trim().parse().unwrap()
}
