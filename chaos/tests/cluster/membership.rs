//! Growing from three nodes to five and shrinking back, to other three, under load.

use std::time::Duration;

use chaos::cluster::Options;
use journal_client::{Admin, Change};
use proto::NodeId;
use tokio::time::Instant;

use crate::support::{FAILOVER_MAX, Story, carried_out, eventually};

#[tokio::test]
async fn a_cluster_grows_to_five_and_shrinks_to_three_others_while_it_works() {
    let mut story = Story::begin_with(Options { spares: 2, ..Options::default() }).await;
    let begun = Instant::now();
    let admin = story.cluster.client().unwrap().admin();
    for new in [3, 4] {
        let node = story.cluster.node(new);
        node.start().unwrap();
        eventually("the new node listens", Duration::from_secs(20), async || story.cluster.status(new).await.is_ok())
            .await;
        let id = NodeId(story.cluster.status(new).await.unwrap().node_id);
        change(&admin, Change::AddLearner { address: node.endpoint().to_string() }).await;
        change(&admin, Change::Promote { node: id }).await;
        assert!(voters(&story).await.contains(&id.0));
    }
    assert_eq!(voters(&story).await.len(), 5);
    // The leader goes first: the hardest case.
    let leader = story.leader().await;
    let other = (0..3).find(|other| *other != leader).unwrap();
    for gone in [leader, other] {
        let id = NodeId(story.cluster.status(gone).await.unwrap().node_id);
        change(&admin, Change::Remove { node: id }).await;
        assert!(!voters(&story).await.contains(&id.0));
        story.cluster.node(gone).kill9();
    }
    assert_eq!(voters(&story).await.len(), 3);
    let length = begun.elapsed();
    let (history, _) = story.end().await;
    let gap = history.longest_gap(begun, begun + length);
    println!("    longest gap: {gap:?}");
    assert!(gap < FAILOVER_MAX, "{gap:?}");
    story.same_on(3).await;
    story.same_on(4).await;
}

/// Asks for a change and waits until it has been carried out.
async fn change(admin: &Admin, change: Change) {
    let what = format!("{change:?}");
    let change = admin.change_members(change).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    carried_out(admin, &change).await;
}

/// Who votes in the story's journal.
async fn voters(story: &Story) -> Vec<u64> {
    let leader = story.leader().await;
    let status = story.cluster.status(leader).await.unwrap();
    let groups = status.groups.into_iter();
    let of = |group: &proto::journal::GroupStatus| group.journal.as_ref().map(|journal| journal.id);
    groups.into_iter().find(|group| of(group) == Some(story.journal.id().0)).unwrap().voters
}
