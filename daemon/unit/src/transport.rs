//! Moving the private key of a file to another unit.
//!
//! Two calls of GREP11's `UnwrapKey` import the key. The first uses an RSA key that the other unit
//! made for the purpose, and brings an AES key; the second uses that AES key. The private key is in
//! the clear only here and in the other unit. RSA alone wraps a few hundred bytes at most.

use core::fmt;

use aws_lc_rs::cipher::{AES_256, DecryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use keyward_proto::{KeyType, PublicKey};
use zeroize::Zeroizing;

use crate::blob::BLOCK;
use crate::error::UnitError;
use crate::import::{self, ImportError};

/// A private key on its way to another unit: the input of two calls of `UnwrapKey`.
///
/// Only the unit with the private half of the RSA key can read it.
#[derive(Clone, Eq, PartialEq)]
pub struct Transported {
    /// An AES key of 32 bytes, encrypted by the RSA key: `CKM_RSA_PKCS_OAEP` with SHA-1 for hash
    /// and mask, and no label.
    pub wrapped_aes_key: Vec<u8>,
    /// The IV of [`Self::wrapped_key`].
    pub iv: [u8; 16],
    /// The private key as PKCS#8 (RFC 5958), encrypted by the AES key: `CKM_AES_CBC_PAD`.
    ///
    /// An EC key contains its public key (RFC 5915), Ed25519 has the form of RFC 8410. RSA is
    /// always rsaEncryption, also if [`Self::spki`] is bound to RSASSA-PSS.
    pub wrapped_key: Vec<u8>,
    /// The public key of the private key, as SubjectPublicKeyInfo in DER (RFC 5280, 4.1).
    pub spki: Vec<u8>,
    /// The type of the private key.
    pub key_type: KeyType,
}

impl fmt::Debug for Transported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transported").field("key_type", &self.key_type).finish_non_exhaustive()
    }
}

/// Wraps the private key of a file by the RSA key of another unit: a SubjectPublicKeyInfo in DER,
/// of 2048 to 4096 bits. The file may be any that [`Unit::import`](crate::Unit::import) takes.
///
/// # Errors
/// The errors of an import, and [`UnitError::TransportKey`] for a public key that cannot be used.
pub fn transport(file: &[u8], rsa_spki: &[u8]) -> Result<Transported, ImportError> {
    let rsa = transport_key(rsa_spki)?;
    let key = import::read(file)?;
    // The key is proved here too, as before every blob, so only a valid key leaves.
    key.prove()?;
    let wrapped = key.to_unbound_pkcs8().and_then(|pkcs8| {
        let mut aes_key = Zeroizing::new([0; AES_KEY]);
        rand::fill(aes_key.as_mut_slice())?;
        let (iv, wrapped_key) = encrypt(&aes_key, &pkcs8)?;
        Ok((wrap(&rsa, &aes_key)?, iv, wrapped_key))
    });
    let (wrapped_aes_key, iv, wrapped_key) =
        wrapped.map_err(|Unspecified| UnitError::Crypto("wrap the key for another unit"))?;
    let (spki, key_type) = (key.spki().to_vec(), key.key_type());
    Ok(Transported { wrapped_aes_key, iv, wrapped_key, spki, key_type })
}

/// Reads the RSA key of the other unit.
fn transport_key(spki: &[u8]) -> Result<OaepPublicEncryptingKey, UnitError> {
    match PublicKey::from_spki(spki).map(|key| key.key_type()) {
        Ok(KeyType::Rsa(2048..=4096)) => {}
        _ => return Err(UnitError::TransportKey),
    }
    let key = PublicEncryptingKey::from_der(spki).map_err(|_| UnitError::TransportKey)?;
    OaepPublicEncryptingKey::new(key).map_err(|_| UnitError::TransportKey)
}

/// Encrypts the AES key by the RSA key (RFC 8017, 7.1).
///
/// The hash is SHA-1, because older crypto cards (CEX6) have no other. Collisions of SHA-1 do not
/// matter here: OAEP and its mask need a function whose output looks random, not one without
/// collisions.
fn wrap(rsa: &OaepPublicEncryptingKey, aes_key: &[u8; AES_KEY]) -> Result<Vec<u8>, Unspecified> {
    let mut wrapped = vec![0; rsa.ciphertext_size()];
    rsa.encrypt(&OAEP_SHA1_MGF1SHA1, aes_key, &mut wrapped, None)?;
    Ok(wrapped)
}

/// Encrypts a PKCS#8 by the AES key. The ciphertext has no MAC. The other unit checks that the
/// parts of the key belong together, and the caller compares the public key.
fn encrypt(aes_key: &[u8; AES_KEY], pkcs8: &[u8]) -> Result<([u8; 16], Vec<u8>), Unspecified> {
    // Capacity for the padding too, so that growing leaves no copy of the key behind.
    let mut padded = Zeroizing::new(Vec::with_capacity(pkcs8.len() + BLOCK));
    padded.extend_from_slice(pkcs8);
    let key = PaddedBlockEncryptingKey::cbc_pkcs7(UnboundCipherKey::new(&AES_256, aes_key)?)?;
    let DecryptionContext::Iv128(iv) = key.encrypt(&mut *padded)? else { return Err(Unspecified) };
    Ok((*iv.as_ref(), core::mem::take(&mut *padded)))
}

/// Length of the AES key, in bytes.
const AES_KEY: usize = 32;

#[cfg(test)]
mod tests {
    use core::num::NonZeroUsize;
    use std::collections::BTreeMap;

    use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
    use keyward_grep11::attribute_value::OneAttr;
    use keyward_grep11::mechanism::Parameter;
    use keyward_grep11::{
        AttributeValue, GenerateKeyPairRequest, Mechanism, RsaoaepParm, RsapssParm, SignSingleRequest,
        UnwrapKeyRequest, UnwrapKeyResponse, cka, ckk, ckm, cko, rsaoaep_parm, rsapss_parm,
    };

    use super::*;
    use crate::grep11::{Crypto, Error};
    use crate::key::{Key, verifying_ml_dsa};
    use crate::test_openssl::run;
    use crate::{Header, MasterKey, Unit, spki_of_public_key_blob};

    /// Another unit, with an RSA key for transport.
    struct Other {
        crypto: Crypto,
        private: Vec<u8>,
        spki: Vec<u8>,
    }

    impl Other {
        fn new() -> Self {
            let crypto = Crypto::new(Unit::new(MasterKey::generate().unwrap(), NonZeroUsize::MIN));
            let unwrap_only = [(cka::CKA_UNWRAP, TRUE), (cka::CKA_SIGN, FALSE), (cka::CKA_DECRYPT, FALSE)];
            let pair = crypto.generate_key_pair(GenerateKeyPairRequest {
                mech: mechanism(ckm::CKM_RSA_PKCS_KEY_PAIR_GEN, None),
                pub_key_template: template(&[(cka::CKA_MODULUS_BITS, integer(3072))]),
                priv_key_template: template(&unwrap_only),
                ..Default::default()
            });
            let pair = pair.unwrap();
            let spki = spki_of_public_key_blob(&pair.pub_key_bytes).unwrap();
            Self { crypto, private: pair.priv_key_bytes, spki }
        }

        /// Imports a key, as a client would.
        fn take_in(&self, key: &Transported) -> Result<UnwrapKeyResponse, Error> {
            let aes = self.unwrap_key(
                mechanism(ckm::CKM_RSA_PKCS_OAEP, Some(oaep())),
                &self.private,
                &key.wrapped_aes_key,
                &[
                    (cka::CKA_CLASS, integer(cko::CKO_SECRET_KEY)),
                    (cka::CKA_KEY_TYPE, integer(ckk::CKK_AES)),
                    (cka::CKA_VALUE_LEN, integer(32)),
                    (cka::CKA_UNWRAP, TRUE),
                    (cka::CKA_WRAP, FALSE),
                    (cka::CKA_ENCRYPT, FALSE),
                    (cka::CKA_DECRYPT, FALSE),
                    (cka::CKA_SIGN, FALSE),
                    (cka::CKA_VERIFY, FALSE),
                    (cka::CKA_DERIVE, FALSE),
                    (cka::CKA_EXTRACTABLE, FALSE),
                ],
            )?;
            let key_type = match key.key_type {
                KeyType::Rsa(_) | KeyType::RsaPss(_) => ckk::CKK_RSA,
                KeyType::MlDsa(_) => ckk::CKK_IBM_ML_DSA,
                _ => ckk::CKK_EC,
            };
            self.unwrap_key(
                mechanism(ckm::CKM_AES_CBC_PAD, Some(Parameter::ParameterB(key.iv.to_vec()))),
                &aes.unwrapped_bytes,
                &key.wrapped_key,
                &[
                    (cka::CKA_CLASS, integer(cko::CKO_PRIVATE_KEY)),
                    (cka::CKA_KEY_TYPE, integer(key_type)),
                    (cka::CKA_SIGN, TRUE),
                    (cka::CKA_EXTRACTABLE, FALSE),
                ],
            )
        }

        fn unwrap_key(
            &self,
            mech: Option<Mechanism>,
            wrapping_key: &[u8],
            wrapped: &[u8],
            attributes: &[(u64, OneAttr)],
        ) -> Result<UnwrapKeyResponse, Error> {
            self.crypto.unwrap_key(UnwrapKeyRequest {
                mech,
                ke_k_bytes: wrapping_key.to_vec(),
                wrapped: wrapped.to_vec(),
                template: template(attributes),
                ..Default::default()
            })
        }
    }

    const TRUE: OneAttr = OneAttr::AttributeTf(true);
    const FALSE: OneAttr = OneAttr::AttributeTf(false);

    fn integer(number: u64) -> OneAttr {
        OneAttr::AttributeI(number.try_into().unwrap())
    }

    fn template(attributes: &[(u64, OneAttr)]) -> BTreeMap<u64, AttributeValue> {
        let value = |value: &OneAttr| AttributeValue { one_attr: Some(value.clone()) };
        attributes.iter().map(|(number, attribute)| (*number, value(attribute))).collect()
    }

    fn mechanism(mechanism: u64, parameter: Option<Parameter>) -> Option<Mechanism> {
        Some(Mechanism { mechanism, parameter })
    }

    fn oaep() -> Parameter {
        Parameter::RsaoaepParameter(RsaoaepParm {
            hash_mech: ckm::CKM_SHA_1,
            mgf: rsaoaep_parm::Mask::CkgMgf1Sha1.into(),
            ..Default::default()
        })
    }

    /// The mechanism that signs with a key of a type, and the algorithm that verifies the
    /// signature.
    fn signing(key_type: KeyType) -> (Option<Mechanism>, &'static dyn VerificationAlgorithm) {
        let pss = Parameter::RsapssParameter(RsapssParm {
            hash_mech: ckm::CKM_SHA256,
            mgf: rsapss_parm::Mask::CkgMgf1Sha256.into(),
            salt_byte_count: 32,
        });
        let (number, parameter, verification): (_, _, &dyn VerificationAlgorithm) = match key_type {
            KeyType::P256 => (ckm::CKM_ECDSA_SHA256, None, &signature::ECDSA_P256_SHA256_FIXED),
            KeyType::P384 => (ckm::CKM_ECDSA_SHA384, None, &signature::ECDSA_P384_SHA384_FIXED),
            KeyType::P521 => (ckm::CKM_ECDSA_SHA512, None, &signature::ECDSA_P521_SHA512_FIXED),
            KeyType::Ed25519 => (ckm::CKM_IBM_ED25519_SHA512, None, &signature::ED25519),
            KeyType::MlDsa(parameters) => (ckm::CKM_IBM_ML_DSA, None, verifying_ml_dsa(parameters)),
            _ => (ckm::CKM_SHA256_RSA_PKCS_PSS, Some(pss), &signature::RSA_PSS_2048_8192_SHA256),
        };
        (mechanism(number, parameter), verification)
    }

    /// Moves the key of a file to another unit, and has it sign there.
    fn arrives(other: &Other, file: &[u8], key_type: KeyType, spki: &[u8]) {
        let key = transport(file, &other.spki).unwrap_or_else(|error| panic!("{key_type}: {error}"));
        assert_eq!((key.key_type, key.spki.as_slice()), (key_type, spki));
        let taken_in = other.take_in(&key).unwrap_or_else(|error| panic!("{key_type}: {error}"));
        let arrived = spki_of_public_key_blob(&taken_in.check_sum).unwrap();
        match key_type {
            // The other unit does not know the bond.
            KeyType::RsaPss(_) => assert_eq!(PublicKey::bind_to_pss(&arrived, None).as_deref(), Some(spki)),
            _ => assert_eq!(arrived, spki, "{key_type}"),
        }
        let header = Header::read(&taken_in.unwrapped_bytes).unwrap();
        assert!(header.signs() && !header.extractable());

        let (mech, verification) = signing(key_type);
        let signed = other.crypto.sign_single(SignSingleRequest {
            mech,
            priv_key_bytes: taken_in.unwrapped_bytes,
            data: b"signed elsewhere".to_vec(),
            ..Default::default()
        });
        let public = match PublicKey::from_spki(spki).unwrap() {
            PublicKey::Ec { point, .. } => point,
            PublicKey::Ed25519(bytes) => bytes,
            PublicKey::RsaPss { .. } => PublicKey::bits_of(spki).unwrap().to_vec(),
            _ => spki.to_vec(),
        };
        let verified = UnparsedPublicKey::new(verification, public)
            .verify(b"signed elsewhere", &signed.unwrap().signature);
        assert!(verified.is_ok(), "{key_type}");
    }

    #[test]
    fn keys_of_every_type_arrive_at_another_unit() {
        let other = Other::new();
        for key_type in KeyType::GENERATED {
            let key = Key::generate(key_type).unwrap();
            arrives(&other, &key.to_pkcs8().unwrap(), key_type, key.spki());
        }
    }

    #[test]
    fn keys_arrive_from_every_form_of_file() {
        let other = Other::new();
        let rsa = run("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048", &[]);
        let pkcs1 = run("rsa -traditional", &rsa);
        assert!(pkcs1.starts_with(b"-----BEGIN RSA PRIVATE KEY"));
        let spki = run("pkey -pubout -outform DER", &rsa);
        arrives(&other, &pkcs1, KeyType::Rsa(2048), &spki);

        let ec = run("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256", &[]);
        let spki = run("pkey -pubout -outform DER", &ec);
        arrives(&other, &run("ec -no_public", &ec), KeyType::P256, &spki);
        let key = transport(&run("ec -no_public", &ec), &other.spki).unwrap();
        // 138 bytes of PKCS#8, of which 70 are the public key; padded to whole blocks.
        assert_eq!(key.wrapped_key.len(), 144);
    }

    #[test]
    fn every_transport_is_encrypted_anew() {
        let other = Other::new();
        let file = Key::generate(KeyType::Ed25519).unwrap().to_pkcs8().unwrap();
        let [first, second] = [(); 2].map(|()| transport(&file, &other.spki).unwrap());
        assert_ne!(first.iv, second.iv);
        assert_ne!(first.wrapped_key, second.wrapped_key);
        assert_ne!(first.wrapped_aes_key, second.wrapped_aes_key);
        let mixed = Transported { wrapped_aes_key: second.wrapped_aes_key, ..first.clone() };
        other.take_in(&mixed).unwrap_err();
        assert_eq!(format!("{first:?}"), "Transported { key_type: Ed25519, .. }");
    }

    #[test]
    fn other_public_keys_are_refused() {
        let file = Key::generate(KeyType::P256).unwrap().to_pkcs8().unwrap();
        let refused = |spki: &[u8]| transport(&file, spki).unwrap_err();
        let unfit = ImportError::Unit(UnitError::TransportKey);
        for key_type in [KeyType::P256, KeyType::Ed25519] {
            assert_eq!(refused(Key::generate(key_type).unwrap().spki()), unfit, "{key_type}");
        }
        for bits in [1024, 4104] {
            let pem = run(&format!("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:{bits}"), &[]);
            assert_eq!(refused(&run("pkey -pubout -outform DER", &pem)), unfit, "{bits}");
        }
        let rsa = Key::generate(KeyType::Rsa(2048)).unwrap();
        transport(&file, rsa.spki()).unwrap();
        assert_eq!(refused(&[rsa.spki(), &[4, 0]].concat()), unfit, "with something behind");
        for end in [0, 1, rsa.spki().len() - 1] {
            assert_eq!(refused(&rsa.spki()[..end]), unfit, "cut at {end}");
        }
        assert_eq!(refused(b"garbage"), unfit);
        assert!(unfit.to_string().contains("RSA key of 2048 to 4096 bits"), "{unfit}");
    }

    #[test]
    fn other_files_are_refused_as_in_an_import() {
        let rsa = Key::generate(KeyType::Rsa(2048)).unwrap();
        assert_eq!(transport(b"hello", rsa.spki()), Err(ImportError::Unknown));
        let refused = transport(rsa.spki(), rsa.spki());
        assert_eq!(refused, Err(ImportError::NotPrivateKey("a public key")));
    }
}
