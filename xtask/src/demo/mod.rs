//! The main path on this machine, each claim checked: a plain curl, a TLS server, the wire between.

mod capture;
pub(crate) mod certs;
pub(crate) mod exec;
pub(crate) mod process;
pub(crate) mod world;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use self::capture::Capture;
use self::certs::{Authority, RSA};
use self::world::{CLUSTER_IP, HOSTNAME, Reply, World, built};
use crate::{ebpf, interrupt, setup, sh};

/// In every request; what the wire is searched for.
const MARKER: &str = "x-secret: swordfish";
/// How long a change of the manifests may take to show.
const PATIENCE: Duration = Duration::from_secs(5);

/// Builds what it needs, shows it, cleans up; `keep` leaves it running.
///
/// # Errors
/// Something could not be set up, or a claim failed.
pub(crate) fn run(keep: bool) -> Result<()> {
    prepare()?;
    let start = Instant::now();
    let world = World::new("demo")?;
    let ca = Authority::new(world.dir(), "ca", RSA)?;
    let mut demo = Demo {
        world,
        ca,
        failed: 0,
    };
    demo.start()?;
    let mut capture = Capture::start(&demo.world)?;
    demo.tls(&mut capture)?;
    demo.wrong_ca(&mut capture)?;
    demo.no_policy(&mut capture)?;
    drop(capture);
    let failed = demo.failed;
    if keep {
        demo.leave_running()?;
    } else {
        drop(demo);
    }
    if failed > 0 {
        bail!("{failed} of the demo's claims failed");
    }
    println!(
        "\nAll of it held, in {:.1} s.",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn prepare() -> Result<()> {
    if !setup::is_root() {
        bail!("the demo needs root: it makes network namespaces and loads eBPF programs");
    }
    setup::run(setup::For::Demo)?;
    ebpf::build(false)?;
    sh::run(&mut sh::cargo(
        "build --package nodetls --package nodetls-tests --bins",
    ))
}

struct Demo {
    world: World,
    /// The CA of the server's certificate.
    ca: Authority,
    /// How many claims failed.
    failed: u32,
}

impl Demo {
    fn claim(&mut self, holds: bool, text: &str) {
        println!("   {} {text}", if holds { '✓' } else { '✗' });
        self.failed += u32::from(!holds);
    }

    fn start(&mut self) -> Result<()> {
        let (client, backend) = (self.world.client.name(), self.world.backend.name());
        println!(
            "\n1. Two network namespaces, joined by a veth pair; a server that speaks TLS only"
        );
        println!("   {client}: curl\n   {backend}: tls-echo, as {CLUSTER_IP}:443");
        self.world.trust(&self.ca)?;
        self.world.start_server(&self.ca)?;

        println!("\n2. The agent, with a Service, a BackendTLSPolicy and its CA (examples/)");
        let start = Instant::now();
        let agent = sh::command(built("nodetls")?, "agent");
        println!("   $ {}", self.world.start_agent(agent)?);
        self.claim(
            true,
            &format!("ready in {:.1} s", start.elapsed().as_secs_f64()),
        );
        Ok(())
    }

    fn tls(&mut self, capture: &mut Capture) -> Result<()> {
        println!("\n3. Plaintext in, verified TLS out");
        println!("   $ {}", sh::line(&self.world.curl()));
        let reply = self.world.request()?;
        println!(
            "   {}, and the server saw:\n   {}",
            reply.status,
            tls_member(&reply.body)
        );
        let seen = reply
            .body
            .contains(&format!("\"serverName\": \"{HOSTNAME}\""));
        self.claim(
            reply.status == 200 && seen,
            &format!("the server saw TLS, for {HOSTNAME}"),
        );
        self.claim_encrypted(capture)?;
        self.show_metrics("nodetls_ebpf_connects_total", "redirect")?;
        self.show_metrics("nodetls_tls_handshakes_total", "")?;
        self.show_metrics("nodetls_tls_handshake_duration_seconds_sum", "")?;
        Ok(())
    }

    fn wrong_ca(&mut self, capture: &mut Capture) -> Result<()> {
        println!("\n4. The ConfigMap gets a CA that did not sign the server's certificate");
        self.world
            .trust(&Authority::new(self.world.dir(), "other-ca", RSA)?)?;
        let reply = self.until_status(502)?;
        println!("   {}: {}", reply.status, reply.body.trim_end());
        self.claim(
            reply.status == 502,
            "the client gets a 502, the log and a metric the reason:",
        );
        let reason = self.world.agent_log_line("unknown_ca")?;
        println!(
            "   {}",
            reason.as_deref().unwrap_or("(no log line has unknown_ca)")
        );
        let counted = self.show_metrics("nodetls_connection_failures_total", "unknown_ca")?;
        self.claim(
            reason.is_some() && counted,
            "unknown_ca is both logged and counted",
        );
        self.claim_encrypted(capture)
    }

    fn no_policy(&mut self, capture: &mut Capture) -> Result<()> {
        println!("\n5. The policy is removed");
        self.world.remove_policy()?;
        let reply = self.until_status(400)?;
        println!("   {}: {}", reply.status, reply.body.trim_end());
        self.claim(
            reply.status == 400,
            "the server gets plaintext again, and refuses it",
        );
        let found = capture.take(&self.world)?.find(&["GET /get", MARKER]);
        self.claim(
            found.iter().all(|(_, times)| *times > 0),
            &format!("seen on the wire: {}", list(&found)),
        );
        Ok(())
    }

    /// Claims that since the last time packets passed, and nothing of a request could be read.
    fn claim_encrypted(&mut self, capture: &mut Capture) -> Result<()> {
        let wire = capture.take(&self.world)?;
        let host = format!("Host: {CLUSTER_IP}");
        let found = wire.find(&["GET /get", &host, MARKER]);
        let text = format!(
            "on the wire {} packets, {} bytes; in plaintext: {}",
            wire.packets(),
            wire.bytes(),
            list(&found)
        );
        self.claim(
            wire.packets() > 0 && found.iter().all(|(_, times)| *times == 0),
            &text,
        );
        Ok(())
    }

    /// Asks until the answer has `status`; the last answer when it never has.
    fn until_status(&self, status: u16) -> Result<Reply> {
        let mut last = Reply::default();
        interrupt::poll(PATIENCE, || {
            last = self.world.request()?;
            Ok((last.status == status).then_some(()))
        })?;
        Ok(last)
    }

    /// Prints the samples of `metric` that have `label` and are not 0; says whether there are any.
    fn show_metrics(&self, metric: &str, label: &str) -> Result<bool> {
        let text = self.world.admin("/metrics")?.body;
        let wanted =
            |line: &&str| line.starts_with(metric) && line.contains(label) && !line.ends_with(" 0");
        let mut samples = text.lines().filter(wanted).peekable();
        let any = samples.peek().is_some();
        samples.for_each(|line| println!("   {line}"));
        Ok(any)
    }

    /// Puts the policy and the right CA back, and leaves processes and namespaces to the user.
    fn leave_running(self) -> Result<()> {
        self.world.trust(&self.ca)?;
        self.world.add_policy()?;
        self.until_status(200)?;
        println!("\nLeft running. Try:\n  {}", sh::line(&self.world.curl()));
        println!("  curl http://{}/metrics", self.world.admin_address());
        println!(
            "  ls {}   # change them: the agent follows",
            self.world.manifests().display()
        );
        println!("and end it with:\n  {}", self.world.leave());
        Ok(())
    }
}

/// The member "tls" of the server's JSON, laid out as the server did.
fn tls_member(json: &str) -> &str {
    let start = json.find("\"tls\": {").unwrap_or(json.len());
    let end = json[start..]
        .find('}')
        .map_or(json.len(), |length| start + length + 1);
    &json[start..end]
}

/// What was searched for, and how often it was found.
fn list(found: &[(&str, usize)]) -> String {
    let items = found
        .iter()
        .map(|(needle, times)| format!("\"{needle}\" {times}"));
    items.collect::<Vec<_>>().join(", ") + " times"
}
