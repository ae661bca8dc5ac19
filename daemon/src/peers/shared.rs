//! State that all connections of peers share.

use std::sync::Arc;

use super::connections::{ConnectionLimits, Connections};
use super::log_limits::LogLimits;
use super::reactors::Reactors;
use super::refusals::Refusals;
use crate::config::Config;
use crate::daemon::Daemon;
use crate::ground::fair::{Gate, MOST_WAITING};

/// Daemon and limits, as the connections of peers use them. Shared by reference between tasks.
pub(crate) struct Shared {
    pub(crate) daemon: Arc<Daemon>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) log_limits: LogLimits,
    pub(crate) refusals: Refusals,
    /// Turns of users for look-ups of keys that are not in memory.
    pub(super) look_ups: Gate,
    pub(crate) reactors: Reactors,
    /// Maximum number of descriptors that the process may open.
    descriptors: usize,
}

impl Shared {
    /// State for the peers of a daemon, in a process that may open `descriptors` descriptors.
    pub(crate) fn new(daemon: Arc<Daemon>, reactors: Reactors, descriptors: usize) -> Self {
        let shared = Self {
            daemon,
            connections: Arc::new(Connections::new()),
            log_limits: LogLimits::default(),
            refusals: Refusals::default(),
            look_ups: Gate::new(LOOK_UPS, MOST_WAITING),
            reactors,
            descriptors,
        };
        let config = shared.daemon.config();
        shared.apply_grants(&config);
        let (configured, most) = (config.socket.connections, shared.connection_limits(&config).total);
        if most < configured {
            tracing::warn!(
                "this process may open {descriptors} descriptors, so at most {most} connections are accepted instead of the configured {configured}; raise LimitNOFILE of the service, or ulimit -Hn"
            );
        }
        drop(config);
        shared
    }

    /// Limits of connections: those of the configuration, as far as there are descriptors. A
    /// connection whose peer does not read its answer needs a second descriptor.
    pub(super) fn connection_limits(&self, config: &Config) -> ConnectionLimits {
        let most = (self.descriptors.saturating_sub(RESERVED) / 2).max(1);
        ConnectionLimits {
            total: config.socket.connections.min(most),
            per_user: config.socket.connections_per_user,
        }
    }

    /// Applies the grants of a configuration to the connections that are open.
    pub(crate) fn apply_grants(&self, config: &Config) {
        self.log_limits.set_grants(&config.grants);
        self.connections.apply_grants(&config.grants);
    }
}

/// Maximum number of look-ups of keys in the store at a time. Each look-up takes a thread of its
/// own.
const LOOK_UPS: usize = 2;

/// Descriptors kept for everything except the connections of peers: administrators, units, the
/// store, and closed connections whose requests are still in progress.
const RESERVED: usize = 256;
