//! Encryption and decryption.

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext,
    UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use keyward_grep11::{
    DecryptFinalRequest, DecryptFinalResponse, DecryptInitRequest, DecryptInitResponse, DecryptRequest,
    DecryptResponse, DecryptSingleRequest, DecryptSingleResponse, DecryptUpdateRequest,
    DecryptUpdateResponse, EncryptFinalRequest, EncryptFinalResponse, EncryptInitRequest,
    EncryptInitResponse, EncryptRequest, EncryptResponse, EncryptSingleRequest, EncryptSingleResponse,
    EncryptUpdateRequest, EncryptUpdateResponse, Mechanism, ReencryptSingleRequest, ReencryptSingleResponse,
    ckf, ckm, ckr,
};
use zeroize::{Zeroize, Zeroizing};

use super::Crypto;
use super::hash::HashFunction;
use super::mechanism::{iv, no_parameter, not_offered, oaep, offered};
use super::public_key::PublicMaterial;
use super::rsa::Padding;
use super::state::{Operation, State, damaged};
use super::{Error, key_argument, permitted, rsa, wrong_type};
use crate::blob::Attributes;
use crate::key::Pair;
use crate::object::{Material, Object, Secret, SecretKind};

impl Crypto {
    /// Begins an encryption.
    ///
    /// # Errors
    /// As for all calls: see [`Error`].
    pub fn encrypt_init(&self, request: EncryptInitRequest) -> Result<EncryptInitResponse, Error> {
        let mechanism = offered(request.mech, ckf::CKF_ENCRYPT)?;
        let key = key_argument(request.key, request.key_bytes)?;
        Ok(EncryptInitResponse { state: self.begin(Operation::Encrypt, mechanism, key)? })
    }

    /// Encrypts in one piece.
    ///
    /// # Errors
    /// As for all calls: see [`Error`].
    pub fn encrypt(&self, request: EncryptRequest) -> Result<EncryptResponse, Error> {
        let state = self.state(&request.state, Operation::Encrypt)?;
        state.not_started()?;
        let ciphered = self.encrypt_whole(&state.mechanism()?, &state.key, &request.plain, USE)?;
        Ok(EncryptResponse { ciphered })
    }

    /// Encrypts the next part.
    ///
    /// # Errors
    /// As for all calls: see [`Error`].
    pub fn encrypt_update(&self, request: EncryptUpdateRequest) -> Result<EncryptUpdateResponse, Error> {
        let (state, ciphered) = self.next_part(Operation::Encrypt, &request.state, &request.plain)?;
        Ok(EncryptUpdateResponse { state, ciphered })
    }

    /// Ends an encryption.
    ///
    /// # Errors
    /// As for all calls: see [`Error`].
    pub fn encrypt_final(&self, request: EncryptFinalRequest) -> Result<EncryptFinalResponse, Error> {
        Ok(EncryptFinalResponse { ciphered: self.last_part(Operation::Encrypt, &request.state)? })
    }

    /// Encrypts in one call.
    ///
    /// # Errors
    /// As for all calls: see [`Error`].
    pub fn encrypt_single(&self, request: EncryptSingleRequest) -> Result<EncryptSingleResponse, Error> {
        let mechanism = offered(request.mech, ckf::CKF_ENCRYPT)?;
        let key = key_argument(request.key, request.key_bytes)?;
        Ok(EncryptSingleResponse { ciphered: self.encrypt_whole(&mechanism, &key, &request.plain, USE)? })
    }

    /// Begins a decryption.
    ///
    /// # Errors
    /// As for all calls: see [`Error`].
    pub fn decrypt_init(&self, request: DecryptInitRequest) -> Result<DecryptInitResponse, Error> {
        let mechanism = offered(request.mech, ckf::CKF_DECRYPT)?;
        let key = key_argument(request.key, request.key_bytes)?;
        Ok(DecryptInitResponse { state: self.begin(Operation::Decrypt, mechanism, key)? })
    }

    /// Decrypts in one piece.
    ///
    /// # Errors
    /// As for all calls: see [`Error`].
    pub fn decrypt(&self, request: DecryptRequest) -> Result<DecryptResponse, Error> {
        let state = self.state(&request.state, Operation::Decrypt)?;
        state.not_started()?;
        let mut plain = self.decrypt_whole(&state.mechanism()?, &state.key, &request.ciphered, USE)?;
        Ok(DecryptResponse { plain: core::mem::take(&mut *plain) })
    }

    /// Decrypts the next part.
    ///
    /// # Errors
    /// As for all calls: see [`Error`].
    pub fn decrypt_update(&self, request: DecryptUpdateRequest) -> Result<DecryptUpdateResponse, Error> {
        let (state, plain) = self.next_part(Operation::Decrypt, &request.state, &request.ciphered)?;
        Ok(DecryptUpdateResponse { state, plain })
    }

    /// Ends a decryption.
    ///
    /// # Errors
    /// As for all calls: see [`Error`].
    pub fn decrypt_final(&self, request: DecryptFinalRequest) -> Result<DecryptFinalResponse, Error> {
        Ok(DecryptFinalResponse { plain: self.last_part(Operation::Decrypt, &request.state)? })
    }

    /// Decrypts in one call.
    ///
    /// # Errors
    /// As for all calls: see [`Error`].
    pub fn decrypt_single(&self, request: DecryptSingleRequest) -> Result<DecryptSingleResponse, Error> {
        let mechanism = offered(request.mech, ckf::CKF_DECRYPT)?;
        let key = key_argument(request.key, request.key_bytes)?;
        let mut plain = self.decrypt_whole(&mechanism, &key, &request.ciphered, USE)?;
        Ok(DecryptSingleResponse { plain: core::mem::take(&mut *plain) })
    }

    /// Decrypts with one key and encrypts with another; the plaintext stays inside.
    ///
    /// # Errors
    /// As for all calls: see [`Error`].
    pub fn reencrypt_single(
        &self,
        request: ReencryptSingleRequest,
    ) -> Result<ReencryptSingleResponse, Error> {
        let decryption = offered(request.dec_mech, ckf::CKF_DECRYPT)?;
        let encryption = offered(request.enc_mech, ckf::CKF_ENCRYPT)?;
        let from = key_argument(request.dec_key, request.dec_key_bytes)?;
        let to = key_argument(request.enc_key, request.enc_key_bytes)?;
        let plain = self.decrypt_whole(&decryption, &from, &request.ciphered, USE)?;
        Ok(ReencryptSingleResponse { reciphered: self.encrypt_whole(&encryption, &to, &plain, USE)? })
    }

    /// Encrypts in one piece with the key in a blob or a public key, if that is permitted.
    pub(crate) fn encrypt_whole(
        &self,
        mechanism: &Mechanism,
        key: &[u8],
        plain: &[u8],
        uses: Uses,
    ) -> Result<Vec<u8>, Error> {
        match Cipher::of(mechanism)? {
            Cipher::Rsa(padding) => rsa::encrypt(&self.public_encryption_key(key, uses)?, &padding, plain),
            Cipher::Aes(mode, iv) => {
                let object = self.unit.unwrapped(key)?;
                let key = aes_key(&object, uses.encryption)?;
                let mut blocks = Blocks { mode, key, chain: iv, rest: Zeroizing::new(Vec::new()) };
                let mut encrypted = blocks.encrypt(plain)?;
                encrypted.extend_from_slice(&blocks.finish_encryption()?);
                Ok(encrypted)
            }
        }
    }

    /// Decrypts in one piece with the key in a blob, if that is permitted.
    pub(crate) fn decrypt_whole(
        &self,
        mechanism: &Mechanism,
        key: &[u8],
        encrypted: &[u8],
        uses: Uses,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let object = self.unit.unwrapped(key)?;
        match Cipher::of(mechanism)? {
            Cipher::Rsa(padding) => {
                let pkcs8 = rsa_key(&object, uses.decryption)?;
                // A key that was made up in the place of one that is unwrapped would be of use to nobody.
                let tells = self.padding_errors || uses.decryption != USE.decryption;
                rsa::decrypt(&pkcs8, &padding, encrypted, tells)
            }
            Cipher::Aes(mode, iv) => {
                let key = aes_key(&object, uses.decryption)?;
                let mut blocks = Blocks { mode, key, chain: iv, rest: Zeroizing::new(Vec::new()) };
                let mut plain = Zeroizing::new(blocks.decrypt(encrypted)?);
                let last = blocks.finish_decryption()?;
                // What it held before is wiped by hand should it have to move.
                if plain.capacity() < plain.len() + last.len() {
                    let mut larger = Zeroizing::new(Vec::with_capacity(plain.len() + last.len()));
                    larger.extend_from_slice(&plain);
                    plain = larger;
                }
                plain.extend_from_slice(&last);
                Ok(plain)
            }
        }
    }

    fn begin(&self, operation: Operation, mechanism: Mechanism, key: Vec<u8>) -> Result<Vec<u8>, Error> {
        let mut state = State::new(operation, mechanism, key);
        match (Cipher::of(&state.mechanism()?)?, operation) {
            (Cipher::Rsa(_), Operation::Encrypt) => {
                self.public_encryption_key(&state.key, USE)?;
            }
            (Cipher::Rsa(_), _) => {
                rsa_key(&*self.unit.unwrapped(&state.key)?, USE.decryption)?;
            }
            (Cipher::Aes(_, iv), _) => {
                let needed = if operation == Operation::Encrypt { USE.encryption } else { USE.decryption };
                aes_key(&*self.unit.unwrapped(&state.key)?, needed)?;
                state.chain = iv.to_vec();
            }
        }
        self.wrap_state(&state)
    }

    /// Puts a part through; returns the new state and what came out.
    fn next_part(
        &self,
        operation: Operation,
        state: &[u8],
        data: &[u8],
    ) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let mut state = self.state(state, operation)?;
        let mode = block_mode(&state)?;
        let object = self.unit.unwrapped(&state.key)?;
        let mut blocks = Blocks::of(mode, &state, operation, &object)?;
        let out = match operation {
            Operation::Encrypt => blocks.encrypt(data)?,
            _ => blocks.decrypt(data)?,
        };
        let (chain, rest) = (blocks.chain.to_vec(), Zeroizing::new(blocks.rest.to_vec()));
        state.chain = chain;
        state.rest.zeroize();
        state.rest.extend_from_slice(&rest);
        state.started |= !data.is_empty();
        Ok((self.wrap_state(&state)?, out))
    }

    fn last_part(&self, operation: Operation, state: &[u8]) -> Result<Vec<u8>, Error> {
        let state = self.state(state, operation)?;
        let mode = block_mode(&state)?;
        let object = self.unit.unwrapped(&state.key)?;
        let mut blocks = Blocks::of(mode, &state, operation, &object)?;
        match operation {
            Operation::Encrypt => blocks.finish_encryption(),
            _ => blocks.finish_decryption(),
        }
    }

    /// The SubjectPublicKeyInfo of an RSA key that may encrypt. A bare one will not do: nobody vouches that the
    /// key is one to trust with a secret.
    fn public_encryption_key(&self, key: &[u8], uses: Uses) -> Result<Vec<u8>, Error> {
        let key = self.public_key(key)?;
        let PublicMaterial::Rsa { .. } = key.material else { return Err(wrong_type("a public RSA key")) };
        let attributes = key.attributes.ok_or_else(|| {
            let detail = "encryption needs the public key as a crypto unit handed it out, with its MAC; \
                          UnwrapKey with CKM_IBM_TRANSPORTKEY takes a bare one in";
            Error::new(ckr::CKR_PUBLIC_KEY_INVALID, detail)
        })?;
        permitted(attributes, uses.encryption.0, uses.encryption.1)?;
        Ok(key.spki)
    }
}

/// What the attributes of a key must permit: bit and name, for either direction.
#[derive(Clone, Copy)]
pub(crate) struct Uses {
    encryption: (u64, &'static str),
    decryption: (u64, &'static str),
}

const USE: Uses = Uses {
    encryption: (Attributes::ENCRYPT, "CKA_ENCRYPT"),
    decryption: (Attributes::DECRYPT, "CKA_DECRYPT"),
};

/// For keys instead of data.
pub(crate) const TRANSPORT: Uses =
    Uses { encryption: (Attributes::WRAP, "CKA_WRAP"), decryption: (Attributes::UNWRAP, "CKA_UNWRAP") };

enum Cipher {
    Aes(Mode, [u8; BLOCK]),
    Rsa(Padding),
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Mode {
    Ecb,
    Cbc,
    /// With the padding of PKCS #7.
    CbcPad,
}

impl Cipher {
    fn of(mechanism: &Mechanism) -> Result<Self, Error> {
        match mechanism.mechanism {
            ckm::CKM_RSA_PKCS => {
                no_parameter(mechanism)?;
                Ok(Self::Rsa(Padding::Pkcs1))
            }
            ckm::CKM_RSA_PKCS_OAEP => {
                let (hash, mask, label) = oaep(mechanism)?;
                Ok(Self::Rsa(Padding::Oaep { hash, mask, label }))
            }
            ckm::CKM_AES_ECB => {
                no_parameter(mechanism)?;
                Ok(Self::Aes(Mode::Ecb, [0; BLOCK]))
            }
            ckm::CKM_AES_CBC => Ok(Self::Aes(Mode::Cbc, iv(mechanism)?)),
            ckm::CKM_AES_CBC_PAD => Ok(Self::Aes(Mode::CbcPad, iv(mechanism)?)),
            other => Err(not_offered(other)),
        }
    }
}

fn aes_key<'o>(object: &'o Object, (bit, attribute): (u64, &str)) -> Result<&'o [u8], Error> {
    let Material::Secret(Secret { kind: SecretKind::Aes, value }) = &object.material else {
        return Err(wrong_type("an AES key"));
    };
    permitted(object.attributes, bit, attribute)?;
    Ok(value)
}

fn rsa_key(object: &Object, (bit, attribute): (u64, &str)) -> Result<Zeroizing<Vec<u8>>, Error> {
    let needed = || wrong_type("a private RSA key");
    let Material::Key(key) = &object.material else { return Err(needed()) };
    let Pair::Rsa(_) = key.pair() else { return Err(needed()) };
    permitted(object.attributes, bit, attribute)?;
    Ok(key.to_pkcs8()?)
}

/// The mode of an operation in parts.
fn block_mode(state: &State) -> Result<Mode, Error> {
    match Cipher::of(&state.mechanism()?)? {
        Cipher::Aes(mode, _) => Ok(mode),
        Cipher::Rsa(_) => Err(Error::new(
            ckr::CKR_FUNCTION_NOT_SUPPORTED,
            "RSA takes its data in one piece: use Single, or Init and the call without Update",
        )),
    }
}

/// AES, block after block: whatever the parts, the same comes out.
struct Blocks<'k> {
    mode: Mode,
    key: &'k [u8],
    /// The last block of ciphertext, or the IV. Without a meaning for ECB.
    chain: [u8; BLOCK],
    /// What has not gone through yet: less than a block or, where padding is to be taken off, up to one.
    rest: Zeroizing<Vec<u8>>,
}

impl<'k> Blocks<'k> {
    fn of(mode: Mode, state: &State, operation: Operation, object: &'k Object) -> Result<Self, Error> {
        let needed = if operation == Operation::Encrypt { USE.encryption } else { USE.decryption };
        let chain = state.chain.as_slice().try_into().map_err(|_| damaged())?;
        Ok(Self { mode, key: aes_key(object, needed)?, chain, rest: Zeroizing::new(state.rest.clone()) })
    }

    fn encrypt(&mut self, plain: &[u8]) -> Result<Vec<u8>, Error> {
        let mut blocks = self.whole_blocks(plain, 0);
        self.encrypt_blocks(&mut blocks)?;
        Ok(blocks)
    }

    fn finish_encryption(&mut self) -> Result<Vec<u8>, Error> {
        if self.mode != Mode::CbcPad {
            return self.nothing_left(ckr::CKR_DATA_LEN_RANGE);
        }
        let mut last = core::mem::take(&mut *self.rest);
        let padding = BLOCK - last.len();
        last.resize(BLOCK, u8::try_from(padding).unwrap_or_default());
        self.encrypt_blocks(&mut last)?;
        Ok(last)
    }

    fn decrypt(&mut self, encrypted: &[u8]) -> Result<Vec<u8>, Error> {
        // The last block may be the one with the padding.
        let mut blocks = self.whole_blocks(encrypted, usize::from(self.mode == Mode::CbcPad));
        self.decrypt_blocks(&mut blocks)?;
        Ok(blocks)
    }

    fn finish_decryption(&mut self) -> Result<Vec<u8>, Error> {
        if self.mode != Mode::CbcPad {
            return self.nothing_left(ckr::CKR_ENCRYPTED_DATA_LEN_RANGE);
        }
        let mut last = core::mem::take(&mut *self.rest);
        if last.len() != BLOCK {
            return Err(Error::new(
                ckr::CKR_ENCRYPTED_DATA_LEN_RANGE,
                "the ciphertext is not made of whole blocks of 16 bytes",
            ));
        }
        self.decrypt_blocks(&mut last)?;
        let padding = last.last().copied().unwrap_or_default();
        let kept = BLOCK.checked_sub(padding.into()).filter(|_| padding != 0);
        match kept.filter(|kept| last[*kept..].iter().all(|byte| *byte == padding)) {
            Some(kept) => last.truncate(kept),
            None => {
                return Err(Error::new(
                    ckr::CKR_ENCRYPTED_DATA_INVALID,
                    "the ciphertext cannot be decrypted with this key: its padding is wrong",
                ));
            }
        }
        Ok(last)
    }

    /// Takes up data, and gives the whole blocks there are; holds back a whole one at the end if `held` is 1.
    fn whole_blocks(&mut self, data: &[u8], held: usize) -> Vec<u8> {
        let available = self.rest.len() + data.len();
        let through = available.saturating_sub(held) / BLOCK * BLOCK;
        let mut all = Vec::with_capacity(available);
        all.extend_from_slice(&self.rest);
        all.extend_from_slice(data);
        self.rest = Zeroizing::new(all[through..].to_vec());
        all.truncate(through);
        all
    }

    fn nothing_left(&self, code: u64) -> Result<Vec<u8>, Error> {
        match self.rest.len() {
            0 => Ok(Vec::new()),
            rest => {
                let detail =
                    format!("the data are not made of whole blocks of 16 bytes: {rest} are left over");
                Err(Error::new(code, detail))
            }
        }
    }

    fn encrypt_blocks(&mut self, blocks: &mut [u8]) -> Result<(), Error> {
        if blocks.is_empty() {
            return Ok(());
        }
        let key = UnboundCipherKey::new(algorithm(self.key)?, self.key)?;
        if self.mode == Mode::Ecb {
            EncryptingKey::ecb(key)?.less_safe_encrypt(blocks, EncryptionContext::None)?;
            return Ok(());
        }
        let start = EncryptionContext::Iv128(FixedLength::from(self.chain));
        EncryptingKey::cbc(key)?.less_safe_encrypt(blocks, start)?;
        self.chain.copy_from_slice(&blocks[blocks.len() - BLOCK..]);
        Ok(())
    }

    fn decrypt_blocks(&mut self, blocks: &mut [u8]) -> Result<(), Error> {
        let Some(last) = blocks.last_chunk::<BLOCK>().copied() else { return Ok(()) };
        let key = UnboundCipherKey::new(algorithm(self.key)?, self.key)?;
        if self.mode == Mode::Ecb {
            DecryptingKey::ecb(key)?.decrypt(blocks, DecryptionContext::None)?;
            return Ok(());
        }
        let start = DecryptionContext::Iv128(FixedLength::from(self.chain));
        DecryptingKey::cbc(key)?.decrypt(blocks, start)?;
        self.chain = last;
        Ok(())
    }
}

fn algorithm(key: &[u8]) -> Result<&'static Algorithm, Error> {
    match key.len() {
        16 => Ok(&AES_128),
        24 => Ok(&AES_192),
        32 => Ok(&AES_256),
        _ => Err(wrong_type("an AES key")),
    }
}

/// The check value of a secret key: three bytes. That of a generic secret of fewer than eight bytes is zeros, for
/// such a secret could be found by trying them all.
pub(crate) fn check_value(secret: &Secret) -> Result<Vec<u8>, Error> {
    let mut value = match secret.kind {
        SecretKind::Aes => {
            let mut block = vec![0; BLOCK];
            let key = UnboundCipherKey::new(algorithm(&secret.value)?, &secret.value)?;
            EncryptingKey::ecb(key)?.less_safe_encrypt(&mut block, EncryptionContext::None)?;
            block
        }
        SecretKind::Generic if secret.value.len() < 8 => vec![0; 3],
        SecretKind::Generic => HashFunction::Sha1.of(&secret.value),
    };
    value.truncate(3);
    Ok(value)
}

/// Of AES, in bytes.
const BLOCK: usize = 16;
