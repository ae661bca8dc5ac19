//! Mechanisms of PKCS #11 for the signature schemes of TLS, and the conversion of signatures to the
//! form of TLS.

use aws_lc_rs::digest;
use der::Encode;
use der::asn1::UintRef;
use keyward_grep11::mechanism::Parameter;
use keyward_grep11::{Mechanism, RsapssParm, ckm, rsapss_parm};
use keyward_proto::{Curve, Hash, PublicKey, Scheme, SchemeFamily};

/// Form of the input of a signature.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum InputForm {
    /// Digest, or its DigestInfo for PKCS #1.
    Digest,
    /// Whole message.
    Message,
}

/// Number of the mechanism for a scheme; `None` if there is none: Ed25519 and ML-DSA cannot sign a
/// digest.
pub(crate) fn number(scheme: Scheme, form: InputForm) -> Option<u64> {
    Some(match (scheme.family(), form, scheme.hash()) {
        (SchemeFamily::Ecdsa, InputForm::Digest, _) => ckm::CKM_ECDSA,
        (SchemeFamily::Ecdsa, InputForm::Message, Some(Hash::Sha256)) => ckm::CKM_ECDSA_SHA256,
        (SchemeFamily::Ecdsa, InputForm::Message, Some(Hash::Sha384)) => ckm::CKM_ECDSA_SHA384,
        (SchemeFamily::Ecdsa, InputForm::Message, Some(Hash::Sha512)) => ckm::CKM_ECDSA_SHA512,
        (SchemeFamily::RsaPkcs1, InputForm::Digest, _) => ckm::CKM_RSA_PKCS,
        (SchemeFamily::RsaPkcs1, InputForm::Message, Some(Hash::Sha256)) => ckm::CKM_SHA256_RSA_PKCS,
        (SchemeFamily::RsaPkcs1, InputForm::Message, Some(Hash::Sha384)) => ckm::CKM_SHA384_RSA_PKCS,
        (SchemeFamily::RsaPkcs1, InputForm::Message, Some(Hash::Sha512)) => ckm::CKM_SHA512_RSA_PKCS,
        (SchemeFamily::RsaPss | SchemeFamily::RsaPssPss, InputForm::Digest, _) => ckm::CKM_RSA_PKCS_PSS,
        (SchemeFamily::RsaPss | SchemeFamily::RsaPssPss, InputForm::Message, Some(Hash::Sha256)) => {
            ckm::CKM_SHA256_RSA_PKCS_PSS
        }
        (SchemeFamily::RsaPss | SchemeFamily::RsaPssPss, InputForm::Message, Some(Hash::Sha384)) => {
            ckm::CKM_SHA384_RSA_PKCS_PSS
        }
        (SchemeFamily::RsaPss | SchemeFamily::RsaPssPss, InputForm::Message, Some(Hash::Sha512)) => {
            ckm::CKM_SHA512_RSA_PKCS_PSS
        }
        (SchemeFamily::Ed25519, InputForm::Message, _) => ckm::CKM_IBM_ED25519_SHA512,
        (SchemeFamily::MlDsa(_), InputForm::Message, _) => ckm::CKM_IBM_ML_DSA,
        _ => return None,
    })
}

/// Mechanism with its parameter, which only PSS has. The salt is as long as the digest (RFC 8446,
/// 4.2.3); a parameter without a length would mean no salt.
pub(crate) fn mechanism(scheme: Scheme, number: u64) -> Mechanism {
    let parameter = match (scheme.family(), scheme.hash()) {
        (SchemeFamily::RsaPss | SchemeFamily::RsaPssPss, Some(hash)) => {
            let (hash_mech, mgf) = match hash {
                Hash::Sha256 => (ckm::CKM_SHA256, rsapss_parm::Mask::CkgMgf1Sha256),
                Hash::Sha384 => (ckm::CKM_SHA384, rsapss_parm::Mask::CkgMgf1Sha384),
                _ => (ckm::CKM_SHA512, rsapss_parm::Mask::CkgMgf1Sha512),
            };
            let salt_byte_count = hash.length() as u64;
            Some(Parameter::RsapssParameter(RsapssParm { hash_mech, mgf: mgf.into(), salt_byte_count }))
        }
        _ => None,
    };
    Mechanism { mechanism: number, parameter }
}

/// Data to send for a digest: the digest, or its DigestInfo for PKCS #1 v1.5 (RFC 8017, 9.2, note
/// 1).
pub(crate) fn data(scheme: Scheme, digest: &[u8]) -> Vec<u8> {
    let prefix: &[u8] = match (scheme.family(), scheme.hash()) {
        (SchemeFamily::RsaPkcs1, Some(Hash::Sha256)) => &DIGEST_INFO_SHA256,
        (SchemeFamily::RsaPkcs1, Some(Hash::Sha384)) => &DIGEST_INFO_SHA384,
        (SchemeFamily::RsaPkcs1, Some(Hash::Sha512)) => &DIGEST_INFO_SHA512,
        _ => &[],
    };
    [prefix, digest].concat()
}

/// Hash of a scheme in the crypto library.
pub(crate) fn digest_algorithm(hash: Hash) -> &'static digest::Algorithm {
    match hash {
        Hash::Sha256 => &digest::SHA256,
        Hash::Sha384 => &digest::SHA384,
        _ => &digest::SHA512,
    }
}

/// Signature in the form of TLS; `None` if the answer is not a signature.
///
/// An ECDSA signature of a unit is r and s, each as long as the order of the curve. TLS uses DER
/// (RFC 3279, 2.2.3).
pub(super) fn signature(key: &PublicKey, raw: Vec<u8>) -> Option<Vec<u8>> {
    match key {
        PublicKey::Ec { curve, .. } => to_der(*curve, &raw),
        key => (raw.len() == key.max_signature()).then_some(raw),
    }
}

fn to_der(curve: Curve, raw: &[u8]) -> Option<Vec<u8>> {
    let half = curve.field_bytes();
    let (r, s) = raw.split_at_checked(half)?;
    if s.len() != half {
        return None;
    }
    let (r, s) = (UintRef::new(r).ok()?, UintRef::new(s).ok()?);
    let mut numbers = Vec::with_capacity(raw.len() + 16);
    r.encode_to_vec(&mut numbers).ok()?;
    s.encode_to_vec(&mut numbers).ok()?;
    let header = der::Header::new(der::Tag::Sequence, der::Length::try_from(numbers.len()).ok()?);
    let mut signature = Vec::with_capacity(numbers.len() + 3);
    header.encode_to_vec(&mut signature).ok()?;
    signature.extend_from_slice(&numbers);
    Some(signature)
}

const DIGEST_INFO_SHA256: [u8; 19] = digest_info([1, 32]);
const DIGEST_INFO_SHA384: [u8; 19] = digest_info([2, 48]);
const DIGEST_INFO_SHA512: [u8; 19] = digest_info([3, 64]);

/// DigestInfo without the digest. The arguments are the last arc of the object identifier of the
/// hash, below 2.16.840.1.101.3.4.2, and the length of the digest.
const fn digest_info([arc, length]: [u8; 2]) -> [u8; 19] {
    let (oid, whole) = ([0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02], 17 + length);
    [
        0x30, whole, 0x30, 13, 0x06, 9, oid[0], oid[1], oid[2], oid[3], oid[4], oid[5], oid[6], oid[7], arc,
        0x05, 0x00, 0x04, length,
    ]
}

#[cfg(test)]
mod tests {
    use keyward_proto::KeyType;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_scheme_can_sign_messages_and_schemes_with_a_hash_can_sign_digests() {
        for key_type in KeyType::GENERATED {
            for &scheme in key_type.schemes() {
                assert!(number(scheme, InputForm::Message).is_some(), "{scheme}");
                assert_eq!(number(scheme, InputForm::Digest).is_some(), scheme.hash().is_some(), "{scheme}");
            }
        }
    }

    #[test]
    fn digest_infos_are_as_in_the_standard() {
        // RFC 8017, 9.2, note 1: SHA-256 and SHA-512.
        let info = data(Scheme::RsaPkcs1Sha256, &[7; 32]);
        let expected = [
            0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05,
            0x00, 0x04, 0x20,
        ];
        assert_eq!(info, [&expected[..], &[7; 32]].concat());
        let info = data(Scheme::RsaPkcs1Sha512, &[]);
        let expected = [
            0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05,
            0x00, 0x04, 0x40,
        ];
        assert_eq!(info, expected);
        assert_eq!(data(Scheme::RsaPssRsaeSha256, &[7; 32]), [7; 32]);
    }

    #[test]
    fn the_salt_is_as_long_as_the_digest() {
        for (scheme, length) in
            [(Scheme::RsaPssRsaeSha256, 32), (Scheme::RsaPssRsaeSha384, 48), (Scheme::RsaPssRsaeSha512, 64)]
        {
            let Some(Parameter::RsapssParameter(pss)) = mechanism(scheme, 13).parameter else {
                panic!("{scheme}")
            };
            assert_eq!(pss.salt_byte_count, length);
        }
        assert_eq!(mechanism(Scheme::RsaPkcs1Sha256, 1).parameter, None);
    }

    #[test]
    fn raw_signatures_become_der() {
        let mut raw = vec![0; 64];
        (raw[31], raw[32]) = (1, 0x80);
        let der = to_der(Curve::P256, &raw).unwrap();
        assert_eq!(der[..8], [0x30, 38, 2, 1, 1, 2, 33, 0]);
        // P-521: 132 bytes, and a SEQUENCE whose length takes two bytes.
        let der = to_der(Curve::P521, &[0x7f; 132]).unwrap();
        assert_eq!(der[..6], [0x30, 0x81, 136, 2, 66, 0x7f]);
        for length in [0, 1, 63, 65, 128] {
            assert_eq!(to_der(Curve::P256, &vec![1; length]), None, "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_of_the_right_length_becomes_a_signature(raw: Vec<u8>, length in prop::sample::select(vec![64, 96, 132])) {
            for curve in Curve::ALL {
                let _ = to_der(curve, &raw);
                let raw: Vec<u8> = raw.iter().copied().cycle().take(length).collect();
                let fits = raw.len() == 2 * curve.field_bytes();
                prop_assert_eq!(to_der(curve, &raw).is_some(), fits);
            }
        }
    }
}
