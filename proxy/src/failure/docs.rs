//! Makes `docs/errors.md` from the reasons. The test below checks it; `NODETLS_BLESS=1` writes it anew.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::Reason;

const CERTIFICATES: (&str, &str) = ("certificates", "certificates_that_do_not_do");
const NO_TLS: (&str, &str) = ("servers", "servers_without_tls");
const REFUSING: (&str, &str) = ("servers", "servers_that_refuse_the_handshake");
const CLIENT_CERTIFICATES: (&str, &str) =
    ("client_certificates", "client_certificates_that_do_not_do");
const OUT_OF_REACH: (&str, &str) = ("connections", "servers_out_of_reach");
const NAMES: (&str, &str) = ("names", "names_without_a_usable_address");
const BREAKING: (&str, &str) = ("connections", "connections_that_break");
const TRUNCATED: (&str, &str) = ("connections", "a_truncated_answer_is_not_a_clean_end");

const OPTIONS: (&str, &str) = ("options", "what_the_options_end_or_refuse");

const INTRODUCTION: &str = "\
# Why a connection failed

The reasons are the label `reason` of `nodetls_connection_failures_total` and a field of the access log, whose field
`error` says what was found, then what to do. The client is told nothing of it: it gets a generic answer or a reset.

Made from `proxy/src/failure/`; `NODETLS_BLESS=1 cargo test --package nodetls errors_md` writes it anew. Each test named
here produces its reason with a real server, and finds the example's words in the agent's log.

| Reason | Meaning | Cure | Example of `error`, up to the cure | Test |
|---|---|---|---|---|
";

/// An example of the detail, and the test (module of `tests/tests/reasons/`, function) in which a real server causes it.
fn example(reason: Reason) -> (&'static str, (&'static str, &'static str)) {
    use Reason as R;
    match reason {
        R::UnknownCa => (
            r#"the server's certificate "www.example.com" was issued by "other-ca", which is not trusted; trusted CAs: "test-ca", "example.com""#,
            CERTIFICATES,
        ),
        R::NameMismatch => (
            r#"the server's certificate is for "www.example.org", but the policy asks for "www.example.com""#,
            CERTIFICATES,
        ),
        R::NoSubjectAltName => (
            r#"the server's certificate (CN "www.example.com") is X.509 v1, which has no subjectAltName"#,
            CERTIFICATES,
        ),
        R::Expired => (
            r#"the server's certificate "www.example.com" or its CA's expired at 2021-01-01T00:00:00Z; this node's clock says 2026-05-04T03:02:01Z"#,
            CERTIFICATES,
        ),
        R::NotYetValid => (
            r#"the server's certificate "www.example.com" or its CA's is valid from 2090-01-02T00:00:00Z; this node's clock says 2026-05-04T03:02:01Z"#,
            CERTIFICATES,
        ),
        R::CaUsedAsLeaf => (
            r#"the server presents the CA certificate "www.example.com" as its own"#,
            CERTIFICATES,
        ),
        R::PinMismatch => (
            r#"the server's certificate "www.example.com" has the fingerprints cert:f0b4… and spki:814e…, and neither is in the policy's list"#,
            OPTIONS,
        ),
        R::BadCertificate => (
            r#"the server's certificate "www.example.com" is not usable: its extendedKeyUsage, or its CA's, does not allow serverAuth"#,
            CERTIFICATES,
        ),
        R::PlaintextServer => (
            r#"the server answered with HTTP, not TLS: "HTTP/1.1 400 Bad Request""#,
            NO_TLS,
        ),
        R::ClientCertificateUnusable => (
            "Secret default/client: tls.key is not the key of the certificate \"client-a\" in tls.crt",
            CLIENT_CERTIFICATES,
        ),
        R::ClientCertificateRejected => (
            r#"the server refuses the client certificate "client-b" of Secret default/client (issued by "other-ca", valid until 4096-01-01T00:00:00Z) by alert unknown_ca (48)"#,
            CLIENT_CERTIFICATES,
        ),
        R::ClientCertificateRequired => ("the server requires a client certificate", REFUSING),
        R::NoCommonVersion => (
            "the server speaks neither TLS 1.2 nor TLS 1.3 (alert protocol_version (70))",
            REFUSING,
        ),
        R::NoCommonCipher => (
            "the server found no cipher suite, group or signature algorithm in common (alert handshake_failure (40))",
            REFUSING,
        ),
        R::NoCommonAlpn => (
            "application protocol (ALPN) offered: h2; the server selects none",
            REFUSING,
        ),
        R::Alert => (
            "the server does not know the policy's hostname, sent as SNI (alert unrecognized_name (112))",
            REFUSING,
        ),
        R::ProtocolError => (
            r#"the server broke the TLS protocol: "received corrupt message of type MessageTooLarge""#,
            NO_TLS,
        ),
        R::ClosedDuringHandshake => (
            "the server closed the connection during the TLS handshake",
            NO_TLS,
        ),
        R::HandshakeTimeout => (
            "the server accepted the connection, but sent nothing for 1s after the ClientHello",
            OUT_OF_REACH,
        ),
        R::ConnectTimeout => (
            "10.99.0.77:9005 did not answer the TCP connection request",
            OUT_OF_REACH,
        ),
        R::Refused => (
            "10.99.0.2:9002 refused the connection: nothing listens there",
            OUT_OF_REACH,
        ),
        R::Unreachable => (
            "10.98.0.1:9003 is unreachable (No route to host (os error 113))",
            OUT_OF_REACH,
        ),
        R::Dns => ("there is no DNS name gone.example.com (NXDOMAIN)", NAMES),
        R::ForbiddenAddress => (
            "metadata.example.com resolves to 169.254.169.254, where no external host can be",
            NAMES,
        ),
        R::Reset => (
            "the connection to the server broke: Connection reset by peer (os error 104)",
            BREAKING,
        ),
        R::Truncated => (
            "the server ended the connection without TLS close_notify",
            TRUNCATED,
        ),
        R::NoEndpoints => (
            "Service default/tls-backend has no ready endpoint",
            OUT_OF_REACH,
        ),
        R::PolicyRefused => (
            r#"policy default/tls: Invalid: BackendTLSPolicy default/tls: spec.validation.hostname: "10.0.0.1" is an IP address: use a DNS name of the server's certificate"#,
            OUT_OF_REACH,
        ),
        R::ClientLimit => ("a request's head is longer than 64 KiB", BREAKING),
        R::ClientGone => (
            "the client's connection failed: Connection reset by peer (os error 104)",
            BREAKING,
        ),
        R::IdleTimeout => ("no byte from either side for 1s", OPTIONS),
        R::ShutDown => ("the agent ends", BREAKING),
        R::Internal => (
            "no local port is free for a connection to 10.99.0.2:8443",
            OUT_OF_REACH,
        ),
    }
}

fn generated() -> String {
    let mut text = INTRODUCTION.to_owned();
    for reason in Reason::ALL {
        let (example, (module, test)) = example(*reason);
        let (meaning, cure) = (reason.meaning(), reason.cure());
        writeln!(
            text,
            "| `{reason}` | {meaning} | {cure} | `{example}` | [`{test}`](../tests/tests/reasons/{module}.rs) |"
        )
        .unwrap();
    }
    text
}

#[test]
fn errors_md_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let file = root.join("docs/errors.md");
    if std::env::var_os("NODETLS_BLESS").is_some() {
        fs::write(&file, generated()).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == generated(),
        "docs/errors.md is out of date: run this test with NODETLS_BLESS=1"
    );
    for reason in Reason::ALL {
        let (_, (module, test)) = example(*reason);
        let file = format!("tests/tests/reasons/{module}.rs");
        let source = fs::read_to_string(root.join(&file)).unwrap();
        let start = format!("#[test]\nfn {test}()");
        let (_, rest) = source.split_once(&start).expect(test);
        let body = rest.split("\n}\n").next().unwrap_or_default();
        let expected = body.contains(&format!("Reason::{reason:?},"));
        assert!(expected, "{reason}: {test} in {file} does not expect it");
    }
}
