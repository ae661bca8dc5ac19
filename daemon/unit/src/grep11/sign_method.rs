use keyward_grep11::{Mechanism, ckm};

use super::error::Error;
use super::hash::HashFunction;
use super::mechanism::{no_parameter, not_offered, pss};
use super::pss::Pss;

/// A way to sign: the algorithm and the hash of a mechanism.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SignMethod {
    /// Takes a message, or without a hash the data as they are, such as a DigestInfo.
    RsaPkcs(Option<HashFunction>),
    /// Takes a message if `hashes`, otherwise a digest.
    RsaPss {
        pss: Pss,
        hashes: bool,
    },
    /// Takes a message, or without a hash a digest of any length.
    Ecdsa(Option<HashFunction>),
    Ed25519,
    MlDsa,
    Hmac(HashFunction),
}

impl SignMethod {
    pub(super) fn from_mechanism(mechanism: &Mechanism) -> Result<Self, Error> {
        use HashFunction::{Sha1, Sha224, Sha256, Sha384, Sha512};

        let number = mechanism.mechanism;
        let salted = |hash: Option<HashFunction>| {
            Ok(Self::RsaPss { pss: pss(mechanism, hash)?, hashes: hash.is_some() })
        };
        let method = match number {
            ckm::CKM_RSA_PKCS => Self::RsaPkcs(None),
            ckm::CKM_SHA1_RSA_PKCS => Self::RsaPkcs(Some(Sha1)),
            ckm::CKM_SHA224_RSA_PKCS => Self::RsaPkcs(Some(Sha224)),
            ckm::CKM_SHA256_RSA_PKCS => Self::RsaPkcs(Some(Sha256)),
            ckm::CKM_SHA384_RSA_PKCS => Self::RsaPkcs(Some(Sha384)),
            ckm::CKM_SHA512_RSA_PKCS => Self::RsaPkcs(Some(Sha512)),
            ckm::CKM_RSA_PKCS_PSS => return salted(None),
            ckm::CKM_SHA1_RSA_PKCS_PSS => return salted(Some(Sha1)),
            ckm::CKM_SHA224_RSA_PKCS_PSS => return salted(Some(Sha224)),
            ckm::CKM_SHA256_RSA_PKCS_PSS => return salted(Some(Sha256)),
            ckm::CKM_SHA384_RSA_PKCS_PSS => return salted(Some(Sha384)),
            ckm::CKM_SHA512_RSA_PKCS_PSS => return salted(Some(Sha512)),
            ckm::CKM_ECDSA => Self::Ecdsa(None),
            ckm::CKM_ECDSA_SHA1 => Self::Ecdsa(Some(Sha1)),
            ckm::CKM_ECDSA_SHA224 | ckm::CKM_IBM_ECDSA_SHA224 => Self::Ecdsa(Some(Sha224)),
            ckm::CKM_ECDSA_SHA256 | ckm::CKM_IBM_ECDSA_SHA256 => Self::Ecdsa(Some(Sha256)),
            ckm::CKM_ECDSA_SHA384 | ckm::CKM_IBM_ECDSA_SHA384 => Self::Ecdsa(Some(Sha384)),
            ckm::CKM_ECDSA_SHA512 | ckm::CKM_IBM_ECDSA_SHA512 => Self::Ecdsa(Some(Sha512)),
            ckm::CKM_IBM_ED25519_SHA512 => Self::Ed25519,
            ckm::CKM_IBM_ML_DSA => Self::MlDsa,
            _ => {
                let hash = HashFunction::ALL.iter().find(|hash| hash.hmac_numbers().contains(&number));
                Self::Hmac(*hash.ok_or_else(|| not_offered(number))?)
            }
        };
        no_parameter(mechanism)?;
        Ok(method)
    }

    /// The hash that is applied to a message before the key.
    pub(super) fn hash(self) -> Option<HashFunction> {
        match self {
            Self::RsaPkcs(hash) | Self::Ecdsa(hash) => hash,
            Self::RsaPss { pss, hashes } => hashes.then_some(pss.hash),
            Self::Ed25519 | Self::MlDsa | Self::Hmac(_) => None,
        }
    }

    pub(super) fn private_key(self) -> &'static str {
        match self {
            Self::RsaPkcs(_) | Self::RsaPss { .. } => "a private RSA key",
            Self::Ecdsa(_) => "a private EC key on P-256, P-384, P-521 or secp256k1",
            Self::Ed25519 => "a private Ed25519 key",
            Self::MlDsa => "a private ML-DSA key",
            Self::Hmac(_) => "a secret key",
        }
    }

    pub(super) fn public_key(self) -> &'static str {
        match self {
            Self::RsaPkcs(_) | Self::RsaPss { .. } => "a public RSA key",
            Self::Ecdsa(_) => "a public EC key on P-256, P-384, P-521 or secp256k1",
            Self::Ed25519 => "a public Ed25519 key",
            Self::MlDsa => "a public ML-DSA key",
            Self::Hmac(_) => "a secret key",
        }
    }
}
