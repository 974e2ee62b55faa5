//! One stream's watchers, and the queue between the hub and the stream.
//!
//! The queue keeps the order in which the hub spoke: what is created is said before its events, what is
//! progress after the events that it covers. Whoever drains it may join the events of one watcher, and
//! must not carry any over something that is no event.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Event, Hub, Standing, Watcher, WatcherKey, Wish};
use crate::mvcc::Revision;

/// What a stream is to tell its client, in order.
#[derive(Debug, Clone)]
pub enum Item {
    /// Events of one watcher, of whole revisions.
    Events {
        watcher: i64,
        events: Vec<Arc<Event>>,
        style: Style,
    },
    Created {
        watcher: i64,
        revision: Revision,
    },
    Canceled {
        watcher: i64,
        revision: Revision,
    },
    /// One watcher has been told everything up to this revision.
    Progress {
        watcher: i64,
        revision: Revision,
    },
    /// All watchers of the stream have. To be said so often: it was asked for so often.
    ProgressOfAll {
        revision: Revision,
        times: usize,
    },
}

/// How a watcher wants its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    pub prev_kv: bool,
    pub fragment: bool,
}

impl Style {
    pub fn of(wish: &Wish) -> Style {
        Style { prev_kv: wish.prev_kv, fragment: wish.fragment }
    }
}

/// Appends an event, joined to those of the same watcher if they come last.
pub fn join(items: &mut Vec<Item>, watcher: i64, wish: &Wish, event: Arc<Event>) {
    match items.last_mut() {
        Some(Item::Events { watcher: last, events, .. }) if *last == watcher => events.push(event),
        _ => items.push(Item::Events { watcher, events: vec![event], style: Style::of(wish) }),
    }
}

/// What became of a request to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    Watcher(i64),
    /// The stream has a watcher of this id.
    Duplicate,
}

/// Between the hub and one stream.
#[derive(Debug, Default)]
pub struct Queue {
    items: Mutex<Vec<Item>>,
    bytes: AtomicUsize,
    /// Whether some watcher of the stream may be behind.
    behind: AtomicBool,
    wake: Notify,
}

impl Queue {
    pub fn push(&self, item: Item) {
        self.items.lock().push(item);
    }

    /// Between two events the last word of a watcher's progress is enough: a client that does not read
    /// is owed no more of them than it has watchers.
    pub fn push_progress(&self, of: i64, upto: Revision) {
        let mut items = self.items.lock();
        for item in items.iter_mut().rev() {
            match item {
                Item::Progress { watcher, revision } if *watcher == of => return *revision = upto,
                Item::Progress { .. } => {}
                _ => break,
            }
        }
        items.push(Item::Progress { watcher: of, revision: upto });
    }

    pub fn push_all(&self, more: Vec<Item>, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut items = self.items.lock();
        match items.is_empty() {
            true => *items = more,
            false => items.extend(more),
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn mark_behind(&self) {
        self.behind.store(true, Ordering::Release);
    }

    pub fn wake(&self) {
        self.wake.notify_one();
    }

    fn drain(&self) -> Vec<Item> {
        let mut items = self.items.lock();
        self.bytes.store(0, Ordering::Relaxed);
        std::mem::take(&mut *items)
    }
}

/// A watcher that is behind, the revision that it needs next, and what it wants.
pub type Behind = (i64, Revision, Wish);

/// One stream, as the hub knows it. Dropping it ends its watchers.
pub struct Session {
    hub: Hub,
    number: u64,
    queue: Arc<Queue>,
    next_id: i64,
    /// Watchers that ended without their client's wish: their ids are taken until it cancels them too.
    ended: BTreeSet<i64>,
}

impl Session {
    pub fn open(hub: &Hub) -> Session {
        let queue = Arc::new(Queue::default());
        let mut state = hub.0.lock();
        let number = state.next_session;
        state.next_session += 1;
        state.sessions.insert(number, queue.clone());
        drop(state);
        Session { hub: hub.clone(), number, queue, next_id: 0, ended: BTreeSet::new() }
    }

    /// Watches. `wish.from` of 0 means what comes next. Id 0 leaves the choice to the session.
    pub fn create(&mut self, id: i64, mut wish: Wish) -> Created {
        let mut state = self.hub.0.lock();
        let key = |id| WatcherKey { session: self.number, id };
        let taken = |id| state.watchers.contains_key(&key(id)) || self.ended.contains(&id);
        let id = match id {
            0 => {
                while taken(self.next_id) {
                    self.next_id += 1;
                }
                let id = self.next_id;
                self.next_id += 1;
                id
            }
            id if taken(id) => return Created::Duplicate,
            id => id,
        };
        let revision = state.revision;
        let progress_from = wish.from;
        if wish.from == 0 {
            wish.from = revision + 1;
        }
        let standing = if wish.from > revision { Standing::Synced } else { Standing::Behind(wish.from) };
        state.insert(key(id), Watcher { wish, standing, handed: 0, progress_from });
        self.queue.push(Item::Created { watcher: id, revision });
        drop(state);
        self.queue.wake();
        Created::Watcher(id)
    }

    /// Ends a watch; says so behind what is queued for it. Nothing, if there is none of this id.
    pub fn cancel(&mut self, id: i64) -> bool {
        let mut state = self.hub.0.lock();
        let revision = state.revision;
        let removed = state.remove(WatcherKey { session: self.number, id }) || self.ended.remove(&id);
        if removed {
            self.queue.push(Item::Canceled { watcher: id, revision });
        }
        drop(state);
        self.queue.wake();
        removed
    }

    /// Ends a watch whose end the stream tells in its own words.
    pub fn forget(&mut self, id: i64) {
        self.hub.0.lock().remove(WatcherKey { session: self.number, id });
        self.ended.insert(id);
    }

    /// Queues a progress for the whole stream, so many times, if all its watchers have been handed everything
    /// that they want up to now.
    pub fn progress_of_all(&self, times: usize) {
        let state = self.hub.0.lock();
        let revision = state.revision;
        if self.own(&state).next().is_some() && self.own(&state).all(|(_, watcher)| watcher.has_all(revision)) {
            self.queue.push(Item::ProgressOfAll { revision, times });
        }
        drop(state);
        self.queue.wake();
    }

    /// Queues a progress for each of these watchers that has been handed everything up to now.
    pub fn progress_of(&self, ids: impl IntoIterator<Item = i64>) {
        let state = self.hub.0.lock();
        let revision = state.revision;
        for id in ids {
            let watcher = state.watchers.get(&WatcherKey { session: self.number, id });
            if watcher.is_some_and(|watcher| watcher.has_all(revision)) {
                self.queue.push_progress(id, revision);
            }
        }
        drop(state);
        self.queue.wake();
    }

    /// Waits until there may be something to drain.
    pub async fn woken(&self) {
        self.queue.wake.notified().await;
    }

    /// What is queued, and who is behind it: what the latter miss comes after everything queued.
    pub fn take(&self) -> (Vec<Item>, Vec<Behind>) {
        if !self.queue.behind.load(Ordering::Acquire) {
            return (self.queue.drain(), Vec::new());
        }
        let state = self.hub.0.lock();
        let behind: Vec<_> = self
            .own(&state)
            .filter_map(|(key, watcher)| match watcher.standing {
                Standing::Synced => None,
                Standing::Behind(from) => Some((key.id, from, watcher.wish.clone())),
            })
            .collect();
        self.queue.behind.store(!behind.is_empty(), Ordering::Release);
        (self.queue.drain(), behind)
    }

    /// Each of these watchers has been handed everything before its revision. Who finds the rest among
    /// what is recent is handed that too, and is behind no longer.
    pub fn caught_up(&self, watchers: impl IntoIterator<Item = (i64, Revision)>) {
        let mut state = self.hub.0.lock();
        let mut staged = (Vec::new(), 0);
        for (id, next) in watchers {
            self.hand_recent(&mut state, id, next, &mut staged);
        }
        self.queue.push_all(staged.0, staged.1);
        drop(state);
        self.queue.wake();
    }

    /// The same, for watchers just taken. Answers those for whom what is recent does not go back far
    /// enough.
    pub fn catch_up_recent(&self, behind: Vec<Behind>) -> Vec<Behind> {
        let mut state = self.hub.0.lock();
        let mut staged = (Vec::new(), 0);
        let still: Vec<_> =
            behind.into_iter().filter(|(id, from, _)| !self.hand_recent(&mut state, *id, *from, &mut staged)).collect();
        self.queue.push_all(staged.0, staged.1);
        drop(state);
        self.queue.wake();
        still
    }

    /// Makes a watcher synced, if it can be done with what is recent.
    fn hand_recent(
        &self,
        state: &mut super::State,
        id: i64,
        next: Revision,
        (items, bytes): &mut (Vec<Item>, usize),
    ) -> bool {
        let key = WatcherKey { session: self.number, id };
        let Some(watcher) = state.watchers.get(&key) else { return true };
        let wish = watcher.wish.clone();
        let recent = state.recent(next);
        let synced = recent.is_some() || next > state.revision;
        for event in recent.into_iter().flatten() {
            if wish.keys.contains(&event.row.key) && wish.wants(&event.row) {
                *bytes += event.size();
                join(items, id, &wish, event.clone());
            }
        }
        let standing = if synced { Standing::Synced } else { Standing::Behind(next) };
        if synced {
            state.synced.insert(&wish.keys, key);
        }
        state.watchers.get_mut(&key).expect("it was there a moment ago").standing = standing;
        synced
    }

    /// Makes [`Session::woken`] return once more.
    pub fn wake(&self) {
        self.queue.wake();
    }

    fn own<'a>(&self, state: &'a super::State) -> impl Iterator<Item = (&'a WatcherKey, &'a Watcher)> + use<'a> {
        let (first, last) =
            (WatcherKey { session: self.number, id: i64::MIN }, WatcherKey { session: self.number, id: i64::MAX });
        state.watchers.range(first..=last)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut state = self.hub.0.lock();
        let ids: Vec<_> = self.own(&state).map(|(key, _)| key.id).collect();
        for id in ids {
            state.remove(WatcherKey { session: self.number, id });
        }
        state.sessions.remove(&self.number);
    }
}
