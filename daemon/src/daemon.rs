//! What all connections of a running daemon share.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::backend::{Backend, Backends};
use crate::config::Config;
use crate::keys::{Keys, Store};
use crate::metrics::Metrics;
use crate::peers::reactors::Reactors;
use crate::policy::authorise::Grant;
use crate::throttle::Throttle;

/// A running daemon, without its sockets. Shared by reference between tasks.
pub(crate) struct Daemon {
    pub(crate) keys: Keys,
    pub(crate) backends: Backends,
    pub(crate) reactors: Reactors,
    pub(crate) metrics: Metrics,
    pub(crate) lines: Lines,
    pub(crate) started: Instant,
    /// Whether it was started with `--dev`.
    pub(crate) dev: bool,
    config: ArcSwap<Config>,
    /// Given by `--dev`, whatever the configuration says.
    extra_grants: Vec<Grant>,
}

impl Daemon {
    pub(crate) fn new(
        config: Config,
        extra_grants: Vec<Grant>,
        dev: bool,
        store: Store,
        backends: Backends,
        reactors: Reactors,
    ) -> Self {
        let daemon = Self {
            keys: Keys::new(store, config.cached_records),
            metrics: Metrics::new(&backends),
            backends,
            reactors,
            lines: Lines::default(),
            started: Instant::now(),
            dev,
            config: ArcSwap::from_pointee(Config::default()),
            extra_grants,
        };
        daemon.set_config(config);
        daemon
    }

    /// The configuration as it is now.
    pub(crate) fn config(&self) -> arc_swap::Guard<Arc<Config>> {
        self.config.load()
    }

    /// Whether a backend could sign with its keys now.
    pub(crate) async fn is_ready(&self, backend: &Backend) -> bool {
        let Backend::Grep11(grep11) = backend else { return true };
        // If the store cannot be read, keys in memory may sign still.
        let settled = self.keys.wkid(grep11.name()).await.ok().flatten();
        let next = self.keys.next_wkid(grep11.name()).await.ok().flatten();
        grep11.is_ready(&settled.into_iter().chain(next).collect::<Vec<_>>())
    }

    /// From now on `config` holds, for connections that are open, too.
    pub(crate) fn set_config(&self, mut config: Config) {
        config.grants.extend(self.extra_grants.iter().cloned());
        self.config.store(Arc::new(config));
        self.keys.changes().of_grants();
    }
}

/// The log lines that peers can cause.
#[derive(Default)]
pub(crate) struct Lines {
    /// Connections that were closed for what came over them.
    pub(crate) garbage: Throttle,
    /// Connections that were closed for being too many.
    pub(crate) crowded: Throttle,
    /// Signatures that failed for a reason that an operator must look after.
    pub(crate) faults: Throttle,
    /// Requests that were refused for want of a grant, a use or a key.
    pub(crate) refusals: Throttle,
}
