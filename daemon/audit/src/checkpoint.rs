//! Checkpoints: signatures over the trail up to a record.

use std::io::{self, Read};
use std::time::SystemTime;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use base64::prelude::{BASE64_STANDARD, Engine};
use serde::{Deserialize, Serialize};

use crate::Hash;
use crate::reading::MAX_LINE;
use crate::record::Time;

/// Signs the trail with the audit key, which is in a crypto unit.
pub trait Signer: Send {
    /// ECDSA signature with P-256 and SHA-256 of a message, in DER (RFC 3279, 2.2.3). `None` if
    /// there is no audit key yet.
    ///
    /// # Errors
    /// The reason why no unit has signed. The trail tries again with its next checkpoint.
    fn sign(&self, message: &[u8]) -> Result<Option<Vec<u8>>, String>;
}

/// Public key that verifies checkpoints.
#[derive(Debug)]
pub struct AuditKey(ParsedPublicKey);

impl AuditKey {
    /// Reads a P-256 key from its SubjectPublicKeyInfo in DER (RFC 5280, 4.1).
    ///
    /// # Errors
    /// The bytes are no public key with P-256.
    pub fn from_spki(spki: &[u8]) -> Result<Self, NoAuditKey> {
        ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, spki).map(Self).map_err(|_| NoAuditKey)
    }
}

/// The bytes are no public key with P-256.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a public key with P-256")]
pub struct NoAuditKey;

/// Signature over all records up to one of them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Checkpoint {
    /// When the signature was asked for: RFC 3339 with microseconds, in UTC.
    pub time: String,
    /// Number of the last record that the signature covers.
    pub through: u64,
    /// Hash of that record.
    pub hash: Hash,
    /// ECDSA signature with P-256 and SHA-256 in DER, in base64 (RFC 4648, 4).
    pub signature: String,
}

impl Checkpoint {
    /// Has the trail signed up to a record.
    ///
    /// # Errors
    /// No unit has signed, for the reason that [`Signer::sign`] gives.
    pub(crate) fn make(signer: &dyn Signer, through: u64, hash: Hash) -> Result<Option<Self>, String> {
        let time = Time(SystemTime::now()).to_string();
        let signed = signer.sign(&statement(&time, through, hash))?;
        Ok(signed.map(|signature| Self { time, through, hash, signature: BASE64_STANDARD.encode(signature) }))
    }

    /// Reads the file `head`, or a copy of it.
    ///
    /// # Errors
    /// The file cannot be read, or has no checkpoint.
    pub fn read(head: impl Read) -> io::Result<Self> {
        let mut text = Vec::new();
        head.take(MAX_LINE as u64).read_to_end(&mut text)?;
        serde_json::from_slice(&text)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("not a checkpoint: {error}")))
    }

    /// True if the audit key has signed the checkpoint.
    pub fn is_signed_by(&self, key: &AuditKey) -> bool {
        let Ok(signature) = BASE64_STANDARD.decode(&self.signature) else { return false };
        key.0.verify_sig(&statement(&self.time, self.through, self.hash), &signature).is_ok()
    }
}

/// The message that is signed. Its beginning keeps it apart from everything else that a key signs.
fn statement(time: &str, through: u64, hash: Hash) -> Vec<u8> {
    format!("keyward audit checkpoint 1\n{time}\n{through}\n{hash}\n").into_bytes()
}
