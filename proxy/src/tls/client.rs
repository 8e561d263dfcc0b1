//! A TLS client per policy, with its own sessions.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{ALL_CIPHER_SUITES, ALL_KX_GROUPS, default_provider};
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SignatureScheme, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::client_certificate::ClientCertificate;
use super::error::{handshake_failure, handshake_timeout, no_common_alpn};
use super::handshake::handshake;
use super::identity::server_name;
use super::observed::{OBSERVED, Observed};
use super::session_store::SessionStore;
use super::stream::TlsStream;
use super::verifier::Verifier;
use crate::failure::{Failure, Reason};
use crate::policy::{Options, Origination, TlsVersion};

/// One for all clients: its tables are the same for every policy.
pub(super) static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(default_provider()));

/// The application protocol to offer (ALPN, RFC 7301), where the policy's options name none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// `http/1.1`; a server that selects none will do.
    Http11,
    /// `h2`; a server that does not select it is a failure.
    H2,
    /// No ALPN extension.
    None,
}

impl Alpn {
    fn offered(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http11 => vec![b"http/1.1".to_vec()],
            Self::H2 => vec![b"h2".to_vec()],
            Self::None => Vec::new(),
        }
    }
}

/// A TLS client for one [`Origination`] and at most one client certificate. Sessions are resumed within it, per ALPN, and
/// never outside of it.
#[derive(Debug)]
pub struct TlsClient {
    server_name: ServerName<'static>,
    http11: Arc<ClientConfig>,
    h2: Arc<ClientConfig>,
    none: Arc<ClientConfig>,
    certificate: Option<Arc<ClientCertificate>>,
}

impl TlsClient {
    /// Fails with `PolicyRefused` on a hostname that is no DNS name or a CA bundle without a usable certificate.
    pub fn new(origination: &Origination) -> Result<Self, Failure> {
        let algorithms = PROVIDER.signature_verification_algorithms;
        let verifier = Arc::new(Verifier::new(origination, algorithms)?);
        let options = &origination.options;
        let config = |alpn| config(&verifier, options, alpn);
        Ok(Self {
            server_name: server_name(&origination.hostname)?,
            http11: config(Alpn::Http11)?,
            h2: config(Alpn::H2)?,
            none: config(Alpn::None)?,
            certificate: None,
        })
    }

    /// The same with a client certificate, and with sessions of its own: they would tell the server who connects.
    #[must_use]
    pub fn showing(&self, certificate: &Arc<ClientCertificate>) -> Self {
        let config = |config: &Arc<ClientConfig>| {
            let mut config = ClientConfig::clone(config);
            config.client_auth_cert_resolver = Arc::clone(certificate) as _;
            config.resumption = sessions();
            Arc::new(config)
        };
        Self {
            server_name: self.server_name.clone(),
            http11: config(&self.http11),
            h2: config(&self.h2),
            none: config(&self.none),
            certificate: Some(Arc::clone(certificate)),
        }
    }

    /// Opens TLS on `io`, within `limit`.
    pub async fn handshake<IO>(
        &self,
        io: IO,
        alpn: Alpn,
        limit: Duration,
    ) -> Result<TlsStream<IO>, Failure>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = match alpn {
            Alpn::Http11 => &self.http11,
            Alpn::H2 => &self.h2,
            Alpn::None => &self.none,
        };
        let (name, certificate) = (self.server_name.clone(), self.certificate.clone());
        let connect = handshake(Arc::clone(config), name, certificate, io);
        let offered = config.alpn_protocols.as_slice();
        let explained = async {
            let result = timeout(limit, connect).await;
            OBSERVED.with(|seen| match result {
                Ok(Ok(established)) => Ok(established),
                Ok(Err(error)) => Err(handshake_failure(
                    &error,
                    &seen.borrow(),
                    offered,
                    self.certificate.as_deref(),
                )),
                Err(_) => Err(handshake_timeout(limit, &seen.borrow())),
            })
        };
        let (stream, selected) = OBSERVED
            .scope(RefCell::new(Observed::default()), explained)
            .await?;
        // rustls lets a server that selects none pass; and the policy may have offered what the client does not speak.
        match (alpn, selected.as_deref()) {
            (Alpn::H2, None) if !offered.is_empty() => {
                Err(no_common_alpn(offered, "the server selects none"))
            }
            (Alpn::H2, Some(selected)) if selected != b"h2" => {
                let selected = String::from_utf8_lossy(selected);
                Err(no_common_alpn(
                    offered,
                    &format!("the server selects {selected}"),
                ))
            }
            (Alpn::Http11, Some(b"h2")) => Err(no_common_alpn(offered, "the server selects h2")),
            _ => Ok(stream),
        }
    }
}

fn config(
    verifier: &Arc<Verifier>,
    options: &Options,
    alpn: Alpn,
) -> Result<Arc<ClientConfig>, Failure> {
    let mut config = ClientConfig::builder_with_provider(provider(options))
        .with_protocol_versions(&versions(options))
        .map_err(|error| Failure::new(Reason::Internal, error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(verifier) as _)
        .with_client_cert_resolver(Arc::new(NoClientCertificate));
    config.alpn_protocols = match &options.alpn {
        Some(names) => names.iter().map(|name| name.clone().into_bytes()).collect(),
        None => alpn.offered(),
    };
    config.resumption = sessions();
    // For `TlsStream`, which takes over from rustls.
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

fn sessions() -> Resumption {
    Resumption::store(Arc::new(SessionStore::default()))
}

/// The cipher suites and groups that the options name, in their order; else ours.
fn provider(options: &Options) -> Arc<CryptoProvider> {
    if options.cipher_suites.is_empty() && options.groups.is_empty() {
        return Arc::clone(&PROVIDER);
    }
    let mut provider = CryptoProvider::clone(&PROVIDER);
    if !options.cipher_suites.is_empty() {
        let wanted = options.cipher_suites.iter();
        let suites = wanted.filter_map(|name| {
            let mut all = ALL_CIPHER_SUITES.iter();
            all.find(|suite| suite.suite() == *name).copied()
        });
        provider.cipher_suites = suites.collect();
    }
    if !options.groups.is_empty() {
        let wanted = options.groups.iter();
        let groups = wanted.filter_map(|name| {
            let mut all = ALL_KX_GROUPS.iter();
            all.find(|group| group.name() == *name).copied()
        });
        provider.kx_groups = groups.collect();
    }
    Arc::new(provider)
}

fn versions(options: &Options) -> Vec<&'static SupportedProtocolVersion> {
    let (min, max) = options.versions();
    let all = [(TlsVersion::Tls13, &TLS13), (TlsVersion::Tls12, &TLS12)];
    let wanted = all
        .into_iter()
        .filter(|(version, _)| (min..=max).contains(version));
    wanted.map(|(_, version)| version).collect()
}

/// Has no certificate, but notes that one was asked for.
#[derive(Debug)]
struct NoClientCertificate;

impl ResolvesClientCert for NoClientCertificate {
    fn resolve(&self, _issuers: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // Outside of `handshake` there is nobody to tell.
        let _ = OBSERVED.try_with(|seen| seen.borrow_mut().certificate_requested = true);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// The clients in use. Policies with equal inputs share one; a change of CA bundle or names gets a new one, so that a
/// session made under a removed CA can't be resumed.
#[derive(Debug, Default)]
pub struct TlsClients {
    clients: Mutex<HashMap<Key, Arc<TlsClient>>>,
}

impl TlsClients {
    /// The client for this policy input; cheap enough to ask per connection. Errors as [`TlsClient::new`].
    pub fn get_or_create(&self, origination: &Arc<Origination>) -> Result<Arc<TlsClient>, Failure> {
        let key = Key(Arc::clone(origination));
        let mut clients = self.lock();
        if let Some(client) = clients.get(&key) {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(TlsClient::new(origination)?);
        clients.insert(key, Arc::clone(&client));
        Ok(client)
    }

    /// Forgets the clients, and with them the sessions, of every input that is not in `live`. For each new snapshot.
    pub fn retain<'a>(&self, live: impl IntoIterator<Item = &'a Arc<Origination>>) {
        let live: HashSet<_> = live.into_iter().map(|o| Key(Arc::clone(o))).collect();
        self.lock().retain(|key, _| live.contains(key));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<TlsClient>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Equal by value, but hashed without the CA bundle: it may hold hundreds of certificates, and `Arc` compares those
/// by pointer first.
#[derive(Debug, PartialEq, Eq)]
struct Key(Arc<Origination>);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hostname.hash(state);
        self.0.subject_alt_names.hash(state);
    }
}
