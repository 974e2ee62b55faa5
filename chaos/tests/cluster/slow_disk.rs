//! A disk that still works, a thousand times slower.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use chaos::cluster::Options;
use tokio::time::{Instant, sleep};

use crate::support::{Story, append, eventually, skipped};

#[tokio::test]
async fn a_leader_with_a_slow_disk_gives_leadership_away_and_the_service_goes_on() {
    let Some((disks, mut story)) = on_disks_that_may_be_slow(&[]).await else { return };
    let slow = story.leader().await;
    let begun = Instant::now();
    disks.slow_down(&story, slow, Duration::from_millis(1500));
    eventually("leadership has moved", Duration::from_secs(20), async || story.leader().await != slow).await;
    println!("    leadership moved after {:?}", begun.elapsed());
    let moved = Instant::now();
    sleep(Duration::from_secs(5)).await;
    disks.speed_up(&story, slow);
    sleep(Duration::from_secs(2)).await;
    let (history, _) = story.end().await;
    let gap = history.longest_gap(moved + Duration::from_secs(1), moved + Duration::from_secs(5));
    println!("    longest gap afterwards: {gap:?}");
    assert!(gap < Duration::from_millis(500), "a slow follower holds up everybody: {gap:?}");
}

/// Where a disk is slow after a second, and gone after three.
const HASTY: [&str; 3] = ["--disk-degraded=300ms", "--disk-slow=1s", "--disk-failed=3s"];

#[tokio::test]
async fn a_node_whose_disk_hangs_leaves_and_the_others_go_on() {
    let Some((disks, mut story)) = on_disks_that_may_be_slow(&HASTY).await else { return };
    let hung = story.leader().await;
    let begun = Instant::now();
    disks.slow_down(&story, hung, Duration::from_secs(120));
    let end = story.cluster.node(hung).wait_end(Duration::from_secs(40)).await;
    let code = end.and_then(|end| end.code());
    assert_eq!(code, Some(5), "{end:?}; {}", story.cluster.node(hung).last_words());
    println!("    it left after {:?}", begun.elapsed());
    let gone = Instant::now();
    sleep(Duration::from_secs(3)).await;
    let (history, _) = story.end().await;
    let gap = history.longest_gap(gone + Duration::from_secs(1), gone + Duration::from_secs(3));
    println!("    longest gap afterwards: {gap:?}");
    assert!(gap < Duration::from_millis(500), "the others do not go on: {gap:?}");
}

#[tokio::test]
async fn when_all_disks_hang_nobody_leaves() {
    let Some((disks, mut story)) = on_disks_that_may_be_slow(&HASTY).await else { return };
    // Longer than any one of them would be let hang alone, and long enough for everybody to judge it.
    (0..3).for_each(|number| disks.slow_down(&story, number, Duration::from_secs(8)));
    eventually("somebody's disk is called failed", Duration::from_secs(20), async || {
        let pages = story.cluster.nodes().iter().map(|node| node.page("/readyz?verbose"));
        let pages = futures::future::join_all(pages).await;
        pages.into_iter().flatten().any(|page| page.body.contains("the disk hangs"))
    })
    .await;
    sleep(Duration::from_secs(4)).await;
    for node in story.cluster.nodes() {
        assert!(node.runs(), "{} left: {:?}; {}", node.name(), node.end(), node.last_words());
    }
    (0..3).for_each(|number| disks.speed_up(&story, number));
    eventually("everybody is back", Duration::from_secs(60), async || story.cluster.wait_ready().await.is_ok()).await;
    story.end().await;
    append(&story.journal, "and appends go on").await.unwrap();
    assert!(story.cluster.nodes().iter().all(|node| node.runs()), "somebody left afterwards");
}

/// The switches of the shim: it looks for a file before every sync.
struct Disks(tempfile::TempDir);

impl Disks {
    fn slow_down(&self, story: &Story, number: usize, by: Duration) {
        // In one step: half a number is another one.
        let fresh = self.0.path().join("fresh");
        std::fs::write(&fresh, by.as_millis().to_string()).unwrap();
        std::fs::rename(fresh, self.switch(story, number)).unwrap();
    }

    fn speed_up(&self, story: &Story, number: usize) {
        std::fs::remove_file(self.switch(story, number)).unwrap();
    }

    fn switch(&self, story: &Story, number: usize) -> PathBuf {
        self.0.path().join(format!("slow-{}", story.cluster.node(number).pid().unwrap()))
    }
}

async fn on_disks_that_may_be_slow(flags: &[&str]) -> Option<(Disks, Story)> {
    let dir = tempfile::tempdir().unwrap();
    let Some(shim) = compile(dir.path()) else {
        skipped("there is no C compiler to make a slow disk with");
        return None;
    };
    let mut options = Options { flags: flags.iter().copied().map(str::to_owned).collect(), ..Options::default() };
    options.environment.insert("LD_PRELOAD".into(), shim.display().to_string());
    options.environment.insert("SLOW_DISK_DIR".into(), dir.path().display().to_string());
    Some((Disks(dir), Story::begin_with(options).await))
}

fn compile(dir: &Path) -> Option<PathBuf> {
    let shim = dir.join("slow_disk.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim/slow_disk.c");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(&shim).arg(source).status();
    compiled.is_ok_and(|status| status.success()).then_some(shim)
}
