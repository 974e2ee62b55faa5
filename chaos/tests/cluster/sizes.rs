//! Entries as small and as large as the nodes are told to take.

use chaos::cluster::{Cluster, Options};
use chaos::traffic::read_all;
use futures::future::join_all;
use journal_client::{AppendError, Entry, Journal, Reason};

async fn cluster(entry_max: &str) -> Cluster {
    let flags = vec![format!("--entry-max={entry_max}"), "--inflight-max=16MiB".to_owned()];
    Cluster::start(Options { flags, ..Options::default() }).await.unwrap()
}

#[tokio::test]
async fn the_largest_entry_that_can_be_configured_goes_in_and_comes_out() {
    let cluster = cluster("16MiB").await;
    let journal = cluster.journal("large").await.unwrap();
    assert_eq!(journal.describe().await.unwrap().entry_bytes_max, 16 << 20);
    let payload = vec![7; 16 << 20];
    let position = journal.append(Entry::new(payload.clone())).await.unwrap();
    let refused = journal.append(Entry::new(vec![7; (16 << 20) + 1])).await;
    assert!(matches!(&refused, Err(AppendError::Rejected(why)) if why.reason == Reason::TooLarge), "{refused:?}");
    let entries = read_all(&journal).await.unwrap();
    assert!(entries == [(position, payload.into())], "it came out as something else");
}

#[tokio::test]
async fn nodes_that_take_small_messages_only_are_sent_small_messages_only() {
    let cluster = cluster("1KiB").await;
    let journal = cluster.journal("small").await.unwrap();
    // Together far more than fits in what such a node reads at once.
    let answers = join_all((0..2000).map(|_| journal.append(Entry::new(vec![7; 900])))).await;
    let failed: Vec<_> = answers.iter().filter(|answer| answer.is_err()).collect();
    assert!(failed.is_empty(), "{} of {} failed, the first: {:?}", failed.len(), answers.len(), failed[0]);
}
