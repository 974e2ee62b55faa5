//! `/metrics`: etcd's names where etcd has them, so that its dashboards and alerts work, and our own.

use std::fmt::Write;

use crate::config::VERSION;
use crate::grpc::Shared;

/// Everything, in Prometheus' text format.
pub fn page(shared: &Shared) -> String {
    let mut page = String::with_capacity(16 << 10);
    shared.calls.render(&mut page);
    let standing = *shared.standing.lock();
    let member = shared.member_id.get().copied().unwrap_or_default();
    let has_leader = shared.has_leader();
    let (leader, size, compacted, live, versions, leases, alarms) = shared.view.with_state(|state| {
        let index = state.index();
        let alarms: Vec<_> = state.alarms().collect();
        (
            state.leader(),
            state.logical_bytes(),
            state.compact_revision(),
            index.live(),
            index.versions(),
            state.leases().len(),
            alarms,
        )
    });
    let (watchers, behind) = shared.hub.counts();
    let (unresolved, waiting) = shared.proposer.depth();
    let tail = shared.reads.heard().map_or(standing.applied, |heard| heard.tail.max(standing.applied));
    let mut gauge = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(page, "# TYPE {name} gauge\n{name} {value}");
    };
    gauge("etcd_server_has_leader", &u8::from(has_leader));
    gauge("etcd_server_is_leader", &u8::from(leader == member));
    gauge("etcd_server_is_learner", &0);
    gauge("etcd_server_proposals_pending", &unresolved);
    gauge("etcd_server_proposals_committed_total", &(tail.0.saturating_sub(1)));
    gauge("etcd_server_proposals_applied_total", &(standing.applied.0.saturating_sub(1)));
    gauge("etcd_server_quota_backend_bytes", &shared.config.limits.quota_bytes.unwrap_or(0));
    gauge("etcd_mvcc_db_total_size_in_bytes", &size);
    gauge("etcd_mvcc_db_total_size_in_use_in_bytes", &size);
    gauge("etcd_debugging_mvcc_current_revision", &shared.view.revision());
    gauge("etcd_debugging_mvcc_compact_revision", &compacted);
    gauge("etcd_debugging_mvcc_keys_total", &live);
    gauge("etcd_debugging_mvcc_watcher_total", &watchers);
    gauge("etcd_debugging_mvcc_watch_stream_total", &shared.hub.sessions());
    gauge("etcd_debugging_mvcc_slow_watcher_total", &behind);
    gauge("adapter_versions", &versions);
    gauge("adapter_leases", &leases);
    gauge("adapter_commands_waiting", &waiting);
    gauge("adapter_applied_position", &standing.applied);
    gauge("adapter_tail_position", &tail);
    gauge("adapter_flushed_position", &standing.flushed);
    gauge("adapter_disagrees", &u8::from(standing.disagrees.is_some()));
    let mut counter = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(page, "# TYPE {name} counter\n{name} {value}");
    };
    counter("etcd_server_leader_changes_seen_total", &standing.terms);
    let mut labelled = |name: &str, label: &str, text: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(page, "# TYPE {name} gauge\n{name}{{{label}=\"{text}\"}} {value}");
    };
    labelled("etcd_server_version", "server_version", VERSION, &1);
    labelled("etcd_cluster_version", "cluster_version", "3.7", &1);
    labelled("etcd_server_id", "server_id", &format!("{member:x}"), &1);
    if !alarms.is_empty() {
        page.push_str("# TYPE etcd_debugging_server_alarms gauge\n");
        for alarm in alarms {
            let kind = match alarm.kind {
                crate::command::AlarmKind::NoSpace => "NOSPACE",
                crate::command::AlarmKind::Corrupt => "CORRUPT",
            };
            let id = alarm.member;
            let _ = writeln!(page, "etcd_debugging_server_alarms{{server_id=\"{id:x}\",alarm_type=\"{kind}\"}} 1");
        }
    }
    process(&mut page);
    page
}

/// What the kernel says about this process. Nothing where it says nothing.
fn process(page: &mut String) {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
    // The command's name may contain blanks; the numbers begin behind its parenthesis.
    let Some((_, fields)) = stat.rsplit_once(") ") else { return };
    let fields: Vec<u64> = fields.split(' ').map(|field| field.trim().parse().unwrap_or(0)).collect();
    // Fields 14, 15, 23 and 24 of proc_pid_stat(5), of which the first two are gone. A tick is 1/100 s
    // and a page 4 KiB on every Linux that this runs on.
    if let (Some(user), Some(system)) = (fields.get(11), fields.get(12)) {
        let _ = writeln!(page, "# TYPE process_cpu_seconds_total counter");
        let _ = writeln!(page, "process_cpu_seconds_total {}", (user + system) as f64 / 100.0);
    }
    if let (Some(size), Some(resident)) = (fields.get(20), fields.get(21)) {
        let _ = writeln!(page, "# TYPE process_virtual_memory_bytes gauge\nprocess_virtual_memory_bytes {size}");
        let _ = writeln!(page, "# TYPE process_resident_memory_bytes gauge");
        let _ = writeln!(page, "process_resident_memory_bytes {}", resident * 4096);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        let _ = writeln!(page, "# TYPE process_open_fds gauge\nprocess_open_fds {}", open.count());
    }
}
