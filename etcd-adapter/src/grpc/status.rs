//! What clients are told when something fails: once, here, in etcd's codes and etcd's words.
//!
//! Clients compare the words. A text that changes here breaks a client somewhere.

use tonic::{Code, Status};

/// An error of etcd's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known(pub Code, pub &'static str);

impl From<Known> for Status {
    fn from(known: Known) -> Status {
        Status::new(known.0, known.1)
    }
}

macro_rules! known {
    ($($name:ident = $code:ident, $text:literal;)*) => {
        $(pub const $name: Known = Known(Code::$code, $text);)*

        /// All of them, by name.
        pub const ALL: &[(&str, Known)] = &[$((stringify!($name), $name)),*];
    };
}

known! {
    KEY_NOT_PROVIDED = InvalidArgument, "etcdserver: key is not provided";
    KEY_NOT_FOUND = InvalidArgument, "etcdserver: key not found";
    VALUE_PROVIDED = InvalidArgument, "etcdserver: value is provided";
    LEASE_PROVIDED = InvalidArgument, "etcdserver: lease is provided";
    TOO_MANY_OPS = InvalidArgument, "etcdserver: too many operations in txn request";
    DUPLICATE_KEY = InvalidArgument, "etcdserver: duplicate key given in txn request";
    INVALID_CLIENT_API_VERSION = InvalidArgument, "etcdserver: invalid client api version";
    INVALID_SORT_OPTION = InvalidArgument, "etcdserver: invalid sort option";
    COMPACTED = OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    FUTURE_REVISION = OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    NO_SPACE = ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    LEASE_NOT_FOUND = NotFound, "etcdserver: requested lease not found";
    LEASE_EXISTS = FailedPrecondition, "etcdserver: lease already exists";
    LEASE_TTL_TOO_LARGE = OutOfRange, "etcdserver: too large lease TTL";
    PEER_URL_EXISTS = FailedPrecondition, "etcdserver: Peer URLs already exists";
    BAD_MEMBER_URLS = InvalidArgument, "etcdserver: given member URLs are invalid";
    MEMBER_NOT_FOUND = NotFound, "etcdserver: member not found";
    MEMBER_NOT_LEARNER = FailedPrecondition, "etcdserver: can only promote a learner member";
    LEARNER_NOT_READY = FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    TOO_MANY_LEARNERS = FailedPrecondition, "etcdserver: too many learner members in cluster";
    NOT_ENOUGH_STARTED = Unknown, "etcdserver: re-configuration failed due to not enough started members";
    REQUEST_TOO_LARGE = InvalidArgument, "etcdserver: request is too large";
    TOO_MANY_REQUESTS = Unknown, "etcdserver: too many requests";
    NO_LEADER = Unavailable, "etcdserver: no leader";
    NOT_LEADER = FailedPrecondition, "etcdserver: not leader";
    STOPPED = Unavailable, "etcdserver: server stopped";
    TIMEOUT = Unavailable, "etcdserver: request timed out";
    CORRUPT = DataLoss, "etcdserver: corrupt cluster";
    NOT_SUPPORTED_FOR_LEARNER = FailedPrecondition, "etcdserver: rpc not supported for learner";
    BAD_LEADER_TRANSFEREE = FailedPrecondition, "etcdserver: bad leader transferee";
    WRONG_DOWNGRADE_VERSION = InvalidArgument, "etcdserver: wrong downgrade target version format";
    INVALID_DOWNGRADE_TARGET = InvalidArgument, "etcdserver: invalid downgrade target version";
    DOWNGRADE_IN_PROGRESS = FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    STREAM_CUSTOM_SORT = Unimplemented, "RangeStream does not support custom sort orders";
    STREAM_REVISION_FILTERS = Unimplemented, "RangeStream does not support revision filters";
    LEADER_KEY_MISSING = Unknown, "\"leader\" field must be provided";
    ELECTION_NOT_LEADER = Unknown, "election: not leader";
    ELECTION_NO_LEADER = Unknown, "election: no leader";
    SESSION_EXPIRED = Unknown, "mutex: session is expired";
}

/// A panic in the pure part, which every replica met at the same entry: no effect.
pub fn internal(what: &str) -> Status {
    Status::internal(format!("etcdserver: internal error: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_makes_a_client_repeat_a_write() {
        // etcd's client repeats writes on these two, and takes them for its own.
        for (name, Known(_, text)) in ALL {
            assert!(!text.contains("there is no address available"), "{name}");
            assert!(!text.contains("there is no connection available"), "{name}");
        }
    }

    #[test]
    fn texts_are_told_apart() {
        let texts: std::collections::BTreeSet<_> = ALL.iter().map(|(_, known)| known.1).collect();
        assert_eq!(texts.len(), ALL.len());
    }
}
