//! Bits that a bad disk forgets.
//!
//! What nothing on a disk proves to have been synced (the last plan before a process was killed) is cut at
//! the next start, for it looks like a write that never ended: that node has then lost what it
//! acknowledged, and the others must have it. Beside the other faults of a world that would be one loss
//! too many, so [`anywhere`] leaves that place alone; the story of [`last`] plays it by itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use journal_server::identity::NodeFile;
use journal_server::segment::fault_disk::FaultDisk;
use journal_server::segment::{Finding, Ids, verify};
use rand::Rng;
use rand::rngs::StdRng;

/// Places that are drawn before a disk is left as it is.
const DRAWS: usize = 16;

/// Flips one bit of what is written for some group, if something proves that it was synced. Where.
pub fn anywhere(disk: &FaultDisk, data_dir: &Path, rng: &mut StdRng) -> Option<(PathBuf, u64)> {
    let groups = disk.files(&data_dir.join("groups"));
    let files: Vec<PathBuf> = groups.iter().flat_map(|group| disk.files(group)).collect();
    let lens: Vec<u64> = files.iter().map(|path| written(disk, path)).collect();
    let total: u64 = lens.iter().sum();
    if total == 0 {
        return None;
    }
    let torn_before = torn(disk, data_dir, &groups).ok()?;
    for _ in 0..DRAWS {
        let mut at = rng.random_range(0..total);
        let file = lens.iter().position(|len| {
            let within = at < *len;
            at -= if within { 0 } else { *len };
            within
        })?;
        let mask = 1 << rng.random_range(0..8);
        disk.flip(&files[file], at, mask);
        if torn(disk, data_dir, &groups).is_ok_and(|torn| torn == torn_before) {
            return Some((files[file].clone(), at));
        }
        disk.flip(&files[file], at, mask);
    }
    None
}

/// Flips one bit of the last frame of a group. Whether something proves that the frame was synced.
pub fn last(disk: &FaultDisk, data_dir: &Path, group: u64, rng: &mut StdRng) -> anyhow::Result<bool> {
    let dir = data_dir.join("groups").join(group.to_string());
    let torn_before = torn(disk, data_dir, std::slice::from_ref(&dir))?;
    let file = disk.files(&dir).into_iter().rfind(|path| written(disk, path) > 0).context("nothing is written")?;
    disk.flip(&file, written(disk, &file) - 1, 1 << rng.random_range(0..8));
    Ok(torn(disk, data_dir, &[dir])? == torn_before)
}

/// Nobody reads what is behind the last frame.
fn written(disk: &FaultDisk, path: &Path) -> u64 {
    let bytes = disk.durable_bytes(path).unwrap_or_default();
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

/// The ends that a start would cut.
fn torn(disk: &FaultDisk, data_dir: &Path, groups: &[PathBuf]) -> anyhow::Result<Vec<Finding>> {
    let fs = disk.fork().mount();
    let node = NodeFile::load(&*fs, &data_dir.join("node"))?;
    let cluster = node.cluster.context("it belongs to no cluster")?.id.0;
    let mut torn = Vec::new();
    for dir in groups {
        let group = dir.file_name().and_then(|name| name.to_str()?.parse().ok()).context("no group")?;
        let ids = Ids { cluster, node: node.node_id.0, group };
        let verdict = verify::verify(&*fs, dir, ids, Arc::new(|_| {}))?;
        torn.extend(verdict.findings.into_iter().filter(|finding| matches!(finding, Finding::Torn { .. })));
    }
    Ok(torn)
}
