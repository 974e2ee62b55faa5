//! Who reads does not hold up who applies.

use std::time::Duration;

use etcd_adapter::answers::Claim;
use etcd_adapter::command::{Command, Compare, CompareResult, CompareTarget, Op, Put, Range, Txn};
use etcd_adapter::view::View;

use crate::replica::{Replica, entries};

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
