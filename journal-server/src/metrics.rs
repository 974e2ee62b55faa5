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

/// What a metric is, for its help text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Everything that a node exports, in the order of the table in docs/OPERATIONS.md. Labels: `journal` is a
/// journal's id (0 is the catalogue), whose name `journal_info` tells; `peer` is a node's name.
const METRICS: &[(&str, Kind, &str)] = {
    use Kind::{Counter, Gauge, Histogram};
    &[
        // An append's way, on the node that leads.
        ("journal_append_admission_seconds", Histogram, "Append: from being read until Raft has it; one a message"),
        (
            "journal_segment_durable_seconds",
            Histogram,
            "Append: from being given to this node's log until a sync covers it; the oldest of each write",
        ),
        (
            "journal_append_commit_seconds",
            Histogram,
            "Append: from being given to Raft until a majority has synced it; one a message",
        ),
        (
            "journal_append_answer_seconds",
            Histogram,
            "Append: from being committed until the answer is given to the connection",
        ),
        // Where the groups are.
        ("journal_info", Gauge, "Always 1; the label `name` is what the journal is called"),
        ("journal_leads", Gauge, "1 if this node leads the journal and may serve it"),
        ("journal_leader_changes_total", Counter, "Leaderships of the journal that began, as seen by this node"),
        ("journal_start_position", Gauge, "The first readable position"),
        ("journal_commit_position", Gauge, "One past the last committed position, as this node knows it"),
        ("journal_applied_position", Gauge, "One past the last applied position"),
        (
            "journal_peer_lag_positions",
            Gauge,
            "How far a follower is behind its leader, this node; 0 where another leads",
        ),
        // Segments.
        ("journal_segment_sync_seconds", Histogram, "One sync of a journal's segment"),
        ("journal_segment_write_seconds", Histogram, "One write of a journal's segment, without the sync"),
        ("journal_segment_batch_bytes", Histogram, "Bytes that one write put into a segment"),
        ("journal_segment_batch_entries", Histogram, "Entries that one write put into a segment"),
        ("journal_segment_queue_age_seconds", Histogram, "How long the oldest entry of a write had waited for it"),
        ("journal_segment_rotations_total", Counter, "Segments begun"),
        ("journal_segment_disk_bytes", Gauge, "What the journal's segments take on this disk"),
        ("journal_segment_torn_frames_cut_total", Counter, "Ends that nothing proved to be synced, cut at a start"),
        ("journal_segment_damaged_frames_found_total", Counter, "Synced frames that could not be read"),
        ("journal_segment_frames_repaired_total", Counter, "Damaged frames filled from other nodes"),
        ("journal_segment_damaged_segments", Gauge, "Segments with open holes"),
        ("journal_segment_scrubbed_bytes_total", Counter, "Bytes that the scrubber has read"),
        ("journal_segment_scrub_passes_total", Counter, "Times that the scrubber has read all of the journal"),
        ("journal_segment_scrub_progress_ratio", Gauge, "How much of the scrubber's pass under way is done"),
        // The disk.
        ("journal_sync_seconds", Histogram, "How long the disk took for one sync, of any journal"),
        ("journal_disk_total_bytes", Gauge, "Size of the file system of the data directory"),
        ("journal_disk_free_bytes", Gauge, "Free bytes of that file system"),
        ("journal_disk_used_bytes", Gauge, "What the journals of this node hold on disk"),
        ("journal_disk_health", Gauge, "0 ok, 1 degraded, 2 slow, 3 failed"),
        ("journal_room", Gauge, "0 ok, 1 low, 2 urgent, 3 reserve, 4 floor: what is still admitted"),
        (
            "journal_urgent_entries_total",
            Counter,
            "Urgent entries offered while ordinary ones were refused for lack of room, by outcome",
        ),
        // Who comes and goes.
        ("journal_connections_total", Counter, "Connections accepted since the start"),
        ("journal_tls_failures_total", Counter, "Connections that ended in the TLS handshake"),
        ("journal_denied_total", Counter, "Calls that the rules refused"),
        ("journal_tls_certificate_expiry_seconds", Gauge, "When this node's certificate ends, in Unix time"),
        ("journal_reload_failures_total", Counter, "Changed certificates or rules that could not be used"),
        ("journal_client_connections_total", Counter, "Connections that this node made to others, by outcome"),
        ("journal_client_connect_seconds", Histogram, "How long it took to make one"),
        // The process.
        ("journal_build_info", Gauge, "Always 1; the version is a label"),
        ("process_cpu_seconds_total", Counter, "User and system time of the process"),
        ("process_resident_memory_bytes", Gauge, "Memory of the process that is in RAM"),
        ("process_open_fds", Gauge, "Open files and sockets"),
    ]
};

fn describe() {
    for (name, kind, help) in METRICS.iter().filter(|(name, ..)| name.starts_with("journal_")) {
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *help),
            Kind::Gauge => metrics::describe_gauge!(*name, *help),
            Kind::Histogram => metrics::describe_histogram!(*name, *help),
        }
    }
    metrics::gauge!("journal_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// A line of a metric that no recorder keeps.
fn line(text: &mut String, name: &str, value: impl std::fmt::Display) {
    let described = METRICS.iter().find(|(known, ..)| *known == name);
    let (kind, help) = described.map_or(("untyped", ""), |(_, kind, help)| match kind {
        Kind::Counter => ("counter", *help),
        Kind::Gauge | Kind::Histogram => ("gauge", *help),
    });
    let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
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
    line(text, "process_cpu_seconds_total", (user + system) as f64 / 100.0);
    let resident = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    if let Some(kibibytes) = resident {
        line(text, "process_resident_memory_bytes", kibibytes << 10);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        line(text, "process_open_fds", open.count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handbook_lists_every_metric_with_what_it_says() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/OPERATIONS.md");
        let handbook = std::fs::read_to_string(&path).unwrap();
        let wanted: Vec<_> = METRICS.iter().map(|(name, _, help)| format!("| `{name}` | {help} |")).collect();
        let missing: Vec<_> = wanted.iter().filter(|line| !handbook.contains(line.as_str())).cloned().collect();
        assert!(missing.is_empty(), "not in {}:\n{}", path.display(), missing.join("\n"));
    }

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
