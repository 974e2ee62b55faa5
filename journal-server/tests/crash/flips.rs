//! Bits that flip on the disk under a log that was closed in good order or lost its power. What
//! something proves to have been synced is reported or repaired, and never cut; what nothing proves is
//! cut and counted; nothing is ever served that was not written.

use std::path::{Path, PathBuf};

use journal_server::segment::fault_disk::{FaultDisk, Loss};
use journal_server::segment::{self, Damaged, Error, LogEntry, Opened};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::honest;
use super::machine::{DIR, IDS, Machine, Shut};
use super::model::{Picture, check, read_picture};

/// Where the first frame of a segment is: before it lie two copies of the segment's header.
const FIRST_FRAME: usize = 8192;

/// What became of flips.
#[derive(Debug, Default)]
struct Seen {
    /// It changed nothing that matters: padding, removed entries, one of two copies.
    harmless: u64,
    /// Nothing proved it to be synced: cut, and counted.
    cut: u64,
    /// The log did not run without its peers' help, and was repaired with the entries that were there.
    repaired_at_start: u64,
    /// It does not run, and nothing that is offered repairs it.
    not_repaired_at_start: u64,
    /// A reader met it, and it was repaired with the entries that were there.
    repaired: u64,
    /// A reader met it, and nothing that is offered repairs it.
    not_repaired: u64,
}

#[test]
fn a_flipped_bit_is_never_served_and_never_takes_what_was_synced() {
    let mut seen = Seen::default();
    for seed in 0..super::number("FLIP_CASES").unwrap_or(400) {
        flip_some(seed, &mut seen).unwrap_or_else(|why| panic!("{why}\nflip case {seed}"));
    }
    super::tell(&format!("flipped bits: {seen:?}"));
    assert_eq!((seen.not_repaired, seen.not_repaired_at_start), (0, 0), "{seen:?}");
    for (what, count) in [
        ("harmless", seen.harmless),
        ("cut", seen.cut),
        ("repaired at the start", seen.repaired_at_start),
        ("repaired under a reader", seen.repaired),
    ] {
        assert!(count > 20, "only {count} flips were {what}");
    }
}

#[test]
fn a_sector_that_cannot_be_read_is_reported_and_takes_nothing_that_was_synced() {
    let (mut reported, mut whole) = (0, 0);
    for seed in 0..150 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let machine = some_life(&mut rng).unwrap_or_else(|why| panic!("{why}\nseed {seed}"));
        for _ in 0..10 {
            let machine = machine.fork();
            let (path, offset) = some_byte(&machine.disk, &mut rng);
            let sector = offset / 512 * 512;
            machine.disk.make_unreadable(&path, sector..sector + 512);
            match reported_or_whole(&machine) {
                Ok(true) => reported += 1,
                Ok(false) => whole += 1,
                Err(why) => panic!("{why}\n{}\nseed {seed}, {} from {sector}", machine.oracle.story(), path.display()),
            }
        }
    }
    super::tell(&format!("unreadable sectors: {reported} reported, {whole} where nothing was asked for"));
    assert!(reported > 100);
}

/// Opens and reads a log on a disk that cannot read some of it. False: that was not needed.
fn reported_or_whole(machine: &Machine) -> Result<bool, String> {
    let opened = segment::open(machine.disk.mount(), Path::new(DIR), IDS, machine.options.clone());
    let Ok(Opened::Ready { log, .. }) = opened else { return Ok(true) };
    let Ok(found) = read_picture(&log) else { return Ok(true) };
    check(found == machine.oracle.asked, || format!("{found:?} is left, and nothing is reported"))?;
    Ok(false)
}

/// A life without faults, up to a moment when nothing is under way.
pub fn some_life(rng: &mut SmallRng) -> Result<Machine, String> {
    let mut machine = Machine::new(rng, honest);
    machine.keep_before = true;
    match machine.open() {
        Ok(_) => {}
        Err(Shut::Stopped) => return Err("it stopped".into()),
        Err(Shut::Wrong(why) | Shut::Refused(why)) => return Err(why),
    }
    for _ in 0..rng.random_range(5..120) {
        machine.step(rng)?;
    }
    match rng.random_range(0..3) {
        0 => machine.settle()?,
        1 => machine.mark()?,
        _ => machine.close()?,
    }
    machine.disk.crash_with(Loss::ALL, rng);
    Ok(machine)
}

fn flip_some(seed: u64, seen: &mut Seen) -> Result<(), String> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut machine = some_life(&mut rng)?;
    let (proven, before) = (machine.proven, machine.before_last.take());
    for _ in 0..20 {
        let flipped = machine.fork();
        let (path, offset) = some_byte(&flipped.disk, &mut rng);
        flipped.disk.flip(&path, offset, 1 << rng.random_range(0..8));
        let unproven = before.as_ref().is_some_and(|before| in_last_plan(before, &machine.disk, &path, offset));
        judge(&flipped, proven, unproven, seen).map_err(|why| {
            let story = machine.oracle.story();
            format!("{why}\n{story}\nflipped byte {offset} of {}, unproven: {unproven}", path.display())
        })?;
    }
    Ok(())
}

/// A byte of what was written, of any segment.
pub fn some_byte(disk: &FaultDisk, rng: &mut SmallRng) -> (PathBuf, u64) {
    let written: Vec<(PathBuf, u64)> = disk
        .files(Path::new(DIR))
        .into_iter()
        .filter_map(|path| {
            let bytes = disk.durable_bytes(&path)?;
            let end = bytes.iter().rposition(|byte| *byte != 0)? as u64 + 1;
            Some((path, end))
        })
        .collect();
    let (path, end) = &written[rng.random_range(0..written.len())];
    (path.clone(), rng.random_range(0..*end))
}

/// Whether a byte is of what the last plan wrote, and nothing follows that proves it.
pub fn in_last_plan(before: &FaultDisk, after: &FaultDisk, path: &Path, offset: u64) -> bool {
    let newest = after
        .files(Path::new(DIR))
        .into_iter()
        .rfind(|path| after.durable_bytes(path).is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0)));
    let (Some(old), Some(new)) = (before.durable_bytes(path), after.durable_bytes(path)) else { return false };
    // A frame begins with bytes that are not zero.
    let Some(begins) = old.iter().zip(&new).position(|(old, new)| old != new) else { return false };
    newest.as_deref() == Some(path) && begins >= FIRST_FRAME && offset >= begins as u64
}

fn judge(machine: &Machine, proven: usize, unproven: bool, seen: &mut Seen) -> Result<(), String> {
    let whole = &machine.oracle.asked;
    let opened = segment::open(machine.disk.mount(), Path::new(DIR), IDS, machine.options.clone());
    let (log, report) = match opened {
        Ok(Opened::Ready { log, report, .. }) => (log, report),
        Ok(Opened::Damaged(damaged)) => {
            check(!unproven, || format!("called damaged, not torn: {:?}", damaged.holes()))?;
            return heal_at_start(damaged, whole, seen);
        }
        // Whatever one bit hits, its neighbours tell what was there.
        Err(error) => return Err(format!("refused: {error}")),
    };
    match read_picture(&log) {
        Ok(found) => {
            let reached = machine.oracle.explain(&found, proven)?;
            if found == *whole {
                seen.harmless += 1;
            } else {
                seen.cut += 1;
                check(report.torn_frames > 0, || format!("{reached} acts are left, and no cut was reported"))?;
            }
            Ok(())
        }
        Err(_) => {
            check(!unproven, || "called damaged while reading, not torn at the start".into())?;
            heal(&log, whole, seen)
        }
    }
}

/// Offers what was there for the holes of a log that does not run, as peers would.
fn heal_at_start(mut damaged: Damaged, whole: &Picture, seen: &mut Seen) -> Result<(), String> {
    for hole in damaged.holes() {
        check(hole.first <= hole.last, || format!("an empty hole: {hole:?}"))?;
    }
    if damaged.is_state_lost() {
        seen.not_repaired_at_start += 1;
        return Ok(());
    }
    let lies: Vec<LogEntry> = whole.entries.iter().map(another).collect();
    check(!matches!(damaged.fill(&lies), Ok(true)), || "a hole took what was never there".into())?;
    match damaged.fill(&whole.entries) {
        Ok(filled) => check(filled, || format!("all was offered, and {:?} is left", damaged.holes()))?,
        Err(Error::Refused { .. }) => {
            seen.not_repaired_at_start += 1;
            return Ok(());
        }
        Err(error) => return Err(format!("repairing: {error}")),
    }
    let log = match damaged.reopen() {
        Ok(Opened::Ready { log, .. }) => log,
        Ok(Opened::Damaged(damaged)) => return Err(format!("filled, and still damaged: {:?}", damaged.holes())),
        Err(error) => return Err(format!("filled, and now it does not open: {error}")),
    };
    let found = read_picture(&log)?;
    // Versions that were lost are made again by whoever applies the entries.
    let kept = found.versions.len();
    check(found.versions.as_slice() == whole.versions.get(..kept).unwrap_or_default(), || "other versions".into())?;
    if kept < whole.versions.len() {
        check(log.recovered_applied().is_none(), || "versions were lost, and the applied hint was kept".into())?;
    }
    let expected = Picture { versions: found.versions.clone(), ..whole.clone() };
    check(found == expected, || format!("repaired to {found:?} instead of {whole:?}"))?;
    seen.repaired_at_start += 1;
    Ok(())
}

/// An entry that could stand at the same place in another log.
fn another(entry: &LogEntry) -> LogEntry {
    let mut body = entry.body.to_vec();
    body.push(1);
    LogEntry::new(entry.id, entry.kind, body)
}

/// Offers what was there for what cannot be read, as peers would.
fn heal(log: &segment::Log, whole: &Picture, seen: &mut Seen) -> Result<(), String> {
    let holes = log.holes();
    check(!holes.is_empty(), || "something cannot be read, and no hole is known".into())?;
    match log.patch_blocking(&whole.entries) {
        Ok(()) => {
            let found = read_picture(log)?;
            check(found == *whole, || format!("repaired to {found:?} instead of {whole:?}"))?;
            check(log.holes().is_empty(), || "a hole is left after its repair".into())?;
            seen.repaired += 1;
        }
        Err(Error::Refused { .. }) => seen.not_repaired += 1,
        Err(error) => return Err(format!("repairing: {error}")),
    }
    Ok(())
}
