//! `/metrics`: etcd's names where etcd has them, so that its dashboards and alerts work, and our own.

use std::fmt::Write;

use crate::applier::Standing;
use crate::command::AlarmKind;
use crate::config::VERSION;
use crate::grpc::{NOT_PROMOTED, Shared};
use crate::meters::{DEFRAGMENTATIONS, Histogram, Kind, Requests, SNAPSHOTS, TRANSFERS};

/// etcd's features that have a gate, and their stages. None of them is a matter of choice here.
const FEATURES: [(&str, &str); 9] = [
    ("CompactHashCheck", "ALPHA"),
    ("FastLeaseKeepAlive", "BETA"),
    ("InitialCorruptCheck", "ALPHA"),
    ("LeaseCheckpoint", "ALPHA"),
    ("LeaseCheckpointPersist", "ALPHA"),
    ("PriorityRequest", "ALPHA"),
    ("SetMemberLocalAddr", "ALPHA"),
    ("StopGRPCServiceOnDefrag", "ALPHA"),
    ("TxnModeWriteWithSharedBuffer", "BETA"),
];

/// Everything, in Prometheus' text format.
pub fn page(shared: &Shared) -> String {
    let mut page = Page(String::with_capacity(32 << 10));
    shared.calls.render(&mut page.0);
    let standing = *shared.standing.lock();
    let member = shared.member_id.get().copied().unwrap_or_default();
    server(&mut page, shared, &standing, member);
    store(&mut page, shared);
    watchers_and_leases(&mut page, shared);
    network(&mut page, shared, member);
    ours(&mut page, shared, &standing);
    process(&mut page);
    page.0
}

/// A page that is being written.
struct Page(String);

impl Page {
    fn number(&mut self, kind: &str, name: &str, value: &dyn std::fmt::Display) {
        let _ = writeln!(self.0, "# TYPE {name} {kind}\n{name} {value}");
    }

    fn gauge(&mut self, name: &str, value: &dyn std::fmt::Display) {
        self.number("gauge", name, value);
    }

    fn counter(&mut self, name: &str, value: &dyn std::fmt::Display) {
        self.number("counter", name, value);
    }

    /// Lines with labels, written `name="value"`.
    fn labelled(&mut self, kind: &str, name: &str, lines: &[(String, u64)]) {
        let _ = writeln!(self.0, "# TYPE {name} {kind}");
        for (labels, value) in lines {
            let _ = writeln!(self.0, "{name}{{{labels}}} {value}");
        }
    }

    /// A histogram of what does not happen here.
    fn never(&mut self, name: &str, labels: &str, bounds: &'static [f64]) {
        self.histogram(name, &[(labels, &Histogram::new(bounds))]);
    }

    fn histogram(&mut self, name: &str, parts: &[(&str, &Histogram)]) {
        let _ = writeln!(self.0, "# TYPE {name} histogram");
        for (labels, histogram) in parts {
            histogram.render(&mut self.0, name, labels);
        }
    }
}

/// One line that is always 1, and says something by its label.
fn said(label: &str, text: &str) -> [(String, u64); 1] {
    [(format!("{label}=\"{text}\""), 1)]
}

fn server(page: &mut Page, shared: &Shared, standing: &Standing, member: u64) {
    let m = &*shared.meters;
    let (leader, alarms) = shared.view.with_state(|state| (state.leader(), state.alarms().collect::<Vec<_>>()));
    let tail = tail_of(shared, standing);
    let (unresolved, _) = shared.proposer.depth();
    page.gauge("etcd_server_has_leader", &u8::from(shared.has_leader()));
    page.gauge("etcd_server_is_leader", &u8::from(leader == member));
    page.gauge("etcd_server_is_learner", &u8::from(shared.is_learner()));
    page.counter("etcd_server_leader_changes_seen_total", &standing.terms);
    page.gauge("etcd_server_proposals_pending", &unresolved);
    page.gauge("etcd_server_proposals_committed_total", &tail.0.saturating_sub(1));
    page.gauge("etcd_server_proposals_applied_total", &standing.applied.0.saturating_sub(1));
    page.counter("etcd_server_proposals_failed_total", &m.appends_failed.get());
    page.counter("etcd_server_heartbeat_send_failures_total", &0);
    page.counter("etcd_server_slow_apply_total", &m.slow_applies.get());
    page.counter("etcd_server_slow_read_indexes_total", &m.slow_reads.get());
    page.counter("etcd_server_read_indexes_failed_total", &m.reads_failed.get());
    page.counter("etcd_server_learner_promote_successes", &m.promotions.get());
    let refused: Vec<_> = NOT_PROMOTED
        .iter()
        .zip(&m.promotions_refused)
        .map(|(why, count)| (format!("Reason=\"{why}\""), count.get()))
        .collect();
    page.labelled("counter", "etcd_server_learner_promote_failures", &refused);
    page.gauge("etcd_server_snapshot_apply_in_progress_total", &0);
    page.gauge("etcd_server_quota_backend_bytes", &shared.config.limits.quota_bytes.unwrap_or(0));
    page.labelled("gauge", "etcd_server_version", &said("server_version", VERSION));
    page.labelled("gauge", "etcd_cluster_version", &said("cluster_version", "3.7"));
    page.labelled("gauge", "etcd_server_go_version", &said("server_go_version", "none"));
    page.labelled("gauge", "etcd_server_id", &said("server_id", &format!("{member:x}")));
    let entries = "version=\"v3\",op=\"Entries\",success=\"true\",";
    page.histogram("etcd_server_apply_duration_seconds", &[(entries, &m.apply)]);
    let ranges = [("success=\"true\",", &m.ranges_done), ("success=\"false\",", &m.ranges_failed)];
    page.histogram("etcd_server_range_duration_seconds", &ranges);
    let mut requests = Vec::new();
    for kind in Kind::ALL {
        let Requests { done, failed } = m.requests(kind);
        for (success, times) in [("true", done), ("false", failed)] {
            requests.push((format!("type=\"{kind:?}\",success=\"{success}\","), times));
        }
    }
    // As with etcd, what nobody asked for has no lines.
    requests.retain(|(_, times)| !times.is_empty());
    let requests: Vec<_> = requests.iter().map(|(labels, times)| (labels.as_str(), *times)).collect();
    page.histogram("etcd_server_request_duration_seconds", &requests);
    let features: Vec<_> =
        FEATURES.iter().map(|(name, stage)| (format!("name=\"{name}\",stage=\"{stage}\""), 0)).collect();
    page.labelled("gauge", "etcd_server_feature_enabled", &features);
    let alarms: Vec<_> = alarms
        .into_iter()
        .map(|alarm| {
            let kind = match alarm.kind {
                AlarmKind::NoSpace => "NOSPACE",
                AlarmKind::Corrupt => "CORRUPT",
            };
            (format!("server_id=\"{:x}\",alarm_type=\"{kind}\"", alarm.member), 1)
        })
        .collect();
    page.labelled("gauge", "etcd_debugging_server_alarms", &alarms);
}

fn store(page: &mut Page, shared: &Shared) {
    let m = &*shared.meters;
    let (compacted, live, versions) =
        shared.view.with_state(|state| (state.compact_revision(), state.index().live(), state.index().versions()));
    let size = shared.view.logical_bytes();
    // What is durable is durable in the journal: an entry's time there is what etcd's WAL takes.
    page.histogram("etcd_disk_wal_fsync_duration_seconds", &[("", &m.append)]);
    page.counter("etcd_disk_wal_write_bytes_total", &m.put_bytes.get());
    page.histogram("etcd_disk_backend_commit_duration_seconds", &[("", &m.commit)]);
    page.gauge("etcd_disk_defrag_inflight", &0);
    page.never("etcd_disk_backend_defrag_duration_seconds", "", DEFRAGMENTATIONS);
    page.never("etcd_disk_backend_snapshot_duration_seconds", "", SNAPSHOTS);
    page.histogram("etcd_mvcc_hash_duration_seconds", &[("", &m.hash)]);
    page.histogram("etcd_mvcc_hash_rev_duration_seconds", &[("", &m.hash_kv)]);
    page.gauge("etcd_mvcc_db_total_size_in_bytes", &size);
    page.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", &size);
    page.gauge("etcd_mvcc_db_open_read_transactions", &0);
    page.counter("etcd_mvcc_put_total", &m.puts.get());
    page.counter("etcd_mvcc_delete_total", &m.deletes.get());
    page.counter("etcd_mvcc_txn_total", &m.txns.get());
    page.counter("etcd_mvcc_range_total", &m.ranges.get());
    page.gauge("etcd_debugging_mvcc_current_revision", &shared.view.revision());
    page.gauge("etcd_debugging_mvcc_compact_revision", &compacted);
    page.gauge("etcd_debugging_mvcc_keys_total", &live);
    page.gauge("etcd_debugging_mvcc_total_put_size_in_bytes", &m.put_bytes.get());
    page.counter("etcd_debugging_mvcc_db_compaction_keys_total", &m.forgotten.get());
    let compacted_at = m.compacted_at.load(std::sync::atomic::Ordering::Relaxed);
    page.gauge("etcd_debugging_mvcc_db_compaction_last", &compacted_at);
    let compaction = "etcd_debugging_mvcc_db_compaction";
    page.histogram(&format!("{compaction}_pause_duration_milliseconds"), &[("", &m.compaction_pause)]);
    page.histogram(&format!("{compaction}_total_duration_milliseconds"), &[("", &m.compaction)]);
    page.gauge("adapter_versions", &versions);
    page.gauge("adapter_swept_revision", &shared.view.store().swept());
}

fn watchers_and_leases(page: &mut Page, shared: &Shared) {
    let m = &*shared.meters;
    let (watchers, behind) = shared.hub.counts();
    page.gauge("etcd_debugging_mvcc_watcher_total", &watchers);
    page.gauge("etcd_debugging_mvcc_watch_stream_total", &shared.hub.sessions());
    page.gauge("etcd_debugging_mvcc_slow_watcher_total", &behind);
    page.counter("etcd_debugging_mvcc_events_total", &m.events.get());
    page.gauge("etcd_debugging_mvcc_pending_events_total", &0);
    let sending = "etcd_debugging_server_watch_send_loop";
    page.histogram(&format!("{sending}_watch_stream_duration_seconds"), &[("", &m.watch_turn)]);
    page.histogram(&format!("{sending}_watch_stream_duration_per_event_seconds"), &[("", &m.watch_event)]);
    page.histogram(&format!("{sending}_control_stream_duration_seconds"), &[("", &m.watch_control)]);
    page.histogram(&format!("{sending}_progress_duration_seconds"), &[("", &m.watch_progress)]);
    page.counter("etcd_debugging_lease_granted_total", &m.leases_granted.get());
    page.counter("etcd_debugging_lease_revoked_total", &m.leases_revoked.get());
    page.counter("etcd_debugging_lease_renewed_total", &m.leases_renewed.get());
    page.histogram("etcd_debugging_lease_ttl_total", &[("", &m.lease_ttl)]);
    page.counter("etcd_debugging_server_lease_expired_total", &m.leases_expired.get());
    page.gauge("etcd_debugging_auth_revision", &1);
    page.gauge("adapter_leases", &shared.view.with_state(|state| state.leases().len()));
}

/// The journal is this adapter's one peer.
fn network(page: &mut Page, shared: &Shared, member: u64) {
    let m = &*shared.meters;
    page.counter("etcd_network_client_grpc_received_bytes_total", &m.clients.received.get());
    page.counter("etcd_network_client_grpc_sent_bytes_total", &m.clients.sent.get());
    let failures = m.appends_failed.get() + m.reads_failed.get();
    let journal = "To=\"journal\"".to_owned();
    page.labelled("counter", "etcd_network_peer_sent_failures_total", &[(journal.clone(), failures)]);
    page.histogram("etcd_network_peer_round_trip_time_seconds", &[("To=\"journal\",", &m.round_trip)]);
    let (to, from) = ([(journal, m.journal.sent.get())], [("From=\"journal\"".into(), m.journal.received.get())]);
    page.labelled("counter", "etcd_network_peer_sent_bytes_total", &to);
    page.labelled("counter", "etcd_network_peer_received_bytes_total", &from);
    let local = format!("Local=\"{member:x}\",Remote=\"journal\"");
    page.labelled("gauge", "etcd_network_active_peers", &[(local.clone(), u64::from(shared.has_leader()))]);
    page.labelled("counter", "etcd_network_disconnected_peers_total", &[(local.clone(), m.disconnected.get())]);
    page.labelled("gauge", "etcd_network_known_peers", &[(local, 1)]);
    // Sending fails where a client has gone, which is no failure of this side.
    let streams = [("watch", &m.watch_receive_failures), ("lease-keepalive", &m.keep_alive_receive_failures)];
    let failures = streams.iter().flat_map(|(api, received)| {
        let of = |kind: &str, count| (format!("Type=\"{kind}\",API=\"{api}\""), count);
        [of("receive", received.get()), of("send", 0)]
    });
    page.labelled("counter", "etcd_network_server_stream_failures_total", &failures.collect::<Vec<_>>());
    // No adapter sends another its state: each has it from the journal.
    for (way, label) in [("send", "To"), ("receive", "From")] {
        let (name, line) = (format!("etcd_network_snapshot_{way}"), [(format!("{label}=\"journal\""), 0)]);
        page.labelled("counter", &format!("{name}_success"), &line);
        page.labelled("counter", &format!("{name}_failures"), &line);
        page.labelled("gauge", &format!("{name}_inflights_total"), &line);
        page.never(&format!("{name}_total_duration_seconds"), &format!("{label}=\"journal\","), TRANSFERS);
    }
}

fn ours(page: &mut Page, shared: &Shared, standing: &Standing) {
    let m = &*shared.meters;
    let tail = tail_of(shared, standing);
    let (_, waiting) = shared.proposer.depth();
    page.gauge("adapter_commands_waiting", &waiting);
    page.gauge("adapter_answer_bytes", &shared.answers.held());
    page.gauge("adapter_answer_bytes_max", &shared.answers.bytes_max());
    page.gauge("adapter_answers_waiting", &shared.answers.waiting());
    page.counter("adapter_answers_lost_total", &shared.answers.lost());
    page.gauge("adapter_applied_position", &standing.applied);
    page.gauge("adapter_tail_position", &tail);
    page.gauge("adapter_flushed_position", &standing.flushed);
    page.gauge("adapter_apply_lag_positions", &tail.0.saturating_sub(standing.applied.0));
    let behind = shared.reads.behind_for().unwrap_or_default();
    page.gauge("adapter_apply_lag_seconds", &behind.as_secs_f64());
    let age = shared.reads.heard().map_or(f64::INFINITY, |heard| (heard.at.elapsed() + behind).as_secs_f64());
    page.gauge("adapter_view_age_seconds", &if age.is_finite() { age.to_string() } else { "+Inf".to_owned() });
    page.counter("adapter_entries_applied_total", &m.entries.get());
    page.counter("adapter_commands_applied_total", &m.commands.get());
    page.counter("adapter_command_panics_total", &m.panics.get());
    page.counter("adapter_tail_questions_total", &m.tails_asked.get());
    page.counter("adapter_reads_confirmed_total", &m.reads_confirmed.get());
    page.histogram("adapter_flush_duration_seconds", &[("", &m.flush)]);
    page.gauge("adapter_disagrees", &u8::from(standing.disagrees.is_some()));
    page.counter("adapter_hash_comparisons_total", &standing.compared);
    page.counter("adapter_hash_disagreements_total", &standing.disagreed);
    page.counter("adapter_replays_total", &crate::boot::stores_dropped());
}

fn tail_of(shared: &Shared, standing: &Standing) -> proto::Position {
    shared.reads.heard().map_or(standing.applied, |heard| heard.tail.max(standing.applied))
}

/// What the kernel says about this process. Nothing where it says nothing.
fn process(page: &mut Page) {
    // A tick is 1/100 s and a page 4 KiB on every Linux that this runs on.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command's name may contain blanks; the numbers begin behind its parenthesis: fields 14, 15, 22
    // to 24 of proc_pid_stat(5), of which the first two are gone.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let fields: Vec<u64> = fields.split(' ').map(|field| field.trim().parse().unwrap_or(0)).collect();
    let boot = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok());
    if let [user, system] = fields.get(11..13).unwrap_or_default() {
        page.counter("process_cpu_seconds_total", &((user + system) as f64 / 100.0));
    }
    if let [started, size, resident] = fields.get(19..22).unwrap_or_default() {
        page.gauge("process_virtual_memory_bytes", size);
        page.gauge("process_resident_memory_bytes", &(resident * 4096));
        if let Some(boot) = boot {
            page.gauge("process_start_time_seconds", &(boot as f64 + *started as f64 / 100.0));
        }
    }
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    page.gauge("process_open_fds", &open);
    page.gauge("os_fd_used", &open);
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    if let Some(limit) = limit.and_then(|limit| limit.parse::<u64>().ok()) {
        page.gauge("process_max_fds", &limit);
        page.gauge("os_fd_limit", &limit);
    }
}
