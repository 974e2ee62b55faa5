//! What a node at work shows of itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::support::{Story, eventually};

/// One of each kind that an operator was promised.
const KINDS: [&str; 14] = [
    // How long an append's stages take.
    "journal_append_admission_seconds_count",
    "journal_segment_durable_seconds_count",
    "journal_append_commit_seconds_count",
    "journal_append_answer_seconds_count",
    // How long syncs take, how much is synced at once, and how long it waited.
    "journal_segment_sync_seconds_count",
    "journal_segment_batch_entries_count",
    "journal_segment_queue_age_seconds_count",
    // Where the journal is, who leads it, how far the others are behind.
    "journal_commit_position",
    "journal_applied_position",
    "journal_leads",
    "journal_leader_changes_total",
    "journal_peer_lag_positions",
    // What it takes, and what was lost and found.
    "journal_segment_disk_bytes",
    "journal_segment_frames_repaired_total",
];

#[tokio::test]
async fn a_node_shows_what_was_promised_and_explains_what_it_shows() {
    let mut story = Story::begin().await;
    let leader = story.leader().await;
    let journal = format!("journal=\"{}\"", story.journal.id().0);
    let page = async |story: &Story| story.cluster.node(leader).page("/metrics").await.unwrap().body;
    let value = |page: &str, name: &str| -> Option<f64> {
        let of_ours = |line: &&str| line.starts_with(&format!("{name}{{")) && line.contains(&journal);
        page.lines().find(of_ours)?.rsplit_once(' ')?.1.parse().ok()
    };
    for name in KINDS {
        let may_be_nothing = name.contains("lag") || name.contains("repaired");
        eventually(name, Duration::from_secs(10), async || {
            value(&page(&story).await, name).is_some_and(|value| value > 0.0 || may_be_nothing)
        })
        .await;
    }
    story.end().await;

    let handbook = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/OPERATIONS.md");
    let handbook = std::fs::read_to_string(handbook).unwrap();
    let page = page(&story).await;
    let names = |mark: &str| -> BTreeSet<String> {
        let marked = page.lines().filter_map(|line| line.strip_prefix(mark)?.split(' ').next());
        marked.map(str::to_owned).collect()
    };
    let (exported, explained) = (names("# TYPE "), names("# HELP "));
    let silent: Vec<_> = exported.difference(&explained).collect();
    assert!(silent.is_empty(), "no help text: {silent:?}");
    let unlisted: Vec<_> = exported.iter().filter(|name| !handbook.contains(&format!("| `{name}` |"))).collect();
    assert!(unlisted.is_empty(), "not in docs/OPERATIONS.md: {unlisted:?}");
}
