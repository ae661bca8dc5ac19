//! Master keys that are kept for a start without people: encrypted in the state of the unit.
//!
//! The key that encrypts comes from a secret that is not in the state: the credential of a service
//! manager, or a passphrase.
//!
//! ```text
//! offset  bytes
//!      0     16  salt
//!     16     12  nonce
//!     28      n  the master keys of the registers, AES-256-GCM
//!   28+n     16  tag
//! ```

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::command::UnitId;
use super::passphrase::stretched;
use crate::error::UnitError;
use crate::master_key::MasterKey;

/// A secret by which a unit keeps its master keys.
pub struct KeepingSecret {
    secret: Zeroizing<Vec<u8>>,
    kind: Kind,
}

enum Kind {
    /// At least 16 random bytes.
    Random,
    /// A passphrase, which needs a slow function.
    Passphrase,
}

impl KeepingSecret {
    /// A secret that no person has chosen, such as the contents of a credential. `None` if it is
    /// shorter than 32 bytes: 32 hexadecimal digits are 16 random bytes.
    pub fn random(secret: &[u8]) -> Option<Self> {
        let secret = secret.trim_ascii();
        (secret.len() >= 32).then(|| Self { secret: Zeroizing::new(secret.to_vec()), kind: Kind::Random })
    }

    /// The secret in a file that has the form of a master key: its hexadecimal digits.
    pub fn of_key(key: &MasterKey) -> Self {
        Self { secret: Zeroizing::new(key.to_hex().as_bytes().to_vec()), kind: Kind::Random }
    }

    /// A passphrase, without the white space around it. `None` if it is empty.
    pub fn passphrase(passphrase: &[u8]) -> Option<Self> {
        let secret = passphrase.trim_ascii();
        (!secret.is_empty()).then(|| Self { secret: Zeroizing::new(secret.to_vec()), kind: Kind::Passphrase })
    }

    /// The keys of a salt.
    fn derive(&self, salt: [u8; SALT]) -> Result<Keeper, UnitError> {
        let failed = UnitError::Crypto("derive the key that keeps the master keys");
        let mut key = Zeroizing::new([0; 32]);
        match self.kind {
            Kind::Passphrase => stretched(&self.secret, &salt, &mut key).ok_or(failed)?,
            Kind::Random => {
                let root = Salt::new(HKDF_SHA256, &salt).extract(&self.secret);
                let filled = root.expand(&[INFO], HKDF_SHA256).and_then(|okm| okm.fill(key.as_mut_slice()));
                filled.map_err(|Unspecified| failed)?;
            }
        }
        Ok(Keeper { salt, key })
    }

    /// The keeper of new texts.
    pub(crate) fn new_keeper(&self) -> Result<Keeper, UnitError> {
        let mut salt = [0; SALT];
        rand::fill(&mut salt).map_err(|_| UnitError::Crypto("make a salt"))?;
        self.derive(salt)
    }

    /// The keeper that has encrypted a text. `None` for a text that is too short.
    pub(crate) fn keeper_of(&self, kept: &[u8]) -> Result<Option<Keeper>, UnitError> {
        kept.first_chunk::<SALT>().map(|salt| self.derive(*salt)).transpose()
    }
}

/// The key of one salt: a passphrase is stretched once, not at each change.
pub(crate) struct Keeper {
    salt: [u8; SALT],
    key: Zeroizing<[u8; 32]>,
}

impl Keeper {
    /// Encrypts the master keys of both registers.
    pub(crate) fn keep(&self, unit: UnitId, keys: [Option<&MasterKey>; 2]) -> Result<Vec<u8>, UnitError> {
        let keep = || {
            let mut nonce = [0; NONCE_LEN];
            rand::fill(&mut nonce)?;
            let mut text = Zeroizing::new(Vec::with_capacity(2 * (1 + 32) + TAG));
            for key in keys {
                text.push(u8::from(key.is_some()));
                key.into_iter().for_each(|key| text.extend_from_slice(key.bytes()));
            }
            let nonce_used = Nonce::assume_unique_for_key(nonce);
            self.cipher()?.seal_in_place_append_tag(nonce_used, Aad::from(unit.0), &mut *text)?;
            Ok([self.salt.as_slice(), &nonce, &text].concat())
        };
        keep().map_err(|Unspecified| UnitError::Crypto("keep the master keys"))
    }

    /// Decrypts an output of [`Self::keep`]. `None` for any other text, and for another unit.
    pub(crate) fn open(&self, unit: UnitId, kept: &[u8]) -> Option<[Option<MasterKey>; 2]> {
        let (nonce, text) = kept.get(SALT..)?.split_first_chunk::<NONCE_LEN>()?;
        let mut text = Zeroizing::new(text.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let text = self.cipher().ok()?.open_in_place(nonce, Aad::from(unit.0), &mut text).ok()?;
        let mut rest = &*text;
        let mut next = || {
            let (has_key, after) = rest.split_first()?;
            let (key, after) = match has_key {
                0 => (None, after),
                _ => {
                    let (bytes, after) = after.split_first_chunk::<32>()?;
                    let mut key = MasterKey::zeros();
                    key.bytes_mut().copy_from_slice(bytes);
                    (Some(key), after)
                }
            };
            rest = after;
            Some(key)
        };
        let keys = [next()?, next()?];
        rest.is_empty().then_some(keys)
    }

    /// True for an output of [`Self::keep`] of this keeper.
    pub(crate) fn keeps(&self, kept: &[u8]) -> bool {
        kept.starts_with(&self.salt)
    }

    fn cipher(&self) -> Result<LessSafeKey, Unspecified> {
        Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, self.key.as_slice())?))
    }
}

const INFO: &[u8] = b"keyward kept master keys 1";
/// Length of a salt, in bytes.
const SALT: usize = 16;
/// Length of a tag of AES-GCM, in bytes.
const TAG: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_kept_by_the_secret_and_for_the_unit() {
        let [one, two] = [0; 2].map(|_| MasterKey::generate().unwrap());
        let unit = UnitId([1; 16]);
        for secret in [
            KeepingSecret::random(&[b'7'; 32]).unwrap(),
            KeepingSecret::passphrase(b"correct horse battery staple\n").unwrap(),
        ] {
            let keeper = secret.new_keeper().unwrap();
            for keys in [[Some(&one), Some(&two)], [Some(&one), None], [None, Some(&two)], [None, None]] {
                let kept = keeper.keep(unit, keys).unwrap();
                let again = secret.keeper_of(&kept).unwrap().unwrap();
                let opened = again.open(unit, &kept).unwrap();
                let patterns = |key: Option<&MasterKey>| key.map(MasterKey::pattern);
                assert_eq!(opened.each_ref().map(|key| patterns(key.as_ref())), keys.map(patterns));
                assert!(again.open(UnitId([2; 16]), &kept).is_none());
                for at in [0, 20, kept.len() - 1] {
                    let mut altered = kept.clone();
                    altered[at] ^= 1;
                    let keeper = if at < SALT { None } else { again.open(unit, &altered) };
                    assert!(keeper.is_none(), "byte {at}");
                }
            }
        }
        let kept = KeepingSecret::random(&[b'7'; 32]).unwrap().new_keeper().unwrap();
        let kept = kept.keep(unit, [Some(&one), None]).unwrap();
        let other = KeepingSecret::random(&[b'8'; 32]).unwrap();
        assert!(other.keeper_of(&kept).unwrap().unwrap().open(unit, &kept).is_none());
        assert!(other.keeper_of(b"short").unwrap().is_none());
        assert!(KeepingSecret::random(&[b'7'; 31]).is_none() && KeepingSecret::passphrase(b" \n").is_none());
    }
}
