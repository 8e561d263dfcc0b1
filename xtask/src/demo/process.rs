//! Programs in the background.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{interrupt, sh};

/// How long a program may take until it is ready: on a busy machine Envoy needs seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program that runs until this is dropped: SIGTERM, and SIGKILL if that does not help.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it prints goes to `NAME.log` in `directory`.
    pub(crate) fn start(name: &str, command: &mut Command, directory: &Path) -> Result<Self> {
        let log = directory.join(name).with_extension("log");
        let file = File::create(&log)?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        command.process_group(0); // a terminal's Ctrl-C is for xtask, which then ends this one
        let child = command.spawn().with_context(|| sh::line(command))?;
        Ok(Self { child, log })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// It has not within 20 s.
    pub(crate) fn end(mut self) -> Result<()> {
        sh::terminate(&self.child);
        let ended = interrupt::poll(PATIENCE, || Ok(self.child.try_wait()?))?;
        ended
            .map(drop)
            .with_context(|| format!("{} did not end in 20 s", self.log.display()))
    }

    /// The first line of what it has printed that contains `text`, waiting for it up to 20 s.
    pub(super) fn line_with(&self, text: &str) -> Result<Option<String>> {
        interrupt::poll(PATIENCE, || {
            let log = fs::read_to_string(&self.log)?;
            Ok(log
                .lines()
                .find(|line| line.contains(text))
                .map(str::to_owned))
        })
    }

    /// Waits for a line that contains `text`.
    ///
    /// # Errors
    /// The program ended, or 20 s went by: then with all that it printed.
    pub(super) fn wait_for_line(&mut self, text: &str) -> Result<()> {
        self.wait_until(|log| Ok(log.contains(text)))
    }

    /// Waits until `condition`, given all that the program printed, is true.
    ///
    /// # Errors
    /// As [`Process::wait_for_line`].
    pub(crate) fn wait_until(&mut self, condition: impl Fn(&str) -> Result<bool>) -> Result<()> {
        let started = interrupt::poll(PATIENCE, || {
            let ended = self.child.try_wait()?.is_some();
            let good = condition(&fs::read_to_string(&self.log)?)?;
            Ok((good || ended).then_some(good))
        })?;
        if started == Some(true) {
            return Ok(());
        }
        let state = if started.is_some() {
            "ended"
        } else {
            "was not ready in 20 s"
        };
        let log = fs::read_to_string(&self.log)?;
        bail!("{} {state}; it printed:\n{log}", self.log.display())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        sh::terminate(&self.child);
        for _ in 0..600 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
