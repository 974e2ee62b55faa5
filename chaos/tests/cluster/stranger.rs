//! A lost disk: the node comes back empty, with the flags that it always had.

use std::time::Duration;

use chaos::cluster::Options;
use journal_client::Change;
use proto::NodeId;
use tokio::time::sleep;

use crate::support::{Story, carried_out, eventually};

#[tokio::test]
async fn a_wiped_node_comes_back_as_a_stranger_and_is_let_in_again_only_on_purpose() {
    let mut story = Story::begin().await;
    let wiped = story.follower().await;
    let node = story.cluster.node(wiped);
    let old = NodeId(story.cluster.status(wiped).await.unwrap().node_id);
    node.kill9();
    node.wipe().unwrap();
    node.start().unwrap();

    eventually("the node listens again", Duration::from_secs(20), async || story.cluster.status(wiped).await.is_ok())
        .await;
    sleep(Duration::from_secs(3)).await;
    let stranger = story.cluster.status(wiped).await.unwrap();
    assert_ne!(NodeId(stranger.node_id), old, "a wiped disk kept its identity");
    assert!(node.ready().await.is_err(), "a stranger says that it is ready");
    for (other, _) in story.cluster.others(wiped).collect::<Vec<_>>() {
        let status = story.cluster.status(other).await.unwrap();
        let voters: Vec<_> = status.groups.iter().flat_map(|group| group.voters.clone()).collect();
        assert!(!voters.contains(&stranger.node_id), "the stranger votes");
    }

    replace(&story, old, wiped).await;
    story.end().await;
    story.same_on(wiped).await;
}

#[tokio::test]
async fn a_dead_follower_is_replaced_by_a_new_node_at_another_address() {
    let mut story = Story::begin_with(Options { spares: 1, ..Options::default() }).await;
    let dead = story.follower().await;
    let old = NodeId(story.cluster.status(dead).await.unwrap().node_id);
    story.cluster.node(dead).kill9();
    story.cluster.node(3).start().unwrap();
    eventually("the new node listens", Duration::from_secs(20), async || story.cluster.status(3).await.is_ok()).await;
    replace(&story, old, 3).await;
    story.end().await;
    story.same_on(3).await;
}

/// Lets node `new` take the place of `old`, and waits until it has.
async fn replace(story: &Story, old: NodeId, new: usize) {
    let admin = story.cluster.client().unwrap().admin();
    let node = story.cluster.node(new);
    let change = Change::Replace { old, new_address: node.endpoint().to_string() };
    let change = admin.change_members(change).await.unwrap();
    carried_out(&admin, &change).await;
    let new_id = story.cluster.status(new).await.unwrap().node_id;
    eventually("the new node votes in every group, the old one in none", Duration::from_secs(60), async || {
        let leader = story.leader().await;
        let Ok(status) = story.cluster.status(leader).await else { return false };
        status.groups.iter().all(|group| group.voters.contains(&new_id) && !group.voters.contains(&old.0))
    })
    .await;
    eventually("the new node is ready", Duration::from_secs(30), async || node.ready().await.is_ok()).await;
}
