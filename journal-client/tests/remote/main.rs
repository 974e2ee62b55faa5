//! The remote journal against scripted nodes: what it does on the bad days.

#![allow(clippy::unwrap_used)]

mod appending;
mod asking;
mod counting;
mod moving;
mod reading;
mod world;

use std::sync::Arc;

use journal_client::{Journal, conformance};

#[tokio::test]
async fn it_keeps_the_contract() {
    let count = conformance::run_all(|| async { Arc::new(world::World::new(3).journal()) as Arc<dyn Journal> }).await;
    println!("{count} clauses");
}
