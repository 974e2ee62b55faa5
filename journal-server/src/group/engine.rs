//! A group's log with what moves it: the writer and the keeper, as threads or as tasks.
//!
//! Owns their ends. Whoever starts an engine must close it: two writers of one log would be the end of
//! it, so nothing may open the directory again before [`Engine::close`] has returned.

use std::sync::Arc;
use std::thread::JoinHandle;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use super::Shared;
use crate::env::{Drive, Env};
use crate::segment::{self, Keeper, Log, Plan, Writer};

pub(super) struct Engine {
    id: u64,
    env: Env,
    pub log: Log,
    threads: Mutex<Vec<JoinHandle<()>>>,
    drivers: TaskTracker,
}

impl Engine {
    /// Starts both. After an error neither runs.
    pub async fn start(
        shared: &Arc<Shared>,
        id: u64,
        log: Log,
        writer: Writer,
        keeper: Keeper,
    ) -> std::io::Result<Engine> {
        let (threads, drivers) = (Mutex::default(), TaskTracker::new());
        let engine = Engine { id, env: shared.env.clone(), log, threads, drivers };
        match shared.env.drive {
            Drive::Threads => {
                let started = segment::spawn_writer_thread(writer, format!("journal-{id}"))
                    .map(|writer| engine.threads.lock().push(writer))
                    .and_then(|()| segment::spawn_keeper_thread(keeper, format!("keeper-{id}")))
                    .map(|keeper| engine.threads.lock().push(keeper));
                if let Err(error) = started {
                    engine.close().await;
                    return Err(error);
                }
            }
            Drive::Tasks => {
                let pace = shared.env.pace.clone();
                let pause = move |_: &Plan| {
                    let pause: BoxFuture<'static, ()> = Box::pin(tokio::time::sleep(pace.next()));
                    pause
                };
                shared.tasks.spawn(engine.drivers.track_future(segment::drive_writer(writer, pause)));
                shared.tasks.spawn(engine.drivers.track_future(segment::drive_keeper(keeper)));
            }
        }
        Ok(engine)
    }

    /// Ends both. On return nobody touches the files any more: the writer has written its clean-stop
    /// mark, unless the disk failed.
    pub async fn close(&self) {
        self.log.close();
        self.drivers.close();
        self.drivers.wait().await;
        let threads = std::mem::take(&mut *self.threads.lock());
        let log = self.log.clone();
        let join = move || {
            log.wait_for_patches_blocking();
            threads.into_iter().map(JoinHandle::join).all(|ended| ended.is_ok())
        };
        if !self.env.blocking(join).await {
            tracing::error!(id = self.id, "a thread of the log panicked");
        }
    }
}
