//! An adapter before a journal that asks everybody for certificates.

use std::time::Duration;

use chaos::cluster::{Cluster, Options};

use crate::support::Front;

fn flags(cluster: &Cluster) -> Vec<String> {
    let papers = cluster.papers("operator").unwrap();
    [("ca", papers.ca), ("cert", papers.cert), ("key", papers.key)]
        .map(|(what, file)| format!("--journal-{what}-file={}", file.display()))
        .into()
}

#[tokio::test]
async fn an_adapter_shows_its_papers_to_the_journal_and_follows_when_they_are_renewed() {
    let front = Front::on(Options { tls: true, ..Options::default() }, 1, flags).await;
    let cluster = front.cluster.as_ref().unwrap();
    let mut client = front.client(0);
    client.put("papers", "old").await.unwrap();

    let renewal = cluster.renew_papers().unwrap();
    renewal.trust_both().unwrap();
    renewal.sign_all().unwrap();
    renewal.trust_new_only().unwrap();
    // Each node's connections end with it, and it is met again with what the files say by then.
    for node in cluster.nodes() {
        node.kill9();
        node.start().unwrap();
        cluster.wait_ready().await.unwrap();
        client.put("papers", "new").await.unwrap();
    }
    assert_eq!(&client.get("papers").await.unwrap().unwrap().0[..], b"new");
    front.stop().await;
}

#[tokio::test]
async fn an_adapter_without_papers_is_let_nowhere_and_says_so() {
    let front = Front::on(Options { tls: true, ..Options::default() }, 1, flags).await;
    let mut knows_whom_to_trust = flags(front.cluster.as_ref().unwrap());
    knows_whom_to_trust.retain(|flag| flag.starts_with("--journal-ca-file"));
    for (has, is_told) in
        [(Vec::new(), "without TLS (--journal-ca-file)"), (knows_whom_to_trust, "CertificateRequired")]
    {
        let stranger = front.another(has);
        let refused = stranger.wait_ready(Duration::from_secs(5)).await;
        assert!(refused.is_err(), "it became ready");
        let log = std::fs::read_to_string(stranger.log()).unwrap();
        assert!(log.contains("waiting for the journal") && log.contains(is_told), "{log}");
        stranger.kill9();
    }
    front.stop().await;
}
