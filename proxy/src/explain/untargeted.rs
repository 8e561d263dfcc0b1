//! Why a port has no policy in force.

use super::judge::Judge;
use super::report::{Outcome, Policy};
use super::service::fault;
use crate::policy::ObjectName;

impl Judge<'_> {
    /// Why there is nothing in force.
    pub(super) fn untargeted(
        &self,
        service: &ObjectName,
        port: u16,
        policies: &[Policy],
    ) -> (Outcome, String, Option<String>) {
        let object = self.compiler.service(service).map(|object| &**object);
        let opted_out = policies.iter().find(|policy| policy.reason == "OptedOut");
        let accepted = policies.iter().find(|policy| policy.accepted);
        let (why, cure) = if let Some(fault) = fault(service, object, port) {
            fault
        } else if let Some(policy) = accepted {
            let (name, warnings) = (&policy.policy, policy.warnings.join("; "));
            match &policy.section_name {
                Some(section) => (
                    format!(
                        "BackendTLSPolicy {name} targets port {section} of the Service, not {port}"
                    ),
                    format!(
                        "if {port} speaks TLS too, add a targetRef with its sectionName, or leave sectionName out"
                    ),
                ),
                None if warnings.is_empty() => (
                    format!(
                        "BackendTLSPolicy {name} is accepted, but not in force on this node yet"
                    ),
                    "wait a moment; `nodetls status` tells what keeps it".to_owned(),
                ),
                None => (
                    format!(
                        "BackendTLSPolicy {name} is accepted, but covers no address of port {port}"
                    ),
                    warnings,
                ),
            }
        } else if let Some(policy) = policies.iter().find(|policy| policy.reason != "OptedOut") {
            let Policy {
                policy,
                reason,
                message,
                ..
            } = policy;
            (
                format!(
                    "BackendTLSPolicy {policy} names the Service, but no port of it ({reason})"
                ),
                message.clone(),
            )
        } else if let Some(policy) = opted_out {
            (
                format!("BackendTLSPolicy {} targets it, but is left to gateways", policy.policy),
                "remove the annotation nodetls.io/redirect: disabled from the policy, if pods are meant too".to_owned(),
            )
        } else {
            (
                format!("no BackendTLSPolicy targets Service {service}"),
                format!(
                    "if the server speaks TLS on that port, create one in namespace {}",
                    service.namespace
                ),
            )
        };
        (Outcome::Untouched, why, Some(cure))
    }
}
