//! The table of what a start finds and what it does about it: one case a row. Cases are laid out by hand
//! on a disk, without chance: what was synced, what is bad, what proves it.
//!
//! | found | it is | then |
//! |---|---|---|
//! | bad frame, a later segment | damaged | hole, filled from peers |
//! | bad frame, a later frame whose `synced_upto` lies beyond it | damaged | hole, never cut |
//! | bad frame, later frames of the same plan only | torn | cut there, asking nobody |
//! | the same, and the process was killed, not the machine | synced at the start, then read: whole or torn | as above |
//! | bad last frame, nothing behind it | torn | cut, and it comes back from peers |
//! | bad last frame, an idle mark or a clean stop behind it | damaged | hole |
//! | bad last plan, but segments are gone that only its purge mark let go | damaged | passed over, or a hole |
//! | a hint that names what is not in the log | lost with a crash | dropped, never clamped |
//! | the log ends before what was acknowledged | lost data | the leader shuts the node out (`raft/network.rs`) |
//! | one copy of a doubled frame bad | whole | read from the other |
//! | both copies of a vote bad, anything behind it | told again by every later frame | passed over |
//! | both copies of a vote bad, nothing behind it | torn: nobody was told | cut |
//! | both copies of a segment's header bad, frames in it that were synced | damaged beyond repair | refused |
//! | leftovers behind a cut | of an older run | zeroed, and never read again |

// A test that cannot go on says why by failing.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use journal_server::segment::dump::{Line, dump};
use journal_server::segment::fault_disk::Loss;
use journal_server::segment::{self, Damaged, Kind, Log, LogEntry, LogId, Opened, Options, Report, Version, Vote};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::honest;
use super::machine::{DIR, IDS, Machine};
use super::model::{Act, body};

const BLOCK: u64 = 4096;

struct Case {
    machine: Machine,
    rng: SmallRng,
}

/// A log in one large segment, or in several small ones.
fn case(segment_bytes: u64) -> Case {
    let mut rng = SmallRng::seed_from_u64(3);
    let mut machine = Machine::new(&mut rng, honest);
    machine.options = Options { segment_bytes, ring_bytes: 0, frame_bytes: 600, ..Options::default() };
    machine.open().expect("an empty disk opens");
    Case { machine, rng }
}

fn one() -> Case {
    case(64 << 10)
}

impl Case {
    /// Entries of one plan, asked for and not synced.
    fn ask(&mut self, count: u64) {
        let next = self.machine.oracle.asked.next();
        for position in next..next + count {
            let entry = LogEntry::new(LogId::new(1, position), Kind::Entry, body(500, position));
            self.machine.ask(Act::Append(vec![entry]));
        }
    }

    /// Entries of one plan each, synced. Where the frame of the last one begins.
    fn append(&mut self, count: u64) -> (PathBuf, u64) {
        let mut place = self.end();
        for _ in 0..count {
            place = self.end();
            self.ask(1);
            self.machine.settle().unwrap();
        }
        place
    }

    /// The last segment, and where its frames end.
    fn end(&self) -> (PathBuf, u64) {
        let disk = self.machine.disk.fork();
        for path in disk.files(Path::new(DIR)).into_iter().rev() {
            let mut end = 0;
            let frame = |line| {
                if let Line::Frame { header, .. } = line {
                    end = header.offset + u64::from(header.frame_len);
                }
                Ok(())
            };
            if dump(&*disk.mount(), &path, |_| Ok(()), frame).unwrap().is_some() {
                return (path, end);
            }
        }
        panic!("a log has a segment")
    }

    fn power_cut(&mut self) {
        self.machine = self.machine.fork();
        self.machine.disk.crash_with(Loss::ALL, &mut self.rng);
    }

    fn flip(&self, (path, offset): &(PathBuf, u64)) {
        assert!(self.machine.disk.flip(path, offset + 20, 1), "nothing to flip at {offset}");
    }

    fn open(&self) -> Result<Opened, segment::Error> {
        segment::open(self.machine.disk.mount(), Path::new(DIR), IDS, self.machine.options.clone())
    }

    fn ready(&self) -> (Log, Report) {
        match self.open() {
            Ok(Opened::Ready { log, report, .. }) => (log, report),
            Ok(Opened::Damaged(damaged)) => panic!("damaged: {:?}", damaged.holes()),
            Err(error) => panic!("refused: {error}"),
        }
    }

    fn damaged(&self) -> Damaged {
        match self.open() {
            Ok(Opened::Damaged(damaged)) => damaged,
            Ok(Opened::Ready { report, .. }) => panic!("it runs: {report:?}"),
            Err(error) => panic!("refused: {error}"),
        }
    }

    /// It has the hole, waits with everything else untouched, and is whole once that is filled.
    fn must_wait_for(&self, first: u64, last: u64) {
        let before = self.bytes();
        let mut damaged = self.damaged();
        let holes: Vec<(u64, u64)> = damaged.holes().iter().map(|hole| (hole.first, hole.last)).collect();
        assert_eq!(holes, [(first, last)]);
        assert_eq!(damaged.last(), self.machine.oracle.asked.last(), "the end of the log is known");
        assert!(self.bytes() == before, "something was written before it was filled");
        assert!(damaged.fill(&self.machine.oracle.asked.entries).unwrap());
        let Ok(Opened::Ready { log, .. }) = damaged.reopen() else { panic!("filled, and it does not run") };
        let read = log.read_blocking(0, u64::MAX, 1 << 20).unwrap();
        assert!(read == self.machine.oracle.asked.entries, "it is not what it was");
    }

    fn bytes(&self) -> Vec<Option<Vec<u8>>> {
        let files = self.machine.disk.files(Path::new(DIR));
        files.iter().map(|path| self.machine.disk.durable_bytes(path)).collect()
    }

    fn must_be_cut_to(&self, last: Option<u64>) {
        let (log, report) = self.ready();
        assert_eq!(log.last().map(|id| id.position), last);
        assert_eq!(report.torn_frames, 1);
        assert!(log.holes().is_empty());
    }
}

#[test]
fn a_bad_frame_in_a_segment_that_another_follows_is_a_hole() {
    // No frame of this segment promises anything: one plan filled it, and went on in the next.
    let mut case = case(16 << 10);
    let place = case.end();
    case.ask(40);
    case.machine.settle().unwrap();
    assert!(case.machine.disk.files(Path::new(DIR)).len() > 2);
    case.power_cut();
    // The footer would do without reading the frames.
    let trailer = case.machine.disk.durable_bytes(&place.0).unwrap().len() as u64 - 64;
    case.flip(&(place.0.clone(), trailer));
    case.flip(&place);
    let first_frame = case.damaged().holes()[0].clone();
    case.must_wait_for(0, first_frame.last);
}

#[test]
fn a_bad_frame_before_one_that_promises_it_is_a_hole_and_never_cut() {
    let mut case = one();
    let place = case.append(3);
    case.append(2);
    case.power_cut();
    case.flip(&place);
    case.must_wait_for(2, 2);
}

#[test]
fn a_bad_frame_before_others_of_its_own_plan_is_torn_and_cut_with_them() {
    let mut case = one();
    case.append(2);
    let place = case.end();
    case.ask(4);
    case.machine.settle().unwrap();
    case.power_cut();
    assert!(case.end().1 > place.1 + 4 * 500, "the four have a frame each");
    case.flip(&place);
    case.must_be_cut_to(Some(1));
}

#[test]
fn what_a_killed_process_wrote_and_never_synced_is_synced_before_it_is_read() {
    let mut case = one();
    case.append(2);
    case.ask(1);
    // Written, and the process dies in the sync.
    case.machine.disk.stop_after(1);
    case.machine.settle().unwrap();
    assert!(case.machine.disk.is_stopped());
    case.machine = case.machine.fork();
    case.machine.disk.kill();
    let (log, _) = case.ready();
    let found = log.last();
    assert_eq!(found, Some(LogId::new(1, 2)), "the page cache had it");
    drop(log);
    // Whatever was shown once is there for good.
    case.power_cut();
    assert_eq!(case.ready().0.last(), found);
}

#[test]
fn a_bad_last_frame_that_nothing_proves_is_cut() {
    let mut case = one();
    let place = case.append(3);
    case.power_cut();
    case.flip(&place);
    case.must_be_cut_to(Some(1));
}

#[test]
fn a_bad_last_frame_before_an_idle_mark_is_a_hole() {
    let mut case = one();
    let place = case.append(3);
    case.machine.mark().unwrap();
    case.power_cut();
    case.flip(&place);
    case.must_wait_for(2, 2);
}

#[test]
fn a_bad_last_frame_before_a_clean_stop_is_a_hole() {
    let mut case = one();
    let place = case.append(3);
    case.machine.close().unwrap();
    case.power_cut();
    case.flip(&place);
    case.must_wait_for(2, 2);
}

#[test]
fn a_bad_frame_before_a_purge_that_has_let_segments_go_is_damaged() {
    let mut case = case(32 << 10);
    // Until a segment has just begun that is not the first.
    while case.machine.oracle.asked.next() < 30 || case.end().1 > 14_000 {
        case.append(1);
    }
    let place = case.end();
    case.ask(2);
    let mark = case.machine.oracle.asked.last().unwrap();
    case.machine.ask(Act::Purge(mark));
    case.ask(1);
    case.machine.settle().unwrap();
    case.machine.keep();
    case.power_cut();
    let files = case.machine.disk.files(Path::new(DIR));
    assert!(!files[0].ends_with("0000000000000001.seg") && files.contains(&place.0), "{files:?}");
    // Nothing behind this frame promises it, but it is known to have been synced by what is gone.
    case.flip(&place);
    let (log, report) = case.ready();
    assert_eq!((log.purged(), log.last()), (Some(mark), Some(LogId::new(1, mark.position + 1))));
    assert_eq!(report.torn_frames, 0);
}

#[test]
fn a_hint_that_names_what_a_crash_took_back_is_dropped_and_not_clamped() {
    let mut case = one();
    case.append(2);
    let place = case.end();
    case.ask(1);
    let lost = LogId::new(1, 2);
    case.machine.oracle.hint_commit(lost);
    case.machine.running().log.commit_hint(lost);
    case.machine.running().log.applied_hint(lost);
    case.machine.settle().unwrap();
    case.power_cut();
    // The frame of the entry is torn; its header, which carries the hints, is read.
    assert!(case.machine.disk.flip(&place.0, place.1 + 192 + 40, 1));
    let (log, report) = case.ready();
    assert_eq!((log.last(), report.torn_frames), (Some(LogId::new(1, 1)), 1));
    assert_eq!((log.recovered_commit(), log.recovered_applied()), (None, None));
}

#[test]
fn one_copy_of_a_doubled_frame_is_enough_whichever_it_is() {
    for second in [false, true] {
        let mut case = one();
        case.append(2);
        let place = case.end();
        let vote = Vote { term: 4, node: 2, committed: true };
        case.machine.ask(Act::Vote(vote));
        case.machine.ask(Act::SaveVersion(Version { at: LogId::new(1, 1), bytes: body(100, 1) }));
        case.machine.settle().unwrap();
        case.power_cut();
        let copy = (place.1 + 192).next_multiple_of(BLOCK);
        let at = if second { copy } else { place.1 };
        case.flip(&(place.0, at));
        let (log, report) = case.ready();
        assert_eq!((log.vote(), report.torn_frames), (Some(vote), 0));
        assert_eq!(log.versions().len(), 1);
    }
}

#[test]
fn a_vote_whose_copies_are_both_bad_is_told_again_by_whatever_follows() {
    let mut case = one();
    let place = case.end();
    let vote = Vote { term: 4, node: 2, committed: true };
    case.machine.ask(Act::Vote(vote));
    case.machine.settle().unwrap();
    case.append(2);
    case.power_cut();
    case.flip(&place);
    case.flip(&(place.0.clone(), (place.1 + 192).next_multiple_of(BLOCK)));
    let (log, report) = case.ready();
    assert_eq!((log.vote(), report.torn_frames), (Some(vote), 0));
    assert_eq!(log.read_blocking(0, 9, 1 << 20).unwrap().len(), 2);
}

#[test]
fn a_vote_whose_copies_are_both_bad_and_that_nothing_follows_was_never_given() {
    let mut case = one();
    case.append(1);
    case.machine.mark().unwrap();
    let place = case.end();
    case.machine.ask(Act::Vote(Vote { term: 4, node: 2, committed: true }));
    case.machine.settle().unwrap();
    case.power_cut();
    case.flip(&place);
    case.flip(&(place.0.clone(), (place.1 + 192).next_multiple_of(BLOCK)));
    let (log, report) = case.ready();
    assert_eq!((log.vote(), report.torn_frames), (None, 1));
    assert_eq!(log.last(), Some(LogId::new(1, 0)));
}

#[test]
fn a_segment_whose_header_is_gone_in_both_copies_is_refused_if_anything_in_it_was_synced() {
    let mut case = one();
    case.append(3);
    case.power_cut();
    let (path, _) = case.end();
    case.flip(&(path.clone(), 0));
    assert_eq!(case.ready().0.last(), Some(LogId::new(1, 2)), "one copy is enough");
    case.power_cut();
    case.flip(&(path, BLOCK));
    let before = case.bytes();
    assert!(matches!(case.open(), Err(segment::Error::Invalid { .. })));
    assert!(case.bytes() == before, "what is refused is not touched");
}

#[test]
fn what_was_cut_does_not_come_back_behind_what_is_written_in_its_place() {
    let mut case = one();
    case.append(1);
    let place = case.end();
    case.ask(6);
    case.machine.settle().unwrap();
    case.power_cut();
    case.flip(&place);
    case.must_be_cut_to(Some(0));
    let (_, bytes) = (case.power_cut(), case.machine.disk.durable_bytes(&place.0).unwrap());
    // The run that began with the cut has written its state there, and zeros follow.
    let leftovers = (place.1 as usize..bytes.len() - 8).step_by(8).filter(|at| bytes[*at..].starts_with(b"JfRm"));
    let entries = leftovers.filter(|at| bytes[at + 28] == 2).count();
    assert_eq!(entries, 0, "frames that were cut are still there");
    assert_eq!(case.ready().0.last(), Some(LogId::new(1, 0)));
}
