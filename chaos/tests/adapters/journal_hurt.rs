//! The journal beneath is hurt, and every write still happens once.

use std::time::Duration;

use proto::etcd::RangeRequest;
use tokio::time::Instant;

use crate::support::{Front, PATIENCE};

/// Writers of one key each: a key's version counts how often it was written.
struct Writers(tokio::task::JoinSet<(String, i64, i64, Duration)>);

impl Writers {
    fn start(front: &Front, count: usize, until: Instant) -> Writers {
        let mut writers = tokio::task::JoinSet::new();
        for number in 0..count {
            let mut client = front.client(number % front.adapters.len());
            writers.spawn(async move {
                let key = format!("once/{number}");
                let (mut acknowledged, mut failed, mut longest) = (0, 0, Duration::ZERO);
                while Instant::now() < until {
                    let begun = Instant::now();
                    match client.put(&key, acknowledged.to_string()).await {
                        Ok(_) => acknowledged += 1,
                        Err(status) => {
                            println!("    {key}: {status}");
                            failed += 1;
                        }
                    }
                    longest = longest.max(begun.elapsed());
                }
                (key, acknowledged, failed, longest)
            });
        }
        Writers(writers)
    }

    /// Every acknowledged write happened once, and no other did, save those whose end nobody knows.
    async fn check(mut self, front: &Front) -> (i64, Duration) {
        let (mut all, mut longest) = (0, Duration::ZERO);
        while let Some(ended) = self.0.join_next().await {
            let (key, acknowledged, failed, took) = ended.unwrap();
            longest = longest.max(took);
            all += acknowledged;
            for number in 0..front.adapters.len() {
                let request = RangeRequest { key: key.clone().into(), ..Default::default() };
                let response = front.client(number).kv.range(request).await.unwrap().into_inner();
                let version = response.kvs.first().map_or(0, |kv| kv.version);
                assert!(
                    (acknowledged..=acknowledged + failed).contains(&version),
                    "{key} was written {version} times: {acknowledged} were acknowledged, {failed} failed"
                );
            }
        }
        (all, longest)
    }
}

#[tokio::test]
async fn the_death_of_the_journals_leader_fails_no_write_and_repeats_none() {
    let front = Front::on_a_journal(2).await;
    let cluster = front.cluster.as_ref().unwrap();
    let journal = cluster.client().unwrap().journal(&"kubernetes".parse().unwrap()).await.unwrap().id();
    let writers = Writers::start(&front, 8, Instant::now() + Duration::from_secs(12));
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let leader = cluster.leader_of(journal).await.unwrap();
        cluster.node(leader).kill9();
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster.node(leader).start().unwrap();
        cluster.wait_ready().await.unwrap();
    }
    let (written, longest) = writers.check(&front).await;
    println!("    {written} writes, the longest took {longest:?}");
    assert!(written > 500, "hardly anything was written: {written}");
    assert!(longest < Duration::from_secs(5), "writes stood still for {longest:?}");
    front.stop().await;
}

#[tokio::test]
async fn an_outage_of_the_journal_ends_with_everything_as_it_was_told() {
    let front = Front::on_a_journal(1).await;
    let cluster = front.cluster.as_ref().unwrap();
    let writers = Writers::start(&front, 4, Instant::now() + Duration::from_secs(22));
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Longer than a request waits: what is under way must be given up, and said so.
    cluster.node(0).kill9();
    cluster.node(1).kill9();
    tokio::time::sleep(Duration::from_secs(10)).await;
    cluster.node(0).start().unwrap();
    cluster.node(1).start().unwrap();
    cluster.wait_ready().await.unwrap();
    front.adapters[0].wait_ready(PATIENCE).await.unwrap();
    let (written, longest) = writers.check(&front).await;
    println!("    {written} writes, the longest took {longest:?}");
    assert!(longest < Duration::from_secs(9), "a request waited for {longest:?}");
    front.stop().await;
}
