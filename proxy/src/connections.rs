//! `nodetls connections`: what is open on this node now.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::ask::Query;
use crate::cli::{Admin, Output, or_dash};
use crate::proxy::Seen;
use crate::status::Live;
use crate::table::{aligned, line, widths};

/// Lists the connections of this node that are open now, the oldest first: pod, Service, endpoint, protocol, TLS, bytes.
///
/// Asks the agent; one that drains after an upgrade has connections of its own, and answers at its own address.
///
/// Examples:
///   nodetls connections
///   nodetls connections --output json
#[derive(Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    #[command(flatten)]
    #[expect(missing_docs, reason = "the type says it")]
    pub admin: Admin,
    /// How the result looks
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// What is open: what `/connections` answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Open {
    /// The oldest first.
    pub connections: Vec<Connection>,
}

/// An open connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// `namespace/name` of the client's pod, or the name of its netns.
    pub pod: String,
    /// The client's end.
    pub client: SocketAddr,
    /// `namespace/name` of the Service.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// The policy.
    pub policy: String,
    /// The address dialled, once it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// What the client speaks, once that is known: `http/1.1`, `h2`, `tls` (passed through) or `other`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The TLS that is originated, once the handshake is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Plaintext bytes from the client to the Service so far.
    pub sent_bytes: u64,
    /// Plaintext bytes from the Service to the client so far.
    pub received_bytes: u64,
    /// Seconds since it was accepted.
    pub age_seconds: f64,
}

/// TLS to the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// The server name sent.
    pub sni: String,
    /// Such as `TLSv1.3`.
    pub version: String,
    /// Such as `TLS_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// Such as `X25519MLKEM768`.
    pub group: String,
    /// Whether a session was resumed.
    pub resumed: bool,
}

/// Prints what is open.
///
/// # Errors
/// Nobody answers, or standard output can't be written.
pub fn run(options: &Options) -> Result<ExitCode> {
    let open: Open = options.admin.ask(&Query::new("/connections"))?;
    options.output.print(&open, render)?;
    Ok(ExitCode::SUCCESS)
}

/// The page `/connections`: an [`Open`] as JSON.
///
/// # Errors
/// It is too early to tell.
pub(crate) fn page(live: &Live) -> Result<String> {
    let parts = live.parts()?;
    let mut seen = parts.proxy.open();
    seen.sort_by_key(|one| Reverse(one.age));
    let mut connections: Vec<_> = seen.iter().map(connection).collect();
    if let Some(cluster) = &parts.cluster {
        // A pod that was enrolled before the API server told of it goes by its uid.
        let infos = cluster.infos.borrow();
        for one in &mut connections {
            if let Some(info) = infos.get(&one.pod) {
                one.pod = format!("{}/{}", info.namespace, info.name);
            }
        }
    }
    Ok(serde_json::to_string(&Open { connections })? + "\n")
}

fn connection(seen: &Seen) -> Connection {
    let target = &seen.route.target;
    let sni = target.plan.as_ref().ok().map(|plan| plan.hostname.clone());
    let session = seen.known.session;
    Connection {
        pod: seen.pod.name.clone(),
        client: seen.client,
        service: target.service.to_string(),
        port: target.port,
        policy: target.policy.to_string(),
        endpoint: seen.known.endpoint,
        protocol: seen.known.protocol.map(str::to_owned),
        tls: session.map(|session| Tls {
            sni: sni.unwrap_or_default(),
            version: session.version.to_owned(),
            cipher: session.cipher_suite.to_owned(),
            group: session.group.to_owned(),
            resumed: session.resumed,
        }),
        sent_bytes: seen.sent,
        received_bytes: seen.received,
        age_seconds: seen.age.as_secs_f64(),
    }
}

/// Renders a list. Every line ends in a newline.
fn render(open: &Open) -> String {
    let header = [
        "POD", "SERVICE", "ENDPOINT", "PROTOCOL", "SNI", "TLS", "SENT", "RECEIVED", "AGE",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(open.connections.iter().map(row));
    let widths = widths(&rows);
    let mut text = String::new();
    if open.connections.is_empty() {
        line(&mut text, "no connection is open");
        return text;
    }
    for row in &rows {
        line(&mut text, &aligned(row, &widths));
    }
    text
}

fn row(one: &Connection) -> [String; 9] {
    let tls = one.tls.as_ref();
    let passed = one.protocol.as_deref() == Some("tls") && tls.is_none();
    let version = tls.map(|tls| match tls.resumed {
        true => format!("{}, resumed", tls.version),
        false => tls.version.clone(),
    });
    let version = version.or_else(|| passed.then(|| "the client's own".to_owned()));
    [
        format!("{} ({})", one.pod, one.client),
        format!("{}:{}", one.service, one.port),
        or_dash(one.endpoint),
        or_dash(one.protocol.as_ref()),
        or_dash(tls.map(|tls| &tls.sni)),
        or_dash(version),
        one.sent_bytes.to_string(),
        one.received_bytes.to_string(),
        age(one.age_seconds),
    ]
}

/// As `kubectl` writes ages: `12s`, `5m3s`, `2h4m`, `3d1h`.
fn age(seconds: f64) -> String {
    let seconds = seconds as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{}s", seconds % 60),
        (0, hours, _) => format!("{hours}h{}m", minutes % 60),
        (days, _, _) => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn each_state_of_a_connection_has_its_row() {
        let early = Connection {
            pod: "shop/web".to_owned(),
            client: "10.0.0.1:5000".parse().unwrap(),
            service: "shop/db".to_owned(),
            port: 443,
            policy: "shop/db".to_owned(),
            endpoint: None,
            protocol: None,
            tls: None,
            sent_bytes: 0,
            received_bytes: 0,
            age_seconds: 0.2,
        };
        let passed = Connection {
            protocol: Some("tls".to_owned()),
            endpoint: Some("10.0.0.2:8443".parse().unwrap()),
            age_seconds: 3_700.0,
            ..early.clone()
        };
        let secured = Connection {
            protocol: Some("h2".to_owned()),
            tls: Some(Tls {
                sni: "db.example.com".to_owned(),
                version: "TLSv1.3".to_owned(),
                cipher: "TLS_AES_256_GCM_SHA384".to_owned(),
                group: "X25519MLKEM768".to_owned(),
                resumed: true,
            }),
            sent_bytes: 12,
            received_bytes: 345,
            age_seconds: 65.0,
            ..passed.clone()
        };
        let connections = vec![early, passed, secured];
        let text = render(&Open { connections });
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| {
                line.split("  ")
                    .filter(|cell| !cell.is_empty())
                    .map(str::trim)
                    .collect()
            })
            .collect();
        let shop = "shop/web (10.0.0.1:5000)";
        assert_eq!(
            rows[1],
            [shop, "shop/db:443", "-", "-", "-", "-", "0", "0", "0s"]
        );
        assert_eq!(
            rows[2],
            [
                shop,
                "shop/db:443",
                "10.0.0.2:8443",
                "tls",
                "-",
                "the client's own",
                "0",
                "0",
                "1h1m"
            ]
        );
        assert_eq!(
            rows[3][4..],
            ["db.example.com", "TLSv1.3, resumed", "12", "345", "1m5s"]
        );
        assert_eq!(render(&Open::default()), "no connection is open\n");
        assert_eq!(age(90_000.0), "1d1h");
    }
}
