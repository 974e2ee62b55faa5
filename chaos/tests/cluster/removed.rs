//! A node that was removed and runs on: it knows, whether the word of it reached it or not, and holds
//! nobody up.

use std::time::Duration;

use chaos::cluster::{Cluster, Options};
use chaos::traffic::Load;
use futures::StreamExt;
use journal_client::{Change, Error, Journal, Settings, TailFrom, TrimPolicy};
use proto::{JournalName, NodeId};

use crate::support::{Story, append, carried_out, client_of, eventually};

#[tokio::test]
async fn a_removed_node_says_so_and_sends_everybody_elsewhere() {
    let load = Load { appenders: 4, streamers: 1, ..Load::default() };
    let mut story = Story::begin_under(Options::default(), load).await;
    let gone = story.follower().await;
    let address = story.cluster.node(gone).endpoint().to_string();
    // Somebody reads there, and should not notice.
    let from = story.journal.check_tail().await.unwrap().tail;
    let mut tail = story.journal.tail_at(from, TailFrom::Node(address.clone())).await.unwrap();
    remove(&story.cluster, gone).await;

    says_so(&story.cluster, gone).await;
    let now = story.journal.check_tail().await.unwrap().tail;
    let read = async { while tail.next().await.expect("the tail goes on").unwrap().to <= now {} };
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("a reader hangs on the removed node");
    // Whoever knows nobody else is told why he is not served.
    refuses_everything(&story.cluster, &address).await;
    story.end().await;
}

#[tokio::test]
async fn a_node_that_was_down_when_it_was_removed_hears_of_it_and_may_be_let_in_again() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let journal = cluster.journal("story").await.unwrap();
    append(&journal, "before").await.unwrap();
    let gone = 2;
    let id = NodeId(cluster.status(gone).await.unwrap().node_id);
    cluster.node(gone).kill9();
    let admin = cluster.client().unwrap().admin();
    let change = admin.change_members(Change::Remove { node: id }).await.unwrap();
    carried_out(&admin, &change).await;

    cluster.node(gone).start().unwrap();
    says_so(&cluster, gone).await;
    refuses_everything(&cluster, &cluster.node(gone).endpoint().to_string()).await;

    let address = cluster.node(gone).endpoint().to_string();
    admin.change_members(Change::AddLearner { address }).await.unwrap();
    eventually("it belongs again", Duration::from_secs(30), async || cluster.node(gone).ready().await.is_ok()).await;
    assert!(!cluster.status(gone).await.unwrap().removed);
}

#[tokio::test]
async fn a_cluster_that_is_started_again_does_not_wait_for_a_removed_node() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options { dir: Some(dir.path().to_owned()), ..Options::default() };
    let cluster = Cluster::start(options()).await.unwrap();
    remove(&cluster, 1).await;
    assert!(cluster.stop().await.is_empty());
    drop(cluster);

    let mut told = Vec::new();
    let cluster = Cluster::start_telling(options(), |line| told.push(line.to_owned())).await.unwrap();
    assert!(told.iter().any(|line| line.starts_with("n2 was removed")), "{told:?}");
    let journal = cluster.journal("story").await.unwrap();
    append(&journal, "with the other two").await.unwrap();
}

async fn remove(cluster: &Cluster, number: usize) {
    let id = NodeId(cluster.status(number).await.unwrap().node_id);
    let admin = cluster.client().unwrap().admin();
    let change = admin.change_members(Change::Remove { node: id }).await.unwrap();
    carried_out(&admin, &change).await;
}

async fn says_so(cluster: &Cluster, number: usize) {
    eventually("the node says that it was removed", Duration::from_secs(10), async || {
        let page = cluster.node(number).page("/readyz?verbose").await;
        page.is_ok_and(|page| page.status == 503 && page.body.contains("removed from the cluster"))
    })
    .await;
    let status = cluster.status(number).await.unwrap();
    assert!(status.removed && !status.ready && status.live, "{status:?}");
}

async fn refuses_everything(cluster: &Cluster, address: &str) {
    let settings = Settings { patience: Duration::from_secs(1), ..Settings::default() };
    let there = client_of([address.to_owned()], settings);
    let name: JournalName = "story".parse().unwrap();
    let admin = there.admin();
    let id = cluster.journal("story").await.unwrap().id();
    let answers = [
        ("open", there.journal(&name).await.err()),
        ("list", admin.list().await.err()),
        ("create", admin.create(&name, TrimPolicy::Free, 0).await.err()),
        ("delete", admin.delete(&name).await.err()),
        ("members", admin.change_members(Change::Remove { node: NodeId(1) }).await.err()),
        ("check the tail", there.journal_with_id(id).check_tail().await.err()),
        ("tail", there.journal_with_id(id).tail(proto::Position(1)).await.err()),
    ];
    for (what, error) in answers {
        let said = error.as_ref().map(Error::to_string).unwrap_or_default();
        assert!(said.contains("removed from the cluster"), "{what}: {error:?}");
    }
    let appended = append(&there.journal_with_id(id), "x").await.unwrap_err();
    assert!(appended.to_string().contains("removed from the cluster"), "{appended}");
}
