//! The service `Journal`: entries in, entries out.

use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use proto::JournalId;
use proto::journal::{self as wire, describe_request, journal_server, tail_reply};
use tonic::{Request, Response, Status, Streaming};

use super::{Door, Doorway, append, journal_info, status_of};
use crate::group::{Group, Run, TailCursor, TailEnd};
use crate::refusal::{self, Reason, Refusal};
use crate::rules::Action;
use crate::state::TrimPolicy;

#[derive(Clone)]
pub struct JournalService(pub Doorway);

#[tonic::async_trait]
impl journal_server::Journal for JournalService {
    type AppendStream = BoxStream<'static, Result<wire::AppendReply, Status>>;
    type TailStream = BoxStream<'static, Result<wire::TailReply, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<wire::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let (_, extensions, mut requests) = request.into_parts();
        let first = requests.message().await?;
        let first = first.ok_or_else(|| Status::invalid_argument("an append stream opens with a journal's id"))?;
        let id = first.journal_id;
        if id == JournalId::SYSTEM.0 {
            let message = "the catalogue takes no entries; the first message names a journal by its id";
            return Err(Refusal::new(Reason::Invalid, message).into());
        }
        let group = self.0.open()?.group(&extensions, Action::Append, id)?;
        let replies = append::serve(&group, first, requests)?;
        Ok(Response::new(replies.boxed()))
    }

    async fn tail(&self, request: Request<wire::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let (_, extensions, request) = request.into_parts();
        let group = self.0.open()?.group(&extensions, Action::Read, request.journal_id)?;
        Ok(Response::new(tail(group.tail(request.from), self.0.clone()).boxed()))
    }

    async fn check_tail(
        &self,
        request: Request<wire::CheckTailRequest>,
    ) -> Result<Response<wire::CheckTailReply>, Status> {
        let (_, extensions, request) = request.into_parts();
        let group = match request.journal_id == JournalId::SYSTEM.0 {
            // Nodes and adapters follow the catalogue; its tail tells nothing else.
            true => self.0.open()?.groups.system().clone(),
            false => self.0.open()?.group(&extensions, Action::Read, request.journal_id)?,
        };
        let (tail, mark) = group.check_tail().await?;
        let term = group.standing().term;
        Ok(Response::new(wire::CheckTailReply { tail, start: mark.start, term }))
    }

    async fn trim(&self, request: Request<wire::TrimRequest>) -> Result<Response<wire::TrimReply>, Status> {
        let (_, extensions, request) = request.into_parts();
        let group = self.0.open()?.group(&extensions, Action::Trim, request.journal_id)?;
        let policy = self.0.open()?.groups.with_catalogue(|c| c.journals.get(&group.id()).map(|record| record.policy));
        if policy == Some(TrimPolicy::Checkpointed) {
            let message = "this journal is trimmed below a registered checkpoint only, and it has none";
            return Err(Refusal::new(Reason::Invalid, message).into());
        }
        let start = group.trim(request.before).await.map_err(status_of)?;
        Ok(Response::new(wire::TrimReply { start }))
    }

    async fn describe(&self, request: Request<wire::DescribeRequest>) -> Result<Response<wire::DescribeReply>, Status> {
        let (_, extensions, request) = request.into_parts();
        let id = match request.which {
            Some(describe_request::Which::Id(id)) => id,
            Some(describe_request::Which::Name(name)) => self
                .0
                .open()?
                .groups
                .with_catalogue(|catalogue| catalogue.by_name(&name).map(|(id, _)| id))
                .ok_or_else(|| refusal::no_such_journal(format!("named `{name}`")))?,
            None => return Err(Refusal::new(Reason::Invalid, "name a journal, or give its id").into()),
        };
        // Clients open journals by this call: those too that only append, or only trim.
        let group = self.0.open()?.any_group(&extensions, id)?;
        Ok(Response::new(describe(&self.0.open()?, &group)))
    }
}

fn describe(door: &Door, group: &Arc<Group>) -> wire::DescribeReply {
    let (mark, standing) = (group.mark(), group.standing());
    let record = door.groups.with_catalogue(|catalogue| catalogue.journals.get(&group.id()).cloned());
    let address =
        |(node, member): (u64, crate::state::Member)| wire::NodeAddress { node_id: node, address: member.address };
    wire::DescribeReply {
        journal: Some(journal_info(group.id(), record.as_ref())),
        start: mark.start,
        tail: mark.tail,
        term: standing.term,
        leader: standing.leader.map(address),
        cluster_id: format!("{:032x}", door.groups.shared().cluster()),
        nodes: standing.nodes.into_iter().map(address).collect(),
        entry_bytes_max: group.limits().entry_bytes as u64,
        disk_bytes: group.replica().log().disk_bytes(),
    }
}

/// Runs until the end, which is said in the stream; a node that fails ends it with a status.
fn tail(cursor: TailCursor, door: Doorway) -> impl Stream<Item = Result<wire::TailReply, Status>> + Send {
    stream::unfold(Some((cursor, door)), |reading| async {
        let (mut cursor, mut door) = reading?;
        let next = tokio::select! {
            biased;
            next = cursor.next() => next,
            // Nothing comes here any more, and nobody would ever say so.
            () = door.closed() => return Some((Err(refusal::removed().into()), None)),
        };
        let kind = match next {
            Ok(run) => return Some((Ok(reply(tail_reply::Kind::Run(run_out(run)))), Some((cursor, door)))),
            Err(TailEnd::Gap { start }) => tail_reply::Kind::Gap(wire::Gap { start }),
            Err(TailEnd::Behind { holds_from }) => tail_reply::Kind::Behind(wire::Behind { holds_from }),
            Err(TailEnd::Failed(why)) => return Some((Err(Status::data_loss(why)), None)),
            Err(TailEnd::Stopped) => return Some((Err(refusal::shutting_down().into()), None)),
        };
        Some((Ok(reply(kind)), None))
    })
}

fn reply(kind: tail_reply::Kind) -> wire::TailReply {
    wire::TailReply { kind: Some(kind) }
}

fn run_out(run: Run) -> wire::TailRun {
    let entry = |(position, crc, payload)| wire::TailEntry { position, payload, crc };
    wire::TailRun {
        from: run.from,
        to: run.to,
        entries: run.entries.into_iter().map(entry).collect(),
        watermark: run.watermark,
        term: run.term,
    }
}
