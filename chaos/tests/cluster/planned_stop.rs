//! What operators do on purpose: move a leadership, restart a node.

use std::time::Duration;

use chaos::cluster::{Cluster, Options};
use chaos::history::Outcome;
use proto::NodeId;
use tokio::time::{Instant, sleep};

use crate::support::{FAILOVER_MAX, Story, append, eventually};

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

/// More than could be handed over one after the other within the drain, on links as slow as these.
const JOURNALS: usize = 40;
const ONE_WAY: Duration = Duration::from_millis(150);

#[tokio::test]
async fn a_node_that_leads_many_journals_hands_all_of_them_over_and_stops_in_time() {
    let cluster = Cluster::start(Options { links: true, ..Options::default() }).await.unwrap();
    let mut journals = Vec::new();
    for number in 0..JOURNALS {
        journals.push(cluster.journal(&format!("j{number}")).await.unwrap());
    }
    let admin = cluster.client().unwrap().admin();
    let first = NodeId(cluster.status(0).await.unwrap().node_id);
    eventually("one node leads them all", Duration::from_secs(30), async || {
        for number in 1..3 {
            let address = cluster.node(number).endpoint().to_string();
            // What it cannot move yet it is asked for again.
            let _ = admin.transfer_all_leaders(&address, Some(first)).await;
        }
        let status = cluster.status(0).await.unwrap();
        status.groups.iter().filter(|group| group.role == "leader").count() == JOURNALS + 1
    })
    .await;
    for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
        cluster.link(from, to).set(|link| link.there.delay = ONE_WAY);
    }
    // Whoever is heard so late is still heard.
    sleep(Duration::from_secs(2)).await;

    let begun = Instant::now();
    let node = cluster.node(0);
    node.terminate();
    let end = node.wait_end(Duration::from_secs(15)).await;
    println!("    stopped in {:?}", begun.elapsed());
    assert!(end.is_some_and(|end| end.success()), "{end:?}; {}", node.last_words());
    let log = std::fs::read_to_string(node.log()).unwrap();
    for trouble in ["the stop took longer", "could not be handed over"] {
        assert!(!log.contains(trouble), "{trouble}; {}", node.last_words());
    }
    cluster.heal();
    for journal in &journals {
        eventually("its next leader takes entries", Duration::from_secs(10), async || {
            append(journal, "at the next leader").await.is_ok()
        })
        .await;
    }
}
