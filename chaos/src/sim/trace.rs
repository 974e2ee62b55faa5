//! Everything that happens in a simulated world, in order, as one number and, if asked for, as text.
//!
//! The number is what makes a seed a proof: two runs of a seed must agree in it to the last delivered
//! byte. So whatever could differ between two runs is fed to it, and nothing is that may.

use std::fmt::Display;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::clock;

/// What is written down of each kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Only the hash.
    Nothing,
    /// Faults, lives, answers.
    Events,
    /// Bytes delivered and disk times too.
    Everything,
}

/// Cheap to clone; clones are the same trace.
#[derive(Clone)]
pub struct Trace(Arc<Inner>);

struct Inner {
    begun: Instant,
    detail: Detail,
    state: Mutex<State>,
}

struct State {
    hash: u64,
    count: u64,
    /// The newest lines, for a report of what went before a failure.
    recent: std::collections::VecDeque<String>,
}

/// Lines kept for a failure's report.
const RECENT: usize = 60;
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

impl Trace {
    /// Time counts from now. Must be called within the simulation's runtime.
    pub fn new(detail: Detail) -> Trace {
        let state = State { hash: FNV_OFFSET, count: 0, recent: Default::default() };
        Trace(Arc::new(Inner { begun: Instant::now(), detail, state: Mutex::new(state) }))
    }

    /// Milliseconds of simulated time.
    pub fn now_ms(&self) -> u64 {
        self.0.begun.elapsed().as_millis() as u64
    }

    /// Something worth a line.
    pub fn event(&self, what: impl Display) {
        let now = self.now_ms();
        clock::reached(now);
        let line = format!("{:>6}.{:03} {what}", now / 1000, now % 1000);
        {
            let mut state = self.0.state.lock();
            line.bytes().for_each(|byte| state.feed(u64::from(byte)));
            state.count += 1;
            if state.recent.len() == RECENT {
                state.recent.pop_front();
            }
            state.recent.push_back(line.clone());
        }
        if self.0.detail != Detail::Nothing {
            println!("{line}");
        }
    }

    /// Bytes that reached somebody.
    pub fn delivered(&self, pipe: u64, bytes: &[u8]) {
        let now = self.now_ms();
        clock::reached(now);
        let crc = crc32fast::hash(bytes);
        {
            let mut state = self.0.state.lock();
            for word in [now, pipe, bytes.len() as u64, u64::from(crc)] {
                state.feed(word);
            }
            state.count += 1;
        }
        if self.0.detail == Detail::Everything {
            println!("{:>6}.{:03} pipe {pipe}: {} bytes, {crc:08x}", now / 1000, now % 1000, bytes.len());
        }
    }

    /// A number that must be the same in every run, without a line.
    pub fn number(&self, what: &'static str, number: u64) {
        let now = self.now_ms();
        clock::reached(now);
        {
            let mut state = self.0.state.lock();
            state.feed(now);
            state.feed(number);
            state.count += 1;
        }
        if self.0.detail == Detail::Everything {
            println!("{:>6}.{:03} {what} {number}", now / 1000, now % 1000);
        }
    }

    pub fn hash(&self) -> u64 {
        self.0.state.lock().hash
    }

    /// Events so far.
    pub fn count(&self) -> u64 {
        self.0.state.lock().count
    }

    /// The newest lines.
    pub fn recent(&self) -> Vec<String> {
        self.0.state.lock().recent.iter().cloned().collect()
    }
}

impl State {
    /// FNV-1a, a word at a time.
    fn feed(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(FNV_PRIME);
        self.hash ^= self.hash >> 29;
    }
}
