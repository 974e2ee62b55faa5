//! What kind of file system the data directory is on, and what is wrong with that kind.
//!
//! Segments are written in advance so that a sync changes no metadata; a copy-on-write file system
//! allocates anew at every write and takes that back. Some file systems forget everything at a power
//! cut. Neither is refused: an operator is told.

use std::path::{Path, PathBuf};

/// What to tell the operator about the directory's file system, on this machine.
pub fn warning(dir: &Path) -> Option<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let dir = dir.ancestors().find_map(|dir| dir.canonicalize().ok())?;
    let kind = kind_of(&table, &dir)?;
    Some(format!("{} is on {kind}: {}", dir.display(), trouble(&kind)?))
}

fn trouble(kind: &str) -> Option<&'static str> {
    match kind {
        "btrfs" | "zfs" | "bcachefs" | "nilfs2" => Some(
            "a copy-on-write file system allocates at every write, so that a sync costs several times more than on \
             ext4 or xfs; use one of those",
        ),
        "overlay" | "aufs" => Some("a container's own layer is lost with the container; mount a volume of the host"),
        "tmpfs" | "ramfs" => Some("it is memory: everything is lost at a power cut"),
        "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "virtiofs" | "ceph" | "glusterfs" => {
            Some("what a sync promises over a network is up to the server; use a local disk")
        }
        _ if kind.starts_with("fuse") => Some("what a sync promises is up to a program; use ext4 or xfs"),
        _ => None,
    }
}

/// The type of the file system that holds `dir`, by the longest mount point above it.
///
/// A line of the table: `36 35 98:0 /root /mount/point rw,noatime shared:1 - ext4 /dev/root rw`, with
/// any number of fields before the dash.
fn kind_of(table: &str, dir: &Path) -> Option<String> {
    let mounts = table.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = PathBuf::from(unescape(before.split(' ').nth(4)?));
        Some((point, after.split(' ').next()?))
    });
    // A later mount on the same point hides the earlier one; `max_by_key` takes the last of equals.
    let (_, kind) =
        mounts.filter(|(point, _)| dir.starts_with(point)).max_by_key(|(point, _)| point.components().count())?;
    Some(kind.to_owned())
}

/// Blanks in a mount point stand as `\040`, in octal.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 252:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:25 / /tmp rw - tmpfs tmpfs rw
31 22 0:26 / /var/lib rw,relatime shared:2 master:3 - btrfs /dev/vdb rw
32 31 252:16 / /var/lib/my\\040data rw - xfs /dev/vdc rw
33 22 0:30 / /tmp rw - ramfs none rw
";

    #[test]
    fn the_longest_and_latest_mount_point_counts() {
        let table = [
            ("/", "ext4"),
            ("/var/library", "ext4"),
            ("/var/lib/journal", "btrfs"),
            ("/var/lib/my data/a", "xfs"),
            ("/tmp/x", "ramfs"),
        ];
        for (dir, kind) in table {
            assert_eq!(kind_of(TABLE, Path::new(dir)).as_deref(), Some(kind), "{dir}");
        }
        assert_eq!(kind_of("nonsense\n- -\n", Path::new("/")), None);
    }

    #[test]
    fn plain_file_systems_raise_no_word() {
        for good in ["ext4", "xfs", "f2fs"] {
            assert_eq!(trouble(good), None);
        }
        for bad in ["btrfs", "zfs", "overlay", "tmpfs", "nfs4", "fuse.sshfs"] {
            assert!(trouble(bad).is_some(), "{bad}");
        }
    }
}
