//! One entry, applied: who may speak, what each command decides, and what that changes.
//!
//! `decide` sees the state and changes nothing, and a panic in it becomes the command's result.
//! `commit` changes the state and decides nothing: it must not be able to fail. Nothing here depends on
//! who applies, on what else is at hand, or on when.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proto::Position;

use super::hash;
use super::lease::{self, Lease};
use super::members::RegistryChange;
use super::meta::{self, MetaKey};
use super::state::State;
use super::txn::{Draft, Stop};
use super::types::{Alarm, Answer, At, Refusal, Reply, Revision, Row, ValueLost, Values, Version};
use super::{alarms, compaction};
use crate::command::{AlarmAction, Beat, Command, EntryBody};

/// What came of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    pub position: Position,
    pub producer: Position,
    pub seq: u64,
    pub outcome: Outcome,
    /// One for each command, if the entry was taken.
    pub replies: Vec<Reply>,
    /// Rows for the store and events for watchers, in the order of their places.
    pub changes: Vec<Change>,
    /// The records to write anew: [`State::record`] has their bytes.
    pub dirty: BTreeSet<MetaKey>,
    pub beat: Option<Beat>,
    /// The revision, and the hash of the state, after the entry.
    pub revision: Revision,
    pub hash: u128,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Taken,
    /// The entry has no effect, on any adapter.
    Skipped(Skipped),
}

/// Why an entry has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Skipped {
    #[error("its producer is not live")]
    NotLive,
    #[error("it was applied before")]
    Repeated,
    #[error("number {expected} was not applied yet")]
    Early { expected: u64 },
    #[error("only a hello may stand without a producer, and only alone")]
    Misplaced,
}

/// One key, changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub row: Row,
    /// The version that was live before the revision. (What a watcher's `prev_kv` shows is the view's to say.)
    pub prev: Option<At>,
    pub(super) version: Version,
    /// The live version that this one takes the place of.
    pub(super) old: Option<Version>,
}

/// Applies one entry. Positions rise; those between hold no entry.
///
/// An error means that the store failed under a decision: the state may be half-way through the entry,
/// and the process must end.
pub fn apply(
    state: &mut State,
    position: Position,
    body: &EntryBody,
    values: &dyn Values,
) -> Result<Applied, ValueLost> {
    assert!(position >= state.applied, "{position} was applied before: the next is {}", state.applied);
    let mut applied = Applied {
        position,
        producer: body.producer,
        seq: body.seq,
        outcome: Outcome::Taken,
        replies: Vec::with_capacity(body.commands.len()),
        changes: Vec::new(),
        dirty: BTreeSet::new(),
        beat: body.beat,
        revision: 0,
        hash: 0,
    };
    match admit(state, body) {
        Ok(()) => {
            for (index, command) in body.commands.iter().enumerate() {
                let place = Place { position, index, alone: body.producer == Position::NONE };
                let decided =
                    catch_unwind(AssertUnwindSafe(|| decide(state, place, command, values, &applied.changes)));
                let result = match decided {
                    Ok(Ok((answer, effect))) => {
                        commit(state, position, effect, &mut applied);
                        Ok(answer)
                    }
                    Ok(Err(Stop::Refused(refusal))) => Err(refusal),
                    Ok(Err(Stop::Lost(lost))) => return Err(lost),
                    Err(panic) => Err(Refusal::Panicked(panic_text(&*panic))),
                };
                applied.replies.push(Reply { revision: state.revision, result });
            }
            note_producer(state, position, body, &mut applied);
        }
        Err(why) => applied.outcome = Outcome::Skipped(why),
    }
    state.advance(position.next());
    applied.revision = state.revision;
    applied.hash = state.hash();
    Ok(applied)
}

/// Takes exactly the next entry of a live producer, or the `Hello` that begins one.
fn admit(state: &State, body: &EntryBody) -> Result<(), Skipped> {
    if body.producer == Position::NONE {
        let begins = body.seq == 0 && matches!(body.commands[..], [Command::Hello(_)]);
        return if begins { Ok(()) } else { Err(Skipped::Misplaced) };
    }
    let producer = state.producer(body.producer).ok_or(Skipped::NotLive)?;
    let expected = producer.last_seq + 1;
    match body.seq {
        seq if seq < expected => Err(Skipped::Repeated),
        seq if seq > expected => Err(Skipped::Early { expected }),
        _ => Ok(()),
    }
}

/// Where a command stands.
#[derive(Clone, Copy)]
struct Place {
    position: Position,
    index: usize,
    /// In an entry without a producer.
    alone: bool,
}

/// What a command changes.
enum Effect {
    Nothing,
    Write(Vec<Change>),
    Compact(Revision),
    Grant {
        id: i64,
        ttl: i64,
    },
    Renew(i64),
    /// Ends a lease, and with it its keys.
    Revoke {
        id: i64,
        changes: Vec<Change>,
    },
    Raise(Alarm),
    Clear(Alarm),
    Registry(RegistryChange),
    Level(u32),
    Downgrade(Option<String>),
}

type Decided = Result<(Answer, Effect), Stop>;

fn decide(state: &State, place: Place, command: &Command, values: &dyn Values, earlier: &[Change]) -> Decided {
    alarms::check(&state.alarms, command)?;
    let mut draft = Draft::new(state, values, earlier);
    let registry = &state.registry;
    let (answer, change) = match command {
        Command::Put(put) => {
            let prev = draft.put(put)?;
            return Ok((Answer::Put { prev }, Effect::Write(draft.into_changes())));
        }
        Command::DeleteRange(delete) => {
            let (deleted, prev) = draft.delete_range(delete);
            return Ok((Answer::DeleteRange { deleted, prev }, Effect::Write(draft.into_changes())));
        }
        Command::Txn(txn) => {
            let answer = draft.txn(txn)?;
            return Ok((Answer::Txn(answer), Effect::Write(draft.into_changes())));
        }
        Command::Compact { revision } => {
            compaction::check(state, *revision)?;
            return Ok((Answer::Compact, Effect::Compact(*revision)));
        }
        Command::LeaseGrant { id, ttl } => {
            let id = lease::choose_id(state, *id, place.position, place.index)?;
            return Ok((Answer::LeaseGrant { id, ttl: *ttl }, Effect::Grant { id, ttl: *ttl }));
        }
        Command::LeaseRevoke { id } => {
            let lease = state.leases.get(id).ok_or(Refusal::LeaseNotFound)?;
            return Ok((Answer::LeaseRevoke, revoke(*id, lease, draft)));
        }
        Command::KeepAlive { id } => {
            let effect = if state.leases.contains_key(id) { Effect::Renew(*id) } else { Effect::Nothing };
            return Ok((lease::keep_alive(state, *id), effect));
        }
        Command::Expire { lease: id, renewed_at } => {
            let due = state.leases.get(id).filter(|lease| lease.renewed_at == *renewed_at);
            let effect = due.map_or(Effect::Nothing, |lease| revoke(*id, lease, draft));
            return Ok((Answer::Expire { expired: due.is_some() }, effect));
        }
        Command::Alarm { action, member, kind } => {
            let alarm = Alarm { kind: *kind, member: *member };
            let effect = match action {
                AlarmAction::Activate => Effect::Raise(alarm),
                AlarmAction::Deactivate => Effect::Clear(alarm),
            };
            return Ok((alarms::answer(&state.alarms, *action, alarm), effect));
        }
        Command::RaiseLevel { level } => {
            let announced = registry.producers.values().all(|producer| producer.level >= *level);
            let level = if announced { state.level.max(*level) } else { state.level };
            return Ok((Answer::Level { level }, Effect::Level(level)));
        }
        Command::Downgrade { target } => {
            if target.is_some() && state.downgrade.is_some() {
                return Err(Refusal::DowngradeInProgress.into());
            }
            return Ok((Answer::Downgrade, Effect::Downgrade(target.clone())));
        }
        Command::Hello(hello) if place.alone => registry.hello(hello, place.position, state.cluster)?,
        Command::Hello(_) => return Err(Refusal::Misplaced.into()),
        Command::Gone { producer, last_entry } => registry.gone(*producer, *last_entry),
        Command::MemberAdd { peer_urls, learner, learners_max } => {
            registry.add(peer_urls, *learner, *learners_max, place.position, place.index)?
        }
        Command::MemberPromote { id } => registry.promote(*id)?,
        Command::MemberRemove { id } => registry.remove(*id)?,
        Command::MemberUpdate { id, peer_urls } => registry.update(*id, peer_urls)?,
        Command::MoveLeader { target } => registry.move_leader(*target)?,
    };
    Ok((answer, Effect::Registry(change)))
}

/// The end of a lease: its keys go in their order, in one revision; without keys there is no revision.
fn revoke(id: i64, lease: &Lease, mut draft: Draft<'_>) -> Effect {
    let keys: Vec<_> = lease.keys.iter().cloned().collect();
    draft.delete_keys(keys);
    Effect::Revoke { id, changes: draft.into_changes() }
}

fn commit(state: &mut State, position: Position, effect: Effect, applied: &mut Applied) {
    match effect {
        Effect::Nothing => {}
        Effect::Write(changes) => write(state, changes, applied),
        Effect::Compact(revision) => state.compact_revision = revision,
        Effect::Grant { id, ttl } => {
            let lease = Lease { ttl, renewed_at: position, keys: BTreeSet::new() };
            state.sums.leases = state.sums.leases.wrapping_add(meta::of_lease(id, &lease));
            state.leases.insert(id, lease);
            applied.dirty.insert(MetaKey::Lease(id));
        }
        Effect::Renew(id) => {
            if let Some(lease) = state.leases.get_mut(&id) {
                let before = meta::of_lease(id, lease);
                lease.renewed_at = position;
                let sum = state.sums.leases.wrapping_sub(before);
                state.sums.leases = sum.wrapping_add(meta::of_lease(id, lease));
                applied.dirty.insert(MetaKey::Lease(id));
            }
        }
        Effect::Revoke { id, changes } => {
            write(state, changes, applied);
            if let Some(lease) = state.leases.remove(&id) {
                state.sums.leases = state.sums.leases.wrapping_sub(meta::of_lease(id, &lease));
                applied.dirty.insert(MetaKey::Lease(id));
            }
        }
        Effect::Raise(alarm) => drop(state.alarms.insert(alarm)),
        Effect::Clear(alarm) => drop(state.alarms.remove(&alarm)),
        Effect::Registry(change) => register(state, change, applied),
        Effect::Level(level) => state.level = level,
        Effect::Downgrade(target) => state.downgrade = target,
    }
}

/// Makes changes of keys: all of one revision, or none.
fn write(state: &mut State, changes: Vec<Change>, applied: &mut Applied) {
    if changes.is_empty() {
        return;
    }
    state.revision += 1;
    for change in &changes {
        let (key, version) = (&change.row.key, change.version);
        let hash = hash::of_version(key, &version);
        let sums = &mut state.sums;
        sums.events = sums.events.wrapping_add(hash);
        if !version.is_tombstone() {
            sums.live = sums.live.wrapping_add(hash);
        }
        if let Some(old) = &change.old {
            sums.live = sums.live.wrapping_sub(hash::of_version(key, old));
        }
        let old_lease = change.old.map_or(0, |old| old.lease);
        if old_lease != version.lease {
            if let Some(lease) = state.leases.get_mut(&old_lease) {
                lease.keys.remove(key);
            }
            if let Some(lease) = state.leases.get_mut(&version.lease) {
                lease.keys.insert(key.clone());
            }
        }
        state.index.insert(key, version);
    }
    if applied.changes.is_empty() {
        applied.changes = changes;
    } else {
        applied.changes.extend(changes);
    }
}

/// Changes producers and members, and the sum over them.
fn register(state: &mut State, change: RegistryChange, applied: &mut Applied) {
    let members: Vec<u64> = change.members.iter().map(|(id, _)| *id).collect();
    let producers: Vec<Position> = change.producers.iter().map(|(id, _)| *id).collect();
    let past = change.touches_past();
    let sum = |state: &State| {
        let registry = &state.registry;
        let members = members.iter().filter_map(|id| registry.members.get(id).map(|m| meta::of_member(*id, m)));
        let producers = producers.iter().filter_map(|id| registry.producers.get(id).map(|p| meta::of_producer(*id, p)));
        let past = past.then(|| meta::of_past(registry));
        members.chain(producers).chain(past).fold(0, u128::wrapping_add)
    };
    let before = sum(state);
    state.registry.commit(change);
    let after = sum(state);
    state.sums.registry = state.sums.registry.wrapping_sub(before).wrapping_add(after);
    applied.dirty.extend(members.into_iter().map(MetaKey::Member));
    applied.dirty.extend(producers.into_iter().map(MetaKey::Producer));
    applied.dirty.extend(past.then_some(MetaKey::Past));
}

/// Counts the entry for its producer, unless one of its own commands ended that.
fn note_producer(state: &mut State, position: Position, body: &EntryBody, applied: &mut Applied) {
    let Some(producer) = state.registry.producers.get_mut(&body.producer) else { return };
    let before = meta::of_producer(body.producer, producer);
    producer.last_seq = body.seq;
    producer.last_entry = position;
    if let Some(beat) = body.beat {
        producer.level = beat.level;
        producer.beat = Some(beat);
    }
    let after = meta::of_producer(body.producer, producer);
    state.sums.registry = state.sums.registry.wrapping_sub(before).wrapping_add(after);
    applied.dirty.insert(MetaKey::Producer(body.producer));
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without words").to_owned()
}
