//! The contract of a journal, clause by clause, held by three real nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chaos::cluster::{Cluster, Options};
use journal_client::{Journal, conformance};

/// Each clause has a journal of its own, on every node.
const FLAGS: [&str; 2] = ["--segment-size=4MiB", "--entry-max=2MiB"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_every_clause_of_the_contract() {
    let flags = FLAGS.map(str::to_owned).to_vec();
    let cluster = Cluster::start(Options { flags, ..Options::default() }).await.unwrap();
    let made = AtomicUsize::new(0);
    let fresh = || {
        let name = format!("clause-{}", made.fetch_add(1, Ordering::Relaxed));
        let cluster = &cluster;
        async move { Arc::new(cluster.journal(&name).await.unwrap()) as Arc<dyn Journal> }
    };
    let clauses = conformance::run_all(fresh).await;
    println!("    {clauses} clauses");
}
