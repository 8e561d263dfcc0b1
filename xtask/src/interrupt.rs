//! SIGINT, SIGTERM and SIGHUP end a task through an ordinary error, so that drop guards clean up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From here on a signal sets a flag, which [`check`] reads, instead of ending the process.
pub(crate) fn catch() -> Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&INTERRUPTED))?;
    }
    Ok(())
}

/// Whether one of the signals has come.
pub(crate) fn pending() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// An error once one of the signals has come.
pub(crate) fn check() -> Result<()> {
    if pending() {
        bail!("interrupted");
    }
    Ok(())
}

/// Asks `condition` again and again until it has an answer; `None` when none came in `limit`.
pub(crate) fn poll<T>(
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let deadline = Instant::now() + limit;
    loop {
        check()?;
        if let Some(answer) = condition()? {
            return Ok(Some(answer));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
