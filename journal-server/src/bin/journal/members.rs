//! `journal members`: who belongs to the cluster, and how that changes.
//!
//! A change is recorded by the cluster and carried out by it, whether this command goes on watching
//! or not.

use std::io::Write;
use std::time::Duration;

use anyhow::bail;
use clap::Subcommand;
use journal_client::{Admin, Change, Error, Recorded};
use proto::NodeId;
use tokio::time::{Instant, sleep};

use crate::confirm::confirm;
use crate::connect::Connection;
use crate::exit::Usage;
use crate::format::Table;
use crate::view::View;

#[derive(Subcommand)]
#[command(after_help = "\
A node is called by its name, its address or its id (or the beginning of it).

To grow a cluster: start the new node with --join, then
  journal members add 10.0.0.4:7400 --wait
  journal members promote n4 --wait
To exchange a node whose disk is lost: start its successor with --join, then
  journal members replace n2 10.0.0.5:7400 --wait")]
pub enum Command {
    /// List the members
    #[command(after_help = "Example:\n  journal members list --json")]
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Let a node in that waits to join: it gets everything, and no vote yet
    #[command(after_help = "Example:\n  journal members add 10.0.0.4:7400 --wait")]
    Add {
        /// Where it listens
        #[arg(value_name = "HOST:PORT")]
        address: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Give a learner a vote, once it holds everything
    #[command(after_help = "Example:\n  journal members promote n4 --wait")]
    Promote {
        node: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Let a member go
    #[command(after_help = "Example:\n  journal members remove n4 --wait --yes")]
    Remove {
        node: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Let a new node in, and the old one go once the new one holds everything
    #[command(after_help = "Example:\n  journal members replace n2 10.0.0.5:7400 --wait")]
    Replace {
        old: String,
        /// Where the new one listens
        #[arg(value_name = "HOST:PORT")]
        new: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Record that a member is reached at another address now
    #[command(after_help = "Example:\n  journal members set-address n2 10.0.0.7:7400")]
    SetAddress {
        node: String,
        #[arg(value_name = "HOST:PORT")]
        address: String,
    },
}

#[derive(clap::Args)]
pub struct Wait {
    /// Watch until the cluster has carried it out
    #[arg(long)]
    wait: bool,
    /// Give up watching after so many seconds; the change goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    wait_timeout: u64,
}

pub async fn run(connection: &Connection, command: Command) -> anyhow::Result<()> {
    let admin = connection.admin()?;
    let (change, wait) = match command {
        Command::List { json } => return list(&admin, json).await,
        Command::Add { address, wait } => (Change::AddLearner { address }, Some(wait)),
        Command::Promote { node, wait } => (Change::Promote { node: find(&admin, &node).await? }, Some(wait)),
        Command::Remove { node, yes, wait } => {
            let id = find(&admin, &node).await?;
            if !yes {
                let what = format!("This takes {node} ({id}) out of the cluster; it serves nobody any more.");
                confirm(&what, &node, &format!("remove {node}"))?;
            }
            (Change::Remove { node: id }, Some(wait))
        }
        Command::Replace { old, new, wait } => {
            (Change::Replace { old: find(&admin, &old).await?, new_address: new }, Some(wait))
        }
        Command::SetAddress { node, address } => {
            (Change::SetAddress { node: find(&admin, &node).await?, address }, None)
        }
    };
    let changed = admin.change_members(change).await;
    let recorded = changed.map_err(|error| match error {
        Error::Unconfirmed(_) => anyhow::Error::new(error).context("`journal status` shows whether it is under way"),
        error => error.into(),
    })?;
    println!("{}: {}", recorded.node, recorded.message);
    match wait {
        Some(wait) if wait.wait => watch(&admin, &recorded, Duration::from_secs(wait.wait_timeout)).await,
        _ => Ok(()),
    }
}

/// The id of a node that is called by any of its names.
pub async fn find(admin: &Admin, called: &str) -> anyhow::Result<NodeId> {
    let view = View::take(admin).await?;
    if let Some(id) = view.node(called).and_then(|node| node.node_id()) {
        return Ok(id);
    }
    // A whole id may belong to a node that nobody can tell us about any more.
    if called.len() == 16
        && let Ok(id) = called.parse()
    {
        return Ok(id);
    }
    let known: Vec<_> = view.nodes.iter().map(|node| node.name.as_str()).collect();
    Err(Usage(format!("no node is called `{called}`; there are {}", known.join(", "))).into())
}

async fn list(admin: &Admin, json: bool) -> anyhow::Result<()> {
    let view = View::take(admin).await?;
    let mut out = std::io::stdout().lock();
    if json {
        let list: Vec<_> = view
            .nodes
            .iter()
            .map(|node| {
                serde_json::json!({
                    "id": node.id, "name": node.name, "address": node.address, "role": node.role,
                    "answers": node.answers, "ready": node.ready,
                })
            })
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
        return Ok(());
    }
    let mut table = Table::new(&["NODE", "ID", "ADDRESS", "ROLE", "STATE"]);
    for node in &view.nodes {
        let state = match (node.answers, node.ready) {
            _ if node.removed => "removed",
            (false, _) => "silent",
            (true, false) => "not ready",
            (true, true) => "ready",
        };
        table.row(vec![
            node.name.clone(),
            node.id.clone().unwrap_or_else(|| "-".into()),
            node.address.clone(),
            node.role.clone(),
            state.into(),
        ]);
    }
    for line in table.lines() {
        writeln!(out, "{line}")?;
    }
    if let Some(change) = view.change {
        writeln!(out, "\nunder way: {change}")?;
    }
    Ok(())
}

/// Waits until the change has been carried out, telling what is left to do.
async fn watch(admin: &Admin, change: &Recorded, patience: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut told = String::new();
    let mut silence = None;
    loop {
        if begun.elapsed() > patience {
            match silence {
                Some(why) => bail!("after {} s nobody can tell how far it is: {why}", patience.as_secs()),
                None => bail!("it is still under way after {} s, and goes on: {told}", patience.as_secs()),
            }
        }
        sleep(Duration::from_millis(200)).await;
        let left = admin.left_of(change).await;
        silence = left.as_ref().err().map(ToString::to_string);
        match left {
            Ok(Some(left)) if left != told => {
                eprintln!("  {:>4} s  {left}", begun.elapsed().as_secs());
                told = left;
            }
            Ok(None) => break,
            // After an error too: an election, perhaps, and the change survives it.
            Ok(Some(_)) | Err(_) => {}
        }
    }
    eprintln!("  {:>4} s  done", begun.elapsed().as_secs());
    Ok(())
}
