//! Work on many objects, on all cores.

use std::iter::Flatten;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::{thread, vec};

/// Of fewer, threads would cost more than they save.
const MANY: usize = 500;
/// Memory's speed is the limit then.
const MAX_THREADS: usize = 8;

/// What `work` makes of each of `items`, in their order.
pub(super) fn map<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
) -> Flatten<vec::IntoIter<Vec<R>>> {
    let threads = match items.len() < MANY {
        true => 1,
        false => thread::available_parallelism().map_or(1, NonZero::get),
    };
    let share = items.len().div_ceil(threads.min(MAX_THREADS)).max(1);
    let all = |part: &[T]| part.iter().map(&work).collect::<Vec<_>>();
    // The first share is this thread's own.
    let (own, others) = items.split_at(share.min(items.len()));
    let parts = thread::scope(|scope| {
        let others = others.chunks(share);
        let others: Vec<_> = others.map(|part| scope.spawn(move || all(part))).collect();
        let mut parts = vec![all(own)];
        for part in others {
            parts.push(part.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        parts
    });
    parts.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept() {
        for count in [0, 1, MANY - 1, MANY, 10 * MANY + 1] {
            let items: Vec<_> = (0..count).collect();
            let doubled: Vec<_> = items.iter().map(|item| item * 2).collect();
            assert!(map(&items, |item| item * 2).eq(doubled));
        }
    }
}
