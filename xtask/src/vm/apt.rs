//! apt with sources of its own: other releases of Debian than this machine's, from this machine's mirrors.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::sh;

/// What knows linux-image-amd64: the `Label` of a mirror, and a suite there. Each of another series.
const SUITES: [(&str, &str); 4] = [
    ("Debian-Security", "bullseye-security"),
    ("Debian-Security", "bookworm-security"),
    ("Debian-Security", "trixie-security"),
    ("Debian", "trixie-backports"),
];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// How long lists of packages are taken for new.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// A directory with all that apt would otherwise have in /etc and /var.
pub(super) struct Apt {
    directory: PathBuf,
}

impl Apt {
    /// Knows the packages of all suites; asks the mirrors at most once a day.
    ///
    /// # Errors
    /// This machine's apt knows no mirror of Debian's, or none answers.
    pub(super) fn new() -> Result<Self> {
        let directory = sh::top().join("target/vm/apt");
        let apt = Self { directory };
        for below in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(apt.directory.join(below))?;
        }
        let sources = sources()?;
        let file = apt.directory.join("sources.list");
        let updated = apt.directory.join("updated");
        let age = fs::metadata(&updated).and_then(|file| file.modified());
        let fresh = age.is_ok_and(|time| time.elapsed().is_ok_and(|age| age < FRESH));
        if fresh && fs::read_to_string(&file).is_ok_and(|old| old == sources) {
            return Ok(apt);
        }
        fs::write(&file, sources)?;
        // One suite that was moved to the archive must not keep us from the others.
        if let Err(error) = sh::show_and_run(apt.command("apt-get", "update").arg("--quiet")) {
            println!("going on with the suites that answered: {error:#}");
        }
        fs::write(updated, "")?;
        Ok(apt)
    }

    /// The versions of a package, the newest first.
    pub(super) fn versions(&self, package: &str) -> Result<Vec<String>> {
        let madison = sh::output(self.command("apt-cache", "madison").arg(package))?;
        let version = |line: &str| Some(line.split('|').nth(1)?.trim().to_owned());
        Ok(madison.lines().filter_map(version).collect())
    }

    /// The packages of the same source that one depends on, itself included: all have its version.
    pub(super) fn with_parts(&self, package: &str, version: &str) -> Result<Vec<String>> {
        let mut packages = vec![package.to_owned()];
        let mut next = 0;
        while let Some(package) = packages.get(next) {
            next += 1;
            let query = format!("{package}={version}");
            let shown = sh::output(self.command("apt-cache", "show").arg(&query))?;
            let depends = shown
                .lines()
                .find_map(|line| line.strip_prefix("Depends: "));
            for part in depends.unwrap_or_default().split(", ") {
                let part = part.strip_suffix(&format!(" (= {version})"));
                if let Some(part) = part
                    && !packages.iter().any(|package| package == part)
                {
                    packages.push(part.to_owned());
                }
            }
        }
        Ok(packages)
    }

    /// Downloads packages into `directory`.
    pub(super) fn download(
        &self,
        packages: &[String],
        version: &str,
        directory: &Path,
    ) -> Result<()> {
        let mut apt = self.command("apt-get", "download --quiet");
        apt.args(
            packages
                .iter()
                .map(|package| format!("{package}={version}")),
        );
        sh::run(apt.current_dir(directory))
    }

    fn command(&self, program: &str, arguments: &str) -> Command {
        let mut command = Command::new(program);
        let directory = self.directory.display();
        // This machine's apt.conf stays in force: it may name a proxy.
        for option in [
            format!("Dir::Etc::sourcelist={directory}/sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            "Dir::Etc::preferences=/dev/null".to_owned(),
            "Dir::Etc::preferencesparts=/dev/null".to_owned(),
            format!("Dir::State::lists={directory}/lists"),
            "Dir::State::status=/dev/null".to_owned(),
            format!("Dir::Cache={directory}"),
            "Dir::Cache::pkgcache=pkgcache.bin".to_owned(),
            "APT::Update::Post-Invoke=".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command.args(arguments.split(' '));
        command
    }
}

/// The lines of sources.list, with the mirrors that this machine's apt uses.
fn sources() -> Result<String> {
    let format = ["--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"];
    let targets = sh::output(Command::new("apt-get").arg("indextargets").args(format))?;
    let mut lines = String::new();
    for (label, suite) in SUITES {
        let mirror = targets.lines().find_map(|line| {
            let (of, mirror) = line.split_once(' ')?;
            (of == label).then_some(mirror)
        });
        let Some(mirror) = mirror else {
            bail!("this machine's apt knows no mirror of {label}: run `apt-get update`, on Debian");
        };
        lines += &format!(
            "deb [arch=amd64 target=Packages signed-by={KEYRING}] {mirror} {suite} main\n"
        );
    }
    fs::metadata(KEYRING).context(KEYRING)?;
    Ok(lines)
}
