//! Which calls of a connection have something to do. They are polled in its task, and only when woken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use parking_lot::Mutex;

/// The calls that were woken since somebody looked, in the order of their waking.
#[derive(Default)]
pub struct Wakes(Mutex<State>);

#[derive(Default)]
struct State {
    woken: Vec<usize>,
    task: Option<Waker>,
}

impl Wakes {
    /// The task that is to be told.
    pub fn register(&self, task: &Waker) {
        let mut state = self.0.lock();
        if !state.task.as_ref().is_some_and(|known| known.will_wake(task)) {
            state.task = Some(task.clone());
        }
    }

    /// Adds what was woken to `into`, where nothing is woken twice.
    pub fn drain(&self, into: &mut impl Extend<usize>) {
        into.extend(self.0.lock().woken.drain(..));
    }

    fn push(&self, slot: usize) {
        let mut state = self.0.lock();
        state.woken.push(slot);
        // Whoever came before has told the task.
        let task = if state.woken.len() == 1 { state.task.clone() } else { None };
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
    }
}

/// Wakes one slot, whichever call lives there: a late waker costs its successor a look.
pub struct SlotWake {
    wakes: Arc<Wakes>,
    slot: usize,
    queued: AtomicBool,
}

impl SlotWake {
    pub fn new(wakes: &Arc<Wakes>, slot: usize) -> Arc<SlotWake> {
        Arc::new(SlotWake { wakes: wakes.clone(), slot, queued: AtomicBool::new(false) })
    }

    /// Its turn has come: from now on it may be woken again.
    pub fn taken(&self) {
        self.queued.store(false, Ordering::Release);
    }
}

/// Wakes the connection, and is remembered until somebody looks.
pub struct Flag {
    raised: AtomicBool,
    wake: Arc<SlotWake>,
}

impl Flag {
    pub fn new(wake: Arc<SlotWake>) -> Arc<Flag> {
        Arc::new(Flag { raised: AtomicBool::new(false), wake })
    }

    /// Whether it was raised since the last time.
    pub fn taken(&self) -> bool {
        self.raised.load(Ordering::Relaxed) && self.raised.swap(false, Ordering::AcqRel)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.raised.store(true, Ordering::Release);
        self.wake.wake_by_ref();
    }
}

impl Wake for SlotWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.wakes.push(self.slot);
        }
    }
}
