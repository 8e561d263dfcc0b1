//! Asks the agent: one GET, bounded in time and size.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::report::Status;

/// To connect, and for each read.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A full map of targets takes half of it.
const MAX_BYTES: u64 = 64 << 20;

/// What the agent at `admin` says.
///
/// # Errors
/// When nobody answers there, or not as an agent of this version.
pub(super) fn fetch(admin: SocketAddr) -> Result<Status> {
    let mut stream = TcpStream::connect_timeout(&admin, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "GET /status HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(MAX_BYTES).read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer is not HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200 ") {
        let first = body.lines().next().unwrap_or_default();
        bail!("it answered {status:?} {first:?}");
    }
    serde_json::from_str(body).context("it is no agent of this version")
}
