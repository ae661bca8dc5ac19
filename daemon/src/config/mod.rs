//! `keyward.toml`: read as text, checked once, and from then on a value of checked types.

mod grep11;
mod syntax;

use core::num::{NonZeroU32, NonZeroUsize};
use core::time::Duration;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyward_client::Address;
use keyward_proto::Use;
use nix::unistd::{Group, User};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tracing_subscriber::filter::LevelFilter;

use crate::ground::ownership;
use crate::policy::authorise::{Grant, Grants, Limits, Pattern, Who};
use grep11::RawGrep11;
use syntax::{one_line, told};

pub(crate) use grep11::EMBEDDED;
pub use grep11::{Auth, Dialect, Endpoint, Grep11, Tls};

/// Checked settings of the daemon.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// What is logged. At `debug`: one line for each signature, with peer, key and purpose.
    pub log: LevelFilter,
    /// The sockets for peers.
    pub socket: SocketSettings,
    /// How long a request may take, and a frame may be on its way.
    pub request_timeout: Duration,
    /// How long the requests that are under way at SIGTERM may take.
    pub drain_timeout: Duration,
    /// How many keys' records are kept in memory.
    pub cached_records: NonZeroUsize,
    /// The software crypto unit.
    pub embedded: Embedded,
    /// The file that holds the store key, for a daemon without a software crypto unit.
    pub store_key: Option<PathBuf>,
    /// The backends that reach their units over GREP11, by name.
    pub grep11: BTreeMap<String, Grep11>,
    /// Where keys are made that are to be in no backend by name; `None` for the only one there is.
    pub default_backend: Option<String>,
    /// Who may do what.
    pub grants: Grants,
}

/// The sockets for peers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SocketSettings {
    /// Sockets beside the one in the runtime directory, for example inside a chroot.
    pub extra: Vec<Address>,
    /// Most connections at a time.
    pub connections: usize,
    /// Most connections of one user at a time.
    pub connections_per_user: usize,
}

/// The software crypto unit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Embedded {
    /// The file that holds the master key.
    pub master_key: Option<PathBuf>,
    /// The file that holds the master key that is to come, by which keys are wrapped as well.
    pub next_master_key: Option<PathBuf>,
    /// How many unwrapped keys are kept in memory.
    pub cached_keys: NonZeroUsize,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, and the line where there is one.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let failed = |reason| ConfigError::Read { path: path.to_owned(), reason };
        let mut text = String::new();
        let file = ownership::open(path).map_err(|error| match error.into_io() {
            Ok(reason) => failed(reason),
            Err(error) => ConfigError::Refused(error.to_string()),
        })?;
        let mut file = file.take(MAX_FILE + 1);
        file.read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > MAX_FILE {
            return Err(failed(io::Error::other("it is longer than 1 MiB")));
        }
        Self::parse(&text, path)
    }

    /// Checks the text of a configuration; `origin` is named in errors.
    ///
    /// # Errors
    /// [`ConfigError`] names the origin, and the line where there is one.
    pub fn parse(text: &str, origin: &Path) -> Result<Self, ConfigError> {
        let raw: Raw = toml::from_str(text).map_err(|error| {
            let start = error.span().map(|span| span.start);
            let line = start.map(|start| 1 + text.bytes().take(start).filter(|b| *b == b'\n').count());
            let reason = told(&one_line(error.message()), text, start.unwrap_or_default());
            ConfigError::Syntax { path: origin.to_owned(), line, reason }
        })?;
        let wrong =
            |setting: String, reason: String| ConfigError::Value { path: origin.to_owned(), setting, reason };
        raw.check().map_err(|(setting, reason)| wrong(setting, reason))
    }

    /// What is legal and looks like a mistake: one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for grant in self.grants.iter() {
            let keys: Vec<_> = grant.keys.iter().map(Pattern::as_str).collect();
            if grant.uses.contains(&Use::Any) {
                warnings.push(format!(
                    "the grant for keys {} includes \"any\": its holder can have any text and any digest signed",
                    keys.join(", ")
                ));
            }
            if grant.who.uid == Some(0) && keys.contains(&"*") && grant.uses.contains(&Use::TlsServer) {
                warnings.push(
                    "a grant lets root serve with every key: grant the user that the server drops to".into(),
                );
            }
        }
        for (number, narrow, wide) in self.grants.overruled() {
            warnings.push(format!(
                "grant number {number} is narrower than grant number {wide}, which lets the same processes use the same keys: one grant is enough for a peer, so {narrow} does nothing there"
            ));
        }
        if self.request_timeout < Duration::from_millis(100) {
            warnings.push("request-timeout is below 100ms: a busy machine may refuse handshakes".into());
        }
        warnings
    }

    /// What the uses that are granted open, and what they do not: one sentence each, for whoever checks a configuration.
    pub fn notes(&self) -> Vec<String> {
        let about = |one: Use, text: &str| {
            let granted = self.grants.iter().filter(|grant| grant.uses.contains(&one));
            let keys: Vec<_> = granted.flat_map(|grant| grant.keys.iter().map(Pattern::as_str)).collect();
            (!keys.is_empty()).then(|| format!("{one} is granted for keys {}: {text}", keys.join(", ")))
        };
        let notes = [
            about(
                Use::TlsServer,
                "it signs TLS 1.3, and TLS 1.2 with ECDHE where the server offers TLS 1.3 as well; a server with TLS 1.2 \
                 alone, and DTLS 1.2, need tls12-server too, DHE needs tls12-dhe-server, in key and grant; for a server \
                 with TLS 1.3 alone, tls13-server is enough and leaves less to whoever takes that server over",
            ),
            about(
                Use::Tls12Server,
                "it opens 64 bytes and the public value of what is signed to whoever drives the server; offer TLS 1.3 as \
                 well and grant tls-server, or TLS 1.3 alone and grant tls13-server, where that is possible",
            ),
            about(
                Use::Tls12DheServer,
                "it opens 64 bytes and up to 1,024 more of what is signed to whoever drives the server; drop DHE and grant \
                 tls-server, where that is possible",
            ),
            about(
                Use::TlsClient,
                "in TLS 1.2 it opens much of the handshake, up to 64 KiB, to whoever drives the client; grant tls13-client \
                 where the servers speak TLS 1.3",
            ),
        ];
        notes.into_iter().flatten().collect()
    }

    /// What tells this configuration from others: SHA-256 of [`Self::to_effective_toml`], in
    /// hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        let digest = Sha256::digest(self.to_effective_toml());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The configuration with every default spelled out, as a file that says the same.
    pub fn to_effective_toml(&self) -> String {
        let grants = self.grants.iter().map(|grant| RawGrant {
            user: None,
            group: grant.who.gid.map(group_name),
            uid: grant.who.uid,
            unit: grant.who.service.as_deref().map(str::to_owned),
            keys: grant.keys.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
            uses: grant.uses.iter().map(|u| u.name().to_owned()).collect(),
            rate: grant.limits.rate,
            in_flight: grant.limits.in_flight,
        });
        let raw = Raw {
            log: self.log.to_string(),
            socket: RawSocket {
                also: self.socket.extra.iter().map(Address::to_string).collect(),
                connections: self.socket.connections,
                connections_per_user: self.socket.connections_per_user,
            },
            limits: RawLimits {
                request_timeout: duration(self.request_timeout),
                drain_timeout: duration(self.drain_timeout),
                cached_records: self.cached_records,
            },
            embedded: RawEmbedded {
                master_key: self.embedded.master_key.clone(),
                next_master_key: self.embedded.next_master_key.clone(),
                cached_keys: self.embedded.cached_keys,
            },
            store: RawStore { key: self.store_key.clone() },
            grep11: self.grep11.iter().map(|(name, grep11)| (name.clone(), RawGrep11::of(grep11))).collect(),
            default_backend: self.default_backend.clone(),
            grant: grants.collect(),
        };
        // Fails only for types that TOML cannot express, of which `Raw` has none.
        toml::to_string(&raw).unwrap_or_default()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log: LevelFilter::INFO,
            socket: SocketSettings { extra: Vec::new(), connections: 4096, connections_per_user: 1024 },
            request_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(10),
            cached_records: CACHED_RECORDS,
            embedded: Embedded { master_key: None, next_master_key: None, cached_keys: CACHED_KEYS },
            store_key: None,
            grep11: BTreeMap::new(),
            default_backend: None,
            grants: Grants::default(),
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// Others than root and the user who runs this can change the file.
    #[error("refused the configuration: {0}")]
    Refused(String),
    /// It is not TOML, or has keys or types that there are not.
    #[error("configuration {}{}: {reason}", path.display(), line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        line: Option<usize>,
        /// What is wrong.
        reason: String,
    },
    /// A value makes no sense.
    #[error("configuration {}: {setting}: {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Which setting.
        setting: String,
        /// What is wrong with it.
        reason: String,
    },
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct Raw {
    log: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_backend: Option<String>,
    socket: RawSocket,
    limits: RawLimits,
    embedded: RawEmbedded,
    store: RawStore,
    grep11: BTreeMap<String, RawGrep11>,
    grant: Vec<RawGrant>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    next_master_key: Option<PathBuf>,
    cached_keys: NonZeroUsize,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct RawStore {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<PathBuf>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawGrant {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    keys: Vec<String>,
    #[serde(default = "default_uses")]
    uses: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_flight: Option<NonZeroU32>,
}

/// Which setting, and what is wrong with it.
type Wrong = (String, String);

impl Raw {
    fn check(self) -> Result<Config, Wrong> {
        let grants: Result<Vec<_>, _> =
            self.grant.into_iter().enumerate().map(|(index, grant)| grant.check(index + 1)).collect();
        let default = self.default_backend.as_ref();
        if let Some(name) = default.filter(|name| *name != EMBEDDED && !self.grep11.contains_key(*name)) {
            let mut names: Vec<_> = self.grep11.keys().map(|name| format!("{name:?}")).collect();
            names.push(format!("{EMBEDDED:?}"));
            let missing = match name.as_str() {
                "" => "it names no backend".to_owned(),
                name => format!("there is no section [grep11.{name}]"),
            };
            let reason = format!("{missing}; write {}, or take the line out", names.join(" or "));
            return Err(("default-backend".into(), reason));
        }
        Ok(Config {
            log: level(&self.log)?,
            socket: self.socket.check()?,
            request_timeout: timeout("limits.request-timeout", &self.limits.request_timeout)?,
            drain_timeout: timeout("limits.drain-timeout", &self.limits.drain_timeout)?,
            cached_records: self.limits.cached_records,
            embedded: self.embedded.check()?,
            store_key: self.store.key.map(|path| absolute("store.key", path)).transpose()?,
            grep11: grep11::check(self.grep11)?,
            default_backend: self.default_backend,
            grants: Grants::new(grants?),
        })
    }
}

impl RawSocket {
    fn check(self) -> Result<SocketSettings, Wrong> {
        let address = |text: &String| {
            let wrong = |reason: String| ("socket.also".to_owned(), reason);
            match text.contains('\n') {
                // The daemon has its places in lines.
                true => Err(wrong(format!("{text:?} has a line break"))),
                false => text.parse().map_err(|error| wrong(format!("{error}"))),
            }
        };
        for (name, value) in
            [("connections", self.connections), ("connections-per-user", self.connections_per_user)]
        {
            if !(1..=MAX_CONNECTIONS).contains(&value) {
                return Err((
                    format!("socket.{name}"),
                    format!("{value} is not between 1 and {MAX_CONNECTIONS}"),
                ));
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
    fn check(self) -> Result<Embedded, Wrong> {
        let file = |name: &str, path: Option<PathBuf>| {
            path.map(|path| absolute(&format!("embedded.{name}"), path)).transpose()
        };
        Ok(Embedded {
            master_key: file("master-key", self.master_key)?,
            next_master_key: file("next-master-key", self.next_master_key)?,
            cached_keys: self.cached_keys,
        })
    }
}

fn absolute(setting: &str, path: PathBuf) -> Result<PathBuf, Wrong> {
    match path.is_absolute() {
        true => Ok(path),
        false => Err((setting.into(), format!("{} is not an absolute path", path.display()))),
    }
}

impl RawGrant {
    fn check(self, number: usize) -> Result<Grant, Wrong> {
        let wrong = |reason: String| (format!("grant number {number}"), reason);
        let uid = match (self.user, self.uid) {
            (Some(_), Some(_)) => return Err(wrong("name the user by user or by uid, not by both".into())),
            (Some(user), None) => Some(uid_of(&user).map_err(wrong)?),
            // Which stands for no user in every call of the kernel (setreuid(2)).
            (None, Some(u32::MAX)) => return Err(wrong(format!("uid {} is nobody's", u32::MAX))),
            (None, uid) => uid,
        };
        let gid = self.group.map(|group| gid_of(&group)).transpose().map_err(wrong)?;
        let service = self.unit.map(service).transpose().map_err(wrong)?;
        let who = Who { uid, gid, service };
        if who == Who::default() {
            return Err(wrong("name at least one of user, uid, group and unit".into()));
        }
        if self.keys.is_empty() || self.uses.is_empty() {
            return Err(wrong("keys and uses must not be empty".into()));
        }
        let pattern =
            |key: &String| key.parse::<Pattern>().map_err(|error| wrong(format!("{key:?} is {error}")));
        let one_use = |u: &String| {
            match u.parse::<Use>() {
            Ok(Use::AcmeAccount) => Err(wrong(
                "acme-account cannot be granted: the daemon makes the requests of an ACME account itself and signs none \
                 for a peer; take it out of uses"
                    .into(),
            )),
            parsed => parsed.map_err(|error| wrong(format!("{u:?}: {error}"))),
        }
        };
        Ok(Grant {
            who,
            keys: self.keys.iter().map(pattern).collect::<Result<_, _>>()?,
            uses: self.uses.iter().map(one_use).collect::<Result<_, _>>()?,
            limits: Limits { rate: self.rate, in_flight: self.in_flight },
        })
    }
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            log: "info".into(),
            default_backend: None,
            socket: RawSocket::default(),
            limits: RawLimits::default(),
            embedded: RawEmbedded::default(),
            store: RawStore::default(),
            grep11: BTreeMap::new(),
            grant: Vec::new(),
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
        Self { master_key: None, next_master_key: None, cached_keys: CACHED_KEYS }
    }
}

fn default_uses() -> Vec<String> {
    vec![Use::TlsServer.name().into()]
}

fn level(text: &str) -> Result<LevelFilter, Wrong> {
    text.parse().map_err(|_| {
        ("log".to_owned(), format!("{text:?} is not one of error, warn, info, debug, trace and off"))
    })
}

/// Reads a time like `5s` or `500ms`, from 1 ms to an hour.
fn timeout(setting: &str, text: &str) -> Result<Duration, Wrong> {
    let range = Duration::from_millis(1)..=Duration::from_secs(3600);
    humantime::parse_duration(text).ok().filter(|duration| range.contains(duration)).ok_or_else(|| {
        (setting.to_owned(), format!("{text:?} is not a time between 1ms and 1h, like 5s or 500ms"))
    })
}

fn duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn uid_of(user: &str) -> Result<u32, String> {
    match User::from_name(user) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err(format!("there is no user {user:?} on this machine")),
        Err(error) => Err(format!("cannot look up user {user:?}: {}", error.desc())),
    }
}

fn gid_of(group: &str) -> Result<u32, String> {
    match Group::from_name(group) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(format!("there is no group {group:?} on this machine")),
        Err(error) => Err(format!("cannot look up group {group:?}: {}", error.desc())),
    }
}

/// The name of a service as it stands in the path of its cgroup (systemd.unit(5)).
fn service(name: String) -> Result<Arc<str>, String> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b":-_.\\@".contains(&c);
    match name.strip_suffix(".service") {
        Some(stem) if stem.ends_with('@') => Err(format!(
            "unit {name:?} is a template, which no process runs in; name an instance, like \"{stem}shop.service\""
        )),
        // Which systemd keeps below user.slice.
        Some(stem) if stem.starts_with("user@") => Err(format!(
            "unit {name:?} is a user's own, where that user makes services of any name; grant it by user alone"
        )),
        Some(stem) if !stem.is_empty() && name.len() <= 255 && name.bytes().all(allowed) => Ok(name.into()),
        _ => Err(format!("unit {name:?} is not the name of a service, like \"nginx.service\"")),
    }
}

fn group_name(gid: u32) -> String {
    Group::from_gid(gid.into()).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name)
}

/// Longest file, in bytes (1 MiB).
const MAX_FILE: u64 = 1 << 20;

/// More connections than this need more descriptors than Linux gives to a process by default with systemd.
const MAX_CONNECTIONS: usize = 500_000;

const CACHED_KEYS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
const CACHED_RECORDS: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("k.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(parse(""), Ok(Config::default()));
    }

    #[test]
    fn every_setting() {
        let config = parse(
            r#"
            log = "debug"
            [socket]
            also = ["/var/lib/haproxy/keyward.sock", "@keyward"]
            connections = 10
            connections-per-user = 5
            [limits]
            request-timeout = "500ms"
            drain-timeout = "1m"
            cached-records = 7
            [embedded]
            master-key = "/etc/keyward/master.key"
            next-master-key = "/etc/keyward/next-master.key"
            cached-keys = 9
            [[grant]]
            user = "root"
            keys = ["shop", "*.example.com"]
            [[grant]]
            group = "root"
            keys = ["*"]
            uses = ["tls-client", "csr"]
            [[grant]]
            uid = 4711
            keys = ["a"]
            uses = ["any"]
            [[grant]]
            uid = 33
            unit = "app@1.service"
            keys = ["a"]
            rate = 500
            in-flight = 64
            "#,
        )
        .unwrap();
        assert_eq!(config.log, LevelFilter::DEBUG);
        assert_eq!(config.socket.extra[1].to_string(), "@keyward");
        assert_eq!((config.socket.connections, config.socket.connections_per_user), (10, 5));
        assert_eq!(config.request_timeout, Duration::from_millis(500));
        assert_eq!(config.drain_timeout, Duration::from_secs(60));
        assert_eq!((config.cached_records.get(), config.embedded.cached_keys.get()), (7, 9));
        let grants: Vec<_> = config.grants.iter().collect();
        assert_eq!((&grants[0].who, &grants[0].uses[..]), (&Who::user(0), &[Use::TlsServer][..]));
        assert_eq!(grants[1].who, Who { gid: Some(0), ..Who::default() });
        assert_eq!(grants[2].who, Who::user(4711));
        assert_eq!(grants[3].who, Who { service: Some("app@1.service".into()), ..Who::user(33) });
        let limits = Limits { rate: NonZeroU32::new(500), in_flight: NonZeroU32::new(64) };
        assert_eq!((grants[2].limits, grants[3].limits), (Limits::default(), limits));
        assert_eq!(config.warnings().len(), 1, "{:?}", config.warnings());
        assert_eq!(parse(&config.to_effective_toml()), Ok(config));
    }

    #[test]
    fn notes_tell_what_uses_open_and_leave_out() {
        assert_eq!(Config::default().notes(), Vec::<String>::new());
        let grant =
            |uses: &str| format!("[[grant]]\nuid = 1\nkeys = [\"shop\", \"mail\"]\nuses = [{uses}]\n");
        for (uses, words) in [
            (
                "\"tls-server\"",
                &["TLS 1.2 alone", "need tls12-server", "tls12-dhe-server", "tls13-server"][..],
            ),
            ("\"tls12-server\"", &["64 bytes", "offer TLS 1.3"]),
            ("\"tls12-dhe-server\"", &["1,024", "drop DHE"]),
        ] {
            let notes = parse(&grant(uses)).unwrap().notes();
            assert_eq!(notes.len(), 1, "{notes:?}");
            for word in ["shop, mail"].iter().chain(words) {
                assert!(notes[0].contains(word), "{notes:?} lacks {word:?}");
            }
        }
        assert_eq!(parse(&grant("\"tls13-server\", \"csr\"")).unwrap().notes(), Vec::<String>::new());
    }

    #[test]
    fn a_narrow_grant_beside_a_wide_one_is_told() {
        let warnings = |more: &str| {
            let text =
                format!("[[grant]]\nuid = 33\nunit = \"nginx.service\"\nkeys = [\"shop\"]\nrate = 5\n{more}");
            parse(&text).unwrap().warnings()
        };
        let wide = warnings("[[grant]]\nuid = 33\nkeys = [\"*\"]\n");
        assert!(
            wide.len() == 1 && wide[0].contains("grant number 1") && wide[0].contains("unit and rate"),
            "{wide:?}"
        );
        for apart in [
            "",
            "[[grant]]\nuid = 34\nkeys = [\"*\"]\n",
            "[[grant]]\nuid = 33\nkeys = [\"mail\"]\n",
            "[[grant]]\nuid = 33\nkeys = [\"shop\"]\nuses = [\"csr\"]\n",
            "[[grant]]\nuid = 33\nunit = \"php-fpm.service\"\nkeys = [\"shop\"]\n",
        ] {
            assert_eq!(warnings(apart), Vec::<String>::new(), "{apart}");
        }
    }

    #[test]
    fn the_default_says_itself() {
        assert_eq!(parse(&Config::default().to_effective_toml()), Ok(Config::default()));
    }

    #[test]
    fn the_shipped_example_is_sound() {
        let example = include_str!("../../../conf/keyward.toml");
        parse(example).unwrap();
        // With its examples switched on, but for the user, who may not exist here.
        let on: String =
            example.lines().map(|line| format!("{}\n", line.strip_prefix("#: ").unwrap_or(line))).collect();
        let config = parse(&on.replace("\"www-data\"", "\"root\"")).unwrap();
        assert_eq!(config.grants.iter().count(), 2);
    }

    #[test]
    fn each_mistake_has_one_clear_line() {
        for (text, words) in [
            ("lgo = \"info\"", &["k.toml, line 1", "unknown field `lgo`", "expected one of"][..]),
            ("[socket]\n\nconections = 1", &["line 3", "unknown field `conections`"]),
            ("log = 1", &["line 1: log: this is text, write it in quotes"]),
            ("log = ", &["line 1"]),
            ("log = \"loud\"", &["log", "loud", "debug"]),
            (
                "default-backend = \"hsm\"",
                &["default-backend: there is no section [grep11.hsm]; write \"embedded\", or take"],
            ),
            (
                "default-backend = \"\"\n[grep11.hsm]\nendpoints = [\"a:1\"]",
                &[
                    "default-backend: it names no backend; write \"hsm\" or \"embedded\", or take the line out",
                ],
            ),
            ("[limits]\nrequest-timeout = \"5\"", &["limits.request-timeout", "5s"]),
            ("[limits]\nrequest-timeout = \"0s\"", &["limits.request-timeout"]),
            ("[limits]\ndrain-timeout = \"2h\"", &["limits.drain-timeout"]),
            ("[limits]\ncached-records = 0", &["line 2: cached-records: ", "1 or more"]),
            ("[socket]\nconnections = 0", &["socket.connections"]),
            ("[socket]\nalso = [\"keyward.sock\"]", &["socket.also", "absolute path"]),
            ("[socket]\nalso = [\"/a\\nb\"]", &["socket.also", "line break"]),
            ("[embedded]\nmaster-key = \"key\"", &["embedded.master-key", "absolute"]),
            ("[[grant]]\nkeys = [\"a\"]", &["grant number 1", "at least one of user, uid, group and unit"]),
            ("[[grant]]\nuid = 1\nuser = \"root\"\nkeys = [\"a\"]", &["grant number 1", "not by both"]),
            ("[[grant]]\nunit = \"nginx\"\nkeys = [\"a\"]", &["grant number 1", "nginx.service"]),
            ("[[grant]]\nunit = \"a/b.service\"\nkeys = [\"a\"]", &["grant number 1", "name of a service"]),
            (
                "[[grant]]\nuid = 1\nkeys = [\"a\"]\nrate = 0",
                &["line 4: rate: ", "a whole number, 1 or more"],
            ),
            ("[[grant]]\nuid = 1\nkeys = [\"a\"]\nin-flight = 0", &["line 4: in-flight: ", "1 or more"]),
            (
                "[[grant]]\nuid = 4294967295\nkeys = [\"a\"]",
                &["grant number 1", "uid 4294967295 is nobody's"],
            ),
            ("[[grant]]\nunit = \"stunnel@.service\"\nkeys = [\"a\"]", &["template", "stunnel@shop.service"]),
            ("[[grant]]\nunit = \"user@1000.service\"\nkeys = [\"a\"]", &["a user's own", "by user alone"]),
            ("[[grant]]\nuid = 1", &["line 1", "missing field `keys`"]),
            ("[[grant]]\nuid = 1\nkeys = []", &["grant number 1", "must not be empty"]),
            ("[[grant]]\nuid = 1\nkeys = [\"a b\"]", &["grant number 1", "pattern"]),
            ("[[grant]]\nuid = 1\nkeys = [\"a\"]\nuses = [\"tls\"]", &["\"tls\": unknown use", "tls-server"]),
            (
                "[[grant]]\nuid = 1\nkeys = [\"a\"]\nuses = [\"csr\", \"acme-account\"]",
                &["grant number 1", "acme-account cannot be granted", "take it out"],
            ),
            ("[[grant]]\nuser = \"no-such-user\"\nkeys = [\"a\"]", &["no user \"no-such-user\""]),
            ("[[grant]]\ngroup = \"no-such-group\"\nkeys = [\"a\"]", &["no group \"no-such-group\""]),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.lines().count(), 1, "{error}");
            for word in words {
                assert!(error.contains(word), "{text:?}: {error:?} lacks {word:?}");
            }
        }
    }

    #[test]
    fn files_that_cannot_be_read() {
        let error = Config::load(Path::new("/no/such/keyward.toml")).unwrap_err().to_string();
        assert!(error.contains("/no/such/keyward.toml") && error.contains("No such file"), "{error}");
        assert!(Config::load(Path::new("/dev/zero")).unwrap_err().to_string().contains("longer than 1 MiB"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = parse(&text);
        }
    }
}
