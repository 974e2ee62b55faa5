//! Where writes end: the quota, the room that the store has left, the room that the journal has left.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use etcd_adapter::adapter::Adapter;
use etcd_adapter::config::Config;
use etcd_adapter::room::Space;
use journal_client::{Fate, MemoryJournal, Reason};
use proto::etcd::kv_client::KvClient;
use proto::etcd::maintenance_client::MaintenanceClient;
use proto::etcd::{AlarmRequest, CompactionRequest, DeleteRangeRequest, PutRequest};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::hurt::Way;
use crate::world::bytes;

const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

/// Of 1,000,000 bytes, those that a file beside the store says are free.
fn said(dir: &Path) -> io::Result<Space> {
    let free = std::fs::read_to_string(dir.join("free"))?.trim().parse().map_err(io::Error::other)?;
    Ok(Space { total: 1_000_000, free })
}

struct Replica {
    dir: tempfile::TempDir,
    config: Config,
    adapter: Adapter,
}

impl Replica {
    async fn start(journal: &MemoryJournal, name: &str, flags: &[&str]) -> Replica {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("free"), "900000").unwrap();
        let data = dir.path().display().to_string();
        let listen = "http://127.0.0.1:0";
        let args = ["etcd-adapter", "--journal-endpoints=127.0.0.1:1", "--data-dir", &data, "--name", name];
        let args = args.into_iter().chain(["--listen-client-urls", listen, "--advertise-client-urls", listen]);
        let config = Config::load(args.chain(flags.iter().copied()), BTreeMap::new()).unwrap();
        let config = Config { space: said, ..config };
        let adapter = Adapter::start_on(config.clone(), Some(Arc::new(Way::to(journal)))).await.unwrap();
        Replica { dir, config, adapter }
    }

    fn leaves(&self, free: u64) {
        std::fs::write(self.dir.path().join("free"), free.to_string()).unwrap();
    }

    fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.adapter.addresses[0])).unwrap().connect_lazy()
    }

    async fn put(&self, key: &str, value: &str) -> Result<i64, Status> {
        let put = PutRequest { key: bytes(key), value: bytes(value), ..Default::default() };
        Ok(KvClient::new(self.channel()).put(put).await?.into_inner().header.unwrap().revision)
    }

    /// Deletes and compacts, which must always work.
    async fn make_room(&self, key: &str) {
        let delete = DeleteRangeRequest { key: bytes(key), ..Default::default() };
        let deleted = KvClient::new(self.channel()).delete_range(delete).await.unwrap().into_inner();
        let revision = deleted.header.unwrap().revision;
        KvClient::new(self.channel()).compact(CompactionRequest { revision, physical: true }).await.unwrap();
    }

    async fn alarms(&self) -> usize {
        let request = AlarmRequest::default();
        MaintenanceClient::new(self.channel()).alarm(request).await.unwrap().into_inner().alarms.len()
    }

    async fn disarm(&self) {
        let list = MaintenanceClient::new(self.channel()).alarm(AlarmRequest::default()).await.unwrap().into_inner();
        for alarm in list.alarms {
            let request = AlarmRequest { action: 2, member_id: alarm.member_id, alarm: alarm.alarm };
            MaintenanceClient::new(self.channel()).alarm(request).await.unwrap();
        }
    }

    async fn until_puts_are(&self, refused: bool) {
        for _ in 0..60 {
            if self.put("probe", "").await.is_err() == refused {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("puts are never refused: {refused}");
    }
}

#[tokio::test]
async fn an_adapter_that_runs_short_of_room_ends_writes_everywhere_while_room_is_still_made() {
    let journal = MemoryJournal::new("space");
    let one = Replica::start(&journal, "one", &[]).await;
    let two = Replica::start(&journal, "two", &[]).await;
    one.put("a", "v").await.unwrap();
    one.leaves(140_000);
    two.until_puts_are(true).await;
    for replica in [&one, &two] {
        assert_eq!(replica.put("b", "").await.unwrap_err().message(), NO_SPACE);
    }
    assert_eq!(two.alarms().await, 1);
    two.make_room("a").await;

    // There is room again, and as in etcd only a person ends the alarm.
    one.leaves(900_000);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(one.put("b", "").await.unwrap_err().message(), NO_SPACE);
    one.disarm().await;
    one.until_puts_are(false).await;
    two.put("b", "").await.unwrap();
}

#[tokio::test]
async fn an_alarm_that_is_disarmed_while_there_is_no_room_is_raised_again() {
    let journal = MemoryJournal::new("space");
    let one = Replica::start(&journal, "one", &[]).await;
    one.leaves(140_000);
    one.until_puts_are(true).await;
    one.disarm().await;
    assert_eq!(one.put("b", "").await.unwrap_err().message(), NO_SPACE);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(one.alarms().await, 1);
}

#[tokio::test]
async fn a_full_store_is_opened_again_without_its_ballast() {
    let journal = MemoryJournal::new("space");
    let one = Replica::start(&journal, "one", &[]).await;
    one.put("a", "v").await.unwrap();
    let ballast = one.dir.path().join("ballast");
    for _ in 0..50 {
        if ballast.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(std::fs::metadata(&ballast).unwrap().len(), 50_000);
    one.leaves(0);
    let Replica { dir, config, adapter } = one;
    adapter.shutdown().await;
    let adapter = Adapter::start_on(config.clone(), Some(Arc::new(Way::to(&journal)))).await.unwrap();
    let one = Replica { dir, config, adapter };
    assert!(!ballast.exists());
    one.make_room("a").await;
    one.until_puts_are(true).await;
}

#[tokio::test]
async fn the_quota_counts_logical_bytes_and_compaction_gives_them_back() {
    let journal = MemoryJournal::new("space");
    let flags = ["--quota-backend-bytes=20000", "--auto-disarm"];
    let one = Replica::start(&journal, "one", &flags).await;
    let value = "v".repeat(1000);
    let mut refused = None;
    for _ in 0..40 {
        if let Err(status) = one.put("k", &value).await {
            refused = Some(status);
            break;
        }
    }
    assert_eq!(refused.expect("the quota ends it").message(), NO_SPACE);
    one.make_room("k").await;
    // Ten seconds later those who were reading have read, and the versions go.
    for _ in 0..200 {
        if one.put("k", "small").await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the alarm never ended");
}

#[tokio::test]
async fn a_journal_without_room_refuses_what_was_not_sent_and_leaves_nothing_half_done() {
    let journal = MemoryJournal::new("space");
    let one = Replica::start(&journal, "one", &[]).await;
    one.put("a", "v").await.unwrap();
    journal.next(Fate::Rejected(Reason::NoRoom));
    let mut writers = Vec::new();
    for number in 0..20 {
        let channel = one.channel();
        let key = format!("k/{number}");
        writers.push(tokio::spawn(async move {
            let put = PutRequest { key: bytes(&key), ..Default::default() };
            (key, KvClient::new(channel).put(put).await)
        }));
    }
    for writer in writers {
        let (key, told) = writer.await.unwrap();
        let request = proto::etcd::RangeRequest { key: bytes(&key), ..Default::default() };
        let there = KvClient::new(one.channel()).range(request).await.unwrap().into_inner().count;
        match told {
            Ok(_) => assert_eq!(there, 1, "{key}"),
            Err(status) => assert_eq!((status.message(), there), (NO_SPACE, 0), "{key}"),
        }
    }
}
