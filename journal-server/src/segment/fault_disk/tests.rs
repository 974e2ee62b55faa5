use super::*;

fn rng(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed)
}

fn dir() -> &'static Path {
    Path::new("/disk/journal")
}

fn path(name: &str) -> PathBuf {
    dir().join(name)
}

/// A disk with a directory and one synced file of the given bytes.
fn disk_with(bytes: &[u8]) -> (FaultDisk, Arc<dyn Fs>, Arc<dyn File>) {
    let disk = FaultDisk::new(1);
    let fs = disk.mount();
    fs.create_dir(dir()).unwrap();
    let file = fs.create(&path("file")).unwrap();
    write(&*file, bytes, 0).unwrap();
    file.sync().unwrap();
    fs.sync_dir(dir()).unwrap();
    (disk, fs, file)
}

fn write(file: &dyn File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let (one, other) = bytes.split_at(bytes.len() / 2);
    file.write_all_at(&[IoSlice::new(one), IoSlice::new(other)], offset)
}

fn content(disk: &FaultDisk, name: &str) -> Option<Vec<u8>> {
    let file = disk.mount().open(&path(name)).ok()?;
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

#[test]
fn a_killed_process_leaves_the_page_cache_and_its_handles_are_dead() {
    let (disk, fs, file) = disk_with(b"old");
    write(&*file, b"new", 0).unwrap();
    fs.create(&path("other")).unwrap();
    disk.kill();
    assert!(write(&*file, b"xxx", 0).is_err());
    assert!(file.sync().is_err() && file.len().is_err() && fs.list(dir()).is_err());
    assert_eq!(content(&disk, "file").unwrap(), b"new");
    assert_eq!(content(&disk, "other").unwrap(), b"");
    assert!(disk.has_unsynced());
    disk.crash_with(Loss::ALL, &mut rng(1));
    assert_eq!(content(&disk, "file").unwrap(), b"old");
    assert_eq!(content(&disk, "other"), None);
}

#[test]
fn what_was_synced_survives_and_a_name_needs_its_directory() {
    for seed in 0..100 {
        let (disk, fs, _file) = disk_with(b"synced");
        let late = fs.create(&path("late")).unwrap();
        write(&*late, b"late", 0).unwrap();
        late.sync().unwrap();
        disk.crash(&mut rng(seed));
        assert_eq!(content(&disk, "file").unwrap(), b"synced");
        assert!([None, Some(b"late".to_vec())].contains(&content(&disk, "late")));
        assert!(!disk.has_unsynced());
    }
}

#[test]
fn the_world_stops_at_the_step_it_was_told_to() {
    let mut partial = BTreeSet::new();
    for seed in 0..100 {
        let disk = FaultDisk::new(seed);
        let fs = disk.mount();
        fs.create_dir(dir()).unwrap();
        disk.stop_after(2);
        let file = fs.create(&path("file")).unwrap();
        write(&*file, &[1; 8], 0).unwrap();
        assert!(!disk.is_stopped());
        assert!(write(&*file, &[2; 8], 8).is_err());
        assert!(disk.is_stopped());
        assert!(file.read_exact_at(&mut [0], 0).is_err() && fs.space(dir()).is_err());
        disk.kill();
        let bytes = content(&disk, "file").unwrap();
        assert_eq!(bytes[..8], [1; 8]);
        partial.insert(bytes.len());
        assert_eq!(disk.steps(), 4);
    }
    assert!(partial.contains(&8) && partial.contains(&16) && partial.len() > 5, "{partial:?}");
}

#[test]
fn a_failed_sync_is_followed_by_one_that_succeeds_and_does_not_help() {
    let (disk, _fs, file) = disk_with(&[1; 8192]);
    disk.fail(Fault::eio(Op::Sync, 1));
    write(&*file, &[2; 8192], 0).unwrap();
    file.sync().unwrap();
    write(&*file, &[3; 8192], 0).unwrap();
    assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(libc::EIO));
    file.sync().unwrap();
    disk.kill();
    assert_eq!(content(&disk, "file").unwrap(), [3; 8192]);
    disk.mount().open(&path("file")).unwrap().drop_cache().unwrap();
    let bytes = content(&disk, "file").unwrap();
    assert!(bytes.contains(&2) && !bytes.contains(&1));
}

#[test]
fn a_failed_write_has_written_any_part_of_itself() {
    let (disk, _fs, file) = disk_with(&[1; 4096]);
    disk.fail(Fault { op: Op::Write, skip: 0, times: 2, errno: libc::EROFS });
    for _ in 0..2 {
        assert_eq!(write(&*file, &[2; 4096], 0).unwrap_err().raw_os_error(), Some(libc::EROFS));
    }
    write(&*file, &[3; 1], 0).unwrap();
    let bytes = content(&disk, "file").unwrap();
    assert!(bytes[1..].is_sorted_by(|a, b| a >= b), "a prefix of what was given");
}

#[test]
fn a_full_disk_takes_what_fits_and_overwrites_need_no_room() {
    let (disk, fs, file) = disk_with(&[1; 4096]);
    disk.set_capacity(8192);
    assert_eq!(fs.space(dir()).unwrap(), Space { total_bytes: 8192, free_bytes: 4096 });
    let error = write(&*file, &[2; 8192], 2048).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(file.len().unwrap(), 8192);
    write(&*file, &[3; 8192], 0).unwrap();
    assert_eq!(fs.space(dir()).unwrap().free_bytes, 0);
    fs.unlink(&path("file")).unwrap();
    assert_eq!(fs.space(dir()).unwrap().free_bytes, 0, "an open file keeps its space");
    drop(file);
    fs.sync_dir(dir()).unwrap();
    assert_eq!(fs.space(dir()).unwrap().free_bytes, 8192);
    disk.set_capacity(16384);
    assert_eq!(fs.space(dir()).unwrap().free_bytes, 16384);
}

#[test]
fn an_unlinked_file_comes_back_if_its_directory_was_not_synced() {
    let (disk, fs, file) = disk_with(b"bytes");
    drop(file);
    fs.unlink(&path("file")).unwrap();
    assert_eq!(content(&disk, "file"), None);
    let synced = disk.fork();
    disk.crash_with(Loss::ALL, &mut rng(1));
    assert_eq!(content(&disk, "file").unwrap(), b"bytes");
    synced.mount().sync_dir(dir()).unwrap();
    synced.crash_with(Loss::ALL, &mut rng(1));
    assert_eq!(content(&synced, "file"), None);
}

#[test]
fn a_fork_is_another_disk_and_durable_is_what_all_loss_leaves() {
    let (disk, _fs, file) = disk_with(b"one");
    write(&*file, b"two", 0).unwrap();
    let (fork, durable) = (disk.fork(), disk.durable());
    write(&*file, b"333", 0).unwrap();
    assert_eq!(content(&disk, "file").unwrap(), b"333");
    assert_eq!(content(&fork, "file").unwrap(), b"two");
    assert_eq!(content(&durable, "file").unwrap(), b"one");
    assert_eq!(disk.durable_bytes(&path("file")).unwrap(), b"one");
}

#[test]
fn a_removed_directory_may_come_back_until_its_parent_is_synced() {
    let mut seen = BTreeSet::new();
    for seed in 0..20 {
        let disk = FaultDisk::new(1);
        let fs = disk.mount();
        fs.create_dir(dir()).unwrap();
        fs.remove_dir(dir()).unwrap();
        assert!(fs.list(dir()).is_err());
        disk.crash(&mut rng(seed));
        seen.insert(disk.mount().list(dir()).is_ok());
    }
    assert_eq!(seen.len(), 2);
    let disk = FaultDisk::new(1);
    let fs = disk.mount();
    fs.create_dir(dir()).unwrap();
    fs.create(&path("file")).unwrap();
    assert_eq!(fs.remove_dir(dir()).unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    fs.unlink(&path("file")).unwrap();
    fs.remove_dir(dir()).unwrap();
    fs.sync_dir(Path::new("/disk")).unwrap();
    disk.crash_with(Loss::ALL, &mut rng(1));
    assert_eq!(disk.mount().list(Path::new("/disk")).unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn a_wiped_disk_is_empty_and_two_disks_share_nothing() {
    let (disk, _fs, _file) = disk_with(b"one");
    let other = FaultDisk::new(1);
    assert!(other.mount().list(dir()).is_err());
    disk.wipe();
    assert!(disk.mount().list(dir()).is_err());
    assert_eq!(disk.used_bytes(), 0);
}

#[test]
fn the_same_seeds_leave_the_same_disk() {
    let run = |seed: u64| {
        let disk = FaultDisk::new(seed);
        let fs = disk.mount();
        fs.create_dir(dir()).unwrap();
        disk.stop_after(seed % 9);
        for n in 0..4u8 {
            let Ok(file) = fs.create(&path(&n.to_string())) else { break };
            let _ = write(&*file, &vec![n; 3000], 0);
            let _ = file.sync();
        }
        disk.crash(&mut rng(seed));
        let files = disk.files(dir());
        files.iter().map(|file| (file.clone(), disk.durable_bytes(file))).collect::<Vec<_>>()
    };
    let distinct: BTreeSet<_> = (0..50).map(run).collect();
    assert_eq!(distinct, (0..50).map(run).collect());
    assert!(distinct.len() > 15);
}

#[test]
fn calls_are_counted_by_kind() {
    let (disk, fs, file) = disk_with(b"one");
    disk.fail(Fault::eio(Op::Read, 0));
    assert!(file.read_exact_at(&mut [0], 0).is_err());
    file.read_exact_at(&mut [0], 0).unwrap();
    fs.rename(&path("file"), &path("name")).unwrap();
    for (op, count) in
        [(Op::Read, 2), (Op::Write, 1), (Op::Sync, 1), (Op::SyncDir, 1), (Op::Rename, 1), (Op::Unlink, 0)]
    {
        assert_eq!(disk.count(op), count, "{op:?}");
    }
    assert_eq!(disk.steps(), 6);
}
