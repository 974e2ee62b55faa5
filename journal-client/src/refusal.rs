//! Refusals on the wire, in both directions: the one place that knows how they travel.
//!
//! A refused call ends with a gRPC status whose details are an encoded `Refusal`; inside an append
//! stream the same message says why entries were rejected. A status without such details is not a
//! refusal: nobody knows what became of the call.

use prost::Message;
use proto::journal as wire;
use tonic::{Code, Status};

use crate::error::{Error, Reason, Refusal};

/// A refusal travels in HTTP/2 trailers, whose size is limited: longer messages are cut.
pub const MESSAGE_BYTES_MAX: usize = 1024;

impl Refusal {
    /// The refusal that a status carries, if it carries one.
    pub fn of_status(status: &Status) -> Option<Refusal> {
        if status.details().is_empty() {
            return None;
        }
        wire::Refusal::decode(status.details()).ok().map(Refusal::from)
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        let code = code_of(refusal.reason);
        let wire = wire::Refusal::from(refusal);
        Status::with_details(code, wire.message.clone(), wire.encode_to_vec().into())
    }
}

impl From<Refusal> for wire::Refusal {
    fn from(mut refusal: Refusal) -> wire::Refusal {
        if refusal.message.is_empty() {
            // Nothing said of nothing would be no bytes at all, and no refusal where it arrives.
            refusal.message = "refused".into();
        }
        wire::Refusal {
            reason: wire::Reason::from(refusal.reason).into(),
            message: cut(refusal.message),
            leader: refusal.leader.map(|address| wire::NodeAddress { node_id: 0, address: cut(address) }),
        }
    }
}

impl From<wire::Refusal> for Refusal {
    fn from(refusal: wire::Refusal) -> Refusal {
        // Unspecified, if the number is not known.
        let reason = refusal.reason().into();
        let leader = refusal.leader.map(|node| node.address).filter(|address| !address.is_empty());
        Refusal { reason, message: refusal.message, leader }
    }
}

/// What a failed call means to its caller.
pub fn error_of_status(status: &Status) -> Error {
    match Refusal::of_status(status) {
        Some(refusal) => Error::Refused(refusal),
        None => match status.code() {
            Code::Unimplemented => Error::Protocol(format!("the node does not know this call: {}", status.message())),
            code => Error::Unavailable(format!("{}: {}", code.description(), in_words(status))),
        },
    }
}

/// What a status says, and what it comes from: of itself "transport error" tells nobody anything.
fn in_words(status: &Status) -> String {
    let first = std::error::Error::source(status);
    let root = std::iter::successors(first, |error| error.source()).last().map(ToString::to_string);
    match root.filter(|root| root != status.message()) {
        Some(root) => format!("{}: {root}", status.message()),
        None => status.message().to_owned(),
    }
}

/// Whether the call failed before a connection stood: then no node has heard of it.
pub fn never_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The pairs of reasons: both directions read this one table.
const REASONS: [(Reason, wire::Reason); 18] = [
    (Reason::Unspecified, wire::Reason::Unspecified),
    (Reason::NotLeader, wire::Reason::NotLeader),
    (Reason::Moved, wire::Reason::Moved),
    (Reason::NoQuorum, wire::Reason::NoQuorum),
    (Reason::NoRoom, wire::Reason::NoRoom),
    (Reason::Quota, wire::Reason::Quota),
    (Reason::TooLarge, wire::Reason::TooLarge),
    (Reason::BadChecksum, wire::Reason::BadChecksum),
    (Reason::StreamEnded, wire::Reason::StreamEnded),
    (Reason::ShuttingDown, wire::Reason::ShuttingDown),
    (Reason::NoSuchJournal, wire::Reason::NoSuchJournal),
    (Reason::Forbidden, wire::Reason::Forbidden),
    (Reason::Invalid, wire::Reason::Invalid),
    (Reason::ChangeUnderWay, wire::Reason::ChangeUnderWay),
    (Reason::Exists, wire::Reason::Exists),
    (Reason::WrongCluster, wire::Reason::WrongCluster),
    (Reason::NotReady, wire::Reason::NotReady),
    (Reason::Rate, wire::Reason::Rate),
];

impl From<Reason> for wire::Reason {
    fn from(reason: Reason) -> wire::Reason {
        REASONS.iter().find(|pair| pair.0 == reason).map_or(wire::Reason::Unspecified, |pair| pair.1)
    }
}

impl From<wire::Reason> for Reason {
    fn from(reason: wire::Reason) -> Reason {
        REASONS.iter().find(|pair| pair.1 == reason).map_or(Reason::Unspecified, |pair| pair.0)
    }
}

/// The nearest gRPC code, for those who see nothing but the code.
fn code_of(reason: Reason) -> Code {
    match reason {
        Reason::Unspecified => Code::Unknown,
        Reason::NotLeader | Reason::Moved | Reason::NoQuorum | Reason::ShuttingDown | Reason::NotReady => {
            Code::Unavailable
        }
        Reason::NoRoom | Reason::Quota | Reason::Rate => Code::ResourceExhausted,
        Reason::TooLarge | Reason::BadChecksum | Reason::Invalid => Code::InvalidArgument,
        Reason::StreamEnded => Code::Aborted,
        Reason::NoSuchJournal => Code::NotFound,
        Reason::Forbidden => Code::PermissionDenied,
        Reason::ChangeUnderWay | Reason::WrongCluster => Code::FailedPrecondition,
        Reason::Exists => Code::AlreadyExists,
    }
}

fn cut(mut text: String) -> String {
    if text.len() > MESSAGE_BYTES_MAX {
        let mut end = MESSAGE_BYTES_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_reason() -> impl Strategy<Value = Reason> {
        (0..REASONS.len()).prop_map(|index| REASONS[index].0)
    }

    fn any_refusal() -> impl Strategy<Value = Refusal> {
        (any_reason(), ".{1,200}", proptest::option::of("[a-z0-9.:]{1,40}"))
            .prop_map(|(reason, message, leader)| Refusal { reason, message, leader })
    }

    proptest! {
        #[test]
        fn a_refusal_comes_out_of_a_status_as_it_went_in(refusal in any_refusal()) {
            let status = Status::from(refusal.clone());
            prop_assert_ne!(status.code(), Code::Ok);
            prop_assert_eq!(Refusal::of_status(&status), Some(refusal.clone()));
            prop_assert_eq!(error_of_status(&status), Error::Refused(refusal));
        }

        #[test]
        fn a_refusal_survives_headers(refusal in any_refusal()) {
            let mut headers = http::HeaderMap::new();
            Status::from(refusal.clone()).add_header(&mut headers).unwrap();
            let status = Status::from_header_map(&headers).unwrap();
            prop_assert_eq!(Refusal::of_status(&status), Some(refusal));
        }

        #[test]
        fn a_long_message_is_cut_and_stays_text(message in "\\PC{900,1500}") {
            let wire = wire::Refusal::from(Refusal::new(Reason::Invalid, message.clone()));
            prop_assert!(wire.message.len() <= MESSAGE_BYTES_MAX);
            prop_assert!(message.starts_with(&wire.message));
        }

        #[test]
        fn no_details_whatever_make_the_decoder_fail(details in any::<Vec<u8>>(), number in any::<i32>()) {
            let status = Status::with_details(Code::Unknown, "", details.into());
            let _ = Refusal::of_status(&status);
            let unknown = wire::Refusal { reason: number, ..Default::default() };
            let known = wire::Reason::try_from(number).is_ok();
            prop_assert_eq!(Refusal::from(unknown).reason == Reason::Unspecified, !known || number == 0);
        }
    }

    #[test]
    fn every_reason_of_the_wire_has_its_own_reason_here() {
        for number in 0.. {
            let Ok(wire) = wire::Reason::try_from(number) else {
                assert_eq!(number as usize, REASONS.len(), "a reason is missing from the table");
                break;
            };
            assert_eq!(wire::Reason::from(Reason::from(wire)), wire);
        }
    }

    #[test]
    fn a_refusal_without_a_word_is_one_where_it_arrives() {
        let status = Status::from(Refusal::new(Reason::Unspecified, ""));
        assert_eq!(Refusal::of_status(&status).map(|refusal| refusal.reason), Some(Reason::Unspecified));
    }

    #[test]
    fn a_status_without_details_is_no_refusal() {
        let status = Status::unavailable("the connection broke");
        assert_eq!(Refusal::of_status(&status), None);
        assert!(matches!(error_of_status(&status), Error::Unavailable(_)));
    }
}
