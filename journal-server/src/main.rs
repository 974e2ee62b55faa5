//! The process: configuration, logging, one runtime, one server; then signals until it ends.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use journal_client::TcpConnector;
use journal_server::config::{Config, LoadError, Log};
use journal_server::detour::Detours;
use journal_server::env::Env;
use journal_server::latch::{Exit, Failure, Latch};
use journal_server::segment::{self, real_fs::RealFs};
use journal_server::server::{self, Server};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The allocator's settings. What a burst needed goes back to the system within a second or so,
/// from a thread of the allocator's own: a node that has become idle frees nothing itself.
#[allow(unsafe_code)]
mod allocator {
    use std::ffi::{CStr, c_char};

    const SETTINGS: &CStr = c"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0";

    #[repr(transparent)]
    pub struct Settings(*const c_char);

    // SAFETY: it points to a constant, which nobody can change.
    unsafe impl Sync for Settings {}

    // SAFETY: the name and the type are those that jemalloc looks for.
    #[unsafe(export_name = "_rjem_malloc_conf")]
    pub static MALLOC_CONF: Settings = Settings(SETTINGS.as_ptr());
}

/// A process that has to go but hangs is ended by force after so long.
const PATIENCE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let config = match Config::from_process() {
        Ok(config) => config,
        Err(LoadError::Usage(usage)) => usage.exit(),
        Err(error) => {
            eprintln!("journal-server: {error}");
            return code(Exit::Config);
        }
    };
    log_to_stderr(&config.log);
    // One thread: what a node does is a few batches a millisecond, and handing them from thread to
    // thread would cost more than doing them. Disks have threads of their own, for when they are busy.
    segment::lay_desk();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().on_thread_park(segment::clear_desk).build();
    let exit = match runtime {
        Ok(runtime) => {
            let exit = runtime.block_on(run(config));
            // A disk that hangs must not hold the process up.
            runtime.shutdown_background();
            exit
        }
        Err(error) => {
            tracing::error!("no runtime: {error}");
            Exit::Start
        }
    };
    code(exit)
}

fn code(exit: Exit) -> ExitCode {
    ExitCode::from(exit as u8)
}

fn log_to_stderr(log: &Log) {
    let filter = tracing_subscriber::EnvFilter::new(&log.level);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.json {
        true => builder.json().init(),
        false => builder.with_ansi(false).init(),
    }
}

async fn run(config: Config) -> Exit {
    let started = async {
        let start = |why: String| Failure { exit: Exit::Start, why };
        let connector = TcpConnector::new(server::client_tls(&config), config.tls.is_none());
        let connector = connector.map_err(|error| Failure { exit: Exit::Config, why: error.to_string() })?;
        let mut terminate = signal(SignalKind::terminate()).map_err(|error| start(error.to_string()))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| start(error.to_string()))?;
        let latch = Latch::with_watchdog(PATIENCE);
        let name = config.name.clone();
        let connector = Detours::around(Arc::new(connector), config.dial.clone());
        let server = Server::start(config, Env::production(Arc::new(RealFs)), connector, latch).await?;
        tracing::info!(name, node = %server.node_id, address = %server.address, "listening");
        tokio::select! {
            biased;
            _ = server.latch().failed() => {}
            _ = terminate.recv() => tracing::info!("told to stop"),
            _ = interrupt.recv() => tracing::info!("interrupted"),
        }
        Ok::<_, Failure>(server)
    };
    match started.await {
        Ok(server) => server.shutdown().await,
        Err(failure) => {
            tracing::error!("cannot start: {failure}");
            failure.exit
        }
    }
}
