//! RSA: signatures and encryption (RFC 8017).

use core::array;
use std::sync::LazyLock;

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OAEP_SHA512_MGF1SHA512,
    OaepAlgorithm, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, Pkcs1PrivateDecryptingKey,
    Pkcs1PublicEncryptingKey, PrivateDecryptingKey, PublicEncryptingKey,
};
use aws_lc_rs::signature::{
    self, RsaEncoding, RsaKeyPair, RsaParameters, RsaPssSaltLength, RsaSignatureEncoding, UnparsedPublicKey,
    VerificationAlgorithm,
};
use keyward_grep11::ckr;

use super::Error;
use super::hash::HashFunction;
use super::mechanism::Pss;

/// Signs a digest with the padding of PKCS #1 v1.5 (RFC 8017, 8.2).
pub(crate) fn sign_pkcs1(pair: &RsaKeyPair, hash: HashFunction, digest: &[u8]) -> Result<Vec<u8>, Error> {
    let encoding: &'static dyn RsaEncoding = match hash {
        HashFunction::Sha256 => &signature::RSA_PKCS1_SHA256,
        HashFunction::Sha384 => &signature::RSA_PKCS1_SHA384,
        HashFunction::Sha512 => &signature::RSA_PKCS1_SHA512,
        _ => return Err(hash_not_offered()),
    };
    sign(pair, encoding, hash, digest)
}

/// Signs a digest with the padding of PSS (RFC 8017, 8.1).
pub(crate) fn sign_pss(pair: &RsaKeyPair, pss: Pss, digest: &[u8]) -> Result<Vec<u8>, Error> {
    sign(pair, &salted(pss)?.0, pss.hash, digest)
}

fn sign(
    pair: &RsaKeyPair,
    encoding: &'static dyn RsaEncoding,
    hash: HashFunction,
    digest: &[u8],
) -> Result<Vec<u8>, Error> {
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign_digest(encoding, &imported(hash, digest)?, &mut signature)?;
    Ok(signature)
}

/// Verifies a signature with the padding of PKCS #1 v1.5, by a public key in SubjectPublicKeyInfo.
pub(crate) fn verify_pkcs1(
    spki: &[u8],
    hash: HashFunction,
    digest: &[u8],
    signature: &[u8],
) -> Result<(), Error> {
    let parameters: &'static dyn VerificationAlgorithm = match hash {
        HashFunction::Sha256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        HashFunction::Sha384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        HashFunction::Sha512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        _ => return Err(hash_not_offered()),
    };
    verify(spki, parameters, hash, digest, signature)
}

/// Verifies a signature with the padding of PSS, by a public key in SubjectPublicKeyInfo.
pub(crate) fn verify_pss(spki: &[u8], pss: Pss, digest: &[u8], signature: &[u8]) -> Result<(), Error> {
    verify(spki, &salted(pss)?.1, pss.hash, digest, signature)
}

fn verify(
    spki: &[u8],
    parameters: &'static dyn VerificationAlgorithm,
    hash: HashFunction,
    digest: &[u8],
    signature: &[u8],
) -> Result<(), Error> {
    UnparsedPublicKey::new(parameters, spki)
        .verify_digest(&imported(hash, digest)?, signature)
        .map_err(|_| super::sign::invalid())
}

/// Takes a DigestInfo (RFC 8017, A.2.4) apart.
pub(crate) fn digest_info(data: &[u8]) -> Option<(HashFunction, &[u8])> {
    DIGEST_INFOS.iter().find_map(|(hash, head)| {
        let digest = data.strip_prefix(head.as_slice())?;
        (digest.len() == hash.length()).then_some((*hash, digest))
    })
}

/// What stands before the digest in a DigestInfo (RFC 8017, 9.2, note 1).
const DIGEST_INFOS: [(HashFunction, [u8; 19]); 3] = [
    (HashFunction::Sha256, digest_info_head(1, 32)),
    (HashFunction::Sha384, digest_info_head(2, 48)),
    (HashFunction::Sha512, digest_info_head(3, 64)),
];

/// The head for the hash with the object identifier 2.16.840.1.101.3.4.2.`arc`.
const fn digest_info_head(arc: u8, length: u8) -> [u8; 19] {
    [0x30, length + 17, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, arc, 5, 0, 4, length]
}

fn imported(hash: HashFunction, digest: &[u8]) -> Result<Digest, Error> {
    let algorithm = match hash {
        HashFunction::Sha256 => &digest::SHA256,
        HashFunction::Sha384 => &digest::SHA384,
        HashFunction::Sha512 => &digest::SHA512,
        _ => return Err(hash_not_offered()),
    };
    Digest::import_less_safe(digest, algorithm).map_err(|_| {
        let detail = format!("the digest has {} bytes where the hash gives {}", digest.len(), hash.length());
        Error::new(ckr::CKR_DATA_LEN_RANGE, detail)
    })
}

/// How the library signs and verifies with a hash and a length of salt.
type Salted = (RsaSignatureEncoding, RsaParameters);

fn salted(pss: Pss) -> Result<&'static Salted, Error> {
    // The library takes nothing else than a value that lives as long as the program.
    static SHA256: LazyLock<[Salted; 33]> =
        LazyLock::new(|| salts(|| (signature::RSA_PSS_SHA256, signature::RSA_PSS_2048_8192_SHA256)));
    static SHA384: LazyLock<[Salted; 49]> =
        LazyLock::new(|| salts(|| (signature::RSA_PSS_SHA384, signature::RSA_PSS_2048_8192_SHA384)));
    static SHA512: LazyLock<[Salted; 65]> =
        LazyLock::new(|| salts(|| (signature::RSA_PSS_SHA512, signature::RSA_PSS_2048_8192_SHA512)));
    if pss.mask != pss.hash {
        return Err(Error::new(
            ckr::CKR_MECHANISM_PARAM_INVALID,
            "the hash of the mask must be that of the message",
        ));
    }
    let table: &[Salted] = match pss.hash {
        HashFunction::Sha256 => &*SHA256,
        HashFunction::Sha384 => &*SHA384,
        HashFunction::Sha512 => &*SHA512,
        _ => return Err(hash_not_offered()),
    };
    table.get(pss.salt).ok_or_else(hash_not_offered)
}

fn salts<const N: usize>(of: impl Fn() -> Salted) -> [Salted; N] {
    array::from_fn(|length| {
        let (signing, verification) = of();
        // At most 64: the length of the longest hash.
        let length = RsaPssSaltLength::Custom(u16::try_from(length).unwrap_or_default());
        (signing.with_pss_salt_length(length), verification.with_pss_salt_length(length))
    })
}

fn hash_not_offered() -> Error {
    Error::new(ckr::CKR_MECHANISM_PARAM_INVALID, "RSA is offered with SHA-256, SHA-384 and SHA-512 only")
}

/// How a plaintext is padded for encryption.
pub(crate) enum Padding {
    /// RFC 8017, 7.2.
    Pkcs1,
    /// RFC 8017, 7.1.
    Oaep { hash: HashFunction, mask: HashFunction, label: Vec<u8> },
}

/// Encrypts for a public key in SubjectPublicKeyInfo.
pub(crate) fn encrypt(spki: &[u8], padding: &Padding, plain: &[u8]) -> Result<Vec<u8>, Error> {
    let key = PublicEncryptingKey::from_der(spki)?;
    let mut encrypted = vec![0; key.key_size_bytes()];
    match padding {
        Padding::Pkcs1 => {
            let key = Pkcs1PublicEncryptingKey::new(key)?;
            check_length(plain, key.max_plaintext_size())?;
            key.encrypt(plain, &mut encrypted)?;
        }
        Padding::Oaep { hash, mask, label } => {
            let algorithm = oaep(*hash, *mask)?;
            let key = OaepPublicEncryptingKey::new(key)?;
            check_length(plain, key.max_plaintext_size(algorithm))?;
            key.encrypt(algorithm, plain, &mut encrypted, Some(label))?;
        }
    }
    Ok(encrypted)
}

/// Decrypts with a private key in PKCS#8.
pub(crate) fn decrypt(pkcs8: &[u8], padding: &Padding, encrypted: &[u8]) -> Result<Vec<u8>, Error> {
    let key = PrivateDecryptingKey::from_pkcs8(pkcs8)?;
    if encrypted.len() != key.key_size_bytes() {
        let detail =
            format!("the ciphertext has {} bytes, the modulus {}", encrypted.len(), key.key_size_bytes());
        return Err(Error::new(ckr::CKR_ENCRYPTED_DATA_LEN_RANGE, detail));
    }
    let mut plain = vec![0; key.key_size_bytes()];
    let length = match padding {
        Padding::Pkcs1 => {
            let key = Pkcs1PrivateDecryptingKey::new(key)?;
            key.decrypt(encrypted, &mut plain).map(|plain| plain.len())
        }
        Padding::Oaep { hash, mask, label } => {
            let algorithm = oaep(*hash, *mask)?;
            let key = OaepPrivateDecryptingKey::new(key)?;
            key.decrypt(algorithm, encrypted, &mut plain, Some(label)).map(|plain| plain.len())
        }
    };
    let length = length.map_err(|Unspecified| {
        Error::new(ckr::CKR_ENCRYPTED_DATA_INVALID, "the ciphertext cannot be decrypted with this key")
    })?;
    plain.truncate(length);
    Ok(plain)
}

fn oaep(hash: HashFunction, mask: HashFunction) -> Result<&'static OaepAlgorithm, Error> {
    Ok(match (hash, mask) {
        (HashFunction::Sha1, HashFunction::Sha1) => &OAEP_SHA1_MGF1SHA1,
        (HashFunction::Sha256, HashFunction::Sha256) => &OAEP_SHA256_MGF1SHA256,
        (HashFunction::Sha384, HashFunction::Sha384) => &OAEP_SHA384_MGF1SHA384,
        (HashFunction::Sha512, HashFunction::Sha512) => &OAEP_SHA512_MGF1SHA512,
        _ => {
            return Err(Error::new(
                ckr::CKR_MECHANISM_PARAM_INVALID,
                "OAEP is offered with SHA-1, SHA-256, SHA-384 or SHA-512 as both hash and hash of the mask",
            ));
        }
    })
}

fn check_length(plain: &[u8], longest: usize) -> Result<(), Error> {
    match plain.len() <= longest {
        true => Ok(()),
        false => {
            let detail = format!("there are {} bytes to encrypt, the key takes {longest}", plain.len());
            Err(Error::new(ckr::CKR_DATA_LEN_RANGE, detail))
        }
    }
}
