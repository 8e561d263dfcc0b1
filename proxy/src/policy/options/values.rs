//! The options one by one, and how their values are read.

use std::time::Duration;

use jiff::SignedDuration;
use rustls::crypto::aws_lc_rs::{ALL_CIPHER_SUITES, ALL_KX_GROUPS};
use rustls::{CipherSuite, NamedGroup, ProtocolVersion, SupportedCipherSuite};

use super::{AccessLog, ClientTls, Entry, Pin, TlsVersion, ValidationMode};
use crate::policy::rules;
use crate::tls::cipher_suite_name;

/// Every option.
pub(super) const TABLE: &[Entry] = &[
    Entry {
        key: "min-tls-version",
        values: || "1.2 or 1.3".to_owned(),
        default: "1.2",
        meaning: "The lowest version of TLS.",
        read: |value, options| set(&mut options.min_version, tls_version(value)),
    },
    Entry {
        key: "max-tls-version",
        values: || "1.2 or 1.3".to_owned(),
        default: "1.3",
        meaning: "The highest version of TLS.",
        read: |value, options| set(&mut options.max_version, tls_version(value)),
    },
    Entry {
        key: "cipher-suites",
        values: || format!("a list of {}", suites().collect::<Vec<_>>().join(", ")),
        default: "all of them",
        meaning: "The cipher suites to offer, the preferred first, of both versions: a version without one in the \
                  list is not offered.",
        read: |value, options| {
            options.cipher_suites = list(value, cipher_suite)?;
            Ok(())
        },
    },
    Entry {
        key: "key-exchange-groups",
        values: || format!("a list of {}", groups().collect::<Vec<_>>().join(", ")),
        default: "X25519MLKEM768, X25519, secp256r1, secp384r1",
        meaning: "The groups to offer for the key exchange, the preferred first. X25519MLKEM768 is a hybrid with a \
                  post-quantum algorithm. Those with MLKEM are for TLS 1.3 only.",
        read: |value, options| {
            options.groups = list(value, group)?;
            Ok(())
        },
    },
    Entry {
        key: "alpn",
        values: || "a list of protocols such as h2, http/1.1; or none".to_owned(),
        default: "what the client speaks: http/1.1, h2, else none",
        meaning: "The application protocols to offer (ALPN, RFC 7301), whatever the client speaks. An HTTP client is \
                  refused when the server selects another version of HTTP.",
        read: |value, options| set(&mut options.alpn, alpn(value)),
    },
    Entry {
        key: "client-first",
        values: yes_or_no,
        default: "false",
        meaning: "Clients always speak first. Else a TLS handshake without ALPN is begun after 50 ms of silence, in \
                  case it is the server that speaks first (a second later where HTTP connections are at rest); a slow \
                  HTTP client costs a second one then.",
        read: |value, options| {
            options.client_first = boolean(value)?;
            Ok(())
        },
    },
    Entry {
        key: "client-tls",
        values: || "pass-through or wrap".to_owned(),
        default: "pass-through",
        meaning: "What happens to a client that speaks TLS itself: it is passed through to the server untouched; or \
                  its TLS goes into ours (strict: TLS twice, as the API's text has it, and never unverified).",
        read: |value, options| {
            options.client_tls = match value {
                "pass-through" => ClientTls::PassThrough,
                "wrap" => ClientTls::Wrap,
                _ => return Err(UNKNOWN.to_owned()),
            };
            Ok(())
        },
    },
    Entry {
        key: "rewrite-host",
        values: yes_or_no,
        default: "false",
        meaning: "HTTP requests get the policy's hostname as `Host` or `:authority`, each one of a connection.",
        read: |value, options| {
            options.rewrite_host = boolean(value)?;
            Ok(())
        },
    },
    Entry {
        key: "connect-timeout",
        values: a_duration,
        default: "`--connect-timeout` of the agent",
        meaning: "For the TCP connection, to each endpoint tried.",
        read: |value, options| set(&mut options.connect_timeout, duration(value)),
    },
    Entry {
        key: "handshake-timeout",
        values: a_duration,
        default: "`--handshake-timeout` of the agent",
        meaning: "For the TLS handshake.",
        read: |value, options| set(&mut options.handshake_timeout, duration(value)),
    },
    Entry {
        key: "idle-timeout",
        values: a_duration,
        default: "none",
        meaning: "After this long without a byte from either side a connection is ended.",
        read: |value, options| set(&mut options.idle_timeout, duration(value)),
    },
    Entry {
        key: "http-pooling",
        values: on_or_off,
        default: "on",
        meaning: "On: a TLS connection that an HTTP/1 client has left, all its requests answered, serves the next \
                  client of the same pod, until 10 s after its handshake; the server is not told of `Connection: \
                  close`. Off: each client has its own; for servers that leave bodies unread without closing.",
        read: |value, options| {
            options.unpooled = !on(value)?;
            Ok(())
        },
    },
    Entry {
        key: "access-log",
        values: || "on, off, or 1/N such as 1/100".to_owned(),
        default: "on",
        meaning: "Which connections that end well leave a [line in the log](access-log.md): each, none, or one in N. \
                  Those that fail do so in any case.",
        read: |value, options| {
            options.access_log = access_log(value)?;
            Ok(())
        },
    },
    Entry {
        key: "validation-mode",
        values: || ValidationMode::ALL.map(ValidationMode::as_str).join(", "),
        default: "Standard",
        meaning: "What of the server's certificate is verified (GEP-4152): chain, dates and names; not that it has \
                  expired; not the names; or nothing but that the server holds its key. All but Standard need \
                  `--allow-insecure-validation`.",
        read: |value, options| {
            let mode = ValidationMode::ALL.into_iter();
            let mode = mode.into_iter().find(|mode| mode.as_str() == value);
            options.validation_mode = mode.ok_or(UNKNOWN)?;
            Ok(())
        },
    },
    Entry {
        key: "pinned-sha256",
        values: || {
            "a list of cert:HEX and spki:HEX, each a SHA-256 in 64 hexadecimal digits".to_owned()
        },
        default: "none",
        meaning: "Besides all else, the server's certificate, or the public key in it, must have one of these \
                  fingerprints.",
        read: |value, options| {
            options.pins = list(value, pin)?;
            Ok(())
        },
    },
    Entry {
        key: "client-certificate",
        values: || "the name of a Secret".to_owned(),
        default: "none",
        meaning: "A server that asks for a client certificate is shown that of this Secret (tls.crt, tls.key) in the \
                  namespace of the pod that connects. Without a usable one there the connection is refused. In a \
                  cluster it needs `--client-certificates` of the agent.",
        read: |value, options| {
            rules::subdomain(value).map_err(|_| "can't be the name of a Secret".to_owned())?;
            options.client_certificate = Some(value.to_owned());
            Ok(())
        },
    },
];

const UNKNOWN: &str = "is no value";

fn on_or_off() -> String {
    "on or off".to_owned()
}

fn on(value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(UNKNOWN.to_owned()),
    }
}

fn access_log(value: &str) -> Result<AccessLog, String> {
    let Some(number) = value.strip_prefix("1/") else {
        let on = on(value)?;
        return Ok(if on { AccessLog::On } else { AccessLog::Off });
    };
    let number = number.parse().map_err(|_| UNKNOWN)?;
    Ok(AccessLog::OneIn(number))
}

fn yes_or_no() -> String {
    "true or false".to_owned()
}

fn a_duration() -> String {
    "a duration such as 500ms, 10s, 1m30s or 1h (GEP-2257)".to_owned()
}

fn set<T>(field: &mut Option<T>, value: Result<T, String>) -> Result<(), String> {
    *field = Some(value?);
    Ok(())
}

fn boolean(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| UNKNOWN.to_owned())
}

fn tls_version(value: &str) -> Result<TlsVersion, String> {
    match value {
        "1.2" => Ok(TlsVersion::Tls12),
        "1.3" => Ok(TlsVersion::Tls13),
        _ => Err(UNKNOWN.to_owned()),
    }
}

/// Elements between commas, at least one, none twice.
fn list<T: PartialEq>(
    value: &str,
    element: fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let mut found = Vec::new();
    for text in value.split(',').map(str::trim) {
        if text.is_empty() {
            return Err("has an empty element".to_owned());
        }
        let read = element(text)?;
        if found.contains(&read) {
            return Err(format!("has {text} twice"));
        }
        found.push(read);
    }
    Ok(found)
}

fn unknown(text: &str) -> String {
    format!("has {text}, which is not supported")
}

fn cipher_suite(text: &str) -> Result<CipherSuite, String> {
    let mut all = ALL_CIPHER_SUITES.iter().map(SupportedCipherSuite::suite);
    all.find(|suite| cipher_suite_name(*suite) == text)
        .ok_or_else(|| unknown(text))
}

fn suites() -> impl Iterator<Item = &'static str> {
    ALL_CIPHER_SUITES
        .iter()
        .map(|suite| cipher_suite_name(suite.suite()))
}

/// The version that a cipher suite is for.
pub(super) fn version_of(suite: CipherSuite) -> TlsVersion {
    let mut all = ALL_CIPHER_SUITES.iter();
    match all.find(|known| known.suite() == suite) {
        Some(SupportedCipherSuite::Tls12(_)) | None => TlsVersion::Tls12,
        Some(SupportedCipherSuite::Tls13(_)) => TlsVersion::Tls13,
    }
}

fn group(text: &str) -> Result<NamedGroup, String> {
    let mut all = ALL_KX_GROUPS.iter().map(|group| group.name());
    all.find(|group| group.as_str() == Some(text))
        .ok_or_else(|| unknown(text))
}

/// Whether the keys of a version's handshake can be exchanged in a group.
pub(super) fn serves(group: NamedGroup, version: TlsVersion) -> bool {
    let version = match version {
        TlsVersion::Tls12 => ProtocolVersion::TLSv1_2,
        TlsVersion::Tls13 => ProtocolVersion::TLSv1_3,
    };
    let mut all = ALL_KX_GROUPS.iter();
    all.any(|known| known.name() == group && known.usable_for_version(version))
}

fn groups() -> impl Iterator<Item = &'static str> {
    ALL_KX_GROUPS
        .iter()
        .filter_map(|group| group.name().as_str())
}

fn alpn(value: &str) -> Result<Vec<String>, String> {
    if value == "none" {
        return Ok(Vec::new());
    }
    list(value, |text| {
        if text.len() > 255 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has an element that is no protocol's name".to_owned());
        }
        Ok(text.to_owned())
    })
}

/// Of GEP-2257: hours, minutes, seconds, milliseconds. Zero and more than a day are mistakes.
fn duration(value: &str) -> Result<Duration, String> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let plain = |byte: u8| byte.is_ascii_digit() || b"hms".contains(&byte);
    let read = value.parse::<SignedDuration>().ok();
    let read = read.filter(|_| value.bytes().all(plain));
    let read = read.and_then(|read| Duration::try_from(read).ok());
    let read = read.ok_or("is no duration")?;
    if read.is_zero() || read > DAY {
        return Err("is not between 1ms and 24h".to_owned());
    }
    Ok(read)
}

fn pin(text: &str) -> Result<Pin, String> {
    let (kind, digits) = text.split_once(':').unwrap_or_default();
    let sum = sha256(digits).ok_or_else(|| format!("has {text}, which is no fingerprint"))?;
    match kind {
        "cert" => Ok(Pin::Certificate(sum)),
        "spki" => Ok(Pin::PublicKey(sum)),
        _ => Err(format!("has {text}, which is no fingerprint")),
    }
}

/// Hexadecimal digits, with colons between bytes or without (as openssl and sha256sum print them).
fn sha256(digits: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = digits.bytes().filter(|byte| *byte != b':').collect();
    if digits.len() != 64 {
        return None;
    }
    let mut sum = [0; 32];
    for (byte, pair) in sum.iter_mut().zip(digits.chunks(2)) {
        let digit = |place: usize| char::from(*pair.get(place)?).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(sum)
}
