//! An adapter whose state is not what the journal says: it is found, and begins anew, and nothing else
//! breaks meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_adapter::adapter::Adapter;
use etcd_adapter::config::Config;
use journal_client::MemoryJournal;
use proto::etcd::kv_client::KvClient;
use proto::etcd::{PutRequest, RangeRequest};
use tonic::transport::{Channel, Endpoint};

use crate::hurt::Way;
use crate::transport::ask_http1;
use crate::world::bytes;

/// An adapter with a store on disk, as in production; only the journal is within this process.
struct Replica {
    config: Config,
    way: Way,
    adapter: Adapter,
    _dir: tempfile::TempDir,
}

impl Replica {
    async fn start(journal: &MemoryJournal, name: &str) -> Replica {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().display().to_string();
        let listen = "http://127.0.0.1:0";
        let args = ["etcd-adapter", "--journal-endpoints=127.0.0.1:1", "--data-dir", &data, "--name", name];
        let args = args.into_iter().chain(["--listen-client-urls", listen, "--advertise-client-urls", listen]);
        let config = Config::load(args, BTreeMap::new()).unwrap();
        let way = Way::to(journal);
        let adapter = Adapter::start_on(config.clone(), Some(Arc::new(way.clone()))).await.unwrap();
        Replica { config, way, adapter, _dir: dir }
    }

    fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.adapter.addresses[0])).unwrap().connect_lazy()
    }

    async fn put(&self, key: &str, value: &str) {
        let put = PutRequest { key: bytes(key), value: bytes(value), ..Default::default() };
        KvClient::new(self.channel()).put(put).await.unwrap();
    }

    async fn get(&self, key: &str) -> String {
        let request = RangeRequest { key: bytes(key), ..Default::default() };
        let kvs = KvClient::new(self.channel()).range(request).await.unwrap().into_inner().kvs;
        String::from_utf8(kvs[0].value.to_vec()).unwrap()
    }

    async fn page(&self, path: &str) -> String {
        ask_http1(&self.adapter.addresses[0], path).await
    }

    async fn is_ready(&self) -> bool {
        self.page("/readyz").await.starts_with("HTTP/1.1 200")
    }

    /// Waits until it fails, does what the process does then, and starts it again.
    async fn begin_anew(mut self) -> Replica {
        let failed = tokio::time::timeout(Duration::from_secs(10), self.adapter.failed()).await;
        let error = failed.expect("it is found out");
        assert!(error.to_string().contains("other adapters have another state at "), "{error}");
        self.adapter.give_way(&self.config, error).await.unwrap();
        let journal = Arc::new(self.way.clone());
        let adapter = Adapter::start_on(self.config.clone(), Some(journal)).await.unwrap();
        Replica { adapter, ..self }
    }
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    for _ in 0..100 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it never came to this: {what}");
}

#[tokio::test]
async fn one_of_three_that_misheard_an_entry_is_replayed_and_agrees_again() {
    let journal = MemoryJournal::new("divergence");
    let one = Replica::start(&journal, "one").await;
    let two = Replica::start(&journal, "two").await;
    let three = Replica::start(&journal, "three").await;
    one.put("before", "v").await;
    // A beat a second: by then they have compared themselves.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    three.way.mishear_a_put();
    one.put("k", "said").await;
    assert_eq!(three.get("k").await, "misheard", "it did not really diverge");
    let shows = async |replica: &Replica| replica.page("/metrics").await.contains("adapter_disagrees 1\n");
    until("the others show it", async || shows(&one).await && shows(&two).await).await;
    // They are two, and serve on.
    assert!(one.is_ready().await && two.is_ready().await);

    // Those who are right go on, and what is written meanwhile counts.
    let (three, ()) = tokio::join!(three.begin_anew(), async {
        one.put("meanwhile", "v").await;
        assert_eq!(two.get("meanwhile").await, "v");
    });
    assert_eq!(three.get("k").await, "said");
    assert_eq!(three.get("meanwhile").await, "v");
    until("all are ready", async || one.is_ready().await && two.is_ready().await && three.is_ready().await).await;
    for replica in [&one, &two, &three] {
        assert!(replica.page("/metrics").await.contains("adapter_disagrees 0\n"));
    }
}

#[tokio::test]
async fn one_against_one_the_older_is_replayed_first_and_then_the_one_that_is_wrong() {
    let journal = MemoryJournal::new("divergence");
    let right = Replica::start(&journal, "right").await;
    let wrong = Replica::start(&journal, "wrong").await;
    wrong.way.mishear_a_put();
    right.put("k", "said").await;
    assert_eq!(wrong.get("k").await, "misheard");
    // Nobody can tell who is right. The older one has nothing to lose but time.
    let right = right.begin_anew().await;
    assert_eq!(right.get("k").await, "said");
    let wrong = wrong.begin_anew().await;
    assert_eq!(wrong.get("k").await, "said");
    until("both are ready", async || right.is_ready().await && wrong.is_ready().await).await;
}
