//! At most once: whatever breaks, is delayed, sent again or given up.

use std::collections::{BTreeMap, HashSet, VecDeque};

use bytes::Bytes;
use etcd_adapter::command::*;
use etcd_adapter::mvcc::*;
use proto::Position;

struct NoValues;

impl Values for NoValues {
    fn values(&self, places: &[At]) -> Result<Vec<Bytes>, ValueLost> {
        Err(ValueLost { at: places[0], why: "nothing here compares values".to_owned() })
    }
}

fn hello(name: &str, nonce: u64, replaces: Position) -> EntryBody {
    let url = format!("http://{name}:2380");
    EntryBody::hello(Hello {
        name: name.to_owned(),
        peer_urls: vec![url],
        client_urls: vec![],
        nonce,
        replaces,
        level: 1,
    })
}

fn entry(producer: Position, seq: u64, commands: Vec<Command>) -> EntryBody {
    EntryBody { producer, seq, level: 1, beat: None, commands }
}

fn put(key: u8) -> Command {
    Command::Put(Put { key: vec![b'k', key].into(), ..Put::default() })
}

fn run(state: &mut State, body: &EntryBody) -> Applied {
    let position = state.applied();
    apply(state, position, body, &NoValues).unwrap()
}

fn only(applied: Applied) -> Result<Answer, Refusal> {
    assert_eq!((applied.outcome, applied.replies.len()), (Outcome::Taken, 1));
    applied.replies.into_iter().next().unwrap().result
}

/// How often a command took effect.
fn effects(state: &State, key: u8) -> i64 {
    state.index().latest(&[b'k', key]).map_or(0, |version| version.version)
}

// --- every interleaving -------------------------------------------------------------------------

const COMMANDS: u8 = 2;
const BREAKS_MAX: u8 = 2;
const HELLOS_MAX: u64 = 3;

/// One adapter with some commands to place, its streams to the journal, and the journal.
#[derive(Clone)]
struct World {
    state: State,
    /// The journal, as far as the adapter matters.
    journal: Vec<EntryBody>,
    /// What is under way on each stream, in order. Only the last stream is open; on the others the
    /// adapter has given up hope, but not the network.
    streams: Vec<VecDeque<EntryBody>>,
    adapter: Adapter,
    breaks: u8,
}

/// What the adapter knows, all of it from the tail.
#[derive(Clone, Debug)]
struct Adapter {
    read: State,
    read_to: usize,
    /// The producer it speaks as, once it has seen its hello applied.
    producer: Option<Position>,
    nonce: u64,
    next_seq: u64,
    /// Sent and not seen applied: what must be sent again after a break.
    unresolved: Vec<EntryBody>,
    waiting: Vec<u8>,
    answered: Vec<u8>,
}

impl World {
    fn begin() -> World {
        let read = State::new(1);
        let adapter = Adapter {
            read: read.clone(),
            read_to: 0,
            producer: None,
            nonce: 1,
            next_seq: 1,
            unresolved: vec![],
            waiting: (0..COMMANDS).collect(),
            answered: vec![],
        };
        let mut world = World { state: read, journal: vec![], streams: vec![VecDeque::new()], adapter, breaks: 0 };
        world.send(hello("one", 1, Position::NONE));
        world
    }

    fn send(&mut self, body: EntryBody) {
        self.streams.last_mut().unwrap().push_back(body);
    }

    fn key(&self) -> String {
        let adapter = (&self.adapter.read_to, &self.adapter.producer, &self.adapter.unresolved, &self.adapter.waiting);
        format!("{:?}{:?}{adapter:?}{}{}", self.journal, self.streams, self.breaks, self.adapter.nonce)
    }

    /// Every world that one step can lead to.
    fn steps(&self) -> Vec<World> {
        let mut worlds = Vec::new();
        let mut step = |change: &dyn Fn(&mut World)| {
            let mut world = self.clone();
            change(&mut world);
            worlds.push(world);
        };
        for i in 0..self.streams.len() {
            if !self.streams[i].is_empty() {
                // The next entry gets in; on a broken stream it may as well be lost.
                step(&|world| world.deliver(i));
                if i + 1 < self.streams.len() {
                    step(&|world| drop(world.streams[i].pop_front()));
                }
            }
        }
        if self.adapter.read_to < self.journal.len() {
            step(&|world| world.read_one());
        }
        if self.adapter.producer.is_some() && !self.adapter.waiting.is_empty() {
            step(&|world| world.send_next());
        }
        if self.breaks < BREAKS_MAX {
            step(&|world| world.break_stream());
            if self.adapter.nonce < HELLOS_MAX {
                step(&|world| world.give_up());
            }
        }
        worlds
    }

    fn deliver(&mut self, stream: usize) {
        let body = self.streams[stream].pop_front().unwrap();
        run(&mut self.state, &body);
        self.journal.push(body);
    }

    fn send_next(&mut self) {
        let command = self.adapter.waiting.remove(0);
        let body = entry(self.adapter.producer.unwrap(), self.adapter.next_seq, vec![put(command)]);
        self.adapter.next_seq += 1;
        self.adapter.unresolved.push(body.clone());
        self.send(body);
    }

    /// The stream ends: what is unresolved is sent again, the same, in order.
    fn break_stream(&mut self) {
        self.breaks += 1;
        self.streams.push(VecDeque::new());
        if self.adapter.producer.is_none() {
            self.send(self.adapter.hello());
        }
        for body in self.adapter.unresolved.clone() {
            self.send(body);
        }
    }

    /// The adapter says hello again. What it had under way becomes certain with that.
    fn give_up(&mut self) {
        self.breaks += 1;
        self.adapter.nonce += 1;
        self.adapter.producer = None;
        self.streams.push(VecDeque::new());
        self.send(self.adapter.hello());
    }

    fn read_one(&mut self) {
        let body = &self.journal[self.adapter.read_to];
        self.adapter.read_to += 1;
        let applied = run(&mut self.adapter.read, body);
        self.adapter.note(body, &applied);
    }
}

impl Adapter {
    fn hello(&self) -> EntryBody {
        let current = self.read.member_named("one").and_then(|member| member.producer);
        hello("one", self.nonce, current.unwrap_or(Position::NONE))
    }

    fn note(&mut self, body: &EntryBody, applied: &Applied) {
        if applied.outcome != Outcome::Taken {
            return;
        }
        match &body.commands[0] {
            Command::Hello(hello) if applied.replies[0].result.is_ok() && hello.nonce == self.nonce => {
                self.producer = Some(applied.position);
                self.next_seq = 1;
                // Never to be applied from now on: it can be sent anew.
                for lost in std::mem::take(&mut self.unresolved).iter().rev() {
                    let Command::Put(put) = &lost.commands[0] else { panic!("only puts are sent") };
                    self.waiting.insert(0, put.key[1]);
                }
            }
            Command::Put(put) => {
                assert!(!self.answered.contains(&put.key[1]), "answered twice");
                self.answered.push(put.key[1]);
                self.unresolved.retain(|other| other != body);
            }
            _ => {}
        }
    }
}

/// Two commands, two breaks or give-ups, everything delayed or lost as the network pleases.
#[test]
fn no_interleaving_of_breaks_delays_and_give_ups_applies_a_command_twice_or_out_of_order() {
    let mut seen = HashSet::new();
    let mut worlds = vec![World::begin()];
    let mut ended = 0;
    let mut effective = BTreeMap::new();
    while let Some(world) = worlds.pop() {
        for command in 0..COMMANDS {
            let effects = effects(&world.state, command);
            assert!(effects <= 1, "a command took effect {effects} times: {:#?}", world.journal);
            let answered = world.adapter.answered.contains(&command);
            assert!(!answered || effects == 1, "an answered command has no effect: {:#?}", world.journal);
        }
        assert!(effects(&world.state, 0) >= effects(&world.state, 1), "out of order: {:#?}", world.journal);
        let next = world.steps();
        if next.is_empty() {
            ended += 1;
            *effective.entry(world.adapter.answered.len()).or_insert(0) += 1;
        }
        worlds.extend(next.into_iter().filter(|world| seen.insert(world.key())));
    }
    // The walk went somewhere, and ended with everything placed among other ways.
    assert!(seen.len() > 1000 && ended > 10, "{} worlds, {ended} ends", seen.len());
    assert!(effective.contains_key(&(COMMANDS as usize)), "{effective:?}");
}

// --- the rules one by one -----------------------------------------------------------------------

#[test]
fn only_the_next_entry_of_a_live_producer_is_taken() {
    let mut state = State::new(1);
    run(&mut state, &hello("one", 1, Position::NONE));
    let producer = Position(1);
    let outcome = |state: &mut State, seq| run(state, &entry(producer, seq, vec![put(seq as u8)])).outcome;
    assert_eq!(outcome(&mut state, 2), Outcome::Skipped(Skipped::Early { expected: 1 }));
    assert_eq!(outcome(&mut state, 1), Outcome::Taken);
    assert_eq!(outcome(&mut state, 1), Outcome::Skipped(Skipped::Repeated));
    assert_eq!(outcome(&mut state, 2), Outcome::Taken);
    assert_eq!(run(&mut state, &entry(Position(9), 1, vec![])).outcome, Outcome::Skipped(Skipped::NotLive));
    assert_eq!(run(&mut state, &entry(Position::NONE, 0, vec![put(1)])).outcome, Outcome::Skipped(Skipped::Misplaced));
    assert_eq!((effects(&state, 1), effects(&state, 2)), (1, 1));
}

#[test]
fn a_skipped_entry_leaves_no_trace_but_the_position() {
    let mut state = State::new(1);
    run(&mut state, &hello("one", 1, Position::NONE));
    let before = state.hash();
    let skipped = run(&mut state, &entry(Position(1), 5, vec![put(1)]));
    assert_eq!((skipped.hash, skipped.changes.len(), skipped.replies.len()), (before, 0, 0));
    assert_eq!(state.applied(), Position(3));
}

#[test]
fn a_hello_is_a_compare_and_set_that_ends_its_predecessor() {
    let mut state = State::new(1);
    let first = only(run(&mut state, &hello("one", 1, Position::NONE))).unwrap();
    assert_eq!(only(run(&mut state, &hello("one", 2, Position::NONE))), Err(Refusal::HelloOutdated));
    assert_eq!(only(run(&mut state, &hello("one", 2, Position(9)))), Err(Refusal::HelloOutdated));
    let second = only(run(&mut state, &hello("one", 3, Position(1)))).unwrap();
    assert_eq!(first, second, "the member stays the same");
    assert_eq!(run(&mut state, &entry(Position(1), 1, vec![put(1)])).outcome, Outcome::Skipped(Skipped::NotLive));
    assert_eq!(run(&mut state, &entry(Position(4), 1, vec![put(1)])).outcome, Outcome::Taken);
}

/// A hello that was delayed must not begin a ghost after its producer has gone.
#[test]
fn a_nonce_is_good_for_one_hello() {
    let mut state = State::new(1);
    run(&mut state, &hello("one", 1, Position::NONE));
    run(&mut state, &hello("two", 2, Position::NONE));
    let gone = Command::Gone { producer: Position(1), last_entry: Position(1) };
    assert_eq!(only(run(&mut state, &entry(Position(2), 1, vec![gone]))), Ok(Answer::Gone { gone: true }));
    assert_eq!(only(run(&mut state, &hello("one", 1, Position::NONE))), Err(Refusal::HelloOutdated));
    assert!(only(run(&mut state, &hello("one", 3, Position::NONE))).is_ok());
}

#[test]
fn gone_is_dropped_if_the_producer_spoke_since() {
    let mut state = State::new(1);
    run(&mut state, &hello("one", 1, Position::NONE));
    run(&mut state, &hello("two", 2, Position::NONE));
    run(&mut state, &entry(Position(1), 1, vec![]));
    let gone = |last| Command::Gone { producer: Position(1), last_entry: Position(last) };
    assert_eq!(only(run(&mut state, &entry(Position(2), 1, vec![gone(1)]))), Ok(Answer::Gone { gone: false }));
    assert_eq!(only(run(&mut state, &entry(Position(2), 2, vec![gone(3)]))), Ok(Answer::Gone { gone: true }));
    assert_eq!(state.members().map(|member| &member.name[..]).collect::<Vec<_>>(), ["two"]);
}

#[test]
fn a_hello_beside_other_commands_is_refused() {
    let mut state = State::new(1);
    let mut both = hello("one", 1, Position::NONE);
    both.commands.push(put(1));
    assert_eq!(run(&mut state, &both).outcome, Outcome::Skipped(Skipped::Misplaced));
    run(&mut state, &hello("one", 1, Position::NONE));
    let inner = hello("two", 2, Position::NONE).commands;
    assert_eq!(only(run(&mut state, &entry(Position(2), 1, inner))), Err(Refusal::Misplaced));
}

// --- members ------------------------------------------------------------------------------------

fn beat(ready: bool, level: u32) -> Beat {
    Beat { applied: Position(1), hash: 0, flushed: Position(1), level, ready }
}

#[test]
fn a_member_that_was_added_is_adopted_promoted_and_outlives_its_process() {
    let mut state = State::new(1);
    run(&mut state, &hello("one", 1, Position::NONE));
    let one = |seq, command| entry(Position(1), seq, vec![command]);
    let peer_urls = vec!["http://two:2380".to_owned()];
    let add = Command::MemberAdd { peer_urls, learner: true, learners_max: 1 };
    let Ok(Answer::Members { added: Some(added), members }) = only(run(&mut state, &one(1, add.clone()))) else {
        panic!("not added")
    };
    assert_eq!((members.len(), &added.name[..], added.learner), (2, "", true));
    assert_eq!(only(run(&mut state, &one(2, add))), Err(Refusal::PeerUrlsExist));
    let third = Command::MemberAdd { peer_urls: vec!["http://3".to_owned()], learner: true, learners_max: 1 };
    assert_eq!(only(run(&mut state, &one(3, third))), Err(Refusal::TooManyLearners));

    let promote = Command::MemberPromote { id: added.id };
    assert_eq!(only(run(&mut state, &one(4, promote.clone()))), Err(Refusal::LearnerNotReady));
    let two = state.applied();
    assert_eq!(only(run(&mut state, &hello("two", 2, Position::NONE))), Ok(Answer::Hello { member: added.id }));
    assert_eq!(only(run(&mut state, &one(5, promote.clone()))), Err(Refusal::LearnerNotReady));
    let mut ready = entry(two, 1, vec![]);
    ready.beat = Some(beat(true, 1));
    run(&mut state, &ready);
    assert!(only(run(&mut state, &one(6, promote.clone()))).is_ok());
    assert_eq!(only(run(&mut state, &one(7, promote))), Err(Refusal::NotLearner));

    let last_entry = state.producer(two).unwrap().last_entry;
    run(&mut state, &one(8, Command::Gone { producer: two, last_entry }));
    let member = state.member(added.id).unwrap();
    assert_eq!((&member.name[..], member.producer), ("two", None), "an operator's member stays in the list");
    assert_eq!(only(run(&mut state, &hello("two", 3, Position::NONE))), Ok(Answer::Hello { member: added.id }));
}

#[test]
fn a_removed_member_is_fenced_until_it_is_added_anew() {
    let mut state = State::new(1);
    run(&mut state, &hello("one", 1, Position::NONE));
    let Ok(Answer::Hello { member }) = only(run(&mut state, &hello("two", 2, Position::NONE))) else { panic!() };
    let one = |seq, command| entry(Position(1), seq, vec![command]);
    assert!(only(run(&mut state, &one(1, Command::MemberRemove { id: member }))).is_ok());
    assert_eq!(only(run(&mut state, &one(2, Command::MemberRemove { id: member }))), Err(Refusal::MemberNotFound));
    assert_eq!(run(&mut state, &entry(Position(2), 1, vec![put(1)])).outcome, Outcome::Skipped(Skipped::NotLive));
    assert_eq!(only(run(&mut state, &hello("two", 3, Position::NONE))), Err(Refusal::HelloRemoved));
    let peer_urls = vec!["http://two:2380".to_owned()];
    run(&mut state, &one(3, Command::MemberAdd { peer_urls, learner: false, learners_max: 1 }));
    assert!(only(run(&mut state, &hello("two", 4, Position::NONE))).is_ok());
}

#[test]
fn the_leader_is_the_oldest_live_member_until_another_is_chosen() {
    let mut state = State::new(1);
    assert_eq!(state.leader(), 0);
    let member = |state: &mut State, name: &str, nonce| match only(run(state, &hello(name, nonce, Position::NONE))) {
        Ok(Answer::Hello { member }) => member,
        other => panic!("{other:?}"),
    };
    let one = member(&mut state, "one", 1);
    let two = member(&mut state, "two", 2);
    assert_eq!(state.leader(), one);
    let mv = |target| Command::MoveLeader { target };
    assert_eq!(only(run(&mut state, &entry(Position(1), 1, vec![mv(5)]))), Err(Refusal::BadTransferee));
    assert!(only(run(&mut state, &entry(Position(1), 2, vec![mv(two)]))).is_ok());
    assert_eq!(state.leader(), two);
    let gone = Command::Gone { producer: Position(2), last_entry: Position(2) };
    run(&mut state, &entry(Position(1), 3, vec![gone]));
    assert_eq!(state.leader(), one);
}

#[test]
fn the_level_rises_when_every_live_producer_has_announced_it() {
    let mut state = State::new(1);
    run(&mut state, &hello("one", 1, Position::NONE));
    run(&mut state, &hello("two", 2, Position::NONE));
    let raise = |seq, level| {
        let mut raise = entry(Position(1), seq, vec![Command::RaiseLevel { level: 2 }]);
        raise.beat = Some(beat(true, level));
        raise
    };
    assert_eq!(only(run(&mut state, &raise(1, 2))), Ok(Answer::Level { level: 1 }));
    assert_eq!(only(run(&mut state, &raise(2, 2))), Ok(Answer::Level { level: 1 }), "the other has not");
    let mut other = entry(Position(2), 1, vec![]);
    other.beat = Some(beat(true, 2));
    run(&mut state, &other);
    assert_eq!(only(run(&mut state, &raise(3, 2))), Ok(Answer::Level { level: 2 }));
}

// --- alarms, and what panics --------------------------------------------------------------------

#[test]
fn a_full_store_refuses_what_grows_and_a_corrupt_one_every_write() {
    let raised = |kind| {
        let mut state = State::new(1);
        run(&mut state, &hello("one", 1, Position::NONE));
        let activate = Command::Alarm { action: AlarmAction::Activate, member: 5, kind };
        run(&mut state, &entry(Position(1), 1, vec![Command::LeaseGrant { id: 1, ttl: 5 }, put(1), activate]));
        state
    };
    let delete = Command::DeleteRange(DeleteRange { key: Bytes::from_static(b"k\x01"), ..DeleteRange::default() });
    let put_txn =
        |key| Txn { success: vec![Op::Put(Put { key: vec![key].into(), ..Put::default() })], ..Txn::default() };
    // A put in the branch that will not run counts, too.
    let never = Txn { failure: put_txn(b'x').success, ..Txn::default() };
    let growing = [put(2), Command::Txn(put_txn(b'x')), Command::Txn(never), Command::LeaseGrant { id: 2, ttl: 1 }];
    let others =
        [delete, Command::Txn(Txn::default()), Command::Compact { revision: 2 }, Command::LeaseRevoke { id: 1 }];
    let results = |kind, commands: &[Command]| {
        let mut state = raised(kind);
        let applied = run(&mut state, &entry(Position(1), 2, commands.to_vec()));
        applied.replies.into_iter().map(|reply| reply.result.err()).collect::<Vec<_>>()
    };
    assert_eq!(results(AlarmKind::NoSpace, &growing), vec![Some(Refusal::NoSpace); 4]);
    assert_eq!(results(AlarmKind::NoSpace, &others), vec![None; 4]);
    assert_eq!(results(AlarmKind::Corrupt, &growing), vec![Some(Refusal::Corrupt); 4]);
    assert_eq!(results(AlarmKind::Corrupt, &others), vec![Some(Refusal::Corrupt); 4]);
    // A keep-alive is no write.
    assert_eq!(results(AlarmKind::Corrupt, &[Command::KeepAlive { id: 1 }]), vec![None]);
}

#[test]
fn an_alarm_ends_when_exactly_it_is_cleared() {
    let mut state = State::new(1);
    run(&mut state, &hello("one", 1, Position::NONE));
    let alarm = |action, member| Command::Alarm { action, member, kind: AlarmKind::NoSpace };
    let raised = Alarm { kind: AlarmKind::NoSpace, member: 5 };
    let mut answer = |seq, command| only(run(&mut state, &entry(Position(1), seq, vec![command])));
    assert_eq!(answer(1, alarm(AlarmAction::Activate, 5)), Ok(Answer::Alarms(vec![raised])));
    assert_eq!(answer(2, alarm(AlarmAction::Deactivate, 6)), Ok(Answer::Alarms(vec![])));
    assert_eq!(answer(3, put(1)), Err(Refusal::NoSpace));
    assert_eq!(answer(4, alarm(AlarmAction::Deactivate, 5)), Ok(Answer::Alarms(vec![raised])));
    assert!(answer(5, put(1)).is_ok());
}

/// A store that fails in the worst way stands for any bug in the deciding part.
struct Bug;

impl Values for Bug {
    fn values(&self, _: &[At]) -> Result<Vec<Bytes>, ValueLost> {
        panic!("a bug")
    }
}

#[test]
fn a_panic_becomes_the_commands_result_and_nothing_is_changed_by_it() {
    let mut state = State::new(1);
    run(&mut state, &hello("one", 1, Position::NONE));
    run(&mut state, &entry(Position(1), 1, vec![put(1)]));
    // The Txn deletes a key before it meets the bug: both or nothing.
    let delete = DeleteRange { key: Bytes::from_static(b"\0"), range_end: Bytes::from_static(b"\0"), prev_kv: false };
    let keep = Put { key: vec![b'k', 1].into(), ignore_value: true, ..Put::default() };
    let poison = Command::Txn(Txn { success: vec![Op::Put(keep), Op::DeleteRange(delete)], ..Txn::default() });
    let body = entry(Position(1), 2, vec![put(2), poison, put(3)]);
    let position = state.applied();
    let applied = apply(&mut state, position, &body, &Bug).unwrap();
    let results: Vec<_> = applied.replies.iter().map(|reply| reply.result.clone()).collect();
    assert!(results[0].is_ok() && results[2].is_ok());
    assert_eq!(results[1], Err(Refusal::Panicked("a bug".to_owned())));
    assert_eq!((effects(&state, 1), effects(&state, 2), effects(&state, 3)), (1, 1, 1));
    assert_eq!(state.revision(), 4);
}

#[test]
fn a_value_that_the_store_lost_is_nobodys_result() {
    let mut state = State::new(1);
    run(&mut state, &hello("one", 1, Position::NONE));
    run(&mut state, &entry(Position(1), 1, vec![put(1)]));
    let keep = Command::Put(Put { key: vec![b'k', 1].into(), ignore_value: true, ..Put::default() });
    let position = state.applied();
    let lost = apply(&mut state, position, &entry(Position(1), 2, vec![keep]), &NoValues).unwrap_err();
    assert_eq!(lost.at, At { main: 2, sub: 0 });
}
