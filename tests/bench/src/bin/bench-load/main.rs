//! Load that `cargo xtask bench` has no package for. Prints `ready` when it is set up, begins when it is sent a line,
//! and prints what came of it as one line of JSON.

mod client;
mod connects;
mod load;
mod pace;
mod tally;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use client::{Client, Talk};

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    load: Load,
}

#[derive(Subcommand)]
enum Load {
    /// Each connection sends its next message when the last is answered
    Exchange {
        #[command(flatten)]
        to: To,
        #[arg(long)]
        connections: usize,
        /// A connection for each message
        #[arg(long)]
        new: bool,
        #[arg(long)]
        seconds: u64,
    },
    /// Messages at a fixed rate, whatever becomes of the earlier ones; latency counts from when each was due
    Pace {
        #[command(flatten)]
        to: To,
        #[arg(long)]
        connections: u32,
        /// Messages per second of all connections
        #[arg(long)]
        rate: u32,
        #[arg(long)]
        seconds: u64,
    },
    /// All connect at once, and exchange one message
    Storm {
        #[command(flatten)]
        to: To,
        #[arg(long)]
        connections: usize,
    },
    /// Connects that must come to nothing: answered with a status of 500 to 599, or ended
    Refused {
        #[command(flatten)]
        to: To,
        #[arg(long)]
        connections: usize,
        #[arg(long)]
        seconds: u64,
    },
    /// Each connection exchanges one message and stays open, until standard input ends
    Hold {
        #[command(flatten)]
        to: To,
        #[arg(long)]
        connections: usize,
    },
    /// What the benchmark's echo says of its TLS, as text
    Tls {
        #[command(flatten)]
        to: To,
    },
    /// What connect(2) costs: to an address without a route, and to a listener on this netns' loopback device
    Connects {
        /// Without a route
        unreachable: SocketAddr,
        #[arg(long)]
        seconds: u64,
    },
}

/// Whom to talk to, and how.
#[derive(Args)]
struct To {
    address: SocketAddr,
    /// TLS with the server of this name, verified
    #[arg(long, requires = "ca")]
    tls: Option<String>,
    /// CA certificate of that server, PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Size of a message in bytes, which is echoed
    #[arg(long, default_value_t = 1024)]
    bytes: usize,
    /// A message is a GET request of this path instead
    #[arg(long, value_name = "PATH")]
    get: Option<String>,
}

impl To {
    /// Each connection is for one message only, or not.
    fn client(self, one_message: bool) -> Result<Client> {
        let talk = match self.get {
            Some(path) => Talk::get(&path, self.address, one_message),
            None => Talk::echo(self.bytes),
        };
        Client::new(self.address, self.tls.zip(self.ca), talk)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let tally = match Options::parse().load {
        Load::Exchange {
            to,
            connections,
            new,
            seconds,
        } => {
            load::exchange(
                to.client(new)?,
                connections,
                new,
                Duration::from_secs(seconds),
            )
            .await?
        }
        Load::Pace {
            to,
            connections,
            rate,
            seconds,
        } => pace::run(
            to.client(false)?,
            connections,
            rate,
            Duration::from_secs(seconds),
        )?,
        Load::Storm { to, connections } => load::storm(to.client(true)?, connections).await?,
        Load::Refused {
            to,
            connections,
            seconds,
        } => load::refused(to.client(true)?, connections, Duration::from_secs(seconds)).await?,
        Load::Hold { to, connections } => return load::hold(to.client(false)?, connections).await,
        Load::Tls { to } => {
            println!("{}", to.client(true)?.tls().await?);
            return Ok(());
        }
        Load::Connects {
            unreachable,
            seconds,
        } => return connects::run(unreachable, Duration::from_secs(seconds)),
    };
    println!("{}", tally.report());
    Ok(())
}
