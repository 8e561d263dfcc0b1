//! curl: large files.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use super::Source;
use crate::bench::scenario::{LARGE, Measured};
use crate::sh;

/// Files of [`LARGE`] in one measurement.
pub(in crate::bench) const TRANSFERS: u64 = 10;
const GIB: f64 = (1_u64 << 30) as f64;

pub(super) fn download(source: &Source, http: &str) -> Result<Measured> {
    let mut curl = curl(source, "%{http_code} %{size_download}\n");
    curl.args(["--output", "/dev/null"]);
    curl.arg(format!("{http}/100m?[1-{TRANSFERS}]"));
    measure(&mut curl, &format!("200 {LARGE}\n"))
}

pub(super) fn upload(source: &Source, http: &str) -> Result<Measured> {
    let mut curl = curl(source, " %{http_code} %{size_upload}\n");
    // Without Expect: 100-continue, which is for the server to answer.
    curl.args(["--header", "Expect:", "--upload-file"]);
    curl.arg(source.dir.join("www/100m"));
    curl.arg(format!("{http}/upload?[1-{TRANSFERS}]"));
    // The server tells how much it has read.
    measure(&mut curl, &format!("{LARGE} 200 {LARGE}\n"))
}

fn curl(source: &Source, write_out: &str) -> Command {
    let fixed =
        "--silent --show-error --fail-early --fail --insecure --http1.1 --noproxy * --max-time 300";
    let mut curl = source.client.command("curl", fixed);
    curl.args(["--write-out", write_out]);
    curl
}

fn measure(curl: &mut Command, expected: &str) -> Result<Measured> {
    let start = Instant::now();
    let answers = sh::output(curl)?;
    let seconds = start.elapsed().as_secs_f64();
    if answers != expected.repeat(TRANSFERS as usize) {
        bail!("transfers failed; status and bytes of each:\n{answers}");
    }
    let bytes = (TRANSFERS * LARGE) as f64;
    Ok(Measured {
        rate: Some(bytes * 8.0 / 1e9 / seconds),
        work: bytes / GIB,
        ..Measured::default()
    })
}
