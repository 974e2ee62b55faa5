//! etcd as a target of the same load: a Put an entry, sent to the leader.

use anyhow::Context;
use bytes::Bytes;
use proto::etcd::kv_client::KvClient;
use proto::etcd::maintenance_client::MaintenanceClient;
use proto::etcd::{PutRequest, StatusRequest};
use tonic::transport::{Channel, Endpoint};

use super::load::{Failed, Target};

/// Keys are written again and again, as a cluster's objects are.
const KEYS: u64 = 100_000;

/// Connections to the leader of an etcd cluster.
pub struct Etcd {
    connections: Vec<KvClient<Channel>>,
    value: Bytes,
}

impl Etcd {
    /// Finds the leader among `endpoints`: what follows forwards is measured at its best.
    pub async fn connect(endpoints: &[String], connections: usize, value: Bytes) -> anyhow::Result<Etcd> {
        let mut leader = None;
        for endpoint in endpoints {
            let channel = open(endpoint).await?;
            let status = MaintenanceClient::new(channel)
                .status(StatusRequest {})
                .await
                .with_context(|| format!("etcd at {endpoint} does not answer"))?
                .into_inner();
            if status.leader != 0 && status.leader == status.header.map_or(0, |header| header.member_id) {
                leader = Some(endpoint);
            }
        }
        let leader = leader.context("no etcd member among --etcd leads: name all of them")?;
        let mut connected = Vec::new();
        for _ in 0..connections.max(1) {
            connected.push(KvClient::new(open(leader).await?));
        }
        Ok(Etcd { connections: connected, value })
    }
}

impl Target for Etcd {
    async fn put(&self, worker: usize, number: u64) -> Result<(), Failed> {
        // A cheap walk over all keys in no obvious order.
        let key = number.wrapping_mul(2_654_435_761) % KEYS;
        let key = Bytes::from(format!("/bench/{key:08}"));
        let request = PutRequest { key, value: self.value.clone(), ..PutRequest::default() };
        let mut client = self.connections[worker % self.connections.len()].clone();
        match client.put(request).await {
            Ok(_) => Ok(()),
            // etcd does not say what became of a request that failed.
            Err(status) => Err(Failed { certainly: false, why: status.message().to_owned() }),
        }
    }
}

async fn open(endpoint: &str) -> anyhow::Result<Channel> {
    let address = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
    let endpoint = Endpoint::from_shared(address).with_context(|| format!("`{endpoint}` is no endpoint"))?;
    let endpoint = endpoint.tcp_nodelay(true);
    endpoint.connect().await.with_context(|| format!("cannot connect to etcd at {}", endpoint.uri()))
}
