//! Repairs that are interrupted: a crash at any step of filling, cutting or accepting a loss leaves a log
//! that is as before or as after, and never one that is shorter than both.

// A test that cannot go on says why by failing.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use journal_server::segment::fault_disk::Loss;
use journal_server::segment::{self, Damaged, Log, LogId, Opened, Vote};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::flips::{some_byte, some_life};
use super::machine::{DIR, IDS, Machine};
use super::model::{Picture, read_picture};

fn open(machine: &Machine) -> Opened {
    segment::open(machine.disk.mount(), Path::new(DIR), IDS, machine.options.clone()).unwrap()
}

/// A life whose log one flipped bit has damaged, so that it waits at the start.
fn damaged_lives(count: usize) -> impl Iterator<Item = (Machine, SmallRng)> {
    let found = (0..).filter_map(|seed| {
        let mut rng = SmallRng::seed_from_u64(seed);
        let machine = some_life(&mut rng).unwrap();
        let (path, offset) = some_byte(&machine.disk, &mut rng);
        machine.disk.flip(&path, offset, 1 << rng.random_range(0..8));
        let waits = matches!(open(&machine.fork()), Opened::Damaged(_));
        waits.then_some((machine, rng))
    });
    found.take(count)
}

fn damaged(machine: &Machine) -> Damaged {
    match open(machine) {
        Opened::Damaged(damaged) => damaged,
        Opened::Ready { .. } => panic!("it runs"),
    }
}

/// Ends `repair` at every one of its steps, by a power cut, and hands what is left to `judge`.
fn end_at_every_step(
    machine: &Machine,
    rng: &mut SmallRng,
    repair: impl Fn(Damaged),
    judge: impl Fn(Opened, bool),
) -> u64 {
    for stop in 0.. {
        let mut ending = machine.fork();
        let waiting = damaged(&ending);
        ending.disk.stop_after(stop);
        repair(waiting);
        let finished = !ending.disk.is_stopped();
        ending = ending.fork();
        match stop % 3 {
            0 => ending.disk.crash_with(Loss::ALL, rng),
            1 => ending.disk.kill(),
            _ => ending.disk.crash(rng),
        }
        judge(open(&ending), finished);
        if finished {
            return stop;
        }
    }
    unreachable!("every repair ends")
}

/// The log and nothing else, but perhaps fewer versions.
fn must_be(log: &Log, whole: &Picture) {
    let found = read_picture(log).unwrap();
    let expected = Picture { versions: found.versions.clone(), ..whole.clone() };
    assert!(found == expected, "{found:?} instead of {whole:?}");
}

#[test]
fn a_filling_that_is_cut_off_leaves_a_hole_or_none() {
    let (mut waited, mut whole_again) = (0, 0);
    for (machine, mut rng) in damaged_lives(40) {
        let whole = machine.oracle.asked.clone();
        let fill = |mut damaged: Damaged| {
            if let Ok(true) = damaged.fill(&whole.entries) {
                let _ = damaged.reopen();
            }
        };
        let counts = std::cell::Cell::new((0, 0));
        end_at_every_step(&machine, &mut rng, fill, |opened, _| match opened {
            Opened::Ready { log, .. } => {
                must_be(&log, &whole);
                counts.set((counts.get().0, counts.get().1 + 1));
            }
            Opened::Damaged(mut damaged) => {
                assert!(damaged.fill(&whole.entries).unwrap(), "it was repaired before it was cut off");
                let Ok(Opened::Ready { log, .. }) = damaged.reopen() else { panic!("filled, and it does not run") };
                must_be(&log, &whole);
                counts.set((counts.get().0 + 1, counts.get().1));
            }
        });
        waited += counts.get().0;
        whole_again += counts.get().1;
    }
    super::tell(&format!("fillings cut off: {waited} left a hole, {whole_again} did not"));
    assert!(waited >= 40 && whole_again > 40);
}

#[test]
fn a_cut_that_is_cut_off_keeps_everything_below_it_and_never_the_older_vote() {
    let (mut before, mut after) = (0, 0);
    for (machine, mut rng) in damaged_lives(40) {
        let waiting = damaged(&machine.fork());
        let first = waiting.holes().iter().map(|hole| hole.first).min().unwrap();
        let old = waiting.vote();
        let known = waiting.committed().is_some_and(|committed| committed.position >= first);
        let vote = Vote { term: old.map_or(1, |vote| vote.term) + 3, node: 9, committed: false };
        let cut = |mut damaged: Damaged| {
            if damaged.store_vote(vote).is_ok() {
                let _ = damaged.cut(first);
            }
        };
        let whole = &machine.oracle.asked;
        let kept: Vec<_> = whole.entries.iter().filter(|entry| entry.id.position < first).cloned().collect();
        let counts = std::cell::Cell::new((0, 0));
        end_at_every_step(&machine, &mut rng, cut, |opened, finished| match opened {
            Opened::Ready { log, .. } => {
                assert!(!known, "what is known to be committed was cut");
                assert_eq!(log.vote(), Some(vote), "cut without the vote");
                let left = match kept.is_empty() {
                    true => Vec::new(),
                    false => log.read_blocking(log.first_position(), u64::MAX, 1 << 20).unwrap(),
                };
                assert!(left == kept, "{:?} is left", log.last());
                counts.set((counts.get().0, counts.get().1 + 1));
            }
            Opened::Damaged(damaged) => {
                assert!(!finished || known, "it was cut, and is still damaged");
                assert!(damaged.vote() == old || damaged.vote() == Some(vote));
                assert_eq!(damaged.last(), whole.last(), "the end of the log is lost");
                counts.set((counts.get().0 + 1, counts.get().1));
            }
        });
        before += counts.get().0;
        after += counts.get().1;
    }
    super::tell(&format!("cuts cut off: {before} left the hole, {after} did not"));
    assert!(before > 40 && after > 20);
}

#[test]
fn an_accepted_loss_gives_up_exactly_what_it_said() {
    for (machine, _) in damaged_lives(40) {
        let mut waiting = damaged(&machine);
        let first = waiting.holes().iter().map(|hole| hole.first).min().unwrap();
        let whole = &machine.oracle.asked;
        let (from, to) = waiting.accept_loss().unwrap().expect("something was lost");
        assert_eq!((from, Some(to)), (first, whole.last().map(|id| id.position)));
        let Ok(Opened::Ready { log, .. }) = waiting.reopen() else { panic!("accepted, and it does not run") };
        let found = read_picture(&log).unwrap();
        let kept: Vec<_> = whole.entries.iter().filter(|entry| entry.id.position < from).cloned().collect();
        let expected = Picture { entries: kept, versions: found.versions.clone(), ..whole.clone() };
        assert!(found == expected, "{found:?} is left");
        let last: Option<LogId> = log.last();
        assert_eq!(last.map_or(0, |id| id.position + 1), from);
    }
}
