//! Clients: puts, compare-and-swaps, Txns over several keys, reads of now and of the past, leases,
//! compactions, at whichever adapter comes next; every call written down with what it was told.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use journal_client::transport::{ChannelOptions, channel};
use proto::etcd::kv_client::KvClient;
use proto::etcd::lease_client::LeaseClient;
use proto::etcd::request_op::Request as Op;
use proto::etcd::response_op::Response as Answer;
use proto::etcd::*;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::ledger::{Ask, Call, Ledger, Tag, Told};
use super::machine::Machine;
use super::profile::Profile;
use crate::sim::wire::HostNet;

/// The way to one adapter.
#[derive(Clone)]
pub struct Way {
    pub machine: Arc<Machine>,
    pub channel: Channel,
}

impl Way {
    pub fn new(net: &HostNet, machine: &Arc<Machine>) -> Way {
        let net = Arc::new(net.clone());
        let channel = channel(&machine.host.address(), net, &ChannelOptions::default());
        Way { machine: machine.clone(), channel: channel.expect("the simulation's addresses are addresses") }
    }
}

pub struct Client {
    pub number: u32,
    pub ways: Vec<Way>,
    pub rng: StdRng,
    pub ledger: Ledger,
    pub next: u64,
    /// The way it takes now.
    pub at: usize,
    /// What it believes of keys: the revision of their last change that it saw.
    pub believes: std::collections::BTreeMap<Bytes, i64>,
    pub leases: Vec<i64>,
}

/// How long a client waits for one answer.
const PATIENCE: Duration = Duration::from_secs(8);

pub fn key(number: u64) -> Bytes {
    format!("k/{number:03}").into()
}

/// All keys of clients.
pub fn all() -> (Bytes, Bytes) {
    (Bytes::from_static(b"k/"), Bytes::from_static(b"k0"))
}

impl Client {
    pub fn new(number: u32, ways: Vec<Way>, rng: StdRng, ledger: Ledger) -> Client {
        let at = number as usize % ways.len();
        Client { number, ways, rng, ledger, next: 0, at, believes: Default::default(), leases: Vec::new() }
    }

    /// Works until told to stop.
    pub async fn work(mut self, profile: Profile, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let rest = profile.rest.mul_f64(self.rng.random_range(0.1..2.0));
            sleep(rest).await;
            if self.rng.random_range(0..12) == 0 {
                self.at = self.rng.random_range(0..self.ways.len());
            }
            let key = key(self.rng.random_range(0..profile.keys));
            if self.rng.random_range(0..profile.compact_in) == 0 {
                self.compact().await;
                continue;
            }
            match self.rng.random_range(0..100) {
                0..20 => drop(self.put(key, 0).await),
                20..40 => self.swap(key).await,
                40..55 => self.change_two(profile.keys).await,
                55..75 => self.get(key).await,
                75..82 => self.list(0, false).await,
                82..86 => self.list(0, true).await,
                86..91 => {
                    let back = self.ledger.newest() - self.rng.random_range(0..30);
                    self.list(back.max(1), false).await;
                }
                91..94 => {
                    let ttl = self.rng.random_range(2..6);
                    self.grant(ttl).await;
                }
                94..96 => {
                    if let Some(lease) = self.leases.last().copied() {
                        self.put(key, lease).await;
                    }
                }
                96..98 => self.keep_alive_one().await,
                _ => self.revoke().await,
            }
        }
    }

    /// Takes this way from now on.
    pub fn take(&mut self, way: usize) {
        self.at = way;
    }

    pub fn tag(&mut self) -> Tag {
        self.next += 1;
        Tag { client: self.number, number: self.next }
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.ways[self.at].channel.clone())
    }

    fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.ways[self.at].channel.clone())
    }

    /// Makes a call and writes it down.
    async fn call<T>(
        &mut self,
        ask: Ask,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
        told: impl FnOnce(T) -> Told,
    ) -> Told {
        let machine = self.ways[self.at].machine.clone();
        let (called, life) = (self.ledger.moment(), machine.life());
        let told = match timeout(PATIENCE, call).await {
            Ok(Ok(response)) => told(response.into_inner()),
            Ok(Err(status)) => refused_or_unknown(&status),
            Err(_) => Told::Unknown { text: "no answer".into() },
        };
        // Somewhere else it may work.
        if matches!(told, Told::Unknown { .. }) {
            self.at = self.rng.random_range(0..self.ways.len());
        }
        let life = (life == machine.life()).then_some((usize::from(machine.host.0), life));
        let answered = self.ledger.moment();
        self.ledger.call(Call { called, answered, life, ask, told: told.clone() });
        told
    }

    pub async fn put(&mut self, key: Bytes, lease: i64) -> Told {
        let tag = self.tag();
        let request = PutRequest { key: key.clone(), value: tag.value(), lease, ..Default::default() };
        let mut kv = self.kv();
        let told = self
            .call(Ask::Write(tag), async move { kv.put(request).await }, |put| Told::Done {
                revision: revision(put.header),
            })
            .await;
        if let Told::Done { revision } = told {
            self.believes.insert(key, revision);
        }
        told
    }

    async fn swap(&mut self, key: Bytes) {
        let believed = self.believes.get(&key).copied().unwrap_or(0);
        let tag = self.tag();
        let compare = vec![compare_mod(&key, believed)];
        let success = vec![put_op(&key, tag)];
        self.txn(tag, TxnRequest { compare, success, failure: vec![range_op(&key)] }, &[key]).await;
    }

    /// Changes two keys if both are as believed, or deletes the second.
    async fn change_two(&mut self, keys: u64) {
        let one = self.rng.random_range(0..keys);
        let other = (one + 1 + self.rng.random_range(0..keys - 1)) % keys;
        let (one, other) = (key(one), key(other));
        let tag = self.tag();
        let believed = |key: &Bytes| self.believes.get(key).copied().unwrap_or(0);
        let compare = vec![compare_mod(&one, believed(&one)), compare_mod(&other, believed(&other))];
        let second = match self.rng.random_range(0..3) {
            0 => Op::RequestDeleteRange(DeleteRangeRequest { key: other.clone(), ..Default::default() }),
            _ => Op::RequestPut(PutRequest { key: other.clone(), value: tag.value(), ..Default::default() }),
        };
        let success = vec![put_op(&one, tag), RequestOp { request: Some(second) }];
        let failure = vec![range_op(&one), range_op(&other)];
        self.txn(tag, TxnRequest { compare, success, failure }, &[one, other]).await;
    }

    async fn txn(&mut self, tag: Tag, request: TxnRequest, keys: &[Bytes]) {
        let mut kv = self.kv();
        let told = self
            .call(Ask::Write(tag), async move { kv.txn(request).await }, |txn| {
                let found = txn.responses.into_iter().filter_map(|op| match op.response {
                    Some(Answer::ResponseRange(range)) => Some(range.kvs),
                    _ => None,
                });
                let found = found.flatten().collect();
                Told::Decided { revision: revision(txn.header), succeeded: txn.succeeded, found }
            })
            .await;
        let Told::Decided { revision, succeeded, found } = told else { return };
        for key in keys {
            let seen = found.iter().find(|kv| kv.key == *key).map(|kv| kv.mod_revision);
            match (succeeded, seen) {
                (true, _) => self.believes.insert(key.clone(), revision),
                (false, Some(seen)) => self.believes.insert(key.clone(), seen),
                (false, None) => self.believes.remove(key),
            };
        }
    }

    pub async fn get(&mut self, key: Bytes) {
        self.read(key, Bytes::new(), 0, false).await;
    }

    pub async fn list(&mut self, revision: i64, serializable: bool) {
        let (key, end) = all();
        self.read(key, end, revision, serializable).await;
    }

    /// The first keys of a range, at a revision.
    pub async fn page(&mut self, key: Bytes, range_end: Bytes, revision: i64, limit: i64) -> Told {
        self.range(RangeRequest { key, range_end, revision, limit, ..Default::default() }).await
    }

    pub async fn read(&mut self, key: Bytes, range_end: Bytes, revision: i64, serializable: bool) -> Told {
        self.range(RangeRequest { key, range_end, revision, serializable, ..Default::default() }).await
    }

    async fn range(&mut self, request: RangeRequest) -> Told {
        let revision_asked = request.revision;
        let ask = Ask::Read {
            key: request.key.clone(),
            range_end: request.range_end.clone(),
            revision: revision_asked,
            limit: request.limit,
            serializable: request.serializable,
        };
        let mut kv = self.kv();
        let told = self
            .call(ask, async move { kv.range(request).await }, |range| Told::Found {
                revision: revision(range.header),
                kvs: range.kvs,
                count: range.count,
            })
            .await;
        if let (Told::Found { kvs, .. }, 0) = (&told, revision_asked) {
            for kv in kvs {
                self.believes.insert(kv.key.clone(), kv.mod_revision);
            }
        }
        told
    }

    pub async fn compact(&mut self) -> Told {
        let revision_asked = self.ledger.newest() - self.rng.random_range(0..20);
        self.compact_at(revision_asked.max(1)).await
    }

    pub async fn compact_at(&mut self, revision_asked: i64) -> Told {
        let mut kv = self.kv();
        let request = CompactionRequest { revision: revision_asked, physical: false };
        let ask = Ask::Compact { revision: revision_asked };
        let told = |done: CompactionResponse| Told::Done { revision: revision(done.header) };
        self.call(ask, async move { kv.compact(request).await }, told).await
    }

    /// A lease of its own choosing, so that the journal tells what became of it.
    pub async fn grant(&mut self, ttl: i64) -> Option<i64> {
        self.next += 1;
        let lease = (i64::from(self.number) << 32) + self.next as i64;
        let mut client = self.lease();
        let request = LeaseGrantRequest { id: lease, ttl };
        let told = |grant: LeaseGrantResponse| Told::Done { revision: revision(grant.header) };
        let told = self.call(Ask::Grant { lease }, async move { client.lease_grant(request).await }, told).await;
        matches!(told, Told::Done { .. }).then(|| {
            self.leases.push(lease);
            lease
        })
    }

    async fn keep_alive_one(&mut self) {
        if let Some(lease) = self.leases.last().copied() {
            self.keep_alive(lease).await;
        }
    }

    pub async fn keep_alive(&mut self, lease: i64) -> Told {
        let mut client = self.lease();
        let kept = async move {
            let asked = futures::stream::iter([LeaseKeepAliveRequest { id: lease }]);
            // The stream stays open until it was answered.
            let asked = futures::StreamExt::chain(asked, futures::stream::pending());
            let mut answers = client.lease_keep_alive(asked).await?.into_inner();
            let answer = answers.message().await?;
            answer.map(tonic::Response::new).ok_or_else(|| Status::unavailable("the stream ended"))
        };
        let told = |kept: LeaseKeepAliveResponse| Told::KeptAlive { revision: revision(kept.header), ttl: kept.ttl };
        self.call(Ask::KeepAlive { lease }, kept, told).await
    }

    async fn revoke(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let lease = self.leases.remove(self.rng.random_range(0..self.leases.len()));
        let mut client = self.lease();
        let revoke = async move { client.lease_revoke(LeaseRevokeRequest { id: lease }).await };
        self.call(Ask::Revoke { lease }, revoke, |done| Told::Done { revision: revision(done.header) }).await;
    }
}

fn revision(header: Option<ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

fn compare_mod(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: compare::CompareResult::Equal.into(),
        target: compare::CompareTarget::Mod.into(),
        key: key.clone(),
        target_union: Some(compare::TargetUnion::ModRevision(revision)),
        ..Default::default()
    }
}

fn put_op(key: &Bytes, tag: Tag) -> RequestOp {
    let put = PutRequest { key: key.clone(), value: tag.value(), ..Default::default() };
    RequestOp { request: Some(Op::RequestPut(put)) }
}

fn range_op(key: &Bytes) -> RequestOp {
    RequestOp { request: Some(Op::RequestRange(RangeRequest { key: key.clone(), ..Default::default() })) }
}

/// What is no answer: whether it is certain that nothing happened.
fn refused_or_unknown(status: &Status) -> Told {
    let text = format!("{:?}: {}", status.code(), status.message());
    let certain = match status.code() {
        Code::OutOfRange | Code::NotFound | Code::FailedPrecondition | Code::InvalidArgument => true,
        Code::ResourceExhausted => status.message().contains("database space exceeded"),
        Code::Unknown => status.message() == "etcdserver: too many requests",
        _ => false,
    };
    match certain {
        true => Told::Refused { text },
        false => Told::Unknown { text },
    }
}
