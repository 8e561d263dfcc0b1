//! Loads the connect and getpeername programs, attaches them to a cgroup, pins links and maps.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, ProgramType};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader};
use nodetls_ebpf::LAYOUT;

use super::{Maps, canary, maps, objects};
use crate::sys;

const PROGRAMS: [&str; 4] = ["connect4", "connect6", "getpeername4", "getpeername6"];
/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// The attached programs.
pub struct Redirect {
    pins: PathBuf,
    cgroup: PathBuf,
    _programs: Ebpf,
}

impl Redirect {
    /// Loads the programs and opens or creates the maps below `pins`, then lets `before_attach` write what must be
    /// there first (our own netns: bypass), attaches to `cgroup`, and proves with a canary that the programs run there.
    pub fn attach(
        pins: &Path,
        cgroup: &Path,
        before_attach: impl FnOnce(&mut Maps) -> Result<()>,
    ) -> Result<(Self, Maps)> {
        ensure!(
            !objects::CONNECT.is_empty() && !objects::LOOKUP.is_empty(),
            "this nodetls was built without its eBPF programs: run `cargo xtask build-ebpf` (on a machine with a \
             BPF toolchain; `cargo xtask setup` installs one) and build again"
        );
        let pins = prepare_pins(pins)?;
        let mut programs = load(&pins)?;
        let mut maps = Maps::take(&mut programs)?;
        before_attach(&mut maps)?;
        let directory = File::open(cgroup)
            .with_context(|| format!("cgroup {} can't be opened", cgroup.display()))?;
        for name in PROGRAMS {
            let program: &mut CgroupSockAddr = program(&mut programs, name)?;
            attach(program, &directory, &pins.join("links").join(name))
                .with_context(|| format!("{name} can't be attached to {}", cgroup.display()))?;
        }
        #[cfg(feature = "ebpf-log")]
        forward_logs(&mut programs)?;
        canary::check(cgroup, &mut maps)?;
        let redirect = Self {
            pins,
            cgroup: cgroup.to_owned(),
            _programs: programs,
        };
        Ok((redirect, maps))
    }

    /// The versioned directory of the pins.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// The cgroup that the programs are attached to.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }
}

/// The root of the cgroup v2 hierarchy, found in the mount table (also in hybrid set-ups).
pub fn default_cgroup() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    mounts
        .lines()
        .find_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            filesystem
                .starts_with("cgroup2 ")
                .then(|| mount.split(' ').nth(4))?
        })
        .map(PathBuf::from)
        .context("no cgroup2 is mounted here: mount one, or name a cgroup with --cgroup")
}

fn prepare_pins(base: &Path) -> Result<PathBuf> {
    let pins = base.join(LAYOUT);
    let help = || {
        format!(
            "{} can't be created: is a bpffs mounted there? (`mount -t bpf bpf /sys/fs/bpf`)",
            pins.display()
        )
    };
    for directory in ["links", "maps", "netns"] {
        fs::create_dir_all(pins.join(directory)).with_context(help)?;
    }
    let magic = rustix::fs::statfs(&pins).with_context(help)?.f_type;
    if magic != BPF_FS_MAGIC {
        // Never leave pins' directories behind on a filesystem that can't hold pins.
        let _ = fs::remove_dir_all(&pins);
        bail!(
            "{} is not on a bpffs: `mount -t bpf bpf /sys/fs/bpf`, or name one with --pins",
            base.display()
        );
    }
    Ok(pins)
}

fn load(pins: &Path) -> Result<Ebpf> {
    let has_set_retval = u8::from(
        is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval)
            .unwrap_or(false),
    );
    let mut loader = EbpfLoader::new();
    loader.override_global("HAS_SET_RETVAL", &has_set_retval, true);
    for name in maps::NAMES {
        loader.map_pin_path(name, pins.join("maps").join(name));
    }
    let mut programs = loader
        .load(objects::CONNECT)
        .context("the eBPF maps can't be created (needs CAP_BPF and CAP_NET_ADMIN)")?;
    maps::check_layout(&programs)?;
    for name in PROGRAMS {
        program(&mut programs, name)?
            .load()
            .with_context(|| format!("the kernel refuses the eBPF program {name}"))?;
    }
    Ok(programs)
}

fn program<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut CgroupSockAddr> {
    Ok(programs
        .program_mut(name)
        .with_context(|| format!("the eBPF object lacks the program {name}"))?
        .try_into()?)
}

/// Puts the program on the link pinned at `pin` if that is attached to this cgroup, else on a new link, pinned there.
fn attach(program: &mut CgroupSockAddr, cgroup: &File, pin: &Path) -> Result<()> {
    let cgroup_id = cgroup.metadata()?.ino();
    if let Ok(link) = sys::bpf_obj_get(pin)
        && link_field(&link, "cgroup_id")? == Some(cgroup_id)
    {
        return sys::bpf_link_update(&link, program.fd()?).context("bpf(BPF_LINK_UPDATE)");
    }
    // `Single` means flags 0; a bpf_link at a cgroup is always one of many.
    let id = program.attach(cgroup, CgroupAttachMode::Single)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    pin_link(link, pin)?;
    let link = sys::bpf_obj_get(pin)?;
    let attached = link_field(&link, "cgroup_id")?;
    ensure!(
        attached == Some(cgroup_id),
        "the link is attached to cgroup {attached:?}, not to {cgroup_id}"
    );
    Ok(())
}

/// Pins `link` at `path`; a stale pin there is replaced after the new link is in force.
pub(super) fn pin_link(link: FdLink, path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).context("a stale pin can't be removed"),
    }
    link.pin(path)?;
    Ok(())
}

/// A number that the kernel tells about a link; where a link is attached is in no other interface of aya's.
pub(super) fn link_field(link: impl AsFd, field: &str) -> io::Result<Option<u64>> {
    let path = format!("/proc/self/fdinfo/{}", link.as_fd().as_raw_fd());
    Ok(fs::read_to_string(path)?.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name == field).then(|| value.trim().parse().ok())?
    }))
}

/// Passes the programs' log lines on to ours.
#[cfg(feature = "ebpf-log")]
fn forward_logs(programs: &mut Ebpf) -> Result<()> {
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    let logger = aya_log::EbpfLogger::init(programs)
        .context("the eBPF programs do not log: `cargo xtask build-ebpf --log`, and build again")?;
    let mut logger = AsyncFd::with_interest(logger, Interest::READABLE)?;
    tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
    Ok(())
}
