//! Single calls: the linearizable tail, trims, names, and the operator's.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use journal_client::{Error, Journal, Reason, TrimPolicy};
use proto::{JournalName, Position};
use tokio::time::Instant;

use crate::world::{JOURNAL, NAME, OnCall, World, entry, impatient, quick, read};

fn name(text: &str) -> JournalName {
    text.parse().unwrap()
}

#[tokio::test]
async fn callers_of_check_tail_share_the_requests_sent_after_they_came() {
    let world = World::new(3);
    let journal = Arc::new(world.journal());
    journal.append(entry("first")).await.unwrap();
    world.script(0, |script| script.hold_checks = true);
    let ask = || {
        let journal = journal.clone();
        tokio::spawn(async move { journal.check_tail().await.unwrap().tail })
    };
    let early = ask();
    world.until(|world| read(&world.counts(0).checks) == 1).await;
    // The first request has been answered in the node's mind; these come too late for it.
    let position = journal.append(entry("second")).await.unwrap();
    let late: Vec<_> = (0..100).map(|_| ask()).collect();
    tokio::time::sleep(Duration::from_millis(20)).await;
    world.script(0, |script| script.hold_checks = false);
    assert_eq!(early.await.unwrap(), position, "the early caller is answered with the old tail");
    for tail in join_all(late).await {
        assert!(tail.unwrap() > position, "a caller was answered with a tail from before its call");
    }
    assert_eq!(read(&world.counts(0).checks), 2, "a hundred callers, one request");
}

#[tokio::test]
async fn a_caller_who_leaves_takes_nobody_along() {
    let world = World::new(1);
    let journal = Arc::new(world.journal());
    world.script(0, |script| script.hold_checks = true);
    let leaves = tokio::time::timeout(Duration::from_millis(50), journal.check_tail());
    let stays = {
        let journal = journal.clone();
        tokio::spawn(async move { journal.check_tail().await })
    };
    assert!(leaves.await.is_err());
    world.script(0, |script| script.hold_checks = false);
    stays.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_check_is_asked_again_of_the_next_leader() {
    let world = World::new(3);
    let journal = Arc::new(world.journal());
    journal.check_tail().await.unwrap();
    world.script(0, |script| script.hold_checks = true);
    let asked = {
        let journal = journal.clone();
        tokio::spawn(async move { journal.check_tail().await })
    };
    world.until(|world| read(&world.counts(0).checks) == 2).await;
    world.kill(0);
    world.elect(Some(2));
    assert_eq!(asked.await.unwrap().unwrap().term, 2);
}

#[tokio::test]
async fn a_tail_that_went_back_is_not_passed_on() {
    let world = World::new(1);
    let journal = world.journal();
    for n in 0..5 {
        journal.append(entry(n.to_string())).await.unwrap();
    }
    world.script(0, |script| script.false_tail = Some(3));
    assert!(matches!(journal.check_tail().await, Err(Error::Protocol(_))));
}

#[tokio::test]
async fn nobody_waits_longer_than_patience() {
    let world = World::new(3);
    (0..3).for_each(|node| world.freeze(node));
    let journal = world.journal_with(impatient(Duration::from_millis(300)));
    let begun = Instant::now();
    assert!(matches!(journal.check_tail().await, Err(Error::Unavailable(_))));
    assert!(matches!(journal.trim(Position(1)).await, Err(Error::Unavailable(_))));
    assert!(journal.describe().await.is_err());
    // Patience for each, and one attempt that was under way when it ended.
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_trim_finds_the_leader() {
    let world = World::new(3);
    let journal = world.journal();
    let position = journal.append(entry("first")).await.unwrap();
    world.kill(0);
    world.elect(Some(1));
    assert_eq!(journal.trim(position.next()).await.unwrap(), position.next());
}

#[tokio::test]
async fn names_are_resolved_and_made() {
    let world = World::new(3);
    let cluster = world.cluster(quick());
    assert_eq!(cluster.journal(&name(NAME)).await.unwrap().id(), JOURNAL);
    let absent = cluster.journal(&name("absent")).await.err().unwrap();
    assert!(matches!(absent, Error::Refused(why) if why.reason == Reason::NoSuchJournal));
    let made = cluster.journal_or_create(&name("absent"), TrimPolicy::Free, 0).await.unwrap();
    made.append(entry("in")).await.unwrap();
    assert!(world.look(|log| log.created.contains(&"absent".to_owned())));
    assert!(cluster.journal(&name("absent")).await.is_ok());
}

#[tokio::test]
async fn a_name_is_resolved_while_some_nodes_are_gone() {
    let world = World::new(3);
    world.kill(0);
    world.freeze(1);
    let begun = Instant::now();
    world.cluster(quick()).journal(&name(NAME)).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(800), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_operators_call_finds_the_leader_by_hints() {
    let world = World::new(3);
    world.kill(0);
    world.elect(Some(2));
    let admin = world.cluster(quick()).admin();
    let (journal, new) = admin.create(&name("queue"), TrimPolicy::Free, 0).await.unwrap();
    assert!(new && journal.policy == TrimPolicy::Free && journal.name == "queue");
    let (_, new) = admin.create(&name("queue"), TrimPolicy::Free, 0).await.unwrap();
    assert!(!new);
    let listed: Vec<_> = admin.list().await.unwrap().into_iter().map(|j| j.name).collect();
    assert_eq!(listed, ["queue", NAME]);
    let failed = admin.set_quota(&name("queue"), 1).await;
    assert!(matches!(failed, Err(Error::Unavailable(_))), "{failed:?}");
}

#[tokio::test]
async fn what_may_have_happened_is_repeated_only_if_that_does_no_harm() {
    let world = World::new(1);
    let admin = world.cluster(quick()).admin();
    world.script(0, |script| script.catalogue.push_back(OnCall::DoAndCut));
    let (_, new) = admin.create(&name("queue"), TrimPolicy::Free, 0).await.unwrap();
    assert!(!new, "the second attempt found what the first had made");
    world.script(0, |script| script.catalogue.push_back(OnCall::DoAndCut));
    let outcome = admin.delete(&name("queue")).await;
    assert!(matches!(outcome, Err(Error::Unconfirmed(_))), "{outcome:?}");
    assert_eq!(world.look(|log| log.deleted.len()), 1);
    // What certainly did not happen is.
    world.kill(0);
    let revived = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.revive(0);
    };
    let queue = name("queue");
    let (deleted, ()) = tokio::join!(admin.delete(&queue), revived);
    deleted.unwrap();
}
