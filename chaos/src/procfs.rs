//! What the kernel says of a process and of this machine.

use std::fs;

/// CPU time of the threads that a process has now, to the nanosecond, in seconds. (What the kernel
/// shows of the whole process is counted by ticks: whoever wakes with the tick is counted too often.)
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let mut nanoseconds = 0u64;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        // A thread may have ended since it was listed.
        let Ok(schedstat) = fs::read_to_string(task.path().join("schedstat")) else { continue };
        nanoseconds += schedstat.split_ascii_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(nanoseconds as f64 / 1e9)
}

/// Memory of a process that is in RAM, in bytes.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

/// Memory of a process, what it shares counted in parts, in bytes.
pub fn proportional_bytes(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

/// Processor and kernel, for the head of a table.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cores} cores of {model}, Linux {}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_time_and_memory_and_a_dead_one_has_not() {
        assert!(cpu_seconds(std::process::id()).is_some());
        assert!(resident_bytes(std::process::id()).unwrap() > 1 << 20);
        assert_eq!(cpu_seconds(u32::MAX), None);
        assert_eq!(resident_bytes(u32::MAX), None);
    }
}
