//! The contract of [`Journal`], clause by clause, as programs. Every implementation passes them all.
//!
//! Each clause is given a journal of its own, fresh and empty, and panics where the contract is
//! broken. They assume nothing of positions but that they rise.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use proto::Position;

use crate::error::{AppendError, Error, Reason, TailError};
use crate::journal::{Entry, Journal, Run, TailEntry, TailStream};

/// Nothing here takes longer on a working journal, however busy the machine.
const AT_MOST: Duration = Duration::from_secs(30);
/// How long something is watched that should not happen.
const A_WHILE: Duration = Duration::from_millis(200);

/// Holds an implementation to every clause, one after the other; `fresh` makes an empty journal.
/// Answers how many there are.
pub async fn run_all<F, J>(fresh: F) -> usize
where
    F: Fn() -> J,
    J: Future<Output = Arc<dyn Journal>>,
{
    let mut count = 0;
    macro_rules! clauses {
        ($($clause:ident)*) => {$(
            tracing::info!(clause = stringify!($clause), "conformance");
            let done = tokio::time::timeout(2 * AT_MOST, $clause(fresh().await)).await;
            assert!(done.is_ok(), "{} does not end", stringify!($clause));
            count += 1;
        )*};
    }
    clauses! {
        an_empty_journal_has_nothing_to_read
        an_acknowledged_entry_is_read_at_its_position
        payloads_come_back_byte_for_byte
        an_append_after_an_answer_gets_a_higher_position
        concurrent_appends_are_all_there_once
        one_appender_keeps_the_order_of_its_calls
        appenders_do_not_disturb_each_other
        a_dropped_ticket_changes_nothing
        a_dropped_appender_still_answers
        the_tail_is_above_everything_acknowledged
        concurrent_checks_see_what_was_acknowledged_before_them
        start_and_tail_never_go_back
        reading_may_begin_anywhere
        two_readers_read_the_same
        a_live_reader_gets_what_comes
        a_reader_above_the_tail_waits
        watermarks_rise_and_cover_what_was_read
        slow_readers_hold_nobody_up
        a_reader_that_leaves_is_not_missed
        trim_gives_up_entries_and_nothing_else
        trim_never_goes_back
        a_trim_above_the_tail_is_refused
        everything_may_be_trimmed
        a_reader_below_start_meets_a_gap
        an_entry_that_is_too_large_is_rejected
        a_wrong_checksum_is_rejected
        an_appender_ends_at_its_first_rejection
        one_bad_entry_does_not_hurt_other_callers
        urgent_entries_are_entries
        a_description_tells_the_journal
    }
    count
}

// ---- appending -----------------------------------------------------------------------------

pub async fn an_empty_journal_has_nothing_to_read(journal: Arc<dyn Journal>) {
    let tail = journal.check_tail().await.expect("check_tail");
    assert!(tail.start <= tail.tail, "{tail:?}");
    let mut reading = Reading::open(&journal, tail.start).await;
    reading.expect_nothing_for_a_while().await;
}

pub async fn an_acknowledged_entry_is_read_at_its_position(journal: Arc<dyn Journal>) {
    let start = start_of(&journal).await;
    let position = append(&journal, "an entry").await;
    let read = Reading::open(&journal, start).await.take(1).await;
    assert_eq!(read, [(position, Bytes::from("an entry"))]);
}

pub async fn payloads_come_back_byte_for_byte(journal: Arc<dyn Journal>) {
    let start = start_of(&journal).await;
    let max = limit_of(&journal).await;
    let sizes = [0, 1, 255, 4096, 70_000, (1 << 20) + 1].map(|size: usize| size.min(max));
    let mut written = Vec::new();
    for (number, size) in sizes.into_iter().enumerate() {
        let payload: Bytes = (0..size).map(|i| (i as u8).wrapping_mul(31).wrapping_add(number as u8)).collect();
        written.push((append(&journal, payload.clone()).await, payload));
    }
    let read = Reading::open(&journal, start).await.take(written.len()).await;
    assert!(read == written, "what was read is not what was written");
}

pub async fn an_append_after_an_answer_gets_a_higher_position(journal: Arc<dyn Journal>) {
    let mut last = Position::NONE;
    for number in 0..20 {
        let position = append(&journal, format!("entry {number}")).await;
        assert!(position > last, "{position} after {last}");
        last = position;
    }
}

pub async fn concurrent_appends_are_all_there_once(journal: Arc<dyn Journal>) {
    let start = start_of(&journal).await;
    let calls = (0..200).map(|number| {
        let journal = &journal;
        async move { (append(journal, format!("entry {number}")).await, number) }
    });
    let positions: BTreeMap<Position, i32> = join_all(calls).await.into_iter().collect();
    assert_eq!(positions.len(), 200, "two entries have one position");
    let read = Reading::open(&journal, start).await.take(200).await;
    for (position, payload) in read {
        let number = positions.get(&position).expect("an entry where none was acknowledged");
        assert_eq!(payload, format!("entry {number}"));
    }
}

pub async fn one_appender_keeps_the_order_of_its_calls(journal: Arc<dyn Journal>) {
    let start = start_of(&journal).await;
    let appender = journal.appender().await.expect("an appender");
    assert!(appender.term() > 0);
    let mut tickets = Vec::new();
    let mut number = 0;
    for size in [1, 3, 1, 50, 2, 100, 1] {
        let entries = (number..number + size).map(|n| Entry::new(format!("entry {n}"))).collect();
        number += size;
        let batch = within(appender.append(entries)).await;
        assert_eq!(batch.len(), size, "a ticket for each entry");
        tickets.extend(batch);
    }
    let mut last = Position::NONE;
    for ticket in tickets {
        let position = within(ticket).await.expect("the entry is acknowledged");
        assert!(position > last, "{position} after {last}");
        last = position;
    }
    let read = Reading::open(&journal, start).await.take(number).await;
    for (number, (_, payload)) in read.into_iter().enumerate() {
        assert_eq!(payload, format!("entry {number}"));
    }
}

pub async fn appenders_do_not_disturb_each_other(journal: Arc<dyn Journal>) {
    let start = start_of(&journal).await;
    let appenders = join_all((0..4).map(|_| journal.appender())).await;
    let writers = appenders.into_iter().enumerate().map(|(writer, appender)| async move {
        let appender = appender.expect("an appender");
        let mut tickets = Vec::new();
        for number in 0..50 {
            let entry = Entry::new(format!("{writer} {number}"));
            tickets.extend(within(appender.append(vec![entry])).await);
        }
        for ticket in tickets {
            within(ticket).await.expect("the entry is acknowledged");
        }
    });
    join_all(writers).await;
    let mut next = [0; 4];
    for (_, payload) in Reading::open(&journal, start).await.take(200).await {
        let text = String::from_utf8(payload.to_vec()).expect("text was written");
        let (writer, number) = text.split_once(' ').expect("two numbers were written");
        let writer: usize = writer.parse().expect("a number was written");
        assert_eq!(number, next[writer].to_string(), "out of order at writer {writer}");
        next[writer] += 1;
    }
}

pub async fn a_dropped_ticket_changes_nothing(journal: Arc<dyn Journal>) {
    let start = start_of(&journal).await;
    let appender = journal.appender().await.expect("an appender");
    drop(appender.append(vec![Entry::new("unwatched")]).await);
    let ticket = appender.append(vec![Entry::new("watched")]).await.pop().expect("a ticket");
    within(ticket).await.expect("the entry is acknowledged");
    let read = Reading::open(&journal, start).await.take(2).await;
    assert_eq!(read[0].1, "unwatched");
    assert_eq!(read[1].1, "watched");
}

pub async fn a_dropped_appender_still_answers(journal: Arc<dyn Journal>) {
    let appender = journal.appender().await.expect("an appender");
    let entries = (0..100).map(|n| Entry::new(format!("entry {n}"))).collect();
    let tickets = within(appender.append(entries)).await;
    drop(appender);
    for ticket in tickets {
        within(ticket).await.expect("the entry is acknowledged");
    }
}

// ---- the tail ------------------------------------------------------------------------------

pub async fn the_tail_is_above_everything_acknowledged(journal: Arc<dyn Journal>) {
    for number in 0..20 {
        let position = append(&journal, format!("entry {number}")).await;
        let tail = within(journal.check_tail()).await.expect("check_tail");
        assert!(tail.tail > position, "{tail:?} after {position} was acknowledged");
        assert!(tail.term > 0);
    }
}

pub async fn concurrent_checks_see_what_was_acknowledged_before_them(journal: Arc<dyn Journal>) {
    let callers = (0..16).map(|caller| {
        let journal = &journal;
        async move {
            for number in 0..10 {
                let position = append(journal, format!("{caller} {number}")).await;
                let checks = join_all((0..4).map(|_| journal.check_tail()));
                for tail in within(checks).await {
                    let tail = tail.expect("check_tail");
                    assert!(tail.tail > position, "{tail:?} after {position}");
                }
            }
        }
    });
    join_all(callers).await;
}

pub async fn start_and_tail_never_go_back(journal: Arc<dyn Journal>) {
    let mut last = within(journal.check_tail()).await.expect("check_tail");
    for number in 0..12 {
        let position = append(&journal, format!("entry {number}")).await;
        if number % 3 == 0 {
            within(journal.trim(position)).await.expect("trim");
        }
        let now = within(journal.check_tail()).await.expect("check_tail");
        assert!(now.start >= last.start && now.tail >= last.tail, "{now:?} after {last:?}");
        assert!(now.term >= last.term && now.start <= now.tail, "{now:?} after {last:?}");
        last = now;
    }
}

// ---- reading -------------------------------------------------------------------------------

pub async fn reading_may_begin_anywhere(journal: Arc<dyn Journal>) {
    let start = start_of(&journal).await;
    let mut written = Vec::new();
    for number in 0..12 {
        let payload = Bytes::from(format!("entry {number}"));
        written.push((append(&journal, payload.clone()).await, payload));
    }
    let last = written.last().expect("twelve were written").0;
    for from in start.0..=last.0 {
        let rest: Vec<_> = written.iter().filter(|(at, _)| at.0 >= from).cloned().collect();
        let read = Reading::open(&journal, Position(from)).await.take(rest.len()).await;
        assert_eq!(read, rest, "from {from}");
    }
}

pub async fn two_readers_read_the_same(journal: Arc<dyn Journal>) {
    let start = start_of(&journal).await;
    let mut first = Reading::open(&journal, start).await;
    for number in 0..50 {
        append(&journal, format!("entry {number}")).await;
    }
    let mut second = Reading::open(&journal, start).await;
    assert_eq!(first.take(50).await, second.take(50).await);
}

pub async fn a_live_reader_gets_what_comes(journal: Arc<dyn Journal>) {
    let mut reading = Reading::open(&journal, start_of(&journal).await).await;
    for number in 0..20 {
        let payload = Bytes::from(format!("entry {number}"));
        let position = append(&journal, payload.clone()).await;
        assert_eq!(reading.take(1).await, [(position, payload)]);
    }
}

pub async fn a_reader_above_the_tail_waits(journal: Arc<dyn Journal>) {
    let tail = within(journal.check_tail()).await.expect("check_tail").tail;
    let from = Position(tail.0 + 3);
    let mut reading = Reading::open(&journal, from).await;
    reading.expect_nothing_for_a_while().await;
    let first = loop {
        let position = append(&journal, "an entry").await;
        if position >= from {
            break position;
        }
    };
    assert_eq!(reading.take(1).await, [(first, Bytes::from("an entry"))]);
}

pub async fn watermarks_rise_and_cover_what_was_read(journal: Arc<dyn Journal>) {
    let start = start_of(&journal).await;
    let mut reading = Reading::open(&journal, start).await;
    let mut highest = Position::NONE;
    for number in 0..10 {
        append(&journal, format!("entry {number}")).await;
        loop {
            let run = reading.next_run().await;
            assert!(run.watermark >= highest, "{} after {highest}", run.watermark);
            highest = run.watermark;
            if let Some(last) = run.entries.last() {
                assert!(run.watermark > last.position, "{run:?}");
                break;
            }
        }
    }
    let tail = within(journal.check_tail()).await.expect("check_tail").tail;
    assert!(highest <= tail, "a watermark of {highest} above the tail, {tail}");
}

pub async fn slow_readers_hold_nobody_up(journal: Arc<dyn Journal>) {
    let start = start_of(&journal).await;
    let size = limit_of(&journal).await.min(256 << 10);
    let payload = Bytes::from(vec![7; size]);
    let mut slow = Vec::new();
    for _ in 0..6 {
        slow.push(Reading::open(&journal, start).await);
    }
    let mut quick = Reading::open(&journal, start).await;
    for _ in 0..80 {
        append(&journal, payload.clone()).await;
        quick.take(1).await;
    }
    // All of it is there for a slow one too, in its own time.
    assert_eq!(slow[3].take(80).await.len(), 80);
}

pub async fn a_reader_that_leaves_is_not_missed(journal: Arc<dyn Journal>) {
    let start = start_of(&journal).await;
    for _ in 0..10 {
        let mut reading = Reading::open(&journal, start).await;
        append(&journal, "an entry").await;
        reading.take(1).await;
    }
    assert_eq!(Reading::open(&journal, start).await.take(10).await.len(), 10);
}

// ---- trimming ------------------------------------------------------------------------------

pub async fn trim_gives_up_entries_and_nothing_else(journal: Arc<dyn Journal>) {
    let mut written = Vec::new();
    for number in 0..10 {
        let payload = Bytes::from(format!("entry {number}"));
        written.push((append(&journal, payload.clone()).await, payload));
    }
    let before = written[4].0;
    let start = within(journal.trim(before)).await.expect("trim");
    assert!(start >= before, "trimmed below {before}, and start is {start}");
    let tail = within(journal.check_tail()).await.expect("check_tail");
    assert!(tail.start >= before && tail.tail > written[9].0, "{tail:?}");
    let read = Reading::open(&journal, start).await.take(6).await;
    assert_eq!(read, written[4..], "entries above a trim are kept");
}

pub async fn trim_never_goes_back(journal: Arc<dyn Journal>) {
    let mut positions = Vec::new();
    for number in 0..6 {
        positions.push(append(&journal, format!("entry {number}")).await);
    }
    let high = within(journal.trim(positions[3])).await.expect("trim");
    let low = within(journal.trim(positions[1])).await.expect("a trim below start does nothing");
    assert!(low >= high, "start went from {high} to {low}");
    let again = within(journal.trim(positions[3])).await.expect("a trim may be repeated");
    assert!(again >= high);
}

pub async fn a_trim_above_the_tail_is_refused(journal: Arc<dyn Journal>) {
    let position = append(&journal, "an entry").await;
    let tail = within(journal.check_tail()).await.expect("check_tail").tail;
    let refused = within(journal.trim(Position(tail.0 + 10))).await;
    assert!(matches!(&refused, Err(Error::Refused(refusal)) if refusal.reason == Reason::Invalid), "{refused:?}");
    let read = Reading::open(&journal, position).await.take(1).await;
    assert_eq!(read[0].1, "an entry", "a refused trim did something");
}

pub async fn everything_may_be_trimmed(journal: Arc<dyn Journal>) {
    append(&journal, "an entry").await;
    let tail = within(journal.check_tail()).await.expect("check_tail").tail;
    let start = within(journal.trim(tail)).await.expect("trim");
    let mut reading = Reading::open(&journal, start).await;
    let position = append(&journal, "another").await;
    assert!(position >= start);
    assert_eq!(reading.take(1).await, [(position, Bytes::from("another"))]);
}

pub async fn a_reader_below_start_meets_a_gap(journal: Arc<dyn Journal>) {
    let first = append(&journal, "an entry").await;
    append(&journal, "another").await;
    let third = append(&journal, "a third").await;
    let start = within(journal.trim(third)).await.expect("trim");
    let mut runs = match within(journal.tail(first)).await {
        Ok(runs) => runs,
        Err(error) => panic!("a gap is said in the stream: {error}"),
    };
    let gap = within(runs.next()).await;
    let Some(Err(TailError::Gap { start: told })) = gap else {
        panic!("read below start: {gap:?}");
    };
    assert!(told >= start && told > first, "the gap names {told}, start is {start}");
    assert!(within(runs.next()).await.is_none(), "a stream goes on behind a gap");
    // What the gap names can be read.
    let fourth = append(&journal, "a fourth").await;
    let read = Reading::open(&journal, told).await.take_until(fourth).await;
    assert_eq!(read.last(), Some(&(fourth, Bytes::from("a fourth"))));
}

// ---- rejections ----------------------------------------------------------------------------

pub async fn an_entry_that_is_too_large_is_rejected(journal: Arc<dyn Journal>) {
    let max = limit_of(&journal).await;
    let start = start_of(&journal).await;
    let refused = within(journal.append(Entry::new(vec![1; max + 1]))).await;
    assert_rejected(&refused, Reason::TooLarge);
    let position = append(&journal, vec![2; max]).await;
    let read = Reading::open(&journal, start).await.take(1).await;
    assert!(read[0].0 == position && read[0].1.len() == max, "the limit itself is allowed");
}

pub async fn a_wrong_checksum_is_rejected(journal: Arc<dyn Journal>) {
    let start = start_of(&journal).await;
    let refused = within(journal.append(wrong_checksum())).await;
    assert_rejected(&refused, Reason::BadChecksum);
    let position = append(&journal, "good").await;
    let read = Reading::open(&journal, start).await.take(1).await;
    assert_eq!(read, [(position, Bytes::from("good"))]);
}

pub async fn an_appender_ends_at_its_first_rejection(journal: Arc<dyn Journal>) {
    let start = start_of(&journal).await;
    let appender = journal.appender().await.expect("an appender");
    let entries = vec![Entry::new("before"), wrong_checksum(), Entry::new("behind")];
    let mut tickets = within(appender.append(entries)).await.into_iter();
    let mut next = || tickets.next().expect("three tickets");
    let before = within(next()).await.expect("what was before the bad entry gets in");
    assert_rejected(&within(next()).await, Reason::BadChecksum);
    let behind = within(next()).await;
    assert!(behind.is_err() || behind.as_ref().is_ok_and(|at| *at > before), "{behind:?}");

    let late = within(appender.append(vec![Entry::new("late")])).await.pop().expect("a ticket");
    assert_rejected(&within(late).await, Reason::StreamEnded);

    let again = journal.appender().await.expect("another appender");
    let ticket = within(again.append(vec![Entry::new("again")])).await.pop().expect("a ticket");
    let again = within(ticket).await.expect("another appender takes entries");
    let read = Reading::open(&journal, start).await.take_until(again).await;
    let read: Vec<_> = read.iter().map(|(_, payload)| &payload[..]).collect();
    assert_eq!(read.first(), Some(&&b"before"[..]));
    assert!(!read.contains(&&b"late"[..]), "a rejected entry is in the journal");
    assert!(!read.contains(&&b"bad"[..]), "a rejected entry is in the journal");
}

pub async fn one_bad_entry_does_not_hurt_other_callers(journal: Arc<dyn Journal>) {
    let calls = (0..60).map(|number| {
        let journal = &journal;
        async move {
            if number % 20 == 7 {
                assert_rejected(&within(journal.append(wrong_checksum())).await, Reason::BadChecksum);
                return None;
            }
            Some(append(journal, format!("entry {number}")).await)
        }
    });
    let positions: BTreeSet<_> = join_all(calls).await.into_iter().flatten().collect();
    assert_eq!(positions.len(), 57);
}

pub async fn urgent_entries_are_entries(journal: Arc<dyn Journal>) {
    let start = start_of(&journal).await;
    let position = within(journal.append(Entry::urgent("now"))).await.expect("acknowledged");
    let read = Reading::open(&journal, start).await.take(1).await;
    assert_eq!(read, [(position, Bytes::from("now"))]);
}

pub async fn a_description_tells_the_journal(journal: Arc<dyn Journal>) {
    append(&journal, "an entry").await;
    let description = within(journal.describe()).await.expect("describe");
    let tail = within(journal.check_tail()).await.expect("check_tail");
    assert!(!description.name.is_empty() && !description.cluster_id.is_empty());
    assert!(description.entry_bytes_max >= 4096);
    // It may be old, but it is of this journal.
    assert!(description.start <= description.tail && description.tail <= tail.tail);
    let again = within(journal.describe()).await.expect("describe");
    assert_eq!((again.id, again.name), (description.id, description.name));
}

// ---- what the clauses are written with -----------------------------------------------------

async fn within<T>(future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(AT_MOST, future).await {
        Ok(value) => value,
        Err(_) => panic!("no answer in {AT_MOST:?}"),
    }
}

async fn append(journal: &Arc<dyn Journal>, payload: impl Into<Bytes>) -> Position {
    match within(journal.append(Entry::new(payload))).await {
        Ok(position) => position,
        Err(error) => panic!("an ordinary entry: {error}"),
    }
}

async fn start_of(journal: &Arc<dyn Journal>) -> Position {
    within(journal.check_tail()).await.expect("check_tail").start
}

async fn limit_of(journal: &Arc<dyn Journal>) -> usize {
    let max = within(journal.describe()).await.expect("describe").entry_bytes_max;
    usize::try_from(max).expect("an entry fits memory")
}

fn wrong_checksum() -> Entry {
    let entry = Entry::new("bad");
    Entry { crc: entry.crc ^ 1, ..entry }
}

fn assert_rejected(outcome: &Result<Position, AppendError>, reason: Reason) {
    match outcome {
        Err(AppendError::Rejected(refusal)) if refusal.reason == reason => {}
        other => panic!("{reason:?} was expected: {other:?}"),
    }
}

/// A reader that checks what every reader may rely on.
struct Reading {
    runs: TailStream,
    next: Position,
    read: Vec<(Position, Bytes)>,
}

impl Reading {
    async fn open(journal: &Arc<dyn Journal>, from: Position) -> Self {
        match within(journal.tail(from)).await {
            Ok(runs) => Reading { runs, next: from, read: Vec::new() },
            Err(error) => panic!("a tail from {from}: {error}"),
        }
    }

    async fn next_run(&mut self) -> Run {
        match within(self.runs.next()).await {
            Some(Ok(run)) => {
                self.check(&run);
                run
            }
            other => panic!("a run from {}: {other:?}", self.next),
        }
    }

    /// Entries to come, exactly `count`.
    async fn take(&mut self, count: usize) -> Vec<(Position, Bytes)> {
        while self.read.len() < count {
            let run = self.next_run().await;
            self.read.extend(run.entries.into_iter().map(pair));
        }
        let rest = self.read.split_off(count);
        std::mem::replace(&mut self.read, rest)
    }

    /// Entries to come, up to that position.
    async fn take_until(&mut self, last: Position) -> Vec<(Position, Bytes)> {
        while self.next <= last {
            let run = self.next_run().await;
            self.read.extend(run.entries.into_iter().map(pair));
        }
        std::mem::take(&mut self.read)
    }

    async fn expect_nothing_for_a_while(&mut self) {
        let until = tokio::time::Instant::now() + A_WHILE;
        while let Ok(run) = tokio::time::timeout_at(until, self.runs.next()).await {
            let Some(Ok(run)) = run else { panic!("the stream ended: {run:?}") };
            self.check(&run);
            assert!(run.entries.is_empty(), "entries out of nowhere: {run:?}");
        }
    }

    fn check(&mut self, run: &Run) {
        assert_eq!(run.from, self.next, "the run does not begin where the last one ended");
        assert!(run.to >= run.from);
        let mut lowest = run.from;
        for entry in &run.entries {
            assert!(entry.position >= lowest && entry.position < run.to, "{run:?}");
            assert_eq!(crc32fast::hash(&entry.payload), entry.crc);
            lowest = entry.position.next();
        }
        self.next = run.to;
    }
}

fn pair(entry: TailEntry) -> (Position, Bytes) {
    (entry.position, entry.payload)
}
