//! Two adapters on one journal: whatever one has acknowledged, the other shows.

use std::time::Duration;

use bytes::Bytes;
use proto::etcd::compare::{CompareTarget, TargetUnion};
use proto::etcd::request_op::Request;
use proto::etcd::{Compare, PutRequest, RequestOp, TxnRequest};
use tokio::time::Instant;

use crate::support::{Client, Front};

const LASTS: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_linearizable_read_is_never_stale_whichever_adapter_wrote() {
    let front = Front::on_a_journal(2).await;
    let until = Instant::now() + LASTS;
    let mut readers = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (mut one, mut other) = (front.client(number % 2), front.client((number + 1) % 2));
        readers.spawn(async move {
            let key = format!("register/{number}");
            let mut count = 0;
            while Instant::now() < until {
                let value = count.to_string();
                let revision = one.put(&key, value.clone()).await.unwrap();
                let (found, mod_revision) = other.get(&key).await.unwrap().expect("it was just acknowledged");
                assert_eq!((found, mod_revision), (Bytes::from(value), revision));
                std::mem::swap(&mut one, &mut other);
                count += 1;
            }
            count
        });
    }
    let mut rounds = 0;
    while let Some(count) = readers.join_next().await {
        rounds += count.unwrap();
    }
    println!("    {rounds} writes were read back at the other adapter");
    assert!(rounds > 200, "hardly anything happened: {rounds}");
    front.stop().await;
}

#[tokio::test]
async fn counting_by_comparison_counts_every_success_once() {
    let front = Front::on_a_journal(2).await;
    let until = Instant::now() + LASTS;
    front.client(0).put("counter", "0").await.unwrap();
    let mut counters = tokio::task::JoinSet::new();
    for number in 0..8 {
        let mut client = front.client(number % 2);
        counters.spawn(async move {
            let mut succeeded = 0u64;
            while Instant::now() < until {
                succeeded += u64::from(increment(&mut client).await);
            }
            succeeded
        });
    }
    let mut succeeded = 0;
    while let Some(count) = counters.join_next().await {
        succeeded += count.unwrap();
    }
    for number in 0..2 {
        let (value, _) = front.client(number).get("counter").await.unwrap().unwrap();
        assert_eq!(std::str::from_utf8(&value).unwrap(), succeeded.to_string());
    }
    assert!(succeeded > 50, "hardly anything happened: {succeeded}");
    println!("    {succeeded} increments");
    front.stop().await;
}

/// Reads, and writes one more if nobody did in between.
async fn increment(client: &mut Client) -> bool {
    let (value, mod_revision) = client.get("counter").await.unwrap().unwrap();
    let value: u64 = std::str::from_utf8(&value).unwrap().parse().unwrap();
    let key = Bytes::from("counter");
    let put = PutRequest { key: key.clone(), value: (value + 1).to_string().into(), ..Default::default() };
    let unchanged = Compare {
        target: CompareTarget::Mod.into(),
        key,
        target_union: Some(TargetUnion::ModRevision(mod_revision)),
        ..Default::default()
    };
    let success = vec![RequestOp { request: Some(Request::RequestPut(put)) }];
    let txn = TxnRequest { compare: vec![unchanged], success, failure: Vec::new() };
    client.kv.txn(txn).await.unwrap().into_inner().succeeded
}
