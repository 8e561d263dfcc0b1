//! One line per connection, at its end; and the set-up of logging, whose filter can be changed while we run.

mod lines;

use std::fmt;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use tracing::field::display;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, Registry, reload};

use self::lines::Lines;
pub(crate) use self::lines::{gather_lines, write_lines};
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
    /// There is no logger yet.
    #[error("logging is not set up")]
    Never,
    /// The logger is gone.
    #[error("the log filter can't be changed: {0}")]
    Gone(reload::Error),
}

/// Of this process's logger: how to replace it, and what it is, as given.
static FILTER: OnceLock<(reload::Handle<EnvFilter, Registry>, Mutex<String>)> = OnceLock::new();
static NODE: OnceLock<String> = OnceLock::new();

/// Names the node in every access line from here on.
pub fn set_node(name: &str) {
    let _ = NODE.set(name.to_owned());
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
    let text = Mutex::new(filter.to_owned());
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let terminal = match to {
        LogTo::Stdout => io::stdout().is_terminal(),
        LogTo::Stderr => io::stderr().is_terminal(),
    };
    let lines = tracing_subscriber::fmt::layer()
        // Else a reader of our log that goes away would end us by a panic.
        .log_internal_errors(false)
        .with_writer(Lines(to))
        .with_ansi(terminal);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let log = tracing_subscriber::registry().with(filter).with(lines);
    log.try_init()
        .map_err(|error| LogError::Twice(error.into()))?;
    let _ = FILTER.set((handle, text));
    Ok(())
}

/// What is logged now.
///
/// # Errors
/// [`init_logging`] was not called.
pub fn log_filter() -> Result<String, LogError> {
    let (_, text) = FILTER.get().ok_or(LogError::Never)?;
    let text = text.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(text.clone())
}

/// Changes what is logged, until the process ends.
///
/// # Errors
/// The filter does not parse, or [`init_logging`] was not called.
pub fn set_log_filter(filter: &str) -> Result<(), LogError> {
    let (handle, text) = FILTER.get().ok_or(LogError::Never)?;
    let parsed = parse(filter)?;
    let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
    handle.reload(parsed).map_err(LogError::Gone)?;
    filter.clone_into(&mut text);
    Ok(())
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(filter).map_err(|source| LogError::Filter {
        filter: filter.to_owned(),
        source,
    })
}

/// What is known of a connection. Dropping it logs the line, whatever ended the connection: target `access`, level
/// INFO after [`Access::succeed`], else WARN. Fields not known are left out.
#[derive(Debug)]
pub struct Access {
    /// The client.
    pub client: SocketAddr,
    /// Name of the client's network namespace: of a pod its `namespace/name`.
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
    /// The key-exchange group, such as `X25519MLKEM768`.
    pub group: Option<&'static str>,
    /// Whether the TLS session was resumed.
    pub resumed: Option<bool>,
    /// Whether the server's connection had served another client before.
    pub reused: Option<bool>,
    /// Plaintext bytes from the client to the Service so far.
    pub sent_bytes: u64,
    /// Plaintext bytes from the Service to the client so far.
    pub received_bytes: u64,
    /// How many lines of the same target were left out since the last: there were too many.
    pub left_out: u64,
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
            group: None,
            resumed: None,
            reused: None,
            sent_bytes: 0,
            received_bytes: 0,
            left_out: 0,
            start: Instant::now(),
            outcome: Outcome::Unfinished,
        }
    }

    /// The connection came to its proper end.
    pub fn succeed(mut self) {
        self.outcome = Outcome::Succeeded;
    }

    /// There is to be no line of the connection.
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

struct ServicePort<'a>(&'a ObjectName, u16);

impl fmt::Display for ServicePort<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0, self.1)
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        if matches!(self.outcome, Outcome::LeftOut) {
            return;
        }
        let service = self.service.as_ref();
        let service = service.map(|(name, port)| display(ServicePort(name, *port)));
        let policy = self.policy.as_ref().map(display);
        let upstream = self.upstream.map(display);
        let left_out = (self.left_out > 0).then_some(self.left_out);
        let duration_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        // The macro wants a constant level, hence one arm for each.
        macro_rules! line {
            ($level:expr, $message:literal, $reason:expr, $error:expr) => {
                tracing::event!(
                    target: "access",
                    $level,
                    node = NODE.get().map(String::as_str),
                    client = %self.client,
                    netns = self.netns.as_deref(),
                    service,
                    policy,
                    upstream,
                    sni = self.sni.as_deref(),
                    protocol = self.protocol,
                    tls_version = self.tls_version,
                    cipher = self.cipher,
                    group = self.group,
                    resumed = self.resumed,
                    reused = self.reused,
                    sent_bytes = self.sent_bytes,
                    received_bytes = self.received_bytes,
                    duration_ms,
                    left_out,
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
