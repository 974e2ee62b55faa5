//! `journal status`: the cluster at a glance.

use std::io::Write;

use anyhow::bail;

use crate::connect::Connection;
use crate::format::{Table, age, bytes, count, millis, plural};
use crate::view::{Journal, Node, View};

#[derive(clap::Args)]
#[command(after_help = "\
Times are milliseconds of the last minute: median, 99th percentile, longest. LAG is how far the slowest
follower is behind its leader, in positions.

Examples:
  journal status
  journal status --check || page-somebody
  journal status --json | jq '.journals[] | {name, leader, tail}'")]
pub struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Fail (exit code 1) if anything needs somebody's attention
    #[arg(long)]
    check: bool,
}

pub async fn run(connection: &Connection, args: Args) -> anyhow::Result<()> {
    let view = View::take(&connection.admin()?).await?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&view)?)?;
    } else {
        for line in lines(&view) {
            writeln!(out, "{line}")?;
        }
    }
    out.flush()?;
    if args.check && !view.troubles.is_empty() {
        bail!("{}", plural(view.troubles.len(), "trouble"));
    }
    Ok(())
}

/// The whole picture as text.
pub fn lines(view: &View) -> Vec<String> {
    let mut lines = vec![summary(view), String::new()];
    lines.extend(nodes(&view.nodes).lines());
    if !view.journals.is_empty() {
        lines.push(String::new());
        lines.extend(journals(&view.journals).lines());
    }
    if let Some(change) = &view.change {
        lines.extend([String::new(), format!("under way: {change}")]);
    }
    if !view.troubles.is_empty() {
        lines.push(String::new());
        lines.extend(view.troubles.iter().map(|trouble| format!("! {trouble}")));
    }
    lines
}

/// One line that says how it is.
pub fn summary(view: &View) -> String {
    let ready = view.nodes.iter().filter(|node| node.ready).count();
    let journals = view.journals.iter().filter(|journal| journal.id != 0).count();
    let cluster = if view.cluster_id.is_empty() { "no cluster yet" } else { &view.cluster_id };
    format!(
        "cluster {cluster}: {}, {ready} ready, {}, {}",
        plural(view.nodes.len(), "node"),
        plural(journals, "journal"),
        if view.troubles.is_empty() { "no trouble".into() } else { plural(view.troubles.len(), "trouble") }
    )
}

fn nodes(nodes: &[Node]) -> Table {
    let mut table = Table::new(&[
        "NODE",
        "ID",
        "ADDRESS",
        "ROLE",
        "STATE",
        ">LEADS",
        ">JOURNALS",
        ">FREE",
        "ROOM",
        "DISK",
        ">SYNC p50",
        ">p99",
        ">max",
        ">UP",
    ]);
    for node in nodes {
        let state = match node {
            node if !node.answers => "silent",
            node if node.removed => "removed",
            node if !node.live => "dead",
            node if !node.ready => "not ready",
            _ => "ready",
        };
        let mut row = vec![
            node.name.clone(),
            node.id.clone().unwrap_or_else(|| "-".into()),
            node.address.clone(),
            node.role.clone(),
            state.into(),
            node.leads.to_string(),
        ];
        match &node.disk {
            Some(disk) => row.extend([
                bytes(disk.journal_bytes),
                bytes(disk.free_bytes),
                disk.room.clone(),
                disk.health.clone(),
                millis(disk.sync_p50_us),
                millis(disk.sync_p99_us),
                millis(disk.sync_max_us),
            ]),
            None => row.extend(std::iter::repeat_n("-".to_owned(), 7)),
        }
        row.push(if node.answers { age(node.uptime_ms) } else { "-".into() });
        table.row(row);
    }
    table
}

fn journals(journals: &[Journal]) -> Table {
    let mut table = Table::new(&[
        "JOURNAL", ">ID", "POLICY", "LEADER", ">TERM", ">START", ">TAIL", ">LAG", ">DISK", ">QUOTA", "VOTERS",
    ]);
    for journal in journals {
        table.row(vec![
            journal.name.clone(),
            journal.id.to_string(),
            journal.policy.clone(),
            journal.leader.clone().unwrap_or_else(|| "nobody".into()),
            journal.term.to_string(),
            count(journal.start),
            count(journal.tail),
            lag(journal),
            bytes(journal.disk_bytes),
            if journal.quota_bytes == 0 { "-".into() } else { bytes(journal.quota_bytes) },
            members(journal),
        ]);
    }
    table
}

/// The slowest follower's, and whose it is.
pub fn lag(journal: &Journal) -> String {
    match journal.peers.iter().max_by_key(|peer| peer.lag) {
        Some(peer) if peer.lag > 0 => format!("{} ({})", count(peer.lag), peer.name),
        Some(_) => "0".into(),
        None => "-".into(),
    }
}

fn members(journal: &Journal) -> String {
    let mut text = journal.voters.join(" ");
    if !journal.learners.is_empty() {
        text.push_str(&format!(" + {}", journal.learners.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Peer;

    #[test]
    fn the_slowest_follower_is_named() {
        let peer = |name: &str, lag| Peer { name: name.into(), lag, ..Peer::default() };
        let mut journal = Journal { peers: vec![peer("n2", 3), peer("n3", 1_200)], ..Journal::default() };
        assert_eq!(lag(&journal), "1,200 (n3)");
        journal.peers = vec![peer("n2", 0)];
        assert_eq!(lag(&journal), "0");
    }

    #[test]
    fn a_silent_node_has_a_line_too() {
        let view = View {
            nodes: vec![Node { name: "n1".into(), address: "h:1".into(), role: "voter".into(), ..Node::default() }],
            troubles: vec!["n1 does not answer: no connection".into()],
            ..View::default()
        };
        let text = lines(&view).join("\n");
        assert!(text.contains("silent") && text.contains("! n1 does not answer"), "{text}");
    }
}
