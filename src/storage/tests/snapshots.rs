//! Snapshots with a name: what counts as one, what is found damaged in it, and what crashes leave.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::history::open_in;
use super::*;
use crate::node_id::{ClusterId, NodeId};
use crate::storage::offline::DirectoryView;
use crate::storage::snapshots::{
    FoundSnapshot, NoteError, SnapshotNote, SnapshotOrder, SnapshotWorkError, verify_files,
};
use crate::storage::vfs::Vfs as _;

const POLICIES: [Unsynced; 3] = [Unsynced::Dropped, Unsynced::Kept, Unsynced::Torn];

fn order(name: &str, id: u64) -> SnapshotOrder {
    SnapshotOrder {
        name: name.parse().unwrap(),
        id,
        cluster: ClusterId::from_bits(7),
        cluster_name: "test".to_owned(),
        node: NodeId::from_bytes([1; 16]),
        node_name: "n1".to_owned(),
        layout: 3,
        keys: 9,
    }
}

fn make(store: &Store, name: &str, id: u64) -> Result<SnapshotNote, SnapshotWorkError> {
    let created = "2026-11-22T10:00:00Z".to_owned();
    store.make_snapshot(&order(name, id), created, &|_| Ok(()), &mut |_, _| true)
}

fn verify(store: &Store, name: &str) -> Result<SnapshotNote, SnapshotWorkError> {
    store.verify_snapshot(&name.parse().unwrap(), &mut |_, _| true)
}

/// A store of a few tables in two levels, and what it holds.
fn filled(disk: &Disk) -> (Store, BTreeMap<String, String>) {
    let (store, _) = open(disk, &small()).unwrap();
    for number in 0..60 {
        put(&store, &format!("key{number:03}"), &format!("value {number}"));
        run_jobs(&store);
    }
    let content = content(&store);
    (store, content)
}

fn at(path: &str) -> PathBuf {
    Path::new(DIR).join("snapshots").join(path)
}

/// The snapshots by name, `?` behind one that is none, `!` behind one whose note is damaged.
fn names(store: &Store) -> String {
    let shown = |found: FoundSnapshot| match found.note {
        Ok(_) => found.name.to_string(),
        Err(NoteError::Incomplete { .. }) => format!("{}?", found.name),
        Err(_) => format!("{}!", found.name),
    };
    store.snapshots().unwrap().into_iter().map(shown).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_snapshot_is_a_store_with_a_note_and_stays_as_it_was() {
    let disk = Disk::new(1);
    let (store, expected) = filled(&disk);
    let note = make(&store, "a", 1).unwrap();
    assert_eq!((note.id.as_str(), note.layout, note.keys), ("0000000000000001", 3, 9));
    assert_eq!(note.bytes, note.files.iter().map(|file| file.bytes).sum::<u64>());
    assert!(note.files.iter().any(|file| file.path.starts_with("sst/")), "{note:?}");
    for number in 0..60 {
        put(&store, &format!("key{number:03}"), "overwritten");
        run_jobs(&store);
    }
    assert_eq!(verify(&store, "a").unwrap(), note);
    let view = DirectoryView::open(&disk, &at("a")).unwrap();
    let text = |bytes: &bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let seen = view.live().map(|entry| entry.unwrap());
    let seen = seen.map(|entry| (text(&entry.key), text(&entry.value.unwrap())));
    assert_eq!(seen.collect::<BTreeMap<_, _>>(), expected);
    drop(store);
    let (copy, _) = open_in(&disk, &at("a"), &small()).unwrap();
    assert_eq!(content(&copy), expected);
}

#[test]
fn the_same_order_finds_what_it_made_and_another_one_is_refused() {
    let disk = Disk::new(1);
    let (store, _) = filled(&disk);
    let note = make(&store, "a", 1).unwrap();
    put(&store, "later", "not in it");
    assert_eq!(make(&store, "a", 1).unwrap(), note);
    assert!(matches!(make(&store, "a", 2), Err(SnapshotWorkError::Exists { .. })));
    make(&store, "b", 2).unwrap();
    assert_eq!(names(&store), "a b");
    store.remove_snapshot(&"a".parse().unwrap()).unwrap();
    let missing = store.remove_snapshot(&"a".parse().unwrap());
    assert!(matches!(missing, Err(SnapshotWorkError::Missing { .. })));
    assert!(matches!(verify(&store, "a"), Err(SnapshotWorkError::Missing { .. })));
    assert_eq!(names(&store), "b");
    assert!(disk.files().iter().all(|(path, _)| !path.starts_with(at("a"))));
    make(&store, "a", 2).unwrap();
}

/// What is found once something was done to one file.
#[track_caller]
fn check_damage(disk: &Disk, store: &Store, path: &Path, reason: &str) {
    match verify(store, "a") {
        Err(SnapshotWorkError::Damaged(damaged)) => {
            let [only] = &damaged[..] else { panic!("{path:?}: {damaged:?}") };
            assert_eq!(only.file, path);
            assert!(only.reason.contains(reason), "{path:?}: {}", only.reason);
        }
        other => panic!("{path:?}: {other:?}"),
    }
    assert!(disk.files().iter().any(|(found, _)| found == &at("a/SNAPSHOT")));
}

#[test]
fn every_file_that_changed_is_named() {
    let disk = Disk::new(1);
    let (store, _) = filled(&disk);
    let note = make(&store, "a", 1).unwrap();
    drop(store);
    for file in &note.files {
        let path = at("a").join(&file.path);
        let reopened = |change: &dyn Fn(&Disk)| {
            let copy = disk.fork(1);
            let (store, _) = open(&copy, &small()).unwrap();
            change(&copy);
            (copy, store)
        };
        let (copy, store) = reopened(&|copy| copy.flip_bit(&path, file.bytes / 2, 3).unwrap());
        check_damage(&copy, &store, &path, "SHA-1");
        let (copy, store) = reopened(&|copy| copy.truncate(&path, file.bytes - 1).unwrap());
        check_damage(&copy, &store, &path, "bytes");
        let (copy, store) = reopened(&|copy| copy.remove(&path).unwrap());
        check_damage(&copy, &store, &path, "gone");
    }
    let (store, _) = open(&disk, &small()).unwrap();
    disk.flip_bit(&at("a/SNAPSHOT"), 40, 0).unwrap();
    assert!(matches!(
        verify(&store, "a"),
        Err(SnapshotWorkError::Note(NoteError::Malformed { .. }))
    ));
    assert!(matches!(make(&store, "a", 1), Err(SnapshotWorkError::Exists { .. })));
    assert_eq!(names(&store), "a!");
    store.remove_snapshot(&"a".parse().unwrap()).unwrap();
    assert_eq!(names(&store), "");
}

#[test]
fn a_rotten_table_is_not_taken_into_a_snapshot() {
    let disk = Disk::new(1);
    let (store, _) = filled(&disk);
    let tables = disk.files().into_iter().map(|(path, _)| path);
    let table = tables.filter(|path| path.starts_with(Path::new(DIR).join("sst"))).min().unwrap();
    disk.flip_bit(&table, 20, 1).unwrap();
    match make(&store, "a", 1) {
        Err(SnapshotWorkError::Damaged(damaged)) => {
            assert_eq!(damaged[0].file.file_name(), table.file_name());
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(names(&store), "");
}

#[test]
fn one_that_is_refused_or_given_up_leaves_nothing() {
    let disk = Disk::new(1);
    let (store, _) = filled(&disk);
    let created = String::new;
    let refused = store.make_snapshot(
        &order("a", 1),
        created(),
        &|_| Err("another layout".to_owned()),
        &mut |_, _| true,
    );
    assert!(
        matches!(refused, Err(SnapshotWorkError::Refused { reason }) if reason == "another layout")
    );
    let mut told = Vec::new();
    let given_up = store.make_snapshot(&order("a", 1), created(), &|_| Ok(()), &mut |done, all| {
        told.push((done, all));
        told.len() < 3
    });
    assert!(matches!(given_up, Err(SnapshotWorkError::GivenUp)));
    assert!(told.is_sorted() && told.iter().all(|(done, all)| done <= all), "{told:?}");
    assert_eq!(names(&store), "");
    make(&store, "a", 1).unwrap();
}

/// Crashes before each call to the file system that `act` makes. What is left is no snapshot, or a whole one; the name can
/// be freed, and used again.
#[track_caller]
fn check_crashes(
    disk: &Disk,
    store: Store,
    expected: &BTreeMap<String, String>,
    act: fn(&Store),
    left: &str,
) {
    let copies = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&copies);
    disk.observe(Some(Box::new(move |copy| seen.lock().unwrap().push(copy))));
    act(&store);
    disk.observe(None);
    drop(store);
    // What was done is durable.
    for policy in POLICIES {
        let disk = disk.fork(1);
        disk.power_loss(policy);
        let (store, _) = open(&disk, &small()).unwrap();
        assert_eq!(names(&store), left, "{policy:?}");
    }
    let copies = std::mem::take(&mut *copies.lock().unwrap());
    assert!(copies.len() > 10, "only {} calls", copies.len());
    let mut whole = 0;
    for (call, copy) in copies.into_iter().enumerate() {
        for policy in POLICIES {
            let disk = copy.fork(call as u64);
            disk.power_loss(policy);
            let (store, _) = open(&disk, &small()).unwrap();
            let what = || format!("call {call}, {policy:?}");
            for found in store.snapshots().unwrap() {
                match found.note {
                    Ok(note) => {
                        verify_files(&disk, &at("a"), &note, &mut |_, _| true)
                            .unwrap_or_else(|error| panic!("{}: {error}", what()));
                        let (copy, _) = open_in(&disk.fork(1), &at("a"), &small()).unwrap();
                        assert_eq!(&content(&copy), expected, "{}", what());
                        whole += 1;
                    }
                    Err(NoteError::Incomplete { .. }) => {}
                    Err(other) => panic!("{}: {other}", what()),
                }
            }
            match store.remove_snapshot(&"a".parse().unwrap()) {
                Ok(()) | Err(SnapshotWorkError::Missing { .. }) => {}
                Err(error) => panic!("{}: {error}", what()),
            }
            assert_eq!(names(&store), "", "{}", what());
            let note = make(&store, "a", 5).unwrap_or_else(|error| panic!("{}: {error}", what()));
            assert_eq!(note.id, "0000000000000005");
        }
    }
    assert!(whole > 0, "no crash came after the note, or before it was gone");
}

#[test]
fn a_crash_as_one_is_made_leaves_none_or_a_whole_one() {
    let disk = Disk::new(1);
    let (store, expected) = filled(&disk);
    let act = |store: &Store| {
        make(store, "a", 1).unwrap();
        // One more call, so that a crash comes after all of it.
        assert_eq!(names(store), "a");
    };
    check_crashes(&disk, store, &expected, act, "a");
}

#[test]
fn a_crash_as_one_is_removed_leaves_none_or_a_whole_one() {
    let disk = Disk::new(1);
    let (store, expected) = filled(&disk);
    make(&store, "a", 1).unwrap();
    let act = |store: &Store| store.remove_snapshot(&"a".parse().unwrap()).unwrap();
    check_crashes(&disk, store, &expected, act, "");
}

#[test]
fn what_nobody_here_made_is_left_alone() {
    let disk = Disk::new(1);
    let (store, _) = filled(&disk);
    disk.create_dir(&at(".hidden")).unwrap();
    disk.create_dir(&at("half.tmp")).unwrap();
    make(&store, "a", 1).unwrap();
    assert_eq!(names(&store), "a half?");
    assert!(disk.exists(&at(".hidden")).unwrap());
}
