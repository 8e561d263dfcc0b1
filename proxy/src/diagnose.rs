//! `nodetls diagnose`: what somebody needs who is to find out from afar what is wrong with a node. No secrets: neither the
//! agent tells any, nor is anything read that holds some; and what looks like a key or a token is taken out all the same.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use jiff::Timestamp;

use crate::ask::{Query, get};
use crate::cli::{Admin, Output, print};
use crate::status;

/// Bytes of a log's end that are kept.
const LOG: i64 = 1 << 20;
/// What the kernel is set to.
const SETTINGS: [&str; 6] = [
    "/proc/version",
    "/proc/sys/kernel/unprivileged_bpf_disabled",
    "/proc/sys/net/core/bpf_jit_enable",
    "/proc/sys/net/ipv6/conf/all/disable_ipv6",
    "/proc/loadavg",
    "/proc/meminfo",
];

/// The files of a bundle: their names, relative, and what is in them.
pub type Bundle = BTreeMap<String, String>;

/// Collects what a bug report needs, without secrets.
///
/// Versions, kernel, status, policies as they are seen, open connections, metrics, pins, the agent's command line and the
/// end of its log, a file for each. There are names of pods, Services and hosts in it: look through it before you send it.
///
/// Examples:
///   nodetls diagnose
///   journalctl -u nodetls > /tmp/log; nodetls diagnose --log /tmp/log report
///   nodetls diagnose --output json > report.json
#[derive(Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Directory to make, with a file for each [default: nodetls-diagnose-TIME]
    #[arg(value_name = "DIR", conflicts_with = "output")]
    pub dir: Option<PathBuf>,
    /// The agent's log, of which the last MiB is taken in
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "the type says it")]
    pub admin: Admin,
    /// Directory of pins
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/nodetls")]
    pub pins: PathBuf,
    /// How the result looks: files, or one JSON object of them on standard output
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Writes the bundle, or prints it as one JSON object.
///
/// # Errors
/// The directory can't be made, or is there already.
pub fn run(options: &Options) -> Result<ExitCode> {
    let bundle = collect(options);
    match options.output {
        Output::Json => print(&(serde_json::to_string_pretty(&bundle)? + "\n"))?,
        Output::Text => write(options.dir.as_deref(), &bundle)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a bundle into a new directory, and tells which files it has.
///
/// # Errors
/// The directory can't be made, or is there already.
pub(crate) fn write(dir: Option<&Path>, bundle: &Bundle) -> Result<()> {
    let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let dir = dir.map_or_else(
        || PathBuf::from(format!("nodetls-diagnose-{now}")),
        Path::to_owned,
    );
    let failed = || {
        format!(
            "{} can't be written: name a directory that is not there yet",
            dir.display()
        )
    };
    fs::create_dir(&dir).with_context(failed)?;
    for (name, text) in bundle {
        let path = dir.join(name);
        let parent = path.parent().unwrap_or(&dir);
        fs::create_dir_all(parent).with_context(failed)?;
        fs::write(&path, text).with_context(failed)?;
        print(&format!("{}\n", path.display()))?;
    }
    Ok(())
}

fn collect(options: &Options) -> Bundle {
    let admin = options.admin.address;
    let page = |path| get(admin, &Query::new(path));
    let files: [(&str, Result<String>); 10] = [
        ("about.txt", Ok(about())),
        (
            "status.json",
            status::report(admin, &options.pins)
                .and_then(|status| Ok(serde_json::to_string_pretty(&status)?)),
        ),
        ("ready.txt", page("/healthz/ready")),
        ("policies.json", page("/policies")),
        ("connections.json", page("/connections")),
        ("metrics.txt", page("/metrics")),
        ("kernel.txt", Ok(kernel())),
        ("pins.txt", Ok(pins(&options.pins))),
        ("processes.txt", processes()),
        ("log.txt", log(options.log.as_deref())),
    ];
    let told = |result: Result<String>| match result {
        Ok(text) => without_secrets(&text),
        Err(error) => format!("not to be had: {error:#}\n"),
    };
    let files = files.into_iter();
    files
        .map(|(name, text)| (name.to_owned(), told(text)))
        .collect()
}

fn about() -> String {
    let (version, machine, now) = (
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        Timestamp::now(),
    );
    format!("nodetls {version}\nmachine {machine}\ntime {now}\n")
}

fn kernel() -> String {
    let mut text = String::new();
    for path in SETTINGS {
        let value = fs::read_to_string(path).unwrap_or_else(|error| format!("{error}\n"));
        text.push_str(&format!("{path}\n{value}"));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let ours = |line: &&str| {
        [" - bpf ", " - cgroup"]
            .iter()
            .any(|kind| line.contains(kind))
    };
    text.push_str("mounts\n");
    for line in mounts.lines().filter(ours) {
        text.push_str(&format!("{line}\n"));
    }
    text
}

/// All that is below, one a line.
fn pins(base: &Path) -> String {
    let (mut text, mut unread) = (String::new(), vec![base.to_owned()]);
    while let Some(path) = unread.pop() {
        text.push_str(&format!("{}\n", path.display()));
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        if is_dir && let Ok(entries) = fs::read_dir(&path) {
            unread.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    text
}

/// The agents that run, as far as they can be seen: their flags hold no secrets.
fn processes() -> Result<String> {
    let mut text = String::new();
    for process in fs::read_dir("/proc")?.flatten() {
        let path = process.path();
        let Ok(command) = fs::read_to_string(path.join("cmdline")) else {
            continue;
        };
        let words: Vec<&str> = command.trim_end_matches('\0').split('\0').collect();
        let ours = words[0].rsplit('/').next() == Some("nodetls");
        if !ours || !matches!(words.get(1), Some(&("agent" | "controller"))) {
            continue;
        }
        text.push_str(&format!("{}: {}\n", path.display(), words.join(" ")));
        for file in ["status", "limits", "cgroup"] {
            let about = fs::read_to_string(path.join(file)).unwrap_or_default();
            text.push_str(&format!("{file}\n{about}"));
        }
    }
    Ok(text)
}

fn log(path: Option<&Path>) -> Result<String> {
    let path = path.context("name it with --log")?;
    let mut file = fs::File::open(path).with_context(|| path.display().to_string())?;
    let length = i64::try_from(file.metadata()?.len()).unwrap_or(i64::MAX);
    file.seek(SeekFrom::End(-length.min(LOG)))?;
    let mut end = Vec::new();
    file.take(LOG.unsigned_abs()).read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

/// The text without PEM blocks but certificates, and without what looks like a JWT.
pub(crate) fn without_secrets(text: &str) -> String {
    const BEGIN: &str = "-----BEGIN ";
    let (mut kept, mut rest) = (String::new(), text);
    while let Some(start) = rest.find(BEGIN) {
        let (before, block) = rest.split_at(start);
        kept.push_str(before);
        let label = &block[BEGIN.len()..];
        let label = label.split("-----").next().unwrap_or_default();
        let end = format!("-----END {label}-----");
        let length = block.find(&end).map_or(block.len(), |at| at + end.len());
        match label {
            "CERTIFICATE" => kept.push_str(&block[..length]),
            _ => kept.push_str("(taken out)"),
        }
        rest = &block[length..];
    }
    kept.push_str(rest);
    // RFC 7519: base64url of `{"`, and three parts.
    let is_token = |word: &str| word.starts_with("eyJ") && word.matches('.').count() == 2;
    let part_of_token = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let words = kept.split_inclusive(|c| !part_of_token(c));
    words
        .map(|piece| {
            let word = piece.trim_end_matches(|c| !part_of_token(c));
            match is_token(word) {
                true => piece.replacen(word, "(taken out)", 1),
                false => piece.to_owned(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_tokens_are_taken_out_and_certificates_stay() {
        let certificate = "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n";
        for label in [
            "PRIVATE KEY",
            "EC PRIVATE KEY",
            "RSA PRIVATE KEY",
            "OPENSSH PRIVATE KEY",
        ] {
            let key = format!("-----BEGIN {label}-----\nc2VjcmV0\n-----END {label}-----");
            let text = format!("a {certificate}{key} b {key}");
            let kept = without_secrets(&text);
            assert_eq!(kept, format!("a {certificate}(taken out) b (taken out)"));
            let cut = without_secrets(&key[..key.len() - 4]);
            assert_eq!(cut, "(taken out)");
            let escaped = without_secrets(&key.replace('\n', "\\n"));
            assert_eq!(escaped, "(taken out)");
        }
        let token = "token=eyJhbGci.eyJpc3Mi.c2ln, eyJ alone\n";
        assert_eq!(without_secrets(token), "token=(taken out), eyJ alone\n");
        assert_eq!(without_secrets("nothing\n\n"), "nothing\n\n");
    }
}
