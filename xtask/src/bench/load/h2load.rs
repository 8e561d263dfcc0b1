//! h2load: gRPC, as far as its HTTP/2 goes.

use std::fs;

use anyhow::{Context, Result, bail};

use super::Source;
use crate::bench::scenario::{Measured, SMALL};
use crate::sh;

/// Calls for `source.duration`; `shape` is how many connections, and calls at a time on each.
pub(super) fn run(source: &Source, http: &str, shape: &str) -> Result<Measured> {
    // A gRPC message: not compressed, and its length (gRPC over HTTP2, PROTOCOL-HTTP2.md).
    let mut message = vec![0];
    message.extend((SMALL as u32).to_be_bytes());
    message.extend([b'x'; SMALL]);
    let (body, log) = (source.dir.join("message"), source.dir.join("h2load.log"));
    fs::write(&body, message)?;
    let _ = fs::remove_file(&log); // it is appended to
    let fixed = format!("-t1 {shape} -D{}", source.duration.as_secs());
    let mut h2load = source.client.command("h2load", &fixed);
    h2load.arg("--log-file").arg(&log).arg("--data").arg(&body);
    for field in ["content-type: application/grpc", "te: trailers"] {
        h2load.args(["--header", field]);
    }
    h2load.arg(format!("{http}/bench.Bench/Call"));
    let report = sh::output(&mut h2load)?;
    let log = fs::read_to_string(&log).with_context(|| log.display().to_string())?;
    parse_h2load(&report, &log)
}

/// Reads h2load's report, and its log: a line for each answer, with start, status and microseconds.
pub(in crate::bench) fn parse_h2load(report: &str, log: &str) -> Result<Measured> {
    let told = |end: &str| {
        let word = |line: &str| Some(line.split(end).next()?.rsplit(' ').next()?.to_owned());
        let line = report.lines().find(|line| line.contains(end));
        line.and_then(word)
            .with_context(|| format!("h2load's report has no `{end}`:\n{report}"))
    };
    for failure in [" failed", " errored", " timeout"] {
        let count = told(failure)?;
        if count != "0" {
            bail!("{count} calls{failure}; h2load says:\n{report}");
        }
    }
    let mut micros = Vec::new();
    for line in log.lines() {
        let mut columns = line.split('\t').skip(1);
        let (status, took) = (columns.next(), columns.next());
        let took = took.with_context(|| format!("h2load logs \"{line}\""))?;
        if status != Some("200") {
            bail!("a call failed; h2load logs \"{line}\"");
        }
        micros.push(took.parse::<u64>()?);
    }
    micros.sort_unstable();
    let last = micros.len().checked_sub(1);
    let last = last.with_context(|| format!("not one call was answered:\n{report}"))?;
    let millis = |percent: usize| micros[last * percent / 100] as f64 / 1e3;
    Ok(Measured {
        rate: Some(told(" req/s")?.parse()?),
        latency: Some((millis(50), millis(99))),
        work: told(" succeeded")?.parse()?,
        ..Measured::default()
    })
}
