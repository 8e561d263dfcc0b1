//! `cargo xtask image`: nodetls' image, as an OCI archive. The Dockerfile makes the same of the same files.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::oci::{Arch, Image};
use crate::setup::{self, For};
use crate::{ebpf, sbom, sh};

/// As containerd names what a manifest calls `nodetls:VERSION`.
pub(crate) const NAME: &str = concat!("docker.io/library/nodetls:", env!("CARGO_PKG_VERSION"));

/// The image's files, in the image. The CA certificates are those of the machine that builds it, where Debian, Ubuntu,
/// Alpine and Arch have them.
const BINARY: &str = "/nodetls";
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Build nodetls' image, with one static binary and the public CA certificates, as an OCI archive
///
/// Beside the archive goes a list of what the binary is made of: FILE.cdx.json (CycloneDX).
///
/// Examples:
///   cargo xtask image                  for machines like this one
///   cargo xtask image --arch arm64     for others; a compiler for them is installed
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Options {
    /// The archive [default: target/image/nodetls.tar, or nodetls-ARCH.tar for other machines]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// For which processors
    #[arg(long, value_enum, default_value_t = Arch::HERE)]
    arch: Arch,
    /// How the binary is compiled
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
}

/// One of cargo's profiles.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Profile {
    Release,
    Dev,
}

impl Profile {
    /// Its name for `--profile`, and that of its directory.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Release => ("release", "release"),
            Self::Dev => ("dev", "debug"),
        }
    }
}

/// An archive, and the digest by which containerd knows the image in it.
pub(crate) struct Built {
    pub(crate) archive: PathBuf,
    pub(crate) digest: String,
}

/// Carries out `cargo xtask image`.
pub(crate) fn run(options: Options) -> Result<()> {
    let arch = options.arch;
    let archive = options.output.unwrap_or_else(|| default_archive(arch));
    let built = build(options.profile, arch, archive)?;
    let sbom = built.archive.with_extension("cdx.json");
    let mut document = sbom::of_nodetls(&target(arch))?;
    let certificates = fs::read(CERTIFICATES)?;
    sbom::add_debian(&mut document, arch, CERTIFICATES, &certificates)?;
    fs::write(&sbom, serde_json::to_vec_pretty(&document)?)?;
    println!("{NAME} {} {}", arch.name(), built.digest);
    println!("{}\n{}", built.archive.display(), sbom.display());
    Ok(())
}

/// Where the archive goes that nobody gave a place.
pub(crate) fn default_archive(arch: Arch) -> PathBuf {
    place("nodetls", arch).with_extension("tar")
}

/// A path that machines of other kinds do not share.
fn place(name: &str, arch: Arch) -> PathBuf {
    let name = match arch {
        Arch::HERE => name.to_owned(),
        other => format!("{name}-{}", other.name()),
    };
    sh::top().join("target/image").join(name)
}

/// As Rust names it.
fn target(arch: Arch) -> String {
    format!("{}-unknown-linux-gnu", arch.of_compilers())
}

/// Builds what has changed, and writes the archive.
///
/// # Errors
/// No BPF toolchain, no compiler for `arch` to be had, no CA certificates on this machine, or what cargo says.
pub(crate) fn build(profile: Profile, arch: Arch, archive: PathBuf) -> Result<Built> {
    ebpf::build(false)?;
    let certificates = fs::read_to_string(CERTIFICATES)
        .with_context(|| format!("{CERTIFICATES}: install the package ca-certificates"))?;
    // The Dockerfile's context.
    let root = place("root", arch);
    put(&root, BINARY, &fs::read(binary(profile, arch)?)?, 0o755)?;
    put(&root, CERTIFICATES, certificates.as_bytes(), 0o644)?;

    let mut image = Image::for_arch(arch, NAME, config());
    image.executable(BINARY, &inside(&root, BINARY))?;
    image.text(CERTIFICATES, &certificates);
    let digest = image.write(&archive)?;
    Ok(Built { archive, digest })
}

/// Without a user of its own a pod must name one; nobody is root by mistake.
fn config() -> Value {
    json!({"Entrypoint": [BINARY], "User": "65532:65532"})
}

/// Compiles nodetls into one file that needs no other. Only the binary itself is told so, which leaves everything it is made
/// of to be shared with other builds.
fn binary(profile: Profile, arch: Arch) -> Result<PathBuf> {
    let (profile, directory) = profile.names();
    let (target, mut built) = (target(arch), sh::top().join("target"));
    let mut cargo = sh::cargo("rustc --locked --package nodetls --bin nodetls --profile");
    cargo.arg(profile);
    if arch != Arch::HERE {
        setup::run(For::Cross)?;
        setup::rust_target(&target)?;
        let compiler = format!("{}-linux-gnu-gcc", arch.of_compilers());
        cargo.args(["--target", &target]);
        if directory == "debug" {
            // It can't be run here: nothing in it has to be fast.
            cargo.args(["--config", r#"profile.dev.package."*".opt-level=0"#]);
        }
        // Of its own: others may build meanwhile.
        built.push("cross");
        cargo.arg("--target-dir").arg(&built);
        let variable = target.to_uppercase().replace('-', "_");
        cargo.env(format!("CARGO_TARGET_{variable}_LINKER"), &compiler);
        cargo.env(format!("CC_{}", target.replace('-', "_")), &compiler);
        built.push(&target);
    }
    cargo.args(["--", "-Ctarget-feature=+crt-static"]);
    cargo.env("CARGO_PROFILE_RELEASE_DEBUG", "false"); // three quarters of the file
    sh::run(&mut cargo)?;
    let binary = built.join(directory).join("nodetls");
    let headers = sh::output(sh::command("readelf", "--program-headers --wide").arg(&binary))?;
    let interpreter = headers.lines().find(|line| line.contains("INTERP"));
    ensure!(
        interpreter.is_none(),
        "{} is not static: it wants an interpreter",
        binary.display()
    );
    Ok(binary)
}

fn put(root: &Path, path: &str, contents: &[u8], mode: u32) -> Result<()> {
    let file = inside(root, path);
    let directory = file.parent().unwrap_or(root);
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    fs::write(&file, contents).with_context(|| file.display().to_string())?;
    Ok(fs::set_permissions(&file, Permissions::from_mode(mode))?)
}

fn inside(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_dockerfile_makes_the_same_image() {
        let text = fs::read_to_string(sh::top().join("Dockerfile")).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let config = config();
        let expected = [
            "FROM scratch".to_owned(),
            format!("COPY {} {BINARY}", &BINARY[1..]),
            format!("COPY {} {CERTIFICATES}", &CERTIFICATES[1..]),
            format!("USER {}", config["User"].as_str().unwrap()),
            format!("ENTRYPOINT {}", config["Entrypoint"]),
        ];
        assert_eq!(lines.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_manifests_name_this_image() {
        let text = fs::read_to_string(sh::top().join("manifests/kustomization.yaml")).unwrap();
        let tag = format!("newTag: {}", env!("CARGO_PKG_VERSION"));
        assert!(text.lines().any(|line| line.trim() == tag), "{text}");
    }
}
