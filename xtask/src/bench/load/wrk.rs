//! wrk: HTTP/1.

use anyhow::{Context, Result, bail};

use super::Source;
use crate::bench::scenario::Measured;
use crate::sh;

pub(super) fn run(source: &Source, http: &str) -> Result<Measured> {
    let fixed = format!("-t1 -c64 -d{}s --latency", source.duration.as_secs());
    let mut wrk = source.client.command("wrk", &fixed);
    parse_wrk(&sh::output(wrk.arg(format!("{http}/1k")))?)
}

/// Reads wrk's report, whose latencies count from a request's first byte; an error where it tells of failed requests.
pub(in crate::bench) fn parse_wrk(report: &str) -> Result<Measured> {
    let failures = ["Socket errors:", "Non-2xx or 3xx responses:"];
    let failed = |line: &&str| failures.iter().any(|failure| line.contains(failure));
    if let Some(line) = report.lines().find(failed) {
        bail!("requests failed; wrk says \"{}\"", line.trim());
    }
    let value = |label: &str| {
        let line = report
            .lines()
            .find_map(|line| line.trim().strip_prefix(label));
        line.with_context(|| format!("wrk's report has no `{label}`:\n{report}"))
    };
    let millis = |label| {
        let text = value(label)?.trim();
        parse_millis(text).with_context(|| format!("wrk says `{label} {text}`"))
    };
    let count = report
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "));
    let (count, _) = count.context("wrk's report has no number of requests")?;
    let work: f64 = count.parse()?;
    if work < 1.0 {
        bail!("not one request was answered");
    }
    Ok(Measured {
        rate: Some(value("Requests/sec:")?.trim().parse()?),
        latency: Some((millis("50%")?, millis("99%")?)),
        work,
        ..Measured::default()
    })
}

/// A duration as wrk prints it: `83.00us`, `1.20ms`, `2.01s`, `1.00m`.
pub(in crate::bench) fn parse_millis(text: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 6e7)];
    let (number, micros) = units
        .iter()
        .find_map(|(unit, micros)| Some((text.strip_suffix(unit)?, micros)))?;
    Some(number.parse::<f64>().ok()? * micros / 1e3)
}
