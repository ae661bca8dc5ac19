use core::fmt;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use keyward_proto::{KeyState, Label, Outcome};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, DnsName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use thiserror::Error as ThisError;

use crate::follow::Follower;
use crate::keyward::parse;
use crate::{Error, Keyward, RequestError};

/// Keys with the certificates that the daemon holds for them, by the names that clients ask for
/// (SNI, RFC 6066, 3). Made by [`Keyward::resolver`].
///
/// For each key, the resolver uses the newest version with certificates that `keyward cert attach`
/// has attached. Resolving a name looks only into memory, and never waits.
///
/// A TLS client uses the key of [`ResolverBuilder::fallback`].
///
/// Make the resolver in the process that uses it: the child of a fork has no thread that follows
/// changes.
pub struct Resolver {
    shared: Arc<Shared>,
    /// Ends with the resolver.
    _follower: Option<Follower>,
}

impl Resolver {
    /// Status of each key, in the order of the labels: for a page about the health of a server.
    pub fn status(&self) -> Vec<KeyStatus> {
        let keys = self.shared.keys.load();
        let follow_error = self.shared.follow_error.load_full();
        let status = |label: &Label| {
            let known = keys.get(label);
            let problem = match known {
                None => Some(Problem::NotAsked),
                Some(known) => known.problem.clone().map(Problem::Key),
            };
            KeyStatus {
                label: label.to_string(),
                version: known.and_then(|known| known.version),
                problem: problem.or_else(|| follow_error.clone().map(Problem::NotFollowed)),
            }
        };
        let mut all: Vec<_> = self.shared.labels().map(status).collect();
        all.sort_unstable_by(|a, b| a.label.cmp(&b.label));
        all
    }

    fn fallback(&self) -> Option<Arc<CertifiedKey>> {
        self.shared.certified(self.shared.names.fallback.as_ref()?)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.shared.certified(self.shared.names.label(client_hello.server_name())?)
    }
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.fallback().filter(|certified| certified.key.choose_scheme(schemes).is_some())
    }

    fn has_certs(&self) -> bool {
        self.fallback().is_some()
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("names", &self.shared.names).finish_non_exhaustive()
    }
}

/// Status of a key of a [`Resolver`], from the last answer of the daemon.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeyStatus {
    /// Label of the key.
    pub label: String,
    /// Version that handshakes use, from 1. `None` if handshakes fail because there is no
    /// certificate.
    pub version: Option<u32>,
    /// Reason why handshakes fail, or may fail soon. `None` if there is no problem.
    pub problem: Option<Problem>,
}

/// Reason why handshakes with a key fail, or may fail soon. `Display` shows a text for a person.
#[derive(Clone, Debug, ThisError)]
#[non_exhaustive]
pub enum Problem {
    /// The daemon's last answer about the key, or the lack of an answer. A disabled key is
    /// [`Error::Refused`] with [`Outcome::KeyDisabled`].
    #[error(transparent)]
    Key(Arc<Error>),
    /// The daemon has not been asked about the key yet.
    #[error("the daemon has not been asked yet")]
    NotAsked,
    /// The key is usable, but the resolver does not learn of changes at the moment.
    #[error("cannot follow changes: {0}")]
    NotFollowed(#[source] Arc<RequestError>),
}

/// Choice of the keys of a [`Resolver`], and of the names that each key is for.
///
/// ```no_run
/// # fn main() -> Result<(), keyward_rustls::Error> {
/// let resolver = keyward_rustls::Keyward::from_env()?
///     .resolver()
///     .key("shop", ["shop.example", "*.shop.example"])
///     .key("mail", ["mail.example"])
///     .fallback("shop")
///     .build_following()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use]
pub struct ResolverBuilder {
    keyward: Keyward,
    names: Names,
    labels: HashSet<Label>,
    /// The first mistake of the caller.
    error: Option<Error>,
}

impl ResolverBuilder {
    pub(crate) fn new(keyward: Keyward) -> Self {
        Self { keyward, names: Names::default(), labels: HashSet::new(), error: None }
    }

    /// Uses the key with this label for clients that ask for one of the names. A name is a DNS
    /// name, or `*.example.com` for each name with exactly one more label in the place of the star.
    pub fn key(mut self, label: &str, names: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        if let Some(label) = self.label(label) {
            for name in names {
                self.name(name.as_ref(), label.clone());
            }
        }
        self
    }

    /// Uses the key with this label for clients that ask for another name or for no name. Without a
    /// fallback, such clients are refused.
    pub fn fallback(mut self, label: &str) -> Self {
        self.names.fallback = self.label(label);
        self
    }

    /// Asks the daemon for the certificates once. Later changes have no effect on this resolver.
    ///
    /// # Blocks
    /// Waits for an answer for each key, each up to the time limit of a request.
    ///
    /// # Errors
    /// [`Error::Label`] or [`Error::Name`] if a label or a name is not valid. For the first key
    /// that cannot be used: [`Error::NoCertificates`], [`Error::Certificates`], [`Error::Refused`],
    /// [`Error::Unavailable`] or [`Error::UnknownType`].
    pub fn build(self) -> Result<Arc<Resolver>, Error> {
        let shared = self.shared()?;
        for label in &shared.labels {
            shared.note(label, shared.described(label)?);
        }
        Ok(Arc::new(Resolver { shared, _follower: None }))
    }

    /// Asks the daemon for the certificates, and follows their changes: new certificates, and new
    /// versions of a key as soon as they have certificates, are used from the next handshake on. A
    /// thread waits for changes as long as the resolver lives.
    ///
    /// The resolver is made even while the daemon is not running. Handshakes with a key fail until
    /// the daemon has described the key; [`Resolver::status`] has the reason. If the daemon stops
    /// later, the resolver keeps its certificates.
    ///
    /// # Blocks
    /// Waits for the first answer for each key. After an answer that does not come within the time
    /// limit, the thread asks for the other keys.
    ///
    /// # Errors
    /// [`Error::Label`] or [`Error::Name`] if a label or a name is not valid. [`Error::Follow`] if
    /// the system gives no thread.
    pub fn build_following(self) -> Result<Arc<Resolver>, Error> {
        let shared = self.shared()?;
        shared.update_all(shared.labels());
        let follower = Follower::start(Arc::clone(&shared))?;
        Ok(Arc::new(Resolver { shared, _follower: Some(follower) }))
    }

    fn name(&mut self, name: &str, label: Label) {
        let (names, bare) = match name.strip_prefix("*.") {
            Some(domain) => (&mut self.names.wildcards, domain),
            None => (&mut self.names.exact, name),
        };
        // Clients send a name without the dot that may end it (RFC 6066, 3).
        match DnsName::try_from(bare.strip_suffix('.').unwrap_or(bare)) {
            Ok(bare) => drop(names.insert(bare.as_ref().to_ascii_lowercase(), label)),
            Err(_) => drop(self.error.get_or_insert_with(|| Error::Name(name.to_owned()))),
        }
    }

    fn label(&mut self, label: &str) -> Option<Label> {
        match parse(label) {
            Ok(label) => {
                self.labels.insert(label.clone());
                Some(label)
            }
            Err(error) => {
                self.error.get_or_insert(error);
                None
            }
        }
    }

    fn shared(self) -> Result<Arc<Shared>, Error> {
        let Self { keyward, names, labels, error } = self;
        match error {
            Some(error) => Err(error),
            None => Ok(Arc::new(Shared {
                keyward,
                labels,
                names,
                keys: ArcSwap::default(),
                follow_error: ArcSwapOption::empty(),
            })),
        }
    }
}

/// Labels of the keys, by names.
#[derive(Debug, Default)]
struct Names {
    exact: HashMap<String, Label>,
    /// By the part after the star, without the dot.
    wildcards: HashMap<String, Label>,
    fallback: Option<Label>,
}

impl Names {
    fn label(&self, name: Option<&str>) -> Option<&Label> {
        let named = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let below = || name.split_once('.').and_then(|(_, domain)| self.wildcards.get(domain));
            self.exact.get(&name).or_else(below)
        });
        named.or(self.fallback.as_ref())
    }
}

/// State of a resolver, shared with the thread that keeps it up to date.
pub(crate) struct Shared {
    pub(crate) keyward: Keyward,
    labels: HashSet<Label>,
    names: Names,
    keys: ArcSwap<HashMap<Label, Known>>,
    /// Error of the last attempt to follow changes, if it failed.
    follow_error: ArcSwapOption<RequestError>,
}

/// Knowledge about a key from the daemon's last answer.
#[derive(Clone, Default)]
struct Known {
    /// `None` as long as there are no certificates.
    certified: Option<Arc<CertifiedKey>>,
    version: Option<u32>,
    problem: Option<Arc<Error>>,
}

impl Shared {
    /// Every key, in no order.
    pub(crate) fn labels(&self) -> impl Iterator<Item = &Label> {
        self.labels.iter()
    }

    /// Notes whether following changes works.
    pub(crate) fn set_follow_error(&self, error: Option<RequestError>) {
        self.follow_error.store(error.map(Arc::new));
    }

    /// Does [`Shared::update`] for several keys. Returns the labels whose answer was missing or
    /// temporary. After a request without an answer, the other keys are not requested.
    pub(crate) fn update_all<'a>(&self, labels: impl IntoIterator<Item = &'a Label>) -> HashSet<&'a Label> {
        let mut pending = HashSet::new();
        let mut is_gone = false;
        for label in labels {
            if !is_gone {
                match self.update(label) {
                    Err(error) if error.may_pass() => {
                        is_gone = matches!(*error, Error::Unavailable { .. });
                    }
                    _ => continue,
                }
            }
            pending.insert(label);
        }
        pending
    }

    /// Asks the daemon for the description of a key, and notes the answer.
    fn update(&self, label: &Label) -> Result<(), Arc<Error>> {
        let error = match self.described(label) {
            Ok(known) => {
                self.note(label, known);
                return Ok(());
            }
            Err(error) => Arc::new(error),
        };
        let last = match *error {
            // Another key has the label now, so the old certificates are useless.
            Error::NoCertificates(_) => Known::default(),
            // The error may pass. Until then, the refusal of a signature tells the server the
            // reason.
            _ => self.keys.load().get(label).cloned().unwrap_or_default(),
        };
        self.note(label, Known { problem: Some(Arc::clone(&error)), ..last });
        Err(error)
    }

    fn note(&self, label: &Label, known: Known) {
        let mut keys = HashMap::clone(&self.keys.load());
        keys.insert(label.clone(), known);
        self.keys.store(Arc::new(keys));
    }

    fn described(&self, label: &Label) -> Result<Known, Error> {
        let described = self.keyward.client.describe_certified(label);
        let mut described = described.map_err(|error| Error::of_request("ask for", label, error))?;
        let certificates = core::mem::take(&mut described.certificates);
        if certificates.is_empty() {
            return Err(Error::NoCertificates(label.to_string()));
        }
        // A disabled key is offered anyway: the refusal of its signatures tells the server more
        // than a missing key.
        let disabled = || Error::Refused { label: label.to_string(), outcome: Outcome::KeyDisabled };
        let is_enabled = described.state == Some(KeyState::Enabled);
        let problem = (!is_enabled).then(|| Arc::new(disabled()));
        let version = Some(described.version);
        let certificates = certificates.into_iter().map(CertificateDer::from).collect();
        let certified = self.keyward.described(label, described)?.certified(certificates)?;
        Ok(Known { certified: Some(certified.into()), version, problem })
    }

    fn certified(&self, label: &Label) -> Option<Arc<CertifiedKey>> {
        self.keys.load().get(label)?.certified.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::thread;

    use keyward_proto::frame;
    use keyward_proto::message::{Description, Request, Response, request, response};

    use super::*;

    /// A daemon with a record that it cannot read, which a test cannot make from outside.
    fn answer_as_a_daemon_with_a_sick_key(mut peer: UnixStream) {
        let mut input = Vec::new();
        let mut part = [0; 1024];
        while let Ok(count @ 1..) = peer.read(&mut part) {
            input.extend_from_slice(&part[..count]);
            let Ok(Some((body, used))) = frame::split(&input) else { continue };
            let request: Request = frame::decode(body).unwrap();
            input.drain(..used);
            let Some(request::Body::Describe(describe)) = request.body else { continue };
            let (outcome, body) = match describe.label.as_str() {
                "sick" => (Outcome::Internal, None),
                _ => (Outcome::Done, Some(response::Body::Description(Description::default()))),
            };
            let response = Response { id: request.id, outcome: outcome.into(), body };
            peer.write_all(&frame::encode(&response).unwrap()).unwrap();
        }
    }

    #[test]
    fn a_key_that_cannot_be_described_is_the_only_one_that_is_not() {
        let name = format!("keyward-rustls-{}", std::process::id());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        thread::spawn(move || {
            for peer in listener.incoming() {
                thread::spawn(move || answer_as_a_daemon_with_a_sick_key(peer.unwrap()));
            }
        });
        let well: Vec<_> = ('a'..='p').map(String::from).collect();
        let mut builder = Keyward::at(&format!("@{name}")).unwrap().resolver().fallback("sick");
        for label in &well {
            builder = builder.key(label, [format!("{label}.example")]);
        }
        let resolver = builder.build_following().unwrap();
        let problem = |label: &str| {
            let status = resolver.status().into_iter().find(|status| status.label == label);
            status.and_then(|status| status.problem).unwrap().to_string()
        };
        assert!(problem("sick").contains("refused"), "{}", problem("sick"));
        for label in &well {
            assert!(
                problem(label).contains("has no certificates in the daemon"),
                "{label}: {}",
                problem(label)
            );
        }
    }

    #[test]
    fn no_time_is_too_long() {
        let keyward = Keyward::at("/nowhere").unwrap().with_timeout(core::time::Duration::MAX);
        assert!(matches!(keyward.key("a"), Err(Error::Unavailable { .. })));
    }

    #[test]
    fn names_exact_before_wildcards_before_the_rest() {
        let keyward = Keyward::at("/nowhere").unwrap();
        let builder = ResolverBuilder::new(keyward.clone())
            .key("shop", ["Shop.example.com"])
            .key("wild", ["*.example.com"])
            .key("below", ["*.shop.example.com"]);
        let label = |name: Option<&str>| builder.names.label(name).map(Label::as_str);
        assert_eq!(label(Some("shop.example.com")), Some("shop"));
        assert_eq!(label(Some("SHOP.example.COM")), Some("shop"));
        assert_eq!(label(Some("mail.example.com")), Some("wild"));
        assert_eq!(label(Some("a.shop.example.com")), Some("below"));
        for none in [Some("example.com"), Some("a.b.example.com"), Some("com"), Some(""), None] {
            assert_eq!(label(none), None, "{none:?}");
        }
        let builder = builder.fallback("rest");
        for none in [Some("example.com"), None] {
            assert_eq!(builder.names.label(none).map(Label::as_str), Some("rest"));
        }
        assert_eq!(builder.labels.len(), 4);
        let builder = || ResolverBuilder::new(keyward.clone());
        assert!(builder().key("a", ["a.example."]).names.exact.contains_key("a.example"));
        for wrong in ["*", "*.", "", "a b", "10.0.0.1", "https://a.example", "*.*.example", "a..example"] {
            let error = builder().key("a", [wrong]).build_following().unwrap_err();
            assert!(matches!(&error, Error::Name(name) if name == wrong), "{wrong:?}: {error}");
        }
        let error = builder().key("no label", ["a"]).fallback("b").build().unwrap_err();
        assert!(error.to_string().starts_with("\"no label\" is not a key label"), "{error}");
    }
}
