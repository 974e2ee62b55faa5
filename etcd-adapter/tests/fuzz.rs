//! Any bytes as what a client says on a connection: seeded mutations of whole conversations, and every
//! input that was ever found to break one. `fuzz/` has the same target for libFuzzer.

// A test that cannot go on says why by failing.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use etcd_adapter::http2::fuzz::{corpus, session};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

#[test]
fn no_bytes_bring_a_connection_down() {
    let mut corpus = corpus();
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/found/connection");
    if let Ok(found) = std::fs::read_dir(found) {
        corpus.extend(found.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()));
    }
    let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
    for input in &corpus {
        *ends.entry(session(input)).or_default() += 1;
    }
    let first = number("FUZZ_FIRST", 0);
    for seed in first..first + number("FUZZ_CASES", 4_000) * 10 {
        let input = mutated(&corpus, seed);
        match catch_unwind(AssertUnwindSafe(|| session(&input))) {
            Ok(end) => *ends.entry(end).or_default() += 1,
            Err(_) => {
                let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("connection-{seed}"));
                std::fs::write(&path, &input).unwrap();
                panic!("{} breaks it; keep it in fuzz/found/connection/ once it is mended", path.display());
            }
        }
    }
    println!("fuzz target connection: {ends:?}");
    assert!(ends.len() > 2, "everything was {ends:?}");
}

/// One of the corpus, changed at a few places. Depends on the seed and the corpus alone.
fn mutated(corpus: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut input = corpus[rng.random_range(0..corpus.len())].clone();
    for _ in 0..rng.random_range(1..=5) {
        let at = rng.random_range(0..input.len());
        let len = rng.random_range(1..=40).min(input.len() - at);
        match rng.random_range(0..7) {
            0 => input[at] ^= 1 << rng.random_range(0..8),
            1 => input[at] = rng.random(),
            2 => input[at] = [0, 1, 2, 4, 8, 0x7f, 0x80, 0xff][rng.random_range(0..8)],
            3 => input.truncate(at.max(1)),
            4 => {
                let more: Vec<u8> = (0..len).map(|_| rng.random()).collect();
                input.splice(at..at, more);
            }
            // Frames that come twice, and frames of another conversation.
            5 => {
                let again = input[at..].to_vec();
                input.extend(again);
            }
            _ => {
                let other = &corpus[rng.random_range(0..corpus.len())];
                input.truncate(at.max(1));
                input.extend_from_slice(&other[at.min(other.len())..]);
            }
        }
    }
    input
}
