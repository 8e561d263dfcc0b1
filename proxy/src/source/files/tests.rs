#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::symlink;

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::policy::ObjectName;

mod writers;

fn policy(name: &str, hostname: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: {name}}}\nspec: \
         {{validation: {{hostname: {hostname}}}}}\n"
    )
}

/// A directory of manifests and who follows it.
struct Case {
    dir: TempDir,
    files: Files,
    first: Update,
}

impl Case {
    async fn start(manifests: &[(&str, &str)]) -> Self {
        Self::start_with(manifests, RECONCILE).await
    }

    async fn start_with(manifests: &[(&str, &str)], reconcile: Duration) -> Self {
        let dir = TempDir::new().unwrap();
        for (name, text) in manifests {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let (files, first) = Files::load_with(dir.path(), reconcile).await.unwrap();
        Self { dir, files, first }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    async fn next(&mut self) -> Update {
        timeout(Duration::from_secs(30), self.files.next())
            .await
            .expect("no update")
    }

    async fn expect_none(&mut self, within: Duration) {
        if let Ok(update) = timeout(within, self.files.next()).await {
            panic!("unexpected update: {update:#?}");
        }
    }
}

fn is_empty(update: &Update) -> bool {
    let empty = Objects {
        ca_secrets: true,
        ..Objects::default()
    };
    update.objects == empty && update.errors.is_empty()
}

fn hostname<'a>(update: &'a Update, policy: &str) -> Option<&'a str> {
    let policy = update
        .objects
        .policies
        .get(&ObjectName::new("default", policy))?;
    policy.spec["validation"]["hostname"].as_str()
}

fn errors(update: &Update) -> Vec<String> {
    update.errors.iter().map(FileError::to_string).collect()
}

#[tokio::test]
async fn reads_manifests_and_nothing_else() {
    let (a, b, c) = (
        policy("a", "a.org"),
        policy("b", "b.org"),
        policy("c", "c.org"),
    );
    let dotfile = policy("dotfile", "x.org");
    let text = policy("text", "x.org");
    let case = Case::start(&[
        ("a.yaml", &a),
        ("b.yml", &b),
        ("c.json", &c),
        (".d.yaml", &dotfile),
        ("e.txt", &text),
        ("f.yaml~", &text),
    ])
    .await;
    fs::create_dir(case.path("dir.yaml")).unwrap();
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        case.path("pipe.yaml"),
        rustix::fs::Mode::RUSR,
    )
    .unwrap();
    let (_files, update) = Files::load(case.dir.path()).await.unwrap();
    assert_eq!(errors(&update), [""; 0]);
    let names: Vec<_> = update
        .objects
        .policies
        .keys()
        .map(|name| &*name.name)
        .collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(update, case.first);
}

#[tokio::test]
async fn follows_writes_renames_and_removals() {
    let mut case = Case::start(&[("a.yaml", &policy("p", "one"))]).await;
    assert_eq!(hostname(&case.first, "p"), Some("one"));
    case.write("a.yaml", &policy("p", "two"));
    assert_eq!(hostname(&case.next().await, "p"), Some("two"));
    case.write("a.yaml.tmp", &policy("p", "three"));
    fs::rename(case.path("a.yaml.tmp"), case.path("a.yaml")).unwrap();
    assert_eq!(hostname(&case.next().await, "p"), Some("three"));
    fs::remove_file(case.path("a.yaml")).unwrap();
    assert!(is_empty(&case.next().await));
    case.write("b.yaml", &policy("p", "four"));
    assert_eq!(hostname(&case.next().await, "p"), Some("four"));
}

#[tokio::test]
async fn equal_values_are_no_update() {
    let text = policy("p", "one");
    let mut case = Case::start(&[("a.yaml", &text)]).await;
    case.write("a.yaml", &text);
    case.expect_none(Duration::from_millis(300)).await;
    case.write("a.yaml", &format!("# comment\n{text}"));
    case.write("README", "nothing");
    case.expect_none(Duration::from_millis(300)).await;
    // A touch, and an object that moves to another file, change nothing either.
    OpenOptions::new()
        .write(true)
        .open(case.path("a.yaml"))
        .unwrap();
    fs::rename(case.path("a.yaml"), case.path("b.yaml")).unwrap();
    case.expect_none(Duration::from_millis(300)).await;
}

#[tokio::test]
async fn a_malformed_change_keeps_all_of_the_last_good_objects() {
    let good = format!("{}---\n{}", policy("p", "one"), policy("q", "one"));
    let mut case = Case::start(&[("a.yaml", &good), ("b.yaml", &policy("r", "one"))]).await;
    let bad = format!("{}---\nkind: [\n", policy("p", "two"));
    case.write("a.yaml", &bad);
    let update = case.next().await;
    assert_eq!(update.objects, case.first.objects);
    let message = errors(&update).join("\n");
    let prefix = format!("{}, document 2: ", case.path("a.yaml").display());
    assert!(message.starts_with(&prefix), "{message}");
    assert!(
        message.ends_with("; the objects it held before stay in force"),
        "{message}"
    );
    assert_eq!(message.lines().count(), 1);
    case.write("a.yaml", &good);
    assert_eq!(case.next().await, case.first);
}

#[tokio::test]
async fn the_first_load_takes_what_is_good() {
    let text = format!(
        "{}---\nkind: Service\n---\n{}",
        policy("p", "one"),
        policy("q", "one")
    );
    let case = Case::start(&[("a.yaml", &text)]).await;
    assert_eq!(
        (hostname(&case.first, "p"), hostname(&case.first, "q")),
        (Some("one"), Some("one"))
    );
    let messages = errors(&case.first);
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(
        messages[0].contains("a.yaml, document 2: apiVersion and kind"),
        "{messages:?}"
    );
    assert!(!messages[0].contains("stay in force"), "{messages:?}");
}

#[tokio::test]
async fn unreadable_files_are_named_and_keep_their_objects() {
    let mut case = Case::start(&[("a.yaml", &policy("p", "one"))]).await;
    symlink("nowhere", case.path("b.yaml")).unwrap();
    let update = case.next().await;
    assert!(
        errors(&update)[0].contains("b.yaml: cannot be read: No such file"),
        "{update:?}"
    );
    fs::remove_file(case.path("b.yaml")).unwrap();
    assert_eq!(case.next().await, case.first);
    // A dangling link in the place of a good file.
    fs::rename(case.path("a.yaml"), case.path("a")).unwrap();
    symlink("nowhere", case.path("x")).unwrap();
    fs::rename(case.path("x"), case.path("a.yaml")).unwrap();
    let update = case.next().await;
    assert_eq!(update.objects, case.first.objects, "{update:?}");
    assert!(errors(&update)[0].ends_with("stay in force"), "{update:?}");
    fs::rename(case.path("a"), case.path("a.yaml")).unwrap();
    assert_eq!(case.next().await, case.first);
}

#[tokio::test]
async fn a_file_that_is_too_large_is_refused_by_name() {
    let case = Case::start(&[("a.yaml", &policy("p", "one"))]).await;
    File::create(case.path("big.yaml"))
        .unwrap()
        .set_len((16 << 20) + 1)
        .unwrap();
    let (_files, update) = Files::load(case.dir.path()).await.unwrap();
    assert_eq!(update.objects, case.first.objects);
    assert!(
        errors(&update)[0].ends_with("big.yaml: cannot be read: larger than 16 MiB; split it"),
        "{update:?}"
    );
}

#[tokio::test]
async fn an_object_in_two_files_stays_with_the_first_that_had_it() {
    let mut case = Case::start(&[("b.yaml", &policy("p", "b"))]).await;
    case.write("a.yaml", &policy("p", "a"));
    let update = case.next().await;
    assert_eq!(hostname(&update, "p"), Some("b"));
    let (a, b) = (case.path("a.yaml"), case.path("b.yaml"));
    let (a, b) = (a.display(), b.display());
    let message = format!(
        "{a}, BackendTLSPolicy default/p: stands also in {b}, which stays in force; remove one of the two"
    );
    assert_eq!(errors(&update), [message]);
    // Edits of either change nothing of that.
    case.write("b.yaml", &policy("p", "b2"));
    assert_eq!(hostname(&case.next().await, "p"), Some("b2"));
    case.write("a.yaml", &policy("p", "a2"));
    case.expect_none(Duration::from_millis(300)).await;
    fs::remove_file(case.path("b.yaml")).unwrap();
    let update = case.next().await;
    assert_eq!(
        (hostname(&update, "p"), errors(&update).len()),
        (Some("a2"), 0)
    );
    // Now a.yaml has it; at a fresh start the name decides.
    case.write("b.yaml", &policy("p", "b3"));
    assert_eq!(hostname(&case.next().await, "p"), Some("a2"));
    let (_files, fresh) = Files::load(case.dir.path()).await.unwrap();
    assert_eq!((hostname(&fresh, "p"), fresh.errors.len()), (Some("a2"), 1));
}

#[tokio::test]
async fn a_kubernetes_volume_is_followed_through_its_symlinks() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (version, host) in [("..v1", "one"), ("..v2", "two")] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("p.yaml"), policy("p", host)).unwrap();
    }
    symlink("..v1", at("..data")).unwrap();
    symlink("..data/p.yaml", at("p.yaml")).unwrap();
    let (mut files, first) = Files::load(dir.path()).await.unwrap();
    assert_eq!(hostname(&first, "p"), Some("one"));
    symlink("..v2", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    // Well before the tick.
    let update = timeout(RECONCILE / 2, files.next()).await.unwrap();
    assert_eq!(hostname(&update, "p"), Some("two"));
}

#[tokio::test]
async fn a_directory_that_goes_takes_nothing_with_it() {
    let parent = TempDir::new().unwrap();
    let dir = parent.path().join("manifests");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a.yaml"), policy("p", "one")).unwrap();
    let (mut files, first) = Files::load_with(&dir, Duration::from_millis(200))
        .await
        .unwrap();
    fs::rename(&dir, parent.path().join("away")).unwrap();
    let update = timeout(Duration::from_secs(30), files.next())
        .await
        .unwrap();
    assert_eq!(update.objects, first.objects);
    assert!(
        errors(&update)[0].contains("manifests: cannot be read: No such file"),
        "{update:?}"
    );
    fs::rename(parent.path().join("away"), &dir).unwrap();
    assert_eq!(
        timeout(Duration::from_secs(30), files.next())
            .await
            .unwrap(),
        first
    );
    assert!(Files::load(&parent.path().join("absent")).await.is_err());
}

#[tokio::test]
async fn a_hard_link_is_taken_without_having_been_written() {
    let manifests: [(&str, &str); 1] = [("a.yaml", &policy("p", "one"))];
    let mut case = Case::start_with(&manifests, Duration::from_millis(200)).await;
    case.write("new", &policy("p", "two"));
    fs::remove_file(case.path("a.yaml")).unwrap();
    fs::hard_link(case.path("new"), case.path("a.yaml")).unwrap();
    let mut update = case.next().await;
    while hostname(&update, "p") != Some("two") {
        assert_eq!(hostname(&update, "p"), Some("one"));
        update = case.next().await;
    }
}
