//! Log lines on standard error.

use std::io;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::text::PrintableLines;

/// Log of this process.
pub struct Log(reload::Handle<Targets, Registry>);

impl Log {
    /// Starts the log at level info. A second log in the same process writes nothing.
    pub fn start() -> Self {
        let (level, handle) = reload::Layer::new(targets(LevelFilter::INFO));
        let lines =
            fmt::layer().with_writer(|| PrintableLines(io::stderr())).with_ansi(false).with_target(false);
        let _ = tracing_subscriber::registry().with(level).with(lines).try_init();
        Self(handle)
    }

    /// Changes the level of the log.
    pub fn set_level(&self, level: LevelFilter) {
        // Fails only if there is no log.
        let _ = self.0.reload(targets(level));
    }
}

/// Filter: lines of Keyward from `level`, lines of libraries from warnings at most.
fn targets(level: LevelFilter) -> Targets {
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("keyward", level)
}
