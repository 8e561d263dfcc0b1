//! A protocol that begins in plaintext and changes to TLS later.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::Stdio;

use nodetls_tests::{ADDRESS, Ca, HOST, World, policy, text};

/// What a mail client that verifies its server comes to.
fn mail_client(world: &World, ca: &str) -> (bool, String) {
    let mut client = world.in_pod("openssl");
    client.args(["s_client", "-starttls", "smtp", "-connect", ADDRESS]);
    client.args(["-verify_return_error", "-verify_hostname", HOST]);
    client.args(["-CAfile", ca]).stdin(Stdio::null());
    let output = client.output().unwrap();
    (output.status.success(), text(&output))
}

#[test]
fn starttls_is_refused_until_its_policy_is_opted_out() {
    let ca = Ca::new("test-ca");
    let identity = ca.sign(HOST);
    let world = World::serving(&ca, |world| {
        world.nginx_starttls(&identity, 8443);
        world.nginx_starttls(&identity, 443);
    });
    let file = world.file("mail-ca.crt", &ca.pem).display().to_string();
    let (done, said) = mail_client(&world, &file);
    assert!(!done, "{said}");
    world.wait("the log tells why", |world| {
        let log = world.log();
        log.contains("plaintext_server") && log.contains("STARTTLS does not do")
    });

    let name = "metadata: {name: tls}";
    let out = "metadata: {name: tls, annotations: {nodetls.io/redirect: disabled}}";
    world.manifest("policy.yaml", &policy(HOST).replace(name, out));
    world.wait("its own TLS", |world| mail_client(world, &file).0);
    let (_, said) = mail_client(&world, &file);
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
}
