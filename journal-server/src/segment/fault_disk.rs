//! A disk in memory that fails on demand, for the crash tests and the simulator: it loses, tears,
//! flips, fills and refuses, always the same way for the same seed. It stands behind the same traits
//! as the real one, so what runs above it is the code that runs in production.
//!
//! A [`FaultDisk`] is the hardware; [`FaultDisk::mount`] gives the file system as one process sees
//! it. A process ends by [`FaultDisk::kill`] (the page cache survives) or by [`FaultDisk::crash`] (the
//! power goes as well: of what was not synced, any part is kept, lost or torn). Every call on a mount
//! or file of an ended process is an error and changes nothing.
//!
//! What it promises is what a journaled file system on an honest device does: a sync that succeeded
//! holds, bytes beside a torn write keep their value, a rename is whole or not at all. Nothing more:
//! unsynced sectors reach the device in any order, and names before their directory is synced in any
//! order that makes sense.

mod names;
mod pages;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

use self::names::{FileNumber, Names};
use self::pages::Pages;
use super::fs::{File, Fs, Space};

/// One disk. Cheap to clone; clones are the same disk ([`FaultDisk::fork`] makes another).
#[derive(Clone)]
pub struct FaultDisk {
    state: Arc<Mutex<State>>,
}

/// What a process asks of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    CreateDir,
    RemoveDir,
    SyncDir,
    Open,
    Create,
    Rename,
    Unlink,
    List,
    Space,
    Read,
    Write,
    Sync,
    DropCache,
}

impl Op {
    /// Whether it may change what a crash leaves. These are the steps that [`FaultDisk::stop_after`]
    /// counts.
    pub fn is_step(self) -> bool {
        !matches!(self, Op::Open | Op::List | Op::Space | Op::Read | Op::DropCache)
    }
}

/// Calls that fail: of those of one kind, after `skip` more, `times` in a row.
///
/// A failing write has written any part of itself. A failing sync is ext4's: any part of the data is
/// on the device, the rest never will be, and the next sync succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub op: Op,
    pub skip: u64,
    pub times: u64,
    pub errno: i32,
}

impl Fault {
    pub fn eio(op: Op, skip: u64) -> Fault {
        Fault { op, skip, times: 1, errno: libc::EIO }
    }
}

/// How much of what was not synced a power cut takes.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    /// Chance of a sector, a length or a change of a name to be kept.
    kept: f64,
    /// Chance of a sector that is not kept to be torn.
    torn: f64,
    /// The device wrote in order: nothing is kept after the first thing that is not.
    ordered: bool,
    ended: bool,
}

impl Loss {
    /// Everything that was not synced is as if it had never been.
    pub const ALL: Loss = Loss { kept: 0.0, torn: 0.0, ordered: false, ended: false };
    /// Everything was written just in time.
    pub const NONE: Loss = Loss { kept: 1.0, torn: 0.0, ordered: false, ended: false };

    /// One of many kinds of crash: all, nearly all, nearly nothing, a prefix, torn or clean.
    pub fn draw(rng: &mut dyn RngCore) -> Loss {
        let kept = [0.0, 0.1, 0.5, 0.5, 0.9, 0.97, 1.0][rng.random_range(0..7)];
        let torn = [0.0, 0.1, 0.5, 1.0][rng.random_range(0..4)];
        Loss { kept, torn, ordered: rng.random_bool(0.25), ended: false }
    }

    fn keeps(&mut self, rng: &mut dyn RngCore) -> bool {
        let kept = !self.ended && rng.random_bool(self.kept);
        self.ended |= self.ordered && !kept;
        kept
    }

    fn tears(&self, rng: &mut dyn RngCore) -> bool {
        rng.random_bool(self.torn)
    }

    fn is_none(&self) -> bool {
        self.kept >= 1.0
    }
}

#[derive(Debug)]
struct State {
    dirs: BTreeMap<PathBuf, Dir>,
    files: BTreeMap<FileNumber, Inode>,
    next_file: FileNumber,
    /// Number of the process that may use the disk. Those before it have ended.
    life: u64,
    stopped: bool,
    stop_at: Option<u64>,
    steps: u64,
    counts: BTreeMap<Op, u64>,
    faults: Vec<Fault>,
    capacity_bytes: u64,
    /// For what a failing call leaves behind.
    rng: SmallRng,
}

#[derive(Debug, Clone, Default)]
struct Dir {
    names: Names,
    /// Removed, but its parent is not synced yet.
    removed: bool,
}

#[derive(Debug, Clone, Default)]
struct Inode {
    pages: Pages,
    /// Open files of the living process.
    handles: u32,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    /// The machine stops within it.
    Stopped,
    Failed(i32),
}

impl Fate {
    fn outcome(self) -> io::Result<()> {
        match self {
            Fate::Done => Ok(()),
            Fate::Stopped => Err(dead()),
            Fate::Failed(errno) => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

const CAPACITY_BYTES: u64 = 1 << 40;

impl FaultDisk {
    /// An empty disk. The seed decides what failing calls leave behind.
    pub fn new(seed: u64) -> FaultDisk {
        let state = State {
            dirs: BTreeMap::from([(PathBuf::from("/"), Dir::default())]),
            files: BTreeMap::new(),
            next_file: 1,
            life: 0,
            stopped: false,
            stop_at: None,
            steps: 0,
            counts: BTreeMap::new(),
            faults: Vec::new(),
            capacity_bytes: CAPACITY_BYTES,
            rng: SmallRng::seed_from_u64(seed),
        };
        FaultDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// The file system as the living process sees it. Paths are absolute.
    pub fn mount(&self) -> Arc<dyn Fs> {
        let life = self.state.lock().life;
        Arc::new(Mount { state: self.state.clone(), life })
    }

    /// The process dies, the machine does not: everything written is still in the page cache.
    pub fn kill(&self) {
        let mut state = self.state.lock();
        state.dirs.values_mut().for_each(|dir| dir.names.kill());
        state.end_life();
    }

    /// The power goes, in one of many ways. Whatever was armed is disarmed.
    pub fn crash(&self, rng: &mut dyn RngCore) {
        let loss = Loss::draw(rng);
        self.crash_with(loss, rng);
    }

    /// The power goes, in a given way.
    pub fn crash_with(&self, mut loss: Loss, rng: &mut dyn RngCore) {
        let mut state = self.state.lock();
        // In the order in which files were made, so that `ordered` means something.
        for inode in state.files.values_mut() {
            inode.pages.crash(&mut loss, rng);
        }
        let mut gone = Vec::new();
        for (path, dir) in &mut state.dirs {
            if dir.removed && loss.keeps(rng) {
                gone.push(path.clone());
            } else {
                dir.removed = false;
                dir.names.crash(&mut loss, rng);
            }
        }
        for path in gone {
            state.dirs.remove(&path);
        }
        state.end_life();
    }

    /// The disk is replaced by an empty one.
    pub fn wipe(&self) {
        let mut state = self.state.lock();
        state.dirs = BTreeMap::from([(PathBuf::from("/"), Dir::default())]);
        state.files.clear();
        state.end_life();
    }

    /// The machine stops within the step that follows `steps` more: it happens in part or not at all,
    /// and every call from then on is an error, until the process is ended by `kill` or `crash`.
    pub fn stop_after(&self, steps: u64) {
        let mut state = self.state.lock();
        state.stop_at = Some(state.steps + steps + 1);
    }

    pub fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// Arms a fault. Several may be armed; of one kind the first that is due takes the call.
    pub fn fail(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// Disarms faults and the stop. Flipped and unreadable bytes remain.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.faults.clear();
        state.stop_at = None;
    }

    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity_bytes = bytes;
    }

    /// Bytes that files take, names or not.
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes()
    }

    /// Flips bits of a byte for good. False if the file is not that long, or is not.
    pub fn flip(&self, path: &Path, offset: u64, mask: u8) -> bool {
        let mut state = self.state.lock();
        state.inode_mut(path).is_some_and(|inode| inode.pages.flip(offset, mask))
    }

    /// Makes reads of a range fail until all of it is written in one call.
    pub fn make_unreadable(&self, path: &Path, range: Range<u64>) {
        let mut state = self.state.lock();
        if let Some(inode) = state.inode_mut(path) {
            inode.pages.make_unreadable(range);
        }
    }

    /// Steps done by all processes so far.
    pub fn steps(&self) -> u64 {
        self.state.lock().steps
    }

    /// Calls of one kind so far, those that failed included.
    pub fn count(&self, op: Op) -> u64 {
        self.state.lock().counts.get(&op).copied().unwrap_or(0)
    }

    /// Whether a power cut could take anything.
    pub fn has_unsynced(&self) -> bool {
        let state = self.state.lock();
        state.dirs.values().any(|dir| dir.removed || dir.names.has_unsynced())
            || state.files.values().any(|inode| inode.pages.has_unsynced())
    }

    /// Another disk with the same content, cached and durable, on which nothing is armed and no
    /// process runs.
    pub fn fork(&self) -> FaultDisk {
        let state = self.state.lock();
        let mut copy = State {
            dirs: state.dirs.clone(),
            files: state.files.clone(),
            next_file: state.next_file,
            life: state.life,
            stopped: false,
            stop_at: None,
            steps: state.steps,
            counts: state.counts.clone(),
            faults: Vec::new(),
            capacity_bytes: state.capacity_bytes,
            rng: state.rng.clone(),
        };
        copy.end_life();
        FaultDisk { state: Arc::new(Mutex::new(copy)) }
    }

    /// Another disk with only what is durable on this one.
    pub fn durable(&self) -> FaultDisk {
        let copy = self.fork();
        copy.crash_with(Loss::ALL, &mut SmallRng::seed_from_u64(0));
        copy
    }

    /// The files of a directory, sorted by name; none if there is no such directory.
    pub fn files(&self, dir: &Path) -> Vec<PathBuf> {
        self.state.lock().list(dir).unwrap_or_default()
    }

    /// What of a file is on the device, whatever is cached over it.
    pub fn durable_bytes(&self, path: &Path) -> Option<Vec<u8>> {
        self.state.lock().inode_mut(path).map(|inode| inode.pages.durable_bytes())
    }
}

impl fmt::Debug for FaultDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("FaultDisk")
            .field("life", &state.life)
            .field("steps", &state.steps)
            .field("files", &state.files.len())
            .field("stopped", &state.stopped)
            .finish()
    }
}

/// A disk as one process sees it.
struct Mount {
    state: Arc<Mutex<State>>,
    life: u64,
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mount({})", self.life)
    }
}

impl Mount {
    fn handle(&self, state: &mut State, file: FileNumber, path: &Path) -> Arc<dyn File> {
        state.files.get_mut(&file).expect("a name leads to a file").handles += 1;
        Arc::new(Handle { state: self.state.clone(), life: self.life, file, path: path.into() })
    }
}

impl Fs for Mount {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let fate = state.begin(self.life, Op::CreateDir)?;
        if fate == Fate::Done || state.rng.random_bool(0.5) {
            for part in dir.ancestors() {
                if state.dirs.get(part).is_none_or(|old| old.removed) {
                    state.dirs.insert(part.into(), Dir::default());
                }
            }
        }
        fate.outcome()
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        state.begin(self.life, Op::Open)?.outcome()?;
        let file = state.number(path).ok_or(ErrorKind::NotFound)?;
        Ok(self.handle(&mut state, file, path))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        let fate = state.begin(self.life, Op::Create)?;
        let file = state.next_file;
        let (names, name) = state.place(path)?;
        if names.get(&name).is_some() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        if fate != Fate::Done && state.rng.random_bool(0.5) {
            fate.outcome()?;
        }
        state.place(path)?.0.link(name, file);
        state.next_file += 1;
        state.files.insert(file, Inode::default());
        fate.outcome()?;
        Ok(self.handle(&mut state, file, path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if from.parent() != to.parent() {
            return Err(ErrorKind::CrossesDevices.into());
        }
        let mut state = self.state.lock();
        let fate = state.begin(self.life, Op::Rename)?;
        let (_, to) = state.place(to)?;
        let (names, from_name) = state.place(from)?;
        if names.get(&from_name).is_none() {
            return Err(ErrorKind::NotFound.into());
        }
        if fate == Fate::Done || state.rng.random_bool(0.5) {
            state.place(from)?.0.rename(from_name, to);
        }
        fate.outcome()
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let fate = state.begin(self.life, Op::Unlink)?;
        let (names, name) = state.place(path)?;
        if names.get(&name).is_none() {
            return Err(ErrorKind::NotFound.into());
        }
        if fate == Fate::Done || state.rng.random_bool(0.5) {
            state.place(path)?.0.unlink(name);
        }
        fate.outcome()
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let fate = state.begin(self.life, Op::RemoveDir)?;
        if !state.list(dir)?.is_empty() {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        if fate == Fate::Done || state.rng.random_bool(0.5) {
            state.dir_mut(dir)?.removed = true;
        }
        fate.outcome()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let fate = state.begin(self.life, Op::SyncDir)?;
        let names = &mut state.dir_mut(dir)?.names;
        match fate {
            Fate::Done => {
                names.sync();
                state.dirs.retain(|path, it| !it.removed || path.parent() != Some(dir));
                state.forget_files();
            }
            Fate::Stopped => {}
            Fate::Failed(_) => names.fail_sync(),
        }
        fate.outcome()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut state = self.state.lock();
        state.begin(self.life, Op::List)?.outcome()?;
        state.list(dir)
    }

    fn space(&self, _dir: &Path) -> io::Result<Space> {
        let mut state = self.state.lock();
        state.begin(self.life, Op::Space)?.outcome()?;
        let total_bytes = state.capacity_bytes;
        Ok(Space { total_bytes, free_bytes: total_bytes.saturating_sub(state.used_bytes()) })
    }
}

/// An open file of one process.
struct Handle {
    state: Arc<Mutex<State>>,
    life: u64,
    file: FileNumber,
    path: PathBuf,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({})", self.path.display())
    }
}

impl File for Handle {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.begin(self.life, Op::Read)?.outcome()?;
        state.open_file(self.file).pages.read(buffer, offset)
    }

    fn write_all_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let mut fate = state.begin(self.life, Op::Write)?;
        let len: u64 = buffers.iter().map(|it| it.len() as u64).sum();
        let mut allowed = match fate {
            Fate::Done => len,
            Fate::Stopped | Fate::Failed(_) => state.rng.random_range(0..=len),
        };
        // A full disk takes what fits.
        let had = Pages::allocated(state.open_file(self.file).pages.len());
        let room = had + state.capacity_bytes.saturating_sub(state.used_bytes());
        if Pages::allocated(offset + allowed) > room {
            allowed = room.saturating_sub(offset).min(allowed);
            if fate == Fate::Done {
                fate = Fate::Failed(libc::ENOSPC);
            }
        }
        let pages = &mut state.open_file(self.file).pages;
        let mut at = offset;
        for buffer in buffers {
            let left = usize::try_from(offset + allowed - at).unwrap_or(usize::MAX);
            let part = &buffer[..buffer.len().min(left)];
            if !part.is_empty() {
                pages.write(part, at);
                at += part.len() as u64;
            }
        }
        fate.outcome()
    }

    fn sync(&self) -> io::Result<()> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let fate = state.begin(self.life, Op::Sync)?;
        let State { files, rng, .. } = state;
        let pages = &mut files.get_mut(&self.file).expect("an open file stays").pages;
        match fate {
            Fate::Done => pages.sync(),
            Fate::Stopped => {}
            Fate::Failed(_) => pages.fail_sync(rng),
        }
        fate.outcome()
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.state.lock();
        state.alive(self.life)?;
        Ok(state.open_file(self.file).pages.len())
    }

    fn drop_cache(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.begin(self.life, Op::DropCache)?.outcome()?;
        state.open_file(self.file).pages.drop_cache();
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.life == self.life {
            let inode = state.open_file(self.file);
            inode.handles -= 1;
            if inode.handles == 0 {
                state.forget_files();
            }
        }
    }
}

impl State {
    fn alive(&self, life: u64) -> io::Result<()> {
        if self.stopped || self.life != life { Err(dead()) } else { Ok(()) }
    }

    fn begin(&mut self, life: u64, op: Op) -> io::Result<Fate> {
        self.alive(life)?;
        *self.counts.entry(op).or_default() += 1;
        if op.is_step() {
            self.steps += 1;
            if self.stop_at == Some(self.steps) {
                self.stopped = true;
                return Ok(Fate::Stopped);
            }
        }
        let mut fate = Fate::Done;
        for fault in self.faults.iter_mut().filter(|fault| fault.op == op) {
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if fate == Fate::Done {
                fate = Fate::Failed(fault.errno);
                fault.times = fault.times.saturating_sub(1);
            }
        }
        self.faults.retain(|fault| fault.times > 0);
        Ok(fate)
    }

    fn end_life(&mut self) {
        self.life += 1;
        self.stopped = false;
        self.stop_at = None;
        self.faults.clear();
        self.files.values_mut().for_each(|inode| inode.handles = 0);
        self.forget_files();
    }

    fn dir_mut(&mut self, dir: &Path) -> io::Result<&mut Dir> {
        let found = self.dirs.get_mut(dir).filter(|it| !it.removed);
        found.ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// The directory of a path, and its name there.
    fn place(&mut self, path: &Path) -> io::Result<(&mut Names, OsString)> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(ErrorKind::InvalidInput.into());
        };
        Ok((&mut self.dir_mut(dir)?.names, name.into()))
    }

    fn number(&mut self, path: &Path) -> Option<FileNumber> {
        let (names, name) = self.place(path).ok()?;
        names.get(&name)
    }

    fn inode_mut(&mut self, path: &Path) -> Option<&mut Inode> {
        let file = self.number(path)?;
        self.files.get_mut(&file)
    }

    fn open_file(&mut self, file: FileNumber) -> &mut Inode {
        self.files.get_mut(&file).expect("an open file stays")
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let found = self.dirs.get(dir).filter(|it| !it.removed).ok_or(ErrorKind::NotFound)?;
        let mut paths: Vec<PathBuf> = found.names.live().map(|(name, _)| dir.join(name)).collect();
        let below = self.dirs.iter().filter(|(path, it)| !it.removed && path.parent() == Some(dir));
        paths.extend(below.map(|(path, _)| path.clone()));
        paths.sort_unstable();
        Ok(paths)
    }

    fn used_bytes(&self) -> u64 {
        self.files.values().map(|inode| Pages::allocated(inode.pages.len())).sum()
    }

    /// Gives back what neither a name, nor a crash, nor an open file can reach.
    fn forget_files(&mut self) {
        let named: BTreeSet<FileNumber> = self.dirs.values().flat_map(|dir| dir.names.files()).collect();
        self.files.retain(|file, inode| inode.handles > 0 || named.contains(file));
    }
}

fn dead() -> io::Error {
    io::Error::other("the machine has stopped")
}

#[cfg(test)]
mod tests;
