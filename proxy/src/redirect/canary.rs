//! Proof that the programs run for processes of the cgroup they are attached to, whatever the paths say.
//!
//! We connect to an address that only our programs refuse; if we don't live below the attach point, a child of ours that
//! joins a cgroup there.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{self, Command};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nodetls_ebpf::{CANARY_ID, Event, IdRange};

use super::{Maps, address_key};

/// The port of the canary's address; the address is that of the id that no target has.
const PORT: u16 = 1;

/// For a connect that is refused at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// Fails unless a connect from below `cgroup` is seen by our program.
pub(super) fn check(cgroup: &Path, ids: IdRange, maps: &mut Maps) -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::from_bits(ids.address(CANARY_ID)), PORT));
    maps.targets.insert(address_key(address), CANARY_ID, 0)?;
    let before = maps.count(Event::Canary);
    // A pod's agent lives below the kubelet's cgroup itself. From its private cgroup namespace it could not have a child
    // join another cgroup (mount option nsdelegate of cgroup v2).
    let _ = TcpStream::connect_timeout(&address, PATIENCE);
    if maps.count(Event::Canary) > before {
        return Ok(());
    }
    let leaf = cgroup.join(format!("nodetls-canary-{}", process::id()));
    match fs::create_dir(&leaf) {
        // A killed agent left it: in containers pids repeat.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => result.with_context(|| format!("can't create {}", leaf.display()))?,
    }
    let status = Command::new("/proc/self/exe")
        .arg("canary")
        .arg(&leaf)
        .arg(address.to_string())
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
        maps.count(Event::Canary) > before,
        "the eBPF programs are attached to {} but do not see connects from there: another hierarchy or another \
         program (see `bpftool cgroup tree`) stands in the way",
        cgroup.display()
    );
    Ok(())
}

/// What the child does: joins `cgroup`, and connects to the canary's `address`, which is refused in any case.
pub fn run_child(cgroup: &Path, address: SocketAddr) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")
        .with_context(|| format!("can't join {}", cgroup.display()))?;
    ensure!(
        TcpStream::connect_timeout(&address, PATIENCE).is_err(),
        "{address} answered"
    );
    Ok(())
}
