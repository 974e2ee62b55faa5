//! What the crash cases have found, each told once more as a story of its own: cases move when the
//! generator changes, stories do not.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use journal_server::segment::fault_disk::{Fault, Loss, Op};
use journal_server::segment::{self, Kind, LogEntry, LogId, Opened, Options, Step, Version};
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::honest;
use super::machine::{DIR, IDS, Machine};
use super::model::{Act, body};

/// The first frame of a segment.
const FIRST_FRAME: usize = 8192;

/// A log of small segments, each of which holds few frames.
fn machine() -> (Machine, SmallRng) {
    machine_of(16 << 10)
}

fn machine_of(segment_bytes: u64) -> (Machine, SmallRng) {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut machine = Machine::new(&mut rng, honest);
    machine.options = Options { segment_bytes, ring_bytes: 0, frame_bytes: 4096, ..Options::default() };
    machine.open().expect("an empty disk opens");
    (machine, rng)
}

fn append(machine: &mut Machine, term: u64, count: u64, len: usize) {
    let next = machine.oracle.asked.next();
    let entry = |position| LogEntry::new(LogId::new(term, position), Kind::Entry, body(len, term << 32 | position));
    machine.ask(Act::Append((next..next + count).map(entry).collect()));
}

fn version(term: u64, position: u64) -> Version {
    Version { at: LogId::new(term, position), bytes: body(100, position) }
}

/// Opens, judges, loses everything unsynced, and judges again.
fn must_hold(machine: &mut Machine, rng: &mut SmallRng) {
    for _ in 0..2 {
        machine.open().unwrap_or_else(|why| panic!("{why:?}\n{}", machine.oracle.story()));
        machine.disk.crash_with(Loss::ALL, rng);
    }
}

fn segments(machine: &Machine) -> Vec<(PathBuf, Vec<u8>)> {
    let files = machine.disk.files(Path::new(DIR));
    files.into_iter().filter_map(|path| machine.disk.durable_bytes(&path).map(|bytes| (path, bytes))).collect()
}

/// One plan may fill several segments. A crash within it leaves several files that nothing was written
/// to; they are no damage. Nor may what a killed process wrote to the segment before them be counted
/// upon: it was never synced, however many files follow it.
#[test]
fn one_plan_begins_several_segments_and_is_lost() {
    let mut several_unbegun = 0;
    for stop in 0.. {
        let (mut machine, mut rng) = machine();
        append(&mut machine, 1, 1, 100);
        machine.settle().unwrap();
        append(&mut machine, 1, 9, 6000);
        machine.disk.stop_after(stop);
        machine.settle().unwrap();
        if !machine.disk.is_stopped() {
            break;
        }
        for killed in [true, false] {
            let mut machine = machine.fork();
            if killed {
                machine.disk.kill()
            } else {
                machine.disk.crash_with(Loss::ALL, &mut rng)
            }
            let unbegun = segments(&machine).iter().filter(|(_, bytes)| bytes.iter().all(|byte| *byte == 0)).count();
            several_unbegun += u64::from(unbegun > 1);
            must_hold(&mut machine, &mut rng);
        }
    }
    assert!(several_unbegun > 3, "the story was told {several_unbegun} times");
}

/// The footer of a sealed segment does not tell the versions and the chain at the purge mark: the next
/// segment opens with them. If a crash has torn that off, the sealed segment must be read in full.
#[test]
fn the_state_that_opens_the_last_segment_is_torn_off() {
    let mut torn_off = 0;
    for seed in 0..600 {
        let (mut machine, _) = machine();
        let mut rng = SmallRng::seed_from_u64(seed);
        append(&mut machine, 1, 4, 500);
        machine.ask(Act::SaveVersion(version(1, 1)));
        machine.ask(Act::Purge(LogId::new(1, 2)));
        machine.settle().unwrap();
        let before = segments(&machine).len();
        append(&mut machine, 1, 2, 6000);
        machine.disk.stop_after(seed % 12);
        machine.settle().unwrap();
        machine = machine.fork();
        machine.disk.crash(&mut rng);
        let after = segments(&machine);
        let (_, last) = after.last().expect("there are segments");
        let state = last.get(FIRST_FRAME..FIRST_FRAME + 4).is_some_and(|magic| magic == b"JfRm");
        torn_off += u64::from(after.len() > before && last.starts_with(b"JRNLSEG\n") && !state);
        must_hold(&mut machine, &mut rng);
    }
    assert!(torn_off > 3, "the story was told {torn_off} times");
}

/// What a truncation removed is still in the segment, before what replaced it. After a restart the
/// reader must find the second.
#[test]
fn an_entry_replaced_in_the_same_segment_is_read_as_what_replaced_it() {
    let (mut machine, mut rng) = machine_of(64 << 10);
    append(&mut machine, 1, 6, 50);
    machine.ask(Act::Truncate(Some(LogId::new(1, 2))));
    append(&mut machine, 2, 3, 50);
    machine.settle().unwrap();
    machine = machine.fork();
    machine.disk.crash_with(Loss::ALL, &mut rng);
    must_hold(&mut machine, &mut rng);
    assert_eq!(machine.oracle.asked.entry_at(3).expect("it is there").id, LogId::new(2, 3));
}

/// The keeper removes segments that the log, as written, does not need. What was asked for and is not
/// written yet is undone by a crash.
#[test]
fn a_truncation_that_was_only_asked_for_lets_no_segment_go() {
    let (mut machine, mut rng) = machine();
    append(&mut machine, 1, 3, 50);
    machine.ask(Act::Purge(LogId::new(1, 0)));
    machine.settle().unwrap();
    assert!(segments(&machine).len() > 1, "the entries are in a segment of their own");
    machine.ask(Act::Truncate(Some(LogId::new(1, 0))));
    machine.keep();
    machine = machine.fork();
    machine.disk.crash_with(Loss::ALL, &mut rng);
    must_hold(&mut machine, &mut rng);
    assert_eq!(machine.oracle.asked.entries.len(), 2);
}

/// Of a frame that is written twice one copy counts, for readers that pass it as well.
#[test]
fn readers_pass_a_doubled_frame_whose_first_copy_is_gone() {
    let (mut machine, mut rng) = machine_of(64 << 10);
    append(&mut machine, 1, 2, 50);
    machine.settle().unwrap();
    let (path, before) = segments(&machine).swap_remove(0);
    machine.ask(Act::SaveVersion(version(1, 1)));
    append(&mut machine, 1, 2, 50);
    machine.settle().unwrap();
    let (_, after) = segments(&machine).swap_remove(0);
    let at = before.len();
    assert!(after.len() > at, "the segment grew");
    machine = machine.fork();
    machine.disk.flip(&path, at as u64, 1);
    must_hold(&mut machine, &mut rng);
    assert_eq!(machine.oracle.asked.entries.len(), 4);
    assert_eq!(machine.oracle.asked.versions.len(), 1);
}

/// An idle mark holds nothing: damaged, it keeps no node from starting, and no reader from passing.
#[test]
fn a_damaged_mark_is_passed() {
    let (mut machine, mut rng) = machine_of(64 << 10);
    append(&mut machine, 1, 2, 50);
    machine.settle().unwrap();
    let (path, before) = segments(&machine).swap_remove(0);
    machine.mark().unwrap();
    append(&mut machine, 1, 2, 50);
    machine.settle().unwrap();
    machine = machine.fork();
    machine.disk.flip(&path, before.len() as u64 + 20, 1);
    must_hold(&mut machine, &mut rng);
    assert_eq!(machine.oracle.asked.entries.len(), 4);
}

/// Truncations and purges in the oldest segment may speak of positions that lay in segments which are
/// gone. They are no contradiction.
#[test]
fn the_oldest_segment_speaks_of_what_went_with_older_ones() {
    let (mut machine, mut rng) = machine_of(64 << 10);
    append(&mut machine, 1, 20, 3000);
    machine.ask(Act::Truncate(Some(LogId::new(1, 10))));
    machine.ask(Act::Purge(LogId::new(1, 5)));
    machine.ask(Act::Truncate(Some(LogId::new(1, 8))));
    append(&mut machine, 3, 4, 300);
    machine.settle().unwrap();
    assert_eq!(segments(&machine).len(), 2);
    machine.ask(Act::Purge(LogId::new(3, 10)));
    machine.settle().unwrap();
    machine.keep();
    machine = machine.fork();
    machine.disk.crash_with(Loss::ALL, &mut rng);
    assert!(segments(&machine)[0].0.ends_with("0000000000000002.seg"), "the first segment was removed");
    must_hold(&mut machine, &mut rng);
    assert_eq!(machine.oracle.asked.entries.len(), 2);
}

/// A sync of the directory that failed must not be made up for by the next one.
#[test]
fn a_keeper_that_cannot_sync_the_directory_ends_the_log() {
    let (mut machine, _) = machine();
    append(&mut machine, 1, 4, 6000);
    machine.ask(Act::Purge(LogId::new(1, 3)));
    machine.settle().unwrap();
    machine.disk.fail(Fault::eio(Op::SyncDir, 0));
    machine.keep();
    assert!(machine.is_failed());
}

/// A plan that cannot be laid out to its end is not laid out further: everybody in it is told.
#[test]
fn a_plan_that_finds_no_room_for_a_segment_fails_whole() {
    let (mut machine, mut rng) = machine();
    append(&mut machine, 1, 1, 50);
    machine.settle().unwrap();
    machine.disk.fail(Fault { op: Op::Create, skip: 0, times: 1, errno: libc::ENOSPC });
    append(&mut machine, 1, 6, 6000);
    machine.ask(Act::Install(version(1, 5), 0));
    append(&mut machine, 1, 2, 50);
    machine.settle().unwrap();
    assert!(machine.is_failed());
    machine = machine.fork();
    machine.disk.kill();
    must_hold(&mut machine, &mut rng);
}

/// openraft takes an answer as one to everything before it, and looks at its own state for each.
#[test]
fn of_all_appends_that_one_sync_covers_the_newest_alone_is_answered() {
    let mut rng = SmallRng::seed_from_u64(1);
    let machine = Machine::new(&mut rng, honest);
    let opened = segment::open(machine.disk.mount(), Path::new(DIR), IDS, Options::default()).unwrap();
    let Opened::Ready { log, mut writer, .. } = opened else { panic!("an empty disk is not damaged") };
    let answered = Arc::new(Mutex::new(Vec::new()));
    for sync in 0..3 {
        for position in sync * 5 + 1..=sync * 5 + 5 {
            let entry = LogEntry::new(LogId::new(1, position), Kind::Entry, vec![1]);
            let answered = answered.clone();
            log.append(vec![entry], Box::new(move |result| answered.lock().push((position, result.is_ok()))));
        }
        let Step::Write(plan) = writer.take() else { panic!("there is something to write") };
        let result = writer.perform(&plan);
        writer.done(plan, result);
    }
    assert_eq!(*answered.lock(), [(5, true), (10, true), (15, true)]);
}
