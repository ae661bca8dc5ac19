//! Encryption and decryption.

use keyward_grep11::{
    DecryptFinalRequest, DecryptFinalResponse, DecryptInitRequest, DecryptInitResponse, DecryptRequest,
    DecryptResponse, DecryptSingleRequest, DecryptSingleResponse, DecryptUpdateRequest,
    DecryptUpdateResponse, EncryptFinalRequest, EncryptFinalResponse, EncryptInitRequest,
    EncryptInitResponse, EncryptRequest, EncryptResponse, EncryptSingleRequest, EncryptSingleResponse,
    EncryptUpdateRequest, EncryptUpdateResponse, Mechanism, ReencryptSingleRequest, ReencryptSingleResponse,
    ckf, ckm, ckr,
};
use zeroize::{Zeroize, Zeroizing};

use super::aes::{BLOCK, Blocks, Mode};
use super::crypto::Crypto;
use super::error::Error;
use super::mechanism::{iv, no_parameter, not_offered, oaep};
use super::public_material::PublicMaterial;
use super::request_key::{key_argument, wrong_type};
use super::rsa::{self, Padding};
use super::state::{Operation, State, damaged};
use crate::blob::Attributes;
use crate::key::Pair;
use crate::object::{Material, Object, Secret, SecretKind};

impl Crypto {
    /// Begins an encryption.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn encrypt_init(&self, request: EncryptInitRequest) -> Result<EncryptInitResponse, Error> {
        let mechanism = self.offered(request.mech, ckf::CKF_ENCRYPT)?;
        let key = key_argument(request.key, request.key_bytes)?;
        Ok(EncryptInitResponse { state: self.begin(Operation::Encrypt, mechanism, key)? })
    }

    /// Encrypts in one piece.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn encrypt(&self, request: EncryptRequest) -> Result<EncryptResponse, Error> {
        let state = self.state(&request.state, Operation::Encrypt)?;
        state.not_started()?;
        let ciphered = self.encrypt_whole(&state.mechanism()?, &state.key, &request.plain, USE)?;
        Ok(EncryptResponse { ciphered })
    }

    /// Encrypts the next part.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn encrypt_update(&self, request: EncryptUpdateRequest) -> Result<EncryptUpdateResponse, Error> {
        let (state, ciphered) = self.next_part(Operation::Encrypt, &request.state, &request.plain)?;
        Ok(EncryptUpdateResponse { state, ciphered })
    }

    /// Ends an encryption.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn encrypt_final(&self, request: EncryptFinalRequest) -> Result<EncryptFinalResponse, Error> {
        Ok(EncryptFinalResponse { ciphered: self.last_part(Operation::Encrypt, &request.state)? })
    }

    /// Encrypts in one call.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn encrypt_single(&self, request: EncryptSingleRequest) -> Result<EncryptSingleResponse, Error> {
        let mechanism = self.offered(request.mech, ckf::CKF_ENCRYPT)?;
        let key = key_argument(request.key, request.key_bytes)?;
        Ok(EncryptSingleResponse { ciphered: self.encrypt_whole(&mechanism, &key, &request.plain, USE)? })
    }

    /// Begins a decryption.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn decrypt_init(&self, request: DecryptInitRequest) -> Result<DecryptInitResponse, Error> {
        let mechanism = self.offered(request.mech, ckf::CKF_DECRYPT)?;
        let key = key_argument(request.key, request.key_bytes)?;
        Ok(DecryptInitResponse { state: self.begin(Operation::Decrypt, mechanism, key)? })
    }

    /// Decrypts in one piece.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn decrypt(&self, request: DecryptRequest) -> Result<DecryptResponse, Error> {
        let state = self.state(&request.state, Operation::Decrypt)?;
        state.not_started()?;
        let mut plain = self.decrypt_whole(&state.mechanism()?, &state.key, &request.ciphered, USE)?;
        Ok(DecryptResponse { plain: core::mem::take(&mut *plain) })
    }

    /// Decrypts the next part.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn decrypt_update(&self, request: DecryptUpdateRequest) -> Result<DecryptUpdateResponse, Error> {
        let (state, plain) = self.next_part(Operation::Decrypt, &request.state, &request.ciphered)?;
        Ok(DecryptUpdateResponse { state, plain })
    }

    /// Ends a decryption.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn decrypt_final(&self, request: DecryptFinalRequest) -> Result<DecryptFinalResponse, Error> {
        Ok(DecryptFinalResponse { plain: self.last_part(Operation::Decrypt, &request.state)? })
    }

    /// Decrypts in one call.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn decrypt_single(&self, request: DecryptSingleRequest) -> Result<DecryptSingleResponse, Error> {
        let mechanism = self.offered(request.mech, ckf::CKF_DECRYPT)?;
        let key = key_argument(request.key, request.key_bytes)?;
        let mut plain = self.decrypt_whole(&mechanism, &key, &request.ciphered, USE)?;
        Ok(DecryptSingleResponse { plain: core::mem::take(&mut *plain) })
    }

    /// Decrypts with one key and encrypts with another; the plaintext stays inside.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn reencrypt_single(
        &self,
        request: ReencryptSingleRequest,
    ) -> Result<ReencryptSingleResponse, Error> {
        let decryption = self.offered(request.dec_mech, ckf::CKF_DECRYPT)?;
        let encryption = self.offered(request.enc_mech, ckf::CKF_ENCRYPT)?;
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
        match Cipher::from_mechanism(mechanism)? {
            Cipher::Rsa(padding) => rsa::encrypt(&self.public_encryption_key(key, uses)?, &padding, plain),
            Cipher::Aes(mode, iv) => {
                let object = self.unit.unwrapped(key)?;
                let key = self.aes_key(&object, uses.encryption)?;
                let mut blocks = Blocks::new(mode, key, iv);
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
        match Cipher::from_mechanism(mechanism)? {
            Cipher::Rsa(padding) => {
                let pkcs8 = self.rsa_key(&object, uses.decryption)?;
                // A made-up plaintext in the place of a wrapped key would be useless.
                let reports_padding = self.padding_errors || uses.decryption != USE.decryption;
                rsa::decrypt(&pkcs8, &padding, encrypted, reports_padding)
            }
            Cipher::Aes(mode, iv) => {
                let key = self.aes_key(&object, uses.decryption)?;
                let mut blocks = Blocks::new(mode, key, iv);
                let mut plain = Zeroizing::new(blocks.decrypt(encrypted)?);
                let last = blocks.finish_decryption()?;
                // A vector that moves leaves a copy of its old content; this one is wiped.
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
        match (Cipher::from_mechanism(&state.mechanism()?)?, operation) {
            (Cipher::Rsa(_), Operation::Encrypt) => {
                self.public_encryption_key(&state.key, USE)?;
            }
            (Cipher::Rsa(_), _) => {
                self.rsa_key(&*self.unit.unwrapped(&state.key)?, USE.decryption)?;
            }
            (Cipher::Aes(_, iv), _) => {
                let needed = if operation == Operation::Encrypt { USE.encryption } else { USE.decryption };
                self.aes_key(&*self.unit.unwrapped(&state.key)?, needed)?;
                state.chain = iv.to_vec();
            }
        }
        self.wrap_state(&state)
    }

    /// Processes a part. Returns the new state and the output.
    fn next_part(
        &self,
        operation: Operation,
        state: &[u8],
        data: &[u8],
    ) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let mut state = self.state(state, operation)?;
        let mode = block_mode(&state)?;
        let object = self.unit.unwrapped(&state.key)?;
        let mut blocks = self.resumed(mode, &state, operation, &object)?;
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
        let mut blocks = self.resumed(mode, &state, operation, &object)?;
        match operation {
            Operation::Encrypt => blocks.finish_encryption(),
            _ => blocks.finish_decryption(),
        }
    }

    /// The SubjectPublicKeyInfo of an RSA key that may encrypt. A bare key is refused: no MAC
    /// proves that it can be trusted with a secret.
    fn public_encryption_key(&self, key: &[u8], uses: Uses) -> Result<Vec<u8>, Error> {
        let key = self.public_key(key)?;
        let PublicMaterial::Rsa { .. } = key.material else { return Err(wrong_type("a public RSA key")) };
        let attributes = key.attributes.ok_or_else(|| {
            let detail = "encryption needs the public key as a crypto unit handed it out, with its MAC; \
                          UnwrapKey with CKM_IBM_TRANSPORTKEY takes a bare one in";
            Error::new(ckr::CKR_PUBLIC_KEY_INVALID, detail)
        })?;
        self.permitted(attributes, uses.encryption.0, uses.encryption.1)?;
        Ok(key.spki)
    }
}

impl Crypto {
    /// The value of an AES key that has the attribute of its use: bit and name.
    fn aes_key<'o>(&self, object: &'o Object, (bit, attribute): (u64, &str)) -> Result<&'o [u8], Error> {
        let Material::Secret(Secret { kind: SecretKind::Aes, value }) = &object.material else {
            return Err(wrong_type("an AES key"));
        };
        self.permitted(object.attributes, bit, attribute)?;
        Ok(value)
    }

    /// A private RSA key as PKCS#8, if the key has the attribute of its use: bit and name.
    fn rsa_key(&self, object: &Object, (bit, attribute): (u64, &str)) -> Result<Zeroizing<Vec<u8>>, Error> {
        let needed = || wrong_type("a private RSA key");
        let Material::Key(key) = &object.material else { return Err(needed()) };
        let Pair::Rsa(_) = key.pair() else { return Err(needed()) };
        self.permitted(object.attributes, bit, attribute)?;
        Ok(key.to_pkcs8()?)
    }

    /// Continues an operation from its state.
    fn resumed<'k>(
        &self,
        mode: Mode,
        state: &State,
        operation: Operation,
        object: &'k Object,
    ) -> Result<Blocks<'k>, Error> {
        let needed = if operation == Operation::Encrypt { USE.encryption } else { USE.decryption };
        let chain = state.chain.as_slice().try_into().map_err(|_| damaged())?;
        let key = self.aes_key(object, needed)?;
        Ok(Blocks { mode, key, chain, rest: Zeroizing::new(state.rest.clone()) })
    }
}

/// The attribute that a key needs for each direction: bit and name.
#[derive(Clone, Copy)]
pub(crate) struct Uses {
    encryption: (u64, &'static str),
    decryption: (u64, &'static str),
}

const USE: Uses = Uses {
    encryption: (Attributes::ENCRYPT, "CKA_ENCRYPT"),
    decryption: (Attributes::DECRYPT, "CKA_DECRYPT"),
};

/// Attributes for wrapping and unwrapping keys, instead of encrypting and decrypting data.
pub(crate) const TRANSPORT: Uses =
    Uses { encryption: (Attributes::WRAP, "CKA_WRAP"), decryption: (Attributes::UNWRAP, "CKA_UNWRAP") };

enum Cipher {
    Aes(Mode, [u8; BLOCK]),
    Rsa(Padding),
}

impl Cipher {
    fn from_mechanism(mechanism: &Mechanism) -> Result<Self, Error> {
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

/// The block mode of an operation in parts.
fn block_mode(state: &State) -> Result<Mode, Error> {
    match Cipher::from_mechanism(&state.mechanism()?)? {
        Cipher::Aes(mode, _) => Ok(mode),
        Cipher::Rsa(_) => Err(Error::new(
            ckr::CKR_FUNCTION_NOT_SUPPORTED,
            "RSA takes its data in one piece: use Single, or Init and the call without Update",
        )),
    }
}
