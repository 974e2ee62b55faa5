//! The two engines side by side, and what a crash leaves of each.
#![cfg(feature = "rocksdb")]

use std::path::Path;

use etcd_adapter::answers::Claim;
use etcd_adapter::command::{Command, EntryBody};
use etcd_adapter::mvcc::{At, Revision, Row};
use etcd_adapter::store::{Batch, RocksOptions, Store, StoreError};
use etcd_adapter::view::{ReadError, View};
use proptest::collection::vec;
use proptest::prelude::*;
use proto::Position;

use crate::generate;
use crate::replica::{Replica, entries};

fn rocks(dir: &Path) -> Store {
    Store::rocks(dir, &RocksOptions { memtable_bytes: 1 << 20, ..RocksOptions::default() }).unwrap()
}

fn all_rows(store: &Store) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut from = At::default();
    loop {
        let some = store.scan(from, At::end_of(Revision::MAX), 3, 1 << 20).unwrap();
        let Some(last) = some.last() else { return rows };
        from = At { sub: last.at.sub + 1, ..last.at };
        rows.extend(some);
    }
}

/// What a killed process leaves: the files as they are.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "LOCK" {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(generate::cases(24))]
    #[test]
    fn both_engines_hold_the_same_and_lose_the_same(
        commands in vec(vec(generate::any_command(), 0..5), 4..40),
        flush_at in 2..30usize,
        forget_steps in 1..30usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let journal = entries(commands);
        let (mut plain, memory) = Replica::memory();
        let mut other = Replica::open(rocks(&dir.path().join("store")));
        for (i, (position, body)) in journal.iter().enumerate() {
            for replica in [&mut plain, &mut other] {
                replica.apply(*position, body);
                if i % 2 == 0 {
                    replica.write();
                }
                if i == flush_at {
                    replica.write();
                    replica.store.flush().unwrap();
                    replica.forget(forget_steps);
                }
            }
            prop_assert_eq!(plain.store.flushed().unwrap(), other.store.flushed().unwrap());
        }
        plain.write();
        other.write();
        prop_assert_eq!(all_rows(&plain.store), all_rows(&other.store));
        let places: Vec<At> = all_rows(&plain.store).iter().rev().map(|row| row.at).collect();
        let sparse: Vec<At> = places.iter().step_by(20).copied().collect();
        for places in [places, sparse] {
            prop_assert_eq!(plain.store.rows(&places).unwrap(), other.store.rows(&places).unwrap());
        }

        // Both die, and find what they had flushed.
        memory.crash();
        let died = dir.path().join("died");
        copy(&dir.path().join("store"), &died);
        let (before, after) = (Store::memory(memory.clone()), rocks(&died));
        match (before.load().unwrap(), after.load().unwrap()) {
            (None, None) => prop_assert!(flush_at >= journal.len()),
            (Some((one_origin, one)), Some((other_origin, other))) => {
                prop_assert_eq!(one_origin, other_origin);
                prop_assert_eq!(one.applied(), other.applied());
                prop_assert_eq!(one.applied(), journal[flush_at].0.next());
                prop_assert_eq!(one.hash(), other.hash());
                prop_assert_eq!(all_rows(&before), all_rows(&after));
            }
            (one, other) => panic!("one found {:?}, the other {:?}", one.is_some(), other.is_some()),
        }
    }
}

#[test]
fn a_row_that_is_not_there_is_missed_however_it_is_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (memory, _) = Replica::memory();
    for mut replica in [memory, Replica::open(rocks(dir.path()))] {
        let put = |n: u64| {
            vec![Command::Put(etcd_adapter::command::Put {
                key: format!("k{n}").into(),
                value: n.to_string().into(),
                ..Default::default()
            })]
        };
        for (position, body) in entries((0..300).map(put)) {
            replica.apply(position, &body);
        }
        replica.write();
        let at = |main| At { main, sub: 0 };
        let missing = At { main: 150, sub: 1 };
        for places in [vec![missing], vec![at(151), missing, at(149)], vec![at(300), missing, at(2)]] {
            let rows = replica.store.rows(&places);
            assert!(matches!(rows, Err(StoreError::Missing(place)) if place == missing), "{rows:?}");
        }
        let found = replica.store.rows(&[at(300), at(2), at(150)]).unwrap();
        assert_eq!(found.iter().map(|row| &row.value[..]).collect::<Vec<_>>(), [b"298", &b"0"[..], b"148"]);
        // One revision may have more rows than anybody would pass over.
        let wide = (0..300).map(|n| {
            etcd_adapter::command::Op::Put(etcd_adapter::command::Put {
                key: format!("wide{n}").into(),
                ..Default::default()
            })
        });
        let txn = etcd_adapter::command::Txn { success: wide.collect(), ..Default::default() };
        let later = [vec![Command::Txn(txn)], put(9)];
        for (position, body) in entries((0..300).map(put).chain(later)).split_off(301) {
            replica.apply(position, &body);
        }
        replica.write();
        let rows = replica.store.rows(&[at(303), at(302), at(301)]).unwrap();
        assert_eq!(rows.iter().map(|row| row.at).collect::<Vec<_>>(), [at(303), at(302), at(301)]);
        assert_eq!(rows[0].key[..], *b"k9");
        let close = replica.store.rows(&[at(151), at(149), at(150)]).unwrap();
        assert_eq!(close.iter().map(|row| &row.value[..]).collect::<Vec<_>>(), [b"149", b"147", b"148"]);
    }
}

#[test]
fn a_row_that_was_lost_is_nobodys_answer_and_whoever_applies_hears_of_it() {
    let (mut replica, memory) = Replica::memory();
    let put =
        |n: u64| vec![Command::Put(etcd_adapter::command::Put { key: format!("k{n}").into(), ..Default::default() })];
    for (position, body) in entries((0..3).map(put)) {
        replica.apply(position, &body);
    }
    replica.write();
    let view = View::new(replica.state.clone(), replica.store.clone());
    let all = etcd_adapter::command::Range { key: "k".into(), range_end: "l".into(), ..Default::default() };
    let range = || view.range(&all, &mut Claim::unbounded());
    assert_eq!(range().unwrap().kvs.len(), 3);
    assert_eq!(view.broken(), None);
    memory.lose(At { main: 3, sub: 0 });
    let read = range();
    assert!(matches!(read, Err(ReadError::Store(StoreError::Missing(_)))), "{read:?}");
    assert_eq!(view.broken().unwrap(), "the row 3.0 is missing");
}

#[test]
fn a_sweep_drops_what_was_forgotten_from_the_files_and_leaves_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let mut replica = Replica::open(rocks(dir.path()));
    let put = |n: u64| {
        Command::Put(etcd_adapter::command::Put {
            key: format!("k{}", n % 10).into(),
            value: vec![n as u8; 500].into(),
            ..Default::default()
        })
    };
    let mut commands: Vec<Vec<Command>> = (0..400).map(|n| vec![put(n)]).collect();
    commands.push(vec![Command::Compact { revision: 380 }]);
    for (position, body) in entries(commands) {
        replica.apply(position, &body);
    }
    replica.write();
    replica.forget(usize::MAX);
    assert_eq!(all_rows(&replica.store).len(), 400, "nothing is forgotten before the compaction is flushed");
    replica.store.flush().unwrap();
    replica.forget(usize::MAX);
    let left = all_rows(&replica.store);
    // Ten keys as they were at 380, and the 21 changes since.
    assert_eq!(left.len(), 31);
    assert!(left.iter().all(|row| replica.state.read().index().knows(&row.key, row.at)));
    let (_, state) = replica.store.load().unwrap().unwrap();
    assert_eq!(state.hash(), replica.state.read().hash());
}

const VICTIM: &str = "ETCD_ADAPTER_TEST_VICTIM";

/// The journal of the victim below: every adapter can replay it.
fn victims_journal() -> Vec<(Position, EntryBody)> {
    let put = |n: usize| {
        Command::Put(etcd_adapter::command::Put {
            key: format!("k{}", n * 31 % 700).into(),
            value: vec![n as u8; 1500].into(),
            lease: i64::from(n.is_multiple_of(3)),
            ..Default::default()
        })
    };
    let grant = vec![Command::LeaseGrant { id: 1, ttl: 60 }];
    let commands = (0..40_000).map(|n| match n % 1000 {
        999 => vec![Command::Compact { revision: n as i64 }],
        998 => vec![Command::KeepAlive { id: 1 }],
        _ => vec![put(n), put(n + 350)],
    });
    entries([grant].into_iter().chain(commands))
}

/// Not a test of its own: what the test below starts as a process, and kills.
#[test]
fn victim() {
    let Ok(dir) = std::env::var(VICTIM) else { return };
    let mut replica = Replica::open(rocks(Path::new(&dir)));
    for (i, (position, body)) in victims_journal().iter().enumerate() {
        replica.apply(*position, body);
        if i % 3 == 0 {
            replica.write();
        }
        if i % 50 == 0 {
            replica.forget(500);
        }
    }
    panic!("nobody killed it");
}

/// No flush is asked for: RocksDB flushes by itself when a memtable is full, and must take the records
/// with the rows.
#[test]
fn kv_c4_a_killed_process_leaves_what_belongs_together_and_its_compaction_goes_on() {
    let journal = victims_journal();
    let mut came_to = Vec::new();
    for files in [4, 12, 30] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["engines::victim", "--exact", "--nocapture"])
            .env(VICTIM, dir.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let tables = || {
            let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
            let numbers = names.filter_map(|name| name.to_str()?.strip_suffix(".sst")?.parse::<u64>().ok());
            numbers.max()
        };
        let mut first = None;
        while first.is_none_or(|first| tables() < Some(first + files)) {
            first = first.or_else(tables);
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();

        let (_, found) = rocks(dir.path()).load().unwrap().expect("something was flushed");
        let compacted = found.compact_revision();
        let (mut calm, _) = Replica::memory();
        for (position, body) in journal.iter().take_while(|(position, _)| *position < found.applied()) {
            calm.apply(*position, body);
        }
        assert_eq!(calm.state.read().hash(), found.hash(), "at {}", found.applied());
        came_to.push(found.applied());

        // What the compaction had yet to drop goes now, and nothing else.
        let mut again = Replica::open(rocks(dir.path()));
        let before = again.kv_hash(again.state.read().revision());
        again.forget(usize::MAX);
        let left = all_rows(&again.store);
        assert!(left.iter().all(|row| again.state.read().index().knows(&row.key, row.at)));
        let late = left.iter().filter(|row| row.at.main <= compacted).count();
        assert!(compacted < 1 || late <= 700, "{late} rows of 700 keys are left below the compaction");
        assert_eq!(again.kv_hash(again.state.read().revision()), before);
    }
    assert!(came_to.is_sorted() && came_to[0] > Position(1) && came_to[0] < came_to[2], "{came_to:?}");
}

#[test]
fn a_store_whose_rows_and_records_do_not_belong_together_is_not_used() {
    let (mut replica, memory) = Replica::memory();
    let put = |key: &'static str| {
        let key = bytes::Bytes::from_static(key.as_bytes());
        vec![Command::Put(etcd_adapter::command::Put { key, ..Default::default() })]
    };
    let journal = entries([put("a"), put("b")]);
    for (position, body) in &journal[..2] {
        replica.apply(*position, body);
    }
    replica.write();
    replica.apply(journal[2].0, &journal[2].1);
    // The rows of the last entry are lost on the way, its records are not.
    let sealed = {
        let mut batch = Batch::default();
        std::mem::swap(&mut batch, &mut replica.batch);
        Batch::default().seal(&replica.state.read(), crate::replica::origin(Position(3)))
    };
    replica.store.write(sealed).unwrap();
    let error = Store::memory(memory).load().unwrap_err();
    assert!(error.is_damage(), "{error}");
}
