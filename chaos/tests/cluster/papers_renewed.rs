//! Certificates that are replaced while everybody works: first the authorities, then the certificates,
//! then the old authority goes. No process is restarted, and no appender notices.

use std::time::Duration;

use chaos::cluster::{Cluster, Options, Page};
use chaos::history::Outcome;
use chaos::traffic::Load;
use journal_client::{Error, Settings};
use tokio::time::sleep;

use crate::support::{Story, append, eventually};

#[tokio::test]
async fn an_authority_is_replaced_beneath_a_cluster_at_work() {
    let load = Load { appenders: 4, streamers: 1, ..Load::default() };
    let mut story = Story::begin_under(Options { tls: true, links: true, ..Options::default() }, load).await;
    let pids: Vec<_> = story.cluster.nodes().iter().map(|node| node.pid()).collect();
    let expiry = expiry_of(&story.cluster).await;
    let hasty = || Settings { patience: Duration::from_secs(1), ..Settings::default() };

    let renewal = story.cluster.renew_papers().unwrap();
    renewal.trust_both().unwrap();
    // Papers of both authorities are good now.
    let old = story.cluster.client_showing(Some(renewal.outdated()), hasty()).unwrap();
    old.admin().list().await.unwrap();
    renewal.sign_all().unwrap();
    let new = story.cluster.client().unwrap();
    new.admin().list().await.unwrap();
    let old = story.cluster.client_showing(Some(renewal.outdated()), hasty()).unwrap();
    old.admin().list().await.unwrap();

    renewal.trust_new_only().unwrap();
    let fresh = story.cluster.client_showing(Some(renewal.outdated()), hasty()).unwrap();
    let refused = fresh.admin().list().await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "papers of the past: {refused:?}");
    // Every node shows the new ones: this client trusts nothing else.
    for number in 0..3 {
        story.cluster.status(number).await.unwrap();
    }

    // The nodes too find each other again with nothing but new papers, one after the other.
    for number in 0..3 {
        for other in (0..3).filter(|other| *other != number) {
            story.cluster.link(number, other).cut();
        }
        sleep(Duration::from_millis(20)).await;
        story.cluster.heal();
        sleep(Duration::from_millis(500)).await;
    }
    story.cluster.wait_ready().await.unwrap();

    let (history, _) = story.end().await;
    let lost = history.appends.iter().filter(|append| matches!(append.outcome, Outcome::Rejected(_))).count();
    assert_eq!(lost, 0, "appends were rejected");
    append(&story.journal, "with new papers only").await.unwrap();
    let now: Vec<_> = story.cluster.nodes().iter().map(|node| node.pid()).collect();
    assert_eq!(now, pids, "somebody was restarted");
    assert!(expiry.is_some() && expiry_of(&story.cluster).await.is_some(), "nobody says when certificates end");
    for number in 0..3 {
        story.same_on(number).await;
    }
}

#[tokio::test]
async fn certificates_that_make_no_sense_change_nothing_and_are_complained_of() {
    let cluster = Cluster::start(Options { tls: true, ..Options::default() }).await.unwrap();
    let journal = cluster.journal("guarded").await.unwrap();
    let papers = cluster.papers("n1").unwrap();
    let good = std::fs::read(&papers.cert).unwrap();
    std::fs::write(&papers.cert, "half a certifi").unwrap();

    // New connections are made as before.
    cluster.status(0).await.unwrap();
    append(&journal, "still at work").await.unwrap();
    eventually("the node says so", Duration::from_secs(10), async || {
        metrics_of(&cluster, 0).await.contains("journal_reload_failures_total 1")
    })
    .await;

    std::fs::write(&papers.cert, good).unwrap();
    cluster.status(0).await.unwrap();
    cluster.wait_ready().await.unwrap();
}

async fn metrics_of(cluster: &Cluster, number: usize) -> String {
    let Page { body, .. } = cluster.node(number).page("/metrics").await.unwrap();
    body
}

async fn expiry_of(cluster: &Cluster) -> Option<String> {
    let page = metrics_of(cluster, 0).await;
    page.lines().find(|line| line.starts_with("journal_tls_certificate_expiry_seconds ")).map(str::to_owned)
}
