//! A cluster as its clients see it: connections, who leads, what a node says of itself.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use journal_client::tls::Identity;
use journal_client::{Error, NodeStatus, RemoteJournal, Settings, TcpConnector, Tls, TrimPolicy};
use proto::{JournalId, JournalName};
use tokio::time::{Instant, sleep};

use super::tls::{self, Papers, Renewal};
use super::{Cluster, Node};

impl Cluster {
    /// A client of its own, with connections of its own.
    pub fn client(&self) -> anyhow::Result<journal_client::Cluster> {
        self.client_with(Settings::default())
    }

    pub fn client_with(&self, settings: Settings) -> anyhow::Result<journal_client::Cluster> {
        let papers = self.tls_dir().map(|dir| tls::papers(&dir, tls::CLIENT));
        self.client_showing(papers, settings)
    }

    /// A client that shows these papers, or none.
    pub fn client_showing(
        &self,
        papers: Option<Papers>,
        settings: Settings,
    ) -> anyhow::Result<journal_client::Cluster> {
        let tls = papers.map(|papers| Tls {
            ca: papers.ca,
            identity: papers.cert.exists().then_some(Identity { cert: papers.cert, key: papers.key }),
            server_name: None,
        });
        let connector = Arc::new(TcpConnector::new(tls, false)?);
        Ok(journal_client::Cluster::new(self.endpoints(), connector, settings)?)
    }

    /// A journal that its users trim, made if it is not there.
    pub async fn journal(&self, name: &str) -> anyhow::Result<RemoteJournal> {
        let name: JournalName = name.parse()?;
        let client = self.client()?;
        let deadline = Instant::now() + self.patience;
        loop {
            match client.journal_or_create(&name, TrimPolicy::Free, 0).await {
                // Members that are only now known to the catalogue, for instance.
                Err(Error::Refused(refusal)) if refusal.reason.passes() && Instant::now() < deadline => {
                    sleep(Duration::from_millis(50)).await;
                }
                journal => return journal.with_context(|| format!("cannot open the journal {name}")),
            }
        }
    }

    /// What a node says of itself.
    pub async fn status(&self, number: usize) -> anyhow::Result<NodeStatus> {
        let address = self.node(number).endpoint().to_string();
        Ok(self.client()?.admin().status(&address).await?)
    }

    /// The number of the node that leads a journal, by its own word and in the newest term; waits for
    /// one, at most as long as for readiness.
    pub async fn leader_of(&self, journal: JournalId) -> anyhow::Result<usize> {
        let admin = self.client()?.admin();
        let deadline = Instant::now() + self.patience;
        loop {
            let mut best = None;
            for (number, node) in self.nodes().iter().enumerate().filter(|(_, node)| node.runs()) {
                let Ok(status) = admin.status(&node.endpoint().to_string()).await else { continue };
                if let Some(group) = status.group(journal).filter(|group| group.leads()) {
                    best = best.max(Some((group.term, number)));
                }
            }
            match best {
                Some((_, number)) => return Ok(number),
                None if Instant::now() > deadline => bail!("nobody leads journal {journal}"),
                None => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// The papers of this cluster, if it has any.
    pub fn papers(&self, name: &str) -> Option<Papers> {
        self.tls_dir().map(|dir| tls::papers(&dir, name))
    }

    /// Papers that look like those of `name` and are signed by nobody known.
    pub fn forged_papers(&self, name: &str) -> anyhow::Result<Papers> {
        tls::forge(&self.tls_dir().context("the cluster has no papers at all")?, name)
    }

    /// Begins to replace everybody's papers, on the disk alone.
    pub fn renew_papers(&self) -> anyhow::Result<Renewal> {
        let names: Vec<_> = self.nodes().iter().map(Node::name).collect();
        Renewal::begin(&self.tls_dir().context("the cluster has no papers at all")?, &names)
    }

    /// Nodes that run, but not the one of that number.
    pub fn others(&self, number: usize) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes().iter().enumerate().filter(move |(other, node)| *other != number && node.runs())
    }
}
