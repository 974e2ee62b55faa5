//! Who writes, and who belongs: producers and members.
//!
//! A **producer** is one start of one member, named by the position of its `Hello`. Apply takes exactly
//! the entry `last + 1` of a live producer and skips everything else; so whatever is sent twice, or
//! delayed, has one effect or none. A `Hello` is a compare-and-set on its name's current producer: it
//! ends its predecessor for everybody at once.
//!
//! A **member** is what MemberList shows: one for each live producer, and those that an operator added
//! and nobody has begun yet. A `Hello` with the URLs of such a virtual member adopts it and keeps its
//! id; a removed member's name is fenced until it is added anew.

use std::collections::{BTreeMap, BTreeSet};

use proto::Position;

use super::hash;
use super::types::{Answer, Refusal};
use crate::command::{Beat, Hello};

/// One start of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    pub member: u64,
    pub nonce: u64,
    /// The number of the last entry taken from it; 0 if none was.
    pub last_seq: u64,
    /// Where that entry is; the `Hello` itself if there was none.
    pub last_entry: Position,
    /// The newest level it has announced.
    pub level: u32,
    /// The last beat taken.
    pub beat: Option<Beat>,
}

/// One line of MemberList.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: u64,
    /// Empty until a process with these URLs has said `Hello`.
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    pub learner: bool,
    /// Added by an operator: it stays in the list when its producer is gone.
    pub added: bool,
    /// Its current producer, if one is live.
    pub producer: Option<Position>,
}

/// How many nonces of past `Hello`s are remembered. Older ones are kept out by the comparison alone.
const NONCES_MAX: usize = 256;

/// Producers, members, and what must be remembered of past ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Registry {
    pub members: BTreeMap<u64, Member>,
    pub producers: BTreeMap<Position, Producer>,
    /// Names of removed members.
    pub fenced: BTreeSet<String>,
    /// The nonces of past `Hello`s, by position.
    pub nonces: BTreeMap<Position, u64>,
    /// The member that MoveLeader chose; 0 if none, or if it has gone since.
    pub preferred: u64,
}

/// What a decision changes here: whole records, put or removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RegistryChange {
    pub members: Vec<(u64, Option<Member>)>,
    pub producers: Vec<(Position, Option<Producer>)>,
    pub fence: Option<String>,
    pub unfence: Option<String>,
    pub nonce: Option<(Position, u64)>,
    pub preferred: Option<u64>,
}

impl RegistryChange {
    /// Whether the record of fences, nonces and the leader changes.
    pub fn touches_past(&self) -> bool {
        self.fence.is_some() || self.unfence.is_some() || self.nonce.is_some() || self.preferred.is_some()
    }
}

type Decided = Result<(Answer, RegistryChange), Refusal>;

impl Registry {
    pub fn commit(&mut self, change: RegistryChange) {
        for (id, member) in change.members {
            match member {
                Some(member) => self.members.insert(id, member),
                None => self.members.remove(&id),
            };
        }
        for (id, producer) in change.producers {
            match producer {
                Some(producer) => self.producers.insert(id, producer),
                None => self.producers.remove(&id),
            };
        }
        self.fenced.extend(change.fence);
        if let Some(name) = change.unfence {
            self.fenced.remove(&name);
        }
        if let Some((position, nonce)) = change.nonce {
            self.nonces.insert(position, nonce);
            while self.nonces.len() > NONCES_MAX {
                self.nonces.pop_first();
            }
        }
        if let Some(preferred) = change.preferred {
            self.preferred = preferred;
        }
    }

    /// The member that `Status.leader` names: the one MoveLeader chose, else that of the oldest live
    /// producer that is no learner; 0 if there is none.
    pub fn leader(&self) -> u64 {
        let votes = |member: &u64| self.members.get(member).is_some_and(|m| !m.learner && m.producer.is_some());
        if votes(&self.preferred) {
            return self.preferred;
        }
        self.producers.values().map(|producer| producer.member).find(votes).unwrap_or(0)
    }

    pub fn by_name(&self, name: &str) -> Option<&Member> {
        self.members.values().find(|member| member.name == name)
    }

    pub fn hello(&self, hello: &Hello, position: Position, cluster: u64) -> Decided {
        let known = self.by_name(&hello.name);
        let current = known.and_then(|member| member.producer).unwrap_or(Position::NONE);
        if hello.name.is_empty() {
            return Err(Refusal::Misplaced);
        }
        if current != hello.replaces || self.nonces.values().any(|nonce| *nonce == hello.nonce) {
            return Err(Refusal::HelloOutdated);
        }
        let urls = sorted(&hello.peer_urls);
        let virtual_member =
            || self.members.values().find(|m| m.name.is_empty() && !urls.is_empty() && sorted(&m.peer_urls) == urls);
        let adopted = known.or_else(virtual_member).cloned();
        if adopted.is_none() && self.fenced.contains(&hello.name) {
            return Err(Refusal::HelloRemoved);
        }
        let mut member = adopted.unwrap_or_else(|| Member {
            id: self.free_id(&[hash::text(&hello.name), cluster]),
            name: String::new(),
            peer_urls: Vec::new(),
            client_urls: Vec::new(),
            learner: false,
            added: false,
            producer: None,
        });
        member.name.clone_from(&hello.name);
        member.peer_urls.clone_from(&hello.peer_urls);
        member.client_urls.clone_from(&hello.client_urls);
        member.producer = Some(position);
        let id = member.id;
        let producer = Producer {
            member: id,
            nonce: hello.nonce,
            last_seq: 0,
            last_entry: position,
            level: hello.level,
            beat: None,
        };
        let mut change = RegistryChange {
            members: vec![(id, Some(member))],
            producers: vec![(position, Some(producer))],
            unfence: Some(hello.name.clone()).filter(|name| self.fenced.contains(name)),
            nonce: Some((position, hello.nonce)),
            ..RegistryChange::default()
        };
        if current != Position::NONE {
            change.producers.push((current, None));
        }
        Ok((Answer::Hello { member: id }, change))
    }

    pub fn gone(&self, producer: Position, last_entry: Position) -> (Answer, RegistryChange) {
        let mut change = RegistryChange::default();
        let gone = self.producers.get(&producer).filter(|p| p.last_entry == last_entry);
        if let Some(record) = gone {
            self.end_producer(record.member, producer, &mut change);
        }
        (Answer::Gone { gone: gone.is_some() }, change)
    }

    pub fn add(&self, urls: &[String], learner: bool, learners_max: u32, position: Position, index: usize) -> Decided {
        if self.members.values().any(|member| member.peer_urls.iter().any(|url| urls.contains(url))) {
            return Err(Refusal::PeerUrlsExist);
        }
        let learners = self.members.values().filter(|member| member.learner).count();
        if learner && learners >= learners_max as usize {
            return Err(Refusal::TooManyLearners);
        }
        let member = Member {
            id: self.free_id(&[position.0, index as u64]),
            name: String::new(),
            peer_urls: urls.to_vec(),
            client_urls: Vec::new(),
            learner,
            added: true,
            producer: None,
        };
        Ok(self.with_list(Some(member.clone()), vec![(member.id, Some(member))]))
    }

    /// A learner is promoted when it has said of itself that it is ready.
    pub fn promote(&self, id: u64) -> Decided {
        let member = self.members.get(&id).ok_or(Refusal::MemberNotFound)?;
        if !member.learner {
            return Err(Refusal::NotLearner);
        }
        let producer = member.producer.and_then(|producer| self.producers.get(&producer));
        if !producer.is_some_and(|p| p.beat.is_some_and(|beat| beat.ready)) {
            return Err(Refusal::LearnerNotReady);
        }
        Ok(self.with_list(None, vec![(id, Some(Member { learner: false, ..member.clone() }))]))
    }

    pub fn remove(&self, id: u64) -> Decided {
        let member = self.members.get(&id).ok_or(Refusal::MemberNotFound)?;
        let (answer, mut change) = self.with_list(None, vec![(id, None)]);
        change.producers = member.producer.map(|producer| (producer, None)).into_iter().collect();
        change.fence = Some(member.name.clone()).filter(|name| !name.is_empty());
        change.preferred = (self.preferred == id).then_some(0);
        Ok((answer, change))
    }

    pub fn update(&self, id: u64, urls: &[String]) -> Decided {
        let member = self.members.get(&id).ok_or(Refusal::MemberNotFound)?;
        let others = self.members.values().filter(|other| other.id != id);
        if others.flat_map(|other| &other.peer_urls).any(|url| urls.contains(url)) {
            return Err(Refusal::PeerUrlsExist);
        }
        Ok(self.with_list(None, vec![(id, Some(Member { peer_urls: urls.to_vec(), ..member.clone() }))]))
    }

    pub fn move_leader(&self, target: u64) -> Decided {
        let member = self.members.get(&target).ok_or(Refusal::BadTransferee)?;
        if member.learner || member.producer.is_none() {
            return Err(Refusal::BadTransferee);
        }
        Ok((Answer::MoveLeader, RegistryChange { preferred: Some(target), ..RegistryChange::default() }))
    }

    /// Ends a producer. Its member leaves the list with it, unless an operator added it.
    fn end_producer(&self, id: u64, producer: Position, change: &mut RegistryChange) {
        change.producers.push((producer, None));
        let Some(member) = self.members.get(&id).filter(|member| member.producer == Some(producer)) else { return };
        let rest = member.added.then(|| Member { producer: None, ..member.clone() });
        change.members.push((id, rest));
        if self.preferred == id {
            change.preferred = Some(0);
        }
    }

    /// The answer that lists the members as they will be.
    fn with_list(&self, added: Option<Member>, members: Vec<(u64, Option<Member>)>) -> (Answer, RegistryChange) {
        let mut list = self.members.clone();
        for (id, member) in &members {
            match member {
                Some(member) => list.insert(*id, member.clone()),
                None => list.remove(id),
            };
        }
        let answer = Answer::Members { added, members: list.into_values().collect() };
        (answer, RegistryChange { members, ..RegistryChange::default() })
    }

    /// An id that no member has, derived from what is the same everywhere.
    fn free_id(&self, from: &[u64]) -> u64 {
        let mut seed = from.to_vec();
        loop {
            let id = hash::number(&seed);
            if id != 0 && !self.members.contains_key(&id) {
                return id;
            }
            seed.push(id);
        }
    }
}

fn sorted(urls: &[String]) -> Vec<&String> {
    let mut urls: Vec<_> = urls.iter().collect();
    urls.sort();
    urls
}
