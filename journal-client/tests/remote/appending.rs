//! Appends: the three outcomes, whatever happens to the leader and to the way there.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use journal_client::{AppendError, Entry, Journal, Reason};
use tokio::time::{Instant, timeout};

use crate::world::{OnAppend, World, assert_rejected, assert_unknown, entry, impatient, quick, read};

#[tokio::test]
async fn an_answer_that_is_lost_is_unknown_and_nothing_is_sent_twice() {
    for step in [OnAppend::TakeAndCut, OnAppend::Cut] {
        let world = World::new(3);
        let journal = world.journal();
        journal.append(entry("first")).await.unwrap();
        world.on_append(0, [step.clone()]);
        assert_unknown(&journal.append(entry("lost")).await);
        journal.append(entry("after")).await.unwrap();
        let taken = matches!(step, OnAppend::TakeAndCut);
        let there: &[&str] = if taken { &["first", "lost", "after"] } else { &["first", "after"] };
        assert_eq!(world.texts(), there);
    }
}

#[tokio::test]
async fn what_the_server_does_not_know_is_unknown() {
    let world = World::new(1);
    let journal = world.journal();
    world.on_append(0, [OnAppend::TakeAndSayUnknown]);
    assert_unknown(&journal.append(entry("perhaps")).await);
    journal.append(entry("after")).await.unwrap();
    assert_eq!(world.texts(), ["perhaps", "after"]);
}

#[tokio::test]
async fn a_leader_that_dies_costs_only_what_was_sent_to_it() {
    let world = World::new(3);
    // One entry at a time is under way; the others wait here.
    world.script(0, |script| script.inflight_bytes_max = Some(1));
    let journal = Arc::new(world.journal());
    journal.append(entry("before")).await.unwrap();
    world.on_append(0, [OnAppend::Hang]);
    let append = |text: String| {
        let journal = journal.clone();
        tokio::spawn(async move { journal.append(entry(text)).await })
    };
    let sent = append("sent".into());
    world.until(|world| read(&world.counts(0).entries) == 2).await;
    let waiting: Vec<_> = (0..20).map(|n| append(format!("waiting {n}"))).collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.kill(0);
    world.elect(Some(1));
    for outcome in join_all(waiting).await {
        outcome.unwrap().expect("what was never sent goes to the next leader");
    }
    assert_unknown(&sent.await.unwrap());
    assert_eq!(world.texts().len(), 21);
}

#[tokio::test]
async fn a_leader_that_falls_silent_is_left_within_two_seconds() {
    let world = World::new(3);
    let journal = world.journal();
    journal.append(entry("before")).await.unwrap();
    world.freeze(0);
    let begun = Instant::now();
    let sent = journal.append(entry("sent")).await;
    assert_unknown(&sent);
    world.elect(Some(2));
    journal.append(entry("after")).await.unwrap();
    // Keep-alive: half a second, and one for the answer; then one for a node that does not answer.
    let gap = begun.elapsed();
    assert!(gap < Duration::from_millis(2900), "{gap:?}");
    assert_eq!(world.texts(), ["before", "after"]);
}

#[tokio::test]
async fn a_deposed_leader_is_left_once_a_newer_term_is_seen() {
    let world = World::new(3);
    let journal = Arc::new(world.journal());
    journal.append(entry("before")).await.unwrap();
    // It goes on believing, and answers nothing any more.
    world.on_append(0, [OnAppend::Hang]);
    world.script(0, |script| script.deposed = Some(1));
    let sent = tokio::spawn({
        let journal = journal.clone();
        async move { journal.append(entry("sent")).await }
    });
    world.until(|world| read(&world.counts(0).entries) == 2).await;
    world.elect(Some(1));
    let begun = Instant::now();
    let mut tail = journal.tail_at(proto::Position(2), journal_client::TailFrom::Node(world.address(2))).await.unwrap();
    futures::StreamExt::next(&mut tail).await.unwrap().unwrap();
    assert_unknown(&sent.await.unwrap());
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    journal.append(entry("after")).await.unwrap();
    assert_eq!(world.texts(), ["before", "after"]);
}

#[tokio::test]
async fn stale_hints_are_followed_to_nowhere_and_survived() {
    let world = World::new(3);
    world.elect(Some(2));
    // Both others are sure of each other, and one of somebody who does not exist.
    world.script(0, |script| script.hint = Some(world.address(1)));
    world.script(1, |script| script.hint = Some("gone:1".into()));
    let journal = world.journal();
    journal.append(entry("in")).await.unwrap();
    journal.check_tail().await.unwrap();
    assert_eq!(world.texts(), ["in"]);
}

#[tokio::test]
async fn no_leader_is_waited_for() {
    let world = World::new(3);
    world.elect(None);
    let journal = Arc::new(world.journal());
    let waiting = tokio::spawn({
        let journal = journal.clone();
        async move { journal.append(entry("patient")).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    world.elect(Some(1));
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn patience_ends_with_a_rejection_since_nothing_was_sent() {
    let world = World::new(3);
    world.elect(None);
    let journal = world.journal_with(impatient(Duration::from_millis(300)));
    let begun = Instant::now();
    let outcome = journal.append(entry("late")).await;
    assert!(matches!(&outcome, Err(AppendError::Rejected(why)) if why.reason.passes()), "{outcome:?}");
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(2), "{took:?}");
    world.elect(Some(0));
    journal.append(entry("after")).await.unwrap();
    assert_eq!(world.texts(), ["after"]);
}

#[tokio::test]
async fn nodes_that_are_all_gone_are_a_rejection_too() {
    let world = World::new(3);
    (0..3).for_each(|node| world.kill(node));
    let journal = world.journal_with(impatient(Duration::from_millis(200)));
    let outcome = journal.append(entry("nowhere")).await;
    assert!(matches!(outcome, Err(AppendError::Rejected(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_journal_that_does_not_exist_is_said_at_once() {
    let world = World::new(3);
    let journal = world.cluster(quick()).journal_with_id(proto::JournalId(404));
    let begun = Instant::now();
    assert_rejected(&journal.append(entry("where?")).await, Reason::NoSuchJournal);
    assert!(journal.appender().await.is_err());
    assert!(journal.tail(proto::Position(1)).await.is_err());
    assert!(journal.check_tail().await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn lack_of_room_is_told_to_those_whom_it_concerns() {
    let world = World::new(1);
    let journal = world.journal();
    journal.append(entry("before")).await.unwrap();
    // All of these travel together; the node refuses from the first on.
    world.on_append(0, [OnAppend::Reject { commit: 0, reason: Reason::NoRoom }]);
    let ordinary = join_all((0..5).map(|n| journal.append(entry(format!("ordinary {n}")))));
    let urgent = join_all((0..3).map(|n| journal.append(Entry::urgent(format!("urgent {n}")))));
    let (ordinary, urgent) = tokio::join!(biased; ordinary, urgent);
    for outcome in &ordinary {
        assert_rejected(outcome, Reason::NoRoom);
    }
    assert!(urgent.iter().all(Result::is_ok), "{urgent:?}");
    assert_eq!(world.texts(), ["before", "urgent 0", "urgent 1", "urgent 2"]);
}

#[tokio::test]
async fn an_own_appender_ends_where_order_would_break() {
    let world = World::new(3);
    let journal = world.journal();
    let appender = journal.appender().await.unwrap();
    world.on_append(0, [OnAppend::Reject { commit: 2, reason: Reason::NotLeader }]);
    let entries = (0..5).map(|n| entry(n.to_string())).collect();
    let outcomes = join_all(appender.append(entries).await).await;
    assert!(outcomes[..2].iter().all(Result::is_ok));
    assert!(outcomes[2..].iter().all(|o| matches!(o, Err(AppendError::Rejected(_)))));
    let late = appender.append(vec![entry("late")]).await.pop().unwrap().await;
    assert_rejected(&late, Reason::StreamEnded);
    assert_eq!(world.texts(), ["0", "1"]);
}

#[tokio::test]
async fn an_own_appender_outlives_a_connection_that_took_nothing_with_it() {
    let world = World::new(3);
    let journal = world.journal();
    let appender = journal.appender().await.unwrap();
    for n in 0..3 {
        let ticket = appender.append(vec![entry(n.to_string())]).await.pop().unwrap();
        ticket.await.unwrap();
        world.cut(0);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.texts(), ["0", "1", "2"]);
}

#[tokio::test]
async fn a_node_that_answers_too_much_is_not_believed() {
    let world = World::new(1);
    let journal = world.journal();
    world.on_append(0, [OnAppend::Overanswer]);
    assert_unknown(&journal.append(entry("strange")).await);
    journal.append(entry("after")).await.unwrap();
}

#[tokio::test]
async fn who_gave_up_before_his_entry_was_sent_finds_it_nowhere() {
    let world = World::new(1);
    world.elect(None);
    let journal = world.journal();
    let given_up = timeout(Duration::from_millis(100), journal.append(entry("given up"))).await;
    assert!(given_up.is_err());
    world.elect(Some(0));
    journal.append(entry("after")).await.unwrap();
    assert_eq!(world.texts(), ["after"]);
}

#[tokio::test]
async fn callers_who_come_together_travel_together() {
    let world = World::new(1);
    let journal = world.journal();
    journal.append(entry("warm")).await.unwrap();
    world.on_append(0, [OnAppend::Delay(Duration::from_millis(20))]);
    let outcomes = join_all((0..256).map(|n| journal.append(entry(n.to_string())))).await;
    assert!(outcomes.iter().all(Result::is_ok));
    let messages = read(&world.counts(0).messages);
    assert!(messages <= 6, "257 entries in {messages} messages");
    assert_eq!(read(&world.counts(0).append_streams), 1);
}

#[tokio::test]
async fn messages_and_bytes_without_an_answer_are_bounded() {
    let world = World::new(1);
    world.script(0, |script| script.inflight_bytes_max = Some(1 << 20));
    let journal = world.journal();
    let payload = vec![b'x'; 30_000];
    let outcomes = join_all((0..200).map(|_| journal.append(Entry::new(payload.clone())))).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert!(read(&world.counts(0).largest_message) <= 256 << 10);

    // One that is larger than all bounds travels alone.
    let large = Entry::new(vec![b'y'; 2 << 20]);
    journal.append(large).await.unwrap();
    assert_eq!(read(&world.counts(0).largest_message), 2 << 20);

    // Unanswered: the node reads on, and the client holds back.
    world.on_append(0, (0..200).map(|_| OnAppend::Delay(Duration::from_millis(1))));
    join_all((0..100).map(|_| journal.append(Entry::new(payload.clone())))).await;
    assert!(read(&world.counts(0).most_unanswered) <= 2 << 20);
}

#[tokio::test]
async fn callers_wait_while_too_much_is_without_an_answer() {
    let world = World::new(1);
    let settings = journal_client::Settings { unanswered_bytes_max: 100_000, ..quick() };
    let journal = world.journal_with(settings);
    let appender = journal.appender().await.unwrap();
    world.on_append(0, [OnAppend::Delay(Duration::from_millis(300))]);
    let begun = Instant::now();
    let first = appender.append(vec![Entry::new(vec![0; 60_000])]).await;
    assert!(begun.elapsed() < Duration::from_millis(200));
    let second = appender.append(vec![Entry::new(vec![1; 60_000])]).await;
    assert!(begun.elapsed() >= Duration::from_millis(290), "the second did not wait for the first");
    // A batch above the whole budget is taken when nothing else is there.
    let third = appender.append((0..5).map(|_| Entry::new(vec![2; 60_000])).collect()).await;
    for ticket in first.into_iter().chain(second).chain(third) {
        ticket.await.unwrap();
    }
    // Everything was given back.
    let all = appender.append(vec![Entry::new(vec![3; 99_000])]).await;
    assert!(join_all(all).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_journal_that_is_dropped_leaves_nothing_behind() {
    let world = World::new(1);
    let journal = world.journal();
    journal.append(entry("in")).await.unwrap();
    let appender = journal.appender().await.unwrap();
    world.until(|world| read(&world.counts(0).open_streams) == 2).await;
    let tickets = appender.append(vec![entry("last words")]).await;
    drop((journal, appender));
    for ticket in tickets {
        ticket.await.unwrap();
    }
    world.until(|world| read(&world.counts(0).open_streams) == 0).await;
    assert_eq!(world.texts(), ["in", "last words"]);
}

#[test]
fn a_runtime_that_ends_leaves_nobody_waiting() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let (journal, appender) = first.block_on(async {
        let world = World::new(1);
        let journal = world.journal();
        journal.append(entry("in")).await.unwrap();
        let appender = journal.appender().await.unwrap();
        (journal, appender)
    });
    drop(first);
    runtime().block_on(async {
        let outcome = timeout(Duration::from_secs(5), journal.append(entry("late"))).await;
        assert!(outcome.expect("nobody answers").is_err());
        let ticket = appender.append(vec![entry("late")]).await.pop().unwrap();
        assert!(timeout(Duration::from_secs(5), ticket).await.expect("nobody answers").is_err());
    });
}
