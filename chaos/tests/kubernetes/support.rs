//! What the stories have in common.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chaos::cluster::{Adapter, AdapterOptions, Cluster, Options};
use chaos::kubernetes::{Component, Plane, Programs, Storage};

pub const PATIENCE: Duration = Duration::from_secs(60);

/// Three journal nodes, adapters in front of them, and a control plane to put on top.
pub struct Stack {
    pub plane: Plane,
    pub adapters: Vec<Adapter>,
    pub cluster: Cluster,
    dir: tempfile::TempDir,
}

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

pub fn plane() -> Plane {
    Plane::prepare(Programs::built(repository()).unwrap()).unwrap()
}

impl Stack {
    pub async fn start(adapters: usize) -> Stack {
        Stack::start_with(adapters, |_, _| Vec::new()).await
    }

    /// With further flags for each adapter, whose directory is given, and a port to use.
    pub async fn start_with(adapters: usize, flags: impl Fn(&Path, u16) -> Vec<String>) -> Stack {
        let plane = plane();
        let cluster = Cluster::start(Options::default()).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let adapters: Vec<_> = (0..adapters)
            .map(|number| {
                let name = format!("a{}", number + 1);
                let home: PathBuf = dir.path().join(&name);
                let adapter = Adapter::prepare(AdapterOptions {
                    // As kubeadm tells etcd: caches of what never changes are to follow too.
                    flags: std::iter::once("--watch-progress-notify-interval=5s".to_owned())
                        .chain(flags(&home, spare_port(&cluster, number)))
                        .collect(),
                    home,
                    name,
                    store: None,
                    client_port: cluster.adapter_port(number, 0),
                    metrics_port: cluster.adapter_port(number, 1),
                    journal: cluster.endpoints(),
                    program: None,
                });
                let adapter = adapter.unwrap();
                adapter.start().unwrap();
                adapter
            })
            .collect();
        for adapter in &adapters {
            adapter.wait_ready(PATIENCE).await.unwrap();
        }
        Stack { plane, adapters, cluster, dir }
    }

    pub fn storage(&self, number: usize) -> Storage {
        Storage::at(self.adapters[number].endpoint())
    }

    /// Where that adapter lives.
    pub fn home(&self, number: usize) -> PathBuf {
        self.dir.path().join(self.adapters[number].name())
    }

    /// The port that its flags may have named.
    pub fn free_port(&self, number: usize) -> u16 {
        spare_port(&self.cluster, number)
    }

    /// Drives servers, and passes on what was said of them.
    pub async fn drive(&self, servers: &[&Component], what: &str, args: &[&str]) {
        match self.plane.drive(servers, what, args).await {
            Ok(said) => print!("{said}"),
            Err(error) => self.explain(servers, error),
        }
    }

    pub fn explain(&self, servers: &[&Component], error: anyhow::Error) -> ! {
        for server in servers {
            eprintln!("{}", server.last_words());
        }
        for adapter in &self.adapters {
            eprintln!("{}", adapter.last_words());
        }
        panic!("{error:#}");
    }

    /// Stops everything, from the top, which must not need force.
    pub async fn stop(self, components: Vec<Component>) {
        for component in components.into_iter().rev() {
            assert!(component.end().is_none(), "{} ended by itself; {}", component.name(), component.last_words());
            let said = component.said();
            for bad in ["panic:", "consistency check failed"] {
                assert!(!said.contains(bad), "{} said {bad:?}", component.name());
            }
            // An API server waits for its watchers as long as for its longest request.
            component.stop(Duration::from_secs(20)).await;
        }
        for adapter in &self.adapters {
            assert!(!adapter.stop(Duration::from_secs(15)).await, "{} had to be killed", adapter.name());
            let end = adapter.end().unwrap();
            assert!(end.success(), "{}: {end}; {}", adapter.name(), adapter.last_words());
        }
        let killed = self.cluster.stop().await;
        assert!(killed.is_empty(), "had to be killed: {killed:?}");
    }
}

fn spare_port(cluster: &Cluster, number: usize) -> u16 {
    cluster.adapter_port(number, 3)
}
