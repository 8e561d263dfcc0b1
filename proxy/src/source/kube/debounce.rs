//! The first change is acted on at once: others who follow the API server, such as kube-proxy, don't wait either. What
//! follows soon after is taken together.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The time between two acts.
const PAUSE: Duration = Duration::from_millis(100);

/// When to act on changes.
#[derive(Debug, Default)]
pub(super) struct Debounce {
    due: Option<Instant>,
    acted: Option<Instant>,
}

impl Debounce {
    /// Something changed just now.
    pub(super) fn touch(&mut self) {
        let now = Instant::now();
        let rested = self.acted.map_or(now, |acted| now.max(acted + PAUSE));
        self.due = Some(self.due.map_or(rested, |due| due.min(rested)));
    }

    /// Acts after `delay` if nothing asks for it before.
    pub(super) fn later(&mut self, delay: Duration) {
        self.due.get_or_insert(Instant::now() + delay);
    }

    /// Ends when it is time to act, and forgets the changes. Cancelling it loses nothing.
    pub(super) async fn due(&mut self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
        self.due = None;
        self.acted = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_change_waits_for_nothing_and_the_next_for_a_pause() {
        let mut debounce = Debounce::default();
        let start = Instant::now();
        debounce.touch();
        debounce.due().await;
        assert_eq!(start.elapsed(), ms(0));
        for _ in 0..3 {
            debounce.touch();
            assert!(timeout(ms(15), debounce.due()).await.is_err());
        }
        debounce.due().await;
        assert_eq!(start.elapsed(), PAUSE);
        assert!(timeout(ms(1000), debounce.due()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn acts_now_and_then_on_changes_without_end() {
        let mut debounce = Debounce::default();
        let start = Instant::now();
        let mut acted = Vec::new();
        while start.elapsed() < ms(1000) {
            debounce.touch();
            if timeout(ms(1), debounce.due()).await.is_ok() {
                acted.push(start.elapsed());
            }
        }
        assert!(matches!(acted.len(), 10 | 11), "{acted:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_does_not_wait_for_a_later_look() {
        let mut debounce = Debounce::default();
        debounce.later(ms(5000));
        sleep(ms(100)).await;
        debounce.touch();
        let start = Instant::now();
        debounce.due().await;
        assert_eq!(start.elapsed(), ms(0));
    }
}
