//! The operator's tool on data directories: what it says of sound and damaged ones, and what it changes.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use journal_server::identity::{Cluster, ClusterId, DirLock, NodeFile, Origin};
use journal_server::segment::real_fs::RealFs;
use journal_server::segment::{self, Ids, Kind, LogEntry, LogId, Opened, Options, Vote};
use proto::{JournalId, NodeId};
use serde_json::Value;

const GROUP: u64 = 7;
const CLUSTER: u128 = 5;
const NODE: u64 = 0xabcdef;

/// A stopped node's data directory with one log of `count` entries, in small segments.
struct Data(tempfile::TempDir);

fn data(count: u64) -> Data {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster { id: ClusterId(CLUSTER), origin: Origin::Formed, list_hash: 0, members: Vec::new() };
    let groups = [(JournalId(GROUP), Vec::new())].into();
    let node = NodeFile { node_id: NodeId(NODE), cluster: Some(cluster), groups };
    node.store(&RealFs, &dir.path().join("node")).unwrap();
    let data = Data(dir);
    data.open(|log| {
        let wait = |ask: &dyn Fn(segment::Done)| {
            let (tell, told) = std::sync::mpsc::channel();
            ask(Box::new(move |done| tell.send(done).unwrap()));
            told.recv().unwrap().unwrap();
        };
        wait(&|done| log.save_vote(Vote { term: 1, node: NODE, committed: true }, done));
        for position in 0..count {
            let entry = LogEntry::new(LogId::new(1, position), Kind::Entry, vec![position as u8 + 1; 3000]);
            wait(&|done| log.append(vec![entry.clone()], done));
            log.commit_hint(LogId::new(1, position));
        }
    });
    data
}

impl Data {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn options() -> Options {
        Options { segment_bytes: 64 << 10, ..Options::default() }
    }

    /// Runs the log, and stops it in order.
    fn open<T>(&self, with: impl FnOnce(&segment::Log) -> T) -> T {
        let ids = Ids { cluster: CLUSTER, node: NODE, group: GROUP };
        let dir = self.path().join(format!("groups/{GROUP}"));
        let opened = segment::open(Arc::new(RealFs), &dir, ids, Data::options()).unwrap();
        let Opened::Ready { log, writer, .. } = opened else { panic!("it is damaged") };
        let writer = segment::spawn_writer_thread(writer, "writer".into()).unwrap();
        let value = with(&log);
        log.close();
        writer.join().unwrap();
        value
    }

    fn segment(&self, number: u64) -> PathBuf {
        self.path().join(format!("groups/{GROUP}/{number:016x}.seg"))
    }

    /// Flips a bit in the body of the entry at `position`, wherever it lies.
    fn flip_entry(&self, position: u64) {
        let pattern = [position as u8 + 1; 3000];
        for number in 1.. {
            let path = self.segment(number);
            let bytes = std::fs::read(&path).unwrap();
            if let Some(at) = bytes.windows(pattern.len()).position(|window| window == pattern) {
                return flip(&path, at as u64 + 1000);
            }
        }
    }

    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files: Vec<_> = std::fs::read_dir(self.path().join(format!("groups/{GROUP}")))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    }
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
}

fn journal(args: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_journal"));
    let args = args.iter().map(|arg| arg.replace("DIR", dir.to_str().unwrap()));
    command.args(args).stdin(std::process::Stdio::null()).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn object(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_sound_directory_is_called_sound_and_left_alone() {
    let data = data(60);
    let before = data.files();
    let output = journal(&["verify", "DIR"], data.path());
    assert_eq!(code(&output), 0, "{}", text(&output));
    assert!(text(&output).contains("journal 7: sound: positions 0..=59"), "{}", text(&output));
    let report = object(&journal(&["verify", "DIR", "--json"], data.path()));
    assert_eq!(report["sound"], true);
    assert_eq!(report["groups"][0]["last"]["position"], 59);
    assert_eq!(report["groups"][0]["clean_stop"], true);
    assert!(report["groups"][0]["segments"].as_u64() > Some(2), "{report}");
    assert!(before == data.files(), "verify changed something");
}

#[test]
fn damage_is_named_by_position_also_in_segments_that_a_start_does_not_read() {
    let data = data(60);
    data.flip_entry(5);
    data.flip_entry(58);
    let before = data.files();
    let output = journal(&["verify", "DIR"], data.path());
    assert_eq!(code(&output), 1, "{}", text(&output));
    assert!(text(&output).contains("lost: positions 5..=5"), "{}", text(&output));
    assert!(text(&output).contains("lost: positions 58..=58"), "{}", text(&output));
    let output = journal(&["verify", "DIR", "--json"], data.path());
    assert_eq!(code(&output), 1);
    let holes = object(&output)["groups"][0]["holes"].clone();
    assert_eq!(holes.as_array().unwrap().len(), 2, "{holes}");
    assert!(before == data.files(), "verify changed something");
}

#[test]
fn damage_below_the_trim_point_is_told_and_is_no_damage() {
    let data = data(60);
    data.open(|log| log.purge(LogId::new(1, 10)));
    assert_eq!(text(&journal(&["verify", "DIR"], data.path())).matches("below the trim point").count(), 0);
    data.flip_entry(5);
    let output = journal(&["verify", "DIR"], data.path());
    assert_eq!(code(&output), 0, "{}", text(&output));
    let told = text(&output);
    assert!(
        told.contains("sound: positions 11..=59") && told.contains("1 damaged place below the trim point"),
        "{told}"
    );
    assert!(told.contains("positions 5..=5") && told.contains("they were trimmed"), "{told}");
}

#[test]
fn a_missing_log_is_damage_and_a_torn_end_is_not() {
    let torn = data(3);
    let last = torn.segment(1);
    let bytes = std::fs::read(&last).unwrap();
    let end = bytes.windows(4).rposition(|window| window == b"JfRm").unwrap();
    // The clean-stop mark: nothing proves it.
    flip(&last, end as u64 + 30);
    let output = journal(&["verify", "DIR"], torn.path());
    assert_eq!(code(&output), 0, "{}", text(&output));
    assert!(text(&output).contains("note: segment 1: a torn end"), "{}", text(&output));
    let gone = data(3);
    std::fs::remove_dir_all(gone.path().join("groups")).unwrap();
    let output = journal(&["verify", "DIR"], gone.path());
    assert_eq!(code(&output), 1, "{}", text(&output));
    assert!(text(&output).contains("missing"), "{}", text(&output));
}

#[test]
fn what_is_no_data_directory_or_in_use_is_not_touched() {
    let data = data(3);
    let empty = tempfile::tempdir().unwrap();
    for command in [&["verify", "DIR"][..], &["repair", "DIR", "--accept-loss", "--yes"]] {
        let output = journal(command, empty.path());
        assert_eq!(code(&output), 2, "{}", text(&output));
        assert!(text(&output).contains("no node's data directory"), "{}", text(&output));
        let _lock = DirLock::take(data.path()).unwrap();
        let output = journal(command, data.path());
        assert_eq!(code(&output), 2, "{}", text(&output));
        assert!(text(&output).contains("Stop the node first"), "{}", text(&output));
    }
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0, "something was made in an empty directory");
    assert_eq!(code(&journal(&["repair", "DIR"], data.path())), 2, "it must be told to accept the loss");
}

#[test]
fn accepting_a_loss_says_which_cuts_exactly_that_and_leaves_a_record() {
    let data = data(60);
    data.flip_entry(20);
    data.flip_entry(40);
    // Nobody is there to say yes.
    let before = data.files();
    let output = journal(&["repair", "DIR", "--accept-loss"], data.path());
    assert_eq!(code(&output), 2, "{}", text(&output));
    assert!(text(&output).contains("positions 20..=59 will be lost (40 entries)"), "{}", text(&output));
    assert!(text(&output).contains("known to be committed"), "{}", text(&output));
    assert!(before == data.files(), "it changed something without a yes");

    let output = journal(&["repair", "DIR", "--accept-loss", "--yes"], data.path());
    assert_eq!(code(&output), 0, "{}", text(&output));
    assert_eq!(code(&journal(&["verify", "DIR"], data.path())), 0);
    data.open(|log| {
        assert_eq!(log.last(), Some(LogId::new(1, 19)));
        assert_eq!(log.read_blocking(0, 100, 1 << 20).unwrap().len(), 20);
        assert_eq!(log.vote(), Some(Vote { term: 1, node: NODE, committed: true }));
    });
    let record = std::fs::read_to_string(data.path().join("accepted-losses.jsonl")).unwrap();
    let line: Value = serde_json::from_str(record.lines().next().unwrap()).unwrap();
    assert_eq!((&line["group"], &line["first"], &line["last"]), (&7.into(), &20.into(), &59.into()));
    assert_eq!(record.lines().count(), 1);
    let output = journal(&["repair", "DIR", "--accept-loss", "--yes"], data.path());
    assert_eq!(code(&output), 0, "{}", text(&output));
    assert!(text(&output).contains("nothing is damaged"), "{}", text(&output));
}

#[test]
fn a_dump_shows_every_frame_and_where_nothing_can_be_read() {
    let data = data(30);
    let first = data.segment(1);
    let output = journal(&["dump", first.to_str().unwrap()], data.path());
    assert_eq!(code(&output), 0, "{}", text(&output));
    let told = text(&output);
    for part in ["segment 1 of group 7", "State", "Vote", "entries 3..=3", "Seal", "synced", "vote 1:abcdef!"] {
        assert!(told.contains(part), "no {part} in {told}");
    }
    data.flip_entry(5);
    let lines = |args: &[&str]| -> Vec<Value> {
        let output = journal(args, data.path());
        assert_eq!(code(&output), 0, "{}", text(&output));
        text(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = lines(&["dump", "DIR", "--json", "--entries"]);
    let bad: Vec<&Value> = all.iter().filter(|line| line["whole"] == false).collect();
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert_eq!(bad[0]["entries"][0]["position"], 5);
    assert_eq!(bad[0]["entries"][0]["whole"], false);
    let entries: usize = all.iter().filter_map(|line| line["entries"].as_array()).map(Vec::len).sum();
    assert_eq!(entries, 30);
    // A header that is gone: the frames behind it are still told.
    let offset = bad[0]["offset"].as_u64().unwrap();
    flip(&first, offset + 60);
    let all = lines(&["dump", "DIR", "--json"]);
    let bad: Vec<&Value> = all.iter().filter(|line| line["whole"] == false).collect();
    assert_eq!((bad.len(), bad[0]["offset"].as_u64()), (1, Some(offset)));
    assert!(all.iter().any(|line| line["at"]["position"] == 29), "what lies behind is not told");
    assert_eq!(code(&journal(&["dump", "/nowhere"], data.path())), 2);
}
