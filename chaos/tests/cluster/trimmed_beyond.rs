//! A node that was away for so long that the others have let go of what it lacks.

use std::time::Duration;

use chaos::cluster::{Cluster, Options};
use journal_client::{Journal, RemoteJournal};

use crate::support::{Story, append, eventually};

/// So small that a trim has files to remove.
const FLAGS: [&str; 2] = ["--segment-size=1MiB", "--entry-max=256KiB"];

async fn fill(journal: &RemoteJournal, bytes: usize) -> proto::Position {
    let mut last = proto::Position::NONE;
    for _ in 0..bytes / (64 << 10) {
        last = journal.append(journal_client::Entry::new(vec![7; 64 << 10])).await.unwrap();
    }
    last
}

/// The bytes that a node holds of a journal.
async fn held(cluster: &Cluster, number: usize, journal: &RemoteJournal) -> u64 {
    let status = cluster.status(number).await.unwrap();
    let group = status.groups.iter().find(|g| g.journal.as_ref().is_some_and(|j| j.id == journal.id().0)).cloned();
    group.expect("the node has the journal").disk_bytes
}

#[tokio::test]
async fn a_node_that_slept_through_a_trim_takes_a_snapshot_and_serves_again() {
    let flags = FLAGS.map(str::to_owned).to_vec();
    let mut story = Story::begin_with(Options { flags, ..Options::default() }).await;
    // What the appenders did is judged before anything of it is trimmed.
    story.end().await;
    let away = story.follower().await;
    story.cluster.node(away).kill9();
    let last = fill(&story.journal, 6 << 20).await;
    let leader = story.leader().await;
    let before = held(&story.cluster, leader, &story.journal).await;
    story.journal.trim(last).await.unwrap();
    eventually("what was trimmed is gone from the disk", Duration::from_secs(20), async || {
        held(&story.cluster, leader, &story.journal).await + (3 << 20) < before
    })
    .await;

    story.cluster.node(away).start().unwrap();
    story.cluster.wait_ready().await.unwrap();
    let next = append(&story.journal, "after the trim").await.unwrap();
    eventually("the node follows again", Duration::from_secs(20), async || {
        let status = story.cluster.status(away).await.unwrap();
        let id = story.journal.id().0;
        let group = status.groups.iter().find(|g| g.journal.as_ref().is_some_and(|j| j.id == id)).cloned();
        group.is_some_and(|group| group.tail > next.0)
    })
    .await;
    assert_eq!(story.journal.check_tail().await.unwrap().start, last, "the trim is where it was");
    story.same_on(away).await;

    // It is a voter like any other: with it, and without one of those that were there, appends go on.
    story.cluster.node(leader).kill9();
    eventually("appends go on", Duration::from_secs(10), async || {
        append(&story.journal, "with the one that was away").await.is_ok()
    })
    .await;
}
