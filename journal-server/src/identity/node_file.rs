//! The node file: who this data directory is, byte by byte.
//!
//! ```text
//! offset  size  field
//!      0     8  magic "JNLNODE\n"
//!      8     4  version, 1
//!     12     4  length of the body
//!     16     4  CRC-32 (IEEE) of bytes 0..16 and of the body
//!     20     …  body
//!
//! body     node id u64
//!          origin u8: 0 no cluster; 1 forming, offers outstanding; 2 formed; 3 joined
//!          unless 0: cluster id u128, list hash u64, members
//!          number of groups u32; of each: journal id u64, members
//! members  number u32; of each: node id u64, voter u8 (0 or 1), name text, address text
//! text     length u16, UTF-8
//! ```
//!
//! All numbers are little-endian. The file is small and is always written whole, under another name,
//! synced, renamed over the old one, and the directory synced: a crash leaves one or the other.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use proto::{JournalId, NodeId};

use super::ClusterId;
use crate::segment::fs::Fs;

/// Everything that a node remembers about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFile {
    pub node_id: NodeId,
    pub cluster: Option<Cluster>,
    /// The groups whose directories must be there, with the members last known to be committed:
    /// repair has to find peers before a group runs.
    pub groups: BTreeMap<JournalId, Vec<Member>>,
}

/// The cluster that the node belongs to, once and for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub id: ClusterId,
    pub origin: Origin,
    /// Of the list and token that formed it; 0 for a node that joined.
    pub list_hash: u64,
    /// Those who formed it: exactly they initialise `system`, with exactly this set. For a node
    /// that joined: whom to ask.
    pub members: Vec<Member>,
}

/// How the node came to its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It is the first of the list, and has not heard from all others that they took its offer.
    Forming,
    Formed,
    Joined,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub node_id: NodeId,
    pub name: String,
    pub address: String,
    pub voter: bool,
}

/// Why bytes are no node file.
#[derive(Debug, thiserror::Error)]
pub enum NodeFileError {
    #[error("it is no node file")]
    NotOurs,
    #[error("it has version {0}, which a newer journal-server wrote; this one knows version {VERSION}")]
    Newer(u32),
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
}

const MAGIC: [u8; 8] = *b"JNLNODE\n";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 20;

/// A node file beyond this is not one: a member takes under 400 bytes.
const BODY_BYTES_MAX: u32 = 64 << 20;

impl NodeFile {
    pub fn new(node_id: NodeId) -> NodeFile {
        NodeFile { node_id, cluster: None, groups: BTreeMap::new() }
    }

    /// Reads the file; blocks.
    pub fn load(fs: &dyn Fs, path: &Path) -> Result<NodeFile, NodeFileError> {
        let file = fs.open(path)?;
        let length = file.len()?;
        if length > u64::from(BODY_BYTES_MAX) {
            return Err(NodeFileError::Damaged("it is far too long"));
        }
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, 0)?;
        NodeFile::decode(&bytes)
    }

    /// Puts the file in place, durably; blocks. After an error, the old one or the new one is there.
    pub fn store(&self, fs: &dyn Fs, path: &Path) -> io::Result<()> {
        let dir = path.parent().expect("the node file lies in a directory");
        let fresh = path.with_extension("new");
        match fs.unlink(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let file = fs.create(&fresh)?;
        file.write_all_at(&[io::IoSlice::new(&self.encode())], 0)?;
        file.sync()?;
        fs.rename(&fresh, path)?;
        fs.sync_dir(dir)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        self.encode_body(&mut out);
        let body = u32::try_from(out.len() - HEADER_BYTES).expect("a node file stays far below 4 GiB");
        out[12..16].copy_from_slice(&body.to_le_bytes());
        let crc = checksum(&out);
        out[16..20].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<NodeFile, NodeFileError> {
        if bytes.len() < HEADER_BYTES {
            return Err(NodeFileError::Damaged("it is too short"));
        }
        let mut header = Reader(bytes);
        if header.array::<8>()? != MAGIC {
            return Err(NodeFileError::NotOurs);
        }
        let (version, length, crc) = (header.u32()?, header.u32()?, header.u32()?);
        // A newer version may have another length; its checksum still covers what we know of.
        if header.0.len() != length as usize {
            return Err(NodeFileError::Damaged("its length is wrong"));
        }
        if crc != checksum(bytes) {
            return Err(NodeFileError::Damaged("its checksum is wrong"));
        }
        if version != VERSION {
            return Err(NodeFileError::Newer(version));
        }
        NodeFile::decode_body(header)
    }

    /// A file with this body: what fuzzers change would otherwise be refused unread.
    pub(crate) fn seal(body: &[u8]) -> Vec<u8> {
        let mut out = [&MAGIC[..], &VERSION.to_le_bytes(), &(body.len() as u32).to_le_bytes(), &[0; 4], body].concat();
        let crc = checksum(&out);
        out[16..20].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn encode_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.node_id.0.to_le_bytes());
        match &self.cluster {
            None => out.push(0),
            Some(cluster) => {
                out.push(match cluster.origin {
                    Origin::Forming => 1,
                    Origin::Formed => 2,
                    Origin::Joined => 3,
                });
                out.extend_from_slice(&cluster.id.0.to_le_bytes());
                out.extend_from_slice(&cluster.list_hash.to_le_bytes());
                encode_members(&cluster.members, out);
            }
        }
        encode_count(self.groups.len(), out);
        for (id, members) in &self.groups {
            out.extend_from_slice(&id.0.to_le_bytes());
            encode_members(members, out);
        }
    }

    fn decode_body(mut body: Reader<'_>) -> Result<NodeFile, NodeFileError> {
        let node_id = NodeId(body.u64()?);
        let origin = match body.u8()? {
            0 => None,
            1 => Some(Origin::Forming),
            2 => Some(Origin::Formed),
            3 => Some(Origin::Joined),
            _ => return Err(NodeFileError::Damaged("its origin is unknown")),
        };
        let cluster = match origin {
            None => None,
            Some(origin) => Some(Cluster {
                id: ClusterId(u128::from_le_bytes(body.array()?)),
                origin,
                list_hash: body.u64()?,
                members: body.members()?,
            }),
        };
        let mut groups = BTreeMap::new();
        for _ in 0..body.u32()? {
            groups.insert(JournalId(body.u64()?), body.members()?);
        }
        match body.0.is_empty() {
            true => Ok(NodeFile { node_id, cluster, groups }),
            false => Err(NodeFileError::Damaged("something follows its end")),
        }
    }
}

/// Over all but the checksum's own four bytes.
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..16]);
    crc.update(&bytes[HEADER_BYTES..]);
    crc.finalize()
}

fn encode_count(count: usize, out: &mut Vec<u8>) {
    let count = u32::try_from(count).expect("groups and members are far fewer than 2^32");
    out.extend_from_slice(&count.to_le_bytes());
}

fn encode_members(members: &[Member], out: &mut Vec<u8>) {
    encode_count(members.len(), out);
    for member in members {
        out.extend_from_slice(&member.node_id.0.to_le_bytes());
        out.push(u8::from(member.voter));
        encode_text(&member.name, out);
        encode_text(&member.address, out);
    }
}

/// Names and addresses are limited to far less where they enter; what is longer is cut, not refused,
/// because nothing depends on it but a person's understanding.
fn encode_text(text: &str, out: &mut Vec<u8>) {
    let mut end = text.len().min(1024);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.extend_from_slice(&(end as u16).to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..end]);
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], NodeFileError> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(NodeFileError::Damaged("it ends too early"))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], NodeFileError> {
        Ok(self.take(N)?.try_into().expect("take gives as many as asked for"))
    }

    fn u8(&mut self) -> Result<u8, NodeFileError> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, NodeFileError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, NodeFileError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String, NodeFileError> {
        let length = u16::from_le_bytes(self.array()?);
        let bytes = self.take(length.into())?;
        String::from_utf8(bytes.to_vec()).map_err(|_| NodeFileError::Damaged("a text is not UTF-8"))
    }

    fn members(&mut self) -> Result<Vec<Member>, NodeFileError> {
        let mut members = Vec::new();
        for _ in 0..self.u32()? {
            members.push(Member {
                node_id: NodeId(self.u64()?),
                voter: match self.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(NodeFileError::Damaged("a member is neither voter nor learner")),
                },
                name: self.text()?,
                address: self.text()?,
            });
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_member() -> impl Strategy<Value = Member> {
        (any::<u64>(), "\\PC{0,20}", "[a-z.:0-9]{0,30}", any::<bool>()).prop_map(|(id, name, address, voter)| Member {
            node_id: NodeId(id),
            name,
            address,
            voter,
        })
    }

    fn any_members() -> impl Strategy<Value = Vec<Member>> {
        proptest::collection::vec(any_member(), 0..5)
    }

    fn any_file() -> impl Strategy<Value = NodeFile> {
        let origin = prop_oneof![Just(Origin::Forming), Just(Origin::Formed), Just(Origin::Joined)];
        let cluster = (any::<u128>(), origin, any::<u64>(), any_members())
            .prop_map(|(id, origin, list_hash, members)| Cluster { id: ClusterId(id), origin, list_hash, members });
        let groups = proptest::collection::btree_map(any::<u64>().prop_map(JournalId), any_members(), 0..5);
        (any::<u64>(), proptest::option::of(cluster), groups).prop_map(|(node_id, cluster, groups)| NodeFile {
            node_id: NodeId(node_id),
            cluster,
            groups,
        })
    }

    proptest! {
        #[test]
        fn a_node_file_reads_back_as_it_was_written(file in any_file()) {
            prop_assert_eq!(NodeFile::decode(&file.encode()).unwrap(), file);
        }

        #[test]
        fn one_wrong_bit_anywhere_is_noticed(file in any_file(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = file.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(NodeFile::decode(&bytes).is_err());
        }

        #[test]
        fn a_file_cut_short_is_noticed(file in any_file(), at in any::<prop::sample::Index>()) {
            let bytes = file.encode();
            prop_assert!(NodeFile::decode(&bytes[..at.index(bytes.len())]).is_err());
        }

        /// Behind a right checksum too: whoever made it may have been wrong.
        #[test]
        fn no_bytes_whatever_make_the_decoder_fail(body in any::<Vec<u8>>()) {
            let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes(), &(body.len() as u32).to_le_bytes(), &[0; 4]].concat();
            bytes.extend_from_slice(&body);
            let crc = checksum(&bytes);
            bytes[16..20].copy_from_slice(&crc.to_le_bytes());
            let _ = NodeFile::decode(&bytes);
            let _ = NodeFile::decode(&body);
        }
    }

    /// Files of the first version must be readable for ever.
    #[test]
    fn the_format_is_the_documented_one() {
        let file = NodeFile {
            node_id: NodeId(0x0102_0304_0506_0708),
            cluster: Some(Cluster {
                id: ClusterId(9),
                origin: Origin::Formed,
                list_hash: 10,
                members: vec![Member { node_id: NodeId(11), name: "a".into(), address: "h:1".into(), voter: true }],
            }),
            groups: BTreeMap::from([(JournalId::SYSTEM, vec![])]),
        };
        let body: Vec<u8> = [
            &[8, 7, 6, 5, 4, 3, 2, 1, 2][..],
            &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[10, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, b'a', 3, 0, b'h', b':', b'1'],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        let bytes = file.encode();
        assert_eq!(bytes[..16], [&b"JNLNODE\n"[..], &[1, 0, 0, 0], &[body.len() as u8, 0, 0, 0]].concat());
        assert_eq!(bytes[20..], body);
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut bytes = NodeFile::new(NodeId(1)).encode();
        bytes[8] = 2;
        let crc = checksum(&bytes);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
        assert!(matches!(NodeFile::decode(&bytes), Err(NodeFileError::Newer(2))));
        assert!(matches!(NodeFile::decode(&[b'x'; 40]), Err(NodeFileError::NotOurs)));
    }
}
