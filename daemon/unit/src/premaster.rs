//! RSA key exchange of TLS 1.2 (RFC 5246, 7.4.7.1).
//!
//! An attacker who learns of some ten thousand ciphertexts whether their padding is right can
//! decrypt another ciphertext, or sign (Bleichenbacher 1998, and ROBOT twenty years later). So
//! every ciphertext gets an answer of the same form, always the same answer for the same
//! ciphertext: the version that the client named, and 46 bytes. These are the client's bytes if the
//! padding is right, and as good as random otherwise. Neither the client nor the server can tell
//! the difference.
//!
//! Both answers take the same path and the same time: [`crate::rsa_numbers`] computes in a time
//! that does not depend on the values, and no branch depends on the padding. The library's own
//! decryption reports a wrong padding as an error, which takes another time.

use subtle::{ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

use crate::error::UnitError;
use crate::key::Pair;
use crate::object::Material;
use crate::rsa_numbers::PrivateNumbers;
use crate::unit::Unit;

/// Length of a premaster secret, in bytes: two for the version, and 46 random ones (RFC 5246,
/// 7.4.7.1).
pub const PREMASTER: usize = 48;

impl Unit {
    /// Decrypts a premaster secret with the RSA key in a blob. For every ciphertext the answer
    /// begins with the version of the client, as the RFC recommends. If the client encrypted
    /// another version, the handshake fails at its end.
    ///
    /// `substitute` is the answer for an invalid secret. It has [`PREMASTER`] bytes, is always the
    /// same for a key and a ciphertext, also in other units with the key, and peers cannot tell it
    /// from a secret.
    ///
    /// Takes milliseconds. The caller decides what the key may be used for. The answer has
    /// [`PREMASTER`] bytes on the heap, where they stay until they are wiped; an array would leave
    /// copies behind at every move.
    ///
    /// # Errors
    /// [`UnitError::CiphertextLength`] for a ciphertext that is not as long as the modulus, or not
    /// below it, which anyone can see; otherwise those of [`Unit::sign`].
    pub fn decrypt_premaster(
        &self,
        blob: &[u8],
        ciphertext: &[u8],
        client_version: u16,
        substitute: Zeroizing<Vec<u8>>,
    ) -> Result<Zeroizing<Vec<u8>>, UnitError> {
        let object = self.unwrapped(blob)?;
        let Material::Key(key) = &object.material else { return Err(UnitError::KeyCannotDecrypt) };
        let Pair::Rsa(pair) = key.pair() else { return Err(UnitError::KeyCannotDecrypt) };
        let failed = |_| UnitError::Crypto("decrypt");
        if ciphertext.len() != pair.public_modulus_len() {
            return Err(UnitError::CiphertextLength);
        }
        let pkcs8 = key.to_pkcs8().map_err(failed)?;
        let numbers = PrivateNumbers::read(&pkcs8).map_err(failed)?;
        if !numbers.is_below_modulus(ciphertext) {
            return Err(UnitError::CiphertextLength);
        }
        let mut premaster = substitute;
        if premaster.len() != PREMASTER {
            return Err(UnitError::Crypto("decrypt"));
        }
        let padded = Zeroizing::new(numbers.apply(ciphertext).map_err(failed)?);
        take_if_sound(&padded, &mut premaster);
        premaster[..2].copy_from_slice(&client_version.to_be_bytes());
        Ok(premaster)
    }
}

/// Copies the premaster secret out of its padding (RFC 8017, 7.2.2: 00 02, bytes except zero, 00)
/// if the padding is right. The work is the same for every input.
fn take_if_sound(padded: &[u8], premaster: &mut [u8]) {
    let Some((padding, found)) = padded.split_last_chunk::<PREMASTER>() else { return };
    let [zero, two, filling @ .., end] = padding else { return };
    let mut sound = zero.ct_eq(&0) & two.ct_eq(&2) & end.ct_eq(&0);
    for byte in filling {
        sound &= !byte.ct_eq(&0);
    }
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

    fn substitute() -> Zeroizing<Vec<u8>> {
        Zeroizing::new(vec![0xa5; PREMASTER])
    }

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
        let premaster = unit.decrypt_premaster(&key.blob, &ciphertext, TLS12, substitute()).unwrap();
        assert_eq!(*premaster, secret);
    }

    /// Every invalid padding gets an answer of the same form: the substitute.
    #[test]
    fn whatever_is_wrong_has_an_answer_like_any_other() {
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
        let mut one = [0; 256];
        one[255] = 1;
        let wrong =
            [at(1, 1), at(1, 0), at(2, 0), at(100, 0), at(256 - PREMASTER - 1, 1), longer, [0; 256], one];
        let decrypt = |block: &[u8], version| {
            unit.decrypt_premaster(&key.blob, &encrypted(&key, block), version, substitute())
                .unwrap()
                .to_vec()
        };
        assert_eq!(decrypt(&good, TLS12), secret);
        for block in &wrong {
            let answer = decrypt(block, TLS12);
            assert_eq!(
                (&answer[..2], &answer[2..]),
                (&TLS12.to_be_bytes()[..], &substitute()[2..]),
                "{block:?}"
            );
        }
        // Another version in the secret is no reason for another answer: the server learns nothing
        // from asking with another version.
        let other = decrypt(&padded(0x0302), TLS12);
        assert_eq!((&other[..2], &other[2..]), (&TLS12.to_be_bytes()[..], &secret[2..]));
        assert_eq!(decrypt(&good, 0x0302)[2..], secret[2..]);
    }

    /// Ratios of the shortest times of the actions but the last to the shortest of the last one.
    /// The actions take turns.
    fn ratios<const N: usize>(rounds: usize, actions: [&dyn Fn(); N]) -> Vec<f64> {
        let mut shortest = [f64::INFINITY; N];
        for _ in 0..rounds {
            for (action, shortest) in actions.iter().zip(&mut shortest) {
                let begin = Instant::now();
                action();
                *shortest = shortest.min(begin.elapsed().as_secs_f64());
            }
        }
        let (last, others) = shortest.split_last().unwrap();
        others.iter().map(|time| time / last).collect()
    }

    /// The actions take times that differ by at most the given part. A shortcut in the code shows
    /// in every attempt, another program on the same processor does not.
    fn take_the_same_time<const N: usize>(rounds: usize, part: f64, actions: [&dyn Fn(); N]) {
        let mut attempts = Vec::new();
        for _ in 0..10 {
            let ratios = ratios(rounds, actions);
            if ratios.iter().all(|ratio| (1.0 - part..1.0 + part).contains(ratio)) {
                return;
            }
            attempts.push(ratios);
        }
        panic!("{attempts:.3?}");
    }

    /// The padding check alone, where a shortcut for a wrong first byte would show.
    #[test]
    fn good_and_bad_padding_are_looked_at_alike() {
        let good = padded(TLS12);
        let (mut first, mut middle) = (good, good);
        (first[0], middle[120]) = (1, 0);
        let look = |block: &[u8]| {
            for _ in 0..200 {
                let mut premaster = [0; PREMASTER];
                take_if_sound(core::hint::black_box(block), &mut premaster);
                core::hint::black_box(&premaster);
            }
        };
        take_the_same_time(200, 0.2, [&|| look(&first), &|| look(&middle), &|| look(&good)]);
    }

    #[test]
    fn what_everyone_can_see_is_an_error() {
        let (unit, key) = scene();
        for ciphertext in [&[][..], &[1; 255], &[1; 257], &[0xff; 256]] {
            let error = unit.decrypt_premaster(&key.blob, ciphertext, TLS12, substitute()).unwrap_err();
            assert_eq!(error, UnitError::CiphertextLength);
        }
        let p256 = unit.generate(KeyType::P256).unwrap();
        let error = unit.decrypt_premaster(&p256.blob, &[1; 256], TLS12, substitute()).unwrap_err();
        assert_eq!(error, UnitError::KeyCannotDecrypt);
    }

    /// Times of valid and invalid ciphertexts differ by less than an error of the library would
    /// cost.
    #[test]
    fn good_and_bad_take_the_same_time() {
        let (unit, key) = scene();
        let mut bad = padded(TLS12);
        bad[1] = 1;
        let ciphertexts = [padded(TLS12), bad].map(|block| encrypted(&key, &block));
        let decrypt = |ciphertext: &[u8]| {
            unit.decrypt_premaster(&key.blob, ciphertext, TLS12, substitute()).unwrap();
        };
        take_the_same_time(150, 0.05, [&|| decrypt(&ciphertexts[1]), &|| decrypt(&ciphertexts[0])]);
    }
}
