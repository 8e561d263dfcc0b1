//! `kubectl nodetls`, as an administrator runs it.

use std::env;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::{KUBECTL, Namespace, text};

/// The binary of the image, which `cargo xtask cluster install` built.
const BINARY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../target/image/root/nodetls"
);

impl Namespace {
    /// Runs `kubectl ARGUMENTS` where kubectl finds nodetls as its plugin.
    ///
    /// # Panics
    /// nodetls is not installed by `cargo xtask cluster install`.
    pub fn kubectl_with_plugin(&self, arguments: &[&str]) -> Output {
        assert!(Path::new(BINARY).exists(), "`cargo xtask cluster install`");
        let files = self.files();
        std::fs::create_dir_all(&files).unwrap();
        for name in ["kubectl-nodetls", "kubectl_complete-nodetls"] {
            let plugin = files.join(name);
            if !plugin.exists() {
                symlink(BINARY, &plugin).unwrap();
            }
        }
        let directory = Path::new(KUBECTL).parent().unwrap().to_owned();
        let before = env::var_os("PATH").unwrap_or_default();
        let paths = [files.clone(), directory];
        let paths = paths.into_iter().chain(env::split_paths(&before));
        let mut command = Command::new(KUBECTL);
        command.env("PATH", env::join_paths(paths).unwrap());
        command.args(arguments).current_dir(files).output().unwrap()
    }

    /// Runs `kubectl nodetls ARGUMENTS` in the namespace; its exit code, and what it said.
    ///
    /// # Panics
    /// As `kubectl_with_plugin`.
    pub fn plugin(&self, arguments: &[&str]) -> (i32, String) {
        let arguments = [&["nodetls"], arguments, &["--namespace", &self.0]].concat();
        let output = self.kubectl_with_plugin(&arguments);
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
