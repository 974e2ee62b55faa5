//! What the clients do: the shapes of requests, and what an answer must say to be a success.
//!
//! Nothing here knows sockets or clocks, but for the times written into watched values.

use std::fmt::Write as _;

use prost::Message;
use proto::etcd::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest,
    compare, request_op, watch_request,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

pub const PUT: &str = "/etcdserverpb.KV/Put";
pub const RANGE: &str = "/etcdserverpb.KV/Range";
pub const TXN: &str = "/etcdserverpb.KV/Txn";
pub const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// Keys in a page, as kube-apiserver asks for them.
const PAGE: u64 = 500;
/// Among pages of an old revision, one in so many operations is a put: few enough not to count.
const PAGES_TO_A_PUT: u32 = 50;
/// Keys in a range of the profile of that name.
const RANGE_KEYS: u64 = 1000;
/// Updates of an object between its creation and its deletion.
const UPDATES: u32 = 8;
/// Between the objects of one client: more than there are clients.
const OBJECTS_APART: u64 = 1_000_000;
/// A node's lease, as kubelets write it.
const LEASE_BYTES: usize = 579;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// Puts of random keys
    Put,
    /// What kube-apiserver does to objects: create, update, delete, each a compare and a write
    Txn,
    /// Node leases, renewed: compare, and write 579 bytes
    Lease,
    /// Linearizable gets of single keys
    Get,
    /// Serializable ones
    GetSerializable,
    /// Ranges of 1000 keys
    Range,
    /// First pages of 500 keys, at the current revision, with the count of the rest
    FirstPage,
    /// First pages at the revision at which the run began, while keys are put
    OldPage,
    /// Lists of all keys in pages of 500 at one revision
    List,
    /// Puts, with watchers of all of them
    Watch,
    /// What a cluster of 100,000 nodes asks of its store: leases, statuses, pods, events, reads
    Nodes,
}

impl Profile {
    /// Whether the keys must be there before.
    pub fn reads(self) -> bool {
        use Profile::*;
        matches!(self, Get | GetSerializable | Range | FirstPage | OldPage | List)
    }
}

/// One kind of operation: latencies are told for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Put,
    Create,
    Update,
    Delete,
    Get,
    Range,
    FirstPage,
    NextPage,
}

pub const KINDS: [(Kind, &str); 8] = [
    (Kind::Put, "put"),
    (Kind::Create, "create"),
    (Kind::Update, "update"),
    (Kind::Delete, "delete"),
    (Kind::Get, "get"),
    (Kind::Range, "range of 1000"),
    (Kind::FirstPage, "first page"),
    (Kind::NextPage, "next page"),
];

/// An operation to send.
#[derive(Debug, Clone, Copy)]
pub struct Op {
    pub kind: Kind,
    pub path: &'static str,
}

/// The clients' memory, and the requests it leads to.
#[derive(Debug)]
pub struct Work {
    profile: Profile,
    keys: u64,
    value_bytes: usize,
    /// Unlike those of an earlier run on the same store.
    run: u64,
    rng: SmallRng,
    clients: Vec<Client>,
    /// Of every lease: the revision of its last change, 0 if it is not there.
    leases: Vec<i64>,
    /// Compressible like an object of the API.
    text: Vec<u8>,
    key: String,
}

#[derive(Debug, Clone, Default)]
struct Client {
    /// The object under way: its number, the revision of its last change, how often it was updated.
    object: u64,
    revision: i64,
    updates: u32,
    /// The lease under way.
    lease: usize,
    /// The list under way: its revision, its next page.
    list: i64,
    page: u64,
    doing: Option<Kind>,
    on_lease: bool,
}

impl Client {
    fn begin_another(&mut self) {
        (self.revision, self.object) = (0, self.object + OBJECTS_APART);
    }
}

impl Work {
    pub fn new(profile: Profile, clients: usize, keys: u64, value_bytes: usize, seed: u64) -> Work {
        let mut rng = SmallRng::seed_from_u64(seed);
        let run = rand::random::<u64>() >> 24;
        let lease_count = if profile == Profile::Nodes { 100_000 } else { keys as usize };
        let leases = if matches!(profile, Profile::Lease | Profile::Nodes) { vec![0; lease_count] } else { Vec::new() };
        let mut clients = vec![Client::default(); clients];
        let count = clients.len();
        for (number, client) in clients.iter_mut().enumerate() {
            client.object = number as u64;
            client.lease = number * leases.len().max(1) / count.max(1);
        }
        Work { profile, keys, value_bytes, run, text: text(&mut rng), rng, clients, leases, key: String::new() }
    }

    /// So many keys are there to be read.
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// The put that makes key `number` be there.
    pub fn fill(&mut self, number: u64, request: &mut Vec<u8>) -> Op {
        self.name(number);
        self.put(self.value_bytes, request);
        Op { kind: Kind::Put, path: PUT }
    }

    /// What a client does next.
    pub fn next(&mut self, client: usize, stamp: u64, request: &mut Vec<u8>) -> Op {
        let kind = match self.profile {
            Profile::Put | Profile::Watch => {
                let number = self.rng.random_range(0..self.keys);
                self.name(number);
                self.put(self.value_bytes, request);
                if self.profile == Profile::Watch {
                    stamp_value(request, stamp, self.value_bytes);
                }
                return Op { kind: Kind::Put, path: PUT };
            }
            Profile::Txn => self.object(client, request),
            Profile::Lease => self.lease(client, request),
            Profile::Get | Profile::GetSerializable => {
                let number = self.rng.random_range(0..self.keys);
                let serializable = self.profile == Profile::GetSerializable;
                self.get(number, serializable, request)
            }
            Profile::Range => {
                let first = self.rng.random_range(0..self.keys.saturating_sub(RANGE_KEYS).max(1));
                let key = self.name(first).to_owned();
                let range_end = self.name(first + RANGE_KEYS).as_bytes().to_vec().into();
                encode(RangeRequest { key: key.into(), range_end, ..Default::default() }, request);
                Kind::Range
            }
            Profile::FirstPage => self.page(0, 0, request),
            Profile::OldPage if self.rng.random_range(0..PAGES_TO_A_PUT) == 0 => {
                let number = self.rng.random_range(0..self.keys);
                self.name(number);
                self.put(self.value_bytes, request);
                self.clients[client].doing = None;
                return Op { kind: Kind::Put, path: PUT };
            }
            Profile::OldPage => {
                let revision = self.clients[client].list;
                self.page(revision, 0, request)
            }
            Profile::List => {
                let Client { list, page, .. } = self.clients[client];
                self.page(list, page, request)
            }
            // Shares of the budget in the design: 10k leases, 5k changes of pods and statuses, 1.5k
            // events, and reads beside them.
            Profile::Nodes => match self.rng.random_range(0..100) {
                0..58 => self.lease(client, request),
                58..90 => self.object(client, request),
                _ => self.get(self.clients[client].object, false, request),
            },
        };
        self.clients[client].doing = Some(kind);
        let path = match kind {
            Kind::Create | Kind::Update | Kind::Delete => TXN,
            _ => RANGE,
        };
        Op { kind, path }
    }

    /// Takes the answer to what the client did, or says what is wrong with it.
    pub fn answered(&mut self, client: usize, head: &[u8]) -> Result<(), &'static str> {
        let answer = Head::read(head);
        let (profile, leases) = (self.profile, &mut self.leases);
        let client = &mut self.clients[client];
        let doing = client.doing.take();
        let compared = matches!(doing, Some(Kind::Create | Kind::Update | Kind::Delete));
        if compared && client.on_lease {
            leases[client.lease] = answer.revision;
            client.lease = (client.lease + 1) % leases.len();
        }
        if compared && !answer.succeeded {
            client.begin_another();
            return Err("it was changed by somebody else");
        }
        match doing {
            _ if compared && client.on_lease => {}
            Some(Kind::Create) => (client.revision, client.updates) = (answer.revision, 0),
            Some(Kind::Update) => (client.revision, client.updates) = (answer.revision, client.updates + 1),
            Some(Kind::Delete) => client.begin_another(),
            // It stays at the revision of its first answer.
            Some(Kind::FirstPage) if profile == Profile::OldPage && client.list != 0 => {}
            Some(Kind::FirstPage) => (client.list, client.page) = (answer.revision, 1),
            Some(Kind::NextPage) => client.page += 1,
            _ => {}
        }
        if client.page * PAGE >= self.keys {
            (client.list, client.page) = (0, 0);
        }
        Ok(())
    }

    /// Nobody knows what became of what the client did: it leaves that alone.
    pub fn failed(&mut self, client: usize) {
        self.clients[client].begin_another();
    }

    /// Watches everything that [`Profile::Watch`] puts.
    pub fn watch(&self, request: &mut Vec<u8>) {
        let create = WatchCreateRequest {
            key: b"/registry/load/".as_slice().into(),
            range_end: b"/registry/load0".as_slice().into(),
            ..Default::default()
        };
        let request_union = Some(watch_request::RequestUnion::CreateRequest(create));
        encode(WatchRequest { request_union }, request);
    }

    fn name(&mut self, number: u64) -> &str {
        self.key.clear();
        let _ = write!(self.key, "/registry/load/namespace/key-{number:016}");
        &self.key
    }

    fn put(&mut self, value_bytes: usize, request: &mut Vec<u8>) {
        let value = self.value(value_bytes);
        let put = PutRequest { key: self.key.clone().into(), value: value.into(), ..Default::default() };
        encode(put, request);
    }

    fn value(&mut self, bytes: usize) -> Vec<u8> {
        let from = self.rng.random_range(0..self.text.len() / 2);
        let mut value: Vec<u8> = self.text[from..].iter().copied().cycle().take(bytes).collect();
        // What differs between two versions of an object is a small part of it.
        let fresh = value.len().min(32);
        self.rng.fill(&mut value[..fresh]);
        value
    }

    fn get(&mut self, number: u64, serializable: bool, request: &mut Vec<u8>) -> Kind {
        let key = self.name(number).to_owned().into();
        encode(RangeRequest { key, serializable, ..Default::default() }, request);
        Kind::Get
    }

    fn page(&mut self, revision: i64, page: u64, request: &mut Vec<u8>) -> Kind {
        let mut key = self.name((page * PAGE).saturating_sub(1)).as_bytes().to_vec();
        match page {
            0 => key = b"/registry/load/".to_vec(),
            _ => key.push(0),
        }
        let range_end = b"/registry/load0".as_slice().into();
        encode(
            RangeRequest { key: key.into(), range_end, limit: PAGE as i64, revision, ..Default::default() },
            request,
        );
        if page == 0 { Kind::FirstPage } else { Kind::NextPage }
    }

    fn object(&mut self, client: usize, request: &mut Vec<u8>) -> Kind {
        let Client { object, revision, updates, .. } = self.clients[client];
        self.clients[client].on_lease = false;
        let run = self.run;
        let key = format!("/registry/pods/run-{run:x}/pod-{object:016}").into_bytes();
        match (revision, updates) {
            (0, _) => {
                let value = self.value(self.value_bytes);
                compare_and(key, 0, Some(value), request);
                Kind::Create
            }
            (_, UPDATES..) => {
                compare_and(key, revision, None, request);
                Kind::Delete
            }
            _ => {
                let value = self.value(self.value_bytes);
                compare_and(key, revision, Some(value), request);
                Kind::Update
            }
        }
    }

    fn lease(&mut self, client: usize, request: &mut Vec<u8>) -> Kind {
        let lease = self.clients[client].lease;
        self.clients[client].on_lease = true;
        let revision = self.leases[lease];
        let run = self.run;
        let key = format!("/registry/leases/kube-node-lease/run-{run:x}-node-{lease:07}").into_bytes();
        let value = self.value(LEASE_BYTES);
        compare_and(key, revision, Some(value), request);
        if revision == 0 { Kind::Create } else { Kind::Update }
    }
}

/// Values as all loads put them, one behind the other.
pub fn sample_values(count: usize, bytes: usize) -> Vec<u8> {
    let mut work = Work::new(Profile::Put, 1, 1, bytes, 1);
    (0..count).flat_map(|_| work.value(bytes)).collect()
}

/// kube-apiserver's one form of a write: if the key is as it was known, then; else show it.
fn compare_and(key: Vec<u8>, revision: i64, value: Option<Vec<u8>>, request: &mut Vec<u8>) {
    let key = bytes::Bytes::from(key);
    let write = match value {
        Some(value) => {
            request_op::Request::RequestPut(PutRequest { key: key.clone(), value: value.into(), ..Default::default() })
        }
        None => request_op::Request::RequestDeleteRange(DeleteRangeRequest { key: key.clone(), ..Default::default() }),
    };
    let read = request_op::Request::RequestRange(RangeRequest { key: key.clone(), ..Default::default() });
    let compare = Compare {
        result: compare::CompareResult::Equal as i32,
        target: compare::CompareTarget::Mod as i32,
        key,
        target_union: Some(compare::TargetUnion::ModRevision(revision)),
        ..Default::default()
    };
    let op = |request| RequestOp { request: Some(request) };
    encode(TxnRequest { compare: vec![compare], success: vec![op(write)], failure: vec![op(read)] }, request);
}

fn encode(message: impl Message, request: &mut Vec<u8>) {
    request.clear();
    // A vector grows as it must.
    let _ = message.encode(request);
}

/// The value is the last field of an encoded put: its first bytes become a time.
fn stamp_value(request: &mut [u8], stamp: u64, value_bytes: usize) {
    let at = request.len() - value_bytes;
    if value_bytes >= 8 {
        request[at..at + 8].copy_from_slice(&stamp.to_le_bytes());
    }
}

/// Shrinks three to four times, as objects of the API do.
fn text(rng: &mut SmallRng) -> Vec<u8> {
    let words = ["metadata", "namespace", "labels", "app.kubernetes.io/name", "containers", "image", "status", "phase"];
    let mut text = String::new();
    while text.len() < 64 << 10 {
        let word = words[rng.random_range(0..words.len())];
        let _ = write!(text, "\"{word}\":{{\"value\":\"{:06x}\"}},", rng.random_range(0..1 << 24));
    }
    text.into_bytes()
}

/// What the beginning of an answer tells: the revision, and whether a transaction's comparison held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Head {
    revision: i64,
    succeeded: bool,
}

impl Head {
    /// Reads the header (field 1) and the flag behind it (field 2, of a transaction only). Whatever
    /// is cut off or of another form is not looked at.
    fn read(head: &[u8]) -> Head {
        let mut answer = Head::default();
        let mut rest = head;
        if rest.first() != Some(&0x0a) {
            return answer;
        }
        rest = &rest[1..];
        let Some(length) = varint(&mut rest) else { return answer };
        let Some((mut header, behind)) = rest.split_at_checked(length as usize) else { return answer };
        while let Some(tag) = varint(&mut header) {
            let Some(value) = varint(&mut header) else { break };
            if tag == 3 << 3 {
                answer.revision = value as i64;
            }
        }
        // Absent, it means false.
        answer.succeeded = behind.starts_with(&[0x10, 1]);
        answer
    }
}

pub fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The events in an encoded watch response.
pub fn events(mut response: &[u8]) -> u64 {
    let mut events = 0;
    while let Some(tag) = varint(&mut response) {
        match tag & 7 {
            0 => drop(varint(&mut response)),
            2 => {
                let Some(length) = varint(&mut response) else { break };
                let Some(rest) = response.get(length as usize..) else { break };
                response = rest;
                events += u64::from(tag == 11 << 3 | 2);
            }
            _ => break,
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use proto::etcd::{ResponseHeader, ResponseOp, TxnResponse};

    use super::*;

    fn answer(revision: i64, succeeded: bool) -> Vec<u8> {
        let header = Some(ResponseHeader { cluster_id: u64::MAX, member_id: u64::MAX, revision, raft_term: 9 });
        TxnResponse { header, succeeded, responses: vec![ResponseOp::default()] }.encode_to_vec()
    }

    #[test]
    fn the_head_of_an_answer_tells_its_revision_and_whether_the_comparison_held() {
        assert_eq!(Head::read(&answer(77, true)), Head { revision: 77, succeeded: true });
        assert_eq!(Head::read(&answer(1 << 40, false)), Head { revision: 1 << 40, succeeded: false });
        assert_eq!(Head::read(&[0x0a, 200]), Head::default(), "cut off");
    }

    #[test]
    fn an_object_is_created_updated_and_deleted_with_the_revisions_that_it_was_told() {
        let mut work = Work::new(Profile::Txn, 1, 10, 100, 1);
        let mut request = Vec::new();
        let mut kinds = Vec::new();
        for revision in 10..21 {
            let op = work.next(0, 0, &mut request);
            let txn = TxnRequest::decode(&request[..]).unwrap();
            let known = match txn.compare[0].target_union {
                Some(compare::TargetUnion::ModRevision(known)) => known,
                _ => panic!("compares something else"),
            };
            let expected = if matches!(op.kind, Kind::Create) { 0 } else { revision - 1 };
            assert_eq!(known, expected);
            work.answered(0, &answer(revision, true)).unwrap();
            kinds.push(op.kind);
        }
        let mut cycle = vec![Kind::Create];
        cycle.extend([Kind::Update; UPDATES as usize]);
        cycle.extend([Kind::Delete, Kind::Create]);
        assert_eq!(kinds, cycle);
        work.next(0, 0, &mut request);
        assert!(work.answered(0, &answer(30, false)).is_err(), "a comparison that fails is no success");
    }

    #[test]
    fn a_list_reads_all_pages_at_the_revision_of_its_first() {
        let mut work = Work::new(Profile::List, 1, 1200, 100, 1);
        let (mut request, mut seen) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let op = work.next(0, 0, &mut request);
            let range = RangeRequest::decode(&request[..]).unwrap();
            seen.push((op.kind, range.revision, range.key.last().copied()));
            work.answered(0, &answer(5, true)).unwrap();
        }
        let page = |kind, revision, last| (kind, revision, Some(last));
        let next = page(Kind::NextPage, 5, 0);
        assert_eq!(seen, [page(Kind::FirstPage, 0, b'/'), next, next, page(Kind::FirstPage, 0, b'/')]);
    }

    #[test]
    fn events_are_counted_and_a_watched_value_begins_with_its_time() {
        use proto::etcd::WatchResponse;
        let response = WatchResponse {
            events: vec![Default::default(), proto::mvccpb::Event { r#type: 1, ..Default::default() }],
            watch_id: 300,
            ..Default::default()
        };
        assert_eq!(events(&response.encode_to_vec()), 2);
        let mut work = Work::new(Profile::Watch, 1, 10, 64, 1);
        let mut request = Vec::new();
        work.next(0, 0x0102_0304_0506_0708, &mut request);
        let put = PutRequest::decode(&request[..]).unwrap();
        assert_eq!((put.value.len(), &put.value[..8]), (64, &[8, 7, 6, 5, 4, 3, 2, 1][..]));
    }
}
