//! Running other programs.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::interrupt;

/// The workspace's top directory.
pub(crate) fn top() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// `program` with `args`, split at spaces, to be run in the workspace's top directory.
pub(crate) fn command(program: impl AsRef<OsStr>, args: &str) -> Command {
    let mut command = Command::new(program);
    command.args(args.split_whitespace()).current_dir(top());
    command
}

/// The cargo that runs this task.
pub(crate) fn cargo(args: &str) -> Command {
    command(env::var_os("CARGO").unwrap_or("cargo".into()), args)
}

/// Runs `command` with this process' own input and output; its failure is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let mut child = command.spawn().with_context(|| line(command))?;
    // A terminal's Ctrl-C reaches the child by itself, a signal to this process alone does not.
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if interrupt::pending() {
            terminate(&child);
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    interrupt::check()?;
    if !status.success() {
        bail!("`{}`: {status}", line(command));
    }
    Ok(())
}

/// Shows `command`, then runs it.
pub(crate) fn show_and_run(command: &mut Command) -> Result<()> {
    println!("$ {}", line(command));
    run(command)
}

/// What `command` prints to its standard output; its failure is an error with its error output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| line(command))?;
    interrupt::check()?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}`: {}\n{}",
            line(command),
            output.status,
            errors.trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Sends SIGTERM to a child that has not been waited for.
pub(crate) fn terminate(child: &Child) {
    // The kernel keeps the pid until the child is waited for, so this reaches no other process.
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
}

/// `command` as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), quoted(value?))));
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(quoted);
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Where `program` is: in PATH, cargo's bin directory or an sbin directory.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([cargo_bin(), "/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

/// Where `cargo install` puts programs.
fn cargo_bin() -> PathBuf {
    let home = || env::home_dir().unwrap_or_default().join(".cargo");
    env::var_os("CARGO_HOME")
        .map_or_else(home, PathBuf::from)
        .join("bin")
}
