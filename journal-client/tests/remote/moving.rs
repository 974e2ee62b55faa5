//! A leader that moves away: the one time that the library sends something twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use journal_client::{Journal, Reason};
use tokio::time::Instant;

use crate::world::{OnAppend, World, assert_rejected, assert_unknown, entry, impatient, read};

#[tokio::test]
async fn what_a_moving_leader_rejected_unseen_goes_to_the_next_in_order() {
    let world = World::new(3);
    let journal = world.journal();
    let appender = journal.appender().await.unwrap();
    assert_eq!(appender.term(), 1);
    world.on_append(0, [OnAppend::Move { commit: 3, to: 2 }]);
    let mut tickets = appender.append((0..10).map(|n| entry(n.to_string())).collect()).await;
    // These may meet the old leader, the new one, or nobody.
    for n in 10..30 {
        tickets.extend(appender.append(vec![entry(n.to_string())]).await);
        tokio::task::yield_now().await;
    }
    for outcome in join_all(tickets).await {
        outcome.unwrap();
    }
    let expected: Vec<_> = (0..30).map(|n: u32| n.to_string()).collect();
    assert_eq!(world.texts(), expected, "in order, and each once");
    assert_eq!(appender.term(), 2);
}

#[tokio::test]
async fn callers_notice_nothing_of_a_leader_that_moves() {
    let world = World::new(3);
    let journal = Arc::new(world.journal());
    let done = Arc::new(AtomicBool::new(false));
    // A reader sees the new term, perhaps before the last word of the old leader.
    let reader = tokio::spawn({
        let (journal, done) = (journal.clone(), done.clone());
        async move {
            let mut tail = journal.tail(proto::Position(2)).await.unwrap();
            while !done.load(Ordering::SeqCst) {
                let run = tokio::time::timeout(Duration::from_millis(50), futures::StreamExt::next(&mut tail));
                if let Ok(run) = run.await {
                    run.unwrap().unwrap();
                }
            }
        }
    });
    let callers = (0..32).map(|caller| {
        let (journal, done) = (journal.clone(), done.clone());
        tokio::spawn(async move {
            let mut written = Vec::new();
            let mut longest = Duration::ZERO;
            while !done.load(Ordering::SeqCst) {
                let text = format!("{caller} {}", written.len());
                let begun = Instant::now();
                journal.append(entry(&text)).await.expect("nothing is rejected or unknown");
                longest = longest.max(begun.elapsed());
                written.push(text);
                tokio::task::yield_now().await;
            }
            (written, longest)
        })
    });
    let callers: Vec<_> = callers.collect();
    let own = tokio::spawn({
        let (journal, done) = (journal.clone(), done.clone());
        async move {
            let appender = journal.appender().await.unwrap();
            let mut tickets = Vec::new();
            while !done.load(Ordering::SeqCst) {
                let text = format!("own {}", tickets.len());
                tickets.extend(appender.append(vec![entry(text)]).await);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            for ticket in join_all(tickets).await {
                ticket.expect("nothing is rejected or unknown");
            }
        }
    });
    for round in 0..10 {
        tokio::time::sleep(Duration::from_millis(40)).await;
        let (from, to) = (round % 3, (round + 1) % 3);
        world.on_append(from, [OnAppend::Move { commit: round, to }]);
        world.until(|world| world.look(|log| log.leader == Some(to))).await;
    }
    done.store(true, Ordering::SeqCst);
    own.await.unwrap();
    reader.await.unwrap();
    let mut written = Vec::new();
    for caller in callers {
        let (texts, longest) = caller.await.unwrap();
        assert!(longest < Duration::from_secs(1), "a caller waited for {longest:?}");
        written.extend(texts);
    }
    let texts = world.texts();
    let own: Vec<_> = texts.iter().filter_map(|text| text.strip_prefix("own ")).collect();
    for (n, text) in own.iter().enumerate() {
        assert_eq!(*text, n.to_string(), "out of order");
    }
    let mut others: Vec<_> = texts.iter().filter(|text| !text.starts_with("own")).cloned().collect();
    others.sort();
    written.sort();
    assert_eq!(others, written, "each once");
}

#[tokio::test]
async fn a_new_leader_that_is_not_found_leaves_an_honest_rejection() {
    let world = World::new(3);
    let journal = world.journal_with(impatient(Duration::from_millis(300)));
    let appender = journal.appender().await.unwrap();
    world.on_append(0, [OnAppend::Reject { commit: 1, reason: Reason::Moved }]);
    world.script(0, |script| script.hint = Some("gone:1".into()));
    let moving = appender.append((0..3).map(|n| entry(n.to_string())).collect()).await;
    world.until(|world| read(&world.counts(0).entries) == 3).await;
    world.elect(None);
    let outcomes = join_all(moving).await;
    outcomes[0].as_ref().unwrap();
    assert_rejected(&outcomes[1], Reason::Moved);
    assert_rejected(&outcomes[2], Reason::Moved);
    let late = appender.append(vec![entry("late")]).await.pop().unwrap().await;
    assert_rejected(&late, Reason::StreamEnded);
    assert_eq!(world.texts(), ["0"]);
}

#[tokio::test]
async fn what_is_sent_again_after_a_move_is_as_uncertain_as_anything_sent() {
    let world = World::new(3);
    let journal = world.journal();
    let appender = journal.appender().await.unwrap();
    world.on_append(0, [OnAppend::Reject { commit: 0, reason: Reason::Moved }, OnAppend::Cut]);
    let tickets = appender.append(vec![entry("a"), entry("b")]).await;
    for outcome in join_all(tickets).await {
        assert_unknown(&outcome);
    }
    assert_eq!(world.texts().len(), 0);
}

#[tokio::test]
async fn a_move_is_understood_with_megabytes_under_way() {
    let world = World::new(3);
    let journal = world.journal();
    for round in 0..6 {
        let appender = journal.appender().await.unwrap();
        let (from, to) = (round % 3, (round + 1) % 3);
        // The node reads slowly, so that most of it is still in the pipes when it moves.
        world.on_append(from, [OnAppend::Delay(Duration::from_millis(10))]);
        world.on_append(from, [OnAppend::Move { commit: 1, to }]);
        let payload = |n: u8| journal_client::Entry::new(vec![n; 100_000]);
        let tickets = appender.append((0..100).map(payload).collect()).await;
        for outcome in join_all(tickets).await {
            outcome.unwrap();
        }
    }
    let firsts: Vec<u8> = world.look(|log| log.entries.values().map(|(p, _)| p[0]).collect());
    let expected: Vec<u8> = (0..6).flat_map(|_| 0..100).collect();
    assert_eq!(firsts, expected);
}
