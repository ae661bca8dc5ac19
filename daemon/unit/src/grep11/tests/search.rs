//! A search for a way to the value of a sensitive key.
//!
//! A client starts with blobs of keys of every set of uses, with wrapped keys, and with keys of its
//! own that it knows in the clear. In each of three rounds the client makes every call with
//! everything that it has, and keeps every blob and every output. So the search has every
//! composition of up to three calls. A value is found if an output contains the value, if the
//! client can decrypt an output to the value by a key of its own, or if a part of the value is a
//! secret key that is short enough to be found by trying.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::cipher::{AES_256, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;

use super::*;
use crate::blob::Attributes as Bits;

/// A value that the client must not find, and its name.
struct Sensitive {
    name: &'static str,
    value: Vec<u8>,
}

/// A blob that the client has.
#[derive(Clone)]
struct Held {
    blob: Vec<u8>,
    class: Kind,
    uses: u64,
    /// True for a key that the unit made for the client, and for one that the client brought.
    is_own: bool,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Kind {
    Aes,
    Generic,
    Rsa,
    Ec,
    Public,
}

/// Everything that a client has.
struct Search<'c> {
    client: &'c Client,
    sensitive: Vec<Sensitive>,
    /// Blobs by key. Keys that the unit made for the client are one key: one has no other meaning
    /// than another.
    held: BTreeMap<Vec<u8>, Vec<Held>>,
    /// Ciphertexts and outputs.
    strings: BTreeSet<Vec<u8>>,
    /// The value of an AES key that the client knows.
    own: Vec<u8>,
    /// Blob of a private RSA key that belongs to the client, which can use the key as it likes.
    own_rsa: Vec<u8>,
    found: BTreeSet<&'static str>,
    calls: u64,
}

/// Uses whose sets the search goes through.
const SETS: [u64; 8] = [
    cka::CKA_SIGN,
    cka::CKA_ENCRYPT,
    cka::CKA_DECRYPT,
    cka::CKA_WRAP,
    cka::CKA_UNWRAP,
    cka::CKA_DERIVE,
    cka::CKA_IBM_USE_AS_DATA,
    cka::CKA_EXTRACTABLE,
];

/// All sets, the larger ones first.
fn sets() -> impl Iterator<Item = Vec<u64>> {
    (0..1_usize << SETS.len()).rev().map(|set| {
        let is_in = |(place, number): (usize, &u64)| (set >> place & 1 == 1).then_some(*number);
        SETS.iter().enumerate().filter_map(is_in).collect()
    })
}

impl<'c> Search<'c> {
    fn new(client: &'c Client) -> Self {
        let own = client.under(Profile::Open, |client| {
            client.rsa(&only(&[cka::CKA_ENCRYPT, cka::CKA_WRAP]), &only(&[cka::CKA_DECRYPT])).unwrap()
        });
        Self {
            client,
            sensitive: Vec::new(),
            held: BTreeMap::new(),
            strings: BTreeSet::new(),
            own: vec![0x5a; 32],
            own_rsa: own.0,
            found: BTreeSet::new(),
            calls: 0,
        }
    }

    /// Adds a blob of a key that the unit made for the client.
    fn hold_own(&mut self, blob: Vec<u8>) {
        let group = if blob.first() == Some(&0x30) { b"public".to_vec() } else { b"own".to_vec() };
        self.hold_as(blob, Some(group));
    }

    fn hold(&mut self, blob: Vec<u8>) {
        self.hold_as(blob, None);
    }

    /// Adds a blob, unless the client has the same key with the same attributes, or with more.
    fn hold_as(&mut self, blob: Vec<u8>, group: Option<Vec<u8>>) {
        let public = blob.first() == Some(&0x30);
        let held = if public {
            let uses = self.client.crypto.public_key(&blob).unwrap().attributes.unwrap().bits();
            Held { blob: blob.clone(), class: Kind::Public, uses, is_own: true }
        } else {
            let object = self.client.unit.unwrapped(&blob).unwrap();
            let class = match &object.material {
                Material::Secret(secret) if secret.kind == crate::object::SecretKind::Aes => Kind::Aes,
                Material::Secret(_) => Kind::Generic,
                Material::Key(key) if matches!(key.pair(), crate::key::Pair::Rsa(_)) => Kind::Rsa,
                _ => Kind::Ec,
            };
            let is_own = group.is_some() || self.client.value(&blob) == self.own;
            Held { blob: blob.clone(), class, uses: object.attributes.bits(), is_own }
        };
        let value = match public {
            true => self.client.crypto.public_key(&blob).unwrap().spki,
            false => self.client.value(&held.blob),
        };
        if held.class == Kind::Generic && value.len() < 16 {
            // The client finds the secret by trying, with an HMAC or the check value.
            self.look(&value, 1);
        }
        // Where uses are kept apart, a key with more uses can do less.
        let is_open = self.client.unit.profile() == Profile::Open;
        let adds_up = is_open || held.class == Kind::Public;
        let has_more = |other: u64, than: u64| match adds_up || (other | than) & Bits::UNWRAP == 0 {
            true => other & than == than,
            false => other == than,
        };
        let same = self.held.entry(group.unwrap_or(value)).or_default();
        if !same.iter().any(|other| other.class == held.class && has_more(other.uses, held.uses)) {
            same.retain(|other| other.class != held.class || !has_more(held.uses, other.uses));
            same.push(held);
        }
    }

    /// Adds an output, and everything that the client can make of it by keys of its own.
    fn keep(&mut self, output: Vec<u8>) {
        self.look(&output, 16);
        if !output.is_empty() && output.len().is_multiple_of(16) && output.len() <= 512 {
            for iv in [[0; 16], IV] {
                let mut blocks = output.clone();
                let key = UnboundCipherKey::new(&AES_256, &self.own).unwrap();
                let start = DecryptionContext::Iv128(FixedLength::from(iv));
                DecryptingKey::cbc(key).unwrap().decrypt(&mut blocks, start).unwrap();
                self.look(&blocks, 16);
            }
        }
        if output.len() == 256 {
            let own = self.own_rsa.clone();
            let clear = self.client.under(Profile::Open, |client| client.decrypt(oaep(), &own, &output));
            clear.iter().for_each(|clear| self.look(clear, 16));
        }
        if self.strings.len() < 40 {
            self.strings.insert(output);
        }
    }

    /// Notes the sensitive values of which a string has `enough` bytes: the beginning or the end.
    fn look(&mut self, string: &[u8], enough: usize) {
        for Sensitive { name, value } in &self.sensitive {
            let is_part = match string.len() {
                length if length < 16 => {
                    enough == 1 && (value.starts_with(string) || value.ends_with(string))
                }
                _ => string.windows(16).any(|part| part == &value[value.len() - 16..]),
            };
            if is_part {
                self.found.insert(name);
            }
        }
    }

    /// Makes every call with everything that the client has.
    fn round(&mut self) {
        let held: Vec<Held> = self.held.values().flatten().cloned().collect();
        let strings: Vec<Vec<u8>> = self.strings.iter().cloned().collect();
        let client = self.client;
        let (_, peer) = own_ec();
        let is_open = client.unit.profile() == Profile::Open;
        let has = |held: &&Held, bit: u64| held.uses & bit != 0;
        let modes = || {
            [
                plain(ckm::CKM_AES_ECB),
                with_bytes(ckm::CKM_AES_CBC, &IV),
                with_bytes(ckm::CKM_AES_CBC_PAD, &IV),
            ]
        };
        let of_rsa = || [oaep(), plain(ckm::CKM_RSA_PKCS)];
        let ciphers = |kind: Kind| match kind {
            Kind::Aes => modes().to_vec(),
            Kind::Rsa | Kind::Public => of_rsa().to_vec(),
            _ => Vec::new(),
        };
        for key in &held {
            let (mut blobs, mut outputs) = (Vec::new(), Vec::new());
            let mut calls = 0_u64;
            for mechanism in ciphers(key.class) {
                // A ciphertext of another length is refused whatever the key is.
                let fits = |string: &&Vec<u8>| match key.class {
                    Kind::Aes => string.len().is_multiple_of(16),
                    _ => string.len() == 256,
                };
                for string in strings.iter().filter(fits) {
                    if has(&key, Bits::UNWRAP) && key.class != Kind::Public {
                        for (key_type, length) in [
                            (ckk::CKK_AES, 0),
                            (ckk::CKK_AES, 16),
                            (ckk::CKK_GENERIC_SECRET, 0),
                            (ckk::CKK_GENERIC_SECRET, 1),
                            (ckk::CKK_GENERIC_SECRET, 31),
                            (ckk::CKK_EC, 0),
                            (ckk::CKK_RSA, 0),
                        ] {
                            calls += with_every_set(is_open, &mut blobs, |mut uses| {
                                uses.push((cka::CKA_VALUE_LEN, integer(length)));
                                client.unwrap(mechanism.clone(), &key.blob, string, key_type, &uses)
                            });
                        }
                    }
                    if has(&key, Bits::DECRYPT) {
                        outputs.extend(client.decrypt(mechanism.clone(), &key.blob, string).ok());
                        for to in held.iter().filter(|to| to.is_own && has(to, Bits::ENCRYPT)) {
                            for to_mechanism in ciphers(to.class) {
                                let to = (to_mechanism, to.blob.as_slice());
                                let made = client.reencrypt((mechanism.clone(), &key.blob), to, string);
                                calls += 1;
                                outputs.extend(made.ok());
                            }
                        }
                    }
                    if has(&key, Bits::ENCRYPT) {
                        outputs.extend(client.encrypt(mechanism.clone(), &key.blob, string).ok());
                    }
                    calls += 2;
                }
                if has(&key, Bits::WRAP) {
                    for other in &held {
                        outputs.extend(client.wrap(mechanism.clone(), &key.blob, &other.blob).ok());
                        calls += 1;
                    }
                }
            }
            if key.class == Kind::Ec && has(&key, Bits::DERIVE) {
                for point in [&peer, &honest()] {
                    for (key_type, length) in [
                        (ckk::CKK_AES, 16),
                        (ckk::CKK_AES, 32),
                        (ckk::CKK_GENERIC_SECRET, 1),
                        (ckk::CKK_GENERIC_SECRET, 15),
                        (ckk::CKK_GENERIC_SECRET, 16),
                        (ckk::CKK_GENERIC_SECRET, 32),
                    ] {
                        calls += with_every_set(is_open, &mut blobs, |uses| {
                            client.derive(&key.blob, point, key_type, length, &uses)
                        });
                    }
                }
            }
            for number in SETS.into_iter().chain([cka::CKA_MODIFIABLE]) {
                for value in [TRUE, FALSE] {
                    blobs.extend(client.set(&key.blob, &[(number, value)]).ok());
                    calls += 1;
                }
            }
            self.calls += calls;
            blobs.into_iter().for_each(|blob| self.hold(blob));
            outputs.into_iter().for_each(|output| self.keep(output));
            if self.has_everything() {
                return;
            }
        }
    }

    fn has_everything(&self) -> bool {
        self.found.len() == self.sensitive.len()
    }
}

/// Makes a call with every set of uses, but for sets that can do less than one that was accepted.
/// Returns the number of calls.
fn with_every_set(
    is_open: bool,
    blobs: &mut Vec<Vec<u8>>,
    call: impl Fn(Vec<(u64, OneAttr)>) -> Result<Vec<u8>, Error>,
) -> u64 {
    let (mut calls, mut accepted) = (0, Vec::<Vec<u64>>::new());
    for set in sets() {
        let unwraps = |set: &[u64]| set.contains(&cka::CKA_UNWRAP);
        let has_more = |other: &Vec<u64>| {
            set.iter().all(|number| other.contains(number)) && (is_open || unwraps(&set) == unwraps(other))
        };
        if accepted.iter().any(has_more) {
            continue;
        }
        calls += 1;
        match call(only(&set)) {
            Ok(blob) => {
                blobs.push(blob);
                accepted.push(set);
            }
            Err(error) if code(&error) == "CKR_TEMPLATE_INCONSISTENT" => {}
            // No other error depends on the uses.
            Err(_) => break,
        }
    }
    calls
}

/// The point of somebody whose shared secret with the keys of the unit is sensitive.
fn honest() -> Vec<u8> {
    use std::sync::LazyLock;
    static POINT: LazyLock<Vec<u8>> = LazyLock::new(|| own_ec().1);
    POINT.clone()
}

/// Searches under a profile. `made_under` is the profile in which the keys of the client were made.
/// Returns the names of the values that were found, of all values, and the number of calls.
fn searched(profile: Profile, made_under: Profile) -> (Vec<&'static str>, Vec<&'static str>, u64) {
    let client = Client::new(profile);
    let mut search = Search::new(&client);
    client.unit.set_profile(Profile::Open);

    // Somebody imports keys: a transport key, a wrapping key for it, and keys under that one.
    let (transport, public) =
        client.rsa(&only(&[cka::CKA_ENCRYPT, cka::CKA_WRAP]), &only(&[cka::CKA_UNWRAP])).unwrap();
    let movable = [cka::CKA_EXTRACTABLE, cka::CKA_WRAP, cka::CKA_ENCRYPT];
    let wrapping = client.aes(&only(&movable)).unwrap();
    let secret = client.aes(&only(&[cka::CKA_EXTRACTABLE])).unwrap();
    let private = client.ec("P-256", &only(&[cka::CKA_SIGN, cka::CKA_EXTRACTABLE])).unwrap().0;
    let agreed = client.ec("P-256", &only(&[cka::CKA_DERIVE])).unwrap().0;
    let shared =
        client.derive(&agreed, &honest(), ckk::CKK_GENERIC_SECRET, 32, &only(&[cka::CKA_SIGN])).unwrap();
    // A wrapping key that stays in the unit, with a key that was wrapped when that was possible.
    let resident = client.aes(&only(&[cka::CKA_WRAP, cka::CKA_UNWRAP])).unwrap();
    let of_resident = client.aes(&only(&[cka::CKA_EXTRACTABLE])).unwrap();
    for (name, blob) in [
        ("the wrapping key of an import", &wrapping),
        ("an imported secret", &secret),
        ("an imported private key", &private),
        ("a shared secret", &shared),
        ("a secret under a resident key", &of_resident),
    ] {
        search.sensitive.push(Sensitive { name, value: client.value(blob) });
    }
    let mut wrapped = vec![
        client.wrap(oaep(), &public, &wrapping).unwrap(),
        client.wrap(oaep(), &public, &secret).unwrap(),
        client.wrap(plain(ckm::CKM_RSA_PKCS), &public, &secret).unwrap(),
        client.wrap(with_bytes(ckm::CKM_AES_CBC_PAD, &IV), &wrapping, &private).unwrap(),
    ];
    for (wrapping, secret) in [(&wrapping, &secret), (&resident, &of_resident)] {
        for mechanism in [
            plain(ckm::CKM_AES_ECB),
            with_bytes(ckm::CKM_AES_CBC, &IV),
            with_bytes(ckm::CKM_AES_CBC_PAD, &IV),
        ] {
            wrapped.push(client.wrap(mechanism, wrapping, secret).unwrap());
        }
    }
    search.strings.extend(wrapped);
    [transport, agreed, resident].into_iter().for_each(|blob| search.hold(blob));

    // The client brings keys that it knows: its public RSA key, and its AES key in a ciphertext for
    // the transport key.
    let own_spki = client.unit.unwrapped(&search.own_rsa).unwrap().material.spki().unwrap().to_vec();
    let own = search.own.clone();
    search.strings.insert(client.encrypt(oaep(), &public, &own).unwrap());
    search.hold(public);
    client.unit.set_profile(made_under);
    for set in sets() {
        let mut uses = only(&set);
        uses.push((cka::CKA_MODIFIABLE, TRUE));
        client.aes(&uses).into_iter().for_each(|blob| search.hold_own(blob));
        client.public(&own_spki, ckk::CKK_RSA, &uses).into_iter().for_each(|blob| search.hold_own(blob));
    }
    client.unit.set_profile(profile);
    let all = search.sensitive.iter().map(|sensitive| sensitive.name).collect();
    for round in 1..=3 {
        search.round();
        let held: usize = search.held.values().map(Vec::len).sum();
        println!(
            "{profile}: round {round}, {} calls, {held} blobs, {} strings",
            search.calls,
            search.strings.len()
        );
        if search.has_everything() {
            break;
        }
    }
    (search.found.into_iter().collect(), all, search.calls)
}

/// Searches under a profile, with keys that the client made under another one before.
fn finds_nothing(profile: Profile, made_under: Profile) {
    let (found, _, calls) = searched(profile, made_under);
    assert_eq!(found, [""; 0], "{profile}, keys made under {made_under}, {calls} calls");
    assert!(calls > 10_000);
}

#[test]
fn no_three_calls_find_a_sensitive_value_under_strict() {
    finds_nothing(Profile::Strict, Profile::Strict);
}

#[test]
fn no_three_calls_find_a_sensitive_value_with_older_keys() {
    finds_nothing(Profile::Strict, Profile::Open);
}

#[test]
fn no_three_calls_find_a_sensitive_value_under_tls() {
    finds_nothing(Profile::Tls, Profile::Open);
}

#[test]
fn the_search_finds_every_value_under_open() {
    let (mut found, mut all, _) = searched(Profile::Open, Profile::Open);
    found.sort_unstable();
    all.sort_unstable();
    assert_eq!(found, all);
}
