//! How openraft answers a proposed entry: straight into the append stream's ledger, at commit.
//!
//! Waiting for apply would cost another channel hop, and nothing an ordinary entry does depends on
//! it. An answer that openraft never gives (it stopped) becomes `Unknown` when the responder is
//! dropped.

use std::sync::Arc;

use openraft::errors::ClientWriteError;
use openraft::raft::responder;

use super::types::{LogId, TypeConfig, WriteResult};
use crate::ledger::{Ledger, Settled};

/// Answers one entry of one append stream.
pub struct Responder<T> {
    ledger: Option<Arc<Ledger>>,
    slot: u64,
    settle: fn(T) -> Option<Settled>,
}

impl Responder<WriteResult> {
    pub(super) fn new(ledger: Arc<Ledger>, slot: u64) -> Self {
        Responder { ledger: Some(ledger), slot, settle: settled }
    }
}

impl<T: Send + 'static> responder::Responder<TypeConfig, T> for Responder<T> {
    fn on_commit(&mut self, log_id: LogId) {
        if let Some(ledger) = self.ledger.take() {
            ledger.committed(self.slot, log_id.index());
        }
    }

    fn on_complete(mut self, result: T) {
        let Some(ledger) = self.ledger.take() else { return };
        // Applied without having been told of the commit cannot be: `on_commit` comes first.
        let outcome = (self.settle)(result);
        let unknown = || Settled::Unknown("the entry was applied unannounced".into());
        ledger.settle(self.slot, outcome.unwrap_or_else(unknown));
    }
}

impl<T> Drop for Responder<T> {
    fn drop(&mut self) {
        if let Some(ledger) = self.ledger.take() {
            ledger.settle(self.slot, Settled::Unknown("this node stopped before it knew".into()));
        }
    }
}

/// What a refusal by openraft means for the entry. Only a refusal at the door is a rejection.
fn settled(result: WriteResult) -> Option<Settled> {
    match result {
        Ok(_) => None,
        Err(ClientWriteError::ForwardToLeader(forward)) => Some(Settled::Rejected(super::forwarded(&forward))),
        Err(other) => Some(Settled::Unknown(other.to_string())),
    }
}
