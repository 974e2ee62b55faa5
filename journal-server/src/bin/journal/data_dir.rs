//! A node's data directory, looked at while no node runs on it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use journal_server::identity::{DirLock, NodeFile};
use journal_server::segment::Ids;
use journal_server::segment::fs::Fs;
use journal_server::segment::real_fs::RealFs;

use crate::exit::Usage;

/// Held by this process alone.
pub struct DataDir {
    pub dir: PathBuf,
    pub node: NodeFile,
    _lock: DirLock,
}

/// One group's log in it.
pub struct GroupDir {
    pub ids: Ids,
    pub dir: PathBuf,
    /// The node file says that it must be there.
    pub listed: bool,
}

impl DataDir {
    pub fn open(dir: &Path) -> anyhow::Result<DataDir> {
        let usage = |text: String| anyhow::Error::from(Usage(text));
        if !dir.join("node").is_file() {
            let text = format!("{} is no node's data directory: it has no file `node`", dir.display());
            return Err(usage(text));
        }
        let lock = DirLock::take(dir).map_err(|error| usage(format!("{error}. Stop the node first")))?;
        let file = dir.join("node");
        let node = NodeFile::load(&RealFs, &file).with_context(|| file.display().to_string())?;
        Ok(DataDir { dir: dir.to_owned(), node, _lock: lock })
    }

    /// All groups that the node file lists or that have a directory, `system` first.
    pub fn groups(&self) -> anyhow::Result<Vec<GroupDir>> {
        let Some(cluster) = &self.node.cluster else { return Ok(Vec::new()) };
        let groups = self.dir.join("groups");
        let mut ids: std::collections::BTreeSet<u64> = self.node.groups.keys().map(|id| id.0).collect();
        if groups.is_dir() {
            for path in RealFs.list(&groups)? {
                ids.extend(path.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok()));
            }
        }
        let group = |id: u64| GroupDir {
            ids: Ids { cluster: cluster.id.0, node: self.node.node_id.0, group: id },
            dir: groups.join(id.to_string()),
            listed: self.node.groups.contains_key(&proto::JournalId(id)),
        };
        Ok(ids.into_iter().map(group).collect())
    }
}

/// What people call a group.
pub fn name(group: u64) -> String {
    match group {
        0 => "system".to_owned(),
        id => format!("journal {id}"),
    }
}
