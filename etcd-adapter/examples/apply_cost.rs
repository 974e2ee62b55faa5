//! What apply and the store cost, on one core: `cargo run --release -p etcd-adapter --example apply_cost`.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use etcd_adapter::command::*;
use etcd_adapter::mvcc::*;
use etcd_adapter::store::*;
use parking_lot::RwLock;
use proto::{JournalId, Position};

const KEYS: u64 = 1_000_000;
const BATCH: u64 = 100;

fn key(n: u64) -> Bytes {
    // Spread like names with random suffixes.
    format!("/registry/pods/namespace-{:03}/pod-{:016x}", n % 200, n.wrapping_mul(0x9e3779b97f4a7c15)).into()
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn main() {
    let dir = std::env::args().nth(1).map(std::path::PathBuf::from);
    let store = match &dir {
        Some(dir) => Store::rocks(dir, &RocksOptions::default()).unwrap(),
        None => Store::memory(Arc::new(Memory::new())),
    };
    let state = Arc::new(RwLock::new(State::new(1)));
    store.attach(state.clone());
    let origin = Origin { cluster: 1, journal: JournalId(1), entry: Position(1), checksum: 0 };
    let hello = Hello {
        name: "one".into(),
        peer_urls: vec![],
        client_urls: vec![],
        nonce: 1,
        replaces: Position::NONE,
        level: 1,
    };
    let mut seq = 0;
    let mut entry = |commands: Vec<Command>| {
        seq += 1;
        encode(&EntryBody { producer: Position(1), seq, level: 1, beat: None, commands })
    };
    let mut first = Batch::default();
    first.add(&apply(&mut state.write(), Position(1), &EntryBody::hello(hello), &store).unwrap());
    store.write(first.seal(&state.read(), origin)).unwrap();
    let value = |n: u64| {
        let mut value = vec![0u8; 512];
        for (i, chunk) in value.chunks_mut(8).enumerate() {
            if i % 3 == 0 { chunk.copy_from_slice(&(n * 31 + i as u64).to_be_bytes()) } else { chunk.fill(b'a') }
        }
        Bytes::from(value)
    };
    let mut write = true;
    for (what, updates) in [("create", false), ("update", true)] {
        let entries: Vec<Bytes> = (0..KEYS / BATCH / 2)
            .map(|batch| {
                entry(
                    (0..BATCH)
                        .map(|i| {
                            let n = if updates {
                                (batch * BATCH + i).wrapping_mul(7919) % (KEYS / 2)
                            } else {
                                batch * BATCH + i
                            };
                            Command::Put(Put { key: key(n), value: value(n), ..Put::default() })
                        })
                        .collect(),
                )
            })
            .collect();
        let before = resident();
        let (mut decoding, mut applying, mut sealing, mut writing) = (0, 0, 0, 0);
        for payload in entries {
            let start = Instant::now();
            let body = decode(payload).unwrap();
            decoding += start.elapsed().as_nanos();
            let start = Instant::now();
            let mut batch = Batch::default();
            let mut locked = state.write();
            let position = locked.applied();
            let applied = apply(&mut locked, position, &body, &Staged { store: &store, batch: &batch }).unwrap();
            batch.add(&applied);
            applying += start.elapsed().as_nanos();
            drop(locked);
            let start = Instant::now();
            let sealed = batch.seal(&state.read(), origin);
            sealing += start.elapsed().as_nanos();
            let start = Instant::now();
            if write {
                store.write(sealed).unwrap();
            }
            writing += start.elapsed().as_nanos();
        }
        let n = u128::from(KEYS / 2);
        println!(
            "{what}: decode {} apply {} seal {} write {} ns each; resident +{} MiB",
            decoding / n,
            applying / n,
            sealing / n,
            writing / n,
            resident() as i64 - before as i64
        );
        write = dir.is_some();
    }
    let locked = state.read();
    let everything = KeyRange::new(key(0).slice(..1), Bytes::from_static(b"\0"));
    let start = Instant::now();
    let mut count = 0;
    for _ in 0..1000 {
        count += locked.index().count(&everything);
    }
    println!("count of {}: {} ns", count / 1000, start.elapsed().as_nanos() / 1000);
    let start = Instant::now();
    let mut walked = 0;
    locked.index().walk(&everything, At::end_of(locked.revision()), None, usize::MAX, &mut |_, _| {
        walked += 1;
        true
    });
    println!("walk of {walked}: {} ns a key", start.elapsed().as_nanos() / walked);
    drop(locked);
    if dir.is_some() {
        store.flush().unwrap();
        let request =
            Range { key: key(0).slice(..10), range_end: Bytes::from_static(b"\0"), limit: 500, ..Range::default() };
        let locked = state.read();
        let start = Instant::now();
        for _ in 0..50 {
            let scan = RangeScan::new(request.clone(), At::end_of(locked.revision()));
            let selection = scan.run(locked.index(), &store).unwrap();
            let places: Vec<At> = selection.found.iter().map(|found| found.version.at).collect();
            assert_eq!(store.rows(&places).unwrap().len(), 500);
        }
        println!("page of 500: {} us", start.elapsed().as_micros() / 50);
        let places: Vec<At> = (0..20_000).map(|n| At { main: 2 + n * 7919 % 900_000, sub: 0 }).collect();
        let start = Instant::now();
        for at in &places {
            store.rows(&[*at]).unwrap();
        }
        println!("get: {} ns", start.elapsed().as_nanos() / places.len() as u128);
        drop(locked);
        let start = Instant::now();
        let (_, found) = store.load().unwrap().unwrap();
        println!("rebuild of {} versions: {} ms", found.index().versions(), start.elapsed().as_millis());
    }
    let start = Instant::now();
    let mut locked = state.write();
    let revision = locked.revision();
    let position = locked.applied();
    let body = decode(entry(vec![Command::Compact { revision }])).unwrap();
    apply(&mut locked, position, &body, &store).unwrap();
    let forgotten = locked.forget(revision, usize::MAX);
    println!("forget: {} ns each of {forgotten}", start.elapsed().as_nanos() / forgotten as u128);
    drop(locked);
    if dir.is_some() {
        let sealed = Batch::default().seal(&state.read(), origin);
        store.write(sealed).unwrap();
        store.flush().unwrap();
        let start = Instant::now();
        while store.sweep(revision).unwrap() {}
        println!("sweep: {} ms", start.elapsed().as_millis());
    }
}
