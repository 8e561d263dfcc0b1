//! Builds the eBPF programs into `target/bpf/`.

use std::env::consts::ARCH;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::sh;

/// A compiler for the target `bpfel-unknown-none`.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Toolchain {
    /// Debian's packages rustc-web, cargo-web and libstd-rust-web-dev-bpf: a prebuilt `core`.
    Debian,
    /// rustup's nightly with the component rust-src: `core` is built too.
    Nightly,
}

impl Toolchain {
    /// The one that is installed, Debian's first.
    pub(crate) fn installed() -> Option<Self> {
        let debian = [
            "/usr/bin/cargo",
            "/usr/bin/rustc",
            "/usr/lib/rustlib/bpfel-unknown-none",
        ];
        if debian.iter().all(|path| Path::new(path).exists()) {
            return Some(Self::Debian);
        }
        let mut rustc = sh::command("rustup", "run nightly rustc --print sysroot");
        let sysroot = sh::output(&mut rustc).ok()?;
        let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
        core.exists().then_some(Self::Nightly)
    }

    fn cargo(self, features: &str) -> Command {
        let build = format!(
            "build --package nodetls-ebpf --features {features} --bins --release \
             --target bpfel-unknown-none"
        );
        let mut cargo = match self {
            Self::Debian => sh::command("/usr/bin/cargo", &build),
            Self::Nightly => sh::command(
                "rustup",
                &format!("run nightly cargo {build} -Z build-std=core"),
            ),
        };
        // What the outer cargo and rustup set would choose their compiler.
        for variable in [
            "CARGO",
            "CARGO_BUILD_TARGET",
            "RUSTC",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTC_WRAPPER",
            "RUSTDOC",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
        ] {
            cargo.env_remove(variable);
        }
        if self == Self::Debian {
            // aya-ebpf needs the unstable feature asm_experimental_arch.
            cargo
                .env("RUSTC", "/usr/bin/rustc")
                .env("RUSTC_BOOTSTRAP", "1");
        }
        cargo
    }
}

/// Builds the programs; leaves an object's file alone when it would stay the same, so that cargo
/// does not build the proxy anew for it.
///
/// # Errors
/// No toolchain, no linker, or what the compiler says.
pub(crate) fn build(log: bool) -> Result<()> {
    const CURE: &str = "run `cargo xtask setup`";
    let toolchain = Toolchain::installed()
        .with_context(|| format!("no Rust compiler for bpfel-unknown-none: {CURE}"))?;
    let linker = sh::find("bpf-linker").with_context(|| format!("no bpf-linker: {CURE}"))?;
    // Not target/debug: the two compilers would discard each other's work.
    let work = sh::top().join("target/bpf-build");
    let flags = [
        format!("--cfg=bpf_target_arch=\"{ARCH}\""),
        format!("-Clinker={}", linker.display()),
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(), // BTF is made from it
    ];
    let mut cargo = toolchain.cargo(if log { "log" } else { "bpf" });
    cargo
        .env("CARGO_TARGET_DIR", &work)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    sh::run(&mut cargo).context("the eBPF programs")?;

    let objects = sh::top().join("target/bpf");
    fs::create_dir_all(&objects)?;
    for program in ["connect", "lookup"] {
        let built = work.join("bpfel-unknown-none/release").join(program);
        copy_if_changed(&built, &objects.join(program).with_extension("o"))?;
    }
    Ok(())
}

fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| from.display().to_string())?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(to, new).with_context(|| to.display().to_string())
}
