//! Watches: who wants which keys, what just happened, and how both come together.
//!
//! The applier publishes each batch to the [`Hub`], which hands every event to the sessions that want
//! it. A session's queue is bounded: one that does not keep up falls behind, and reads what it missed
//! from the log until it has caught up. Nobody is dropped, and nobody holds up apply.
//!
//! Never: an event twice or not at all on a watch, one revision split over two batches, a progress
//! before the events that it covers, or progress that goes back.

mod event;
mod intervals;
mod session;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

pub use event::{Event, Frame, key_value};
use intervals::Intervals;
pub use intervals::Keys;
use session::Queue;
pub use session::{Behind, Created, Item, Session, Style};

use crate::mvcc::{At, Revision, Row};

/// Bytes of recent events that are kept for those who are a little behind.
const RING_BYTES_MAX: usize = 16 << 20;
/// Events that one session may have queued; then its watchers fall behind.
const QUEUE_BYTES_MAX: usize = 4 << 20;

/// Names a watcher among all sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatcherKey {
    session: u64,
    id: i64,
}

/// What a watcher asked for.
#[derive(Debug, Clone)]
pub struct Wish {
    pub keys: Keys,
    /// The first revision that it wants.
    pub from: Revision,
    pub no_put: bool,
    pub no_delete: bool,
    pub prev_kv: bool,
    pub progress: bool,
    pub fragment: bool,
}

impl Wish {
    /// Whatever comes next, and no more than that.
    pub fn plain(keys: Keys) -> Wish {
        Wish { keys, from: 0, no_put: false, no_delete: false, prev_kv: false, progress: false, fragment: false }
    }

    pub fn wants(&self, row: &Row) -> bool {
        row.at.main >= self.from && !(if row.is_tombstone() { self.no_delete } else { self.no_put })
    }
}

/// Where a watcher stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It is handed every event as it is published.
    Synced,
    /// It has been handed everything before this revision; its session reads the rest.
    Behind(Revision),
}

#[derive(Debug)]
struct Watcher {
    wish: Wish,
    standing: Standing,
    /// The last revision of which it was handed an event.
    handed: Revision,
    /// It is not told progress below this: what it asked for, 0 if that was whatever comes next.
    progress_from: Revision,
}

impl Watcher {
    /// Whether it may be told that it has everything up to this revision.
    fn has_all(&self, revision: Revision) -> bool {
        self.standing == Standing::Synced && self.progress_from <= revision
    }
}

/// Everybody who watches. Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Mutex<State>>);

struct State {
    /// Everything up to here has been handed out.
    revision: Revision,
    watchers: BTreeMap<WatcherKey, Watcher>,
    synced: Intervals<WatcherKey>,
    sessions: BTreeMap<u64, Arc<Queue>>,
    next_session: u64,
    ring: VecDeque<Arc<Event>>,
    ring_bytes: usize,
    /// The lowest revision that the ring has all events of, and of all later ones.
    ring_from: Revision,
    /// Watchers that want prompt progress, by the key they begin at.
    prompted: BTreeMap<Bytes, BTreeSet<WatcherKey>>,
    /// Where of those somebody was shown more than has been handed out.
    awaited: BTreeSet<Bytes>,
}

/// What one publication hands to one session: all of it at once, so that no revision is ever split.
#[derive(Default)]
struct Staged {
    items: Vec<Item>,
    bytes: usize,
}

impl Hub {
    /// `revision` is what the store has: watchers of the past read it from there.
    pub fn new(revision: Revision) -> Hub {
        Hub(Arc::new(Mutex::new(State {
            revision,
            watchers: BTreeMap::new(),
            synced: Intervals::default(),
            sessions: BTreeMap::new(),
            next_session: 1,
            ring: VecDeque::new(),
            ring_bytes: 0,
            ring_from: revision + 1,
            prompted: BTreeMap::new(),
            awaited: BTreeSet::new(),
        })))
    }

    /// Hands out what was applied and can be read: every row of every revision up to `revision`, in
    /// order. `prev` finds the version that a row replaced; it is asked at once for whoever is handed
    /// it, since a compaction may take that version away before the event is sent.
    pub fn publish<E>(
        &self,
        rows: Vec<Row>,
        revision: Revision,
        prev: impl Fn(&Row) -> Result<Option<Row>, E>,
    ) -> Result<(), E> {
        let mut state = self.0.lock();
        let mut staged = BTreeMap::new();
        for row in rows {
            debug_assert!(row.at.main > state.revision && row.at.main <= revision);
            let event = Event::new(row);
            if state.hand_out(&event, &mut staged) {
                event.with_prev(&prev)?;
            }
            state.remember(event);
        }
        state.revision = revision;
        let mut woken = Vec::with_capacity(staged.len());
        for (session, Staged { items, bytes }) in staged {
            let queue = &state.sessions[&session];
            queue.push_all(items, bytes);
            woken.push(queue.clone());
        }
        // Behind the events that it covers.
        for start in std::mem::take(&mut state.awaited) {
            state.tell_progress(&start, &mut woken);
        }
        drop(state);
        woken.iter().for_each(|queue| queue.wake());
        Ok(())
    }

    /// A consistent list, which was shown `revision`, waits for the cache that watches this very key:
    /// its watchers that asked for progress are told at once that nothing is missing. What is applied is
    /// shown a moment before it is handed out; then they are told with the events.
    pub fn prompt(&self, start: &[u8], revision: Revision) {
        let mut state = self.0.lock();
        let mut woken = Vec::new();
        if revision <= state.revision {
            state.tell_progress(start, &mut woken);
        } else if let Some((start, _)) = state.prompted.get_key_value(start) {
            let start = start.clone();
            state.awaited.insert(start);
        }
        drop(state);
        woken.iter().for_each(|queue| queue.wake());
    }

    pub fn revision(&self) -> Revision {
        self.0.lock().revision
    }

    /// Watchers, and those of them that are behind.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.0.lock();
        let behind = state.watchers.values().filter(|watcher| watcher.standing != Standing::Synced).count();
        (state.watchers.len(), behind)
    }

    pub fn sessions(&self) -> usize {
        self.0.lock().sessions.len()
    }
}

impl State {
    /// Tells those who watch from this key, want progress and have all that it covers.
    fn tell_progress(&self, start: &[u8], woken: &mut Vec<Arc<Queue>>) {
        for key in self.prompted.get(start).into_iter().flatten() {
            if self.watchers[key].has_all(self.revision) {
                let queue = &self.sessions[&key.session];
                queue.push_progress(key.id, self.revision);
                woken.push(queue.clone());
            }
        }
    }

    /// Stages an event for every synced watcher that wants it. Says whether one of them wants the
    /// version before it.
    fn hand_out(&mut self, event: &Arc<Event>, staged: &mut BTreeMap<u64, Staged>) -> bool {
        let State { synced, watchers, sessions, .. } = self;
        let main = event.row.at.main;
        let mut full = Vec::new();
        let mut with_prev = false;
        synced.find(&event.row.key, |key| {
            let watcher = watchers.get_mut(&key).expect("whoever is found is a watcher");
            if !watcher.wish.wants(&event.row) {
                return;
            }
            let staged = staged.entry(key.session).or_default();
            // One revision goes in whole once it has begun.
            let room = staged.bytes + sessions[&key.session].bytes() < QUEUE_BYTES_MAX;
            if room || watcher.handed == main {
                watcher.handed = main;
                with_prev |= watcher.wish.prev_kv;
                staged.bytes += event.size();
                session::join(&mut staged.items, key.id, &watcher.wish, event.clone());
            } else {
                full.push(key);
            }
        });
        for key in full {
            let watcher = self.watchers.get_mut(&key).expect("it was found among the synced");
            watcher.standing = Standing::Behind(main);
            self.synced.remove(&watcher.wish.keys, key);
            self.sessions[&key.session].mark_behind();
            staged.entry(key.session).or_default();
        }
        with_prev
    }

    fn insert(&mut self, key: WatcherKey, watcher: Watcher) {
        match watcher.standing {
            Standing::Synced => self.synced.insert(&watcher.wish.keys, key),
            Standing::Behind(_) => self.sessions[&key.session].mark_behind(),
        }
        if watcher.wish.progress {
            self.prompted.entry(watcher.wish.keys.start.clone()).or_default().insert(key);
        }
        self.watchers.insert(key, watcher);
    }

    fn remove(&mut self, key: WatcherKey) -> bool {
        let Some(watcher) = self.watchers.remove(&key) else { return false };
        if watcher.standing == Standing::Synced {
            self.synced.remove(&watcher.wish.keys, key);
        }
        if let Some(keys) = self.prompted.get_mut(&watcher.wish.keys.start) {
            keys.remove(&key);
            if keys.is_empty() {
                self.prompted.remove(&watcher.wish.keys.start);
            }
        }
        true
    }

    fn remember(&mut self, event: Arc<Event>) {
        self.ring_bytes += event.size();
        self.ring.push_back(event);
        while self.ring_bytes > RING_BYTES_MAX {
            let Some(oldest) = self.ring.pop_front() else { break };
            self.ring_bytes -= oldest.size();
            // Of its revision something is missing now.
            self.ring_from = oldest.row.at.main + 1;
        }
    }

    /// The events of the ring from this revision on, if it has them all.
    fn recent(&self, from: Revision) -> Option<impl Iterator<Item = &Arc<Event>>> {
        if from < self.ring_from {
            return None;
        }
        let first = self.ring.partition_point(|event| event.row.at < At::start_of(from));
        Some(self.ring.range(first..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_shown_more_than_was_handed_out_makes_progress_come_with_it_and_behind_it() {
        let hub = Hub::new(1);
        let mut session = Session::open(&hub);
        let keys = Keys::of_request(Bytes::from_static(b"a/"), Bytes::from_static(b"a0")).unwrap();
        session.create(0, Wish { progress: true, ..Wish::plain(keys) });
        session.take();

        // However often.
        hub.prompt(b"a/", 1);
        hub.prompt(b"a/", 1);
        assert!(matches!(session.take().0[..], [Item::Progress { revision: 1, .. }]));

        hub.prompt(b"a/", 2);
        hub.prompt(b"b/", 2);
        assert!(session.take().0.is_empty());
        let row = |main, key: &'static str| Row {
            at: At::start_of(main),
            key: key.as_bytes().into(),
            value: Bytes::new(),
            create: main,
            version: 1,
            lease: 0,
        };
        hub.publish(vec![row(2, "a/1")], 2, |_| Ok::<_, ()>(None)).unwrap();
        assert!(matches!(session.take().0[..], [Item::Events { .. }, Item::Progress { revision: 2, .. }]));
        hub.publish(vec![row(3, "c")], 3, |_| Ok::<_, ()>(None)).unwrap();
        assert!(session.take().0.is_empty());
    }
}
