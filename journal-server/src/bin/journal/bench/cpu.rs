//! What the kernel has accounted to processes: user and system time, in seconds.

use std::fs;

/// CPU time of `pid` so far; nothing if there is no such process.
pub fn seconds_of(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(ticks_of(&stat)? as f64 / TICKS_PER_SECOND)
}

/// CPU time of all of them together. One that is gone counts nothing.
pub fn seconds_of_all(pids: &[u32]) -> f64 {
    pids.iter().filter_map(|pid| seconds_of(*pid)).sum()
}

/// The kernel shows times in this unit to everybody, on every architecture that runs this.
const TICKS_PER_SECOND: f64 = 100.0;

/// utime and stime: the 14th and 15th field, counted behind the name, which may contain anything.
fn ticks_of(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_ascii_whitespace().skip(11);
    let utime: u64 = fields.next()?.parse().ok()?;
    let stime: u64 = fields.next()?.parse().ok()?;
    Some(utime + stime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strange_name_does_not_shift_the_fields() {
        let stat = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 700 30 0 0 20 0 1 0 99";
        assert_eq!(ticks_of(stat), Some(730));
        assert_eq!(ticks_of("nonsense"), None);
    }

    #[test]
    fn this_process_has_used_some_time_and_a_dead_one_none() {
        assert!(seconds_of(std::process::id()).is_some());
        assert_eq!(seconds_of(u32::MAX), None);
        assert_eq!(seconds_of_all(&[u32::MAX]), 0.0);
    }
}
