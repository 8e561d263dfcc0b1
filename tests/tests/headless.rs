//! Headless Services: clients dial the endpoints themselves.
#![allow(clippy::unwrap_used, clippy::panic)]

use nodetls_tests::{
    BACKEND_IP, BACKEND_IP6, Ca, HOST, Running, World, config_map, ip, occurrences, policy,
};

/// Endpoints on the backend, besides [`BACKEND_IP`].
const SECOND: &str = "10.99.0.3";
const THIRD: &str = "10.99.0.4";

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: tls-backend}
spec:
  clusterIP: None
  ports: [{name: https, port: 443, targetPort: 8443}]
";

/// A slice of that Service; none of the endpoints is ready.
fn slice(family: &str, ips: &[&str]) -> String {
    let endpoint = |ip: &&str| format!("- addresses: ['{ip}']\n  conditions: {{ready: false}}\n");
    let endpoints: String = ips.iter().map(endpoint).collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {family}\n  \
         labels: {{kubernetes.io/service-name: tls-backend, service.kubernetes.io/headless: ''}}\n\
         addressType: {family}\nports: [{{name: https, port: 8443}}]\nendpoints:\n{endpoints}"
    )
}

/// Three addresses of the backend, on each of which the echo server listens; the first two are endpoints.
fn world() -> World {
    let ca = Ca::new("test-ca");
    let mut world = World::new();
    for address in [SECOND, THIRD] {
        ip(&format!("-n {} addr add {address} dev eth0", world.backend));
    }
    world.echo(&ca.sign(HOST), 8443);
    world.manifest("service.yaml", SERVICE);
    world.manifest("slice.yaml", &slice("IPv4", &[BACKEND_IP, SECOND]));
    world.manifest("ca.yaml", &config_map("example-ca", &ca.pem));
    world.manifest("policy.yaml", &policy(HOST));
    world.start_agent();
    world
}

/// Whether an HTTP client of this endpoint is secured, with the policy's hostname.
fn secured(world: &World, ip: &str) -> bool {
    let answer = world.curl(&[&format!("http://{ip}:8443/get")]);
    let named = answer.contains(&format!("\"serverName\": \"{HOST}\""));
    named && answer.ends_with("\n200")
}

fn targets(world: &World, count: f64) {
    world.wait("the targets are published", |world| {
        world.metric("nodetls_targets", &[]) == count
    });
}

#[test]
fn an_endpoint_is_dialled_with_tls_as_long_as_it_is_one() {
    let mut world = world();
    targets(&world, 2.0);
    let wire = world.capture(|world| {
        for ip in [BACKEND_IP, SECOND] {
            assert!(secured(world, ip), "{ip}");
            let address = format!("{ip}:8443");
            let answer = world.dial(&[
                &address,
                "--send",
                "GET /marked HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n",
            ]);
            assert!(
                answer.starts_with(&format!("peer: {address}\n")),
                "{answer}"
            );
            assert!(answer.contains("/marked"), "{answer}");
        }
    });
    assert_eq!(occurrences(&wire, "marked"), 0);
    let of_port = ["service=\"tls-backend\"", "port=\"443\""];
    let opened = world.metric("nodetls_connections_opened_total", &of_port);
    assert_eq!(opened, 4.0);
    assert!(!secured(&world, THIRD), "no endpoint yet");

    world.manifest("slice.yaml", &slice("IPv4", &[BACKEND_IP, THIRD]));
    world.wait("the third is one", |world| secured(world, THIRD));
    assert!(secured(&world, BACKEND_IP));
    assert!(!secured(&world, SECOND), "it is none any more");
    world.manifest("slice.yaml", &slice("IPv4", &[SECOND]));
    world.wait("the second is one again", |world| secured(world, SECOND));
    world.remove_manifest("slice.yaml");
    targets(&world, 0.0);
    let (code, status) = world.status(&[]);
    assert_eq!(code, 0, "{status}");
    assert!(
        world.log().contains("has no endpoint at the moment"),
        "{}",
        world.log()
    );
}

#[test]
fn an_ipv6_endpoint_is_a_target_too() {
    let world = world();
    world.manifest("slice6.yaml", &slice("IPv6", &[BACKEND_IP6]));
    targets(&world, 3.0);
    let answer = world.dial(&[
        &format!("[{BACKEND_IP6}]:8443"),
        "--send",
        "GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n",
    ]);
    assert!(answer.contains("200 OK"), "{answer}");
    assert!(answer.contains(HOST), "{answer}");
}

#[test]
fn thousands_of_endpoints_come_and_go_beside_one_that_is_used() {
    let world = world();
    let mut client = world.dialling(&[&format!("{BACKEND_IP}:8443"), "--talk", "--patience", "20"]);
    client.say("PUT /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 23\r\n\r\nfirst half\n");
    client.read_until("first half");
    for net in ["10.96", "10.97"] {
        let others = |i: usize| format!("{net}.{}.{}", i / 250, i % 250);
        let mut ips: Vec<String> = (0..5000).map(others).collect();
        ips.push(BACKEND_IP.to_owned());
        let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
        world.manifest("slice.yaml", &slice("IPv4", &ips));
        let first = format!("{net}.0.0:8443");
        world.wait("these are published", |world| {
            let published = world.metric("nodetls_targets", &[]) == 5001.0;
            published && world.status(&["--output", "json"]).1.contains(&first)
        });
        assert!(secured(&world, BACKEND_IP));
    }
    let (code, status) = world.status(&[]);
    assert!(code == 0 && status.len() < 10_000, "{status}");
    world.end_of_exchange(client);
}

/// Of another namespace.
const SMALL: &str = "
apiVersion: v1
kind: Service
metadata: {name: small, namespace: other}
spec: {clusterIP: 10.97.0.1, ports: [{port: 443}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: small, namespace: other}
spec:
  targetRefs: [{group: '', kind: Service, name: small}]
  validation: {hostname: small.example.com, wellKnownCACertificates: System}
";

/// More than TARGETS holds: a port for each of 100, at 700 endpoints.
#[test]
fn too_many_endpoints_change_nothing_that_worked() {
    let mut world = world();
    let ports = |port: &dyn Fn(u32) -> String| -> String { (1..=100).map(port).collect() };
    let of_service = ports(&|i| format!("  - {{name: p{i}, port: {i}}}\n"));
    let service = SERVICE.replace("ports: [", "ports:\n  - ");
    let service = service.replace("}]\n", &format!("}}\n{of_service}"));
    let ips: Vec<_> = (0..700)
        .map(|i| format!("10.96.{}.{}", i / 250, i % 250))
        .collect();
    let mut ips: Vec<&str> = ips.iter().map(String::as_str).collect();
    ips.splice(0..0, [BACKEND_IP, SECOND]);
    let many = |ips: &[&str]| {
        let of_slice = ports(&|i| format!("- {{name: p{i}, port: {i}}}\n"));
        let slice = slice("IPv4", ips).replace("ports: [", "ports:\n- ");
        slice.replace("}]\nendpoints", &format!("}}\n{of_slice}endpoints"))
    };
    world.manifest("service.yaml", &service);
    world.manifest(
        "policy.yaml",
        &policy(HOST).replace(", sectionName: '443'", ""),
    );
    world.manifest("slice.yaml", &many(&ips));
    let cause = "at most: left out are 21751 of namespace default";
    world.wait("it says what is wrong", |world| {
        world.get("/healthz/ready").contains(cause)
    });
    // That is its author's fault, not the node's.
    assert!(world.is_ready());
    // Three quarters.
    assert_eq!(world.metric("nodetls_targets", &[]), 49151.0);
    assert_eq!(world.metric("nodetls_targets_unpublished", &[]), 21751.0);
    assert!(world.status(&[]).1.contains(cause));
    assert!(secured(&world, BACKEND_IP) && secured(&world, SECOND));
    // Nor does it keep others from theirs, nor an agent from starting.
    world.manifest("small.yaml", SMALL);
    let small = |world: &World| {
        let status = world.status(&["--output", "json"]).1;
        status.contains("\"10.97.0.1:443\"") && status.contains("\"other/small\"")
    };
    world.wait("another namespace's target", small);
    world.kill_agent();
    world.start_agent();
    world.wait("the same", small);
    assert_eq!(world.metric("nodetls_targets_unpublished", &[]), 21751.0);
    assert!(secured(&world, BACKEND_IP) && secured(&world, SECOND));

    ips.truncate(400);
    ips.push(THIRD);
    world.manifest("slice.yaml", &many(&ips));
    targets(&world, 401.0 * 101.0 + 1.0);
    assert_eq!(world.metric("nodetls_targets_unpublished", &[]), 0.0);
    assert!(secured(&world, THIRD));
}

/// A `nodetls exec` has 1,023 ids; then most endpoints are replaced at once.
#[test]
fn ids_that_were_just_freed_are_given_to_no_other_address() {
    let world = world();
    let change = |net: &str, count: usize| {
        let ips: Vec<_> = (0..count)
            .map(|i| format!("{net}.{}.{}", i / 250, i % 250))
            .collect();
        let mut ips: Vec<&str> = ips.iter().map(String::as_str).collect();
        ips.push(BACKEND_IP);
        world.manifest("slice.yaml", &slice("IPv4", &ips));
    };
    change("10.96", 900);
    let url = format!("http://{BACKEND_IP}:8443/get");
    let script = format!("while read word; do curl -s -m 5 {url}; echo; echo $word; done");
    let mut exec = world.exec(&["sh", "-c", &script]);
    let log = world.log_file();
    exec.stderr(log);
    let mut exec = Running::talking(exec);
    let mut secured = |turn: &str| {
        exec.say(&format!("{turn}\n"));
        assert!(
            exec.read_until(turn)
                .contains("\"serverName\": \"www.example.com\""),
            "{turn}"
        );
    };
    secured("first");
    change("10.97", 900);
    world.wait("there are not enough ids", |world| {
        let log = world.log();
        let cause = "all 1023 target ids are in use, or were freed less than 60 minutes ago: target fewer addresses";
        log.contains("the change is not in force") && log.contains(cause)
    });
    secured("second");
    change("10.98", 122);
    secured("third");
}
