//! Who reads does not hold up who applies.

use std::time::Duration;

use etcd_adapter::answers::Claim;
use etcd_adapter::command::{Command, Compare, CompareResult, CompareTarget, DeleteRange, Op, Put, Range, Txn};
use etcd_adapter::mvcc::At;
use etcd_adapter::view::{ReadError, View};

use crate::replica::{Replica, entries};

/// What is gone and not yet forgotten is looked at like anything else, in steps.
#[test]
fn a_comparison_holds_of_the_keys_behind_any_number_that_are_gone() {
    let (mut replica, _memory) = Replica::memory();
    let put = |n: u64| Command::Put(Put { key: format!("k{n:04}").into(), value: "x".into(), ..Default::default() });
    let gone = DeleteRange { key: "k".into(), range_end: "k2999".into(), ..Default::default() };
    let puts = (0..3000).map(|n| vec![put(n)]);
    for (position, body) in entries(puts.chain([vec![Command::DeleteRange(gone)]])) {
        replica.apply(position, &body);
    }
    replica.write();
    let view = View::new(replica.state.clone(), replica.store.clone());
    for (target, result, holds) in [
        (CompareTarget::Value("x".into()), CompareResult::Equal, true),
        (CompareTarget::Value("x".into()), CompareResult::NotEqual, false),
        (CompareTarget::Version(0), CompareResult::Greater, true),
        (CompareTarget::Version(0), CompareResult::Equal, false),
    ] {
        let compare = Compare { key: "k".into(), range_end: "l".into(), result, target };
        let txn = Txn { compare: vec![compare.clone()], ..Default::default() };
        assert_eq!(view.txn(&txn, &mut Claim::unbounded()).unwrap().succeeded, holds, "{compare:?}");
    }
}

/// Its caller's connection may be full for as long as a compaction takes to forget what was replaced.
#[test]
fn an_answer_that_is_made_too_late_is_refused_and_breaks_nothing() {
    let (mut replica, _memory) = Replica::memory();
    let put = |value: &'static str| Command::Put(Put { key: "k".into(), value: value.into(), ..Default::default() });
    let compact = Command::Compact { revision: 3 };
    let mut replaced = Vec::new();
    for (position, body) in entries([vec![put("1")], vec![put("2")], vec![compact]]) {
        replaced.extend(replica.state.read().index().latest(b"k").map(|version| version.at));
        replica.apply(position, &body);
    }
    replica.write();
    replica.store.flush().unwrap();
    let view = View::new(replica.state.clone(), replica.store.clone());
    let claim = &mut Claim::unbounded();
    assert_eq!(view.replaced(&replaced[..1], 3, claim).unwrap()[0].value, "1");
    let before = At { main: 3, sub: 0 };
    let range = || Range { key: "k".into(), ..Default::default() };
    assert_eq!(view.range_in_txn(range(), At::end_of(2), claim).unwrap().kvs[0].value, "1");
    view.will_forget(3);
    replica.forget(usize::MAX);
    assert!(matches!(view.replaced(&replaced[..1], 3, claim), Err(ReadError::Late)));
    assert!(matches!(view.range_in_txn(range(), before, claim), Err(ReadError::Late)));
    assert!(view.replaced(&[], 3, claim).unwrap().is_empty(), "what deletes nothing at that revision is answered");
    assert_eq!(view.range_in_txn(range(), At::end_of(3), claim).unwrap().kvs[0].value, "2");
    assert_eq!(view.broken(), None);
}

#[test]
fn a_txn_that_reads_the_store_leaves_the_index_to_whoever_applies() {
    let (mut replica, memory) = Replica::memory();
    let put = |n: u64| Command::Put(Put { key: format!("k{n}").into(), value: "x".into(), ..Default::default() });
    for (position, body) in entries((0..3000).map(|n| vec![put(n)])) {
        replica.apply(position, &body);
    }
    replica.write();
    let view = View::new(replica.state.clone(), replica.store.clone());
    let everything = || Range { key: "k".into(), range_end: "l".into(), ..Default::default() };
    let ranges = vec![Op::Range(everything()); 20];
    let value = CompareTarget::Value("x".into());
    let Range { key, range_end, .. } = everything();
    let compare = vec![Compare { key, range_end, result: CompareResult::Equal, target: value }];
    for txn in
        [Txn { compare, success: ranges.clone(), ..Default::default() }, Txn { success: ranges, ..Default::default() }]
    {
        let stall = memory.stall();
        let (view, revision) = (view.clone(), replica.state.read().revision());
        let reader = std::thread::spawn(move || view.txn(&txn, &mut Claim::unbounded()).unwrap());
        // The store gives nothing, however long.
        std::thread::sleep(Duration::from_millis(100));
        assert!(!reader.is_finished());
        assert!(replica.state.try_write_for(Duration::from_millis(500)).is_some(), "the index is held");
        drop(stall);
        let read = reader.join().unwrap();
        assert!(read.succeeded && read.revision == revision);
        assert!(read.pages.iter().all(|page| page.kvs.len() == 3000) && read.pages.len() == 20);
    }
}
