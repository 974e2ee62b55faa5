//! What a cluster's directory remembers between two runs: who is in it, and on which ports.

use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr as Name, UnixListener};
use std::path::Path;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::local;
use super::ports::Ports;

const FILE: &str = "cluster.json";

/// The file `cluster.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Of this file.
    pub version: u32,
    pub base_port: u16,
    /// Tells this cluster from another on the same ports.
    pub token: String,
    pub nodes: Vec<Place>,
}

/// One node's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub name: String,
    pub port: u16,
    pub metrics_port: u16,
    /// Whether it forms the cluster, or waits to be taken in.
    pub founds: bool,
}

impl Place {
    pub fn address(&self) -> SocketAddr {
        local(self.port)
    }
}

impl Memory {
    pub fn decide(founders: usize, spares: usize, ports: &Ports) -> Memory {
        let nodes = (0..founders + spares)
            .map(|number| Place {
                name: format!("n{}", number + 1),
                port: ports.of(number, 0),
                metrics_port: ports.of(number, 1),
                founds: number < founders,
            })
            .collect();
        let token = format!("{:08x}", rand::random::<u32>());
        Memory { version: 1, base_port: ports.first(), token, nodes }
    }

    pub fn recall(dir: &Path) -> anyhow::Result<Option<Memory>> {
        let path = dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let memory: Memory =
            serde_json::from_str(&text).with_context(|| format!("{} is not readable", path.display()))?;
        if memory.version != 1 {
            bail!("{} is of version {}, this program knows 1", path.display(), memory.version);
        }
        Ok(Some(memory))
    }

    pub fn store(&self, dir: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self).expect("it has no maps with strange keys");
        let path = dir.join(FILE);
        std::fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    /// What node `number` is told, besides its directory.
    pub fn flags_of(&self, number: usize) -> Vec<String> {
        let place = &self.nodes[number];
        let mut flags = vec![
            format!("--name={}", place.name),
            format!("--listen={}", place.address()),
            format!("--advertise={}", place.address()),
            format!("--metrics-listen={}", local(place.metrics_port)),
        ];
        if place.founds {
            let founders = self.nodes.iter().filter(|place| place.founds);
            let list: Vec<_> = founders.map(|place| format!("{}={}", place.name, place.address())).collect();
            flags.push(format!("--initial-cluster={}", list.join(",")));
            flags.push(format!("--cluster-token={}", self.token));
        } else {
            flags.push("--join".into());
        }
        flags
    }
}

/// The right to run the cluster of a directory: one at a time. Gone with this process.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] UnixListener);

impl Lock {
    pub fn take(dir: &Path) -> anyhow::Result<Lock> {
        let about = std::fs::metadata(dir)?;
        let name = Name::from_abstract_name(format!("journal-chaos-dir-{}-{}", about.dev(), about.ino()))?;
        let Ok(listener) = UnixListener::bind_addr(&name) else {
            bail!("the cluster in {} runs already: stop it first, or name another directory", dir.display());
        };
        Ok(Lock(listener))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_remembers_its_cluster() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Memory::recall(dir.path()).unwrap(), None);
        let memory = Memory::decide(3, 2, &Ports::at(7400));
        memory.store(dir.path()).unwrap();
        assert_eq!(Memory::recall(dir.path()).unwrap(), Some(memory));
    }

    #[test]
    fn a_spare_joins_and_is_in_nobodys_list() {
        let memory = Memory::decide(3, 1, &Ports::at(7400));
        let first = memory.flags_of(0).join(" ");
        assert!(first.contains("--initial-cluster=n1=127.0.0.1:7400,n2=127.0.0.1:7410,n3=127.0.0.1:7420"), "{first}");
        let spare = memory.flags_of(3).join(" ");
        assert!(spare.contains("--join") && !spare.contains("--initial-cluster"), "{spare}");
    }

    #[test]
    fn a_directory_runs_one_cluster_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = Lock::take(dir.path()).unwrap();
        assert!(Lock::take(dir.path()).is_err());
        drop(held);
        Lock::take(dir.path()).unwrap();
    }
}
