//! bench-load, our own program: what no package does.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Source;
use crate::bench::rig::release_build;
use crate::bench::scenario::Measured;
use crate::demo::world::Netns;
use crate::sh;

/// How long a proxy and its idle connections are left alone before memory is read.
const REST: Duration = Duration::from_secs(2);

/// Measures from when all is set up.
pub(super) fn run(source: &Source, args: &[String]) -> Result<Measured> {
    let mut load = Load::start(source.client, args)?;
    load.expect("ready")?;
    let before = source.proxy.cpu()?;
    writeln!(load.to)?;
    let mut measured = parse_own(&load.line()?)?;
    let after = source.proxy.cpu()?;
    measured.cpu_time = before.zip(after).map(|(before, after)| after - before);
    load.finish()?;
    Ok(measured)
}

/// bench-load, and the pipes to it.
pub(in crate::bench) struct Load {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Load {
    pub(in crate::bench) fn start(client: &Netns, args: &[String]) -> Result<Self> {
        let mut load = command(client)?;
        load.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = load.spawn().with_context(|| sh::line(&load))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (to, from) = pipes.context("no pipes")?;
        let from = BufReader::new(from);
        Ok(Self { child, to, from })
    }

    /// Waits for this line.
    pub(in crate::bench) fn expect(&mut self, line: &str) -> Result<()> {
        let said = self.line()?;
        if said.trim() != line {
            bail!("bench-load says \"{}\", not \"{line}\"", said.trim());
        }
        Ok(())
    }

    /// Its next line; empty when it has failed.
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        Ok(line)
    }

    /// Closes its standard input, and waits for its end.
    pub(in crate::bench) fn finish(self) -> Result<()> {
        let Self { mut child, to, .. } = self;
        drop(to);
        let status = child.wait()?;
        if !status.success() {
            bail!("bench-load: {status}");
        }
        Ok(())
    }
}

/// Reads its line of JSON.
pub(in crate::bench) fn parse_own(line: &str) -> Result<Measured> {
    let told: Value = serde_json::from_str(line).context("bench-load's report")?;
    let number = |name: &str| {
        let number = told.get(name).and_then(Value::as_f64);
        number.with_context(|| format!("bench-load's report has no `{name}`: {line}"))
    };
    let work = number("done")?;
    Ok(Measured {
        rate: Some(work / number("seconds")?),
        latency: Some((number("p50")?, number("p99")?)),
        work,
        ..Measured::default()
    })
}

/// Reads the memory of a proxy at rest, opens `count` connections, leaves them alone for a while, and reads it again.
pub(super) fn hold(source: &Source, args: &[String], count: usize) -> Result<Measured> {
    sleep(REST);
    let before = source.proxy.memory()?;
    let mut load = Load::start(source.client, args)?;
    load.expect(&count.to_string())?;
    sleep(REST);
    let idle = source.proxy.memory()?;
    load.finish()?; // it looks whether all are still good
    let added = |(before, idle): (f64, f64)| (idle - before) * 1024.0 / count as f64;
    Ok(Measured {
        work: count as f64,
        memory: idle,
        per_connection: before.zip(idle).map(added),
        ..Measured::default()
    })
}

/// What the echo at `address` says of its TLS.
pub(in crate::bench) fn tls_of_echo(client: &Netns, address: &str) -> Result<String> {
    sh::output(command(client)?.args(["tls", address]))
}

/// Nanoseconds that connect(2) takes: to `unreachable`, and to a listener of the netns' own, with accept(2) and close(2).
pub(in crate::bench) fn connects(
    client: &Netns,
    unreachable: &str,
    duration: Duration,
) -> Result<(f64, f64)> {
    let seconds = duration.as_secs().to_string();
    let args = ["connects", unreachable, "--seconds", &seconds];
    let told: Value = serde_json::from_str(&sh::output(command(client)?.args(args))?)?;
    let number = |name: &str| told.get(name).and_then(Value::as_f64).context("no figure");
    Ok((number("unreachable_ns")?, number("loopback_ns")?))
}

fn command(client: &Netns) -> Result<Command> {
    Ok(client.command(release_build("bench-load")?, ""))
}
