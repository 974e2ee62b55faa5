//! Segments of a disk that has lost its mind: bits flipped, ends gone, ranges zeroed, blocks written
//! where others belong.
//!
//! Whatever the files hold, opening, reading, repairing and appending must end, with an answer or with
//! an error: never with a panic, a loop, or memory that a length in a file asked for.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bytes::Bytes;
use journal_server::segment::fault_disk::FaultDisk;
use journal_server::segment::{
    self, Damaged, Ids, Kind, Log, LogEntry, LogId, Opened, Options, Step, Version, Vote, Writer,
};

use super::bytecode::Bytecode;

const DIR: &str = "/log";
const IDS: Ids = Ids { cluster: 7, node: 8, group: 9 };
const SECTOR: usize = 512;
const BLOCK: usize = 4096;

type Files = Vec<(PathBuf, Vec<u8>)>;

fn options() -> Options {
    Options {
        segment_bytes: 32 << 10,
        ring_bytes: 2000,
        frame_bytes: 3000,
        index_step_bytes: 500,
        ..Options::default()
    }
}

/// Opens what `data` makes of a healthy log, and uses what comes of it.
pub fn open_and_use(data: &[u8]) {
    let mut code = Bytecode(data);
    let mut files = healthy().clone();
    let read_all = code.byte() % 2 == 0;
    while !code.is_empty() {
        change(&mut files, &mut code);
    }
    let disk = FaultDisk::new(1);
    let fs = disk.mount();
    fs.create_dir(Path::new(DIR)).unwrap();
    for (path, bytes) in &files {
        let file = fs.create(path).unwrap();
        file.write_all_at(&[std::io::IoSlice::new(bytes)], 0).unwrap();
    }
    match segment::open(fs, Path::new(DIR), IDS, Options { read_all, ..options() }) {
        Ok(Opened::Ready { log, writer, .. }) => use_log(&log, writer),
        Ok(Opened::Damaged(damaged)) => use_damaged(damaged),
        Err(_) => {}
    }
}

/// What is in the files of a log in which everything has happened once.
fn healthy() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| {
        let disk = FaultDisk::new(0);
        let Ok(Opened::Ready { log, mut writer, .. }) = segment::open(disk.mount(), Path::new(DIR), IDS, options())
        else {
            panic!("an empty disk does not open")
        };
        let at = |position| LogId { term: 2, position };
        let version = |position| Version { at: at(position), bytes: Bytes::from(vec![3; 400]) };
        log.save_vote(Vote { term: 2, node: 8, committed: true }, Box::new(drop));
        for position in 0..120 {
            log.append(vec![entry(2, position)], Box::new(drop));
            match position {
                30 | 60 => log.save_version(version(position)),
                40 => log.truncate_after(Some(at(40))),
                70 => log.purge(at(20)),
                _ => {}
            }
            log.commit_hint(at(position));
            log.applied_hint(at(position));
            drive(&mut writer);
        }
        log.close();
        drive(&mut writer);
        let files = disk.files(Path::new(DIR)).into_iter();
        files.map(|path| (path.clone(), disk.durable_bytes(&path).expect("it is listed"))).collect()
    })
}

fn entry(term: u64, position: u64) -> LogEntry {
    let body = Bytes::from(vec![position as u8; 40 + position as usize * 7 % 900]);
    LogEntry { id: LogId { term, position }, kind: Kind::Entry, crc: crc32fast::hash(&body), body }
}

fn drive(writer: &mut Writer) {
    while let Step::Write(plan) = writer.take() {
        let result = writer.perform(&plan);
        writer.done(plan, result);
    }
}

/// One change, as the code says.
fn change(files: &mut Files, code: &mut Bytecode<'_>) {
    let chosen = code.byte() as usize % files.len();
    let other = code.byte() as usize % files.len();
    let length = files[chosen].1.len();
    if length == 0 {
        return;
    }
    let at = code.number() as usize % length;
    match code.byte() % 5 {
        0 => files[chosen].1[at] ^= code.byte(),
        1 => files[chosen].1.truncate(at),
        2 => {
            let upto = (at + code.number() as usize % BLOCK).min(length);
            files[chosen].1[at..upto].fill(0);
        }
        // A sector or a block that belongs elsewhere.
        op => {
            let unit = if op == 3 { SECTOR } else { BLOCK };
            let sectors = files[other].1.chunks(unit);
            let Some(block) = sectors.clone().nth(code.number() as usize % sectors.len().max(1)) else { return };
            let block = block.to_vec();
            let at = at / unit * unit;
            let fits = block.len().min(length - at);
            files[chosen].1[at..at + fits].copy_from_slice(&block[..fits]);
        }
    }
}

/// Reads from the first position on, as often as entries can be there.
fn read_through(first: u64, mut read: impl FnMut(u64) -> Option<u64>) {
    let mut from = first;
    for _ in 0..400 {
        match read(from) {
            Some(last) => {
                assert!(last >= from, "a read at {from} ends at {last}");
                from = last.saturating_add(1);
            }
            None => return,
        }
    }
    panic!("more entries than were ever written");
}

fn use_log(log: &Log, mut writer: Writer) {
    let last = log.last().map_or(0, |last| last.position);
    read_through(log.first_position(), |from| {
        let entries = log.read_blocking(from, u64::MAX, 1500).ok()?;
        let _ = log.chain_at_blocking(from);
        entries.last().map(|entry| entry.id.position)
    });
    let _ = (log.term_runs(), log.versions(), log.holes(), log.vote());
    // It goes on behind what it shows, if there is anything behind it.
    if let Some(next) = last.checked_add(1) {
        let term = log.last().map_or(1, |last| last.term);
        log.append(vec![entry(term, next)], Box::new(drop));
        drive(&mut writer);
    }
    log.purge(LogId { term: 3, position: last });
    drive(&mut writer);
    log.close();
    drive(&mut writer);
}

fn use_damaged(mut damaged: Damaged) {
    let _ = (damaged.holes().to_vec(), damaged.findings().len(), damaged.last(), damaged.committed());
    read_through(damaged.purged().map_or(0, |purged| purged.position.saturating_add(1)), |from| {
        let (entries, _) = damaged.read(from, u64::MAX, 1500);
        entries.last().map(|entry| entry.id.position)
    });
    let offered: Vec<LogEntry> = (0..120).map(|position| entry(2, position)).collect();
    let _ = damaged.fill(&offered);
    let _ = damaged.accept_loss();
    if let Ok(Opened::Ready { log, writer, .. }) = damaged.reopen() {
        use_log(&log, writer);
    }
}

/// So that nothing is tested by mistake on a log with nothing in it.
pub fn healthy_frames() -> usize {
    let count = |bytes: &Vec<u8>| bytes.chunks(8).filter(|word| word.starts_with(b"JfRm")).count();
    healthy().iter().map(|(_, bytes)| count(bytes)).sum()
}
