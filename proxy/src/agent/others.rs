//! Whether somebody else's programs come before ours.

use super::Agent;

/// As `/healthz/ready` names it.
const OTHERS: &str = "eBPF programs of others";

impl Agent {
    /// To be called often: nobody has to attach a program in a moment of our choosing.
    pub(super) fn look_for_others(&mut self) {
        if !self.in_charge() {
            return;
        }
        let found = self.redirect.keep_order(&self.cgroup);
        let text = found.unwrap_or_else(|error| Some(format!("{error:#}")));
        self.metrics.others_first.set(text.is_some().into());
        let Some(text) = text else {
            return self.readiness.clear(OTHERS);
        };
        // An agent before us has them before its own too, which is no reason to let it serve any longer.
        if !self.epoch.has_serving_elders() && self.readiness.set_problem(OTHERS, &text) {
            tracing::error!(problem = text, "others' eBPF programs");
        }
    }
}
