//! Audit mode: nothing is redirected, and what would break is known before it does.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::Command;

use nodetls_tests::{
    CLUSTER_IP, Ca, HOST, Running, URL, World, binary, config_map, policy, service_without_slice,
    text,
};

/// The agent, or another command of nodetls, where it reaches the Services: as on a node, in a netns of its own.
fn nodetls(world: &World, arguments: &[&str]) -> Command {
    let mut command = world.in_cgroup("nsenter");
    command.arg(format!("--net=/run/netns/{}", world.backend));
    command.arg(binary("nodetls")).args(arguments);
    command.arg("--pins").arg(&world.pins);
    command
}

fn agent(world: &World, mode: &str, admin: &str) -> Running {
    let manifests = world.dir.path().join("manifests").display().to_string();
    let mut agent = nodetls(world, &["agent", "--mode", mode, "--admin", admin]);
    let pods = format!("{}*", world.pod);
    agent.args(["--manifests", &manifests, "--netns", &pods]);
    agent.arg("--cgroup").arg(&world.cgroup);
    let log = world.log_file();
    agent.stdout(log.try_clone().unwrap()).stderr(log);
    Running::new(agent)
}

fn status(world: &World, admin: &str) -> String {
    text(
        &nodetls(world, &["status", "--admin", admin])
            .output()
            .unwrap(),
    )
}

#[test]
fn what_would_break_is_known_before_anything_is_redirected() {
    let mut world = World::new();
    let ca = Ca::new("test-ca");
    world.nginx(443);
    world.file("get", "in plaintext");
    world.echo(&ca.sign(HOST), 8443);
    let plain = service_without_slice("tls-backend", CLUSTER_IP, 443, 443);
    world.manifest("plain.yaml", &plain);
    world.manifest(
        "good.yaml",
        &service_without_slice("good", CLUSTER_IP, 8443, 8443),
    );
    world.manifest("ca.yaml", &config_map("example-ca", &ca.pem));
    world.manifest("policy.yaml", &policy(HOST));
    let other = policy(HOST).replace("name: tls}", "name: good}");
    let other = other.replace("tls-backend, sectionName: '443'", "good");
    world.manifest("other.yaml", &other);

    let admin = "127.0.0.1:15020";
    let _audit = agent(&world, "audit", admin);
    world.wait("both ports were tried", |world| {
        let said = status(world, admin);
        let row = |service: &str, result: &str| {
            let has = |line: &str| line.starts_with(service) && line.trim_end().ends_with(result);
            said.lines().any(has)
        };
        row("default/good:8443", " ok") && row("default/tls-backend:443", "plaintext_server")
    });
    assert!(
        world.curl(&[URL]).ends_with("200"),
        "plaintext, as without nodetls"
    );
    assert!(world.curl(&[URL]).ends_with("200"));
    world.wait("the connects are counted", |world| {
        let metrics = world
            .in_backend("curl")
            .args(["-s", &format!("{admin}/metrics")])
            .output();
        let metrics = text(&metrics.unwrap());
        let port = r#"port="443""#;
        let service = r#"service="tls-backend",service_namespace="default""#;
        [
            format!("nodetls_audited_connects_total{{{port},{service}}} 2"),
            format!("nodetls_audit_probe{{{port},result=\"plaintext_server\",{service}}} 1"),
        ]
        .iter()
        .all(|line| metrics.contains(line))
    });
    let said = status(&world, admin);
    for words in [
        "audit mode: nothing is redirected or refused",
        "Service default/tls-backend:443: TLS handshakes fail (plaintext_server)",
        "cure: enable TLS on that port",
    ] {
        assert!(said.contains(words), "{said}");
    }

    let admin = "127.0.0.1:15021";
    let _enforce = agent(&world, "enforce", admin);
    world.wait("it is enforced", |world| {
        world.curl(&[URL]).ends_with("502")
    });
    assert!(!status(&world, admin).contains("audit mode"));
}

#[test]
fn as_an_audit_ends_nothing_is_refused() {
    let (mut world, _ca) = World::without_agent();
    // What clients reach without us.
    world.nginx(443);
    let _audit = agent(&world, "audit", "127.0.0.1:15020");
    world.wait("the audit has begun", |world| {
        status(world, "127.0.0.1:15020").contains("audit mode")
    });
    let mut enforce = None;
    let result = world.load(40_000, |world, turn| {
        if turn == 1 {
            enforce = Some(agent(world, "enforce", "127.0.0.1:15021"));
        }
    });
    println!("{result}");
    assert!(result.contains(" 502=0 refused=0 "), "{result}");
    assert!(!result.starts_with("ok=0 "), "{result}");
    assert!(
        !result.ends_with(" other=0\n"),
        "nothing was let pass: {result}"
    );
}

#[test]
fn a_netns_that_cannot_be_enrolled_does_not_leave_the_others_to_an_audit() {
    let (world, _ca) = World::without_agent();
    let _ports = world.without_ports(&world.neighbour());
    let _audit = agent(&world, "audit", "127.0.0.1:15020");
    world.wait("the audit has begun", |world| {
        status(world, "127.0.0.1:15020").contains("audit mode")
    });
    assert!(
        !world.curl(&[URL]).ends_with("200"),
        "plaintext to a TLS port"
    );
    let _enforce = agent(&world, "enforce", "127.0.0.1:15021");
    world.wait("the others are served", |world| {
        world.curl(&[URL]).ends_with("200")
    });
    let said = status(&world, "127.0.0.1:15021");
    assert!(
        said.contains("not enrolled: ") && said.contains("-other"),
        "{said}"
    );
}
