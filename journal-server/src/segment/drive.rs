//! What drives the writer: a thread of its own, a task on simulated time, or, while a log is calm,
//! the very thread that asked.
//!
//! To hand one entry to a thread and its answer back takes two wake-ups, and those cost a third of
//! what the disk takes. A log is *calm* while it is asked for an entry or two at a time and its disk
//! answers at once. Then its own thread sleeps on: what is asked for is laid on the desk of the asking
//! thread, and done there when that thread would otherwise go to sleep. A busy log keeps its thread:
//! batches gather while it syncs, and nobody waits for the disk who has something else to do.
//!
//! What must never happen: two who write at once (the pen); work that waits for a thread that has no
//! time (whatever is asked next wakes the log's own); a slow disk that holds up its runtime again and
//! again (one slow sync ends the calm).

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::log::{Shared, State};
use super::writer::{Plan, Step, Writer};

/// The right to write. Weak: the thread of the log owns the writer.
pub(crate) type Pen = Weak<Mutex<Writer>>;

/// A plan of so many entries is small.
const SMALL_ENTRIES: usize = 2;
/// A disk that takes no longer answers at once.
const AT_ONCE: Duration = Duration::from_millis(1);
/// A log is calm after so many small plans, each done at once.
const CALM_PLANS: u32 = 8;

thread_local! {
    /// Logs that this thread is to drive once before it sleeps. None: it drives no logs.
    static DESK: RefCell<Option<Vec<Arc<Shared>>>> = const { RefCell::new(None) };
}

/// From now on this thread drives calm logs, whenever it calls [`clear_desk`], which it must do before
/// it sleeps.
pub fn lay_desk() {
    DESK.set(Some(Vec::new()));
}

/// Does what lies on this thread's desk.
pub fn clear_desk() {
    let take = || DESK.with_borrow_mut(|desk| desk.as_mut().map(|desk| (desk.len(), desk.pop())));
    let mut alone = None;
    while let Some((count, Some(shared))) = take() {
        // Several logs sync side by side, on their own threads.
        shared.drive_here(*alone.get_or_insert(count == 1));
    }
}

/// Sees to it that what was just queued is written.
pub(crate) fn call_writer(shared: &Arc<Shared>, state: &mut State) {
    let calm = state.parked && state.queue.len() == 1 && shared.calm.load(Ordering::Relaxed) == CALM_PLANS;
    let lay = |desk: &mut Option<Vec<Arc<Shared>>>| desk.as_mut().map(|desk| desk.push(shared.clone())).is_some();
    match calm && DESK.with_borrow_mut(lay) {
        true => state.on_desk = true,
        false => shared.ring_bell(state),
    }
}

impl Shared {
    fn drive_here(&self, alone: bool) {
        let pen = self.pen.get().and_then(Weak::upgrade);
        let writer = pen.as_ref().filter(|_| alone).and_then(|pen| pen.try_lock());
        {
            let mut state = self.state.lock();
            if !std::mem::take(&mut state.on_desk) {
                return;
            }
            if writer.is_none() {
                return self.ring_bell(&mut state);
            }
        }
        let Some(mut writer) = writer else { return };
        if let Step::Write(plan) = writer.take() {
            turn(&mut writer, plan);
        }
        // The idle mark is left to the log's own thread.
        let mut state = self.state.lock();
        if state.parked_for_good {
            self.ring_bell(&mut state);
        }
    }
}

/// Performs a plan, reports it, and keeps count of calm.
fn turn(writer: &mut Writer, plan: Plan) {
    let small = plan.entries() <= SMALL_ENTRIES;
    let began = Instant::now();
    let result = writer.perform(&plan);
    let calm = &writer.shared.calm;
    match small && began.elapsed() < AT_ONCE {
        true => calm.store((calm.load(Ordering::Relaxed) + 1).min(CALM_PLANS), Ordering::Relaxed),
        false => calm.store(0, Ordering::Relaxed),
    }
    writer.done(plan, result);
}

/// The writer on a thread of its own, until the log is closed or fails.
pub fn spawn_writer_thread(writer: Writer, name: String) -> io::Result<JoinHandle<()>> {
    let shared = writer.shared.clone();
    let writer = Arc::new(Mutex::new(writer));
    let _ = shared.pen.set(Arc::downgrade(&writer));
    std::thread::Builder::new().name(name).spawn(move || {
        loop {
            let mut held = writer.lock();
            let mark_due = match held.take() {
                Step::Write(plan) => {
                    turn(&mut held, plan);
                    continue;
                }
                Step::Closed => return,
                Step::Idle { mark_due } => mark_due,
            };
            let (patience, plans) = (held.patience(mark_due), held.plans);
            drop(held);
            if !wait(&shared, patience) {
                continue;
            }
            let mut held = writer.lock();
            if held.plans == plans
                && let Some(plan) = held.idle(mark_due)
            {
                turn(&mut held, plan);
            }
        }
    })
}

/// Blocks until something is queued, or for so long. True: nothing came.
fn wait(shared: &Shared, limit: Option<Duration>) -> bool {
    let mut state = shared.state.lock();
    if state.has_work() {
        return false;
    }
    (state.parked, state.parked_for_good) = (true, limit.is_none());
    let timed_out = match limit {
        Some(limit) => shared.wake.wait_for(&mut state, limit).timed_out(),
        None => {
            shared.wake.wait(&mut state);
            false
        }
    };
    (state.parked, state.parked_for_good) = (false, false);
    timed_out && !state.has_work()
}

/// The writer as a task, on simulated time. `pause` models the latency of the disk: it is awaited
/// before a plan is performed and once more before it is reported.
pub async fn drive_writer<P>(mut writer: Writer, mut pause: P)
where
    P: FnMut(&Plan) -> Pin<Box<dyn Future<Output = ()> + Send>>,
{
    let shared = writer.shared.clone();
    loop {
        let plan = match writer.take() {
            Step::Write(plan) => plan,
            Step::Closed => return,
            Step::Idle { mark_due } => {
                if !park(&shared) {
                    continue;
                }
                let woken = match writer.patience(mark_due) {
                    Some(patience) => tokio::time::timeout(patience, shared.notify.notified()).await.is_ok(),
                    None => {
                        shared.notify.notified().await;
                        true
                    }
                };
                match (!woken).then(|| writer.idle(mark_due)).flatten() {
                    Some(plan) => plan,
                    None => continue,
                }
            }
        };
        let watched = shared.options.sync_watch.as_ref().map(|watch| watch.begins());
        pause(&plan).await;
        let result = writer.perform(&plan);
        pause(&plan).await;
        drop(watched);
        writer.done(plan, result);
    }
}

/// Says that the writer is about to wait for `notify`. False: there is something to do.
fn park(shared: &Shared) -> bool {
    let mut state = shared.state.lock();
    state.parked = !state.has_work();
    state.parked
}
