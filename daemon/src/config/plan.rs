//! `[[certificate]]`: the plan of a certificate that renews itself.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use keyward_proto::{KeyType, Label};
use serde::{Deserialize, Serialize};

use super::authority::Authority;
use super::error::InvalidSetting;
use super::identifier::Identifier;

/// The plan of a certificate: what it is for, who issues it, and where it goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    /// Name of the plan, and of its directory of files.
    pub name: Label,
    /// Label of the key.
    pub key: Label,
    /// Type of the key, if the daemon makes it.
    pub key_type: KeyType,
    /// Names of the certificate, each once.
    pub names: Vec<Identifier>,
    /// Who issues the certificate.
    pub issuer: Issuer,
    /// True if each renewal makes a new version of the key.
    pub renews_key: bool,
    /// PEM file with the roots to which the chain must lead; `None` for the roots of the system, if
    /// the authority is a public one, and for any root otherwise.
    pub chain_root: Option<PathBuf>,
    /// Age of a version of the key after which a renewal makes a new one.
    pub new_key_after: Option<Duration>,
    /// Servers that use the certificate.
    pub servers: Vec<Server>,
    /// Program that is run after the files have changed, as root.
    pub hook: Option<Vec<String>>,
    /// Addresses where the certificate must be seen after that.
    pub listeners: Vec<SocketAddr>,
    /// Program that is told when the state of the certificate changes.
    pub notify: Option<Vec<String>>,
}

impl Plan {
    /// True if the deployer brings the certificate to a server of this host, or looks at one.
    pub fn is_deployed(&self) -> bool {
        !self.servers.is_empty() || self.hook.is_some() || !self.listeners.is_empty()
    }
}

/// Who issues a certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Issuer {
    /// An authority that speaks ACME.
    Acme {
        /// Name of the authority in the configuration.
        authority: String,
        /// Profile of the authority.
        profile: Option<String>,
        /// How the names are validated.
        challenge: Challenge,
        /// Common name of the root, or of its issuer, at which the chain is to end, if the
        /// authority has several chains.
        preferred_chain: Option<String>,
    },
    /// A program: the request on standard input, the chain on standard output.
    Command(Vec<String>),
}

impl Issuer {
    /// The authority, or the program, by its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Acme { authority, .. } => authority,
            Self::Command(command) => command.first().map(String::as_str).unwrap_or_default(),
        }
    }

    /// How the authority validates names; `None` for a program.
    pub fn challenge(&self) -> Option<&Challenge> {
        match self {
            Self::Acme { challenge, .. } => Some(challenge),
            Self::Command(_) => None,
        }
    }

    /// The chain that the owner prefers.
    pub fn preferred_chain(&self) -> Option<&str> {
        match self {
            Self::Acme { preferred_chain, .. } => preferred_chain.as_deref(),
            Self::Command(_) => None,
        }
    }
}

/// How an authority validates names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Challenge {
    /// http-01 (RFC 8555, 8.3): a server answers with one line of its configuration.
    Http,
    /// http-01 by a file below a directory that a server shows.
    Webroot(PathBuf),
    /// dns-01 (RFC 8555, 8.4) by a program: `present` or `cleanup`, the record, its value.
    DnsHook(Vec<String>),
    /// dns-01 by an update of the zone (RFC 2136), with a key for nsupdate(1).
    DnsUpdate {
        /// The server of the zone.
        server: SocketAddr,
        /// File with the key, in the form of nsupdate -k.
        key: PathBuf,
    },
}

/// A kind of server whose pick-up of new files is known.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Server {
    /// nginx(8).
    Nginx,
    /// HAProxy.
    Haproxy,
    /// The Apache HTTP server.
    Apache,
}

impl Server {
    /// Name of the kind in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Apache => "apache",
        }
    }
}

/// A section as text.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawPlan {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default = "p256")]
    key_type: String,
    names: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    profile: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    challenge: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    webroot: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dns_hook: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dns_server: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dns_key: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issue: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    preferred_chain: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chain_root: Option<PathBuf>,
    #[serde(default)]
    new_key: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    new_key_after: Option<String>,
    #[serde(default)]
    servers: Vec<Server>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hook: Option<Vec<String>>,
    #[serde(default)]
    listeners: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    notify: Option<Vec<String>>,
}

fn p256() -> String {
    "p256".into()
}

impl RawPlan {
    /// The text of a checked plan.
    pub(super) fn of(plan: &Plan) -> Self {
        let mut raw = Self {
            name: plan.name.to_string(),
            key: Some(plan.key.to_string()),
            key_type: plan.key_type.to_string(),
            names: plan.names.iter().map(Identifier::to_string).collect(),
            ca: None,
            profile: None,
            challenge: None,
            webroot: None,
            dns_hook: None,
            dns_server: None,
            dns_key: None,
            issue: None,
            preferred_chain: plan.issuer.preferred_chain().map(str::to_owned),
            chain_root: plan.chain_root.clone(),
            new_key: plan.renews_key,
            new_key_after: plan.new_key_after.map(|after| humantime::format_duration(after).to_string()),
            servers: plan.servers.clone(),
            hook: plan.hook.clone(),
            listeners: plan.listeners.iter().map(SocketAddr::to_string).collect(),
            notify: plan.notify.clone(),
        };
        match &plan.issuer {
            Issuer::Command(command) => raw.issue = Some(command.clone()),
            Issuer::Acme { authority, profile, challenge, .. } => {
                raw.ca = Some(authority.clone());
                raw.profile.clone_from(profile);
                raw.challenge = Some(if challenge.is_dns() { "dns-01" } else { "http-01" }.into());
                match challenge {
                    Challenge::Http => {}
                    Challenge::Webroot(directory) => raw.webroot = Some(directory.clone()),
                    Challenge::DnsHook(command) => raw.dns_hook = Some(command.clone()),
                    Challenge::DnsUpdate { server, key } => {
                        (raw.dns_server, raw.dns_key) = (Some(*server), Some(key.clone()));
                    }
                }
            }
        }
        raw
    }

    fn check(self, authorities: &BTreeMap<String, Authority>) -> Result<Plan, InvalidSetting> {
        let section = format!("certificate {:?}", self.name);
        let wrong =
            |setting: &str, reason: String| InvalidSetting::new(format!("{section}: {setting}"), reason);
        let label = |setting: &str, text: &str| {
            text.parse::<Label>().map_err(|error| wrong(setting, format!("{text:?} is {error}")))
        };
        let name = label("name", &self.name)?;
        let key = self.key.as_deref().map_or_else(|| Ok(name.clone()), |key| label("key", key))?;
        let key_type = KeyType::GENERATED.into_iter().find(|known| known.to_string() == self.key_type);
        let key_type = key_type.ok_or_else(|| {
            let known: Vec<_> = KeyType::GENERATED.iter().map(|known| known.to_string()).collect();
            wrong("key-type", format!("{:?} is not one of {}", self.key_type, known.join(", ")))
        })?;
        let read = |text: &String| {
            Identifier::read(text).map_err(|reason| wrong("names", format!("{text:?} {reason}")))
        };
        let names = self.names.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        if !(1..=MAX_NAMES).contains(&names.len()) {
            return Err(wrong("names", format!("name between 1 and {MAX_NAMES}")));
        }
        if names.iter().collect::<BTreeSet<_>>().len() < names.len() {
            return Err(wrong("names", "the same name is there twice".into()));
        }
        let commands = [
            ("hook", &self.hook),
            ("issue", &self.issue),
            ("dns-hook", &self.dns_hook),
            ("notify", &self.notify),
        ];
        for (setting, command) in commands {
            if command
                .as_ref()
                .is_some_and(|command| !command.first().is_some_and(|program| program.starts_with('/')))
            {
                return Err(wrong(setting, "write the program with its absolute path, and each argument as an element: [\"/usr/bin/program\", \"argument\"]".into()));
            }
            if let Some(program) = command.iter().flatten().next().filter(|program| program.contains(' ')) {
                return Err(wrong(
                    setting,
                    format!("{program:?} has a space: write each argument as an element of its own"),
                ));
            }
        }
        let paths =
            [("webroot", &self.webroot), ("dns-key", &self.dns_key), ("chain-root", &self.chain_root)];
        for (setting, path) in paths {
            if let Some(path) = path.as_ref().filter(|path| !path.is_absolute()) {
                return Err(wrong(setting, format!("{} is not an absolute path", path.display())));
            }
        }
        let texts = [("profile", &self.profile), ("preferred-chain", &self.preferred_chain)];
        if let Some((setting, _)) = texts.into_iter().find(|(_, text)| text.as_deref() == Some("")) {
            return Err(wrong(setting, "it is empty: leave the line out".into()));
        }
        let listener = |text: &String| {
            text.parse().map_err(|_| {
                wrong("listeners", format!("{text:?} is not an address with a port, like 127.0.0.1:443"))
            })
        };
        let listeners = self.listeners.iter().map(listener).collect::<Result<Vec<_>, _>>()?;
        if let Some(other) = authorities.iter().find(|(_, authority)| authority.account_key == key) {
            return Err(wrong(
                "key",
                format!(
                    "{key} is the account key of {}, and authorities issue no certificate for it (RFC 8555, 11.1)",
                    other.0
                ),
            ));
        }
        let issuer = match (&self.ca, &self.issue) {
            (Some(_), Some(_)) | (None, None) => {
                return Err(wrong("ca", "name the authority by ca, or a program by issue".into()));
            }
            (None, Some(command)) => {
                let of_acme = [
                    ("profile", self.profile.is_some()),
                    ("challenge", self.challenge.is_some()),
                    ("webroot", self.webroot.is_some()),
                    ("dns-hook", self.dns_hook.is_some()),
                    ("dns-server", self.dns_server.is_some()),
                    ("dns-key", self.dns_key.is_some()),
                    ("preferred-chain", self.preferred_chain.is_some()),
                ];
                if let Some((setting, _)) = of_acme.into_iter().find(|(_, is_set)| *is_set) {
                    return Err(wrong(setting, "is for plans with ca, and this one has issue".into()));
                }
                Issuer::Command(command.clone())
            }
            (Some(ca), None) => {
                let known = authorities.get(ca).ok_or_else(|| {
                    let names: Vec<_> = authorities.keys().map(String::as_str).collect();
                    wrong(
                        "ca",
                        format!("there is no section [ca.{ca}]; the authorities are {}", names.join(", ")),
                    )
                })?;
                if known.is_public() && !is_issued_by_public(key_type) {
                    return Err(wrong(
                        "key-type",
                        format!(
                            "no public authority issues certificates for {}; take p256, p384, rsa2048, rsa3072 or rsa4096",
                            key_type
                        ),
                    ));
                }
                if let Some(name) = names.iter().find(|name| known.is_public() && !name.is_public()) {
                    return Err(wrong(
                        "names",
                        format!(
                            "no public authority issues certificates for {name}, which is not in the public DNS"
                        ),
                    ));
                }
                Issuer::Acme {
                    authority: ca.clone(),
                    profile: self.profile.clone(),
                    challenge: self.challenge(&names, &wrong)?,
                    preferred_chain: self.preferred_chain.clone(),
                }
            }
        };
        let new_key_after = self.new_key_after.as_deref().map(|text| {
            let after = humantime::parse_duration(text).ok().filter(|after| *after >= SHORTEST_KEY_LIFE);
            after.ok_or_else(|| {
                wrong("new-key-after", format!("{text:?} is not a time of an hour or more, like 365d"))
            })
        });
        Ok(Plan {
            name,
            key,
            key_type,
            names,
            issuer,
            chain_root: self.chain_root,
            renews_key: self.new_key,
            new_key_after: new_key_after.transpose()?,
            servers: self.servers.into_iter().collect::<BTreeSet<_>>().into_iter().collect(),
            hook: self.hook,
            listeners,
            notify: self.notify,
        })
    }

    fn challenge(
        &self,
        names: &[Identifier],
        wrong: &dyn Fn(&str, String) -> InvalidSetting,
    ) -> Result<Challenge, InvalidSetting> {
        let is_dns = self.dns_hook.is_some() || self.dns_server.is_some() || self.dns_key.is_some();
        let kind = self.challenge.as_deref().unwrap_or(if is_dns { "dns-01" } else { "http-01" });
        let challenge = match (kind, &self.webroot, &self.dns_hook, self.dns_server, &self.dns_key) {
            ("http-01", None, None, None, None) => Challenge::Http,
            ("http-01", Some(directory), None, None, None) => Challenge::Webroot(directory.clone()),
            ("dns-01", None, Some(command), None, None) => Challenge::DnsHook(command.clone()),
            ("dns-01", None, None, Some(server), Some(key)) => {
                Challenge::DnsUpdate { server, key: key.clone() }
            }
            ("http-01", ..) => return Err(wrong("challenge", "http-01 takes webroot or nothing".into())),
            ("dns-01", ..) => {
                return Err(wrong("challenge", "dns-01 takes dns-hook, or dns-server with dns-key".into()));
            }
            _ => return Err(wrong("challenge", format!("{kind:?} is not http-01 or dns-01"))),
        };
        match names.iter().find(|name| {
            name.is_wildcard() && !challenge.is_dns()
                || matches!(name, Identifier::Ip(_)) && challenge.is_dns()
        }) {
            Some(Identifier::Ip(address)) => Err(wrong(
                "challenge",
                format!("{address} is an address, which http-01 validates (RFC 8738)"),
            )),
            Some(name) => Err(wrong("challenge", format!("{name} has a star, which only dns-01 validates"))),
            None => Ok(challenge),
        }
    }
}

impl Challenge {
    /// True for dns-01.
    pub fn is_dns(&self) -> bool {
        matches!(self, Self::DnsHook(_) | Self::DnsUpdate { .. })
    }
}

/// Checks all plans.
pub(super) fn check(
    raw: Vec<RawPlan>,
    authorities: &BTreeMap<String, Authority>,
) -> Result<Vec<Plan>, InvalidSetting> {
    let mut plans: Vec<Plan> = Vec::new();
    for raw in raw {
        let plan = raw.check(authorities)?;
        let wrong =
            |reason: String| Err(InvalidSetting::new(format!("certificate \"{}\"", plan.name), reason));
        if plans.iter().any(|other| other.name == plan.name) {
            return wrong("two plans have this name".into());
        }
        // Two plans for the same names would order each other's certificates again.
        let set = |plan: &Plan| plan.names.iter().cloned().collect::<BTreeSet<_>>();
        if let Some(other) = plans.iter().find(|other| set(other) == set(&plan)) {
            return wrong(format!("the plan {} has the same names", other.name));
        }
        // The files of the plan shop are in directories shop.1, shop.2, ...
        let is_generation = |plan: &Plan, of: &Plan| {
            let rest =
                plan.name.as_str().strip_prefix(of.name.as_str()).and_then(|rest| rest.strip_prefix('.'));
            rest.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
        };
        if let Some(other) =
            plans.iter().find(|other| is_generation(&plan, other) || is_generation(other, &plan))
        {
            return wrong(format!(
                "with the plan {} beside it, its directory would be one of that plan; choose a name without a number behind a point",
                other.name
            ));
        }
        if let Some(other) = plans.iter().find(|other| other.key == plan.key) {
            return wrong(format!("the plan {} has the same key", other.name));
        }
        plans.push(plan);
    }
    match plans.len() <= MAX_PLANS {
        true => Ok(plans),
        false => Err(InvalidSetting::new("certificate", format!("there are more than {MAX_PLANS} plans"))),
    }
}

/// Baseline Requirements of the CA/Browser Forum, 6.1.5. Let's Encrypt does not take P-521.
fn is_issued_by_public(key_type: KeyType) -> bool {
    matches!(key_type, KeyType::P256 | KeyType::P384 | KeyType::Rsa(2048 | 3072 | 4096))
}

/// Maximum number of names of a certificate, as at Let's Encrypt.
const MAX_NAMES: usize = 100;
/// Shortest age after which a version of a key is replaced.
const SHORTEST_KEY_LIFE: Duration = Duration::from_secs(3600);
/// Maximum number of plans.
const MAX_PLANS: usize = 10_000;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;

    const PRIVATE: &str = "[ca.mine]\ndirectory = \"https://ca.example/acme/directory\"\n";

    fn read(text: &str) -> Result<Config, String> {
        Config::parse(&format!("{PRIVATE}{text}"), Path::new("keyward.toml"))
            .map_err(|error| error.to_string())
    }

    fn plan(lines: &str) -> String {
        format!("[[certificate]]\nname = \"shop\"\nnames = [\"shop.example\"]\n{lines}")
    }

    #[test]
    fn a_plan_is_written_as_it_was_read() {
        for lines in [
            "ca = \"mine\"\n",
            "ca = \"letsencrypt\"\nprofile = \"shortlived\"\nkey = \"web\"\nkey-type = \"rsa3072\"\nnew-key = true\nwebroot = \"/srv/www\"\n",
            "ca = \"mine\"\nkey-type = \"ed25519\"\nchallenge = \"dns-01\"\ndns-hook = [\"/usr/bin/hook\", \"a b\"]\nservers = [\"haproxy\", \"nginx\"]\n",
            "ca = \"mine\"\nchallenge = \"dns-01\"\ndns-server = \"192.0.2.53:53\"\ndns-key = \"/etc/tsig\"\nlisteners = [\"127.0.0.1:443\", \"[::1]:443\"]\n",
            "ca = \"mine\"\npreferred-chain = \"Root X1\"\nnew-key-after = \"365d\"\n",
            "issue = [\"/usr/local/bin/sign\"]\nchain-root = \"/etc/root.pem\"\nhook = [\"/usr/bin/true\"]\nnotify = [\"/usr/bin/tell\", \"me\"]\n",
        ] {
            let config = read(&plan(lines)).unwrap();
            assert_eq!(config.plans.len(), 1);
            let again = Config::parse(&config.to_effective_toml(), Path::new("again")).unwrap();
            assert_eq!(again, config, "{lines}");
        }
    }

    #[test]
    fn plans_that_nobody_can_carry_out_are_refused_with_the_reason() {
        for (lines, words) in [
            ("", "name the authority by ca"),
            ("ca = \"mine\"\nissue = [\"/bin/sign\"]\n", "name the authority by ca"),
            ("ca = \"other\"\n", "there is no section [ca.other]"),
            (
                "ca = \"letsencrypt\"\nkey-type = \"ed25519\"\n",
                "no public authority issues certificates for ed25519",
            ),
            ("ca = \"letsencrypt-staging\"\nkey-type = \"ml-dsa-65\"\n", "no public authority"),
            ("ca = \"letsencrypt\"\nkey-type = \"p521\"\n", "no public authority"),
            ("ca = \"mine\"\nkey = \"acme-account-mine\"\n", "is the account key of mine"),
            ("ca = \"mine\"\nkey = \"acme-account-letsencrypt\"\n", "is the account key of letsencrypt"),
            ("ca = \"mine\"\nhook = [\"/bin/a b\"]\n", "has a space"),
            ("ca = \"mine\"\nprofile = \"\"\n", "it is empty"),
            ("ca = \"mine\"\nlisteners = [\"localhost:443\"]\n", "is not an address with a port, like 127"),
            ("ca = \"mine\"\nchain-root = \"root.pem\"\n", "is not an absolute path"),
            ("ca = \"mine\"\nchallenge = \"tls-alpn-01\"\n", "is not http-01 or dns-01"),
            ("ca = \"mine\"\nchallenge = \"dns-01\"\n", "dns-01 takes dns-hook"),
            ("ca = \"mine\"\nchallenge = \"dns-01\"\nwebroot = \"/srv\"\n", "dns-01 takes dns-hook"),
            ("ca = \"mine\"\nchallenge = \"http-01\"\ndns-hook = [\"/bin/hook\"]\n", "http-01 takes webroot"),
            ("ca = \"mine\"\nwebroot = \"www\"\n", "is not an absolute path"),
            ("issue = [\"sign\"]\n", "with its absolute path"),
            ("issue = [\"/bin/sign\"]\nprofile = \"x\"\n", "profile: is for plans with ca"),
            ("ca = \"mine\"\nnew-key-after = \"5s\"\n", "is not a time of an hour or more"),
            ("ca = \"mine\"\nhook = []\n", "with its absolute path"),
            ("ca = \"mine\"\nkey-type = \"dsa\"\n", "is not one of p256"),
            ("ca = \"mine\"\nservers = [\"iis\"]\n", "iis"),
        ] {
            let refused = read(&plan(lines)).unwrap_err();
            assert!(refused.contains(words), "{lines}: {refused}");
        }
        let names =
            |names: &str| format!("[[certificate]]\nname = \"shop\"\nca = \"mine\"\nnames = [{names}]\n");
        for (text, words) in [
            (names(""), "between 1 and 100"),
            (names("\"a.example\", \"A.example\""), "twice"),
            (names("\"*.shop.example\""), "which only dns-01 validates"),
            (names("\"a.*.example\""), "neither a DNS name"),
            (names("\"shop_\u{e4}.example\""), "neither a DNS name"),
            (names("\"1.2.3.4.5\""), "neither a DNS name"),
            (
                names("\"192.0.2.1\"") + "challenge = \"dns-01\"\ndns-hook = [\"/bin/hook\"]\n",
                "which http-01 validates",
            ),
            (plan("ca = \"mine\"\n") + &plan("ca = \"mine\"\nkey = \"b\"\n"), "two plans have this name"),
            (
                plan("ca = \"mine\"\n")
                    + "[[certificate]]\nname = \"shop.2\"\nca = \"mine\"\nnames = [\"b.example\"]\n",
                "without a number behind a point",
            ),
            (
                "[[certificate]]\nname = \"a\"\nca = \"letsencrypt\"\nnames = [\"localhost\"]\n".into(),
                "which is not in the public DNS",
            ),
            (
                "[[certificate]]\nname = \"a\"\nca = \"letsencrypt\"\nnames = [\"10.0.0.1\"]\n".into(),
                "which is not in the public DNS",
            ),
            (
                plan("ca = \"mine\"\n") + &plan("ca = \"mine\"\n").replace("\"shop\"", "\"two\""),
                "the same names",
            ),
        ] {
            let refused = read(&text).unwrap_err();
            assert!(refused.contains(words), "{text}: {refused}");
        }
        let other = "[ca.bad]\ndirectory = ";
        for directory in [
            "\"http://ca.example/dir\"",
            "\"https://ca.example\"",
            "\"https://ca exa/dir\"",
            "\"https:///dir\"",
        ] {
            let refused = read(&format!("{other}{directory}\n")).unwrap_err();
            assert!(refused.contains("is not a URL"), "{directory}: {refused}");
        }
    }
}
