//! What a request must be before it becomes part of an entry. Pure, and only the proposer asks: apply
//! obeys what entries say, and gives even an invalid one a definite result.
//!
//! The order of the checks is etcd's, because a request may be wrong in two ways at once.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::*;

/// Why a request was refused. The texts, after etcd's prefix, are part of its API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("key is not provided")]
    EmptyKey,
    #[error("key not found")]
    EmptyOp,
    #[error("value is provided")]
    ValueProvided,
    #[error("lease is provided")]
    LeaseProvided,
    #[error("too many operations in txn request")]
    TooManyOps,
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    #[error("invalid sort option")]
    InvalidSortOption,
}

/// Checks a client's command. `txn_ops_max` is the proposer's `--max-txn-ops`.
pub fn validate(command: &Command, txn_ops_max: usize) -> Result<(), Invalid> {
    match command {
        Command::Put(put) => validate_put(put),
        Command::DeleteRange(delete) => validate_delete(delete),
        Command::Txn(txn) => {
            validate_txn(txn, txn_ops_max as i64, 1)?;
            Writes::of(&txn.success)?;
            Writes::of(&txn.failure)?;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Checks a read.
pub fn validate_range(range: &Range) -> Result<(), Invalid> {
    if range.key.is_empty() {
        return Err(Invalid::EmptyKey);
    }
    if range.sort_order == SortOrder::Unknown || range.sort_target == SortTarget::Unknown {
        return Err(Invalid::InvalidSortOption);
    }
    Ok(())
}

/// What etcd counts against the quota before it lets a command in.
pub fn quota_cost(command: &Command) -> u64 {
    const GRANT: u64 = 64;
    match command {
        Command::Put(put) => put_cost(put),
        Command::Txn(txn) => txn_cost(txn),
        Command::LeaseGrant { .. } => GRANT,
        _ => 0,
    }
}

fn put_cost(put: &Put) -> u64 {
    const OVERHEAD: u64 = 256;
    OVERHEAD + put.key.len() as u64 + put.value.len() as u64
}

fn txn_cost(txn: &Txn) -> u64 {
    let branch = |ops: &[Op]| -> u64 {
        ops.iter()
            .map(|op| match op {
                Op::Put(put) => put_cost(put),
                Op::Txn(txn) => txn_cost(txn),
                _ => 0,
            })
            .sum()
    };
    branch(&txn.success).max(branch(&txn.failure))
}

fn validate_put(put: &Put) -> Result<(), Invalid> {
    if put.key.is_empty() {
        return Err(Invalid::EmptyKey);
    }
    if put.ignore_value && !put.value.is_empty() {
        return Err(Invalid::ValueProvided);
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(Invalid::LeaseProvided);
    }
    Ok(())
}

fn validate_delete(delete: &DeleteRange) -> Result<(), Invalid> {
    if delete.key.is_empty() { Err(Invalid::EmptyKey) } else { Ok(()) }
}

/// Each level of nesting has what the level above left of the budget.
fn validate_txn(txn: &Txn, budget: i64, depth: usize) -> Result<(), Invalid> {
    let ops = txn.compare.len().max(txn.success.len()).max(txn.failure.len()) as i64;
    if ops > budget || depth > TXN_DEPTH_MAX {
        return Err(Invalid::TooManyOps);
    }
    if txn.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Invalid::EmptyKey);
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Range(range) => validate_range(range)?,
            Op::Put(put) => validate_put(put)?,
            Op::DeleteRange(delete) => validate_delete(delete)?,
            Op::Txn(txn) => validate_txn(txn, budget - ops, depth + 1)?,
            Op::Empty => return Err(Invalid::EmptyOp),
        }
    }
    Ok(())
}

/// What one branch of a Txn may write, for the rule that no key is put twice, nor put where the same
/// branch deletes.
///
/// etcd looks at nested Txns in their order and before the branch's own puts, and reads the end of a
/// deleted range as plain bytes: `\0`, which elsewhere means "everything from here", covers nothing.
/// So some overlaps get through, and apply must cope with a key that changes twice in one revision.
struct Writes {
    puts: BTreeSet<Bytes>,
    deletes: Vec<(Bytes, Bytes)>,
}

impl Writes {
    fn of(ops: &[Op]) -> Result<Writes, Invalid> {
        let mut all = Writes { puts: BTreeSet::new(), deletes: Vec::new() };
        all.deletes.extend(ops.iter().filter_map(|op| match op {
            Op::DeleteRange(delete) => Some((delete.key.clone(), delete.range_end.clone())),
            _ => None,
        }));
        for op in ops {
            let Op::Txn(txn) = op else { continue };
            let then = Writes::of(&txn.success)?;
            let other = Writes::of(&txn.failure)?;
            for key in &then.puts {
                all.put(key)?;
            }
            for key in &other.puts {
                // Only one of the two branches will run.
                if then.puts.contains(key) {
                    all.check_deleted(key)?;
                } else {
                    all.put(key)?;
                }
            }
            all.deletes.extend(then.deletes);
            all.deletes.extend(other.deletes);
        }
        for op in ops {
            if let Op::Put(put) = op {
                all.put(&put.key)?;
            }
        }
        Ok(all)
    }

    fn put(&mut self, key: &Bytes) -> Result<(), Invalid> {
        self.check_deleted(key)?;
        if self.puts.insert(key.clone()) { Ok(()) } else { Err(Invalid::DuplicateKey) }
    }

    fn check_deleted(&self, key: &Bytes) -> Result<(), Invalid> {
        let inside = |(from, to): &(Bytes, Bytes)| if to.is_empty() { key == from } else { from <= key && key < to };
        if self.deletes.iter().any(inside) { Err(Invalid::DuplicateKey) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str) -> Op {
        Op::Put(Put { key: Bytes::from_static(key.as_bytes()), ..Put::default() })
    }

    fn delete(key: &'static str, end: &'static str) -> Op {
        let (key, range_end) = (Bytes::from_static(key.as_bytes()), Bytes::from_static(end.as_bytes()));
        Op::DeleteRange(DeleteRange { key, range_end, prev_kv: false })
    }

    fn branches(success: Vec<Op>, failure: Vec<Op>) -> Op {
        Op::Txn(Txn { compare: vec![], success, failure })
    }

    fn check(ops: Vec<Op>) -> Result<(), Invalid> {
        validate(&Command::Txn(Txn { success: ops, ..Txn::default() }), 128)
    }

    #[test]
    fn one_branch_puts_a_key_once_and_never_where_it_deletes() {
        assert_eq!(check(vec![put("a"), put("b")]), Ok(()));
        assert_eq!(check(vec![put("a"), put("a")]), Err(Invalid::DuplicateKey));
        assert_eq!(check(vec![put("b"), delete("a", "c")]), Err(Invalid::DuplicateKey));
        assert_eq!(check(vec![put("c"), delete("a", "c")]), Ok(()));
        assert_eq!(check(vec![delete("a", "c"), delete("b", "")]), Ok(()));
        assert_eq!(check(vec![put("a"), branches(vec![put("a")], vec![])]), Err(Invalid::DuplicateKey));
        assert_eq!(
            check(vec![branches(vec![put("a")], vec![]), branches(vec![put("a")], vec![])]),
            Err(Invalid::DuplicateKey)
        );
    }

    #[test]
    fn the_two_branches_of_one_nested_txn_may_overlap() {
        assert_eq!(check(vec![branches(vec![put("a")], vec![put("a")])]), Ok(()));
        assert_eq!(check(vec![branches(vec![put("a")], vec![delete("a", "b")])]), Ok(()));
    }

    #[test]
    fn overlaps_that_etcd_lets_through_are_let_through() {
        assert_eq!(check(vec![branches(vec![put("a")], vec![]), branches(vec![delete("a", "")], vec![])]), Ok(()));
        assert_eq!(
            check(vec![branches(vec![delete("a", "")], vec![]), branches(vec![put("a")], vec![])]),
            Err(Invalid::DuplicateKey)
        );
        assert_eq!(check(vec![delete("a", "\0"), put("b")]), Ok(()));
    }

    #[test]
    fn nested_txns_share_one_budget() {
        let txn = |inner: usize, max: usize| {
            let inner = branches(vec![delete("k", ""); inner], vec![]);
            validate(&Command::Txn(Txn { success: vec![inner, delete("k", "")], ..Txn::default() }), max)
        };
        assert_eq!(txn(2, 4), Ok(()));
        assert_eq!(txn(3, 4), Err(Invalid::TooManyOps));
    }

    #[test]
    fn each_request_is_refused_for_etcds_reason() {
        let a = Bytes::from_static(b"a");
        let put = |put: Put| validate(&Command::Put(put), 1);
        assert_eq!(put(Put::default()), Err(Invalid::EmptyKey));
        let ignoring = Put { key: a.clone(), value: a.clone(), ignore_value: true, ..Put::default() };
        assert_eq!(put(ignoring), Err(Invalid::ValueProvided));
        assert_eq!(
            put(Put { key: a.clone(), lease: 1, ignore_lease: true, ..Put::default() }),
            Err(Invalid::LeaseProvided)
        );
        assert_eq!(validate(&Command::DeleteRange(DeleteRange::default()), 1), Err(Invalid::EmptyKey));
        assert_eq!(validate_range(&Range::default()), Err(Invalid::EmptyKey));
        let sorted = Range { key: a, sort_order: SortOrder::Unknown, ..Range::default() };
        assert_eq!(validate_range(&sorted), Err(Invalid::InvalidSortOption));
        assert_eq!(check(vec![Op::Empty]), Err(Invalid::EmptyOp));
    }

    #[test]
    fn the_quota_counts_the_dearer_branch() {
        let txn = Txn {
            success: vec![put("a"), branches(vec![put("bb")], vec![])],
            failure: vec![put("c")],
            ..Txn::default()
        };
        assert_eq!(quota_cost(&Command::Txn(txn)), 257 + 258);
        assert_eq!(quota_cost(&Command::LeaseGrant { id: 0, ttl: 1 }), 64);
        assert_eq!(quota_cost(&Command::Compact { revision: 1 }), 0);
    }
}
