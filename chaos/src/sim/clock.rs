//! What time and chance the whole process sees while it simulates.
//!
//! The house's own code draws from injected sources and reads tokio's paused clock. Libraries beneath
//! it do not: `HashMap` keys come from `getrandom`, `std::time::Instant` from `clock_gettime`. Both
//! are calls that a program may answer itself; `chaos` does (`interpose.rs` beside its `main`), and
//! answers from here once [`begin`] was called. Then one seed decides everything in the process.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static SIMULATING: AtomicBool = AtomicBool::new(false);
static SKIPPING: AtomicBool = AtomicBool::new(false);
static NOW_MS: AtomicU64 = AtomicU64::new(0);
static CHANCE: AtomicU64 = AtomicU64::new(0);

/// From now on this process has no time and no chance but the simulation's. There is no way back.
pub fn begin(seed: u64) {
    SKIPPING.store(true, Ordering::Relaxed);
    SIMULATING.store(true, Ordering::Relaxed);
    // It compares the processor's clock with the system's, and waits for the latter to move.
    journal_server::metrics::handle();
    SKIPPING.store(false, Ordering::Relaxed);
    NOW_MS.store(0, Ordering::Relaxed);
    CHANCE.store(seed ^ 0x5851_f42d_4c95_7f2d, Ordering::Relaxed);
}

/// Simulated time has come this far.
pub fn reached(ms: u64) {
    NOW_MS.fetch_max(ms, Ordering::Relaxed);
}

/// Simulated time since some fixed moment; nothing in a process that does not simulate.
pub fn now_ms() -> Option<u64> {
    if !SIMULATING.load(Ordering::Relaxed) {
        return None;
    }
    if SKIPPING.load(Ordering::Relaxed) {
        return Some(500_000_000 + NOW_MS.fetch_add(5, Ordering::Relaxed));
    }
    Some(1_000_000_000 + NOW_MS.load(Ordering::Relaxed))
}

/// The next random number; nothing in a process that does not simulate.
pub fn chance() -> Option<u64> {
    if !SIMULATING.load(Ordering::Relaxed) {
        return None;
    }
    // SplitMix64.
    let seed = CHANCE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Some(z ^ (z >> 31))
}
