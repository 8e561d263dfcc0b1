//! Loads the connect and getpeername programs, attaches them to a cgroup, pins links and maps.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use anyhow::{Context as _, Result, ensure};
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, ProgramType};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader};
use clap::ValueEnum;
use nodetls_ebpf::{IdRange, LAYOUT};

use super::pins::{link_field, pin_link, prepare, replace};
use super::{Maps, canary, maps, objects};
use crate::sys;

/// The programs at the cgroup; each has a link of its name.
pub const PROGRAMS: [&str; 4] = ["connect4", "connect6", "getpeername4", "getpeername6"];

/// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// What the programs do with a pod's connect to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, ValueEnum)]
pub enum Effect {
    /// Redirect or refuse it
    #[default]
    Enforce,
    /// Count it, and let it pass as it is
    Audit,
}

/// The connect and getpeername programs of one instance.
pub struct Redirect {
    pub(super) pins: PathBuf,
    /// The directory that they are in, and that one's, when the node has another bpffs than at our start.
    pub(super) moved: Option<(File, PathBuf)>,
    ids: IdRange,
    pub(super) programs: Ebpf,
    /// For the programs of all netns, once there is one.
    pub(super) lookups: OnceLock<Mutex<EbpfLoader<'static>>>,
}

impl Redirect {
    /// Loads the programs for the node's agent, with its maps below `base`, where they are pinned.
    ///
    /// # Errors
    /// When this build has no programs, `base` is on no bpffs, or the kernel refuses a program.
    pub fn load(base: &Path, effect: Effect) -> Result<(Self, Maps)> {
        Self::load_at(base.join(LAYOUT), IdRange::AGENT, effect)
    }

    /// The same for any instance: pins go into `pins`, addresses come from `ids`.
    pub fn load_at(pins: PathBuf, ids: IdRange, effect: Effect) -> Result<(Self, Maps)> {
        ensure!(
            !objects::CONNECT.is_empty() && !objects::LOOKUP.is_empty(),
            "this nodetls was built without its eBPF programs: run `cargo xtask build-ebpf` (on a machine with a \
             BPF toolchain; `cargo xtask setup` installs one) and build again"
        );
        prepare(&pins)?;
        let mut programs = match maps::check_layout(&pins) {
            Ok(()) => load(&pins, ids, effect)?,
            Err(error) => {
                tracing::warn!(%error, "another version's pins");
                replace(&pins, |staged| load(staged, ids, effect))?
            }
        };
        #[cfg(feature = "ebpf-log")]
        forward_logs(&mut programs)?;
        let maps = Maps::take(&mut programs)?;
        Ok((
            Self {
                pins,
                moved: None,
                ids,
                programs,
                lookups: OnceLock::new(),
            },
            maps,
        ))
    }

    /// Puts the programs into force at `cgroup`, in the place of an earlier agent's, and proves with a canary that they
    /// run there. May be called again.
    pub fn attach(&mut self, cgroup: &Path, maps: &mut Maps) -> Result<()> {
        let directory = File::open(cgroup)
            .with_context(|| format!("cgroup {} can't be opened", cgroup.display()))?;
        for name in PROGRAMS {
            let program: &mut CgroupSockAddr = program(&mut self.programs, name)?;
            attach(program, &directory, &self.pins.join("links").join(name))
                .with_context(|| format!("{name} can't be attached to {}", cgroup.display()))
                .map_err(with_cure)?;
        }
        self.take_over_noting()?;
        // Before the canary, whose address others' programs may change too. Who looks for them tells of them.
        let _ = self.keep_order(cgroup);
        canary::check(cgroup, self.ids, maps)
    }

    /// The directory that a later agent is told as `--pins`, if it is another than we were.
    pub fn moved_base(&self) -> Option<&Path> {
        self.moved.as_ref().map(|(_, base)| base.as_path())
    }

    /// Where everything is pinned.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// The addresses that stand for target ids.
    pub fn ids(&self) -> IdRange {
        self.ids
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
        .context("no cgroup2 is mounted here: mount one, or name a cgroup with --cgroup (`ip netns exec` hides /sys: use \
             `nsenter --net=/run/netns/NAME`)")
}

/// Whether a directory is of the cgroup v2 hierarchy.
///
/// # Errors
/// It can't be looked at.
pub fn is_cgroup2(directory: &Path) -> Result<bool> {
    let filesystem = rustix::fs::statfs(directory)
        .with_context(|| format!("{} can't be looked at", directory.display()))?;
    Ok(filesystem.f_type == CGROUP2_MAGIC)
}

fn load(pins: &Path, ids: IdRange, effect: Effect) -> Result<Ebpf> {
    let has_set_retval = u8::from(
        is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval)
            .unwrap_or(false),
    );
    let mut loader = EbpfLoader::new();
    // No program asks for the kernel's types, and some kernels have none.
    loader.btf(None);
    loader.override_global("HAS_SET_RETVAL", &has_set_retval, true);
    let audit = u8::from(effect == Effect::Audit);
    loader.override_global("AUDIT", &audit, true);
    loader.override_global("ID_PREFIX", &ids.prefix, true);
    loader.override_global("ID_MASK", &ids.mask, true);
    for name in maps::NAMES {
        loader.map_pin_path(name, pins.join("maps").join(name));
    }
    let mut programs = loader.load(objects::CONNECT).context(
        "the eBPF maps can't be created (needs CAP_SYS_ADMIN or CAP_BPF, and CAP_NET_ADMIN)",
    )?;
    for name in PROGRAMS {
        program(&mut programs, name)?
            .load()
            .with_context(|| format!("the kernel refuses the eBPF program {name}"))?;
    }
    Ok(programs)
}

pub(super) fn program<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut CgroupSockAddr> {
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

/// The kernel has one error for it, and no words.
fn with_cure(error: anyhow::Error) -> anyhow::Error {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref());
    if causes.any(|cause: &io::Error| cause.raw_os_error() == Some(libc::EPERM)) {
        return error.context(
            "another program is attached above as the only one, as a rule (see `bpftool cgroup tree`): have it attached with \
             BPF_F_ALLOW_MULTI, or removed",
        );
    }
    error
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
