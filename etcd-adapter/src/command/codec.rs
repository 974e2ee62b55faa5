//! The bytes of an entry.
//!
//! ```text
//! entry   = format:1 = 1, level, producer, seq, flags:1 (1 = beat), [beat], count, command*
//! beat    = applied, hash:16, flushed, level, ready:1
//! command = tag:1, fields
//! ```
//!
//! Numbers are variable-length (signed ones zig-zagged), strings and lists are counted. Bit 7 of a tag
//! announces a caller before the fields: the user and the revision of the auth store that the request
//! was checked against. No entry of level 1 has one.
//!
//! Decoding never panics, whatever the bytes, and what it accepts encodes to the same bytes again.

use bytes::Bytes;
use proto::Position;

use super::wire::{Malformed, Reader, put_bytes, put_int, put_texts, put_uint};
use super::*;

/// How deep Txns may be nested in one another: deeper ones are refused by the proposer, and make an
/// entry malformed. A stack overflow could not be caught.
pub const TXN_DEPTH_MAX: usize = 128;

/// How many commands one entry may hold.
const COMMANDS_MAX: usize = 1 << 16;

const FORMAT: u8 = 1;
const FLAG_BEAT: u8 = 1;

/// Why an entry could not be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A newer program wrote it. Apply stops before it and keeps its position.
    #[error("the entry needs level {level}, and this program understands level {LEVEL}")]
    AboveLevel { level: u32 },
    /// No adapter wrote it. Every adapter passes it over.
    #[error("the entry is malformed: {0}")]
    Malformed(#[from] Malformed),
}

/// Writes an entry. The caller has validated what is in it.
pub fn encode(body: &EntryBody) -> Bytes {
    let mut out = Vec::with_capacity(64 + body.commands.iter().map(size_hint).sum::<usize>());
    out.push(FORMAT);
    put_uint(&mut out, body.level.into());
    put_uint(&mut out, body.producer.0);
    put_uint(&mut out, body.seq);
    out.push(if body.beat.is_some() { FLAG_BEAT } else { 0 });
    if let Some(beat) = &body.beat {
        put_beat(&mut out, beat);
    }
    put_uint(&mut out, body.commands.len() as u64);
    for command in &body.commands {
        put_command(&mut out, command);
    }
    out.into()
}

/// Reads an entry. Keys and values are slices of `payload`.
pub fn decode(payload: Bytes) -> Result<EntryBody, DecodeError> {
    let mut reader = Reader::new(payload);
    if reader.byte()? != FORMAT {
        return Err(Malformed::Unknown("format").into());
    }
    let level = reader.u32()?;
    if level > LEVEL {
        return Err(DecodeError::AboveLevel { level });
    }
    let producer = Position(reader.uint()?);
    let seq = reader.uint()?;
    let beat = match reader.byte()? {
        0 => None,
        FLAG_BEAT => Some(beat(&mut reader)?),
        _ => return Err(Malformed::Unknown("flag").into()),
    };
    let count = reader.count()?;
    if count > COMMANDS_MAX {
        return Err(Malformed::Number.into());
    }
    let mut commands = Vec::with_capacity(count.min(reader.left() / 4 + 1));
    for _ in 0..count {
        commands.push(command(&mut reader)?);
    }
    reader.end()?;
    Ok(EntryBody { producer, seq, level, beat, commands })
}

fn size_hint(command: &Command) -> usize {
    match command {
        Command::Put(put) => put.key.len() + put.value.len() + 24,
        Command::Txn(txn) => 64 + txn.success.iter().chain(&txn.failure).map(op_size_hint).sum::<usize>(),
        _ => 64,
    }
}

fn op_size_hint(op: &Op) -> usize {
    match op {
        Op::Put(put) => put.key.len() + put.value.len() + 24,
        _ => 64,
    }
}

/// The tags of commands. They are on disk: a number is never given to anything else.
mod tag {
    pub const PUT: u8 = 1;
    pub const DELETE_RANGE: u8 = 2;
    pub const TXN: u8 = 3;
    pub const COMPACT: u8 = 4;
    pub const LEASE_GRANT: u8 = 5;
    pub const LEASE_REVOKE: u8 = 6;
    pub const KEEP_ALIVE: u8 = 7;
    pub const EXPIRE: u8 = 8;
    pub const ALARM: u8 = 9;
    pub const MEMBER_ADD: u8 = 10;
    pub const MEMBER_PROMOTE: u8 = 11;
    pub const MEMBER_REMOVE: u8 = 12;
    pub const MEMBER_UPDATE: u8 = 13;
    pub const MOVE_LEADER: u8 = 14;
    pub const HELLO: u8 = 15;
    pub const GONE: u8 = 16;
    pub const RAISE_LEVEL: u8 = 17;
    pub const DOWNGRADE: u8 = 18;
    // 19..=47: checkpoints, auth.
    pub const OP_RANGE: u8 = 48;
    pub const OP_EMPTY: u8 = 49;
}

pub(crate) fn put_beat(out: &mut Vec<u8>, beat: &Beat) {
    put_uint(out, beat.applied.0);
    out.extend_from_slice(&beat.hash.to_be_bytes());
    put_uint(out, beat.flushed.0);
    put_uint(out, beat.level.into());
    out.push(beat.ready.into());
}

pub(crate) fn beat(reader: &mut Reader) -> Result<Beat, Malformed> {
    Ok(Beat {
        applied: Position(reader.uint()?),
        hash: reader.u128()?,
        flushed: Position(reader.uint()?),
        level: reader.u32()?,
        ready: reader.bool()?,
    })
}

fn put_command(out: &mut Vec<u8>, command: &Command) {
    match command {
        Command::Put(put) => put_put(out, put),
        Command::DeleteRange(delete) => put_delete(out, delete),
        Command::Txn(txn) => put_txn(out, txn),
        Command::Compact { revision } => {
            out.push(tag::COMPACT);
            put_int(out, *revision);
        }
        Command::LeaseGrant { id, ttl } => {
            out.push(tag::LEASE_GRANT);
            put_int(out, *id);
            put_int(out, *ttl);
        }
        Command::LeaseRevoke { id } => {
            out.push(tag::LEASE_REVOKE);
            put_int(out, *id);
        }
        Command::KeepAlive { id } => {
            out.push(tag::KEEP_ALIVE);
            put_int(out, *id);
        }
        Command::Expire { lease, renewed_at } => {
            out.push(tag::EXPIRE);
            put_int(out, *lease);
            put_uint(out, renewed_at.0);
        }
        Command::Alarm { action, member, kind } => {
            out.push(tag::ALARM);
            out.push(matches!(action, AlarmAction::Activate).into());
            put_uint(out, *member);
            out.push(alarm_byte(*kind));
        }
        Command::MemberAdd { peer_urls, learner, learners_max } => {
            out.push(tag::MEMBER_ADD);
            put_texts(out, peer_urls);
            out.push((*learner).into());
            put_uint(out, (*learners_max).into());
        }
        Command::MemberPromote { id } => {
            out.push(tag::MEMBER_PROMOTE);
            put_uint(out, *id);
        }
        Command::MemberRemove { id } => {
            out.push(tag::MEMBER_REMOVE);
            put_uint(out, *id);
        }
        Command::MemberUpdate { id, peer_urls } => {
            out.push(tag::MEMBER_UPDATE);
            put_uint(out, *id);
            put_texts(out, peer_urls);
        }
        Command::MoveLeader { target } => {
            out.push(tag::MOVE_LEADER);
            put_uint(out, *target);
        }
        Command::Hello(hello) => {
            out.push(tag::HELLO);
            put_bytes(out, hello.name.as_bytes());
            put_texts(out, &hello.peer_urls);
            put_texts(out, &hello.client_urls);
            put_uint(out, hello.nonce);
            put_uint(out, hello.replaces.0);
            put_uint(out, hello.level.into());
        }
        Command::Gone { producer, last_entry } => {
            out.push(tag::GONE);
            put_uint(out, producer.0);
            put_uint(out, last_entry.0);
        }
        Command::RaiseLevel { level } => {
            out.push(tag::RAISE_LEVEL);
            put_uint(out, (*level).into());
        }
        Command::Downgrade { target } => {
            out.push(tag::DOWNGRADE);
            out.push(target.is_some().into());
            if let Some(target) = target {
                put_bytes(out, target.as_bytes());
            }
        }
    }
}

fn command(reader: &mut Reader) -> Result<Command, Malformed> {
    Ok(match reader.byte()? {
        tag::PUT => Command::Put(put(reader)?),
        tag::DELETE_RANGE => Command::DeleteRange(delete(reader)?),
        tag::TXN => Command::Txn(txn(reader, 1)?),
        tag::COMPACT => Command::Compact { revision: reader.int()? },
        tag::LEASE_GRANT => Command::LeaseGrant { id: reader.int()?, ttl: reader.int()? },
        tag::LEASE_REVOKE => Command::LeaseRevoke { id: reader.int()? },
        tag::KEEP_ALIVE => Command::KeepAlive { id: reader.int()? },
        tag::EXPIRE => Command::Expire { lease: reader.int()?, renewed_at: Position(reader.uint()?) },
        tag::ALARM => Command::Alarm {
            action: if reader.bool()? { AlarmAction::Activate } else { AlarmAction::Deactivate },
            member: reader.uint()?,
            kind: alarm(reader.byte()?)?,
        },
        tag::MEMBER_ADD => {
            Command::MemberAdd { peer_urls: reader.texts()?, learner: reader.bool()?, learners_max: reader.u32()? }
        }
        tag::MEMBER_PROMOTE => Command::MemberPromote { id: reader.uint()? },
        tag::MEMBER_REMOVE => Command::MemberRemove { id: reader.uint()? },
        tag::MEMBER_UPDATE => Command::MemberUpdate { id: reader.uint()?, peer_urls: reader.texts()? },
        tag::MOVE_LEADER => Command::MoveLeader { target: reader.uint()? },
        tag::HELLO => Command::Hello(Hello {
            name: reader.text()?,
            peer_urls: reader.texts()?,
            client_urls: reader.texts()?,
            nonce: reader.uint()?,
            replaces: Position(reader.uint()?),
            level: reader.u32()?,
        }),
        tag::GONE => Command::Gone { producer: Position(reader.uint()?), last_entry: Position(reader.uint()?) },
        tag::RAISE_LEVEL => Command::RaiseLevel { level: reader.u32()? },
        tag::DOWNGRADE => Command::Downgrade { target: if reader.bool()? { Some(reader.text()?) } else { None } },
        _ => return Err(Malformed::Unknown("command")),
    })
}

pub(crate) fn alarm_byte(kind: AlarmKind) -> u8 {
    match kind {
        AlarmKind::NoSpace => 1,
        AlarmKind::Corrupt => 2,
    }
}

pub(crate) fn alarm(byte: u8) -> Result<AlarmKind, Malformed> {
    match byte {
        1 => Ok(AlarmKind::NoSpace),
        2 => Ok(AlarmKind::Corrupt),
        _ => Err(Malformed::Unknown("alarm")),
    }
}

const PUT_PREV_KV: u8 = 1;
const PUT_IGNORE_VALUE: u8 = 2;
const PUT_IGNORE_LEASE: u8 = 4;

fn put_put(out: &mut Vec<u8>, put: &Put) {
    out.push(tag::PUT);
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    out.push(
        flag(put.prev_kv, PUT_PREV_KV)
            | flag(put.ignore_value, PUT_IGNORE_VALUE)
            | flag(put.ignore_lease, PUT_IGNORE_LEASE),
    );
    put_int(out, put.lease);
    put_bytes(out, &put.key);
    put_bytes(out, &put.value);
}

fn put(reader: &mut Reader) -> Result<Put, Malformed> {
    let flags = reader.byte()?;
    if flags & !(PUT_PREV_KV | PUT_IGNORE_VALUE | PUT_IGNORE_LEASE) != 0 {
        return Err(Malformed::Unknown("flag"));
    }
    Ok(Put {
        prev_kv: flags & PUT_PREV_KV != 0,
        ignore_value: flags & PUT_IGNORE_VALUE != 0,
        ignore_lease: flags & PUT_IGNORE_LEASE != 0,
        lease: reader.int()?,
        key: reader.bytes()?,
        value: reader.bytes()?,
    })
}

fn put_delete(out: &mut Vec<u8>, delete: &DeleteRange) {
    out.push(tag::DELETE_RANGE);
    out.push(delete.prev_kv.into());
    put_bytes(out, &delete.key);
    put_bytes(out, &delete.range_end);
}

fn delete(reader: &mut Reader) -> Result<DeleteRange, Malformed> {
    Ok(DeleteRange { prev_kv: reader.bool()?, key: reader.bytes()?, range_end: reader.bytes()? })
}

fn put_txn(out: &mut Vec<u8>, txn: &Txn) {
    out.push(tag::TXN);
    put_uint(out, txn.compare.len() as u64);
    for compare in &txn.compare {
        put_compare(out, compare);
    }
    for branch in [&txn.success, &txn.failure] {
        put_uint(out, branch.len() as u64);
        for op in branch {
            match op {
                Op::Range(range) => put_range(out, range),
                Op::Put(put) => put_put(out, put),
                Op::DeleteRange(delete) => put_delete(out, delete),
                Op::Txn(txn) => put_txn(out, txn),
                Op::Empty => out.push(tag::OP_EMPTY),
            }
        }
    }
}

fn txn(reader: &mut Reader, depth: usize) -> Result<Txn, Malformed> {
    if depth > TXN_DEPTH_MAX {
        return Err(Malformed::Deep);
    }
    let compare = (0..reader.count()?).map(|_| compare(reader)).collect::<Result<_, _>>()?;
    let success = (0..reader.count()?).map(|_| op(reader, depth)).collect::<Result<_, _>>()?;
    let failure = (0..reader.count()?).map(|_| op(reader, depth)).collect::<Result<_, _>>()?;
    Ok(Txn { compare, success, failure })
}

fn op(reader: &mut Reader, depth: usize) -> Result<Op, Malformed> {
    Ok(match reader.byte()? {
        tag::OP_RANGE => Op::Range(range(reader)?),
        tag::PUT => Op::Put(put(reader)?),
        tag::DELETE_RANGE => Op::DeleteRange(delete(reader)?),
        tag::TXN => Op::Txn(txn(reader, depth + 1)?),
        tag::OP_EMPTY => Op::Empty,
        _ => return Err(Malformed::Unknown("operation")),
    })
}

fn put_compare(out: &mut Vec<u8>, compare: &Compare) {
    out.push(match compare.result {
        CompareResult::Equal => 0,
        CompareResult::Greater => 1,
        CompareResult::Less => 2,
        CompareResult::NotEqual => 3,
        CompareResult::Unknown => 4,
    });
    put_bytes(out, &compare.key);
    put_bytes(out, &compare.range_end);
    let mut number = |byte: u8, n: i64| {
        out.push(byte);
        put_int(out, n);
    };
    match &compare.target {
        CompareTarget::Version(n) => number(0, *n),
        CompareTarget::Create(n) => number(1, *n),
        CompareTarget::Mod(n) => number(2, *n),
        CompareTarget::Lease(n) => number(4, *n),
        CompareTarget::Value(value) => {
            out.push(3);
            put_bytes(out, value);
        }
        CompareTarget::Unknown => out.push(5),
    }
}

fn compare(reader: &mut Reader) -> Result<Compare, Malformed> {
    Ok(Compare {
        result: match reader.byte()? {
            0 => CompareResult::Equal,
            1 => CompareResult::Greater,
            2 => CompareResult::Less,
            3 => CompareResult::NotEqual,
            4 => CompareResult::Unknown,
            _ => return Err(Malformed::Unknown("comparison")),
        },
        key: reader.bytes()?,
        range_end: reader.bytes()?,
        target: match reader.byte()? {
            0 => CompareTarget::Version(reader.int()?),
            1 => CompareTarget::Create(reader.int()?),
            2 => CompareTarget::Mod(reader.int()?),
            3 => CompareTarget::Value(reader.bytes()?),
            4 => CompareTarget::Lease(reader.int()?),
            5 => CompareTarget::Unknown,
            _ => return Err(Malformed::Unknown("target")),
        },
    })
}

const RANGE_KEYS_ONLY: u8 = 1;
const RANGE_COUNT_ONLY: u8 = 2;

fn put_range(out: &mut Vec<u8>, range: &Range) {
    out.push(tag::OP_RANGE);
    out.push(if range.keys_only { RANGE_KEYS_ONLY } else { 0 } | if range.count_only { RANGE_COUNT_ONLY } else { 0 });
    out.push(match range.sort_order {
        SortOrder::None => 0,
        SortOrder::Ascend => 1,
        SortOrder::Descend => 2,
        SortOrder::Unknown => 3,
    });
    out.push(match range.sort_target {
        SortTarget::Key => 0,
        SortTarget::Version => 1,
        SortTarget::Create => 2,
        SortTarget::Mod => 3,
        SortTarget::Value => 4,
        SortTarget::Unknown => 5,
    });
    put_bytes(out, &range.key);
    put_bytes(out, &range.range_end);
    for n in [
        range.limit,
        range.revision,
        range.mod_revision_min,
        range.mod_revision_max,
        range.create_revision_min,
        range.create_revision_max,
    ] {
        put_int(out, n);
    }
}

fn range(reader: &mut Reader) -> Result<Range, Malformed> {
    let flags = reader.byte()?;
    if flags & !(RANGE_KEYS_ONLY | RANGE_COUNT_ONLY) != 0 {
        return Err(Malformed::Unknown("flag"));
    }
    Ok(Range {
        keys_only: flags & RANGE_KEYS_ONLY != 0,
        count_only: flags & RANGE_COUNT_ONLY != 0,
        sort_order: match reader.byte()? {
            0 => SortOrder::None,
            1 => SortOrder::Ascend,
            2 => SortOrder::Descend,
            3 => SortOrder::Unknown,
            _ => return Err(Malformed::Unknown("order")),
        },
        sort_target: match reader.byte()? {
            0 => SortTarget::Key,
            1 => SortTarget::Version,
            2 => SortTarget::Create,
            3 => SortTarget::Mod,
            4 => SortTarget::Value,
            5 => SortTarget::Unknown,
            _ => return Err(Malformed::Unknown("order")),
        },
        key: reader.bytes()?,
        range_end: reader.bytes()?,
        limit: reader.int()?,
        revision: reader.int()?,
        mod_revision_min: reader.int()?,
        mod_revision_max: reader.int()?,
        create_revision_min: reader.int()?,
        create_revision_max: reader.int()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..6).prop_map(Bytes::from)
    }

    fn texts() -> impl Strategy<Value = Vec<String>> {
        vec("[a-z:/é]{0,6}", 0..3)
    }

    fn a_put() -> impl Strategy<Value = Put> {
        (bytes(), bytes(), any::<i64>(), any::<(bool, bool, bool)>()).prop_map(|(key, value, lease, flags)| Put {
            key,
            value,
            lease,
            prev_kv: flags.0,
            ignore_value: flags.1,
            ignore_lease: flags.2,
        })
    }

    fn a_delete() -> impl Strategy<Value = DeleteRange> {
        (bytes(), bytes(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRange { key, range_end, prev_kv })
    }

    fn a_range() -> impl Strategy<Value = Range> {
        let order = prop_oneof![
            Just(SortOrder::None),
            Just(SortOrder::Ascend),
            Just(SortOrder::Descend),
            Just(SortOrder::Unknown)
        ];
        let target = prop_oneof![
            Just(SortTarget::Key),
            Just(SortTarget::Version),
            Just(SortTarget::Create),
            Just(SortTarget::Mod),
            Just(SortTarget::Value),
            Just(SortTarget::Unknown)
        ];
        (bytes(), bytes(), any::<[i64; 6]>(), order, target, any::<(bool, bool)>()).prop_map(
            |(key, range_end, n, sort_order, sort_target, flags)| Range {
                key,
                range_end,
                limit: n[0],
                revision: n[1],
                sort_order,
                sort_target,
                keys_only: flags.0,
                count_only: flags.1,
                mod_revision_min: n[2],
                mod_revision_max: n[3],
                create_revision_min: n[4],
                create_revision_max: n[5],
            },
        )
    }

    fn a_compare() -> impl Strategy<Value = Compare> {
        let result = prop_oneof![
            Just(CompareResult::Equal),
            Just(CompareResult::Greater),
            Just(CompareResult::Less),
            Just(CompareResult::NotEqual),
            Just(CompareResult::Unknown)
        ];
        let target = prop_oneof![
            any::<i64>().prop_map(CompareTarget::Version),
            any::<i64>().prop_map(CompareTarget::Create),
            any::<i64>().prop_map(CompareTarget::Mod),
            bytes().prop_map(CompareTarget::Value),
            any::<i64>().prop_map(CompareTarget::Lease),
            Just(CompareTarget::Unknown)
        ];
        (bytes(), bytes(), result, target).prop_map(|(key, range_end, result, target)| Compare {
            key,
            range_end,
            result,
            target,
        })
    }

    fn a_txn() -> impl Strategy<Value = Txn> {
        let leaf = prop_oneof![
            a_range().prop_map(Op::Range),
            a_put().prop_map(Op::Put),
            a_delete().prop_map(Op::DeleteRange),
            Just(Op::Empty)
        ];
        let op = leaf.prop_recursive(3, 12, 3, |op| {
            (vec(a_compare(), 0..2), vec(op.clone(), 0..3), vec(op, 0..3))
                .prop_map(|(compare, success, failure)| Op::Txn(Txn { compare, success, failure }))
        });
        (vec(a_compare(), 0..3), vec(op.clone(), 0..3), vec(op, 0..3)).prop_map(|(compare, success, failure)| Txn {
            compare,
            success,
            failure,
        })
    }

    fn a_command() -> impl Strategy<Value = Command> {
        let alarm = prop_oneof![Just(AlarmKind::NoSpace), Just(AlarmKind::Corrupt)];
        let action = prop_oneof![Just(AlarmAction::Activate), Just(AlarmAction::Deactivate)];
        prop_oneof![
            a_put().prop_map(Command::Put),
            a_delete().prop_map(Command::DeleteRange),
            a_txn().prop_map(Command::Txn),
            any::<i64>().prop_map(|revision| Command::Compact { revision }),
            any::<(i64, i64)>().prop_map(|(id, ttl)| Command::LeaseGrant { id, ttl }),
            any::<i64>().prop_map(|id| Command::LeaseRevoke { id }),
            any::<i64>().prop_map(|id| Command::KeepAlive { id }),
            any::<(i64, u64)>().prop_map(|(lease, at)| Command::Expire { lease, renewed_at: Position(at) }),
            (action, any::<u64>(), alarm).prop_map(|(action, member, kind)| Command::Alarm { action, member, kind }),
            (texts(), any::<bool>(), any::<u32>()).prop_map(|(peer_urls, learner, learners_max)| Command::MemberAdd {
                peer_urls,
                learner,
                learners_max
            }),
            any::<u64>().prop_map(|id| Command::MemberPromote { id }),
            any::<u64>().prop_map(|id| Command::MemberRemove { id }),
            (any::<u64>(), texts()).prop_map(|(id, peer_urls)| Command::MemberUpdate { id, peer_urls }),
            any::<u64>().prop_map(|target| Command::MoveLeader { target }),
            ("[a-z]{0,4}", texts(), texts(), any::<(u64, u64, u32)>()).prop_map(|(name, peer_urls, client_urls, n)| {
                Command::Hello(Hello { name, peer_urls, client_urls, nonce: n.0, replaces: Position(n.1), level: n.2 })
            }),
            any::<(u64, u64)>().prop_map(|(p, e)| Command::Gone { producer: Position(p), last_entry: Position(e) }),
            any::<u32>().prop_map(|level| Command::RaiseLevel { level }),
            proptest::option::of("[0-9.]{0,5}").prop_map(|target| Command::Downgrade { target }),
        ]
    }

    fn an_entry() -> impl Strategy<Value = EntryBody> {
        let beat = proptest::option::of(any::<(u64, u128, u64, u32, bool)>().prop_map(|b| Beat {
            applied: Position(b.0),
            hash: b.1,
            flushed: Position(b.2),
            level: b.3,
            ready: b.4,
        }));
        (any::<(u64, u64)>(), 0..=LEVEL, beat, vec(a_command(), 0..6)).prop_map(|(n, level, beat, commands)| {
            EntryBody { producer: Position(n.0), seq: n.1, level, beat, commands }
        })
    }

    proptest! {
        #[test]
        fn an_entry_reads_back_as_it_was_written(entry in an_entry()) {
            prop_assert_eq!(decode(encode(&entry)), Ok(entry));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in vec(any::<u8>(), 0..200)) {
            let _ = decode(bytes.into());
        }

        #[test]
        fn what_is_accepted_has_one_spelling(entry in an_entry(), at: usize, byte: u8) {
            let mut bytes = encode(&entry).to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(other) = decode(bytes.clone().into()) {
                prop_assert_eq!(encode(&other).to_vec(), bytes);
            }
        }

        #[test]
        fn a_cut_entry_is_malformed(entry in an_entry(), at: usize) {
            let bytes = encode(&entry);
            let cut = decode(bytes.slice(..at % bytes.len()));
            prop_assert!(matches!(cut, Err(DecodeError::Malformed(_))), "{:?}", cut);
        }
    }

    /// Journals hold these bytes: they must not change by mistake.
    #[test]
    fn the_bytes_of_an_entry_are_what_they_were() {
        let key = || Bytes::from_static(b"k");
        let txn = Txn {
            compare: vec![Compare {
                key: key(),
                range_end: Bytes::new(),
                result: CompareResult::Equal,
                target: CompareTarget::Mod(300),
            }],
            success: vec![Op::Put(Put { key: key(), value: Bytes::from_static(b"v"), lease: -1, ..Put::default() })],
            failure: vec![Op::Range(Range { key: key(), ..Range::default() })],
        };
        let beat = Beat { applied: Position(5), hash: 0x1122, flushed: Position(4), level: 1, ready: true };
        let commands = vec![Command::Txn(txn), Command::KeepAlive { id: 64 }];
        let entry = EntryBody { producer: Position(200), seq: 7, level: 1, beat: Some(beat), commands };
        let head = [1, 1, 0xc8, 0x01, 7, 1];
        let beat = [5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11, 0x22, 4, 1, 1];
        let compare = [2, 3, 1, 0, 1, b'k', 0, 2, 0xd8, 0x04];
        let put = [1, 1, 0, 1, 1, b'k', 1, b'v'];
        let range = [1, 48, 0, 0, 0, 1, b'k', 0, 0, 0, 0, 0, 0, 0];
        let keep_alive = [7, 0x80, 0x01];
        assert_eq!(encode(&entry), [&head[..], &beat, &compare, &put, &range, &keep_alive].concat());
    }

    #[test]
    fn an_entry_of_a_higher_level_is_told_from_a_malformed_one() {
        let entry = EntryBody { producer: Position(7), seq: 1, level: LEVEL + 1, beat: None, commands: vec![] };
        let mut bytes = encode(&entry).to_vec();
        bytes.extend_from_slice(b"what a newer program may say");
        assert_eq!(decode(bytes.into()), Err(DecodeError::AboveLevel { level: LEVEL + 1 }));
    }

    #[test]
    fn txns_nested_beyond_the_limit_are_malformed_and_do_not_overflow_the_stack() {
        let nested = |depth: usize| {
            let mut txn = Txn::default();
            for _ in 1..depth {
                txn = Txn { success: vec![Op::Txn(txn)], ..Txn::default() };
            }
            let commands = vec![Command::Txn(txn)];
            decode(encode(&EntryBody { producer: Position(1), seq: 1, level: 1, beat: None, commands }))
        };
        assert!(nested(TXN_DEPTH_MAX).is_ok());
        assert_eq!(nested(TXN_DEPTH_MAX + 1), Err(DecodeError::Malformed(Malformed::Deep)));
    }
}
