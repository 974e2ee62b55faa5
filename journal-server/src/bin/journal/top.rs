//! `journal top`: the cluster, live.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::connect::Connection;
use crate::exit::Usage;
use crate::format::{Table, bytes, count, millis};
use crate::status::{lag, summary};
use crate::term::{Screen, sparkline};
use crate::view::View;

#[derive(clap::Args)]
#[command(after_help = "\
q or Ctrl-C ends it. Curves show the last minute, each scaled to its own highest value.

Examples:
  journal top
  journal top --once          # one picture, for a terminal that cannot be drawn on")]
pub struct Args {
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    every: f64,
    /// Look twice, print one picture, end
    #[arg(long)]
    once: bool,
}

/// Values that a curve shows.
const REMEMBERED: usize = 60;
const CURVE: usize = 30;

pub async fn run(connection: &Connection, args: Args) -> anyhow::Result<()> {
    let every = Duration::try_from_secs_f64(args.every.max(0.1))
        .map_err(|_| Usage(format!("--every {} is no time", args.every)))?;
    let admin = connection.admin()?;
    let mut memory = Memory::default();
    if args.once {
        memory.remember(&View::take(&admin).await?, Instant::now());
        tokio::time::sleep(every).await;
        let view = View::take(&admin).await?;
        memory.remember(&view, Instant::now());
        let mut out = std::io::stdout().lock();
        for line in picture(&view, &memory) {
            writeln!(out, "{line}")?;
        }
        return Ok(());
    }

    // The first look comes before the screen: if nobody answers, the message stays readable.
    let mut view = View::take(&admin).await?;
    memory.remember(&view, Instant::now());
    let screen = Screen::open().map_err(|error| Usage(format!("{error}: use --once, or `journal status`")))?;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut silence = None;
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut key = std::pin::pin!(screen.key());
    loop {
        let mut lines = picture(&view, &memory);
        if let Some(why) = &silence {
            lines.insert(0, format!("no answer: {why}; below is what was last heard"));
        }
        screen.draw(&lines)?;
        tokio::select! {
            biased;
            _ = &mut interrupt => return Ok(()),
            pressed = &mut key => {
                if matches!(pressed, b'q' | b'Q' | 0x1b) {
                    return Ok(());
                }
                key.set(screen.key());
            }
            _ = ticks.tick() => match View::take(&admin).await {
                Ok(taken) => {
                    memory.remember(&taken, Instant::now());
                    (view, silence) = (taken, None);
                }
                Err(error) => silence = Some(error.to_string()),
            },
        }
    }
}

/// What changed from look to look.
#[derive(Default)]
struct Memory {
    looked: Option<Instant>,
    tails: BTreeMap<u64, u64>,
    /// Positions a second, by journal.
    rates: BTreeMap<u64, VecDeque<f64>>,
    /// 99th percentile of syncs in microseconds, by node.
    syncs: BTreeMap<String, VecDeque<f64>>,
}

impl Memory {
    fn remember(&mut self, view: &View, now: Instant) {
        let passed = self.looked.replace(now).map(|before| (now - before).as_secs_f64());
        for journal in &view.journals {
            let before = self.tails.insert(journal.id, journal.tail);
            if let (Some(before), Some(passed)) = (before, passed) {
                let rate = journal.tail.saturating_sub(before) as f64 / passed.max(0.001);
                push(self.rates.entry(journal.id).or_default(), rate);
            }
        }
        for node in &view.nodes {
            let sync = node.disk.as_ref().map_or(0.0, |disk| disk.sync_p99_us as f64);
            push(self.syncs.entry(node.name.clone()).or_default(), sync);
        }
        self.tails.retain(|id, _| view.journals.iter().any(|journal| journal.id == *id));
        self.rates.retain(|id, _| view.journals.iter().any(|journal| journal.id == *id));
        self.syncs.retain(|name, _| view.nodes.iter().any(|node| node.name == *name));
    }
}

fn push(values: &mut VecDeque<f64>, value: f64) {
    if values.len() == REMEMBERED {
        values.pop_front();
    }
    values.push_back(value);
}

fn curve(values: Option<&VecDeque<f64>>) -> String {
    let values: Vec<f64> = values.into_iter().flatten().copied().collect();
    sparkline(&values, CURVE)
}

fn picture(view: &View, memory: &Memory) -> Vec<String> {
    let mut lines = vec![summary(view), String::new()];
    let mut nodes = Table::new(&[
        "NODE",
        "STATE",
        ">LEADS",
        ">JOURNALS",
        ">FREE",
        "ROOM",
        ">SYNC p50",
        ">p99 ms",
        "p99, LAST MINUTE",
    ]);
    for node in &view.nodes {
        let state = match (node.answers, node.ready) {
            (false, _) => "silent",
            (true, false) => "not ready",
            (true, true) => "ready",
        };
        let disk = node.disk.clone().unwrap_or_default();
        nodes.row(vec![
            node.name.clone(),
            state.into(),
            node.leads.to_string(),
            bytes(disk.journal_bytes),
            bytes(disk.free_bytes),
            disk.room.clone(),
            millis(disk.sync_p50_us),
            millis(disk.sync_p99_us),
            curve(memory.syncs.get(&node.name)),
        ]);
    }
    lines.extend(nodes.lines());
    lines.push(String::new());
    let mut journals =
        Table::new(&["JOURNAL", "LEADER", ">TERM", ">TAIL", ">LAG", ">DISK", ">PER SECOND", "LAST MINUTE"]);
    for journal in &view.journals {
        let rate = memory.rates.get(&journal.id).and_then(|rates| rates.back()).copied().unwrap_or(0.0);
        journals.row(vec![
            journal.name.clone(),
            journal.leader.clone().unwrap_or_else(|| "nobody".into()),
            journal.term.to_string(),
            count(journal.tail),
            lag(journal),
            bytes(journal.disk_bytes),
            count(rate.round() as u64),
            curve(memory.rates.get(&journal.id)),
        ]);
    }
    lines.extend(journals.lines());
    if let Some(change) = &view.change {
        lines.extend([String::new(), format!("under way: {change}")]);
    }
    if !view.troubles.is_empty() {
        lines.push(String::new());
        lines.extend(view.troubles.iter().map(|trouble| format!("! {trouble}")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Journal;

    #[test]
    fn a_rate_is_the_tails_way_by_the_time_it_took() {
        let mut memory = Memory::default();
        let journal = |tail| View { journals: vec![Journal { id: 7, tail, ..Journal::default() }], ..View::default() };
        let now = Instant::now();
        memory.remember(&journal(1_000), now);
        memory.remember(&journal(5_000), now + Duration::from_secs(2));
        assert_eq!(memory.rates[&7], [2_000.0]);
        // A journal that is gone is forgotten.
        memory.remember(&View::default(), now + Duration::from_secs(3));
        assert!(memory.rates.is_empty());
    }
}
