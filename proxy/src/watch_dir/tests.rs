#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

/// No tick within the test: only events can wake it.
const NEVER: Duration = Duration::from_secs(3600);

fn watch(reconcile: Duration) -> (TempDir, DirWatcher) {
    let dir = TempDir::new().unwrap();
    let watcher = DirWatcher::new(dir.path(), reconcile).unwrap();
    (dir, watcher)
}

async fn expect_change(watcher: &mut DirWatcher) {
    timeout(Duration::from_secs(10), watcher.changed())
        .await
        .expect("no change seen");
}

/// Waits until the events up to now were seen.
async fn until(watcher: &mut DirWatcher, mut condition: impl FnMut(&mut DirWatcher) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition(watcher) {
        assert!(Instant::now() < deadline, "never came true");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_new_a_removed_and_a_renamed_file_are_changes() {
    let (dir, mut watcher) = watch(NEVER);
    fs::write(dir.path().join("a"), "1").unwrap();
    expect_change(&mut watcher).await;
    fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
    expect_change(&mut watcher).await;
    fs::remove_file(dir.path().join("b")).unwrap();
    expect_change(&mut watcher).await;
}

#[tokio::test]
async fn a_symlink_swap_is_a_change() {
    let (dir, mut watcher) = watch(NEVER);
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("..v1")).unwrap();
    fs::create_dir(at("..v2")).unwrap();
    symlink("..v1", at("..data")).unwrap();
    symlink("..v2", at("..data_tmp")).unwrap();
    sleep(Duration::from_millis(100)).await;
    expect_change(&mut watcher).await;
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    expect_change(&mut watcher).await;
}

#[tokio::test]
async fn reading_is_no_change_and_cancelling_loses_none() {
    let (dir, mut watcher) = watch(NEVER);
    fs::write(dir.path().join("a"), "1").unwrap();
    let mut seen = false;
    for _ in 0..3 {
        // Shorter than the debounce: cancelled, unless the machine is slow.
        seen |= timeout(Duration::from_millis(2), watcher.changed())
            .await
            .is_ok();
    }
    if !seen {
        expect_change(&mut watcher).await;
    }
    until(&mut watcher, |watcher| {
        watcher.take_completed().contains(OsStr::new("a"))
    })
    .await;
    let _ = timeout(Duration::from_millis(100), watcher.changed()).await;
    fs::read(dir.path().join("a")).unwrap();
    fs::read_dir(dir.path()).unwrap().count();
    assert!(
        timeout(Duration::from_millis(200), watcher.changed())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn knows_who_is_writing() {
    let (dir, mut watcher) = watch(NEVER);
    let (a, b) = (OsStr::new("a"), OsStr::new("b"));
    fs::write(dir.path().join("a"), "first").unwrap();
    until(&mut watcher, |watcher| watcher.take_completed().contains(a)).await;
    // Truncated, nothing written yet.
    let file = OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(dir.path().join("a"))
        .unwrap();
    until(&mut watcher, |watcher| watcher.is_open_for_writing(a)).await;
    fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
    until(&mut watcher, |watcher| watcher.is_open_for_writing(b)).await;
    assert!(!watcher.is_open_for_writing(a));
    drop(file);
    until(&mut watcher, |watcher| watcher.take_completed().contains(b)).await;
    assert!(!watcher.is_open_for_writing(b));
    // Written and removed: nothing stays behind.
    let mut file = File::create(dir.path().join("c")).unwrap();
    file.write_all(b"1").unwrap();
    until(&mut watcher, |watcher| {
        watcher.is_open_for_writing(OsStr::new("c"))
    })
    .await;
    fs::remove_file(dir.path().join("c")).unwrap();
    until(&mut watcher, |watcher| {
        !watcher.is_open_for_writing(OsStr::new("c"))
    })
    .await;
}

#[tokio::test]
async fn the_tick_comes_without_an_event() {
    let (_dir, mut watcher) = watch(Duration::from_millis(50));
    expect_change(&mut watcher).await;
    expect_change(&mut watcher).await;
}

#[test]
fn an_overflow_is_a_change_and_forgets_who_writes() {
    let shared = Shared::default();
    let file = Path::new("/d/a").to_owned();
    let written = Event::new(EventKind::Modify(ModifyKind::Data(
        notify::event::DataChange::Any,
    )));
    shared.record(Path::new("/d"), Ok(written.add_path(file)));
    shared.lock().changed = false;
    assert!(shared.lock().writing.contains(OsStr::new("a")));
    let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
    shared.record(Path::new("/d"), Ok(overflow));
    assert!(shared.lock().changed);
    assert!(shared.lock().writing.is_empty());
}

#[tokio::test]
async fn a_directory_that_is_replaced_or_comes_back_is_followed() {
    let parent = TempDir::new().unwrap();
    let dir = parent.path().join("manifests");
    fs::create_dir(&dir).unwrap();
    let mut watcher = DirWatcher::new(&dir, Duration::from_millis(50)).unwrap();
    // Replaced by another directory.
    fs::rename(&dir, parent.path().join("old")).unwrap();
    fs::create_dir(&dir).unwrap();
    let written = |name: &'static str, watcher: &mut DirWatcher| {
        fs::write(dir.join(name), "1").ok();
        watcher.take_completed().contains(OsStr::new(name))
    };
    expect_change(&mut watcher).await;
    until(&mut watcher, |watcher| written("a", watcher)).await;
    // Gone, then back.
    fs::remove_dir_all(&dir).unwrap();
    expect_change(&mut watcher).await;
    assert!(watcher.watch.is_none());
    fs::create_dir(&dir).unwrap();
    expect_change(&mut watcher).await;
    until(&mut watcher, |watcher| written("b", watcher)).await;
}

#[test]
fn an_absent_directory_and_a_file_are_named() {
    let dir = TempDir::new().unwrap();
    let absent = dir.path().join("absent");
    let error = DirWatcher::new(&absent, NEVER).err().unwrap();
    assert!(matches!(error, WatchError::Unreadable { .. }));
    assert!(
        error.to_string().contains(absent.to_str().unwrap()),
        "{error}"
    );
    fs::write(&absent, "").unwrap();
    let error = DirWatcher::new(&absent, NEVER).err().unwrap();
    assert!(matches!(error, WatchError::NotADirectory { .. }), "{error}");
}
