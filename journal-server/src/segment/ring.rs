//! The newest entries in memory, for readers that keep up. What is not synced is in here without
//! exception: until then there is no other place to read it from.

use std::collections::VecDeque;

use super::types::LogEntry;

#[derive(Debug)]
pub(crate) struct Ring {
    /// Contiguous positions.
    entries: VecDeque<LogEntry>,
    bytes: usize,
    bytes_max: usize,
}

impl Ring {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Ring { entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn first(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.id.position)
    }

    pub(crate) fn push(&mut self, entry: LogEntry) {
        debug_assert!(self.entries.back().is_none_or(|last| last.id.position + 1 == entry.id.position));
        self.bytes += entry.weight();
        self.entries.push_back(entry);
    }

    pub(crate) fn cut(&mut self, first_removed: u64) {
        while self.entries.back().is_some_and(|last| last.id.position >= first_removed) {
            let last = self.entries.pop_back().expect("there is a last entry");
            self.bytes -= last.weight();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// Drops the oldest entries, none that lies above `durable`, until the rest fits.
    pub(crate) fn evict(&mut self, durable: Option<u64>) {
        self.evict_to(durable, self.bytes_max);
    }

    /// Drops everything that is synced, and gives the memory back.
    pub(crate) fn shrink(&mut self, durable: Option<u64>) {
        self.evict_to(durable, 0);
        self.entries.shrink_to_fit();
    }

    fn evict_to(&mut self, durable: Option<u64>, bytes: usize) {
        let Some(durable) = durable else { return };
        while self.bytes > bytes && self.entries.front().is_some_and(|first| first.id.position <= durable) {
            let first = self.entries.pop_front().expect("there is a first entry");
            self.bytes -= first.weight();
        }
    }

    /// Appends `[from, to)` to `out` until `max_bytes` of bodies are in it; the first entry of `out`
    /// has no limit. False if `from` is not in here.
    pub(crate) fn read(
        &self,
        from: u64,
        to: u64,
        max_bytes: usize,
        bytes: &mut usize,
        out: &mut Vec<LogEntry>,
    ) -> bool {
        let Some(first) = self.first() else { return false };
        let Some(skip) = from.checked_sub(first).and_then(|skip| usize::try_from(skip).ok()) else {
            return false;
        };
        if skip >= self.entries.len() {
            return false;
        }
        let count = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
        let end = skip.saturating_add(count).min(self.entries.len());
        for entry in self.entries.range(skip..end) {
            if !out.is_empty() && *bytes + entry.body.len() > max_bytes {
                break;
            }
            *bytes += entry.body.len();
            out.push(entry.clone());
        }
        true
    }
}
