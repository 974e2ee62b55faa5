//! What fuzzers call: one function a target, each for any bytes. `fuzz/` gives them to libFuzzer,
//! `tests/fuzz/` gives them seeded mutations of the corpus. Not a part of the node.
//!
//! A target ends in a word for what became of the input, so that whoever runs it sees whether inputs get
//! anywhere; it panics on whatever must never be.

use journal_client::Refusal;
use prost::Message;
use proto::{health, journal, peer, state};

use crate::identity::NodeFile;
use crate::{raft, segment};

/// One target.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]) -> &'static str,
    /// Inputs to begin with.
    pub corpus: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: [Target; 5] = [
    Target { name: "frame", run: segment::fuzz::formats, corpus: segment::fuzz::frames },
    Target { name: "log", run: segment::fuzz::log, corpus: segment::fuzz::logs },
    Target { name: "wire", run: wire, corpus: messages },
    Target { name: "state", run: state, corpus: states },
    Target { name: "node_file", run: node_file, corpus: node_files },
];

pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

/// What libFuzzer calls.
pub fn run(name: &str, data: &[u8]) -> &'static str {
    (target(name).expect("the fuzz targets name what is in the table").run)(data)
}

/// Reads the bytes as a message, and what was understood again.
fn reads_the_same_again<M: Message + Default + PartialEq>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let again = M::decode(message.encode_to_vec().as_slice());
    assert!(again.as_ref() == Ok(&message), "a message reads back as another");
    Some(message)
}

macro_rules! every_message {
    ($($module:ident :: { $($message:ident),* $(,)? }),* $(,)?) => {
        [$($((
            concat!(stringify!($module), "::", stringify!($message)),
            (|bytes| reads_the_same_again::<$module::$message>(bytes).map(Heard::from_message)) as Read,
        ),)*)*]
    };
}

type Read = fn(&[u8]) -> Option<Heard>;

/// A message that something checks further, or not.
struct Heard(Box<dyn std::any::Any>);

impl Heard {
    fn from_message<M: 'static>(message: M) -> Heard {
        Heard(Box::new(message))
    }

    fn take<M: 'static>(self) -> Result<M, Heard> {
        self.0.downcast().map(|message| *message).map_err(Heard)
    }
}

/// Everything that a client or a peer may send. An input's first byte chooses.
const MESSAGES: &[(&str, Read)] = &every_message! {
    journal::{
        AppendRequest, AppendReply, TailRequest, TailReply, CheckTailRequest, CheckTailReply, TrimRequest, TrimReply,
        DescribeRequest, DescribeReply, CreateRequest, CreateReply, DeleteRequest, ListRequest, ListReply,
        SetQuotaRequest, SetQuotaReply, StatusRequest, StatusReply, ChangeMembersRequest, ChangeMembersReply,
        TransferLeaderRequest, TransferLeaderReply, Refusal,
    },
    peer::{
        AppendEntries, AppendEntriesReply, ControlRequest, ControlReply, SnapshotRequest, SnapshotReply,
        FetchRequest, FetchReply, ProposeRequest, ProposeReply, ProbeRequest, ProbeReply, OfferRequest, OfferReply,
        Vote, Membership,
    },
    health::{HealthCheckRequest, HealthCheckResponse},
};

fn wire(data: &[u8]) -> &'static str {
    let Some((which, bytes)) = data.split_first() else { return "nothing" };
    let (name, read) = MESSAGES[usize::from(*which) % MESSAGES.len()];
    match read(bytes) {
        None => "no message",
        Some(heard) => {
            hear(heard);
            name
        }
    }
}

/// What is done with messages before anybody believes them.
fn hear(heard: Heard) {
    let refusal = |wire: journal::Refusal| {
        let refusal = Refusal::from(wire);
        let status = tonic::Status::from(refusal.clone());
        let again = Refusal::of_status(&status).expect("a refusal travels as one");
        assert_eq!(again.reason, refusal.reason, "it arrives as another refusal");
    };
    let heard = match heard.take::<peer::AppendEntries>() {
        Ok(request) => {
            request.vote.into_iter().for_each(raft::fuzz::vote);
            return raft::fuzz::entries(request.entries);
        }
        Err(heard) => heard,
    };
    let heard = match heard.take::<peer::SnapshotRequest>() {
        Ok(request) => {
            raft::fuzz::version(&request.state);
            return request.membership.into_iter().for_each(raft::fuzz::membership);
        }
        Err(heard) => heard,
    };
    let heard = match heard.take::<peer::FetchReply>() {
        Ok(reply) => return raft::fuzz::entries(reply.entries),
        Err(heard) => heard,
    };
    let heard = match heard.take::<peer::Membership>() {
        Ok(membership) => return raft::fuzz::membership(membership),
        Err(heard) => heard,
    };
    let heard = match heard.take::<peer::Vote>() {
        Ok(vote) => return raft::fuzz::vote(vote),
        Err(heard) => heard,
    };
    let heard = match heard.take::<journal::TailReply>() {
        Ok(reply) => return journal_client::fuzz::tail(reply),
        Err(heard) => heard,
    };
    if let Ok(wire) = heard.take::<journal::Refusal>() {
        refusal(wire);
    }
}

/// A message of every kind with nothing in it, and some with something.
fn messages() -> Vec<Vec<u8>> {
    let entry = |position: u64, kind: u32, body: Vec<u8>| peer::LogEntry {
        position,
        term: 3,
        kind,
        crc: crc32fast::hash(&body),
        body: body.into(),
    };
    let membership = peer::Membership {
        configs: vec![peer::VoterSet { node_ids: vec![1, 2] }],
        members: vec![
            peer::Member { node_id: 1, name: "n1".into(), address: "a:1".into() },
            peer::Member { node_id: 2, name: "n2".into(), address: "b:1".into() },
        ],
    };
    let vote = peer::Vote { term: 3, node_id: 1, committed: true };
    let append = peer::AppendEntries {
        group_id: 9,
        vote: Some(vote),
        prev: Some(peer::LogId { term: 2, position: 4 }),
        entries: vec![
            entry(5, 1, b"an entry".to_vec()),
            entry(6, 4, membership.encode_to_vec()),
            entry(7, 3, vec![1, 2, 3]),
            entry(8, 0, Vec::new()),
        ],
        committed: Some(peer::LogId { term: 3, position: 5 }),
    };
    let run = journal::TailRun {
        from: 0,
        to: 3,
        entries: vec![journal::TailEntry { position: 1, payload: "x".into(), crc: crc32fast::hash(b"x") }],
        watermark: 3,
        term: 1,
    };
    let tail = journal::TailReply { kind: Some(journal::tail_reply::Kind::Run(run)) };
    let refusal = journal::Refusal {
        reason: journal::Reason::NotLeader.into(),
        message: "ask another".into(),
        leader: Some(journal::NodeAddress { node_id: 2, address: "b:1".into() }),
    };
    let full = [
        ("peer::AppendEntries", append.encode_to_vec()),
        ("peer::Membership", membership.encode_to_vec()),
        ("peer::Vote", vote.encode_to_vec()),
        ("journal::TailReply", tail.encode_to_vec()),
        ("journal::Refusal", refusal.encode_to_vec()),
    ];
    let numbered = |(name, bytes): (&str, Vec<u8>)| {
        let number = MESSAGES.iter().position(|(of, _)| *of == name).expect("the name of a message");
        [vec![number as u8], bytes].concat()
    };
    (0..MESSAGES.len() as u8).map(|number| vec![number]).chain(full.into_iter().map(numbered)).collect()
}

/// A control entry, and a version of the state.
fn state(data: &[u8]) -> &'static str {
    raft::fuzz::version(data);
    let _ = reads_the_same_again::<state::Version>(data);
    match crate::state::decode_command(data) {
        Ok(command) => {
            let again = crate::state::decode_command(&crate::state::encode_command(&command));
            assert_eq!(again, Ok(command), "a command reads back as another");
            "a command"
        }
        Err(_) => "refused",
    }
}

fn states() -> Vec<Vec<u8>> {
    use crate::state::{Command, Member, TrimPolicy};
    let voters = [(1, Member { name: "n1".into(), address: "a:1".into() })];
    let commands = [
        Command::Trim { before: 7 },
        Command::Found { members: voters.clone().into() },
        Command::CreateJournal {
            name: "j".into(),
            policy: TrimPolicy::Free,
            quota_bytes: 9,
            voters: voters.clone().into(),
        },
        Command::DeleteJournal { id: 3 },
        Command::SetQuota { id: 3, quota_bytes: 1 << 40 },
        Command::ChangeCarried { change_id: 1, group_id: 2 },
        Command::ShutOut { node: 4 },
    ];
    commands.iter().map(|command| crate::state::encode_command(command).to_vec()).collect()
}

/// A node file, its length and checksum made right.
fn node_file(data: &[u8]) -> &'static str {
    let sealed = NodeFile::seal(data);
    match NodeFile::decode(&sealed) {
        Ok(file) => {
            assert_eq!(NodeFile::decode(&file.encode()).ok().as_ref(), Some(&file), "it reads back as another");
            "a node file"
        }
        Err(_) => "refused",
    }
}

/// Bodies of node files: what follows their header.
fn node_files() -> Vec<Vec<u8>> {
    let alone = [9u64.to_le_bytes().to_vec(), vec![0], vec![0; 4]].concat();
    let member = [1u64.to_le_bytes().to_vec(), vec![1, 2, 0], b"n1".to_vec(), vec![3, 0], b"a:1".to_vec()].concat();
    let members = [vec![1, 0, 0, 0], member].concat();
    let formed = [
        9u64.to_le_bytes().to_vec(),
        vec![2],
        vec![8; 16],
        vec![5; 8],
        members.clone(),
        vec![1, 0, 0, 0],
        vec![4; 8],
        members,
    ]
    .concat();
    vec![alone, formed]
}
