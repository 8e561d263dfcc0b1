//! One boot of one kernel, and what it says on its serial console.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::kernels::Kernel;
use super::table::Row;
use crate::{interrupt, sh};

/// A row ends within 120 s of the guest's time, whatever it does; on a busy machine that may be long.
const SILENCE: Duration = Duration::from_secs(1200);

/// What of cgroups the guest's init mounts.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Cgroups {
    /// Version 2 alone.
    V2,
    /// Version 2 beside hierarchies of version 1.
    Hybrid,
}

impl Cgroups {
    pub(super) const ALL: [Self; 2] = [Self::V2, Self::Hybrid];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
        }
    }
}

/// Row → what it came to.
pub(super) type Results = BTreeMap<String, String>;

/// Boots the kernel, and follows it to its end.
///
/// # Errors
/// It does not boot, or says nothing any more: the log is named.
pub(super) fn run(
    kernel: &Kernel,
    cgroups: Cgroups,
    image: &Path,
    rows: &[Row],
) -> Result<Results> {
    let title = format!("{} {}", kernel.series, cgroups.name());
    let log = format!("target/vm/{}.log", title.replace(' ', "-"));
    let log = sh::top().join(log);
    let mut qemu = command(&kernel.directory.join("vmlinuz"), cgroups);
    qemu.arg("-initrd").arg(image);
    qemu.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut guest = Guest(qemu.spawn().context("qemu-system-x86_64")?);
    let lines = lines(&mut guest.0)?;
    let results = follow(&lines, &log, &title).with_context(|| {
        format!(
            "Linux {}; its console is kept in {}",
            kernel.version,
            log.display()
        )
    })?;
    let lacks = |name: &str| !results.contains_key(name);
    if let Some(row) = rows.iter().find(|row| lacks(&row.name)) {
        bail!(
            "{} was not run; the console is kept in {}",
            row.name,
            log.display()
        );
    }
    Ok(results)
}

/// An emulated machine: KVM is not everywhere. Its clock goes by the instructions that it has executed, so that nothing
/// in it comes late because this machine is busy, and nothing waits for a sleep.
fn command(image: &Path, cgroups: Cgroups) -> Command {
    let mut qemu = sh::command(
        "qemu-system-x86_64",
        "-accel tcg,thread=single -icount shift=0,sleep=off -cpu max -smp 1 -m 1536 -nodefaults -nic none -display none -monitor none \
         -serial stdio -no-reboot",
    );
    let words = format!(
        "console=ttyS0 quiet panic=-1 random.trust_cpu=on init_on_alloc=0 cgroups={}",
        cgroups.name()
    );
    qemu.arg("-kernel").arg(image).args(["-append", &words]);
    qemu
}

/// Ends with its value.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the guest says, line by line.
fn lines(guest: &mut Child) -> Result<Receiver<String>> {
    let stdout = guest.stdout.take().context("qemu's output")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n') {
            let Ok(line) = line else { return };
            let line = String::from_utf8_lossy(&line);
            if sender.send(line.trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

fn follow(lines: &Receiver<String>, log: &Path, title: &str) -> Result<Results> {
    let mut log = File::create(log)?;
    let mut results = Results::new();
    let mut heard = Instant::now();
    let mut ended = false;
    loop {
        interrupt::check()?;
        match lines.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                heard = Instant::now();
                writeln!(log, "{line}")?;
                ended |= line == "guest: end";
                if let Some((row, outcome)) = outcome(&line) {
                    println!("{title:12} {row}: {outcome}");
                    results.insert(row.to_owned(), outcome.to_owned());
                } else if let Some(said) = line.strip_prefix("guest: ") {
                    println!("{title:12}   {said}");
                }
            }
            Err(RecvTimeoutError::Timeout) if heard.elapsed() < SILENCE => {}
            Err(RecvTimeoutError::Timeout) => bail!("the guest says nothing for {SILENCE:?}"),
            Err(RecvTimeoutError::Disconnected) if ended => return Ok(results),
            Err(RecvTimeoutError::Disconnected) => bail!("the guest ended before its tests did"),
        }
    }
}

/// Row and outcome of a line `outcome ROW OUTCOME`.
fn outcome(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("outcome ")?.split_once(' ')
}
