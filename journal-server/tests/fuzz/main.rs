//! The fuzz targets on a stable compiler: seeded mutations of their corpus, and every input that was ever
//! found to break one. `fuzz/` has the same targets for libFuzzer; `docs/TESTING.md` tells how to run both.

// A test that cannot go on says why by failing.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use journal_server::fuzz::{TARGETS, Target, target};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Inputs that once broke a target, by its name: kept, and tried first.
fn found() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/found")
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

fn tell(what: &str) {
    // The test harness catches what `println` prints, and a closed pipe is no reason to fail.
    let _ = writeln!(std::io::stdout(), "{what}");
}

#[test]
fn no_bytes_bring_a_target_down() {
    if let Ok(path) = std::env::var("FUZZ_INPUT") {
        let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names the target of FUZZ_INPUT");
        let input = std::fs::read(&path).unwrap();
        tell(&format!("{path}: {}", (target(&name).expect("no such target").run)(&input)));
        return;
    }
    let first = number("FUZZ_FIRST", 0);
    for target in TARGETS {
        // A log costs a disk, a message some microseconds.
        let share = if target.name == "log" { 1 } else { 10 };
        let cases = number("FUZZ_CASES", 4_000) * share;
        let corpus = seeds(target);
        let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
        for input in &corpus {
            *ends.entry(try_one(target, input)).or_default() += 1;
        }
        for seed in first..first + cases {
            let input = mutated(&corpus, seed);
            *ends.entry(try_one(target, &input)).or_default() += 1;
        }
        let most = ends.iter().map(|(end, count)| format!("{end} {count}")).collect::<Vec<_>>().join(", ");
        tell(&format!("fuzz target {}: {} inputs ({most})", target.name, cases + corpus.len() as u64));
        // A target that everything ends in the same way at is not looked into.
        assert!(ends.len() > 1, "{}: everything was {ends:?}", target.name);
    }
}

fn seeds(target: Target) -> Vec<Vec<u8>> {
    let mut corpus = (target.corpus)();
    let mut kept: Vec<PathBuf> = match std::fs::read_dir(found().join(target.name)) {
        Ok(dir) => dir.map(|entry| entry.unwrap().path()).collect(),
        Err(_) => Vec::new(),
    };
    kept.sort();
    corpus.extend(kept.iter().map(|path| std::fs::read(path).unwrap()));
    corpus
}

/// What becomes of an input. One that breaks the target is kept, with the line that tries it again.
fn try_one(target: Target, input: &[u8]) -> &'static str {
    match catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        Ok(end) => end,
        Err(_) => {
            let name = format!("{}-{:08x}", target.name, crc32fast::hash(input));
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
            std::fs::write(&path, input).unwrap();
            panic!(
                "an input of {} bytes breaks it; once more:\n    FUZZ_TARGET={} FUZZ_INPUT={} cargo test -p \
                 journal-server --test fuzz\nkeep it in fuzz/found/{}/ once it is mended",
                input.len(),
                target.name,
                path.display(),
                target.name
            );
        }
    }
}

/// One of the corpus, changed at a few places. Depends on the seed and the corpus alone.
fn mutated(corpus: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut input = corpus[rng.random_range(0..corpus.len())].clone();
    for _ in 0..rng.random_range(1..=6) {
        mutate(&mut input, corpus, &mut rng);
    }
    if rng.random_bool(0.5)
        && let Some(first) = input.first_mut()
    {
        *first ^= rng.random_range(0..64);
    }
    input
}

const NUMBERS: [u64; 12] =
    [0, 1, 2, 7, 8, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX];

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut SmallRng) {
    if input.is_empty() {
        return input.extend((0..rng.random_range(1..32)).map(|_| rng.random::<u8>()));
    }
    let at = somewhere(input, rng);
    let len = rng.random_range(1..=32).min(input.len() - at);
    match rng.random_range(0..9) {
        0 => input[at] ^= 1 << rng.random_range(0..8),
        1 => input[at] = rng.random(),
        // A number within something laid out in words, after the byte that is not one of them.
        2..=4 => {
            let width = [1, 2, 4, 8][rng.random_range(0..4)];
            let at = if at > 0 { (at - 1) / width * width + 1 } else { 0 };
            let number = match rng.random_bool(0.5) {
                true => NUMBERS[rng.random_range(0..NUMBERS.len())],
                false => rng.random_range(0..100_000),
            };
            for (byte, new) in input[at..].iter_mut().zip(&number.to_le_bytes()[..width]) {
                *byte = *new;
            }
        }
        5 => input[at..at + len].fill(0),
        6 => {
            let from = rng.random_range(0..input.len() - len + 1);
            input.copy_within(from..from + len, at);
        }
        7 => match rng.random_bool(0.5) {
            true => input.truncate(at.max(1)),
            false => {
                let more: Vec<u8> = (0..len).map(|_| rng.random()).collect();
                input.splice(at..at, more);
            }
        },
        _ => {
            let other = &corpus[rng.random_range(0..corpus.len())];
            if at < other.len() {
                input.truncate(at);
                input.extend_from_slice(&other[at..]);
            }
        }
    }
}

/// A place in the input, where there is something if possible.
fn somewhere(input: &[u8], rng: &mut SmallRng) -> usize {
    let mut at = 0;
    for _ in 0..20 {
        at = rng.random_range(0..input.len());
        if input[at] != 0 {
            break;
        }
    }
    at
}
