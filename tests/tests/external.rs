//! Services without selector that stand for a host outside of the cluster, which is found by DNS.
#![allow(clippy::unwrap_used, clippy::panic)]

use nodetls_tests::{ADDRESS, CLUSTER_IP, Ca, HOST, URL, World, config_map, ip, policy};

/// A second address of the backend.
const SECOND_IP: &str = "10.99.0.3";
const FIRST: &str = "api.example.com,10.99.0.2,60";

/// A server on `listen`, the Service that stands for api.example.com, its policy, which has another name, and a DNS
/// server; no agent.
fn without_agent(listen: &str, records: &[&str]) -> World {
    let ca = Ca::new("test-ca");
    let mut world = World::new();
    ip(&format!(
        "-n {} addr add 10.99.0.3/24 dev eth0",
        world.backend
    ));
    let mut echo = world.tls_server("tls-echo", &ca.sign(HOST), 8443);
    echo.args(["--listen", listen]);
    world.serve(echo, 8443);
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: tls-backend\n  \
         annotations: {{nodetls.io/external-host: api.example.com}}\nspec:\n  clusterIP: {CLUSTER_IP}\n  \
         ports:\n  - {{name: https, port: 443, targetPort: 8443}}\n"
    );
    world.manifest("service.yaml", &service);
    world.manifest("ca.yaml", &config_map("example-ca", &ca.pem));
    world.manifest("policy.yaml", &policy(HOST));
    if !records.is_empty() {
        world.dns(records);
    }
    world
}

fn with_agent(listen: &str, records: &[&str]) -> World {
    let mut world = without_agent(listen, records);
    world.start_agent();
    world
}

/// A request that succeeds, and the address that it went to.
#[track_caller]
fn upstream(world: &World) -> String {
    let lines = |world: &World| {
        let log = world.log();
        let lines = log
            .lines()
            .filter(|line| line.contains("connection closed"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = lines(world).len();
    let answer = world.curl(&[URL]);
    assert!(answer.ends_with("200"), "{answer}");
    world.wait("the connection is logged", |world| {
        lines(world).len() > before
    });
    let line = lines(world).pop().unwrap();
    let (_, rest) = line.split_once("upstream=").unwrap();
    rest.split(' ').next().unwrap().to_owned()
}

#[test]
fn a_host_is_found_by_dns_and_has_the_policy_s_name() {
    let world = with_agent("0.0.0.0:8443", &[FIRST]);
    assert_eq!(upstream(&world), "10.99.0.2:8443");
    let answer = world.curl(&[URL]);
    assert!(answer.ends_with("200"), "{answer}");
    assert!(
        answer.contains(r#""serverName": "www.example.com""#),
        "{answer}"
    );
    // A client that speaks TLS itself gets there too.
    let url = URL.replace("http:", "https:");
    let answer = world.curl(&["-k", &url]);
    assert!(
        answer.contains(r#""serverName": null"#) && answer.ends_with("200"),
        "{answer}"
    );
    // The target is the hostname's, not any that DNS leads to.
    world.manifest("policy.yaml", &policy("api.example.com"));
    world.wait("502", |world| world.curl(&[URL]).ends_with("502"));
    world.wait("name_mismatch", |world| {
        world.log().contains("reason=\"name_mismatch\"")
    });
    let (_, status) = world.status(&[]);
    assert!(status.contains("api.example.com:8443"), "{status}");
}

#[test]
fn all_addresses_are_tried() {
    let second = format!("api.example.com,{SECOND_IP},60");
    let records = [FIRST, &second, "api.example.com,2001:db8::1,60"];
    let mut world = with_agent("10.99.0.2:8443", &records);
    for _ in 0..4 {
        assert_eq!(upstream(&world), "10.99.0.2:8443");
    }
    // Some began with the address that refuses; alone, it is a failure, and the pod's lack of IPv6 is not its cause.
    world.dns(&records[1..]);
    world.kill_agent();
    world.start_agent();
    assert!(world.curl(&[URL]).ends_with("502"));
    world.wait("the failure is logged", |world| {
        world
            .log()
            .contains("10.99.0.3:8443 refused the connection")
    });
}

#[test]
fn an_answer_is_kept_for_its_ttl() {
    for (ttl, waits) in [("600", false), ("1", true)] {
        let [old, new] = ["10.99.0.2", SECOND_IP].map(|ip| format!("api.example.com,{ip},{ttl}"));
        let mut world = with_agent("0.0.0.0:8443", &[&old]);
        assert_eq!(upstream(&world), "10.99.0.2:8443");
        world.dns(&[&new]);
        if waits {
            world.wait("the new address", |world| {
                upstream(world) == "10.99.0.3:8443"
            });
        } else {
            assert_eq!(upstream(&world), "10.99.0.2:8443");
        }
    }
}

#[test]
fn a_name_that_appears_is_found() {
    let mut world = with_agent("0.0.0.0:8443", &["www.example.com,10.99.0.2,60"]);
    assert!(world.curl(&[URL]).ends_with("502"));
    world.dns(&[FIRST]);
    world.wait("200", |world| world.curl(&[URL]).ends_with("200"));
}

#[test]
fn exec_asks_in_the_netns_it_is_called_in() {
    let mut world = without_agent("0.0.0.0:8443", &[]);
    world.dns_for_exec(&[FIRST]);
    let output = world
        .exec(&["curl", "-s", "-m", "9", URL])
        .output()
        .unwrap();
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        answer.contains(r#""serverName": "www.example.com""#),
        "{answer}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let direct = world.curl(&[&format!("http://{ADDRESS}/")]);
    assert!(
        direct.ends_with("000"),
        "nobody else listens there: {direct}"
    );
}
