#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::process::Command;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::failure::{Failure, Reason};
use crate::pods::Pod;
use crate::policy::{CaBundle, Options, Origination};
use crate::tls::{Alpn, describe, failure_of_stream};

const HOST: &str = "www.example.com";
const LIMIT: Duration = Duration::from_secs(5);

struct Ca(Issuer<'static, KeyPair>, CertificateDer<'static>);

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self(Issuer::new(params, key), certificate)
    }

    /// Certificate and key, PEM.
    fn sign(&self, params: &CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn identity(&self, namespace: &str, subject: &str) -> Arc<Identity> {
        let (chain, key) = self.sign(&params(subject));
        let name = ObjectName::new(namespace, "client");
        Arc::new(Identity::read(&name, &secret(&chain, &key)).unwrap())
    }

    /// Trusts clients that this CA signed.
    fn server(&self, version: &'static SupportedProtocolVersion) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new([HOST.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, HOST);
        let (chain, key) = self.sign(&params);
        let mut roots = RootCertStore::empty();
        roots.add(self.1.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            );
        Arc::new(config.unwrap())
    }

    fn anonymous(&self) -> Arc<TlsClient> {
        let origination = Origination {
            hostname: HOST.to_owned(),
            subject_alt_names: Vec::new(),
            roots: Arc::new(CaBundle {
                certificates: vec![self.1.clone()],
            }),
            options: Options::default(),
        };
        Arc::new(TlsClient::new(&origination).unwrap())
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn secret(chain: &str, key: &str) -> TlsSecret {
    TlsSecret {
        certificate: Some(chain.as_bytes().into()),
        key: Some(key.as_bytes().into()),
    }
}

fn read(chain: &str, key: &str) -> Result<Identity, String> {
    Identity::read(&ObjectName::new("shop", "client"), &secret(chain, key))
}

/// One connection to a server of this process: whether its session was resumed, and who the server says we are.
async fn exchange(
    client: &TlsClient,
    config: &Arc<ServerConfig>,
) -> Result<(bool, String), Failure> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let acceptor = TlsAcceptor::from(Arc::clone(config));
    tokio::spawn(async move {
        let mut stream = acceptor.accept(theirs).await?;
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        stream
            .write_all(describe::subject(&shown).as_bytes())
            .await?;
        stream.shutdown().await
    });
    let mut stream = client.handshake(ours, Alpn::None, LIMIT).await?;
    let mut answer = String::new();
    if let Err(error) = stream.read_to_string(&mut answer).await {
        return Err(failure_of_stream(&error, &stream));
    }
    Ok((stream.session().resumed, answer))
}

#[tokio::test]
async fn a_session_belongs_to_one_identity() {
    let ca = Ca::new("test-ca");
    let anonymous = ca.anonymous();
    let [a, b, rotated] = [("a", "client-a"), ("b", "client-b"), ("a", "client-a2")]
        .map(|(namespace, subject)| ca.identity(namespace, subject));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let server = ca.server(version);
        let mut seen = Vec::new();
        for identity in [&a, &a, &b, &b, &rotated, &a] {
            let client = identity.client(&anonymous);
            seen.push(exchange(&client, &server).await.unwrap());
        }
        let expected = [
            (false, "\"client-a\""),
            (true, "\"client-a\""),
            (false, "\"client-b\""),
            (true, "\"client-b\""),
            (false, "\"client-a2\""),
            (true, "\"client-a\""),
        ];
        assert_eq!(
            seen,
            expected.map(|(resumed, who)| (resumed, who.to_owned()))
        );
        // Nor does one that shows nothing inherit a session.
        let outcome = exchange(&anonymous, &server).await;
        assert_eq!(
            outcome.unwrap_err().reason,
            Reason::ClientCertificateRequired
        );
    }
}

#[tokio::test]
async fn a_policys_client_goes_with_it() {
    let ca = Ca::new("test-ca");
    let identity = ca.identity("a", "client-a");
    let server = ca.server(&rustls::version::TLS13);
    let before = ca.anonymous();
    assert!(Arc::ptr_eq(
        &identity.client(&before),
        &identity.client(&before)
    ));
    exchange(&identity.client(&before), &server).await.unwrap();
    let old = Arc::downgrade(&identity.client(&before));
    drop(before);
    let changed = ca.anonymous();
    let (resumed, _) = exchange(&identity.client(&changed), &server).await.unwrap();
    assert!(!resumed, "a session of another policy");
    assert!(old.upgrade().is_none());
}

#[tokio::test]
async fn a_server_that_refuses_it_is_named() {
    let (ca, other) = (Ca::new("test-ca"), Ca::new("other-ca"));
    let mut old = params("client-old");
    old.not_before = rcgen::date_time_ymd(2020, 1, 1);
    old.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let (chain, key) = ca.sign(&old);
    let expired = Arc::new(read(&chain, &key).unwrap());
    let strange = other.identity("shop", "client-b");
    let refused = async |identity: &Identity, version| {
        let client = identity.client(&ca.anonymous());
        let failure = exchange(&client, &ca.server(version)).await.unwrap_err();
        assert_eq!(
            failure.reason,
            Reason::ClientCertificateRejected,
            "{failure}"
        );
        failure.detail
    };
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let text = refused(&expired, version).await;
        let words = "\"client-old\" of Secret shop/client (issued by \"test-ca\", it expired at 2021-01-01T00:00:00Z;";
        assert!(
            text.contains(words) && text.contains("certificate_expired (45)"),
            "{text}"
        );
        let text = refused(&strange, version).await;
        let words = "\"client-b\" of Secret shop/client (issued by \"other-ca\", valid until ";
        assert!(
            text.contains(words) && text.contains("unknown_ca (48)"),
            "{text}"
        );
    }
}

#[test]
fn keys_of_every_kind_that_openssl_makes() {
    let dir = tempfile::tempdir().unwrap();
    let openssl = |words: &str| {
        let mut openssl = Command::new("openssl");
        let output = openssl
            .args(words.split(' '))
            .current_dir(dir.path())
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{words}: {output:?}");
    };
    let file = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    for (make, first_line) in [
        (
            "genrsa -traditional -out key 2048",
            "-----BEGIN RSA PRIVATE KEY-----",
        ),
        ("genrsa -out key 2048", "-----BEGIN PRIVATE KEY-----"),
        (
            "ecparam -name prime256v1 -genkey -out key",
            "-----BEGIN EC PARAMETERS-----",
        ),
        (
            "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out key",
            "-----BEGIN PRIVATE KEY-----",
        ),
        (
            "genpkey -algorithm ed25519 -out key",
            "-----BEGIN PRIVATE KEY-----",
        ),
    ] {
        openssl(make);
        openssl("req -x509 -key key -out crt -subj /CN=client -addext basicConstraints=CA:FALSE");
        let key = file("key");
        assert!(key.starts_with(first_line), "{key}");
        let identity = read(&file("crt"), &key).unwrap();
        let shown = format!("{identity:?}");
        assert!(
            shown.contains("\"client\" of Secret shop/client, issued by \"client\""),
            "{shown}"
        );
        assert!(!shown.contains(key.lines().nth(1).unwrap()), "{shown}");
    }
    openssl("genrsa -aes128 -passout pass:x -out key 2048");
    let wrong = read(&file("crt"), &file("key")).unwrap_err();
    assert!(wrong.contains("tls.key is encrypted"), "{wrong}");
    openssl("genrsa -out key 1024");
    let wrong = read(&file("crt"), &file("key")).unwrap_err();
    assert!(
        wrong.contains("no supported kind: use RSA of 2048"),
        "{wrong}"
    );
}

#[test]
fn what_is_wrong_with_a_secret_is_named_without_its_content() {
    let ca = Ca::new("test-ca");
    let (chain, key) = ca.sign(&params("client-a"));
    let (_, other_key) = ca.sign(&params("client-b"));
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (chain, key, wrong) in [
        (
            chain.as_str(),
            other_key.as_str(),
            "tls.key is not the key of the certificate \"client-a\" in tls.crt",
        ),
        (&key, &key, "tls.crt holds no certificate"),
        (&chain, &chain, "tls.key holds no private key"),
        ("", &key, "tls.crt holds no certificate"),
        (&chain[..100], &key, "tls.crt is malformed PEM"),
        (&chain, &key[..100], "tls.key is malformed PEM"),
        (
            garbage,
            &key,
            "tls.crt has a block that is not an X.509 certificate",
        ),
    ] {
        let found = read(chain, key).unwrap_err();
        assert_eq!(found, format!("Secret shop/client: {wrong}"));
    }
    let name = ObjectName::new("shop", "client");
    let none = TlsSecret::default();
    let found = Identity::read(&name, &none).unwrap_err();
    assert_eq!(found, "Secret shop/client has no key \"tls.crt\"");
    let without_key = TlsSecret {
        certificate: Some(chain.as_bytes().into()),
        ..none
    };
    let found = Identity::read(&name, &without_key).unwrap_err();
    assert_eq!(found, "Secret shop/client has no key \"tls.key\"");
    assert_eq!(format!("{:?}", secret(&chain, &key)), "TlsSecret { .. }");
}

#[test]
fn a_secret_of_a_manifest_is_read_as_the_api_server_would() {
    let manifest = json!({
        "data": {"tls.crt": "Q0hB\nSU4=", "tls.key": "S0VZ", "other": "eA=="},
        "stringData": {"tls.key": "newer"},
    });
    assert_eq!(TlsSecret::of_manifest(&manifest), secret("CHAIN", "newer"));
    let encrypted = json!({"data": {"tls.crt": "ENC[AES256]"}});
    let found = TlsSecret::of_manifest(&encrypted).certificate.unwrap();
    assert_eq!(*found, *b"ENC[AES256]");
    let stored: k8s_openapi::api::core::v1::Secret =
        serde_json::from_value(json!({"data": {"tls.crt": "Q0hBSU4=", "tls.key": "S0VZ"}}))
            .unwrap();
    assert_eq!(TlsSecret::from(stored), secret("CHAIN", "KEY"));
}

fn pod(namespace: Option<&str>) -> Pod {
    Pod::new("pod", namespace, Arc::new(File::open("/dev/null").unwrap()))
}

#[tokio::test(start_paused = true)]
async fn a_pod_has_the_identity_of_its_own_namespace() {
    let ca = Ca::new("test-ca");
    let (store, identities) = Store::new();
    let (a, b) = (ca.identity("a", "client-a"), ca.identity("b", "client-b"));
    let name = |namespace| ObjectName::new(namespace, "client");
    let broken = Err("Secret c/client: broken".to_owned());
    store.set(BTreeMap::from([
        (name("a"), Ok(Some(Arc::clone(&a)))),
        (name("b"), Ok(Some(Arc::clone(&b)))),
        (name("c"), broken),
        (name("d"), Ok(None)),
    ]));
    let of = async |namespace| identities.of(&pod(namespace), "client").await;
    assert!(Arc::ptr_eq(&of(Some("a")).await.unwrap(), &a));
    assert!(Arc::ptr_eq(&of(Some("b")).await.unwrap(), &b));
    let unknown =
        "the API server has not told in which namespace pod pod looks for its Secret client";
    for (namespace, words, waits) in [
        (Some("c"), "Secret c/client: broken", false),
        (Some("d"), "Secret d/client does not exist", false),
        (Some("e"), "Secret e/client has not been read yet", true),
        (None, unknown, true),
    ] {
        let start = Instant::now();
        let failure = of(namespace).await.unwrap_err();
        assert_eq!(failure.reason, Reason::ClientCertificateUnusable);
        assert_eq!(failure.detail, words);
        assert_eq!(start.elapsed() > Duration::from_secs(1), waits, "{words}");
    }
    let (_, forbidden) = Keeper::forbidden();
    let failure = forbidden.of(&pod(Some("a")), "client").await.unwrap_err();
    assert!(
        failure.detail.contains("--client-certificates"),
        "{failure}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_comes_in_time_is_waited_for() {
    let ca = Ca::new("test-ca");
    let (store, identities) = Store::new();
    let a = ca.identity("a", "client-a");
    let pod = pod(None);
    let later = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        pod.namespace.set("a".to_owned()).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let name = ObjectName::new("a", "client");
        store.set(BTreeMap::from([(name, Ok(Some(Arc::clone(&a))))]));
    };
    let (found, ()) = tokio::join!(identities.of(&pod, "client"), later);
    assert!(Arc::ptr_eq(&found.unwrap(), &a));
}

#[tokio::test]
async fn what_is_read_again_and_is_the_same_keeps_its_sessions() {
    let ca = Ca::new("test-ca");
    let (chain, key) = ca.sign(&params("client-a"));
    let (store, identities) = Store::new();
    let name = ObjectName::new("a", "client");
    let set = |chain: &str, key: &str| {
        let read = store::read(&name, Some(&secret(chain, key)));
        store.set(BTreeMap::from([(name.clone(), read)]));
    };
    let now = async || identities.of(&pod(Some("a")), "client").await;
    set(&chain, &key);
    let first = now().await.unwrap();
    set(&format!("a comment\n{chain}"), &key);
    assert!(Arc::ptr_eq(&first, &now().await.unwrap()));
    let (renewed, new_key) = ca.sign(&params("client-a"));
    set(&renewed, &key);
    assert!(now().await.unwrap_err().detail.contains("is not the key"));
    set(&renewed, &new_key);
    let second = now().await.unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
    // Nobody else holds what is out of force, nor its sessions.
    assert_eq!(Arc::strong_count(&first), 1);
    let (renewed, new_key) = ca.sign(&params("client-a"));
    set(&renewed, &new_key);
    let third = now().await.unwrap();
    assert!(!Arc::ptr_eq(&second, &third));
    store.set(BTreeMap::new());
    assert_eq!(Arc::strong_count(&third), 1);
}
