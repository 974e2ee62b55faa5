//! All nodes gone at once, under load. A killed process leaves its writes in the page cache, synced or
//! not; the simulation covers power cuts, which do not.

use std::time::Duration;

use tokio::time::sleep;

use crate::support::Story;

#[tokio::test]
async fn all_nodes_killed_at_once_come_back_with_everything_they_acknowledged() {
    let mut story = Story::begin().await;
    for _ in 0..2 {
        for node in story.cluster.nodes() {
            node.kill9();
        }
        for node in story.cluster.nodes() {
            node.start().unwrap();
        }
        story.cluster.wait_ready().await.unwrap();
        sleep(Duration::from_secs(1)).await;
    }
    story.end().await;
    for number in 0..3 {
        story.same_on(number).await;
    }
}

#[tokio::test]
async fn a_stopped_cluster_starts_again_from_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let options = || chaos::cluster::Options { dir: Some(dir.path().to_owned()), ..Default::default() };
    let mut story = Story::begin_with(options()).await;
    let endpoints = story.cluster.endpoints();
    let (_, before) = story.end().await;
    assert_eq!(story.cluster.stop().await, Vec::<String>::new(), "had to be killed");
    drop(story);

    let again = chaos::cluster::Cluster::start(options()).await.unwrap();
    assert_eq!(again.endpoints(), endpoints);
    let journal = again.journal("story").await.unwrap();
    let entries = chaos::traffic::read_all(&journal).await.unwrap();
    assert_eq!(entries.len(), before.entries);
}
