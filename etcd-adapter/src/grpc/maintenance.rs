//! etcd's Maintenance service.

use std::sync::Arc;

use proto::etcd::alarm_request::AlarmAction as WireAction;
use proto::etcd::downgrade_request::DowngradeAction;
use proto::etcd::maintenance_server::Maintenance;
use proto::etcd::*;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::convert::alarm_kind;
use super::{Shared, answer_of, status, unexpected};
use crate::command::{AlarmAction, AlarmKind, Command};
use crate::config::{STORAGE_VERSION, VERSION};
use crate::mvcc::{Alarm, Answer, At, HashKv, KvHash, Revision};
use crate::view::ReadError;

/// Rows that are hashed before others get their turn.
const HASH_ROWS: usize = 1000;
const HASH_BYTES: usize = 4 << 20;

#[derive(Clone)]
pub struct MaintenanceService(pub Arc<Shared>);

impl MaintenanceService {
    fn header(&self) -> Option<ResponseHeader> {
        Some(self.0.header(self.0.view.revision()))
    }

    /// The hash of everything up to a revision, computed beside apply and in bounded memory.
    async fn hash_kv(&self, asked: Revision) -> Result<KvHash, Status> {
        let view = &self.0.view;
        loop {
            let current = view.revision();
            let compacted = view.compact_revision();
            let revision = if asked == 0 { current } else { asked };
            if revision < 0 {
                // Nothing was there before the beginning.
                return Ok(HashKv::new(revision, compacted).finish());
            }
            if revision > current {
                return Err(status::FUTURE_REVISION.into());
            }
            if revision < compacted {
                return Err(status::COMPACTED.into());
            }
            let mut hash = HashKv::new(revision, compacted);
            let mut from = At::default();
            loop {
                let rows = view.noted(
                    view.store().scan(from, At::end_of(revision), HASH_ROWS, HASH_BYTES).map_err(ReadError::from),
                )?;
                let Some(last) = rows.last().map(|row| row.at) else { break };
                view.with_state(|state| rows.iter().for_each(|row| hash.row(state.index(), row)));
                from = At { main: last.main, sub: last.sub + 1 };
                tokio::task::yield_now().await;
            }
            // A compaction in between changes what counts.
            if view.compact_revision() == compacted {
                return Ok(hash.finish());
            }
        }
    }
}

fn kinds(wire: i32) -> Result<Option<AlarmKind>, Status> {
    match AlarmType::try_from(wire) {
        Ok(AlarmType::None) => Ok(None),
        Ok(AlarmType::Nospace) => Ok(Some(AlarmKind::NoSpace)),
        Ok(AlarmType::Corrupt) => Ok(Some(AlarmKind::Corrupt)),
        Err(_) => Err(Status::invalid_argument("etcdserver: unknown alarm type")),
    }
}

fn alarm_member(alarm: Alarm) -> AlarmMember {
    AlarmMember { member_id: alarm.member, alarm: alarm_kind(alarm.kind).into() }
}

/// As Go prints the message: what is 0 is not there.
fn alarm_text(alarm: &Alarm) -> String {
    let kind = alarm_kind(alarm.kind).as_str_name();
    match alarm.member {
        0 => format!("alarm:{kind}"),
        member => format!("memberID:{member} alarm:{kind}"),
    }
}

/// `3.7`, or `3.7.x`: whatever else is no version.
fn minor_of(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.').map(|part| part.parse::<u64>().ok());
    let (major, minor) = (parts.next()??, parts.next()??);
    parts.all(|part| part.is_some()).then_some((major, minor))
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        let AlarmRequest { action, member_id, alarm } = request.into_inner();
        let kind = kinds(alarm)?;
        let action = match WireAction::try_from(action) {
            Ok(WireAction::Get) => None,
            Ok(WireAction::Activate) => Some(AlarmAction::Activate),
            Ok(WireAction::Deactivate) => Some(AlarmAction::Deactivate),
            Err(_) => return Ok(Response::new(AlarmResponse { header: self.header(), alarms: Vec::new() })),
        };
        let alarms = match (action, kind) {
            (None, _) => {
                self.0.confirm().await?;
                let all: Vec<_> = self.0.view.with_state(|state| state.alarms().collect());
                // Whoever asks is told of every member's.
                let asked = |alarm: &Alarm| kind.is_none_or(|kind| alarm.kind == kind);
                all.into_iter().filter(asked).collect()
            }
            (Some(_), None) => Vec::new(),
            (Some(action), Some(kind)) => {
                match answer_of(self.0.say(Command::Alarm { action, member: member_id, kind }).await?)? {
                    (_, Answer::Alarms(alarms)) => alarms,
                    (_, other) => return Err(unexpected(&other)),
                }
            }
        };
        let alarms = alarms.into_iter().map(alarm_member).collect();
        Ok(Response::new(AlarmResponse { header: self.header(), alarms }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let shared = &self.0;
        let (leader, size, target, mut errors) = shared.view.with_state(|state| {
            let errors: Vec<_> = state.alarms().map(|alarm| alarm_text(&alarm)).collect();
            (state.leader(), state.logical_bytes(), state.downgrade().map(str::to_owned), errors)
        });
        let has_leader = shared.has_leader();
        if !has_leader {
            errors.push(status::NO_LEADER.1.into());
        }
        let applied = shared.view.applied();
        let tail = shared.reads.heard().map_or(applied, |heard| heard.tail.max(applied));
        Ok(Response::new(StatusResponse {
            header: self.header(),
            version: VERSION.into(),
            db_size: size as i64,
            leader: if has_leader { leader } else { 0 },
            raft_index: tail.0.saturating_sub(1),
            raft_term: super::RAFT_TERM,
            raft_applied_index: applied.0.saturating_sub(1),
            errors,
            db_size_in_use: size as i64,
            is_learner: shared.is_learner(),
            storage_version: STORAGE_VERSION.into(),
            db_size_quota: shared.config.limits.quota_bytes.map_or(0, |quota| quota as i64),
            downgrade_info: Some(DowngradeInfo {
                enabled: target.is_some(),
                target_version: target.unwrap_or_default(),
            }),
        }))
    }

    /// There is nothing that would have to stop for it: what a compaction leaves goes by itself.
    async fn defragment(&self, _: Request<DefragmentRequest>) -> Result<Response<DefragmentResponse>, Status> {
        Ok(Response::new(DefragmentResponse { header: None }))
    }

    async fn hash(&self, _: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let began = Instant::now();
        let hash = self.hash_kv(0).await?;
        self.0.meters.hash.observe(began.elapsed());
        Ok(Response::new(HashResponse { header: self.header(), hash: hash.hash }))
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        let began = Instant::now();
        let hash = self.hash_kv(request.into_inner().revision).await?;
        self.0.meters.hash_kv.observe(began.elapsed());
        Ok(Response::new(HashKvResponse {
            header: self.header(),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            hash_revision: hash.revision,
        }))
    }

    type SnapshotStream = ReceiverStream<Result<SnapshotResponse, Status>>;

    async fn snapshot(&self, _: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(Status::unimplemented("etcdserver: snapshots are not implemented by this adapter"))
    }

    async fn move_leader(&self, request: Request<MoveLeaderRequest>) -> Result<Response<MoveLeaderResponse>, Status> {
        let target = request.into_inner().target_id;
        self.0.confirm().await?;
        let leader = self.0.view.with_state(|state| state.leader());
        if Some(&leader) != self.0.member_id.get() {
            return Err(status::NOT_LEADER.into());
        }
        match answer_of(self.0.say(Command::MoveLeader { target }).await?)? {
            (_, Answer::MoveLeader) => Ok(Response::new(MoveLeaderResponse { header: None })),
            (_, other) => Err(unexpected(&other)),
        }
    }

    async fn downgrade(&self, request: Request<DowngradeRequest>) -> Result<Response<DowngradeResponse>, Status> {
        let DowngradeRequest { action, version } = request.into_inner();
        let cluster = "3.7";
        let answer = |this: &Self| DowngradeResponse { header: this.header(), version: cluster.into() };
        let action = DowngradeAction::try_from(action);
        if action == Ok(DowngradeAction::Cancel) {
            answer_of(self.0.say(Command::Downgrade { target: None }).await?)?;
            return Ok(Response::new(answer(self)));
        }
        let Some((major, minor)) = minor_of(&version) else {
            return Err(status::WRONG_DOWNGRADE_VERSION.into());
        };
        if (major, minor) != (3, 6) {
            return Err(status::INVALID_DOWNGRADE_TARGET.into());
        }
        self.0.confirm().await?;
        if self.0.view.with_state(|state| state.downgrade().is_some()) {
            return Err(status::DOWNGRADE_IN_PROGRESS.into());
        }
        match action {
            Ok(DowngradeAction::Validate) => {}
            Ok(DowngradeAction::Enable) => {
                let target = Some(format!("{major}.{minor}.0"));
                answer_of(self.0.say(Command::Downgrade { target }).await?)?;
            }
            Ok(DowngradeAction::Cancel) | Err(_) => return Err(Status::unknown("etcdserver: unknown method")),
        }
        Ok(Response::new(answer(self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_told_as_go_prints_it() {
        let text = |member| alarm_text(&Alarm { member, kind: AlarmKind::NoSpace });
        assert_eq!((text(0).as_str(), text(7).as_str()), ("alarm:NOSPACE", "memberID:7 alarm:NOSPACE"));
    }

    #[test]
    fn a_version_has_two_numbers_at_least() {
        assert_eq!(minor_of("3.6"), Some((3, 6)));
        assert_eq!(minor_of("3.6.0"), Some((3, 6)));
        for bad in ["", "3", "three.six", "3.x", "3.6.x"] {
            assert_eq!(minor_of(bad), None, "{bad}");
        }
    }
}
