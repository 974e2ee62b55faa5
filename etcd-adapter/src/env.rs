//! Everything outside the program that a simulator replaces: the way to the journal, where clients come
//! in, where the store lies, chance, and whether there are threads. The clock is tokio's, which can be
//! paused.

use std::sync::Arc;

use journal_client::{Connector, Journal};

use crate::http::listen::Door;
use crate::store::{Store, StoreError};

/// The world that an adapter lives in. What is absent is the machine's own.
#[derive(Clone, Default)]
pub struct Env {
    /// How nodes are reached, instead of TCP.
    pub connector: Option<Arc<dyn Connector>>,
    /// What stands between the adapter and its journal.
    pub around: Option<Around>,
    /// Where the store lies, instead of the data directory.
    pub shelf: Option<Arc<dyn Shelf>>,
    pub chance: Chance,
    pub drive: Drive,
}

/// Puts something around a journal.
pub type Around = Arc<dyn Fn(Arc<dyn Journal>) -> Arc<dyn Journal> + Send + Sync>;

/// Doors that are open already, instead of those that the configuration names.
pub type Doors = Vec<Door>;

/// Keeps the store between two lives of the process.
pub trait Shelf: Send + Sync {
    /// What the last life left, or an empty store.
    fn open(&self) -> Result<Store, StoreError>;
    /// Throws it away.
    fn discard(&self) -> std::io::Result<()>;
    /// For people.
    fn place(&self) -> String;
}

/// The one source of chance.
#[derive(Clone)]
pub struct Chance(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Chance {
    pub fn new(next: impl Fn() -> u64 + Send + Sync + 'static) -> Chance {
        Chance(Arc::new(next))
    }

    pub fn next(&self) -> u64 {
        (self.0)()
    }

    /// Evenly below `below`, or as good as.
    pub fn below(&self, below: u64) -> u64 {
        self.next() % below.max(1)
    }
}

impl Default for Chance {
    /// The operating system's.
    fn default() -> Chance {
        Chance::new(rand::random)
    }
}

/// Where work is done that may block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drive {
    /// On threads of its own: production.
    #[default]
    Threads,
    /// In tasks of the runtime, which then does one thing after the other: simulation.
    Tasks,
}

impl Drive {
    /// Does what may block, and waits for it. None: the runtime ends, or the work panicked.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        match self {
            Drive::Threads => tokio::task::spawn_blocking(work).await.ok(),
            Drive::Tasks => Some(work()),
        }
    }

    /// Begins what may block, and waits for nothing.
    pub fn begin(self, work: impl FnOnce() + Send + 'static) {
        match self {
            Drive::Threads => drop(tokio::task::spawn_blocking(work)),
            Drive::Tasks => drop(tokio::spawn(async move { work() })),
        }
    }
}
