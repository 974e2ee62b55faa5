//! `journal tail`: reads entries, up to the present or on and on.

use std::io::Write;

use anyhow::{Context, bail};
use clap::ArgGroup;
use futures::StreamExt;
use journal_client::{Error, Journal, TailEntry, TailError, TailFrom};
use proto::{JournalName, Position};

use crate::connect::Connection;
use crate::exit::Damage;

#[derive(clap::Args)]
#[command(
    group = ArgGroup::new("shape").args(["json", "raw", "hex"]),
    after_help = "\
By default a line is a position and the payload; bytes that are no text are shown as \\x.., and so are
line ends within an entry.

Examples:
  journal tail audit                      # everything there is
  journal tail audit --from 5000 --limit 10
  journal tail audit --from tail --follow # what comes from now on
  journal tail audit --json --follow | jq ."
)]
pub struct Args {
    journal: JournalName,
    /// A position, `start` or `tail`
    #[arg(long, default_value = "start", value_parser = From::parse)]
    from: From,
    /// Go on when the end is reached
    #[arg(short, long)]
    follow: bool,
    /// Stop after so many entries
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<u64>,
    /// A JSON object a line: position and text, or hex if it is no text
    #[arg(long)]
    json: bool,
    /// Nothing but the payloads, each with a line end
    #[arg(long)]
    raw: bool,
    /// Payloads in hexadecimal
    #[arg(long)]
    hex: bool,
    /// Read from this node (host:port) instead of the leader
    #[arg(long, value_name = "HOST:PORT")]
    node: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Start,
    Tail,
    Position(u64),
}

impl From {
    fn parse(text: &str) -> Result<From, String> {
        match text {
            "start" => Ok(From::Start),
            "tail" => Ok(From::Tail),
            number => number.parse().map(From::Position).map_err(|_| "write a position, `start` or `tail`".into()),
        }
    }
}

pub async fn run(connection: &Connection, args: Args) -> anyhow::Result<()> {
    let prefer = args.node.clone().map_or(TailFrom::Leader, TailFrom::Node);
    let cluster = connection.cluster_read_from(prefer)?;
    let journal = cluster.journal(&args.journal).await;
    let journal = journal.with_context(|| format!("cannot open the journal {}", args.journal))?;

    // Without --follow the end is where the journal ended when we came.
    let bounds = journal.check_tail().await.context("cannot learn where the journal ends")?;
    let from = match args.from {
        From::Start => bounds.start,
        From::Tail => bounds.tail,
        From::Position(position) => Position(position),
    };
    if args.limit == Some(0) || (!args.follow && from >= bounds.tail) {
        return Ok(());
    }
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut tail = journal.tail(from).await.context("cannot read")?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    while let Some(run) = tail.next().await {
        let run = run.map_err(explain)?;
        for entry in &run.entries {
            if !args.follow && entry.position >= bounds.tail {
                break;
            }
            write_entry(&mut out, entry, &args)?;
            left -= 1;
            if left == 0 {
                return Ok(out.flush()?);
            }
        }
        out.flush()?;
        if !args.follow && run.to >= bounds.tail {
            return Ok(());
        }
    }
    bail!("the stream ended, which it never should")
}

fn explain(error: TailError) -> anyhow::Error {
    match error {
        TailError::Gap { start } => {
            anyhow::anyhow!("those entries were trimmed: the journal begins at {start} now (--from start)")
        }
        TailError::Broken { at, why } => Damage(format!("what arrived at {at} is not what was written: {why}")).into(),
        TailError::Failed(error) => anyhow::Error::from(Error::clone(&error)).context("reading failed"),
    }
}

fn write_entry(out: &mut impl Write, entry: &TailEntry, args: &Args) -> std::io::Result<()> {
    let payload = &entry.payload;
    match args {
        Args { raw: true, .. } => {
            out.write_all(payload)?;
            out.write_all(b"\n")
        }
        Args { hex: true, .. } => writeln!(out, "{}\t{}", entry.position, hex(payload)),
        Args { json: true, .. } => {
            let mut object = serde_json::json!({ "position": entry.position.0 });
            match std::str::from_utf8(payload) {
                Ok(text) => object["text"] = text.into(),
                Err(_) => object["hex"] = hex(payload).into(),
            }
            writeln!(out, "{object}")
        }
        _ => writeln!(out, "{}\t{}", entry.position, readable(payload)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Text as it is, on one line; everything else escaped.
fn readable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\t' => text.push('\t'),
                char if char.is_control() => text.extend(char.escape_default()),
                char => text.push(char),
            }
        }
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_line_whatever_is_in_it() {
        assert_eq!(readable("grüß\tdich".as_bytes()), "grüß\tdich");
        assert_eq!(readable(b"two\nlines\x1b[0m"), "two\\nlines\\u{1b}[0m");
        assert_eq!(readable(&[0xff, b'a', 0x00]), "\\xffa\\u{0}");
        assert_eq!(hex(&[0, 255, 16]), "00ff10");
    }

    #[test]
    fn a_place_to_begin_has_a_number_or_a_name() {
        assert_eq!(From::parse("tail"), Ok(From::Tail));
        assert_eq!(From::parse("17"), Ok(From::Position(17)));
        assert!(From::parse("-1").is_err());
    }
}
