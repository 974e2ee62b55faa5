//! Crash tests of the segment engine: random acts on a disk that fails, ended at any moment, judged
//! by an oracle that knows what was answered. `docs/TESTING.md` tells how to run and replay them.

mod case;
mod filling;
mod flips;
mod machine;
mod model;
mod mutants;
mod stories;
mod table;
mod three;

use std::env;
use std::io::{self, Write};
use std::sync::Arc;

use case::Tally;
use journal_server::segment::fault_disk::Op;
use journal_server::segment::fs::Fs;

fn honest(fs: Arc<dyn Fs>) -> Arc<dyn Fs> {
    fs
}

/// Says it even if the test passes: how much was tried is part of the result.
fn tell(what: &str) {
    // The test harness catches what `println` prints, and a closed pipe is no reason to fail.
    let _ = writeln!(io::stdout(), "{what}");
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

#[test]
fn after_any_crash_the_log_is_what_some_prefix_of_the_acts_amounts_to() {
    if let Some(seed) = number("CRASH_SEED") {
        let tally = case::run(seed, honest).unwrap_or_else(|why| panic!("{why}"));
        tell(&tally.to_string());
        return;
    }
    let cases = number("CRASH_CASES").unwrap_or(20_000);
    let first = number("CRASH_FIRST").unwrap_or(0);
    let mut tally = Tally::default();
    for seed in first..first + cases {
        tally += case::run(seed, honest).unwrap_or_else(|why| panic!("{why}"));
    }
    tell(&tally.to_string());
    // What never happened was not tested.
    let few = cases / 100;
    for (what, count) in [
        ("power cuts", tally.crashes),
        ("kills", tally.kills),
        ("stops at a step", tally.stops),
        ("stops in opening", tally.stops_in_opening),
        ("disk errors", tally.errors),
        ("full disks", tally.full),
        ("clean stops", tally.clean),
        ("torn ends", tally.torn),
    ] {
        assert!(count >= few, "only {count} {what} in {cases} cases");
    }
}

#[test]
fn no_step_is_a_bad_moment_to_end() {
    let mut endings = 0;
    for seed in 0..12 {
        endings += case::end_at_every_step(seed, honest).unwrap_or_else(|why| panic!("{why}"));
    }
    tell(&format!("endings at every step: {endings}"));
    assert!(endings > 1000);
}

#[test]
fn any_failed_call_is_latched_and_loses_nothing_that_was_answered() {
    let mut failures = 0;
    for (op, errno) in [
        (Op::Write, libc::ENOSPC),
        (Op::Write, libc::EIO),
        (Op::Sync, libc::EIO),
        (Op::SyncDir, libc::EIO),
        (Op::Create, libc::ENOSPC),
        (Op::Rename, libc::EIO),
        (Op::Unlink, libc::EROFS),
    ] {
        for seed in 0..8 {
            failures += case::fail_at_every(op, errno, seed, honest).unwrap_or_else(|why| panic!("{why}"));
        }
    }
    tell(&format!("failed calls: {failures}"));
    assert!(failures > 500);
}
