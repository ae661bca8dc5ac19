//! The state that all connections of peers share.

use std::sync::Arc;

use super::connections::{Connections, Limits};
use super::lines::Lines;
use super::reactors::Reactors;
use crate::config::Config;
use crate::daemon::Daemon;
use crate::ground::fair::{Gate, MOST_WAITING};

/// The daemon as its peers need it. Shared by reference between tasks.
pub(crate) struct Shared {
    pub(crate) daemon: Arc<Daemon>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) lines: Lines,
    /// Turns of users whose keys are not in memory.
    pub(super) look_ups: Gate,
    pub(super) reactors: Reactors,
    /// Most descriptors that the process may have.
    descriptors: usize,
}

impl Shared {
    /// State for the peers of a daemon, in a process that may have this many descriptors.
    pub(crate) fn new(daemon: Arc<Daemon>, reactors: Reactors, descriptors: usize) -> Self {
        let shared = Self {
            daemon,
            connections: Arc::new(Connections::new()),
            lines: Lines::default(),
            look_ups: Gate::new(LOOK_UPS, MOST_WAITING),
            reactors,
            descriptors,
        };
        let config = shared.daemon.config();
        shared.review(&config);
        let (configured, most) = (config.socket.connections, shared.limits(&config).total);
        if most < configured {
            tracing::warn!(
                "this process may have {descriptors} descriptors: at most {most} connections instead of {configured}; raise LimitNOFILE of the service, or ulimit -Hn"
            );
        }
        drop(config);
        shared
    }

    /// Most connections: as many as are configured, if there are descriptors for them. A connection
    /// whose peer does not take its answer needs a second descriptor.
    pub(super) fn limits(&self, config: &Config) -> Limits {
        let most = (self.descriptors.saturating_sub(RESERVED) / 2).max(1);
        Limits { total: config.socket.connections.min(most), per_user: config.socket.connections_per_user }
    }

    /// Applies the grants of a configuration to the connections that are open.
    pub(crate) fn review(&self, config: &Config) {
        self.lines.set_grants(&config.grants);
        self.connections.review(&config.grants);
    }
}

/// Look-ups of keys in the store at a time, each on a thread of its own.
const LOOK_UPS: usize = 2;

/// Descriptors that are kept for everything except the connections of peers: administrators, units,
/// the store, and closed connections whose requests are still under way.
const RESERVED: usize = 256;
