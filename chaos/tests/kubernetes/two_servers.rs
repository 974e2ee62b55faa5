//! Two API servers, each on an adapter of its own, over one journal.

use std::time::Duration;

use chaos::cluster::Adapter;
use chaos::kubernetes::Upkeep;
use tokio::time::{Instant, sleep};

use crate::support::{PATIENCE, Stack};

#[tokio::test]
#[ignore = "make test-kubernetes"]
async fn two_api_servers_lose_nothing_when_adapters_are_killed_beneath_them() {
    let stack = Stack::start(2).await;
    let first = stack.plane.api_server(0, &stack.storage(0), &Upkeep::default()).unwrap();
    stack.plane.ready(&first).await.unwrap();
    let second = stack.plane.api_server(1, &stack.storage(1), &Upkeep::default()).unwrap();
    stack.plane.ready(&second).await.unwrap();
    let both = [&first, &second];

    let load = stack.plane.driver(&both, "load", &["--for=40s", "--within=4m"]).unwrap();
    load.wait_for("loading", PATIENCE).await.unwrap();
    sleep(Duration::from_secs(6)).await;
    kill_and_restart(&stack.adapters[0], Duration::from_secs(2)).await;
    sleep(Duration::from_secs(6)).await;
    kill_and_restart(&stack.adapters[1], Duration::ZERO).await;
    sleep(Duration::from_secs(4)).await;
    // An empty directory is where an adapter may begin at any time.
    stack.adapters[0].kill9();
    std::fs::remove_dir_all(stack.adapters[0].dir()).unwrap();
    kill_and_restart(&stack.adapters[0], Duration::ZERO).await;
    match load.finish().await {
        Ok(said) => print!("{said}"),
        Err(error) => stack.explain(&both, error),
    }
    stack.drive(&both, "caches", &[]).await;
    stack.drive(&both, "smoke", &["--only=watch"]).await;
    stack.stop(vec![first, second]).await;
}

async fn kill_and_restart(adapter: &Adapter, absent: Duration) {
    adapter.kill9();
    sleep(absent).await;
    let begun = Instant::now();
    adapter.start().unwrap();
    adapter.wait_ready(PATIENCE).await.unwrap();
    println!("{} was killed, and ready again {:.2} s after its start", adapter.name(), begun.elapsed().as_secs_f64());
}
