//! The layout of a blob: a key, wrapped by the master key of a unit.
//!
//! ```text
//! offset  bytes
//!      0     32  session: zeros, for a key that outlives sessions
//!     32     16  WKID: the name of the master key
//!     48      8  attributes, a bit field, big-endian
//!     56      8  mode: zeros, for no mode of compliance is claimed
//!     64      2  version of the layout: 0x1234
//!     66     14  IV, random
//!     80    16n  the key, padded as in PKCS#7, AES-256-CTR from counter block IV || 0x0000
//! 80+16n     32  HMAC-SHA-256 of all that stands before it
//! ```
//!
//! The fields are those of the key blobs of EP11 crypto units, so that tools for the clear header
//! of EP11 blobs work here. The encryption of hardware units is not public; the encryption here is
//! our own.

use aws_lc_rs::cipher::{AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext};
use aws_lc_rs::cipher::{AES_CTR_IV_LEN, UnboundCipherKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{hmac, rand};
use zeroize::Zeroizing;

use crate::error::UnitError;
use crate::master_key::{SealingKeys, WrappingKeys};
use crate::wkid::Wkid;

/// The permissions of a key and its origin: bits of the boolean attributes of EP11.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Attributes(u64);

impl Attributes {
    pub(crate) const EXTRACTABLE: u64 = 0x1;
    pub(crate) const NEVER_EXTRACTABLE: u64 = 0x2;
    pub(crate) const MODIFIABLE: u64 = 0x4;
    pub(crate) const RESTRICTABLE: u64 = 0x10;
    pub(crate) const LOCAL: u64 = 0x20;
    pub(crate) const USE_AS_DATA: u64 = 0x80;
    pub(crate) const SIGN: u64 = 0x100;
    pub(crate) const DECRYPT: u64 = 0x400;
    pub(crate) const ENCRYPT: u64 = 0x800;
    pub(crate) const DERIVE: u64 = 0x1000;
    pub(crate) const UNWRAP: u64 = 0x2000;
    pub(crate) const WRAP: u64 = 0x4000;
    pub(crate) const VERIFY: u64 = 0x8000;
    pub(crate) const TRUSTED: u64 = 0x2_0000;
    pub(crate) const WRAP_WITH_TRUSTED: u64 = 0x4_0000;
    pub(crate) const PROTECTED_KEY_NEVER_EXTRACTABLE: u64 = 0x40_0000;

    /// No attribute.
    pub(crate) const NONE: Self = Self(0);

    /// A private key that the unit generated: it signs, and cannot be extracted.
    pub(crate) const GENERATED: Self =
        Self(Self::NEVER_EXTRACTABLE | Self::LOCAL | Self::SIGN | Self::PROTECTED_KEY_NEVER_EXTRACTABLE);

    /// A private key from a file: it signs, and cannot be extracted.
    pub(crate) const IMPORTED: Self = Self(Self::SIGN);

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// True if all of `bits` are set.
    pub(crate) const fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }

    /// True if at least one of `bits` is set.
    pub(crate) const fn has_any(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    /// These attributes with `bits` set or cleared.
    pub(crate) const fn with(self, bits: u64, set: bool) -> Self {
        Self(if set { self.0 | bits } else { self.0 & !bits })
    }
}

/// Wraps a private or secret key.
///
/// # Errors
/// [`UnitError::Crypto`] if the key is too long for a blob, or the crypto library fails.
pub(crate) fn wrap(keys: &WrappingKeys, attributes: Attributes, key: &[u8]) -> Result<Vec<u8>, UnitError> {
    seal(&keys.blobs, keys.wkid, attributes, key).map_err(|_| UnitError::Crypto("wrap the key"))
}

/// Wraps the state of an operation. A state has the layout of a blob, under keys of its own, so
/// neither passes for the other.
///
/// # Errors
/// [`UnitError::Crypto`] if the state is too long, or the crypto library fails.
pub(crate) fn wrap_state(keys: &WrappingKeys, state: &[u8]) -> Result<Vec<u8>, UnitError> {
    seal(&keys.states, keys.wkid, Attributes::NONE, state).map_err(|_| UnitError::Crypto("wrap the state"))
}

/// Wraps the key of a key store. The output has the layout of a blob, under keys of its own.
///
/// # Errors
/// [`UnitError::Crypto`] if the key is too long, or the crypto library fails.
pub(crate) fn wrap_store_key(keys: &WrappingKeys, key: &[u8]) -> Result<Vec<u8>, UnitError> {
    let sealed = seal(&keys.store_keys, keys.wkid, Attributes::NONE, key);
    sealed.map_err(|_| UnitError::Crypto("wrap the store key"))
}

fn seal(
    keys: &SealingKeys,
    wkid: Wkid,
    attributes: Attributes,
    plain: &[u8],
) -> Result<Vec<u8>, Unspecified> {
    let padding = BLOCK - plain.len() % BLOCK;
    let length = HEADER + plain.len() + padding + MAC;
    if length > MAX_BLOB {
        return Err(Unspecified);
    }
    // Full capacity from the start: a vector that grows leaves copies of the key behind.
    let mut padded = Zeroizing::new(Vec::with_capacity(plain.len() + padding));
    padded.extend_from_slice(plain);
    padded.resize(plain.len() + padding, u8::try_from(padding)?);

    let mut iv = [0; IV];
    rand::fill(&mut iv)?;
    let key = UnboundCipherKey::new(&AES_256, keys.encryption.as_slice())?;
    let start = EncryptionContext::Iv128(counter_block(&iv));
    EncryptingKey::ctr(key)?.less_safe_encrypt(&mut padded, start)?;
    let encrypted = padded;

    let mut blob = Vec::with_capacity(length);
    blob.extend_from_slice(&[0; SESSION]);
    blob.extend_from_slice(wkid.as_bytes());
    blob.extend_from_slice(&attributes.0.to_be_bytes());
    blob.extend_from_slice(&MODE.to_be_bytes());
    blob.extend_from_slice(&VERSION.to_be_bytes());
    blob.extend_from_slice(&iv);
    blob.extend_from_slice(&encrypted);
    let mac = hmac::sign(&keys.mac, &blob);
    blob.extend_from_slice(mac.as_ref());
    Ok(blob)
}

/// Unwraps a key, and returns its attributes.
///
/// # Errors
/// [`UnitError::OtherMasterKey`] if the blob names another master key, [`UnitError::BlobDamaged`]
/// for anything that [`wrap`] did not write.
pub(crate) fn unwrap(
    keys: &WrappingKeys,
    blob: &[u8],
) -> Result<(Attributes, Zeroizing<Vec<u8>>), UnitError> {
    let fields = Fields::read(blob, keys.wkid)?;
    let key = open(&keys.blobs, &fields).map_err(|_| UnitError::BlobDamaged)?;
    Ok((Attributes(fields.attributes), key))
}

/// Unwraps the state of an operation.
///
/// # Errors
/// The errors of [`unwrap`], for an output of [`wrap_state`].
pub(crate) fn unwrap_state(keys: &WrappingKeys, state: &[u8]) -> Result<Zeroizing<Vec<u8>>, UnitError> {
    let fields = Fields::read(state, keys.wkid)?;
    open(&keys.states, &fields).map_err(|_| UnitError::BlobDamaged)
}

/// Unwraps the key of a key store.
///
/// # Errors
/// The errors of [`unwrap`], for an output of [`wrap_store_key`].
pub(crate) fn unwrap_store_key(keys: &WrappingKeys, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, UnitError> {
    let fields = Fields::read(wrapped, keys.wkid)?;
    open(&keys.store_keys, &fields).map_err(|_| UnitError::BlobDamaged)
}

fn open(keys: &SealingKeys, fields: &Fields<'_>) -> Result<Zeroizing<Vec<u8>>, Unspecified> {
    hmac::verify(&keys.mac, fields.authenticated, fields.mac)?;
    let mut plain = Zeroizing::new(fields.encrypted.to_vec());
    let key = UnboundCipherKey::new(&AES_256, keys.encryption.as_slice())?;
    let start = DecryptionContext::Iv128(counter_block(fields.iv));
    DecryptingKey::ctr(key)?.decrypt(&mut plain, start)?;

    let padding = usize::from(*plain.last().ok_or(Unspecified)?);
    let end = plain.len().checked_sub(padding).filter(|_| (1..=BLOCK).contains(&padding));
    let end = end.ok_or(Unspecified)?;
    if plain[end..].iter().any(|byte| usize::from(*byte) != padding) {
        return Err(Unspecified);
    }
    plain.truncate(end);
    Ok(plain)
}

/// The first counter block. The counter has two bytes, 65,536 blocks; the longest blob uses 1,024.
fn counter_block(iv: &[u8; IV]) -> FixedLength<AES_CTR_IV_LEN> {
    let mut block = [0; AES_CTR_IV_LEN];
    block[..IV].copy_from_slice(iv);
    block.into()
}

struct Fields<'a> {
    attributes: u64,
    iv: &'a [u8; IV],
    encrypted: &'a [u8],
    authenticated: &'a [u8],
    mac: &'a [u8; MAC],
}

impl<'a> Fields<'a> {
    /// Splits a blob into its fields. Checks the lengths, and the fields that have one possible
    /// value.
    fn read(blob: &'a [u8], unit: Wkid) -> Result<Self, UnitError> {
        let (wkid, fields) = Self::split(blob).ok_or(UnitError::BlobDamaged)?;
        // The name is not authenticated yet. It only chooses the message: a blob of another unit is
        // not damaged.
        if wkid != unit {
            return Err(UnitError::OtherMasterKey { blob: wkid, unit });
        }
        Ok(fields)
    }

    fn split(blob: &'a [u8]) -> Option<(Wkid, Self)> {
        if blob.len() > MAX_BLOB {
            return None;
        }
        let (authenticated, mac) = blob.split_last_chunk::<MAC>()?;
        let (session, rest) = authenticated.split_first_chunk::<SESSION>()?;
        let (wkid, rest) = rest.split_first_chunk::<{ Wkid::LENGTH }>()?;
        let (attributes, rest) = rest.split_first_chunk::<8>()?;
        let (mode, rest) = rest.split_first_chunk::<8>()?;
        let (version, rest) = rest.split_first_chunk::<2>()?;
        let (iv, encrypted) = rest.split_first_chunk::<IV>()?;
        let known = *session == [0; SESSION]
            && u64::from_be_bytes(*mode) == MODE
            && u16::from_be_bytes(*version) == VERSION;
        let whole = !encrypted.is_empty() && encrypted.len().is_multiple_of(BLOCK);
        let attributes = u64::from_be_bytes(*attributes);
        (known && whole)
            .then(|| (Wkid::from_bytes(*wkid), Self { attributes, iv, encrypted, authenticated, mac }))
    }
}

/// Longest blob, in bytes (16 KiB). An RSA key of 8192 bits takes less than 5 KiB.
const MAX_BLOB: usize = 16 * 1024;

/// Length of the name of a session, in bytes.
pub(crate) const SESSION: usize = 32;
const MODE: u64 = 0;
/// Version of the layout.
pub(crate) const VERSION: u16 = 0x1234;
const IV: usize = 14;
/// Length of the fields before the encrypted key, in bytes.
pub(crate) const HEADER: usize = SESSION + Wkid::LENGTH + 8 + 8 + 2 + IV;
/// Length of a block of AES, in bytes.
pub(crate) const BLOCK: usize = 16;
/// Length of an HMAC-SHA-256, in bytes.
pub(crate) const MAC: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MasterKey;

    fn keys() -> WrappingKeys {
        WrappingKeys::derive(&MasterKey::generate().unwrap())
    }

    #[test]
    fn every_length_round_trips() {
        let keys = keys();
        for length in 0..70 {
            let secret = vec![0x30; length];
            let blob = wrap(&keys, Attributes::GENERATED, &secret).unwrap();
            assert_eq!(blob.len() % BLOCK, 0);
            let (attributes, unwrapped) = unwrap(&keys, &blob).unwrap();
            assert_eq!((attributes, &*unwrapped), (Attributes::GENERATED, &secret));
        }
    }

    #[test]
    fn header_is_that_of_ep11() {
        let keys = keys();
        let blob = wrap(&keys, Attributes::GENERATED, &[1; 100]).unwrap();
        assert_eq!(blob[..32], [0; 32]);
        assert_eq!(&blob[32..48], keys.wkid.as_bytes());
        assert_eq!(blob[48..56], 0x40_0122_u64.to_be_bytes());
        assert_eq!(blob[56..64], [0; 8]);
        assert_eq!(blob[64..66], [0x12, 0x34]);
        assert_eq!(blob.len(), 80 + 112 + 32);
        let imported = wrap(&keys, Attributes::IMPORTED, &[1; 100]).unwrap();
        assert_eq!(imported[48..56], 0x100_u64.to_be_bytes());
        assert_ne!(imported[66..], blob[66..], "the IV is fresh, so the same key never encrypts alike");
    }

    #[test]
    fn every_tampered_bit_is_refused() {
        let keys = keys();
        let blob = wrap(&keys, Attributes::GENERATED, &[7; 40]).unwrap();
        for position in 0..blob.len() {
            for bit in 0..8 {
                let mut tampered = blob.clone();
                tampered[position] ^= 1 << bit;
                let error = unwrap(&keys, &tampered).unwrap_err();
                match position {
                    32..48 => assert!(matches!(error, UnitError::OtherMasterKey { .. }), "byte {position}"),
                    _ => assert_eq!(error, UnitError::BlobDamaged, "byte {position}"),
                }
            }
        }
    }

    #[test]
    fn every_other_length_is_refused() {
        let keys = keys();
        let blob = wrap(&keys, Attributes::GENERATED, &[7; 40]).unwrap();
        for end in 0..blob.len() {
            assert_eq!(unwrap(&keys, &blob[..end]).unwrap_err(), UnitError::BlobDamaged, "cut at {end}");
        }
        for more in 1..40 {
            let mut longer = blob.clone();
            longer.resize(blob.len() + more, 0);
            assert_eq!(unwrap(&keys, &longer).unwrap_err(), UnitError::BlobDamaged);
        }
        assert_eq!(unwrap(&keys, &vec![0; MAX_BLOB + 16]).unwrap_err(), UnitError::BlobDamaged);
        assert!(wrap(&keys, Attributes::GENERATED, &vec![0; MAX_BLOB - HEADER - MAC]).is_err());
        assert!(wrap(&keys, Attributes::GENERATED, &vec![0; MAX_BLOB - HEADER - MAC - 1]).is_ok());
    }

    #[test]
    fn a_state_is_no_blob_and_a_blob_no_state() {
        let keys = keys();
        let state = wrap_state(&keys, b"state").unwrap();
        assert_eq!(*unwrap_state(&keys, &state).unwrap(), b"state");
        assert_eq!(unwrap(&keys, &state).unwrap_err(), UnitError::BlobDamaged);
        let blob = wrap(&keys, Attributes::NONE, b"key").unwrap();
        assert_eq!(unwrap_state(&keys, &blob).unwrap_err(), UnitError::BlobDamaged);
    }

    #[test]
    fn another_master_key_is_named() {
        let (mine, other) = (keys(), keys());
        let blob = wrap(&other, Attributes::GENERATED, &[7; 40]).unwrap();
        let error = unwrap(&mine, &blob).unwrap_err();
        assert_eq!(error, UnitError::OtherMasterKey { blob: other.wkid, unit: mine.wkid });
        let message = error.to_string();
        assert!(
            message.contains(&mine.wkid.to_string()) && message.contains(&other.wkid.to_string()),
            "{message}"
        );
    }
}
