//! RSA key exchange of TLS 1.2 (RFC 5246, 7.4.7.1).
//!
//! Whoever learns of a ciphertext whether its padding is right can decrypt others, or sign, in some ten thousand questions
//! (Bleichenbacher 1998, and ROBOT twenty years later). So the answer to a wrong one is random bytes of the same length,
//! and it is found on the same way in the same time: the arithmetic is that of [`crate::rsa_numbers`], which
//! takes a time that does not depend on the values, and what is right or wrong is never branched upon. The library's own
//! decryption reports a wrong padding as an error, which costs another time.

use aws_lc_rs::rand;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

use crate::key::Pair;
use crate::object::Material;
use crate::rsa_numbers::PrivateNumbers;
use crate::{Unit, UnitError};

/// A premaster secret, in bytes: two of the version, and 46 random ones (RFC 5246, 7.4.7.1).
pub const PREMASTER: usize = 48;

impl Unit {
    /// Decrypts a premaster secret with the RSA key in a blob. It must begin with one of `versions`; otherwise, and if its
    /// padding or length is wrong, the answer is as many random bytes, and nothing tells.
    ///
    /// Takes milliseconds. What the key may be used for is up to whoever keeps the blob.
    ///
    /// # Errors
    /// [`UnitError::CiphertextLength`] for a ciphertext of another length than the modulus, or above it, which anyone can
    /// see; the others as for [`Unit::sign`].
    pub fn decrypt_premaster(
        &self,
        blob: &[u8],
        ciphertext: &[u8],
        versions: &[u16],
    ) -> Result<Zeroizing<[u8; PREMASTER]>, UnitError> {
        let object = self.unwrapped(blob)?;
        let Material::Key(key) = &object.material else { return Err(UnitError::KeyCannotDecrypt) };
        let Pair::Rsa(pair) = key.pair() else { return Err(UnitError::KeyCannotDecrypt) };
        let failed = |_| UnitError::Crypto("decrypt");
        if ciphertext.len() != pair.public_modulus_len() {
            return Err(UnitError::CiphertextLength);
        }
        let mut premaster = Zeroizing::new([0; PREMASTER]);
        rand::fill(&mut *premaster).map_err(failed)?;
        let numbers = PrivateNumbers::read(&key.to_pkcs8().map_err(failed)?).map_err(failed)?;
        if !numbers.is_below_modulus(ciphertext) {
            return Err(UnitError::CiphertextLength);
        }
        let padded = Zeroizing::new(numbers.apply(ciphertext).map_err(failed)?);
        take_if_sound(&padded, versions, &mut premaster);
        Ok(premaster)
    }
}

/// Copies the premaster secret out of its padding (RFC 8017, 7.2.2: 00 02, bytes but zero, 00) if all is as it should be.
/// Always does the same, whatever it finds.
fn take_if_sound(padded: &[u8], versions: &[u16], premaster: &mut [u8; PREMASTER]) {
    let Some((padding, found)) = padded.split_last_chunk::<PREMASTER>() else { return };
    let [zero, two, filling @ .., end] = padding else { return };
    let mut sound = zero.ct_eq(&0) & two.ct_eq(&2) & end.ct_eq(&0);
    for byte in filling {
        sound &= !byte.ct_eq(&0);
    }
    let version = u16::from_be_bytes([found[0], found[1]]);
    let known = versions.iter().fold(Choice::from(0), |known, one| known | version.ct_eq(one));
    sound &= known;
    for (byte, found) in premaster.iter_mut().zip(found) {
        byte.conditional_assign(found, sound);
    }
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroUsize;
    use std::time::Instant;

    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rsa::{Pkcs1PublicEncryptingKey, PublicEncryptingKey};
    use keyward_proto::{KeyType, PublicKey};

    use super::*;
    use crate::rsa_numbers::PublicNumbers;
    use crate::{MasterKey, NewKey};

    const TLS12: u16 = 0x0303;

    fn scene() -> (Unit, NewKey) {
        let unit = Unit::new(MasterKey::generate().unwrap(), NonZeroUsize::MIN);
        let key = unit.generate(KeyType::Rsa(2048)).unwrap();
        (unit, key)
    }

    /// The padding of a premaster secret that begins with a version.
    fn padded(version: u16) -> [u8; 256] {
        let mut block = [0x5a; 256];
        (block[0], block[1], block[256 - PREMASTER - 1]) = (0, 2, 0);
        block[256 - PREMASTER..][..2].copy_from_slice(&version.to_be_bytes());
        block
    }

    fn encrypted(key: &NewKey, block: &[u8]) -> Vec<u8> {
        let PublicKey::Rsa { modulus, exponent } = PublicKey::from_spki(&key.spki).unwrap() else { panic!() };
        PublicNumbers::new(&modulus, &exponent).unwrap().apply(block).unwrap()
    }

    #[test]
    fn what_another_library_encrypts() {
        let (unit, key) = scene();
        let public = PublicEncryptingKey::from_der(&key.spki).unwrap();
        assert_eq!(
            AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(&public).unwrap().as_ref(),
            key.spki
        );
        let mut secret = [7; PREMASTER];
        secret[..2].copy_from_slice(&TLS12.to_be_bytes());
        let mut ciphertext = [0; 256];
        Pkcs1PublicEncryptingKey::new(public).unwrap().encrypt(&secret, &mut ciphertext).unwrap();
        let premaster = unit.decrypt_premaster(&key.blob, &ciphertext, &[TLS12]).unwrap();
        assert_eq!(*premaster, secret);
    }

    /// Every way to be wrong gives 48 bytes that are new each time, and nothing else.
    #[test]
    fn whatever_is_wrong_is_answered_with_random_bytes() {
        let (unit, key) = scene();
        let good = padded(TLS12);
        let secret = &good[256 - PREMASTER..];
        let at = |place: usize, byte: u8| {
            let mut block = good;
            block[place] = byte;
            block
        };
        let longer = {
            let mut block = good;
            (block[256 - PREMASTER - 1], block[256 - PREMASTER - 2]) = (0x5a, 0);
            block
        };
        let mut wrong = vec![at(1, 1), at(1, 0), at(2, 0), at(100, 0), at(256 - PREMASTER - 1, 1), longer];
        wrong.extend([padded(0x0302), padded(0x0304), [0; 256], {
            let mut one = [0; 256];
            one[255] = 1;
            one
        }]);
        let decrypt = |block: &[u8], versions: &[u16]| {
            *unit.decrypt_premaster(&key.blob, &encrypted(&key, block), versions).unwrap()
        };
        assert_eq!(decrypt(&good, &[TLS12]), secret);
        for block in &wrong {
            let (one, other) = (decrypt(block, &[TLS12]), decrypt(block, &[TLS12]));
            assert!(one != other && one[..] != block[256 - PREMASTER..], "{block:?}");
        }
        // Clients that put the negotiated version there, where that is accepted.
        assert_eq!(decrypt(&padded(0x0302), &[TLS12, 0x0302]), padded(0x0302)[256 - PREMASTER..]);
        assert_ne!(decrypt(&good, &[]), secret);
    }

    #[test]
    fn what_everyone_can_see_is_an_error() {
        let (unit, key) = scene();
        for ciphertext in [&[][..], &[1; 255], &[1; 257], &[0xff; 256]] {
            let error = unit.decrypt_premaster(&key.blob, ciphertext, &[TLS12]).unwrap_err();
            assert_eq!(error, UnitError::CiphertextLength);
        }
        let p256 = unit.generate(KeyType::P256).unwrap();
        let error = unit.decrypt_premaster(&p256.blob, &[1; 256], &[TLS12]).unwrap_err();
        assert_eq!(error, UnitError::KeyCannotDecrypt);
    }

    /// Good and bad ones in turn: their medians differ by less than the machine's own noise.
    #[test]
    fn good_and_bad_take_the_same_time() {
        let (unit, key) = scene();
        let mut bad = padded(TLS12);
        bad[1] = 1;
        let ciphertexts = [padded(TLS12), bad].map(|block| encrypted(&key, &block));
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..150 {
            for (ciphertext, times) in ciphertexts.iter().zip(&mut times) {
                let begin = Instant::now();
                unit.decrypt_premaster(&key.blob, ciphertext, &[TLS12]).unwrap();
                times.push(begin.elapsed());
            }
        }
        let [good, bad] = times.map(|mut times| {
            times.sort_unstable();
            times[times.len() / 4].as_secs_f64()
        });
        let ratio = good / bad;
        println!("good {good:.6} s, bad {bad:.6} s, ratio {ratio:.4}");
        assert!((0.97..1.03).contains(&ratio), "good {good} s, bad {bad} s");
    }
}
