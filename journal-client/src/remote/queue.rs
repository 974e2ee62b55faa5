//! The entries of one appender: those that wait, those that were sent, and who waits for which
//! answer. Pure bookkeeping under one lock; it knows nothing of sockets.
//!
//! Its one duty is honesty. An entry is *sent* from the moment that it is taken for a message, and
//! from then on only the server can say that it is not in the journal. Until then it is certain that
//! it is not. So entries are taken as late as can be: when the connection asks for more bytes, and
//! fewer than [`SMALL_MESSAGES`] are without an answer. That is also how batches come about:
//! whatever waits by then goes into one message. One caller never waits, many share what a message
//! costs on its way through four processes, and no timer decides.
//!
//! Invariants: `returned`, then `sent`, then `waiting` hold the entries in the order of the calls;
//! every entry is answered exactly once; `sent_bytes` is what `sent` costs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use proto::journal as wire;
use proto::{JournalId, Position};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{Duration, Instant};

use crate::error::{AppendError, Reason, Refusal};
use crate::journal::{Entry, Ticket};

/// What an entry costs beside its payload: its fields on the wire, its place here.
const ENTRY_OVERHEAD: usize = 64;

/// Messages without an answer that let the next one go, however small it is.
const SMALL_MESSAGES: usize = 2;
/// A message of that size goes at once.
const LARGE_MESSAGE_BYTES: usize = 64 << 10;

/// Whose entries these are, and so what becomes of those that a leader rejected unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One caller's, in order. Only a suffix that the leader rejected because it moves away is sent
    /// again; the first entry that is otherwise not committed ends the appender.
    Own,
    /// Of many callers who have no order among themselves. Whatever was rejected for a reason that
    /// is the node's, not the entry's, is sent again; whatever nobody waits for any more, and was
    /// not sent yet, is forgotten.
    Shared,
}

/// How one append stream ended.
#[derive(Debug)]
pub(super) enum End {
    /// The server ended it with a refusal: what it has not answered, it has not taken.
    Refused(Refusal),
    /// Anything else. What was sent and not answered may be in the journal.
    Lost(String),
}

/// Whether the appender can go on with another stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Another,
    Nothing,
}

pub(super) struct Queue {
    kind: Kind,
    journal: JournalId,
    message_bytes_max: usize,
    /// Bytes that may be without an answer, waiting or sent.
    budget: Semaphore,
    budget_bytes: usize,
    state: Mutex<State>,
    /// Told when there is something to do for whoever opens streams.
    wanted: Notify,
}

struct State {
    phase: Phase,
    /// Numbers the streams, so that what is left of an old one takes nothing.
    stream: u64,
    returned: VecDeque<Pending>,
    returned_why: Option<Refusal>,
    sent: VecDeque<Pending>,
    sent_bytes: usize,
    /// How many entries of each message of the stream are still without an answer, oldest first.
    messages: VecDeque<usize>,
    waiting: Waiting,
    /// The owner will append nothing more.
    closed: bool,
    /// Why nothing is accepted any more.
    ended: Option<Refusal>,
    /// An entry was rejected or is unknown, and was not given back to be sent again: an own
    /// appender cannot go on without leaving it out.
    broken: bool,
    /// Whether the first entry that the present stream rejected is an urgent one.
    rejects_urgent: Option<bool>,
    last_position: Position,
    taker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No stream, or one that the server has not opened yet: nothing may be taken.
    Idle,
    Open {
        entry_bytes_max: usize,
        inflight_bytes_max: usize,
    },
    /// The stream takes nothing more; what it was given is still to be answered.
    Leaving,
}

struct Pending {
    entry: Entry,
    /// What it took from the budget, and gives back when it is answered.
    charged: usize,
    since: Instant,
    answer: oneshot::Sender<Result<Position, AppendError>>,
}

impl Pending {
    fn cost(&self) -> usize {
        cost(&self.entry)
    }
}

fn cost(entry: &Entry) -> usize {
    entry.payload.len() + ENTRY_OVERHEAD
}

impl Queue {
    pub fn new(kind: Kind, journal: JournalId, message_bytes_max: usize, budget_bytes: usize) -> Arc<Self> {
        let budget_bytes = budget_bytes.clamp(1, u32::MAX as usize);
        Arc::new(Queue {
            kind,
            journal,
            message_bytes_max,
            budget: Semaphore::new(budget_bytes),
            budget_bytes,
            state: Mutex::new(State {
                phase: Phase::Idle,
                stream: 0,
                returned: VecDeque::new(),
                returned_why: None,
                sent: VecDeque::new(),
                sent_bytes: 0,
                messages: VecDeque::new(),
                waiting: Waiting::default(),
                closed: false,
                ended: None,
                broken: false,
                rejects_urgent: None,
                last_position: Position::NONE,
                taker: None,
            }),
            wanted: Notify::new(),
        })
    }

    // ---- the callers' side -----------------------------------------------------------------

    /// Queues one entry, once there is room for it.
    pub async fn push(&self, entry: Entry) -> Ticket {
        let charged = self.reserve(cost(&entry)).await;
        let (answer, ticket) = Ticket::new();
        self.enqueue([Pending { entry, charged, since: Instant::now(), answer }].into_iter());
        ticket
    }

    /// Queues entries, all at once and in order, once there is room for them.
    pub async fn push_all(&self, entries: Vec<Entry>) -> Vec<Ticket> {
        let mut reserved = self.reserve(entries.iter().map(cost).sum()).await;
        let since = Instant::now();
        let mut tickets = Vec::with_capacity(entries.len());
        let mut pending = Vec::with_capacity(entries.len());
        for entry in entries {
            let (answer, ticket) = Ticket::new();
            tickets.push(ticket);
            let charged = cost(&entry).min(reserved);
            reserved -= charged;
            pending.push(Pending { entry, charged, since, answer });
        }
        self.enqueue(pending.into_iter());
        tickets
    }

    /// Nothing more will be appended. What was, is still sent and answered.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let taker = state.taker.take();
        drop(state);
        self.wanted.notify_one();
        wake(taker);
    }

    /// Takes bytes out of the budget until their answers give them back. A batch larger than the
    /// whole budget takes all of it.
    async fn reserve(&self, bytes: usize) -> usize {
        let bytes = bytes.min(self.budget_bytes);
        let permits = u32::try_from(bytes).expect("the budget fits 32 bits");
        let permit = self.budget.acquire_many(permits).await;
        permit.expect("the budget is never closed").forget();
        bytes
    }

    fn enqueue(&self, pending: impl ExactSizeIterator<Item = Pending>) {
        let mut state = self.state.lock();
        if let Some(refusal) = state.ended.clone() {
            drop(state);
            self.answer(rejected(pending, &refusal));
            return;
        }
        pending.for_each(|pending| state.waiting.push_back(pending));
        let idle = state.phase == Phase::Idle;
        let taker = if state.is_held() { None } else { state.taker.take() };
        drop(state);
        if idle {
            self.wanted.notify_one();
        }
        wake(taker);
    }

    // ---- the stream's side -----------------------------------------------------------------

    /// Begins a stream; answers its number. It takes nothing until it is open.
    pub fn begin(&self) -> u64 {
        let mut state = self.state.lock();
        assert!(state.sent.is_empty(), "the last stream was not finished");
        state.phase = Phase::Idle;
        state.broken = false;
        state.rejects_urgent = None;
        state.stream += 1;
        state.stream
    }

    /// The server is ready for the present stream's entries.
    pub fn open(&self, entry_bytes_max: u64, inflight_bytes_max: u64) {
        let mut state = self.state.lock();
        let returned = std::mem::take(&mut state.returned);
        state.waiting.put_before(returned);
        state.returned_why = None;
        state.phase = Phase::Open {
            entry_bytes_max: usize::try_from(entry_bytes_max).unwrap_or(usize::MAX),
            inflight_bytes_max: usize::try_from(inflight_bytes_max).unwrap_or(usize::MAX),
        };
        let taker = state.taker.take();
        drop(state);
        wake(taker);
    }

    /// The present stream is to send nothing more.
    pub fn leave(&self) {
        let mut state = self.state.lock();
        let taker = state.leave();
        drop(state);
        wake(taker);
    }

    /// The next message of stream `stream`: all that waits, as far as it fits.
    pub fn poll_take(&self, stream: u64, cx: &mut Context<'_>) -> Poll<Option<wire::AppendRequest>> {
        let mut answers = Vec::new();
        let polled = self.state.lock().poll_take(self, stream, cx, &mut answers);
        self.answer(answers);
        polled
    }

    /// Whether the present stream has entries without an answer.
    pub fn unanswered(&self) -> bool {
        !self.state.lock().sent.is_empty()
    }

    /// Entries that were sent and are not answered, and bytes of whatever is not.
    pub fn under_way(&self) -> (usize, usize) {
        let sent = self.state.lock().sent.len();
        (sent, self.budget_bytes.saturating_sub(self.budget.available_permits()))
    }

    /// The server says that the oldest entries sent are in the journal.
    pub fn committed(&self, first: u64, last: u64) -> Result<(), String> {
        let count = last.checked_sub(first).and_then(|n| n.checked_add(1));
        let mut state = self.state.lock();
        if first <= state.last_position.0 {
            return Err(format!("position {first} answered after {}", state.last_position));
        }
        let taken = state.answered(count)?;
        state.last_position = Position(last);
        // An entry behind a rejected one got in: the rejected ones have lost their place.
        state.broken |= !state.returned.is_empty();
        let taker = if state.waiting.is_empty() { None } else { state.taker.take() };
        drop(state);
        let mut bytes = 0;
        for (pending, position) in taken.into_iter().zip(first..) {
            bytes += pending.charged;
            // A caller who has gone away wants no answer.
            let _ = pending.answer.send(Ok(Position(position)));
        }
        self.budget.add_permits(bytes);
        wake(taker);
        Ok(())
    }

    /// The server says that the oldest entries sent are not in the journal and never will be. The
    /// stream sends nothing more.
    pub fn rejected(&self, count: u64, why: Refusal) -> Result<(), String> {
        let mut state = self.state.lock();
        let taken = if count == 0 { Vec::new() } else { state.answered(Some(count))? };
        let answers = state.reject(self.kind, taken, why);
        let taker = state.leave();
        drop(state);
        self.answer(answers);
        wake(taker);
        Ok(())
    }

    /// The server does not know what becomes of the oldest entries sent.
    pub fn unknown(&self, count: u64, why: String) -> Result<(), String> {
        let mut state = self.state.lock();
        let taken = state.answered(Some(count))?;
        state.broken = true;
        let taker = state.leave();
        drop(state);
        self.answer(unknown(taken, why));
        wake(taker);
        Ok(())
    }

    /// The present stream is over: answers what it leaves unanswered, and says whether the appender
    /// can go on.
    pub fn finish(&self, end: End) -> Next {
        let mut state = self.state.lock();
        let left: Vec<Pending> = state.sent.drain(..).collect();
        state.sent_bytes = 0;
        state.messages.clear();
        let mut answers = match end {
            End::Refused(why) => state.reject(self.kind, left, why),
            End::Lost(why) => {
                state.broken |= !left.is_empty();
                unknown(left, why)
            }
        };
        state.phase = Phase::Idle;
        state.stream += 1;
        let taker = state.taker.take();
        let next = match self.kind {
            Kind::Shared => {
                let returned = std::mem::take(&mut state.returned);
                state.waiting.put_before(returned);
                Next::Another
            }
            Kind::Own if state.broken => {
                answers.extend(state.end(stream_ended()));
                Next::Nothing
            }
            Kind::Own => Next::Another,
        };
        drop(state);
        self.answer(answers);
        wake(taker);
        next
    }

    // ---- the driver's side -----------------------------------------------------------------

    /// Returns when entries wait for a stream, or the owner is gone.
    pub async fn wanted(&self) -> Wanted {
        loop {
            {
                let state = self.state.lock();
                if !state.waiting.is_empty() || !state.returned.is_empty() {
                    return Wanted::Stream;
                }
                if state.closed || state.ended.is_some() {
                    return Wanted::Nothing;
                }
            }
            self.wanted.notified().await;
        }
    }

    /// When the oldest entry that was not sent began to wait.
    pub fn oldest(&self) -> Option<Instant> {
        let state = self.state.lock();
        state.returned.front().or(state.waiting.first()).map(|pending| pending.since)
    }

    /// Rejects what waits for longer than `patience`.
    pub fn expire(&self, patience: Duration, why: &Refusal) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let mut answers = Vec::new();
        while let Some(first) = state.waiting.first() {
            if first.since + patience > now {
                break;
            }
            let first = state.waiting.pop_front().expect("it was just looked at");
            answers.push((first, AppendError::Rejected(why.clone())));
        }
        drop(state);
        self.answer(answers);
    }

    /// Rejects everything that waits, and goes on accepting.
    pub fn refuse_waiting(&self, why: &Refusal) {
        let mut state = self.state.lock();
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.answer(rejected(waiting.entries, why));
    }

    /// Ends the appender between two streams: rejects what waits because of `why`, and then
    /// whatever comes.
    pub fn end(&self, why: Refusal) {
        let mut state = self.state.lock();
        let answers = state.end(why);
        drop(state);
        self.answer(answers);
    }

    /// Answers callers, outside the lock, and gives their bytes back.
    fn answer(&self, answers: Answers) {
        let mut bytes = 0;
        for (pending, error) in answers {
            bytes += pending.charged;
            // A caller who has gone away wants no answer.
            let _ = pending.answer.send(Err(error));
        }
        self.budget.add_permits(bytes);
    }
}

/// What the driver of a queue is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Stream,
    Nothing,
}

/// Entries that did not get in, as far as anybody knows.
type Answers = Vec<(Pending, AppendError)>;

/// Entries that were not sent yet, and what they cost.
#[derive(Default)]
struct Waiting {
    entries: VecDeque<Pending>,
    bytes: usize,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn first(&self) -> Option<&Pending> {
        self.entries.front()
    }

    fn push_back(&mut self, pending: Pending) {
        self.bytes += pending.cost();
        self.entries.push_back(pending);
    }

    fn pop_front(&mut self) -> Option<Pending> {
        let first = self.entries.pop_front()?;
        self.bytes -= first.cost();
        Some(first)
    }

    fn put_before(&mut self, mut first: VecDeque<Pending>) {
        if !first.is_empty() {
            self.bytes += first.iter().map(Pending::cost).sum::<usize>();
            first.append(&mut self.entries);
            self.entries = first;
        }
    }
}

impl State {
    /// Whether what waits is to wait for an answer to what was sent, and for company.
    fn is_held(&self) -> bool {
        self.messages.len() >= SMALL_MESSAGES && self.waiting.bytes < LARGE_MESSAGE_BYTES
    }

    fn poll_take(
        &mut self,
        queue: &Queue,
        stream: u64,
        cx: &mut Context<'_>,
        answers: &mut Answers,
    ) -> Poll<Option<wire::AppendRequest>> {
        if stream != self.stream {
            return Poll::Ready(None);
        }
        let (entry_bytes_max, inflight_bytes_max) = match self.phase {
            Phase::Leaving => return Poll::Ready(None),
            Phase::Idle => (0, 0),
            Phase::Open { entry_bytes_max, inflight_bytes_max } => (entry_bytes_max, inflight_bytes_max),
        };
        // No server takes a message larger than its largest entry, and a little more.
        let message_bytes_max = queue.message_bytes_max.min(entry_bytes_max.saturating_add(ENTRY_OVERHEAD));
        let mut entries = Vec::new();
        let mut bytes = 0;
        let may_take = self.phase != Phase::Idle && !self.is_held();
        while may_take && let Some(first) = self.waiting.first() {
            if queue.kind == Kind::Shared && first.answer.is_closed() {
                let first = self.waiting.pop_front().expect("it was just looked at");
                answers.push((first, AppendError::Unknown(String::new())));
                continue;
            }
            if first.entry.payload.len() > entry_bytes_max {
                // Nobody may hear of it: a message of that size would end the stream as a violation,
                // and make everything else under way uncertain.
                if !entries.is_empty() {
                    break;
                }
                let first = self.waiting.pop_front().expect("it was just looked at");
                let why = too_large(first.entry.payload.len(), entry_bytes_max);
                answers.push((first, AppendError::Rejected(why)));
                if queue.kind == Kind::Own {
                    self.broken = true;
                    self.phase = Phase::Leaving;
                    return Poll::Ready(None);
                }
                continue;
            }
            let cost = first.cost();
            let fits_message = entries.is_empty() || bytes + cost <= message_bytes_max;
            let fits_stream = self.sent.is_empty() || self.sent_bytes + cost <= inflight_bytes_max;
            if !fits_message || !fits_stream {
                break;
            }
            let first = self.waiting.pop_front().expect("it was just looked at");
            entries.push(wire::Entry {
                payload: first.entry.payload.clone(),
                crc: first.entry.crc,
                urgent: first.entry.urgent,
            });
            bytes += cost;
            self.sent_bytes += cost;
            self.sent.push_back(first);
        }
        if !entries.is_empty() {
            self.messages.push_back(entries.len());
            // The journal is named by the stream's first message alone.
            return Poll::Ready(Some(wire::AppendRequest { journal_id: 0, entries }));
        }
        if self.closed && self.phase != Phase::Idle && self.waiting.is_empty() {
            return Poll::Ready(None);
        }
        self.taker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Takes the oldest `count` entries sent out of the books.
    fn answered(&mut self, count: Option<u64>) -> Result<Vec<Pending>, String> {
        let sent = self.sent.len();
        let count = count.and_then(|count| usize::try_from(count).ok());
        let Some(count) = count.filter(|count| (1..=sent).contains(count)) else {
            return Err(format!("an answer for {count:?} entries while {sent} are unanswered"));
        };
        let taken: Vec<Pending> = self.sent.drain(..count).collect();
        self.sent_bytes -= taken.iter().map(Pending::cost).sum::<usize>();
        let mut answered = count;
        while let Some(first) = self.messages.front_mut() {
            if *first > answered {
                *first -= answered;
                break;
            }
            answered -= *first;
            self.messages.pop_front();
        }
        Ok(taken)
    }

    /// Decides which rejected entries go on waiting and which are answered.
    fn reject(&mut self, kind: Kind, taken: Vec<Pending>, why: Refusal) -> Answers {
        if why.reason.is_of_the_node() {
            let again = match kind {
                Kind::Own => why.reason == Reason::Moved,
                Kind::Shared => true,
            };
            if again {
                self.returned.extend(taken);
                self.returned_why = Some(why);
                return Vec::new();
            }
            self.broken |= !taken.is_empty();
            return rejected(taken, &why);
        }
        self.broken |= !taken.is_empty();
        let mut answers = Vec::with_capacity(taken.len());
        for pending in taken {
            let is_first = self.rejects_urgent.is_none();
            let first_is_urgent = *self.rejects_urgent.get_or_insert(pending.entry.urgent);
            if is_first || concerns(why.reason, first_is_urgent, pending.entry.urgent) {
                answers.push((pending, AppendError::Rejected(why.clone())));
            } else if kind == Kind::Shared {
                self.returned.push_back(pending);
            } else {
                answers.push((pending, AppendError::Rejected(stream_ended())));
            }
        }
        answers
    }

    fn leave(&mut self) -> Option<Waker> {
        if let Phase::Open { .. } = self.phase {
            self.phase = Phase::Leaving;
        }
        self.taker.take()
    }

    fn end(&mut self, why: Refusal) -> Answers {
        let moved = self.returned_why.take().unwrap_or_else(|| why.clone());
        let mut answers = rejected(std::mem::take(&mut self.returned), &moved);
        answers.extend(rejected(std::mem::take(&mut self.waiting).entries, &why));
        self.ended.get_or_insert_with(stream_ended);
        answers
    }
}

/// The requests of one stream: the journal's name first, then whatever waits, message by message.
pub(super) struct Requests {
    queue: Arc<Queue>,
    stream: u64,
    named: bool,
}

impl Requests {
    pub fn new(queue: Arc<Queue>, stream: u64) -> Self {
        Requests { queue, stream, named: false }
    }
}

impl futures::Stream for Requests {
    type Item = wire::AppendRequest;

    fn poll_next(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !self.named {
            self.named = true;
            let journal_id = self.queue.journal.0;
            return Poll::Ready(Some(wire::AppendRequest { journal_id, entries: Vec::new() }));
        }
        self.queue.poll_take(self.stream, cx)
    }
}

fn wake(taker: Option<Waker>) {
    if let Some(taker) = taker {
        taker.wake();
    }
}

fn rejected(entries: impl IntoIterator<Item = Pending>, why: &Refusal) -> Answers {
    entries.into_iter().map(|p| (p, AppendError::Rejected(why.clone()))).collect()
}

fn unknown(entries: Vec<Pending>, why: String) -> Answers {
    entries.into_iter().map(|p| (p, AppendError::Unknown(why.clone()))).collect()
}

/// A rejection is said of an entry and of all behind it, whatever they are. Whether its reason
/// concerns one of those too.
fn concerns(reason: Reason, first_is_urgent: bool, is_urgent: bool) -> bool {
    match reason {
        Reason::TooLarge | Reason::BadChecksum => false,
        // Ordinary entries are the first to be refused.
        Reason::NoRoom | Reason::Quota => first_is_urgent || !is_urgent,
        Reason::Rate => first_is_urgent == is_urgent,
        _ => true,
    }
}

fn stream_ended() -> Refusal {
    Refusal::new(Reason::StreamEnded, "an entry before this one did not get in")
}

fn too_large(bytes: usize, max: usize) -> Refusal {
    Refusal::new(Reason::TooLarge, format!("an entry of {bytes} bytes; the journal takes at most {max}"))
}

#[cfg(test)]
mod tests;
