//! The nodes' containerd, through its ctr.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::node::{NODES, Node};
use crate::sh;

/// Both nodes', with the directory of the cluster's programs.
pub(super) struct Containerd<'a>(pub(super) &'a Path);

impl Containerd<'_> {
    /// Whether both can be asked.
    pub(super) fn answers(&self) -> bool {
        let mut nodes = NODES.iter();
        nodes.all(|node| sh::output(&mut self.ctr(node, "version")).is_ok())
    }

    /// Whether both have the image `name`, of this digest.
    pub(super) fn has(&self, name: &str, digest: &str) -> Result<bool> {
        for node in &NODES {
            let mut list = self.ctr(node, "--namespace k8s.io images list");
            if !sh::output(list.arg(format!("name=={name}")))?.contains(digest) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives the images of these archives to both.
    pub(super) fn import(&self, archives: &[PathBuf]) -> Result<()> {
        let import = |node| {
            archives.iter().try_for_each(|archive| {
                let mut import = self.ctr(node, "--namespace k8s.io images import");
                sh::output(import.arg(archive)).map(drop)
            })
        };
        std::thread::scope(|scope| {
            let imports = NODES
                .each_ref()
                .map(|node| scope.spawn(move || import(node)));
            imports
                .into_iter()
                .try_for_each(|import| match import.join() {
                    Ok(result) => result,
                    Err(panic) => std::panic::resume_unwind(panic),
                })
        })
    }

    fn ctr(&self, node: &Node, args: &str) -> Command {
        let mut command = sh::command(node.directory().join("enter"), "");
        command.arg(self.0.join("ctr")).args(args.split(' '));
        command
    }
}
