//! Upkeep that nobody waits for: automatic compaction by the one that leads, defragmentation that is
//! none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_adapter::adapter::Adapter;
use etcd_adapter::config::Config;
use journal_client::MemoryJournal;
use proto::etcd::kv_client::KvClient;
use proto::etcd::maintenance_client::MaintenanceClient;
use proto::etcd::{DefragmentRequest, HashKvRequest, MoveLeaderRequest, PutRequest, StatusRequest};
use tonic::transport::{Channel, Endpoint};

use crate::world::{World, bytes};

async fn start(journal: &MemoryJournal, name: &str, flags: &[&str]) -> (Adapter, Channel) {
    let listen = "http://127.0.0.1:0";
    let args = ["etcd-adapter", "--ephemeral", "--name", name, "--listen-client-urls", listen];
    let args = args.into_iter().chain(["--advertise-client-urls", listen]).chain(flags.iter().copied());
    let config = Config::load(args, BTreeMap::new()).unwrap();
    let adapter = Adapter::start_on(config, Some(Arc::new(journal.clone()))).await.unwrap();
    let channel = Endpoint::from_shared(format!("http://{}", adapter.addresses[0])).unwrap().connect_lazy();
    (adapter, channel)
}

async fn compact_revision(channel: &Channel) -> i64 {
    let request = HashKvRequest { revision: 0 };
    MaintenanceClient::new(channel.clone()).hash_kv(request).await.unwrap().into_inner().compact_revision
}

#[tokio::test]
async fn kv_c5_only_the_adapter_that_leads_compacts_by_itself() {
    let journal = MemoryJournal::new("upkeep");
    let (_one, first) = start(&journal, "leads", &[]).await;
    let (_other, second) = start(&journal, "compacts", &["--auto-compaction-retention=1s"]).await;
    for _ in 0..10 {
        KvClient::new(first.clone()).put(PutRequest { key: bytes("k"), ..Default::default() }).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(compact_revision(&first).await <= 0, "one that does not lead has compacted");

    let status = MaintenanceClient::new(second.clone()).status(StatusRequest {}).await.unwrap().into_inner();
    let target_id = status.header.unwrap().member_id;
    MaintenanceClient::new(first.clone()).move_leader(MoveLeaderRequest { target_id }).await.unwrap();
    for _ in 0..80 {
        if compact_revision(&first).await == 11 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it was compacted to {}", compact_revision(&first).await);
}

#[tokio::test]
async fn mt_7_defragmentation_answers_at_once_and_holds_up_nothing() {
    let mut world = World::new().await;
    for number in 0..200 {
        world.put(&format!("k/{number}"), "v").await;
    }
    world.compact(100).await;
    let mut maintenance = MaintenanceClient::new(world.channel.clone());
    let defragmented = tokio::time::timeout(Duration::from_secs(1), maintenance.defragment(DefragmentRequest {}));
    let (defragmented, revision) = tokio::join!(defragmented, world.put("meanwhile", "v"));
    assert!(defragmented.unwrap().unwrap().into_inner().header.is_none());
    assert_eq!(revision, 202);
}
