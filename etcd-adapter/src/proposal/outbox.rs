//! What this adapter has said and not seen applied: the rules of at-most-once, from the speaker's side.
//!
//! Pure: no clock, no task, no journal. `proposal/` drives it, the applier tells it what became of
//! entries, and both hold its lock for a moment only.
//!
//! - A number is given to one entry, for ever. An entry is re-sent with the same bytes.
//! - Only what the tail shows is an answer. What a ticket says decides when to re-send, nothing else.
//! - Once a new `Hello` is applied, everything unresolved is certain: it never happened.

use std::collections::VecDeque;

use proto::Position;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Outcome;
use crate::command::Command;
use crate::mvcc::Reply;

/// One command with the one who waits for it, or, of this adapter's own, with the moment at which it is
/// out of date.
pub struct Asked {
    pub command: Command,
    pub bytes: usize,
    pub asker: Asker,
}

pub enum Asker {
    Waits(oneshot::Sender<Outcome>),
    NobodyAfter(Instant),
}

impl Asked {
    /// Whether somebody still wants it.
    pub fn wanted(&self) -> bool {
        match &self.asker {
            Asker::Waits(answer) => !answer.is_closed(),
            Asker::NobodyAfter(until) => Instant::now() < *until,
        }
    }
}

/// An entry that was sent, and not seen applied.
pub struct Sent {
    pub seq: u64,
    pub entry: journal_client::Entry,
    pub commands: Vec<Asked>,
    /// Reads that arrived before this was first sent. They are dropped, and ask elsewhere, when it is
    /// sent again.
    pub riders: Vec<oneshot::Sender<()>>,
    pub first_sent: Instant,
}

/// What the applier tells of an entry that concerns this adapter.
#[derive(Debug)]
pub enum Seen {
    /// An own entry took effect.
    Applied { producer: Position, seq: u64, replies: Vec<Reply> },
    /// An own entry was skipped while its producer lives.
    Skipped { producer: Position, seq: u64, position: Position },
    /// A `Hello` in this adapter's name began a producer.
    Born { nonce: u64, position: Position },
    /// A `Hello` in this adapter's name was not accepted.
    Refused { nonce: u64, current: Position },
    /// The producer in this adapter's name was declared gone.
    Gone { producer: Position },
}

/// What the proposer must do because of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    None,
    /// The own `Hello` was applied: what is unresolved never happened.
    Reborn,
    /// Say `Hello` again.
    MustGreet,
    /// Another process has this adapter's name.
    Replaced,
    /// An entry was skipped that could not be.
    Contradiction {
        seq: u64,
        position: Position,
    },
}

/// The speaker's state.
pub struct Outbox {
    /// The own producer, once its `Hello` was applied and as long as it lives.
    producer: Option<Position>,
    /// The producer that the store has for this adapter's name.
    current: Position,
    /// The nonce of the `Hello` that is under way.
    greeting: Option<u64>,
    /// Nonces that were ours.
    nonces: Vec<u64>,
    seq: u64,
    pub unresolved: VecDeque<Sent>,
    /// Own entries that were skipped: suspicious if they were acknowledged on the stream that first
    /// carried them.
    skipped: VecDeque<(u64, Position)>,
    /// Own entries that the stream that first carried them acknowledged, like all before them on it.
    acknowledged: VecDeque<(u64, Position)>,
    /// The own `Hello` was applied, and what was unresolved before it is not yet taken away.
    unsettled: bool,
}

/// As many skipped entries are remembered; after that they explain nothing any more.
const SKIPPED_MAX: usize = 1024;

impl Outbox {
    pub fn new(current: Position) -> Self {
        Outbox {
            producer: None,
            current,
            greeting: None,
            nonces: Vec::new(),
            seq: 0,
            unresolved: VecDeque::new(),
            skipped: VecDeque::new(),
            acknowledged: VecDeque::new(),
            unsettled: false,
        }
    }

    pub fn producer(&self) -> Option<Position> {
        self.producer
    }

    /// The producer that entries may be numbered for now.
    pub fn speaking_as(&self) -> Option<Position> {
        self.producer.filter(|_| !self.unsettled)
    }

    /// What a `Hello` must say that it replaces.
    pub fn current(&self) -> Position {
        self.current
    }

    pub fn greeting(&self) -> Option<u64> {
        self.greeting
    }

    /// Whether a `Hello` with this nonce was ours.
    pub fn said(&self, nonce: u64) -> bool {
        self.nonces.contains(&nonce)
    }

    /// A `Hello` with this nonce is about to be sent.
    pub fn greet(&mut self, nonce: u64) {
        self.greeting = Some(nonce);
        self.nonces.push(nonce);
    }

    /// The number of the next entry. It will never be given again.
    pub fn number(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// Everything unresolved, once it is certain that it never happened.
    pub fn take_unresolved(&mut self) -> VecDeque<Sent> {
        self.unsettled = false;
        std::mem::take(&mut self.unresolved)
    }

    /// Takes in what the tail showed. Answers of applied entries are appended to `answered`.
    pub fn see(&mut self, seen: Seen, answered: &mut Vec<(Sent, Vec<Reply>)>) -> Turn {
        match seen {
            Seen::Applied { producer, seq, replies } => {
                if self.producer == Some(producer) && self.unresolved.front().is_some_and(|sent| sent.seq == seq) {
                    let sent = self.unresolved.pop_front().expect("it is at the front");
                    answered.push((sent, replies));
                }
                Turn::None
            }
            Seen::Skipped { producer, seq, position } => {
                if self.producer != Some(producer) {
                    return Turn::None;
                }
                remember(&mut self.skipped, (seq, position));
                match self.acknowledged.contains(&(seq, position)) {
                    true => Turn::Contradiction { seq, position },
                    false => Turn::None,
                }
            }
            Seen::Born { nonce, position } => {
                self.current = position;
                if self.nonces.contains(&nonce) {
                    self.producer = Some(position);
                    self.seq = 0;
                    self.skipped.clear();
                    self.acknowledged.clear();
                    self.unsettled = true;
                    if self.greeting == Some(nonce) {
                        self.greeting = None;
                    }
                    return Turn::Reborn;
                }
                match self.producer.take() {
                    Some(_) => Turn::Replaced,
                    // Somebody was faster with this name, before this process ever spoke.
                    None => Turn::MustGreet,
                }
            }
            Seen::Refused { nonce, current } => {
                self.current = current;
                match self.greeting == Some(nonce) && self.producer != Some(current) {
                    true => {
                        self.greeting = None;
                        Turn::MustGreet
                    }
                    false => Turn::None,
                }
            }
            Seen::Gone { producer } => {
                if self.current == producer {
                    self.current = Position::NONE;
                }
                match self.producer == Some(producer) {
                    true => {
                        self.producer = None;
                        Turn::MustGreet
                    }
                    false => Turn::None,
                }
            }
        }
    }

    /// The stream that first carried this entry acknowledged it, and everything before it on that
    /// stream. Then apply takes it, as long as its producer lives: that it was skipped is a
    /// contradiction.
    pub fn acknowledge(&mut self, seq: u64, position: Position) -> Turn {
        remember(&mut self.acknowledged, (seq, position));
        match self.skipped.contains(&(seq, position)) {
            true => Turn::Contradiction { seq, position },
            false => Turn::None,
        }
    }
}

fn remember(list: &mut VecDeque<(u64, Position)>, what: (u64, Position)) {
    list.push_back(what);
    if list.len() > SKIPPED_MAX {
        list.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(seq: u64) -> Sent {
        Sent {
            seq,
            entry: journal_client::Entry::new("x"),
            commands: Vec::new(),
            riders: Vec::new(),
            first_sent: Instant::now(),
        }
    }

    fn born() -> Outbox {
        let mut outbox = Outbox::new(Position::NONE);
        outbox.greet(7);
        assert_eq!(outbox.see(Seen::Born { nonce: 7, position: Position(3) }, &mut Vec::new()), Turn::Reborn);
        outbox
    }

    fn applied(producer: u64, seq: u64) -> Seen {
        Seen::Applied { producer: Position(producer), seq, replies: Vec::new() }
    }

    #[tokio::test]
    async fn an_entry_is_answered_once_however_often_it_arrives() {
        let mut outbox = born();
        let seq = outbox.number();
        outbox.unresolved.push_back(sent(seq));
        let mut answered = Vec::new();
        outbox.see(applied(3, 1), &mut answered);
        outbox.see(applied(3, 1), &mut answered);
        assert_eq!(answered.len(), 1);
        assert!(outbox.unresolved.is_empty());
    }

    #[tokio::test]
    async fn what_another_producer_numbered_the_same_is_not_ours() {
        let mut outbox = born();
        let seq = outbox.number();
        outbox.unresolved.push_back(sent(seq));
        let mut answered = Vec::new();
        outbox.see(applied(2, 1), &mut answered);
        assert!(answered.is_empty());
    }

    #[tokio::test]
    async fn a_foreign_hello_in_our_name_ends_us_only_once_we_live() {
        let foreign = || Seen::Born { nonce: 99, position: Position(9) };
        assert_eq!(born().see(foreign(), &mut Vec::new()), Turn::Replaced);
        let mut unborn = Outbox::new(Position::NONE);
        unborn.greet(7);
        assert_eq!(unborn.see(foreign(), &mut Vec::new()), Turn::MustGreet);
        assert_eq!(unborn.current(), Position(9));
    }

    #[tokio::test]
    async fn a_refused_hello_is_said_again_with_what_there_is_now() {
        let mut outbox = Outbox::new(Position::NONE);
        outbox.greet(7);
        let refused = || Seen::Refused { nonce: 7, current: Position(5) };
        assert_eq!(outbox.see(refused(), &mut Vec::new()), Turn::MustGreet);
        assert_eq!(outbox.current(), Position(5));
        // The duplicate of a Hello that was accepted is refused, too, and means nothing.
        let mut outbox = born();
        let duplicate = Seen::Refused { nonce: 7, current: Position(3) };
        assert_eq!(outbox.see(duplicate, &mut Vec::new()), Turn::None);
    }

    #[tokio::test]
    async fn nothing_is_numbered_before_the_old_numbers_are_settled() {
        let mut outbox = born();
        assert_eq!(outbox.speaking_as(), None);
        outbox.take_unresolved();
        assert_eq!(outbox.speaking_as(), Some(Position(3)));
    }

    #[tokio::test]
    async fn skipping_what_its_first_stream_acknowledged_is_a_contradiction() {
        let skipped = || Seen::Skipped { producer: Position(3), seq: 1, position: Position(5) };
        let contradiction = Turn::Contradiction { seq: 1, position: Position(5) };
        let mut outbox = born();
        assert_eq!(outbox.see(skipped(), &mut Vec::new()), Turn::None);
        assert_eq!(outbox.acknowledge(1, Position(5)), contradiction);
        let mut outbox = born();
        assert_eq!(outbox.acknowledge(1, Position(5)), Turn::None);
        assert_eq!(outbox.see(skipped(), &mut Vec::new()), contradiction);
        // Another copy of it, at another position, is skipped as it must be.
        let mut outbox = born();
        outbox.acknowledge(1, Position(5));
        let copy = Seen::Skipped { producer: Position(3), seq: 1, position: Position(6) };
        assert_eq!(outbox.see(copy, &mut Vec::new()), Turn::None);
    }

    #[tokio::test]
    async fn one_declared_gone_begins_anew_and_its_numbers_too() {
        let mut outbox = born();
        assert_eq!(outbox.number(), 1);
        assert_eq!(outbox.see(Seen::Gone { producer: Position(3) }, &mut Vec::new()), Turn::MustGreet);
        assert_eq!((outbox.producer(), outbox.current()), (None, Position::NONE));
        outbox.greet(8);
        assert_eq!(outbox.see(Seen::Born { nonce: 8, position: Position(12) }, &mut Vec::new()), Turn::Reborn);
        assert_eq!(outbox.number(), 1);
    }
}
