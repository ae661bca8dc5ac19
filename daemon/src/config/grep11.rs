//! `[grep11.NAME]`: a backend with remote units.

use core::fmt;
use core::num::{NonZeroU32, NonZeroUsize};
use core::str::FromStr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::InvalidSetting;
use super::times::{duration, timeout};

/// A backend that reaches its units over GREP11.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grep11 {
    /// Addresses of the units. All units should have the same master key. A unit is not used for a
    /// key whose blob names another master key.
    pub endpoints: Vec<Endpoint>,
    /// Protection of connections; `None` for no protection, which is allowed on loopback only.
    pub tls: Option<Tls>,
    /// Credential of the daemon in addition to a certificate.
    pub auth: Auth,
    /// Form of keys in requests.
    pub dialect: Dialect,
    /// Longest time for one attempt at one unit.
    pub timeout: Duration,
    /// Longest time to connect to a unit.
    pub connect_timeout: Duration,
    /// Idle time after which the daemon checks that the other end of a connection is still there.
    pub keepalive: Duration,
    /// Maximum number of calls in flight for each unit.
    pub in_flight: NonZeroUsize,
    /// Maximum number of calls in a second for each unit; `None` for no limit.
    pub rate: Option<NonZeroU32>,
    /// Maximum number of requests that wait for a unit. Further requests are refused at once.
    pub queue: usize,
    /// True if a request that takes longer than 95 of 100 requests is also sent to a second unit.
    pub hedge: bool,
}

impl Grep11 {
    /// Files that the daemon reads to reach the units.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let tls = self.tls.iter().flat_map(|tls| {
            let identity = tls.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
            tls.ca.iter().chain(identity)
        });
        let secret = match &self.auth {
            Auth::None => None,
            Auth::Token { file } => file.as_ref(),
            Auth::Iam { api_key_file, .. } => api_key_file.as_ref(),
        };
        tls.chain(secret).map(PathBuf::as_path)
    }
}

/// Address of a GREP11 server.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Endpoint {
    /// Host name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// TLS settings of connections to units. Files are PEM.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tls {
    /// Authorities that certify units; `None` for the authorities of the system.
    pub ca: Option<PathBuf>,
    /// Name in the certificates of the units; `None` for the host of the endpoint.
    pub server_name: Option<String>,
    /// Certificate chain and private key to show to units.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Credential of the daemon for a unit, in addition to a certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Auth {
    /// No credential.
    None,
    /// A bearer token.
    Token {
        /// File that holds the token; `None` for the credential `NAME.token` of systemd.exec(5).
        file: Option<PathBuf>,
    },
    /// A bearer token that IBM Cloud IAM gives for an API key.
    Iam {
        /// File that holds the API key; `None` for the credential `NAME.api-key` of
        /// systemd.exec(5).
        api_key_file: Option<PathBuf>,
        /// Address that gives tokens: `https://HOST[:PORT]/PATH`.
        url: String,
    },
}

/// Form of keys in requests. Two dialects of GREP11 differ here.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// `KeyBlob` messages, since 2024.
    KeyBlob,
    /// Bytes.
    Bytes,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "is not HOST:PORT, like hsm.example.com:9876";
        let (host, port) = text.rsplit_once(':').ok_or(EXPECTED)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        // An IPv6 address needs brackets, because the address itself contains colons.
        let sound = match bare {
            Some(address) => address.parse::<core::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty() && host.bytes().all(|c| c.is_ascii_alphanumeric() || b".-_".contains(&c))
            }
        };
        let port = port.parse().ok().filter(|port| *port != 0 && sound).ok_or(EXPECTED)?;
        Ok(Self { host: bare.unwrap_or(host).to_owned(), port })
    }
}

/// Checks every backend.
pub(super) fn check(raw: BTreeMap<String, RawGrep11>) -> Result<BTreeMap<String, Grep11>, InvalidSetting> {
    raw.into_iter()
        .map(|(name, raw)| {
            let section = format!("grep11.{name}");
            let sound = !name.is_empty()
                && name.len() <= MAX_NAME
                && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c));
            if !sound {
                let reason = format!("a name has up to {MAX_NAME} letters, digits, - and _");
                return Err(InvalidSetting::new(section, reason));
            }
            if name == EMBEDDED {
                return Err(InvalidSetting::new(
                    section,
                    "this is the name of the software crypto unit; choose another name",
                ));
            }
            let grep11 = raw.check(&section)?;
            Ok((name, grep11))
        })
        .collect()
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(super) struct RawGrep11 {
    endpoints: Vec<String>,
    plaintext: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<PathBuf>,
    auth: RawAuth,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iam_url: Option<String>,
    dialect: Dialect,
    timeout: String,
    connect_timeout: String,
    keepalive: String,
    in_flight: NonZeroUsize,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<NonZeroU32>,
    queue: usize,
    hedge: bool,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum RawAuth {
    None,
    Token,
    Iam,
}

/// Makes the error for a setting of the section, from the name of the setting and the reason.
type WrongSetting<'w> = dyn Fn(&str, String) -> InvalidSetting + 'w;

impl RawGrep11 {
    /// The text of checked settings.
    pub(super) fn of(checked: &Grep11) -> Self {
        let tls = checked.tls.clone().unwrap_or_default();
        let (certificate, key) = tls.identity.unzip();
        let mut raw = Self {
            endpoints: checked.endpoints.iter().map(Endpoint::to_string).collect(),
            plaintext: checked.tls.is_none(),
            ca: tls.ca,
            server_name: tls.server_name,
            certificate,
            key,
            dialect: checked.dialect,
            timeout: duration(checked.timeout),
            connect_timeout: duration(checked.connect_timeout),
            keepalive: duration(checked.keepalive),
            in_flight: checked.in_flight,
            rate: checked.rate,
            queue: checked.queue,
            hedge: checked.hedge,
            ..Self::default()
        };
        match &checked.auth {
            Auth::None => {}
            Auth::Token { file } => (raw.auth, raw.token_file) = (RawAuth::Token, file.clone()),
            Auth::Iam { api_key_file, url } => {
                raw.auth = RawAuth::Iam;
                raw.api_key_file.clone_from(api_key_file);
                raw.iam_url = Some(url.clone());
            }
        }
        raw
    }

    fn check(self, section: &str) -> Result<Grep11, InvalidSetting> {
        let wrong =
            |setting: &str, reason: String| InvalidSetting::new(format!("{section}.{setting}"), reason);
        let endpoint = |text: &String| text.parse().map_err(|why| format!("{text:?} {why}"));
        let endpoints: Result<Vec<Endpoint>, String> = self.endpoints.iter().map(endpoint).collect();
        let endpoints = endpoints.map_err(|reason| wrong("endpoints", reason))?;
        if !(1..=MAX_UNITS).contains(&endpoints.len()) {
            return Err(wrong("endpoints", format!("name between 1 and {MAX_UNITS} as HOST:PORT")));
        }
        if (1..endpoints.len()).any(|i| endpoints[..i].contains(&endpoints[i])) {
            return Err(wrong("endpoints", "the same endpoint is named twice".into()));
        }
        let paths = [
            ("ca", &self.ca),
            ("certificate", &self.certificate),
            ("key", &self.key),
            ("token-file", &self.token_file),
            ("api-key-file", &self.api_key_file),
        ];
        for (setting, path) in paths {
            if let Some(path) = path.as_ref().filter(|path| !path.is_absolute()) {
                return Err(wrong(setting, format!("{} is not an absolute path", path.display())));
            }
        }
        let auth = self.auth(&wrong)?;
        if self.in_flight.get() > MAX_IN_FLIGHT {
            return Err(wrong("in-flight", format!("{} is more than {MAX_IN_FLIGHT}", self.in_flight)));
        }
        if self.queue > MAX_QUEUE {
            return Err(wrong("queue", format!("{} is more than {MAX_QUEUE}", self.queue)));
        }
        let time = |setting: &str, text: &str| timeout(&format!("{section}.{setting}"), text);
        Ok(Grep11 {
            auth,
            dialect: self.dialect,
            timeout: time("timeout", &self.timeout)?,
            connect_timeout: time("connect-timeout", &self.connect_timeout)?,
            keepalive: time("keepalive", &self.keepalive)?,
            in_flight: self.in_flight,
            rate: self.rate,
            queue: self.queue,
            hedge: self.hedge,
            tls: self.tls(&endpoints, &wrong)?,
            endpoints,
        })
    }

    fn auth(&self, wrong: &WrongSetting<'_>) -> Result<Auth, InvalidSetting> {
        let needs = |setting: &str, auth: &str| {
            Err(wrong(setting, format!("it has no meaning without auth = {auth:?}")))
        };
        if self.token_file.is_some() && self.auth != RawAuth::Token {
            return needs("token-file", "token");
        }
        if self.auth != RawAuth::Iam {
            if self.api_key_file.is_some() {
                return needs("api-key-file", "iam");
            }
            if self.iam_url.is_some() {
                return needs("iam-url", "iam");
            }
        }
        Ok(match self.auth {
            RawAuth::None => Auth::None,
            RawAuth::Token => Auth::Token { file: self.token_file.clone() },
            RawAuth::Iam => {
                let url = self.iam_url.clone().unwrap_or_else(|| IAM_URL.to_owned());
                // An API key is never sent without encryption.
                if !url.starts_with("https://") {
                    return Err(wrong("iam-url", format!("{url:?} does not begin with https://")));
                }
                Auth::Iam { api_key_file: self.api_key_file.clone(), url }
            }
        })
    }

    fn tls(self, endpoints: &[Endpoint], wrong: &WrongSetting<'_>) -> Result<Option<Tls>, InvalidSetting> {
        if self.plaintext {
            let loopback = |host: &str| {
                host == "localhost"
                    || host.parse::<core::net::IpAddr>().is_ok_and(|address| address.is_loopback())
            };
            if let Some(far) = endpoints.iter().find(|endpoint| !loopback(&endpoint.host)) {
                return Err(wrong("plaintext", format!("{far} is not on loopback; it needs TLS")));
            }
            let settings = [
                ("ca", self.ca.is_some()),
                ("server-name", self.server_name.is_some()),
                ("certificate", self.certificate.is_some()),
                ("key", self.key.is_some()),
            ];
            return match settings.iter().find(|(_, given)| *given) {
                Some((setting, _)) => Err(wrong(setting, "it has no meaning with plaintext = true".into())),
                None => Ok(None),
            };
        }
        let identity = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => return Err(wrong("certificate", "name its private key with key".into())),
            (None, Some(_)) => return Err(wrong("key", "name its certificate with certificate".into())),
        };
        Ok(Some(Tls { ca: self.ca, server_name: self.server_name, identity }))
    }
}

impl Default for RawGrep11 {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            plaintext: false,
            ca: None,
            server_name: None,
            certificate: None,
            key: None,
            auth: RawAuth::None,
            token_file: None,
            api_key_file: None,
            iam_url: None,
            dialect: Dialect::KeyBlob,
            timeout: "1s".into(),
            connect_timeout: "2s".into(),
            keepalive: "30s".into(),
            in_flight: IN_FLIGHT,
            rate: None,
            queue: QUEUE,
            hedge: false,
        }
    }
}

/// Name of the backend that is the software crypto unit in the daemon.
pub(crate) const EMBEDDED: &str = "embedded";

const IN_FLIGHT: NonZeroUsize = NonZeroUsize::new(32).unwrap();

/// Address where IBM Cloud gives tokens for API keys (IAM Identity Services API, `POST
/// /identity/token`).
const IAM_URL: &str = "https://iam.cloud.ibm.com/identity/token";

/// Longest name of a backend, in characters.
const MAX_NAME: usize = 32;
const MAX_UNITS: usize = 64;
/// Servers limit the calls in flight on one connection, too: usually to 100 or 256.
const MAX_IN_FLIGHT: usize = 1024;
/// Default of the queue. Most servers have fewer workers, so a request waits instead of a refusal.
const QUEUE: usize = 128;
const MAX_QUEUE: usize = 100_000;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("k.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn every_setting() {
        let config = parse(
            r#"
            [grep11.hsm]
            endpoints = ["hsm1.example.com:9876", "10.0.0.7:9876", "[::1]:9876"]
            ca = "/etc/ca.pem"
            server-name = "hsm.example.com"
            certificate = "/etc/client.pem"
            key = "/etc/client.key"
            auth = "token"
            token-file = "/etc/token"
            dialect = "bytes"
            timeout = "300ms"
            connect-timeout = "1s"
            keepalive = "10s"
            in-flight = 8
            rate = 500
            queue = 0
            hedge = true
            [grep11.cloud]
            endpoints = ["id.ep11.eu-de.hs-crypto.appdomain.cloud:443"]
            auth = "iam"
            [grep11.pod]
            endpoints = ["localhost:9876"]
            plaintext = true
            "#,
        )
        .unwrap();
        let hsm = &config.grep11["hsm"];
        assert_eq!(hsm.endpoints[2], Endpoint { host: "::1".into(), port: 9876 });
        let identity = Some(("/etc/client.pem".into(), "/etc/client.key".into()));
        let server_name = Some("hsm.example.com".into());
        assert_eq!(hsm.tls, Some(Tls { ca: Some("/etc/ca.pem".into()), server_name, identity }));
        assert_eq!(hsm.auth, Auth::Token { file: Some("/etc/token".into()) });
        assert_eq!((hsm.dialect, hsm.queue, hsm.hedge), (Dialect::Bytes, 0, true));
        assert_eq!((hsm.in_flight.get(), hsm.rate.map(NonZeroU32::get)), (8, Some(500)));
        assert_eq!(hsm.timeout, Duration::from_millis(300));
        let cloud = &config.grep11["cloud"];
        assert_eq!(cloud.auth, Auth::Iam { api_key_file: None, url: IAM_URL.into() });
        assert_eq!((&cloud.tls, cloud.rate), (&Some(Tls::default()), None));
        assert_eq!(config.grep11["pod"].tls, None);
        assert_eq!(parse(&config.to_effective_toml()), Ok(config));
    }

    #[test]
    fn each_mistake_has_one_clear_line() {
        for (text, words) in [
            ("[grep11.hsm]", &["grep11.hsm.endpoints", "HOST:PORT"][..]),
            ("[grep11.hsm]\nendpoints = [\"hsm\"]", &["\"hsm\" is not HOST:PORT"]),
            ("[grep11.hsm]\nendpoints = [\"https://hsm:1\"]", &["is not HOST:PORT"]),
            ("[grep11.hsm]\nendpoints = [\"::1:1\"]", &["is not HOST:PORT"]),
            ("[grep11.hsm]\nendpoints = [\"a:1\", \"a:1\"]", &["named twice"]),
            ("[grep11.hsm]\nendpoints = [\"a:1\"]\nendpoint = 1", &["line 3", "unknown field"]),
            ("[grep11.embedded]\nendpoints = [\"a:1\"]", &["grep11.embedded", "choose another"]),
            ("[grep11.\"a b\"]\nendpoints = [\"a:1\"]", &["grep11.a b", "letters"]),
            ("[grep11.x]\nendpoints = [\"a:1\"]\nplaintext = true", &["x.plaintext", "loopback"]),
            (
                "[grep11.x]\nendpoints = [\"localhost:1\"]\nplaintext = true\nca = \"/a\"",
                &["x.ca", "no meaning"],
            ),
            ("[grep11.x]\nendpoints = [\"a:1\"]\nca = \"a\"", &["x.ca", "absolute"]),
            ("[grep11.x]\nendpoints = [\"a:1\"]\nkey = \"/a\"", &["x.key", "certificate"]),
            ("[grep11.x]\nendpoints = [\"a:1\"]\ncertificate = \"/a\"", &["x.certificate", "key"]),
            ("[grep11.x]\nendpoints = [\"a:1\"]\ntoken-file = \"/a\"", &["x.token-file", "\"token\""]),
            ("[grep11.x]\nendpoints = [\"a:1\"]\niam-url = \"https://a/\"", &["x.iam-url", "\"iam\""]),
            (
                "[grep11.x]\nendpoints = [\"a:1\"]\nauth = \"iam\"\niam-url = \"http://a/\"",
                &["x.iam-url", "https"],
            ),
            ("[grep11.x]\nendpoints = [\"a:1\"]\nauth = \"basic\"", &["line 3", "unknown variant"]),
            ("[grep11.x]\nendpoints = [\"a:1\"]\nin-flight = 0", &["line 3: in-flight: ", "1 or more"]),
            ("[grep11.x]\nendpoints = [\"a:1\"]\nin-flight = 5000", &["x.in-flight", "1024"]),
            ("[grep11.x]\nendpoints = [\"a:1\"]\ntimeout = \"1\"", &["x.timeout", "500ms"]),
            ("[grep11.x]\nendpoints = [\"a:1\"]\ndialect = \"old\"", &["line 3", "keyblob"]),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.lines().count(), 1, "{error}");
            for word in words {
                assert!(error.contains(word), "{text:?}: {error:?} lacks {word:?}");
            }
        }
    }
}
