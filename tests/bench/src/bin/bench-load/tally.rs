//! What is counted, and how it is told.

use std::io::Result as IoResult;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Says that all is set up, and waits for a line on standard input: whoever measures begins now.
pub(crate) fn ready() -> IoResult<()> {
    println!("ready");
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

/// Answered messages and how long each took.
pub(crate) struct Tally {
    latencies: Vec<Duration>,
    took: Duration,
}

impl Tally {
    /// Of a load that began at `start` and has just ended.
    pub(crate) fn new(start: Instant, latencies: Vec<Duration>) -> Self {
        Self {
            latencies,
            took: start.elapsed(),
        }
    }

    /// Latencies in milliseconds: the median and the 99th percentile.
    pub(crate) fn report(mut self) -> Value {
        self.latencies.sort_unstable();
        json!({
            "done": self.latencies.len(),
            "seconds": self.took.as_secs_f64(),
            "p50": self.percentile(50),
            "p99": self.percentile(99),
        })
    }

    fn percentile(&self, percent: usize) -> Option<f64> {
        let last = self.latencies.len().checked_sub(1)?;
        Some(self.latencies[last * percent / 100].as_secs_f64() * 1e3)
    }
}
