//! RSA key exchange of TLS 1.2 with keys at remote units: converts the answer of a unit to a
//! premaster secret.
//!
//! Nobody may learn whether the padding of a ciphertext is right; `premaster.rs` of the software
//! crypto unit says why. A unit removes the padding itself. If the padding is wrong, older firmware
//! answers with an error, and newer firmware with a random message of any length. Here both become
//! 48 bytes, always the same for the same ciphertext, like a valid secret. The time of the unit and
//! of the network is not hidden: anyone who observes the network to the unit, or measures the
//! handshakes of a server, can see that time.

use keyward_proto::PublicKey;
use keyward_unit::{PREMASTER, UnitError};
use subtle::{ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

/// Refuses a ciphertext that cannot be of this key, as anyone can see: its length is not the length
/// of the modulus, or its number is not below the modulus.
pub(super) fn check(key: &PublicKey, ciphertext: &[u8]) -> Result<(), UnitError> {
    let PublicKey::Rsa { modulus, .. } = key else { return Err(UnitError::KeyCannotDecrypt) };
    // Both are big-endian and equally long, so comparing the bytes compares the numbers.
    match ciphertext.len() == modulus.len() && ciphertext < modulus.as_slice() {
        true => Ok(()),
        false => Err(UnitError::CiphertextLength),
    }
}

/// Premaster secret: the message that the unit found if its length is right, or else `substitute`.
/// Takes the same time for both, except for the few nanoseconds of a copy of another length.
pub(super) fn select(
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
        select(Zeroizing::new(vec![5; PREMASTER]), found, TLS12).to_vec()
    }

    #[test]
    fn a_valid_secret_has_the_version_of_the_client() {
        let mut found = [7; PREMASTER];
        found[..2].copy_from_slice(&[9, 9]);
        let premaster = settled(&found);
        assert!(premaster[..2] == [3, 3] && premaster[2..] == [7; 46], "{premaster:?}");
    }

    #[test]
    fn an_answer_of_another_length_is_replaced() {
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
