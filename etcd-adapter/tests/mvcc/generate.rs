//! Random commands over few keys, so that they meet.

use bytes::Bytes;
use etcd_adapter::command::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proto::Position;

/// How many cases a test tries; `PROPTEST_CASES` says otherwise.
pub fn cases(cases: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_some() { config } else { ProptestConfig { cases, ..config } }
}

const KEYS: &[&[u8]] = &[b"a", b"b", b"ba", b"bb", b"c", b"c\0", b"\xff"];
const ENDS: &[&[u8]] = &[b"", b"", b"\0", b"\0", b"b", b"bb", b"c", b"d", b"\xff\xff", b"a"];

pub fn key() -> impl Strategy<Value = Bytes> {
    (0..KEYS.len()).prop_map(|i| Bytes::from_static(KEYS[i]))
}

fn end() -> impl Strategy<Value = Bytes> {
    (0..ENDS.len()).prop_map(|i| Bytes::from_static(ENDS[i]))
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![Just(&b""[..]), Just(&b"x"[..]), Just(&b"y"[..]), Just(&b"longer"[..])].prop_map(Bytes::from_static)
}

fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![3 => Just(0i64), 2 => 1..4i64]
}

pub fn put() -> impl Strategy<Value = Put> {
    (key(), value(), lease(), any::<bool>(), 0..8u8).prop_map(|(key, value, lease, prev_kv, flags)| Put {
        key,
        value: if flags == 1 { Bytes::new() } else { value },
        lease: if flags == 2 { 0 } else { lease },
        prev_kv,
        ignore_value: flags == 1,
        ignore_lease: flags == 2,
    })
}

pub fn delete() -> impl Strategy<Value = DeleteRange> {
    (key(), end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRange { key, range_end, prev_kv })
}

pub fn range() -> impl Strategy<Value = Range> {
    let order = prop_oneof![3 => Just(SortOrder::None), 1 => Just(SortOrder::Ascend), 1 => Just(SortOrder::Descend)];
    let target = prop_oneof![
        3 => Just(SortTarget::Key),
        1 => Just(SortTarget::Version),
        1 => Just(SortTarget::Create),
        1 => Just(SortTarget::Mod),
        1 => Just(SortTarget::Value),
    ];
    let revision = prop_oneof![3 => Just(0i64), 1 => -2..30i64];
    let filter = || prop_oneof![6 => Just(0i64), 1 => 1..20i64];
    let filters = (filter(), filter(), filter(), filter());
    (key(), end(), -1..4i64, revision, order, target, 0..10u8, filters).prop_map(
        |(key, range_end, limit, revision, sort_order, sort_target, flags, filters)| Range {
            key,
            range_end,
            limit,
            revision,
            sort_order,
            sort_target,
            keys_only: flags == 1,
            count_only: flags == 2,
            mod_revision_min: filters.0,
            mod_revision_max: filters.1,
            create_revision_min: filters.2,
            create_revision_max: filters.3,
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    let result = prop_oneof![
        4 => Just(CompareResult::Equal),
        2 => Just(CompareResult::NotEqual),
        1 => Just(CompareResult::Greater),
        1 => Just(CompareResult::Less),
        1 => Just(CompareResult::Unknown),
    ];
    let number = || prop_oneof![2 => Just(0i64), 3 => 1..5i64, 2 => 5..20i64];
    let target = prop_oneof![
        number().prop_map(CompareTarget::Version),
        number().prop_map(CompareTarget::Create),
        number().prop_map(CompareTarget::Mod),
        number().prop_map(CompareTarget::Lease),
        value().prop_map(CompareTarget::Value),
        Just(CompareTarget::Unknown),
    ];
    (key(), end(), result, target).prop_map(|(key, range_end, result, target)| Compare {
        key,
        range_end,
        result,
        target,
    })
}

pub fn txn() -> impl Strategy<Value = Txn> {
    let leaf = || {
        prop_oneof![
            3 => put().prop_map(Op::Put),
            2 => delete().prop_map(Op::DeleteRange),
            3 => range().prop_map(Op::Range),
        ]
    };
    let op = leaf().prop_recursive(2, 8, 3, |op| {
        (vec(compare(), 0..2), vec(op.clone(), 0..3), vec(op, 0..3))
            .prop_map(|(compare, success, failure)| Op::Txn(Txn { compare, success, failure }))
    });
    (vec(compare(), 0..3), vec(op.clone(), 0..4), vec(op, 0..4)).prop_map(|(compare, success, failure)| Txn {
        compare,
        success,
        failure,
    })
}

/// A Txn that writes nothing.
pub fn read_txn() -> impl Strategy<Value = Txn> {
    let ranges = || vec(range().prop_map(Op::Range), 0..3);
    (vec(compare(), 0..3), ranges(), ranges()).prop_map(|(compare, success, failure)| Txn { compare, success, failure })
}

/// A command that a proposer would let in.
pub fn command() -> impl Strategy<Value = Command> {
    let command = prop_oneof![
        16 => put().prop_map(Command::Put),
        2 => delete().prop_map(Command::DeleteRange),
        6 => txn().prop_map(Command::Txn),
        1 => (-2..30i64).prop_map(|revision| Command::Compact { revision }),
        2 => (0..4i64, 1..100i64).prop_map(|(id, ttl)| Command::LeaseGrant { id, ttl }),
        1 => (1..4i64).prop_map(|id| Command::LeaseRevoke { id }),
        1 => (1..4i64).prop_map(|id| Command::KeepAlive { id }),
        1 => (1..4i64, 1..30u64).prop_map(|(lease, at)| Command::Expire { lease, renewed_at: Position(at) }),
    ];
    command.prop_filter("a proposer refuses it", |command| validate(command, 128).is_ok())
}

/// Anything that may stand in an entry of a live producer, valid or not.
pub fn any_command() -> impl Strategy<Value = Command> {
    let alarm = prop_oneof![9 => Just(AlarmKind::NoSpace), 1 => Just(AlarmKind::Corrupt)];
    let action = prop_oneof![1 => Just(AlarmAction::Activate), 4 => Just(AlarmAction::Deactivate)];
    let urls = || vec("http://[ab]:1", 1..3);
    let rare = prop_oneof![
        (action, 0..3u64, alarm).prop_map(|(action, member, kind)| Command::Alarm { action, member, kind }),
        (urls(), any::<bool>()).prop_map(|(peer_urls, learner)| Command::MemberAdd {
            peer_urls,
            learner,
            learners_max: 1
        }),
        (0..4u64).prop_map(|id| Command::MemberRemove { id }),
        (0..4u64, urls()).prop_map(|(id, peer_urls)| Command::MemberUpdate { id, peer_urls }),
        (0..3u32).prop_map(|level| Command::RaiseLevel { level }),
        proptest::option::of(Just("3.6.0".to_owned())).prop_map(|target| Command::Downgrade { target }),
        (1..20u64, 1..20u64).prop_map(|(p, e)| Command::Gone { producer: Position(p), last_entry: Position(e) }),
    ];
    prop_oneof![
        12 => command(),
        1 => txn().prop_map(Command::Txn),
        1 => rare,
    ]
}
