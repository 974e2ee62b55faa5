//! The process: configuration, logging, one runtime, one adapter; then signals until it ends. And
//! `etcd-adapter hash`, which shows where adapters are and what they make of it.

mod hash;

use std::process::ExitCode;

use etcd_adapter::adapter::Adapter;
use etcd_adapter::config::{Config, LoadError, Log, VERSION};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A bad command line, as etcd ends with one.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    if let Some("hash") = std::env::args().nth(1).as_deref() {
        return hash::run(std::env::args().skip(2));
    }
    let config = match Config::from_process() {
        Ok(config) => config,
        Err(LoadError::Usage(usage)) => usage.exit(),
        Err(LoadError::Version) => {
            // The form that scripts read.
            println!("etcd Version: {VERSION}");
            println!("Git SHA: {}", env!("CARGO_PKG_VERSION"));
            println!("Go Version: none");
            println!("Go OS/Arch: {}/{}", std::env::consts::OS, std::env::consts::ARCH);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("etcd-adapter: {error}");
            return ExitCode::from(USAGE);
        }
    };
    log_to_stderr(&config.log);
    // Apply and the journal have this thread; connections are dealt to others.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run(config));
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log_to_stderr(log: &Log) {
    let filter = tracing_subscriber::EnvFilter::new(&log.level);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.json {
        true => builder.json().init(),
        false => builder.with_ansi(false).init(),
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        let started = tokio::select! {
            biased;
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            started = Adapter::start(config.clone()) => started,
        };
        let mut adapter = started?;
        let (name, addresses) = (&config.name, adapter.addresses.join(","));
        tracing::info!(name, addresses, "ready to serve client requests");
        let failed = tokio::select! {
            biased;
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            error = adapter.failed() => Some(error),
        };
        match failed {
            Some(error) => adapter.give_way(&config, error).await?,
            None => {
                tracing::info!("told to stop");
                tokio::select! {
                    biased;
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    () = adapter.shutdown() => {}
                }
                return Ok(());
            }
        }
    }
}
