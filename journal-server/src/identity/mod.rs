//! Who this node is: its data directory's node id, its cluster, and the groups it has opened.
//!
//! The id is a random number drawn when the directory is made. An empty directory is therefore always
//! a new node: a wiped disk cannot vote again under its old name, having forgotten what it promised.
//! [`Identity`] owns the node file; nothing else writes it. Forming a cluster is judged in
//! [`forming`], spoken in `crate::forming`; [`handshake`] is what every call between nodes opens with.

pub mod forming;
pub mod handshake;
mod node_file;

use std::fmt;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use proto::{JournalId, NodeId};
use tokio::sync::{Mutex, watch};

use crate::env::Env;
pub use node_file::{Cluster, Member, NodeFile, NodeFileError, Origin};

/// A cluster, for ever: a random number drawn when it is formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

/// Thirty-two hex digits.
impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for ClusterId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(ClusterId)
    }
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot use the data directory {dir}: {error}")]
    Unusable { dir: PathBuf, error: io::Error },
    #[error("another process uses the data directory {0}: two nodes must not share one")]
    InUse(PathBuf),
    #[error("{path}: {error}")]
    NodeFile { path: PathBuf, error: NodeFileError },
    #[error(
        "{dir} holds journals but no node file: part of it is lost. Restore it whole, or empty it: it is then a new \
         node, to be put in the old one's place (journal members replace)"
    )]
    NoNodeFile { dir: PathBuf },
    #[error(
        "the node file of {dir} lists journal {group}, but {group_dir} is missing or empty: part of the disk is \
         lost (a volume that is not mounted?). Bring it back, or empty the whole directory: it is then a new node, to \
         be put in the old one's place (journal members replace)"
    )]
    LostGroup { dir: PathBuf, group: JournalId, group_dir: PathBuf },
}

/// The data directory is this process's alone while it lives.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Makes the directory if need be. The lock ends with the process, however that ends.
    pub fn take(dir: &Path) -> Result<DirLock, IdentityError> {
        let unusable = |error| IdentityError::Unusable { dir: dir.to_owned(), error };
        std::fs::create_dir_all(dir).map_err(unusable)?;
        let file = File::options().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => Ok(DirLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(IdentityError::InUse(dir.to_owned())),
            Err(TryLockError::Error(error)) => Err(unusable(error)),
        }
    }
}

/// The node file, and the one handle to change it.
#[derive(Debug, Clone)]
pub struct Identity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    env: Env,
    dir: PathBuf,
    node_id: NodeId,
    /// Held while the file is written: changes come one after the other.
    writing: Mutex<()>,
    file: watch::Sender<NodeFile>,
}

impl Identity {
    /// Reads the data directory, or makes a new node in an empty one; blocks while it does.
    pub fn open(env: Env, dir: &Path) -> Result<Identity, IdentityError> {
        let unusable = |error| IdentityError::Unusable { dir: dir.to_owned(), error };
        env.fs.create_dir(dir).map_err(unusable)?;
        let path = dir.join("node");
        let file = match NodeFile::load(&*env.fs, &path) {
            Ok(file) => file,
            Err(NodeFileError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                if holds_something(&env, &dir.join("groups")).map_err(unusable)? {
                    return Err(IdentityError::NoNodeFile { dir: dir.to_owned() });
                }
                let file = NodeFile::new(draw_node_id(&env));
                file.store(&*env.fs, &path).map_err(unusable)?;
                file
            }
            Err(error) => return Err(IdentityError::NodeFile { path, error }),
        };
        for group in file.groups.keys() {
            let group_dir = group_dir(dir, *group);
            if !holds_something(&env, &group_dir).map_err(unusable)? {
                return Err(IdentityError::LostGroup { dir: dir.to_owned(), group: *group, group_dir });
            }
        }
        Ok(Identity(Arc::new(Inner {
            env,
            dir: dir.to_owned(),
            node_id: file.node_id,
            writing: Mutex::new(()),
            file: watch::Sender::new(file),
        })))
    }

    pub fn node_id(&self) -> NodeId {
        self.0.node_id
    }

    /// The cluster, once there is one.
    pub fn cluster(&self) -> Option<Cluster> {
        self.0.file.borrow().cluster.clone()
    }

    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.0.file.borrow().cluster.as_ref().map(|cluster| cluster.id)
    }

    /// Waits until the node belongs to a cluster: the moment to open `system`.
    pub async fn in_cluster(&self) -> Cluster {
        let mut changes = self.0.file.subscribe();
        let file = changes.wait_for(|file| file.cluster.is_some()).await.expect("self holds the sender");
        file.cluster.clone().expect("just waited for")
    }

    /// A copy of the whole file.
    pub fn file(&self) -> NodeFile {
        self.0.file.borrow().clone()
    }

    /// Where the groups' directories lie.
    pub fn groups_dir(&self) -> PathBuf {
        self.0.dir.join("groups")
    }

    /// Where everything of a group lies.
    pub fn group_dir(&self, group: JournalId) -> PathBuf {
        group_dir(&self.0.dir, group)
    }

    /// Notes that a group was opened here. To be called when its directory and first segment are
    /// durable, and before anything in it is acknowledged: from now on the directory must be there.
    pub async fn note_opened(&self, group: JournalId) -> io::Result<()> {
        self.change(|file| {
            file.groups.entry(group).or_default();
        })
        .await
    }

    /// Notes that a group is gone for good. To be called before its files are unlinked.
    pub async fn note_closed(&self, group: JournalId) -> io::Result<()> {
        self.change(|file| {
            file.groups.remove(&group);
        })
        .await
    }

    /// Remembers the members of an opened group, as last committed.
    pub async fn note_members(&self, group: JournalId, members: Vec<Member>) -> io::Result<()> {
        self.change(|file| {
            if let Some(known) = file.groups.get_mut(&group) {
                *known = members;
            }
        })
        .await
    }

    /// Changes the file; it is durable when this returns. After an error nothing is changed as far as
    /// this process is concerned, and either file may be on disk.
    pub async fn change<T>(&self, change: impl FnOnce(&mut NodeFile) -> T) -> io::Result<T> {
        let _writing = self.0.writing.lock().await;
        let mut file = self.file();
        let value = change(&mut file);
        if *self.0.file.borrow() == file {
            return Ok(value);
        }
        let (fs, path, copy) = (self.0.env.fs.clone(), self.0.dir.join("node"), file.clone());
        self.0.env.blocking(move || copy.store(&*fs, &path)).await?;
        self.0.file.send_replace(file);
        Ok(value)
    }
}

fn group_dir(dir: &Path, group: JournalId) -> PathBuf {
    dir.join("groups").join(group.to_string())
}

fn holds_something(env: &Env, dir: &Path) -> io::Result<bool> {
    match env.fs.list(dir) {
        Ok(paths) => Ok(!paths.is_empty()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Zero means "nobody" on the wire.
fn draw_node_id(env: &Env) -> NodeId {
    loop {
        match env.rng.next_u64() {
            0 => continue,
            id => return NodeId(id),
        }
    }
}
