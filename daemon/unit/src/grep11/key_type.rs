//! Numbers that PKCS #11 has for the types and sizes of keys.

use keyward_grep11::{ckk, ckp};
use keyward_proto::{KeyType, MlDsa};

use crate::key::Pair;
use crate::object::{Material, SecretKind};

/// The CKK number of the type of a key.
pub(crate) fn key_type(material: &Material) -> u64 {
    match material {
        Material::Key(key) => match key.pair() {
            Pair::Rsa(_) | Pair::RsaPss(..) => ckk::CKK_RSA,
            Pair::Ec(..) | Pair::Ed25519(_) => ckk::CKK_EC,
            Pair::MlDsa(..) => ckk::CKK_IBM_ML_DSA,
        },
        Material::Koblitz(_) | Material::X25519(_) => ckk::CKK_EC,
        Material::Secret(secret) => match secret.kind {
            SecretKind::Aes => ckk::CKK_AES,
            SecretKind::Generic => ckk::CKK_GENERIC_SECRET,
        },
    }
}

/// The CKP number of a parameter set of ML-DSA, the value of `CKA_IBM_PARAMETER_SET`.
pub fn parameter_set(parameters: MlDsa) -> u64 {
    match parameters {
        MlDsa::MlDsa44 => ckp::CKP_ML_DSA_44,
        MlDsa::MlDsa65 => ckp::CKP_ML_DSA_65,
        MlDsa::MlDsa87 => ckp::CKP_ML_DSA_87,
    }
}

/// The size of a key in bits: modulus of RSA, order of the curve, public key of ML-DSA, value of a
/// secret key.
pub(crate) fn bits(material: &Material) -> usize {
    match material {
        Material::Key(key) => match key.key_type() {
            KeyType::P256 => 256,
            KeyType::P384 => 384,
            KeyType::P521 => 521,
            KeyType::Rsa(bits) | KeyType::RsaPss(bits) => bits.into(),
            KeyType::MlDsa(parameters) => parameters.public_length() * 8,
            _ => 255,
        },
        Material::Koblitz(_) => 256,
        Material::X25519(_) => 255,
        Material::Secret(secret) => secret.value.len() * 8,
    }
}
