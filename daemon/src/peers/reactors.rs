//! Reactors: the threads that serve peers, one on each processor.
//!
//! A peer waits while its message is signed, so its processor is free meanwhile, and all data of
//! the signature passes through the caches of that processor anyway. A reactor on that processor
//! spares both sides the wake-up of another processor, which costs more than the rest of the path
//! of a signature, on virtual machines above all. So a connection is served on the processor of its
//! peer, and moves with the peer.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::io;
use std::sync::Arc;
use std::thread;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::ground::shard;
use crate::peers::turns::Turns;

/// All reactors. Dropping them ends their threads.
pub(crate) struct Reactors {
    reactors: Vec<Arc<Reactor>>,
    /// Number of times that [`Self::next`] was called.
    count: AtomicUsize,
    _stop: DropGuard,
}

impl Reactors {
    /// Starts one thread on each processor that this process may run on.
    ///
    /// # Errors
    /// The system gives the process no more threads or descriptors.
    pub(crate) fn start() -> io::Result<Self> {
        let processors: Vec<_> = match sched_getaffinity(None) {
            Ok(allowed) => (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor)).collect(),
            // The machine has more processors than a `CpuSet`.
            Err(_) => (0..thread::available_parallelism()?.get().min(CpuSet::MAX_CPU)).collect(),
        };
        let stop = CancellationToken::new();
        let reactors = (0..).zip(processors);
        let reactors = reactors.map(|(number, processor)| Reactor::start(number, processor, stop.clone()));
        Ok(Self {
            reactors: reactors.collect::<io::Result<_>>()?,
            count: AtomicUsize::new(0),
            _stop: stop.drop_guard(),
        })
    }

    /// Reactor for a new peer, whose processor is not known yet: each reactor in turn.
    pub(crate) fn next(&self) -> &Arc<Reactor> {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        &self.reactors[count % self.reactors.len()]
    }

    /// Returns when every reactor has run a task, which a thread that hangs does not.
    pub(crate) async fn answered(&self) {
        let tasks: Vec<_> = self.reactors.iter().map(|reactor| reactor.handle.spawn(async {})).collect();
        for task in tasks {
            // Fails only at the end of the daemon.
            let _ = task.await;
        }
    }

    /// Reactor on a processor, if there is one.
    pub(crate) fn on(&self, processor: u32) -> Option<&Arc<Reactor>> {
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
    fn start(number: usize, processor: usize, stop: CancellationToken) -> io::Result<Arc<Self>> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let turns = Arc::new(Turns::new());
        let running = Arc::clone(&turns);
        handle.spawn(async move { running.run().await });
        thread::Builder::new().name(format!("peers-{processor}")).spawn(move || {
            shard::enter(number);
            let mut allowed = CpuSet::new();
            allowed.set(processor);
            // Without the permission, the thread serves on any processor.
            let _ = sched_setaffinity(None, &allowed);
            runtime.block_on(stop.cancelled());
            runtime.shutdown_background();
        })?;
        let processor = u32::try_from(processor).unwrap_or(u32::MAX);
        Ok(Arc::new(Self { processor, handle, turns }))
    }
}
