//! The simulation's own tests: that it is one (the same seed is the same world), that it can fail, that
//! the fatal interleavings end well, and that drawn worlds do.
//!
//! Every seed is a process of its own: `chaos sim`. SIM_SEEDS says how many drawn worlds there are,
//! SIM_FIRST with which they begin.

mod adapters;
mod fatal;

use std::process::{Command, Output, Stdio};

/// Runs `chaos sim` with these arguments.
fn sim(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaos"));
    let output = command.arg("sim").args(args).stdin(Stdio::null()).output();
    output.expect("the chaos program stands beside this test")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The hash of everything that happened, as the last lines have it.
fn trace_of(output: &Output) -> String {
    let said = text(output);
    let line = said.lines().find(|line| line.contains(": trace ")).unwrap_or_else(|| panic!("no trace in\n{said}"));
    line.rsplit(' ').next().expect("a line has a last word").to_owned()
}

fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => otherwise,
    }
}

#[test]
fn the_same_seed_is_the_same_world_to_the_last_byte_in_every_process() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in ["3", "8", "21", "34"] {
        let (once, again) = (sim(&["--seed", seed]), sim(&["--seed", seed]));
        assert!(once.status.success(), "{}", text(&once));
        assert_eq!(trace_of(&once), trace_of(&again), "seed {seed}");
        // What is printed changes nothing of what happens.
        let told = sim(&["--seed", seed, "--trace", "--log", "info,openraft=off"]);
        assert_eq!(trace_of(&once), trace_of(&told), "seed {seed}, with its trace printed");
        seen.insert(trace_of(&once));
    }
    assert_eq!(seen.len(), 4, "different seeds are the same world");
}

#[test]
fn drawn_worlds_keep_every_promise() {
    let (first, count) = (number("SIM_FIRST", 0), number("SIM_SEEDS", 300));
    let output = sim(&["--seeds", &format!("{first}..{}", first + count)]);
    let said = text(&output);
    println!("{}", said.lines().filter(|line| !line.starts_with("    ")).collect::<Vec<_>>().join("\n"));
    assert!(output.status.success(), "{said}");
}

/// Disks that lie are found, and each kind in the ways that it should be.
#[test]
fn planted_bugs_are_found() {
    for (plant, worlds, marks) in [
        ("nothing-synced", 24, &["after all was mended", "BROKEN"][..]),
        ("segments-not-synced", 24, &["was durable there", "was committed"]),
        ("names-not-synced", 24, &["after all was mended"]),
        ("failures-hidden", 40, &["damaged", "does not reach the tail", "after all was mended", "BROKEN"]),
    ] {
        let output = sim(&["--seeds", &format!("0..{worlds}"), "--plant", plant, "--patience", "30"]);
        let said = text(&output);
        assert!(!output.status.success(), "{plant} was not found in {worlds} worlds");
        assert!(marks.iter().any(|mark| said.contains(mark)), "{plant} was found as something else:\n{said}");
        let found = said.lines().filter(|line| line.starts_with("failed: ")).count();
        println!("{plant}: found in {found} of {worlds} worlds");
    }
}

/// The story of the page cache can fail: it does if a start syncs nothing.
#[test]
fn trust_in_the_page_cache_is_found() {
    let output = sim(&["--story", "page-cache", "--seeds", "0..60", "--plant", "cache-trusted", "--patience", "30"]);
    let said = text(&output);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("BROKEN") || said.contains("it never came to this"), "{said}");
}
