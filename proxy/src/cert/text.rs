//! What servers present, for people.

use jiff::Timestamp;

use super::{Presented, Server};
use crate::explain::certificate;
use crate::table::line;

/// Days before a certificate's end in which it is warned of.
const SOON: i64 = 30;
/// CA certificates that are shown; JSON has all.
const SHOWN: usize = 4;

/// Renders them. Every line ends in a newline.
pub(super) fn render(presented: &Presented) -> String {
    let now = Timestamp::now().as_second();
    let Presented {
        service,
        policy,
        from,
        sni,
        ca,
        ..
    } = presented;
    let names = presented.names.join(", ");
    let mut text = String::new();
    let head =
        format!("{service}, by BackendTLSPolicy {policy}, from {from}: SNI {sni}, name {names}");
    line(&mut text, &head);
    for one in ca.iter().take(SHOWN) {
        line(&mut text, &format!("  trusted: {}", certificate(one, now)));
        line(&mut text, &format!("           sha256 {}", one.sha256));
    }
    if ca.len() > SHOWN {
        let more = ca.len() - SHOWN;
        line(
            &mut text,
            &format!("  and {more} more CA certificates (--output json has all)"),
        );
    }
    for one in &presented.servers {
        server(&mut text, one, now);
    }
    if presented.not_tried > 0 {
        text.push('\n');
        line(
            &mut text,
            &format!("{} more servers were not tried", presented.not_tried),
        );
    }
    text
}

fn server(text: &mut String, server: &Server, now: i64) {
    let accepted = if server.accepted {
        "accepted"
    } else {
        "REFUSED"
    };
    text.push('\n');
    let tls = server.tls.as_ref();
    let tls = tls.map(|tls| format!(", {}, {}, {}", tls.version, tls.cipher, tls.group));
    let tls = tls.unwrap_or_default();
    line(text, &format!("{}: {accepted}{tls}", server.address));
    if let Some(error) = &server.error {
        line(
            text,
            &format!("  error: {}: {}", error.reason, error.detail),
        );
        line(text, &format!("  cure: {}", error.cure));
    }
    for (place, one) in server.chain.iter().enumerate() {
        line(
            text,
            &format!("  {place} subject  {}", certificate(one, now)),
        );
        line(text, &format!("    issuer   {}", one.issuer));
        if !one.subject_alt_names.is_empty() {
            line(
                text,
                &format!("    names    {}", one.subject_alt_names.join(", ")),
            );
        }
        line(
            text,
            &format!("    valid    {} to {}", one.not_before, one.not_after),
        );
        line(text, &format!("    sha256   {}", one.sha256));
        line(text, &format!("    spki     {}", one.public_key_sha256));
        let days = one.days_left(now);
        if (0..SOON).contains(&days) {
            let cure = "renew it, and have the server load the new one";
            line(
                text,
                &format!("    warning: it ends in {days} days: {cure}"),
            );
        }
    }
}
