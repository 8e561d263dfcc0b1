//! `kubectl nodetls`, as an administrator runs it.

use std::env;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::{KUBECTL, Namespace, text};

/// The binary of the image, which `cargo xtask cluster install` built.
const BINARY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../target/image/root/nodetls"
);

impl Namespace {
    /// Runs `kubectl nodetls ARGUMENTS` in the namespace; its exit code, and what it said.
    ///
    /// # Panics
    /// nodetls is not installed by `cargo xtask cluster install`.
    pub fn plugin(&self, arguments: &[&str]) -> (i32, String) {
        let files = self.files();
        std::fs::create_dir_all(&files).unwrap();
        let plugin = files.join("kubectl-nodetls");
        if !plugin.exists() {
            symlink(BINARY, &plugin).unwrap();
        }
        let directory = Path::new(KUBECTL).parent().unwrap().to_owned();
        let before = env::var_os("PATH").unwrap_or_default();
        let paths = [directory].into_iter().chain(env::split_paths(&before));
        let mut command = Command::new(plugin);
        command.env("PATH", env::join_paths(paths).unwrap());
        command.args(arguments).args(["--namespace", &self.0]);
        let output = command.current_dir(files).output();
        let output = output.expect("no image: `cargo xtask cluster install`");
        (output.status.code().unwrap(), text(&output))
    }

    /// The same with `--output json`.
    ///
    /// # Panics
    /// It says something else.
    pub fn plugin_json(&self, arguments: &[&str]) -> (i32, Value) {
        let (code, said) = self.plugin(&[arguments, &["--output", "json"]].concat());
        let value = serde_json::from_str(&said);
        (
            code,
            value.unwrap_or_else(|error| panic!("{error}: {said}")),
        )
    }
}
