//! Client certificates: what a server sees of them, and that they are the client's own, as they are now.
#![allow(clippy::unwrap_used, clippy::panic)]

use nodetls_tests::{
    Ca, HOST, URL, World, config_map, policy_with_client_certificate, service, text, tls_secret,
};

/// Who nginx says we are, and whether it resumed our session (`r`, else `.`).
const ANSWER: &str = "location / { return 200 \"$ssl_client_s_dn $ssl_session_reused\"; }";

/// An nginx that takes clients of this CA only, and an agent; the policy names the Secret `client`, which is not there.
fn world(ca: &Ca, protocol: &str) -> World {
    let mut world = World::new();
    world.file("ca.pem", &ca.pem);
    let directives = format!(
        "ssl_protocols {protocol}; ssl_client_certificate ca.pem; ssl_verify_client on; {ANSWER}"
    );
    world.nginx_tls(&ca.sign(HOST), 8443, &directives);
    world.manifest(
        "service.yaml",
        &service("tls-backend", "10.96.0.10", 443, 8443),
    );
    world.manifest("ca.yaml", &config_map("example-ca", &ca.pem));
    world.manifest("policy.yaml", &policy_with_client_certificate(HOST));
    world.start_agent();
    world
}

#[test]
fn a_new_secret_is_shown_from_the_next_connection_on() {
    for protocol in ["TLSv1.2", "TLSv1.3"] {
        let ca = Ca::new("test-ca");
        let world = world(&ca, protocol);
        assert!(world.curl(&[URL]).ends_with("503"), "there is no Secret");
        for subject in ["client-a", "client-b"] {
            let secret = tls_secret("client", &ca.client(subject));
            world.manifest("client.yaml", &secret);
            let shown = format!("{subject}\" of Secret default/client");
            world.wait("the Secret is read", |world| world.log().contains(&shown));
            // The first is no session of the other's; then its own is resumed.
            let own = |reused: &str| format!("CN={subject} {reused}\n200");
            assert_eq!(world.curl(&[URL]), own("."), "{protocol}");
            world.wait("its session is resumed", |world| {
                world.curl(&[URL]) == own("r")
            });
        }
        world.remove_manifest("client.yaml");
        world.wait("the Secret is gone", |world| {
            world.curl(&[URL]).ends_with("503")
        });
        let log = world.log();
        assert!(!log.contains("PRIVATE KEY"), "{log}");
    }
}

#[test]
fn a_secret_of_another_namespace_is_nobodys() {
    let ca = Ca::new("test-ca");
    let world = world(&ca, "TLSv1.3");
    // That of the policy's own namespace is no exception.
    for name in ["service.yaml", "ca.yaml", "policy.yaml"] {
        let path = world.dir.path().join("manifests").join(name);
        let text = std::fs::read_to_string(path).unwrap();
        let text = text.replace("{name: ", "{namespace: shop, name: ");
        let text = text.replace("metadata:\n", "metadata:\n  namespace: shop\n");
        world.manifest(name, &text);
    }
    let secret = tls_secret("client", &ca.client("client-shop"));
    let secret = secret.replace("{name: ", "{namespace: shop, name: ");
    world.manifest("client.yaml", &secret);
    world.wait("the policy of namespace shop is in force", |world| {
        world.curl(&[URL]).ends_with("503") && world.log().contains("policy=shop/tls")
    });
    let words = "Secret default/client does not exist";
    world.wait(words, |world| world.log().contains(words));
    let own = tls_secret("client", &ca.client("client-default"));
    world.manifest("own.yaml", &own);
    world.wait("its own", |world| {
        world.curl(&[URL]).starts_with("CN=client-default ")
    });
    assert!(!world.log().contains("client-shop"), "it is not even read");
}

#[test]
fn rotation_under_load_fails_no_connection() {
    let ca = Ca::new("test-ca");
    let mut world = World::new();
    let client_ca = world.file("ca.pem", &ca.pem).display().to_string();
    let mut echo = world.tls_server("tls-echo", &ca.sign(HOST), 8443);
    echo.args(["--listen", "0.0.0.0:8443", "--client-ca", &client_ca]);
    world.serve(echo, 8443);
    world.manifest(
        "service.yaml",
        &service("tls-backend", "10.96.0.10", 443, 8443),
    );
    world.manifest("ca.yaml", &config_map("example-ca", &ca.pem));
    world.manifest("policy.yaml", &policy_with_client_certificate(HOST));
    world.manifest("client.yaml", &tls_secret("client", &ca.client("client")));
    world.start_agent();
    let result = world.load(3_000, |world, turn| {
        let next = ca.client(&format!("client-{turn}"));
        world.manifest("client.yaml", &tls_secret("client", &next));
    });
    assert!(
        result.contains("ok=3000 502=0 refused=0 other=0"),
        "{result}"
    );
    let read = world.log().matches("of Secret default/client").count();
    assert!(read > 2, "{read} were read");
}

#[test]
fn a_command_of_nodetls_exec_counts_as_of_namespace_default() {
    let ca = Ca::new("test-ca");
    let world = world(&ca, "TLSv1.3");
    world.manifest("client.yaml", &tls_secret("client", &ca.client("client-a")));
    let mut exec = world.exec(&["curl", "-s", URL]);
    let output = exec.output().unwrap();
    // nginx ends without close_notify, of which the log on standard error tells.
    assert!(output.stdout == b"CN=client-a .", "{}", text(&output));
}
