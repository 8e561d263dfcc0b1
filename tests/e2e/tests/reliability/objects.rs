//! The Service that the load asks, deleted and created again.

use nodetls_e2e::wait;

use crate::load::Load;
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
