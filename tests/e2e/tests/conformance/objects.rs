//! Services and policies, as upstream's manifests have them.

use std::fmt::Write as _;

pub(crate) const GOOD_CA: &str = "tls-checks-ca-certificate";
pub(crate) const MISMATCH_CA: &str = "mismatch-ca-certificate";
pub(crate) const HOSTNAME: &str = "abc.example.com";
pub(crate) const OTHER_HOSTNAME: &str = "other.example.com";

/// A Service with port 443, named `btls`, of the server.
pub(crate) fn service(name: &str) -> String {
    service_with(
        name,
        "tls-backend",
        "{name: btls, port: 443, targetPort: 8443}",
    )
}

/// A Service with these ports, in YAML, of the pods with the label `app`.
pub(crate) fn service_with(name: &str, app: &str, ports: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{selector: {{app: {app}}}, ports: [{ports}]}}\n"
    )
}

/// A reference to a CA's ConfigMap, in YAML.
pub(crate) fn config_map(name: &str) -> String {
    format!("{{group: '', kind: ConfigMap, name: {name}}}")
}

/// A policy.
pub(crate) struct Policy {
    name: String,
    targets: Vec<String>,
    hostname: String,
    trust: String,
    subject_alt_names: String,
}

impl Policy {
    /// For `target` (`SERVICE` or `SERVICE/SECTION`), with upstream's hostname and CA.
    pub(crate) fn new(name: &str, target: &str) -> Self {
        let policy = Self {
            name: name.to_owned(),
            targets: Vec::new(),
            hostname: HOSTNAME.to_owned(),
            trust: String::new(),
            subject_alt_names: String::new(),
        };
        policy.target(target).refs(&[&config_map(GOOD_CA)])
    }

    /// One more.
    pub(crate) fn target(mut self, target: &str) -> Self {
        let (service, section) = match target.split_once('/') {
            Some((service, section)) => (service, format!(", sectionName: {section}")),
            None => (target, String::new()),
        };
        let target = format!("{{group: '', kind: Service, name: {service}{section}}}");
        self.targets.push(target);
        self
    }

    pub(crate) fn hostname(mut self, hostname: &str) -> Self {
        hostname.clone_into(&mut self.hostname);
        self
    }

    /// Its CA's ConfigMap.
    pub(crate) fn ca(self, config_map_name: &str) -> Self {
        self.refs(&[&config_map(config_map_name)])
    }

    /// `caCertificateRefs`, each in YAML.
    pub(crate) fn refs(mut self, refs: &[&str]) -> Self {
        self.trust = format!("caCertificateRefs: [{}]", refs.join(", "));
        self
    }

    /// `wellKnownCACertificates: System`.
    pub(crate) fn system(mut self) -> Self {
        "wellKnownCACertificates: System".clone_into(&mut self.trust);
        self
    }

    /// `subjectAltNames`: URIs have a scheme.
    pub(crate) fn subject_alt_names(mut self, names: &[&str]) -> Self {
        for name in names {
            let (kind, field) = match name.contains("://") {
                true => ("URI", "uri"),
                false => ("Hostname", "hostname"),
            };
            writeln!(
                self.subject_alt_names,
                "    - {{type: {kind}, {field}: '{name}'}}"
            )
            .unwrap();
        }
        self
    }

    pub(crate) fn yaml(&self) -> String {
        let Self {
            name,
            targets,
            hostname,
            trust,
            subject_alt_names,
        } = self;
        let names = match subject_alt_names.as_str() {
            "" => String::new(),
            names => format!("    subjectAltNames:\n{names}"),
        };
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
             targetRefs: [{}]\n  validation:\n    hostname: {hostname}\n    {trust}\n{names}",
            targets.join(", ")
        )
    }
}
