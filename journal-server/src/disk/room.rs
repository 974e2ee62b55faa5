//! Room: how much of the disk is left, as a level that decides what is still admitted.
//!
//! Pure. `low > urgent > reserve > floor` are amounts of free space; the level is the lowest mark that
//! the free space is under. It falls at once and rises only with a margin, so that a file more or less
//! does not make it flutter.

use std::fmt;

use crate::config;

/// What is still admitted. Each level refuses all that the ones before it refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Room {
    /// Everything is admitted.
    Ok = 0,
    /// Below `low`: a leader refuses ordinary entries.
    Low = 1,
    /// Below `urgent`: it refuses urgent ones too.
    Urgent = 2,
    /// Below `reserve`: a follower takes only what frees space, and what precedes that.
    Reserve = 3,
    /// Below `floor`: nothing is written that is not needed to vote.
    Floor = 4,
}

impl Room {
    const ALL: [Room; 5] = [Room::Ok, Room::Low, Room::Urgent, Room::Reserve, Room::Floor];

    /// From what travels in a message; a level of the future counts as the worst.
    pub fn from_wire(level: u32) -> Room {
        Room::ALL.get(level as usize).copied().unwrap_or(Room::Floor)
    }

    /// Whether a leader may take an entry in.
    pub fn admits(self, urgent: bool) -> bool {
        self < if urgent { Room::Urgent } else { Room::Low }
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(["ok", "low", "urgent", "reserve", "floor"][*self as usize])
    }
}

/// The marks of one disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// low, urgent, reserve, floor; each above the next.
    bytes: [u64; 4],
}

impl Marks {
    /// The configured marks on a disk of this size, or what is wrong with them there.
    pub fn of(marks: &config::Marks, total_bytes: u64) -> Result<Marks, String> {
        let list = [
            ("room-low", marks.low),
            ("room-urgent", marks.urgent),
            ("room-reserve", marks.reserve),
            ("room-floor", marks.floor),
        ];
        let bytes = list.map(|(_, mark)| mark.bytes_of(total_bytes));
        for i in 0..3 {
            if bytes[i] <= bytes[i + 1] {
                return Err(format!(
                    "{} ({}, {} bytes here) must be above {} ({}, {} bytes here)",
                    list[i].0,
                    list[i].1,
                    bytes[i],
                    list[i + 1].0,
                    list[i + 1].1,
                    bytes[i + 1]
                ));
            }
        }
        if bytes[0] >= total_bytes {
            return Err(format!(
                "room-low ({}) is more than the whole disk has ({total_bytes} bytes): nothing would ever be admitted; \
                 lower the room marks or give the journal a larger disk",
                list[0].1
            ));
        }
        Ok(Marks { bytes })
    }

    /// The first mark.
    pub fn low(&self) -> u64 {
        self.bytes[0]
    }

    /// The level at this much free space, when it was `before`.
    pub fn judge(&self, free_bytes: u64, before: Room) -> Room {
        let level = self.level(free_bytes, false);
        match level >= before {
            true => level,
            // Never worse than it was, and better only past the margins.
            false => self.level(free_bytes, true).min(before),
        }
    }

    fn level(&self, free_bytes: u64, rising: bool) -> Room {
        let under = |mark: u64| free_bytes < if rising { mark.saturating_add(margin(mark)) } else { mark };
        Room::ALL[self.bytes.iter().take_while(|mark| under(**mark)).count()]
    }
}

/// How far above a mark the free space must be before the level counts as left.
fn margin(mark: u64) -> u64 {
    (mark / 10).min(256 << 20)
}

/// What the node may still write: free space, and what is left of its quota.
pub fn available(free_bytes: u64, used_bytes: u64, quota: Option<u64>) -> u64 {
    match quota {
        Some(quota) => free_bytes.min(quota.saturating_sub(used_bytes)),
        None => free_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::Mark::{Bytes, Percent};
    use proptest::prelude::*;

    fn marks() -> Marks {
        let marks = config::Marks { low: Bytes(1000), urgent: Bytes(700), reserve: Bytes(500), floor: Bytes(100) };
        Marks::of(&marks, 10_000).unwrap()
    }

    #[test]
    fn the_level_falls_at_the_mark_and_rises_a_tenth_above_it() {
        let table = [
            (1000, Room::Ok, Room::Ok),
            (999, Room::Ok, Room::Low),
            (1050, Room::Low, Room::Low),
            (1099, Room::Low, Room::Low),
            (1100, Room::Low, Room::Ok),
            (699, Room::Low, Room::Urgent),
            (0, Room::Ok, Room::Floor),
            // All the way up at once, but only as far as the margins allow.
            (720, Room::Floor, Room::Urgent),
            (770, Room::Floor, Room::Low),
            (5000, Room::Floor, Room::Ok),
            (105, Room::Floor, Room::Floor),
        ];
        for (free, before, expected) in table {
            assert_eq!(marks().judge(free, before), expected, "{free} bytes after {before}");
        }
    }

    #[test]
    fn each_level_refuses_what_the_one_before_refuses() {
        assert!(Room::Ok.admits(false) && Room::Ok.admits(true));
        assert!(!Room::Low.admits(false) && Room::Low.admits(true));
        for room in [Room::Urgent, Room::Reserve, Room::Floor] {
            assert!(!room.admits(false) && !room.admits(true), "{room}");
        }
    }

    #[test]
    fn marks_that_make_no_sense_on_this_disk_are_refused_with_the_numbers() {
        let mixed = config::Marks { low: Percent(1.0), urgent: Bytes(500), reserve: Bytes(100), floor: Bytes(10) };
        assert!(Marks::of(&mixed, 100_000).is_ok());
        let error = Marks::of(&mixed, 10_000).unwrap_err();
        assert!(error.contains("room-low (1%, 100 bytes here) must be above room-urgent"), "{error}");
        let large = config::Marks { low: Bytes(1 << 30), urgent: Bytes(3), reserve: Bytes(2), floor: Bytes(1) };
        let error = Marks::of(&large, 1 << 20).unwrap_err();
        assert!(error.contains("more than the whole disk has"), "{error}");
    }

    #[test]
    fn a_quota_counts_like_a_full_disk() {
        assert_eq!(available(1000, 400, None), 1000);
        assert_eq!(available(1000, 400, Some(500)), 100);
        assert_eq!(available(50, 400, Some(500)), 50);
        assert_eq!(available(1000, 600, Some(500)), 0);
    }

    proptest! {
        #[test]
        fn less_space_never_admits_more(a in 0u64..2000, b in 0u64..2000, before in 0u32..5) {
            let before = Room::from_wire(before);
            let (less, more) = (a.min(b), a.max(b));
            prop_assert!(marks().judge(less, before) >= marks().judge(more, before));
        }

        #[test]
        fn a_steady_disk_gives_a_steady_level(free in 0u64..2000, before in 0u32..5) {
            let once = marks().judge(free, Room::from_wire(before));
            prop_assert_eq!(marks().judge(free, once), once);
        }

        #[test]
        fn the_level_is_never_better_than_the_marks_say(free in 0u64..2000, before in 0u32..5) {
            prop_assert!(marks().judge(free, Room::from_wire(before)) >= marks().judge(free, Room::Ok));
        }
    }
}
