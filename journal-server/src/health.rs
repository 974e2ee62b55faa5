//! What each part of the node says of itself, gathered for `/livez`, `/readyz` and the operator's tool.
//!
//! Live means: a restart would not help. Ready means: send clients here. A part that is degraded says
//! so in words and changes neither.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// The registry. Parts enter it with [`Health::check`] and leave by dropping what they got.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<String, State>>>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Ok,
    Degraded(String),
    NotReady(String),
    NotLive(String),
}

/// One part's own line.
#[derive(Debug)]
pub struct Check {
    health: Health,
    name: String,
}

/// A line of the report.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Line {
    pub name: String,
    pub live: bool,
    pub ready: bool,
    /// Empty when all is well.
    pub reason: String,
}

impl Health {
    /// A line of this name; ready from the start. One that is there already is taken over.
    pub fn check(&self, name: impl Into<String>) -> Check {
        let check = Check { health: self.clone(), name: name.into() };
        check.ok();
        check
    }

    pub fn report(&self) -> Vec<Line> {
        let lines = self.0.lock();
        lines
            .iter()
            .map(|(name, state)| {
                let (live, ready, reason) = match state {
                    State::Ok => (true, true, ""),
                    State::Degraded(reason) => (true, true, reason.as_str()),
                    State::NotReady(reason) => (true, false, reason.as_str()),
                    State::NotLive(reason) => (false, false, reason.as_str()),
                };
                Line { name: name.clone(), live, ready, reason: reason.to_owned() }
            })
            .collect()
    }

    pub fn live(&self) -> bool {
        self.report().iter().all(|line| line.live)
    }

    pub fn ready(&self) -> bool {
        self.report().iter().all(|line| line.ready)
    }

    /// Whatever is not well, in words.
    pub fn reasons(&self) -> Vec<String> {
        let troubled = self.report().into_iter().filter(|line| !line.reason.is_empty());
        troubled.map(|line| format!("{}: {}", line.name, line.reason)).collect()
    }
}

impl Check {
    pub fn ok(&self) {
        self.set(State::Ok);
    }

    /// It works, but somebody should know.
    pub fn degraded(&self, reason: impl Into<String>) {
        self.set(State::Degraded(reason.into()));
    }

    /// Clients should go elsewhere.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(State::NotReady(reason.into()));
    }

    /// The process should be restarted.
    pub fn not_live(&self, reason: impl Into<String>) {
        self.set(State::NotLive(reason.into()));
    }

    fn set(&self, state: State) {
        self.health.0.lock().insert(self.name.clone(), state);
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        self.health.0.lock().remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_that_is_not_well_is_enough() {
        let health = Health::default();
        let (disk, group) = (health.check("disk"), health.check("group kubernetes"));
        assert!(health.live() && health.ready() && health.reasons().is_empty());

        disk.degraded("slow");
        assert!(health.live() && health.ready());
        assert_eq!(health.reasons(), ["disk: slow"]);

        group.not_ready("no leader");
        assert!(health.live() && !health.ready());

        disk.not_live("stuck");
        assert!(!health.live());
        assert_eq!(health.reasons(), ["disk: stuck", "group kubernetes: no leader"]);

        disk.ok();
        drop(group);
        assert!(health.live() && health.ready() && health.reasons().is_empty());
    }
}
