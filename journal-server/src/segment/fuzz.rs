//! What fuzzers do to the bytes on disk: any bytes in the place of a log's segments. Not a part of the
//! node; `fuzz/` and `tests/fuzz/` call it.
//!
//! Whatever lies there, opening it, reading it, judging it and telling it to people must end with an
//! answer, never in a panic. What opens must open again as the same log.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use super::fault_disk::FaultDisk;
use super::format::{
    BLOCK, DATA_START, ENTRY_RECORD_BYTES, FRAME_HEADER_BYTES, FRAME_MAGIC, FrameHeader, FrameKind, SealIndex,
    SegmentHeader, TRAILER_BYTES, decode_table, decode_trailer, decode_versions, encode_trailer, file_name, get_u32,
    get_u64, reseal, table_bytes,
};
use super::fs::Fs;
use super::types::{Error, Ids, Kind, LogEntry, LogId, Options, Version, Vote};
use super::{Log, Opened, Step, Writer, dump, open, verify};

const DIR: &str = "/disk/log";
const IDS: Ids = Ids { cluster: 5, node: 6, group: 7 };
/// The bytes of one segment in an input.
const SEGMENT_BYTES: usize = 32 << 10;
const SEGMENTS_MAX: usize = 4;
/// Where a single frame is taken to lie: behind whatever it says of what is before it.
const OFFSET: u64 = 1 << 30;
/// Of an input's first byte: make all checksums right, so that what they guard is looked at too.
const RESEAL: u8 = 1;

/// Every decoder of the format on its own, on the same bytes.
pub fn formats(data: &[u8]) -> &'static str {
    let mut bytes = data.to_vec();
    if bytes.len() >= FRAME_HEADER_BYTES {
        reseal_frame(&mut bytes, 0, 1, OFFSET);
    }
    let header = FrameHeader::decode(&bytes, &IDS, 1, OFFSET);
    if let Some(header) = &header {
        let mut again = vec![0; FRAME_HEADER_BYTES];
        header.encode(&IDS, &mut again);
        assert_eq!(FrameHeader::decode(&again, &IDS, 1, OFFSET).as_ref(), Some(header), "it reads back as another");
        let payload = &bytes[FRAME_HEADER_BYTES..];
        if header.kind == FrameKind::Entries {
            let _ = decode_table(header, payload);
            let _ = header.last_position();
        }
        let _ = (header.end(), header.twin_offset());
    }
    let _ = SegmentHeader::decode(data);
    let _ = decode_trailer(data, &IDS, 1);
    if let Some(index) = SealIndex::decode(data) {
        let mut again = Vec::new();
        index.encode(&mut again);
        assert!(again == data, "an index reads back as another");
    }
    let _ = decode_versions(&data.to_vec().into());
    if header.is_some() { "a header" } else { "no header" }
}

/// A log whose segments are these bytes.
pub fn log(data: &[u8]) -> &'static str {
    let Some((flags, data)) = data.split_first() else { return "nothing" };
    let disk = FaultDisk::new(1);
    let fs = disk.mount();
    let dir = Path::new(DIR);
    fs.create_dir(dir).expect("an honest disk makes directories");
    for (number, bytes) in (1..).zip(data.chunks(SEGMENT_BYTES).take(SEGMENTS_MAX)) {
        let mut bytes = bytes.to_vec();
        bytes.resize(SEGMENT_BYTES, 0);
        if flags & RESEAL != 0 {
            reseal_segment(&mut bytes, number);
        }
        put(fs.as_ref(), &dir.join(file_name(number)), &bytes);
    }
    fs.sync_dir(dir).expect("an honest disk syncs");

    let verdict = verify::verify(fs.as_ref(), dir, IDS, Arc::new(|_| {})).expect("an honest disk reads");
    for path in dump::segments(fs.as_ref(), dir).expect("an honest disk lists") {
        let told = dump::dump(fs.as_ref(), &path, |_| Ok(()), |_| Ok(()));
        told.expect("an honest disk reads");
    }
    match open(fs.clone(), dir, IDS, options()) {
        Ok(Opened::Ready { log, mut writer, .. }) => {
            read_all(&log);
            let before = picture(&log);
            close(&log, &mut writer);
            drop((log, writer));
            match open(fs, dir, IDS, options()) {
                Ok(Opened::Ready { log, .. }) => assert_eq!(picture(&log), before, "it opens as another log"),
                Ok(Opened::Damaged(damaged)) => panic!("it opened, and is damaged now: {:?}", damaged.holes()),
                Err(error) => panic!("it opened, and does not any more: {error}"),
            }
            if verdict.is_sound() { "opened" } else { "opened, not sound" }
        }
        Ok(Opened::Damaged(damaged)) => {
            let _ = damaged.read(0, u64::MAX, 1 << 20);
            "damaged"
        }
        Err(Error::Invalid { .. } | Error::Lost(_)) => "refused",
        Err(error) => panic!("an honest disk fails: {error}"),
    }
}

/// Logs to begin with.
pub fn logs() -> Vec<Vec<u8>> {
    let mut logs = vec![vec![0], vec![RESEAL]];
    for lives in 1..=3 {
        let disk = FaultDisk::new(lives);
        for life in 1..=lives {
            live(disk.mount(), life, 40 / lives);
        }
        let mut bytes = vec![(lives & 1) as u8];
        for path in disk.files(Path::new(DIR)) {
            let mut file = disk.durable_bytes(&path).expect("it was listed");
            file.resize(SEGMENT_BYTES, 0);
            bytes.extend(file);
        }
        bytes.truncate(1 + SEGMENTS_MAX * SEGMENT_BYTES);
        while bytes.last() == Some(&0) && bytes.len() > 1 {
            bytes.pop();
        }
        logs.push(bytes);
    }
    logs
}

/// Single frames, headers and indexes.
pub fn frames() -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for log in logs() {
        for at in frames_of(&log) {
            found.push(log[at..(at + 600).min(log.len())].to_vec());
        }
        found.extend(log.get(1..1 + BLOCK as usize).map(<[u8]>::to_vec));
    }
    found
}

fn options() -> Options {
    Options { segment_bytes: SEGMENT_BYTES as u64, ring_bytes: 0, frame_bytes: 600, ..Options::default() }
}

fn put(fs: &dyn Fs, path: &Path, bytes: &[u8]) {
    let file = fs.create(path).expect("an honest disk makes files");
    file.write_all_at(&[IoSlice::new(bytes)], 0).expect("an honest disk writes");
    file.sync().expect("an honest disk syncs");
}

type Picture = (Option<LogId>, Option<LogId>, Option<Vote>, Option<LogId>, Vec<Version>);

fn picture(log: &Log) -> Picture {
    (log.last(), log.purged(), log.vote(), log.recovered_applied(), log.versions())
}

/// What can be read of a log. Holes that are found are no fault: the segments say whatever they like.
fn read_all(log: &Log) {
    let mut at = log.first_position();
    let end = log.last().map_or(0, |last| last.position.saturating_add(1));
    for _ in 0..100 {
        if at >= end {
            break;
        }
        match log.read_blocking(at, end, 4096) {
            Ok(entries) => {
                let Some(last) = entries.last() else { break };
                assert!(entries.iter().all(|entry| crc32fast::hash(&entry.body) == entry.crc), "unchecked");
                assert!(entries.iter().zip(at..).all(|(entry, at)| entry.id.position == at), "not in order");
                at = last.id.position + 1;
            }
            Err(_) => at += 1,
        }
    }
}

fn run(writer: &mut Writer) {
    loop {
        match writer.take() {
            Step::Write(plan) => {
                let result = writer.perform(&plan);
                writer.done(plan, result);
            }
            Step::Idle { .. } | Step::Closed => return,
        }
    }
}

fn close(log: &Log, writer: &mut Writer) {
    log.close();
    run(writer);
}

fn live(fs: Arc<dyn Fs>, life: u64, entries: u64) {
    let opened = open(fs, Path::new(DIR), IDS, options()).expect("an honest log opens");
    let Opened::Ready { log, mut writer, .. } = opened else { unreachable!("an honest log is whole") };
    log.save_vote(Vote { term: life, node: 6, committed: true }, Box::new(|_| {}));
    let next = log.last().map_or(0, |last| last.position + 1);
    for position in next..next + entries {
        let kind = if position % 7 == 0 { Kind::Control } else { Kind::Entry };
        let body = vec![position as u8; (position * 37 % 900) as usize];
        log.append(vec![LogEntry::new(LogId::new(life, position), kind, body)], Box::new(|_| {}));
        let id = LogId::new(life, position);
        if position % 9 == 0 {
            log.commit_hint(id);
            log.save_version(Version { at: id, bytes: vec![7; 50].into() });
            log.applied_hint(id);
        }
        if position % 3 == 0 {
            run(&mut writer);
        }
        if position > 0 && position % 18 == 0 {
            log.purge(log.log_id_at(position - 9).expect("it was not purged before"));
        }
    }
    log.truncate_after(log.last().and_then(|last| log.log_id_at(last.position - 1)));
    run(&mut writer);
    if let Some(plan) = writer.mark() {
        let result = writer.perform(&plan);
        writer.done(plan, result);
    }
    close(&log, &mut writer);
}

/// Where frames seem to begin.
fn frames_of(bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
    // An input has one byte before its segments.
    (1..bytes.len()).step_by(8).filter(|at| bytes.get(*at..at + 4) == Some(&FRAME_MAGIC.to_le_bytes()[..]))
}

fn reseal_segment(bytes: &mut [u8], number: u64) {
    for copy in [0, BLOCK as usize] {
        reseal::segment_header(&mut bytes[copy..copy + BLOCK as usize]);
    }
    let magic = FRAME_MAGIC.to_le_bytes();
    for at in (DATA_START as usize..bytes.len() - FRAME_HEADER_BYTES).step_by(8) {
        if bytes[at..at + 4] == magic {
            reseal_frame(&mut bytes[at..], 0, number, at as u64);
        }
    }
    let trailer = bytes.len() - TRAILER_BYTES as usize;
    if bytes[trailer..].iter().any(|byte| *byte != 0) {
        let seal = get_u64(bytes, trailer + 16);
        let made = encode_trailer(&IDS, number, seal);
        bytes[trailer..].copy_from_slice(&made);
    }
}

/// Makes the checksums of the frame at `at` right, and its place and run those of where it lies.
fn reseal_frame(bytes: &mut [u8], at: usize, segment: u64, offset: u64) {
    let payload_at = at + FRAME_HEADER_BYTES;
    let payload_len = get_u32(bytes, at + 32) as usize;
    if let Some(end) = payload_at.checked_add(payload_len).filter(|end| *end <= bytes.len()) {
        let table = table_bytes((get_u32(bytes, at + 44) & 0x00ff_ffff) as usize);
        let checked = match bytes[at + 28] == FrameKind::Entries as u8 {
            true if table <= payload_len => {
                reseal_bodies(&mut bytes[payload_at..end], table);
                &bytes[payload_at..payload_at + table]
            }
            _ => &bytes[payload_at..end],
        };
        let crc = crc32fast::hash(checked);
        bytes[at + 36..at + 40].copy_from_slice(&crc.to_le_bytes());
    }
    reseal::frame_header(&mut bytes[at..at + FRAME_HEADER_BYTES], &IDS, segment, offset);
}

fn reseal_bodies(payload: &mut [u8], table: usize) {
    let mut body = table;
    for record in (0..table - table % ENTRY_RECORD_BYTES).step_by(ENTRY_RECORD_BYTES) {
        if record + ENTRY_RECORD_BYTES > table {
            break;
        }
        let end = body.saturating_add(get_u32(payload, record) as usize);
        let Some(bytes) = payload.get(body..end) else { break };
        let crc = crc32fast::hash(bytes);
        payload[record + 4..record + 8].copy_from_slice(&crc.to_le_bytes());
        body = end;
    }
}
