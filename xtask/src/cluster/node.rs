//! A node: a mount and a network namespace of this machine, kept by one sleeping process, and cgroups.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Families, STATE, cgroups, config};
use crate::{interrupt, sh};

/// Joins a cgroup, then runs what follows; a daemon's cgroup is how `down` finds it and all that it starts.
const JOIN: &str = r#"echo $$ >"$0" && exec "$@""#;

pub(super) struct Node {
    pub(super) name: &'static str,
    /// IPv4, IPv6.
    pub(super) addresses: [&'static str; 2],
    pub(super) pod_cidrs: [&'static str; 2],
}

/// TEST-NET-1 (RFC 5737) and 2001:db8::/32 (RFC 3849) between the nodes; nothing of it is seen outside their namespaces.
pub(super) const NODES: [Node; 2] = [
    Node {
        name: "node1",
        addresses: ["192.0.2.1", "2001:db8::1"],
        pod_cidrs: ["10.244.1.0/24", "fd00:244:0:1::/64"],
    },
    Node {
        name: "node2",
        addresses: ["192.0.2.2", "2001:db8::2"],
        pod_cidrs: ["10.244.2.0/24", "fd00:244:0:2::/64"],
    },
];
/// Where the control plane runs.
pub(super) const FIRST: &Node = &NODES[0];

impl Node {
    pub(super) fn peer(&self) -> &'static Node {
        &NODES[usize::from(self.name == FIRST.name)]
    }

    /// Its part of the state directory.
    pub(super) fn directory(&self) -> PathBuf {
        Path::new(STATE).join(self.name)
    }

    /// A command that joins the node's cgroup `group`; it outlives this process and its terminal.
    fn command(&self, group: &str) -> Result<Command> {
        let mut command = sh::command("setsid", "sh -c");
        let procs = cgroups::unified()?
            .join(self.name)
            .join(group)
            .join("cgroup.procs");
        command.arg(JOIN).arg(procs).stdin(Stdio::null());
        Ok(command)
    }

    /// A command in the node's namespaces and its cgroup `system`.
    pub(super) fn daemon(&self) -> Result<Command> {
        let mut command = self.command("system")?;
        let holder = self.holder()?.context("the node's namespaces are gone")?;
        command.args(["nsenter", "--target", &holder, "--mount", "--net", "--"]);
        Ok(command)
    }

    /// The process id of the one that keeps the namespaces, if it is there.
    pub(super) fn holder(&self) -> Result<Option<String>> {
        let procs = cgroups::unified()?
            .join(self.name)
            .join("holder/cgroup.procs");
        let pids = fs::read_to_string(procs).unwrap_or_default();
        Ok(pids.lines().next().map(str::to_owned))
    }

    /// Makes the namespaces, still empty.
    fn create(&self) -> Result<()> {
        cgroups::create(self.name)?;
        let mut unshare = self.command("holder")?;
        unshare.args("unshare --mount --net --propagation private sleep infinity".split(' '));
        let mut child = unshare.stdout(Stdio::null()).spawn().context("unshare")?;
        let asleep = || -> Result<Option<()>> {
            if let Some(status) = child.try_wait()? {
                anyhow::bail!("unshare: {status}");
            }
            let comm = fs::read_to_string(format!("/proc/{}/comm", child.id()))?;
            Ok((comm == "sleep\n").then_some(()))
        };
        let made = interrupt::poll(Duration::from_secs(5), asleep)?;
        made.with_context(|| format!("{}: no namespaces after 5 s", self.name))
    }

    /// Mounts, addresses and routes; the link is there.
    fn furnish(&self, families: Families) -> Result<()> {
        let script = config::render("node.sh", families, Some(self))?;
        sh::output(self.daemon()?.args(["sh", "-c", &script]))?;
        let holder = cgroups::unified()?
            .join(self.name)
            .join("holder/cgroup.procs");
        let enter = format!(
            "#!/bin/sh\n# Runs a command in the namespaces of {}.\n\
             exec nsenter --target \"$(cat {})\" --mount --net -- \"$@\"\n",
            self.name,
            holder.display()
        );
        executable(&self.directory().join("enter"), &enter)
    }
}

/// Makes both nodes and the link between them.
pub(super) fn create(families: Families) -> Result<()> {
    for node in &NODES {
        node.create()?;
    }
    let [first, second] = &NODES;
    let (one, two) = (
        first.holder()?.unwrap_or_default(),
        second.holder()?.unwrap_or_default(),
    );
    // Both ends are made in the nodes: the machine's own netns never sees them.
    let link = format!("link add eth0 netns {one} type veth peer name eth0 netns {two}");
    sh::output(&mut sh::command("ip", &link))?;
    for node in &NODES {
        node.furnish(families)?;
    }
    Ok(())
}

/// Writes a script.
pub(super) fn executable(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| file.display().to_string())?;
    Ok(fs::set_permissions(
        file,
        fs::Permissions::from_mode(0o755),
    )?)
}
