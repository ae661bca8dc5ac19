//! Verification of the signatures of remote units, before a peer gets a signature.

use aws_lc_rs::digest::Digest;
use aws_lc_rs::signature::{self as lc, UnparsedPublicKey, VerificationAlgorithm};
use keyward_proto::{Curve, MlDsa, PublicKey, Scheme};

/// Signed data: a message for schemes that do not hash first, a digest for the others.
pub(crate) enum Signed<'a> {
    Message(&'a [u8]),
    Digest(Digest),
}

/// True if a signature in the form of TLS verifies. `spki` is the SubjectPublicKeyInfo of `key`.
pub(crate) fn verifies(
    key: &PublicKey,
    spki: &[u8],
    scheme: Scheme,
    signed: &Signed<'_>,
    signature: &[u8],
) -> bool {
    let Some(algorithm) = algorithm(key, scheme) else { return false };
    let key = match key {
        // The library cannot read this SubjectPublicKeyInfo, only the key bits in it.
        PublicKey::RsaPss { .. } => PublicKey::bits_of(spki).unwrap_or_default(),
        _ => spki,
    };
    let key = UnparsedPublicKey::new(algorithm, key);
    match signed {
        Signed::Message(message) => key.verify(message, signature).is_ok(),
        Signed::Digest(digest) => key.verify_digest(digest, signature).is_ok(),
    }
}

fn algorithm(key: &PublicKey, scheme: Scheme) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match (key, scheme) {
        // The schemes of TLS 1.2 name a hash and leave the curve to the key (RFC 5246, 7.4.1.4.1).
        (PublicKey::Ec { curve, .. }, scheme) => match (curve, scheme) {
            (Curve::P256, Scheme::EcdsaSecp256r1Sha256) => &lc::ECDSA_P256_SHA256_ASN1,
            (Curve::P256, Scheme::EcdsaSecp384r1Sha384) => &lc::ECDSA_P256_SHA384_ASN1,
            (Curve::P256, Scheme::EcdsaSecp521r1Sha512) => &lc::ECDSA_P256_SHA512_ASN1,
            (Curve::P384, Scheme::EcdsaSecp256r1Sha256) => &lc::ECDSA_P384_SHA256_ASN1,
            (Curve::P384, Scheme::EcdsaSecp384r1Sha384) => &lc::ECDSA_P384_SHA384_ASN1,
            (Curve::P384, Scheme::EcdsaSecp521r1Sha512) => &lc::ECDSA_P384_SHA512_ASN1,
            (Curve::P521, Scheme::EcdsaSecp256r1Sha256) => &lc::ECDSA_P521_SHA256_ASN1,
            (Curve::P521, Scheme::EcdsaSecp384r1Sha384) => &lc::ECDSA_P521_SHA384_ASN1,
            (Curve::P521, Scheme::EcdsaSecp521r1Sha512) => &lc::ECDSA_P521_SHA512_ASN1,
            _ => return None,
        },
        (PublicKey::Rsa { .. }, Scheme::RsaPssRsaeSha256) => &lc::RSA_PSS_2048_8192_SHA256,
        (PublicKey::Rsa { .. }, Scheme::RsaPssRsaeSha384) => &lc::RSA_PSS_2048_8192_SHA384,
        (PublicKey::Rsa { .. }, Scheme::RsaPssRsaeSha512) => &lc::RSA_PSS_2048_8192_SHA512,
        (PublicKey::RsaPss { .. }, Scheme::RsaPssPssSha256) => &lc::RSA_PSS_2048_8192_SHA256,
        (PublicKey::RsaPss { .. }, Scheme::RsaPssPssSha384) => &lc::RSA_PSS_2048_8192_SHA384,
        (PublicKey::RsaPss { .. }, Scheme::RsaPssPssSha512) => &lc::RSA_PSS_2048_8192_SHA512,
        (PublicKey::Rsa { .. }, Scheme::RsaPkcs1Sha256) => &lc::RSA_PKCS1_2048_8192_SHA256,
        (PublicKey::Rsa { .. }, Scheme::RsaPkcs1Sha384) => &lc::RSA_PKCS1_2048_8192_SHA384,
        (PublicKey::Rsa { .. }, Scheme::RsaPkcs1Sha512) => &lc::RSA_PKCS1_2048_8192_SHA512,
        (PublicKey::Ed25519(_), Scheme::Ed25519) => &lc::ED25519,
        (PublicKey::MlDsa(MlDsa::MlDsa44, _), Scheme::MlDsa44) => &lc::ML_DSA_44,
        (PublicKey::MlDsa(MlDsa::MlDsa65, _), Scheme::MlDsa65) => &lc::ML_DSA_65,
        (PublicKey::MlDsa(MlDsa::MlDsa87, _), Scheme::MlDsa87) => &lc::ML_DSA_87,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroUsize;

    use aws_lc_rs::digest;
    use keyward_proto::KeyType;
    use keyward_unit::{MasterKey, SigningInput, Unit};

    use super::*;
    use crate::backend::grep11::mechanism;

    #[test]
    fn every_type_and_scheme() {
        let unit = Unit::new(MasterKey::generate().unwrap(), NonZeroUsize::MIN);
        for key_type in KeyType::GENERATED {
            let made = unit.generate(key_type).unwrap();
            let key = PublicKey::from_spki(&made.spki).unwrap();
            for &scheme in key_type.schemes() {
                let signed = |message: &'static [u8]| match scheme.hash() {
                    Some(hash) => Signed::Digest(digest::digest(mechanism::digest_algorithm(hash), message)),
                    None => Signed::Message(message),
                };
                let signature = unit.sign(&made.blob, scheme, SigningInput::Message(b"text")).unwrap();
                let check = |signed: &Signed<'_>, signature: &[u8]| {
                    verifies(&key, &made.spki, scheme, signed, signature)
                };
                assert!(check(&signed(b"text"), &signature), "{key_type} {scheme}");
                assert!(!check(&signed(b"another"), &signature), "{key_type} {scheme}");
                assert!(!check(&signed(b"text"), &signature[1..]), "{key_type} {scheme}");
                assert!(!check(&signed(b"text"), &[]), "{key_type} {scheme}");
            }
        }
    }
}
