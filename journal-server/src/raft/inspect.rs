//! Everything that bytes of a peer go through before anybody believes them, and nothing after it. For
//! tests and fuzzing.

use prost::Message;
use proto::peer;

use super::types::{self, Malformed, malformed};
use super::{ingress, network};
use crate::{identity, state};

/// Reads bytes as one kind of message, or of what messages and files carry.
pub fn inspect(kind: u8, bytes: &[u8]) -> Result<(), Malformed> {
    fn read<M: Message + Default>(bytes: &[u8]) -> Result<M, Malformed> {
        M::decode(bytes).map_err(|error| malformed(error.to_string()))
    }
    match kind % 10 {
        0 => {
            let request: peer::AppendEntries = read(bytes)?;
            ingress::request_in(request.group_id, request).map(drop)
        }
        1 => ingress::vote_in(read(bytes)?).map(drop),
        2 => network::vote_reply_in(read(bytes)?).map(drop).map_err(|error| malformed(error.to_string())),
        3 => types::entry_in(read(bytes)?).map(drop),
        4 => {
            let request: peer::SnapshotRequest = read(bytes)?;
            types::vote_in(request.vote)?;
            types::membership_in(request.membership.unwrap_or_default()).map(drop)
        }
        5 => read::<peer::ControlRequest>(bytes).map(drop),
        6 => read::<peer::ControlReply>(bytes).map(drop),
        7 => state::decode_command(bytes).map(drop).map_err(|error| malformed(error.to_string())),
        8 => state::decode_version(bytes).map(drop).map_err(|error| malformed(error.to_string())),
        _ => identity::NodeFile::decode(bytes).map(drop).map_err(|error| malformed(error.to_string())),
    }
}
