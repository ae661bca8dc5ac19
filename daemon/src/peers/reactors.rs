//! The threads that serve peers, one on each processor.
//!
//! A peer waits while its message is signed, so its processor is free meanwhile, and everything that the
//! signature needs passes through that processor's caches anyway. Answering from there spares both sides the
//! waking of another processor, which costs more than the rest of the way of a signature, on virtual machines
//! above all. So a connection is served where its peer runs, and follows the peer.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::io;
use std::sync::Arc;
use std::thread;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::peers::turns::Turns;

/// The running threads; they end when this is dropped.
pub(crate) struct Reactors {
    reactors: Vec<Reactor>,
    turn: AtomicUsize,
    _stop: DropGuard,
}

impl Reactors {
    /// Starts one thread on each processor that this process may run on.
    ///
    /// # Errors
    /// There are no threads or no descriptors to be had.
    pub(crate) fn start() -> io::Result<Self> {
        let processors: Vec<_> = match sched_getaffinity(None) {
            Ok(allowed) => (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor)).collect(),
            // The machine has more than fit into the set.
            Err(_) => (0..thread::available_parallelism()?.get().min(CpuSet::MAX_CPU)).collect(),
        };
        let stop = CancellationToken::new();
        let reactors = processors.into_iter().map(|processor| Reactor::start(processor, stop.clone()));
        Ok(Self {
            reactors: reactors.collect::<io::Result<_>>()?,
            turn: AtomicUsize::new(0),
            _stop: stop.drop_guard(),
        })
    }

    /// The reactor for a peer of which nothing is known yet: each in turn.
    pub(crate) fn any(&self) -> &Reactor {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        &self.reactors[turn % self.reactors.len()]
    }

    /// The reactor on a processor, if there is one.
    pub(crate) fn on(&self, processor: u32) -> Option<&Reactor> {
        self.reactors.iter().find(|reactor| reactor.processor == processor)
    }
}

/// One thread on one processor.
pub(crate) struct Reactor {
    pub(crate) processor: u32,
    pub(crate) handle: Handle,
    pub(crate) turns: Arc<Turns>,
}

impl Reactor {
    fn start(processor: usize, stop: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let turns = Arc::new(Turns::new());
        let giving = Arc::clone(&turns);
        handle.spawn(async move { giving.run().await });
        thread::Builder::new().name(format!("peers-{processor}")).spawn(move || {
            let mut here = CpuSet::new();
            here.set(processor);
            // Where that is refused, the thread serves all the same, wherever it runs.
            let _ = sched_setaffinity(None, &here);
            runtime.block_on(stop.cancelled());
            runtime.shutdown_background();
        })?;
        Ok(Self { processor: u32::try_from(processor).unwrap_or(u32::MAX), handle, turns })
    }
}
