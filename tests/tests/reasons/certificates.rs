//! Certificates that the policy does not accept.

use std::fs;
use std::process::Command;

use nodetls::failure::Reason;
use nodetls_tests::{Ca, HOST, Identity, World};

use crate::rig::Rig;

#[test]
fn certificates_that_do_not_do() {
    let mut rig = Rig::new();
    let unknown = rig.openssl(&Ca::new("other-ca").sign(HOST), "");
    let misnamed = rig.openssl(&rig.ca.sign("www.example.org"), "");
    let expired = rig.ca.issue(HOST, |params| {
        params.not_after = rcgen::date_time_ymd(2021, 1, 1)
    });
    let expired = rig.openssl(&expired, "");
    let early = rig.ca.issue(HOST, |params| {
        params.not_before = rcgen::date_time_ymd(2090, 1, 2)
    });
    let early = rig.openssl(&early, "");
    let client = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let client = rig
        .ca
        .issue(HOST, |params| params.extended_key_usages = client);
    let client = rig.openssl(&client, "");
    let is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let sub_ca = rig.openssl(&rig.ca.issue(HOST, |params| params.is_ca = is_ca), "");

    // Envoy Gateway's "Backend TLS" page, as printed.
    let read = |world: &World, name: &str| fs::read_to_string(world.dir.path().join(name)).unwrap();
    let world = &rig.world;
    openssl(
        world,
        "req -x509 -sha256 -nodes -days 365 -newkey rsa:2048 -keyout ca.key -out ca.crt",
        "/O=example Inc./CN=example.com",
    );
    openssl(
        world,
        "req -out www.example.com.csr -newkey rsa:2048 -nodes -keyout www.example.com.key",
        "/CN=www.example.com/O=example organization",
    );
    openssl(
        world,
        "x509 -req -days 365 -CA ca.crt -CAkey ca.key -set_serial 0 -in www.example.com.csr -out www.example.com.crt",
        "",
    );
    let recipe_ca = read(world, "ca.crt");
    let recipe = Identity {
        certificate: read(world, "www.example.com.crt"),
        key: read(world, "www.example.com.key"),
    };
    let recipe = rig.openssl(&recipe, "");
    rig.start(&recipe_ca);

    rig.refused(
        unknown,
        Reason::UnknownCa,
        &["was issued by \"other-ca\", which is not trusted; trusted CAs: \"test-ca\", \"example.com\""],
    );
    rig.refused(
        misnamed,
        Reason::NameMismatch,
        &["certificate is for \"www.example.org\", but the policy asks for \"www.example.com\""],
    );
    rig.refused(
        recipe,
        Reason::NoSubjectAltName,
        &["(CN \"www.example.com\") is X.509 v1, which has no subjectAltName"],
    );
    rig.refused(
        expired,
        Reason::Expired,
        &["expired at 2021-01-01T00:00:00Z; this node's clock says 20"],
    );
    rig.refused(
        early,
        Reason::NotYetValid,
        &["valid from 2090-01-02T00:00:00Z; this node's clock says 20"],
    );
    rig.refused(
        sub_ca,
        Reason::CaUsedAsLeaf,
        &["presents the CA certificate"],
    );
    rig.refused(
        client,
        Reason::BadCertificate,
        &["its extendedKeyUsage, or its CA's, does not allow serverAuth"],
    );
}

fn openssl(world: &World, words: &str, subject: &str) {
    let mut command = Command::new("openssl");
    command
        .args(words.split_whitespace())
        .current_dir(world.dir.path());
    if !subject.is_empty() {
        command.args(["-subj", subject]);
    }
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
