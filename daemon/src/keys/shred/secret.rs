//! A shred secret, and the blobs that it wraps.
//!
//! ```text
//! offset  bytes
//!      0      8  id of the secret
//!      8     12  nonce
//!     20      n  the blob of the unit, AES-256-GCM
//!   20+n     16  tag
//! ```
//!
//! The associated data are the place of the blob: label, a zero byte, the number of the version in
//! four bytes, and 1 for the blob of the next master key.

use core::fmt;
use core::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hkdf, rand};
use zeroize::Zeroizing;

use crate::store::expand;

/// A secret that wraps the blobs of a key store: 32 random bytes. Dropping the secret wipes the
/// bytes, and `Debug` shows only the id.
pub(crate) struct ShredSecret {
    // Boxed, so that moving the secret leaves no copies in memory.
    bytes: Box<Zeroizing<[u8; Self::LENGTH]>>,
    id: SecretId,
    key: RandomizedNonceKey,
}

impl ShredSecret {
    /// The length of a secret in bytes.
    pub(crate) const LENGTH: usize = 32;

    /// Makes a random secret; `None` if the system gives no random bytes.
    pub(crate) fn generate() -> Option<Self> {
        let mut bytes = Box::new(Zeroizing::new([0; Self::LENGTH]));
        rand::fill(bytes.as_mut_slice()).ok()?;
        Self::of(bytes)
    }

    /// Secret from its bytes; `None` unless there are [`Self::LENGTH`] bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut own = Box::new(Zeroizing::new([0; Self::LENGTH]));
        (bytes.len() == Self::LENGTH).then(|| own.copy_from_slice(bytes))?;
        Self::of(own)
    }

    fn of(bytes: Box<Zeroizing<[u8; Self::LENGTH]>>) -> Option<Self> {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(bytes.as_slice());
        let id = SecretId(*expand(&root, b"id").first_chunk()?);
        let key = RandomizedNonceKey::new(&AES_256_GCM, expand(&root, b"blobs").as_slice()).ok()?;
        Some(Self { bytes, id, key })
    }

    /// The bytes of the secret, for its file and the recovery file only.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// Name of the secret. The id does not reveal the secret.
    pub(crate) fn id(&self) -> SecretId {
        self.id
    }

    /// Wraps the blob at a place; `None` if the system gives no random bytes.
    pub(crate) fn wrap(&self, place: Place<'_>, blob: &[u8]) -> Option<Vec<u8>> {
        let mut text = blob.to_vec();
        let nonce = self.key.seal_in_place_append_tag(Aad::from(place.to_bytes()), &mut text).ok()?;
        Some([&self.id.0, nonce.as_ref().as_slice(), &text].concat())
    }

    /// The blob at a place; `None` if this secret has not wrapped the bytes for this place.
    fn unwrap(&self, place: Place<'_>, wrapped: &[u8]) -> Option<Vec<u8>> {
        let (nonce, text) = wrapped.strip_prefix(&self.id.0)?.split_first_chunk::<NONCE_LEN>()?;
        let (nonce, mut text) = (Nonce::assume_unique_for_key(*nonce), text.to_vec());
        let length = self.key.open_in_place(nonce, Aad::from(place.to_bytes()), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }
}

impl fmt::Debug for ShredSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShredSecret({})", self.id)
    }
}

/// Secrets that the daemon has in memory: the one in force, and the old one while blobs are wrapped
/// anew.
#[derive(Clone, Debug, Default)]
pub(crate) struct Secrets(pub(crate) Vec<Arc<ShredSecret>>);

impl Secrets {
    /// The secret with an id.
    pub(crate) fn get(&self, id: SecretId) -> Option<&ShredSecret> {
        self.0.iter().find(|secret| secret.id == id).map(Arc::as_ref)
    }

    /// The secret with a name, as the metadata of the store have it.
    pub(crate) fn named(&self, name: &str) -> Option<&ShredSecret> {
        self.get(name.parse::<Named>().ok()?.id)
    }

    /// The blob at a place, unwrapped; `None` if no secret unwraps the bytes.
    pub(crate) fn unwrap(&self, place: Place<'_>, wrapped: &[u8]) -> Option<Vec<u8>> {
        self.get(SecretId::of_wrapped(wrapped)?)?.unwrap(place, wrapped)
    }
}

/// Place of a blob in the key store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// Label of the key.
    pub(crate) label: &'a str,
    /// Number of the version.
    pub(crate) version: u32,
    /// True for the blob that the next master key wraps.
    pub(crate) is_next: bool,
}

impl Place<'_> {
    fn to_bytes(self) -> Vec<u8> {
        // A label has no zero byte.
        let Self { label, version, is_next } = self;
        [label.as_bytes(), &[0], &version.to_be_bytes(), &[is_next.into()]].concat()
    }
}

/// Name of a secret: 8 bytes that are derived from the secret, shown as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SecretId([u8; 8]);

impl SecretId {
    /// Id of the secret that has wrapped a blob; `None` for bytes that are too short.
    pub(crate) fn of_wrapped(wrapped: &[u8]) -> Option<Self> {
        wrapped.first_chunk().map(|id| Self(*id))
    }
}

impl fmt::Display for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl FromStr for SecretId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let id = Self(u64::from_str_radix(text, 16).map_err(drop)?.to_be_bytes());
        if id.to_string() == text { Ok(id) } else { Err(()) }
    }
}

/// A secret of a key store by its number and its id. The first secret of a store has number 1, and
/// each next one a higher number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Named {
    pub(crate) number: u64,
    pub(crate) id: SecretId,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, self.id)
    }
}

impl FromStr for Named {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (number, id) = text.split_once(' ').ok_or(())?;
        let named = Self { number: number.parse().map_err(drop)?, id: id.parse()? };
        if named.to_string() == text { Ok(named) } else { Err(()) }
    }
}

const SALT: &[u8] = b"keyward shred 1";

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place<'_> = Place { label: "shop", version: 1, is_next: false };

    #[test]
    fn a_blob_opens_with_its_secret_at_its_place_only() {
        let [secret, other] = [7, 8].map(|byte| ShredSecret::from_bytes(&[byte; 32]).unwrap());
        let wrapped = secret.wrap(HERE, b"blob").unwrap();
        assert_eq!(SecretId::of_wrapped(&wrapped), Some(secret.id()));
        assert!(!wrapped.windows(4).any(|part| part == b"blob"));
        assert_ne!(secret.wrap(HERE, b"blob").unwrap(), wrapped, "each time another nonce");
        let secrets = Secrets(vec![other.into(), secret.into()]);
        assert_eq!(secrets.unwrap(HERE, &wrapped).unwrap(), b"blob");
        for place in
            [Place { label: "shop2", ..HERE }, Place { version: 2, ..HERE }, Place { is_next: true, ..HERE }]
        {
            assert!(secrets.unwrap(place, &wrapped).is_none(), "{place:?}");
        }
        for changed in 0..wrapped.len() {
            let mut bytes = wrapped.clone();
            bytes[changed] ^= 1;
            assert!(secrets.unwrap(HERE, &bytes).is_none(), "{changed}");
            assert!(secrets.unwrap(HERE, &wrapped[..changed]).is_none(), "{changed}");
        }
        assert!(Secrets(vec![ShredSecret::generate().unwrap().into()]).unwrap(HERE, &wrapped).is_none());
    }

    #[test]
    fn names_are_read_as_they_were_written() {
        let secret = ShredSecret::from_bytes(&[0x5a; 32]).unwrap();
        // HKDF as in RFC 5869, worked out apart from this code. Every store of every installation
        // depends on these bytes.
        assert_eq!(secret.id().to_string(), ID_OF_5A);
        assert_eq!(format!("{secret:?}"), format!("ShredSecret({ID_OF_5A})"));
        let named = Named { number: 12, id: secret.id() };
        assert_eq!(named.to_string().parse(), Ok(named));
        for bad in ["", "12", "012 0123456789abcdef", "12 0123456789ABCDEF", "12 123", "+1 0123456789abcdef"]
        {
            assert!(bad.parse::<Named>().is_err(), "{bad}");
        }
        assert!(ShredSecret::from_bytes(&[0; 31]).is_none());
    }

    const ID_OF_5A: &str = "53ce8ee927a35c09";
}
