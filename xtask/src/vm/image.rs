//! What a guest boots into: a file system in memory with the tests, nodetls, and few programs besides.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::kernels::{Kernel, MODULES};
use super::table::Row;
use crate::sh;

const INIT: &str = include_str!("init.sh");
/// Of this machine; applets of busybox's are the rest. (Its own shell takes its own `ip`.)
const PROGRAMS: [&str; 4] = ["busybox", "sh", "ip", "ss"];
/// Where the tests look for the programs they start: above their own directory.
const BUILT: [&str; 3] = ["nodetls", "dial", "tls-echo"];

/// All that is the same for every kernel.
pub(super) struct Programs {
    pub(super) rows: Vec<Row>,
    archive: PathBuf,
}

impl Programs {
    /// Builds tests and nodetls, and packs them with the rows whose names contain `word`.
    ///
    /// # Errors
    /// What cargo says; a word that no row has.
    pub(super) fn build(word: Option<&str>) -> Result<Self> {
        sh::run(&mut sh::cargo(
            "build --locked --package nodetls --package nodetls-tests --bins",
        ))?;
        let hooks = hooks()?;
        let mut rows = Row::read(&sh::output(Command::new(&hooks).arg("--rows"))?);
        if let Some(word) = word {
            rows.retain(|row| row.name.contains(word));
        }
        ensure!(
            !rows.is_empty(),
            "no row has a name with {}",
            word.unwrap_or("")
        );

        let root = sh::top().join("target/vm/root");
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        for directory in ["bin", "dev", "proc", "sys", "run", "tmp", "nodetls/deps"] {
            fs::create_dir_all(root.join(directory))?;
        }
        let mut binaries = vec![strip(&hooks, &root.join("nodetls/deps/hooks"))?];
        for name in BUILT {
            let built = sh::top().join("target/debug").join(name);
            binaries.push(strip(&built, &root.join("nodetls").join(name))?);
        }
        for name in PROGRAMS {
            let program = sh::find(name).with_context(|| format!("no {name}"))?;
            let copy = root.join("bin").join(name);
            fs::copy(&program, &copy)?;
            binaries.push(copy);
        }
        for binary in binaries {
            copy_libraries(&binary, &root)?;
        }
        let init = root.join("init");
        fs::write(&init, INIT)?;
        fs::set_permissions(&init, Permissions::from_mode(0o755))?;
        let names: String = rows.iter().map(|row| format!("{}\n", row.name)).collect();
        fs::write(root.join("rows"), names)?;
        let archive = sh::top().join("target/vm/root.cpio");
        pack(&root, &archive)?;
        rows.push(Row::kernel_quiet());
        Ok(Self { rows, archive })
    }

    /// The initial file system for a kernel: of several archives the kernel unpacks one after the other.
    pub(super) fn with_modules(&self, kernel: &Kernel) -> Result<PathBuf> {
        let work = sh::top().join("target/vm");
        let root = tempfile::tempdir_in(&work)?;
        let modules = root.path().join("modules");
        fs::create_dir(&modules)?;
        for module in MODULES {
            let file = format!("{module}.ko");
            fs::copy(kernel.directory.join(&file), modules.join(&file))?;
        }
        fs::write(modules.join("order"), MODULES.join("\n"))?;
        let archive = work.join("modules.cpio");
        pack(root.path(), &archive)?;
        let image = work.join("initrd.cpio");
        let mut file = File::create(&image)?;
        for part in [&self.archive, &archive] {
            std::io::copy(&mut File::open(part)?, &mut file)?;
        }
        Ok(image)
    }
}

/// Builds the test program; cargo tells where it is.
fn hooks() -> Result<PathBuf> {
    let test = "test --locked --package nodetls-tests --test hooks --no-run";
    sh::run(&mut sh::cargo(test))?;
    let messages = sh::output(sh::cargo(test).args(["--quiet", "--message-format", "json"]))?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "hooks")
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .context("cargo names no test program `hooks`")
}

/// Nine tenths of a binary of the profile dev are for debuggers.
fn strip(binary: &Path, copy: &Path) -> Result<PathBuf> {
    let mut strip = Command::new("strip");
    sh::run(strip.args(["--strip-debug", "-o"]).arg(copy).arg(binary))?;
    Ok(copy.to_owned())
}

/// Copies the shared libraries that a binary wants, to where they are on this machine.
fn copy_libraries(binary: &Path, root: &Path) -> Result<()> {
    // Fails for a static binary, which wants none.
    let libraries = sh::output(Command::new("ldd").arg(binary)).unwrap_or_default();
    let paths = libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for path in paths {
        let copy = root.join(path.trim_start_matches('/'));
        let directory = copy.parent().context("a library has no directory")?;
        fs::create_dir_all(directory)?;
        fs::copy(path, &copy).with_context(|| path.to_owned())?;
    }
    Ok(())
}

/// Packs a directory as the kernel unpacks it (initramfs buffer format: newc), not compressed: emulated, that is slow.
fn pack(root: &Path, archive: &Path) -> Result<()> {
    let script = "find . | cpio --create --format=newc --owner=0:0 --quiet";
    let mut sh = Command::new("sh");
    sh.args(["-c", script]).current_dir(root);
    sh::run(sh.stdin(Stdio::null()).stdout(File::create(archive)?))
}
