//! Members of etcd on this machine, to measure against and to compare with.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};

use crate::cluster::{Ports, Process, Signal, get};

/// Running members. Dropping them kills them.
pub struct Etcd {
    members: Vec<Process>,
    ports: Ports,
}

impl Etcd {
    /// Starts three members whose data lies in `dir`, and waits until they have a leader.
    pub async fn start(program: &Path, dir: &Path) -> anyhow::Result<Etcd> {
        Etcd::of(program, dir, 3).await
    }

    /// The same with one member.
    pub async fn alone(program: &Path, dir: &Path) -> anyhow::Result<Etcd> {
        Etcd::of(program, dir, 1).await
    }

    async fn of(program: &Path, dir: &Path, count: usize) -> anyhow::Result<Etcd> {
        let ports = Ports::claim()?;
        let list: Vec<_> = (0..count).map(|n| format!("m{n}=http://127.0.0.1:{}", ports.of(n, 1))).collect();
        let mut members = Vec::new();
        for number in 0..count {
            let client = format!("http://127.0.0.1:{}", ports.of(number, 0));
            let peer = format!("http://127.0.0.1:{}", ports.of(number, 1));
            let home = dir.join(format!("m{number}"));
            std::fs::create_dir_all(&home)?;
            let mut command = Command::new(program);
            command
                .args(["--name", &format!("m{number}"), "--log-level", "error"])
                .arg("--data-dir")
                .arg(home.join("data"))
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &list.join(","), "--initial-cluster-state", "new"])
                // The load would fill the default quota in a few minutes.
                .args(["--quota-backend-bytes", "8589934592"]);
            members.push(Process::spawn(command, &home.join("log"))?);
        }
        let etcd = Etcd { members, ports };
        etcd.wait_ready().await?;
        Ok(etcd)
    }

    /// For `--etcd`.
    pub fn endpoints(&self) -> String {
        let endpoints = (0..self.members.len()).map(|number| format!("127.0.0.1:{}", self.ports.of(number, 0)));
        endpoints.collect::<Vec<_>>().join(",")
    }

    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().map(Process::pid).collect()
    }

    /// Asks all members to stop, and kills who does not.
    pub async fn stop(mut self) {
        self.members.iter().for_each(|member| member.signal(Signal::Terminate));
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.members.iter_mut().any(|member| member.ended().is_none()) && Instant::now() < deadline {
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn wait_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        for number in 0..self.members.len() {
            let address = ([127, 0, 0, 1], self.ports.of(number, 0)).into();
            loop {
                match get(address, "/health", Duration::from_secs(2)).await {
                    Ok(page) if page.status == 200 => break,
                    _ if Instant::now() > deadline => bail!("etcd member {number} does not become healthy"),
                    _ => sleep(Duration::from_millis(50)).await,
                }
            }
        }
        Ok(())
    }
}

/// etcd, built if it is not there yet. Nothing, and the reason told, where that cannot be done.
pub fn program(repository: &Path) -> anyhow::Result<Option<PathBuf>> {
    built(&repository.join("tests-peers/etcd/build"))
}

/// etcd's command-line client, likewise.
pub fn etcdctl(repository: &Path) -> anyhow::Result<Option<PathBuf>> {
    built(&repository.join("tests-peers/etcdctl/build"))
}

/// etcd's own load generator, likewise.
pub fn benchmark(repository: &Path) -> anyhow::Result<Option<PathBuf>> {
    built(&repository.join("tests-peers/benchmark/build"))
}

/// What drives etcd's Go client and the packages built on it, likewise.
pub fn clients(repository: &Path) -> anyhow::Result<Option<PathBuf>> {
    built(&repository.join("tests-peers/clients/build"))
}

fn built(script: &Path) -> anyhow::Result<Option<PathBuf>> {
    let built = Command::new(script)
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", script.display()))?;
    let path = String::from_utf8_lossy(&built.stdout).trim().to_owned();
    Ok((!path.is_empty()).then(|| path.into()))
}
