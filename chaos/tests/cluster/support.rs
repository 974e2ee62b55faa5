//! What the stories have in common.

use std::sync::Arc;
use std::time::Duration;

use chaos::check::{Verdict, check};
use chaos::cluster::{Cluster, Options};
use chaos::history::History;
use chaos::traffic::{Load, Traffic, read_all, read_to};
use journal_client::{Admin, Journal, Recorded, RemoteJournal, Settings, TailFrom, TcpConnector};
use proto::Position;
use tokio::time::{Instant, sleep};

/// The longest that appends may stand still when a leader is lost.
pub const FAILOVER_MAX: Duration = Duration::from_secs(3);

/// A cluster, a journal in it, and appenders at work on that.
pub struct Story {
    pub cluster: Cluster,
    pub journal: Arc<RemoteJournal>,
    traffic: Option<Traffic>,
}

impl Story {
    /// Three nodes under the usual load.
    pub async fn begin() -> Story {
        Story::begin_with(Options::default()).await
    }

    pub async fn begin_with(options: Options) -> Story {
        Story::begin_under(options, Load::default()).await
    }

    pub async fn begin_under(options: Options, load: Load) -> Story {
        let cluster = Cluster::start(options).await.unwrap();
        let journal = Arc::new(cluster.journal("story").await.unwrap());
        let traffic = Some(Traffic::start(journal.clone(), load, 1));
        let story = Story { cluster, journal, traffic };
        // Everybody has appended something before anything happens.
        sleep(Duration::from_millis(500)).await;
        story
    }

    /// The number of the node that leads the story's journal.
    pub async fn leader(&self) -> usize {
        self.cluster.leader_of(self.journal.id()).await.unwrap()
    }

    /// A node that follows.
    pub async fn follower(&self) -> usize {
        let leader = self.leader().await;
        self.cluster.others(leader).map(|(number, _)| number).next().unwrap()
    }

    /// Lets the appenders finish, reads everything, and holds it against what they were told.
    pub async fn end(&mut self) -> (History, Verdict) {
        let history = self.traffic.take().expect("a story ends once").stop().await;
        let entries = read_all(self.journal.as_ref()).await.unwrap();
        let verdict = match check(&history, &entries) {
            Ok(verdict) => verdict,
            Err(violations) => panic!("promises were broken: {violations:#?}"),
        };
        assert!(verdict.told.committed > 100, "hardly anything was appended: {verdict}");
        println!("    {verdict}");
        (history, verdict)
    }

    /// What a node itself serves is what everybody serves.
    pub async fn same_on(&self, number: usize) {
        let tail = self.journal.check_tail().await.unwrap();
        let prefer = TailFrom::Node(self.cluster.node(number).endpoint().to_string());
        let there = self.journal.tail_at(tail.start, prefer).await.unwrap();
        let there = read_to(there, tail.tail).await.unwrap();
        let leader = read_to(self.journal.tail(tail.start).await.unwrap(), tail.tail).await.unwrap();
        assert!(there == leader, "{} serves something else than the leader", self.cluster.node(number).name());
    }
}

/// Waits until a change of members has been carried out.
pub async fn carried_out(admin: &Admin, change: &Recorded) {
    let done = async || matches!(admin.left_of(change).await, Ok(None));
    eventually(&change.message, Duration::from_secs(60), done).await;
}

/// Waits until `happened`; panics with `what` if it does not.
pub async fn eventually<F>(what: &str, patience: Duration, mut happened: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let deadline = Instant::now() + patience;
    while !happened().await {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

pub use chaos::skipped;

/// A client that knows these nodes only, without certificates.
pub fn client_of(endpoints: impl IntoIterator<Item = String>, settings: Settings) -> journal_client::Cluster {
    let connector = Arc::new(TcpConnector::new(None, false).unwrap());
    journal_client::Cluster::new(endpoints, connector, settings).unwrap()
}

pub async fn append(journal: &RemoteJournal, text: &str) -> Result<Position, journal_client::AppendError> {
    journal.append(journal_client::Entry::new(text.to_owned())).await
}
