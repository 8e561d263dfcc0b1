//! What is not complete yet, or has failed, is looked at again: soon at first, then ever later.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

const FIRST: Duration = Duration::from_millis(20);

/// Names of what is to be looked at again, and when.
pub(super) struct Retry {
    names: BTreeSet<String>,
    after: Duration,
    at: Instant,
}

impl Retry {
    /// Of nothing.
    pub(super) fn new() -> Self {
        Self {
            names: BTreeSet::new(),
            after: FIRST,
            at: Instant::now(),
        }
    }

    /// These and no others; with a new one it begins anew.
    pub(super) fn set(&mut self, names: BTreeSet<String>) {
        if !names.is_subset(&self.names) {
            self.after = FIRST;
            self.at = Instant::now() + FIRST;
        }
        self.names = names;
    }

    /// Resolves when it is time; never without names. Cancelling it loses nothing.
    pub(super) async fn due(&mut self) {
        if self.names.is_empty() {
            return std::future::pending().await;
        }
        sleep_until(self.at).await;
        self.after = self.after.saturating_mul(2);
        self.at = Instant::now() + self.after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_takes_ever_longer_until_there_is_something_new() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut retry = Retry::new();
        retry.set(names(&["a", "b"]));
        let start = Instant::now();
        for millis in [20, 60, 140] {
            retry.due().await;
            retry.set(names(&["a"]));
            assert_eq!(start.elapsed().as_millis(), millis);
        }
        retry.set(names(&["a", "c"]));
        retry.due().await;
        assert_eq!(start.elapsed().as_millis(), 160);
        retry.set(names(&[]));
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, retry.due()).await.is_err());
    }
}
