//! What operators do on purpose: move a leadership, restart a node.

use std::time::Duration;

use chaos::history::Outcome;
use tokio::time::{Instant, sleep};

use crate::support::{FAILOVER_MAX, Story};

#[tokio::test]
async fn a_planned_transfer_is_noticed_by_nobody() {
    let mut story = Story::begin().await;
    let admin = story.cluster.client().unwrap().admin();
    let begun = Instant::now();
    for _ in 0..3 {
        let before = story.leader().await;
        admin.transfer_leader(story.journal.id(), None).await.unwrap();
        sleep(Duration::from_millis(500)).await;
        assert_ne!(story.leader().await, before);
    }
    let (history, _) = story.end().await;
    let failed: Vec<_> =
        history.appends.iter().filter(|append| !matches!(append.outcome, Outcome::Committed(_))).collect();
    assert!(failed.is_empty(), "{} were not committed, the first: {:?}", failed.len(), failed[0]);
    println!("    longest gap: {:?}", history.longest_gap(begun, begun + Duration::from_millis(1_500)));
}

#[tokio::test]
async fn a_rolling_restart_loses_nothing_and_every_node_stops_by_itself() {
    let mut story = Story::begin().await;
    let begun = Instant::now();
    for number in 0..3 {
        let node = story.cluster.node(number);
        node.terminate();
        let end = node.wait_end(Duration::from_secs(15)).await;
        assert!(end.is_some_and(|end| end.success()), "{}: {end:?}; {}", node.name(), node.last_words());
        node.start().unwrap();
        story.cluster.wait_ready().await.unwrap();
    }
    let length = begun.elapsed();
    let (history, _) = story.end().await;
    let gap = history.longest_gap(begun, begun + length);
    println!("    longest gap: {gap:?}");
    assert!(gap < FAILOVER_MAX, "{gap:?}");
}
