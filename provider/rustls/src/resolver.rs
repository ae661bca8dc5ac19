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

use crate::daemon::parse;
use crate::follow::Follower;
use crate::{Daemon, Error, RequestError};

/// Keys with the certificates that the daemon holds for them, by the names that clients ask for (SNI, RFC 6066, 3); made by
/// [`Daemon::resolver`].
///
/// Of each key it takes the newest version that has certificates: those that `keyward cert attach` has attached. To resolve
/// is to look into memory, and never waits.
///
/// A client that proves itself has the key of [`ResolverBuilder::otherwise`].
///
/// It is made by the process that uses it: the child of a fork has no thread that follows changes.
pub struct Resolver {
    shared: Arc<Shared>,
    /// Ends with the resolver.
    _follower: Option<Follower>,
}

/// What a resolver and the thread that keeps it up to date have in common.
pub(crate) struct Shared {
    pub(crate) daemon: Daemon,
    labels: HashSet<Label>,
    names: Names,
    keys: ArcSwap<HashMap<Label, Known>>,
    /// Why nothing is heard of the daemon, if so.
    silence: ArcSwapOption<String>,
}

/// What is known of a key.
#[derive(Clone, Default)]
struct Known {
    /// None as long as it has none.
    certified: Option<Arc<CertifiedKey>>,
    version: Option<u32>,
    problem: Option<String>,
}

/// A key of a [`Resolver`], as the daemon described it last.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct KeyStatus {
    /// Its label.
    pub label: String,
    /// The version that handshakes use, from 1; none if they fail for want of a certificate.
    pub version: Option<u32>,
    /// Why handshakes fail, or may soon, for a person: the key is disabled, the daemon does not answer, and so on.
    pub problem: Option<String>,
}

/// Which key for which name.
#[derive(Debug, Default)]
struct Names {
    exact: HashMap<String, Label>,
    /// By what is behind the star, without the dot.
    wildcards: HashMap<String, Label>,
    otherwise: Option<Label>,
}

impl Names {
    fn label(&self, name: Option<&str>) -> Option<&Label> {
        let named = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let below = || name.split_once('.').and_then(|(_, domain)| self.wildcards.get(domain));
            self.exact.get(&name).or_else(below)
        });
        named.or(self.otherwise.as_ref())
    }
}

/// Says which keys a [`Resolver`] has, and for which names.
#[derive(Debug)]
#[must_use]
pub struct ResolverBuilder {
    daemon: Daemon,
    names: Names,
    labels: HashSet<Label>,
    wrong: Option<Error>,
}

impl ResolverBuilder {
    pub(crate) fn new(daemon: Daemon) -> Self {
        Self { daemon, names: Names::default(), labels: HashSet::new(), wrong: None }
    }

    /// Has the key of that label for clients that ask for a DNS name: that very one, or, for `*.example.com`, each with
    /// one more word in the place of the star.
    pub fn name(mut self, name: &str, label: &str) -> Self {
        let Some(label) = self.label(label) else { return self };
        let (names, bare) = match name.strip_prefix("*.") {
            Some(domain) => (&mut self.names.wildcards, domain),
            None => (&mut self.names.exact, name),
        };
        // As clients send them, without the dot that may end them (RFC 6066, 3).
        match DnsName::try_from(bare.strip_suffix('.').unwrap_or(bare)) {
            Ok(bare) => drop(names.insert(bare.as_ref().to_ascii_lowercase(), label)),
            Err(_) => drop(self.wrong.get_or_insert_with(|| Error::Name(name.to_owned()))),
        }
        self
    }

    /// Has the key of that label for clients that ask for no name, or for one that is none of the others. Without it they
    /// are refused.
    pub fn otherwise(mut self, label: &str) -> Self {
        self.names.otherwise = self.label(label);
        self
    }

    fn label(&mut self, label: &str) -> Option<Label> {
        match parse(label) {
            Ok(label) => {
                self.labels.insert(label.clone());
                Some(label)
            }
            Err(error) => {
                self.wrong.get_or_insert(error);
                None
            }
        }
    }

    /// Asks the daemon for the certificates, waits for them, and keeps those for good.
    ///
    /// # Errors
    /// [`Error::Label`] or [`Error::Name`] if a label or a name cannot be one; for the first key that cannot be had [`Error::NoCertificates`],
    /// [`Error::Certificates`], [`Error::Refused`], [`Error::Unavailable`] or [`Error::UnknownType`].
    pub fn load(self) -> Result<Arc<Resolver>, Error> {
        let shared = self.shared()?;
        for label in &shared.labels {
            shared.ask_for(label)?;
        }
        Ok(Arc::new(Resolver { shared, _follower: None }))
    }

    /// Asks the daemon for the certificates, and goes on to: new certificates, and new versions as soon as they have some, are
    /// taken from the next handshake on. A thread of its own waits for the daemon to tell, for as long as the resolver lives.
    /// This waits for the first answers only, or for one that does not come in time.
    ///
    /// It comes to be even while the daemon is away, and has keys that it does not get at first as soon as it does. Until then
    /// their handshakes fail; [`Resolver::status`] tells of them. What it had before it keeps through times without a daemon.
    ///
    /// # Errors
    /// [`Error::Label`] or [`Error::Name`] if a label or a name cannot be one, [`Error::Follow`] if the system gives no thread.
    pub fn follow(self) -> Result<Arc<Resolver>, Error> {
        let shared = self.shared()?;
        shared.ask_for_all(shared.labels());
        let follower = Follower::start(Arc::clone(&shared))?;
        Ok(Arc::new(Resolver { shared, _follower: Some(follower) }))
    }

    fn shared(self) -> Result<Arc<Shared>, Error> {
        let Self { daemon, names, labels, wrong } = self;
        match wrong {
            Some(error) => Err(error),
            None => Ok(Arc::new(Shared {
                daemon,
                labels,
                names,
                keys: ArcSwap::default(),
                silence: ArcSwapOption::empty(),
            })),
        }
    }
}

impl Shared {
    /// Every key, in no order.
    pub(crate) fn labels(&self) -> impl Iterator<Item = &Label> {
        self.labels.iter()
    }

    /// Notes whether anything is heard of the daemon.
    pub(crate) fn set_silence(&self, why: Option<&RequestError>) {
        self.silence.store(why.map(|why| Arc::new(format!("cannot follow changes: {why}"))));
    }

    /// As [`Shared::ask_for`], of some keys; returns those of which the daemon has said nothing that will hold. A daemon that
    /// does not answer is not asked for the rest.
    pub(crate) fn ask_for_all<'a>(&self, labels: impl IntoIterator<Item = &'a Label>) -> HashSet<&'a Label> {
        let mut owed = HashSet::new();
        let mut is_gone = false;
        for label in labels {
            if !is_gone {
                match self.ask_for(label) {
                    Err(error) if error.may_pass() => is_gone = matches!(error, Error::Unavailable { .. }),
                    _ => continue,
                }
            }
            owed.insert(label);
        }
        owed
    }

    /// Has the daemon describe a key, and takes what it says.
    fn ask_for(&self, label: &Label) -> Result<(), Error> {
        let mut keys = HashMap::clone(&self.keys.load());
        let described = self.described(label);
        let known = match &described {
            Ok(known) => known.clone(),
            // Another key under the same label: what there was is of no use with it.
            Err(error @ Error::NoCertificates(_)) => {
                Known { problem: Some(error.to_string()), ..Known::default() }
            }
            // It may come right again. Until then signatures are refused with a reason, if the daemon refuses them.
            Err(error) => {
                Known { problem: Some(error.to_string()), ..keys.get(label).cloned().unwrap_or_default() }
            }
        };
        keys.insert(label.clone(), known);
        self.keys.store(Arc::new(keys));
        described.map(drop)
    }

    fn described(&self, label: &Label) -> Result<Known, Error> {
        let described = self.daemon.client.describe_certified(label);
        let mut described = described.map_err(|reason| Error::of_request("ask for", label, reason))?;
        let certificates = core::mem::take(&mut described.certificates);
        if certificates.is_empty() {
            return Err(Error::NoCertificates(label.to_string()));
        }
        // It is offered all the same: the refusal of its signatures says more to the server than to have none.
        let disabled = Error::Refused { label: label.to_string(), outcome: Outcome::KeyDisabled };
        let problem = (described.state != Some(KeyState::Enabled)).then(|| disabled.to_string());
        let version = Some(described.version);
        let certificates = certificates.into_iter().map(CertificateDer::from).collect();
        let certified = self.daemon.described(label, described)?.certified(certificates)?;
        Ok(Known { certified: Some(certified.into()), version, problem })
    }

    fn certified(&self, label: &Label) -> Option<Arc<CertifiedKey>> {
        self.keys.load().get(label)?.certified.clone()
    }
}

impl Resolver {
    /// How things are with each key, in the order of the labels: for a page about the health of a server.
    pub fn status(&self) -> Vec<KeyStatus> {
        let keys = self.shared.keys.load();
        let silence = self.shared.silence.load_full().map(|why| String::clone(&why));
        let status = |label: &Label| {
            let unknown =
                || Known { problem: Some("the daemon has not been asked yet".into()), ..Known::default() };
            let Known { version, problem, .. } = keys.get(label).cloned().unwrap_or_else(unknown);
            KeyStatus { label: label.to_string(), version, problem: problem.or_else(|| silence.clone()) }
        };
        let mut all: Vec<_> = self.shared.labels().map(status).collect();
        all.sort_unstable_by(|a, b| a.label.cmp(&b.label));
        all
    }

    fn otherwise(&self) -> Option<Arc<CertifiedKey>> {
        self.shared.certified(self.shared.names.otherwise.as_ref()?)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.shared.certified(self.shared.names.label(client_hello.server_name())?)
    }
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.otherwise().filter(|certified| certified.key.choose_scheme(schemes).is_some())
    }

    fn has_certs(&self) -> bool {
        self.otherwise().is_some()
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("names", &self.shared.names).finish_non_exhaustive()
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

    /// A record that cannot be read is nothing that a daemon can be brought to from outside, so this stands for one.
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
        let mut builder = Daemon::at(&format!("@{name}")).unwrap().resolver().otherwise("sick");
        for label in &well {
            builder = builder.name(&format!("{label}.example"), label);
        }
        let resolver = builder.follow().unwrap();
        let problem = |label: &str| {
            let status = resolver.status().into_iter().find(|status| status.label == label);
            status.and_then(|status| status.problem).unwrap()
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
        let daemon = Daemon::at("/nowhere").unwrap().with_timeout(core::time::Duration::MAX);
        assert!(matches!(daemon.key("a"), Err(Error::Unavailable { .. })));
    }

    #[test]
    fn names_exact_before_wildcards_before_the_rest() {
        let daemon = Daemon::at("/nowhere").unwrap();
        let builder = ResolverBuilder::new(daemon.clone())
            .name("Shop.example.com", "shop")
            .name("*.example.com", "wild")
            .name("*.shop.example.com", "below");
        let label = |name: Option<&str>| builder.names.label(name).map(Label::as_str);
        assert_eq!(label(Some("shop.example.com")), Some("shop"));
        assert_eq!(label(Some("SHOP.example.COM")), Some("shop"));
        assert_eq!(label(Some("mail.example.com")), Some("wild"));
        assert_eq!(label(Some("a.shop.example.com")), Some("below"));
        for none in [Some("example.com"), Some("a.b.example.com"), Some("com"), Some(""), None] {
            assert_eq!(label(none), None, "{none:?}");
        }
        let builder = builder.otherwise("rest");
        for none in [Some("example.com"), None] {
            assert_eq!(builder.names.label(none).map(Label::as_str), Some("rest"));
        }
        assert_eq!(builder.labels.len(), 4);
        let daemon_of = || ResolverBuilder::new(daemon.clone());
        assert!(daemon_of().name("a.example.", "a").names.exact.contains_key("a.example"));
        for wrong in ["*", "*.", "", "a b", "10.0.0.1", "https://a.example", "*.*.example", "a..example"] {
            let error = daemon_of().name(wrong, "a").follow().unwrap_err();
            assert!(matches!(&error, Error::Name(name) if name == wrong), "{wrong:?}: {error}");
        }
        let error = ResolverBuilder::new(daemon).name("a", "no label").otherwise("b").load().unwrap_err();
        assert!(error.to_string().starts_with("\"no label\" is not a key label"), "{error}");
    }
}
