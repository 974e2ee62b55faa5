//! A scheduler and a controller manager at work, on nodes that are played.

use chaos::kubernetes::Upkeep;

use crate::support::{PATIENCE, Stack};

#[tokio::test]
#[ignore = "make test-kubernetes"]
async fn pods_are_scheduled_scaled_rolled_and_collected() {
    let stack = Stack::start(1).await;
    let server = stack.plane.api_server(0, &stack.storage(0), &Upkeep::default()).unwrap();
    stack.plane.ready(&server).await.unwrap();
    let nodes = stack.plane.driver(&[&server], "nodes", &["--count=6", "--within=20m"]).unwrap();
    nodes.wait_for("6 nodes", PATIENCE).await.unwrap();
    let scheduler = stack.plane.scheduler(&server).unwrap();
    let manager = stack.plane.controller_manager(&server).unwrap();
    match stack.plane.drive(&[&server], "workload", &["--within=10m"]).await {
        Ok(said) => print!("{said}"),
        Err(error) => stack.explain(&[&server, &scheduler, &manager], error),
    }
    stack.drive(&[&server], "caches", &[]).await;
    drop(nodes);
    stack.stop(vec![server, scheduler, manager]).await;
}
