//! Files that are being written.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::*;

/// No writer is reported within the test.
const PATIENT: Duration = Duration::from_secs(600);

#[tokio::test]
async fn an_emptied_file_counts_once_it_is_closed() {
    let mut case = Case::start(&[("a.yaml", &policy("p", "one"))]).await;
    let file = OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(case.path("a.yaml"))
        .unwrap();
    case.expect_none(Duration::from_millis(500)).await;
    drop(file);
    assert!(is_empty(&case.next().await));
}

#[tokio::test]
async fn a_writer_that_never_closes_is_reported() {
    let manifests: [(&str, &str); 1] = [("a.yaml", &policy("p", "one"))];
    let mut case = Case::start_with(&manifests, Duration::from_millis(400)).await;
    let mut file = OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(case.path("a.yaml"))
        .unwrap();
    let update = case.next().await;
    assert_eq!(update.objects, case.first.objects);
    assert!(
        errors(&update)[0].contains("a process has it open for writing"),
        "{update:?}"
    );
    file.write_all(policy("p", "two").as_bytes()).unwrap();
    drop(file);
    let mut update = case.next().await;
    while hostname(&update, "p") == Some("one") {
        update = case.next().await;
    }
    assert_eq!(
        (hostname(&update, "p"), errors(&update).len()),
        (Some("two"), 0)
    );
}

/// A policy file of about 200 KiB. The policy stands at the end, where a half-written file doesn't have it yet.
fn large(round: usize) -> String {
    let padding: String = (0..2000)
        .map(|n| format!("  key{n}: {}\n", "x".repeat(88)))
        .collect();
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: big}}\ndata:\n{padding}---\n{}",
        policy("p", &format!("host{round}"))
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_writer_never_makes_the_policy_vanish() {
    const ROUNDS: usize = 6;
    let manifests: [(&str, &str); 2] = [("a.yaml", &large(0)), ("b.yaml", &policy("q", "one"))];
    let mut case = Case::start_with(&manifests, PATIENT).await;
    let writer = tokio::task::spawn_blocking({
        let (path, other) = (case.path("a.yaml"), case.path("b.yaml"));
        move || {
            for round in 1..=ROUNDS {
                let text = large(round);
                let mut file = File::create(&path).unwrap();
                std::thread::sleep(Duration::from_millis(120));
                for (n, chunk) in text.as_bytes().chunks(text.len() / 8).enumerate() {
                    file.write_all(chunk).unwrap();
                    // Events of another file make the reader look at this one in all its states.
                    fs::write(&other, policy("q", &format!("r{round}n{n}"))).unwrap();
                    std::thread::sleep(Duration::from_millis(80));
                }
            }
        }
    });
    let mut updates = 0;
    loop {
        let update = case.next().await;
        updates += 1;
        assert_eq!(errors(&update), [""; 0]);
        let host = hostname(&update, "p").expect("the policy vanished");
        assert!(hostname(&update, "q").is_some());
        assert_eq!(update.objects.ca_objects.len(), 1);
        if host == format!("host{ROUNDS}") {
            break;
        }
    }
    writer.await.unwrap();
    assert!(updates > ROUNDS, "only {updates} updates");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quick_writer_never_makes_the_policy_vanish() {
    let mut case = Case::start_with(&[("a.yaml", &policy("p", "host0"))], PATIENT).await;
    let done = Arc::new(AtomicBool::new(false));
    let writer = tokio::task::spawn_blocking({
        let (path, done) = (case.path("a.yaml"), Arc::clone(&done));
        move || {
            for round in 1..1000 {
                fs::write(&path, policy("p", &format!("host{round}"))).unwrap();
                std::thread::sleep(Duration::from_millis(round % 7));
            }
            done.store(true, Ordering::Release);
            fs::write(&path, policy("p", "last")).unwrap();
        }
    });
    loop {
        let update = case.next().await;
        assert_eq!(errors(&update), [""; 0]);
        let host = hostname(&update, "p").expect("the policy vanished");
        if host == "last" {
            break;
        }
    }
    assert!(done.load(Ordering::Acquire));
    writer.await.unwrap();
}

#[tokio::test]
async fn another_process_that_writes_slowly_is_waited_for() {
    let two = policy("p", "two");
    let (head, tail) = two.split_at(two.len() / 2);
    let mut case = Case::start(&[("a.yaml", &policy("p", "one"))]).await;
    let script = r#"exec 3>"$1"; printf %s "$2" >&3; sleep 0.3; printf %s "$3" >&3"#;
    let mut writer = std::process::Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(case.path("a.yaml"))
        .args([head, tail])
        .spawn()
        .unwrap();
    // The first update there is: neither the empty file nor the half was taken.
    let update = case.next().await;
    assert_eq!(hostname(&update, "p"), Some("two"));
    assert_eq!(errors(&update), [""; 0]);
    assert!(writer.wait().unwrap().success());
}

#[tokio::test]
async fn the_target_of_a_symlink_is_not_taken_half_written() {
    let parent = TempDir::new().unwrap();
    let (dir, target) = (
        parent.path().join("manifests"),
        parent.path().join("target"),
    );
    fs::create_dir(&dir).unwrap();
    fs::write(&target, policy("p", "one")).unwrap();
    symlink(&target, dir.join("a.yaml")).unwrap();
    let (mut files, first) = Files::load(&dir).await.unwrap();
    assert_eq!(hostname(&first, "p"), Some("one"));
    let mut writer = File::create(&target).unwrap();
    // Makes the reader look.
    fs::write(dir.join("b.yaml"), policy("q", "one")).unwrap();
    let update = files.next().await;
    assert_eq!(hostname(&update, "p"), Some("one"));
    assert!(hostname(&update, "q").is_some());
    writer.write_all(policy("p", "two").as_bytes()).unwrap();
    drop(writer);
    // No event tells; well before the tick.
    let update = timeout(RECONCILE / 2, files.next()).await.unwrap();
    assert_eq!(hostname(&update, "p"), Some("two"));
}

#[tokio::test]
async fn the_first_load_waits_for_a_writer_and_names_one_that_stays() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.yaml");
    fs::write(&path, policy("p", "one")).unwrap();
    let load = || Files::load_with(dir.path(), Duration::from_millis(400));
    let open = || OpenOptions::new().append(true).open(&path).unwrap();
    let writer = open();
    let (_files, update) = load().await.unwrap();
    assert_eq!(hostname(&update, "p"), None);
    assert!(errors(&update)[0].contains("a process has it open for writing"));
    drop(writer);
    let writer = open();
    let close = async {
        sleep(Duration::from_millis(50)).await;
        drop(writer);
    };
    let (loaded, ()) = tokio::join!(load(), close);
    let (_files, update) = loaded.unwrap();
    assert_eq!(hostname(&update, "p"), Some("one"));
    assert_eq!(errors(&update), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_that_swap_their_files_are_never_both_seen_in_one() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let (p, q) = (policy("p", "one"), policy("q", "one"));
    let mut case = Case::start_with(&[("a.yaml", &p), ("b.yaml", &q)], PATIENT).await;
    let writer = tokio::task::spawn_blocking({
        let (a, b, c) = (
            case.path("a.yaml"),
            case.path("b.yaml"),
            case.path("c.yaml"),
        );
        move || {
            for round in 1..1000 {
                renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
                std::thread::sleep(Duration::from_millis(round % 11));
            }
            fs::write(&c, policy("last", "one")).unwrap();
        }
    });
    loop {
        let update = case.next().await;
        assert_eq!(errors(&update), [""; 0]);
        assert!(hostname(&update, "p").is_some() && hostname(&update, "q").is_some());
        if hostname(&update, "last").is_some() {
            break;
        }
    }
    writer.await.unwrap();
}
