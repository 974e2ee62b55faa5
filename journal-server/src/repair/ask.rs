//! Asks the other members what they hold of some positions.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::JournalId;
use proto::peer::{self as wire, FetchRequest};

use super::Answer;
use crate::group::Shared;
use crate::segment::{Hole, Kind, LogEntry, LogId, Vote};

/// A member that does not answer in this time is asked again in the next round.
const PATIENCE: Duration = Duration::from_secs(5);

/// Somebody who may have what is missing here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub node: u64,
    pub name: String,
    pub address: String,
}

/// What a member said, or why it did not.
#[derive(Debug, Clone)]
pub struct Said {
    pub source: Source,
    pub word: Result<Answer, String>,
}

/// Whom to ask: the members of the group as this node last knew them, and those that it came to its
/// cluster with.
pub fn sources(shared: &Shared, group: u64) -> Vec<Source> {
    let file = shared.identity.file();
    let of_group = file.groups.get(&JournalId(group)).into_iter().flatten();
    let of_system = file.groups.get(&JournalId::SYSTEM).into_iter().flatten();
    let of_cluster = file.cluster.iter().flat_map(|cluster| &cluster.members);
    let mut sources = BTreeMap::new();
    for member in of_group.chain(of_system).chain(of_cluster) {
        let (node, name, address) = (member.node_id.0, member.name.clone(), member.address.clone());
        sources.entry(node).or_insert(Source { node, name, address });
    }
    sources.remove(&shared.node());
    sources.into_values().collect()
}

/// Asks one member for all that it holds of a hole, page by page, and gives it to `offer`. The answer
/// is that of the first page: it tells how the member stands.
pub async fn ask<F>(
    shared: &Shared,
    group: u64,
    source: &Source,
    hole: &Hole,
    mut offer: impl FnMut(Vec<LogEntry>) -> F,
) -> Said
where
    F: Future<Output = Result<(), String>>,
{
    let mut at = hole.first;
    let mut first_word: Option<Answer> = None;
    while at <= hole.last {
        let page = match page(shared, group, source, at, hole.last + 1).await {
            Ok(page) => page,
            Err(why) => {
                // What was said before still stands.
                let word = first_word.ok_or(why);
                return Said { source: source.clone(), word };
            }
        };
        let seen = page.entries.iter().map(|entry| entry.id.position).chain(page.damaged.iter().copied()).max();
        let entries = page.entries.clone();
        first_word.get_or_insert(page);
        if !entries.is_empty()
            && let Err(why) = offer(entries).await
        {
            return Said { source: source.clone(), word: Err(why) };
        }
        match seen {
            Some(seen) if seen >= at => at = seen + 1,
            _ => break,
        }
    }
    let word = first_word.ok_or_else(|| "there is nothing to ask for".to_owned());
    Said { source: source.clone(), word }
}

async fn page(shared: &Shared, group: u64, source: &Source, from: u64, to: u64) -> Result<Answer, String> {
    let peer = shared.peers.get(source.node, &source.address);
    let request = peer.stamped(FetchRequest { group_id: group, from, to });
    let mut client = peer.bulk();
    let reply = match tokio::time::timeout(PATIENCE, client.fetch(request)).await {
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) => return Err(format!("cannot be asked: {}", status.message())),
        Err(_) => return Err("does not answer".to_owned()),
    };
    if !reply.known {
        return Err("does not hold this group (yet)".to_owned());
    }
    let entries = reply.entries.into_iter().map(entry_in).collect::<Result<Vec<_>, _>>()?;
    Ok(Answer {
        entries,
        vote: reply.vote.map(|v| Vote { term: v.term, node: v.node_id, committed: v.committed }),
        last: reply.last.map(|id| LogId::new(id.term, id.position)),
        first: reply.first,
        damaged: reply.damaged,
    })
}

fn entry_in(entry: wire::LogEntry) -> Result<LogEntry, String> {
    let kind = u8::try_from(entry.kind).ok().and_then(Kind::from_u8);
    let kind = kind.ok_or_else(|| format!("sent an entry of an unknown kind {}", entry.kind))?;
    Ok(LogEntry { id: LogId::new(entry.term, entry.position), kind, crc: entry.crc, body: entry.body })
}

/// What keeps a hole open after everybody was asked, for whoever reads `/readyz`.
pub fn describe_all(heard: &[Said], hole: &Hole) -> String {
    if heard.is_empty() {
        return format!("{hole} (no other members are known)");
    }
    if is_trimmed_everywhere(heard, hole) {
        // Waiting helps no more. Nothing is cut: what lies behind the hole was acknowledged by this node.
        return format!(
            "{hole} (every other member has let go of it in a trim, so nobody can ever fill it: this node must be \
             replaced, with `journal members replace`)"
        );
    }
    if is_something_else_everywhere(heard, hole) {
        return format!(
            "{hole} (every other member has other entries there, so nobody can fill it: if the next election does not \
             let this node give it up, it must be replaced, with `journal members replace`)"
        );
    }
    let words: Vec<String> = heard.iter().map(|said| describe(said, hole)).collect();
    format!("{hole} ({})", words.join(", "))
}

/// Whether all others have answered, and their logs begin behind the hole. Logs never begin earlier again.
fn is_trimmed_everywhere(heard: &[Said], hole: &Hole) -> bool {
    heard.iter().all(|said| said.word.as_ref().is_ok_and(|word| word.first > hole.last))
}

/// Whether all others have answered, and hold all of these positions, none of them with what was here. What
/// nobody else holds comes to nobody any more while this node does not run.
fn is_something_else_everywhere(heard: &[Said], hole: &Hole) -> bool {
    let holds_all = |word: &Answer| {
        word.first <= hole.first && word.last.is_some_and(|last| last.position >= hole.last) && word.damaged.is_empty()
    };
    heard.iter().all(|said| said.word.as_ref().is_ok_and(holds_all))
}

/// What a member's word means for a hole that is still open, for whoever reads `/readyz`.
fn describe(said: &Said, hole: &Hole) -> String {
    let name = &said.source.name;
    match &said.word {
        Err(why) => format!("{name} {why}"),
        Ok(word) if word.first > hole.first => format!("{name} has trimmed it"),
        Ok(word) if word.last.is_none_or(|last| last.position < hole.first) => format!("{name} does not have it"),
        Ok(word) if !word.damaged.is_empty() => format!("{name} is damaged there itself"),
        Ok(_) => format!("{name} has other entries there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hole() -> Hole {
        Hole {
            first: 10,
            last: 12,
            identities: None,
            before: Some(LogId::new(1, 9)),
            chain_before: None,
            after: LogId::new(1, 12),
            chain_after: None,
            segment: 1,
            offset: 8192,
            end: 9000,
        }
    }

    fn said(name: &str, word: Result<u64, &str>) -> Said {
        let source = Source { node: 1, name: name.to_owned(), address: String::new() };
        let answer = |first| Answer { first, last: Some(LogId::new(1, 50)), ..Answer::default() };
        Said { source, word: word.map(answer).map_err(str::to_owned) }
    }

    #[test]
    fn a_hole_that_everybody_has_trimmed_is_not_waited_for_in_silence() {
        let text = describe_all(&[said("n2", Ok(13)), said("n3", Ok(40))], &hole());
        assert!(text.contains("must be replaced"), "{text}");
    }

    #[test]
    fn a_hole_where_everybody_has_something_else_is_not_waited_for_in_silence() {
        let text = describe_all(&[said("n2", Ok(1)), said("n3", Ok(4))], &hole());
        assert!(text.contains("must be replaced"), "{text}");
        let text = describe_all(&[said("n2", Ok(1)), said("n3", Err("does not answer"))], &hole());
        assert!(!text.contains("replaced") && text.contains("n2 has other entries there"), "{text}");
    }

    #[test]
    fn as_long_as_somebody_may_have_it_the_node_waits_for_him() {
        for other in [Ok(12), Ok(1), Err("does not answer")] {
            let text = describe_all(&[said("n2", Ok(13)), said("n3", other)], &hole());
            assert!(!text.contains("replaced") && text.contains("n2 has trimmed it"), "{text}");
        }
        assert!(describe_all(&[], &hole()).contains("no other members are known"));
    }
}
