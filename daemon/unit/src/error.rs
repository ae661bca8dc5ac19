use keyward_proto::{KeyType, Scheme};
use thiserror::Error;

use crate::wkid::Wkid;

/// The reason why a unit refused or failed.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum UnitError {
    /// The blob was altered or cut off, or is not a blob.
    #[error(
        "cannot unwrap the key: its blob is damaged or not one of a software crypto unit; restore it from a backup"
    )]
    BlobDamaged,
    /// The ciphertext does not fit the modulus of the key. The caller is at fault.
    #[error("the ciphertext is not one of this key: it must be as long as the modulus, and below it")]
    CiphertextLength,
    /// The crypto library failed. Only a lack of memory or a broken machine makes it fail.
    #[error("the crypto library could not {0}")]
    Crypto(&'static str),
    /// The digest does not have the length of the hash of the scheme. The caller is at fault.
    #[error("cannot sign a digest of {given} bytes: the scheme needs one of {needed}")]
    DigestLength {
        /// Length of a digest of the hash, in bytes.
        needed: usize,
        /// Length of the caller's digest, in bytes.
        given: usize,
    },
    /// The key is not an RSA key; only RSA keys decrypt.
    #[error("the key cannot decrypt: it is not an RSA key")]
    KeyCannotDecrypt,
    /// TLS does not sign with keys of this type, or the attributes of the key do not allow it to
    /// sign.
    #[error("the key cannot sign: it is not one that TLS signs with, or its attributes do not allow it")]
    KeyCannotSign,
    /// The unit does not generate keys of this type.
    #[error(
        "cannot generate a key of type {0}: p256, p384, p521, ed25519, rsa2048, rsa3072, rsa4096, rsa-pss2048 to 4096, and ml-dsa-44, 65 and 87 can be"
    )]
    KeyTypeNotSupported(KeyType),
    /// The blob belongs to a unit with another master key.
    #[error(
        "cannot unwrap the key: its blob was wrapped by master key {blob}, this unit has {unit}; start it with that master key"
    )]
    OtherMasterKey {
        /// The master key that wrapped the blob.
        blob: Wkid,
        /// The master key of this unit.
        unit: Wkid,
    },
    /// The key was disabled or deleted after the request read its blob.
    #[error("the key was disabled or deleted while the request waited")]
    Retired,
    /// The unit has no master key.
    #[error("the unit is sealed: its owners must give it its master key first")]
    Sealed,
    /// The scheme is for keys of another type.
    #[error("a key of type {key_type} cannot sign with {scheme}")]
    SchemeNotSupported {
        /// The scheme of the request.
        scheme: Scheme,
        /// The type of the key.
        key_type: KeyType,
    },
    /// The public key of another unit cannot wrap a private key for that unit.
    #[error(
        "cannot wrap the key for another unit: its public key is not an RSA key of 2048 to 4096 bits; check which server answers at its address"
    )]
    TransportKey,
    /// The scheme signs whole messages only.
    #[error("{0} signs whole messages, not digests")]
    WholeMessageNeeded(Scheme),
}
