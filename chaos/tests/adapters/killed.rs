//! An adapter is killed in the middle of writes, and starts again.

use std::time::Duration;

use crate::support::{Front, PATIENCE};

#[tokio::test]
async fn an_adapter_that_is_killed_and_started_again_has_lost_nothing() {
    let front = Front::on_a_journal(1).await;
    for round in 0..3 {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..8 {
            let mut client = front.client(0);
            writers.spawn(async move {
                let mut last = None;
                for number in 0.. {
                    let key = format!("killed/{round}/{writer}");
                    match client.put(&key, number.to_string()).await {
                        Ok(revision) => last = Some((key, number, revision)),
                        Err(_) => break,
                    }
                }
                last
            });
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
        front.adapters[0].kill9();
        let mut acknowledged = Vec::new();
        while let Some(last) = writers.join_next().await {
            acknowledged.push(last.unwrap().expect("each writer wrote something"));
        }
        front.adapters[0].start().unwrap();
        front.adapters[0].wait_ready(PATIENCE).await.unwrap();
        let mut client = front.client(0);
        for (key, number, revision) in acknowledged {
            let (value, mod_revision) = client.get(&key).await.unwrap().expect("an acknowledged key is there");
            let found: i64 = std::str::from_utf8(&value).unwrap().parse().unwrap();
            // The one after it was under way.
            assert!(found == number || found == number + 1, "{key}: {number} was acknowledged, {found} is there");
            assert!(mod_revision >= revision, "{key}: revision {revision} became {mod_revision}");
        }
    }
    front.stop().await;
}
