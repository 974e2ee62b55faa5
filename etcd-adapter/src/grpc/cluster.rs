//! etcd's Cluster service: members are the running adapters, and those that an operator announced.

use std::sync::Arc;
use std::time::Duration;

use proto::Position;
use proto::etcd::cluster_server::Cluster;
use proto::etcd::*;
use tonic::{Request, Response, Status};

use super::{Shared, answer_of, status, unexpected};
use crate::command::Command;
use crate::mvcc::{Answer, Member as Known};

/// A learner is in sync if its last beat came within this time (it has one every second) ...
const HEARD_WITHIN: Duration = Duration::from_secs(3);
/// ... and told of an applied position that is so close to the beat's own: what is under way in a moment.
const BEHIND_MAX: u64 = 1000;

/// Why learners are not promoted, as it is counted: what clients are told, or anything else.
pub const NOT_PROMOTED: [&str; 4] =
    [status::LEARNER_NOT_READY.1, status::MEMBER_NOT_LEARNER.1, status::MEMBER_NOT_FOUND.1, "other"];

#[derive(Clone)]
pub struct ClusterService(pub Arc<Shared>);

fn member(known: Known) -> Member {
    Member {
        id: known.id,
        name: known.name,
        peer_ur_ls: known.peer_urls,
        client_ur_ls: known.client_urls,
        is_learner: known.learner,
    }
}

/// etcd's order: by when they came, which here is by name and id.
fn members(known: Vec<Known>) -> Vec<Member> {
    known.into_iter().map(member).collect()
}

impl ClusterService {
    /// Answers of this service tell no revision.
    fn header(&self) -> Option<ResponseHeader> {
        Some(self.0.header(0))
    }

    /// Whether nobody would be left to answer without this member.
    fn is_the_last(&self, id: u64) -> bool {
        let runs = |member: &Known| !member.learner && member.producer.is_some();
        self.0.view.with_state(|state| {
            state.member(id).is_some_and(runs) && !state.members().any(|other| other.id != id && runs(other))
        })
    }

    /// Whether a learner runs and has applied nearly all there is, as its beats tell. What is no learner is for apply
    /// to judge.
    fn may_be_promoted(&self, id: u64) -> bool {
        let beat = self.0.view.with_state(|state| {
            let member = state.member(id).filter(|member| member.learner)?;
            let id = member.producer.unwrap_or(Position::NONE);
            let told = state.producer(id).and_then(|producer| Some((producer.last_entry, producer.beat?)));
            Some((id, told.filter(|(_, beat)| beat.ready)))
        });
        match beat {
            None => true,
            Some((_, None)) => false,
            Some((producer, Some((at, beat)))) => {
                let heard = self.0.leases.lock().silent_for(producer).is_some_and(|silent| silent < HEARD_WITHIN);
                heard && at.0.saturating_sub(beat.applied.0) <= BEHIND_MAX
            }
        }
    }

    async fn promote(&self, id: u64) -> Result<Vec<Member>, Status> {
        self.0.confirm().await?;
        match self.may_be_promoted(id) {
            true => Ok(self.change(Command::MemberPromote { id }).await?.1),
            false => Err(status::LEARNER_NOT_READY.into()),
        }
    }

    async fn change(&self, command: Command) -> Result<(Option<Member>, Vec<Member>), Status> {
        match answer_of(self.0.say(command).await?)? {
            (_, Answer::Members { added, members: known }) => Ok((added.map(member), members(known))),
            (_, other) => Err(unexpected(&other)),
        }
    }
}

fn check_urls(urls: &[String]) -> Result<(), Status> {
    let good = |url: &String| {
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        rest.is_some_and(|rest| journal_client::transport::check_address(rest).is_ok())
    };
    match !urls.is_empty() && urls.iter().all(good) {
        true => Ok(()),
        false => Err(status::BAD_MEMBER_URLS.into()),
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_add(&self, request: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        let MemberAddRequest { peer_ur_ls: peer_urls, is_learner: learner } = request.into_inner();
        check_urls(&peer_urls)?;
        let learners_max = u32::try_from(self.0.config.limits.learners).unwrap_or(u32::MAX);
        let (member, members) = self.change(Command::MemberAdd { peer_urls, learner, learners_max }).await?;
        Ok(Response::new(MemberAddResponse { header: self.header(), member, members }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let id = request.into_inner().id;
        if self.is_the_last(id) {
            return Err(status::NOT_ENOUGH_STARTED.into());
        }
        let (_, members) = self.change(Command::MemberRemove { id }).await?;
        Ok(Response::new(MemberRemoveResponse { header: self.header(), members }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let MemberUpdateRequest { id, peer_ur_ls: peer_urls } = request.into_inner();
        let (_, members) = self.change(Command::MemberUpdate { id, peer_urls }).await?;
        Ok(Response::new(MemberUpdateResponse { header: self.header(), members }))
    }

    async fn member_list(&self, request: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
        if request.into_inner().linearizable {
            self.0.confirm().await?;
        }
        let known = self.0.view.with_state(|state| state.members().cloned().collect());
        Ok(Response::new(MemberListResponse { header: self.header(), members: members(known) }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        let promoted = self.promote(request.into_inner().id).await;
        let meters = &self.0.meters;
        match &promoted {
            Ok(_) => meters.promotions.add(1),
            Err(told) => {
                let why = NOT_PROMOTED.iter().position(|why| *why == told.message());
                meters.promotions_refused[why.unwrap_or(NOT_PROMOTED.len() - 1)].add(1);
            }
        }
        let members = promoted?;
        Ok(Response::new(MemberPromoteResponse { header: self.header(), members }))
    }
}
