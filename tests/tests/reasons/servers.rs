//! Servers that speak no TLS, or refuse the handshake.

use nodetls::failure::Reason;
use nodetls_tests::{CLUSTER_IP, HOST};

use crate::rig::{ANSWER, Rig, url};

#[test]
fn servers_without_tls() {
    let mut rig = Rig::new();
    let nginx = rig.port();
    rig.world.nginx(nginx);
    let ssh = rig.banner("SSH-2.0-OpenSSH_9.2p1\r\n");
    let smtp = rig.banner("220 mail.example ESMTP\r\n");
    let garbage = rig.banner("\u{16}\u{3}\u{3}\u{ff}\u{ff}");
    let hangs_up = rig.banner("");
    rig.start("");

    rig.refused(
        nginx,
        Reason::PlaintextServer,
        &["answered with HTTP, not TLS: ", "HTTP/1.1 400 Bad Request"],
    );
    let not_tls = "not TLS: ";
    rig.refused(
        ssh,
        Reason::PlaintextServer,
        &[not_tls, "with SSH, ", "SSH-2.0-OpenSSH_9.2p1"],
    );
    rig.refused(
        smtp,
        Reason::PlaintextServer,
        &[not_tls, "with SMTP or FTP, ", "220 mail.example"],
    );
    rig.refused(
        garbage,
        Reason::ProtocolError,
        &["the server broke the TLS protocol: "],
    );
    rig.refused(
        hangs_up,
        Reason::ClosedDuringHandshake,
        &["the server closed the connection during the TLS handshake"],
    );
    // A client that is not HTTP/1 gets a reset, and as little.
    let answer = rig
        .world
        .dial(&[&format!("{CLUSTER_IP}:{ssh}"), "--send", "\u{1}binary"]);
    assert!(answer.contains("error: ConnectionReset"), "{answer}");
    assert!(!answer.contains("SSH"), "{answer}");
}

#[test]
fn servers_that_refuse_the_handshake() {
    let mut rig = Rig::new();
    let good = rig.ca.sign(HOST);
    rig.world.file("ca.pem", &rig.ca.pem);
    rig.world.file("sni.crt", &good.certificate);
    rig.world.file("sni.key", &good.key);
    let old = rig.openssl(&good, "-tls1_1 -cipher ALL:@SECLEVEL=0");
    let cbc = rig.openssl(&good, "-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA");
    let group = rig.openssl(&good, "-tls1_3 -curves X448");
    let h2_only = rig.openssl(&good, "-alpn h2");
    let no_alpn = rig.openssl(&good, "");
    let client_12 = rig.openssl(&good, "-tls1_2 -Verify 1 -CAfile ca.pem");
    let client_13 = rig.openssl(&good, "-tls1_3 -Verify 1 -CAfile ca.pem");
    let sni = "-servername other.example -servername_fatal -cert2 sni.crt -key2 sni.key";
    let sni = rig.openssl(&good, sni);
    rig.start("");

    rig.refused(
        old,
        Reason::NoCommonVersion,
        &["the server speaks neither TLS 1.2 nor TLS 1.3 (alert protocol_version (70))"],
    );
    let nothing =
        "no cipher suite, group or signature algorithm in common (alert handshake_failure (40))";
    rig.refused(cbc, Reason::NoCommonCipher, &[nothing]);
    rig.refused(group, Reason::NoCommonCipher, &[nothing]);
    rig.refused(
        h2_only,
        Reason::NoCommonAlpn,
        &[
            "(ALPN) offered: ",
            "http/1.1; the server refuses it by alert no_application_protocol (120)",
        ],
    );
    // A client that speaks HTTP/2, to a server that knows no ALPN.
    rig.world.curl(&["--http2-prior-knowledge", &url(no_alpn)]);
    rig.logged(
        no_alpn,
        Reason::NoCommonAlpn,
        &["application protocol (ALPN) offered: h2; the server selects none"],
    );
    assert!(
        rig.world.curl(&[&url(no_alpn)]).ends_with("200"),
        "HTTP/1 does not need it"
    );

    let wanted = ["the server requires a client certificate"];
    rig.refused(client_12, Reason::ClientCertificateRequired, &wanted);
    // TLS 1.3: the handshake has succeeded, the alert comes in place of the answer.
    rig.refused(client_13, Reason::ClientCertificateRequired, &wanted);
    // With a body that the server never reads, writing fails as well, maybe first.
    for _ in 0..10 {
        rig.world.file("body", &"x".repeat(900_000));
        let body = format!("@{}", rig.world.dir.path().join("body").display());
        let answer = rig.world.curl(&[
            "-i",
            "-H",
            "Expect:",
            "--data-binary",
            &body,
            &url(client_13),
        ]);
        assert_eq!(answer, ANSWER);
        rig.logged(client_13, Reason::ClientCertificateRequired, &wanted);
    }
    rig.refused(
        sni,
        Reason::Alert,
        &["the server does not know the policy's hostname, sent as SNI (alert unrecognized_name (112))"],
    );
}
