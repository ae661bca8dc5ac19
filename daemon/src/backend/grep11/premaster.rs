//! RSA key exchange of TLS 1.2 with keys at units elsewhere: what is made of their answers.
//!
//! Nobody must learn of a ciphertext whether its padding is right; `premaster.rs` of the software crypto unit says why.
//! A unit takes the padding off by itself. Where that is wrong, older firmware answers with an error and newer firmware
//! with a message that is as good as random, of any length. Here both become what a sound secret becomes: 48 bytes,
//! always the same for the same ciphertext. How long the unit took, and how long its answer was on its way, is not
//! hidden: that is between the unit and whoever can watch the network to it, or measure the handshakes of a server.

use keyward_proto::PublicKey;
use keyward_unit::{PREMASTER, UnitError};
use subtle::{ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

/// Refuses a ciphertext that anyone can see to be none of this key: of another length than the modulus, or above it.
pub(super) fn check(key: &PublicKey, ciphertext: &[u8]) -> Result<(), UnitError> {
    let PublicKey::Rsa { modulus, .. } = key else { return Err(UnitError::KeyCannotDecrypt) };
    // Both are big-endian, so that the order of the bytes is that of the numbers.
    match ciphertext.len() == modulus.len() && ciphertext < modulus.as_slice() {
        true => Ok(()),
        false => Err(UnitError::CiphertextLength),
    }
}

/// The premaster secret: what the unit found, if that is as long as one, or else `substitute`, which stands for one that is
/// not sound and is as long.
/// Takes the same time for either, but for the few nanoseconds that a copy of another length does.
pub(super) fn settle(
    substitute: Zeroizing<Vec<u8>>,
    found: &[u8],
    client_version: u16,
) -> Zeroizing<Vec<u8>> {
    let mut premaster = substitute;
    let mut candidate = Zeroizing::new(vec![0; PREMASTER]);
    for (byte, found) in candidate.iter_mut().zip(found) {
        *byte = *found;
    }
    let sound = found.len().ct_eq(&PREMASTER);
    for (byte, found) in premaster.iter_mut().zip(candidate.iter()) {
        byte.conditional_assign(found, sound);
    }
    premaster[..2].copy_from_slice(&client_version.to_be_bytes());
    premaster
}

#[cfg(test)]
mod tests {
    use super::*;

    const TLS12: u16 = 0x0303;

    fn settled(found: &[u8]) -> Vec<u8> {
        settle(Zeroizing::new(vec![5; PREMASTER]), found, TLS12).to_vec()
    }

    #[test]
    fn a_sound_secret_has_the_version_of_the_client() {
        let mut found = [7; PREMASTER];
        found[..2].copy_from_slice(&[9, 9]);
        let premaster = settled(&found);
        assert!(premaster[..2] == [3, 3] && premaster[2..] == [7; 46], "{premaster:?}");
    }

    #[test]
    fn whatever_is_no_secret_has_the_answer_that_stands_for_it() {
        for found in [&[][..], &[7], &[7; 47], &[7; 49], &[7; 245]] {
            let premaster = settled(found);
            assert!(premaster[..2] == [3, 3] && premaster[2..] == [5; 46], "{} bytes", found.len());
        }
    }

    #[test]
    fn ciphertexts_are_below_the_modulus_and_as_long() {
        let key = PublicKey::Rsa { modulus: vec![0xc0, 5], exponent: vec![1, 0, 1] };
        for good in [[0xc0, 4], [0, 0], [0x80, 0xff]] {
            assert!(check(&key, &good).is_ok(), "{good:?}");
        }
        for bad in [&[0xc0, 5][..], &[0xc1, 0], &[0xc0], &[0, 0xc0, 4], &[]] {
            assert!(matches!(check(&key, bad), Err(UnitError::CiphertextLength)), "{bad:?}");
        }
        let other = PublicKey::Ed25519(vec![0; 32]);
        assert!(matches!(check(&other, &[0, 0]), Err(UnitError::KeyCannotDecrypt)));
    }
}
