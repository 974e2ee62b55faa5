//! Newtypes for every number and name that could be confused with another.

use std::fmt;
use std::str::FromStr;

/// The place of an entry in its journal: its Raft log index. Positions rise; not every position
/// holds an entry. Zero is no position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// Stands where there is no position: before the first one.
    pub const NONE: Position = Position(0);

    /// The position after this one.
    pub fn next(self) -> Position {
        Position(self.0 + 1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A journal, for ever: the position of its creation in the catalogue. Names may return, ids never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalId(pub u64);

impl JournalId {
    /// The catalogue's own group. No entry of it is at position 0, so no journal has this id.
    pub const SYSTEM: JournalId = JournalId(0);
}

impl fmt::Display for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One journal-server's data directory: a random number drawn when the directory is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// Sixteen hex digits, as in file names, logs and the operator's tool.
impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for NodeId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(NodeId)
    }
}

/// The name of a journal: 1 to 64 of `a-z 0-9 - _ .`, beginning with a letter or digit. `system` is
/// the catalogue's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalName(String);

/// Why a text is no journal name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` cannot name a journal: {why}")]
pub struct InvalidName {
    text: String,
    why: &'static str,
}

impl JournalName {
    /// The catalogue's own group.
    pub const SYSTEM: &'static str = "system";

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for JournalName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let no = |why| Err(InvalidName { text: text.chars().take(80).collect(), why });
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        match text.chars().next() {
            None => no("it is empty"),
            Some(first) if !first.is_ascii_alphanumeric() => no("it must begin with a letter or a digit"),
            _ if text.len() > 64 => no("it is longer than 64 characters"),
            _ if !text.chars().all(allowed) => no("only a-z, 0-9, '-', '_' and '.' are allowed"),
            _ if text == Self::SYSTEM => no("that name belongs to the catalogue"),
            _ => Ok(JournalName(text.to_owned())),
        }
    }
}

impl fmt::Display for JournalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_before_they_travel() {
        for good in ["kubernetes", "a", "audit.2026-11", "0_x"] {
            assert_eq!(good.parse::<JournalName>().unwrap().as_str(), good);
        }
        let long = "x".repeat(65);
        for bad in ["", "-a", "Upper", "a b", "system", "ä", long.as_str(), "a/b"] {
            assert!(bad.parse::<JournalName>().is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn a_node_id_reads_back_as_it_was_printed() {
        let id = NodeId(0x00ff_0000_0000_1234);
        assert_eq!(id.to_string().parse::<NodeId>().unwrap(), id);
    }
}
