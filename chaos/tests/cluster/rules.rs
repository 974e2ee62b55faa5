//! A rule file in force: who may append, read, trim and administer, over the wire; and a new file while
//! everybody works.

use std::path::Path;
use std::time::Duration;

use chaos::cluster::{Cluster, Options};
use futures::StreamExt;
use journal_client::{AppendError, Change, Error, Journal, Reason, RemoteJournal, Settings, TailError, TrimPolicy};
use proto::{JournalName, NodeId, Position};

use crate::support::{append, eventually};

const RULES: &str = r#"
    [[rule]]
    who = ["writer"]
    may = ["append"]
    journals = ["audit"]

    [[rule]]
    who = ["reader"]
    may = ["read"]
    journals = ["audit"]

    [[rule]]
    who = ["janitor"]
    may = ["trim"]
    journals = ["audit"]

    [[rule]]
    who = ["operator"]
    may = ["append", "read", "trim", "administer"]
    journals = ["*", "system"]
"#;

const PEOPLE: [&str; 4] = ["writer", "reader", "janitor", "stranger"];

#[tokio::test]
async fn everybody_may_what_the_rules_say_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("rules.toml");
    put(&rules, RULES);
    let cluster = Cluster::start(Options {
        tls: true,
        people: PEOPLE.map(str::to_owned).to_vec(),
        flags: vec![format!("--rules={}", rules.display()), "--reload-interval=1s".into()],
        ..Options::default()
    })
    .await
    .unwrap();
    cluster.journal("audit").await.unwrap();
    cluster.journal("private").await.unwrap();
    let audit: JournalName = "audit".parse().unwrap();
    let open = async |who: &str| client(&cluster, who).journal(&audit).await;

    // Whoever may do anything with a journal can open it, and do just that.
    let writer = open("writer").await.unwrap();
    let first = append(&writer, "by the writer").await.unwrap();
    append(&writer, "and again").await.unwrap();
    let reader = open("reader").await.unwrap();
    assert_eq!(read_one(&reader, first).await.unwrap(), "by the writer");
    assert!(reader.check_tail().await.unwrap().tail > first);
    let janitor = open("janitor").await.unwrap();
    let begins = janitor.trim(Position(first.0 + 1)).await.unwrap();
    assert!(begins > first);

    // Nothing else.
    denied("the writer reads", read_one(&writer, begins).await);
    denied("the writer trims", writer.trim(begins).await);
    denied("the reader appends", append(&reader, "no").await);
    denied("the reader trims", reader.trim(begins).await);
    denied("the janitor appends", append(&janitor, "no").await);
    denied("the janitor reads", read_one(&janitor, begins).await);
    denied("a stranger opens it", open("stranger").await);
    let private: JournalName = "private".parse().unwrap();
    denied("the writer opens another", client(&cluster, "writer").journal(&private).await);

    // Each sees what concerns it, and only who administers changes anything.
    let listed = async |who: &str| {
        let journals = client(&cluster, who).admin().list().await.unwrap();
        journals.into_iter().map(|journal| journal.name).collect::<Vec<_>>()
    };
    assert_eq!(listed("operator").await, ["audit", "private"]);
    for who in ["writer", "reader", "janitor"] {
        assert_eq!(listed(who).await, ["audit"], "{who}");
    }
    assert!(listed("stranger").await.is_empty());
    for who in PEOPLE {
        let admin = client(&cluster, who).admin();
        denied(who, admin.create(&"mine".parse().unwrap(), TrimPolicy::Free, 0).await);
        denied(who, admin.delete(&audit).await);
        denied(who, admin.set_quota(&audit, 1 << 30).await);
        denied(who, admin.change_members(Change::Remove { node: NodeId(1) }).await);
        denied(who, admin.transfer_leader(writer.id(), None).await);
    }
    client(&cluster, "operator").admin().set_quota(&audit, 1 << 30).await.unwrap();

    // A file that makes no sense changes nothing; one that does is in force without a restart.
    put(&rules, "[[rule]]\nwho = [\"stranger\"]\n");
    eventually("somebody complains of the file", Duration::from_secs(10), async || {
        let page = cluster.node(0).page("/metrics").await.unwrap();
        page.body.lines().any(|line| line.starts_with("journal_reload_failures_total ") && !line.ends_with(" 0"))
    })
    .await;
    append(&writer, "the old rules stay").await.unwrap();
    denied("a stranger after a bad file", open("stranger").await);
    put(&rules, &RULES.replace("\"writer\"", "\"stranger\""));
    eventually("the stranger may append", Duration::from_secs(10), async || match open("stranger").await {
        Ok(journal) => append(&journal, "by the stranger").await.is_ok(),
        Err(_) => false,
    })
    .await;
    eventually("the writer may not", Duration::from_secs(10), async || is_denied(&open("writer").await)).await;
    let denials = cluster.node(0).page("/metrics").await.unwrap().body;
    assert!(denials.contains("journal_denied_total "), "denials are not counted");
}

fn client(cluster: &Cluster, who: &str) -> journal_client::Cluster {
    let settings = Settings { patience: Duration::from_secs(5), ..Settings::default() };
    cluster.client_showing(cluster.papers(who), settings).unwrap()
}

/// In one step, as an operator should.
fn put(at: &Path, text: &str) {
    let fresh = at.with_extension("fresh");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(&fresh, at).unwrap();
}

async fn read_one(journal: &RemoteJournal, from: Position) -> Result<String, Error> {
    let mut tail = journal.tail(from).await?;
    while let Some(run) = tail.next().await {
        let run = run.map_err(|end| match end {
            TailError::Failed(error) => error,
            other => panic!("{other}"),
        })?;
        if let Some(entry) = run.entries.first() {
            return Ok(String::from_utf8_lossy(&entry.payload).into_owned());
        }
    }
    panic!("the tail ended")
}

/// Ends of calls that say "forbidden" in their own way.
trait Refused {
    fn reason(&self) -> Option<Reason>;
}

impl Refused for Error {
    fn reason(&self) -> Option<Reason> {
        match self {
            Error::Refused(refusal) => Some(refusal.reason),
            _ => None,
        }
    }
}

impl Refused for AppendError {
    fn reason(&self) -> Option<Reason> {
        match self {
            AppendError::Rejected(refusal) => Some(refusal.reason),
            AppendError::Unknown(_) => None,
        }
    }
}

fn is_denied<T, E: Refused>(done: &Result<T, E>) -> bool {
    done.as_ref().err().and_then(Refused::reason) == Some(Reason::Forbidden)
}

fn denied<T, E: Refused + std::fmt::Debug>(what: &str, done: Result<T, E>) {
    assert!(is_denied(&done), "{what}: {:?}", done.err());
}
