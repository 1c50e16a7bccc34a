use super::*;

const PATH: &str = "d/f";

fn disk_with(bytes: &[u8], sync_bytes: bool, sync_name: bool) -> Disk {
    let disk = Disk::new(1);
    disk.create_dir(Path::new("d")).unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    let file = disk.create(Path::new(PATH)).unwrap();
    file.write_at(bytes, 0).unwrap();
    if sync_bytes {
        file.sync_data().unwrap();
    }
    if sync_name {
        disk.sync_dir(Path::new("d")).unwrap();
    }
    disk
}

fn content(disk: &Disk) -> Option<Vec<u8>> {
    super::super::read_whole(disk, Path::new(PATH), 1 << 20).ok()
}

#[track_caller]
fn check(sync_bytes: bool, sync_name: bool, unsynced: Unsynced, expected: Option<&[u8]>) {
    let disk = disk_with(b"hello", sync_bytes, sync_name);
    disk.power_loss(unsynced);
    assert_eq!(
        content(&disk).as_deref(),
        expected,
        "bytes {sync_bytes}, name {sync_name}, {unsynced:?}"
    );
}

#[test]
fn what_was_not_synced_is_lost_bytes_and_names_apart() {
    check(true, true, Unsynced::Dropped, Some(b"hello"));
    check(false, true, Unsynced::Dropped, Some(b""));
    check(true, false, Unsynced::Dropped, None);
    check(false, false, Unsynced::Kept, Some(b"hello"));
    check(true, true, Unsynced::Torn, Some(b"hello"));
}

#[test]
fn an_overwrite_comes_back() {
    let disk = disk_with(b"hello", true, true);
    disk.open(Path::new(PATH)).unwrap().write_at(b"EL0 WORLD", 1).unwrap();
    disk.power_loss(Unsynced::Dropped);
    assert_eq!(content(&disk).unwrap(), b"hello");
}

#[test]
fn a_directory_goes_once_it_is_empty_and_what_was_in_it_with_it() {
    let disk = disk_with(b"hello", true, true);
    let (dir, file) = (Path::new("d"), Path::new(PATH));
    let refused = |path| disk.remove_dir(path).unwrap_err().kind();
    assert_eq!(refused(dir), io::ErrorKind::DirectoryNotEmpty);
    assert_eq!(refused(file), io::ErrorKind::NotADirectory);
    disk.remove(file).unwrap();
    disk.remove_dir(dir).unwrap();
    assert_eq!(refused(dir), io::ErrorKind::NotFound);
    let unsynced = disk.fork(1);
    unsynced.power_loss(Unsynced::Dropped);
    assert_eq!(content(&unsynced).as_deref(), Some(&b"hello"[..]));
    // The file's removal was never synced; it goes with its directory all the same, and stays away.
    disk.sync_dir(Path::new("")).unwrap();
    disk.create_dir(dir).unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    disk.power_loss(Unsynced::Dropped);
    assert_eq!((disk.exists(dir).unwrap(), content(&disk)), (true, None));
}

/// Changes a synced `hello` of 20 bytes, the last 15 of them never written, and loses power.
#[track_caller]
fn check_length(change: impl Fn(&dyn VfsFile), live: &[u8]) {
    let mut synced = b"hello".to_vec();
    synced.resize(20, 0);
    let disk = disk_with(b"hello", true, true);
    let file = disk.open(Path::new(PATH)).unwrap();
    file.set_length(20).unwrap();
    file.sync_data().unwrap();
    assert_eq!(content(&disk).unwrap(), synced);
    assert_eq!(disk.used(), 5, "zeros behind the end take no space");
    change(&*file);
    assert_eq!(content(&disk).unwrap(), live);
    disk.power_loss(Unsynced::Dropped);
    assert_eq!(content(&disk).unwrap(), synced);
}

#[test]
fn zeros_that_were_never_written_come_back() {
    check_length(|file| file.write_at(b"xy", 10).unwrap(), b"hello\0\0\0\0\0xy\0\0\0\0\0\0\0\0");
    check_length(|file| file.set_length(3).unwrap(), b"hel");
    let shrunk_and_grown = |file: &dyn VfsFile| {
        file.set_length(3).unwrap();
        file.set_length(6).unwrap();
        file.write_at(b"z", 7).unwrap();
    };
    check_length(shrunk_and_grown, b"hel\0\0\0\0z");
}

#[test]
fn an_unsynced_rename_shows_the_old_file_again() {
    let disk = disk_with(b"old", true, true);
    super::super::write_atomically(&disk, Path::new("d"), "g", b"new").unwrap();
    disk.rename(Path::new("d/g"), Path::new(PATH)).unwrap();
    assert_eq!(content(&disk).unwrap(), b"new");
    disk.power_loss(Unsynced::Dropped);
    assert_eq!(content(&disk).unwrap(), b"old");
    assert!(disk.exists(Path::new("d/g")).unwrap());
}

#[test]
fn torn_writes_keep_whole_sectors_and_differ_by_seed() {
    let mut outcomes = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let disk = disk_with(&[7; 2000], false, true).fork(seed);
        disk.power_loss(Unsynced::Torn);
        let bytes = content(&disk).unwrap();
        for sector in bytes.chunks(512) {
            assert!(
                sector.iter().all(|byte| *byte == 7) || sector.iter().all(|byte| *byte == 0),
                "seed {seed}"
            );
        }
        outcomes.insert(bytes);
    }
    assert!(outcomes.len() > 5);
}

#[test]
fn after_a_crash_nothing_works_until_the_restart_and_old_handles_never() {
    let disk = disk_with(b"hello", true, true);
    let file = disk.open(Path::new(PATH)).unwrap();
    let lock = disk.lock(Path::new("d/LOCK"), "1").unwrap();
    disk.crash_at(disk.calls());
    assert!(file.length().is_err() && disk.list(Path::new("d")).is_err());
    disk.restart(Unsynced::Kept);
    assert!(file.length().is_err());
    let held = disk.lock(Path::new("d/LOCK"), "2").unwrap();
    drop(lock);
    assert!(
        matches!(disk.lock(Path::new("d/LOCK"), "3"), Err(LockFailure::Held { holder }) if holder == "2")
    );
    drop(held);
    assert_eq!(content(&disk).unwrap(), b"hello");
}

#[test]
fn a_full_disk_refuses_bytes_until_some_are_freed() {
    let disk = disk_with(&[1; 600], true, true);
    disk.set_capacity(Some(1000));
    let other = disk.create(Path::new("d/g")).unwrap();
    assert!(super::super::is_full(&other.write_at(&[2; 401], 0).unwrap_err()));
    other.write_at(&[2; 400], 0).unwrap();
    disk.remove(Path::new(PATH)).unwrap();
    disk.sync_dir(Path::new("d")).unwrap();
    assert_eq!(disk.free_space(Path::new("d")).unwrap(), 600);
}

#[test]
fn a_planned_fault_hits_its_call_alone() {
    let disk = disk_with(b"hello", true, true);
    disk.fail_at(disk.calls() + 1, Fault::Io);
    assert!(disk.exists(Path::new(PATH)).is_ok());
    assert!(disk.exists(Path::new(PATH)).is_err());
    assert!(disk.exists(Path::new(PATH)).is_ok());
}
