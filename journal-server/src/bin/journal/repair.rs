//! `journal repair --accept-loss`: the way out when no peer has what a node lost. Gives up positions for
//! good, says which, and leaves a record.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use journal_server::segment::real_fs::RealFs;
use journal_server::segment::verify::Verdict;
use journal_server::segment::{self, Error, Opened, Options};
use serde_json::json;

use crate::data_dir::{DataDir, GroupDir, name};
use crate::exit::{Damage, Usage};
use crate::verify::{Progress, check, entries};

/// Where losses that were accepted are recorded, one object a line.
const RECORD: &str = "accepted-losses.jsonl";

#[derive(clap::Args)]
#[command(after_help = "\
A node repairs itself from its peers. This is for the day when no peer has what is missing: stop the node, look
with `journal verify`, and accept that the positions named are gone from it, together with all behind them. Entries
that were acknowledged to clients may be among them; if other nodes still have those, replace this node instead.
What was given up is recorded in DIR/accepted-losses.jsonl.

Exit codes:
  0  done, or nothing was damaged
  1  not done, or damage is left that this does not mend: the node must be replaced
  2  the command line is wrong, or a node runs on the directory

Example:
  journal repair /var/lib/journal --accept-loss")]
pub struct Args {
    /// A node's data directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Give up what cannot be read, and everything behind it
    #[arg(long, required = true)]
    accept_loss: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// What one log is about to lose.
struct Loss {
    group: GroupDir,
    first: u64,
    last: u64,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let data = DataDir::open(&args.dir)?;
    let groups = data.groups()?;
    let progress = Progress::new(&groups, false)?;
    let (mut losses, mut hopeless) = (Vec::new(), 0);
    for group in groups {
        let verdict = check(&group, &progress)?;
        match loss(&verdict) {
            Ok(None) => {}
            Ok(Some((first, last))) => {
                progress.end();
                tell(&group, &verdict, first, last);
                losses.push(Loss { group, first, last });
            }
            Err(why) => {
                progress.end();
                println!("{}: {why}", name(group.ids.group));
                hopeless += 1;
            }
        }
    }
    progress.end();
    if losses.is_empty() && hopeless == 0 {
        println!("nothing is damaged; nothing was changed");
        return Ok(());
    }
    if !losses.is_empty() {
        confirm(&args)?;
    }
    for loss in &losses {
        accept(&data, loss)?;
        println!("{}: positions {}..={} are given up", name(loss.group.ids.group), loss.first, loss.last);
    }
    match hopeless {
        0 => Ok(()),
        _ => {
            Err(Damage("some of the damage cannot be mended: replace this node (journal members replace)".into())
                .into())
        }
    }
}

/// What would be lost; an error says why it cannot be helped here.
fn loss(verdict: &Verdict) -> Result<Option<(u64, u64)>, String> {
    if let Some(why) = &verdict.invalid {
        return Err(format!("{why}: replace this node"));
    }
    if verdict.state_lost {
        return Err("the replicated state at the trim cut is lost: replace this node".into());
    }
    let first = verdict.holes.iter().map(|hole| hole.first).min();
    Ok(first.map(|first| (first, verdict.last.map_or(first, |last| last.position.max(first)))))
}

fn tell(group: &GroupDir, verdict: &Verdict, first: u64, last: u64) {
    println!("{}: positions {first}..={last} will be lost ({})", name(group.ids.group), entries(last - first + 1));
    for hole in &verdict.holes {
        println!("  cannot be read: {hole}");
    }
    match verdict.committed {
        Some(committed) if committed.position >= first => {
            println!(
                "  positions up to {} are known to be committed: clients were told so",
                committed.position.min(last)
            );
        }
        _ => println!("  clients may have been told that some of them are committed"),
    }
    if group.ids.group == 0 {
        println!("  this is the catalogue: journals created or members changed there may be forgotten here");
    }
}

fn confirm(args: &Args) -> anyhow::Result<()> {
    if args.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Usage("nobody is there to ask: say --yes if this is what you want".into()).into());
    }
    eprint!("Type `lose` to give them up: ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    anyhow::ensure!(answer.trim() == "lose", "nothing was changed");
    Ok(())
}

fn accept(data: &DataDir, loss: &Loss) -> anyhow::Result<()> {
    let GroupDir { ids, dir, .. } = &loss.group;
    let what = || format!("repairing {}", dir.display());
    let options = Options { create: false, read_all: true, ..Options::default() };
    // Recorded first: better a loss on record that did not happen than the other way round.
    record(data, loss).context("cannot write the record; nothing was changed")?;
    let mut opened = segment::open(Arc::new(RealFs), dir, *ids, options).with_context(what)?;
    loop {
        match opened {
            Opened::Ready { .. } => return Ok(()),
            Opened::Damaged(mut damaged) => {
                let lost = damaged.accept_loss();
                if let Err(Error::Refused { why }) = &lost {
                    return Err(Damage(format!("{}: {why}; nothing was cut", dir.display())).into());
                }
                lost.with_context(what)?;
                opened = damaged.reopen().with_context(what)?;
            }
        }
    }
}

fn record(data: &DataDir, loss: &Loss) -> anyhow::Result<()> {
    let when = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let line = json!({
        "unix_seconds": when,
        "node": data.node.node_id.to_string(),
        "group": loss.group.ids.group,
        "first": loss.first,
        "last": loss.last,
        "version": env!("CARGO_PKG_VERSION"),
    });
    let mut file = std::fs::File::options().create(true).append(true).open(data.dir.join(RECORD))?;
    writeln!(file, "{line}")?;
    file.sync_all()?;
    Ok(std::fs::File::open(&data.dir)?.sync_all()?)
}
