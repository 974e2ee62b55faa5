//! What is loaded: adapters over three nodes, or three members of etcd, and how one load is run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use super::super::Plan;
use crate::cluster::{Adapter, AdapterOptions, Cluster, Options, place_in_memory};
use crate::etcd::Etcd;
use crate::load::{self, Outcome, Profile};

const PATIENCE: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(15);

/// Both sides run until they are struck; dropping kills them.
pub enum Scene {
    Adapters { cluster: Box<Cluster>, adapters: Vec<Adapter>, memory: TempDir, _disk: TempDir },
    Etcd { members: Etcd, disk: TempDir },
}

impl Scene {
    pub async fn adapters(plan: &Plan, count: usize) -> anyhow::Result<Scene> {
        let disk = plan.fresh("adapters")?;
        let memory = place_in_memory().context("adapters need room in memory")?;
        let cluster = Cluster::start(Options { dir: Some(disk.path().to_owned()), ..Options::default() }).await?;
        let mut adapters = Vec::new();
        for number in 0..count {
            let name = format!("a{}", number + 1);
            let adapter = Adapter::prepare(AdapterOptions {
                home: memory.path().join(&name),
                name,
                store: None,
                client_port: cluster.adapter_port(number, 0),
                metrics_port: cluster.adapter_port(number, 2),
                journal: cluster.endpoints(),
                program: None,
                // As much as etcd's members get.
                flags: vec!["--quota-backend-bytes=8589934592".into()],
            })?;
            adapter.start()?;
            adapter.wait_ready(PATIENCE).await?;
            adapters.push(adapter);
        }
        Ok(Scene::Adapters { cluster: Box::new(cluster), adapters, memory, _disk: disk })
    }

    pub async fn etcd(plan: &Plan, program: &Path) -> anyhow::Result<Scene> {
        let disk = plan.fresh("etcd")?;
        let members = Etcd::start(program, disk.path()).await?;
        Ok(Scene::Etcd { members, disk })
    }

    pub fn endpoints(&self) -> Vec<String> {
        match self {
            Scene::Adapters { adapters, .. } => adapters.iter().map(|one| one.endpoint().to_string()).collect(),
            Scene::Etcd { members, .. } => members.endpoints().split(',').map(str::to_owned).collect(),
        }
    }

    /// Everybody who works for an answer.
    pub fn pids(&self) -> Vec<u32> {
        match self {
            Scene::Adapters { cluster, .. } => {
                cluster.nodes().iter().filter_map(|node| node.pid()).chain(self.replica_pids()).collect()
            }
            Scene::Etcd { members, .. } => members.pids(),
        }
    }

    /// Those who hold what clients wrote.
    pub fn replica_pids(&self) -> Vec<u32> {
        match self {
            Scene::Adapters { adapters, .. } => adapters.iter().filter_map(Adapter::pid).collect(),
            Scene::Etcd { members, .. } => members.pids(),
        }
    }

    /// What the first replica keeps in files: an adapter's whole store, or the database of a member.
    pub fn replica_files(&self) -> PathBuf {
        match self {
            Scene::Adapters { memory, .. } => memory.path().join("a1"),
            Scene::Etcd { disk, .. } => disk.path().join("m0/data/member/snap/db"),
        }
    }

    /// Loads it, on a thread that is not the one that watches the processes.
    pub async fn load(&self, name: &str, plan: load::Plan) -> anyhow::Result<Outcome> {
        let plan = load::Plan { endpoints: self.endpoints(), server_pids: self.pids(), ..plan };
        let outcome = tokio::task::spawn_blocking(move || load::run(&plan)).await?;
        let outcome = outcome.with_context(|| format!("the load {name}"))?;
        ensure!(outcome.failed == 0, "{name}: {} failed: {:?}", outcome.failed, outcome.first_failure);
        Ok(outcome)
    }

    pub async fn strike(self) -> anyhow::Result<()> {
        match self {
            Scene::Adapters { cluster, adapters, .. } => {
                for adapter in &adapters {
                    ensure!(!adapter.stop(GRACE).await, "{} did not stop after the load", adapter.name());
                }
                let killed = cluster.stop().await;
                ensure!(killed.is_empty(), "nodes did not stop after the load: {}", killed.join(", "));
            }
            Scene::Etcd { members, .. } => members.stop().await,
        }
        Ok(())
    }
}

/// A closed loop on the whole scene. `..` fills in where, and who is watched.
pub fn closed(profile: Profile, clients: usize, keys: u64, value_bytes: usize, seconds: u64) -> load::Plan {
    load::Plan {
        endpoints: Vec::new(),
        profile,
        clients,
        connections: clients.min(8),
        rate: None,
        watchers: 100,
        keys,
        value_bytes,
        warm_up: Duration::from_secs(2),
        length: Duration::from_secs(seconds),
        seed: 1,
        server_pids: Vec::new(),
        stop: None,
    }
}
