//! One node: its place, its directory, and its process while it runs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, ensure};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::http::{self, Page};
use super::local;
use super::memory::Place;
use super::process::{Process, Signal};

/// A node of a [`Cluster`](super::Cluster). It may be started, stopped and hurt at any time, from
/// any task.
#[derive(Debug)]
pub struct Node {
    place: Place,
    /// Holds `data/` and `log`.
    home: PathBuf,
    server: PathBuf,
    flags: Vec<String>,
    more: Mutex<More>,
    process: Mutex<Option<Process>>,
}

/// What one node is told beyond what all are.
#[derive(Debug, Default)]
struct More {
    flags: Vec<String>,
    environment: BTreeMap<String, String>,
}

/// How long a health page may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of a page that says why a node is not ready, so much is told: more than a few troubles take.
const PAGE_CHARS: usize = 2000;

impl Node {
    pub(super) fn new(
        place: Place,
        home: PathBuf,
        server: PathBuf,
        flags: Vec<String>,
        environment: BTreeMap<String, String>,
    ) -> anyhow::Result<Node> {
        std::fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
        let more = Mutex::new(More { flags: Vec::new(), environment });
        Ok(Node { place, home, server, flags, more, process: Mutex::new(None) })
    }

    pub fn name(&self) -> &str {
        &self.place.name
    }

    /// Whether it is one of those that form the cluster.
    pub fn founds(&self) -> bool {
        self.place.founds
    }

    /// Where clients and (without links) its peers reach it.
    pub fn endpoint(&self) -> SocketAddr {
        self.place.address()
    }

    /// Where its health and metrics are, in plaintext always.
    pub fn metrics_endpoint(&self) -> SocketAddr {
        local(self.place.metrics_port)
    }

    /// Its data directory.
    pub fn dir(&self) -> PathBuf {
        self.home.join("data")
    }

    pub fn log(&self) -> PathBuf {
        self.home.join("log")
    }

    /// Its process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        self.process.lock().as_ref().map(Process::pid)
    }

    /// From the next start on, these flags too.
    pub fn set_flags<S: Into<String>>(&self, flags: impl IntoIterator<Item = S>) {
        self.more.lock().flags = flags.into_iter().map(Into::into).collect();
    }

    /// From the next start on, this variable too.
    pub fn set_variable(&self, name: &str, value: impl Into<String>) {
        self.more.lock().environment.insert(name.to_owned(), value.into());
    }

    /// Starts its process. It is not ready yet when this returns.
    pub fn start(&self) -> anyhow::Result<()> {
        let mut process = self.process.lock();
        if let Some(running) = process.as_mut() {
            ensure!(running.ended().is_some(), "{} runs already", self.name());
        }
        let mut command = Command::new(&self.server);
        command.arg(format!("--data-dir={}", self.dir().display())).args(&self.flags);
        // What is set for the person at the terminal is not meant for the nodes.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("JOURNAL_")) {
            command.env_remove(name);
        }
        let more = self.more.lock();
        command.args(&more.flags).envs(&more.environment);
        let started = Process::spawn(command, &self.log());
        *process = Some(started.with_context(|| format!("cannot start {}", self.server.display()))?);
        Ok(())
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

    /// Ends it as a power cut of one process does: nothing is flushed, nobody is told.
    pub fn kill9(&self) {
        // Dropping kills, and waits until the ports are free.
        *self.process.lock() = None;
    }

    /// Asks it to stop in an orderly way.
    pub fn terminate(&self) {
        self.send(Signal::Terminate);
    }

    /// Freezes it: its sockets stay open and nothing answers.
    pub fn pause(&self) {
        self.send(Signal::Stop);
    }

    pub fn resume(&self) {
        self.send(Signal::Continue);
    }

    /// Empties its data directory, as a new disk would be. It must not run.
    pub fn wipe(&self) -> anyhow::Result<()> {
        ensure!(!self.runs(), "{} runs: stop it before its disk is wiped", self.name());
        match std::fs::remove_dir_all(self.dir()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            done => done.with_context(|| format!("cannot empty {}", self.dir().display())),
        }
    }

    /// A page of its health and metrics listener.
    pub async fn page(&self, path: &str) -> std::io::Result<Page> {
        http::get(self.metrics_endpoint(), path, PATIENCE).await
    }

    /// Whether it says that it can be routed to, else why not.
    pub async fn ready(&self) -> Result<(), String> {
        match self.page("/readyz").await {
            Ok(page) if page.status == 200 => Ok(()),
            Ok(page) => Err(one_line(&page.body)),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Err("does not listen yet".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The end of its log, for an error message.
    pub fn last_words(&self) -> String {
        let log = self.log();
        let text = std::fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(8)..].join("\n    ");
        format!("the end of {}:\n    {last}", log.display())
    }

    /// Its home: data and log.
    pub fn home(&self) -> &Path {
        &self.home
    }

    fn send(&self, signal: Signal) {
        if let Some(process) = self.process.lock().as_mut()
            && process.ended().is_none()
        {
            process.signal(signal);
        }
    }
}

fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(PAGE_CHARS) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}
