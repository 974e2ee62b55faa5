//! `journal trim`: gives up the entries below a position, for good.

use anyhow::Context;
use journal_client::Journal;
use proto::{JournalName, Position};

use crate::connect::Connection;

#[derive(clap::Args)]
#[command(after_help = "\
Disk space comes back in whole segments, so not at once for every entry.

Examples:
  journal trim audit 5000        # the first entry that stays is 5000 or later
  journal trim audit tail        # everything that is there now")]
pub struct Args {
    journal: JournalName,
    /// A position, or `tail`
    #[arg(value_name = "BEFORE", value_parser = parse)]
    before: Before,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Tail,
    Position(u64),
}

fn parse(text: &str) -> Result<Before, String> {
    match text {
        "tail" => Ok(Before::Tail),
        number => number.parse().map(Before::Position).map_err(|_| "write a position or `tail`".into()),
    }
}

pub async fn run(connection: &Connection, args: Args) -> anyhow::Result<()> {
    let journal = connection.journal(&args.journal).await?;
    let before = match args.before {
        Before::Position(position) => Position(position),
        Before::Tail => journal.check_tail().await.context("cannot learn where the journal ends")?.tail,
    };
    let start = journal.trim(before).await.with_context(|| format!("cannot trim {} before {before}", args.journal))?;
    println!("{} begins at {start}", args.journal);
    Ok(())
}
