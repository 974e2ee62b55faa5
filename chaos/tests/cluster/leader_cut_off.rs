//! The leader cannot reach its followers, but its clients can reach it.

use std::time::Duration;

use chaos::cluster::Options;
use tokio::time::{Instant, sleep};

use crate::support::{FAILOVER_MAX, Story, eventually};

#[tokio::test]
async fn appends_go_on_elsewhere_when_the_leader_is_cut_off_from_its_followers_only() {
    let mut story = Story::begin_with(Options { links: true, ..Options::default() }).await;
    let old = story.leader().await;
    let cut = Instant::now();
    story.cluster.isolate(old);
    eventually("it says what is wrong, until it gives up", FAILOVER_MAX, async || {
        let why = story.cluster.node(old).ready().await.err().unwrap_or_default();
        why.contains("story: its leader, this node, cannot reach a majority of its nodes")
    })
    .await;
    sleep((2 * FAILOVER_MAX).saturating_sub(cut.elapsed())).await;
    let new = story.leader().await;
    assert_ne!(new, old);
    story.cluster.heal();
    sleep(Duration::from_secs(1)).await;
    let (history, _) = story.end().await;
    let gap = history.longest_gap(cut, cut + 2 * FAILOVER_MAX);
    println!("    longest gap: {gap:?}");
    assert!(gap < FAILOVER_MAX, "{gap:?}");
    eventually("the old leader has caught up", Duration::from_secs(10), async || {
        story.cluster.node(old).ready().await.is_ok()
    })
    .await;
    story.same_on(old).await;
}

#[tokio::test]
async fn a_leader_that_hears_nobody_but_is_heard_does_not_stop_the_journal() {
    let mut story = Story::begin_with(Options { links: true, ..Options::default() }).await;
    let deaf = story.leader().await;
    let cut = Instant::now();
    for other in (0..3).filter(|other| *other != deaf) {
        // What it sends arrives; what comes back to it, on its connections and theirs, does not.
        story.cluster.link(deaf, other).set(|link| link.back.held = true);
        story.cluster.link(other, deaf).set(|link| link.there.held = true);
    }
    sleep(3 * FAILOVER_MAX).await;
    story.cluster.heal();
    sleep(Duration::from_secs(1)).await;
    let (history, _) = story.end().await;
    let gap = history.longest_gap(cut, cut + 3 * FAILOVER_MAX);
    println!("    longest gap: {gap:?}");
    // Its heartbeats hold back the election until it gives up by itself.
    assert!(gap < 2 * FAILOVER_MAX, "{gap:?}");
}
