//! Bytes from somebody who means harm, or from a disk that has lost its mind: they may be refused, and
//! nothing else may happen to us.
//!
//! The same functions are targets of `fuzz/`, which finds more with coverage and time. Here they are fed
//! with changes drawn from seeds. One seed again: `HOSTILE_SEED=n`.

mod bytecode;
mod messages;
mod segments;

use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Feeds `target` with `count` inputs; the first that makes it panic fails the test, with its seed.
fn feed(what: &str, count: u64, target: impl Fn(&[u8]), draw: impl Fn(&mut SmallRng) -> Vec<u8>) {
    let count = number("HOSTILE_CASES").unwrap_or(count);
    let seeds = match number("HOSTILE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..count,
    };
    for seed in seeds.clone() {
        let data = draw(&mut SmallRng::seed_from_u64(seed));
        if catch_unwind(AssertUnwindSafe(|| target(&data))).is_err() {
            panic!("{what}: replay with HOSTILE_SEED={seed}; the input: {data:?}");
        }
    }
    println!("hostile {what}: {}", seeds.end - seeds.start);
}

#[test]
fn whatever_the_segments_hold_opening_and_using_them_ends_with_an_answer_or_an_error() {
    assert!(segments::healthy_frames() > 100, "there is little to change");
    segments::open_and_use(&[]);
    feed("segments", 20_000, segments::open_and_use, |rng| {
        let mut data = vec![0; rng.random_range(8..60)];
        rng.fill_bytes(&mut data);
        data
    });
}

#[test]
fn whatever_a_message_of_a_node_holds_it_is_taken_or_refused() {
    feed("messages", 200_000, messages::read, |rng| {
        let mut data = vec![rng.random_range(0..16)];
        message(rng, 0, &mut data);
        data
    });
}

/// Something like an encoded message: fields with small numbers, of every wire type, some nested.
fn message(rng: &mut SmallRng, depth: u32, out: &mut Vec<u8>) {
    for _ in 0..rng.random_range(0..6) {
        let (field, wire) = (rng.random_range(1..9u8), rng.random_range(0..8u8));
        let wire = [0, 0, 0, 2, 2, 2, 2, wire][usize::from(wire)];
        out.push(field << 3 | wire);
        match wire {
            0 => varint(rng.random::<u64>() >> rng.random_range(0..64), out),
            2 => {
                let mut inner = Vec::new();
                match depth < 4 && rng.random_bool(0.7) {
                    true => message(rng, depth + 1, &mut inner),
                    false => inner.resize(rng.random_range(0..20), rng.random()),
                }
                varint(inner.len() as u64, out);
                out.extend(inner);
            }
            _ => {
                let length = rng.random_range(0..9);
                out.extend(std::iter::repeat_n(rng.random::<u8>(), length));
            }
        }
    }
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
