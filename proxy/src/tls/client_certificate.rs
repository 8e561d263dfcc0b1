//! A certificate of ours for servers that want to know who connects (mutual TLS).

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;

use super::client::PROVIDER;
use super::describe;
use super::observed::OBSERVED;
use crate::failure::{Failure, Reason};

/// A certificate chain and its private key, which fit together. Nothing of it but names and dates can be printed.
pub struct ClientCertificate {
    /// In words: subject and origin.
    name: String,
    issuer: String,
    /// Seconds since 1970.
    not_before: i64,
    not_after: i64,
    key: Arc<CertifiedKey>,
    /// Of chain and key.
    digest: [u8; 32],
}

impl ClientCertificate {
    /// Reads a chain, the client's own certificate first, and its key (PKCS#8, PKCS#1 or SEC1), both PEM. `origin` says
    /// in words where they come from.
    ///
    /// # Errors
    /// What is wrong with them, without a word of their content.
    pub fn read(origin: &str, chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| "tls.crt is malformed PEM".to_owned())?;
        let leaf = chain.first().ok_or("tls.crt holds no certificate")?;
        if chain.iter().any(|one| describe::parse(one).is_none()) {
            return Err("tls.crt has a block that is not an X.509 certificate".to_owned());
        }
        let parsed = describe::parse(leaf).ok_or("tls.crt can't be read")?;
        let encrypted = key.windows(10).any(|words| words == b"ENCRYPTED ");
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            PemError::NoItemsFound if encrypted => {
                "tls.key is encrypted: store it without a passphrase"
            }
            PemError::NoItemsFound => "tls.key holds no private key",
            _ => "tls.key is malformed PEM",
        })?;
        let subject = describe::name(parsed.subject());
        let digest = digest(&chain, &key);
        let (issuer, validity) = (describe::name(parsed.issuer()), parsed.validity());
        let (not_before, not_after) = (
            validity.not_before.timestamp(),
            validity.not_after.timestamp(),
        );
        let signing = PROVIDER.key_provider.load_private_key(key).map_err(
            |_| "tls.key is of no supported kind: use RSA of 2048 bits or more, ECDSA or Ed25519",
        )?;
        let certified = CertifiedKey::new(chain, signing);
        certified.keys_match().map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                format!("tls.key is not the key of the certificate {subject} in tls.crt")
            }
            // Such as X.509 v1.
            error => format!("the certificate {subject} in tls.crt is not usable: {error}"),
        })?;
        Ok(Self {
            name: format!("{subject} of {origin}"),
            issuer,
            not_before,
            not_after,
            key: Arc::new(certified),
            digest,
        })
    }

    /// Whether chain and key are the same.
    pub fn same(&self, other: &Self) -> bool {
        self.digest == other.digest
    }

    /// Why a server will refuse it as of now, in words; `None` while its dates are good.
    pub fn out_of_date(&self) -> Option<String> {
        let now = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
        let date = describe::date;
        if now > self.not_after {
            let end = date(self.not_after);
            Some(format!(
                "expired at {end}; this node's clock says {}",
                date(now)
            ))
        } else if now < self.not_before {
            let start = date(self.not_before);
            Some(format!(
                "is not valid before {start}; this node's clock says {}",
                date(now)
            ))
        } else {
            None
        }
    }

    /// The failure of a handshake in which the server said `alert` to it.
    pub(super) fn rejected(&self, alert: &str) -> Failure {
        let dates = match self.out_of_date() {
            Some(why) => format!("it {why}"),
            None => format!("valid until {}", describe::date(self.not_after)),
        };
        let detail = format!(
            "the server refuses the client certificate {} (issued by {}, {dates}) by {alert}",
            self.name, self.issuer
        );
        Failure::new(Reason::ClientCertificateRejected, detail)
    }
}

fn digest(chain: &[CertificateDer<'_>], key: &PrivateKeyDer<'_>) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in chain.iter().map(AsRef::as_ref).chain([key.secret_der()]) {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

impl fmt::Display for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = describe::date(self.not_after);
        write!(
            f,
            "{}, issued by {}, valid until {end}",
            self.name, self.issuer
        )
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientCertificate({self})")
    }
}

/// Shown to whoever asks for one: a server that trusts other issuers is to say so.
impl ResolvesClientCert for ClientCertificate {
    fn resolve(&self, _issuers: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // Outside of `handshake` there is nobody to tell.
        let _ = OBSERVED.try_with(|seen| seen.borrow_mut().certificate_requested = true);
        Some(Arc::clone(&self.key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
