//! Tails: no seam over lost connections, and no hole that goes unnoticed.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use journal_client::{Journal, Settings, TailError, TailFrom, TailStream};
use proto::Position;
use proto::journal as wire;
use proto::journal::tail_reply::Kind;
use tokio::time::{Instant, timeout};

use crate::world::{OnTail, World, entry, quick, read};

async fn fill(world: &World, count: usize) {
    let journal = world.journal();
    for n in 0..count {
        journal.append(entry(n.to_string())).await.unwrap();
    }
}

/// Reads that many entries; checks that runs have no seam.
async fn take(tail: &mut TailStream, next: &mut Position, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.len() < count {
        let run = timeout(Duration::from_secs(10), tail.next()).await.expect("nothing comes");
        let run = run.expect("the stream ended").expect("a run");
        assert_eq!(run.from, *next);
        *next = run.to;
        texts.extend(run.entries.iter().map(|e| String::from_utf8(e.payload.to_vec()).unwrap()));
    }
    texts
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

async fn end_of(mut tail: TailStream) -> TailError {
    let end = loop {
        match timeout(Duration::from_secs(10), tail.next()).await.expect("nothing comes") {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("the stream ended without a word"),
        }
    };
    assert!(tail.next().await.is_none(), "the stream went on behind its end");
    end
}

#[tokio::test]
async fn a_reader_does_not_notice_lost_connections() {
    let world = World::new(3);
    fill(&world, 5).await;
    let journal = world.journal();
    let mut next = Position(2);
    let mut tail = journal.tail(next).await.unwrap();
    assert_eq!(take(&mut tail, &mut next, 5).await, numbers(0..5));
    for n in 5..10 {
        world.cut(0);
        world.write(&n.to_string());
        assert_eq!(take(&mut tail, &mut next, 1).await, numbers(n..n + 1));
    }
}

#[tokio::test]
async fn a_reader_goes_on_elsewhere_when_its_node_dies() {
    let world = World::new(3);
    fill(&world, 3).await;
    let mut next = Position(2);
    world.script(0, |script| script.tails.push_back(OnTail::EndAfter(1)));
    let mut tail = world.journal().tail(next).await.unwrap();
    assert_eq!(take(&mut tail, &mut next, 1).await, numbers(0..1));
    world.kill(0);
    world.elect(Some(1));
    assert_eq!(take(&mut tail, &mut next, 2).await, numbers(1..3));
}

#[tokio::test]
async fn a_node_that_is_behind_is_left_for_another() {
    let world = World::new(3);
    fill(&world, 3).await;
    world.script(0, |script| script.tails.extend([OnTail::Behind, OnTail::Behind]));
    let mut next = Position(2);
    let mut tail = world.journal().tail(next).await.unwrap();
    assert_eq!(take(&mut tail, &mut next, 3).await, numbers(0..3));
}

#[tokio::test]
async fn what_was_trimmed_meanwhile_is_a_gap() {
    let world = World::new(1);
    fill(&world, 6).await;
    world.script(0, |script| script.tails.push_back(OnTail::EndAfter(2)));
    let journal = world.journal();
    let mut next = Position(2);
    let mut tail = journal.tail(next).await.unwrap();
    assert_eq!(take(&mut tail, &mut next, 2).await, numbers(0..2));
    journal.trim(Position(6)).await.unwrap();
    assert_eq!(end_of(tail).await, TailError::Gap { start: Position(6) });
}

#[tokio::test]
async fn a_hole_a_repetition_or_a_flipped_bit_breaks_the_tail() {
    let good = |position| wire::TailEntry { position, payload: Bytes::from_static(b"x"), crc: crc32fast::hash(b"x") };
    let run = |from, to, entries| wire::TailRun { from, to, entries, watermark: to, term: 1 };
    let flipped = wire::TailEntry { crc: 7, ..good(2) };
    let cases = [
        ("a hole", run(3, 4, vec![good(3)]), 2),
        ("a repetition", run(1, 2, vec![good(1)]), 2),
        ("a flipped bit", run(2, 3, vec![flipped]), 2),
        ("two at one place", run(2, 4, vec![good(2), good(2)]), 2),
        ("beyond its run", run(2, 3, vec![good(3)]), 3),
    ];
    for (what, run, place) in cases {
        let world = World::new(1);
        let reply = wire::TailReply { kind: Some(Kind::Run(run)) };
        world.script(0, |script| script.tails.push_back(OnTail::Say(reply)));
        let tail = world.journal().tail(Position(2)).await.unwrap();
        match end_of(tail).await {
            TailError::Broken { at, .. } => assert_eq!(at, Position(place), "{what}"),
            other => panic!("{what}: {other}"),
        }
    }
}

#[tokio::test]
async fn a_gap_that_is_none_is_a_violation() {
    let world = World::new(1);
    let reply = wire::TailReply { kind: Some(Kind::Gap(wire::Gap { start: 2 })) };
    world.script(0, |script| script.tails.push_back(OnTail::Say(reply)));
    let tail = world.journal().tail(Position(2)).await.unwrap();
    assert!(matches!(end_of(tail).await, TailError::Failed(_)));
}

#[tokio::test]
async fn a_reader_moves_to_the_new_leader_and_one_that_likes_its_node_stays() {
    let world = World::new(3);
    fill(&world, 1).await;
    let journal = world.journal();
    let (mut next, mut next_here) = (Position(2), Position(2));
    let mut tail = journal.tail(next).await.unwrap();
    let here = TailFrom::Node(world.address(2));
    let mut tail_here = journal.tail_at(next, here).await.unwrap();
    take(&mut tail, &mut next, 1).await;
    take(&mut tail_here, &mut next_here, 1).await;
    assert_eq!(read(&world.counts(0).tails), 1);
    world.elect(Some(1));
    // The stream must be read for its reader to learn of the new term.
    let reading = tokio::spawn(async move {
        let mut seen = 0;
        while seen < 1 {
            seen += tail.next().await.unwrap().unwrap().entries.len();
        }
        tail
    });
    world.until(|world| read(&world.counts(1).tails) == 1).await;
    journal.append(entry("1")).await.unwrap();
    drop(reading.await.unwrap());
    take(&mut tail_here, &mut next_here, 1).await;
    assert_eq!(read(&world.counts(2).tails), 1);
}

#[tokio::test]
async fn the_nearest_node_serves_whoever_asks_for_it() {
    let world = World::new(3);
    fill(&world, 2).await;
    world.kill(0);
    let settings = Settings { tail_from: TailFrom::Nearest, ..quick() };
    let mut next = Position(2);
    let mut tail = world.journal_with(settings).tail(next).await.unwrap();
    assert_eq!(take(&mut tail, &mut next, 2).await, numbers(0..2));
}

#[tokio::test]
async fn a_silent_node_is_left_when_others_are_known_to_have_more() {
    let world = World::new(3);
    fill(&world, 2).await;
    world.script(2, |script| script.tails.push_back(OnTail::Silence));
    let journal = world.journal();
    let silent = TailFrom::Node(world.address(2));
    let mut next = Position(2);
    let mut tail = journal.tail_at(next, silent).await.unwrap();
    journal.check_tail().await.unwrap();
    let begun = Instant::now();
    assert_eq!(take(&mut tail, &mut next, 2).await, numbers(0..2));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_slow_reader_is_sent_no_more_than_its_window() {
    let world = World::new(1);
    let payload = vec![b'x'; 256 << 10];
    let journal = world.journal();
    for _ in 0..64 {
        journal.append(journal_client::Entry::new(payload.clone())).await.unwrap();
    }
    let mut tail = journal.tail(Position(2)).await.unwrap();
    tail.next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let sent = read(&world.counts(0).tail_bytes);
    // The window, and the runs that the two ends have in hand.
    assert!(sent <= (2 << 20) + (4 << 20), "{sent} bytes for a reader that reads nothing");
    let mut count = 4;
    while count < 64 {
        count += tail.next().await.unwrap().unwrap().entries.len();
    }
}

#[tokio::test]
async fn a_tail_that_nobody_serves_is_an_error_after_a_while_and_never_once_it_runs() {
    let world = World::new(2);
    fill(&world, 1).await;
    (0..2).for_each(|node| world.kill(node));
    let journal = world.journal_with(crate::world::impatient(Duration::from_millis(200)));
    assert!(journal.tail(Position(2)).await.is_err());
    world.revive(0);
    let mut next = Position(2);
    let mut tail = journal.tail(next).await.unwrap();
    take(&mut tail, &mut next, 1).await;
    world.kill(0);
    assert!(timeout(Duration::from_millis(500), tail.next()).await.is_err());
    world.revive(0);
    world.journal().append(entry("1")).await.unwrap();
    assert_eq!(take(&mut tail, &mut next, 1).await, numbers(1..2));
}
