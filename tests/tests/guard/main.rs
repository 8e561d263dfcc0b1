//! `nodetls guard`: after a boot nothing is pinned, and what an agent has kept on disk says what to refuse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod systemd;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nodetls::redirect::{EbpfView, pinned_link};
use nodetls_tests::{ADDRESS, BACKEND_IP, CLUSTER_IP, HOST, URL, World, binary, occurrences, text};
use serde_json::json;

/// The node's root cgroup, above the one that the kubelet makes after the guard has begun.
struct Root(PathBuf);

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// The world's cgroup becomes one below what was its cgroup.
fn above(world: &mut World) -> Root {
    let root = Root(world.cgroup.clone());
    world.cgroup = root.0.join("kubepods");
    fs::create_dir(&world.cgroup).unwrap();
    root
}

/// What an agent keeps of the Service `tls-backend` and its policy, as `source/kube/cache.rs` describes it.
fn keep(world: &World) -> PathBuf {
    let policy = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "BackendTLSPolicy",
        "metadata": {"name": "tls", "namespace": "default"},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "tls-backend", "sectionName": "443"}],
            "validation": {"hostname": HOST, "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]},
        },
    });
    let service = json!({
        "metadata": {"name": "tls-backend", "namespace": "default"},
        "spec": {"clusterIP": CLUSTER_IP, "ports": [{"name": "443", "port": 443}]},
    });
    let kept = json!({
        "written": 0, "services": [service], "endpoint_slices": [], "ca_objects": [], "policies": [policy],
        "namespaces": {}, "pods": {},
    });
    let body = kept.to_string();
    let sum = Command::new("sha256sum")
        .arg(world.file("body", &body))
        .output()
        .unwrap();
    let sum = text(&sum)[..64].to_owned();
    world.file("objects-3", &format!("nodetls-objects 3 {sum}\n{body}"))
}

fn guard(world: &World, cgroup: &Path) -> (bool, String) {
    let mut guard = Command::new(binary("nodetls"));
    guard.arg("guard").arg("--cache").arg(world.dir.path());
    guard
        .arg("--pins")
        .arg(&world.pins)
        .arg("--cgroup")
        .arg(cgroup);
    let output: Output = guard.output().unwrap();
    (output.status.success(), text(&output))
}

/// Connects of this outcome and reason so far.
fn connects(world: &World, outcome: &str, reason: &str) -> u64 {
    let stats = EbpfView::open(&world.pins.join("v1")).unwrap().stats();
    let mut rows = stats.connects.iter();
    let found = rows.find(|row| row.outcome == outcome && row.reason == reason);
    found.unwrap().count
}

/// A process of the pod that the agent's cgroup does not hold.
fn dial_outside(world: &mut World, root: &Root) {
    let inside = std::mem::replace(&mut world.cgroup, root.0.clone());
    world.dial(&[ADDRESS, "--send", "marked"]);
    world.cgroup = inside;
}

#[test]
fn after_a_boot_targets_are_refused_until_the_agent_has_taken_over() {
    let (mut world, _ca) = World::without_agent();
    let root = above(&mut world);
    keep(&world);
    let wire = world.capture(|world| {
        let (done, said) = guard(world, &root.0);
        assert!(
            done && said.contains("connects to 1 targeted addresses are refused"),
            "{said}"
        );
        let answer = world.dial(&[ADDRESS, "--send", "marked"]);
        assert!(answer.contains("error: ConnectionRefused"), "{answer}");
        assert_eq!(connects(world, "denied", "unknown_netns"), 1);
        // Whatever else a pod connects to, and the node's own programs.
        let other = world.dial(&[&format!("{BACKEND_IP}:8443"), "--patience", "1"]);
        assert!(other.contains("peer: "), "{other}");
        let mut own = world.in_cgroup(&binary("dial"));
        own.args([ADDRESS, "--nonblocking"]).output().unwrap();
        assert_eq!(connects(world, "bypassed", "netns"), 1);
        // The kubelet is started again.
        let (done, said) = guard(world, &root.0);
        assert!(
            done && said.contains("nothing to do: the programs pinned in"),
            "{said}"
        );

        world.start_agent();
        assert!(world.curl(&[URL]).ends_with("200"));
        assert!(world.log().contains("epoch=2"), "{}", world.log());
        let denied = connects(world, "denied", "unknown_netns");
        dial_outside(world, &root);
        assert_eq!(
            connects(world, "denied", "unknown_netns"),
            denied,
            "the guard's link is gone"
        );
    });
    assert_eq!(occurrences(&wire, "marked"), 0);
    let link = pinned_link(&world.pins.join("v1/links/connect4"), "cgroup_id").unwrap();
    let attached_to = link.unwrap().attached_to;
    assert_eq!(attached_to, fs::metadata(&world.cgroup).unwrap().ino());
    // Beside the agent, and after its death: what it pinned stays.
    for _ in 0..2 {
        let (done, said) = guard(&world, &root.0);
        assert!(done && said.contains("nothing to do"), "{said}");
        let now = pinned_link(&world.pins.join("v1/links/connect4"), "cgroup_id").unwrap();
        assert_eq!(link, now);
        world.agent().signal("KILL");
    }
}

#[test]
fn without_kept_objects_there_is_nothing_to_guard_and_damaged_ones_are_an_error() {
    let (world, _ca) = World::without_agent();
    let (done, said) = guard(&world, &world.cgroup);
    assert!(done && said.contains("nothing to guard: "), "{said}");
    assert!(said.contains("objects-3 does not exist"), "{said}");
    let file = keep(&world);
    let kept = fs::read_to_string(&file).unwrap();
    fs::write(&file, kept.replace(CLUSTER_IP, "10.96.0.11")).unwrap();
    let (done, said) = guard(&world, &world.cgroup);
    assert!(!done && said.contains("its checksum is wrong"), "{said}");
    assert!(
        said.contains("objects-3: the targets are not known"),
        "{said}"
    );
    assert!(!world.pins.exists(), "nothing is pinned");
    fs::write(
        &file,
        kept.replace("nodetls-objects 3", "nodetls-objects 2"),
    )
    .unwrap();
    let (done, said) = guard(&world, &world.cgroup);
    assert!(
        !done && said.contains("another version of nodetls"),
        "{said}"
    );
}
