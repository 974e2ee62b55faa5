//! `journal verify`: reads everything in a data directory and says what is damaged. Changes nothing.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use journal_server::segment::Finding;
use journal_server::segment::real_fs::RealFs;
use journal_server::segment::verify::{self, Verdict};
use serde_json::json;

use crate::data_dir::{DataDir, GroupDir, name};
use crate::exit::Damage;
use crate::format::{bytes, count, plural};

#[derive(clap::Args)]
#[command(after_help = "\
The node must not run. Nothing is changed; what a start of the node would put right by itself is told as a note.

Exit codes:
  0  sound: the node would run without anybody's help
  1  damaged: what and where has been said
  2  nothing could be checked: no data directory, or a node runs on it

Example:
  journal verify /var/lib/journal --json | jq '.groups[] | select(.sound | not)'")]
pub struct Args {
    /// A node's data directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// For programs
    #[arg(long)]
    json: bool,
    /// No progress on standard error
    #[arg(long, short)]
    quiet: bool,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let data = DataDir::open(&args.dir)?;
    let groups = data.groups()?;
    let progress = Progress::new(&groups, args.quiet)?;
    let mut checked = Vec::new();
    for group in groups {
        let verdict = check(&group, &progress)?;
        checked.push((group, verdict));
    }
    progress.end();
    let damaged = checked.iter().filter(|(_, verdict)| !verdict.is_sound()).count();
    let mut out = std::io::stdout().lock();
    if args.json {
        let groups: Vec<_> = checked.iter().map(|(group, verdict)| as_json(group, verdict)).collect();
        let report =
            json!({ "dir": data.dir, "node": data.node.node_id.to_string(), "sound": damaged == 0, "groups": groups });
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        for (group, verdict) in &checked {
            tell(&mut out, group, verdict)?;
        }
        if checked.is_empty() {
            writeln!(out, "the node holds no journals yet")?;
        }
    }
    match damaged {
        0 => Ok(()),
        damaged => Err(Damage(format!("{} of {} damaged", damaged, plural(checked.len(), "log"))).into()),
    }
}

/// A log that should be there and is not, or that cannot be read at all, is damaged too.
pub fn check(group: &GroupDir, progress: &Progress) -> anyhow::Result<Verdict> {
    let told = progress.done.clone();
    let shown = progress.clone();
    let tell = move |read: u64| {
        told.fetch_add(read, Ordering::Relaxed);
        shown.show();
    };
    let missing =
        || Verdict { invalid: Some(format!("{} is missing or empty", group.dir.display())), ..Verdict::default() };
    if group.listed && !group.dir.is_dir() {
        return Ok(missing());
    }
    let verified = verify::verify(&RealFs, &group.dir, group.ids, Arc::new(tell));
    let mut verdict = verified.with_context(|| format!("cannot check {}", group.dir.display()))?;
    if verdict.segments == 0 && !group.listed {
        // Made and never used, or on its way out.
        verdict.invalid = None;
    }
    Ok(verdict)
}

fn tell(out: &mut impl Write, group: &GroupDir, verdict: &Verdict) -> std::io::Result<()> {
    let what = if verdict.is_sound() { "sound" } else { "DAMAGED" };
    let first = verdict.purged.map_or(0, |mark| mark.position + 1);
    let range = match verdict.last {
        Some(last) if last.position >= first => format!("positions {first}..={}", last.position),
        _ => "no entries".to_owned(),
    };
    let trimmed = verdict.findings.iter().filter(|finding| matches!(finding, Finding::Trimmed { .. })).count();
    let below = match trimmed {
        0 => String::new(),
        count => format!(", {} below the trim point", plural(count, "damaged place")),
    };
    writeln!(
        out,
        "{}: {what}: {range}, {}, {}, {} read{below}",
        name(group.ids.group),
        plural(verdict.segments, "segment"),
        plural(verdict.frames as usize, "frame"),
        bytes(verdict.bytes)
    )?;
    if let Some(why) = &verdict.invalid {
        writeln!(out, "  {why}")?;
    }
    if verdict.state_lost {
        writeln!(out, "  the replicated state at the trim cut is lost: this node must be replaced")?;
    }
    for hole in &verdict.holes {
        writeln!(out, "  lost: {hole}")?;
    }
    for finding in &verdict.findings {
        writeln!(out, "  note: {}", note(finding))?;
    }
    Ok(())
}

fn note(finding: &Finding) -> String {
    match finding {
        Finding::Torn { segment, offset, bytes } => {
            format!("segment {segment}: a torn end of {bytes} bytes at {offset}, which the next start cuts")
        }
        Finding::Scar { segment, offset, end } => {
            format!("segment {segment}: bytes {offset}..{end} cannot be read, and nothing needs them")
        }
        Finding::Trimmed { segment, offset, first, last } => {
            format!("segment {segment}: positions {first}..={last} at {offset} cannot be read; they were trimmed")
        }
        Finding::Copy { segment, offset } => format!("segment {segment}: one of two copies at {offset} cannot be read"),
        Finding::Footer { segment } => format!("segment {segment}: its footer cannot be read"),
        Finding::Versions { segment, offset } => {
            format!("segment {segment}: a version of the state at {offset} is lost, and will be made again")
        }
    }
}

fn as_json(group: &GroupDir, verdict: &Verdict) -> serde_json::Value {
    let id = |id: journal_server::segment::LogId| json!({ "term": id.term, "position": id.position });
    json!({
        "group": group.ids.group,
        "dir": group.dir,
        "sound": verdict.is_sound(),
        "segments": verdict.segments,
        "frames": verdict.frames,
        "bytes": verdict.bytes,
        "purged": verdict.purged.map(id),
        "last": verdict.last.map(id),
        "committed": verdict.committed.map(id),
        "clean_stop": verdict.clean,
        "state_lost": verdict.state_lost,
        "invalid": verdict.invalid,
        "holes": verdict.holes.iter().map(|hole| json!({
            "first": hole.first,
            "last": hole.last,
            "segment": hole.segment,
            "offset": hole.offset,
            "end": hole.end,
        })).collect::<Vec<_>>(),
        "notes": verdict.findings.iter().map(note).collect::<Vec<_>>(),
    })
}

/// A bar on standard error, where that is a terminal.
#[derive(Clone)]
pub struct Progress {
    done: Arc<AtomicU64>,
    shown: Arc<AtomicU64>,
    all: u64,
    on: bool,
}

impl Progress {
    pub fn new(groups: &[GroupDir], quiet: bool) -> anyhow::Result<Progress> {
        let sizes = groups.iter().filter(|group| group.dir.is_dir()).map(|group| verify::size(&RealFs, &group.dir));
        let all = sizes.sum::<std::io::Result<u64>>().context("cannot list the segments")?;
        let on = !quiet && std::io::stderr().is_terminal();
        Ok(Progress { done: Arc::default(), shown: Arc::default(), all, on })
    }

    fn show(&self) {
        const WIDTH: u64 = 30;
        let done = self.done.load(Ordering::Relaxed).min(self.all);
        let percent = done * 100 / self.all.max(1);
        if !self.on || self.shown.swap(percent + 1, Ordering::Relaxed) == percent + 1 {
            return;
        }
        let filled = (percent * WIDTH / 100) as usize;
        let bar: String = (0..WIDTH as usize).map(|at| if at < filled { '█' } else { '░' }).collect();
        eprint!("\r{bar} {percent:>3}%  {} of {}\x1b[K", bytes(done), bytes(self.all));
        let _ = std::io::stderr().flush();
    }

    pub fn end(&self) {
        if self.on {
            eprint!("\r\x1b[K");
        }
    }
}

/// `3 entries`, with the thousands apart.
pub fn entries(number: u64) -> String {
    let what = if number == 1 { "entry" } else { "entries" };
    format!("{} {what}", count(number))
}
