//! What connect(2) costs.

use std::io::Result as IoResult;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::io::Errno;
use serde_json::json;
use socket2::{Domain, SockRef, Socket, Type};

/// Connects in one batch; each kind's figure is that of its median batch.
const BATCH: u32 = 1000;

/// Batches of both kinds take turns for `duration`.
pub(crate) fn run(unreachable: SocketAddr, duration: Duration) -> Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let target = listener.local_addr()?;
    let (mut failing, mut whole) = (Vec::new(), Vec::new());
    let end = Instant::now() + duration;
    while Instant::now() < end {
        failing.push(batch(|| match socket.connect(&unreachable.into()) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::HOSTUNREACH) => Ok(()),
            other => bail!("connect to {unreachable}: {other:?}, not EHOSTUNREACH"),
        })?);
        whole.push(batch(|| Ok(whole_connection(&listener, target)?))?);
    }
    println!(
        "{}",
        json!({"unreachable_ns": median(failing), "loopback_ns": median(whole)})
    );
    Ok(())
}

/// Connects, accepts, and closes both ends by RST: no port is left in TIME_WAIT.
fn whole_connection(listener: &TcpListener, target: SocketAddr) -> IoResult<()> {
    let client = TcpStream::connect(target)?;
    let (server, _) = listener.accept()?;
    SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    drop(client);
    drop(server);
    Ok(())
}

/// Nanoseconds of each.
fn batch(mut connect: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..BATCH {
        connect()?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(BATCH))
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}
