//! What clients did and were told, and the payloads by which an entry is known again.

use bytes::{BufMut, Bytes, BytesMut};
use proto::Position;
use tokio::time::{Duration, Instant};

/// An entry's name: who appended it, and as the how-manieth of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    pub appender: u32,
    pub number: u64,
}

impl Mark {
    /// A payload of `size` bytes that says its mark, and whose every byte follows from it.
    pub fn payload(self, size: usize) -> Bytes {
        let mut payload = BytesMut::with_capacity(size.max(NAME_BYTES));
        payload.put_slice(MAGIC);
        payload.put_u32(self.appender);
        payload.put_u64(self.number);
        while payload.len() < size {
            payload.put_u8(self.filler(payload.len()));
        }
        payload.freeze()
    }

    /// Whose payload this is; nothing if any byte of it is not as it was made.
    pub fn of(payload: &[u8]) -> Option<Mark> {
        let (magic, rest) = payload.split_at_checked(MAGIC.len())?;
        let appender = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?);
        let number = u64::from_be_bytes(rest.get(4..12)?.try_into().ok()?);
        let mark = Mark { appender, number };
        let intact = (NAME_BYTES..payload.len()).all(|at| payload[at] == mark.filler(at));
        (magic == MAGIC && intact).then_some(mark)
    }

    fn filler(self, at: usize) -> u8 {
        (self.number as usize).wrapping_mul(31).wrapping_add(self.appender as usize).wrapping_add(at) as u8
    }
}

const MAGIC: &[u8] = b"mark";
const NAME_BYTES: usize = 16;

/// What an appender was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Committed(Position),
    Rejected(String),
    Unknown(String),
}

/// One append, from call to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    pub mark: Mark,
    pub called: Instant,
    pub answered: Instant,
    pub outcome: Outcome,
}

/// One reading of the linearizable tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailCheck {
    pub called: Instant,
    pub answered: Instant,
    pub tail: Position,
}

/// Everything that happened, in no order but that of its times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    pub appends: Vec<Append>,
    pub tail_checks: Vec<TailCheck>,
}

/// How many of each outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub committed: usize,
    pub rejected: usize,
    pub unknown: usize,
}

impl History {
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for append in &self.appends {
            match append.outcome {
                Outcome::Committed(_) => counts.committed += 1,
                Outcome::Rejected(_) => counts.rejected += 1,
                Outcome::Unknown(_) => counts.unknown += 1,
            }
        }
        counts
    }

    /// The longest time in `[from, to)` in which no append was acknowledged.
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let mut times: Vec<Instant> = self
            .appends
            .iter()
            .filter(|append| matches!(append.outcome, Outcome::Committed(_)))
            .map(|append| append.answered)
            .filter(|at| (from..to).contains(at))
            .collect();
        times.extend([from, to]);
        times.sort();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_names_its_entry_and_any_change_in_it_is_seen() {
        let mark = Mark { appender: 7, number: 1 << 40 };
        let payload = mark.payload(256);
        assert_eq!(payload.len(), 256);
        assert_eq!(Mark::of(&payload), Some(mark));
        for at in 0..payload.len() {
            let mut flipped = payload.to_vec();
            flipped[at] ^= 0x10;
            assert_ne!(Mark::of(&flipped), Some(mark), "byte {at}");
        }
        assert_eq!(Mark::of(b"mar"), None);
        assert_eq!(Mark::of(b""), None);
    }

    #[test]
    fn a_gap_is_seen_at_the_edges_too() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let append = |ms| Append {
            mark: Mark { appender: 0, number: ms },
            called: begun,
            answered: at(ms),
            outcome: Outcome::Committed(Position(ms)),
        };
        let history = History { appends: vec![append(10), append(30), append(90)], ..History::default() };
        assert_eq!(history.longest_gap(begun, at(100)), Duration::from_millis(60));
        assert_eq!(history.longest_gap(begun, at(300)), Duration::from_millis(210));
        assert_eq!(history.longest_gap(at(50), at(60)), Duration::from_millis(10));
    }
}
