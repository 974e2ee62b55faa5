//! Journals that cannot be opened, and journals that should be gone.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;

use crate::support::{Story, append, eventually};

/// A journal's own file is of a format that nobody knows; then it is not.
#[tokio::test]
async fn a_journal_that_cannot_be_opened_is_tried_again_until_it_can() {
    let mut story = Story::begin().await;
    let number = story.follower().await;
    story.end().await;
    let node = story.cluster.node(number);
    node.kill9();
    let file = node.dir().join(format!("groups/{}/0000000000000001.seg", story.journal.id()));
    let header = std::fs::read(&file).unwrap()[..8192].to_vec();
    let write = |bytes: &[u8]| {
        use std::os::unix::fs::FileExt;
        std::fs::File::options().write(true).open(&file).unwrap().write_all_at(bytes, 0).unwrap();
    };
    write(&[0; 8192]);
    node.start().unwrap();
    eventually("the node says what it cannot open", Duration::from_secs(10), async || {
        node.ready().await.is_err_and(|why| why.contains("its header cannot be read"))
    })
    .await;
    let pid = node.pid();
    write(&header);
    eventually("it is opened", Duration::from_secs(20), async || node.ready().await.is_ok()).await;
    assert_eq!(node.pid(), pid, "it was restarted");
    story.same_on(number).await;
}

/// One that was deleted while a node was away, and one whose removal was interrupted by a crash.
#[tokio::test]
async fn what_is_left_of_deleted_journals_is_removed_at_the_next_start() {
    let mut story = Story::begin().await;
    let number = story.follower().await;
    let doomed = story.cluster.journal("doomed").await.unwrap();
    append(&doomed, "something").await.unwrap();
    let node = story.cluster.node(number);
    let dir = |id: String| -> PathBuf { node.dir().join("groups").join(id) };
    let doomed_dir = dir(doomed.id().to_string());
    eventually("the node has the journal", Duration::from_secs(10), async || doomed_dir.is_dir()).await;
    sleep(Duration::from_millis(300)).await;
    node.kill9();
    story.cluster.client().unwrap().admin().delete(&"doomed".parse().unwrap()).await.unwrap();
    // No journal was ever created at this position: its directory is not in the node file.
    let forgotten = dir("1".into());
    std::fs::create_dir(&forgotten).unwrap();
    let segment = dir(story.journal.id().to_string()).join("0000000000000001.seg");
    std::fs::copy(segment, forgotten.join("0000000000000001.seg")).unwrap();
    node.start().unwrap();
    eventually("both are gone", Duration::from_secs(15), async || !doomed_dir.exists() && !forgotten.exists()).await;
    eventually("the node is ready", Duration::from_secs(10), async || node.ready().await.is_ok()).await;
    // And it stays a node that starts.
    node.kill9();
    node.start().unwrap();
    eventually("the node is ready again", Duration::from_secs(10), async || node.ready().await.is_ok()).await;
    story.end().await;
    story.same_on(number).await;
}
