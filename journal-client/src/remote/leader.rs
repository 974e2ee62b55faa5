//! Who leads a journal, as far as this client knows, and what it has seen of the journal's course:
//! the newest term, the highest tail. Hints are believed until they fail; whoever failed as leader of a
//! term is not asked again in that term, unless more than half of the nodes insist or nobody else is
//! named.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use proto::journal as wire;
use proto::journal::journal_client::JournalClient;
use proto::{JournalId, Position};
use tokio::sync::watch;
use tokio::time::{Duration, Instant};
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::nodes::{Nodes, Pause};
use crate::error::{Error, Reason, Refusal};
use crate::metrics::Metrics;
use crate::refusal::error_of_status;

pub(crate) struct Leader {
    pub nodes: Arc<Nodes>,
    pub id: JournalId,
    pub attempt_timeout: Duration,
    pub patience: Duration,
    pub metrics: Metrics,
    state: Mutex<State>,
    searching: tokio::sync::Mutex<()>,
    newest_term: watch::Sender<u64>,
    highest_tail: AtomicU64,
}

#[derive(Default)]
struct State {
    address: Option<String>,
    /// Who was said to lead the newest term, and failed as its leader.
    failed: BTreeSet<String>,
}

/// More are not remembered: hints may name anybody.
const FAILED_MAX: usize = 64;

impl Leader {
    pub fn new(nodes: Arc<Nodes>, id: JournalId, attempt_timeout: Duration, patience: Duration) -> Self {
        Leader {
            nodes,
            id,
            attempt_timeout,
            patience,
            metrics: Metrics::of(id),
            state: Mutex::default(),
            searching: tokio::sync::Mutex::default(),
            newest_term: watch::Sender::new(0),
            highest_tail: AtomicU64::new(0),
        }
    }

    // ---- what was seen ---------------------------------------------------------------------

    /// Some node knows this term. If it is a new one, whoever led before leads no more.
    pub fn saw_term(&self, term: u64) {
        if term <= *self.newest_term.borrow() {
            return;
        }
        let mut state = self.state.lock();
        self.newest_term.send_if_modified(|newest| {
            let newer = term > *newest;
            if newer {
                *newest = term;
                state.address = None;
                state.failed.clear();
            }
            newer
        });
    }

    /// The node has shown that it leads this term.
    pub fn leads(&self, address: &str, term: u64) {
        self.saw_term(term);
        let mut state = self.state.lock();
        if term >= self.newest_term() && state.address.as_deref() != Some(address) {
            state.address = Some(address.to_owned());
        }
        state.failed.remove(address);
    }

    pub fn newest_term(&self) -> u64 {
        *self.newest_term.borrow()
    }

    /// Returns once a term newer than `term` was seen.
    pub async fn newer_than(&self, term: u64) {
        let mut newest = self.newest_term.subscribe();
        let seen = newest.wait_for(|newest| *newest > term).await;
        seen.expect("the sender lives as long as this borrow");
    }

    pub fn saw_tail(&self, tail: Position) {
        self.highest_tail.fetch_max(tail.0, Ordering::Relaxed);
    }

    pub fn highest_tail(&self) -> Position {
        Position(self.highest_tail.load(Ordering::Relaxed))
    }

    // ---- who leads -------------------------------------------------------------------------

    /// The leader's address: the one known or, if none is, the one that the nodes name.
    pub async fn find(&self) -> Result<String, Error> {
        if let Some(address) = self.known() {
            return Ok(address);
        }
        let _one_at_a_time = self.searching.lock().await;
        match self.known() {
            Some(address) => Ok(address),
            None => self.search().await,
        }
    }

    pub fn known(&self) -> Option<String> {
        self.state.lock().address.clone()
    }

    /// The node did not answer as a leader would.
    pub fn failed(&self, address: &str) {
        let mut state = self.state.lock();
        if state.address.as_deref().is_none_or(|known| known == address) {
            state.address = None;
        }
        if state.failed.len() >= FAILED_MAX {
            state.failed.clear();
        }
        state.failed.insert(address.to_owned());
    }

    /// The node refused, and may have said who leads instead. Whether it named somebody new.
    pub fn refused(&self, address: &str, refusal: &Refusal) -> bool {
        if refusal.reason == Reason::NotReady && refusal.leader.is_none() {
            // A leader whose first entry is not committed yet: nobody else leads.
            return false;
        }
        self.failed(address);
        let mut state = self.state.lock();
        let named = refusal.leader.as_ref().filter(|hint| !state.failed.contains(*hint)).cloned();
        match named {
            Some(hint) if state.address.is_none() => {
                state.address = Some(hint);
                true
            }
            _ => false,
        }
    }

    /// Asks every node at once. The first that names somebody who has not just failed is believed;
    /// whoever has is tried again if more than half of the nodes insist, or nobody knows better.
    async fn search(&self) -> Result<String, Error> {
        let addresses = self.nodes.addresses();
        let majority = addresses.len() / 2 + 1;
        let mut asked: FuturesUnordered<_> = addresses
            .into_iter()
            .map(|address| async move {
                let said = self.describe(&address).await;
                (address, said)
            })
            .collect();
        let mut insisted: BTreeMap<(u64, String), usize> = BTreeMap::new();
        let mut refusals = Vec::new();
        let mut troubles = Vec::new();
        while let Some((address, said)) = asked.next().await {
            let said = match said {
                Ok(said) => said,
                Err(error) => {
                    troubles.push(format!("{address}: {error}"));
                    if let Error::Refused(refusal) = error {
                        refusals.push(refusal);
                    }
                    continue;
                }
            };
            let Some(leader) = said.leader.map(|node| node.address).filter(|a| !a.is_empty()) else {
                troubles.push(format!("{address}: knows no leader"));
                continue;
            };
            if said.term >= self.newest_term() {
                let mut state = self.state.lock();
                if !state.failed.contains(&leader) {
                    state.address = Some(leader.clone());
                    return Ok(leader);
                }
            }
            let insist = insisted.entry((said.term, leader)).or_default();
            *insist += 1;
            if *insist >= majority {
                break;
            }
        }
        if let Some(((_, leader), _)) = insisted.pop_last() {
            return Ok(leader);
        }
        match refusals.pop() {
            Some(refusal) if refusals.len() + 1 >= majority => Err(Error::Refused(refusal)),
            _ => Err(Error::Unavailable(troubles.join("; "))),
        }
    }

    async fn describe(&self, address: &str) -> Result<wire::DescribeReply, Error> {
        let which = Some(wire::describe_request::Which::Id(self.id.0));
        let mut client = self.nodes.writing(address)?;
        let said = self.attempt(client.describe(wire::DescribeRequest { which })).await?;
        self.saw_term(said.term);
        // A node of the past knows the members of the past.
        if said.term >= self.newest_term() {
            self.nodes.learn(&said.nodes);
        }
        Ok(said)
    }

    // ---- calls -----------------------------------------------------------------------------

    /// One call, one attempt, within the time for one.
    pub async fn attempt<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
        match tokio::time::timeout(self.attempt_timeout, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(error_of_status(&status)),
            Err(_) => Err(Error::Unavailable(format!("no answer in {:?}", self.attempt_timeout))),
        }
    }

    /// A call that only the leader answers, and that may be repeated. Repeated it is, at whoever
    /// leads by then, until somebody answers or patience ends.
    pub async fn ask<T, F>(&self, call: impl Fn(JournalClient<Channel>) -> F + Send) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let deadline = Instant::now() + self.patience;
        let mut pause = Pause::new();
        loop {
            let failure = match self.ask_once(&call).await {
                Ok((_, answer)) => return Ok(answer),
                Err(failure) => failure,
            };
            let wait = if failure.try_at_once { Duration::ZERO } else { pause.take() };
            if failure.is_final() || Instant::now() + wait >= deadline {
                return Err(failure.error);
            }
            self.metrics.retries.increment(1);
            tokio::time::sleep(wait).await;
        }
    }

    /// One attempt of such a call. Who answered, and what.
    pub async fn ask_once<T, F>(
        &self,
        call: &(impl Fn(JournalClient<Channel>) -> F + Send),
    ) -> Result<(String, T), Failure>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let address = self.find().await.map_err(Failure::later)?;
        let client = self.nodes.writing(&address).map_err(Failure::later)?;
        match self.attempt(call(client)).await {
            Ok(answer) => Ok((address, answer)),
            Err(error) => Err(self.judge(&address, error)),
        }
    }

    /// What the failure of a call to the supposed leader says about who leads.
    pub fn judge(&self, address: &str, error: Error) -> Failure {
        let try_at_once = match &error {
            Error::Refused(refusal) if refusal.reason.is_of_the_node() => self.refused(address, refusal),
            Error::Refused(_) => false,
            Error::Unavailable(_) | Error::Unconfirmed(_) | Error::Protocol(_) => {
                self.failed(address);
                false
            }
        };
        Failure { error, try_at_once }
    }
}

/// An attempt that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub error: Error,
    /// Another leader was named: no need to wait.
    pub try_at_once: bool,
}

impl Failure {
    fn later(error: Error) -> Self {
        Failure { error, try_at_once: false }
    }

    /// Whether another attempt would be told the same.
    pub fn is_final(&self) -> bool {
        match &self.error {
            Error::Refused(refusal) => !refusal.reason.is_of_the_node(),
            Error::Protocol(_) => true,
            Error::Unavailable(_) | Error::Unconfirmed(_) => false,
        }
    }

    /// The refusal to answer an entry with that was never sent because of this.
    pub fn into_refusal(self) -> Refusal {
        match self.error {
            Error::Refused(refusal) => refusal,
            other => Refusal::new(Reason::NotLeader, other.to_string()),
        }
    }
}
