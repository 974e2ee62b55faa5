//! `journal dump`: the frames of a segment, of a log or of a whole data directory, one a line.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use journal_server::segment::dump::{self, EntryLine, Line};
use journal_server::segment::real_fs::RealFs;
use journal_server::segment::{FrameHeader, LogId, Vote};
use serde_json::json;

use crate::exit::Usage;

#[derive(clap::Args)]
#[command(after_help = "\
Nothing is changed. It can be used on a node that runs: the end of its last segment may then be in motion.
Payloads are not shown.

Examples:
  journal dump /var/lib/journal/groups/7/0000000000000001.seg
  journal dump /var/lib/journal --json | jq 'select(.whole == false)'")]
pub struct Args {
    /// A node's data directory, a log in it (`groups/ID`), or one segment
    #[arg(value_name = "DIR|SEGMENT")]
    path: PathBuf,
    /// A line for every entry too
    #[arg(long)]
    entries: bool,
    /// One object a line, for programs
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let segments = segments(&args.path)?;
    if segments.is_empty() {
        return Err(Usage(format!("{} holds no segments", args.path.display())).into());
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    for path in segments {
        let out = std::cell::RefCell::new(&mut out);
        let opening = |opening: dump::Opening| {
            let mut out = out.borrow_mut();
            match args.json {
                true => writeln!(
                    out,
                    "{}",
                    json!({
                        "segment": path,
                        "number": opening.number,
                        "cluster": format!("{:032x}", opening.ids.cluster),
                        "node": format!("{:016x}", opening.ids.node),
                        "group": opening.ids.group,
                        "run": opening.run,
                        "follows": opening.previous_last.map(id_json),
                    })
                ),
                false => writeln!(
                    out,
                    "{}: segment {} of group {}, node {:016x}, begun in run {}, after {}",
                    path.display(),
                    opening.number,
                    opening.ids.group,
                    opening.ids.node,
                    opening.run,
                    id_text(opening.previous_last),
                ),
            }
        };
        let line = |line: Line| {
            let mut out = out.borrow_mut();
            match args.json {
                true => writeln!(out, "{}", line_json(&line, args.entries)),
                false => line_text(&mut **out, &line, args.entries),
            }
        };
        let begun = dump::dump(&RealFs, &path, opening, line).with_context(|| path.display().to_string())?;
        if begun.is_none() && !args.json {
            writeln!(out.borrow_mut(), "{}: not begun yet, or its header cannot be read", path.display())?;
        }
    }
    out.flush()?;
    Ok(())
}

fn segments(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    if !path.is_dir() {
        return Err(Usage(format!("there is nothing at {}", path.display())).into());
    }
    let groups = path.join("groups");
    if !groups.is_dir() {
        return Ok(dump::segments(&RealFs, path)?);
    }
    let mut dirs = std::fs::read_dir(&groups)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    let number = |dir: &PathBuf| dir.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok());
    dirs.retain(|dir| dir.is_dir());
    dirs.sort_by_key(number);
    let mut all = Vec::new();
    for dir in dirs {
        all.extend(dump::segments(&RealFs, &dir)?);
    }
    Ok(all)
}

fn id_text(id: Option<LogId>) -> String {
    id.map_or("-".to_owned(), |id| id.to_string())
}

fn vote_text(vote: Option<Vote>) -> String {
    let text = |vote: Vote| format!("{}:{:x}{}", vote.term, vote.node, if vote.committed { "!" } else { "" });
    vote.map_or("-".to_owned(), text)
}

fn line_text(out: &mut impl Write, line: &Line, with_entries: bool) -> io::Result<()> {
    let (header, entries, whole) = match line {
        Line::Unreadable { offset, end } => {
            return writeln!(out, "{offset:>10}  BAD  {} bytes tell nothing", end - offset);
        }
        Line::Frame { header, entries, whole } => (header, entries, whole),
    };
    let bad = if *whole { "   " } else { "BAD" };
    let kind = format!("{:?}{}", header.kind, sub_text(header));
    write!(out, "{:>10}  {bad}  {kind:<16} run {} len {}", header.offset, header.run, header.frame_len)?;
    match entries.is_empty() {
        true => write!(out, " at {}", id_text(header.at))?,
        false => write!(out, " entries {}..={}", header.at.map_or(0, |id| id.position), last_position(header))?,
    }
    writeln!(
        out,
        " after {} chain {:016x} synced {} vote {} purged {} committed {} applied {}",
        id_text(header.last),
        header.chain,
        header.synced_upto,
        vote_text(header.vote),
        id_text(header.purged),
        id_text(header.committed),
        id_text(header.applied),
    )?;
    for entry in entries.iter().filter(|entry| with_entries || !entry.whole) {
        let bad = if entry.whole { "   " } else { "BAD" };
        writeln!(out, "            {bad}  {} {:?} {} bytes crc {:08x}", entry.id, entry.kind, entry.len, entry.crc)?;
    }
    Ok(())
}

fn sub_text(header: &FrameHeader) -> String {
    let copy = if header.copy { " copy" } else { "" };
    match header.sub {
        0 => copy.to_owned(),
        sub => format!("/{sub}{copy}"),
    }
}

fn last_position(header: &FrameHeader) -> u64 {
    header.at.map_or(0, |id| id.position) + u64::from(header.count.max(1)) - 1
}

fn id_json(id: LogId) -> serde_json::Value {
    json!({ "term": id.term, "position": id.position })
}

fn line_json(line: &Line, with_entries: bool) -> serde_json::Value {
    let (header, entries, whole) = match line {
        Line::Unreadable { offset, end } => return json!({ "offset": offset, "end": end, "whole": false }),
        Line::Frame { header, entries, whole } => (header, entries, whole),
    };
    let entry = |entry: &EntryLine| {
        json!({
            "position": entry.id.position,
            "term": entry.id.term,
            "kind": format!("{:?}", entry.kind).to_lowercase(),
            "bytes": entry.len,
            "crc": format!("{:08x}", entry.crc),
            "whole": entry.whole,
        })
    };
    let mut object = json!({
        "offset": header.offset,
        "end": header.offset + u64::from(header.frame_len),
        "whole": whole,
        "kind": format!("{:?}", header.kind).to_lowercase(),
        "sub": header.sub,
        "copy": header.copy,
        "run": header.run,
        "count": header.count,
        "at": header.at.map(id_json),
        "after": header.last.map(id_json),
        "chain": format!("{:016x}", header.chain),
        "synced_upto": header.synced_upto,
        "vote": header.vote.map(|v| json!({ "term": v.term, "node": format!("{:016x}", v.node), "committed": v.committed })),
        "purged": header.purged.map(id_json),
        "committed": header.committed.map(id_json),
        "applied": header.applied.map(id_json),
    });
    if with_entries && !entries.is_empty() {
        object["entries"] = entries.iter().map(entry).collect();
    }
    object
}
