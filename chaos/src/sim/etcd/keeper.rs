//! Keepers: each has one lease and keeps it alive, for as long as it takes, at any adapter that answers.
//! Whatever is done to the journal, none of these may ever end.

use std::time::Duration;

use rand::Rng;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::client::{Client, key};
use super::ledger::Told;

/// Its lease: longer than it takes to ask every adapter once, or twice.
const TTL: i64 = 15;
/// Then it asks somebody else.
const PATIENCE: Duration = Duration::from_millis(1500);
const EVERY: Duration = Duration::from_millis(800);
/// Keys of keepers.
const FIRST_KEY: u64 = 900;

pub async fn keep(client: Client, number: u64, stop: CancellationToken) {
    keep_at(client, number, TTL, EVERY, stop).await;
}

/// The same with a short lease, by one who never rests: he has no time to lose.
pub async fn keep_eagerly(client: Client, number: u64, ttl: i64, stop: CancellationToken) {
    keep_at(client, number, ttl, EVERY / 8, stop).await;
}

async fn keep_at(mut client: Client, number: u64, ttl: i64, every: Duration, stop: CancellationToken) {
    let lease = loop {
        if stop.is_cancelled() {
            return;
        }
        if let Some(lease) = client.grant(ttl).await {
            break lease;
        }
        sleep(PATIENCE).await;
    };
    client.ledger.is_kept(lease);
    client.put(key(FIRST_KEY + number), lease).await;
    while !stop.is_cancelled() {
        sleep(every.mul_f64(client.rng.random_range(0.2..1.0))).await;
        let way = client.rng.random_range(0..client.ways.len());
        client.take(way);
        for turn in 0..client.ways.len() {
            match timeout(PATIENCE, client.keep_alive(lease)).await {
                Ok(Told::KeptAlive { ttl: 0, .. }) => {
                    client.ledger.broken(format!("lease {lease} ended, and was kept alive all the time"));
                    return;
                }
                Ok(Told::KeptAlive { .. }) => break,
                _ => client.take((way + turn + 1) % client.ways.len()),
            }
        }
    }
}
