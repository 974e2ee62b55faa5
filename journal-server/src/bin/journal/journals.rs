//! `journal create|delete|list|quota`: which journals exist.

use std::io::Write;

use anyhow::{Context, bail};
use clap::ValueEnum;
use journal_client::{JournalInfo, TrimPolicy};
use proto::JournalName;

use crate::confirm::confirm;
use crate::connect::Connection;
use crate::format::{Table, bytes, parse_bytes};

#[derive(clap::Args)]
#[command(after_help = "\
Creating a journal that exists with the same policy is no error: scripts may simply say it again.

Examples:
  journal create audit
  journal create audit --quota 10GiB
  journal create kubernetes --policy checkpointed")]
pub struct Create {
    /// a-z 0-9 - _ . and at most 64 of them
    name: JournalName,
    /// Who may trim it
    #[arg(long, value_enum, default_value_t = Policy::Free)]
    policy: Policy,
    /// The most it may take on each node's disk; 0: as much as there is
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = "0")]
    quota: u64,
    /// Fail if it exists already
    #[arg(long)]
    new: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Policy {
    /// Whoever may append may trim: queues, audit logs
    Free,
    /// Trimmed only below a registered checkpoint: adapters
    Checkpointed,
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  journal delete audit --yes")]
pub struct Delete {
    name: JournalName,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  journal list --json | jq -r '.[].name'")]
pub struct List {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  journal quota audit
  journal quota audit 20GiB
  journal quota audit 0          # no limit but the disk")]
pub struct Quota {
    name: JournalName,
    /// The new quota; nothing: show the present one
    #[arg(value_name = "SIZE", value_parser = parse_bytes)]
    size: Option<u64>,
}

pub async fn create(connection: &Connection, args: Create) -> anyhow::Result<()> {
    let policy = match args.policy {
        Policy::Free => TrimPolicy::Free,
        Policy::Checkpointed => TrimPolicy::Checkpointed,
    };
    let created = connection.admin()?.create(&args.name, policy, args.quota).await;
    let (journal, new) = created.with_context(|| format!("cannot create {}", args.name))?;
    if !new && args.new {
        bail!("{} exists already, with id {}", journal.name, journal.id);
    }
    let what = if new { "created" } else { "exists" };
    println!("{what} {} with id {}", journal.name, journal.id);
    Ok(())
}

pub async fn delete(connection: &Connection, args: Delete) -> anyhow::Result<()> {
    if !args.yes {
        let what = format!("This deletes {} and everything in it, on every node, for good.", args.name);
        confirm(&what, args.name.as_str(), &format!("delete {}", args.name))?;
    }
    let deleted = connection.admin()?.delete(&args.name).await;
    deleted.with_context(|| format!("cannot delete {}", args.name))?;
    println!("deleted {}", args.name);
    Ok(())
}

pub async fn list(connection: &Connection, args: List) -> anyhow::Result<()> {
    let journals = connection.admin()?.list().await.context("cannot list the journals")?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let list: Vec<_> = journals.iter().map(json).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
        return Ok(());
    }
    let mut table = Table::new(&["JOURNAL", ">ID", "POLICY", ">QUOTA"]);
    for journal in &journals {
        table.row(vec![
            journal.name.clone(),
            journal.id.to_string(),
            policy(journal).into(),
            if journal.quota_bytes == 0 { "-".into() } else { bytes(journal.quota_bytes) },
        ]);
    }
    if table.is_empty() {
        eprintln!("there are no journals yet: journal create NAME");
        return Ok(());
    }
    for line in table.lines() {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

pub async fn quota(connection: &Connection, args: Quota) -> anyhow::Result<()> {
    let admin = connection.admin()?;
    let journal = match args.size {
        Some(size) => {
            let set = admin.set_quota(&args.name, size).await;
            set.with_context(|| format!("cannot set the quota of {}", args.name))?
        }
        None => {
            let journals = admin.list().await?;
            let found = journals.into_iter().find(|journal| journal.name == args.name.as_str());
            found.with_context(|| format!("there is no journal called {}", args.name))?
        }
    };
    match journal.quota_bytes {
        0 => println!("{} has no quota", journal.name),
        quota => println!("{} may take {} ({quota} bytes) on each node", journal.name, bytes(quota)),
    }
    Ok(())
}

fn policy(journal: &JournalInfo) -> &'static str {
    match journal.policy {
        TrimPolicy::Free => "free",
        TrimPolicy::Checkpointed => "checkpointed",
    }
}

fn json(journal: &JournalInfo) -> serde_json::Value {
    serde_json::json!({
        "id": journal.id.0,
        "name": journal.name,
        "policy": policy(journal),
        "quota_bytes": journal.quota_bytes,
    })
}
