//! Dates, and certificates that are no CA's; the latter compared with what the TLS client does.

use rcgen::{ExtendedKeyUsagePurpose, Issuer};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::failure::{Failure, Reason};
use crate::policy::{CaBundle, Origination};
use crate::tls::{Alpn, TlsClient};

/// More than a handshake takes.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

/// The judgement on a policy that trusts this bundle.
fn judge_ca(pem: &str) -> PolicyReport {
    World::new()
        .config_map("ca", pem)
        .policy("p", nothing)
        .judge_one()
}

#[test]
fn expiry() {
    for (left, verdict, part) in [
        (31 * DAY, Verdict::Accepted, None),
        (
            30 * DAY,
            Verdict::Accepted,
            Some("expires at 2030-01-31T00:00:00Z, in 30 days: add its successor"),
        ),
        (
            0,
            Verdict::Accepted,
            Some("expires at 2030-01-01T00:00:00Z, in 0 days"),
        ),
        (
            -1,
            Verdict::Refused,
            Some("expired at 2029-12-31T23:59:59Z: other TLS clients no longer"),
        ),
    ] {
        let policy = judge_ca(&ca("one", left));
        assert_eq!(policy.verdict, verdict, "{left}");
        let told: Vec<_> = policy.errors.iter().chain(&policy.warnings).collect();
        let part = part.map(|part| format!("ConfigMap default/ca: certificate \"one\" {part}"));
        assert_eq!(told.len(), usize::from(part.is_some()), "{told:?}");
        if let Some(part) = part {
            assert!(told[0].starts_with(&part), "{told:?}");
        }
    }
}

#[test]
fn every_certificate_of_every_reference() {
    let world = World::new()
        .config_map("ca", &(ca("good", 365 * DAY) + &ca("soon", DAY)))
        .config_map("old", &ca("late", -1));
    let policy = world.policy("p", |spec| {
        let refs = spec["validation"]["caCertificateRefs"]
            .as_array_mut()
            .unwrap();
        refs.push(json!({"group": "", "kind": "ConfigMap", "name": "old"}));
    });
    let policy = policy.judge_one();
    assert!(policy.errors[0].starts_with("ConfigMap default/old: certificate \"late\" expired"));
    assert!(policy.warnings[0].starts_with("ConfigMap default/ca: certificate \"soon\" expires"));
    assert_eq!((policy.errors.len(), policy.warnings.len()), (1, 1));
}

#[test]
fn a_client_certificate_must_be_allowed_in_a_cluster() {
    let policy = World::new().config_map("ca", &ca("one", 365 * DAY));
    let option = json!({"nodetls.io/client-certificate": "client"});
    let report = policy
        .policy("p", |spec| spec["options"] = option)
        .judge_one();
    assert_eq!(report.verdict, Verdict::Accepted);
    let [warning] = report.warnings.as_slice() else {
        panic!("{report:#?}");
    };
    let words = "Secret client is looked up in the namespace of each client's pod";
    assert!(
        warning.contains(words) && warning.contains("--client-certificates"),
        "{warning}"
    );
}

#[test]
fn a_secret_is_judged_and_must_be_allowed_in_a_cluster() {
    let world = |pem: &str| {
        let policy =
            |spec: &mut Value| spec["validation"]["caCertificateRefs"][0]["kind"] = "Secret".into();
        World::new()
            .secret("ca", pem)
            .policy("p", policy)
            .judge_one()
    };
    let good = world(&ca("one", 365 * DAY));
    assert_eq!(good.verdict, Verdict::Accepted);
    let [warning] = good.warnings.as_slice() else {
        panic!("{good:#?}");
    };
    assert!(
        warning.starts_with("Secret default/ca: in a cluster"),
        "{warning}"
    );
    assert!(
        warning.contains("nodetls controller --ca-secrets"),
        "{warning}"
    );
    let late = world(&ca("late", -1));
    assert!(late.errors[0].starts_with("Secret default/ca: certificate \"late\" expired"));
    let broken = world("garbage");
    assert!(broken.errors[0].starts_with("Secret default/ca, key \"ca.crt\" has no"));
}

#[test]
fn the_days_are_an_argument() {
    let world = World::new()
        .config_map("ca", &ca("one", 3 * DAY))
        .policy("p", nothing);
    let warnings = |days| {
        let report = judge(&world.0, Timestamp::from_second(NOW).unwrap(), days);
        report.policies[0].warnings.len()
    };
    assert_eq!((warnings(2), warnings(3)), (0, 1));
}

#[test]
fn not_valid_yet() {
    let mut params = ca_params("one", 365 * DAY);
    params.not_before = rcgen::date_time_ymd(2030, 1, 2);
    let pem = params
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap()
        .pem();
    let policy = judge_ca(&pem);
    let expected =
        "ConfigMap default/ca: certificate \"one\" is not valid before 2030-01-02T00:00:00Z";
    assert_eq!(policy.warnings, [expected]);
}

/// A server's certificate with its key, valid for years around today, since the TLS client goes by the real clock.
struct Leaf {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

fn leaf_params(is_ca: IsCa) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["www.example.com".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "leaf");
    params.is_ca = is_ca;
    params
}

impl Leaf {
    fn self_signed(params: &CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, key }
    }

    fn issued_by(ca: &CertificateParams, ca_key: KeyPair, params: &CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::new(ca.clone(), ca_key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Self { certificate, key }
    }

    /// What the TLS client says when it trusts `roots` and the server presents this.
    async fn handshake(&self, roots: &[&CertificateDer<'static>]) -> Result<(), Failure> {
        let chain = vec![self.certificate.der().clone()];
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let client = TlsClient::new(&Origination {
            hostname: "www.example.com".to_owned(),
            subject_alt_names: Vec::new(),
            roots: Arc::new(CaBundle {
                certificates: roots.iter().map(|root| (*root).clone()).collect(),
            }),
            options: Default::default(),
        })
        .unwrap();
        let (near, far) = tokio::io::duplex(1 << 16);
        let accept = TlsAcceptor::from(Arc::new(server)).accept(far);
        let connect = async {
            let mut stream = client.handshake(near, Alpn::None, LIMIT).await?;
            stream.flush().await.unwrap();
            Ok(())
        };
        let (connected, _) = tokio::join!(connect, accept);
        connected
    }

    /// The same, when it trusts just this certificate; and the warning that check gives for it.
    async fn as_ca(&self) -> (Result<(), Failure>, String) {
        let result = self.handshake(&[self.certificate.der()]).await;
        let warnings = judge_ca(&self.certificate.pem()).warnings;
        let [warning] = warnings.as_slice() else {
            panic!("not one warning: {warnings:?}");
        };
        (result, warning.clone())
    }
}

#[tokio::test]
async fn a_self_signed_leaf_works_as_a_pinned_one() {
    for (is_ca, cause) in [
        (IsCa::ExplicitNoCa, "is no CA's (basicConstraints CA:FALSE)"),
        (IsCa::NoCa, "is no CA's (it has no basicConstraints)"),
    ] {
        let (result, warning) = Leaf::self_signed(&leaf_params(is_ca)).as_ca().await;
        result.unwrap();
        let expected = format!(
            "ConfigMap default/ca: certificate \"leaf\" {cause}: it works for a server that presents this very"
        );
        assert!(warning.starts_with(&expected), "{warning}");
    }
}

#[tokio::test]
async fn a_self_signed_leaf_that_is_for_clients_does_not_work() {
    let mut params = leaf_params(IsCa::ExplicitNoCa);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let (result, warning) = Leaf::self_signed(&params).as_ca().await;
    assert_eq!(result.unwrap_err().reason, Reason::BadCertificate);
    assert!(
        warning.contains("its extendedKeyUsage lacks serverAuth"),
        "{warning}"
    );
}

#[tokio::test]
async fn an_issued_leaf_does_not_work_and_its_ca_does() {
    let (ca, key) = (
        ca_params("the CA", 3650 * DAY),
        KeyPair::generate().unwrap(),
    );
    let ca_certificate = ca.self_signed(&key).unwrap();
    let leaf = Leaf::issued_by(&ca, key, &leaf_params(IsCa::ExplicitNoCa));
    let (result, warning) = leaf.as_ca().await;
    assert_eq!(result.unwrap_err().reason, Reason::UnknownCa);
    assert!(
        warning.contains("it was issued by \"the CA\", and whoever presents it"),
        "{warning}"
    );
    assert!(warning.ends_with("put that here instead"), "{warning}");
    leaf.handshake(&[ca_certificate.der()]).await.unwrap();
}

/// What `openssl x509 -req -signkey` of OpenSSL before 3.2 makes without extensions; rcgen can't.
const V1: &str = "\
-----BEGIN CERTIFICATE-----
MIIBGTCBvwIULg/qp5a2+FCvlU7K7Pc4nXeIvpkwCgYIKoZIzj0EAwIwDjEMMAoG
A1UEAwwDb2xkMCAXDTI2MTEyMTE2MTg1NloYDzIxMjYxMDI4MTYxODU2WjAOMQww
CgYDVQQDDANvbGQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATxralnAD2trB58
4URiaE6uPklXEdSHQvFMPeyDH5l48emdtSwdZHPCWD+p6p7adffW2U6pu2+a+uoe
0mgYKlXTMAoGCCqGSM49BAMCA0kAMEYCIQC38lbYqmiVHmUe1AmQfZ8YfUM415z4
e3wJ2zcFZreZJAIhANoMuCWRAS1NnFlCXdBvjNhDakNoueiEAm6Bh2s9Ycau
-----END CERTIFICATE-----
";

#[test]
fn an_x509_v1_certificate_is_told() {
    let policy = judge_ca(V1);
    let warning = policy.warnings.first().unwrap();
    let expected = "ConfigMap default/ca: certificate \"old\" is no CA's (it has no basicConstraints): as X.509 before v3";
    assert!(warning.starts_with(expected), "{policy:#?}");
    assert_eq!((policy.warnings.len(), policy.errors.len()), (1, 0));
}

/// What the words for an expired certificate say of nodetls itself.
#[tokio::test]
async fn an_expired_ca_still_vouches_and_an_expired_pinned_leaf_does_not() {
    let (mut ca, key) = (ca_params("old CA", 0), KeyPair::generate().unwrap());
    (ca.not_before, ca.not_after) = (
        rcgen::date_time_ymd(2001, 1, 1),
        rcgen::date_time_ymd(2002, 1, 1),
    );
    let ca_certificate = ca.self_signed(&key).unwrap();
    let leaf = Leaf::issued_by(&ca, key, &leaf_params(IsCa::ExplicitNoCa));
    leaf.handshake(&[ca_certificate.der()]).await.unwrap();
    let told = &judge_ca(&ca_certificate.pem()).errors[0];
    assert!(
        told.contains("(nodetls looks at the server's certificate only)"),
        "{told}"
    );

    let mut params = leaf_params(IsCa::ExplicitNoCa);
    (params.not_before, params.not_after) = (ca.not_before, ca.not_after);
    let leaf = Leaf::self_signed(&params);
    let failure = leaf.handshake(&[leaf.certificate.der()]).await.unwrap_err();
    assert_eq!(failure.reason, Reason::Expired);
    let told = &judge_ca(&leaf.certificate.pem()).errors[0];
    assert!(
        told.contains("a server that presents it is refused"),
        "{told}"
    );
}
