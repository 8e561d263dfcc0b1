//! Installs what the other tasks need.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::ebpf::Toolchain;
use crate::oci::Arch;
use crate::sh;

/// Which task the machine is made ready for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum For {
    Demo,
    Test,
    Bench,
    Cluster,
    Vm,
    /// Building for the other architecture.
    Cross,
}

/// Programs and the Debian packages that have them.
const DEMO_TOOLS: [(&str, &str); 4] = [
    ("ip", "iproute2"),
    ("tcpdump", "tcpdump"),
    ("openssl", "openssl"),
    ("curl", "curl"),
];
const TEST_TOOLS: [(&str, &str); 5] = [
    ("/lib/systemd/systemd", "systemd"),
    ("nginx", "nginx-light"),
    (NGINX_MAIL, "libnginx-mod-mail"),
    ("dnsmasq", "dnsmasq-base"),
    ("promtool", "prometheus"),
];
const CLUSTER_TOOLS: [(&str, &str); 8] = [
    ("prometheus", "prometheus"),
    ("chromium", "chromium"),
    ("skopeo", "skopeo"),
    ("docker-registry", "docker-registry"),
    ("nginx", "nginx-light"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
];
const VM_TOOLS: [(&str, &str); 5] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("xz", "xz-utils"),
    ("strip", "binutils"),
];
const BENCH_TOOLS: [(&str, &str); 7] = [
    ("nginx", "nginx-light"),
    (NGINX_STREAM, "libnginx-mod-stream"),
    ("haproxy", "haproxy"),
    ("stunnel", "stunnel4"),
    ("wrk", "wrk"),
    ("h2load", "nghttp2-client"),
    ("perf", "linux-perf"),
];
/// C compiler and library of the other architecture that there are images for.
const CROSS_TOOLS: [(&str, &str); 2] = match Arch::HERE {
    Arch::Amd64 => [
        ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
        ("/usr/aarch64-linux-gnu/lib/libc.a", "libc6-dev-arm64-cross"),
    ],
    Arch::Arm64 => [
        ("x86_64-linux-gnu-gcc", "gcc-x86-64-linux-gnu"),
        ("/usr/x86_64-linux-gnu/lib/libc.a", "libc6-dev-amd64-cross"),
    ],
};
/// nginx' modules, where Debian has them.
const NGINX_MAIL: &str = "/usr/lib/nginx/modules/ngx_mail_module.so";
pub(crate) const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
/// Packages that start a service, and the service's name.
const SERVICES: [(&str, &str); 5] = [
    ("nginx-light", "nginx"),
    ("prometheus", "prometheus"),
    ("docker-registry", "docker-registry"),
    ("haproxy", "haproxy"),
    ("stunnel4", "stunnel4"),
];

/// Debian's BPF compiler, and what it takes to build bpf-linker for its LLVM.
const DEBIAN_TOOLCHAIN: &str = "rustc-web cargo-web libstd-rust-web-dev-bpf rust-web-llvm \
    llvm-22-dev libpolly-22-dev zlib1g-dev libzstd-dev";
const BPF_LINKER: &str = "0.13.0";
/// This and cargo-fuzz are installed unoptimised, in a third of the time: they have little to do.
const CARGO_DENY: &str = "0.20.2";
const CARGO_FUZZ: &str = "0.13.2";
/// The workspace's `rust-version`, which Debian's compiler must reach too: (major, minor).
const RUST_VERSION: (u32, u32) = (1, 95);
/// From here on Go itself fetches the version that a go.mod asks for.
const GO_VERSION: (u32, u32) = (1, 21);

/// What this machine lacks.
struct Missing {
    packages: Vec<&'static str>,
    /// The BPF compiler or bpf-linker.
    toolchain: bool,
    cargo_deny: bool,
    go: bool,
    bpffs: bool,
}

impl Missing {
    fn find(task: For) -> Self {
        let test = task == For::Test;
        let more: &[_] = match task {
            For::Demo => &[],
            For::Test => &TEST_TOOLS,
            For::Bench => &BENCH_TOOLS,
            For::Cluster => &CLUSTER_TOOLS,
            For::Vm => &VM_TOOLS,
            For::Cross => &CROSS_TOOLS,
        };
        let everywhere: &[_] = match task {
            For::Cross => &[],
            _ => &DEMO_TOOLS,
        };
        let mut packages: Vec<_> = everywhere
            .iter()
            .chain(more)
            .filter(|(program, _)| sh::find(program).is_none())
            .map(|(_, package)| *package)
            .collect();
        if task == For::Bench && !python_makes_venvs() {
            packages.push("python3-venv");
        }
        Self {
            packages,
            toolchain: !has("bpf-linker", BPF_LINKER) || Toolchain::installed().is_none(),
            cargo_deny: test && !has("cargo-deny", CARGO_DENY),
            go: task == For::Cluster && sh::find("go").is_none(),
            bpffs: task != For::Cross && !bpffs_mounted(),
        }
    }

    fn nothing(&self) -> bool {
        self.packages.is_empty() && !self.toolchain && !self.cargo_deny && !self.go && !self.bpffs
    }

    /// The commands that install it.
    fn plan(&self, apt: bool) -> Vec<Command> {
        let mut plan = Vec::new();
        let debian_toolchain = self.toolchain && apt && debian_has_toolchain();
        let mut packages = self.packages.join(" ");
        if debian_toolchain {
            packages = format!("{packages} {DEBIAN_TOOLCHAIN}");
        }
        if self.go {
            packages += " golang-go";
        }
        if !packages.is_empty() {
            let install = "install --yes --no-install-recommends --no-remove";
            let mut apt_get = sh::command("apt-get", &format!("{install} {packages}"));
            apt_get.env("DEBIAN_FRONTEND", "noninteractive");
            plan.push(apt_get);
        }
        if Path::new("/run/systemd/system").exists() {
            // The tests and the benchmark start their own.
            for (package, service) in SERVICES {
                if self.packages.contains(&package) {
                    plan.push(sh::command("systemctl", &format!("disable {service}")));
                }
            }
        }
        if debian_toolchain {
            plan.push(build_bpf_linker());
        } else if self.toolchain {
            plan.push(sh::command(
                "rustup",
                "toolchain install nightly --component rust-src",
            ));
            // Its own advice: a source build needs the very LLVM that nightly has.
            plan.push(sh::command("cargo", "install cargo-binstall --locked"));
            let linker = format!("binstall --no-confirm bpf-linker@{BPF_LINKER}");
            plan.push(sh::command("cargo", &linker));
        }
        if self.cargo_deny {
            let install = format!("install cargo-deny --version {CARGO_DENY} --locked --debug");
            plan.push(sh::command("cargo", &install));
        }
        if self.bpffs {
            plan.push(sh::command("mount", "-t bpf bpf /sys/fs/bpf"));
        }
        plan
    }
}

/// Installs what `task` needs and this machine lacks, showing each command before it runs.
///
/// # Errors
/// Not Debian or Ubuntu, or not root: the commands are printed instead. A command that fails.
pub(crate) fn run(task: For) -> Result<()> {
    let missing = Missing::find(task);
    if missing.nothing() {
        return Ok(());
    }
    let apt = sh::find("apt-get").is_some();
    let here = apt && is_root();
    if here && (missing.toolchain || missing.go || !missing.packages.is_empty()) {
        // On a new machine apt knows no package before this.
        sh::show_and_run(&mut sh::command("apt-get", "update"))?;
    }
    if here && missing.go && !new_enough("golang-go", GO_VERSION) {
        bail!(
            "no Go, and apt's is too old: install the one that tests/cluster/go.mod names, and put it into PATH"
        );
    }
    let mut plan = missing.plan(apt);
    if !here {
        println!("Missing on this machine; as root, on Debian or Ubuntu, these install it:");
        for command in &plan {
            println!("  {}", sh::line(command));
        }
        bail!("setup needs root on Debian or Ubuntu; elsewhere run the like of the commands above");
    }
    let _quiet = NoServices::new()?;
    for command in &mut plan {
        sh::show_and_run(command)?;
    }
    let missing = Missing::find(task);
    if !missing.nothing() {
        bail!("the commands ran, yet something is missing still; run `cargo xtask setup` again");
    }
    Ok(())
}

/// Installs cargo-fuzz if it is missing; that needs no root.
pub(crate) fn cargo_fuzz() -> Result<()> {
    if has("cargo-fuzz", CARGO_FUZZ) {
        return Ok(());
    }
    let install = format!("install cargo-fuzz --version {CARGO_FUZZ} --locked --debug");
    sh::show_and_run(&mut sh::command("cargo", &install))
}

/// Installs rustc's standard library for `target` if it is missing; that needs no root.
pub(crate) fn rust_target(target: &str) -> Result<()> {
    let directory = sh::output(sh::command("rustc", "--print target-libdir --target").arg(target))?;
    if Path::new(directory.trim_end()).is_dir() {
        return Ok(());
    }
    sh::show_and_run(&mut sh::command("rustup", &format!("target add {target}")))
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a BPF file system is mounted where links and maps are pinned.
pub(crate) fn bpffs_mounted() -> bool {
    const BPF_FS_MAGIC: u64 = 0xcafe_4a11; // linux/magic.h
    rustix::fs::statfs("/sys/fs/bpf").is_ok_and(|fs| fs.f_type as u64 == BPF_FS_MAGIC)
}

fn has(program: &str, version: &str) -> bool {
    let Some(path) = sh::find(program) else {
        return false;
    };
    let said = sh::output(&mut sh::command(path, "--version"));
    said.is_ok_and(|said| said.split_whitespace().any(|word| word == version))
}

/// Debian has this part of Python's library in a package of its own.
fn python_makes_venvs() -> bool {
    sh::output(&mut sh::command("python3", "-m ensurepip --version")).is_ok()
}

/// Whether apt would install a BPF compiler that is new enough, and remove nothing for it.
fn debian_has_toolchain() -> bool {
    let conflict = ["rustc", "rustup"].iter().any(|package| {
        let mut query = sh::command(
            "dpkg-query",
            &format!("-W -f ${{db:Status-Status}} {package}"),
        );
        sh::output(&mut query).is_ok_and(|status| status == "installed")
    });
    !conflict
        && new_enough("libstd-rust-web-dev-bpf", RUST_VERSION)
        && candidate("llvm-22-dev").is_some()
}

/// Whether apt would install at least this version, (major, minor).
fn new_enough(package: &str, least: (u32, u32)) -> bool {
    candidate(package).is_some_and(|version| {
        let version = version.split_once(':').map_or(&*version, |(_, rest)| rest); // an epoch
        let numbers = version.split(|c: char| !c.is_ascii_digit());
        let mut numbers = numbers.map_while(|number| number.parse().ok());
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= least
    })
}

/// The version that apt would install.
fn candidate(package: &str) -> Option<String> {
    let policy = sh::output(&mut sh::command("apt-cache", &format!("policy {package}"))).ok()?;
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// bpf-linker reads the compiler's bitcode, so it must be built for the compiler's LLVM.
fn build_bpf_linker() -> Command {
    let install = format!(
        "install bpf-linker --version {BPF_LINKER} --locked --no-default-features --features llvm-22"
    );
    let mut cargo = sh::command("/usr/bin/cargo", &install);
    cargo
        .env("LLVM_PREFIX", "/usr/lib/llvm-22")
        .env("RUSTC", "/usr/bin/rustc");
    cargo.env_remove("RUSTUP_TOOLCHAIN");
    cargo
}

/// While it lives, packages start no service when they are installed (invoke-rc.d(8)).
struct NoServices {
    ours: bool,
}

impl NoServices {
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    fn new() -> Result<Self> {
        let ours = !Path::new(Self::POLICY).exists();
        if ours {
            const FORBIDDEN: &str =
                "#!/bin/sh\n# Of `cargo xtask setup`, while it runs.\nexit 101\n";
            fs::write(Self::POLICY, FORBIDDEN).context(Self::POLICY)?;
            fs::set_permissions(Self::POLICY, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(Self::POLICY);
        }
    }
}
