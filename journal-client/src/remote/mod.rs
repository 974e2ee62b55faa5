//! Journals of a cluster, over gRPC.
//!
//! Finds the leader and follows it from node to node; reports honestly what became of an append. It
//! repeats reads as it likes, and an append only when a leader has said that the entry is not in
//! the journal and never will be: whatever else must be repeated is its caller's to repeat.

mod appender;
mod check_tail;
mod describe;
mod leader;
mod nodes;
mod queue;
mod run;
mod stream;
mod tail;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use proto::journal as wire;
use proto::journal::describe_request::Which;
use proto::{JournalId, JournalName, Position};

use appender::{Bounds, OwnAppender, SharedAppender};
use check_tail::CheckTail;
use describe::{description, first_to_describe};
use leader::Leader;
pub(crate) use nodes::{Nodes, Pause};
pub(crate) use run::Reader;
pub use tail::TailFrom;

use crate::admin::{Admin, TrimPolicy};
use crate::error::{AppendError, Error, Reason};
use crate::journal::{Appender, Description, Entry, Journal, Tail, TailStream};
use crate::transport::{ChannelOptions, Connector, InvalidAddress};

/// How a client behaves. The defaults are for a cluster within one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long refusals that pass are waited out, and nodes that do not answer are asked again.
    pub patience: Duration,
    /// How long one node may take for one answer before another one is asked.
    pub attempt_timeout: Duration,
    /// The same for calls that change the cluster.
    pub admin_timeout: Duration,
    /// Where tails are read from.
    pub tail_from: TailFrom,
    /// Entries that wait are packed into messages of about this many bytes.
    pub message_bytes_max: usize,
    /// Bytes of entries that one appender may have without an answer; then its callers wait.
    pub unanswered_bytes_max: usize,
    pub channel: ChannelOptions,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            patience: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(1),
            admin_timeout: Duration::from_secs(10),
            tail_from: TailFrom::default(),
            message_bytes_max: 256 << 10,
            unanswered_bytes_max: 16 << 20,
            channel: ChannelOptions::default(),
        }
    }
}

/// A cluster of journal nodes. Opens connections only when something is asked.
#[derive(Clone)]
pub struct Cluster {
    nodes: Arc<Nodes>,
    settings: Settings,
}

impl Cluster {
    /// `endpoints` are addresses (`host:port`) of some of the nodes; the others are learnt.
    pub fn new(
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        connector: Arc<dyn Connector>,
        settings: Settings,
    ) -> Result<Self, InvalidAddress> {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        let nodes = Arc::new(Nodes::new(endpoints, connector, settings.channel.clone())?);
        Ok(Cluster { nodes, settings })
    }

    /// The journal of that name.
    pub async fn journal(&self, name: &JournalName) -> Result<RemoteJournal, Error> {
        let which = Which::Name(name.as_str().to_owned());
        let deadline = tokio::time::Instant::now() + self.settings.patience;
        let mut pause = Pause::new();
        loop {
            let first = first_to_describe(&self.nodes, which.clone(), self.settings.attempt_timeout, None);
            let error = match first.await {
                Ok((_, said)) => {
                    let id = description(said)?.id;
                    return Ok(self.journal_with_id(id));
                }
                Err(error) => error,
            };
            let wait = pause.take();
            let passes = matches!(error, Error::Unavailable(_));
            if !passes || tokio::time::Instant::now() + wait >= deadline {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// The journal of that name, created if there is none.
    pub async fn journal_or_create(
        &self,
        name: &JournalName,
        policy: TrimPolicy,
        quota_bytes: u64,
    ) -> Result<RemoteJournal, Error> {
        match self.journal(name).await {
            Err(Error::Refused(refusal)) if refusal.reason == Reason::NoSuchJournal => {}
            other => return other,
        }
        let (journal, _) = self.admin().create(name, policy, quota_bytes).await?;
        Ok(self.journal_with_id(journal.id))
    }

    /// The journal with that id, whether it exists or not. Must be called within a runtime.
    pub fn journal_with_id(&self, id: JournalId) -> RemoteJournal {
        let settings = self.settings.clone();
        let leader = Arc::new(Leader::new(self.nodes.clone(), id, settings.attempt_timeout, settings.patience));
        let bounds = Bounds { message: settings.message_bytes_max, unanswered: settings.unanswered_bytes_max };
        RemoteJournal {
            shared: SharedAppender::start(leader.clone(), bounds),
            check_tail: CheckTail::new(leader.clone()),
            leader,
            settings,
            bounds,
        }
    }

    /// The calls of an operator.
    pub fn admin(&self) -> Admin {
        Admin::new(self.nodes.clone(), self.settings.clone())
    }
}

/// A journal of a cluster.
pub struct RemoteJournal {
    leader: Arc<Leader>,
    shared: SharedAppender,
    check_tail: Arc<CheckTail>,
    settings: Settings,
    bounds: Bounds,
}

impl RemoteJournal {
    pub fn id(&self) -> JournalId {
        self.leader.id
    }

    /// Reads as [`Journal::tail`] does, from a node of the caller's choice.
    pub async fn tail_at(&self, from: Position, prefer: TailFrom) -> Result<TailStream, Error> {
        tail::tail(self.leader.clone(), prefer, from).await
    }
}

#[async_trait]
impl Journal for RemoteJournal {
    async fn append(&self, entry: Entry) -> Result<Position, AppendError> {
        self.shared.append(entry).await
    }

    async fn appender(&self) -> Result<Box<dyn Appender>, Error> {
        let appender = OwnAppender::open(self.leader.clone(), self.bounds).await?;
        Ok(Box::new(appender))
    }

    async fn tail(&self, from: Position) -> Result<TailStream, Error> {
        self.tail_at(from, self.settings.tail_from.clone()).await
    }

    async fn check_tail(&self) -> Result<Tail, Error> {
        self.check_tail.ask().await
    }

    async fn trim(&self, before: Position) -> Result<Position, Error> {
        // Trimming twice is trimming once: this call may be repeated.
        let request = wire::TrimRequest { journal_id: self.leader.id.0, before: before.0 };
        let trimmed = self.leader.ask(|mut client| async move { client.trim(request).await }).await?;
        Ok(Position(trimmed.start))
    }

    async fn describe(&self) -> Result<Description, Error> {
        let which = Which::Id(self.leader.id.0);
        let timeout = self.settings.attempt_timeout;
        let (_, said) = first_to_describe(&self.leader.nodes, which, timeout, None).await?;
        description(said)
    }
}
