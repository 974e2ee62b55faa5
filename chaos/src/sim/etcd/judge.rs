//! The judgement: what clients were told, held against what the journal says.
//!
//! - A write that was acknowledged has one effect, at the revision that was answered; one that was
//!   refused has none; of any other there is at most one.
//! - Whatever was answered before a call began is part of its answer: revisions never run backward,
//!   on whichever adapters; and an effect comes after everything that was answered before its call.
//!   Together with one state for each revision this is strict serializability.
//! - What a read found is what there was at the revision that it names.
//! - A watcher was told every change from where it began, in order, whole revisions, once; a progress
//!   never precedes what it covers; an end for a compaction names a compaction that it was behind.
//! - Every adapter had the same state at the same position.
//! - A lease that was kept alive did not end.

use std::collections::BTreeMap;

use super::ledger::{Ask, Call, Ledger, Note, Told, Watched};
use super::reference::{Effect, Reference, key_value};

pub fn judge(reference: &Reference, ledger: &Ledger) -> String {
    let calls = ledger.calls();
    let judge = Judge { reference, ledger };
    judge.effects(&calls);
    judge.order(&calls);
    for call in &calls {
        judge.content(call);
    }
    let watched = ledger.all_watched();
    let events: usize = watched.iter().map(|watched| judge.watched(watched)).sum();
    let hashes = ledger.hashes();
    for (applied, (name, hash)) in &hashes {
        if reference.hash_at(*applied) != *hash {
            judge.broken(format!("at {applied} {name} had another state than the journal makes"));
        }
    }
    for (applied, hash) in &reference.beats {
        if reference.hash_at(*applied) != *hash {
            judge.broken(format!("a beat says another state at {applied} than the journal makes"));
        }
    }
    for lease in ledger.kept() {
        if let Some((position, _)) = reference.ended.get(&lease) {
            judge.broken(format!("lease {lease} ended at {position}, and was kept alive all the time"));
        }
    }
    let unknown = calls.iter().filter(|call| matches!(call.told, Told::Unknown { .. })).count();
    let expired = reference.ended.values().filter(|(_, expired)| *expired).count();
    format!(
        "{} calls, {unknown} of them unknown, {} entries taken and {} skipped, revision {}, {events} events watched, \
         {} states compared, {expired} leases expired, {} compactions",
        calls.len(),
        reference.taken,
        reference.skipped,
        reference.state.revision(),
        hashes.len() + reference.beats.len(),
        reference.compactions.len(),
    )
}

/// Writes that took effect more than once, whatever else there is to know.
pub fn twice(reference: &Reference, ledger: &Ledger) {
    for (tag, effects) in reference.effects.iter().filter(|(_, effects)| effects.len() > 1) {
        let places: Vec<_> = effects.iter().map(|effect| effect.position).collect();
        ledger.broken(format!("write {tag} took effect at {places:?}"));
    }
}

struct Judge<'a> {
    reference: &'a Reference,
    ledger: &'a Ledger,
}

impl Judge<'_> {
    fn broken(&self, why: String) {
        self.ledger.broken(why);
    }

    /// Every write has the effects that it may have.
    fn effects(&self, calls: &[Call]) {
        let mut unclaimed: std::collections::BTreeSet<_> = self.reference.effects.keys().copied().collect();
        for call in calls {
            let Ask::Write(tag) = call.ask else { continue };
            unclaimed.remove(&tag);
            let effects: &[Effect] = self.reference.effects.get(&tag).map_or(&[], |effects| effects);
            if effects.len() > 1 {
                let places: Vec<_> = effects.iter().map(|effect| effect.position).collect();
                self.broken(format!("write {tag} took effect at {places:?}; it was told {:?}", call.told));
                continue;
            }
            match (&call.told, effects) {
                (Told::Done { revision } | Told::Decided { revision, .. }, [effect]) => {
                    if effect.reply.revision != *revision || effect.reply.result.is_err() {
                        let reply = &effect.reply;
                        self.broken(format!(
                            "write {tag} was told {:?}, and the journal makes it {reply:?}",
                            call.told
                        ));
                    }
                    if let (Told::Decided { succeeded, .. }, Ok(etcd_adapter::mvcc::Answer::Txn(answer))) =
                        (&call.told, &effect.reply.result)
                        && *succeeded != answer.succeeded
                    {
                        self.broken(format!(
                            "Txn {tag} was told {succeeded}, and the journal makes it {}",
                            answer.succeeded
                        ));
                    }
                }
                (Told::Done { .. } | Told::Decided { .. }, _) => {
                    self.broken(format!("write {tag} was told {:?}, and is nowhere", call.told));
                }
                (Told::Refused { text }, [effect]) if effect.reply.result.is_ok() => {
                    self.broken(format!("write {tag} was refused ({text}), and took effect at {}", effect.position));
                }
                _ => {}
            }
        }
        for tag in unclaimed {
            self.broken(format!("write {tag} took effect, and nobody asked for it"));
        }
    }

    /// What is answered shows everything that was answered before the call.
    fn order(&self, calls: &[Call]) {
        // Beginnings and ends, in the order in which they happened.
        let mut moments: Vec<(u64, bool, usize)> = Vec::new();
        for (at, call) in calls.iter().enumerate() {
            moments.push((call.called, false, at));
            moments.push((call.answered, true, at));
        }
        moments.sort_unstable();
        let (mut newest, mut compacted) = (0, 0);
        let mut of_life: BTreeMap<(usize, u32), i64> = BTreeMap::new();
        let mut floors = vec![(0, 0, 0); calls.len()];
        for (_, ended, at) in moments {
            let call = &calls[at];
            if !ended {
                let own = call.life.and_then(|life| of_life.get(&life)).copied().unwrap_or(0);
                floors[at] = (newest, compacted, own);
                continue;
            }
            let (floor, compact_floor, own_floor) = floors[at];
            self.check_floor(call, floor, compact_floor, own_floor);
            let Some(revision) = call.told.revision() else { continue };
            if let Some(life) = call.life {
                let own = of_life.entry(life).or_default();
                *own = (*own).max(revision);
            }
            newest = newest.max(revision);
            if let (Ask::Compact { revision }, Told::Done { .. }) = (&call.ask, &call.told) {
                compacted = compacted.max(*revision);
            }
        }
    }

    fn check_floor(&self, call: &Call, floor: i64, compacted: i64, own_floor: i64) {
        if let Ask::Write(tag) = call.ask
            && let Some([effect]) = self.reference.effects.get(&tag).map(|effects| &effects[..])
            && effect.changed
            && effect.reply.revision <= floor
        {
            let revision = effect.reply.revision;
            self.broken(format!(
                "write {tag} took effect at revision {revision}; {floor} was shown before it was asked"
            ));
        }
        let serializable = matches!(call.ask, Ask::Read { serializable: true, .. });
        if let Some(revision) = call.told.revision() {
            let least = if serializable { own_floor } else { floor };
            if revision < least {
                self.broken(format!("{:?} was answered at revision {revision}; {least} was shown before", call.ask));
            }
        }
        match (&call.ask, &call.told) {
            (Ask::Read { revision, serializable: false, .. }, Told::Found { .. })
                if *revision > 0 && *revision < compacted =>
            {
                self.broken(format!("revision {revision} was read; {compacted} had been compacted to"));
            }
            (Ask::Read { revision, .. }, Told::Refused { text }) => {
                let behind = self.reference.compactions.iter().any(|compacted| compacted > revision);
                let well = match text {
                    text if text.contains("compacted") => *revision > 0 && behind,
                    text if text.contains("future") => *revision > floor,
                    _ => false,
                };
                if !well {
                    self.broken(format!("{:?} was refused: {text}; {floor} had been shown", call.ask));
                }
            }
            (Ask::Compact { revision }, Told::Done { .. }) if !self.reference.compactions.contains(revision) => {
                self.broken(format!("a compaction to {revision} was acknowledged, and is nowhere"));
            }
            (Ask::Grant { lease }, Told::Done { .. }) if !self.reference.granted.contains_key(lease) => {
                self.broken(format!("lease {lease} was granted, and is nowhere"));
            }
            (Ask::Revoke { lease }, Told::Done { .. }) if !self.reference.ended.contains_key(lease) => {
                self.broken(format!("lease {lease} was revoked, and lives"));
            }
            _ => {}
        }
    }

    /// What was found is what there was.
    fn content(&self, call: &Call) {
        match (&call.ask, &call.told) {
            (Ask::Read { key, range_end, revision: asked, limit, .. }, Told::Found { revision, kvs, count }) => {
                let at = if *asked > 0 { *asked } else { *revision };
                let mut there = self.reference.read(key, range_end, at);
                let all = there.len() as i64;
                if *limit > 0 {
                    there.truncate(*limit as usize);
                }
                if there != *kvs || all != *count {
                    self.broken(format!("at revision {at} {kvs:?} was found, {count} in all, where {there:?} was"));
                }
            }
            (Ask::Write(tag), Told::Decided { revision, succeeded: false, found }) => {
                for kv in found {
                    let there = self.reference.read(&kv.key, &[], *revision);
                    if there.first() != Some(kv) {
                        self.broken(format!("Txn {tag} found {kv:?} at revision {revision}, where {there:?} was"));
                    }
                }
            }
            _ => {}
        }
    }

    /// How many events a watcher was told of.
    fn watched(&self, watched: &Watched) -> usize {
        let rows = self.reference.history(&watched.key, &watched.range_end);
        let first_at = |revision: i64| rows.partition_point(|row| row.at.main < revision);
        let name = &watched.name;
        let mut next: Option<i64> = None;
        let mut told = 0;
        for note in &watched.notes {
            match note {
                Note::Began(0) => {}
                Note::Began(from) => next = Some(next.unwrap_or(*from)),
                Note::Created(revision) => next = Some(next.unwrap_or(revision + 1)),
                Note::Events(events) => {
                    let Some(from) = next else {
                        self.broken(format!("{name} was told of events before its watch was made"));
                        return told;
                    };
                    let mut at = first_at(from);
                    for (gone, kv) in events {
                        told += 1;
                        let there = rows.get(at);
                        let same = there.is_some_and(|row| match gone {
                            true => row.is_tombstone() && row.key[..] == kv.key[..] && row.at.main == kv.mod_revision,
                            false => !row.is_tombstone() && key_value(row) == *kv,
                        });
                        if !same {
                            self.broken(format!(
                                "{name}, which is at {from}, was told {gone} {kv:?}, where {there:?} is next"
                            ));
                            return told;
                        }
                        at += 1;
                    }
                    let Some((_, last)) = events.last() else { continue };
                    if rows.get(at).is_some_and(|row| row.at.main == last.mod_revision) {
                        self.broken(format!("{name} was told of a part of revision {}", last.mod_revision));
                    }
                    next = Some(last.mod_revision + 1);
                }
                Note::Progress(revision) => {
                    let Some(from) = next else { continue };
                    if let Some(row) = rows.get(first_at(from)).filter(|row| row.at.main <= *revision) {
                        self.broken(format!("{name} was told of progress to {revision}, and not of {row:?}"));
                    }
                    next = Some(from.max(revision + 1));
                }
                Note::Compacted(revision) => {
                    if !self.reference.compactions.contains(revision) || next.is_none_or(|next| next >= *revision) {
                        self.broken(format!("{name}, which is at {next:?}, was ended for a compaction to {revision}"));
                    }
                    next = Some(*revision);
                }
            }
        }
        told
    }
}
