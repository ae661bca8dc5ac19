//! The configuration as text: the tables of the file, their defaults, and their checks.

use core::num::NonZeroUsize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use keyward_client::Address;
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::LevelFilter;

use super::audit::RawAudit;
use super::authority::{self, RawAuthority};
use super::error::InvalidSetting;
use super::grant::RawGrant;
use super::grep11::{self, EMBEDDED, RawGrep11};
use super::plan::{self, RawPlan};
use super::role::{RawRole, check_separation};
use super::times::{duration, timeout};
use super::watch::{self, RawWatch};
use super::{CACHED_KEYS, Config, Embedded, SocketSettings};
use crate::ground::log::LogFormat;
use crate::policy::authorise::Grants;
use crate::policy::roles::Roles;

/// A whole file.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(super) struct Raw {
    log: String,
    log_format: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_backend: Option<String>,
    separation: bool,
    socket: RawSocket,
    limits: RawLimits,
    embedded: RawEmbedded,
    store: RawStore,
    audit: RawAudit,
    metrics: RawMetrics,
    grep11: BTreeMap<String, RawGrep11>,
    grant: Vec<RawGrant>,
    // An empty list on a line of its own would not let anybody append a section.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    role: Vec<RawRole>,
    ca: BTreeMap<String, RawAuthority>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    certificate: Vec<RawPlan>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    watch: Vec<RawWatch>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct RawSocket {
    also: Vec<String>,
    connections: usize,
    connections_per_user: usize,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct RawLimits {
    request_timeout: String,
    drain_timeout: String,
    cached_records: NonZeroUsize,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct RawEmbedded {
    #[serde(skip_serializing_if = "Option::is_none")]
    master_key: Option<PathBuf>,
    /// A setting of earlier versions.
    #[serde(skip_serializing)]
    next_master_key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unseal_key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unseal_passphrase: Option<PathBuf>,
    cached_keys: NonZeroUsize,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct RawStore {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct RawMetrics {
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<String>,
}

impl Raw {
    /// The text of a checked configuration.
    pub(super) fn of(config: &Config) -> Self {
        Self {
            log: config.log.to_string(),
            log_format: match config.log_format {
                LogFormat::Json => JSON.into(),
                LogFormat::Text => TEXT.into(),
            },
            socket: RawSocket {
                also: config.socket.extra.iter().map(Address::to_string).collect(),
                connections: config.socket.connections,
                connections_per_user: config.socket.connections_per_user,
            },
            limits: RawLimits {
                request_timeout: duration(config.request_timeout),
                drain_timeout: duration(config.drain_timeout),
                cached_records: config.cached_records,
            },
            embedded: RawEmbedded {
                master_key: config.embedded.master_key.clone(),
                next_master_key: None,
                unseal_key: config.embedded.unseal_key.clone(),
                unseal_passphrase: config.embedded.unseal_passphrase.clone(),
                cached_keys: config.embedded.cached_keys,
            },
            store: RawStore { key: config.store_key.clone() },
            audit: RawAudit::of(&config.audit),
            metrics: RawMetrics { listen: config.metrics.as_ref().map(SocketAddr::to_string) },
            grep11: config
                .grep11
                .iter()
                .map(|(name, grep11)| (name.clone(), RawGrep11::of(grep11)))
                .collect(),
            default_backend: config.default_backend.clone(),
            grant: config.grants.iter().map(RawGrant::of).collect(),
            separation: config.roles.separation(),
            role: config.roles.iter().map(RawRole::of).collect(),
            ca: config
                .authorities
                .iter()
                .map(|(name, authority)| (name.clone(), RawAuthority::of(authority)))
                .collect(),
            certificate: config.plans.iter().map(RawPlan::of).collect(),
            watch: config.watches.iter().map(RawWatch::of).collect(),
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// [`InvalidSetting`] for the first setting that is not allowed.
    pub(super) fn check(self) -> Result<Config, InvalidSetting> {
        let grants: Result<Vec<_>, _> =
            self.grant.into_iter().enumerate().map(|(index, grant)| grant.check(index + 1)).collect();
        let roles: Result<Vec<_>, _> =
            self.role.into_iter().enumerate().map(|(index, role)| role.check(index + 1)).collect();
        let default = self.default_backend.as_ref();
        if let Some(name) = default.filter(|name| *name != EMBEDDED && !self.grep11.contains_key(*name)) {
            let mut names: Vec<_> = self.grep11.keys().map(|name| format!("{name:?}")).collect();
            names.push(format!("{EMBEDDED:?}"));
            let missing = match name.as_str() {
                "" => "it names no backend".to_owned(),
                name => format!("there is no section [grep11.{name}]"),
            };
            let reason = format!("{missing}; write {}, or take the line out", names.join(" or "));
            return Err(InvalidSetting::new("default-backend", reason));
        }
        let authorities = authority::check(self.ca)?;
        Ok(Config {
            plans: plan::check(self.certificate, &authorities)?,
            watches: watch::check(self.watch)?,
            authorities,
            log: level(&self.log)?,
            log_format: match &*self.log_format {
                JSON => LogFormat::Json,
                TEXT => LogFormat::Text,
                other => {
                    let reason = format!("{other:?} is neither {TEXT:?} nor {JSON:?}");
                    return Err(InvalidSetting::new("log-format", reason));
                }
            },
            socket: self.socket.check()?,
            request_timeout: timeout("limits.request-timeout", &self.limits.request_timeout)?,
            drain_timeout: timeout("limits.drain-timeout", &self.limits.drain_timeout)?,
            cached_records: self.limits.cached_records,
            embedded: self.embedded.check()?,
            store_key: self.store.key.map(|path| absolute("store.key", path)).transpose()?,
            grep11: grep11::check(self.grep11)?,
            default_backend: self.default_backend,
            grants: Grants::new(grants?),
            audit: self.audit.check()?,
            metrics: self.metrics.listen.as_deref().map(loopback).transpose()?,
            roles: check_separation(Roles::new(roles?, self.separation))?,
        })
    }
}

impl RawSocket {
    fn check(self) -> Result<SocketSettings, InvalidSetting> {
        let address = |text: &String| {
            let wrong = |reason: String| InvalidSetting::new("socket.also", reason);
            match text.contains('\n') {
                // The daemon stores its sockets one on a line.
                true => Err(wrong(format!("{text:?} has a line break"))),
                false => text.parse().map_err(|error| wrong(format!("{error}"))),
            }
        };
        for (name, value) in
            [("connections", self.connections), ("connections-per-user", self.connections_per_user)]
        {
            if !(1..=MAX_CONNECTIONS).contains(&value) {
                let reason = format!("{value} is not between 1 and {MAX_CONNECTIONS}");
                return Err(InvalidSetting::new(format!("socket.{name}"), reason));
            }
        }
        Ok(SocketSettings {
            extra: self.also.iter().map(address).collect::<Result<_, _>>()?,
            connections: self.connections,
            connections_per_user: self.connections_per_user,
        })
    }
}

impl RawEmbedded {
    fn check(self) -> Result<Embedded, InvalidSetting> {
        let file = |name: &str, path: Option<PathBuf>| {
            path.map(|path| absolute(&format!("embedded.{name}"), path)).transpose()
        };
        if self.next_master_key.is_some() {
            let reason = "this version changes the master key with keyward unit rotate, as docs/key-store.md describes; finish a change that has begun with the version before, and remove the line";
            return Err(InvalidSetting::new("embedded.next-master-key", reason.to_owned()));
        }
        Ok(Embedded {
            master_key: file("master-key", self.master_key)?,
            unseal_key: file("unseal-key", self.unseal_key)?,
            unseal_passphrase: file("unseal-passphrase", self.unseal_passphrase)?,
            cached_keys: self.cached_keys,
        })
    }
}

fn absolute(setting: &str, path: PathBuf) -> Result<PathBuf, InvalidSetting> {
    match path.is_absolute() {
        true => Ok(path),
        false => Err(InvalidSetting::new(setting, format!("{} is not an absolute path", path.display()))),
    }
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            log: "info".into(),
            log_format: TEXT.into(),
            default_backend: None,
            separation: false,
            socket: RawSocket::default(),
            limits: RawLimits::default(),
            embedded: RawEmbedded::default(),
            store: RawStore::default(),
            audit: RawAudit::default(),
            metrics: RawMetrics::default(),
            grep11: BTreeMap::new(),
            grant: Vec::new(),
            role: Vec::new(),
            ca: BTreeMap::new(),
            certificate: Vec::new(),
            watch: Vec::new(),
        }
    }
}

impl Default for RawSocket {
    fn default() -> Self {
        let socket = Config::default().socket;
        Self {
            also: Vec::new(),
            connections: socket.connections,
            connections_per_user: socket.connections_per_user,
        }
    }
}

impl Default for RawLimits {
    fn default() -> Self {
        let config = Config::default();
        Self {
            request_timeout: duration(config.request_timeout),
            drain_timeout: duration(config.drain_timeout),
            cached_records: config.cached_records,
        }
    }
}

impl Default for RawEmbedded {
    fn default() -> Self {
        Self {
            master_key: None,
            next_master_key: None,
            unseal_key: None,
            unseal_passphrase: None,
            cached_keys: CACHED_KEYS,
        }
    }
}

/// The address of a port that only programs of this host reach.
fn loopback(text: &str) -> Result<SocketAddr, InvalidSetting> {
    let wrong = |reason: &str| {
        let advice = "write listen = \"127.0.0.1:9463\" or listen = \"[::1]:9463\"";
        InvalidSetting::new("metrics.listen", format!("{text:?} {reason}; {advice}"))
    };
    let address = text.parse::<SocketAddr>().map_err(|_| wrong("is not an address with a port"))?;
    match (address.ip().is_loopback(), address.port()) {
        (false, _) => {
            Err(wrong("is not a loopback address, and the metrics have neither TLS nor a password"))
        }
        (true, 0) => Err(wrong("has no port")),
        (true, _) => Ok(address),
    }
}

fn level(text: &str) -> Result<LevelFilter, InvalidSetting> {
    text.parse().map_err(|_| {
        let reason = format!("{text:?} is not one of error, warn, info, debug, trace and off");
        InvalidSetting::new("log", reason)
    })
}

const JSON: &str = "json";
const TEXT: &str = "text";

/// Maximum number of connections. More connections need more descriptors than systemd gives to a
/// process by default.
const MAX_CONNECTIONS: usize = 500_000;
