//! Checks the runs of a tail stream: gap-freedom is a property of the wire, not a hope.

use proto::Position;
use proto::journal as wire;

use crate::error::TailError;
use crate::journal::{Run, TailEntry};

/// What a reader has seen so far, and so what the next run must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reader {
    /// The next run begins here.
    pub next: Position,
    pub watermark: Position,
    pub term: u64,
}

impl Reader {
    pub fn new(from: Position) -> Self {
        Reader { next: from, watermark: Position::NONE, term: 0 }
    }

    /// Takes a run that begins where the last one ended and is whole; anything else is broken.
    pub fn take(&mut self, run: wire::TailRun) -> Result<Run, TailError> {
        let broken = |at: u64, why: String| Err(TailError::Broken { at: Position(at), why });
        if run.from != self.next.0 {
            return broken(self.next.0, format!("the next run begins at {}", run.from));
        }
        if run.to < run.from {
            return broken(run.from, format!("a run from {} to {}", run.from, run.to));
        }
        let mut lowest = run.from;
        let mut entries = Vec::with_capacity(run.entries.len());
        for entry in run.entries {
            if entry.position < lowest || entry.position >= run.to {
                return broken(entry.position, format!("an entry outside of [{lowest}, {})", run.to));
            }
            let crc = crc32fast::hash(&entry.payload);
            if crc != entry.crc {
                let why = format!("checksum {crc:08x}, and {:08x} was written", entry.crc);
                return broken(entry.position, why);
            }
            lowest = entry.position + 1;
            entries.push(TailEntry { position: Position(entry.position), payload: entry.payload, crc });
        }
        self.next = Position(run.to);
        self.watermark = self.watermark.max(Position(run.watermark)).max(self.next_if(&entries));
        self.term = self.term.max(run.term);
        Ok(Run { from: Position(run.from), to: self.next, entries, watermark: self.watermark, term: self.term })
    }

    /// What was read is below the tail, whatever the node says of its tail.
    fn next_if(&self, entries: &[TailEntry]) -> Position {
        if entries.is_empty() { Position::NONE } else { self.next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(position: u64, payload: Vec<u8>) -> wire::TailEntry {
        let crc = crc32fast::hash(&payload);
        wire::TailEntry { position, payload: payload.into(), crc }
    }

    /// A journal: which positions hold an entry, and where its runs are cut.
    fn any_runs() -> impl Strategy<Value = Vec<wire::TailRun>> {
        let piece = (
            proptest::collection::vec(
                proptest::option::weighted(0.8, proptest::collection::vec(any::<u8>(), 0..40)),
                0..6,
            ),
            any::<u8>(),
        );
        (1..1000u64, proptest::collection::vec(piece, 1..6)).prop_map(|(start, pieces)| {
            let mut next = start;
            let mut runs = Vec::new();
            for (held, ahead) in pieces {
                let from = next;
                let mut entries = Vec::new();
                for payload in held {
                    entries.extend(payload.map(|payload| entry(next, payload)));
                    next += 1;
                }
                let watermark = next + u64::from(ahead % 3);
                runs.push(wire::TailRun { from, to: next, entries, watermark, term: 3 });
            }
            runs
        })
    }

    fn read(runs: &[wire::TailRun]) -> Result<Vec<Run>, TailError> {
        let mut reader = Reader::new(Position(runs[0].from));
        runs.iter().map(|run| reader.take(run.clone())).collect()
    }

    proptest! {
        #[test]
        fn whole_runs_come_through_unchanged(runs in any_runs()) {
            let read = read(&runs).unwrap();
            for (run, wire) in read.iter().zip(&runs) {
                prop_assert_eq!((run.from.0, run.to.0), (wire.from, wire.to));
                let entries: Vec<_> =
                    run.entries.iter().map(|e| entry(e.position.0, e.payload.to_vec())).collect();
                prop_assert_eq!(&entries, &wire.entries);
            }
            prop_assert!(read.windows(2).all(|pair| pair[0].watermark <= pair[1].watermark));
        }

        #[test]
        fn a_lost_run_is_noticed(runs in any_runs(), lost in any::<prop::sample::Index>()) {
            let lost = lost.index(runs.len());
            prop_assume!(runs[lost].from < runs[lost].to && lost + 1 < runs.len());
            let mut fewer = runs.clone();
            fewer.remove(lost);
            let mut reader = Reader::new(Position(runs[0].from));
            let outcome: Result<Vec<_>, _> = fewer.into_iter().map(|run| reader.take(run)).collect();
            let is_broken = matches!(outcome, Err(TailError::Broken { .. }));
            prop_assert!(is_broken);
        }

        #[test]
        fn a_flipped_bit_is_noticed(
            runs in any_runs(), which in any::<prop::sample::Index>(), bit in any::<prop::sample::Index>(),
        ) {
            let mut flipped = runs.clone();
            let mut payloads: Vec<_> = flipped
                .iter_mut()
                .flat_map(|run| &mut run.entries)
                .filter(|entry| !entry.payload.is_empty())
                .collect();
            prop_assume!(!payloads.is_empty());
            let which = which.index(payloads.len());
            let at = payloads[which].position;
            let mut payload = payloads[which].payload.to_vec();
            let bit = bit.index(payload.len() * 8);
            payload[bit / 8] ^= 1 << (bit % 8);
            payloads[which].payload = payload.into();
            let outcome = read(&flipped);
            let is_broken = matches!(&outcome, Err(TailError::Broken { at: Position(p), .. }) if *p == at);
            prop_assert!(is_broken, "{outcome:?}");
        }

        #[test]
        fn entries_out_of_order_or_place_are_noticed(runs in any_runs(), shift in 1..5u64) {
            let mut wrong = runs.clone();
            let Some(run) = wrong.iter_mut().find(|run| !run.entries.is_empty()) else {
                return Ok(());
            };
            let first = run.entries[0].clone();
            run.entries.push(first);
            prop_assert!(read(&wrong).is_err(), "an entry came twice");

            let mut wrong = runs.clone();
            for run in &mut wrong {
                let to = run.to;
                if let Some(last) = run.entries.last_mut() {
                    last.position = to + shift - 1;
                }
            }
            prop_assert!(read(&wrong).is_err(), "an entry beyond its run");
        }
    }

    #[test]
    fn a_run_of_nothing_carries_a_watermark_which_never_goes_back() {
        let mut reader = Reader::new(Position(7));
        let empty = |watermark| wire::TailRun { from: 7, to: 7, entries: vec![], watermark, term: 1 };
        assert_eq!(reader.take(empty(9)).unwrap().watermark, Position(9));
        assert_eq!(reader.take(empty(8)).unwrap().watermark, Position(9));
        assert_eq!(reader.next, Position(7));
    }
}
