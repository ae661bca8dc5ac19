//! Decryption with PKCS #1 v1.5 padding that does not reveal whether the padding was right, as
//! newer firmware does it (implicit rejection).
//!
//! For a wrong padding the plaintext is made up: random-looking bytes of a random-looking length,
//! always the same for the same ciphertext and key. So a client cannot learn whether a ciphertext
//! is valid, which is the information that Bleichenbacher's attack needs. The work does not depend
//! on the padding, except for the length of the answer.

use aws_lc_rs::hmac;
use keyward_grep11::ckr;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq, ConstantTimeLess};
use zeroize::Zeroizing;

use super::error::Error;
use crate::rsa_numbers::PrivateNumbers;

/// Decrypts a ciphertext as long as the modulus with a private key in PKCS#8.
pub(super) fn decrypt(pkcs8: &[u8], encrypted: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let numbers = PrivateNumbers::read(pkcs8)?;
    if !numbers.is_below_modulus(encrypted) {
        // Not a secret: both numbers are public.
        return Err(Error::new(ckr::CKR_ENCRYPTED_DATA_INVALID, "the ciphertext is not below the modulus"));
    }
    let padded = Zeroizing::new(numbers.apply(encrypted)?);
    Ok(message(padded, &MadeUp::new(pkcs8, encrypted)))
}

/// The message in its padding (RFC 8017, 7.2.2: 00 02, at least eight bytes except zero, 00), or a
/// made-up message.
fn message(mut padded: Zeroizing<Vec<u8>>, made_up: &MadeUp) -> Zeroizing<Vec<u8>> {
    let length = u32::try_from(padded.len()).unwrap_or_default();
    let mut sound = Choice::from(1);
    let mut found = Choice::from(0);
    // Place of the first byte of the message.
    let mut start = 0;
    for (place, byte) in (0_u32..).zip(padded.iter()) {
        match place {
            0 => sound &= byte.ct_eq(&0),
            1 => sound &= byte.ct_eq(&2),
            _ => {
                let ends = byte.ct_eq(&0) & !found;
                start.conditional_assign(&(place + 1), ends);
                found |= ends;
            }
        }
    }
    sound &= found & !start.ct_lt(&OVERHEAD);
    let start = u32::conditional_select(&made_up.start(length), &start, sound);
    for (byte, other) in padded.iter_mut().zip(made_up.bytes(length).iter()) {
        byte.conditional_assign(other, !sound);
    }
    let start = usize::try_from(start).unwrap_or_default();
    Zeroizing::new(padded.get(start..).unwrap_or_default().to_vec())
}

/// The made-up message for an invalid ciphertext.
struct MadeUp(hmac::Key);

impl MadeUp {
    /// Derives the message from the ciphertext and the private key: without the private key nobody
    /// can distinguish it from a real message.
    fn new(pkcs8: &[u8], encrypted: &[u8]) -> Self {
        const PURPOSE: &[u8] = b"keyward: messages whose padding is wrong";
        let of_key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, pkcs8), PURPOSE);
        let of_both = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, of_key.as_ref()), encrypted);
        Self(hmac::Key::new(hmac::HMAC_SHA256, of_both.as_ref()))
    }

    /// Place of the first byte: any place where a message may begin, or the end for an empty
    /// message.
    fn start(&self, length: u32) -> u32 {
        let tag = hmac::sign(&self.0, b"length");
        let number = tag.as_ref().first_chunk().map_or(0, |number| u32::from_be_bytes(*number));
        // Uniform to within 2^-20.
        OVERHEAD + number % (length.saturating_sub(OVERHEAD) + 1)
    }

    fn bytes(&self, length: u32) -> Zeroizing<Vec<u8>> {
        let blocks = (0..length.div_ceil(32)).map(|block| hmac::sign(&self.0, &block.to_be_bytes()));
        let mut bytes = Zeroizing::new(Vec::with_capacity(length.next_multiple_of(32) as usize));
        blocks.for_each(|block| bytes.extend_from_slice(block.as_ref()));
        bytes
    }
}

/// Least length of the padding, in bytes.
const OVERHEAD: u32 = 11;

#[cfg(test)]
mod tests {
    use super::*;

    fn padded(zero: usize) -> Vec<u8> {
        let mut block = vec![0x5a; 256];
        (block[0], block[1], block[zero]) = (0, 2, 0);
        block
    }

    fn opened(block: &[u8]) -> Vec<u8> {
        message(Zeroizing::new(block.to_vec()), &MadeUp::new(b"key", b"ciphertext")).to_vec()
    }

    #[test]
    fn messages_of_every_length_come_out() {
        for zero in 10..256 {
            let mut block = padded(zero);
            if zero < 200 {
                // A zero after the first one belongs to the message.
                block[zero + 20] = 0;
            }
            assert_eq!(opened(&block), block[zero + 1..], "{zero}");
        }
    }

    #[test]
    fn whatever_is_wrong_is_made_up_alike() {
        let made_up = opened(&[0; 256]);
        let at = |place: usize, byte: u8| {
            let mut block = padded(100);
            block[place] = byte;
            block
        };
        for wrong in [at(0, 1), at(1, 1), at(1, 0), at(100, 0x5a), at(2, 0), at(9, 0), vec![0xff; 256]] {
            assert_eq!(opened(&wrong), made_up);
        }
        assert_ne!(made_up, padded(100)[101..]);
    }

    #[test]
    fn what_is_made_up_has_any_length_and_depends_on_both() {
        let made_up = |key: &[u8], encrypted: &[u8]| {
            message(Zeroizing::new(vec![0; 256]), &MadeUp::new(key, encrypted)).to_vec()
        };
        assert_ne!(made_up(b"key", b"one"), made_up(b"key", b"two"));
        assert_ne!(made_up(b"key", b"one"), made_up(b"another", b"one"));
        let lengths: Vec<_> = (0..4000_u32).map(|n| made_up(b"key", &n.to_be_bytes()).len()).collect();
        // 246 lengths: each misses all of 4000 with a probability of 10^-7.
        assert!((0..=245).all(|length| lengths.contains(&length)), "{lengths:?}");
        assert_eq!(lengths.iter().max(), Some(&245));
    }
}
