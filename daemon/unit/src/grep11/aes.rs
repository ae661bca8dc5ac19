//! AES in the modes that are offered, block by block: the output does not depend on the parts.

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext,
    UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use keyward_grep11::ckr;
use zeroize::Zeroizing;

use super::error::Error;
use super::request_key::wrong_type;

#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Mode {
    Ecb,
    Cbc,
    /// With the padding of PKCS #7.
    CbcPad,
}

/// AES in blocks. The output does not depend on how the data are cut into parts.
pub(super) struct Blocks<'k> {
    pub(super) mode: Mode,
    pub(super) key: &'k [u8],
    /// The last block of ciphertext, or the IV. Not used by ECB.
    pub(super) chain: [u8; BLOCK],
    /// Input that waits: less than a block, or up to a whole block while the last one may hold
    /// padding.
    pub(super) rest: Zeroizing<Vec<u8>>,
}

impl<'k> Blocks<'k> {
    /// Begins with an IV.
    pub(super) fn new(mode: Mode, key: &'k [u8], iv: [u8; BLOCK]) -> Self {
        Self { mode, key, chain: iv, rest: Zeroizing::new(Vec::new()) }
    }

    pub(super) fn encrypt(&mut self, plain: &[u8]) -> Result<Vec<u8>, Error> {
        let mut blocks = self.whole_blocks(plain, 0);
        self.encrypt_blocks(&mut blocks)?;
        Ok(blocks)
    }

    pub(super) fn finish_encryption(&mut self) -> Result<Vec<u8>, Error> {
        if self.mode != Mode::CbcPad {
            return self.nothing_left(ckr::CKR_DATA_LEN_RANGE);
        }
        let mut last = core::mem::take(&mut *self.rest);
        let padding = BLOCK - last.len();
        last.resize(BLOCK, u8::try_from(padding).unwrap_or_default());
        self.encrypt_blocks(&mut last)?;
        Ok(last)
    }

    pub(super) fn decrypt(&mut self, encrypted: &[u8]) -> Result<Vec<u8>, Error> {
        // The last block may be the one with the padding.
        let mut blocks = self.whole_blocks(encrypted, usize::from(self.mode == Mode::CbcPad));
        self.decrypt_blocks(&mut blocks)?;
        Ok(blocks)
    }

    pub(super) fn finish_decryption(&mut self) -> Result<Vec<u8>, Error> {
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

    /// Adds data and returns the whole blocks. Keeps a whole last block back if `held` is 1.
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

pub(super) fn algorithm(key: &[u8]) -> Result<&'static Algorithm, Error> {
    match key.len() {
        16 => Ok(&AES_128),
        24 => Ok(&AES_192),
        32 => Ok(&AES_256),
        _ => Err(wrong_type("an AES key")),
    }
}

/// Length of a block of AES, in bytes.
pub(super) const BLOCK: usize = 16;
