//! A node that is behind, and is asked about what it has not heard of yet.

use chaos::cluster::{Cluster, Options};
use journal_client::{Error, Reason, Settings, TrimPolicy};
use proto::{JournalId, JournalName};

use crate::support::client_of;

#[tokio::test]
async fn a_node_that_has_not_heard_of_a_journal_does_not_deny_that_there_is_one() {
    let cluster = Cluster::start(Options { links: true, ..Options::default() }).await.unwrap();
    let leader = cluster.leader_of(JournalId::SYSTEM).await.unwrap();
    let stale = (leader + 1) % 3;
    cluster.isolate(stale);
    let endpoints: Vec<_> = cluster.nodes().iter().map(|node| node.endpoint().to_string()).collect();
    let elsewhere = endpoints.iter().filter(|endpoint| **endpoint != endpoints[stale]).cloned();
    let elsewhere = client_of(elsewhere, Settings::default()).admin();
    let name: JournalName = "young".parse().unwrap();
    elsewhere.create(&name, TrimPolicy::Free, 0).await.unwrap();

    // The first node that is asked is the one that knows nothing.
    let from_stale = [stale, leader].map(|number| endpoints[number].clone());
    let admin = client_of(from_stale, Settings::default()).admin();
    assert_eq!(admin.set_quota(&name, 1 << 30).await.unwrap().quota_bytes, 1 << 30);
    let listed: Vec<_> =
        admin.list().await.unwrap().into_iter().map(|journal| (journal.name, journal.quota_bytes)).collect();
    assert_eq!(listed, [(name.to_string(), 1 << 30)]);
    admin.delete(&name).await.unwrap();
    // What is no more is denied, by somebody who knows.
    let again = admin.delete(&name).await;
    assert!(matches!(&again, Err(Error::Refused(why)) if why.reason == Reason::NoSuchJournal), "{again:?}");
    cluster.heal();
}
