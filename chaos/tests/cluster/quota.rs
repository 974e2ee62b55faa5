//! A journal that may take only so much of the disk.

use std::time::Duration;

use chaos::cluster::{Cluster, Options};
use journal_client::{AppendError, Entry, Journal, Reason, TrimPolicy};
use proto::Position;

use crate::support::eventually;

/// So small that a trim has files to remove.
const FLAGS: [&str; 2] = ["--segment-size=1MiB", "--entry-max=256KiB"];
const QUOTA: u64 = 6 << 20;

#[tokio::test]
async fn a_journal_over_its_quota_refuses_until_it_is_trimmed() {
    let flags = FLAGS.map(str::to_owned).to_vec();
    let cluster = Cluster::start(Options { flags, ..Options::default() }).await.unwrap();
    let client = cluster.client().unwrap();
    let journal = client.journal_or_create(&"small".parse().unwrap(), TrimPolicy::Free, QUOTA).await.unwrap();
    let other = cluster.journal("other").await.unwrap();
    let entry = || Entry::new(vec![7; 64 << 10]);

    let mut last = Position::NONE;
    let refusal = loop {
        match journal.append(entry()).await {
            Ok(position) => last = position,
            Err(AppendError::Rejected(refusal)) => break refusal,
            Err(unknown) => panic!("{unknown}"),
        }
        assert!(last.0 < 4 * QUOTA / (64 << 10), "nothing is ever refused");
    };
    assert_eq!(refusal.reason, Reason::Quota, "{refusal}");
    // It is this journal's alone, and what is urgent gets in still.
    other.append(entry()).await.unwrap();
    journal.append(Entry::urgent("urgent")).await.unwrap();

    journal.trim(last.next()).await.unwrap();
    eventually("appends are taken again", Duration::from_secs(20), async || journal.append(entry()).await.is_ok())
        .await;
}
