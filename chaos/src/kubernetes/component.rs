//! One process of the control plane, its log, and what it said in it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::cluster::{Process, Signal};

/// A running or ended process. Dropping it kills it.
#[derive(Debug)]
pub struct Component {
    name: String,
    port: Option<u16>,
    log: PathBuf,
    started: Instant,
    process: Mutex<Process>,
}

/// Where the part of that name says what it does.
pub(super) fn log(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.log"))
}

impl Component {
    pub(super) fn start(name: String, port: Option<u16>, command: Command, dir: &Path) -> anyhow::Result<Component> {
        let log = log(dir, &name);
        let started = Instant::now();
        let process = Process::spawn(command, &log).with_context(|| format!("cannot start {name}"))?;
        Ok(Component { name, port, log, started, process: Mutex::new(process) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it serves, if it does.
    pub fn url(&self) -> anyhow::Result<String> {
        let port = self.port.with_context(|| format!("{} serves nobody", self.name))?;
        Ok(format!("https://127.0.0.1:{port}"))
    }

    pub fn since_start(&self) -> Duration {
        self.started.elapsed()
    }

    /// How it ended, if it did.
    pub fn end(&self) -> Option<ExitStatus> {
        self.process.lock().ended()
    }

    pub async fn wait_end(&self) -> ExitStatus {
        loop {
            if let Some(status) = self.end() {
                return status;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Asks it to stop, and kills it if it does not. Says whether it had to.
    pub async fn stop(&self, grace: Duration) -> bool {
        let signal = |signal| {
            let mut process = self.process.lock();
            if process.ended().is_none() {
                process.signal(signal);
            }
        };
        signal(Signal::Terminate);
        let stopped = tokio::time::timeout(grace, self.wait_end()).await.is_ok();
        if !stopped {
            signal(Signal::Kill);
            self.wait_end().await;
        }
        !stopped
    }

    /// All that it wrote.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of its log, for an error message.
    pub fn last_words(&self) -> String {
        let text = self.said();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(12)..].join("\n    ");
        format!("the end of {}:\n    {last}", self.log.display())
    }
}
