//! The manifests that most tests need.

use crate::{BACKEND_IP, CLUSTER_IP, Identity};

/// A Service with the port `https`, and its EndpointSlice.
pub fn service(name: &str, cluster_ip: &str, port: u16, target_port: u16) -> String {
    format!(
        "{}---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  \
         labels: {{kubernetes.io/service-name: {name}}}\naddressType: IPv4\n\
         endpoints:\n- addresses: [{BACKEND_IP}]\nports:\n- {{name: https, port: {target_port}}}\n",
        service_without_slice(name, cluster_ip, port, target_port)
    )
}

/// The Service alone.
pub fn service_without_slice(name: &str, cluster_ip: &str, port: u16, target_port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  clusterIP: {cluster_ip}\n  \
         ports:\n  - {{name: https, port: {port}, targetPort: {target_port}}}\n"
    )
}

/// The Service `tls-backend` with an endpoint that is not ready.
pub fn without_ready_endpoint() -> String {
    let ready = format!("- addresses: [{BACKEND_IP}]");
    let unready = format!("{ready}\n  conditions: {{ready: false}}");
    service("tls-backend", CLUSTER_IP, 443, 8443).replace(&ready, &unready)
}

/// A ConfigMap with a CA.
pub fn config_map(name: &str, pem: &str) -> String {
    let pem: String = pem.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  ca.crt: |\n{pem}"
    )
}

/// [`policy`] with `spec.options`: keys without `nodetls.io/`, and values.
pub fn policy_with(hostname: &str, options: &[(&str, &str)]) -> String {
    let option = |(key, value): &(&str, &str)| format!("    nodetls.io/{key}: '{value}'\n");
    let options: String = options.iter().map(option).collect();
    let head = if options.is_empty() {
        ""
    } else {
        "  options:\n"
    };
    format!("{}{head}{options}", policy(hostname))
}

/// The policy for the Service `tls-backend`.
pub fn policy(hostname: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: tls}}\nspec:\n  \
         targetRefs:\n  - {{group: '', kind: Service, name: tls-backend, sectionName: '443'}}\n  validation:\n    \
         hostname: {hostname}\n    caCertificateRefs:\n    - {{group: '', kind: ConfigMap, name: example-ca}}\n"
    )
}

/// The same with the option that names the Secret `client`.
pub fn policy_with_client_certificate(hostname: &str) -> String {
    format!(
        "{}  options: {{nodetls.io/client-certificate: client}}\n",
        policy(hostname)
    )
}

/// A Secret with a certificate and its key.
pub fn tls_secret(name: &str, Identity { certificate, key }: &Identity) -> String {
    let block = |pem: &str| -> String { pem.lines().map(|line| format!("    {line}\n")).collect() };
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: kubernetes.io/tls\nstringData:\n  \
         tls.crt: |\n{}  tls.key: |\n{}",
        block(certificate),
        block(key)
    )
}
