//! Adapters in front of a cluster, or of nothing: real etcd-adapter processes on this machine.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::http;
use super::process::{Process, Signal};
use super::{beside_this_program, local};

/// What an adapter shall be.
#[derive(Debug, Clone)]
pub struct AdapterOptions {
    pub name: String,
    /// Holds `log`, and `data/` if no other place is named for that.
    pub home: PathBuf,
    pub store: Option<PathBuf>,
    pub client_port: u16,
    pub metrics_port: u16,
    /// The journal's nodes. None: it keeps everything in itself.
    pub journal: Vec<String>,
    /// Nothing: the etcd-adapter that stands beside this program.
    pub program: Option<PathBuf>,
    /// Behind the flags that it is given anyway.
    pub flags: Vec<String>,
}

/// One adapter: its place, and its process while it runs.
#[derive(Debug)]
pub struct Adapter {
    options: AdapterOptions,
    program: PathBuf,
    process: Mutex<Option<Process>>,
}

const PATIENCE: Duration = Duration::from_secs(2);
/// Where adapters' stores belong: they need not survive the machine, and are never synced.
const MEMORY_DIR: &str = "/dev/shm";
/// A container's is often of 64 MiB, which holds none.
const MEMORY_MIN: u64 = 1 << 30;

/// A place in memory for adapters' stores, which goes when it is dropped; none where there is no room for them.
pub fn place_in_memory() -> Option<tempfile::TempDir> {
    let room = etcd_adapter::room::measure(MEMORY_DIR.as_ref()).ok()?;
    if room.free < MEMORY_MIN {
        return None;
    }
    tempfile::Builder::new().prefix("etcd-adapter-").tempdir_in(MEMORY_DIR).ok()
}

impl Adapter {
    /// Gives it its place and does not start it.
    pub fn prepare(options: AdapterOptions) -> anyhow::Result<Adapter> {
        let program = match &options.program {
            Some(program) => program.clone(),
            None => beside_this_program("etcd-adapter")?,
        };
        std::fs::create_dir_all(&options.home).with_context(|| format!("cannot make {}", options.home.display()))?;
        Ok(Adapter { options, program, process: Mutex::new(None) })
    }

    pub fn name(&self) -> &str {
        &self.options.name
    }

    pub fn endpoint(&self) -> SocketAddr {
        local(self.options.client_port)
    }

    /// Where its health and metrics are.
    pub fn metrics_endpoint(&self) -> SocketAddr {
        local(self.options.metrics_port)
    }

    pub fn log(&self) -> PathBuf {
        self.options.home.join("log")
    }

    pub fn dir(&self) -> PathBuf {
        self.options.store.clone().unwrap_or_else(|| self.options.home.join("data"))
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.lock().as_ref().map(Process::pid)
    }

    /// Starts its process. It is not ready yet when this returns.
    pub fn start(&self) -> anyhow::Result<()> {
        let mut process = self.process.lock();
        if let Some(running) = process.as_mut() {
            ensure!(running.ended().is_some(), "{} runs already", self.name());
        }
        let (client, metrics) = (self.endpoint(), self.metrics_endpoint());
        let mut command = Command::new(&self.program);
        command
            .arg(format!("--name={}", self.name()))
            .arg(format!("--data-dir={}", self.dir().display()))
            .arg(format!("--listen-client-urls=http://{client}"))
            .arg(format!("--advertise-client-urls=http://{client}"))
            // Nobody listens there: it only has to be unlike the others'.
            .arg(format!("--initial-advertise-peer-urls=http://{}", local(self.options.client_port + 1)))
            .arg(format!("--listen-metrics-urls=http://{metrics}"))
            .arg("--log-format=console");
        match self.options.journal.is_empty() {
            true => command.arg("--ephemeral"),
            false => command.arg(format!("--journal-endpoints={}", self.options.journal.join(","))),
        };
        command.args(&self.options.flags);
        // What is set for the person at the terminal is not meant for it.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD_")) {
            command.env_remove(name);
        }
        let started = Process::spawn(command, &self.log());
        *process = Some(started.with_context(|| format!("cannot start {}", self.program.display()))?);
        Ok(())
    }

    /// Waits until it serves.
    pub async fn wait_ready(&self, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.end() {
                bail!("{} ended while it started ({status}); {}", self.name(), self.last_words());
            }
            match http::get(self.metrics_endpoint(), "/readyz", PATIENCE).await {
                Ok(page) if page.status == 200 => return Ok(()),
                _ if Instant::now() > deadline => {
                    bail!("{} is not ready after {} s; {}", self.name(), patience.as_secs(), self.last_words())
                }
                _ => sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Whether its process lives. A paused one does.
    pub fn runs(&self) -> bool {
        self.process.lock().as_mut().is_some_and(|process| process.ended().is_none())
    }

    /// How its last process ended, if it did.
    pub fn end(&self) -> Option<ExitStatus> {
        self.process.lock().as_mut().and_then(Process::ended)
    }

    /// Waits for the end of its process, at most for `patience`.
    pub async fn wait_end(&self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            let end = self.end();
            if end.is_some() || self.pid().is_none() || Instant::now() >= deadline {
                return end;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it as a power cut of one process does.
    pub fn kill9(&self) {
        *self.process.lock() = None;
    }

    pub fn send(&self, signal: Signal) {
        if let Some(process) = self.process.lock().as_mut()
            && process.ended().is_none()
        {
            process.signal(signal);
        }
    }

    /// Asks it to stop, and kills it if it does not. Says whether it had to.
    pub async fn stop(&self, grace: Duration) -> bool {
        self.send(Signal::Continue);
        self.send(Signal::Terminate);
        let killed = self.wait_end(grace).await.is_none() && self.runs();
        if killed {
            self.kill9();
        }
        killed
    }

    /// The end of its log, for an error message.
    pub fn last_words(&self) -> String {
        let text = std::fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(8)..].join("\n    ");
        format!("the end of {}:\n    {last}", self.log().display())
    }
}
