//! Where nodetls' CPU time goes: perf's samples by what the code is for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::peer::Peer;
use super::rig::Rig;
use super::scenario::{Measured, Scenario};
use crate::demo::process::Process;
use crate::sh;

/// Those that are profiled.
const SCENARIOS: [Scenario; 7] = [
    Scenario::KeepAlive,
    Scenario::New,
    Scenario::GrpcMany,
    Scenario::Echo,
    Scenario::EchoNew,
    Scenario::Download,
    Scenario::Upload,
];
/// Not a divisor of what the kernel's timers tick with.
const FREQUENCY: &str = "997";
/// How many functions of each scenario are shown.
const HOTTEST: usize = 20;
/// What the names of the kernel's functions have in them; the first that fits.
const IN_THE_KERNEL: [(Place, &[&str]); 5] = [
    (Place::Copying, &["copy", "memcpy", "rep_movs", "csum"]),
    (
        // Releasing a lock is where a virtual machine's timer is seen, most often after a task was woken.
        Place::Waiting,
        &[
            "epoll",
            "ep_poll",
            "ep_send",
            "eventfd",
            "futex",
            "sched",
            "wake",
            "task_fair",
            "entity",
            "switch",
            "idle",
            "_raw_spin",
        ],
    ),
    (
        Place::Network,
        &[
            "tcp", "sock", "skb", "inet", "ip_", "ipv4", "dev_", "net_", "napi", "veth", "fib_",
            "dst_", "neigh", "sk_", "eth_", "qdisc", "backlog", "loopback", "nf_", "datagram",
            "send", "recv", "softirq", "_bh_",
        ],
    ),
    (
        Place::Calls,
        &[
            "sys", "vfs", "fdget", "fput", "entry", "iov", "file", "fget",
        ],
    ),
    (
        Place::KernelMemory,
        &["slab", "kmem", "kfree", "malloc", "page", "memcg", "memset"],
    ),
];

/// What code is for, in the order of the table.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Place {
    Cryptography,
    Tls,
    Nodetls,
    Runtime,
    Memory,
    OtherUser,
    Network,
    Copying,
    Waiting,
    Programs,
    Calls,
    KernelMemory,
    OtherKernel,
}

impl Place {
    const ALL: [Self; 13] = [
        Self::Cryptography,
        Self::Tls,
        Self::Nodetls,
        Self::Runtime,
        Self::Memory,
        Self::OtherUser,
        Self::Network,
        Self::Copying,
        Self::Waiting,
        Self::Programs,
        Self::Calls,
        Self::KernelMemory,
        Self::OtherKernel,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Cryptography => "cryptography (aws-lc)",
            Self::Tls => "TLS (rustls, webpki)",
            Self::Nodetls => "nodetls itself",
            Self::Runtime => "tokio, mio",
            Self::Memory => "allocator, memcpy",
            Self::OtherUser => "other user space",
            Self::Network => "kernel: TCP/IP, sockets",
            Self::Copying => "kernel: copying",
            Self::Waiting => "kernel: epoll, scheduler",
            Self::Programs => "kernel: eBPF",
            Self::Calls => "kernel: system calls, files",
            Self::KernelMemory => "kernel: memory",
            Self::OtherKernel => "kernel: the rest",
        }
    }

    /// Of a symbol as perf shows it.
    pub(super) fn of(object: &str, symbol: &str) -> Self {
        let has = |words: &[&str]| words.iter().any(|it| symbol.contains(it));
        if symbol.starts_with("bpf_") || has(&["cgroup_bpf", "_bpf_"]) {
            return Self::Programs;
        }
        if object.starts_with('[') {
            let place = IN_THE_KERNEL.iter().find(|(_, words)| has(words));
            return place.map_or(Self::OtherKernel, |(place, _)| *place);
        }
        match first_crate(symbol) {
            name if name.starts_with("aws_lc") => Self::Cryptography,
            "rustls" | "webpki" | "tokio_rustls" => Self::Tls,
            "nodetls" => Self::Nodetls,
            "tokio" | "mio" => Self::Runtime,
            name if name.starts_with("mi_") || name.starts_with("_mi_") => Self::Memory,
            name if name.contains("mem") && name.contains("avx") => Self::Memory,
            name if name.starts_with("__mem") => Self::Memory,
            // Assembly of aws-lc whose names have no prefix of it.
            _ if has(&[
                "aes", "gcm", "sha256", "sha512", "25519", "nistz256", "beeu", "bignum",
            ]) =>
            {
                Self::Cryptography
            }
            _ => Self::OtherUser,
        }
    }
}

/// `rustls` of `<rustls::conn::Reader as std::io::Read>::read`.
fn first_crate(symbol: &str) -> &str {
    let path = symbol.trim_start_matches("core::ptr::drop_in_place");
    let path = path.trim_start_matches(['<', '&', '(']);
    let path = path.trim_start_matches("mut ").trim_start_matches("dyn ");
    path.split("::").next().unwrap_or(path)
}

/// Of each profiled scenario: what was measured, and percent of each place.
type Row = (Scenario, Measured, BTreeMap<Place, f64>);

/// What perf has seen.
pub(super) struct Profile {
    rows: Vec<Row>,
    /// Seconds that AES-256-GCM takes for a GiB.
    cipher: f64,
}

/// Loads nodetls with each scenario while perf watches it.
pub(super) fn measure(rig: &mut Rig, duration: Duration) -> Result<Profile> {
    let mut rows = Vec::new();
    for scenario in SCENARIOS {
        let data = rig.dir().join("perf.data");
        let pid = rig.agent_pid().context("no agent")?;
        let mut perf = sh::command("perf", "record --quiet --event cpu-clock --freq");
        perf.args([FREQUENCY, "--pid", &pid.to_string(), "--output"]);
        let mut perf = Process::start("perf", perf.arg(&data), rig.dir())?;
        let begun = || data.metadata().is_ok_and(|file| file.len() > 0);
        perf.wait_until(|_| Ok(begun()))?;
        let measured = rig.measure(Peer::Nodetls, scenario, duration)?;
        perf.end()?; // it writes what it has seen
        let report = report(&data)?;
        let hottest = report.lines().take(HOTTEST).collect::<Vec<_>>().join("\n");
        println!("profile  {}\n{hottest}", super::names(&[scenario]));
        let shares = parse_perf(&report);
        if shares.is_empty() {
            bail!("perf has seen nothing of nodetls");
        }
        std::fs::remove_file(&data)?;
        rows.push((scenario, measured, shares));
    }
    let speed = "speed -seconds 1 -bytes 16384 -mr -evp aes-256-gcm"; // records of TLS
    let cipher = parse_speed(&sh::output(&mut sh::command("openssl", speed))?)?;
    Ok(Profile { rows, cipher })
}

/// Seconds for a GiB, of the bytes per second that OpenSSL tells.
pub(super) fn parse_speed(report: &str) -> Result<f64> {
    let line = report.lines().find(|line| line.starts_with("+F:"));
    let speed = line.and_then(|line| line.rsplit(':').next()?.parse::<f64>().ok());
    let speed = speed.with_context(|| format!("`openssl speed` says: {report}"))?;
    Ok((1_u64 << 30) as f64 / speed)
}

fn report(data: &Path) -> Result<String> {
    let fixed = "report --stdio --quiet --no-children --fields overhead,dso,symbol --field-separator ; --input";
    sh::output(sh::command("perf", fixed).arg(data))
}

/// Percent of each place.
pub(super) fn parse_perf(report: &str) -> BTreeMap<Place, f64> {
    let mut shares = BTreeMap::new();
    for line in report.lines() {
        let mut columns = line.splitn(3, ';').map(str::trim);
        let (percent, object, symbol) = (columns.next(), columns.next(), columns.next());
        let percent = percent.and_then(|it| it.strip_suffix('%')?.trim().parse::<f64>().ok());
        if let (Some(percent), Some(object), Some(symbol)) = (percent, object, symbol) {
            let symbol = symbol.trim_start_matches("[k]").trim_start_matches("[.]");
            *shares.entry(Place::of(object, symbol.trim())).or_default() += percent;
        }
    }
    shares
}

impl Profile {
    /// In Markdown: CPU time of each place, per unit of work.
    pub(super) fn table(&self) -> String {
        let mut text = String::from("|");
        let cpu: Vec<_> = self
            .rows
            .iter()
            .map(|(scenario, measured, _)| (scenario.plotted(), measured))
            .filter_map(|(figure, measured)| Some((figure?, (figure?.of)(measured)?)))
            .collect();
        for ((scenario, ..), (figure, _)) in self.rows.iter().zip(&cpu) {
            let _ = write!(text, " | {}, {}", super::names(&[*scenario]), figure.title);
        }
        let _ = write!(text, " |\n|---|{}\n| **in all**", "--:|".repeat(cpu.len()));
        for (figure, cpu) in &cpu {
            let _ = write!(text, " | **{}**", figure.text(*cpu));
        }
        text += " |\n";
        for place in Place::ALL {
            text += &format!("| {}", place.title());
            for ((_, _, shares), (figure, cpu)) in self.rows.iter().zip(&cpu) {
                let share = shares.get(&place).copied().unwrap_or_default();
                let part = figure.text(cpu * share / 100.0);
                let _ = write!(text, " | {part} ({share:.0} %)");
            }
            text += " |\n";
        }
        let _ = write!(
            text,
            "\nSampled by perf. The floors: the cipher alone (AES-256-GCM, by OpenSSL) takes {:.3} s for a GiB; the system calls \
             of a relay are the rows `plain-relay` above.\n",
            self.cipher
        );
        text
    }
}
