//! Steps as documents print them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::{KUBECTL, Namespace, text};

impl Namespace {
    /// Runs shell commands; `kubectl` is the cluster's, in this namespace, and files stay for the next steps.
    ///
    /// # Panics
    /// A command fails.
    pub fn steps(&self, script: &str) -> String {
        let files = self.files();
        fs::create_dir_all(&files).unwrap();
        let kubectl = format!("kubectl() {{ {KUBECTL} --namespace {} \"$@\"; }}", self.0);
        let script = format!("set -eu\n{kubectl}\n{script}");
        let mut shell = Command::new("sh");
        let output = shell
            .args(["-c", &script])
            .current_dir(files)
            .output()
            .unwrap();
        assert!(output.status.success(), "{script}\n{}", text(&output));
        text(&output)
    }

    /// A file that steps have made.
    pub fn file(&self, name: &str) -> String {
        self.files().join(name).display().to_string()
    }

    /// Where steps are run; removed with the namespace.
    pub(crate) fn files(&self) -> PathBuf {
        std::env::temp_dir().join(format!("nodetls-{}", self.0))
    }
}
