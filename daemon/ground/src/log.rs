//! Log lines on standard error.

use std::io;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::text::PrintableLines;

/// The log of this process.
pub struct Log(reload::Handle<Targets, Registry>);

impl Log {
    /// Starts to log, from level info; a second log in a process logs nothing.
    pub fn start() -> Self {
        let (level, handle) = reload::Layer::new(targets(LevelFilter::INFO));
        let lines =
            fmt::layer().with_writer(|| PrintableLines(io::stderr())).with_ansi(false).with_target(false);
        let _ = tracing_subscriber::registry().with(level).with(lines).try_init();
        Self(handle)
    }

    /// Changes what is logged.
    pub fn set_level(&self, level: LevelFilter) {
        // Fails only where there is no log.
        let _ = self.0.reload(targets(level));
    }
}

/// What we say ourselves; of what the libraries say, warnings alone.
fn targets(level: LevelFilter) -> Targets {
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("keyward", level)
}
