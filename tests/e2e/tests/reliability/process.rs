//! Programs of the cluster, ended and started again.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use nodetls_e2e::wait;

/// Processes whose command line begins so, and in whose environment is this.
pub(crate) fn find(command: &[&str], environment: &str) -> Vec<u32> {
    let wanted = command.join("\0");
    pids()
        .filter(|pid| {
            let read = |file| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let has = |all: &[u8], part: &str| String::from_utf8_lossy(all).contains(part);
            read("cmdline").starts_with(wanted.as_bytes()) && has(&read("environ"), environment)
        })
        .collect()
}

pub(crate) fn kill_9(pid: u32) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// A program of a node, ended; started again when dropped.
pub(crate) struct Stopped {
    node: &'static str,
    program: &'static str,
    command: Vec<String>,
}

impl Stopped {
    /// Kills the one whose command line has `program` and all of `parts`.
    pub(crate) fn new(node: &'static str, program: &'static str, parts: &[&str]) -> Self {
        let matching = || {
            let found = pids().filter_map(|pid| {
                let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
                let is = parts.iter().all(|part| command.contains(part));
                is.then_some((pid, command))
            });
            found.collect::<Vec<_>>()
        };
        let found = matching();
        assert_eq!(found.len(), 1, "{program}: {found:?}");
        let words = found[0].1.trim_end_matches('\0').split('\0');
        let stopped = Self {
            node,
            program,
            command: words.map(str::to_owned).collect(),
        };
        kill_9(found[0].0);
        wait("it is gone", || matching().is_empty());
        stopped
    }
}

impl Drop for Stopped {
    /// As `cargo xtask cluster up` starts it.
    fn drop(&mut self) {
        let (node, program) = (self.node, self.program);
        let procs = format!("/sys/fs/cgroup/unified/nodetls-cluster/{node}/system/cgroup.procs");
        let log = format!("/var/lib/nodetls-cluster/logs/{node}-{program}.log");
        let log = File::options().append(true).open(log).unwrap();
        // containerd looks for its shim and runc beside itself.
        let programs = self.command[0]
            .rsplit_once('/')
            .map_or("", |(directory, _)| directory);
        let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
        let mut start = Command::new("setsid");
        start.args([
            "--fork",
            "sh",
            "-c",
            r#"echo $$ >"$0" && exec "$@""#,
            &procs,
        ]);
        start
            .arg(format!("/var/lib/nodetls-cluster/{node}/enter"))
            .args(&self.command);
        start.env("PATH", path).stdin(Stdio::null());
        start.stdout(log.try_clone().unwrap()).stderr(log);
        start.status().unwrap();
    }
}
