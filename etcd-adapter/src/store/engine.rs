//! What an engine must do, and how it fails.

use bytes::Bytes;

use super::sweep::Sweeps;
use crate::command::wire::Malformed;
use crate::mvcc::{At, Row, RowRef, State, Unusable};

/// Why the store cannot go on. Whoever sees it ends the process; [`StoreError::is_damage`] tells a
/// store that is better dropped and filled anew.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store's engine failed: {0}")]
    Engine(String),
    #[error("the row {0} is missing")]
    Missing(At),
    #[error("the row {at} is malformed: {why}")]
    Row { at: At, why: Malformed },
    #[error("a record is malformed: {0}")]
    Record(Malformed),
    #[error(transparent)]
    Unusable(#[from] Unusable),
}

impl StoreError {
    /// Whether what is stored is wrong, rather than that it could not be read or written.
    pub fn is_damage(&self) -> bool {
        !matches!(self, StoreError::Engine(_))
    }
}

/// Says which rows may be dropped: those that the index has forgotten.
pub trait Drops: Send + Sync {
    fn knows(&self, key: &[u8], at: At) -> bool;
}

impl Drops for parking_lot::RwLock<State> {
    fn knows(&self, key: &[u8], at: At) -> bool {
        self.read().index().knows(key, at)
    }
}

/// One engine. All methods may be called from any thread; writes come from one at a time.
pub(super) trait Engine: Send + Sync {
    fn write(&self, rows: Vec<Row>, records: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), StoreError>;
    /// Shows the row at each of these places, by the number of the place, in any order. All must be there; some
    /// may have been shown before an error.
    fn visit(&self, places: &[At], see: &mut dyn FnMut(usize, RowRef<'_>)) -> Result<(), StoreError>;
    fn scan(&self, from: At, to: At, rows_max: usize, bytes_max: usize) -> Result<Vec<Row>, StoreError>;
    fn records(&self) -> Result<Vec<(Vec<u8>, Bytes)>, StoreError>;
    /// The record as a process would find it that begins after this one was killed.
    fn flushed_record(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;
    fn flush(&self) -> Result<(), StoreError>;
    fn unflushed_bytes(&self) -> u64;
    /// Rows may be dropped from now on.
    fn attached(&self);
    /// Drops what may be dropped of `[from, to)`.
    fn compact(&self, from: At, to: At, sweeps: &Sweeps) -> Result<(), StoreError>;
}
