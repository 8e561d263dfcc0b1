//! What servers see of their clients, and the API server as a target.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use nodetls_e2e::Namespace;

#[test]
fn the_backend_sees_the_pods_own_address() {
    let namespace = Namespace::with_backend("e2e-source");
    let pods = [("client1", "node1"), ("client2", "node2")];
    namespace.clients(&pods);
    for (pod, _) in pods {
        let address = ["get", "pod", pod, "--output=jsonpath={.status.podIP}"];
        let peer = format!(r#""peer": "{}:"#, namespace.kubectl(&address));
        let answer = namespace.until_ok(pod, "http://server/");
        assert!(answer.contains(&peer), "{peer}: {answer}");
    }
}
