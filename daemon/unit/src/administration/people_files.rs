//! Files of owners and administrators, on their own machines.
//!
//! A file with a secret is a JSON object. A passphrase encrypts the secret: Argon2id (RFC 9106)
//! makes the key of AES-256-GCM, which also authenticates the kind of the file, the name and the
//! public half.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::signature::{ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::command::UnitId;
use super::file_kind::{InvalidFile, SHARE, from_json};
use super::importer::{OwnerKey, Piece};
use super::part::Part;
use super::passphrase::stretched;
use super::pattern::Pattern;
use super::person::{Person, PersonKey, PersonName};
use super::register::SealedShare;
use super::shares::Share;
use super::signed::{SignatureFault, SignedCommand};
use crate::error::UnitError;

/// The signature key of an administrator.
pub struct AdministratorKey {
    person: Person,
    pair: EcdsaKeyPair,
    private: Zeroizing<Vec<u8>>,
}

impl AdministratorKey {
    /// Makes a key.
    ///
    /// # Errors
    /// [`UnitError::Crypto`] if the crypto library fails.
    pub fn generate(name: PersonName) -> Result<Self, UnitError> {
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P521_SHA512_ASN1_SIGNING, &SystemRandom::new());
        let made = made.ok().and_then(|made| Self::of(name, made.as_ref()));
        made.ok_or(UnitError::Crypto("make the key of an administrator"))
    }

    fn of(name: PersonName, pkcs8: &[u8]) -> Option<Self> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P521_SHA512_ASN1_SIGNING, pkcs8).ok()?;
        let key = PersonKey::from_point(pair.public_key().as_ref()).ok()?;
        Some(Self { person: Person { name, key }, pair, private: Zeroizing::new(pkcs8.to_vec()) })
    }

    /// The administrator.
    pub fn person(&self) -> &Person {
        &self.person
    }

    /// Signs a command.
    ///
    /// # Errors
    /// [`SignatureFault::Twice`] if the administrator has signed already.
    pub fn sign(&self, command: &mut SignedCommand) -> Result<(), SignatureFault> {
        let wrong = SignatureFault::Wrong(self.person.key.ski());
        let text = command.command().to_text();
        let signature = self.pair.sign(&SystemRandom::new(), text.as_bytes()).map_err(|_| wrong)?;
        command.add(&self.person.key, signature.as_ref().to_vec())
    }

    /// The file of the key.
    ///
    /// # Errors
    /// [`UnitError::Crypto`] if the crypto library fails.
    pub fn to_file(&self, passphrase: &[u8]) -> Result<String, UnitError> {
        let public = STANDARD.encode(self.person.key.to_spki());
        Protected::text_of(Kind::AdministratorKey, &self.person.name, public, &self.private, passphrase)
    }

    /// Reads the output of [`Self::to_file`].
    ///
    /// # Errors
    /// [`InvalidFile`] says whether the passphrase or the file is wrong.
    pub fn from_file(text: &str, passphrase: &[u8]) -> Result<Self, InvalidFile> {
        let file = Protected::read(text, Kind::AdministratorKey)?;
        let private = file.open(passphrase)?;
        Self::of(file.name()?, &private).ok_or(InvalidFile::Damaged)
    }

    /// The administrator in a file, which needs no passphrase. The name and the key are not
    /// authenticated.
    ///
    /// # Errors
    /// [`InvalidFile`] if it is another file.
    pub fn person_of_file(text: &str) -> Result<Person, InvalidFile> {
        Protected::read(text, Kind::AdministratorKey)?.person()
    }
}

/// The file of a part.
///
/// # Errors
/// [`UnitError::Crypto`] if the crypto library fails.
pub fn part_to_file(part: &Part, owner: &PersonName, passphrase: &[u8]) -> Result<String, UnitError> {
    Protected::text_of(Kind::Part, owner, part.pattern().to_string(), part.bytes(), passphrase)
}

/// Reads the output of [`part_to_file`].
///
/// # Errors
/// [`InvalidFile`] says whether the passphrase or the file is wrong.
pub fn part_from_file(text: &str, passphrase: &[u8]) -> Result<Part, InvalidFile> {
    let file = Protected::read(text, Kind::Part)?;
    let secret = file.open(passphrase)?;
    let part = Part::from_bytes(secret.first_chunk().ok_or(InvalidFile::Damaged)?);
    match part.pattern().to_string() == file.public && secret.len() == part.bytes().len() {
        true => Ok(part),
        false => Err(InvalidFile::Damaged),
    }
}

/// The owner and the pattern of a part in a file, which need no passphrase.
///
/// # Errors
/// [`InvalidFile`] if it is another file.
pub fn pattern_of_part_file(text: &str) -> Result<(PersonName, Pattern), InvalidFile> {
    let file = Protected::read(text, Kind::Part)?;
    Ok((file.name()?, file.public.parse().map_err(|_| InvalidFile::Damaged)?))
}

impl OwnerKey {
    /// The file of the key.
    ///
    /// # Errors
    /// [`UnitError::Crypto`] if the crypto library fails.
    pub fn to_file(&self, name: &PersonName, passphrase: &[u8]) -> Result<String, UnitError> {
        let public = STANDARD.encode(self.public().to_spki());
        Protected::text_of(Kind::OwnerKey, name, public, &self.to_der()?, passphrase)
    }

    /// Reads the output of [`Self::to_file`].
    ///
    /// # Errors
    /// [`InvalidFile`] says whether the passphrase or the file is wrong.
    pub fn from_file(text: &str, passphrase: &[u8]) -> Result<Self, InvalidFile> {
        let file = Protected::read(text, Kind::OwnerKey)?;
        Self::from_der(&file.open(passphrase)?).ok_or(InvalidFile::Damaged)
    }

    /// The owner in a file, which needs no passphrase. The name and the key are not authenticated.
    ///
    /// # Errors
    /// [`InvalidFile`] if it is another file.
    pub fn person_of_file(text: &str) -> Result<Person, InvalidFile> {
        Protected::read(text, Kind::OwnerKey)?.person()
    }
}

/// A share in a file: encrypted by a unit to its owner, so the file itself is no secret.
#[derive(Clone, Debug)]
pub struct ShareFile {
    /// The unit that has made the share.
    pub unit: UnitId,
    /// The share.
    pub share: SealedShare,
}

/// The form of a [`ShareFile`].
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct StoredShare {
    keyward: String,
    unit: String,
    name: String,
    public: String,
    needed: u8,
    index: u8,
    pattern: String,
    sealed: String,
}

impl ShareFile {
    /// The file as text.
    pub fn to_text(&self) -> String {
        let SealedShare { owner, needed, index, pattern, sealed } = &self.share;
        let stored = StoredShare {
            keyward: SHARE.into(),
            unit: self.unit.to_string(),
            name: owner.name.to_string(),
            public: STANDARD.encode(owner.key.to_spki()),
            needed: *needed,
            index: *index,
            pattern: pattern.to_string(),
            sealed: STANDARD.encode(sealed),
        };
        to_json(&stored)
    }

    /// Reads the output of [`Self::to_text`].
    ///
    /// # Errors
    /// [`InvalidFile`] if it is another file.
    pub fn from_text(text: &str) -> Result<Self, InvalidFile> {
        let other = InvalidFile::instead_of(SHARE, text);
        let stored: StoredShare = from_json(text).ok_or(other)?;
        let read = || {
            let key = PersonKey::from_spki(&STANDARD.decode(stored.public).ok()?).ok()?;
            let share = SealedShare {
                owner: Person { name: stored.name.parse().ok()?, key },
                needed: stored.needed,
                index: stored.index,
                pattern: stored.pattern.parse().ok()?,
                sealed: STANDARD.decode(stored.sealed).ok()?,
            };
            (stored.keyward == SHARE).then_some(Self { unit: stored.unit.parse().ok()?, share })
        };
        read().ok_or(other)
    }

    /// Decrypts the share.
    ///
    /// # Errors
    /// [`InvalidFile::NotOfThisOwner`] if it was made for another owner.
    pub fn open(&self, key: &OwnerKey) -> Result<Share, InvalidFile> {
        let share = key.open(self.unit, &self.share.sealed);
        share.filter(|share| share.pattern() == self.share.pattern).ok_or(InvalidFile::NotOfThisOwner)
    }
}

/// Checks that a text is the file of a part, or of a share with the key of its owner in another,
/// before anybody types a passphrase.
///
/// # Errors
/// [`InvalidFile`] says which other file it is.
pub fn check_piece(text: &str, owner_key: Option<&str>) -> Result<(), InvalidFile> {
    match owner_key {
        None => Protected::read(text, Kind::Part).map(drop),
        Some(key) => {
            ShareFile::from_text(text)?;
            Protected::read(key, Kind::OwnerKey).map(drop)
        }
    }
}

/// Reads the part in a file, or the share in a file with the key of its owner in another.
///
/// # Errors
/// [`InvalidFile`] says which file or passphrase is wrong.
pub fn piece_of(text: &str, owner_key: Option<&str>, passphrase: &[u8]) -> Result<Piece, InvalidFile> {
    match owner_key {
        None => part_from_file(text, passphrase).map(Piece::Part),
        Some(key) => {
            let key = OwnerKey::from_file(key, passphrase)?;
            ShareFile::from_text(text)?.open(&key).map(Piece::Share)
        }
    }
}

/// A file with a secret.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Protected {
    /// Kind and version of the file.
    keyward: String,
    name: String,
    /// Public key in base64, or pattern of a part.
    public: String,
    /// Name of the function that makes a key of the passphrase, with its parameters.
    kdf: String,
    salt: String,
    /// Nonce, text and tag, in base64.
    secret: String,
}

#[derive(Clone, Copy)]
enum Kind {
    AdministratorKey,
    OwnerKey,
    Part,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::AdministratorKey => "administrator key 1",
            Self::OwnerKey => "owner key 1",
            Self::Part => "part 1",
        }
    }
}

impl Protected {
    /// The text of a new file.
    fn text_of(
        kind: Kind,
        name: &PersonName,
        public: String,
        secret: &[u8],
        passphrase: &[u8],
    ) -> Result<String, UnitError> {
        let protect = || {
            let (mut salt, mut nonce) = ([0; 16], [0; NONCE_LEN]);
            rand::fill(&mut salt)?;
            rand::fill(&mut nonce)?;
            let mut file = Self {
                keyward: kind.name().into(),
                name: name.to_string(),
                public,
                kdf: KDF.into(),
                salt: STANDARD.encode(salt),
                secret: String::new(),
            };
            let mut text = Zeroizing::new(Vec::with_capacity(secret.len() + TAG));
            text.extend_from_slice(secret);
            let (nonce_used, header) = (Nonce::assume_unique_for_key(nonce), file.header());
            let cipher = cipher(passphrase, &salt).ok_or(Unspecified)?;
            cipher.seal_in_place_append_tag(nonce_used, Aad::from(header.as_bytes()), &mut *text)?;
            file.secret = STANDARD.encode([nonce.as_slice(), &text].concat());
            Ok(to_json(&file))
        };
        protect().map_err(|Unspecified| UnitError::Crypto("encrypt a file by a passphrase"))
    }

    fn read(text: &str, kind: Kind) -> Result<Self, InvalidFile> {
        let other = InvalidFile::instead_of(kind.name(), text);
        let file: Self = from_json(text).ok_or(other)?;
        if file.keyward != kind.name() {
            return Err(other);
        }
        if file.kdf == KDF { Ok(file) } else { Err(InvalidFile::Damaged) }
    }

    fn name(&self) -> Result<PersonName, InvalidFile> {
        self.name.parse().map_err(|_| InvalidFile::Damaged)
    }

    fn person(&self) -> Result<Person, InvalidFile> {
        let spki = STANDARD.decode(&self.public).map_err(|_| InvalidFile::Damaged)?;
        let key = PersonKey::from_spki(&spki).map_err(|_| InvalidFile::Damaged)?;
        Ok(Person { name: self.name()?, key })
    }

    fn open(&self, passphrase: &[u8]) -> Result<Zeroizing<Vec<u8>>, InvalidFile> {
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| InvalidFile::Damaged);
        let salt: [u8; 16] = decode(&self.salt)?.try_into().map_err(|_| InvalidFile::Damaged)?;
        let secret = decode(&self.secret)?;
        let (nonce, text) = secret.split_first_chunk::<NONCE_LEN>().ok_or(InvalidFile::Damaged)?;
        let mut text = Zeroizing::new(text.to_vec());
        let header = self.header();
        let (nonce, header) = (Nonce::assume_unique_for_key(*nonce), Aad::from(header.as_bytes()));
        let cipher = cipher(passphrase, &salt).ok_or(InvalidFile::Damaged)?;
        let opened = cipher.open_in_place(nonce, header, &mut text);
        let length = opened.map_err(|Unspecified| InvalidFile::Passphrase)?.len();
        text.truncate(length);
        Ok(text)
    }

    /// The fields that are authenticated beside the secret.
    fn header(&self) -> String {
        [&self.keyward, &self.name, &self.public, &self.kdf, &self.salt].map(String::as_str).join("\n")
    }
}

fn cipher(passphrase: &[u8], salt: &[u8; 16]) -> Option<LessSafeKey> {
    let mut key = Zeroizing::new([0; 32]);
    stretched(passphrase, salt, &mut key)?;
    Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_slice()).ok()?))
}

fn to_json(value: &impl Serialize) -> String {
    // The types have nothing that JSON cannot express.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// The function of [`stretched`], with KiB of memory, passes and lanes.
const KDF: &str = "argon2id 65536 3 4";
/// Length of a tag of AES-GCM, in bytes.
const TAG: usize = 16;

#[cfg(test)]
mod tests {
    use super::super::command::{Command, Instruction};
    use super::super::file_kind::MAX_FILE;
    use super::super::state::State;
    use super::*;

    fn name(text: &str) -> PersonName {
        text.parse().unwrap()
    }

    #[test]
    fn an_administrator_signs_with_the_key_in_a_file() {
        let key = AdministratorKey::generate(name("alice")).unwrap();
        let text = key.to_file(b"open sesame").unwrap();
        assert_eq!(AdministratorKey::person_of_file(&text).unwrap(), *key.person());
        let again = AdministratorKey::from_file(&text, b"open sesame").unwrap();
        assert_eq!(again.person(), key.person());
        let unit = State::new().unwrap().unit();
        let command = Command { unit, counter: 1, expires: 2, instruction: Instruction::Zeroize };
        let mut signed = SignedCommand::new(command);
        again.sign(&mut signed).unwrap();
        assert_eq!(signed.count(&[key.person().clone()]), Ok(1));
        assert!(matches!(again.sign(&mut signed), Err(SignatureFault::Twice(_))));
        let wrong = |text: &str, passphrase: &[u8]| AdministratorKey::from_file(text, passphrase).err();
        assert_eq!(wrong(&text, b"open"), Some(InvalidFile::Passphrase));
        assert_eq!(wrong(&text.replace("alice", "mallory"), b"open sesame"), Some(InvalidFile::Passphrase));
        assert_eq!(wrong(&text.replace("65536", "8"), b"open sesame"), Some(InvalidFile::Damaged));
        let needed = "administrator key 1";
        assert_eq!(wrong("{}", b""), Some(InvalidFile::Other { needed, found: None }));
        let found = Some("owner key 1");
        let other = InvalidFile::Other { needed, found };
        assert_eq!(wrong(&text.replace("administrator", "owner"), b"open sesame"), Some(other));
        let long = format!("{text}{}", " ".repeat(MAX_FILE));
        assert_eq!(wrong(&long, b"open sesame"), Some(InvalidFile::Other { needed, found: None }));
    }

    #[test]
    fn a_part_is_in_a_file() {
        let part = Part::generate().unwrap();
        let text = part_to_file(&part, &name("bob"), b"secret").unwrap();
        assert!(!text.contains(&*part.to_hex()));
        assert_eq!(pattern_of_part_file(&text).unwrap(), (name("bob"), part.pattern()));
        assert_eq!(part_from_file(&text, b"secret").unwrap().pattern(), part.pattern());
        assert_eq!(piece_of(&text, None, b"secret").unwrap().pattern(), part.pattern());
        assert_eq!(part_from_file(&text, b"other").err(), Some(InvalidFile::Passphrase));
        check_piece(&text, None).unwrap();
        let public = AdministratorKey::generate(name("bob")).unwrap().person().key.to_spki();
        for (other, words) in [
            ("x".to_owned(), "this file is not a part"),
            (format!("bob {}\n", STANDARD.encode(public)), "the public file (.pub) of a person, and a part"),
            ("keyward unit command 1\n".into(), "this file is a command, and a part is needed"),
            ("keyward encrypted part 1\nAA\n".into(), "unseal --encrypted FILE"),
            (
                text.replace("part 1", "share 1"),
                "this file is a share, and a part is needed: add --owner-key",
            ),
        ] {
            let error = piece_of(&other, None, b"").unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(check_piece(&other, None), Err(error));
        }
    }

    #[test]
    fn a_share_needs_the_key_of_its_owner() {
        let state = State::new().unwrap();
        let [mine, other] = [0; 2].map(|_| OwnerKey::generate().unwrap());
        let owner = Person { name: name("carol"), key: mine.public() };
        let share = Share::new(2, 1, &[7; 32]).unwrap();
        let (needed, index, pattern) = (2, 1, share.pattern());
        let sealed = state.seal_share(share, &owner.key).unwrap();
        let share = SealedShare { owner, needed, index, pattern, sealed };
        let text = ShareFile { unit: state.unit(), share }.to_text();
        let [mine, other] = [mine, other].map(|key| key.to_file(&name("carol"), b"secret").unwrap());
        let person = OwnerKey::person_of_file(&mine).unwrap();
        assert_eq!(person.key, OwnerKey::from_file(&mine, b"secret").unwrap().public());
        assert_eq!(piece_of(&text, Some(&mine), b"secret").unwrap().pattern(), pattern);
        assert_eq!(piece_of(&text, Some(&other), b"secret").err(), Some(InvalidFile::NotOfThisOwner));
        assert_eq!(piece_of(&text, Some(&mine), b"wrong").err(), Some(InvalidFile::Passphrase));
        check_piece(&text, Some(&mine)).unwrap();
        let other = InvalidFile::Other { needed: "share 1", found: None };
        assert_eq!(piece_of("{}", Some(&mine), b"secret").err(), Some(other));
        let altered = text.replace("\"index\": 1", "\"index\": 300");
        assert_eq!(ShareFile::from_text(&altered).err(), Some(InvalidFile::Damaged));
    }
}
