//! kill -9 of the leader, three times, under load.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::{FAILOVER_MAX, Story};

#[tokio::test]
async fn a_killed_leader_costs_nothing_but_a_moment() {
    let mut story = Story::begin().await;
    let mut kills = Vec::new();
    for _ in 0..3 {
        let leader = story.leader().await;
        kills.push(Instant::now());
        story.cluster.node(leader).kill9();
        sleep(FAILOVER_MAX).await;
        story.cluster.node(leader).start().unwrap();
        story.cluster.wait_ready().await.unwrap();
        sleep(Duration::from_millis(500)).await;
    }
    let (history, _) = story.end().await;
    for kill in kills {
        let gap = history.longest_gap(kill, kill + FAILOVER_MAX);
        println!("    longest gap after a kill: {gap:?}");
        assert!(gap < FAILOVER_MAX, "{gap:?}");
    }
    for number in 0..3 {
        story.same_on(number).await;
    }
}
