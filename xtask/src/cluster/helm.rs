//! Helm, for the tests of the chart; built like the cluster's programs.

use std::path::PathBuf;

use anyhow::Result;

use super::{programs, sources};

const PACKAGE: &str = "helm.sh/helm/v3/cmd/helm";
/// What the key of the cache covers.
const SOURCES: [&str; 2] = ["go.mod", "go.sum"];

/// The directory of Helm; builds it when this state of the sources has not been built yet.
///
/// # Errors
/// As for the cluster's programs.
pub(super) fn directory() -> Result<PathBuf> {
    let module = sources().join("helm");
    programs::kept("helm", &module, &SOURCES, |output| {
        println!("   building Helm: about 3 minutes on two cores, once");
        programs::compile(&module, &[PACKAGE], "-s -w", output)
    })
}
