//! The journal as a target: an append an entry, through the client library as anybody uses it.

use bytes::Bytes;
use journal_client::{AppendError, Cluster, Entry, Journal, RemoteJournal};
use proto::JournalId;

use super::load::{Failed, Target};

/// Append streams to the leader of one journal.
pub struct Streams {
    journals: Vec<RemoteJournal>,
    value: Bytes,
}

impl Streams {
    /// Each with a connection of its own, as `clusters` are.
    pub fn open(clusters: &[Cluster], id: JournalId, value: Bytes) -> Streams {
        let journals = clusters.iter().map(|cluster| cluster.journal_with_id(id)).collect();
        Streams { journals, value }
    }
}

impl Target for Streams {
    async fn put(&self, worker: usize, _: u64) -> Result<(), Failed> {
        let journal = &self.journals[worker % self.journals.len()];
        match journal.append(Entry::new(self.value.clone())).await {
            Ok(_) => Ok(()),
            Err(AppendError::Rejected(refusal)) => Err(Failed { certainly: true, why: refusal.message }),
            Err(AppendError::Unknown(why)) => Err(Failed { certainly: false, why }),
        }
    }
}
