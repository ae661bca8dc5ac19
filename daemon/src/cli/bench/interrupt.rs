//! SIGINT and SIGTERM during a measurement.

use core::time::Duration;
use std::time::Instant;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::failure::Failure;
use crate::ground::exit;

/// SIGINT and SIGTERM. They end a measurement instead of the process, so that its key is deleted.
pub(super) struct Interrupt {
    runtime: Runtime,
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupt {
    pub(super) fn new() -> Result<Self, Failure> {
        let failed = |error| Failure::new(exit::OS, format_args!("cannot wait for signals: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let signals = runtime
            .block_on(async { Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)) });
        let (interrupt, terminate) = signals.map_err(failed)?;
        Ok(Self { runtime, interrupt, terminate })
    }

    /// Waits until `duration` has passed, `is_over` returns true, or a signal comes. Returns true
    /// for a signal.
    pub(super) fn within(&mut self, duration: Duration, is_over: impl Fn() -> bool) -> bool {
        let Self { runtime, interrupt, terminate } = self;
        let end = Instant::now() + duration;
        runtime.block_on(async {
            while Instant::now() < end && !is_over() {
                tokio::select! {
                    _ = interrupt.recv() => return true,
                    _ = terminate.recv() => return true,
                    () = tokio::time::sleep(CHECK_INTERVAL.min(end.saturating_duration_since(Instant::now()))) => {}
                }
            }
            false
        })
    }
}

pub(super) fn interrupted() -> Failure {
    Failure::new(exit::SOFTWARE, "interrupted")
}

/// Interval of the checks for a failed signer.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
