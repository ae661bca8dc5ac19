//! Check sums of new keys.

use aws_lc_rs::cipher::{EncryptingKey, EncryptionContext, UnboundCipherKey};

use super::aes::{BLOCK, algorithm};
use super::crypto::Crypto;
use super::error::Error;
use super::hash::HashFunction;
use super::key_type::bits;
use super::public_key::public_attributes;
use crate::object::{Material, Object, Secret, SecretKind};

impl Crypto {
    /// The check sum of a new key: its check value, and its length in bits.
    ///
    /// The check value of an AES key is the start of a block of zeros under the key. For another
    /// secret key it is the start of the SHA-1 of the value (PKCS #11 2.40, 4.10.2). A private key
    /// has its public key as check value.
    pub(super) fn check_sum(&self, object: &Object) -> Result<Vec<u8>, Error> {
        let (mut sum, bits) = match &object.material {
            Material::Secret(secret) => (check_value(secret)?, secret.value.len() * 8),
            private => {
                let spki = private.spki().unwrap_or_default();
                let public = self.wrap_public(spki, public_attributes(object.attributes))?;
                (public, bits(private))
            }
        };
        sum.extend_from_slice(&u32::try_from(bits).unwrap_or(u32::MAX).to_be_bytes());
        Ok(sum)
    }
}

/// The check value of a secret key: three bytes. A generic secret of fewer than eight bytes has
/// zeros, because a check value would let anyone find such a secret by trying all of them.
pub(super) fn check_value(secret: &Secret) -> Result<Vec<u8>, Error> {
    let mut value = match secret.kind {
        SecretKind::Aes => {
            let mut block = vec![0; BLOCK];
            let key = UnboundCipherKey::new(algorithm(&secret.value)?, &secret.value)?;
            EncryptingKey::ecb(key)?.less_safe_encrypt(&mut block, EncryptionContext::None)?;
            block
        }
        SecretKind::Generic if secret.value.len() < 8 => vec![0; 3],
        SecretKind::Generic => HashFunction::Sha1.digest(&secret.value),
    };
    value.truncate(3);
    Ok(value)
}
