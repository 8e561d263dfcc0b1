//! The cluster's programs, built from `tests/cluster/` once for each state of it and kept outside the repository.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::sources;
use crate::{interrupt, oci, sh};

const PACKAGES: [&str; 7] = [
    "./coredns",
    "./kubernetes",
    "./pause",
    "github.com/containerd/containerd/v2/cmd/containerd",
    "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
    "github.com/containerd/containerd/v2/cmd/ctr",
    "helm.sh/helm/v3/cmd/helm",
];
/// What the key of the cache covers, besides the platform.
const SOURCES: [&str; 6] = [
    "go.mod",
    "go.sum",
    "coredns/main.go",
    "kubernetes/etcd.go",
    "kubernetes/main.go",
    "pause/main.go",
];
/// Snapshotters that this kernel need not have.
const TAGS: &str = "no_btrfs,no_devmapper,no_zfs";
/// Gateway API's definition of BackendTLSPolicy, in its module and in the cache.
const CRD: &str = "config/crd/standard/gateway.networking.k8s.io_backendtlspolicies.yaml";
pub(super) const CRD_FILE: &str = "backendtlspolicies.yaml";

/// The directory of the programs and the CRD; builds them when this state of the sources has not been built yet.
///
/// # Errors
/// No Go, no module proxy, or what the compiler says: its log is named.
pub(super) fn directory() -> Result<PathBuf> {
    kept("cluster", &sources(), &SOURCES, build)
}

/// The directory that `build` fills once for each state of a Go module's files.
pub(super) fn kept(
    name: &str,
    module: &Path,
    files: &[&str],
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let directory = cache()?.join(format!("{name}-{}", key(module, files)?));
    if directory.exists() {
        return Ok(directory);
    }
    let new = directory.with_extension("new");
    fs::create_dir_all(&new).with_context(|| new.display().to_string())?;
    build(&new)?;
    // Only a whole build gets the name.
    fs::rename(&new, &directory)?;
    println!("   kept in {}", directory.display());
    Ok(directory)
}

/// `$NODETLS_CACHE`, else `nodetls` in the user's cache directory (XDG base directory specification).
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(directory) = env::var_os("NODETLS_CACHE") {
        return Ok(directory.into());
    }
    let home = || Some(env::home_dir()?.join(".cache"));
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(home);
    let cache = cache.context("no home directory: set NODETLS_CACHE to a directory")?;
    Ok(cache.join("nodetls"))
}

fn key(module: &Path, files: &[&str]) -> Result<String> {
    let mut covered = format!("{} {TAGS}\n", env::consts::ARCH).into_bytes();
    for file in files {
        let file = module.join(file);
        covered.extend(fs::read(&file).with_context(|| file.display().to_string())?);
    }
    Ok(oci::hex(&covered)[..16].to_owned())
}

fn build(output: &Path) -> Result<()> {
    println!(
        "   building Kubernetes, containerd, CoreDNS and Helm: about 10 minutes on two cores, once"
    );
    let go = |args| go(&sources(), args);
    let version = sh::output(&mut go("list -m -f {{.Version}} k8s.io/kubernetes"))?;
    compile(&sources(), &PACKAGES, &linker_flags(version.trim()), output)?;
    let module = sh::output(&mut go("list -m -f {{.Dir}} sigs.k8s.io/gateway-api"))?;
    let crd = Path::new(module.trim()).join(CRD);
    let text = fs::read(&crd).with_context(|| crd.display().to_string())?;
    Ok(fs::write(output.join(CRD_FILE), text)?)
}

/// Compiles the programs `packages` of a Go module into `output`.
pub(super) fn compile(
    module: &Path,
    packages: &[&str],
    linker_flags: &str,
    output: &Path,
) -> Result<()> {
    let mut list = go(module, "list -deps -f {{.ImportPath}}");
    let all = sh::output(list.args(["-tags", TAGS]).args(packages))?;
    let mut build = go(module, "build -v -trimpath -buildvcs=false");
    build.args(["-tags", TAGS, "-ldflags", linker_flags]);
    build.arg("-o").arg(output).args(packages);
    println!("   $ {}", sh::line(&build));
    with_progress(&mut build, &output.join("build.log"), all.lines().count())
}

/// Without these the programs say that they are v0.0.0, and kubelet's version is what API objects show.
fn linker_flags(version: &str) -> String {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"));
    let set = "-X k8s.io/component-base/version";
    format!(
        "-s -w {set}.gitVersion={version} {set}.gitMajor={major} {set}.gitMinor={minor} {set}.gitTreeState=clean"
    )
}

/// Runs `go build -v`, which names each package that it compiles, and says now and then how far it is.
fn with_progress(build: &mut Command, log: &Path, packages: usize) -> Result<()> {
    let start = Instant::now();
    let file = File::create(log)?;
    build.stdout(file.try_clone()?).stderr(file);
    let mut child = build.spawn().with_context(|| sh::line(build))?;
    let mut said = start;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if interrupt::pending() {
            sh::terminate(&child);
            child.wait()?;
        }
        interrupt::check()?;
        if said.elapsed() >= Duration::from_secs(20) {
            said = Instant::now();
            let compiled = fs::read_to_string(log)?.lines().count();
            let seconds = start.elapsed().as_secs();
            println!("   {seconds:4} s  {compiled} of at most {packages} packages");
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    if !status.success() {
        let text = fs::read_to_string(log)?;
        let last: Vec<_> = text.lines().rev().take(10).collect();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
        bail!("go build: {status}; {} ends with\n{last}", log.display());
    }
    Ok(())
}

/// `go` in a module, at low priority: a build must not disturb what else is tested here.
pub(super) fn go(module: &Path, args: &str) -> Command {
    let mut go = sh::command("nice", &format!("-n 19 go {args}"));
    go.current_dir(module).env("CGO_ENABLED", "0");
    go
}
