//! The names by which a server can prove to be the one that the policy means.

use rustls::pki_types::{DnsName, ServerName};
use webpki::EndEntityCert;

use crate::failure::{Failure, Reason, quoted};
use crate::policy::SubjectAltName;

/// A name that authenticates the server.
#[derive(Debug)]
pub(super) enum Identity {
    /// A DNS name; a wildcard name in the certificate covers it as RFC 6125 says.
    Name(ServerName<'static>),
    /// `.example.com`, for any one label before it.
    Wildcard(String),
    /// Equal byte for byte.
    Uri(String),
}

impl Identity {
    /// Fails with `PolicyRefused` on a hostname that is no DNS name.
    pub(super) fn new(name: &SubjectAltName) -> Result<Self, Failure> {
        match name {
            SubjectAltName::Uri(uri) => Ok(Self::Uri(uri.clone())),
            SubjectAltName::Hostname(name) => match name.strip_prefix("*.") {
                Some(parent) => server_name(parent).map(|_| Self::Wildcard(format!(".{parent}"))),
                None => server_name(name).map(Self::Name),
            },
        }
    }

    /// Whether the certificate bears this name.
    pub(super) fn is_of(&self, leaf: &EndEntityCert<'_>) -> bool {
        match self {
            Self::Name(name) => leaf.verify_is_valid_for_subject_name(name).is_ok(),
            Self::Wildcard(parent) => leaf.valid_dns_names().any(|name| is_child(name, parent)),
            Self::Uri(uri) => leaf.valid_uri_names().any(|name| name == uri),
        }
    }
}

/// Whether `name`, a valid DNS name, is exactly one label in front of `parent` (`.example.com`).
fn is_child(name: &str, parent: &str) -> bool {
    name.find('.')
        .is_some_and(|dot| name[dot..].eq_ignore_ascii_case(parent))
}

/// A DNS name for SNI and identity. IP addresses are refused: neither SNI nor the policy may hold one.
pub(super) fn server_name(name: &str) -> Result<ServerName<'static>, Failure> {
    match DnsName::try_from(name) {
        Ok(dns) => Ok(ServerName::DnsName(dns.to_owned())),
        Err(_) => Err(Failure::new(
            Reason::PolicyRefused,
            format!(
                "{} in the policy's validation is not a DNS name",
                quoted(name)
            ),
        )),
    }
}
