//! The importer of a unit: a fresh key to which owners encrypt their parts and shares.
//!
//! The unit signs the importer key, and owners compare the key of the unit with the fingerprint
//! that they know since the claim. So nobody between an owner and the unit can put a key of his own
//! in the place of the importer key.
//!
//! ```text
//! keyward unit importer 1
//! unit: 6f1d…
//! key: MIGbMBAG…                     the importer key, a SubjectPublicKeyInfo in base64
//! unit-key: MIGbMBAG…                the key of the unit
//! signature: MIGIAkIB…               ECDSA with SHA-512 of all lines above, in base64
//! ```

use aws_lc_rs::agreement::{ECDH_P521, PrivateKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;
use zeroize::Zeroizing;

use super::command::UnitId;
use super::part::Part;
use super::pattern::Pattern;
use super::person::{PersonKey, Ski};
use super::sealed_box;
use super::shares::Share;
use super::state::{State, UnitKey};
use crate::error::UnitError;

/// A part or a share of a master key, in the clear.
#[derive(Debug)]
pub enum Piece {
    /// A part.
    Part(Part),
    /// A share.
    Share(Share),
}

impl Piece {
    /// The fingerprint.
    pub fn pattern(&self) -> Pattern {
        match self {
            Self::Part(part) => part.pattern(),
            Self::Share(share) => share.pattern(),
        }
    }

    /// The piece as bytes: its kind, the fields of a share, and the value.
    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(1 + 2 + 32));
        match self {
            Self::Part(part) => {
                bytes.push(PART);
                bytes.extend_from_slice(part.bytes());
            }
            Self::Share(share) => {
                bytes.extend_from_slice(&[SHARE, share.needed(), share.index()]);
                bytes.extend_from_slice(share.value());
            }
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [PART, value @ ..] => Some(Self::Part(Part::from_bytes(value.try_into().ok()?))),
            [SHARE, needed, index, value @ ..] => {
                Share::new(*needed, *index, value.try_into().ok()?).map(Self::Share)
            }
            _ => None,
        }
    }
}

/// Purpose for which an owner brings a piece. The unit uses the piece for nothing else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Aim {
    /// To load the new register with a master key.
    Load,
    /// To give the unit a master key that it has had before.
    Unseal,
}

impl Aim {
    const ALL: [Self; 2] = [Self::Load, Self::Unseal];

    fn purpose(self) -> &'static [u8] {
        match self {
            Self::Load => b"keyward piece to load 1",
            Self::Unseal => b"keyward piece to unseal 1",
        }
    }
}

/// The importer key of a unit, from the side of an owner: the unit has signed it.
#[derive(Clone, Copy, Debug)]
pub struct Importer {
    unit: UnitId,
    key: PersonKey,
}

impl Importer {
    /// Reads the importer key that a unit has signed. `unit_key` is the fingerprint of the key of
    /// the unit, as the owner knows it.
    ///
    /// # Errors
    /// [`InvalidImporter`] if another key has signed it, or the text is not of a unit.
    pub fn read(text: &str, unit_key: Ski) -> Result<Self, InvalidImporter> {
        if text.len() > MAX_TEXT {
            return Err(InvalidImporter::Text);
        }
        let read = || {
            let (signed, signature) = text.split_at(text.find(SIGNATURE)?);
            let signature = STANDARD.decode(signature.strip_prefix(SIGNATURE)?.strip_suffix('\n')?).ok()?;
            let mut lines = signed.lines();
            (lines.next()? == FIRST_LINE).then_some(())?;
            let unit: UnitId = lines.next()?.strip_prefix("unit: ")?.parse().ok()?;
            let [key, signer] = ["key: ", "unit-key: "].map(|name| {
                let spki = STANDARD.decode(lines.next()?.strip_prefix(name)?).ok()?;
                PersonKey::from_spki(&spki).ok()
            });
            let (key, signer) = (key?, signer?);
            (statement(unit, &key, &signer) == signed).then_some((unit, key, signer, signature))
        };
        let (unit, key, signer, signature) = read().ok_or(InvalidImporter::Text)?;
        if signer.ski() != unit_key {
            return Err(InvalidImporter::OtherUnit { signer: signer.ski(), expected: unit_key });
        }
        match signer.has_signed(statement(unit, &key, &signer).as_bytes(), &signature) {
            true => Ok(Self { unit, key }),
            false => Err(InvalidImporter::Signature),
        }
    }

    /// The unit.
    pub fn unit(&self) -> UnitId {
        self.unit
    }

    /// Encrypts a piece: only the unit can read it, only for this aim, and only until its importer
    /// key changes.
    ///
    /// # Errors
    /// [`UnitError::Crypto`] if the crypto library fails.
    pub fn seal(&self, piece: &Piece, aim: Aim) -> Result<Vec<u8>, UnitError> {
        sealed_box::seal(&self.key, &purpose(aim.purpose(), self.unit), &piece.to_bytes())
    }
}

/// The importer key of a unit, from the side of the unit.
pub(crate) struct OwnImporter {
    private: PrivateKey,
    public: PersonKey,
    unit: UnitId,
}

impl OwnImporter {
    pub(crate) fn generate(unit: UnitId) -> Result<Self, UnitError> {
        let made = || {
            let private = PrivateKey::generate(&ECDH_P521).ok()?;
            let public = PersonKey::from_point(private.compute_public_key().ok()?.as_ref()).ok()?;
            Some(Self { private, public, unit })
        };
        made().ok_or(UnitError::Crypto("make an importer key"))
    }

    /// The text that [`Importer::read`] reads.
    pub(crate) fn signed_by(&self, unit_key: &UnitKey) -> Result<String, UnitError> {
        let statement = statement(self.unit, &self.public, &unit_key.public);
        let signature = unit_key.sign(statement.as_bytes())?;
        Ok(format!("{statement}{SIGNATURE}{}\n", STANDARD.encode(signature)))
    }

    /// Decrypts a piece. `None` if it was not encrypted to this importer key.
    pub(crate) fn open(&self, sealed: &[u8]) -> Option<(Aim, Piece)> {
        Aim::ALL.into_iter().find_map(|aim| {
            let purpose = purpose(aim.purpose(), self.unit);
            let bytes = sealed_box::open(&self.private, &self.public, &purpose, sealed)?;
            Some((aim, Piece::from_bytes(&bytes)?))
        })
    }
}

impl State {
    /// Encrypts a share to its owner.
    pub(crate) fn seal_share(&self, share: Share, owner: &PersonKey) -> Result<Vec<u8>, UnitError> {
        sealed_box::seal(owner, &purpose(TO_OWNER, self.unit), &Piece::Share(share).to_bytes())
    }
}

/// The key of an owner of shares, on the machine of the owner.
pub struct OwnerKey {
    private: PrivateKey,
    public: PersonKey,
}

impl OwnerKey {
    /// Makes a key.
    ///
    /// # Errors
    /// [`UnitError::Crypto`] if the crypto library fails.
    pub fn generate() -> Result<Self, UnitError> {
        let private = PrivateKey::generate(&ECDH_P521).ok();
        private.and_then(Self::of).ok_or(UnitError::Crypto("make the key of an owner"))
    }

    /// Reads the output of [`Self::to_der`]; `None` for anything else.
    pub fn from_der(der: &[u8]) -> Option<Self> {
        Self::of(PrivateKey::from_private_key_der(&ECDH_P521, der).ok()?)
    }

    fn of(private: PrivateKey) -> Option<Self> {
        let public = PersonKey::from_point(private.compute_public_key().ok()?.as_ref()).ok()?;
        Some(Self { private, public })
    }

    /// The private key as ECPrivateKey in DER (RFC 5915), to be encrypted.
    ///
    /// # Errors
    /// [`UnitError::Crypto`] if the crypto library fails.
    pub fn to_der(&self) -> Result<Zeroizing<Vec<u8>>, UnitError> {
        use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der};

        let der: Result<EcPrivateKeyRfc5915Der<'_>, _> = self.private.as_der();
        let der = der.map_err(|_| UnitError::Crypto("encode the key of an owner"))?;
        Ok(Zeroizing::new(der.as_ref().to_vec()))
    }

    /// The public key.
    pub fn public(&self) -> PersonKey {
        self.public
    }

    /// Decrypts a share that a unit has made for this owner. `None` if it is not one.
    pub fn open(&self, unit: UnitId, sealed: &[u8]) -> Option<Share> {
        let bytes = sealed_box::open(&self.private, &self.public, &purpose(TO_OWNER, unit), sealed)?;
        match Piece::from_bytes(&bytes)? {
            Piece::Share(share) => Some(share),
            Piece::Part(_) => None,
        }
    }
}

fn statement(unit: UnitId, key: &PersonKey, unit_key: &PersonKey) -> String {
    let [key, unit_key] = [key, unit_key].map(|key| STANDARD.encode(key.to_spki()));
    format!("{FIRST_LINE}\nunit: {unit}\nkey: {key}\nunit-key: {unit_key}\n")
}

fn purpose(kind: &[u8], unit: UnitId) -> Vec<u8> {
    [kind, &unit.0].concat()
}

/// Reason why an owner must not encrypt a part to an importer key.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
pub enum InvalidImporter {
    /// The key of another unit has signed.
    #[error(
        "the importer key is signed by the unit key {signer}, not by {expected}: this is another unit, or somebody in its place; do not send the part"
    )]
    OtherUnit {
        /// Fingerprint of the key that has signed.
        signer: Ski,
        /// Fingerprint that the owner knows.
        expected: Ski,
    },
    /// The signature is wrong.
    #[error("the signature of the importer key is wrong: somebody has changed the key; do not send the part")]
    Signature,
    /// The text is not an importer key.
    #[error("not an importer key of a unit")]
    Text,
}

const FIRST_LINE: &str = "keyward unit importer 1";
const SIGNATURE: &str = "signature: ";
/// Longest text, in bytes. An importer key has some 750.
const MAX_TEXT: usize = 2048;
/// First byte of a part.
const PART: u8 = 1;
/// First byte of a share.
const SHARE: u8 = 2;
/// Purpose of a share that a unit encrypts to its owner.
const TO_OWNER: &[u8] = b"keyward share to owner 1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_reaches_the_unit_and_nobody_else() {
        let state = State::new().unwrap();
        let own = OwnImporter::generate(state.unit()).unwrap();
        let importer = Importer::read(&own.signed_by(&state.key).unwrap(), state.unit_key().ski()).unwrap();
        assert_eq!(importer.unit(), state.unit());
        for piece in
            [Piece::Part(Part::generate().unwrap()), Piece::Share(Share::new(3, 5, &[9; 32]).unwrap())]
        {
            let sealed = importer.seal(&piece, Aim::Load).unwrap();
            let (aim, opened) = own.open(&sealed).unwrap();
            assert_eq!((aim, opened.pattern()), (Aim::Load, piece.pattern()));
            let later = OwnImporter::generate(state.unit()).unwrap();
            assert!(later.open(&sealed).is_none(), "an importer key is used for a short time");
        }
    }

    #[test]
    fn an_importer_key_of_somebody_else_is_refused() {
        let (mine, other) = (State::new().unwrap(), State::new().unwrap());
        let own = OwnImporter::generate(mine.unit()).unwrap();
        let text = own.signed_by(&mine.key).unwrap();
        let fingerprint = mine.unit_key().ski();
        assert!(Importer::read(&text, fingerprint).is_ok());
        // Somebody in the middle signs an importer key of his own with a unit key of his own.
        let middle = OwnImporter::generate(mine.unit()).unwrap().signed_by(&other.key).unwrap();
        let error = Importer::read(&middle, fingerprint).unwrap_err();
        let signer = other.unit_key().ski();
        assert_eq!(error, InvalidImporter::OtherUnit { signer, expected: fingerprint });
        // Or replaces the importer key below the signature of the unit.
        let replaced = OwnImporter::generate(mine.unit()).unwrap();
        let line = |key: &PersonKey| format!("\nkey: {}\n", STANDARD.encode(key.to_spki()));
        let changed = text.replace(&line(&own.public), &line(&replaced.public));
        assert_eq!(Importer::read(&changed, fingerprint).unwrap_err(), InvalidImporter::Signature);
        for bad in [
            "".to_owned(),
            text.trim_end().to_owned(),
            format!("{text}\n"),
            text.replace("unit: ", "unit:  "),
            text.replace(FIRST_LINE, "keyward unit importer 2"),
            text.replace("unit-key: ", "more: 1\nunit-key: "),
            "x".repeat(MAX_TEXT + 1),
        ] {
            assert_eq!(Importer::read(&bad, fingerprint).unwrap_err(), InvalidImporter::Text, "{bad}");
        }
    }

    #[test]
    fn a_share_reaches_its_owner_and_no_other() {
        let state = State::new().unwrap();
        let [alice, bob] = [0; 2].map(|_| OwnerKey::generate().unwrap());
        let share = Share::new(2, 1, &[3; 32]).unwrap();
        let pattern = share.pattern();
        let sealed = state.seal_share(share, &alice.public()).unwrap();
        assert!(bob.open(state.unit(), &sealed).is_none());
        assert!(alice.open(State::new().unwrap().unit(), &sealed).is_none());
        let again = OwnerKey::from_der(&alice.to_der().unwrap()).unwrap();
        assert_eq!(again.public(), alice.public());
        assert_eq!(again.open(state.unit(), &sealed).unwrap().pattern(), pattern);
        assert!(OwnerKey::from_der(b"x").is_none());
    }
}
