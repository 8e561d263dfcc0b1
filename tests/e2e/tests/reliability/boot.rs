//! What is pinned, gone: by a boot, or with the bpffs.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use nodetls_e2e::nodetls::{self, Component, ours};
use nodetls_e2e::{on_node, text, wait};

use crate::agent::{AGENTS, kill_agent, new_agent, rolled_out, settle};
use crate::{Allowed, Row};

/// The node's root of cgroup v2: it shares the machine's with the other node.
const ROOT: &str = "/sys/fs/cgroup/unified/nodetls-cluster/node1";
const UNIT: &str = "/etc/systemd/system/nodetls-guard.service";
const REQUIRED: &str = "/etc/systemd/system/kubelet.service.requires/nodetls-guard.service";

pub(crate) const WITHOUT_GUARD: Row = Row {
    name: "booted_without_guard",
    fault: "A boot: nothing is pinned, and pods run before the agent does",
    allowed: Allowed::Plaintext,
    test: |load| {
        new_agent();
        boot(|| {});
        settle(load);
    },
};

pub(crate) const WITH_GUARD: Row = Row {
    name: "booted_with_guard",
    fault: "The same with the boot guard (component `boot-guard`)",
    allowed: Allowed::Refusal,
    test: |load| {
        let _component = Component::add("boot-guard");
        new_agent();
        wait("the guard is installed", || {
            on_node("node1", &["test", "-e", REQUIRED])
                .status()
                .unwrap()
                .success()
        });
        let unit = text(&on_node("node1", &["cat", REQUIRED]).output().unwrap());
        assert_eq!(
            unit,
            text(&on_node("node1", &["cat", UNIT]).output().unwrap())
        );
        let value = |key: &str| {
            let line = unit.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_else(|| panic!("{key} {unit}")).to_owned()
        };
        let condition = value("ConditionPathExists=");
        assert!(
            on_node("node1", &["test", "-x", &condition])
                .status()
                .unwrap()
                .success()
        );
        let start = value("ExecStart=");
        let mut start: Vec<_> = start.split(' ').collect();
        let root = format!("--cgroup={ROOT}");
        start.push(&root);
        boot(|| {
            let guard = on_node("node1", &start).output().unwrap();
            let said = text(&guard);
            assert!(guard.status.success(), "{said}");
            assert!(said.contains("targeted addresses are refused"), "{said}");
        });
        settle(load);
    },
};

/// Nothing runs on node1 while its agent ends, and with it what is pinned; then `guard`, and then the pods.
fn boot(guard: impl FnOnce()) {
    let frozen = Frozen::new();
    kill_agent();
    let remove = ["rm", "-rf", "/sys/fs/bpf/nodetls"];
    assert!(on_node("node1", &remove).status().unwrap().success());
    guard();
    drop(frozen);
}

/// All pods of node1, stopped until this is dropped.
struct Frozen;

impl Frozen {
    fn new() -> Self {
        Self::set("1");
        Self
    }

    fn set(state: &str) {
        fs::write(format!("{ROOT}/kubepods/cgroup.freeze"), state).unwrap();
        let wanted = format!("frozen {state}");
        wait("the pods are stopped or go on", || {
            let events = fs::read_to_string(format!("{ROOT}/kubepods/cgroup.events"));
            events.unwrap().contains(&wanted)
        });
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        Self::set("0");
    }
}

pub(crate) const BPFFS_MOUNTED_ANEW: Row = Row {
    name: "bpffs_mounted_anew",
    fault: "The node's bpffs is unmounted and another one mounted, then the agents are replaced",
    allowed: Allowed::Nothing,
    test: |load| {
        assert!(
            on_node("node1", &["umount", "/sys/fs/bpf"])
                .status()
                .unwrap()
                .success()
        );
        let mounted = Mounted;
        wait("the agent tells of it", || {
            nodetls::status("node1").contains("is unmounted on the node")
        });
        load.answers(50);
        drop(mounted);
        let pinned = "/sys/fs/bpf/nodetls/v1/links/connect6";
        wait("all is pinned there", || {
            on_node("node1", &["test", "-e", pinned])
                .status()
                .unwrap()
                .success()
        });
        // A DaemonSet ends an agent that is not Ready at once.
        settle(load);
        let status = nodetls::status("node1");
        assert!(status.contains("all is well"), "read where it is: {status}");
        ours(&["rollout", "restart", AGENTS]);
        rolled_out();
        settle(load);
        // Beyond the drain of the old one, and its mount.
        sleep(Duration::from_secs(2));
        load.answers(50);
        let status = nodetls::status("node1");
        assert!(status.contains("all is well"), "{status}");
    },
};

/// A bpffs on node1 when this is dropped.
struct Mounted;

impl Drop for Mounted {
    fn drop(&mut self) {
        let mount = ["mount", "-t", "bpf", "-o", "mode=700", "bpf", "/sys/fs/bpf"];
        assert!(on_node("node1", &mount).status().unwrap().success());
    }
}
