//! The objects of the tests.

use nodetls::policy::CaName;
use nodetls::source::kube::mirror_name;
use serde_json::{Value, json};

/// A definition of BackendTLSPolicy that serves these versions, the last of them stored.
pub(crate) fn definition(versions: &[&str]) -> Value {
    let version = |name: &&str| {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        json!({
            "name": name, "served": true, "storage": Some(name) == versions.last(),
            "schema": {"openAPIV3Schema": schema},
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "backendtlspolicies.gateway.networking.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {
            "group": "gateway.networking.k8s.io", "scope": "Namespaced",
            "names": {
                "kind": "BackendTLSPolicy", "listKind": "BackendTLSPolicyList",
                "plural": "backendtlspolicies", "singular": "backendtlspolicy",
            },
            "versions": versions.iter().map(version).collect::<Vec<_>>(),
        },
    })
}

/// A BackendTLSPolicy in namespace `shop`.
pub(crate) fn policy(version: &str, name: &str, hostname: &str) -> Value {
    json!({
        "apiVersion": format!("gateway.networking.k8s.io/{version}"), "kind": "BackendTLSPolicy",
        "metadata": {"namespace": "shop", "name": name},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "validation": {"hostname": hostname, "wellKnownCACertificates": "System"},
        },
    })
}

/// A Service in namespace `shop`.
pub(crate) fn service(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name},
        "spec": {"ports": [{"name": "https", "port": port}], "selector": {"app": name}},
    })
}

/// An EndpointSlice in namespace `shop`, of a Service `db`; that one is `headless`, or not.
pub(crate) fn slice(name: &str, headless: bool, ips: &[&str], ready: bool) -> Value {
    let mut labels = json!({"kubernetes.io/service-name": "db", "other": "label"});
    if headless {
        labels["service.kubernetes.io/headless"] = json!("");
    }
    let endpoint =
        |ip: &&str| json!({"addresses": [ip], "conditions": {"ready": ready}, "nodeName": "node1"});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "shop", "name": name, "labels": labels},
        "addressType": "IPv4", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
        "endpoints": ips.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

/// A Namespace.
pub(crate) fn namespace(name: &str, labels: Value) -> Value {
    let metadata = json!({"name": name, "labels": labels});
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
}

/// What the controller writes for an object of namespace `shop`.
pub(crate) fn mirror(source: &CaName, pem: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "namespace": "nodetls", "name": mirror_name(source),
            "labels": {"nodetls.io/mirror": "true"},
            "annotations": {
                "nodetls.io/source-kind": source.kind.as_str(),
                "nodetls.io/source-namespace": "shop", "nodetls.io/source-name": source.object.name,
            },
        },
        "data": {"ca.crt": pem},
    })
}

/// All that the agent may do.
pub(crate) fn rbac() -> Vec<Value> {
    let read = ["get", "list", "watch"];
    let rule = |group: &str, resource: &str| json!({"apiGroups": [group], "resources": [resource], "verbs": read});
    let mut crd = rule("apiextensions.k8s.io", "customresourcedefinitions");
    crd["resourceNames"] = json!(["backendtlspolicies.gateway.networking.k8s.io"]);
    let rules = [
        crd,
        rule("gateway.networking.k8s.io", "backendtlspolicies"),
        rule("", "services"),
        rule("discovery.k8s.io", "endpointslices"),
        rule("", "namespaces"),
        rule("", "pods"),
    ];
    let role = |kind: &str, namespace: Option<&str>, rules: &[Value]| {
        let metadata = json!({"name": "agent", "namespace": namespace});
        let agent = json!({"kind": "ServiceAccount", "name": "agent", "namespace": "nodetls"});
        let group = "rbac.authorization.k8s.io";
        [
            json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": metadata, "rules": rules}),
            json!({
                "apiVersion": format!("{group}/v1"), "kind": format!("{kind}Binding"), "metadata": metadata,
                "roleRef": {"apiGroup": group, "kind": kind, "name": "agent"}, "subjects": [agent],
            }),
        ]
    };
    let cluster = role("ClusterRole", None, &rules);
    let own = role("Role", Some("nodetls"), &[rule("", "configmaps")]);
    cluster.into_iter().chain(own).collect()
}
