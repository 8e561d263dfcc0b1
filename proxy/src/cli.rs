//! What the commands that ask an agent have in common: where it answers, and how the result looks.

use std::fmt::Display;
use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, anyhow};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ask::{Query, Unanswerable, ask};

/// Where the agent answers.
#[derive(Args, Clone, Copy, Debug)]
pub struct Admin {
    /// Where the agent answers
    #[arg(long = "admin", value_name = "ADDR", default_value = "127.0.0.1:15020")]
    pub address: SocketAddr,
}

impl Admin {
    /// What the agent says, which must be there.
    ///
    /// # Errors
    /// Nobody answers, or the agent says why it can't; with the cure.
    pub(crate) fn ask<T: DeserializeOwned>(&self, query: &Query) -> Result<T> {
        ask(self.address, query).map_err(|error| {
            if error.is::<Unanswerable>() {
                return error;
            }
            let address = self.address;
            anyhow!(
                "no agent of this version answers at {address} ({error:#}): run this on the agent's node (in a cluster: \
                 in its pod, or as `kubectl nodetls`), and give the agent's own --admin if it has another; `nodetls \
                 status` tells what runs"
            )
        })
    }
}

/// How the result looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Text,
    /// One JSON document
    Json,
}

impl Output {
    /// Prints a report to standard output, rendered by `text` for people.
    ///
    /// # Errors
    /// Standard output can't be written.
    pub(crate) fn print<T: Serialize>(self, report: &T, text: impl Fn(&T) -> String) -> Result<()> {
        print(&match self {
            Self::Text => text(report),
            Self::Json => serde_json::to_string_pretty(report)? + "\n",
        })
    }
}

/// Writes to standard output.
///
/// # Errors
/// It can't be written.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("standard output")
}

/// What a cell shows of what may be unknown.
pub(crate) fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
