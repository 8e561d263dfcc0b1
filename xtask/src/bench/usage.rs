//! What a process has used, from /proc (proc(5)).

use std::fs;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

/// How often [`Watch`] looks.
const WATCH_EVERY: Duration = Duration::from_millis(100);

/// The process and its children: nginx' workers.
pub(super) fn tree(pid: u32) -> Result<Vec<u32>> {
    let children = read(pid, &format!("task/{pid}/children"))?;
    let children = children.split_whitespace().map(str::parse);
    let mut pids = vec![pid];
    for child in children {
        pids.push(child?);
    }
    Ok(pids)
}

/// CPU time, user and system, of all threads of `pids`, in seconds; a multiple of 10 ms.
pub(super) fn cpu(pids: &[u32]) -> Result<f64> {
    let mut ticks = 0;
    for &pid in pids {
        ticks += ticks_of(&read(pid, "stat")?).with_context(|| format!("/proc/{pid}/stat"))?;
    }
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Fields 14 (utime) and 15 (stime); field 2, the name, may have spaces and parentheses.
pub(super) fn ticks_of(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut times = after_name.split(' ').skip(11).map(str::parse::<u64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

/// Resident memory of `pids` in MiB; pages that they share count for each.
pub(super) fn memory(pids: &[u32]) -> Result<f64> {
    let mut kib = 0.0;
    for &pid in pids {
        let status = read(pid, "status")?;
        kib += rss_of(&status).with_context(|| format!("/proc/{pid}/status has no VmRSS"))?;
    }
    Ok(kib / 1024.0)
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
    peak: JoinHandle<Result<f64>>,
}

impl Watch {
    pub(super) fn start(pids: Vec<u32>) -> Self {
        let (stop, stopped) = channel();
        let peak = thread::spawn(move || {
            let mut peak = memory(&pids)?;
            while stopped.recv_timeout(WATCH_EVERY) == Err(RecvTimeoutError::Timeout) {
                peak = peak.max(memory(&pids)?);
            }
            Ok(peak)
        });
        Self { stop, peak }
    }

    /// In MiB.
    pub(super) fn peak(self) -> Result<f64> {
        drop(self.stop);
        self.peak
            .join()
            .map_err(|_| anyhow!("the watch of the memory ended"))?
    }
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("{path}: the process has ended"))
}
