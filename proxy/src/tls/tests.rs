//! Handshakes against real servers: rustls in this process, openssl as a child. This file: certificates and helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod certificates;
mod modes;
mod names;
mod openssl;
mod sessions;
mod stream;
mod wire;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ServerSessionMemoryCache;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::failure::{Failure, Reason};
use crate::policy::{CaBundle, Origination, SubjectAltName};

/// The name that the policies of these tests ask for.
pub(super) const HOST: &str = "www.example.com";

/// Of a handshake; none of these tests waits for it.
const LIMIT: Duration = Duration::from_secs(10);

/// A certificate authority.
pub(super) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Ca {
    pub(super) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = ca_params(name);
        let certificate = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        Self {
            issuer,
            certificate,
        }
    }

    fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = ca_params(name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let issuer = Issuer::new(params, key);
        Self {
            issuer,
            certificate,
        }
    }

    pub(super) fn der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    pub(super) fn pem(&self) -> String {
        self.certificate.pem()
    }

    fn issue(&self, params: &CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf {
            chain: vec![certificate.der().clone()],
            key: key.serialize_der(),
        }
    }

    fn leaf(&self, names: &[&str]) -> Leaf {
        self.issue(&leaf_params(names))
    }
}

/// What a server presents.
#[derive(Clone)]
struct Leaf {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Leaf {
    fn self_signed(params: &CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            chain: vec![certificate.der().clone()],
            key: key.serialize_der(),
        }
    }

    /// A rustls server with it, with sessions in memory.
    fn server(&self) -> ServerConfig {
        self.server_of(rustls::ALL_VERSIONS)
    }

    fn server_of(&self, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
        let key = PrivateKeyDer::try_from(self.key.clone()).unwrap();
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
        // Unlike with_single_cert this does not care whether the key fits.
        let certified = CertifiedKey::new(self.chain.clone(), key);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.session_storage = ServerSessionMemoryCache::new(64);
        config
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// CN `leaf`; names with a `:` are URIs.
fn leaf_params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "leaf");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names = names.iter().map(|name| alt_name(name)).collect();
    params
}

fn alt_name(name: &str) -> SanType {
    let value = name.try_into().unwrap();
    if name.contains(':') {
        SanType::URI(value)
    } else {
        SanType::DnsName(value)
    }
}

/// A policy for [`HOST`] that trusts these.
fn origination(roots: &[CertificateDer<'static>]) -> Origination {
    Origination {
        hostname: HOST.to_owned(),
        subject_alt_names: Vec::new(),
        roots: Arc::new(CaBundle {
            certificates: roots.to_vec(),
        }),
        options: Default::default(),
    }
}

/// The same with `subjectAltNames`; those with a `:` are URIs.
fn with_alt_names(roots: &[CertificateDer<'static>], names: &[&str]) -> Origination {
    let alt_name = |name: &&str| match name.contains(':') {
        true => SubjectAltName::Uri((*name).to_owned()),
        false => SubjectAltName::Hostname((*name).to_owned()),
    };
    Origination {
        subject_alt_names: names.iter().map(alt_name).collect(),
        ..origination(roots)
    }
}

/// An echo server at the other end of a pipe, for one connection.
fn serve(config: Arc<ServerConfig>) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let mut stream = TlsAcceptor::from(config).accept(theirs).await?;
        let mut buffer = [0; 4];
        stream.read_exact(&mut buffer).await?;
        stream.write_all(&buffer).await?;
        stream.shutdown().await
    });
    ours
}

/// One handshake and, so that tickets arrive, one exchange with a server of this process.
async fn exchange(
    client: &TlsClient,
    config: &Arc<ServerConfig>,
    alpn: Alpn,
) -> Result<Session, Failure> {
    let mut stream = client
        .handshake(serve(Arc::clone(config)), alpn, LIMIT)
        .await?;
    let session = stream.session();
    let relay = |error: io::Error| failure_from_io(&error, Stage::Relay);
    stream.write_all(b"ping").await.map_err(relay)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.map_err(relay)?;
    assert_eq!(answer, b"ping");
    Ok(session)
}

/// The outcome of one connection under a policy to a server that presents `leaf`.
async fn attempt(origination: &Origination, leaf: &Leaf) -> Result<Session, Failure> {
    exchange(
        &TlsClient::new(origination)?,
        &Arc::new(leaf.server()),
        Alpn::None,
    )
    .await
}

/// Checks reason, essentials and form of a failure.
#[track_caller]
fn assert_failure<T: std::fmt::Debug>(
    outcome: Result<T, Failure>,
    reason: Reason,
    essentials: &[&str],
) {
    let failure = outcome.expect_err("the connection must fail");
    assert_eq!(failure.reason, reason, "{failure}");
    let text = failure.to_string();
    for essential in essentials {
        assert!(
            text.contains(essential),
            "{essential:?} is missing in: {text}"
        );
    }
    assert!(
        text.len() < 1000 && !text.contains(char::is_control),
        "{text}"
    );
}
