//! The latch: a failure after which this process must not answer anybody again.
//!
//! A failed write or sync is final: what the page cache says afterwards is not what the disk has. The
//! first failure wins; the server then drops every socket and the process exits with the failure's
//! code. Setting it is possible from any thread and never blocks.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// How the process ends, for scripts and for the unit file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It was told to stop, and did so in order.
    Clean = 0,
    /// It could not start, for a reason that may pass.
    Start = 1,
    /// The configuration is wrong.
    Config = 2,
    /// The data directory is damaged, incomplete, in use, or was never set up.
    DataDir = 3,
    /// A write or a sync failed.
    FailedDisk = 4,
    /// A write hung for too long.
    HungDisk = 5,
    /// Something that cannot happen did.
    Bug = 6,
}

/// Why the process has to go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Failure {
    pub exit: Exit,
    pub why: String,
}

/// Shared by all who can fail for good.
#[derive(Debug, Clone, Default)]
pub struct Latch(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    failure: Mutex<Option<Failure>>,
    set: CancellationToken,
    /// How long the sockets may take to close before the process goes without waiting.
    patience: Option<Duration>,
}

impl Latch {
    /// A latch that ends the process itself if nobody does so in time: a runtime that hangs must not
    /// keep its sockets open.
    pub fn with_watchdog(patience: Duration) -> Latch {
        Latch(Arc::new(Inner { patience: Some(patience), ..Inner::default() }))
    }

    /// Sets the latch. Only the first failure counts.
    pub fn fail(&self, exit: Exit, why: impl Into<String>) {
        let why = why.into();
        let mut failure = self.0.failure.lock();
        if failure.is_some() {
            return;
        }
        tracing::error!(code = exit as u8, why, "this node stops for good");
        *failure = Some(Failure { exit, why });
        drop(failure);
        if let Some(patience) = self.0.patience {
            std::thread::spawn(move || {
                std::thread::sleep(patience);
                std::process::exit(exit as i32)
            });
        }
        self.0.set.cancel();
    }

    pub fn is_set(&self) -> bool {
        self.0.set.is_cancelled()
    }

    /// Waits for the failure.
    pub async fn failed(&self) -> Failure {
        self.0.set.cancelled().await;
        self.failure().expect("it is stored before the token is cancelled")
    }

    pub fn failure(&self) -> Option<Failure> {
        self.0.failure.lock().clone()
    }

    /// Cancelled once the latch is set.
    pub fn token(&self) -> &CancellationToken {
        &self.0.set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_failure_counts_and_everybody_hears_of_it() {
        let latch = Latch::default();
        let waiter = tokio::spawn({
            let latch = latch.clone();
            async move { latch.failed().await }
        });
        assert!(!latch.is_set());
        latch.fail(Exit::FailedDisk, "EIO");
        latch.fail(Exit::Bug, "and then this");
        let failure = waiter.await.unwrap();
        assert_eq!(failure, Failure { exit: Exit::FailedDisk, why: "EIO".into() });
        assert!(latch.is_set());
    }
}
