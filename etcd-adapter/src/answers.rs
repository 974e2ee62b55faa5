//! The memory of answers: while they are made, and until their clients have taken them.
//!
//! One budget for all connections. An answer asks for its bytes before it is made. If there are none it
//! is given up, waits with nothing in hand, and is made anew. Small answers have a part of the budget to
//! themselves: none waits for a large one. One that is larger than the whole budget is made when no other
//! large one is there.
//!
//! Whoever holds what others wait for must take it: a client that takes nothing for [`PATIENCE`], or much
//! too little for what it holds, loses its answer. While nobody waits it may take its time.
//!
//! Not counted: answers of at most [`TINY_BYTES`], values that a range is only sorted by, what a connection has in its buffer for writing, and what
//! watches are told, whose queues have bounds of their own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::meters::Count;

/// Answers have one part in so many of the memory that this process may use.
const SHARE: usize = 8;
/// The least budget, and the one of a machine that does not say what it has.
const BYTES_MIN: usize = 64 << 20;
/// Small answers have one part in so many of the budget.
const SMALL_SHARE: usize = 4;
const SMALL_BYTES: usize = 128 << 10;
/// What fits into a frame or two is not worth counting.
pub const TINY_BYTES: usize = 16 << 10;
/// Others wait so long for a client that takes nothing of its answer.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// And so long for a call that waited, has its turn, and does not go on: its connection may be full.
const ABSENCE: Duration = Duration::from_secs(1);
/// One that takes less in a second is as good as one that takes nothing ...
const RATE_MIN: u64 = 256 << 10;
/// ... and so is one that would take longer than this for its whole answer.
const WHOLE_WITHIN_S: u64 = 20;
/// Between two looks, by those who wait, at those who hold.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What answers may take on this machine, or in this container.
pub fn share_of_memory() -> usize {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<usize>().ok();
    let machine = || {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(total.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? << 10)
    };
    let limits =
        [number("/sys/fs/cgroup/memory.max"), number("/sys/fs/cgroup/memory/memory.limit_in_bytes"), machine()];
    limits.into_iter().flatten().min().map_or(BYTES_MIN, |bytes| (bytes / SHARE).max(BYTES_MIN))
}

/// There was no room in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

/// The budget. Cheap to clone.
#[derive(Clone)]
pub struct Budget(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// Answers that their clients lost because they did not take them.
    lost: Count,
}

struct State {
    small: Lane,
    large: Lane,
    /// Those who hold something, by their number.
    holders: BTreeMap<u64, Arc<Sending>>,
    next: u64,
    /// One look serves all who wait.
    looked: Option<Instant>,
}

/// Answers of one kind.
struct Lane {
    bytes_max: usize,
    held: usize,
    /// In the order in which they came.
    waiting: VecDeque<Waiter>,
}

struct Waiter {
    bytes: usize,
    sending: Arc<Sending>,
    /// It wants nothing any more, even if it cannot say so.
    until: Instant,
}

impl Lane {
    fn new(bytes_max: usize) -> Lane {
        Lane { bytes_max, held: 0, waiting: VecDeque::new() }
    }

    /// Whether so much fits beside what others hold. Alone, anything does.
    fn fits(&self, bytes: usize, own: usize) -> bool {
        let others = self.held - own;
        others == 0 || others + bytes <= self.bytes_max
    }
}

impl State {
    fn lane(&mut self, small: bool) -> &mut Lane {
        if small { &mut self.small } else { &mut self.large }
    }
}

impl Budget {
    pub fn new(bytes_max: usize) -> Budget {
        let small = bytes_max / SMALL_SHARE;
        let (small, large) = (Lane::new(small), Lane::new(bytes_max - small));
        let state = State { small, large, holders: BTreeMap::new(), next: 0, looked: None };
        Budget(Arc::new(Inner { state: Mutex::new(state), lost: Count::default() }))
    }

    /// Bytes that are held.
    pub fn held(&self) -> usize {
        let state = self.0.state.lock();
        state.small.held + state.large.held
    }

    /// Answers that wait for room.
    pub fn waiting(&self) -> usize {
        let state = self.0.state.lock();
        state.small.waiting.len() + state.large.waiting.len()
    }

    pub fn bytes_max(&self) -> usize {
        let state = self.0.state.lock();
        state.small.bytes_max + state.large.bytes_max
    }

    /// Answers that were lost, ever.
    pub fn lost(&self) -> u64 {
        self.0.lost.get()
    }

    /// For an answer that is about to be made.
    pub fn claim(&self) -> Claim {
        Claim { budget: Some(self.clone()), sending: None, asked: 0, share: None, refused: false }
    }

    /// For a piece of an answer that is sent piece by piece.
    pub fn claim_of(&self, sending: &Arc<Sending>) -> Claim {
        Claim { sending: Some(sending.clone()), ..self.claim() }
    }

    /// Takes so much, or makes what is held that much, unless others were here before.
    fn take(&self, bytes: usize, share: &mut Option<Share>, sending: &Arc<Sending>) -> bool {
        let small = bytes <= SMALL_BYTES;
        let mut state = self.0.state.lock();
        let own = share.as_ref().filter(|share| share.small == small).map_or(0, |share| share.bytes);
        let lane = state.lane(small);
        if !lane.waiting.is_empty() || !lane.fits(bytes, own) {
            return false;
        }
        match share {
            None => *share = Some(self.admit(&mut state, bytes, sending)),
            Some(share) => {
                state.lane(share.small).held -= share.bytes;
                state.lane(small).held += bytes;
                (share.bytes, share.small) = (bytes, small);
            }
        }
        true
    }

    fn admit(&self, state: &mut State, bytes: usize, sending: &Arc<Sending>) -> Share {
        let small = bytes <= SMALL_BYTES;
        state.lane(small).held += bytes;
        let number = state.next;
        state.next += 1;
        state.holders.insert(number, sending.clone());
        Share { budget: self.clone(), number, bytes, small }
    }

    /// Puts somebody among those who wait, unless he is there, or was let in.
    fn queue(&self, bytes: usize, sending: &Arc<Sending>, until: Instant) {
        let mut state = self.0.state.lock();
        if !sending.waits.load(Ordering::Relaxed) && sending.given.lock().is_none() {
            sending.waits.store(true, Ordering::Relaxed);
            let waiter = Waiter { bytes, sending: sending.clone(), until };
            state.lane(bytes <= SMALL_BYTES).waiting.push_back(waiter);
        }
        drop(state);
        self.let_in();
    }

    /// Lets those in who wait and fit, the first first.
    fn let_in(&self) {
        let mut state = self.0.state.lock();
        for small in [true, false] {
            loop {
                let lane = state.lane(small);
                // Whoever wants nothing any more and could not say so keeps nobody waiting, either.
                let expired = |first: &Waiter| first.until < Instant::now();
                if !lane.waiting.front().is_some_and(|first| lane.fits(first.bytes, 0) || expired(first)) {
                    break;
                }
                let Some(waiter) = lane.waiting.pop_front() else { break };
                waiter.sending.waits.store(false, Ordering::Relaxed);
                if !expired(&waiter) {
                    let share = self.admit(&mut state, waiter.bytes, &waiter.sending);
                    waiter.sending.give(share);
                }
            }
        }
    }

    /// Whoever waited does so no longer, whether or not he was let in.
    fn leave(&self, sending: &Arc<Sending>) {
        let mut state = self.0.state.lock();
        if sending.waits.swap(false, Ordering::Relaxed) {
            let State { small, large, .. } = &mut *state;
            for lane in [small, large] {
                lane.waiting.retain(|waiter| !Arc::ptr_eq(&waiter.sending, sending));
            }
        }
        drop(state);
        drop(sending.fetch());
        self.let_in();
    }

    /// Takes from those who hold and do not take.
    fn look(&self) {
        let now = Instant::now();
        let overdue: Vec<_> = {
            let mut state = self.0.state.lock();
            if state.looked.is_some_and(|looked| now < looked + LOOK_EVERY) {
                return;
            }
            state.looked = Some(now);
            state.holders.values().filter(|sending| sending.is_overdue(now)).cloned().collect()
        };
        for sending in overdue {
            // Whoever was let in and is not there waits anew once he comes.
            if sending.fetch().is_some() {
                continue;
            }
            match sending.lose(now) {
                None => continue,
                Some(first) => self.0.lost.add(u64::from(first)),
            }
            let waker = sending.waker.lock().clone();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// Bytes of the budget. Dropping it gives them back.
struct Share {
    budget: Budget,
    number: u64,
    bytes: usize,
    small: bool,
}

impl Share {
    fn shrink(&mut self, bytes: usize) {
        {
            let mut state = self.budget.0.state.lock();
            let less = self.bytes.saturating_sub(bytes);
            state.lane(self.small).held -= less;
            self.bytes -= less;
        }
        self.budget.let_in();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        {
            let mut state = self.budget.0.state.lock();
            state.lane(self.small).held -= self.bytes;
            state.holders.remove(&self.number);
        }
        self.budget.let_in();
    }
}

/// How the sending of an answer goes.
#[derive(Default)]
pub struct Sending {
    /// Until when it is patiently waited for its client; each byte that it takes puts that off. Nothing
    /// while the answer is being made.
    until: Mutex<Option<Instant>>,
    /// What its client must take in a second, once others wait.
    rate: AtomicU64,
    lost: AtomicBool,
    /// It is among those who wait. Written under the budget's lock.
    waits: AtomicBool,
    /// Who is to hear that it was lost.
    waker: Mutex<Option<Waker>>,
    /// What he who waited was given, until he fetches it.
    given: Mutex<Option<Share>>,
    admitted: Notify,
}

impl Sending {
    fn give(&self, share: Share) {
        *self.given.lock() = Some(share);
        self.wait_for(ABSENCE);
        self.admitted.notify_one();
    }

    fn fetch(&self) -> Option<Share> {
        let given = self.given.lock().take();
        if given.is_some() {
            *self.until.lock() = None;
        }
        given
    }

    fn wait_for(&self, patience: Duration) {
        let mut until = self.until.lock();
        *until = (*until).max(Some(Instant::now() + patience));
    }

    /// The client took so much.
    pub fn sent(&self, bytes: usize) {
        let mut until = self.until.lock();
        let now = Instant::now();
        let more = Duration::from_millis(bytes as u64 * 1000 / self.rate.load(Ordering::Relaxed).max(RATE_MIN));
        *until = until.map(|until| (until.max(now) + more).min(now + PATIENCE));
    }

    fn is_overdue(&self, now: Instant) -> bool {
        self.until.lock().is_some_and(|until| until < now)
    }

    /// Nothing if it was fetched or taken from meanwhile; else it is lost, and whether that is news.
    fn lose(&self, now: Instant) -> Option<bool> {
        let until = self.until.lock();
        until.is_some_and(|until| until < now).then(|| !self.lost.swap(true, Ordering::AcqRel))
    }

    /// Others wait for the memory of this answer, and its client has not taken it: it is to be dropped.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    pub fn tell(&self, waker: Waker) {
        *self.waker.lock() = Some(waker.clone());
        if self.is_lost() {
            waker.wake();
        }
    }
}

/// What an answer holds until its client has taken it. Clones hold the same.
#[derive(Clone)]
pub struct Held {
    sending: Arc<Sending>,
    _share: Option<Arc<Share>>,
}

impl Held {
    /// Of an answer whose pieces hold what they take by themselves.
    pub fn by_pieces(sending: &Arc<Sending>) -> Held {
        Held { sending: sending.clone(), _share: None }
    }

    pub fn sending(&self) -> &Sending {
        &self.sending
    }
}

/// An answer's asking for memory, while it is made.
///
/// Whoever makes it asks before each part. Once he was refused he makes nothing more, and goes on
/// asking, so that what the whole takes is known; then he waits, and begins again.
pub struct Claim {
    budget: Option<Budget>,
    /// Once there is something to send.
    sending: Option<Arc<Sending>>,
    asked: usize,
    share: Option<Share>,
    refused: bool,
}

impl Claim {
    /// Of somebody who answers no client.
    pub fn unbounded() -> Claim {
        Claim { budget: None, sending: None, asked: 0, share: None, refused: false }
    }

    /// Asks for so much more. False: there is no room, and nothing may be made.
    pub fn grow(&mut self, bytes: usize) -> bool {
        self.asked = self.asked.saturating_add(bytes);
        let Some(budget) = &self.budget else { return true };
        if self.refused {
            return false;
        }
        let held = self.share.as_ref().map_or(TINY_BYTES, |share| share.bytes);
        if self.asked > held {
            let sending = self.sending.get_or_insert_default();
            if !budget.take(self.asked, &mut self.share, sending) {
                self.refused = true;
                self.share = None;
            }
        }
        !self.refused
    }

    /// Nothing of what was made is complete.
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    /// The answer is made once more, from its beginning.
    pub fn restart(&mut self) {
        (self.asked, self.refused) = (0, false);
    }

    /// Waits for what was refused.
    pub async fn wait(&mut self, until: Instant) -> Result<(), NoRoom> {
        let Some(budget) = self.budget.clone() else { return Ok(()) };
        let sending = self.sending.get_or_insert_default().clone();
        let _leaving = Leaving(&budget, &sending);
        loop {
            budget.queue(self.asked, &sending, until);
            budget.look();
            let look = until.min(Instant::now() + LOOK_EVERY);
            let _ = timeout_at(look, sending.admitted.notified()).await;
            if let Some(share) = sending.fetch() {
                self.share = Some(share);
                self.restart();
                return Ok(());
            }
            if sending.is_lost() || Instant::now() >= until {
                return Err(NoRoom);
            }
        }
    }

    /// The answer is made, and takes so much until it is sent.
    pub fn made(mut self, bytes: usize) -> Option<Held> {
        let mut share = self.share.take()?;
        share.shrink(bytes);
        let sending = self.sending.take()?;
        sending.rate.store(share.bytes as u64 / WHOLE_WITHIN_S, Ordering::Relaxed);
        sending.wait_for(PATIENCE);
        Some(Held { sending, _share: Some(Arc::new(share)) })
    }
}

/// Whoever waits behind one that gives up has his turn.
struct Leaving<'a>(&'a Budget, &'a Arc<Sending>);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;

    fn held(budget: &Budget, bytes: usize) -> Held {
        let mut claim = budget.claim();
        assert!(claim.grow(bytes));
        claim.made(bytes).unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[tokio::test(start_paused = true)]
    async fn large_answers_wait_in_order_and_small_ones_for_none_of_them() {
        let budget = Budget::new(4 * MIB);
        let first = held(&budget, 2 * MIB);
        let mut large = budget.claim();
        assert!(!large.grow(MIB) || !large.grow(MIB));
        assert!(!large.grow(MIB), "it tells what it needs, and gets nothing");
        assert_eq!((budget.held(), large.asked), (2 * MIB, 3 * MIB));
        let mut waiting = Box::pin(large.wait(soon()));
        assert!(futures::poll!(&mut waiting).is_pending());
        // It would fit, but others were here before.
        assert!(!budget.claim().grow(MIB / 2));
        let small = held(&budget, 64 * KIB);
        assert_eq!((budget.held(), budget.waiting()), (2 * MIB + 64 * KIB, 1));
        drop(first);
        waiting.await.unwrap();
        assert!(large.grow(3 * MIB));
        drop((small, large.made(100 * KIB)));
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_or_goes_away_lets_others_pass() {
        let budget = Budget::new(4 * MIB);
        let first = held(&budget, 2 * MIB);
        let mut long = budget.claim();
        assert!(!long.grow(50 * MIB));
        let mut other = budget.claim();
        {
            let mut gone = Box::pin(long.wait(soon()));
            assert!(futures::poll!(&mut gone).is_pending());
            assert!(!other.grow(MIB));
            let mut waits = std::pin::pin!(other.wait(soon()));
            assert!(futures::poll!(&mut waits).is_pending());
            drop(gone);
            waits.await.unwrap();
        }
        assert_eq!(long.wait(soon()).await, Err(NoRoom), "it is too large for what is left");
        drop((first, other));
        assert_eq!((budget.held(), budget.waiting()), (0, 0));
        // Alone it may.
        assert!(budget.claim().grow(50 * MIB));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_is_lost_once_others_wait_for_it() {
        let budget = Budget::new(4 * MIB);
        let (idle, quick) = (held(&budget, MIB), held(&budget, MIB));
        tokio::time::sleep(10 * PATIENCE).await;
        assert!(!idle.sending().is_lost(), "nobody waits");
        quick.sending().sent(MIB);
        let mut claim = budget.claim();
        assert!(!claim.grow(2 * MIB));
        let mut waits = std::pin::pin!(claim.wait(soon()));
        assert!(futures::poll!(&mut waits).is_pending());
        assert!(idle.sending().is_lost() && !quick.sending().is_lost());
        drop(idle);
        waits.await.unwrap();
        assert_eq!(budget.lost(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_let_in_and_does_not_come_keeps_nobody_out() {
        let budget = Budget::new(4 * MIB);
        let first = held(&budget, 3 * MIB);
        let (mut absent, mut other) = (budget.claim(), budget.claim());
        assert!(!absent.grow(2 * MIB) && !other.grow(2 * MIB));
        let mut never_polled_again = Box::pin(absent.wait(Instant::now() + 10 * PATIENCE));
        assert!(futures::poll!(&mut never_polled_again).is_pending());
        drop(first);
        assert_eq!(budget.held(), 2 * MIB);
        other.wait(Instant::now() + 2 * PATIENCE).await.unwrap();
        // Once he comes he may still have it.
        assert!(futures::poll!(&mut never_polled_again).is_pending());
        drop(other);
        never_polled_again.await.unwrap();
    }
}
