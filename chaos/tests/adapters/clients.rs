//! etcd's own Go client, and what is built on it: mutexes, elections, transactional memory, ordering,
//! namespaces, leasing, mirrors.

use std::path::Path;
use std::process::Command;

use crate::support::Front;

#[tokio::test]
async fn what_is_built_on_etcds_client_works_on_an_adapter_that_keeps_everything_in_itself() {
    try_all(Front::ephemeral().await).await;
}

#[tokio::test]
async fn what_is_built_on_etcds_client_works_through_three_real_journal_nodes() {
    try_all(Front::on_a_journal(1).await).await;
}

async fn try_all(front: Front) {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let Some(program) = chaos::etcd::clients(repository).unwrap() else {
        chaos::skipped("there is no Go client");
        return;
    };
    let endpoints: Vec<_> = front.adapters.iter().map(|adapter| adapter.endpoint().to_string()).collect();
    let mut command = Command::new(program);
    command.args(["--endpoints", &endpoints.join(",")]);
    let status = tokio::task::spawn_blocking(move || command.status()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    front.stop().await;
}
