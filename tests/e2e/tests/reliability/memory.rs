//! The agent, ended by the kernel for want of memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nodetls_e2e::nodetls::ours;
use nodetls_e2e::wait;

use crate::agent::{agents, new_agent, settle};
use crate::{Allowed, Row};

/// What the container may use more than it does.
const ROOM: u64 = 4 << 20;

pub(crate) const OUT_OF_MEMORY: Row = Row {
    name: "agent_out_of_memory",
    fault: "The agent is killed by the kernel for want of memory",
    allowed: Allowed::Refusal,
    test: |load| {
        new_agent();
        let agent = agents();
        assert_eq!(agent.len(), 1, "{agent:?}");
        let (cgroup, limit, usage) = memory(agent[0]);
        let used: u64 = read(&cgroup.join(usage)).trim().parse().unwrap();
        // The limit goes with the container: the next one has a cgroup of its own.
        fs::write(cgroup.join(limit), (used + ROOM).to_string()).unwrap();
        fs::write(format!("/proc/{}/oom_score_adj", agent[0]), "1000").unwrap();
        // `tail` keeps what has no line's end: more than there is room for, even if the agent's program leaves it.
        let hog = r#"echo $$ >"$0" && head -c "$1" /dev/zero | tail >/dev/null"#;
        let procs = cgroup.join("cgroup.procs");
        let mut hog_of = Command::new("sh");
        hog_of
            .args(["-c", hog])
            .arg(procs)
            .arg((used + 2 * ROOM).to_string());
        let mut hog = hog_of.spawn().unwrap();
        wait("it is killed", || {
            !Path::new(&format!("/proc/{}", agent[0])).exists()
        });
        hog.wait().unwrap();
        wait("another one runs", || !agents().is_empty());
        settle(load);
        let reasons =
            "--output=jsonpath={.items[*].status.containerStatuses[*].lastState.terminated.reason}";
        let pods = [
            "get",
            "pods",
            "--selector=app.kubernetes.io/component=agent",
            reasons,
        ];
        assert!(ours(&pods).contains("OOMKilled"), "{}", ours(&pods));
    },
};

/// The directory of the process' memory cgroup, and the names of its files with the limit and the use.
fn memory(pid: u32) -> (PathBuf, &'static str, &'static str) {
    let cgroups = read(Path::new(&format!("/proc/{pid}/cgroup")));
    let of = |controller: &str| {
        let path = cgroups.lines().find_map(|line| line.split_once(controller));
        path.map(|(_, path)| path.trim_start_matches('/').to_owned())
    };
    match of(":memory:") {
        Some(path) => (
            Path::new("/sys/fs/cgroup/memory").join(path),
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
        ),
        None => (
            Path::new("/sys/fs/cgroup").join(of("0::").unwrap()),
            "memory.max",
            "memory.current",
        ),
    }
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap()
}
