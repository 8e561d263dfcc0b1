//! One command with its TLS ensured, against a TLS server on loopback: no agent, no network namespace.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tempfile::TempDir;

use super::certs::{Authority, RSA};
use super::process::Process;
use super::world::{BACKEND_IP, CLUSTER_IP, HOSTNAME, built, example, write_ca};
use super::{prepare, tls_member};
use crate::{interrupt, sh};

/// Builds what it needs, shows it, cleans up.
///
/// # Errors
/// Something could not be set up, or a claim failed.
pub(crate) fn run() -> Result<()> {
    prepare()?;
    let start = Instant::now();
    let dir = TempDir::with_prefix("nodetls-demo-")?;
    let authority = Authority::new(dir.path(), "ca", RSA)?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port();
    write_examples(dir.path(), &authority, port)?;

    println!("\n1. A server that speaks TLS only, on loopback");
    let _server = start_server(dir.path(), &authority, port)?;
    println!("   tls-echo, 127.0.0.1:{port}: the endpoint of {CLUSTER_IP}:443");

    println!("\n2. A plain client, its TLS ensured");
    let url = format!("http://{CLUSTER_IP}:443/get");
    let output = exec(dir.path(), &["curl", "-s", &url])?.output()?;
    let answer = String::from_utf8_lossy(&output.stdout);
    println!("   the server saw:\n   {}", tls_member(&answer));
    let seen = answer.contains(&format!("\"serverName\": \"{HOSTNAME}\""));
    claim(
        output.status.success() && seen,
        "the server saw TLS, for the policy's hostname",
    )?;

    println!("\n3. Everything else is the command's own");
    let status = exec(dir.path(), &["sh", "-c", "exit 7"])?.status()?;
    claim(status.code() == Some(7), "its exit code too")?;
    let gone = interrupt::poll(Duration::from_secs(5), || {
        Ok((!proxies_of(dir.path())?).then_some(()))
    })?;
    claim(gone.is_some(), "and the proxy ended with it")?;
    println!(
        "\nAll of it held, in {:.1} s.",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn claim(holds: bool, text: &str) -> Result<()> {
    println!("   {} {text}", if holds { '✓' } else { '✗' });
    if !holds {
        bail!("a claim of the demo failed");
    }
    Ok(())
}

/// `examples/envoy-gateway` with the server's CA and address.
fn write_examples(dir: &Path, authority: &Authority, port: u16) -> Result<()> {
    let examples = dir.join("examples");
    fs::create_dir(&examples)?;
    let service = fs::read_to_string(example("service.yaml"))?
        .replace(BACKEND_IP, "127.0.0.1")
        .replace("8443", &port.to_string());
    fs::write(examples.join("service.yaml"), service)?;
    fs::copy(example("policy.yaml"), examples.join("policy.yaml"))?;
    write_ca(authority, &examples)
}

fn start_server(dir: &Path, authority: &Authority, port: u16) -> Result<Process> {
    let (certificate, key) = authority.issue(HOSTNAME)?;
    let mut server = sh::command(built("tls-echo")?, &format!("--listen 127.0.0.1:{port}"));
    server.arg("--cert").arg(certificate).arg("--key").arg(key);
    let mut server = Process::start("tls-echo", &mut server, dir)?;
    server.wait_for_line(&format!(":{port}"))?;
    Ok(server)
}

/// `nodetls exec`, shown as a person would type it.
fn exec(dir: &Path, command: &[&str]) -> Result<Command> {
    let mut exec = Command::new(built("nodetls")?);
    exec.args(["exec", "--manifests", "examples", "--"])
        .args(command);
    println!("   $ {}", sh::line(&exec));
    exec.current_dir(dir);
    for proxy in ["http_proxy", "all_proxy", "ALL_PROXY"] {
        exec.env_remove(proxy);
    }
    Ok(exec)
}

/// Whether a proxy of a command that was started in `dir` runs.
fn proxies_of(dir: &Path) -> Result<bool> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let process = entry.path();
        let here = fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == dir);
        let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
        if here && arguments.starts_with(b"nodetls\0exec\0--stage\0proxy\0") {
            return Ok(true);
        }
    }
    Ok(false)
}
