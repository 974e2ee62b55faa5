//! The journal as a target: an append an entry, through the client library as anybody uses it.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use journal_client::{AppendError, Cluster, Entry, Journal, RemoteJournal};
use proto::JournalId;

use super::lag::Lag;
use super::load::{Failed, Target};

/// Append streams to the leader of one journal.
pub struct Streams {
    journals: Vec<RemoteJournal>,
    value: Bytes,
    lag: Option<Arc<Lag>>,
}

impl Streams {
    /// Each with a connection of its own, as `clusters` are. Answers are told to `lag`.
    pub fn open(clusters: &[Cluster], id: JournalId, value: Bytes, lag: Option<Arc<Lag>>) -> Streams {
        let journals = clusters.iter().map(|cluster| cluster.journal_with_id(id)).collect();
        Streams { journals, value, lag }
    }
}

impl Target for Streams {
    async fn put(&self, worker: usize, _: u64) -> Result<(), Failed> {
        let journal = &self.journals[worker % self.journals.len()];
        match journal.append(Entry::new(self.value.clone())).await {
            Ok(position) => {
                if let Some(lag) = &self.lag {
                    lag.answered(position, Instant::now());
                }
                Ok(())
            }
            Err(AppendError::Rejected(refusal)) => Err(Failed { certainly: true, why: refusal.message }),
            Err(AppendError::Unknown(why)) => Err(Failed { certainly: false, why }),
        }
    }
}
