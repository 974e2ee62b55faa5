//! Who shows no papers, or papers that nobody signed.

use std::time::Duration;

use chaos::cluster::{Cluster, Options};
use journal_client::{Error, Settings};

use crate::support::append;

#[tokio::test]
async fn certificates_decide_who_gets_in() {
    let cluster = Cluster::start(Options { tls: true, ..Options::default() }).await.unwrap();
    let journal = cluster.journal("guarded").await.unwrap();
    append(&journal, "with the right papers").await.unwrap();

    let hasty = || Settings { patience: Duration::from_secs(1), ..Settings::default() };
    let forged = cluster.forged_papers("operator").unwrap();
    let nameless = {
        let mut papers = forged.clone();
        papers.cert = papers.cert.with_extension("absent");
        papers
    };
    for (papers, who) in [(Some(forged), "a forger"), (Some(nameless), "somebody without a certificate")] {
        let client = cluster.client_showing(papers, hasty()).unwrap();
        let refused = client.admin().list().await;
        assert!(matches!(refused, Err(Error::Unavailable(_))), "{who} got {refused:?}");
    }
    let plain = cluster.client_showing(None, hasty()).unwrap();
    let refused = plain.admin().list().await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "plaintext got {refused:?}");

    append(&journal, "still at work").await.unwrap();
}

#[tokio::test]
async fn a_node_with_forged_papers_gets_no_vote_and_no_entries() {
    let cluster = Cluster::start(Options { tls: true, spares: 1, ..Options::default() }).await.unwrap();
    let journal = cluster.journal("guarded").await.unwrap();
    let forged = cluster.forged_papers("n4").unwrap();
    let intruder = cluster.node(3);
    intruder
        .set_flags([format!("--tls-cert={}", forged.cert.display()), format!("--tls-key={}", forged.key.display())]);
    intruder.start().unwrap();
    let change = journal_client::Change::AddLearner { address: intruder.endpoint().to_string() };
    let admitted = cluster.client().unwrap().admin().change_members(change).await;
    assert!(admitted.is_err(), "the cluster let it in: {admitted:?}");
    assert!(intruder.ready().await.is_err());
    append(&journal, "still at work").await.unwrap();
}
