//! Client certificates that the client's namespace lacks, and those that a server refuses.

use nodetls::failure::Reason;
use nodetls_tests::{Ca, HOST, Identity, policy_with_client_certificate, tls_secret};

use crate::rig::{Rig, url};

#[test]
fn client_certificates_that_do_not_do() {
    let mut rig = Rig::new();
    let good = rig.ca.sign(HOST);
    rig.world.file("ca.pem", &rig.ca.pem);
    let verify = "-Verify 1 -verify_return_error -CAfile ca.pem";
    let tls_12 = rig.openssl(&good, &format!("-tls1_2 {verify}"));
    let tls_13 = rig.openssl(&good, &format!("-tls1_3 {verify}"));
    rig.start("");
    // The policy or Secret before it is refused with 503 too, for another reason.
    let unusable = |rig: &Rig, port| {
        let url = url(port);
        let port = format!("port=\"{port}\"");
        let reason = format!("reason=\"{}\"", Reason::ClientCertificateUnusable);
        rig.world.wait("unusable", |world| {
            world.curl(&[&url]).ends_with("503")
                && world.metric("nodetls_connection_failures_total", &[&reason, &port]) > 0.0
        });
    };

    // In force before the Secret is there.
    let policy = policy_with_client_certificate(HOST).replace(", sectionName: '443'", "");
    rig.world.manifest("policy.yaml", &policy);
    unusable(&rig, tls_12);
    rig.in_log(
        tls_12,
        Reason::ClientCertificateUnusable,
        &["Secret default/client", " does not exist"],
    );
    let mut client = rig.ca.client("client-a");
    client.key = rig.ca.client("client-b").key;
    rig.world
        .manifest("client.yaml", &tls_secret("client", &client));
    rig.world.wait("the key is looked at", |world| {
        world
            .log()
            .contains("tls.key is not the key of the certificate")
    });
    unusable(&rig, tls_13);
    rig.in_log(
        tls_13,
        Reason::ClientCertificateUnusable,
        &["Secret default/client: tls.key is not the key of the certificate \"client-a\" in tls.crt"],
    );

    let show = |rig: &Rig, identity: &Identity, words: &str| {
        rig.world
            .manifest("client.yaml", &tls_secret("client", identity));
        rig.world
            .wait("the Secret is read", |world| world.log().contains(words));
    };
    let other = Ca::new("other-ca").client("client-b");
    show(&rig, &other, "client-b\" of Secret default/client");
    let words = [
        "the server refuses the client certificate \"client-b\" of Secret default/client (issued by \"other-ca\", valid until ",
        "by alert unknown_ca (48)",
    ];
    rig.refused(tls_12, Reason::ClientCertificateRejected, &words);
    rig.refused(tls_13, Reason::ClientCertificateRejected, &words);
    let old = rig.ca.issue("client-c", |params| {
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "client-c");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    show(&rig, &old, "expired at 2021-01-01T00:00:00Z");
    let expired = [
        "the server refuses the client certificate ",
        "\"client-c\"",
        "it expired at 2021-01-01T00:00:00Z; this node's clock says ",
        "by alert certificate_expired (45)",
    ];
    rig.refused(tls_13, Reason::ClientCertificateRejected, &expired);
    show(&rig, &rig.ca.client("client-d"), "client-d");
    for port in [tls_12, tls_13] {
        assert!(rig.world.curl(&[&url(port)]).ends_with("200"));
    }
}
