//! Keeps the boot guard on the node's disk what this agent is: of its version, in place, or inert.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::Options;
use crate::guard;
use crate::readiness::Readiness;
use crate::redirect::Effect;
use crate::source::kube::kept;

/// What keeps the agent from being ready, as `/healthz/ready` names it.
const GUARD: &str = "boot guard";
/// Between two attempts.
const RETRY: Duration = Duration::from_secs(5);

/// Where the guard is to be, if anywhere.
#[derive(Clone)]
pub(super) struct BootGuard {
    units: Option<PathBuf>,
    cache: PathBuf,
    pins: PathBuf,
}

impl BootGuard {
    /// In audit mode nothing is refused, so not after a boot either.
    pub(super) fn new(options: &Options) -> Self {
        let enforced = options.mode == Effect::Enforce;
        Self {
            units: options.boot_guard.clone().filter(|_| enforced),
            cache: options.cache.clone(),
            pins: options.pins.clone(),
        }
    }

    /// Tries until it is done. To be called when the agent is ready: until then the guard is the earlier agent's.
    pub(super) async fn settle(self, readiness: Readiness) {
        loop {
            let this = self.clone();
            let result = spawn_blocking(move || this.try_settle()).await;
            match result.unwrap_or_else(|error| Err(error.into())) {
                Ok(true) => return readiness.clear(GUARD),
                Ok(false) => {}
                Err(error) => {
                    let error = format!("{error:#}");
                    if readiness.set_problem(GUARD, &error) {
                        tracing::error!(error, "the boot guard is not in place");
                    }
                }
            }
            sleep(RETRY).await;
        }
    }

    /// False if it is too early.
    fn try_settle(&self) -> Result<bool> {
        let Some(units) = &self.units else {
            return guard::disarm(&self.cache).map(|()| true);
        };
        // One that can't read what is kept would keep the kubelet from starting. An earlier version may have kept it.
        if !matches!(kept(&self.cache), Ok(Some(_))) {
            return Ok(false);
        }
        guard::install(units, &self.cache, &self.pins)
            .context("it can't be installed: see to the mounts of component boot-guard")?;
        tracing::info!("the boot guard is installed");
        Ok(true)
    }
}
