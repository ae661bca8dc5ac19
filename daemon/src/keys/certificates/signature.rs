//! Checks whether a certificate has signed another one.

use der::asn1::{AnyRef, BitStringRef};
use der::{Decode, Encode, Reader, SliceReader};
use keyward_proto::PublicKey;
use rustls::crypto::aws_lc_rs;

use super::Certificate;

/// Result of the check of a signature on a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Signed {
    /// The key of the issuer made the signature.
    ByIt,
    /// Another key made the signature.
    ByAnother,
    /// The algorithm of the signature is not verified here, for example SHA-1.
    Unknown,
}

/// Checks whether `upper` has signed `lower`.
pub(super) fn signed(lower: &Certificate, upper: &Certificate) -> Signed {
    let Ok(parts) = Parts::read(lower.der(), upper.spki()) else { return Signed::Unknown };
    // For an RSA key of another length the library reports a wrong signature.
    if PublicKey::from_spki(upper.spki()).is_err() {
        return Signed::Unknown;
    }
    let known = aws_lc_rs::default_provider().signature_verification_algorithms.all;
    let algorithm = known.iter().find(|known| {
        known.signature_alg_id().as_ref() == parts.algorithm
            && known.public_key_alg_id().as_ref() == parts.key_algorithm
    });
    let Some(algorithm) = algorithm else { return Signed::Unknown };
    match algorithm.verify_signature(parts.key, &parts.message, parts.signature) {
        Ok(()) => Signed::ByIt,
        Err(_) => Signed::ByAnother,
    }
}

/// The inputs of the verification of a signature.
struct Parts<'a> {
    /// TBSCertificate (RFC 5280, 4.1.1.1).
    message: Vec<u8>,
    algorithm: &'a [u8],
    signature: &'a [u8],
    key_algorithm: &'a [u8],
    key: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(certificate: &'a [u8], spki: &'a [u8]) -> der::Result<Self> {
        let (message, algorithm, signature) = SliceReader::new(certificate)?.sequence(|fields| {
            let message = AnyRef::decode(fields)?.to_der()?;
            Ok::<_, der::Error>((message, AnyRef::decode(fields)?, BitStringRef::decode(fields)?))
        })?;
        let (key_algorithm, key) = SliceReader::new(spki)?.sequence(|fields| {
            Ok::<_, der::Error>((AnyRef::decode(fields)?, BitStringRef::decode(fields)?))
        })?;
        Ok(Self {
            message,
            algorithm: algorithm.value(),
            signature: signature.raw_bytes(),
            key_algorithm: key_algorithm.value(),
            key: key.raw_bytes(),
        })
    }
}
