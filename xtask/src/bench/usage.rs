//! What a process has used, from /proc (proc(5)).

use std::fs;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

/// How often [`Watch`] looks.
const WATCH_EVERY: Duration = Duration::from_millis(100);

/// What is measured of a proxy: its processes; none of a floor without one.
#[derive(Clone)]
pub(super) struct Processes(Vec<u32>);

impl Processes {
    /// The process and its children: nginx' workers.
    pub(super) fn of(pid: Option<u32>) -> Result<Self> {
        let mut pids = Vec::from_iter(pid);
        if let Some(pid) = pid {
            let children = read(pid, &format!("task/{pid}/children"))?;
            for child in children.split_whitespace() {
                pids.push(child.parse()?);
            }
        }
        Ok(Self(pids))
    }

    /// CPU time, user and system, of all threads, in seconds; a multiple of 10 ms.
    pub(super) fn cpu(&self) -> Result<Option<f64>> {
        let mut ticks = 0;
        for &pid in &self.0 {
            ticks += ticks_of(&read(pid, "stat")?).with_context(|| format!("/proc/{pid}/stat"))?;
        }
        let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        Ok((!self.0.is_empty()).then_some(seconds))
    }

    /// Resident memory in MiB; pages that they share count for each.
    pub(super) fn memory(&self) -> Result<Option<f64>> {
        let mut kib = 0.0;
        for &pid in &self.0 {
            let status = read(pid, "status")?;
            kib += rss_of(&status).with_context(|| format!("/proc/{pid}/status has no VmRSS"))?;
        }
        Ok((!self.0.is_empty()).then_some(kib / 1024.0))
    }
}

/// Fields 14 (utime) and 15 (stime); field 2, the name, may have spaces and parentheses.
pub(super) fn ticks_of(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut times = after_name.split(' ').skip(11).map(str::parse::<u64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

pub(super) fn rss_of(status: &str) -> Option<f64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Remembers the most memory that processes have had.
pub(super) struct Watch {
    stop: Sender<()>,
    peak: JoinHandle<Result<Option<f64>>>,
}

impl Watch {
    pub(super) fn start(processes: Processes) -> Self {
        let (stop, stopped) = channel();
        let peak = thread::spawn(move || {
            let mut peak = processes.memory()?;
            while stopped.recv_timeout(WATCH_EVERY) == Err(RecvTimeoutError::Timeout) {
                peak = peak.zip(processes.memory()?).map(|(a, b)| a.max(b));
            }
            Ok(peak)
        });
        Self { stop, peak }
    }

    /// In MiB.
    pub(super) fn peak(self) -> Result<Option<f64>> {
        drop(self.stop);
        let ended = self.peak.join();
        ended.map_err(|_| anyhow!("the watch of the memory ended"))?
    }
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("{path}: the process has ended"))
}
