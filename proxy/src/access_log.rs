//! One line per connection, at its end; and the set-up of logging.

use std::fmt;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::time::Instant;

use tracing::field::display;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::failure::Reason;
use crate::policy::ObjectName;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, fields at its top level.
    Json,
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error("log filter {filter:?}: {source}; write for example info,nodetls=debug")]
    Filter {
        /// As given.
        filter: String,
        /// Why.
        source: tracing_subscriber::filter::ParseError,
    },
    /// There is a logger already.
    #[error("logging is set up already: {0}")]
    Twice(Box<dyn std::error::Error + Send + Sync>),
}

/// Where log lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTo {
    /// Where container platforms look for them.
    Stdout,
    /// Away from what a command prints.
    Stderr,
}

/// Sets logging up for this process, access lines included, in colour only on a terminal. `filter` is a list of
/// `target=level`, as in `info,access=warn`.
pub fn init_logging(format: LogFormat, filter: &str, to: LogTo) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(filter).map_err(|source| LogError::Filter {
        filter: filter.to_owned(),
        source,
    })?;
    let (writer, terminal) = match to {
        LogTo::Stdout => (BoxMakeWriter::new(io::stdout), io::stdout().is_terminal()),
        LogTo::Stderr => (BoxMakeWriter::new(io::stderr), io::stderr().is_terminal()),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Else a reader of our log that goes away would end us by a panic.
        .log_internal_errors(false)
        .with_writer(writer)
        .with_ansi(terminal);
    match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    }
    .map_err(LogError::Twice)
}

/// What is known of a connection. Dropping it writes the line, whatever ended the connection: target `access`, level
/// INFO after [`Access::succeed`], else WARN. Fields not known are left out.
#[derive(Debug)]
pub struct Access {
    /// The client.
    pub client: SocketAddr,
    /// Name of the client's network namespace.
    pub netns: Option<String>,
    /// The Service and its port.
    pub service: Option<(ObjectName, u16)>,
    /// The BackendTLSPolicy.
    pub policy: Option<ObjectName>,
    /// The address dialled.
    pub upstream: Option<SocketAddr>,
    /// The server name sent (RFC 6066).
    pub sni: Option<String>,
    /// What the client speaks: `http/1.1`, `h2`, `tls` or `other`.
    pub protocol: Option<&'static str>,
    /// Such as `TLSv1.3`.
    pub tls_version: Option<&'static str>,
    /// Such as `TLS_AES_256_GCM_SHA384`.
    pub cipher: Option<&'static str>,
    /// Whether the TLS session was resumed.
    pub resumed: Option<bool>,
    /// Whether the server's connection had served another client before.
    pub reused: Option<bool>,
    /// Plaintext bytes from the client to the Service so far.
    pub sent_bytes: u64,
    /// Plaintext bytes from the Service to the client so far.
    pub received_bytes: u64,
    start: Instant,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Unfinished,
    Succeeded,
    LeftOut,
    Failed { reason: &'static str, error: String },
}

impl Access {
    /// A connection starts.
    pub fn new(client: SocketAddr) -> Self {
        Self {
            client,
            netns: None,
            service: None,
            policy: None,
            upstream: None,
            sni: None,
            protocol: None,
            tls_version: None,
            cipher: None,
            resumed: None,
            reused: None,
            sent_bytes: 0,
            received_bytes: 0,
            start: Instant::now(),
            outcome: Outcome::Unfinished,
        }
    }

    /// The connection came to its proper end.
    pub fn succeed(mut self) {
        self.outcome = Outcome::Succeeded;
    }

    /// The connection came to its proper end, and its policy wants no line of it.
    pub fn leave_out(mut self) {
        self.outcome = Outcome::LeftOut;
    }

    /// The connection failed. `reason` is the label that metrics use, `error` the sentence for people.
    pub fn fail(mut self, reason: &'static str, error: impl fmt::Display) {
        self.outcome = Outcome::Failed {
            reason,
            error: error.to_string(),
        };
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        if matches!(self.outcome, Outcome::LeftOut) {
            return;
        }
        let service = self
            .service
            .as_ref()
            .map(|(name, port)| display(format!("{name}:{port}")));
        let policy = self.policy.as_ref().map(display);
        let upstream = self.upstream.map(display);
        let duration_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        // The macro wants a constant level, hence one arm for each.
        macro_rules! line {
            ($level:expr, $message:literal, $reason:expr, $error:expr) => {
                tracing::event!(
                    target: "access",
                    $level,
                    client = %self.client,
                    netns = self.netns.as_deref(),
                    service,
                    policy,
                    upstream,
                    sni = self.sni.as_deref(),
                    protocol = self.protocol,
                    tls_version = self.tls_version,
                    cipher = self.cipher,
                    resumed = self.resumed,
                    reused = self.reused,
                    sent_bytes = self.sent_bytes,
                    received_bytes = self.received_bytes,
                    duration_ms,
                    reason = $reason,
                    error = $error,
                    $message
                )
            };
        }
        let none = None::<&str>;
        match &self.outcome {
            Outcome::Succeeded => line!(tracing::Level::INFO, "connection closed", none, none),
            Outcome::Failed { reason, error } => {
                line!(
                    tracing::Level::WARN,
                    "connection failed",
                    Some(*reason),
                    Some(error.as_str())
                );
            }
            Outcome::LeftOut => {}
            Outcome::Unfinished => {
                line!(
                    tracing::Level::WARN,
                    "connection cut off",
                    Some(Reason::ShutDown.as_str()),
                    none
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
