//! The task that speaks: says `Hello`, packs and sends entries, sends again what a broken stream left
//! open, gives up what is too old, beats.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use journal_client::{AppendError, Appender, Entry, Journal, Reason, Ticket};
use proto::Position;
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::outbox::{Asked, Asker, Outbox, Sent, Turn};
use super::{Failed, Inbox, Proposer, Shared, WAITING_BYTES_MAX, is_urgent};
use crate::command::{self, Beat, EntryBody, Hello};
use crate::meters::Meters;

/// A batch is at most this long, or one command; less where the journal takes less.
const BATCH_BYTES_MAX: usize = 256 << 10;
/// What an entry holds beside its commands, at most.
const ENVELOPE_BYTES_MAX: usize = 4 << 10;
/// The level that every command known to this program needs.
const COMMANDS_LEVEL: u32 = 1;
/// Entries under way at once: one on the disks, one on its way to them. More would make batches smaller,
/// and each costs every replica.
const IN_FLIGHT_MAX: usize = 2;
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// Between attempts to reach a leader.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(500);
/// After the journal said that it has no room, ordinary commands are refused for so long.
const NO_ROOM_FOR: Duration = Duration::from_secs(1);

/// What an adapter says of itself when it greets.
#[derive(Debug, Clone)]
pub struct Myself {
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
}

/// A ticket, with the number it stands for (0 is the Hello's), whether its entry was never sent before,
/// and since when it is under way.
type Flying = (u64, bool, Instant, Ticket);
type Beats = Box<dyn Fn() -> Beat + Send + Sync>;
type Nonces = Box<dyn FnMut() -> u64 + Send + Sync>;

/// The task. [`Proposals::run`] is its life.
pub struct Proposals {
    shared: Arc<Shared>,
    journal: Arc<dyn Journal>,
    myself: Myself,
    beat: Beats,
    nonce: Nonces,
    meters: Arc<Meters>,
    hello: Option<Entry>,
    beat_due: bool,
    batch_bytes_max: usize,
    /// The present stream has acknowledged something.
    acknowledged: bool,
}

/// Why the task ended by itself.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    #[error("another process has this adapter's name: each needs its own")]
    Replaced,
    #[error("an entry was skipped although its stream carried everything before it: seq {seq} at {position}")]
    Contradiction { seq: u64, position: Position },
}

/// What ended a stream, and what it means for those who wait.
enum Break {
    /// Re-send on another one.
    Stream,
    /// The journal has no room for what was refused.
    NoRoom,
    /// Greet first.
    Greet,
    Fatal(Ended),
}

impl Proposals {
    /// `current` is the producer that the store has for this name; `beat` says how the adapter is, and
    /// `nonce` draws a number that was never drawn before.
    pub fn new(
        journal: Arc<dyn Journal>,
        myself: Myself,
        current: Position,
        timeout: Duration,
        beat: impl Fn() -> Beat + Send + Sync + 'static,
        nonce: impl FnMut() -> u64 + Send + Sync + 'static,
    ) -> (Proposer, Proposals) {
        let shared = Arc::new(Shared {
            inbox: parking_lot::Mutex::new(Inbox::default()),
            outbox: parking_lot::Mutex::new(Outbox::new(current)),
            wake: tokio::sync::Notify::new(),
            budget: Arc::new(Semaphore::new(WAITING_BYTES_MAX)),
            timeout,
        });
        let proposals = Proposals {
            shared: shared.clone(),
            journal,
            myself,
            beat: Box::new(beat),
            nonce: Box::new(nonce),
            meters: Arc::default(),
            hello: None,
            beat_due: true,
            batch_bytes_max: BATCH_BYTES_MAX,
            acknowledged: false,
        };
        (Proposer { shared }, proposals)
    }

    /// Keeps batches so short that the journal takes them: one that it never takes would be sent again for
    /// ever.
    pub fn fit_into(&mut self, entry_bytes_max: u64) {
        let room = usize::try_from(entry_bytes_max).unwrap_or(usize::MAX).saturating_sub(ENVELOPE_BYTES_MAX);
        self.batch_bytes_max = self.batch_bytes_max.min(room);
    }

    /// Measures here what is measured.
    pub fn measured_by(mut self, meters: Arc<Meters>) -> Proposals {
        self.meters = meters;
        self
    }

    /// Speaks until told to stop, or until it must not any more.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Ended> {
        let ended = stop.clone().run_until_cancelled(self.speak()).await;
        Proposer { shared: self.shared }.stop();
        match ended {
            Some(ended) => Err(ended),
            None => Ok(()),
        }
    }

    async fn speak(&mut self) -> Ended {
        let mut pause = RETRY_MIN;
        loop {
            let appender = match self.journal.appender().await {
                Ok(appender) => appender,
                Err(error) => {
                    tracing::debug!("no append stream: {error}");
                    self.forget_unwanted();
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                    continue;
                }
            };
            self.acknowledged = false;
            match self.on_stream(appender).await {
                Break::Fatal(ended) => return ended,
                Break::Greet => self.prepare_hello(),
                Break::NoRoom => {
                    self.shared.inbox.lock().no_room_until = Some(Instant::now() + NO_ROOM_FOR);
                    // What was refused is not in the journal, but its number is spent: only a new
                    // beginning lets deletes pass by it.
                    self.prepare_hello();
                }
                Break::Stream => {}
            }
            self.drop_riders();
            // A stream that carried something broke for a reason that may be over.
            pause = if self.acknowledged { RETRY_MIN } else { (pause * 2).min(RETRY_MAX) };
            sleep(pause).await;
        }
    }

    /// Speaks on one append stream until it ends.
    async fn on_stream(&mut self, appender: Box<dyn Appender>) -> Break {
        if self.must_greet() {
            self.prepare_hello();
        }
        let mut tickets: VecDeque<Flying> = VecDeque::new();
        match &self.hello {
            Some(hello) => self.send(&*appender, &mut tickets, vec![(0, false, hello.clone())]).await,
            None => {
                let again: Vec<_> = {
                    let mut outbox = self.shared.outbox.lock();
                    outbox.unresolved.iter_mut().for_each(|sent| sent.riders.clear());
                    outbox.unresolved.iter().map(|sent| (sent.seq, false, sent.entry.clone())).collect()
                };
                if !again.is_empty() {
                    tracing::info!(entries = again.len(), "sending again what a broken stream left open");
                    self.send(&*appender, &mut tickets, again).await;
                }
            }
        }
        let mut beats = interval(BEAT_EVERY);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shared = self.shared.clone();
        loop {
            let woken = shared.wake.notified();
            if let Some(end) = self.take_turn() {
                return end;
            }
            if tickets.len() < IN_FLIGHT_MAX
                && self.hello.is_none()
                && let Some((seq, entry)) = self.next_entry()
            {
                self.send(&*appender, &mut tickets, vec![(seq, true, entry)]).await;
                continue;
            }
            tokio::select! {
                biased;
                (seq, first, sent, outcome) = next_ticket(&mut tickets) => {
                    self.meters.appends_failed.add(u64::from(outcome.is_err()));
                    match outcome {
                        Ok(position) => {
                            self.acknowledged = true;
                            self.meters.append.observe(sent.elapsed());
                            if first
                                && let Turn::Contradiction { .. } = self.shared.outbox.lock().acknowledge(seq, position)
                            {
                                return Break::Fatal(Ended::Contradiction { seq, position });
                            }
                        }
                        Err(AppendError::Rejected(refusal)) if matches!(refusal.reason, Reason::NoRoom | Reason::Quota) => {
                            tracing::warn!("the journal has no room: {refusal}");
                            return Break::NoRoom;
                        }
                        Err(error) => {
                            tracing::info!("an append stream ended: {error}");
                            self.meters.disconnected.add(1);
                            return Break::Stream;
                        }
                    }
                }
                _ = beats.tick() => {
                    self.beat_due = true;
                    self.forget_unwanted();
                }
                () = woken => {}
            }
        }
    }

    async fn send(&self, appender: &dyn Appender, tickets: &mut VecDeque<Flying>, entries: Vec<(u64, bool, Entry)>) {
        let marks: Vec<_> = entries.iter().map(|(seq, first, _)| (*seq, *first)).collect();
        let began = Instant::now();
        let sent = appender.append(entries.into_iter().map(|(_, _, entry)| entry).collect()).await;
        tickets.extend(marks.into_iter().zip(sent).map(|((seq, first), ticket)| (seq, first, began, ticket)));
    }

    /// What the applier's news ask for.
    fn take_turn(&mut self) -> Option<Break> {
        let turn = self.shared.inbox.lock().turn.take()?;
        match turn {
            Turn::None => None,
            Turn::Replaced => Some(Break::Fatal(Ended::Replaced)),
            Turn::Contradiction { seq, position } => Some(Break::Fatal(Ended::Contradiction { seq, position })),
            Turn::MustGreet => Some(Break::Greet),
            Turn::Reborn => {
                self.hello = None;
                self.beat_due = true;
                self.say_anew();
                None
            }
        }
    }

    /// Whether what is unresolved is too old to be sent again, or nobody knows this producer.
    fn must_greet(&self) -> bool {
        if self.hello.is_some() {
            return false;
        }
        let outbox = self.shared.outbox.lock();
        let oldest = outbox.unresolved.front().map(|sent| sent.first_sent);
        outbox.producer().is_none() || oldest.is_some_and(|oldest| oldest.elapsed() > self.shared.timeout)
    }

    /// Makes a new `Hello`, unless one is under way and was not refused.
    fn prepare_hello(&mut self) {
        let mut outbox = self.shared.outbox.lock();
        if self.hello.is_some() && outbox.greeting().is_some() {
            return;
        }
        let nonce = (self.nonce)();
        let hello = Hello {
            name: self.myself.name.clone(),
            peer_urls: self.myself.peer_urls.clone(),
            client_urls: self.myself.client_urls.clone(),
            nonce,
            replaces: outbox.current(),
            level: command::LEVEL,
        };
        tracing::info!(replaces = %hello.replaces, "saying hello");
        self.hello = Some(Entry::urgent(command::encode(&EntryBody::hello(hello))));
        outbox.greet(nonce);
    }

    /// The own `Hello` was applied: nothing unresolved ever happened. Who still waits is asked for anew,
    /// in order; while there is no room, ordinary commands are told so.
    fn say_anew(&self) {
        let never = self.shared.outbox.lock().take_unresolved();
        let mut inbox = self.shared.inbox.lock();
        let no_room = inbox.no_room_until.is_some_and(|until| until > Instant::now());
        for asked in never.into_iter().rev().flat_map(|sent| sent.commands.into_iter().rev()) {
            if !asked.wanted() {
                continue;
            }
            match asked.asker {
                Asker::Waits(answer) if no_room && !is_urgent(&asked.command) => {
                    let _ = answer.send(Err(Failed::NoRoom));
                }
                asker => inbox.waiting.push_front(Asked { asker, ..asked }),
            }
        }
    }

    /// Packs what waits into the next entry, if anything does.
    fn next_entry(&mut self) -> Option<(u64, Entry)> {
        let mut outbox = self.shared.outbox.lock();
        let producer = outbox.speaking_as()?;
        let (asked, riders) = {
            let mut inbox = self.shared.inbox.lock();
            let asked = take_batch(&mut inbox.waiting, self.batch_bytes_max);
            if asked.is_empty() && !self.beat_due {
                return None;
            }
            (asked, std::mem::take(&mut inbox.riders))
        };
        let seq = outbox.number();
        let beat = std::mem::take(&mut self.beat_due).then(|| (self.beat)());
        let urgent = asked.iter().all(|asked| is_urgent(&asked.command));
        // The commands go into the body, and come back out of it: nothing is copied.
        let (commands, askers): (Vec<_>, Vec<_>) =
            asked.into_iter().map(|asked| (asked.command, (asked.bytes, asked.asker))).unzip();
        let body = EntryBody { producer, seq, level: COMMANDS_LEVEL, beat, commands };
        let payload = command::encode(&body);
        let asked = body.commands.into_iter().zip(askers);
        let asked = asked.map(|(command, (bytes, asker))| Asked { command, bytes, asker }).collect();
        let entry = if urgent { Entry::urgent(payload) } else { Entry::new(payload) };
        let first_sent = Instant::now();
        outbox.unresolved.push_back(Sent { seq, entry: entry.clone(), commands: asked, riders, first_sent });
        Some((seq, entry))
    }

    /// Commands whose callers have gone do not wait for a journal that is away.
    fn forget_unwanted(&self) {
        self.shared.inbox.lock().waiting.retain(Asked::wanted);
    }

    /// An entry that is sent again proves nothing to a read.
    fn drop_riders(&self) {
        self.shared.inbox.lock().riders.clear();
        self.shared.outbox.lock().unresolved.iter_mut().for_each(|sent| sent.riders.clear());
    }
}

/// As many of the commands that are still wanted as fit into one entry.
fn take_batch(waiting: &mut VecDeque<Asked>, bytes_max: usize) -> Vec<Asked> {
    let mut batch: Vec<Asked> = Vec::new();
    let mut bytes = 0;
    while let Some(asked) = waiting.front() {
        let fits = batch.is_empty() || bytes + asked.bytes <= bytes_max;
        if asked.wanted() && !fits {
            break;
        }
        let asked = waiting.pop_front().expect("it is at the front");
        if asked.wanted() {
            bytes += asked.bytes;
            batch.push(asked);
        }
    }
    batch
}

/// The next answer of the stream. Without a ticket, never.
async fn next_ticket(tickets: &mut VecDeque<Flying>) -> (u64, bool, Instant, Result<Position, AppendError>) {
    let outcome = poll_fn(|context| match tickets.front_mut() {
        Some((_, _, _, ticket)) => Pin::new(ticket).poll(context),
        None => std::task::Poll::Pending,
    })
    .await;
    let (seq, first, sent, _) = tickets.pop_front().expect("its outcome has just come");
    (seq, first, sent, outcome)
}

#[cfg(test)]
mod tests {
    use journal_client::MemoryJournal;

    use super::*;
    use crate::command::Command;
    use crate::proposal::SAYING_MAX;

    /// It would end a lease at the first moment after an outage, ahead of every renewal that waits.
    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_lease_that_could_not_be_sent_at_once_is_not_sent_later() {
        let journal = Arc::new(MemoryJournal::new("saying"));
        let myself = Myself { name: "a".into(), peer_urls: Vec::new(), client_urls: Vec::new() };
        let beat = || Beat { applied: Position(1), hash: 0, flushed: Position(1), level: 1, ready: true };
        let (proposer, proposals) = Proposals::new(journal, myself, Position::NONE, Duration::from_secs(7), beat, || 1);
        let expire = Command::Expire { lease: 1, renewed_at: Position(3) };
        let batch = || take_batch(&mut proposals.shared.inbox.lock().waiting, BATCH_BYTES_MAX).len();
        proposer.say(expire.clone());
        assert_eq!(batch(), 1);
        proposer.say(expire);
        tokio::time::advance(SAYING_MAX).await;
        assert_eq!(batch(), 0);
    }

    /// It would be refused and sent again, for ever.
    #[tokio::test]
    async fn no_batch_is_longer_than_an_entry_of_the_journal_may_be() {
        let journal = Arc::new(MemoryJournal::new("saying"));
        let myself = Myself { name: "a".into(), peer_urls: Vec::new(), client_urls: Vec::new() };
        let beat = || Beat { applied: Position(1), hash: 0, flushed: Position(1), level: 1, ready: true };
        let (proposer, mut proposals) =
            Proposals::new(journal, myself, Position::NONE, Duration::from_secs(7), beat, || 1);
        let entry_bytes_max = 128 << 10;
        proposals.fit_into(entry_bytes_max);
        for _ in 0..100 {
            let put = crate::command::Put { value: vec![7; 10 << 10].into(), ..Default::default() };
            proposer.say(Command::Put(put));
        }
        let mut left = 100;
        while left > 0 {
            let batch = take_batch(&mut proposals.shared.inbox.lock().waiting, proposals.batch_bytes_max);
            left -= batch.len();
            let commands = batch.into_iter().map(|asked| asked.command).collect();
            let beat = Some(beat());
            let body = EntryBody { producer: Position(u64::MAX), seq: u64::MAX, level: 1, beat, commands };
            assert!(command::encode(&body).len() as u64 <= entry_bytes_max);
        }
    }
}
