//! Damage in a node that runs: found by whoever reads, or by the scrubber, and filled beneath them.

use std::path::PathBuf;
use std::time::Duration;

use chaos::cluster::Options;
use chaos::traffic::{Load, Traffic};
use tokio::time::sleep;

use crate::file_flipped::{find, flip};
use crate::support::{Story, eventually};

/// Segments of 1 MiB, so that some are sealed soon, and hardly anything in memory.
fn small(flags: &[&str]) -> Options {
    let sizes = ["--entry-max=64KiB", "--segment-size=1MiB", "--ring-size=64KiB"];
    Options {
        links: true,
        flags: sizes.iter().chain(flags).map(|flag| (*flag).to_owned()).collect(),
        ..Options::default()
    }
}

/// A cluster whose journal has sealed segments, and is not under load any more.
async fn filled(options: Options) -> Story {
    let mut story = Story::begin_with(options).await;
    story.end().await;
    let load = Load { entry_bytes: 4 << 10, ..Load::default() };
    let more = Traffic::start(story.journal.clone(), load, 100);
    sleep(Duration::from_secs(2)).await;
    let history = more.stop().await;
    let counts = history.counts();
    assert!(counts.committed > 100, "{counts:?}, such as {:?}", history.appends.first());
    story
}

/// Flips a bit of an early entry on a node; in a sealed segment, and not in memory any more. The file and
/// the place.
async fn hurt(story: &Story, number: usize) -> (PathBuf, u64) {
    let entries = chaos::traffic::read_all(story.journal.as_ref()).await.unwrap();
    let (_, payload) = &entries[20];
    let (file, at) = find(&story.cluster.node(number).dir(), payload).expect("it lies in a file as it was sent");
    assert!(file.to_string_lossy().ends_with("0000000000000001.seg"), "{}", file.display());
    flip(&file, at + 50);
    (file, at + 50)
}

async fn repaired(story: &Story, number: usize) -> u64 {
    story.cluster.status(number).await.unwrap().disk.unwrap().frames_repaired
}

#[tokio::test]
async fn a_reader_that_meets_a_flipped_bit_waits_for_its_repair_and_sees_nothing_of_it() {
    let story = filled(small(&["--scrub-rate=0"])).await;
    let follower = story.follower().await;
    let pid = story.cluster.node(follower).pid();
    hurt(&story, follower).await;
    assert_eq!(repaired(&story, follower).await, 0, "nobody has read it yet");
    story.same_on(follower).await;
    assert_eq!(repaired(&story, follower).await, 1);
    assert_eq!(story.cluster.node(follower).pid(), pid, "it was restarted");
}

#[tokio::test]
async fn what_nobody_reads_is_found_by_the_scrubber() {
    let story = filled(small(&["--scrub-rate=64MiB", "--scrub-interval=1s"])).await;
    let follower = story.follower().await;
    hurt(&story, follower).await;
    eventually("the scrubber has found it, and it is repaired", Duration::from_secs(10), async || {
        repaired(&story, follower).await == 1
    })
    .await;
    story.same_on(follower).await;
}

#[tokio::test]
async fn damage_that_nobody_fills_stops_the_journal_there_until_somebody_does() {
    let story = filled(small(&["--scrub-rate=64MiB", "--scrub-interval=1s"])).await;
    let follower = story.follower().await;
    let node = story.cluster.node(follower);
    let pid = node.pid();
    story.cluster.isolate(follower);
    hurt(&story, follower).await;
    eventually("the node says that it stopped, and why", Duration::from_secs(60), async || {
        node.ready().await.is_err_and(|why| why.contains("stopped: damaged") && why.contains("positions"))
    })
    .await;
    story.cluster.heal();
    eventually("it runs again", Duration::from_secs(20), async || node.ready().await.is_ok()).await;
    assert_eq!(node.pid(), pid, "it was restarted");
    story.same_on(follower).await;
}

#[tokio::test]
async fn damage_that_goes_away_by_itself_is_forgotten() {
    let story = filled(small(&["--scrub-rate=64MiB", "--scrub-interval=1s"])).await;
    let follower = story.follower().await;
    let node = story.cluster.node(follower);
    story.cluster.isolate(follower);
    let (file, at) = hurt(&story, follower).await;
    eventually("it is found", Duration::from_secs(10), async || {
        story.cluster.status(follower).await.unwrap().disk.unwrap().segments_damaged == 1
    })
    .await;
    flip(&file, at);
    eventually("it is looked at again", Duration::from_secs(30), async || {
        story.cluster.status(follower).await.unwrap().disk.unwrap().segments_damaged == 0
    })
    .await;
    assert_eq!(repaired(&story, follower).await, 0, "nothing was repaired");
    story.cluster.heal();
    eventually("it runs", Duration::from_secs(20), async || node.ready().await.is_ok()).await;
    story.same_on(follower).await;
}
