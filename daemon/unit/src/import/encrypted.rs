//! Files under a passphrase: PKCS#8 and the bags of PKCS#12 (RFC 8018, and RFC 7292 before it), and
//! the old PEM encryption (RFC 1421).
//!
//! A file says how much work its passphrase costs, so the work is bounded. The output is not
//! authenticated: a wrong passphrase shows by a wrong padding, or by an output that is not a key.

use core::cell::Cell;

use aes::{Aes128, Aes192, Aes256};
use cbc::Decryptor;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockCipherDecrypt, BlockModeDecrypt, InnerIvInit, KeyInit};
use der::asn1::{AnyRef, ObjectIdentifier, OctetStringRef};
use der::{Decode, Encode};
use des::{Des, TdesEde3};
use md5::Md5;
use pkcs5::pbes2::{Kdf, Parameters};
use rc2::Rc2;
use sha1::{Digest, Sha1};
use zeroize::Zeroizing;

use super::error::ImportError;

/// The passphrase of a file, and the work that may still be spent on it.
#[derive(Clone, Copy)]
pub(super) struct Passphrase<'a> {
    /// UTF-8, or `None` for a file without a passphrase, which differs from an empty passphrase.
    pub(super) bytes: Option<&'a [u8]>,
    /// Remaining work, in rounds of PBKDF2, for the whole file.
    pub(super) work: &'a Cell<u64>,
}

impl<'a> Passphrase<'a> {
    /// Another passphrase, with the same remaining work.
    pub(super) fn or(self, bytes: Option<&'a [u8]>) -> Self {
        Self { bytes, ..self }
    }

    fn bytes(self) -> &'a [u8] {
        self.bytes.unwrap_or_default()
    }

    /// Spends work.
    fn spend(self, rounds: u64) -> Result<(), ImportError> {
        let left = self.work.get().checked_sub(rounds.max(1)).ok_or(ImportError::Costly)?;
        self.work.set(left);
        Ok(())
    }
}

type Plain = Result<Zeroizing<Vec<u8>>, ImportError>;

/// Decrypts an EncryptedPrivateKeyInfo (RFC 5958, 3), given its two fields.
pub(super) fn decrypt(algorithm: AnyRef<'_>, ciphertext: &[u8], passphrase: Passphrase<'_>) -> Plain {
    let (oid, parameters) = algorithm
        .sequence(|fields| Ok::<_, der::Error>((ObjectIdentifier::decode(fields)?, AnyRef::decode(fields)?)))
        .map_err(|_| ImportError::Encryption("an unknown algorithm".into()))?;
    if oid == PBES2 {
        return pbes2(parameters, ciphertext, passphrase);
    }
    let unsupported = || ImportError::Encryption(format!("the algorithm {oid}"));
    let scheme = SCHEMES.iter().find(|scheme| scheme.oid == oid).ok_or_else(unsupported)?;
    let (salt, rounds) = parameters
        .sequence(|fields| Ok::<_, der::Error>((<&OctetStringRef>::decode(fields)?, u32::decode(fields)?)))
        .map_err(|_| unsupported())?;
    passphrase.spend(u64::from(rounds))?;
    let (salt, key_length) = (salt.as_bytes(), scheme.cipher.key_length());
    let (key, iv) = match scheme.derivation {
        Derivation::Pkcs12 => {
            let password = in_utf16(passphrase);
            let derive = |purpose, length| pkcs12(&password, salt, rounds, purpose, length);
            (derive(1, key_length), derive(2, 8))
        }
        // PBKDF1 (RFC 8018, 5.1). The first half of the output is the key, the second half is the
        // IV.
        Derivation::Md5 | Derivation::Sha1 => {
            let mut derived = Zeroizing::new([passphrase.bytes(), salt].concat());
            for _ in 0..rounds {
                derived = match scheme.derivation {
                    Derivation::Md5 => Zeroizing::new(Md5::digest(&derived).to_vec()),
                    _ => Zeroizing::new(Sha1::digest(&derived).to_vec()),
                };
            }
            (Zeroizing::new(derived[..8].to_vec()), Zeroizing::new(derived[8..16].to_vec()))
        }
    };
    scheme.cipher.decrypt(&key, &iv, ciphertext)
}

fn pbes2(parameters: AnyRef<'_>, ciphertext: &[u8], passphrase: Passphrase<'_>) -> Plain {
    let unsupported = |_| ImportError::Encryption("a kind of PBES2 that is not known here".into());
    let parameters = parameters.to_der().and_then(|der| Parameters::from_der(&der)).map_err(unsupported)?;
    match &parameters.kdf {
        Kdf::Pbkdf2(pbkdf2) => passphrase.spend(u64::from(pbkdf2.iteration_count))?,
        Kdf::Scrypt(scrypt) => {
            let memory = scrypt.cost_parameter.saturating_mul(128 * u64::from(scrypt.block_size));
            if memory > MAX_SCRYPT_MEMORY {
                return Err(ImportError::Costly);
            }
            // A round of PBKDF2 takes about as long as 128 bytes of scrypt.
            passphrase.spend((memory / 128).saturating_mul(u64::from(scrypt.parallelization)))?;
        }
        _ => return Err(ImportError::Encryption("PBES2 with an unknown derivation of keys".into())),
    }
    let mut plain = Zeroizing::new(ciphertext.to_vec());
    let length = match parameters.decrypt_in_place(passphrase.bytes(), &mut plain) {
        Ok(plain) => plain.len(),
        Err(pkcs5::Error::DecryptFailed) => return Err(ImportError::Passphrase),
        Err(error) => return Err(ImportError::Encryption(format!("PBES2 ({error})"))),
    };
    plain.truncate(length);
    Ok(plain)
}

/// Decrypts the body of a PEM block with a header `DEK-Info` (RFC 1421, 4.6.1.3), as OpenSSL writes
/// them.
pub(super) fn decrypt_pem(dek_info: &[u8], ciphertext: &[u8], passphrase: Passphrase<'_>) -> Plain {
    let text = String::from_utf8_lossy(dek_info);
    let (name, iv) = text.split_once(',').unwrap_or((&text, ""));
    let unsupported = || ImportError::Encryption(format!("the algorithm {:?}", name.trim()));
    let cipher = match name.trim() {
        "AES-128-CBC" => Cipher::Aes128,
        "AES-192-CBC" => Cipher::Aes192,
        "AES-256-CBC" => Cipher::Aes256,
        "DES-CBC" => Cipher::Des,
        "DES-EDE3-CBC" => Cipher::TripleDes,
        _ => return Err(unsupported()),
    };
    let digits = iv.trim().as_bytes().chunks(2);
    let byte = |digits: &[u8]| u8::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok();
    let iv: Option<Vec<u8>> = digits.map(byte).collect();
    let iv = iv.filter(|iv| iv.len() >= 8).ok_or_else(unsupported)?;
    // EVP_BytesToKey(3) with MD5 and one round.
    let mut key = Zeroizing::new(Vec::with_capacity(cipher.key_length() + 16));
    let mut last = Zeroizing::new(Vec::new());
    while key.len() < cipher.key_length() {
        let digest = Md5::new().chain_update(&*last).chain_update(passphrase.bytes());
        last = Zeroizing::new(digest.chain_update(&iv[..8]).finalize().to_vec());
        key.extend_from_slice(&last);
    }
    key.truncate(cipher.key_length());
    cipher.decrypt(&key, &iv, ciphertext)
}

/// Two bytes for each letter and two zeros at the end, as in PKCS#12 (RFC 7292, B.1). OpenSSL and
/// Java do the same with bytes that are not UTF-8.
fn in_utf16(passphrase: Passphrase<'_>) -> Zeroizing<Vec<u8>> {
    let Some(passphrase) = passphrase.bytes else { return Zeroizing::default() };
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * passphrase.len() + 2));
    match core::str::from_utf8(passphrase) {
        Ok(text) => bytes.extend(text.encode_utf16().flat_map(u16::to_be_bytes)),
        Err(_) => bytes.extend(passphrase.iter().flat_map(|byte| [0, *byte])),
    }
    bytes.extend_from_slice(&[0, 0]);
    bytes
}

/// The key derivation of PKCS#12 with SHA-1 (RFC 7292, B.2). `purpose` is 1 for a key and 2 for an
/// IV.
fn pkcs12(password: &[u8], salt: &[u8], rounds: u32, purpose: u8, length: usize) -> Zeroizing<Vec<u8>> {
    const BLOCK: usize = 64;
    let repeated = |bytes: &[u8]| -> Vec<u8> {
        bytes.iter().copied().cycle().take(bytes.len().div_ceil(BLOCK) * BLOCK).collect()
    };
    let mut input = Zeroizing::new([repeated(salt), repeated(password)].concat());
    let mut derived = Zeroizing::new(Vec::with_capacity(length + 20));
    while derived.len() < length {
        let mut digest = Sha1::new().chain_update([purpose; BLOCK]).chain_update(&*input).finalize();
        for _ in 1..rounds {
            digest = Sha1::digest(digest);
        }
        derived.extend_from_slice(&digest);
        // Adds the repeated digest and one to each block of the input.
        for block in input.chunks_mut(BLOCK) {
            let mut carry = 1;
            for (byte, more) in
                block.iter_mut().zip(digest.iter().cycle().take(BLOCK).collect::<Vec<_>>()).rev()
            {
                carry += u16::from(*byte) + u16::from(*more);
                [*byte] = [carry.to_be_bytes()[1]];
                carry >>= 8;
            }
        }
    }
    derived.truncate(length);
    derived
}

/// An encryption scheme from before 2000 (RFC 8018, A.3, and RFC 7292, C).
struct Scheme {
    oid: ObjectIdentifier,
    derivation: Derivation,
    cipher: Cipher,
}

#[derive(Clone, Copy)]
enum Derivation {
    Md5,
    Sha1,
    Pkcs12,
}

/// A cipher in CBC mode with padding (RFC 8018, 6.1.1).
#[derive(Clone, Copy)]
enum Cipher {
    Aes128,
    Aes192,
    Aes256,
    Des,
    TripleDes,
    /// Triple DES with two keys: the first key is also the third.
    DoubleDes,
    /// RC2 with a key of this many bytes.
    Rc2(usize),
}

impl Cipher {
    fn key_length(self) -> usize {
        match self {
            Self::Des => 8,
            Self::Aes128 | Self::DoubleDes => 16,
            Self::Aes192 | Self::TripleDes => 24,
            Self::Aes256 => 32,
            Self::Rc2(length) => length,
        }
    }

    fn decrypt(self, key: &[u8], iv: &[u8], ciphertext: &[u8]) -> Plain {
        match self {
            Self::Aes128 => cbc(Aes128::new_from_slice(key), iv, ciphertext),
            Self::Aes192 => cbc(Aes192::new_from_slice(key), iv, ciphertext),
            Self::Aes256 => cbc(Aes256::new_from_slice(key), iv, ciphertext),
            Self::Des => cbc(Des::new_from_slice(key), iv, ciphertext),
            Self::TripleDes => cbc(TdesEde3::new_from_slice(key), iv, ciphertext),
            Self::DoubleDes => {
                let key = Zeroizing::new([key, &key[..8]].concat());
                cbc(TdesEde3::new_from_slice(&key), iv, ciphertext)
            }
            Self::Rc2(_) => cbc(Rc2::new_from_slice(key), iv, ciphertext),
        }
    }
}

fn cbc<C: BlockCipherDecrypt, E>(cipher: Result<C, E>, iv: &[u8], ciphertext: &[u8]) -> Plain {
    let damaged = || ImportError::Encryption("a damaged algorithm".into());
    let cipher = cipher.map_err(|_| damaged())?;
    let decryptor = Decryptor::inner_iv_slice_init(cipher, iv).map_err(|_| damaged())?;
    let mut plain = Zeroizing::new(ciphertext.to_vec());
    let length = decryptor.decrypt_padded::<Pkcs7>(&mut plain).map_err(|_| ImportError::Passphrase)?.len();
    plain.truncate(length);
    Ok(plain)
}

/// Maximum work for one file, in rounds of PBKDF2. OpenSSL's default is 2,048; others take up to a
/// million.
pub(super) const MAX_WORK: u64 = 5_000_000;
/// Maximum memory of scrypt, in bytes. OpenSSL's default is 16 MiB.
const MAX_SCRYPT_MEMORY: u64 = 128 << 20;

// RFC 8018, A.4.
const PBES2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.5.13");

const SCHEMES: &[Scheme] = &[
    scheme("1.2.840.113549.1.5.3", Derivation::Md5, Cipher::Des),
    scheme("1.2.840.113549.1.5.6", Derivation::Md5, Cipher::Rc2(8)),
    scheme("1.2.840.113549.1.5.10", Derivation::Sha1, Cipher::Des),
    scheme("1.2.840.113549.1.5.11", Derivation::Sha1, Cipher::Rc2(8)),
    scheme("1.2.840.113549.1.12.1.3", Derivation::Pkcs12, Cipher::TripleDes),
    scheme("1.2.840.113549.1.12.1.4", Derivation::Pkcs12, Cipher::DoubleDes),
    scheme("1.2.840.113549.1.12.1.5", Derivation::Pkcs12, Cipher::Rc2(16)),
    scheme("1.2.840.113549.1.12.1.6", Derivation::Pkcs12, Cipher::Rc2(5)),
];

const fn scheme(oid: &str, derivation: Derivation, cipher: Cipher) -> Scheme {
    Scheme { oid: ObjectIdentifier::new_unwrap(oid), derivation, cipher }
}
