//! Asks the agent: one GET of its admin address, bounded in time and size.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};
use form_urlencoded::Serializer;
use serde::de::DeserializeOwned;

/// To connect.
const CONNECT: Duration = Duration::from_secs(5);
/// A full map of targets takes half of it.
const MAX_BYTES: u64 = 64 << 20;

/// A page of the admin address, and how long it may take.
pub(crate) struct Query {
    path: &'static str,
    parameters: Vec<(&'static str, String)>,
    patience: Duration,
}

impl Query {
    /// A page that takes no longer than reading memory does.
    pub(crate) fn new(path: &'static str) -> Self {
        Self {
            path,
            parameters: Vec::new(),
            patience: Duration::from_secs(5),
        }
    }

    /// With a parameter; `None` is left out.
    pub(crate) fn with(mut self, name: &'static str, value: Option<&str>) -> Self {
        let value = value.map(|value| (name, value.to_owned()));
        self.parameters.extend(value);
        self
    }

    /// One that may take longer.
    pub(crate) fn within(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    fn target(&self) -> String {
        if self.parameters.is_empty() {
            return self.path.to_owned();
        }
        let mut encoded = Serializer::new(String::new());
        format!(
            "{}?{}",
            self.path,
            encoded.extend_pairs(&self.parameters).finish()
        )
    }
}

/// The agent can't say; Display is why, with the cure.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unanswerable(pub(crate) String);

/// A [`Query`]'s parameters, as the agent reads them.
pub(crate) struct Parameters(HashMap<String, String>);

impl Parameters {
    /// Of a URL's query.
    pub(crate) fn of(query: Option<&str>) -> Self {
        let query = query.unwrap_or_default().as_bytes();
        Self(form_urlencoded::parse(query).into_owned().collect())
    }

    /// A parameter, if it is given.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A parameter that must be given.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn required(&self, name: &str) -> Result<&str, Unanswerable> {
        let missing = || Unanswerable(format!("the parameter {name} is missing: give it"));
        self.get(name).ok_or_else(missing)
    }
}

/// What the agent at `admin` says.
///
/// # Errors
/// Nobody answers there, or not as an agent of this version; [`Unanswerable`] when it can't say.
pub(crate) fn ask<T: DeserializeOwned>(admin: SocketAddr, query: &Query) -> Result<T> {
    serde_json::from_str(&get(admin, query)?).context("it is no agent of this version")
}

/// The same as text.
///
/// # Errors
/// As [`ask`].
pub(crate) fn get(admin: SocketAddr, query: &Query) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, CONNECT)?;
    stream.set_read_timeout(Some(query.patience))?;
    stream.set_write_timeout(Some(CONNECT))?;
    write!(
        stream,
        "GET {} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n",
        query.target(),
    )?;
    let mut answer = String::new();
    stream.take(MAX_BYTES).read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer is not HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    let code = status.strip_prefix("HTTP/1.1 ").unwrap_or_default();
    let first = body.lines().next().unwrap_or_default();
    match code.get(..3) {
        Some("200") => Ok(body.to_owned()),
        Some("422") => Err(Unanswerable(first.to_owned()).into()),
        _ => anyhow::bail!("it answered {status:?} {first:?}"),
    }
}
