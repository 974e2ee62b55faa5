//! etcd's rules that belong to no service alone, and those of Cluster and Maintenance.

use proto::etcd::cluster_client::ClusterClient;
use proto::etcd::maintenance_client::MaintenanceClient;
use proto::etcd::watch_client::WatchClient;
use proto::etcd::watch_request::RequestUnion;
use proto::etcd::*;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::world::{World, bytes, from};

#[tokio::test]
async fn hdr_1_4_answers_carry_ids_and_a_term_and_those_of_cluster_no_revision() {
    let mut world = World::new().await;
    world.put("k", "1").await;
    let range = world.range(RangeRequest { key: bytes("k"), ..Default::default() }).await.unwrap().header.unwrap();
    assert!(range.cluster_id != 0 && range.member_id != 0 && range.raft_term > 0);
    let mut cluster = ClusterClient::new(world.channel.clone());
    let list = cluster.member_list(MemberListRequest { linearizable: true }).await.unwrap().into_inner();
    assert_eq!(list.header.unwrap(), ResponseHeader { revision: 0, ..range });
}

#[tokio::test]
async fn mt_1_2_status_says_what_clients_look_for() {
    let world = World::new().await;
    let status = MaintenanceClient::new(world.channel.clone()).status(StatusRequest {}).await.unwrap().into_inner();
    let version: Vec<u32> = status.version.split('.').map(|part| part.parse().unwrap()).collect();
    assert!(version[..] >= [3, 5, 13][..], "kube-apiserver asks for progress from 3.5.13 on");
    assert_eq!(status.leader, status.header.unwrap().member_id, "the only member leads");
    assert_eq!((&status.storage_version[..], status.is_learner, status.errors.len()), ("3.7.0", false, 0));
    assert!(status.raft_applied_index > 0 && status.raft_index >= status.raft_applied_index);
    assert!(status.raft_term > 0 && status.db_size >= status.db_size_in_use);
}

#[tokio::test]
async fn cl_1_the_members_are_the_running_adapters_with_urls_to_reach_them() {
    let world = World::new().await;
    let mut cluster = ClusterClient::new(world.channel.clone());
    let list = cluster.member_list(MemberListRequest { linearizable: true }).await.unwrap().into_inner();
    let [member] = &list.members[..] else { panic!("{list:?}") };
    assert_eq!(member.id, list.header.unwrap().member_id);
    assert!(!member.name.is_empty() && !member.client_ur_ls.is_empty() && !member.is_learner);
}

#[tokio::test]
async fn cl_4_5_a_learner_joins_is_not_promoted_unseen_and_leaves() {
    let world = World::new().await;
    let mut cluster = ClusterClient::new(world.channel.clone());
    let urls = vec!["http://127.0.0.1:1".to_owned()];
    let add = MemberAddRequest { peer_ur_ls: urls, is_learner: true };
    let added = cluster.member_add(add.clone()).await.unwrap().into_inner();
    let learner = added.member.unwrap();
    assert_eq!((added.members.len(), learner.is_learner), (2, true));
    let again = cluster.member_add(add).await.unwrap_err();
    assert_eq!((again.code(), again.message()), (Code::FailedPrecondition, "etcdserver: Peer URLs already exists"));
    let early = cluster.member_promote(MemberPromoteRequest { id: learner.id }).await.unwrap_err();
    assert_eq!(early.message(), "etcdserver: can only promote a learner member which is in sync with leader");
    let removed = cluster.member_remove(MemberRemoveRequest { id: learner.id }).await.unwrap().into_inner();
    assert_eq!(removed.members.len(), 1);
}

#[tokio::test]
async fn cl_3_the_only_member_that_answers_cannot_be_removed() {
    let mut world = World::new().await;
    let mut cluster = ClusterClient::new(world.channel.clone());
    let list = cluster.member_list(MemberListRequest { linearizable: true }).await.unwrap().into_inner();
    let add = MemberAddRequest { peer_ur_ls: vec!["http://127.0.0.1:1".to_owned()], is_learner: false };
    // One that was added and has not begun answers nobody.
    let added = cluster.member_add(add).await.unwrap().into_inner().member.unwrap();
    let refused = cluster.member_remove(MemberRemoveRequest { id: list.members[0].id }).await.unwrap_err();
    let words = "etcdserver: re-configuration failed due to not enough started members";
    assert_eq!((refused.code(), refused.message()), (Code::Unknown, words));
    cluster.member_remove(MemberRemoveRequest { id: added.id }).await.unwrap();
    world.put("k", "v").await;
}

#[tokio::test]
async fn w_19_21_a_stream_outlives_unknown_requests_and_the_end_of_all_requests() {
    let mut world = World::new().await;
    let (requests, stream) = tokio::sync::mpsc::channel(8);
    let mut client = WatchClient::new(world.channel.clone());
    requests.send(WatchRequest { request_union: None }).await.unwrap();
    let union = Some(RequestUnion::CreateRequest(from("a", 0)));
    requests.send(WatchRequest { request_union: union }).await.unwrap();
    let mut responses = client.watch(ReceiverStream::new(stream)).await.unwrap().into_inner();
    assert!(responses.message().await.unwrap().unwrap().created);
    drop(requests);
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let revision = world.put("a", "1").await;
    let response = responses.message().await.unwrap().unwrap();
    assert_eq!(response.events[0].kv.as_ref().unwrap().mod_revision, revision);
}

#[tokio::test]
async fn kv_c2_nothing_below_a_compaction_is_readable_once_it_is_answered() {
    let mut world = World::new().await;
    let first = world.put("k", "1").await;
    let second = world.put("k", "2").await;
    world.kv.compact(CompactionRequest { revision: second, physical: true }).await.unwrap();
    let past = RangeRequest { key: bytes("k"), revision: first, ..Default::default() };
    assert_eq!(world.range(past.clone()).await.unwrap_err().code(), Code::OutOfRange);
    assert!(world.range(RangeRequest { revision: second, ..past }).await.is_ok());
}
