//! Proof that the programs run for processes of the cgroup they are attached to, whatever the paths say.
//!
//! We connect to addresses, one of each family, that only our programs refuse; if we don't live below the attach point, a
//! child of ours that joins a cgroup there.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{self, Command};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nodetls_ebpf::{CANARY_ID, Event, IdRange};

use super::{Maps, address_key};
use crate::pods::address_v6;
use crate::pods::netns::tcp_socket;

/// The port of the canary's addresses; the addresses are those of the id that no target has.
const PORT: u16 = 1;

/// For a connect that is refused at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// Fails unless a connect from below `cgroup` is seen by our program.
pub(super) fn check(cgroup: &Path, ids: IdRange, maps: &mut Maps) -> Result<()> {
    let word = ids.address(CANARY_ID);
    let v4 = SocketAddr::from((Ipv4Addr::from_bits(word), PORT));
    let v6 = SocketAddr::from((address_v6(word), PORT));
    let mut addresses = vec![v4];
    // A kernel without IPv6 has no clients of it either.
    addresses.extend(tcp_socket(v6).is_ok().then_some(v6));
    for address in &addresses {
        maps.targets.insert(address_key(*address), CANARY_ID, 0)?;
    }
    let all_seen = maps.count(Event::Canary) + addresses.len() as u64;
    // A pod's agent lives below the kubelet's cgroup itself. From its private cgroup namespace it could not have a child
    // join another cgroup (mount option nsdelegate of cgroup v2).
    for address in &addresses {
        let _ = TcpStream::connect_timeout(address, PATIENCE);
    }
    if maps.count(Event::Canary) >= all_seen {
        return Ok(());
    }
    let all_seen = maps.count(Event::Canary) + addresses.len() as u64;
    let leaf = cgroup.join(format!("nodetls-canary-{}", process::id()));
    match fs::create_dir(&leaf) {
        // A killed agent left it: in containers pids repeat.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => result.with_context(|| format!("can't create {}", leaf.display()))?,
    }
    let status = Command::new("/proc/self/exe")
        .arg("canary")
        .arg(&leaf)
        .args(addresses.iter().map(SocketAddr::to_string))
        .status();
    // The child has ended, so the cgroup is empty.
    if let Err(error) = fs::remove_dir(&leaf) {
        tracing::warn!(cgroup = %leaf.display(), %error, "can't be removed");
    }
    match status {
        Ok(status) => ensure!(status.success(), "the canary failed: {status}"),
        // Whoever started us ignores SIGCHLD, so there is no status; what counts is the counter.
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {}
        Err(error) => return Err(error).context("the canary can't be started"),
    }
    ensure!(
        maps.count(Event::Canary) >= all_seen,
        "the eBPF programs are attached to {} but do not see connects from there: another hierarchy or another \
         program (see `bpftool cgroup tree`) stands in the way",
        cgroup.display()
    );
    Ok(())
}

/// What the child does: joins `cgroup`, and connects to the canary's `addresses`, which are refused in any case.
pub fn run_child(cgroup: &Path, addresses: &[SocketAddr]) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")
        .with_context(|| format!("can't join {}", cgroup.display()))?;
    for address in addresses {
        ensure!(
            TcpStream::connect_timeout(address, PATIENCE).is_err(),
            "{address} answered"
        );
    }
    Ok(())
}
