//! Which of the certificates that a Service's endpoints show ends first.

use std::time::{Duration, Instant};

/// How long a certificate counts after it was seen, at least: each endpoint should have had a full handshake in it.
const WINDOW: Duration = Duration::from_secs(60 * 60);
/// After this long without a handshake nothing is known: the certificate may have been renewed.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// The earliest end of the certificates seen in this window and in the one before. Windows begin with a full handshake, so
/// that without one the last word stands.
#[derive(Debug, Default)]
pub(super) struct EarliestEnd {
    handshake: Option<Instant>,
    since: Option<Instant>,
    before: Option<i64>,
    current: Option<i64>,
}

impl EarliestEnd {
    /// Notes when a certificate ends that was seen at `at`; the earliest end now.
    pub(super) fn see(&mut self, end: i64, at: Instant) -> i64 {
        if !is_within(WINDOW, self.since, at) {
            self.since = Some(at);
            self.before = self.current.take();
        }
        let current = self.current.map_or(end, |current| current.min(end));
        self.current = Some(current);
        self.before.map_or(current, |before| before.min(current))
    }

    /// There was a handshake at `at`; with a resumed session the server shows no certificate, but stands by its last.
    pub(super) fn touch(&mut self, at: Instant) {
        self.handshake = Some(at);
    }

    /// Whether nothing can be told any more.
    pub(super) fn is_stale(&self, at: Instant) -> bool {
        !is_within(STALE, self.handshake, at)
    }
}

fn is_within(limit: Duration, since: Option<Instant>, at: Instant) -> bool {
    since.is_some_and(|since| at.saturating_duration_since(since) < limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewed_certificate_replaces_the_old_one_once_nobody_has_shown_that_for_a_window() {
        let start = Instant::now();
        let after = |minutes: u64| start + Duration::from_secs(60 * minutes);
        let mut ends = EarliestEnd::default();
        assert_eq!(ends.see(100, after(0)), 100);
        assert_eq!(ends.see(900, after(1)), 100, "one endpoint is renewed");
        assert_eq!(ends.see(100, after(59)), 100, "another is not");
        assert_eq!(ends.see(900, after(61)), 100, "seen in the window before");
        assert_eq!(ends.see(900, after(122)), 900);
        assert_eq!(ends.see(50, after(123)), 50);
    }

    #[test]
    fn without_handshakes_nothing_is_known_after_a_day() {
        let start = Instant::now();
        let after = |hours: u64| start + Duration::from_secs(60 * 60 * hours);
        let mut ends = EarliestEnd::default();
        assert!(ends.is_stale(start));
        ends.touch(start);
        assert!(!ends.is_stale(after(23)));
        ends.touch(after(23));
        assert!(!ends.is_stale(after(46)));
        assert!(ends.is_stale(after(47)));
    }
}
