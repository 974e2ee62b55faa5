//! The metrics of this process, and how they are written for Prometheus.
//!
//! One recorder serves the whole process, because the `metrics` macros have one; several servers in
//! one process (tests) share it. Units are in the names, and decide the buckets.

use std::fmt::Write;
use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// From a sync of a good disk to one of a hung one.
const SECONDS: [f64; 19] = [
    0.00005, 0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2,
    6.4, 12.8,
];
const BYTES: [f64; 10] = [64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0];
const ENTRIES: [f64; 13] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];

/// How often what was recorded is folded into the buckets: samples wait in memory until then.
pub const UPKEEP: Duration = Duration::from_secs(5);

/// The handle that renders, installed at the first call.
pub fn handle() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(install).clone()
}

/// Everything, in Prometheus' text format.
pub fn render(handle: &PrometheusHandle) -> String {
    let mut text = handle.render();
    process(&mut text);
    text
}

fn install() -> PrometheusHandle {
    let builder = PrometheusBuilder::new();
    let builder = [("_seconds", &SECONDS[..]), ("_bytes", &BYTES[..]), ("_entries", &ENTRIES[..])].into_iter().fold(
        builder,
        |builder, (unit, buckets)| {
            builder.set_buckets_for_metric(Matcher::Suffix(unit.into()), buckets).expect("the buckets are not empty")
        },
    );
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::warn!("this process records metrics elsewhere already: /metrics stays empty");
    }
    describe();
    handle
}

fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_histogram!("journal_sync_seconds", Unit::Seconds, "How long the disk took for one sync");
    describe_gauge!("journal_disk_total_bytes", Unit::Bytes, "Size of the file system of the data directory");
    describe_gauge!("journal_disk_free_bytes", Unit::Bytes, "Free bytes of that file system");
    describe_gauge!("journal_disk_used_bytes", Unit::Bytes, "What the journals of this node hold on disk");
    describe_gauge!("journal_room", "0 ok, 1 low, 2 urgent, 3 reserve, 4 floor: what is still admitted");
    describe_counter!(
        "journal_urgent_entries_total",
        "Urgent entries offered while ordinary ones were refused for lack of room, by outcome"
    );
    describe_gauge!("journal_disk_health", "0 ok, 1 degraded, 2 slow, 3 failed");
    describe_counter!("journal_connections_total", "Connections accepted since the start");
    describe_counter!("journal_tls_failures_total", "Connections that ended in the TLS handshake");
    describe_counter!("journal_denied_total", "Calls that the rules refused");
    describe_gauge!("journal_tls_certificate_expiry_seconds", "When this node's certificate ends, in Unix time");
    describe_counter!("journal_reload_failures_total", "Changed certificates or rules that could not be used");
    describe_gauge!("journal_build_info", "Always 1; the version is a label");
    metrics::gauge!("journal_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// What the kernel says about this process. Nothing where it says nothing.
fn process(text: &mut String) {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
    // The command's name may contain blanks; the numbers begin behind its parenthesis.
    let Some((_, fields)) = stat.rsplit_once(") ") else { return };
    let fields: Vec<u64> = fields.split(' ').map(|field| field.trim().parse().unwrap_or(0)).collect();
    // Fields 14 and 15 of proc_pid_stat(5), user and system time in ticks, of which the first two
    // are gone. A tick is 1/100 s on every Linux.
    let (Some(user), Some(system)) = (fields.get(11), fields.get(12)) else { return };
    let _ = writeln!(text, "# TYPE process_cpu_seconds_total counter");
    let _ = writeln!(text, "process_cpu_seconds_total {}", (user + system) as f64 / 100.0);
    let resident = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    if let Some(kibibytes) = resident {
        let _ = writeln!(text, "# TYPE process_resident_memory_bytes gauge");
        let _ = writeln!(text, "process_resident_memory_bytes {}", kibibytes << 10);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        let _ = writeln!(text, "# TYPE process_open_fds gauge");
        let _ = writeln!(text, "process_open_fds {}", open.count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_have_buckets_and_the_process_is_described() {
        let handle = handle();
        metrics::histogram!("journal_test_seconds").record(Duration::from_micros(150));
        metrics::histogram!("journal_test_entries").record(3.0);
        let text = render(&handle);
        for line in [
            "journal_test_seconds_bucket{le=\"0.0001\"} 0",
            "journal_test_seconds_bucket{le=\"0.0002\"} 1",
            "journal_test_entries_bucket{le=\"4\"} 1",
            "journal_build_info{version=",
            "process_resident_memory_bytes ",
            "process_cpu_seconds_total ",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }
}
