//! What the compiler has seen, for who asks about a Service that may have no policy in force.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;

use super::{BackendTlsPolicy, Compiler, ObjectName, validate};

impl Compiler {
    /// A Service, whether or not a policy names it.
    pub fn service(&self, name: &ObjectName) -> Option<&Arc<Service>> {
        self.seen.services.get(name)
    }

    /// A policy as it was written.
    pub fn policy(&self, name: &ObjectName) -> Option<&Arc<BackendTlsPolicy>> {
        self.seen.policies.get(name)
    }

    /// The policies that name a Service and are left to others.
    pub fn opted_out(&self, service: &ObjectName) -> Vec<&ObjectName> {
        let policies = self.seen.policies.iter();
        let opted_out = policies.filter(|(name, policy)| {
            let targets = || validate::read(&name.namespace, &policy.spec).targets;
            name.namespace == service.namespace
                && policy.is_opted_out()
                && targets().iter().any(|target| target.service == *service)
        });
        opted_out.map(|(name, _)| name).collect()
    }
}
