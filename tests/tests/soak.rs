//! Mixed load, with pods and policies that come and go: nothing grows, and every connection is accounted for. For half a
//! minute with the other tests; `cargo xtask soak` does it for longer, and shows the figures.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt;
use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nodetls_tests::{
    ADDRESS, Ca, HOST, Running, URL, World, binary, config_map, ip, policy_with, service,
};

/// Until everything that any load makes has been made: pools, allocator, threads.
const WARM_UP: Duration = Duration::from_secs(10);
/// Longer than a pooled connection's age.
const DRAIN: Duration = Duration::from_secs(15);

/// What must not grow.
struct Figures {
    resident_kib: u64,
    files: usize,
    map_entries: f64,
    targets: f64,
    opened: f64,
    closed: f64,
    open: f64,
    failures: f64,
    pooled: f64,
}

impl Figures {
    fn of(world: &World) -> Self {
        let status = fs::read_to_string(format!("/proc/{}/status", world.agent().id())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.unwrap().trim().trim_end_matches(" kB");
        let metric = |name: &str| world.metric(&format!("nodetls_{name}"), &[]);
        Self {
            resident_kib: resident.parse().unwrap(),
            files: world.open_files(),
            // Other tests' netns come and go, too.
            map_entries: metric("ebpf_map_entries") - metric("pods_bypassed"),
            targets: metric("targets"),
            opened: metric("connections_opened_total"),
            closed: metric("connections_closed_total"),
            open: metric("open_connections"),
            failures: metric("connection_failures_total"),
            pooled: metric("pooled_connections"),
        }
    }

    const TITLE: &str =
        "  seconds  RSS MiB   files  map entries  targets    opened    open  pooled  failures";
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>9.1}{:>8}{:>13}{:>9}{:>10}{:>8}{:>8}{:>10}",
            self.resident_kib as f64 / 1024.0,
            self.files,
            self.map_entries,
            self.targets,
            self.opened,
            self.open,
            self.pooled,
            self.failures
        )
    }
}

/// Clients that go on and on: each line once, and again after a moment.
fn load(world: &World) -> Vec<Running> {
    let dial = binary("dial");
    let big = world.file("big", &"x".repeat(2_000_000));
    let lines = [
        format!("curl -s -m 5 {URL}"),
        format!("curl -s -m 5 '{URL}?[1-100]'"),
        format!("curl -s -m 5 --http2-prior-knowledge '{URL}?[1-20]'"),
        format!("curl -s -m 5 -H 'Connection: close' {URL}"),
        format!("curl -s -m 5 --data-binary @{} {URL}", big.display()),
        // It speaks TLS itself.
        format!("curl -s -k -m 5 https://{ADDRESS}/get"),
        // Garbage; one that leaves; half a head, for as long as is allowed.
        format!("{dial} {ADDRESS} --send garbage --patience 1"),
        format!("{dial} {ADDRESS} --leave"),
        format!("{dial} {ADDRESS} --send 'GET / HT' --patience 3"),
    ];
    let running = lines.map(|line| {
        let mut shell = world.in_pod("sh");
        shell.args(["-c", &format!("while :; do {line}; sleep 0.2; done")]);
        shell.stdout(Stdio::null()).stderr(Stdio::null());
        Running::new(shell)
    });
    running.into()
}

/// A pod comes, is served, and goes with a connection open.
fn pod_comes_and_goes(world: &World) {
    let pod = world.neighbour();
    let answer = |_: &World| {
        let mut curl = world.in_netns(&pod, "curl");
        let output = curl.args(["-s", "-m", "5", URL]).output().unwrap();
        !output.stdout.is_empty()
    };
    world.wait("the new pod is served", answer);
    let mut held = world.in_netns(&pod, &binary("dial"));
    held.args([ADDRESS, "--hold", "3"]);
    let mut held = Running::talking(held);
    held.read_until("held: 3");
    // With its netns it would go some time later.
    ip(&format!("-n {} link del eth1", world.backend));
    ip(&format!("netns del {pod}"));
}

/// Another policy, another bundle of CAs, another port, at each turn.
fn change_policy(world: &World, cas: &[&Ca; 2], turn: usize) {
    let timeout = ["30s", "60s"][turn % 2];
    let options = [("idle-timeout", timeout)];
    world.manifest("policy.yaml", &policy_with(HOST, &options));
    let bundle: String = cas[..=turn % 2].iter().map(|ca| ca.pem.as_str()).collect();
    world.manifest("ca.yaml", &config_map("example-ca", &bundle));
    let port = [443, 8080][turn % 2];
    world.manifest(
        "more.yaml",
        &service("more", "10.96.0.11", port, 8443).replace("https", "tls"),
    );
    let more = policy_with(HOST, &[])
        .replace("name: tls-backend", "name: more")
        .replace("'443'", "tls")
        .replace("name: tls}", "name: more}");
    world.manifest("more-policy.yaml", &more);
}

/// All load, for so long; what there was each tenth of it.
fn churn(world: &World, cas: &[&Ca; 2], seconds: Duration) -> Vec<Figures> {
    let (started, load) = (Instant::now(), load(world));
    let mut samples = Vec::new();
    for turn in 0.. {
        let passed = started.elapsed();
        if passed >= seconds {
            break;
        }
        if passed >= seconds / 10 * (samples.len() as u32 + 1) {
            let figures = Figures::of(world);
            println!("{:>9.0}{figures}", passed.as_secs_f64());
            samples.push(figures);
        }
        let exchange = world.exchange();
        change_policy(world, cas, turn);
        pod_comes_and_goes(world);
        world.end_of_exchange(exchange);
    }
    drop(load);
    samples
}

/// Once nothing is left but the two Services.
fn drained(world: &World) -> Figures {
    let deadline = Instant::now() + DRAIN;
    loop {
        let figures = Figures::of(world);
        if figures.open + figures.pooled == 0.0 && figures.targets == 2.0 {
            // They were read one after the other: the first may be from before the last was true.
            return Figures::of(world);
        }
        assert!(Instant::now() < deadline, "what is left:{figures}");
        sleep(Duration::from_millis(500));
    }
}

#[test]
fn nothing_grows_and_every_connection_is_accounted_for() {
    let seconds = std::env::var("NODETLS_SOAK_SECONDS");
    let seconds = seconds.map_or(20, |seconds| seconds.parse().unwrap());
    let (mut world, ca) = World::without_agent();
    let other = Ca::new("other");
    let cas = [&ca, &other];
    let pattern = format!("{}*", world.pod);
    world.agent_flags = vec!["--connections-per-netns", "200"];
    world.start_agent_for(&pattern);
    println!("{}", Figures::TITLE);
    churn(&world, &cas, WARM_UP);
    let before = drained(&world);
    println!("   before{before}");
    let samples = churn(&world, &cas, Duration::from_secs(seconds));
    let after = drained(&world);
    println!("    after{after}");

    assert_eq!(after.opened, after.closed);
    assert!(after.opened > before.opened + 100.0);
    // A look at the pods' sockets, and whoever asks for metrics, have some for a moment.
    assert!(after.files <= before.files + 8, "{} files", after.files);
    assert!(after.map_entries <= before.map_entries);
    // In half a minute the allocator is still finding its size.
    let resident = |sample: &Figures| sample.resident_kib as f64;
    let grown = resident(samples.last().unwrap()) / resident(&samples[samples.len() / 2]);
    let most = if seconds < 600 { 1.5 } else { 1.1 };
    assert!(grown < most, "resident memory grew to {grown}");
}
