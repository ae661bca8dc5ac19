//! Decides which peer may use which key for which act: a pure function over data. A peer without a
//! grant may do nothing.

use core::num::NonZeroU32;
use core::str::FromStr;
use std::sync::Arc;

use keyward_proto::{Label, Use};
use thiserror::Error;

use super::act::{Act, Refusal};

/// A local process at the other end of the socket, with its credentials from the kernel
/// (SO_PEERCRED, unix(7)).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Peer {
    /// Effective user id when the process connected.
    pub uid: u32,
    /// Effective group id when the process connected.
    pub gid: u32,
    /// Process id.
    pub pid: i32,
    /// Supplementary group ids when the process connected (SO_PEERGROUPS).
    pub groups: Arc<[u32]>,
    /// The systemd service of the process when it connected, for example `nginx.service`; `None` if
    /// no grant depends on the service.
    pub service: Option<Arc<str>>,
    /// Name of the program when the process connected (proc_pid_comm(5)), if it could be read.
    pub command: Option<Arc<str>>,
}

/// All grants, of all peers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Grants(Vec<Grant>);

/// Permission of some peers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    /// Peers that have the grant.
    pub who: Who,
    /// Keys that the grant covers.
    pub keys: Vec<Pattern>,
    /// Uses that the grant admits.
    pub uses: Vec<Use>,
    /// Limits for each user.
    pub limits: Limits,
}

/// Peers that have a grant: a peer must meet every condition that is present.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Who {
    /// The process belongs to this user.
    pub uid: Option<u32>,
    /// The process has this group, as its own group or as a supplementary group.
    pub gid: Option<u32>,
    /// The process runs in this service of systemd.
    pub service: Option<Arc<str>>,
}

/// Limits for each user under a grant; `None` for no limit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// Maximum number of private-key operations in a second.
    pub rate: Option<NonZeroU32>,
    /// Maximum number of private-key operations that are in flight or wait.
    pub in_flight: Option<NonZeroU32>,
}

impl Grant {
    /// A grant for every key and every use that can be granted, RSA key exchange included.
    pub fn everything(who: Who) -> Self {
        let uses = vec![Use::Any, Use::RsaKeyExchange];
        Self { who, keys: vec![Pattern("*".to_owned())], uses, limits: Limits::default() }
    }
}

impl Grants {
    /// Grants from a list.
    pub fn new(grants: Vec<Grant>) -> Self {
        Self(grants)
    }

    /// Every grant, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.0.iter()
    }

    /// Conditions by which the grants of a peer name the peer. A grant that names the user comes
    /// first, then the first grant of the peer. `None` if the peer has no grant.
    pub fn name(&self, peer: &Peer) -> Option<&Who> {
        let mut given = self.0.iter().map(|grant| &grant.who).filter(|who| who.is(peer));
        let first = given.next()?;
        Some(if first.uid.is_some() { first } else { given.find(|who| who.uid.is_some()).unwrap_or(first) })
    }

    /// True if a grant names this user by user id.
    pub(crate) fn name_user(&self, uid: u32) -> bool {
        self.0.iter().any(|grant| grant.who.uid == Some(uid))
    }

    /// True if the grants of a process of that user can depend on its service.
    pub fn depend_on_service(&self, uid: u32) -> bool {
        let of_user = |who: &Who| who.service.is_some() && who.uid.is_none_or(|one| one == uid);
        self.0.iter().any(|grant| of_user(&grant.who))
    }

    /// Grants whose service, rate or number in flight has no effect for some key, because another
    /// grant is wider. Each item has the number of the grant, the names of those settings, and the
    /// number of the wider grant. Numbers are from 1.
    pub(crate) fn overruled(&self) -> impl Iterator<Item = (usize, String, usize)> {
        self.0.iter().enumerate().filter_map(|(number, narrow)| {
            let wide = self.0.iter().enumerate().find(|(other, wide)| {
                let same_peers = wide.who.uid.is_none_or(|uid| narrow.who.uid == Some(uid))
                    && wide.who.gid.is_none_or(|gid| narrow.who.gid == Some(gid))
                    && (wide.who.service.is_none() || wide.who.service == narrow.who.service);
                let is_wider = wide.who.service != narrow.who.service || wide.limits == Limits::default();
                let same_keys =
                    narrow.keys.iter().any(|key| wide.keys.iter().any(|one| one.matches(key.as_str())));
                let same_uses = narrow.uses.iter().any(|one| wide.uses.contains(one));
                *other != number && same_peers && is_wider && same_keys && same_uses
            });
            let (wide_number, wide) = wide?;
            let conditions = [
                ("unit", narrow.who.service.is_some() && wide.who.service.is_none()),
                ("rate", narrow.limits.rate.is_some() && wide.limits.rate.is_none()),
                ("in-flight", narrow.limits.in_flight.is_some() && wide.limits.in_flight.is_none()),
            ];
            let void: Vec<_> = conditions.iter().filter(|(_, void)| *void).map(|(name, _)| *name).collect();
            (!void.is_empty()).then(|| (number + 1, void.join(" and "), wide_number + 1))
        })
    }

    /// True if a grant lets the peer know of a key with this label.
    pub fn covers(&self, peer: &Peer, label: &Label) -> bool {
        self.of(peer, label).next().is_some()
    }

    /// Decides whether the peer may ask for an act of a key with these uses. Key and grant must
    /// each have a use that admits the act, and need not have the same one. Returns the grants that
    /// allow the act, at least one, each with its place in the configuration.
    ///
    /// # Errors
    /// [`Refusal`] says whether the grants or the key refuse the act.
    pub fn authorise<'g>(
        &'g self,
        peer: &'g Peer,
        label: &'g Label,
        key_uses: &[Use],
        act: Act,
    ) -> Result<impl Iterator<Item = (usize, &'g Grant)>, Refusal> {
        let mut grants = self.of(peer, label).peekable();
        if grants.peek().is_none() {
            return Err(Refusal::NoGrant);
        }
        if !act.is_admitted_by(key_uses) {
            return Err(Refusal::UseRefused);
        }
        let mut grants = grants.filter(move |(_, grant)| act.is_admitted_by(&grant.uses)).peekable();
        if grants.peek().is_some() { Ok(grants) } else { Err(Refusal::UseNotGranted) }
    }

    /// Uses of the grants of the peer that cover the key.
    pub fn uses<'g>(&'g self, peer: &'g Peer, label: &'g Label) -> impl Iterator<Item = Use> {
        self.of(peer, label).flat_map(|(_, grant)| grant.uses.iter().copied())
    }

    fn of<'g>(&'g self, peer: &'g Peer, label: &'g Label) -> impl Iterator<Item = (usize, &'g Grant)> {
        self.0.iter().enumerate().filter(|(_, grant)| {
            grant.who.is(peer) && grant.keys.iter().any(|pattern| pattern.matches(label.as_str()))
        })
    }
}

impl Extend<Grant> for Grants {
    fn extend<T: IntoIterator<Item = Grant>>(&mut self, grants: T) {
        self.0.extend(grants);
    }
}

impl Who {
    /// All processes of a user.
    pub fn user(uid: u32) -> Self {
        Self { uid: Some(uid), ..Self::default() }
    }

    fn is(&self, peer: &Peer) -> bool {
        self.uid.is_none_or(|uid| uid == peer.uid)
            && self.gid.is_none_or(|gid| gid == peer.gid || peer.groups.contains(&gid))
            && self.service.as_ref().is_none_or(|service| peer.service.as_ref() == Some(service))
    }
}

/// The first signing use of a key that also decrypts. Mixing both weakens the key, because a flaw
/// in one use helps against the other: so the caller must accept the mix explicitly. `csr` does not
/// count, because every key needs a certificate request.
pub(crate) fn signs_and_decrypts(uses: &[Use]) -> Option<Use> {
    let signs = |u: &&Use| !matches!(u, Use::RsaKeyExchange | Use::Csr);
    uses.iter().find(signs).copied().filter(|_| uses.contains(&Use::RsaKeyExchange))
}

/// A pattern for labels. `*` stands for any run of characters, and every other character for
/// itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pattern(String);

impl Pattern {
    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if a label matches. The number of steps is at most the product of both lengths.
    pub fn matches(&self, label: &str) -> bool {
        let (pattern, label) = (self.0.as_bytes(), label.as_bytes());
        let (mut p, mut l) = (0, 0);
        // Place of the last star, and the end of the part of the label that the star has matched so
        // far.
        let mut star = None;
        while l < label.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p, l));
                    p += 1;
                }
                Some(byte) if label.get(l) == Some(byte) => {
                    p += 1;
                    l += 1;
                }
                _ => {
                    let Some((at, swallowed)) = star else { return false };
                    star = Some((at, swallowed + 1));
                    p = at + 1;
                    l = swallowed + 1;
                }
            }
        }
        pattern.get(p..).unwrap_or_default().iter().all(|byte| *byte == b'*')
    }
}

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._-@+*".contains(&c);
        let sound = (1..=Label::MAX).contains(&text.len()) && text.bytes().all(allowed);
        if sound { Ok(Self(text.to_owned())) } else { Err(InvalidPattern) }
    }
}

/// A text that cannot be a pattern of labels.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
#[error(
    "not a pattern of key labels: use 1 to {} letters, digits, '.', '_', '-', '@', '+' and '*'",
    Label::MAX
)]
pub struct InvalidPattern;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::purpose::Purpose;

    fn peer(uid: u32, gid: u32) -> Peer {
        Peer { uid, gid, pid: 1, ..Peer::default() }
    }

    fn member() -> Peer {
        Peer { groups: [7, 500].into(), ..peer(1000, 1000) }
    }

    fn label(text: &str) -> Label {
        text.parse().unwrap()
    }

    fn grants() -> Grants {
        let grant = |who, keys: &[&str], uses: &[Use]| Grant {
            who,
            keys: keys.iter().map(|key| key.parse().unwrap()).collect(),
            uses: uses.to_vec(),
            limits: Limits::default(),
        };
        Grants::new(vec![
            grant(Who::user(33), &["shop", "*.example.com"], &[Use::TlsServer]),
            grant(Who::user(33), &["shop"], &[Use::Csr]),
            grant(Who { gid: Some(500), ..Who::default() }, &["*"], &[Use::Any]),
            grant(Who::user(35), &["mixed"], &[Use::Tls13Server, Use::Tls12Server]),
        ])
    }

    #[test]
    fn nothing_without_a_grant() {
        let none = Grants::default();
        for purpose in Purpose::ALL {
            let (root, label) = (peer(0, 0), label("shop"));
            let refusal = none.authorise(&root, &label, &Use::ALL, Act::Sign(purpose)).err();
            assert_eq!(refusal, Some(Refusal::NoGrant), "not even root");
        }
        assert!(!none.covers(&peer(0, 0), &label("shop")));
    }

    #[test]
    fn peers_by_user_and_group() {
        let grants = grants();
        assert!(grants.covers(&peer(33, 33), &label("shop")));
        assert!(!grants.covers(&peer(34, 33), &label("shop")));
        assert!(grants.covers(&peer(34, 500), &label("shop")), "runs in the group");
        assert!(grants.covers(&member(), &label("shop")), "a supplementary group");
        assert!(!grants.covers(&peer(33, 33), &label("mail")));
        assert!(grants.covers(&peer(33, 33), &label("www.example.com")));
        assert!(!grants.covers(&peer(33, 33), &label("example.com")));
    }

    #[test]
    fn key_and_grant_must_both_allow_the_use() {
        let grants = grants();
        let www = peer(33, 33);
        let ask = |peer: &Peer, label_text: &str, uses: &[Use], purpose: Purpose| {
            grants.authorise(peer, &label(label_text), uses, Act::Sign(purpose)).map(|allowed| {
                assert_eq!(allowed.count(), 1);
            })
        };
        let server = Purpose::Tls13ServerCertificateVerify;
        assert_eq!(ask(&www, "shop", &[Use::TlsServer], server), Ok(()));
        assert_eq!(ask(&www, "shop", &[Use::TlsServer], Purpose::Tls12ServerKeyExchange), Ok(()));
        assert_eq!(ask(&www, "shop", &[Use::TlsServer, Use::Csr], Purpose::CertificateRequest), Ok(()));
        assert_eq!(
            ask(&www, "shop", &[Use::TlsServer], Purpose::CertificateRequest),
            Err(Refusal::UseRefused)
        );
        let other = ask(&www, "a.example.com", &[Use::TlsServer, Use::Csr], Purpose::CertificateRequest);
        assert_eq!(other, Err(Refusal::UseNotGranted));
        assert_eq!(ask(&www, "shop", &[Use::Any], Purpose::Other), Err(Refusal::UseNotGranted));
        assert_eq!(
            ask(&www, "shop", &[Use::TlsServer], Purpose::Tls13ClientCertificateVerify),
            Err(Refusal::UseRefused)
        );
        let member = member();
        assert_eq!(ask(&member, "shop", &[Use::Any], Purpose::Other), Ok(()));
        assert_eq!(ask(&member, "shop", &[Use::Any], server), Ok(()), "any includes the rest");
        assert_eq!(ask(&member, "shop", &[Use::TlsServer], Purpose::Other), Err(Refusal::UseRefused));
    }

    #[test]
    fn key_and_grant_need_not_name_the_same_use() {
        let grants = grants();
        let ask = |key_use, purpose| {
            let (peer, label) = (peer(35, 35), label("mixed"));
            grants.authorise(&peer, &label, &[key_use], Act::Sign(purpose)).map(|allowed| {
                assert_eq!(allowed.count(), 1);
            })
        };
        assert_eq!(ask(Use::TlsServer, Purpose::Tls13ServerCertificateVerify), Ok(()));
        assert_eq!(ask(Use::TlsServer, Purpose::Tls12ServerKeyExchange), Ok(()));
        assert_eq!(ask(Use::TlsServer, Purpose::Tls12OnlyServerKeyExchange), Err(Refusal::UseRefused));
        assert_eq!(ask(Use::Any, Purpose::Tls12OnlyServerKeyExchange), Ok(()));
        assert_eq!(ask(Use::Any, Purpose::Tls12DheServerKeyExchange), Err(Refusal::UseNotGranted));
        assert_eq!(ask(Use::Tls13Server, Purpose::Tls12ServerKeyExchange), Err(Refusal::UseRefused));
    }

    #[test]
    fn a_key_that_signs_and_decrypts_must_be_accepted() {
        let exchange = Use::RsaKeyExchange;
        assert_eq!(signs_and_decrypts(&[exchange, Use::Csr, Use::TlsClient]), Some(Use::TlsClient));
        assert_eq!(signs_and_decrypts(&[Use::Any, exchange]), Some(Use::Any));
        for uses in [&[exchange][..], &[exchange, Use::Csr], &[Use::TlsServer, Use::Any, Use::Csr], &[]] {
            assert_eq!(signs_and_decrypts(uses), None, "{uses:?}");
        }
    }

    #[test]
    fn patterns() {
        let fits = |pattern: &str, label: &str| pattern.parse::<Pattern>().unwrap().matches(label);
        for (pattern, label) in [
            ("*", "a"),
            ("a*", "a"),
            ("*a", "bca"),
            ("a*c*e", "abcde"),
            ("**", "x"),
            ("*.b.*", "a.b.b.c"),
            ("a", "a"),
        ] {
            assert!(fits(pattern, label), "{pattern} {label}");
        }
        for (pattern, label) in
            [("a", "b"), ("a", "ab"), ("a*", "ba"), ("*a", "ab"), ("a*c*e", "abcd"), ("a**b", "a")]
        {
            assert!(!fits(pattern, label), "{pattern} {label}");
        }
        for bad in ["", "a b", "a/b", "[a]", &"*".repeat(129)] {
            assert_eq!(bad.parse::<Pattern>(), Err(InvalidPattern), "{bad:?}");
        }
        // Naive backtracking would not end in useful time.
        assert!(!fits(&"*a".repeat(64), &format!("{}b", "a".repeat(127))));
    }

    proptest! {
        #[test]
        fn a_pattern_without_stars_is_its_label(text in "[A-Za-z0-9][A-Za-z0-9._@+-]{0,20}") {
            prop_assert!(text.parse::<Pattern>().unwrap().matches(&text));
        }

        #[test]
        fn stars_in_a_label_s_place_fit_it(a in "[a-c]{0,6}", b in "[a-c]{0,6}", c in "[a-c]{0,6}") {
            let pattern = format!("{a}*{c}");
            let label = format!("{a}{b}{c}");
            prop_assert!(pattern.parse::<Pattern>().unwrap().matches(&label));
        }
    }
}
