//! `journal append`: entries from arguments, lines or a file, in their order.
//!
//! What was rejected, together with everything behind it, is sent again as long as that passes and
//! patience lasts: it certainly is not there. An unknown outcome ends the command at once: only the
//! user can know whether an entry twice is worse than an entry not at all.

use std::io::{BufRead, BufReader, StdinLock, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use journal_client::{AppendError, Appender, Entry, Journal, RemoteJournal};
use proto::{JournalName, Position};
use tokio::time::{Instant, sleep};

use crate::connect::Connection;

#[derive(clap::Args)]
#[command(after_help = "\
Positions are printed one a line, in the order of the entries. Without ENTRY and --file, every line of
standard input is an entry.

Examples:
  journal append audit 'user 7 logged in' 'user 7 logged out'
  journal append audit < events.ndjson
  journal append blobs --file picture.jpg")]
pub struct Args {
    journal: JournalName,
    /// Entries, one an argument
    #[arg(value_name = "ENTRY", conflicts_with = "file")]
    entries: Vec<String>,
    /// One entry: the whole file (- for standard input)
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Ask for admission even when ordinary entries are refused for lack of room
    #[arg(long)]
    urgent: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Seconds to go on trying while nobody leads or there is no room
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    patience: u64,
}

/// Entries that are under way at once.
const WINDOW: usize = 512;
const WINDOW_BYTES: usize = 1 << 20;
/// Between two attempts at what was rejected.
const PAUSE: Duration = Duration::from_millis(50);

pub async fn run(connection: &Connection, args: Args) -> anyhow::Result<()> {
    let mut source = Source::of(&args)?;
    let journal = connection.journal(&args.journal).await?;
    let mut sender = Sender { journal, patience: Duration::from_secs(args.patience), stream: None, sent: 0 };
    while let Some(window) = source.next_window()? {
        let entries =
            window.into_iter().map(|payload| if args.urgent { Entry::urgent(payload) } else { Entry::new(payload) });
        let mut print = |position: Position| match args.quiet {
            true => Ok(()),
            false => writeln!(std::io::stdout(), "{position}"),
        };
        sender.send(entries.collect(), &mut print).await?;
    }
    Ok(())
}

/// Where entries come from.
enum Source {
    Given(std::vec::IntoIter<Bytes>),
    Lines(Lines),
}

type Lines = BufReader<StdinLock<'static>>;

impl Source {
    fn of(args: &Args) -> anyhow::Result<Source> {
        let given = match &args.file {
            Some(path) if path.as_os_str() == "-" => {
                let mut all = Vec::new();
                std::io::copy(&mut std::io::stdin().lock(), &mut all).context("cannot read standard input")?;
                vec![all.into()]
            }
            Some(path) => {
                vec![std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?.into()]
            }
            None if args.entries.is_empty() => {
                return Ok(Source::Lines(BufReader::with_capacity(64 << 10, std::io::stdin().lock())));
            }
            None => args.entries.iter().map(|entry| Bytes::from(entry.clone())).collect(),
        };
        Ok(Source::Given(given.into_iter()))
    }

    /// The next entries; nothing at the end. Of lines only as many as there are now, so that somebody
    /// who types gets an answer to every one.
    fn next_window(&mut self) -> anyhow::Result<Option<Vec<Bytes>>> {
        let mut window = Vec::new();
        let mut bytes = 0;
        while window.len() < WINDOW && bytes < WINDOW_BYTES {
            let Some(next) = self.next_entry(window.is_empty())? else { break };
            bytes += next.len();
            window.push(next);
        }
        Ok((!window.is_empty()).then_some(window))
    }

    fn next_entry(&mut self, wait: bool) -> anyhow::Result<Option<Bytes>> {
        match self {
            Source::Given(entries) => Ok(entries.next()),
            Source::Lines(lines) => next_line(lines, wait),
        }
    }
}

/// A line without its end. If not told to wait, only a line that is in the buffer whole.
fn next_line(lines: &mut Lines, wait: bool) -> anyhow::Result<Option<Bytes>> {
    if !wait && !lines.buffer().contains(&b'\n') {
        return Ok(None);
    }
    let mut line = Vec::new();
    lines.read_until(b'\n', &mut line).context("cannot read standard input")?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(Some(line.into()))
}

/// One append stream after the other.
struct Sender {
    journal: RemoteJournal,
    patience: Duration,
    stream: Option<Box<dyn Appender>>,
    /// Entries that were acknowledged so far.
    sent: usize,
}

impl Sender {
    async fn send(
        &mut self,
        mut entries: Vec<Entry>,
        print: &mut impl FnMut(Position) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + self.patience;
        while !entries.is_empty() {
            let (positions, failure) = self.attempt(&entries).await?;
            for position in &positions {
                print(*position)?;
            }
            self.sent += positions.len();
            entries.drain(..positions.len());
            let Some(failure) = failure else { continue };
            self.stream = None;
            let passes = matches!(&failure, AppendError::Rejected(refusal) if refusal.reason.passes());
            if !passes || Instant::now() >= deadline {
                return Err(failure).with_context(|| format!("entry {}", self.sent + 1));
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// The positions of those that got in before the first that did not, and why that one did not.
    async fn attempt(&mut self, entries: &[Entry]) -> anyhow::Result<(Vec<Position>, Option<AppendError>)> {
        let stream = match &self.stream {
            Some(stream) => stream,
            None => {
                let opened = self.journal.appender().await.context("cannot open an append stream")?;
                self.stream.insert(opened)
            }
        };
        let tickets = stream.append(entries.to_vec()).await;
        let answers = futures::future::join_all(tickets).await;
        let got_in = answers.iter().take_while(|answer| answer.is_ok()).count();
        let positions = answers[..got_in].iter().flatten().copied().collect();
        let rest = &answers[got_in..];
        // Anything in doubt, or in the journal behind a rejected one, forbids sending again.
        let doubt = rest.iter().find_map(|answer| match answer {
            Err(unknown @ AppendError::Unknown(_)) => Some(unknown.clone()),
            _ => None,
        });
        let overtaken = rest.iter().any(Result::is_ok).then(|| {
            AppendError::Unknown("it was rejected, but some behind it got in; the rest was not sent again".into())
        });
        let first = rest.first().and_then(|answer| answer.clone().err());
        Ok((positions, doubt.or(overtaken).or(first)))
    }
}
