//! Messages between the daemon, the renewal agent and the deployer about certificates that renew
//! themselves: JSON over HTTP on the administrators' socket.
//!
//! docs/admin-api.md describes the routes. Times are in seconds since 1970.

mod client;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use client::{Client, ClientError};

/// The work of the agent.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Tasks {
    /// Time at the daemon.
    pub now: u64,
    /// One for each plan.
    pub tasks: Vec<Task>,
}

/// A plan, from the side of the agent.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Task {
    /// Name of the plan.
    pub plan: String,
    /// Time at which the plan is due.
    pub due: u64,
    /// Names of the certificate.
    pub names: Vec<Name>,
    /// Who issues the certificate.
    pub issuer: Issuer,
    /// Program that is told when the state changes.
    pub notify: Option<Vec<String>>,
    /// The certificate that the plan has.
    pub certificate: Option<Certificate>,
    /// Reason for which a person asked to revoke the certificate (RFC 5280, 5.3.1).
    pub revokes: Option<u8>,
    /// URLs of orders at which the agent looks now. The daemon has the certificates that it gets of
    /// them revoked, because a person has called their keys compromised.
    #[serde(default)]
    pub former_orders: Vec<String>,
    /// Words for the state of the plan: `none`, `valid`, `due`, `failing` or `expired`.
    pub state: String,
    /// The last failure, in the words of the authority.
    pub last_error: Option<String>,
}

/// A name of a certificate in the form of ACME (RFC 8555, 9.7.7).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Name {
    /// `dns` or `ip`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The name.
    pub value: String,
}

/// Who issues a certificate.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Issuer {
    /// A program: the request on standard input, the chain on standard output.
    Command(Vec<String>),
    /// An authority that speaks ACME.
    Acme(Acme),
}

/// The account and the order at an authority.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Acme {
    /// URL of the directory.
    pub directory: String,
    /// PEM file with the roots of the server.
    pub root: Option<PathBuf>,
    /// How the names are validated.
    pub challenge: Challenge,
    /// URL of the account, if there is one.
    pub account: Option<String>,
    /// URL of the account before, and the time until which it was in use.
    pub former_account: Option<(String, u64)>,
    /// Thumbprint of the account key: the last part of each answer to a challenge.
    pub thumbprint: Option<String>,
    /// URL of the order that is under way.
    pub order: Option<String>,
    /// Time at which the authority is asked for the window of the present certificate again.
    pub next_look: u64,
    /// Time before which nothing is tried, after a failure.
    pub next_try: u64,
}

/// How names are validated.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Challenge {
    /// http-01, answered by the configuration of a server.
    Http,
    /// http-01, answered by a file below this directory.
    Webroot(PathBuf),
    /// dns-01, answered by a program.
    DnsHook(Vec<String>),
    /// dns-01, answered by an update of the zone.
    DnsUpdate {
        /// Server of the zone.
        server: SocketAddr,
        /// File with the key of the update.
        key: PathBuf,
    },
}

/// A certificate of a plan.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Certificate {
    /// Id in ARI (RFC 9773, 4.1), if the certificate names its authority.
    pub id: Option<String>,
    /// SHA-256, in hexadecimal digits.
    pub fingerprint: String,
    /// Number of the version of the key.
    pub version: u32,
    /// First time at which the certificate is valid.
    pub not_before: u64,
    /// Last time at which the certificate is valid.
    pub not_after: u64,
}

/// A message that the agent wants for its authority.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// `new-account`, `new-order`, `read`, `answer`, `finalize` or `revoke`.
    pub step: String,
    /// Where the message goes.
    pub url: String,
    /// The nonce of the authority.
    pub nonce: String,
}

/// A report of the agent about a plan.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Report {
    /// The agent begins to work on the plan. Another agent waits until it has ended.
    Begin,
    /// There is nothing left to do now.
    End,
    /// URL of the account; none if the authority does not know the account.
    Account(Option<String>),
    /// URL of the order; none if there is no such order.
    Order(Option<String>),
    /// The authority refused that the order replaces the certificate.
    Replaced,
    /// The certificate is revoked.
    Revoked,
    /// A certificate was not revoked. The work goes on.
    NotRevoked {
        /// Type of the error of ACME without its prefix, or a word of the agent.
        kind: String,
        /// The error in words.
        detail: String,
        /// Seconds until the next attempt, as the authority wants it.
        retry_after: Option<u64>,
        /// True if the authority has answered, so that the certificate is not revoked later.
        is_answered: bool,
    },
    /// A window that the authority suggests.
    Window {
        /// Id of the certificate.
        certificate: String,
        /// Begin of the window.
        start: u64,
        /// End of the window.
        end: u64,
        /// Page that explains the window.
        explanation: Option<String>,
        /// Seconds until the next question.
        retry_after: Option<u64>,
    },
    /// The authority suggests no window now. A window of before stays.
    NoWindow {
        /// Id of the certificate.
        certificate: String,
        /// Seconds until the next question.
        retry_after: Option<u64>,
    },
    /// Seconds by which the clock of this host is ahead of the clock of the authority, as the
    /// header Date of its answers has it.
    Clock(i64),
    /// An attempt has failed.
    Failed {
        /// Type of the error of ACME without its prefix, or a word of the agent.
        kind: String,
        /// The error in words.
        detail: String,
        /// Seconds until the next attempt, as the authority wants it.
        retry_after: Option<u64>,
    },
}

/// The files of a plan for its servers. None of them is secret.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Files {
    /// Name of the plan.
    pub plan: String,
    /// The chain in PEM, the certificate first.
    pub chain: String,
    /// The reference to the key in PEM.
    pub reference: String,
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub certificate: String,
    /// Last time at which the certificate is valid.
    pub not_after: u64,
    /// True if the daemon has made the certificate, because there is none yet.
    pub is_placeholder: bool,
    /// True if the certificate is revoked, may be, has expired, or is for a compromised key. It is
    /// better than a placeholder, and replaces nothing else.
    pub is_makeshift: bool,
    /// Servers that use the files: `nginx`, `haproxy` or `apache`.
    pub servers: Vec<String>,
    /// Program that is run after the files have changed.
    pub hook: Option<Vec<String>>,
    /// Addresses where the certificate must be seen after that.
    pub listeners: Vec<SocketAddr>,
    /// Name that a client asks for at a listener.
    pub server_name: String,
}

/// Result of a deployment.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Deployed {
    /// SHA-256 of the certificate in the files in use, in hexadecimal digits; empty if there are
    /// none.
    pub certificate: String,
    /// True if the daemon has made that certificate, because there was none yet.
    #[serde(default)]
    pub is_placeholder: bool,
    /// The certificate at each listener.
    pub listeners: BTreeMap<SocketAddr, Shown>,
    /// Why the files are not in use, if they are not.
    pub problem: Option<String>,
}

/// A look at a listener.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shown {
    /// Last time at which the certificate of the listener is valid; none if it shows none.
    pub not_after: Option<u64>,
    /// Why the listener does not show the certificate of the plan, if it does not.
    pub problem: Option<String>,
}

/// A certificate that somebody else renews: in a file, or at a listener.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Watched {
    /// Name of the section `[[watch]]`.
    pub name: String,
    /// First and last time at which the certificate is valid; none if it was not found.
    pub validity: Option<(u64, u64)>,
    /// DNS names and addresses of the certificate.
    pub names: Vec<String>,
    /// Why the certificate was not found.
    pub problem: Option<String>,
    /// Time of the look.
    pub seen: u64,
}

/// A certificate, or the certificate of an order, that is to be revoked.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ToRevoke {
    /// Name of the plan that had it; empty if nobody knows.
    pub plan: String,
    /// Label of the key of that plan; empty if nobody knows.
    pub key: String,
    /// SHA-256 of the certificate, in hexadecimal digits; none for an order, whose certificate is
    /// not known.
    pub certificate: Option<String>,
    /// URL of the order. Its key was called compromised after the request was signed.
    pub order: Option<String>,
    /// URL of the directory of the authority; empty if nobody knows.
    pub authority: String,
    /// True if the authority may have revoked the certificate already.
    pub may_be_revoked: bool,
    /// True if a person has called the public key compromised.
    pub is_compromised: bool,
}

/// A certificate that a person may have revoked. It has not expired.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Revocable {
    /// Label of its key.
    pub key: String,
    /// Number of the version of the key.
    pub version: u32,
    /// SHA-256, in hexadecimal digits.
    pub certificate: String,
    /// Names of the certificate.
    pub names: Vec<String>,
    /// Last time at which it is valid.
    pub not_after: u64,
    /// True if it is in the files that servers have.
    pub is_in_use: bool,
    /// True if an authority has revoked it, or may have.
    pub is_revoked: bool,
    /// True if a person has called its public key compromised.
    pub is_compromised: bool,
}

/// A plan, for people.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PlanView {
    /// Name of the plan.
    pub plan: String,
    /// Label of the key.
    pub key: String,
    /// Names of the certificate.
    pub names: Vec<String>,
    /// Name of the authority, or the program that issues.
    pub issuer: String,
    /// `none`, `valid`, `due`, `failing` or `expired`.
    pub state: String,
    /// The certificate that the plan has.
    pub certificate: Option<Certificate>,
    /// Time of the next renewal.
    pub due: u64,
    /// Time of the last success.
    pub renewed_at: Option<u64>,
    /// Failures since then.
    pub failures: u32,
    /// The last failure, in the words of the authority.
    pub last_error: Option<String>,
    /// Type of that failure in ACME, or a word of the agent.
    pub last_kind: Option<String>,
    /// `http`, `webroot`, `dns`; none if a program issues.
    pub challenge: Option<String>,
    /// Time at which an agent last asked for work.
    pub agent_seen: Option<u64>,
    /// Seconds by which the clock of this host is ahead of the clock of the authority.
    pub clock_ahead: Option<i64>,
    /// Why there can be no account at the authority, if the daemon knows.
    pub account_problem: Option<String>,
    /// URL of the account at the authority, if there is one.
    pub account: Option<String>,
    /// URL of the account before, and the time until which it was in use.
    pub former_account: Option<(String, u64)>,
    /// Why the key of the plan signs nothing, if it does not.
    pub key_problem: Option<String>,
    /// Why the daemon cannot read the progress of plans, if it cannot: the facts about revocations
    /// are not known then.
    #[serde(default)]
    pub progress_problem: Option<String>,
    /// Damage of the progress of plans that no person has looked at, or why it cannot be written.
    #[serde(default)]
    pub progress_doubt: Option<String>,
    /// Certificates that a person may have revoked, those of old versions of the key first.
    #[serde(default)]
    pub revocable: Vec<Revocable>,
    /// Certificates that a person has asked to revoke and that are not revoked yet, and orders
    /// whose certificates are to be revoked, as far as this plan looks after them.
    #[serde(default)]
    pub revocations: Vec<ToRevoke>,
    /// True if the revocation of a certificate waits.
    pub has_revocation: Option<bool>,
    /// True if the certificate that the plan has is revoked, or may be, or is for a compromised
    /// key.
    #[serde(default)]
    pub is_revoked: Option<bool>,
    /// True if an authority has revoked the certificate that the plan has, or may have.
    #[serde(default)]
    pub may_be_revoked: Option<bool>,
    /// True if the certificate that the plan has is for a version of the key that a person has
    /// called compromised, or for an older one.
    #[serde(default)]
    pub is_compromised: Option<bool>,
    /// Why a revocation does not go on, if one does not.
    #[serde(default)]
    pub revocation_problem: Option<String>,
    /// Files that the agent reads for the plan.
    pub files: Vec<PathBuf>,
    /// Programs that the plan runs: issuer, DNS hook, notification, hook.
    pub programs: Vec<PathBuf>,
    /// Directory for answers to http-01.
    pub webroot: Option<PathBuf>,
    /// True if the deployer brings the certificate to a server of this host.
    pub is_deployed_here: bool,
    /// Page of the authority that says why it suggests this time.
    pub explanation: Option<String>,
    /// Domain by which the authority knows itself in CAA records (RFC 8659, 4.2).
    pub issuer_domain: Option<String>,
    /// True if every listener shows the certificate; none if nobody has looked within the last
    /// minutes.
    pub is_served: Option<bool>,
    /// Time at which the deployer has last looked; none if it has not since the start of the
    /// daemon.
    pub looked_at: Option<u64>,
    /// Result of the last deployment.
    pub deployed: Option<Deployed>,
    /// The line of the CAA record that keeps everybody else from getting a certificate (RFC 8657).
    pub caa: Option<String>,
    /// The answer to http-01 for every token, after the token and a point.
    pub thumbprint: Option<String>,
}

impl Challenge {
    /// True for dns-01.
    pub fn is_dns(&self) -> bool {
        matches!(self, Self::DnsHook(_) | Self::DnsUpdate { .. })
    }
}

/// The origin of a URL `https://HOST[:PORT]/PATH`; `None` for other texts. People paste URLs of
/// accounts into CAA records, where a semicolon would begin another parameter (RFC 8659, 4.2).
pub fn origin(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://")?;
    let length = rest.find('/')?;
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    let is_of_url = |byte: u8| byte.is_ascii_graphic() && !NOT_IN_URLS.contains(&byte);
    let is_visible = url.len() <= MAX_URL && url.bytes().all(is_of_url);
    let host = rest.get(..length).filter(|host| !host.is_empty() && host.bytes().all(is_host))?;
    is_visible.then(|| url.get(..url.len() - rest.len() + host.len()))?
}

/// Subject and issuer of a certificate that the daemon makes, because there is none yet.
pub const PLACEHOLDER: &str = "CN=placeholder of keyward";
/// Visible characters that are in no URL (RFC 3986, 2), and the semicolon.
const NOT_IN_URLS: &[u8] = b"\"<>\\^`{|};";
/// Longest URL, in bytes.
const MAX_URL: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("https://ca.example:14000/dir/x"), Some("https://ca.example:14000"));
        for other in ["http://ca.example/dir", "https://ca.example", "ca.example/dir", "https://ca exa/"] {
            assert_eq!(origin(other), None, "{other}");
        }
        for end in ["1\"", "1; validationmethods=x", "1;x", "1\\", "<1>"] {
            assert_eq!(origin(&format!("https://ca.example/account/{end}")), None, "{end}");
        }
        assert_ne!(origin("https://ca.example.evil.example/"), origin("https://ca.example/"));
    }
}
