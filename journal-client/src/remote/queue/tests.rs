//! The books of an appender against every server that may be.

use super::*;
use futures::FutureExt;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What a server and its connection may do to an appender, step by step.
#[derive(Debug, Clone)]
enum Step {
    Push {
        count: usize,
        urgent: bool,
        large: bool,
    },
    Open,
    Take,
    Commit(usize),
    Reject(usize, Reason),
    Unknown(usize),
    Leave,
    /// The stream ends with its last word.
    EndWell(Reason),
    /// The connection is gone; the server may have taken some of what was under way.
    Lose(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    let reason = prop::sample::select(vec![
        Reason::Moved,
        Reason::NotLeader,
        Reason::NoRoom,
        Reason::Rate,
        Reason::BadChecksum,
        Reason::StreamEnded,
        Reason::Forbidden,
    ]);
    prop_oneof![
        3 => (1..5usize, any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(count, urgent, large)| Step::Push { count, urgent, large }),
        3 => Just(Step::Open),
        5 => Just(Step::Take),
        5 => (1..6usize).prop_map(Step::Commit),
        2 => (0..4usize, reason.clone()).prop_map(|(n, reason)| Step::Reject(n, reason)),
        1 => (1..3usize).prop_map(Step::Unknown),
        1 => Just(Step::Leave),
        2 => reason.prop_map(Step::EndWell),
        1 => (0..4usize).prop_map(Step::Lose),
    ]
}

/// A journal at the far end of the queue, and everybody who waits for an answer.
struct World {
    queue: Arc<Queue>,
    stream: Option<u64>,
    wire: VecDeque<u32>,
    journal: BTreeMap<u64, u32>,
    next_position: u64,
    tickets: Vec<Ticket>,
    alive: bool,
}

const LIMIT: usize = 100;

impl World {
    fn new(kind: Kind) -> Self {
        World {
            queue: Queue::new(kind, JournalId(1), 200, 1 << 20),
            stream: None,
            wire: VecDeque::new(),
            journal: BTreeMap::new(),
            next_position: 1,
            tickets: Vec::new(),
            alive: true,
        }
    }

    fn commit(&mut self, count: usize) -> Option<(u64, u64)> {
        let count = count.min(self.wire.len());
        let first = self.next_position;
        for id in self.wire.drain(..count) {
            self.journal.insert(self.next_position, id);
            self.next_position += 1;
        }
        (count > 0).then(|| (first, self.next_position - 1))
    }

    fn finish(&mut self, end: End) {
        self.wire.clear();
        self.stream = None;
        self.alive = self.queue.finish(end) == Next::Another;
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push { count, urgent, large } => {
                let first = self.tickets.len() as u32;
                let entries = (first..first + count as u32).map(|id| {
                    let mut payload = id.to_be_bytes().to_vec();
                    payload.resize(if large { LIMIT + 1 } else { 10 }, 0);
                    Entry { urgent, ..Entry::new(payload) }
                });
                let pushed = self.queue.push_all(entries.collect()).now_or_never();
                self.tickets.extend(pushed.expect("the budget is ample"));
            }
            Step::Open if self.stream.is_none() && self.alive => {
                self.stream = Some(self.queue.begin());
                self.queue.open(LIMIT as u64, 300);
            }
            Step::Take => {
                let Some(stream) = self.stream else { return };
                let mut cx = Context::from_waker(Waker::noop());
                if let Poll::Ready(Some(request)) = self.queue.poll_take(stream, &mut cx) {
                    assert!(!request.entries.is_empty());
                    for entry in request.entries {
                        assert!(entry.payload.len() <= LIMIT, "too large, and sent");
                        let id = entry.payload[..4].try_into().expect("four bytes");
                        self.wire.push_back(u32::from_be_bytes(id));
                    }
                }
            }
            Step::Commit(count) if self.stream.is_some() => {
                if let Some((first, last)) = self.commit(count) {
                    self.queue.committed(first, last).expect("a good answer");
                }
            }
            Step::Reject(count, reason) if self.stream.is_some() => {
                let count = count.min(self.wire.len());
                self.wire.drain(..count);
                let why = Refusal::new(reason, "");
                self.queue.rejected(count as u64, why).expect("a good answer");
            }
            Step::Unknown(count) if self.stream.is_some() => {
                let count = count.min(self.wire.len());
                if count > 0 {
                    self.wire.drain(..count);
                    self.queue.unknown(count as u64, "".into()).expect("a good answer");
                }
            }
            Step::Leave if self.stream.is_some() => self.queue.leave(),
            Step::EndWell(reason) if self.stream.is_some() => {
                self.finish(End::Refused(Refusal::new(reason, "")));
            }
            Step::Lose(taken) if self.stream.is_some() => {
                self.commit(taken);
                self.finish(End::Lost("".into()));
            }
            _ => {}
        }
    }

    /// Answers everything that is left, on a stream where nothing goes wrong.
    fn settle(&mut self) {
        if self.stream.is_some() {
            self.finish(End::Refused(Refusal::new(Reason::Moved, "")));
        }
        if self.alive {
            self.step(Step::Open);
            for _ in 0..1000 {
                self.step(Step::Take);
                self.step(Step::Commit(1000));
            }
            self.finish(End::Lost("".into()));
        }
    }
}

fn check(kind: Kind, steps: Vec<Step>) {
    let mut world = World::new(kind);
    steps.into_iter().for_each(|step| world.step(step));
    world.settle();
    let ids: Vec<u32> = world.journal.values().copied().collect();
    let mut once = ids.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), ids.len(), "an entry is in the journal twice: {ids:?}");
    if kind == Kind::Own {
        assert_eq!(once, ids, "out of order");
    }
    for (id, ticket) in world.tickets.into_iter().enumerate() {
        let at = world.journal.iter().find(|(_, there)| **there == id as u32);
        let at = at.map(|(position, _)| Position(*position));
        match ticket.now_or_never().expect("an entry without an answer") {
            Ok(position) => assert_eq!(Some(position), at, "entry {id}"),
            Err(AppendError::Rejected(why)) => {
                assert_eq!(at, None, "entry {id} was rejected ({why:?}) and is there");
            }
            Err(AppendError::Unknown(_)) => {}
        }
    }
    let whole = world.queue.budget_bytes;
    assert_eq!(world.queue.budget.available_permits(), whole, "bytes are lost");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn one_callers_entries_are_answered_truly_and_keep_their_order(
        steps in prop::collection::vec(any_step(), 1..60),
    ) {
        check(Kind::Own, steps);
    }

    #[test]
    fn many_callers_entries_are_answered_truly(
        steps in prop::collection::vec(any_step(), 1..60),
    ) {
        check(Kind::Shared, steps);
    }

    #[test]
    fn an_answer_that_fits_nothing_is_refused(
        first in any::<u64>(), last in any::<u64>(), count in any::<u64>(),
    ) {
        let mut world = World::new(Kind::Shared);
        world.step(Step::Push { count: 2, urgent: false, large: false });
        world.step(Step::Open);
        world.step(Step::Take);
        let fits = first > 0 && last >= first && last - first < 2;
        prop_assert_eq!(world.queue.committed(first, last).is_ok(), fits);
        prop_assume!(!fits);
        prop_assert_eq!(world.queue.unknown(count, String::new()).is_ok(), (1..=2).contains(&count));
    }
}

#[test]
fn what_is_left_of_an_old_stream_takes_nothing() {
    let mut world = World::new(Kind::Shared);
    world.step(Step::Open);
    let old = world.stream.expect("it is open");
    world.finish(End::Lost("".into()));
    world.step(Step::Open);
    world.step(Step::Push { count: 1, urgent: false, large: false });
    let mut cx = Context::from_waker(Waker::noop());
    assert!(matches!(world.queue.poll_take(old, &mut cx), Poll::Ready(None)));
    let new = world.stream.expect("it is open");
    assert!(matches!(world.queue.poll_take(new, &mut cx), Poll::Ready(Some(_))));
}

#[test]
fn a_message_is_never_larger_than_the_server_takes() {
    let entry_bytes_max = 1000;
    let queue = Queue::new(Kind::Shared, JournalId(1), 256 << 10, 1 << 20);
    let stream = queue.begin();
    let entries = (0..100).map(|_| Entry::new(vec![0; 300])).collect();
    let tickets = queue.push_all(entries).now_or_never().expect("the budget is ample");
    queue.open(entry_bytes_max, 1 << 20);
    let mut cx = Context::from_waker(Waker::noop());
    let mut taken = 0;
    while let Poll::Ready(Some(request)) = queue.poll_take(stream, &mut cx) {
        let bytes = prost::Message::encoded_len(&request);
        // What a server takes is its largest entry, and what lies around it.
        assert!(bytes <= entry_bytes_max as usize + ENTRY_OVERHEAD, "{bytes} bytes");
        assert!(request.entries.len() > 1, "and not much smaller either");
        taken += request.entries.len();
    }
    assert!(taken > 0);
    drop(tickets);
}
