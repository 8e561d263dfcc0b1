//! The first change is acted on at once: others who follow the API server, such as kube-proxy, don't wait either. Many
//! changes then are one compile.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// A change waits for others until it has been quiet for so long.
const QUIET: Duration = Duration::from_millis(20);

/// The longest a change waits, however many follow.
const LIMIT: Duration = Duration::from_millis(200);

/// When to act on changes.
#[derive(Debug, Default)]
pub(super) struct Debounce {
    pending: Option<Pending>,
    acted: Option<Instant>,
}

#[derive(Debug)]
struct Pending {
    due: Instant,
    limit: Instant,
}

impl Debounce {
    /// Something changed just now.
    pub(super) fn touch(&mut self) {
        let now = Instant::now();
        let limit = now + LIMIT;
        let limit = self.pending.as_ref().map_or(limit, |p| p.limit.min(limit));
        let rested = self.acted.is_none_or(|acted| acted + LIMIT <= now);
        let due = if rested {
            now
        } else {
            (now + QUIET).min(limit)
        };
        self.pending = Some(Pending { due, limit });
    }

    /// Acts after `delay` if nothing asks for it before.
    pub(super) fn later(&mut self, delay: Duration) {
        let due = Instant::now() + delay;
        self.pending.get_or_insert(Pending { due, limit: due });
    }

    /// Ends when it is time to act, and forgets the changes. Cancelling it loses nothing.
    pub(super) async fn due(&mut self) {
        match &self.pending {
            Some(pending) => sleep_until(pending.due).await,
            None => std::future::pending().await,
        }
        self.pending = None;
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

    /// One that has acted just now.
    async fn acted() -> Debounce {
        let mut debounce = Debounce::default();
        debounce.touch();
        debounce.due().await;
        debounce
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_change_after_a_rest_waits_for_nothing() {
        let start = Instant::now();
        let mut debounce = acted().await;
        assert_eq!(start.elapsed(), ms(0));
        sleep(LIMIT).await;
        debounce.later(ms(5000));
        debounce.touch();
        debounce.due().await;
        assert_eq!(start.elapsed(), LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_quiet() {
        let mut debounce = acted().await;
        let start = Instant::now();
        for _ in 0..3 {
            debounce.touch();
            assert!(timeout(ms(15), debounce.due()).await.is_err());
        }
        debounce.due().await;
        assert_eq!(start.elapsed(), ms(50), "20 ms after the last of 0, 15, 30");
        assert!(timeout(ms(1000), debounce.due()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn acts_in_time_on_changes_without_end() {
        let mut debounce = acted().await;
        let start = Instant::now();
        let mut acted = Vec::new();
        while start.elapsed() < ms(1000) {
            debounce.touch();
            if timeout(ms(1), debounce.due()).await.is_ok() {
                acted.push(start.elapsed());
            }
        }
        assert!(matches!(acted.len(), 4 | 5), "{acted:?}");
        assert!(acted[0] <= ms(201), "{acted:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_does_not_wait_for_a_later_look() {
        let mut debounce = acted().await;
        debounce.later(ms(5000));
        sleep(ms(100)).await;
        debounce.touch();
        let start = Instant::now();
        debounce.due().await;
        assert_eq!(start.elapsed(), ms(20));
    }
}
