//! What the nodes say a journal is. Any node answers, so all are asked and the first is heard.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use proto::journal as wire;
use proto::journal::describe_request::Which;
use proto::{JournalId, Position};
use tokio::time::Duration;

use super::nodes::Nodes;
use crate::error::{Error, Reason};
use crate::journal::Description;
use crate::refusal::error_of_status;

/// The first node that describes the journal, and what it says. A node may not have heard of a
/// journal yet: that there is none counts only if more than half of the nodes say so.
pub(super) async fn first_to_describe(
    nodes: &Nodes,
    which: Which,
    attempt_timeout: Duration,
    avoid: Option<&str>,
) -> Result<(String, wire::DescribeReply), Error> {
    let addresses = nodes.addresses();
    let majority = addresses.len() / 2 + 1;
    let mut asked: FuturesUnordered<_> = addresses
        .into_iter()
        .filter(|address| Some(address.as_str()) != avoid)
        .map(|address| {
            let request = wire::DescribeRequest { which: Some(which.clone()) };
            async move {
                let said = describe(nodes, &address, request, attempt_timeout).await;
                (address, said)
            }
        })
        .collect();
    let mut troubles = Vec::new();
    let mut absent = Vec::new();
    while let Some((address, said)) = asked.next().await {
        match said {
            Ok(said) => {
                nodes.learn(&said.nodes);
                return Ok((address, said));
            }
            Err(Error::Refused(refusal)) if refusal.reason == Reason::NoSuchJournal => {
                troubles.push(format!("{address}: {refusal}"));
                absent.push(refusal);
            }
            Err(Error::Refused(refusal)) if !refusal.reason.passes() => {
                return Err(Error::Refused(refusal));
            }
            Err(error) => troubles.push(format!("{address}: {error}")),
        }
    }
    match absent.pop() {
        Some(refusal) if absent.len() + 1 >= majority => Err(Error::Refused(refusal)),
        _ => Err(Error::Unavailable(troubles.join("; "))),
    }
}

async fn describe(
    nodes: &Nodes,
    address: &str,
    request: wire::DescribeRequest,
    attempt_timeout: Duration,
) -> Result<wire::DescribeReply, Error> {
    let mut client = nodes.writing(address)?;
    match tokio::time::timeout(attempt_timeout, client.describe(request)).await {
        Ok(Ok(said)) => Ok(said.into_inner()),
        Ok(Err(status)) => Err(error_of_status(&status)),
        Err(_) => Err(Error::Unavailable(format!("no answer in {attempt_timeout:?}"))),
    }
}

/// A description as it came over the wire, checked.
pub(super) fn description(said: wire::DescribeReply) -> Result<Description, Error> {
    let journal = said.journal.ok_or_else(|| Error::Protocol("a description of no journal".into()))?;
    if said.start > said.tail {
        let (start, tail) = (said.start, said.tail);
        return Err(Error::Protocol(format!("a journal from {start} to {tail}")));
    }
    Ok(Description {
        id: JournalId(journal.id),
        name: journal.name,
        start: Position(said.start),
        tail: Position(said.tail),
        term: said.term,
        leader: said.leader.map(|node| node.address).filter(|address| !address.is_empty()),
        cluster_id: said.cluster_id,
        nodes: said.nodes.into_iter().map(|node| node.address).collect(),
        entry_bytes_max: said.entry_bytes_max,
    })
}
