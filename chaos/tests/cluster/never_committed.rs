//! A node has lost what nobody else ever had.

use std::time::Duration;

use chaos::cluster::Options;
use chaos::history::Outcome;
use chaos::traffic::Load;
use tokio::time::sleep;

use crate::file_flipped::{find, flip};
use crate::support::{Story, eventually};

/// A leader that is cut off takes entries that reach nobody, and is damaged in one of them. The others
/// have gone on in a later term without it: it cannot have been committed, so the node gives it up
/// instead of waiting for ever.
#[tokio::test]
async fn a_damaged_entry_that_nobody_else_ever_had_is_given_up() {
    // Most of the appenders rest when the leader is cut off, and append to it then.
    let load = Load { appenders: 32, rest: Duration::from_millis(50), ..Load::default() };
    let mut story = Story::begin_under(Options { links: true, ..Options::default() }, load).await;
    let old = story.leader().await;
    story.cluster.isolate(old);
    sleep(Duration::from_secs(3)).await;
    assert_ne!(story.leader().await, old);
    let (history, _) = story.end().await;
    // Time for an idle mark, which proves that all before it is synced.
    sleep(Duration::from_millis(300)).await;
    let node = story.cluster.node(old);
    node.kill9();
    let entries = chaos::traffic::read_all(story.journal.as_ref()).await.unwrap();
    let unknown = history.appends.iter().filter(|append| matches!(append.outcome, Outcome::Unknown(_)));
    let lonely = unknown.map(|append| append.mark.payload(256)).find_map(|payload| {
        let elsewhere = entries.iter().any(|(_, other)| *other == payload);
        find(&node.dir(), &payload).filter(|_| !elsewhere)
    });
    let (file, at) = lonely.expect("the old leader has an entry that nobody else has");
    flip(&file, at + 100);
    story.cluster.heal();
    node.start().unwrap();
    eventually("the node runs again", Duration::from_secs(30), async || node.ready().await.is_ok()).await;
    story.same_on(old).await;
    let log = std::fs::read_to_string(node.log()).unwrap();
    assert!(log.contains("cut what others never had"), "nothing was given up");
}
