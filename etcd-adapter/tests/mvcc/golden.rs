//! `HashKV` against the values that etcd 3.7.3 gave for the same commands.

use bytes::Bytes;
use etcd_adapter::command::*;

use crate::replica::{Replica, entries};

fn key(key: &'static str) -> Bytes {
    Bytes::from_static(key.as_bytes())
}

fn put(name: &'static str, value: impl Into<Bytes>, lease: i64) -> Put {
    Put { key: key(name), value: value.into(), lease, ..Put::default() }
}

fn delete(from: &'static str, end: &'static str) -> DeleteRange {
    DeleteRange { key: key(from), range_end: key(end), prev_kv: false }
}

#[test]
fn hash_kv_is_etcds_own_value_before_and_after_compactions() {
    let (mut replica, _) = Replica::memory();
    let commands = [
        Command::LeaseGrant { id: 77, ttl: 3600 },
        Command::Put(put("a", "1", 0)),
        Command::Put(put("b", "", 0)),
        Command::Put(put("c", vec![b'x'; 300], 77)),
        Command::Txn(Txn {
            success: vec![
                Op::Put(put("d", "d", 0)),
                Op::DeleteRange(delete("a", "")),
                Op::Put(put("e", &b"\x00\xff"[..], 0)),
            ],
            ..Txn::default()
        }),
        Command::Put(put("a", "again", 0)),
        Command::DeleteRange(delete("b", "d")),
        Command::Put(put("b", "back", 0)),
        Command::DeleteRange(delete("e", "")),
    ];
    let compactions = [0, 5, 7, 9].map(|revision| vec![Command::Compact { revision }]);
    let journal = entries([commands.to_vec()].into_iter().chain(compactions));
    for (position, body) in &journal[..2] {
        let applied = replica.apply(*position, body);
        assert!(applied.replies.iter().all(|reply| reply.result.is_ok()));
    }
    replica.write();

    let before =
        [1084519789, 2587454935, 2496657716, 1988904912, 2807204372, 1299027416, 3193135544, 26642207, 2430455332];
    let check = |replica: &Replica, from: i64, expected: &[u32]| {
        let hashes: Vec<_> = (from..=9).map(|revision| replica.kv_hash(revision).hash).collect();
        assert_eq!(hashes, expected);
    };
    check(&replica, 1, &before);
    let after: [(i64, &[u32]); 4] = [
        (1, &before),
        (6, &[3438302110, 3579019760, 1556142182, 3567007912]),
        (8, &[3451121526, 908781439]),
        (9, &[1264283195]),
    ];
    for ((position, body), (from, expected)) in journal[2..].iter().zip(after) {
        replica.apply(*position, body);
        replica.write();
        check(&replica, from, expected);
        // What was dropped since makes no difference.
        replica.store.flush().unwrap();
        replica.forget(usize::MAX);
        check(&replica, from, expected);
    }
}

/// Where no key is live, etcd has nothing to keep, and hashes all that is still there.
#[test]
fn hash_kv_of_an_emptied_store_covers_what_the_compaction_has_left() {
    let (mut replica, _) = Replica::memory();
    let commands =
        vec![Command::Put(put("a", "1", 0)), Command::Put(put("b", "2", 0)), Command::DeleteRange(delete("a", "c"))];
    let journal = entries([commands, vec![Command::Compact { revision: 3 }]]);
    for (position, body) in &journal {
        replica.apply(*position, body);
        replica.write();
    }
    assert_eq!(replica.kv_hash(4).hash, 3044120765);
    replica.store.flush().unwrap();
    replica.forget(usize::MAX);
    assert_eq!(replica.kv_hash(4).hash, 3044120765);
}
