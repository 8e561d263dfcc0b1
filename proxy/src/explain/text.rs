//! The explanation for people.

use jiff::Timestamp;

use super::report::{Explanation, Outcome, Policy, Target};
use crate::table::line;
use crate::tls::certificate::Certificate;

/// CA certificates of a target that are shown; JSON has all.
const SHOWN: usize = 4;

/// Renders an explanation. Every line ends in a newline.
pub(super) fn render(explanation: &Explanation) -> String {
    let Explanation {
        client, service, ..
    } = explanation;
    let outcome = match explanation.outcome {
        Outcome::Secured => "TLS is originated",
        Outcome::Failing => "TLS is originated, but connections fail",
        Outcome::Refused => "plaintext is refused",
        Outcome::Untouched => "left as the client makes it",
    };
    let mut text = String::new();
    line(&mut text, &format!("{client} -> {service}: {outcome}"));
    line(&mut text, &format!("  why: {}", explanation.why));
    if let Some(cure) = &explanation.cure {
        line(&mut text, &format!("  cure: {cure}"));
    }
    for note in &explanation.notes {
        line(&mut text, &format!("  note: {note}"));
    }
    for one in &explanation.targets {
        text.push('\n');
        target(&mut text, one);
    }
    if !explanation.policies.is_empty() {
        text.push('\n');
        line(&mut text, "policies that name the Service:");
        for one in &explanation.policies {
            policy(&mut text, one);
        }
    }
    text
}

fn target(text: &mut String, target: &Target) {
    let mut field = |name: &str, value: &str| line(text, &format!("  {name:16}{value}"));
    let all = |items: &[std::net::SocketAddr]| match items {
        [] => "none".to_owned(),
        items => items
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    };
    field("addresses", &all(&target.addresses));
    field("policy", &target.policy);
    if let (Some(reason), Some(message)) = (&target.reason, &target.message) {
        field("refused", &format!("{reason}: {message}"));
    }
    if let Some(hostname) = &target.hostname {
        field("SNI", hostname);
        let names = match target.subject_alt_names.as_slice() {
            [] => hostname.clone(),
            names => format!("one of {}", names.join(", ")),
        };
        field("server's name", &names);
    }
    let now = Timestamp::now().as_second();
    for (place, one) in target.ca.iter().take(SHOWN).enumerate() {
        let name = if place == 0 { "CA" } else { "" };
        field(name, &certificate(one, now));
        field("", &format!("sha256 {}", one.sha256));
    }
    if target.ca.len() > SHOWN {
        let more = target.ca.len() - SHOWN;
        field("", &format!("and {more} more (--output json has all)"));
    }
    for (place, (key, value)) in target.options.iter().enumerate() {
        let name = if place == 0 { "options" } else { "" };
        field(name, &format!("{key}: {value}"));
    }
    if let Some(endpoints) = &target.endpoints {
        field("endpoints", &all(endpoints));
    }
    if let Some(host) = &target.external_host {
        field("external host", host);
    }
    let handshake = target.last_handshake.as_ref().map(|last| {
        let resumed = if last.resumed { ", resumed" } else { "" };
        let (time, version, cipher, group) = (&last.time, &last.version, &last.cipher, &last.group);
        format!("{time}: {version}, {cipher}, {group}{resumed}")
    });
    if target.hostname.is_some() {
        field(
            "last handshake",
            &handshake.unwrap_or_else(|| "none yet".to_owned()),
        );
    }
    if let Some(error) = &target.last_error {
        field(
            "last error",
            &format!("{}: {}: {}", error.time, error.reason, error.detail),
        );
        field("", &format!("cure: {}", error.cure));
    }
}

fn policy(text: &mut String, policy: &Policy) {
    let section = policy.section_name.as_ref();
    let section = section.map_or_else(String::new, |section| format!(" (port {section})"));
    let Policy {
        policy,
        reason,
        message,
        warnings,
        ..
    } = policy;
    line(text, &format!("  {policy}{section}: {reason}: {message}"));
    for warning in warnings {
        line(text, &format!("    warning: {warning}"));
    }
}

/// A certificate's subject and how long it is valid, as of `now` in seconds since 1970.
pub(crate) fn certificate(certificate: &Certificate, now: i64) -> String {
    let Certificate {
        subject, not_after, ..
    } = certificate;
    let days = certificate.days_left(now);
    match days < 0 {
        true => format!("{subject}, EXPIRED at {not_after}"),
        false => format!("{subject}, until {not_after} ({days} days)"),
    }
}
