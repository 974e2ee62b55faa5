//! The disk of the tests behaves as the real one: the same calls give the same answers and the same
//! bytes on both, as long as nothing is asked to fail.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use journal_server::segment::fault_disk::{FaultDisk, Loss};
use journal_server::segment::fs::{File, Fs};
use journal_server::segment::real_fs::RealFs;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// Names are few, so that calls meet.
type Name = u8;

#[derive(Debug, Clone)]
enum Call {
    Create(Name),
    Open(Name),
    Close(Name),
    Rename(Name, Name),
    Unlink(Name),
    CreateDir,
    RemoveDir,
    SyncDir,
    List,
    Write { name: Name, offset: u64, parts: Vec<Vec<u8>> },
    Read { name: Name, offset: u64, len: usize },
    Sync(Name),
    Len(Name),
    DropCache(Name),
}

fn call() -> impl Strategy<Value = Call> {
    let name = || 0..4u8;
    let offset = || prop_oneof![0..200u64, 0..20_000u64];
    let part = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (any::<u8>(), 0..9000usize).prop_map(|(byte, len)| vec![byte; len]),
        1 => (0..9000usize).prop_map(|len| vec![0; len]),
    ];
    prop_oneof![
        3 => name().prop_map(Call::Create),
        2 => name().prop_map(Call::Open),
        1 => name().prop_map(Call::Close),
        1 => (name(), name()).prop_map(|(from, to)| Call::Rename(from, to)),
        1 => name().prop_map(Call::Unlink),
        1 => Just(Call::CreateDir),
        1 => Just(Call::RemoveDir),
        1 => Just(Call::SyncDir),
        1 => Just(Call::List),
        6 => (name(), offset(), prop::collection::vec(part, 0..5))
            .prop_map(|(name, offset, parts)| Call::Write { name, offset, parts }),
        4 => (name(), offset(), prop_oneof![0..9000usize, 0..4usize])
            .prop_map(|(name, offset, len)| Call::Read { name, offset, len }),
        1 => name().prop_map(Call::Sync),
        1 => name().prop_map(Call::Len),
        1 => name().prop_map(Call::DropCache),
    ]
}

/// What a call answers, made comparable.
type Answer = Result<Vec<u8>, ErrorKind>;

struct Side {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    open: BTreeMap<Name, Arc<dyn File>>,
}

impl Side {
    fn path(&self, name: Name) -> PathBuf {
        self.dir.join(format!("file-{name}"))
    }

    fn do_it(&mut self, call: &Call) -> Option<Answer> {
        let done = match call {
            Call::Create(name) => {
                let made = self.fs.create(&self.path(*name));
                self.keep(*name, made)
            }
            Call::Open(name) => {
                let opened = self.fs.open(&self.path(*name));
                self.keep(*name, opened)
            }
            Call::Close(name) => {
                self.open.remove(name)?;
                Ok(Vec::new())
            }
            Call::Rename(from, to) => nothing(self.fs.rename(&self.path(*from), &self.path(*to))),
            Call::Unlink(name) => nothing(self.fs.unlink(&self.path(*name))),
            Call::CreateDir => nothing(self.fs.create_dir(&self.dir)),
            Call::RemoveDir => nothing(self.fs.remove_dir(&self.dir)),
            Call::SyncDir => nothing(self.fs.sync_dir(&self.dir)),
            Call::List => self.fs.list(&self.dir).map(|paths| {
                let names = paths.iter().map(|path| path.file_name().expect("it has a name"));
                names.flat_map(|name| name.as_encoded_bytes().to_vec()).collect()
            }),
            Call::Write { name, offset, parts } => {
                let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
                nothing(self.open.get(name)?.write_all_at(&slices, *offset))
            }
            Call::Read { name, offset, len } => {
                let mut buffer = vec![0; *len];
                let read = self.open.get(name)?.read_exact_at(&mut buffer, *offset);
                read.map(|()| buffer)
            }
            Call::Sync(name) => nothing(self.open.get(name)?.sync()),
            Call::Len(name) => self.open.get(name)?.len().map(|len| len.to_le_bytes().to_vec()),
            Call::DropCache(name) => nothing(self.open.get(name)?.drop_cache()),
        };
        Some(done.map_err(|error| error.kind()))
    }

    fn keep(&mut self, name: Name, file: io::Result<Arc<dyn File>>) -> io::Result<Vec<u8>> {
        self.open.insert(name, file?);
        Ok(Vec::new())
    }

    fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let paths = self.fs.list(&self.dir).unwrap_or_default();
        let content = |path: &Path| {
            let file = self.fs.open(path).unwrap();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        paths.iter().map(|path| (path.strip_prefix(&self.dir).unwrap().into(), content(path))).collect()
    }
}

fn nothing(done: io::Result<()>) -> io::Result<Vec<u8>> {
    done.map(|()| Vec::new())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_failing_disk_answers_as_the_real_one_does(
        calls in prop::collection::vec(call(), 1..60),
        seed in any::<u64>(),
    ) {
        let root = tempfile::tempdir().unwrap();
        let disk = FaultDisk::new(seed);
        let mut real = Side {
            fs: Arc::new(RealFs),
            dir: root.path().join("a/b"),
            open: BTreeMap::new(),
        };
        let mut fault = Side { fs: disk.mount(), dir: "/a/b".into(), open: BTreeMap::new() };
        for side in [&real, &fault] {
            side.fs.create_dir(&side.dir).unwrap();
        }
        for call in &calls {
            prop_assert_eq!(real.do_it(call), fault.do_it(call), "{:?}", call);
        }
        prop_assert_eq!(real.contents(), fault.contents());

        // What was synced is all that a power cut must leave, and a kill leaves everything.
        let whole = fault.contents();
        disk.kill();
        fault.fs = disk.mount();
        prop_assert_eq!(&whole, &fault.contents());
        for path in disk.files(&fault.dir) {
            disk.mount().open(&path).unwrap().sync().unwrap();
        }
        if fault.fs.list(&fault.dir).is_ok() {
            fault.fs.sync_dir(&fault.dir).unwrap();
        }
        fault.fs.sync_dir(Path::new("/a")).unwrap();
        disk.crash_with(Loss::ALL, &mut SmallRng::seed_from_u64(seed));
        fault.fs = disk.mount();
        prop_assert_eq!(&whole, &fault.contents());
    }
}
