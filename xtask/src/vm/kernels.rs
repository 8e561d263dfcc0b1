//! Debian's kernels: the image and the few modules that the tests need, kept in the cache.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use tar::Archive;

use super::apt::Apt;
use crate::{cluster, sh};

/// The package that depends on the newest kernel of a suite.
const PACKAGE: &str = "linux-image-amd64";
/// In the order in which they are loaded: the pods' devices; the agent's look-ups of sockets.
pub(super) const MODULES: [&str; 3] = ["veth", "inet_diag", "tcp_diag"];

/// A kernel of Debian's.
pub(super) struct Kernel {
    /// MAJOR.MINOR
    pub(super) series: String,
    /// The package's.
    pub(super) version: String,
    /// Holds `vmlinuz`, and [`MODULES`] with the suffix `.ko`.
    pub(super) directory: PathBuf,
}

/// The kernels of the wanted series, all if none is named, oldest first; downloads those that the cache lacks.
///
/// # Errors
/// A series that no suite has; a mirror that does not answer; a package without the files.
pub(super) fn get(wanted: &[String]) -> Result<Vec<Kernel>> {
    let cache = cluster::cache()?.join("kernels");
    let apt = Apt::new()?;
    let mut kernels: Vec<Kernel> = Vec::new();
    for version in apt.versions(PACKAGE)? {
        let series = series(&version);
        // Of one series the first is the newest.
        if kernels.iter().all(|kernel| kernel.series != series) {
            let directory = cache.join(&version);
            kernels.push(Kernel {
                series,
                version,
                directory,
            });
        }
    }
    kernels.reverse();
    for series in wanted {
        if kernels.iter().all(|kernel| kernel.series != *series) {
            let known: Vec<_> = kernels.iter().map(|kernel| &*kernel.series).collect();
            bail!(
                "Debian has no kernel {series} now; it has {}",
                known.join(", ")
            );
        }
    }
    kernels.retain(|kernel| wanted.is_empty() || wanted.contains(&kernel.series));
    for kernel in &kernels {
        if !kernel.directory.exists() {
            println!(
                "Linux {}: downloading Debian's {}",
                kernel.series, kernel.version
            );
            let what = || format!("kernel {}", kernel.version);
            download(&apt, kernel).with_context(what)?;
        }
    }
    Ok(kernels)
}

/// 6.1 of 6.1.192-2, 7.3 of 7.3.4-1~bpo13+1.
fn series(version: &str) -> String {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    let (major, minor) = (numbers.next(), numbers.next());
    format!(
        "{}.{}",
        major.unwrap_or_default(),
        minor.unwrap_or_default()
    )
}

fn download(apt: &Apt, kernel: &Kernel) -> Result<()> {
    let new = kernel.directory.with_extension("new");
    let packages = tempfile::tempdir_in(sh::top().join("target/vm"))?;
    fs::create_dir_all(&new)?;
    let parts = apt.with_parts(PACKAGE, &kernel.version)?;
    apt.download(&parts, &kernel.version, packages.path())?;
    for package in fs::read_dir(packages.path())? {
        unpack(&package?.path(), &new)?;
    }
    let modules = MODULES.iter().map(|module| format!("{module}.ko"));
    for file in modules.chain(["vmlinuz".to_owned()]) {
        ensure!(new.join(&file).exists(), "its packages have no {file}");
    }
    // Only a whole one gets the name.
    Ok(fs::rename(&new, &kernel.directory)?)
}

/// Takes image and modules out of a package.
fn unpack(package: &Path, into: &Path) -> Result<()> {
    let mut dpkg = Command::new("dpkg-deb");
    dpkg.arg("--fsys-tarfile").arg(package);
    let mut child = dpkg.stdout(Stdio::piped()).spawn().context("dpkg-deb")?;
    let stdout = child.stdout.take().context("dpkg-deb")?;
    let mut archive = Archive::new(stdout);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("vmlinuz") {
            io::copy(&mut entry, &mut fs::File::create(into.join("vmlinuz"))?)?;
        } else if let Some((module, suffix)) = name.split_once(".ko")
            && MODULES.contains(&module)
        {
            let file = into.join(&*name);
            io::copy(&mut entry, &mut fs::File::create(&file)?)?;
            match suffix {
                "" => {}
                ".xz" => sh::run(Command::new("xz").arg("--decompress").arg(&file))?,
                _ => bail!("{name}: compressed in a way that vm-test does not know"),
            }
        }
    }
    // What follows the last entry.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    let status = child.wait()?;
    ensure!(status.success(), "dpkg-deb: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_of_a_version() {
        assert_eq!(series("6.1.192-2"), "6.1");
        assert_eq!(series("7.3~rc7-1~exp1"), "7.3");
        assert_eq!(series("7.3.4-1~bpo13+1"), "7.3");
    }
}
