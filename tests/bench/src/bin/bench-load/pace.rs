//! Messages at a fixed rate: an open loop.

use std::io::Result as IoResult;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::runtime::Builder;

use crate::client::Client;
use crate::tally::{Tally, ready};

/// The connections' turns are evenly spread. Each has a thread, whose timer is finer than tokio's milliseconds.
pub(crate) fn run(
    client: Client,
    connections: u32,
    rate: u32,
    duration: Duration,
) -> Result<Tally> {
    let client = Arc::new(client);
    let interval = Duration::from_secs(1) * connections / rate.max(1);
    let in_step = Arc::new(Barrier::new(connections as usize + 1));
    let threads: Vec<_> = (1..=connections)
        .map(|turn| {
            let (client, in_step) = (Arc::clone(&client), Arc::clone(&in_step));
            let first = interval / connections * turn;
            thread::spawn(move || one(&client, &in_step, first, interval, duration))
        })
        .collect();
    in_step.wait();
    ready()?;
    in_step.wait();
    let start = Instant::now();
    let mut latencies = Vec::new();
    for thread in threads {
        latencies.extend(thread.join().map_err(|_| anyhow!("a thread ended"))??);
    }
    Ok(Tally::new(start, latencies))
}

fn one(
    client: &Client,
    in_step: &Barrier,
    first: Duration,
    interval: Duration,
    duration: Duration,
) -> IoResult<Vec<Duration>> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let connection = runtime.block_on(async {
        let mut connection = client.connect().await?;
        client.exchange(&mut connection).await?;
        IoResult::Ok(connection)
    });
    in_step.wait(); // also if this one is not
    in_step.wait(); // for the start
    let mut connection = connection?;
    let start = Instant::now();
    let ticks = ticks(first, interval)?;
    let mut due = start + first;
    let mut latencies = Vec::new();
    while start.elapsed() < duration {
        let mut passed = [0; 8];
        rustix::io::read(&ticks, &mut passed)?;
        for _ in 0..u64::from_ne_bytes(passed) {
            runtime.block_on(client.exchange(&mut connection))?;
            latencies.push(due.elapsed());
            due += interval;
        }
    }
    Ok(latencies)
}

/// Reading from it waits for the next tick, and tells how many have passed.
fn ticks(first: Duration, interval: Duration) -> IoResult<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let spec = |time: Duration| Timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: i64::from(time.subsec_nanos()),
    };
    let times = Itimerspec {
        it_interval: spec(interval),
        it_value: spec(first),
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
    Ok(timer)
}
