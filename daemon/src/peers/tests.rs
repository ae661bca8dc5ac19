//! Every outcome of an operation with a private key, in the order of the checks.

use core::num::{NonZeroU32, NonZeroUsize};
use core::time::Duration;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use keyward_proto::message::{Decrypt, Request, Response, Sign, request, response, sign};
use keyward_proto::{KeyType, Label, Outcome, Scheme, Use};
use keyward_unit::{MasterKey, Unit};

use super::answer::answer;
use super::reactors::Reactors;
use super::shared::Shared;
use super::users::{Account, OperationPermit};
use crate::backend::{Backend, Backends, Embedded, Trace};
use crate::config::{Config, EMBEDDED};
use crate::daemon::Daemon;
use crate::keys::tests::{put_unreadable, unlocked};
use crate::keys::{Deletion, Key, Life, State, now};
use crate::lifecycle::{self, Actor, Change, KeySpec, Properties};
use crate::policy::authorise::{Grant, Grants, Limits, Peer, Who};
use crate::policy::purpose::prime;
use crate::policy::roles::Role;

/// The daemon of the tests, one user, and the request that this user sends.
struct Fixture {
    shared: Shared,
    account: Arc<Account>,
    peer: Peer,
    sign: Sign,
    arrived: Instant,
    _dir: tempfile::TempDir,
}

#[tokio::test]
async fn the_first_fault_decides() {
    // The request has every fault at once. Each step takes away the fault that was reported.
    let mut all = Fixture::new().await;
    let (gone, key) = (label("shop-gone"), all.key("shop").await);
    all.put(Key { label: gone.clone(), backend: "gone".into(), revision: 0, ..(*key).clone() }).await;
    all.change(&gone, Change::Disable).await;
    all.grant(Use::TlsClient, None);
    all.sign = Sign {
        label: "no label".into(),
        version: 7,
        scheme: 0xffff,
        input: None,
        public_key_fingerprint: Some(1),
    };
    all.arrived = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();

    all.expect(Outcome::Malformed).await;
    all.sign.label = "other".into();
    all.expect(Outcome::NoGrant).await;
    all.sign.label = "shop-nowhere".into();
    all.expect(Outcome::UnknownKey).await;
    all.sign.label = gone.to_string();
    all.expect(Outcome::UnknownVersion).await;
    all.sign.version = 1;
    all.expect(Outcome::OtherPublicKey).await;
    all.sign.public_key_fingerprint = Some(key.versions[0].fingerprint.number());
    all.expect(Outcome::KeyDisabled).await;
    all.change(&gone, Change::Enable).await;
    all.expect(Outcome::NotSupported).await;
    all.sign.scheme = Scheme::EcdsaSecp256r1Sha256.code().into();
    all.expect(Outcome::Malformed).await;
    all.sign.input = Some(sign::Input::Message(certificate_verify("client")));
    all.expect(Outcome::UseRefused).await;
    all.sign.input = Some(sign::Input::Message(certificate_verify("server")));
    all.expect(Outcome::UseNotGranted).await;
    let only_one = all.grant(Use::TlsServer, NonZeroU32::new(1));
    all.expect(Outcome::DeadlineExceeded).await;
    all.arrived = Instant::now();
    all.expect(Outcome::Overloaded).await;
    drop(only_one);
    all.expect(Outcome::UnitUnavailable).await;
    all.sign.label = "shop".into();
    all.expect(Outcome::Done).await;
}

#[tokio::test]
async fn only_an_active_key_signs_and_only_signatures_are_uses() {
    let one = Fixture::new().await;
    let deletion = Some(Deletion { by: 0, at: now(), destroy_at: now() + 3600 });
    let lives = [
        (State::Disabled, Life::default()),
        (State::Compromised, Life::default()),
        (State::Enabled, Life { not_before: Some(now() + 60), ..Life::default() }),
        (State::Enabled, Life { not_after: Some(now()), ..Life::default() }),
        (State::Enabled, Life { deletion, ..Life::default() }),
    ];
    for (state, life) in lives {
        let key = one.key("shop").await;
        one.put(Key { state, life, ..(*key).clone() }).await;
        one.expect(Outcome::KeyDisabled).await;
    }
    let usage = one.shared.daemon.keys.usage();
    assert!(usage.of_key("shop").is_empty());
    let life = Life { not_before: Some(now()), not_after: Some(now() + 60), ..Life::default() };
    let key = one.key("shop").await;
    one.put(Key { state: State::Enabled, life, ..(*key).clone() }).await;
    one.expect(Outcome::Done).await;
    let used = usage.of_key("shop");
    assert!(used.len() == 1 && used[0].uid == UID && now() - used[0].last < 60, "{used:?}");
}

#[tokio::test]
async fn every_outcome_is_reached_and_counted() {
    let mut one = Fixture::new().await;
    let mut seen = BTreeSet::new();

    // Messages of TLS 1.2 that a use does not admit.
    for (input, outcome) in [
        (key_exchange(&[0xee; 8], &[3, 0, 23]), Outcome::UseRefused),
        (key_exchange(&[0xee; 8], &x25519()), Outcome::NoDowngradeSentinel),
        (key_exchange(b"DOWNGRD\x01", &x25519()), Outcome::Done),
        (finite_field(&prime(256, true)), Outcome::DheRefused),
        (finite_field(&[0xff; 256]), Outcome::OtherDhGroup),
        (b"invoice".to_vec(), Outcome::UseRefused),
    ] {
        one.sign.input = Some(sign::Input::Message(input));
        seen.insert(one.expect(outcome).await);
    }
    assert_eq!(
        one.purposes(),
        ["tls12-dhe-other-group", "tls12-dhe-server", "tls12-only-server", "tls12-server"]
    );

    // Faults of the stored key.
    one.sign.input = Some(sign::Input::Message(certificate_verify("server")));
    let key = one.key("shop").await;
    for (name, blob, outcome) in [
        ("shop-damaged", altered(&key.versions[0].blob), Outcome::BlobDamaged),
        ("shop-foreign", unit().generate(KeyType::P256).unwrap().blob, Outcome::OtherMasterKey),
    ] {
        let mut key = Key { label: label(name), revision: 0, ..(*key).clone() };
        key.versions[0].blob = blob;
        one.put(key).await;
        one.sign.label = name.into();
        seen.insert(one.expect(outcome).await);
    }
    one.sign.label = UNREADABLE.into();
    seen.insert(one.expect(Outcome::Internal).await);

    // A scheme of another key type, and a digest that the scheme does not have.
    one.sign.label = "shop".into();
    one.sign.scheme = Scheme::Ed25519.code().into();
    one.expect(Outcome::NotSupported).await;
    one.change(&label("shop"), Change::SetUses { uses: vec![Use::Any], sign_and_decrypt: false }).await;
    one.grant(Use::Any, None);
    one.sign.scheme = Scheme::EcdsaSecp256r1Sha256.code().into();
    one.sign.input = Some(sign::Input::Digest(vec![1; 31]));
    one.expect(Outcome::Malformed).await;
    one.sign.input = Some(sign::Input::Digest(vec![1; 32]));
    one.expect(Outcome::Done).await;

    let counts = one.shared.daemon.metrics.outcomes();
    for outcome in &seen {
        assert!(counts.contains_key(outcome), "{outcome} in {counts:?}");
    }
    assert_eq!(counts["done"], 2);
    assert_eq!(counts["use-refused"], 2);
}

#[tokio::test]
async fn a_decryption_takes_the_same_path() {
    let fixture = Fixture::new().await;
    let spec = KeySpec {
        label: label("shop-rsa"),
        properties: Properties { uses: vec![Use::RsaKeyExchange], ..Properties::default() },
    };
    let key = lifecycle::generate(&fixture.shared.daemon, ACTOR, spec, KeyType::Rsa(2048)).await.unwrap();
    let decrypt = |ciphertext: usize, client_version, fingerprint| Decrypt {
        label: "shop-rsa".into(),
        version: 0,
        ciphertext: vec![1; ciphertext],
        client_version,
        public_key_fingerprint: Some(fingerprint),
    };
    let right = key.versions[0].fingerprint.number();
    let mut outcomes = Vec::new();
    for request in [decrypt(256, 0x303, 1), decrypt(256, 0x303, right)] {
        outcomes.push(fixture.answer(request::Body::Decrypt(request)).await.outcome());
    }
    fixture.grant(Use::RsaKeyExchange, None);
    for request in [decrypt(256, 0, right), decrypt(255, 0x303, right)] {
        outcomes.push(fixture.answer(request::Body::Decrypt(request)).await.outcome());
    }
    use Outcome::{Malformed, OtherPublicKey, UseNotGranted};
    assert_eq!(outcomes, [OtherPublicKey, UseNotGranted, Malformed, Malformed]);

    // The padding is wrong. The answer is a premaster secret all the same, and always the same one.
    let mut answers = Vec::new();
    for _ in 0..2 {
        let answer = fixture.answer(request::Body::Decrypt(decrypt(256, 0x303, right))).await;
        let Some(response::Body::Plaintext(plaintext)) = answer.body else { panic!("no premaster secret") };
        answers.push(plaintext.plaintext);
    }
    assert!(answers[0].len() == 48 && answers[0] == answers[1]);
    let counts = fixture.shared.daemon.metrics.decryption_outcomes();
    assert_eq!((counts["done"], counts["malformed"], counts.len()), (2, 2, 4));
}

impl Fixture {
    /// A daemon with the key `shop` for TLS servers, a user with a grant for it, and a request
    /// that is carried out.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shared = shared(dir.path()).await;
        let spec = KeySpec { label: label("shop"), properties: Properties::default() };
        lifecycle::generate(&shared.daemon, ACTOR, spec, KeyType::P256).await.unwrap();
        let fixture = Self {
            shared,
            account: Arc::new(Account::new(1)),
            peer: Peer { uid: UID, gid: UID, pid: 1, ..Peer::default() },
            sign: Sign {
                label: "shop".into(),
                version: 0,
                scheme: Scheme::EcdsaSecp256r1Sha256.code().into(),
                input: Some(sign::Input::Message(certificate_verify("server"))),
                public_key_fingerprint: None,
            },
            arrived: Instant::now(),
            _dir: dir,
        };
        fixture.grant(Use::TlsServer, None);
        fixture
    }

    async fn key(&self, name: &str) -> Arc<Key> {
        self.shared.daemon.keys.get(&label(name)).await.unwrap().unwrap()
    }

    async fn put(&self, key: Key) {
        self.shared.daemon.keys.put(key).await.unwrap();
    }

    async fn change(&self, label: &Label, change: Change) {
        lifecycle::change(&self.shared.daemon, ACTOR, label, change).await.unwrap();
    }

    /// Grants the user one use of the keys `shop*`. With a limit of operations in flight, one of
    /// them is taken until the result is dropped.
    fn grant(&self, one: Use, in_flight: Option<NonZeroU32>) -> Option<OperationPermit> {
        let grant = Grant {
            who: Who::user(UID),
            keys: vec!["shop*".parse().unwrap()],
            uses: vec![one],
            limits: Limits { rate: None, in_flight },
        };
        let grants = Grants::new(vec![grant]);
        self.shared.daemon.set_config(Config { grants, ..Config::default() });
        let config = self.shared.daemon.config();
        in_flight.map(|_| self.account.operation_permit(&config, config.grants.iter().enumerate()).unwrap())
    }

    /// Sends the request, and returns the name of its outcome.
    async fn expect(&self, outcome: Outcome) -> String {
        let answer = self.answer(request::Body::Sign(self.sign.clone())).await;
        assert_eq!(answer.outcome(), outcome, "for {:?}", self.sign);
        assert_eq!(answer.body.is_some(), outcome == Outcome::Done);
        outcome.name().to_owned()
    }

    async fn answer(&self, body: request::Body) -> Response {
        let request = Request { id: 5, deadline_ms: 0, body: Some(body), ..Request::default() };
        let trace = Trace::new(1, 5);
        let answer = answer(&self.shared, &self.peer, &self.account, request, self.arrived, trace).await;
        assert_eq!(answer.id, 5);
        answer
    }

    /// Purposes of the messages so far, except of those that no use but `any` admits.
    fn purposes(&self) -> Vec<String> {
        let purposes = self.shared.daemon.metrics.purposes().into_keys();
        purposes.filter(|purpose| purpose != "other").collect()
    }
}

async fn shared(dir: &Path) -> Shared {
    let (unit, store) = (Embedded::with_master_key(MasterKey::generate().unwrap()), unlocked(dir));
    put_unreadable(&store, &label(UNREADABLE));
    let wkid = unit.unit().wkid().unwrap();
    let backends = Backends::new(vec![Backend::embedded(unit)]);
    let daemon = Arc::new(Daemon::new(Config::default(), Vec::new(), false, store, backends));
    daemon.keys.set_wkid(EMBEDDED, wkid, None).await.unwrap();
    Shared::new(daemon, Reactors::start().unwrap(), 1024)
}

fn unit() -> Unit {
    Unit::new(MasterKey::generate().unwrap(), NonZeroUsize::MIN)
}

fn label(name: &str) -> Label {
    name.parse().unwrap()
}

fn altered(blob: &[u8]) -> Vec<u8> {
    let mut blob = blob.to_vec();
    *blob.last_mut().unwrap() ^= 1;
    blob
}

/// The signed part of CertificateVerify in TLS 1.3 (RFC 8446, 4.4.3).
fn certificate_verify(side: &str) -> Vec<u8> {
    let context = format!("TLS 1.3, {side} CertificateVerify");
    [&[0x20; 64], context.as_bytes(), &[0], &[0xab; 32]].concat()
}

/// The signed part of ServerKeyExchange in TLS 1.2 with ECDHE (RFC 8422, 5.4), whose server random
/// ends in these bytes.
fn key_exchange(end_of_random: &[u8; 8], parameters: &[u8]) -> Vec<u8> {
    let randoms: Vec<u8> = (0..56_u8).map(|byte| byte.wrapping_mul(37) | 1).collect();
    [&randoms, &end_of_random[..], parameters].concat()
}

/// named_curve, x25519 and a public value (RFC 8422, 5.4).
fn x25519() -> Vec<u8> {
    [&[3, 0, 29, 32][..], &[9; 32]].concat()
}

/// The signed part of ServerKeyExchange in TLS 1.2 with DHE (RFC 5246, 7.4.3) over a prime.
fn finite_field(prime: &[u8]) -> Vec<u8> {
    let public = [&[0x7f][..], &[0x55; 255]].concat();
    let mut message = vec![0xf5; 64];
    for part in [prime, &[2], &public] {
        message.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
        message.extend_from_slice(part);
    }
    message
}

const UID: u32 = 1000;
const ACTOR: Actor = Actor::User { uid: 0, pid: 1, role: Role::Manager };
/// A key whose record is authentic, and not a key.
const UNREADABLE: &str = "shop-unreadable";
