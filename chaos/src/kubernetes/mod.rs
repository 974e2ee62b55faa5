//! Kubernetes' own control plane on this machine: API servers that keep their state where a test says,
//! a scheduler, a controller manager, and what drives them.
//!
//! It owns their keys, ports, logs and lives: nothing that it starts outlives it. It knows nothing of
//! what is beneath an API server but the addresses at which etcd's clients are served.

mod component;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rcgen::KeyPair;
use tokio::time::Instant;

pub use component::Component;

use crate::cluster::{Papers, Ports, issue, papers};

/// Whoever shows this may do everything.
const TOKEN: &str = "operator";
/// How long events live, which the program that drives the servers knows too.
const EVENTS_LIVE: Duration = Duration::from_secs(20);

/// What is built from Kubernetes' Go module.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The folder with kube-apiserver, kube-scheduler and kube-controller-manager.
    components: PathBuf,
    /// What drives them.
    client: PathBuf,
}

impl Programs {
    /// Builds them, if they are not there yet. Where Go is missing this fails.
    pub fn built(repository: &Path) -> anyhow::Result<Programs> {
        let script = repository.join("tests-peers/kubernetes/build");
        let built = Command::new(&script)
            .stderr(std::process::Stdio::inherit())
            .output()
            .with_context(|| format!("cannot run {}", script.display()))?;
        ensure!(built.status.success(), "{} says that Kubernetes cannot be built here", script.display());
        let text = String::from_utf8_lossy(&built.stdout);
        let mut lines = text.lines().map(PathBuf::from);
        match (lines.next(), lines.next()) {
            (Some(components), Some(client)) => Ok(Programs { components, client }),
            _ => bail!("{} does not say where it built to", script.display()),
        }
    }
}

/// Where an API server keeps its state.
#[derive(Debug, Clone)]
pub struct Storage {
    /// As `--etcd-servers` takes them.
    pub endpoints: Vec<String>,
    /// What it shows there, and whom it trusts.
    pub papers: Option<Papers>,
}

impl Storage {
    /// One plaintext address.
    pub fn at(endpoint: impl ToString) -> Storage {
        Storage { endpoints: vec![format!("http://{}", endpoint.to_string())], papers: None }
    }
}

/// How often an API server looks after what it keeps.
#[derive(Debug, Clone)]
pub struct Upkeep {
    /// Between compactions.
    pub compaction: Duration,
    /// Between comparisons of each watch cache with the storage. A difference ends the server.
    pub comparison: Duration,
}

impl Default for Upkeep {
    /// Much more often than in production, so that a test of minutes sees some of it.
    fn default() -> Self {
        Upkeep { compaction: Duration::from_secs(30), comparison: Duration::from_secs(4) }
    }
}

/// One cluster's control plane: what all its parts share, and the place of each.
#[derive(Debug)]
pub struct Plane {
    programs: Programs,
    dir: PathBuf,
    ports: Ports,
    /// Last, so that it is removed when all else is gone.
    temporary: Option<tempfile::TempDir>,
}

impl Plane {
    /// Makes keys, certificates and ports for it. Nothing runs yet.
    pub fn prepare(programs: Programs) -> anyhow::Result<Plane> {
        let temporary = tempfile::Builder::new().prefix("journal-kubernetes-").tempdir()?;
        let dir = temporary.path().canonicalize()?;
        issue(&dir, &["apiserver"])?;
        let accounts = KeyPair::generate()?;
        std::fs::write(dir.join("accounts.key"), accounts.serialize_pem())?;
        std::fs::write(dir.join("accounts.pub"), accounts.public_key_pem())?;
        // Nobody but the processes of this plane reads it, and nobody outside this machine reaches them.
        std::fs::write(dir.join("tokens.csv"), format!("{TOKEN},operator,1,\"system:masters\"\n"))?;
        Ok(Plane { programs, dir, ports: Ports::claim()?, temporary: Some(temporary) })
    }

    /// Starts API server `number`, from 0. It is not ready yet when this returns.
    pub fn api_server(&self, number: usize, storage: &Storage, upkeep: &Upkeep) -> anyhow::Result<Component> {
        let name = format!("apiserver-{number}");
        let port = self.ports.of(number, 0);
        let file = |name: &str| self.dir.join(name).display().to_string();
        let shown = papers(&self.dir, "apiserver");
        let mut flags = vec![
            format!("--etcd-servers={}", storage.endpoints.join(",")),
            format!("--etcd-compaction-interval={}s", upkeep.compaction.as_secs()),
            format!("--event-ttl={}s", EVENTS_LIVE.as_secs()),
            "--storage-media-type=application/vnd.kubernetes.protobuf".into(),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={port}"),
            // What others are told: an address of nobody, since a loopback one is refused.
            format!("--advertise-address=192.0.2.{}", number + 1),
            format!("--tls-cert-file={}", shown.cert.display()),
            format!("--tls-private-key-file={}", shown.key.display()),
            "--service-cluster-ip-range=10.0.0.0/16".into(),
            "--authorization-mode=RBAC".into(),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={}", file("accounts.pub")),
            format!("--service-account-signing-key-file={}", file("accounts.key")),
            "--disable-admission-plugins=ServiceAccount".into(),
        ];
        if let Some(papers) = &storage.papers {
            flags.push(format!("--etcd-cafile={}", papers.ca.display()));
            flags.push(format!("--etcd-certfile={}", papers.cert.display()));
            flags.push(format!("--etcd-keyfile={}", papers.key.display()));
        }
        let mut command = self.command("kube-apiserver", &flags);
        command
            .env("KUBE_WATCHCACHE_CONSISTENCY_CHECKER", "true")
            .env("WATCHCACHE_CONSISTENCY_PERIOD", format!("{}ms", upkeep.comparison.as_millis()));
        Component::start(name, Some(port), command, &self.dir)
    }

    /// Starts a scheduler that calls that API server.
    pub fn scheduler(&self, server: &Component) -> anyhow::Result<Component> {
        let flags = self.callers_flags(server)?;
        Component::start("scheduler".into(), None, self.command("kube-scheduler", &flags), &self.dir)
    }

    /// Starts a controller manager that calls that API server.
    pub fn controller_manager(&self, server: &Component) -> anyhow::Result<Component> {
        let mut flags = self.callers_flags(server)?;
        flags.push(format!("--service-account-private-key-file={}", self.dir.join("accounts.key").display()));
        flags.push(format!("--root-ca-file={}", papers(&self.dir, "apiserver").ca.display()));
        let command = self.command("kube-controller-manager", &flags);
        Component::start("controller-manager".into(), None, command, &self.dir)
    }

    /// Starts what drives API servers, with these arguments. It ends by itself.
    pub fn driver(&self, servers: &[&Component], what: &str, args: &[&str]) -> anyhow::Result<Driver> {
        let mut command = Command::new(&self.programs.client);
        let urls: anyhow::Result<Vec<_>> = servers.iter().map(|server| server.url()).collect();
        command
            .arg(what)
            .arg(format!("--servers={}", urls?.join(",")))
            .arg(format!("--ca={}", papers(&self.dir, "apiserver").ca.display()))
            .arg(format!("--token={TOKEN}"))
            .args(args);
        let name = format!("driver-{what}");
        // What an earlier one of the name wrote is not this one's.
        let log = component::log(&self.dir, &name);
        std::fs::write(&log, "").with_context(|| format!("cannot write {}", log.display()))?;
        Ok(Driver { component: Component::start(name, None, command, &self.dir)? })
    }

    /// Runs it to its end, and passes on what it printed.
    pub async fn drive(&self, servers: &[&Component], what: &str, args: &[&str]) -> anyhow::Result<String> {
        self.driver(servers, what, args)?.finish().await
    }

    /// Waits until a server is ready, and says how long after the start of its process that was.
    pub async fn ready(&self, server: &Component) -> anyhow::Result<Duration> {
        let servers = [server];
        let ready = self.drive(&servers, "ready", &["--within=90s"]);
        tokio::select! {
            biased;
            status = server.wait_end() => bail!("it ended while it started ({status}); {}", server.last_words()),
            ready = ready => ready.with_context(|| server.last_words())?,
        };
        Ok(server.since_start())
    }

    fn command(&self, program: &str, flags: &[String]) -> Command {
        let mut command = Command::new(self.programs.components.join(program));
        command.args(flags).current_dir(&self.dir);
        command
    }

    fn callers_flags(&self, server: &Component) -> anyhow::Result<Vec<String>> {
        let authority = papers(&self.dir, "apiserver").ca;
        let text = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": {
                "server": server.url()?, "certificate-authority": authority,
            }}],
            "users": [{"name": "operator", "user": {"token": TOKEN}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "operator"}}],
        });
        let file = self.dir.join(format!("{}.kubeconfig", server.name()));
        std::fs::write(&file, text.to_string())?;
        let file = file.display();
        Ok(vec![
            format!("--kubeconfig={file}"),
            format!("--authentication-kubeconfig={file}"),
            format!("--authorization-kubeconfig={file}"),
            // Nobody asks them anything, so they need not listen.
            "--secure-port=0".into(),
        ])
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // What a failed test leaves behind is what explains it.
        if let Some(temporary) = self.temporary.take_if(|_| std::thread::panicking()) {
            eprintln!("the control plane's directory is kept: {}", temporary.keep().display());
        }
    }
}

/// A run of the program that drives API servers.
#[derive(Debug)]
pub struct Driver {
    component: Component,
}

impl Driver {
    /// Waits until it has written that line.
    pub async fn wait_for(&self, line: &str, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        while !self.component.said().lines().any(|said| said.starts_with(line)) {
            if let Some(status) = self.component.end() {
                bail!("it ended ({status}): {}", self.component.said());
            }
            ensure!(Instant::now() < deadline, "it did not say {line:?}: {}", self.component.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Waits for its end, and answers what it printed. It has a limit of its own, which is told here.
    pub async fn finish(self) -> anyhow::Result<String> {
        let status: ExitStatus = self.component.wait_end().await;
        let said = self.component.said();
        ensure!(status.success(), "{} ended with {status}:\n{said}", self.component.name());
        Ok(said)
    }
}
