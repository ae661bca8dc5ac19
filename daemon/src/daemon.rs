//! The state of a running daemon that its rooms share: keys, backends, configuration, metrics.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use keyward_proto::Label;
use keyward_unit::Wkid;

use crate::backend::{Backend, Backends, KeyMaterial};
use crate::config::Config;
use crate::keys::{KeyStore, Keys, Version};
use crate::observe::metrics::Metrics;
use crate::policy::authorise::Grant;
use crate::policy::purpose::Purpose;

/// A running daemon without its sockets. Shared by reference between tasks.
pub(crate) struct Daemon {
    pub(crate) keys: Keys,
    pub(crate) backends: Backends,
    pub(crate) metrics: Metrics,
    pub(crate) started: Instant,
    /// Whether it was started with `--dev`.
    pub(crate) dev: bool,
    /// Keys that have another master key than the unit, in words.
    left_behind: Option<String>,
    config: ArcSwap<Config>,
    /// The file that it was read from, if there is one.
    pub(crate) config_file: Option<PathBuf>,
    /// What [`Config::fingerprint`] says of it.
    fingerprint: ArcSwap<String>,
    /// The settings of it that take effect with a restart.
    pub(crate) waiting: ArcSwap<Vec<String>>,
    /// Given by `--dev`, whatever the configuration says.
    extra_grants: Vec<Grant>,
}

impl Daemon {
    pub(crate) fn new(
        config: Config,
        extra_grants: Vec<Grant>,
        dev: bool,
        store: KeyStore,
        backends: Backends,
    ) -> Self {
        let daemon = Self {
            keys: Keys::new(store, config.cached_records).with_unit(backends.embedded_unit()),
            metrics: Metrics::new(
                Purpose::ALL.map(Purpose::name).to_vec(),
                backends.iter().map(Backend::label),
            ),
            backends,
            started: Instant::now(),
            dev,
            left_behind: None,
            config: ArcSwap::from_pointee(Config::default()),
            config_file: None,
            fingerprint: ArcSwap::default(),
            waiting: ArcSwap::default(),
            extra_grants,
        };
        daemon.set_config(config);
        daemon
    }

    /// The same, with the file that the configuration was read from.
    #[must_use]
    pub(crate) fn with_config_file(self, config_file: Option<PathBuf>) -> Self {
        Self { config_file, ..self }
    }

    /// The same, with keys that have another master key than the unit.
    #[must_use]
    pub(crate) fn with_left_behind(self, left_behind: Option<String>) -> Self {
        Self { left_behind, ..self }
    }

    /// How many grants the configuration has, without those of `--dev`.
    pub(crate) fn configured_grants(&self) -> usize {
        self.config().grants.iter().count().saturating_sub(self.extra_grants.len())
    }

    /// What [`Config::fingerprint`] says of the configuration as it is now.
    pub(crate) fn fingerprint(&self) -> String {
        self.fingerprint.load().to_string()
    }

    /// The configuration as it is now.
    pub(crate) fn config(&self) -> arc_swap::Guard<Arc<Config>> {
        self.config.load()
    }

    /// Whether a backend could sign with its keys now.
    pub(crate) async fn is_ready(&self, backend: &Backend) -> bool {
        self.problem_of(backend).await.is_none()
    }

    /// Reason why a backend cannot sign with its keys now.
    async fn problem_of(&self, backend: &Backend) -> Option<String> {
        if let Err(unusable) = backend.usable() {
            return Some(unusable.to_string());
        }
        // If the store cannot be read, keys in memory may still sign.
        let present = self.keys.wkid(backend.name()).await.ok().flatten();
        let next = self.keys.next_wkid(backend.name()).await.ok().flatten();
        let wkids: Vec<Wkid> = present.into_iter().chain(next).collect();
        let is_ready = !self.keys.is_locked() && backend.is_ready(&wkids);
        (!is_ready).then(|| format!("no unit of backend {} can sign with its keys", backend.name()))
    }

    /// Reasons why the daemon cannot sign with keys that it has.
    pub(crate) async fn problems(&self) -> Vec<String> {
        let mut problems: Vec<_> = self.keys.problem().await.into_iter().collect();
        for backend in self.backends.iter() {
            problems.extend(self.problem_of(backend).await);
        }
        problems
    }

    /// Reasons why single keys do not sign, or will not stay as they are: the daemon is ready all
    /// the same.
    pub(crate) fn doubts(&self) -> Vec<String> {
        let unsettled = self.keys.unsettled().iter().map(Label::to_string).collect::<Vec<_>>().join(", ");
        let unsettled = (!unsettled.is_empty()).then(|| {
            format!("keys are disabled or deleted in the running daemon alone, for that cannot be written: {unsettled}; a restart takes it back")
        });
        self.left_behind.iter().cloned().chain(unsettled).collect()
    }

    /// Puts a configuration in force. Tells watching peers if the grants have changed.
    pub(crate) fn set_config(&self, mut config: Config) {
        self.fingerprint.store(Arc::new(config.fingerprint()));
        config.grants.extend(self.extra_grants.iter().cloned());
        let old = self.config.swap(Arc::new(config));
        if old.grants != self.config().grants {
            self.keys.changes().of_grants();
        }
    }
}

/// The part of a version that a backend needs.
pub(crate) fn key_material(version: &Version) -> KeyMaterial<'_> {
    KeyMaterial {
        key_type: version.key_type,
        spki: &version.spki,
        blob: &version.blob,
        next_blob: version.next_blob.as_deref(),
    }
}
