#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
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
async fn expect_rest(watcher: &mut DirWatcher) {
    let rest = Duration::from_millis(200);
    for _ in 0..50 {
        if timeout(rest, watcher.changed()).await.is_err() {
            return;
        }
    }
    panic!("changes without end");
}

/// Writes until an event tells of it: no tick does.
async fn expect_event(watcher: &DirWatcher, file: &Path) {
    let changed = |watch: &Watch| watch.state.borrow().changed;
    for _ in 0..1000 {
        if watcher.watch.as_ref().is_some_and(changed) {
            return;
        }
        fs::write(file, "1").unwrap();
        sleep(Duration::from_millis(10)).await;
    }
    panic!("no event of {}", file.display());
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
    expect_rest(&mut watcher).await;
    fs::read(dir.path().join("a")).unwrap();
    fs::read_dir(dir.path()).unwrap().count();
    let rest = Duration::from_millis(200);
    assert!(timeout(rest, watcher.changed()).await.is_err());
}

#[tokio::test]
async fn the_end_of_writing_is_a_change() {
    let (dir, mut watcher) = watch(NEVER);
    let file = File::create(dir.path().join("a")).unwrap();
    expect_change(&mut watcher).await;
    expect_rest(&mut watcher).await;
    drop(file);
    expect_change(&mut watcher).await;
}

#[tokio::test]
async fn the_tick_comes_without_an_event() {
    let (_dir, mut watcher) = watch(Duration::from_millis(50));
    expect_change(&mut watcher).await;
    expect_change(&mut watcher).await;
}

#[test]
fn an_overflow_is_a_change() {
    let state = watch::Sender::new(State::default());
    let overflow = Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
    record(Path::new("/d"), Ok(overflow), &state);
    assert!(state.borrow().changed);
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
    expect_change(&mut watcher).await;
    expect_event(&watcher, &dir.join("a")).await;
    // Gone, then back.
    fs::remove_dir_all(&dir).unwrap();
    expect_change(&mut watcher).await;
    assert!(watcher.watch.is_none());
    fs::create_dir(&dir).unwrap();
    expect_change(&mut watcher).await;
    expect_event(&watcher, &dir.join("b")).await;
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
