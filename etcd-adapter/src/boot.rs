//! From nothing to a state that has caught up: which journal, which store, how far to apply.
//!
//! A local store is used only if it is this journal's and the journal still holds what comes next;
//! one of another journal, or one that is damaged, is deleted. A store that is ahead of the journal is
//! never deleted: either the journal lost entries, or this is another one, and both are for a person to
//! see.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use futures::StreamExt;
use journal_client::{
    Cluster, Connector, Description, Journal, MemoryJournal, Settings, TailError, TailFrom, TcpConnector, TrimPolicy,
};
use proto::Position;
use xxhash_rust::xxh3::xxh3_64;

use crate::config::{Config, Source, fits};
use crate::env::Shelf;
use crate::http::counting::CountingConnector;
use crate::meters::Meters;
use crate::mvcc::State;
use crate::room::Room;
use crate::store::{Memory, Origin, Store, StoreError};

/// Between attempts to reach the journal.
const RETRY: Duration = Duration::from_millis(500);
/// How long a store may still be held by whoever had it last.
const LET_GO_TRIES: u32 = 50;
const LET_GO_EVERY: Duration = Duration::from_millis(100);
/// How RocksDB names what it could not lock.
const LOCK_FILE: &str = "/LOCK:";
/// Entries of an ephemeral journal may be as large as any request allowed.
const EPHEMERAL_ENTRY_BYTES: usize = 16 << 20;

/// What an adapter begins with.
pub struct Boot {
    pub journal: Arc<dyn Journal>,
    pub description: Description,
    pub cluster_id: u64,
    pub store: Store,
    pub state: State,
    /// Of a store that has a directory.
    pub room: Option<Room>,
}

/// Opens the journal, creating it if it is absent, and says what it is. Waits for as long as it takes.
///
/// Nodes are reached by `connector`, and without one by TCP; how much is said to them is counted.
pub async fn open_journal(
    config: &Config,
    connector: Option<Arc<dyn Connector>>,
    meters: Arc<Meters>,
) -> anyhow::Result<(Arc<dyn Journal>, Description)> {
    let Source::Cluster(source) = &config.source else {
        let journal = MemoryJournal::with_entry_bytes_max("ephemeral", EPHEMERAL_ENTRY_BYTES);
        let description = journal.describe().await?;
        return Ok((Arc::new(journal), description));
    };
    let connector = match connector {
        Some(connector) => connector,
        None => Arc::new(TcpConnector::new(source.tls.clone(), source.allow_plaintext)?),
    };
    let connector = Arc::new(CountingConnector { connector, meters });
    let tail_from = if source.nearest { TailFrom::Nearest } else { TailFrom::Leader };
    let settings = Settings { tail_from, ..Settings::default() };
    let cluster = Cluster::new(source.endpoints.clone(), connector, settings)?;
    let mut told = false;
    loop {
        let opened = async {
            let journal = cluster.journal_or_create(&source.name, TrimPolicy::Checkpointed, 0).await?;
            let description = journal.describe().await?;
            Ok::<_, journal_client::Error>((journal, description))
        };
        match opened.await {
            Ok((journal, description)) => return Ok((Arc::new(journal), description)),
            Err(journal_client::Error::Refused(refusal)) if !refusal.reason.passes() => {
                bail!("the journal `{}` cannot be opened: {refusal}", source.name);
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    let unreached = matches!(error, journal_client::Error::Unavailable(_));
                    let plain = match unreached && source.tls.is_none() {
                        true => "; it is asked without TLS (--journal-ca-file)",
                        false => "",
                    };
                    tracing::warn!("waiting for the journal: {error}{plain}");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Opens the local store, if it can be used, or an empty one. It lies on `shelf`, and without one in the
/// data directory.
pub async fn boot(
    config: &Config,
    shelf: Option<Arc<dyn Shelf>>,
    journal: Arc<dyn Journal>,
    description: Description,
) -> anyhow::Result<Boot> {
    if !fits(config.limits.request_bytes, description.entry_bytes_max) {
        bail!(
            "max-request-bytes: {} is more than an entry of the journal can hold ({} bytes)",
            config.limits.request_bytes,
            description.entry_bytes_max
        );
    }
    let cluster_id = cluster_id(&description);
    let room = match (&config.source, &shelf) {
        (Source::Ephemeral, _) | (_, Some(_)) => None,
        (Source::Cluster(_), None) => {
            std::fs::create_dir_all(&config.data_dir)
                .with_context(|| format!("cannot make {}", config.data_dir.display()))?;
            Some(Room::begin(&config.data_dir, config.space)?)
        }
    };
    let (store, state) = match &config.source {
        Source::Ephemeral => (Store::memory(Arc::new(Memory::new())), State::new(cluster_id)),
        Source::Cluster(_) => {
            let shelf = match shelf {
                Some(shelf) => shelf,
                None => Arc::new(Directory::of(config)),
            };
            open_store(&*shelf, &*journal, &description, cluster_id).await?
        }
    };
    Ok(Boot { journal, description, cluster_id, store, state, room })
}

static STORES_DROPPED: AtomicU64 = AtomicU64::new(0);

/// How often this process has dropped its store because others disagreed with it.
pub fn stores_dropped() -> u64 {
    STORES_DROPPED.load(Ordering::Relaxed)
}

/// What clients are told of which cluster this is.
pub fn cluster_id(description: &Description) -> u64 {
    match xxh3_64(description.cluster_id.as_bytes()) {
        0 => 1,
        id => id,
    }
}

/// Deletes the local store, which is filled anew from the journal at the next start.
pub fn drop_store(config: &Config) -> std::io::Result<()> {
    STORES_DROPPED.fetch_add(1, Ordering::Relaxed);
    Directory::of(config).discard()
}

async fn open_store(
    shelf: &dyn Shelf,
    journal: &dyn Journal,
    description: &Description,
    cluster_id: u64,
) -> anyhow::Result<(Store, State)> {
    let place = shelf.place();
    let tail = loop {
        match journal.check_tail().await {
            Ok(tail) => break tail,
            Err(error) => {
                tracing::warn!("waiting for the journal's tail: {error}");
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    let found = open_shelf(shelf).await.and_then(|store| Ok((store.load()?, store)));
    let why = match found {
        Ok((Some((origin, state)), store)) => {
            if state.applied() > tail.tail && origin.cluster == cluster_id && origin.journal == description.id {
                bail!(
                    "the store in {place} has applied up to {}, and the journal ends at {}: the journal lost entries, or the \
                     store is another cluster's; nothing was deleted",
                    state.applied(),
                    tail.tail
                );
            }
            match unusable(origin, &state, tail.start, journal, description, cluster_id).await {
                None => {
                    tracing::info!(applied = %state.applied(), revision = state.revision(), "the store is reopened");
                    return Ok((store, state));
                }
                Some(why) => why,
            }
        }
        Ok((None, store)) => return fresh(store, tail.start, cluster_id),
        Err(error) if error.is_damage() => error.to_string(),
        Err(error) => return Err(error).with_context(|| format!("cannot open the store in {place}")),
    };
    tracing::warn!("the store in {place} is deleted, and filled anew: {why}");
    shelf.discard().with_context(|| format!("cannot delete the store in {place}"))?;
    fresh(open_shelf(shelf).await?, tail.start, cluster_id)
}

fn fresh(store: Store, start: Position, cluster_id: u64) -> anyhow::Result<(Store, State)> {
    // Until there are checkpoints, everything is replayed.
    let state = State::new(cluster_id);
    if start > state.applied() {
        bail!("the journal begins at {start}: what came before is gone, and there is no checkpoint to begin from");
    }
    Ok((store, state))
}

/// Why a store cannot be gone on with.
async fn unusable(
    origin: Origin,
    state: &State,
    start: Position,
    journal: &dyn Journal,
    description: &Description,
    cluster_id: u64,
) -> Option<String> {
    if origin.cluster != cluster_id || origin.journal != description.id {
        return Some("it is another journal's".into());
    }
    if state.applied() < start {
        return Some(format!("it ends at {}, and the journal begins at {start}", state.applied()));
    }
    if origin.entry < start {
        return None;
    }
    // The entry it applied last must be the one that the journal has there. A journal that does not
    // answer says nothing about the store.
    loop {
        let run = match journal.tail(origin.entry).await {
            Ok(mut tail) => tail.next().await,
            Err(error) => Some(Err(TailError::Failed(error))),
        };
        match run {
            Some(Ok(run)) if run.to > origin.entry => {
                let there = run.entries.first();
                let same = there.is_some_and(|it| it.position == origin.entry && it.crc == origin.checksum);
                return (!same).then(|| format!("its entry at {} is not the journal's", origin.entry));
            }
            // It was trimmed a moment ago.
            Some(Err(TailError::Gap { start })) => {
                return (state.applied() < start).then(|| format!("the journal begins at {start} now"));
            }
            Some(Err(error)) => {
                tracing::warn!("the store's last entry cannot be compared yet: {error}");
                tokio::time::sleep(RETRY).await;
            }
            Some(Ok(_)) | None => tokio::time::sleep(RETRY).await,
        }
    }
}

/// The store below the data directory.
struct Directory(PathBuf);

impl Directory {
    fn of(config: &Config) -> Directory {
        Directory(config.data_dir.join("store"))
    }
}

impl Shelf for Directory {
    fn open(&self) -> Result<Store, StoreError> {
        let Directory(dir) = self;
        std::fs::create_dir_all(dir)
            .map_err(|error| StoreError::Engine(format!("cannot make {}: {error}", dir.display())))?;
        warn_if_not_in_memory(dir);
        engine(dir)
    }

    fn discard(&self) -> std::io::Result<()> {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn place(&self) -> String {
        self.0.display().to_string()
    }
}

/// Opens the store. What held it a moment ago (a process that ends, work in the background of an
/// adapter that began anew) may still be about to let go.
async fn open_shelf(shelf: &dyn Shelf) -> Result<Store, StoreError> {
    for _ in 0..LET_GO_TRIES {
        match shelf.open() {
            Err(StoreError::Engine(why)) if why.contains(LOCK_FILE) => tokio::time::sleep(LET_GO_EVERY).await,
            opened => return opened,
        }
    }
    shelf.open()
}

#[cfg(feature = "rocksdb")]
fn engine(dir: &Path) -> Result<Store, crate::store::StoreError> {
    Store::rocks(dir, &crate::store::RocksOptions::default())
}

#[cfg(not(feature = "rocksdb"))]
fn engine(_: &Path) -> Result<Store, crate::store::StoreError> {
    tracing::warn!("this build keeps its store in the process: every start replays the journal");
    Ok(Store::memory(Arc::new(Memory::new())))
}

fn warn_if_not_in_memory(dir: &Path) {
    let Ok(mounts) = std::fs::read_to_string("/proc/mounts") else { return };
    let Ok(dir) = dir.canonicalize() else { return };
    let kind = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((Path::new(fields.next()?), fields.next()?))
        })
        .filter(|(mount, _)| dir.starts_with(mount))
        .max_by_key(|(mount, _)| mount.as_os_str().len())
        .map(|(_, kind)| kind);
    if kind.is_some_and(|kind| kind != "tmpfs") {
        tracing::warn!(
            "{} is on {} and not on tmpfs: reads are as slow as that disk, and nothing is gained by it",
            dir.display(),
            kind.unwrap_or_default()
        );
    }
}
