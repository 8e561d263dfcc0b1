//! Two network namespaces, the server in one, the client in the other, the agent beside them.
//! Each part cleans up when it is dropped, in the order of `World`'s fields.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::MARKER;
use super::certs::Authority;
use super::process::Process;
use crate::sh;

/// As in `examples/envoy-gateway/`.
pub(crate) const CLUSTER_IP: &str = "10.96.0.10";
pub(crate) const BACKEND_IP: &str = "10.99.0.2";
pub(crate) const HOSTNAME: &str = "www.example.com";
const CLIENT_IP: &str = "10.99.0.1";

pub(crate) struct World {
    agent: Option<Process>,
    server: Option<Process>,
    pub(crate) client: Netns,
    pub(crate) backend: Netns,
    pins: Pins,
    admin: SocketAddr,
    dir: TempDir,
}

impl World {
    /// The namespaces and their addresses, with the task's name in theirs; nothing runs yet.
    pub(crate) fn new(task: &str) -> Result<Self> {
        let id = std::process::id();
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let world = Self {
            agent: None,
            server: None,
            client: Netns::new(format!("nodetls-{task}-client-{id}"))?,
            backend: Netns::new(format!("nodetls-{task}-backend-{id}"))?,
            pins: Pins(format!("/sys/fs/bpf/nodetls-{task}-{id}").into()),
            admin: free.local_addr()?,
            dir: TempDir::with_prefix(format!("nodetls-{task}-"))?,
        };
        let (client, backend) = (&world.client, &world.backend);
        let pair = format!("link add eth0 type veth peer eth0 netns {}", backend.0);
        sh::output(&mut client.ip(&pair))?;
        for (netns, address) in [(client, CLIENT_IP), (backend, BACKEND_IP)] {
            sh::output(&mut netns.ip(&format!("address add {address}/24 dev eth0")))?;
            sh::output(&mut netns.ip("link set lo up"))?;
            sh::output(&mut netns.ip("link set eth0 up"))?;
        }
        // In place of kube-proxy: the backend itself has the ClusterIP.
        sh::output(&mut backend.ip(&format!("address add {CLUSTER_IP}/32 dev lo")))?;
        sh::output(&mut client.ip(&format!("route add {CLUSTER_IP} via {BACKEND_IP}")))?;

        fs::create_dir(world.manifests())?;
        world.copy_example("service.yaml")?;
        world.add_policy()?;
        Ok(world)
    }

    /// Where certificates, logs and the capture go.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.dir().join("manifests")
    }

    pub(super) fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Starts tls-echo in the backend, with a certificate of `authority`.
    pub(super) fn start_server(&mut self, authority: &Authority) -> Result<()> {
        let (certificate, key) = authority.issue(HOSTNAME)?;
        let mut server = self
            .backend
            .command(built("tls-echo")?, "--listen 0.0.0.0:8443 0.0.0.0:443");
        server.arg("--cert").arg(certificate).arg("--key").arg(key);
        let server = self
            .server
            .insert(Process::start("tls-echo", &mut server, self.dir.path())?);
        server.wait_for_line(":443")
    }

    /// Starts the agent, `nodetls agent` without options, and waits until it is ready; returns its command line.
    pub(crate) fn start_agent(&mut self, mut agent: Command) -> Result<String> {
        agent.arg("--manifests").arg(self.manifests());
        agent.args([
            "--netns",
            &self.client.0,
            "--admin",
            &self.admin.to_string(),
        ]);
        agent.arg("--pins").arg(&self.pins.0);
        let line = sh::line(&agent);
        let agent = self
            .agent
            .insert(Process::start("agent", &mut agent, self.dir.path())?);
        let admin = self.admin;
        agent.wait_until(|_| {
            Ok(get(admin, "/healthz/ready").is_ok_and(|reply| reply.status == 200))
        })?;
        Ok(line)
    }

    /// Ends the agent, if there is one, and removes what it has pinned: the programs end too.
    pub(crate) fn stop_agent(&mut self) {
        self.agent = None;
        self.pins.remove();
    }

    /// The agent's, once it was started.
    pub(crate) fn agent_pid(&self) -> Option<u32> {
        self.agent.as_ref().map(Process::pid)
    }

    /// The client's command, as a person would type it.
    pub(super) fn curl(&self) -> Command {
        let mut curl = self.client.command("curl", "--header");
        curl.arg(MARKER).arg(format!("http://{CLUSTER_IP}:443/get"));
        curl
    }

    /// Runs the client; status 0 when it got no answer.
    pub(super) fn request(&self) -> Result<Reply> {
        let mut curl = self.curl();
        curl.args([
            "--silent",
            "--noproxy",
            "*",
            "--max-time",
            "5",
            "--write-out",
            "\n%{http_code}",
        ]);
        let output = curl.output()?; // curl's own failures are status 000
        crate::interrupt::check()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let (body, status) = text.rsplit_once('\n').unwrap_or_default();
        Ok(Reply {
            status: status.parse().unwrap_or(0),
            body: body.to_owned(),
        })
    }

    /// Asks the agent's admin address.
    pub(super) fn admin(&self, path: &str) -> Result<Reply> {
        get(self.admin, path)
    }

    /// The agent's first log line with `text`.
    pub(super) fn agent_log_line(&self, text: &str) -> Result<Option<String>> {
        self.agent
            .as_ref()
            .map_or(Ok(None), |agent| agent.line_with(text))
    }

    /// Makes `authority` the CA of the ConfigMap.
    pub(crate) fn trust(&self, authority: &Authority) -> Result<()> {
        write_ca(authority, &self.manifests())
    }

    pub(super) fn remove_policy(&self) -> Result<()> {
        Ok(fs::remove_file(self.manifests().join("policy.yaml"))?)
    }

    pub(super) fn add_policy(&self) -> Result<()> {
        self.copy_example("policy.yaml")
    }

    fn copy_example(&self, file: &str) -> Result<()> {
        let example = example(file);
        fs::copy(&example, self.manifests().join(file))
            .with_context(|| example.display().to_string())?;
        Ok(())
    }

    /// Gives up cleaning; returns the shell commands that do it.
    pub(super) fn leave(self) -> String {
        let processes = [&self.agent, &self.server].into_iter().flatten();
        let pids: String = processes
            .map(|process| format!(" {}", process.pid()))
            .collect();
        let end = format!(
            "kill{pids}; ip netns del {}; ip netns del {}; rm -r {} {}",
            self.client.0,
            self.backend.0,
            self.pins.0.display(),
            self.dir().display()
        );
        std::mem::forget(self);
        end
    }
}

/// A file of the example that is shown.
pub(super) fn example(file: &str) -> PathBuf {
    sh::top().join("examples/envoy-gateway").join(file)
}

/// Writes the example's ConfigMap with the CA, in one step, as a mounted ConfigMap changes.
pub(super) fn write_ca(authority: &Authority, manifests: &Path) -> Result<()> {
    let data: String = authority
        .pem()?
        .lines()
        .map(|line| format!("    {line}\n"))
        .collect();
    let text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: example-ca\n  \
         namespace: default\ndata:\n  ca.crt: |\n{data}"
    );
    let new = manifests.join(".example-ca.yaml");
    fs::write(&new, text)?;
    Ok(fs::rename(new, manifests.join("example-ca.yaml"))?)
}

/// A named network namespace.
pub(crate) struct Netns(String);

impl Netns {
    /// Makes it, empty.
    pub(crate) fn new(name: String) -> Result<Self> {
        sh::output(sh::command("ip", "netns add").arg(&name))?;
        Ok(Self(name))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// `program`, to be run in the namespace.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>, args: &str) -> Command {
        let mut command = sh::command("ip", "netns exec");
        command
            .arg(&self.0)
            .arg(program)
            .args(args.split_whitespace());
        command
    }

    /// An `ip` command about the namespace.
    pub(crate) fn ip(&self, args: &str) -> Command {
        sh::command("ip", &format!("-netns {} {args}", self.0))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = sh::command("ip", "netns del").arg(&self.0).output();
    }
}

/// The agent's directory in bpffs; without it its programs are detached.
struct Pins(PathBuf);

impl Pins {
    fn remove(&self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        self.remove();
    }
}

/// An HTTP answer.
#[derive(Default)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: String,
}

fn get(address: SocketAddr, path: &str) -> Result<Reply> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("not an HTTP answer")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok(Reply {
        status: status.unwrap_or(0),
        body: body.to_owned(),
    })
}

/// A program of this workspace: cargo puts it beside this one.
pub(crate) fn built(program: &str) -> Result<PathBuf> {
    Ok(env::current_exe()?.with_file_name(program))
}
