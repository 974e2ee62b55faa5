//! The wire as a stranger may use it: no bytes make a decoder panic, and what was understood once is
//! understood the same again.

use proptest::prelude::*;
use prost::Message;
use proto::{JournalName, NodeId, journal, peer};

/// Bytes that look like messages more often than noise does: tags, lengths, and pieces of both.
fn almost_messages() -> impl Strategy<Value = Vec<u8>> {
    let field = (1..8u8, 0..6u8, proptest::collection::vec(any::<u8>(), 0..12));
    let fields = proptest::collection::vec(field, 0..8).prop_map(|fields| {
        let mut bytes = Vec::new();
        for (number, kind, content) in fields {
            bytes.push(number << 3 | kind);
            if kind == 2 {
                bytes.push(content.len() as u8);
            }
            bytes.extend(content);
        }
        bytes
    });
    prop_oneof![fields, proptest::collection::vec(any::<u8>(), 0..200)]
}

fn reads_the_same_again<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(message) = M::decode(bytes) {
        let again = M::decode(message.encode_to_vec().as_slice());
        prop_assert_eq!(again, Ok(message));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_are_too_strange(bytes in almost_messages()) {
        reads_the_same_again::<journal::AppendRequest>(&bytes)?;
        reads_the_same_again::<journal::AppendReply>(&bytes)?;
        reads_the_same_again::<journal::TailReply>(&bytes)?;
        reads_the_same_again::<journal::Refusal>(&bytes)?;
        reads_the_same_again::<journal::DescribeReply>(&bytes)?;
        reads_the_same_again::<journal::StatusReply>(&bytes)?;
        reads_the_same_again::<journal::ChangeMembersRequest>(&bytes)?;
        reads_the_same_again::<peer::AppendEntries>(&bytes)?;
        reads_the_same_again::<peer::AppendEntriesReply>(&bytes)?;
        reads_the_same_again::<peer::ControlRequest>(&bytes)?;
        reads_the_same_again::<peer::SnapshotRequest>(&bytes)?;
        reads_the_same_again::<peer::FetchReply>(&bytes)?;
    }

    #[test]
    fn entries_come_out_as_they_went_in(
        journal_id in any::<u64>(),
        entries in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..100), any::<u32>(), any::<bool>()), 0..10,
        ),
    ) {
        let entries = entries
            .into_iter()
            .map(|(payload, crc, urgent)| journal::Entry { payload: payload.into(), crc, urgent })
            .collect();
        let request = journal::AppendRequest { journal_id, entries };
        prop_assert_eq!(journal::AppendRequest::decode(request.encode_to_vec().as_slice()), Ok(request));
    }

    #[test]
    fn a_name_reads_back_as_it_was_printed(text in "[a-z0-9._-]{0,70}|\\PC{0,20}") {
        if let Ok(name) = text.parse::<JournalName>() {
            prop_assert_eq!(name.as_str(), &text);
            prop_assert_eq!(name.to_string().parse::<JournalName>(), Ok(name));
            prop_assert!((1..=64).contains(&text.len()) && text.is_ascii());
        }
    }

    #[test]
    fn a_node_id_reads_back_as_it_was_printed(id in any::<u64>()) {
        let text = NodeId(id).to_string();
        prop_assert_eq!(text.len(), 16);
        prop_assert_eq!(text.parse::<NodeId>(), Ok(NodeId(id)));
    }
}
