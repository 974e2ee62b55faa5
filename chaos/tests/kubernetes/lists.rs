//! How long a list takes that must show what was just written.

use std::time::Duration;

use chaos::etcd::{self, Etcd};
use chaos::kubernetes::{Storage, Upkeep};

use crate::support::{Stack, plane, repository};

/// What is measured is not to share its processors with checks.
fn quiet() -> Upkeep {
    Upkeep { compaction: Duration::from_secs(300), comparison: Duration::from_secs(300) }
}

#[tokio::test]
#[ignore = "make test-kubernetes"]
async fn a_consistent_list_right_after_a_write_waits_for_no_tick() {
    let stack = Stack::start(1).await;
    let server = stack.plane.api_server(0, &stack.storage(0), &quiet()).unwrap();
    stack.plane.ready(&server).await.unwrap();
    println!("an adapter on three journal nodes:");
    // The API server asks for progress each 100 ms, and an adapter need not wait to be asked.
    stack.drive(&[&server], "lists", &["--p99=50ms"]).await;
    stack.stop(vec![server]).await;
}

/// Asserts nothing of us: it is what the number above is to be read beside.
#[tokio::test]
#[ignore = "make test-kubernetes"]
async fn the_same_on_etcd_for_comparison() {
    let program = etcd::program(repository()).unwrap().expect("where Kubernetes is built, etcd can be");
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&program, dir.path()).await.unwrap();
    let plane = plane();
    let storage =
        Storage { endpoints: etcd.endpoints().split(',').map(|at| format!("http://{at}")).collect(), papers: None };
    let server = plane.api_server(0, &storage, &quiet()).unwrap();
    let ready = plane.ready(&server).await.unwrap();
    println!("three members of etcd: ready after {:.2} s", ready.as_secs_f64());
    print!("{}", plane.drive(&[&server], "lists", &["--count=100"]).await.unwrap());
    server.stop(Duration::from_secs(20)).await;
    etcd.stop().await;
}
