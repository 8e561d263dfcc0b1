//! The Service that the load asks, and its policy, deleted and created again.

use nodetls_e2e::{Namespace, POLICY, nodetls, until, wait};

use crate::agent::{logs, settle};
use crate::load::{Load, PODS};
use crate::{Allowed, Row};

pub(crate) const SERVICE_CREATED_AGAIN: Row = Row {
    name: "service_created_again",
    fault: "The Service is deleted and created again with the same ClusterIP, five times",
    allowed: Allowed::Failure,
    test: |load| {
        let ip = cluster_ip(load);
        for _ in 0..5 {
            create_again(load, &format!("clusterIP: {ip}, "));
            assert_eq!(cluster_ip(load), ip);
            load.answers(20);
        }
    },
};

pub(crate) const SERVICE_WITH_A_NEW_CLUSTER_IP: Row = Row {
    name: "service_with_a_new_cluster_ip",
    fault: "The Service is deleted and created again with another ClusterIP, five times",
    allowed: Allowed::Moments,
    test: |load| {
        for _ in 0..5 {
            let before = cluster_ip(load);
            create_again(load, "");
            wait("it has another ClusterIP", || cluster_ip(load) != before);
            load.answers(20);
        }
    },
};

pub(crate) const POLICY_CREATED_AGAIN: Row = Row {
    name: "policy_created_again",
    fault: "The policy is deleted and created again, five times",
    allowed: Allowed::Failure,
    test: |load| {
        let namespace = &load.namespace;
        for _ in 0..5 {
            load.while_undeclared(|| {
                let before = namespace.plaintext().len();
                namespace.kubectl(&["delete", "backendtlspolicy", "server"]);
                wait("each has asked in plaintext", || {
                    namespace.plaintext().len() >= before + 2 * PODS
                });
                namespace.apply(POLICY);
                load.answers(1);
            });
            load.answers(50);
        }
    },
};

fn cluster_ip(load: &Load) -> String {
    let ip = [
        "get",
        "service",
        "server",
        "--output=jsonpath={.spec.clusterIP}",
    ];
    load.namespace.kubectl(&ip)
}

fn create_again(load: &Load, ip: &str) {
    load.namespace.kubectl(&["delete", "service", "server"]);
    load.namespace.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: server}}\nspec: {{{ip}selector: {{app: server}}, \
         ports: [{{name: https, port: 80, targetPort: 8443}}]}}\n"
    ));
}

/// 70 ports of each of 1000 endpoints; TARGETS has room for 65,534 addresses.
pub(crate) const TOO_MANY_TARGETS: Row = Row {
    name: "too_many_targets",
    fault: "More addresses are targeted than fit into the map",
    allowed: Allowed::Nothing,
    test: |load| {
        let ports = |field: &str| -> Vec<_> {
            let port = |i: u32| format!("{{name: p{i}, {field}: {i}}}");
            (1..=70).map(port).collect()
        };
        let address = |i: u32| format!("{{addresses: [10.200.{}.{}]}}", i / 250, i % 250 + 1);
        let endpoints: Vec<_> = (0..1000).map(address).collect();
        load.namespace.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: many}}\nspec: {{clusterIP: None, ports: [{}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: many\n  \
             labels: {{kubernetes.io/service-name: many, service.kubernetes.io/headless: ''}}\naddressType: IPv4\n\
             ports: [{}]\nendpoints: [{}]\n",
            ports("port").join(", "),
            ports("port").join(", "),
            endpoints.join(", ")
        ));
        let policy =
            load.namespace
                .kubectl(&["get", "backendtlspolicy", "server", "--output=json"]);
        let mut policy: serde_json::Value = serde_json::from_str(&policy).unwrap();
        policy["metadata"] = serde_json::json!({"name": "many"});
        policy["spec"]["targetRefs"][0]["name"] = "many".into();
        load.namespace.apply(&policy.to_string());
        wait("the agent tells of it", || {
            let metrics = nodetls::metrics("node1");
            let missing = metrics
                .lines()
                .find_map(|line| line.strip_prefix("nodetls_targets_unpublished "));
            missing.is_some_and(|missing| missing != "0")
        });
        let cause = "addresses are targeted, while the map TARGETS holds 65534, ";
        assert!(logs().contains(cause) && nodetls::status("node1").contains(cause));
        load.answers(100);
        // Nor does it keep others from theirs.
        let other = Namespace::with_backend("e2e-reliability-other");
        other.clients(&[("client", "node1")]);
        // Until the policy is in force it is plaintext, and rightly so.
        until("the other policy is in force", || {
            match other.plugin(&["explain", "client", "server:80"]) {
                (0, _) => Ok(()),
                (_, said) => Err(said),
            }
        });
        other.until_ok("client", "http://server/");
        assert_eq!(other.plaintext(), [""; 0]);
        load.namespace
            .kubectl(&["delete", "backendtlspolicy", "many"]);
        settle(load);
    },
};
