//! Learners: a member that was added as one keeps out of clients' way until it is promoted, however
//! well it could answer. Clients, probes and kubeadm see what they see with etcd.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_adapter::adapter::Adapter;
use etcd_adapter::config::Config;
use journal_client::MemoryJournal;
use proto::etcd::auth_client::AuthClient;
use proto::etcd::cluster_client::ClusterClient;
use proto::etcd::kv_client::KvClient;
use proto::etcd::lease_client::LeaseClient;
use proto::etcd::maintenance_client::MaintenanceClient;
use proto::etcd::*;
use proto::health::HealthCheckRequest;
use proto::health::health_client::HealthClient;
use proto::v3electionpb::LeaderRequest;
use proto::v3electionpb::election_client::ElectionClient;
use proto::v3lockpb::UnlockRequest;
use proto::v3lockpb::lock_client::LockClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::hurt::Way;
use crate::transport::ask_http1;
use crate::world::{Watching, bytes};

const REFUSED: &str = "etcdserver: rpc not supported for learner";
const NOT_IN_SYNC: &str = "etcdserver: can only promote a learner member which is in sync with leader";
const PEER_URL: &str = "https://127.0.0.1:23802";

/// An adapter as kubeadm starts one, except that its journal is in this process.
struct Node {
    adapter: Adapter,
    channel: Channel,
}

impl Node {
    async fn start(way: &Way, name: &str, peer_url: &str, state: &str) -> Node {
        let listen = "http://127.0.0.1:0";
        let cluster = format!("--initial-cluster={name}={peer_url},other=https://127.0.0.1:1");
        let (peer, state) =
            (format!("--initial-advertise-peer-urls={peer_url}"), format!("--initial-cluster-state={state}"));
        let args = ["etcd-adapter", "--ephemeral", "--name", name, &peer, &state, &cluster];
        let args = args.into_iter().chain(["--listen-client-urls", listen, "--advertise-client-urls", listen]);
        let config = Config::load(args, BTreeMap::new()).unwrap();
        let adapter = Adapter::start_on(config, Some(Arc::new(way.clone()))).await.unwrap();
        let channel = Endpoint::from_shared(format!("http://{}", adapter.addresses[0])).unwrap().connect_lazy();
        Node { adapter, channel }
    }

    fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    async fn members(&self) -> Vec<Member> {
        let request = MemberListRequest { linearizable: true };
        self.cluster().member_list(request).await.unwrap().into_inner().members
    }

    async fn add_learner(&self) -> Member {
        let request = MemberAddRequest { peer_ur_ls: vec![PEER_URL.into()], is_learner: true };
        self.cluster().member_add(request).await.unwrap().into_inner().member.unwrap()
    }

    async fn promote(&self, id: u64) -> Result<Vec<Member>, Status> {
        self.cluster().member_promote(MemberPromoteRequest { id }).await.map(|answer| answer.into_inner().members)
    }

    /// As kubeadm does it.
    async fn promote_in_time(&self, id: u64) -> Vec<Member> {
        for _ in 0..40 {
            match self.promote(id).await {
                Ok(members) => return members,
                Err(status) => assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, NOT_IN_SYNC)),
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        panic!("the learner is never in sync");
    }

    async fn put(&self, key: &str, value: &str) -> Result<(), Status> {
        let put = PutRequest { key: bytes(key), value: bytes(value), ..Default::default() };
        KvClient::new(self.channel.clone()).put(put).await.map(|_| ())
    }

    async fn get(&self, key: &str, serializable: bool) -> Result<usize, Status> {
        let request = RangeRequest { key: bytes(key), serializable, ..Default::default() };
        KvClient::new(self.channel.clone()).range(request).await.map(|answer| answer.into_inner().kvs.len())
    }

    async fn status(&self) -> StatusResponse {
        MaintenanceClient::new(self.channel.clone()).status(StatusRequest {}).await.unwrap().into_inner()
    }

    /// The first line of the answer to a probe, and its body.
    async fn probe(&self, path: &str) -> (bool, String) {
        let answer = ask_http1(&self.adapter.addresses[0], path).await;
        let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
        (answer.starts_with("HTTP/1.1 200"), body)
    }
}

fn refused<T>(what: &str, answer: Result<T, Status>) {
    let Err(status) = answer else { panic!("{what} was answered") };
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, REFUSED), "{what}");
}

/// A member that serves, and one that was added as a learner and runs.
async fn with_learner(journal: &MemoryJournal) -> (Node, Node, Member) {
    let one = Node::start(&Way::to(journal), "one", "https://127.0.0.1:23801", "new").await;
    one.put("k", "v").await.unwrap();
    let added = one.add_learner().await;
    let learner = Node::start(&Way::to(journal), "two", PEER_URL, "existing").await;
    (one, learner, added)
}

#[tokio::test]
async fn cl_5_a_learner_answers_serializable_ranges_and_its_status_and_refuses_all_else() {
    let journal = MemoryJournal::new("learners");
    let (one, learner, added) = with_learner(&journal).await;
    let status = learner.status().await;
    assert!(status.is_learner && status.header.unwrap().member_id == added.id);
    assert_eq!(status.leader, one.status().await.header.unwrap().member_id, "a learner leads nobody");
    assert_eq!(learner.get("k", true).await.unwrap(), 1);

    let channel = || learner.channel.clone();
    refused("Range", learner.get("k", false).await);
    refused("Put", learner.put("k", "v").await);
    refused("Txn", KvClient::new(channel()).txn(TxnRequest::default()).await);
    refused("Compact", KvClient::new(channel()).compact(CompactionRequest::default()).await);
    refused("RangeStream", KvClient::new(channel()).range_stream(RangeRequest::default()).await);
    refused("Grant", LeaseClient::new(channel()).lease_grant(LeaseGrantRequest { ttl: 9, id: 0 }).await);
    refused("Leases", LeaseClient::new(channel()).lease_leases(LeaseLeasesRequest {}).await);
    let alive = tokio_stream::once(LeaseKeepAliveRequest { id: 1 });
    refused("KeepAlive", LeaseClient::new(channel()).lease_keep_alive(alive).await);
    refused("Watch", Watching::open(&learner.channel).await);
    refused("MemberList", learner.cluster().member_list(MemberListRequest { linearizable: false }).await);
    refused("MemberPromote", learner.promote(added.id).await);
    refused("MoveLeader", MaintenanceClient::new(channel()).move_leader(MoveLeaderRequest { target_id: 1 }).await);
    refused("HashKV", MaintenanceClient::new(channel()).hash_kv(HashKvRequest { revision: 0 }).await);
    refused("AuthStatus", AuthClient::new(channel()).auth_status(AuthStatusRequest {}).await);
    refused("Unlock", LockClient::new(channel()).unlock(UnlockRequest::default()).await);
    refused("Leader", ElectionClient::new(channel()).leader(LeaderRequest::default()).await);
    refused("Check", HealthClient::new(channel()).check(HealthCheckRequest::default()).await);
    // The one stream that a learner has: what it says is not that it is a learner.
    let snapshot = MaintenanceClient::new(channel()).snapshot(SnapshotRequest {}).await;
    assert!(snapshot.err().is_none_or(|status| status.message() != REFUSED));

    for other in [&one, &learner] {
        assert_eq!(other.get("k", true).await.unwrap(), 1);
    }
    assert_eq!(one.get("k", false).await.unwrap(), 1, "the others are asked as before");
}

#[tokio::test]
async fn cl_5_a_learner_is_alive_and_not_ready() {
    let journal = MemoryJournal::new("learners");
    let (_one, learner, _) = with_learner(&journal).await;
    let (ready, page) = learner.probe("/readyz").await;
    assert!(!ready && page.contains("[-]non_learner failed: not supported for learner\n"), "{page}");
    assert!(!learner.probe("/readyz/non_learner").await.0);
    assert!(learner.probe("/readyz?exclude=non_learner").await.0);
    assert!(learner.probe("/livez").await.0, "a restart would not help");
    let (_, metrics) = learner.probe("/metrics").await;
    assert!(metrics.contains("etcd_server_is_learner 1\n"));
}

#[tokio::test]
async fn cl_5_6_kubeadm_joins_a_member_as_a_learner_and_promotes_it() {
    let journal = MemoryJournal::new("learners");
    let one = Node::start(&Way::to(&journal), "one", "https://127.0.0.1:23801", "new").await;
    one.put("k", "v").await.unwrap();
    let added = one.add_learner().await;
    let early = one.promote(added.id).await.unwrap_err();
    assert_eq!((early.code(), early.message()), (Code::FailedPrecondition, NOT_IN_SYNC), "it does not run");
    let lines: Vec<_> = one.members().await.into_iter().map(|m| (m.name, m.is_learner)).collect();
    assert!(lines.contains(&(String::new(), true)) && lines.contains(&("one".into(), false)), "{lines:?}");

    let two = Node::start(&Way::to(&journal), "two", PEER_URL, "existing").await;
    let lines: Vec<_> = one.members().await.into_iter().map(|m| (m.id, m.name, m.is_learner)).collect();
    assert!(lines.contains(&(added.id, "two".into(), true)), "{lines:?}");
    assert!(!two.probe("/readyz").await.0);
    let transfer = MoveLeaderRequest { target_id: added.id };
    let moved = MaintenanceClient::new(one.channel.clone()).move_leader(transfer).await.unwrap_err();
    assert_eq!((moved.code(), moved.message()), (Code::FailedPrecondition, "etcdserver: bad leader transferee"));

    let members = one.promote_in_time(added.id).await;
    assert!(members.iter().all(|member| !member.is_learner), "{members:?}");
    let again = one.promote(added.id).await.unwrap_err();
    assert_eq!(again.message(), "etcdserver: can only promote a learner member");
    // The member that was promoted hears of it as of anything else, from the journal.
    for _ in 0..50 {
        if two.probe("/readyz").await.0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for path in ["/livez", "/readyz", "/readyz/non_learner", "/health"] {
        assert!(two.probe(path).await.0, "{path}");
    }
    assert!(!two.status().await.is_learner);
    two.put("k2", "v").await.unwrap();
    assert_eq!((two.get("k", false).await.unwrap(), one.get("k2", false).await.unwrap()), (1, 1));
    let mut watching = Watching::open(&two.channel).await.unwrap();
    watching.create(crate::world::from("k", 0)).await;
    MaintenanceClient::new(one.channel.clone()).move_leader(transfer).await.unwrap();

    let (_, metrics) = one.probe("/metrics").await;
    assert!(metrics.contains("etcd_server_learner_promote_successes 1\n"), "{metrics}");
    assert!(metrics.contains(&format!("etcd_server_learner_promote_failures{{Reason=\"{NOT_IN_SYNC}\"}} ")));
}

#[tokio::test]
async fn cl_5_a_learner_that_begins_anew_is_a_learner_still() {
    let journal = MemoryJournal::new("learners");
    let (one, learner, added) = with_learner(&journal).await;
    learner.adapter.shutdown().await;
    let again = Node::start(&Way::to(&journal), "two", PEER_URL, "existing").await;
    assert_eq!(again.status().await.header.unwrap().member_id, added.id);
    refused("Put", again.put("k", "v").await);
    one.promote_in_time(added.id).await;
    again.adapter.shutdown().await;
    // What it was started with at first does not make it one again.
    let again = Node::start(&Way::to(&journal), "two", PEER_URL, "existing").await;
    again.put("k", "v").await.unwrap();
    assert!(again.probe("/readyz").await.0);
}

#[tokio::test]
async fn a_member_that_nobody_added_and_one_that_was_added_to_vote_are_no_learners() {
    let journal = MemoryJournal::new("learners");
    let one = Node::start(&Way::to(&journal), "one", "https://127.0.0.1:23801", "new").await;
    let request = MemberAddRequest { peer_ur_ls: vec![PEER_URL.into()], is_learner: false };
    one.cluster().member_add(request).await.unwrap();
    let two = Node::start(&Way::to(&journal), "two", PEER_URL, "existing").await;
    let three = Node::start(&Way::to(&journal), "three", "https://127.0.0.1:23803", "existing").await;
    for node in [&two, &three] {
        node.put("k", "v").await.unwrap();
        assert!(node.probe("/readyz").await.0 && !node.status().await.is_learner);
    }
}

#[tokio::test]
async fn cl_3_a_learner_that_stopped_is_not_promoted() {
    let journal = MemoryJournal::new("learners");
    let (one, learner, added) = with_learner(&journal).await;
    // It has said that it is ready.
    tokio::time::sleep(Duration::from_secs(2)).await;
    learner.adapter.abandon().await;
    // It is not declared gone for long yet.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let lines: Vec<_> = one.members().await.into_iter().map(|m| m.name).collect();
    assert!(lines.contains(&"two".to_owned()), "{lines:?}");
    let refused = one.promote(added.id).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, NOT_IN_SYNC));
}

#[tokio::test]
async fn cl_3_a_learner_that_lags_is_promoted_once_it_has_caught_up() {
    let journal = MemoryJournal::new("learners");
    let one = Node::start(&Way::to(&journal), "one", "https://127.0.0.1:23801", "new").await;
    let added = one.add_learner().await;
    let way = Way::to(&journal);
    let _two = Node::start(&way, "two", PEER_URL, "existing").await;
    // It speaks, and hears nothing.
    way.deafen(true);
    for number in 0..1500 {
        one.put("k", &number.to_string()).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let refused = one.promote(added.id).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, NOT_IN_SYNC));
    way.deafen(false);
    one.promote_in_time(added.id).await;
}
