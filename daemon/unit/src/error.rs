use keyward_proto::{KeyType, Scheme};
use thiserror::Error;

use crate::wkid::Wkid;

/// Why a unit did not do what it was asked.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum UnitError {
    /// The blob was altered or cut off, or never was one.
    #[error(
        "cannot unwrap the key: its blob is damaged or not one of a software crypto unit; restore it from a backup"
    )]
    BlobDamaged,
    /// The ciphertext does not fit the modulus of the key: the caller is at fault.
    #[error("the ciphertext is not one of this key: it must be as long as the modulus, and below it")]
    CiphertextLength,
    /// The crypto library gave up, which it has no reason to but a lack of memory or a broken machine.
    #[error("the crypto library could not {0}")]
    Crypto(&'static str),
    /// The digest is not as long as the hash of the scheme gives: the caller is at fault.
    #[error("cannot sign a digest of {given} bytes: the scheme needs one of {needed}")]
    DigestLength {
        /// What the hash gives, in bytes.
        needed: usize,
        /// What the caller gave, in bytes.
        given: usize,
    },
    /// Only RSA keys decrypt.
    #[error("the key cannot decrypt: it is not an RSA key")]
    KeyCannotDecrypt,
    /// TLS signs with no such key, or the attributes of the key do not allow it to sign.
    #[error("the key cannot sign: it is not one that TLS signs with, or its attributes do not allow it")]
    KeyCannotSign,
    /// Keys of this type are not made here.
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
    /// The key may not be used any more, which was settled after the blob was read.
    #[error("the key was disabled or deleted while the request waited")]
    Retired,
    /// The key is of another type than the scheme.
    #[error("a key of type {key_type} cannot sign with {scheme}")]
    SchemeNotSupported {
        /// The scheme that was asked for.
        scheme: Scheme,
        /// The type of the key.
        key_type: KeyType,
    },
    /// A private key was to be wrapped for another unit by a public key that will not do.
    #[error(
        "cannot wrap the key for another unit: the public key that came from there is not an RSA key of 2048 to 4096 bits; check what answers at its address"
    )]
    TransportKey,
    /// The scheme takes no digest.
    #[error("{0} signs whole messages, not digests")]
    WholeMessageNeeded(Scheme),
}
