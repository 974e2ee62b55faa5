//! A disk that still works, a thousand times slower.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use chaos::cluster::Options;
use tokio::time::{Instant, sleep};

use crate::support::{Story, eventually, skipped};

#[tokio::test]
async fn a_leader_with_a_slow_disk_gives_leadership_away_and_the_service_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let Some(shim) = compile(dir.path()) else {
        skipped("there is no C compiler to make a slow disk with");
        return;
    };
    let mut options = Options::default();
    options.environment.insert("LD_PRELOAD".into(), shim.display().to_string());
    options.environment.insert("SLOW_DISK_DIR".into(), dir.path().display().to_string());
    let mut story = Story::begin_with(options).await;
    let slow = story.leader().await;
    let begun = Instant::now();
    // The shim looks for this file before every sync.
    let pid = story.cluster.node(slow).pid().unwrap();
    let switch = dir.path().join(format!("slow-{pid}"));
    std::fs::write(&switch, "1500").unwrap();
    eventually("leadership has moved", Duration::from_secs(20), async || story.leader().await != slow).await;
    println!("    leadership moved after {:?}", begun.elapsed());
    let moved = Instant::now();
    sleep(Duration::from_secs(5)).await;
    std::fs::remove_file(&switch).unwrap();
    sleep(Duration::from_secs(2)).await;
    let (history, _) = story.end().await;
    let gap = history.longest_gap(moved + Duration::from_secs(1), moved + Duration::from_secs(5));
    println!("    longest gap afterwards: {gap:?}");
    assert!(gap < Duration::from_millis(500), "a slow follower holds up everybody: {gap:?}");
}

fn compile(dir: &Path) -> Option<PathBuf> {
    let shim = dir.join("slow_disk.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim/slow_disk.c");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(&shim).arg(source).status();
    compiled.is_ok_and(|status| status.success()).then_some(shim)
}
