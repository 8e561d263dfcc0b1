//! Work on many objects, on all cores.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::thread;

/// Of fewer, threads would cost more than they save.
const MANY: usize = 500;
/// Memory's speed is the limit then.
const MAX_THREADS: usize = 8;

/// What `work` makes of each of `items`, in their order.
pub(super) fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    if items.len() < MANY || threads == 1 {
        return items.iter().map(work).collect();
    }
    let share = items.len().div_ceil(threads.min(MAX_THREADS));
    let all = |part: &[T]| part.iter().map(&work).collect::<Vec<_>>();
    thread::scope(|scope| {
        let parts = items
            .chunks(share)
            .map(|part| scope.spawn(move || all(part)));
        let parts: Vec<_> = parts.collect();
        let done = parts
            .into_iter()
            .map(|part| part.join().unwrap_or_else(|panic| resume_unwind(panic)));
        done.flatten().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept() {
        for count in [0, 1, MANY - 1, MANY, 10 * MANY + 1] {
            let items: Vec<_> = (0..count).collect();
            let doubled: Vec<_> = items.iter().map(|item| item * 2).collect();
            assert_eq!(map(&items, |item| item * 2), doubled);
        }
    }
}
