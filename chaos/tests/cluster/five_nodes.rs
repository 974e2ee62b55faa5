//! Five nodes that form their cluster at once.

use std::time::Duration;

use chaos::cluster::{Cluster, Options};

use crate::support::{append, eventually};

#[tokio::test]
async fn five_nodes_form_one_cluster_and_go_on_without_two_of_them() {
    let cluster = Cluster::start(Options { nodes: Some(5), ..Options::default() }).await.unwrap();
    let journal = cluster.journal("five").await.unwrap();
    append(&journal, "with five").await.unwrap();
    let mut clusters = std::collections::BTreeSet::new();
    for number in 0..5 {
        let status = cluster.status(number).await.unwrap();
        assert_eq!(status.members.len(), 5, "{status:?}");
        clusters.insert(status.cluster_id);
    }
    assert_eq!(clusters.len(), 1, "{clusters:?}");

    let leader = cluster.leader_of(journal.id()).await.unwrap();
    for gone in [leader, (leader + 1) % 5] {
        cluster.node(gone).kill9();
    }
    eventually("three of five go on", Duration::from_secs(10), async || append(&journal, "with three").await.is_ok())
        .await;
}
