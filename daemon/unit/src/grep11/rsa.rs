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
use keyward_proto::KeyType;
use zeroize::Zeroizing;

use super::error::{Error, signature_invalid};
use super::hash::HashFunction;
use super::implicit_rejection;
use super::pss::Pss;
use super::rsa_padding;
use super::rsa_size::bit_length;
use crate::key::Key;
use crate::rsa_numbers::{PrivateNumbers, PublicNumbers};

/// Signs a digest with the padding of PKCS #1 v1.5 (RFC 8017, 8.2).
pub(crate) fn sign_pkcs1(
    key: &Key,
    pair: &RsaKeyPair,
    hash: HashFunction,
    digest: &[u8],
) -> Result<Vec<u8>, Error> {
    match library_pkcs1(hash) {
        Some((encoding, _)) => sign(pair, encoding, hash, digest),
        None => sign_bare(key, pair, &digest_info(hash, digest)?),
    }
}

/// Signs data as they are with the padding of PKCS #1 v1.5: a DigestInfo, or any other content.
pub(crate) fn sign_bare(key: &Key, pair: &RsaKeyPair, data: &[u8]) -> Result<Vec<u8>, Error> {
    if let Some((hash, digest)) = library_digest_info(data) {
        return sign_pkcs1(key, pair, hash, digest);
    }
    let length = pair.public_modulus_len();
    let padded = rsa_padding::pkcs1(data, length).map_err(|_| too_long(data.len(), length - 11))?;
    Ok(PrivateNumbers::read(&key.to_pkcs8()?)?.apply(&padded)?)
}

/// Signs a digest with the padding of PSS (RFC 8017, 8.1).
pub(crate) fn sign_pss(key: &Key, pair: &RsaKeyPair, pss: Pss, digest: &[u8]) -> Result<Vec<u8>, Error> {
    check_digest(pss.hash, digest)?;
    match library_pss(pss) {
        Some((encoding, _)) => sign(pair, encoding, pss.hash, digest),
        None => {
            let KeyType::Rsa(bits) = key.key_type() else { return Err(Unspecified.into()) };
            let padded = rsa_padding::pss(pss, digest, bits.into())?;
            Ok(PrivateNumbers::read(&key.to_pkcs8()?)?.apply(&padded)?)
        }
    }
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

/// The public key that a signature is verified with.
pub(crate) struct Verifying<'k> {
    pub(crate) spki: &'k [u8],
    /// Big-endian, without leading zeros.
    pub(crate) modulus: &'k [u8],
    /// Big-endian, without leading zeros.
    pub(crate) exponent: &'k [u8],
}

impl Verifying<'_> {
    /// True if the library refuses the key for its size.
    pub(crate) fn is_small(&self) -> bool {
        bit_length(self.modulus) < 2048
    }
}

/// Verifies a signature with the padding of PKCS #1 v1.5.
pub(crate) fn verify_pkcs1(
    key: &Verifying<'_>,
    hash: HashFunction,
    digest: &[u8],
    signature: &[u8],
) -> Result<(), Error> {
    match library_pkcs1(hash) {
        Some((_, parameters)) => verify(key, parameters, hash, digest, signature),
        None => verify_bare(key, &digest_info(hash, digest)?, signature),
    }
}

/// Verifies a signature over data as they are, with the padding of PKCS #1 v1.5.
pub(crate) fn verify_bare(key: &Verifying<'_>, data: &[u8], signature: &[u8]) -> Result<(), Error> {
    if let Some((hash, digest)) = library_digest_info(data).filter(|_| !key.is_small()) {
        return verify_pkcs1(key, hash, digest, signature);
    }
    let length = key.modulus.len();
    let padded = rsa_padding::pkcs1(data, length).map_err(|_| too_long(data.len(), length - 11))?;
    let opened = PublicNumbers::new(key.modulus, key.exponent)?.apply(signature);
    match opened.is_ok_and(|opened| opened == padded) {
        true => Ok(()),
        false => Err(signature_invalid()),
    }
}

/// Verifies a signature with the padding of PSS.
pub(crate) fn verify_pss(
    key: &Verifying<'_>,
    pss: Pss,
    digest: &[u8],
    signature: &[u8],
) -> Result<(), Error> {
    check_digest(pss.hash, digest)?;
    if let Some((_, parameters)) = library_pss(pss) {
        return verify(key, parameters, pss.hash, digest, signature);
    }
    let opened = PublicNumbers::new(key.modulus, key.exponent)?.apply(signature);
    opened
        .and_then(|opened| rsa_padding::verify_pss(pss, digest, bit_length(key.modulus), &opened))
        .map_err(|_| signature_invalid())
}

fn verify(
    key: &Verifying<'_>,
    parameters: &'static dyn VerificationAlgorithm,
    hash: HashFunction,
    digest: &[u8],
    signature: &[u8],
) -> Result<(), Error> {
    UnparsedPublicKey::new(parameters, key.spki)
        .verify_digest(&imported(hash, digest)?, signature)
        .map_err(|_| signature_invalid())
}

/// Puts a digest into a DigestInfo (RFC 8017, A.2.4).
fn digest_info(hash: HashFunction, digest: &[u8]) -> Result<Vec<u8>, Error> {
    let head = rsa_padding::digest_info_head(hash).ok_or(Unspecified)?;
    Ok([head.as_slice(), digest].concat())
}

/// Takes a DigestInfo apart if it is of a hash that the library signs with.
fn library_digest_info(data: &[u8]) -> Option<(HashFunction, &[u8])> {
    [HashFunction::Sha256, HashFunction::Sha384, HashFunction::Sha512].into_iter().find_map(|hash| {
        let digest = data.strip_prefix(rsa_padding::digest_info_head(hash)?.as_slice())?;
        (digest.len() == hash.length()).then_some((hash, digest))
    })
}

fn check_digest(hash: HashFunction, digest: &[u8]) -> Result<(), Error> {
    match digest.len() == hash.length() {
        true => Ok(()),
        false => {
            let detail =
                format!("the digest has {} bytes where the hash gives {}", digest.len(), hash.length());
            Err(Error::new(ckr::CKR_DATA_LEN_RANGE, detail))
        }
    }
}

fn imported(hash: HashFunction, digest: &[u8]) -> Result<Digest, Error> {
    let algorithm = match hash {
        HashFunction::Sha256 => &digest::SHA256,
        HashFunction::Sha384 => &digest::SHA384,
        HashFunction::Sha512 => &digest::SHA512,
        _ => return Err(Unspecified.into()),
    };
    Ok(Digest::import_less_safe(digest, algorithm)?)
}

/// The library's algorithms for PKCS #1 v1.5 with a hash, if it has them.
fn library_pkcs1(
    hash: HashFunction,
) -> Option<(&'static dyn RsaEncoding, &'static dyn VerificationAlgorithm)> {
    Some(match hash {
        HashFunction::Sha256 => (&signature::RSA_PKCS1_SHA256, &signature::RSA_PKCS1_2048_8192_SHA256),
        HashFunction::Sha384 => (&signature::RSA_PKCS1_SHA384, &signature::RSA_PKCS1_2048_8192_SHA384),
        HashFunction::Sha512 => (&signature::RSA_PKCS1_SHA512, &signature::RSA_PKCS1_2048_8192_SHA512),
        _ => return None,
    })
}

/// The library's algorithms for one hash and one length of salt: signing, verifying.
type Salted = (RsaSignatureEncoding, RsaParameters);

/// The library's algorithms for PSS, if it has them.
fn library_pss(pss: Pss) -> Option<&'static Salted> {
    // The library wants references that live as long as the program.
    static SHA256: LazyLock<[Salted; 33]> =
        LazyLock::new(|| salts(|| (signature::RSA_PSS_SHA256, signature::RSA_PSS_2048_8192_SHA256)));
    static SHA384: LazyLock<[Salted; 49]> =
        LazyLock::new(|| salts(|| (signature::RSA_PSS_SHA384, signature::RSA_PSS_2048_8192_SHA384)));
    static SHA512: LazyLock<[Salted; 65]> =
        LazyLock::new(|| salts(|| (signature::RSA_PSS_SHA512, signature::RSA_PSS_2048_8192_SHA512)));
    let table: &[Salted] = match (pss.hash, pss.mask) {
        (HashFunction::Sha256, HashFunction::Sha256) => &*SHA256,
        (HashFunction::Sha384, HashFunction::Sha384) => &*SHA384,
        (HashFunction::Sha512, HashFunction::Sha512) => &*SHA512,
        _ => return None,
    };
    table.get(pss.salt)
}

fn salts<const N: usize>(algorithms: impl Fn() -> Salted) -> [Salted; N] {
    array::from_fn(|length| {
        let (signing, verification) = algorithms();
        // At most 64: the length of the longest hash.
        let length = RsaPssSaltLength::Custom(u16::try_from(length).unwrap_or_default());
        (signing.with_pss_salt_length(length), verification.with_pss_salt_length(length))
    })
}

/// The padding of a plaintext.
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

/// Decrypts with a private key in PKCS#8. With `reports_padding`, a wrong PKCS #1 v1.5 padding is
/// an error; otherwise the result is a made-up plaintext (implicit rejection).
pub(crate) fn decrypt(
    pkcs8: &[u8],
    padding: &Padding,
    encrypted: &[u8],
    reports_padding: bool,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let key = PrivateDecryptingKey::from_pkcs8(pkcs8)?;
    if encrypted.len() != key.key_size_bytes() {
        let detail =
            format!("the ciphertext has {} bytes, the modulus {}", encrypted.len(), key.key_size_bytes());
        return Err(Error::new(ckr::CKR_ENCRYPTED_DATA_LEN_RANGE, detail));
    }
    let mut plain = Zeroizing::new(vec![0; key.key_size_bytes()]);
    let length = match padding {
        Padding::Pkcs1 if !reports_padding => return implicit_rejection::decrypt(pkcs8, encrypted),
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
    (plain.len() <= longest).then_some(()).ok_or_else(|| too_long(plain.len(), longest))
}

fn too_long(length: usize, longest: usize) -> Error {
    Error::new(ckr::CKR_DATA_LEN_RANGE, format!("there are {length} bytes of data, the key takes {longest}"))
}
