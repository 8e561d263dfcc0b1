//! `spec.options`: what a policy may ask for beyond the API's own fields. One table tells which keys there are, what
//! they mean and how a value is read; `docs/options.md` is made from it.

#[cfg(test)]
mod docs;
mod values;

use std::num::NonZeroU32;
use std::time::Duration;

use rustls::{CipherSuite, NamedGroup};

use super::fields::{Node, Problems};
use super::rules;
use super::status::quoted;

/// The domain of our keys; keys of other domains are for other implementations.
const PREFIX: &str = "nodetls.io/";

/// The option that names a Secret.
pub(crate) const CLIENT_CERTIFICATE: &str = "nodetls.io/client-certificate";

/// What the options of a policy come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The lowest version of TLS; `None`: 1.2.
    pub min_version: Option<TlsVersion>,
    /// The highest version of TLS; `None`: 1.3.
    pub max_version: Option<TlsVersion>,
    /// The cipher suites, in order of preference; empty: all that are supported.
    pub cipher_suites: Vec<CipherSuite>,
    /// The key-exchange groups, in order of preference; empty: all that are supported.
    pub groups: Vec<NamedGroup>,
    /// The application protocols offered (ALPN), whatever the client speaks; `None`: what the client speaks.
    pub alpn: Option<Vec<String>>,
    /// Clients always speak first, so that nobody has to find out whether the server does.
    pub client_first: bool,
    /// What happens to a client that speaks TLS itself.
    pub client_tls: ClientTls,
    /// For the TCP connection to each address tried; `None`: the agent's.
    pub connect_timeout: Option<Duration>,
    /// For the TLS handshake; `None`: the agent's.
    pub handshake_timeout: Option<Duration>,
    /// How long neither side may send a byte; `None`: for ever.
    pub idle_timeout: Option<Duration>,
    /// HTTP/1 clients do not share connections to the server.
    pub unpooled: bool,
    /// Which connections that end well leave a line in the log.
    pub access_log: AccessLog,
    /// What of the server's certificate is verified.
    pub validation_mode: ValidationMode,
    /// Fingerprints of which the server's certificate must have one; empty: any.
    pub pins: Vec<Pin>,
    /// Name of a Secret in the client pod's namespace with the certificate that we present.
    pub client_certificate: Option<String>,
    /// HTTP requests get the policy's hostname as `Host` or `:authority`.
    pub rewrite_host: bool,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// What happens to a client that speaks TLS itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientTls {
    /// Its bytes go through untouched.
    #[default]
    PassThrough,
    /// They go into ours, as the API's text has it (GEP-1897: TLS is originated whatever the traffic is).
    Wrap,
}

/// Which connections that end well leave a line in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// Each.
    #[default]
    On,
    /// One of so many.
    OneIn(NonZeroU32),
    /// None.
    Off,
}

/// What of the server's certificate is verified (GEP-4152). All but the first need the installation's consent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ValidationMode {
    /// Chain, dates and names.
    #[default]
    Standard,
    /// Chain and names; a certificate may have expired.
    InsecureAllowExpired,
    /// Chain and dates, whatever the names.
    InsecureSkipOnlySanVerification,
    /// Only that the server holds the key of the certificate that it shows.
    InsecureSkipVerification,
}

impl ValidationMode {
    /// Every mode.
    pub const ALL: [Self; 4] = [
        Self::Standard,
        Self::InsecureAllowExpired,
        Self::InsecureSkipOnlySanVerification,
        Self::InsecureSkipVerification,
    ];

    /// As GEP-4152 spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "Standard",
            Self::InsecureAllowExpired => "InsecureAllowExpired",
            Self::InsecureSkipOnlySanVerification => "InsecureSkipOnlySANVerification",
            Self::InsecureSkipVerification => "InsecureSkipVerification",
        }
    }

    /// Whether anybody may be the server as far as names go.
    pub fn skips_names(self) -> bool {
        self >= Self::InsecureSkipOnlySanVerification
    }

    /// What a server gets away with, in words; nothing in mode `Standard`.
    pub fn warning(self) -> Option<&'static str> {
        match self {
            Self::Standard => None,
            Self::InsecureAllowExpired => Some("expired server certificates are accepted"),
            Self::InsecureSkipOnlySanVerification => {
                Some("the server's name is not verified: any certificate of the CA is accepted")
            }
            Self::InsecureSkipVerification => {
                Some("the server's certificate is not verified: anybody can be the server")
            }
        }
    }
}

/// The SHA-256 of what a server must present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// Of its certificate (DER).
    Certificate([u8; 32]),
    /// Of its certificate's SubjectPublicKeyInfo (DER), which survives a renewal with the same key.
    PublicKey([u8; 32]),
}

/// How one option is read and told of.
struct Entry {
    /// Without the domain.
    key: &'static str,
    /// What it can be, in words.
    values: fn() -> String,
    #[cfg_attr(not(test), expect(dead_code, reason = "for docs/options.md"))]
    default: &'static str,
    #[cfg_attr(not(test), expect(dead_code, reason = "for docs/options.md"))]
    meaning: &'static str,
    /// The error says what is wrong with the value; what it can be is added.
    read: fn(&str, &mut Options) -> Result<(), String>,
}

/// Reads the map of options. Of another domain's nothing is asked; one of ours that is unknown, or has a value that
/// can't be, is a mistake: to ignore it could drop a restriction that its author relies on.
pub(super) fn read(options: &Node, problems: &mut Problems) -> Options {
    let mut read = Options::default();
    if options.absent() || !options.is_object(problems) {
        return read;
    }
    let count = options.entries().count();
    if count > 16 {
        let what = format!("has {count} entries: at most 16 are allowed");
        options.wrong(problems, &what);
    }
    for (key, option) in options.entries() {
        let value = option.required("give it a value", rules::option_value, problems);
        let (Some(key), Some(value)) = (key.strip_prefix(PREFIX), value) else {
            continue;
        };
        let Some(entry) = values::TABLE.iter().find(|entry| entry.key == key) else {
            let known: Vec<_> = values::TABLE.iter().map(|entry| entry.key).collect();
            let known = known.join(", ");
            option.wrong(
                problems,
                &format!("is no option; those of {PREFIX} are: {known}"),
            );
            continue;
        };
        if let Err(wrong) = (entry.read)(value.trim(), &mut read) {
            let (value, can_be) = (quoted(value), (entry.values)());
            option.wrong(problems, &format!("{value} {wrong}: write {can_be}"));
        }
    }
    if let Err(wrong) = read.agree() {
        options.wrong(problems, &wrong);
    }
    read
}

impl Options {
    /// Whether a handshake is possible with versions, cipher suites and groups.
    fn agree(&self) -> Result<(), String> {
        let (min, max) = self.versions();
        if min > max {
            return Err(format!(
                "{PREFIX}min-tls-version is above {PREFIX}max-tls-version"
            ));
        }
        let suites = self.cipher_suites.as_slice();
        let has_suite = |version| {
            suites
                .iter()
                .any(|suite| values::version_of(*suite) == version)
        };
        let mut offered = vec![TlsVersion::Tls12, TlsVersion::Tls13];
        offered.retain(|version| {
            (min..=max).contains(version) && (suites.is_empty() || has_suite(*version))
        });
        if offered.is_empty() {
            return Err(format!(
                "{PREFIX}cipher-suites has none for the versions allowed: add one, or change {PREFIX}min-tls-version \
                 or {PREFIX}max-tls-version"
            ));
        }
        let serves = |group| {
            offered
                .iter()
                .any(|version| values::serves(group, *version))
        };
        if !self.groups.is_empty() && !self.groups.iter().any(|group| serves(*group)) {
            return Err(format!(
                "{PREFIX}key-exchange-groups has none for TLS 1.2, the only version offered: add one without MLKEM, or \
                 allow TLS 1.3"
            ));
        }
        Ok(())
    }

    /// The lowest and the highest version.
    pub fn versions(&self) -> (TlsVersion, TlsVersion) {
        let (min, max) = (self.min_version, self.max_version);
        (
            min.unwrap_or(TlsVersion::Tls12),
            max.unwrap_or(TlsVersion::Tls13),
        )
    }
}
