//! Proof that the programs run for processes of the cgroup they are attached to, whatever the paths say.
//!
//! A child of ours joins a cgroup below the attach point and connects to an address that only our programs refuse.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::process::{self, Command};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nodetls_ebpf::{CANARY_ID, Event, ID_PREFIX_V4};

use super::{Maps, address_key};

/// 127.128.0.0:1, the address of the id that no target has.
const ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from_bits(ID_PREFIX_V4), 1));

/// Fails unless a connect from below `cgroup` is seen by our program.
pub(super) fn check(cgroup: &Path, maps: &mut Maps) -> Result<()> {
    maps.targets.insert(address_key(ADDRESS), CANARY_ID, 0)?;
    let before = maps.count(Event::Canary);
    let leaf = cgroup.join(format!("nodetls-canary-{}", process::id()));
    fs::create_dir(&leaf).with_context(|| format!("can't create {}", leaf.display()))?;
    let status = Command::new("/proc/self/exe")
        .arg("canary")
        .arg(&leaf)
        .status();
    // The child has ended, so the cgroup is empty.
    fs::remove_dir(&leaf).with_context(|| format!("can't remove {}", leaf.display()))?;
    let status = status.context("the canary can't be started")?;
    ensure!(status.success(), "the canary failed: {status}");
    ensure!(
        maps.count(Event::Canary) > before,
        "the eBPF programs are attached to {} but do not see connects from there: another hierarchy or another \
         program (see `bpftool cgroup tree`) stands in the way",
        cgroup.display()
    );
    Ok(())
}

/// What the child does: joins `cgroup`, and connects to the canary's address, which is refused in any case.
pub fn run_child(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")
        .with_context(|| format!("can't join {}", cgroup.display()))?;
    ensure!(
        TcpStream::connect_timeout(&ADDRESS, Duration::from_secs(1)).is_err(),
        "{ADDRESS} answered"
    );
    Ok(())
}
