//! Data with a part for each thread that serves peers.
//!
//! Memory that all processors write costs each of them some 0.1 microseconds for each write, and
//! more on large machines. A thread that serves peers writes only its own part of a [`Sharded`]
//! value. Readers, who come rarely, merge all parts.

use core::cell::Cell;
use std::sync::OnceLock;
use std::thread;

thread_local! {
    /// Number of the part of this thread. All threads that serve no peers share part 0.
    static PART: Cell<usize> = const { Cell::new(0) };
}

/// Gives this thread a part of its own in all values. `number` is the number of the thread among
/// the threads that serve peers. If there are more of these threads than processors, some share a
/// part.
pub fn enter(number: usize) {
    PART.set(1 + number % (parts() - 1));
}

/// Number of parts of each value, at least 2: one for each processor, and part 0 for all other
/// threads.
fn parts() -> usize {
    static PARTS: OnceLock<usize> = OnceLock::new();
    *PARTS.get_or_init(|| 1 + thread::available_parallelism().map_or(1, usize::from))
}

/// A value in parts: see [`enter`].
#[derive(Debug)]
pub struct Sharded<T>(Box<[Part<T>]>);

/// Two cache lines, because processors fetch lines in pairs (Intel 64 and IA-32 Architectures
/// Optimization Reference Manual, "spatial prefetcher").
#[derive(Debug)]
#[repr(align(128))]
struct Part<T>(T);

impl<T> Sharded<T> {
    /// A value whose parts `make` makes.
    pub fn new(mut make: impl FnMut() -> T) -> Self {
        Self((0..parts()).map(|_| Part(make())).collect())
    }

    /// The part of this thread.
    pub fn own(&self) -> &T {
        let own = PART.get();
        // Every value has the same number of parts, so the thread's number is in range.
        &self.0[own].0
    }

    /// All parts, for readers that merge them.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|part| &part.0)
    }
}

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        Self::new(T::default)
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn each_thread_that_serves_peers_has_its_own_part() {
        let value = Sharded::<AtomicU64>::default();
        let add = || value.own().fetch_add(1, Ordering::Relaxed);
        let processors = thread::available_parallelism().unwrap().get();
        thread::scope(|scope| {
            for number in 0..processors {
                scope.spawn(move || {
                    enter(number);
                    assert_eq!(add(), 0, "the part of thread {number} is its own");
                });
            }
            scope.spawn(add);
        });
        add();
        let counts: Vec<_> = value.all().map(|part| part.load(Ordering::Relaxed)).collect();
        assert_eq!((counts[0], counts.len()), (2, processors + 1));
        assert!(counts[1..].iter().all(|count| *count == 1), "{counts:?}");
        // More threads than parts share them.
        thread::scope(|scope| {
            scope.spawn(|| {
                enter(processors);
                assert_eq!(add(), 1);
            });
        });
    }

    #[test]
    fn parts_share_no_cache_line() {
        let value = Sharded::<AtomicU64>::default();
        let addresses: Vec<_> = value.all().map(|part| core::ptr::from_ref(part).addr()).collect();
        assert!(addresses.windows(2).all(|pair| pair[1] - pair[0] >= 128), "{addresses:x?}");
    }
}
