//! A process that stands still with its sockets open.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::{FAILOVER_MAX, Story};

#[tokio::test]
async fn a_paused_leader_is_replaced_and_misleads_nobody_when_it_goes_on() {
    let mut story = Story::begin().await;
    let paused = story.leader().await;
    let begun = Instant::now();
    story.cluster.node(paused).pause();
    sleep(2 * FAILOVER_MAX).await;
    story.cluster.node(paused).resume();
    sleep(Duration::from_secs(1)).await;
    story.cluster.wait_ready().await.unwrap();
    let (history, _) = story.end().await;
    let gap = history.longest_gap(begun, begun + 2 * FAILOVER_MAX);
    println!("    longest gap: {gap:?}");
    assert!(gap < FAILOVER_MAX, "{gap:?}");
    story.same_on(paused).await;
}

#[tokio::test]
async fn a_paused_follower_is_not_missed() {
    let mut story = Story::begin().await;
    let paused = story.follower().await;
    let begun = Instant::now();
    story.cluster.node(paused).pause();
    sleep(Duration::from_secs(4)).await;
    story.cluster.node(paused).resume();
    sleep(Duration::from_secs(1)).await;
    story.cluster.wait_ready().await.unwrap();
    let (history, _) = story.end().await;
    let gap = history.longest_gap(begun, begun + Duration::from_secs(4));
    println!("    longest gap: {gap:?}");
    assert!(gap < Duration::from_secs(1), "{gap:?}");
    story.same_on(paused).await;
}
