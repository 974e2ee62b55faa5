//! One journal, many replicas: whatever the batching, the flushing, the forgetting and the crashes,
//! they come to the same state, the same answers and the same hashes at every position.

use etcd_adapter::command::{Command, decode, encode};
use etcd_adapter::mvcc::{Applied, At, MetaKey, Restore, Revision};
use etcd_adapter::store::Store;
use proptest::collection::vec;
use proptest::prelude::*;
use proto::Position;

use crate::generate;
use crate::replica::{Replica, entries};

/// What a replica does after an entry.
#[derive(Clone, Copy, Debug)]
struct Pace {
    write_every: usize,
    flush_every: usize,
    crash_every: usize,
    forget_steps: usize,
    compact_every: usize,
}

fn pace() -> impl Strategy<Value = Pace> {
    (1..5usize, 1..7usize, 3..15usize, 1..20usize, 0..3usize).prop_map(|numbers| {
        let (write_every, flush_every, crash_every, forget_steps, compact_every) = numbers;
        Pace { write_every, flush_every, crash_every, forget_steps, compact_every }
    })
}

/// Applies all entries at a pace, dying on the way, and returns what came of each.
fn run(journal: &[(Position, bytes::Bytes)], pace: Option<Pace>) -> (Replica, Vec<Applied>) {
    let (mut replica, memory) = Replica::memory();
    let mut results: Vec<Applied> = Vec::new();
    let mut steps = 0;
    let mut next = 0;
    while next < journal.len() {
        let (position, payload) = &journal[next];
        let applied = replica.apply(*position, &decode(payload.clone()).unwrap());
        match results.get(next) {
            Some(before) => assert_eq!(*before, applied, "a replay came to something else"),
            None => results.push(applied),
        }
        next += 1;
        steps += 1;
        let Some(pace) = pace else { continue };
        if steps % pace.write_every == 0 {
            replica.write();
        }
        if steps % pace.flush_every == 0 {
            replica.store.flush().unwrap();
            replica.forget(pace.forget_steps);
        }
        // The engine compacts where it likes, when it likes.
        if pace.compact_every > 0 && steps % pace.compact_every == 0 {
            let revision = replica.state.read().revision();
            replica.store.forgot(revision);
            let from = (steps * 7) as i64 % revision;
            replica.store.compact(At::start_of(from), At::start_of(from + 3)).unwrap();
        }
        // It must come forward between two deaths.
        if steps % (pace.crash_every * (1 + steps / 50)) == 0 && steps < 400 {
            memory.crash();
            replica = Replica::open(Store::memory(memory.clone()));
            let applied = replica.state.read().applied();
            next = journal.iter().position(|(position, _)| *position >= applied).unwrap_or(journal.len());
        }
    }
    replica.write();
    (replica, results)
}

fn journal(commands: Vec<Vec<Command>>) -> Vec<(Position, bytes::Bytes)> {
    entries(commands).iter().map(|(position, body)| (*position, encode(body))).collect()
}

proptest! {
    #![proptest_config(generate::cases(300))]
    #[test]
    fn replicas_of_different_pace_agree_at_every_position(
        commands in vec(vec(generate::any_command(), 0..4), 1..30),
        pace in pace(),
    ) {
        let journal = journal(commands);
        let (calm, expected) = run(&journal, None);
        let (restless, results) = run(&journal, Some(pace));
        prop_assert_eq!(results, expected);
        let (one, other) = (calm.state.read(), restless.state.read());
        prop_assert_eq!(one.hash(), other.hash());
        for revision in one.compact_revision().max(1)..=one.revision() {
            prop_assert_eq!(calm.kv_hash(revision), restless.kv_hash(revision), "at {}", revision);
        }
        // What is read after the last compaction is the same, however much each has forgotten.
        for revision in one.compact_revision().max(1)..=one.revision() {
            prop_assert_eq!(content(&calm, revision), content(&restless, revision), "at {}", revision);
        }
    }

    #[test]
    fn a_damaged_record_or_row_is_refused_or_harmless_and_never_a_panic(
        commands in vec(generate::any_command(), 1..20),
        victim: usize,
        at: usize,
        byte: u8,
    ) {
        let (replica, results) = run(&journal(vec![commands]), None);
        let state = replica.state.read();
        let keys: std::collections::BTreeSet<MetaKey> =
            results.iter().flat_map(|applied| applied.dirty.iter().copied()).chain([MetaKey::Scalars]).collect();
        let mut records: Vec<_> = keys.into_iter().filter_map(|key| Some((key, state.record(key)?))).collect();
        let mut rows = replica.store.scan(At::default(), At::end_of(Revision::MAX), usize::MAX, usize::MAX).unwrap();
        let victim = victim % (records.len() + rows.len());
        match records.get_mut(victim) {
            Some((_, record)) => {
                let at = at % record.len();
                record[at] = byte;
            }
            None => drop(rows.remove(victim - records.len())),
        }
        let restored = (|| {
            let mut restore = Restore::new();
            for (key, record) in records {
                restore.record(key, record.into())?;
            }
            rows.iter().try_for_each(|row| restore.row(row))?;
            restore.finish()
        })();
        if let Ok(restored) = restored {
            // A flipped bit of a position is for the store's own checksums to find.
            prop_assert_eq!(restored.hash(), state.hash());
        }
    }

    #[test]
    fn everything_decided_is_in_the_hash(
        commands in vec(generate::command(), 1..20),
        extra in generate::put(),
    ) {
        let mut commands: Vec<Vec<Command>> = commands.into_iter().map(|command| vec![command]).collect();
        commands.push(vec![]);
        let (_, without) = run(&journal(commands.clone()), None);
        commands.pop();
        commands.push(vec![Command::Put(extra)]);
        let (_, with) = run(&journal(commands), None);
        let (without, with) = (without.last().unwrap(), with.last().unwrap());
        // The two differ in one put: so do the hashes, unless the put was refused.
        prop_assert_eq!(without.hash == with.hash, with.replies[0].result.is_err());
    }
}

fn content(replica: &Replica, revision: Revision) -> crate::model::Seen {
    let zero = bytes::Bytes::from_static(b"\0");
    let request = etcd_adapter::command::Range { key: zero.clone(), range_end: zero, revision, ..Default::default() };
    replica.range(&request).unwrap()
}

/// A key is put and deleted, both are forgotten, and the engine happens to compact the file with the
/// tombstone but not the one with the value. The process dies. Its successor, which rebuilds the index
/// from what is left, once showed the key again.
#[test]
fn a_tombstone_outlives_what_it_hides() {
    let (mut replica, memory) = Replica::memory();
    let put = |key: &'static str| {
        let key = bytes::Bytes::from_static(key.as_bytes());
        Command::Put(etcd_adapter::command::Put { key, ..Default::default() })
    };
    let delete = Command::DeleteRange(etcd_adapter::command::DeleteRange {
        key: bytes::Bytes::from_static(b"gone"),
        ..Default::default()
    });
    let commands = vec![put("gone"), put("stays"), delete, put("stays"), Command::Compact { revision: 5 }];
    for (position, body) in entries([commands]) {
        replica.apply(position, &body);
    }
    replica.write();
    replica.store.flush().unwrap();
    replica.state.write().forget(5, usize::MAX);
    assert!(!replica.state.read().index().knows(b"gone", At { main: 4, sub: 0 }));
    replica.store.forgot(5);
    replica.store.compact(At::start_of(4), At::start_of(5)).unwrap();
    memory.crash();
    let reopened = Replica::open(Store::memory(memory.clone()));
    assert_eq!(reopened.state.read().hash(), replica.state.read().hash());

    // A whole sweep takes the value; only the next one may take the tombstone.
    assert_eq!(memory.len(), 4);
    while reopened.store.sweep(5).unwrap() {}
    assert_eq!(memory.len(), 2);
    reopened.store.compact(At::start_of(4), At::start_of(5)).unwrap();
    assert_eq!(memory.len(), 1);
}
