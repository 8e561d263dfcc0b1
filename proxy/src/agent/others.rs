//! Whether somebody else's programs come before ours.

use std::path::PathBuf;

use super::Agent;
use crate::redirect::others_first;

/// As `/healthz/ready` names it.
const OTHERS: &str = "eBPF programs of others";

impl Agent {
    /// Nobody has to attach a program in a moment of our choosing. An agent before us has them before its own too, which is
    /// no reason to let it serve any longer.
    pub(super) fn look_for_others(&self) {
        if self.standing_by || self.epoch.has_living_elders() {
            return;
        }
        let foreign = self.foreign.iter().map(PathBuf::as_path);
        let layouts = foreign.chain([self.redirect.pins()]);
        let found = others_first(&self.cgroup, layouts);
        let text = found.unwrap_or_else(|error| Some(format!("{error:#}")));
        self.metrics.others_first.set(text.is_some().into());
        let Some(text) = text else {
            return self.readiness.clear(OTHERS);
        };
        if self.readiness.set_problem(OTHERS, &text) {
            tracing::error!(problem = text, "others' eBPF programs");
        }
    }
}
