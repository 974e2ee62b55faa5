//! Keeps the directory in order beside the writer: has the next segment's file ready, removes
//! segments whose entries were all purged. Never touches a byte that the writer writes.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::log::Shared;
use super::shelf::Unready;

/// After a failure (a full disk, most likely) it is tried again so much later.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Between two pieces of a spare: a third of a second for all of it, and most of the disk for others.
const BREATH: Duration = Duration::from_millis(4);

pub struct Keeper {
    shared: Arc<Shared>,
    unready: Option<Unready>,
}

/// What a step leaves to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Rest {
    Nothing,
    More,
}

impl Keeper {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Keeper { shared, unready: None }
    }

    /// Does some of what is due. A full disk leaves everything as usable as before and is worth
    /// another try; any other error is the disk's end, as it is for the writer.
    pub fn step(&mut self) -> io::Result<Rest> {
        if self.shared.state.lock().failed.is_some() {
            return Ok(Rest::Nothing);
        }
        let done = self.remove_purged().and_then(|()| self.prepare_spare());
        if let Err(error) = &done
            && !is_full(error)
        {
            self.shared.fail(&error.to_string());
        }
        done
    }

    /// Unlinks, oldest first, what nothing needs once the *durable* purge mark is reached.
    fn remove_purged(&mut self) -> io::Result<()> {
        loop {
            let oldest = self.shared.index.write().take_purged();
            let Some(segment) = oldest else { return Ok(()) };
            let shelf = &self.shared.shelf;
            shelf.fs.unlink(&segment.path)?;
            shelf.fs.sync_dir(&shelf.dir)?;
            tracing::debug!(journal = self.shared.ids.group, segment = segment.number, "segment removed");
        }
    }

    fn prepare_spare(&mut self) -> io::Result<Rest> {
        let shelf = &self.shared.shelf;
        if shelf.has_spare() {
            return Ok(Rest::Nothing);
        }
        let mut spare = match self.unready.take() {
            Some(spare) => spare,
            None => shelf.begin()?,
        };
        if shelf.go_on(&mut spare)? {
            return Ok(Rest::Nothing);
        }
        self.unready = Some(spare);
        Ok(Rest::More)
    }

    fn complain(&self, error: &io::Error) {
        let journal = self.shared.ids.group;
        match is_full(error) {
            true => tracing::warn!(journal, %error, "no room for the next segment; trying again"),
            false => tracing::error!(journal, %error, "looking after the segments failed"),
        }
    }

    /// Waits until there is something to do. True: stop.
    fn wait(&self, limit: Option<Duration>) -> bool {
        let keeper = &self.shared.keeper;
        let mut bell = keeper.rung.lock();
        while !bell.rung && !bell.stop {
            match limit {
                Some(limit) => {
                    if keeper.wake.wait_for(&mut bell, limit).timed_out() {
                        break;
                    }
                }
                None => keeper.wake.wait(&mut bell),
            }
        }
        bell.rung = false;
        bell.stop
    }

    /// How long to wait after a step if nobody rings.
    fn pause_after(&self, done: &io::Result<Rest>) -> Option<Duration> {
        match done {
            Ok(Rest::Nothing) => None,
            Ok(Rest::More) => Some(BREATH),
            Err(error) => {
                self.complain(error);
                Some(TRY_AGAIN)
            }
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The keeper on a thread of its own, until the log is closed.
pub fn spawn_keeper_thread(mut keeper: Keeper, name: String) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name).spawn(move || {
        loop {
            let done = keeper.step();
            if keeper.wait(keeper.pause_after(&done)) {
                return;
            }
        }
    })
}

/// The keeper as a task, on simulated time.
pub fn drive_keeper(mut keeper: Keeper) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let shared = keeper.shared.clone();
        loop {
            let done = keeper.step();
            let rung = shared.keeper.notify.notified();
            match keeper.pause_after(&done) {
                None => rung.await,
                Some(pause) => drop(tokio::time::timeout(pause, rung).await),
            }
            let mut bell = shared.keeper.rung.lock();
            bell.rung = false;
            if bell.stop {
                return;
            }
        }
    })
}
