//! What nodetls' component `monitoring` is measured by: the Prometheus operator's CRDs, out of its Go module, and a program
//! that reads dashboards as Grafana's schema has them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{programs, sources};
use crate::sh;

const MODULE: &str = "github.com/prometheus-operator/prometheus-operator";
const CRDS: &str = "example/prometheus-operator-crd";
const KINDS: [&str; 2] = ["podmonitors", "prometheusrules"];

/// Reads a dashboard; in the directory, as its module is called.
pub(super) const DASHBOARD: &str = "monitoring";

/// The directory of the CRDs and the program; makes it when this state of the sources has not been made yet.
///
/// # Errors
/// As for the cluster's programs.
pub(super) fn directory() -> Result<PathBuf> {
    programs::kept(
        "monitoring",
        &module(),
        &["go.mod", "go.sum", "main.go"],
        build,
    )
}

fn module() -> PathBuf {
    sources().join("monitoring")
}

fn build(output: &Path) -> Result<()> {
    println!("   building what reads dashboards: about a minute on two cores, once");
    programs::compile(&module(), &["."], "-s -w", output)?;
    let mut download = programs::go(&module(), "mod download -json");
    let said = sh::output(download.arg(MODULE))?;
    let said: Value = serde_json::from_str(&said).context("go mod download")?;
    let directory = said["Dir"].as_str().context("go mod download: no Dir")?;
    for kind in KINDS {
        let file = format!("monitoring.coreos.com_{kind}.yaml");
        let crd = Path::new(directory).join(CRDS).join(&file);
        // The module's files are read-only.
        let text = fs::read(&crd).with_context(|| crd.display().to_string())?;
        fs::write(output.join(file), text)?;
    }
    Ok(())
}
