//! `/metrics`: everything that etcd's stock dashboards and alerts ask for is there, by its name and type.

use std::collections::BTreeMap;

use proto::etcd::maintenance_client::MaintenanceClient;
use proto::etcd::{
    HashKvRequest, HashRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op,
};

use crate::transport::ask_http1;
use crate::world::{World, bytes, from};

/// What the stock alerts and dashboards of etcd name.
const STOCK: &[(&str, &str)] = &[
    ("etcd_network_peer_sent_failures_total", "counter"),
    ("etcd_server_has_leader", "gauge"),
    ("etcd_server_leader_changes_seen_total", "counter"),
    ("grpc_server_handled_total", "counter"),
    ("grpc_server_started_total", "counter"),
    ("grpc_server_handling_seconds", "histogram"),
    ("etcd_network_peer_round_trip_time_seconds", "histogram"),
    ("etcd_server_proposals_failed_total", "counter"),
    ("etcd_server_proposals_pending", "gauge"),
    ("etcd_server_proposals_committed_total", "gauge"),
    ("etcd_server_proposals_applied_total", "gauge"),
    ("etcd_disk_wal_fsync_duration_seconds", "histogram"),
    ("etcd_disk_backend_commit_duration_seconds", "histogram"),
    ("etcd_mvcc_db_total_size_in_bytes", "gauge"),
    ("etcd_mvcc_db_total_size_in_use_in_bytes", "gauge"),
    ("etcd_server_quota_backend_bytes", "gauge"),
    ("process_resident_memory_bytes", "gauge"),
    ("etcd_network_client_grpc_received_bytes_total", "counter"),
    ("etcd_network_client_grpc_sent_bytes_total", "counter"),
    ("etcd_network_peer_received_bytes_total", "counter"),
    ("etcd_network_peer_sent_bytes_total", "counter"),
];

/// What other public dashboards and operators look at.
const EXTRAS: &[(&str, &str)] = &[
    ("etcd_server_is_leader", "gauge"),
    ("etcd_server_is_learner", "gauge"),
    ("etcd_server_id", "gauge"),
    ("etcd_server_version", "gauge"),
    ("etcd_cluster_version", "gauge"),
    ("etcd_server_go_version", "gauge"),
    ("etcd_server_heartbeat_send_failures_total", "counter"),
    ("etcd_server_slow_apply_total", "counter"),
    ("etcd_server_slow_read_indexes_total", "counter"),
    ("etcd_server_read_indexes_failed_total", "counter"),
    ("etcd_server_apply_duration_seconds", "histogram"),
    ("etcd_server_range_duration_seconds", "histogram"),
    ("etcd_server_request_duration_seconds", "histogram"),
    ("etcd_server_client_requests_total", "counter"),
    ("etcd_server_feature_enabled", "gauge"),
    ("etcd_server_learner_promote_successes", "counter"),
    ("etcd_server_learner_promote_failures", "counter"),
    ("etcd_server_health_success", "counter"),
    ("etcd_server_health_failures", "counter"),
    ("etcd_server_healthcheck", "gauge"),
    ("etcd_server_healthchecks_total", "counter"),
    ("etcd_server_snapshot_apply_in_progress_total", "gauge"),
    ("etcd_mvcc_put_total", "counter"),
    ("etcd_mvcc_delete_total", "counter"),
    ("etcd_mvcc_txn_total", "counter"),
    ("etcd_mvcc_range_total", "counter"),
    ("etcd_mvcc_db_open_read_transactions", "gauge"),
    ("etcd_mvcc_hash_duration_seconds", "histogram"),
    ("etcd_mvcc_hash_rev_duration_seconds", "histogram"),
    ("etcd_disk_backend_defrag_duration_seconds", "histogram"),
    ("etcd_disk_defrag_inflight", "gauge"),
    ("etcd_disk_backend_snapshot_duration_seconds", "histogram"),
    ("etcd_disk_wal_write_bytes_total", "counter"),
    ("etcd_network_active_peers", "gauge"),
    ("etcd_network_known_peers", "gauge"),
    ("etcd_network_disconnected_peers_total", "counter"),
    ("etcd_network_server_stream_failures_total", "counter"),
    ("etcd_network_snapshot_send_success", "counter"),
    ("etcd_network_snapshot_send_failures", "counter"),
    ("etcd_network_snapshot_send_inflights_total", "gauge"),
    ("etcd_network_snapshot_send_total_duration_seconds", "histogram"),
    ("etcd_network_snapshot_receive_success", "counter"),
    ("etcd_network_snapshot_receive_failures", "counter"),
    ("etcd_network_snapshot_receive_inflights_total", "gauge"),
    ("etcd_network_snapshot_receive_total_duration_seconds", "histogram"),
    ("etcd_debugging_mvcc_keys_total", "gauge"),
    ("etcd_debugging_mvcc_watcher_total", "gauge"),
    ("etcd_debugging_mvcc_watch_stream_total", "gauge"),
    ("etcd_debugging_mvcc_slow_watcher_total", "gauge"),
    ("etcd_debugging_mvcc_events_total", "counter"),
    ("etcd_debugging_mvcc_pending_events_total", "gauge"),
    ("etcd_debugging_mvcc_current_revision", "gauge"),
    ("etcd_debugging_mvcc_compact_revision", "gauge"),
    ("etcd_debugging_mvcc_total_put_size_in_bytes", "gauge"),
    ("etcd_debugging_mvcc_db_compaction_keys_total", "counter"),
    ("etcd_debugging_mvcc_db_compaction_last", "gauge"),
    ("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", "histogram"),
    ("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "histogram"),
    ("etcd_debugging_lease_granted_total", "counter"),
    ("etcd_debugging_lease_revoked_total", "counter"),
    ("etcd_debugging_lease_renewed_total", "counter"),
    ("etcd_debugging_lease_ttl_total", "histogram"),
    ("etcd_debugging_server_lease_expired_total", "counter"),
    ("etcd_debugging_server_alarms", "gauge"),
    ("etcd_debugging_auth_revision", "gauge"),
    ("etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds", "histogram"),
    ("etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds", "histogram"),
    ("etcd_debugging_server_watch_send_loop_control_stream_duration_seconds", "histogram"),
    ("etcd_debugging_server_watch_send_loop_progress_duration_seconds", "histogram"),
    ("promhttp_metric_handler_requests_total", "counter"),
    ("promhttp_metric_handler_requests_in_flight", "gauge"),
    ("os_fd_used", "gauge"),
    ("os_fd_limit", "gauge"),
    ("process_cpu_seconds_total", "counter"),
    ("process_start_time_seconds", "gauge"),
    ("process_open_fds", "gauge"),
    ("process_max_fds", "gauge"),
    ("process_virtual_memory_bytes", "gauge"),
];

/// Our own.
const OURS: &[(&str, &str)] = &[
    ("adapter_apply_lag_positions", "gauge"),
    ("adapter_apply_lag_seconds", "gauge"),
    ("adapter_view_age_seconds", "gauge"),
    ("adapter_entries_applied_total", "counter"),
    ("adapter_commands_applied_total", "counter"),
    ("adapter_tail_questions_total", "counter"),
    ("adapter_reads_confirmed_total", "counter"),
    ("adapter_answer_bytes", "gauge"),
    ("adapter_answer_bytes_max", "gauge"),
    ("adapter_answers_waiting", "gauge"),
    ("adapter_answers_lost_total", "counter"),
    ("adapter_disagrees", "gauge"),
    ("adapter_hash_disagreements_total", "counter"),
    ("adapter_replays_total", "counter"),
];

struct Page {
    types: BTreeMap<String, String>,
    values: BTreeMap<String, f64>,
}

/// Reads the page as strictly as Prometheus does.
async fn scrape(world: &World) -> Page {
    let answer = ask_http1(&world.adapter.addresses[0], "/metrics").await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let mut page = Page { types: BTreeMap::new(), values: BTreeMap::new() };
    for line in body.lines() {
        if let Some(told) = line.strip_prefix("# TYPE ") {
            let (name, kind) = told.split_once(' ').unwrap();
            assert!(page.types.insert(name.into(), kind.into()).is_none(), "{name} is said twice");
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no metric: {line}"));
        let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        let bare = name.split('{').next().unwrap();
        let parts = ["", "_bucket", "_sum", "_count"];
        let known = parts.iter().filter_map(|part| bare.strip_suffix(part)).any(|name| page.types.contains_key(name));
        assert!(known, "a metric without a type: {line}");
        assert!(page.values.insert(name.into(), value).is_none(), "twice: {line}");
    }
    page
}

#[tokio::test]
async fn every_metric_of_the_stock_dashboards_is_there_by_name_and_type() {
    let world = World::with(&["--metrics=extensive"]).await;
    let page = scrape(&world).await;
    for (name, kind) in STOCK.iter().chain(EXTRAS).chain(OURS) {
        assert_eq!(page.types.get(*name).map(String::as_str), Some(*kind), "{name}");
    }
    let buckets = |name: &str| page.values.keys().filter(|line| line.starts_with(&format!("{name}_bucket"))).count();
    assert_eq!(buckets("etcd_disk_wal_fsync_duration_seconds"), 15);
    assert_eq!(buckets("etcd_network_peer_round_trip_time_seconds"), 17);
}

#[tokio::test]
async fn what_clients_do_is_counted_as_etcd_counts_it() {
    let mut world = World::new().await;
    let before = scrape(&world).await;
    assert!(!before.types.contains_key("grpc_server_handling_seconds"), "only --metrics=extensive asks for it");
    world.put("a", "1").await;
    world.put("b", "22").await;
    world.delete("a").await;
    world.range(RangeRequest { key: bytes("b"), ..Default::default() }).await.unwrap();
    let put = PutRequest { key: bytes("c"), value: bytes("333"), ..Default::default() };
    let success = vec![RequestOp { request: Some(request_op::Request::RequestPut(put)) }];
    world.kv.txn(TxnRequest { success, ..Default::default() }).await.unwrap();
    world.lease.lease_grant(LeaseGrantRequest { ttl: 60, id: 0 }).await.unwrap();
    let page = scrape(&world).await;
    let rose = |name: &str| page.values[name] - before.values[name];
    assert_eq!(rose("etcd_mvcc_put_total"), 3.0);
    assert_eq!(rose("etcd_mvcc_delete_total"), 1.0);
    assert_eq!(rose("etcd_mvcc_txn_total"), 1.0);
    assert_eq!(rose("etcd_mvcc_range_total"), 1.0);
    assert_eq!(rose("etcd_debugging_mvcc_events_total"), 4.0);
    assert_eq!(rose("etcd_debugging_mvcc_total_put_size_in_bytes"), 9.0);
    assert_eq!(rose("etcd_debugging_lease_granted_total"), 1.0);
    assert!(rose("etcd_disk_wal_fsync_duration_seconds_count") >= 5.0);
    assert!(rose("etcd_network_client_grpc_received_bytes_total") > 100.0);
    assert!(rose("adapter_commands_applied_total") >= 5.0);
    assert!(page.values["adapter_view_age_seconds"] < 5.0);
}

#[tokio::test]
async fn requests_probes_hashes_and_watches_are_measured_under_etcds_names() {
    let mut world = World::new().await;
    world.put("a", "1").await;
    world.range(RangeRequest { key: bytes("a"), ..Default::default() }).await.unwrap();
    world.kv.txn(TxnRequest::default()).await.unwrap();
    let mut told = tonic::Request::new(RangeRequest { key: bytes("a"), ..Default::default() });
    told.metadata_mut().insert("client-api-version", "3.7".parse().unwrap());
    world.kv.range(told).await.unwrap();
    let mut strange = tonic::Request::new(RangeRequest { key: bytes("a"), ..Default::default() });
    strange.metadata_mut().insert("client-api-version", "3.7\"} 1".parse().unwrap());
    world.kv.range(strange).await.unwrap();
    let mut maintenance = MaintenanceClient::new(world.channel.clone());
    maintenance.hash(HashRequest {}).await.unwrap();
    maintenance.hash_kv(HashKvRequest { revision: 0 }).await.unwrap();
    let mut watching = world.watch().await;
    watching.create(from("a", 0)).await;
    world.put("a", "2").await;
    watching.events(1).await;
    watching.ask_progress().await;
    watching.next().await;
    for path in ["/health", "/livez", "/readyz", "/readyz/linearizable_read"] {
        ask_http1(&world.adapter.addresses[0], path).await;
    }
    let page = scrape(&world).await;
    for (line, value) in [
        ("etcd_server_request_duration_seconds_count{type=\"Put\",success=\"true\"}", 2.0),
        ("etcd_server_request_duration_seconds_count{type=\"Range\",success=\"true\"}", 3.0),
        ("etcd_server_request_duration_seconds_count{type=\"ReadonlyTxn\",success=\"true\"}", 1.0),
        ("etcd_server_client_requests_total{type=\"unary\",client_api_version=\"3.7\"}", 1.0),
        ("etcd_server_client_requests_total{type=\"unary\",client_api_version=\"unknown\"}", 7.0),
        ("etcd_server_client_requests_total{type=\"stream\",client_api_version=\"unknown\"}", 1.0),
        ("etcd_server_health_success", 1.0),
        ("etcd_server_health_failures", 0.0),
        ("etcd_server_healthcheck{type=\"readyz\",name=\"linearizable_read\"}", 1.0),
        ("etcd_server_healthchecks_total{type=\"readyz\",name=\"linearizable_read\",status=\"success\"}", 2.0),
        ("etcd_server_healthchecks_total{type=\"readyz\",name=\"linearizable_read\",status=\"error\"}", 0.0),
        ("etcd_mvcc_hash_duration_seconds_count", 1.0),
        ("etcd_mvcc_hash_rev_duration_seconds_count", 1.0),
        ("etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds_count", 1.0),
        ("etcd_debugging_server_watch_send_loop_control_stream_duration_seconds_count", 1.0),
        ("etcd_debugging_server_watch_send_loop_progress_duration_seconds_count", 1.0),
        ("promhttp_metric_handler_requests_in_flight", 1.0),
        ("etcd_network_peer_sent_bytes_total{To=\"journal\"}", 0.0),
    ] {
        assert_eq!(page.values.get(line), Some(&value), "{line}");
    }
}
