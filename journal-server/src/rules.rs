//! Who may do what to which journal.
//!
//! A rule file is a list of permissions; what no rule permits is refused. Without a file, whoever got
//! a connection may do everything. Deciding is a pure function of the file's text and the caller; the
//! file is read again when it changes, and a bad new file leaves the old rules in force.
//!
//! ```toml
//! [[rule]]
//! who = ["adapter-*"]                  # names in the client's certificate; `*` is any text
//! may = ["append", "read", "trim"]     # and `administer`
//! journals = ["kubernetes"]            # `*` is every journal, but not `system`
//! ```
//!
//! `system` stands for the cluster itself: its members, and which journals exist. No pattern reaches
//! it; it must be named.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use proto::JournalName;
use serde::Deserialize;

use crate::caller::Caller;

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Append,
    Read,
    Trim,
    /// Create, delete, set a quota; for `system`: members and leaders.
    Administer,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Append => "append to",
            Action::Read => "read",
            Action::Trim => "trim",
            Action::Administer => "administer",
        })
    }
}

impl Action {
    pub const ALL: [Action; 4] = [Action::Append, Action::Read, Action::Trim, Action::Administer];
}

/// The refusal, in words for whoever was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Denied(String);

/// The rules in force, for many readers.
#[derive(Debug, Clone)]
pub struct Rules {
    source: Option<Arc<PathBuf>>,
    table: Arc<ArcSwap<Table>>,
    /// Patterns of the names that nodes have; nothing when there is no TLS to prove a name with.
    peer_names: Arc<Option<Vec<String>>>,
}

impl Rules {
    /// Everybody may everything, except to pose as a node.
    pub fn open(peer_names: Option<Vec<String>>) -> Rules {
        Rules { source: None, table: Arc::new(ArcSwap::from_pointee(Table::Open)), peer_names: Arc::new(peer_names) }
    }

    /// The rules of this text, which came from `path`.
    pub fn parse(path: &Path, text: &str, peer_names: Option<Vec<String>>) -> Result<Rules, String> {
        let table = Table::parse(path, text)?;
        Ok(Rules {
            source: Some(Arc::new(path.to_owned())),
            table: Arc::new(ArcSwap::from_pointee(table)),
            peer_names: Arc::new(peer_names),
        })
    }

    /// Puts a new text in force, or leaves everything as it was.
    pub fn replace(&self, path: &Path, text: &str) -> Result<(), String> {
        self.table.store(Arc::new(Table::parse(path, text)?));
        Ok(())
    }

    /// Whether the caller may do this to the journal of this name.
    pub fn decide(&self, caller: &Caller, action: Action, journal: &str) -> Result<(), Denied> {
        match self.table.load().permits(caller, action, journal) {
            true => Ok(()),
            false => {
                let source = self.source();
                Err(Denied(format!("`{caller}` may not {action} journal `{journal}`: no rule in {source} permits it")))
            }
        }
    }

    /// Whether the caller may do anything at all with the journal of this name. Whoever may has to find it
    /// first: what it is called, where it begins and ends, and who leads it.
    pub fn decide_any(&self, caller: &Caller, journal: &str) -> Result<(), Denied> {
        let table = self.table.load();
        match Action::ALL.into_iter().any(|action| table.permits(caller, action, journal)) {
            true => Ok(()),
            false => {
                let source = self.source();
                Err(Denied(format!(
                    "`{caller}` may do nothing with journal `{journal}`: no rule in {source} permits it"
                )))
            }
        }
    }

    fn source(&self) -> String {
        self.source.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    }

    /// Whether the caller may speak as a node of this cluster.
    pub fn decide_node(&self, caller: &Caller) -> Result<(), Denied> {
        let Some(patterns) = self.peer_names.as_ref() else { return Ok(()) };
        let certified = matches!(caller, Caller::Certified { .. });
        match certified && caller.names().any(|name| patterns.iter().any(|pattern| matches(pattern, name))) {
            true => Ok(()),
            false => Err(Denied(format!(
                "`{caller}` is not a node of this cluster: none of its certificate's names is among tls-peer-names"
            ))),
        }
    }
}

/// Whether the text is the pattern's, where `*` is any text, also none.
pub fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[derive(Debug)]
enum Table {
    Open,
    Rules(Vec<Rule>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    who: Vec<String>,
    may: Vec<Action>,
    journals: Vec<String>,
}

impl Table {
    fn parse(path: &Path, text: &str) -> Result<Table, String> {
        let file: File =
            toml::from_str(text).map_err(|error| format!("{} cannot be read as rules: {error}", path.display()))?;
        for (number, rule) in file.rule.iter().enumerate() {
            for (list, empty) in
                [("who", rule.who.is_empty()), ("may", rule.may.is_empty()), ("journals", rule.journals.is_empty())]
            {
                if empty {
                    let number = number + 1;
                    return Err(format!("{}: rule {number} permits nothing: `{list}` is empty", path.display()));
                }
            }
        }
        Ok(Table::Rules(file.rule))
    }

    fn permits(&self, caller: &Caller, action: Action, journal: &str) -> bool {
        let rules = match self {
            Table::Open => return true,
            Table::Rules(rules) => rules,
        };
        rules.iter().filter(|rule| rule.may.contains(&action)).any(|rule| {
            let there = rule.journals.iter().any(|pattern| match journal == JournalName::SYSTEM {
                true => pattern == journal,
                false => matches(pattern, journal),
            });
            there && caller.names().any(|name| rule.who.iter().any(|pattern| matches(pattern, name)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        [[rule]]
        who = ["adapter-*", "spiffe://k8s/*/etcd"]
        may = ["append", "read", "trim"]
        journals = ["kubernetes", "k8s-*"]

        [[rule]]
        who = ["*"]
        may = ["read"]
        journals = ["public"]

        [[rule]]
        who = ["ops"]
        may = ["append", "read", "trim", "administer"]
        journals = ["*", "system"]

        [[rule]]
        who = ["auditor"]
        may = ["read", "administer"]
        journals = ["*"]
    "#;

    fn rules() -> Rules {
        Rules::parse(Path::new("rules.toml"), TEXT, None).unwrap()
    }

    fn named(name: &str) -> Caller {
        Caller::Certified { names: name.split('|').map(str::to_owned).collect() }
    }

    #[test]
    fn what_no_rule_permits_is_refused() {
        use Action::*;
        let table = [
            ("adapter-1", Append, "kubernetes", true),
            ("adapter-1", Read, "k8s-events", true),
            ("adapter-1", Trim, "k8s-", true),
            ("adapter-1", Administer, "kubernetes", false),
            ("adapter-1", Append, "audit", false),
            ("adapter-", Append, "kubernetes", true),
            ("adapter", Append, "kubernetes", false),
            ("xadapter-1", Append, "kubernetes", false),
            // Any of the caller's names may match, not only the first.
            ("nobody|adapter-9", Append, "kubernetes", true),
            ("spiffe://k8s/node-1/etcd", Append, "kubernetes", true),
            ("spiffe://k8s/node-1/etcd2", Append, "kubernetes", false),
            ("anybody", Read, "public", true),
            ("anybody", Append, "public", false),
            ("ops", Administer, "whatever", true),
            ("ops", Administer, "system", true),
            // A pattern never reaches the cluster itself.
            ("auditor", Administer, "whatever", true),
            ("auditor", Administer, "system", false),
            ("auditor", Read, "system", false),
        ];
        for (who, action, journal, permitted) in table {
            assert_eq!(
                rules().decide(&named(who), action, journal).is_ok(),
                permitted,
                "{who} wants to {action} {journal}"
            );
        }
        assert!(rules().decide(&Caller::Anonymous, Read, "public").is_ok());
        assert!(rules().decide(&Caller::Anonymous, Read, "kubernetes").is_err());
    }

    #[test]
    fn a_refusal_names_who_what_and_which() {
        let refusal = rules().decide(&named("adapter-1|x"), Action::Append, "audit").unwrap_err().to_string();
        assert_eq!(refusal, "`adapter-1` may not append to journal `audit`: no rule in rules.toml permits it");
    }

    #[test]
    fn any_permission_is_enough_to_find_a_journal_and_none_is_not() {
        let text = "[[rule]]\nwho = [\"writer\"]\nmay = [\"append\"]\njournals = [\"audit\"]\n\
                    [[rule]]\nwho = [\"janitor\"]\nmay = [\"trim\"]\njournals = [\"*\"]";
        let rules = Rules::parse(Path::new("rules.toml"), text, None).unwrap();
        let table = [
            ("writer", "audit", true),
            ("writer", "other", false),
            ("janitor", "audit", true),
            ("janitor", "system", false),
            ("nobody", "audit", false),
        ];
        for (who, journal, permitted) in table {
            assert_eq!(rules.decide_any(&named(who), journal).is_ok(), permitted, "{who} looks for {journal}");
        }
        let refusal = rules.decide_any(&named("nobody"), "audit").unwrap_err().to_string();
        assert_eq!(refusal, "`nobody` may do nothing with journal `audit`: no rule in rules.toml permits it");
    }

    #[test]
    fn without_a_file_everybody_may_everything() {
        let rules = Rules::open(None);
        for caller in [Caller::Anonymous, named("x")] {
            rules.decide(&caller, Action::Administer, "system").unwrap();
        }
    }

    #[test]
    fn an_empty_file_permits_nothing() {
        let rules = Rules::parse(Path::new("r"), "", None).unwrap();
        assert!(rules.decide(&named("ops"), Action::Read, "a").is_err());
    }

    #[test]
    fn a_bad_file_leaves_the_old_rules_in_force() {
        let rules = rules();
        let path = Path::new("rules.toml");
        for bad in [
            "[[rule]]\nwho = [\"a\"]\nmay = [\"fly\"]\njournals = [\"*\"]",
            "[[rule]]\nwho = []\nmay = [\"read\"]\njournals = [\"*\"]",
            "[[rule]]\nmay = [\"read\"]\njournals = [\"*\"]",
            "[[rules]]\n",
            "nonsense",
        ] {
            let problem = rules.replace(path, bad).unwrap_err();
            assert!(problem.contains("rules.toml"), "{problem}");
            rules.decide(&named("ops"), Action::Administer, "system").unwrap();
        }
        rules.replace(path, "").unwrap();
        assert!(rules.decide(&named("ops"), Action::Administer, "system").is_err());
    }

    #[test]
    fn only_a_certificate_with_a_nodes_name_speaks_as_a_node() {
        let rules = Rules::open(Some(vec!["journal-*.example".into(), "10.0.0.1".into()]));
        rules.decide_node(&named("journal-a.example")).unwrap();
        rules.decide_node(&named("x|10.0.0.1")).unwrap();
        for stranger in [Caller::Anonymous, named("adapter-1"), named("journal-a.example.evil")] {
            let refusal = rules.decide_node(&stranger).unwrap_err().to_string();
            assert!(refusal.contains("tls-peer-names"), "{refusal}");
        }
        Rules::open(None).decide_node(&Caller::Anonymous).expect("plaintext proves no names");
    }

    #[test]
    fn a_star_is_any_text_and_nothing_else_is_special() {
        let table = [
            ("a", "a", true),
            ("a", "ab", false),
            ("", "", true),
            ("*", "", true),
            ("a*b*c", "a--b--c", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("*aa*aa", "aaa", false),
            ("*.b", "a.b", true),
            ("a.c", "abc", false),
            ("**", "x", true),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(matches(pattern, text), expected, "{pattern} against {text}");
        }
    }
}
