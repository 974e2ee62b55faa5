//! Between etcd's messages and what entries say. Nothing is decided here: numbers that etcd does not
//! know stay unknown, and validation refuses them.

use bytes::Bytes;
use proto::etcd as wire;
use proto::etcd::compare::{CompareResult as WireResult, CompareTarget as WireTarget, TargetUnion};
use proto::etcd::range_request::{SortOrder as WireOrder, SortTarget as WireSort};
use proto::etcd::request_op::Request;

use crate::command::{
    AlarmKind, Compare, CompareResult, CompareTarget, DeleteRange, Op, Put, Range, SortOrder, SortTarget, Txn,
};

pub fn put(request: wire::PutRequest) -> Put {
    let wire::PutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease } = request;
    Put { key, value, lease, prev_kv, ignore_value, ignore_lease }
}

pub fn delete_range(request: wire::DeleteRangeRequest) -> DeleteRange {
    let wire::DeleteRangeRequest { key, range_end, prev_kv } = request;
    DeleteRange { key, range_end, prev_kv }
}

pub fn range(request: wire::RangeRequest) -> Range {
    Range {
        sort_order: match WireOrder::try_from(request.sort_order) {
            Ok(WireOrder::None) => SortOrder::None,
            Ok(WireOrder::Ascend) => SortOrder::Ascend,
            Ok(WireOrder::Descend) => SortOrder::Descend,
            Err(_) => SortOrder::Unknown,
        },
        sort_target: match WireSort::try_from(request.sort_target) {
            Ok(WireSort::Key) => SortTarget::Key,
            Ok(WireSort::Version) => SortTarget::Version,
            Ok(WireSort::Create) => SortTarget::Create,
            Ok(WireSort::Mod) => SortTarget::Mod,
            Ok(WireSort::Value) => SortTarget::Value,
            Err(_) => SortTarget::Unknown,
        },
        key: request.key,
        range_end: request.range_end,
        limit: request.limit,
        revision: request.revision,
        keys_only: request.keys_only,
        count_only: request.count_only,
        mod_revision_min: request.min_mod_revision,
        mod_revision_max: request.max_mod_revision,
        create_revision_min: request.min_create_revision,
        create_revision_max: request.max_create_revision,
    }
}

/// The depth of a message is bounded by the decoder, which refuses more than a hundred levels.
pub fn txn(request: wire::TxnRequest) -> Txn {
    Txn {
        compare: request.compare.into_iter().map(compare).collect(),
        success: request.success.into_iter().map(op).collect(),
        failure: request.failure.into_iter().map(op).collect(),
    }
}

fn op(request: wire::RequestOp) -> Op {
    match request.request {
        Some(Request::RequestRange(request)) => Op::Range(range(request)),
        Some(Request::RequestPut(request)) => Op::Put(put(request)),
        Some(Request::RequestDeleteRange(request)) => Op::DeleteRange(delete_range(request)),
        Some(Request::RequestTxn(request)) => Op::Txn(txn(request)),
        None => Op::Empty,
    }
}

/// What the comparison is with stands in a field of the target's own; one that is missing, or another
/// target's, counts as zero or empty.
fn compare(request: wire::Compare) -> Compare {
    let with = request.target_union;
    let target = match WireTarget::try_from(request.target) {
        Ok(WireTarget::Version) => CompareTarget::Version(match with {
            Some(TargetUnion::Version(version)) => version,
            _ => 0,
        }),
        Ok(WireTarget::Create) => CompareTarget::Create(match with {
            Some(TargetUnion::CreateRevision(revision)) => revision,
            _ => 0,
        }),
        Ok(WireTarget::Mod) => CompareTarget::Mod(match with {
            Some(TargetUnion::ModRevision(revision)) => revision,
            _ => 0,
        }),
        Ok(WireTarget::Value) => CompareTarget::Value(match with {
            Some(TargetUnion::Value(value)) => value,
            _ => Bytes::new(),
        }),
        Ok(WireTarget::Lease) => CompareTarget::Lease(match with {
            Some(TargetUnion::Lease(lease)) => lease,
            _ => 0,
        }),
        Err(_) => CompareTarget::Unknown,
    };
    Compare {
        key: request.key,
        range_end: request.range_end,
        result: match WireResult::try_from(request.result) {
            Ok(WireResult::Equal) => CompareResult::Equal,
            Ok(WireResult::Greater) => CompareResult::Greater,
            Ok(WireResult::Less) => CompareResult::Less,
            Ok(WireResult::NotEqual) => CompareResult::NotEqual,
            Err(_) => CompareResult::Unknown,
        },
        target,
    }
}

pub fn alarm_kind(kind: AlarmKind) -> wire::AlarmType {
    match kind {
        AlarmKind::NoSpace => wire::AlarmType::Nospace,
        AlarmKind::Corrupt => wire::AlarmType::Corrupt,
    }
}
