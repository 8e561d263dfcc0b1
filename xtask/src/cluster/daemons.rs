//! The programs of the cluster that run on its nodes.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::node::Node;
use super::{Families, LOGS, config};
use crate::interrupt;

/// Those started so far. They go on when this is dropped.
pub(super) struct Daemons {
    programs: PathBuf,
    families: Families,
    running: Vec<(Child, PathBuf)>,
}

impl Daemons {
    /// None yet; `programs` is where they are.
    pub(super) fn new(programs: &Path, families: Families) -> Self {
        Self {
            programs: programs.to_owned(),
            families,
            running: Vec::new(),
        }
    }

    /// Starts `program` on `node`; what it prints goes to `NODE-PROGRAM.log`.
    pub(super) fn start(&mut self, node: &Node, program: &str) -> Result<()> {
        let log = Path::new(LOGS).join(format!("{}-{program}.log", node.name));
        let file = File::create(&log).with_context(|| log.display().to_string())?;
        let mut command = node.daemon()?;
        let own = self.programs.join(program);
        if own.exists() {
            command.arg(own);
        } else {
            command.arg(self.programs.join("kubernetes")).arg(program);
        }
        command.args(config::flags(program, self.families, node)?);
        // containerd looks for its shim, runc and nft here.
        let path = env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}:/usr/sbin:/sbin", self.programs.display());
        command
            .env("PATH", path)
            .stdout(file.try_clone()?)
            .stderr(file);
        self.running.push((command.spawn().context("setsid")?, log));
        Ok(())
    }

    /// Waits until `condition` holds.
    ///
    /// # Errors
    /// A program ended, or `limit` went by: with the log to read.
    pub(super) fn wait(
        &mut self,
        what: &str,
        limit: Duration,
        condition: impl Fn() -> bool,
    ) -> Result<()> {
        let done = interrupt::poll(limit, || {
            for (child, log) in &mut self.running {
                if let Some(status) = child.try_wait()? {
                    bail!("{what}: a program ended, {status}; {}", end_of(log));
                }
            }
            let done = condition();
            if !done {
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(done.then_some(()))
        })?;
        done.with_context(|| format!("{what}: not within {limit:?}; the logs are in {LOGS}"))
    }
}

/// Where a log is, and its last lines.
fn end_of(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(5)..].join("\n");
    format!("{} ends with\n{last}", log.display())
}
