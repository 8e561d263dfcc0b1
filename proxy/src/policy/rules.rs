//! The syntax of single strings: the patterns and lengths of the CRD, and what they let through although it can't work.

use std::net::IpAddr;

use super::status::quoted;

/// Finds nothing wrong with a string, or says what.
pub(super) type Rule = fn(&str) -> Result<(), String>;

/// Group of an object reference: empty (core) or a DNS subdomain.
pub(super) fn group(text: &str) -> Result<(), String> {
    if text.is_empty() {
        Ok(())
    } else {
        subdomain(text)
    }
}

/// Kind of an object reference.
pub(super) fn kind(text: &str) -> Result<(), String> {
    length(text, 63)?;
    let inner = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
    let letter_first = text.starts_with(|c: char| c.is_ascii_alphabetic());
    if letter_first && text.bytes().all(inner) && !text.ends_with('-') {
        return Ok(());
    }
    Err(format!(
        "{} is not a kind, such as Service or ConfigMap",
        quoted(text)
    ))
}

/// Name of an object.
pub(super) fn object_name(text: &str) -> Result<(), String> {
    length(text, 253)
}

/// Lower-case letters, digits, `-` and `.`, as in a sectionName.
pub(super) fn subdomain(text: &str) -> Result<(), String> {
    length(text, 253)?;
    if text.split('.').all(is_label) {
        return Ok(());
    }
    Err(format!(
        "{} must be lower-case letters, digits, \"-\" and \".\" only",
        quoted(text)
    ))
}

/// `PreciseHostname`, fit to be sent as SNI (RFC 6066 section 3: no IP address).
pub(super) fn hostname(text: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{} {what}", quoted(text)));
    if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return wrong("is an IP address: use a DNS name of the server's certificate");
    }
    if text.starts_with("*.") {
        return wrong("has a wildcard: use the full DNS name");
    }
    length(text, 253)?;
    if !text.split('.').all(is_label) {
        return wrong("is not a DNS name: use lower-case letters, digits, \"-\" and \".\" only");
    }
    if text.split('.').any(|label| label.len() > 63) {
        return wrong("has a label of more than 63 characters: no DNS name has");
    }
    let last = text.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|c| c.is_ascii_digit()) {
        return wrong("ends in a number, as an IP address does: use a DNS name");
    }
    Ok(())
}

/// `Hostname` of a subjectAltName: as [`hostname`], and a leading `*.` is allowed.
pub(super) fn san_hostname(text: &str) -> Result<(), String> {
    length(text, 253)?;
    hostname(text.strip_prefix("*.").unwrap_or(text))
}

/// `AbsoluteURI` of a subjectAltName: `scheme://host…`, and the host may not be empty.
pub(super) fn san_uri(text: &str) -> Result<(), String> {
    length(text, 253)?;
    let shown = quoted(text);
    let example = "write it as in \"spiffe://example.org/ns/default/sa/web\"";
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) if !scheme.is_empty() && !scheme.contains([':', '/', '?', '#']) => {
            (scheme, rest)
        }
        _ => return Err(format!("{shown} has no \"scheme://\": {example}")),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    if host.is_empty() || host.starts_with(':') {
        return Err(format!(
            "{shown} has no host after \"{scheme}://\": {example}"
        ));
    }
    Ok(())
}

/// Value of an option.
pub(super) fn option_value(text: &str) -> Result<(), String> {
    if text.chars().count() > 4096 {
        return Err("is longer than 4096 characters".to_owned());
    }
    Ok(())
}

/// Not empty, and at most `max` characters.
fn length(text: &str, max: usize) -> Result<(), String> {
    if text.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if text.chars().count() > max {
        return Err(format!("{} is longer than {max} characters", quoted(text)));
    }
    Ok(())
}

/// A label of the CRD's DNS patterns, which have no limit of 63 characters.
fn is_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}
