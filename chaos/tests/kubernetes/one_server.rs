//! One API server on one adapter.

use chaos::kubernetes::Upkeep;

use crate::support::Stack;

#[tokio::test]
#[ignore = "make test-kubernetes"]
async fn an_api_server_finds_everything_in_an_adapter_that_it_looks_for_in_etcd() {
    let stack = Stack::start(1).await;
    let server = stack.plane.api_server(0, &stack.storage(0), &Upkeep::default()).unwrap();
    let ready = stack.plane.ready(&server).await.unwrap();
    println!("ready after {:.2} s", ready.as_secs_f64());
    stack.drive(&[&server], "smoke", &[]).await;
    stack.drive(&[&server], "compacted", &[]).await;
    // From here on nothing may differ, after all of the above.
    stack.drive(&[&server], "caches", &[]).await;
    stack.stop(vec![server]).await;
}
