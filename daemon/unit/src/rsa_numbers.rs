//! RSA by its numbers (RFC 8017, 5): the only private key arithmetic of our own.
//!
//! This file does four things that aws-lc-rs does not offer:
//! - decryption that returns the padding, so that our code can check it in constant time
//!   ([`crate::premaster`] and the implicit rejection of GREP11);
//! - signatures over a padding of our own: data as they are, SHA-1 and SHA-224, and PSS with two
//!   hash functions. GREP11 clients outside TLS ask for them;
//! - public exponents other than 65537;
//! - keys that lack numbers which the library needs, from files of OpenSSH and of other programs.
//!
//! TLS signatures never come here: they are made by aws-lc-rs.
//!
//! # Why no crate, and not the C library
//! The crate `rsa` has the open advisory RUSTSEC-2023-0071, a timing leak in private key
//! operations, and deny.toml refuses it. We know of no other Rust crate with raw RSA.
//!
//! aws-lc-sys has `RSA_decrypt` and `RSA_sign_raw` without padding, and would be several times
//! faster. It would also bring `unsafe`, which this crate forbids, into the one crate that touches
//! private keys: pointers, ownership of `RSA` and `BIGNUM`, and the error queue. RSA key exchange
//! and the mechanisms above are rare, so their speed does not pay for that.
//!
//! # What takes a constant time
//! The arithmetic is that of crypto-bigint, which is constant-time except in functions named
//! `vartime`, and which checks this in its own CI on x86_64 and aarch64. This file calls such
//! functions, and `pow_bounded_exp`, on public numbers only: the modulus and the public exponent.
//! The private exponents are raised over their full reserved length, the input is blinded with a
//! random number, and the inverse of the blinding and the reduction by the primes are the
//! constant-time ones. The length of each prime is visible; it follows from the modulus.
//!
//! The result is checked with the public key before anyone sees it, so a fault of the machine in
//! one half of the computation reveals no prime.
//!
//! Not constant-time: reading a key from a file ([`reduced`], [`from_openssh`]) or changing its
//! exponent ([`with_exponent`]). Each happens once for a key, and shows the number of leading zero
//! bytes in an exponent. `reduced` also compares two exponents of a file byte by byte.
//!
//! # Wiping
//! All numbers are wiped after use, except the primes: crypto-bigint keeps a modulus in memory that
//! cannot be wiped from here, so freed memory may hold the primes until it is used again.
//!
//! # Tests
//! Here: both exponents undo each other at the limits of the range, a fault reveals nothing, and
//! another exponent keeps the modulus. In `premaster.rs`: valid and invalid paddings take the same
//! time, over the whole decryption within 5 %. No test measures how the time depends on the private
//! numbers.

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{KeyPairComponents, PublicKeyComponents};
use aws_lc_rs::signature::RsaKeyPair;
use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, ConcatenatingMul, NonZero, Odd, Resize};
use der::asn1::UintRef;
use der::{Decode, Header, Reader, SliceReader, Tag};
use zeroize::Zeroizing;

use crate::pkcs8;

/// The numbers of a private key.
pub(crate) struct PrivateNumbers {
    public: PublicNumbers,
    p: Prime,
    q: Prime,
    /// The inverse of q modulo p.
    q_inverse: Zeroizing<BoxedUint>,
}

struct Prime {
    modulus: BoxedMontyParams,
    /// The private exponent modulo this prime less one.
    exponent: Zeroizing<BoxedUint>,
}

impl PrivateNumbers {
    /// Reads the numbers of a PKCS#8. Checks nothing: the key must be valid.
    pub(crate) fn read(pkcs8: &[u8]) -> Result<Self, Unspecified> {
        let [n, e, _, p, q, d_p, d_q, q_inverse] = numbers(pkcs8)?;
        let prime = |prime: &[u8], exponent: &[u8]| -> Result<Prime, Unspecified> {
            let modulus = BoxedMontyParams::new(odd(secret(prime, prime.len())?)?);
            Ok(Prime { modulus, exponent: Zeroizing::new(secret(exponent, prime.len())?) })
        };
        Ok(Self {
            public: PublicNumbers::new(n, e)?,
            q_inverse: Zeroizing::new(secret(q_inverse, p.len())?),
            p: prime(p, d_p)?,
            q: prime(q, d_q)?,
        })
    }

    /// True if a ciphertext is as long as the modulus and below it, which anyone can see.
    pub(crate) fn is_below_modulus(&self, input: &[u8]) -> bool {
        self.public.number(input).is_ok()
    }

    /// RSASP1 and RSADP (RFC 8017, 5.1.2): raises a number to the private exponent. The input is as
    /// long as the modulus and below it.
    pub(crate) fn apply(&self, input: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let modulus = &self.public.modulus;
        let input = self.public.number(input)?;
        let blind = self.public.random()?;
        let blinded = &input * &self.public.raise(&blind);
        let unblind = Option::<BoxedMontyForm>::from(blind.invert()).ok_or(Unspecified)?;

        let blinded = Zeroizing::new(blinded.retrieve());
        let m_p = Zeroizing::new(self.p.raise(&blinded));
        let m_q = Zeroizing::new(Zeroizing::new(self.q.raise(&blinded)).retrieve());
        // Garner's formula combines the two halves (RFC 8017, 5.1.2, 2b).
        let difference = Zeroizing::new(&*m_p - &*Zeroizing::new(self.p.number(&m_q)));
        let q_inverse = Zeroizing::new(self.p.number(&self.q_inverse));
        let h = Zeroizing::new(Zeroizing::new(&*difference * &*q_inverse).retrieve());
        let product = Zeroizing::new(h.concatenating_mul(self.q.modulus.modulus().as_ref()));
        let sum = Zeroizing::new(product.wrapping_add(&*m_q));
        let sum = (&*sum).resize(modulus.bits_precision());

        let output = Zeroizing::new(&BoxedMontyForm::new(sum, modulus) * &unblind);
        if self.public.raise(&output).retrieve() != input.retrieve() {
            return Err(Unspecified);
        }
        self.public.bytes(&Zeroizing::new(output.retrieve()))
    }
}

impl Prime {
    fn number(&self, number: &BoxedUint) -> BoxedMontyForm {
        let modulus = self.modulus.modulus().as_nz_ref();
        BoxedMontyForm::new(number.rem(modulus), &self.modulus)
    }

    fn raise(&self, number: &BoxedUint) -> BoxedMontyForm {
        self.number(number).pow(&self.exponent)
    }
}

/// The numbers of a public key.
pub(crate) struct PublicNumbers {
    modulus: BoxedMontyParams,
    exponent: BoxedUint,
    /// Length of the modulus, in bytes.
    length: usize,
}

impl PublicNumbers {
    /// Takes modulus and exponent, big-endian, without leading zeros.
    pub(crate) fn new(modulus: &[u8], exponent: &[u8]) -> Result<Self, Unspecified> {
        Ok(Self {
            length: modulus.len(),
            modulus: BoxedMontyParams::new_vartime(odd(BoxedUint::from_be_slice_vartime(modulus))?),
            exponent: BoxedUint::from_be_slice_vartime(exponent),
        })
    }

    /// RSAVP1 and RSAEP (RFC 8017, 5.2.2): raises a number to the public exponent. The input is as
    /// long as the modulus and below it.
    pub(crate) fn apply(&self, input: &[u8]) -> Result<Vec<u8>, Unspecified> {
        self.bytes(&self.raise(&self.number(input)?).retrieve())
    }

    fn number(&self, input: &[u8]) -> Result<BoxedMontyForm, Unspecified> {
        let number = secret(input, self.length)?;
        match input.len() == self.length && number < *self.modulus.modulus().as_ref() {
            true => Ok(BoxedMontyForm::new(number, &self.modulus)),
            false => Err(Unspecified),
        }
    }

    fn raise(&self, number: &BoxedMontyForm) -> BoxedMontyForm {
        number.pow_bounded_exp(&self.exponent, self.exponent.bit_width_vartime())
    }

    /// A random number below the modulus, uniform to within 2^-64.
    fn random(&self) -> Result<BoxedMontyForm, Unspecified> {
        let mut bytes = Zeroizing::new(vec![0; self.length + 8]);
        rand::fill(&mut bytes)?;
        let wide = Zeroizing::new(secret(&bytes, bytes.len())?);
        let number = wide.rem(self.modulus.modulus().as_nz_ref());
        Ok(BoxedMontyForm::new(number.resize(self.modulus.bits_precision()), &self.modulus))
    }

    fn bytes(&self, number: &BoxedUint) -> Result<Vec<u8>, Unspecified> {
        let bytes = Zeroizing::new(number.to_be_bytes());
        let start = bytes.len().checked_sub(self.length).ok_or(Unspecified)?;
        Ok(bytes[start..].to_vec())
    }
}

/// A key with the same primes and another public exponent. `None` if the exponent has no inverse
/// for these primes.
///
/// # Errors
/// If the PKCS#8 cannot be read, or the library refuses the new key.
pub(crate) fn with_exponent(pkcs8: &[u8], exponent: u64) -> Result<Option<RsaKeyPair>, Unspecified> {
    let [n, _, _, p, q, _, _, q_inverse] = numbers(pkcs8)?;
    let exponent = exponent.to_be_bytes();
    let primes = Primes::new(p, q, n.len())?;
    let inverse: Option<BoxedUint> = secret(&exponent, n.len())?.invert_mod(&primes.totient).into();
    let Some(d) = inverse.map(Zeroizing::new) else { return Ok(None) };
    primes.key(n, trimmed(&exponent), &d, q_inverse).map(Some)
}

/// Reads an RSAPrivateKey (RFC 8017, A.1.2) whose private exponent is not below the modulus; `None`
/// if it is. The library refuses such a key, or accepts it and does not sign. The exponent modulo
/// (p - 1)(q - 1) gives the same signatures.
///
/// # Errors
/// If the numbers do not belong together.
pub(crate) fn reduced(pkcs1: &[u8]) -> Result<Option<RsaKeyPair>, Unspecified> {
    let [n, e, d, p, q, d_p, d_q, q_inverse] = numbers_of(pkcs1).map_err(|_| Unspecified)?;
    if (d.len(), d) < (n.len(), n) {
        return Ok(None);
    }
    let primes = Primes::new(p, q, d.len())?;
    let d = Zeroizing::new(secret(d, d.len())?);
    // The library does not see these two numbers of the file.
    match *bytes_of(&d.rem(&*primes.p_1)) == d_p && *bytes_of(&d.rem(&*primes.q_1)) == d_q {
        true => primes.key(n, e, &d, q_inverse).map(Some),
        false => Err(Unspecified),
    }
}

/// Makes a key from the numbers in a key file of OpenSSH.
///
/// # Errors
/// If the numbers do not belong together.
pub(crate) fn from_openssh([n, e, d, q_inverse, p, q]: [&[u8]; 6]) -> Result<RsaKeyPair, Unspecified> {
    let length = n.len().max(d.len());
    Primes::new(p, q, length)?.key(n, e, &Zeroizing::new(secret(d, length)?), q_inverse)
}

/// The primes of a key, and each prime less one.
struct Primes<'a> {
    p: &'a [u8],
    q: &'a [u8],
    p_1: Zeroizing<NonZero<BoxedUint>>,
    q_1: Zeroizing<NonZero<BoxedUint>>,
    /// The product of both.
    totient: Zeroizing<NonZero<BoxedUint>>,
}

impl<'a> Primes<'a> {
    /// Reserves `length` bytes for each number, at least the length of the modulus.
    fn new(p: &'a [u8], q: &'a [u8], length: usize) -> Result<Self, Unspecified> {
        // Twice the longest modulus, so that a made-up file cannot keep the unit busy.
        if length > 2 * 8192 / 8 {
            return Err(Unspecified);
        }
        let not_zero = |number: BoxedUint| -> Result<Zeroizing<NonZero<BoxedUint>>, Unspecified> {
            Option::from(NonZero::new(number)).map(Zeroizing::new).ok_or(Unspecified)
        };
        let minus_one =
            |prime: &[u8]| not_zero(secret(prime, length)?.wrapping_sub(BoxedUint::one_with_precision(64)));
        let (p_1, q_1) = (minus_one(p)?, minus_one(q)?);
        let totient = not_zero(p_1.wrapping_mul(&**q_1))?;
        Ok(Self { p, q, p_1, q_1, totient })
    }

    fn key(&self, n: &[u8], e: &[u8], d: &BoxedUint, q_inverse: &[u8]) -> Result<RsaKeyPair, Unspecified> {
        let remainder = |by: &NonZero<BoxedUint>| bytes_of(&Zeroizing::new(d.rem(by)));
        let (d, d_p, d_q) = (remainder(&self.totient), remainder(&self.p_1), remainder(&self.q_1));
        let pair = RsaKeyPair::from_components(&KeyPairComponents {
            public_key: PublicKeyComponents { n, e },
            d: d.as_slice(),
            p: self.p,
            q: self.q,
            dP: d_p.as_slice(),
            dQ: d_q.as_slice(),
            qInv: q_inverse,
        })?;
        Ok(pair)
    }
}

/// The visible properties of an RSA private key, before the key is checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RsaShape {
    /// Size of the modulus, in bits.
    pub(crate) bits: usize,
    /// True if the key has more than two primes (RFC 8017, A.1.2).
    pub(crate) has_more_primes: bool,
}

impl RsaShape {
    /// Reads the properties from a PKCS#8; `None` if it holds no RSA key.
    pub(crate) fn read(pkcs8: &[u8]) -> Option<Self> {
        let read = || -> der::Result<Self> {
            let mut key = SliceReader::new(pkcs8::fields(pkcs8)?.1.as_bytes())?;
            let header = Header::decode(&mut key)?;
            header.tag().assert_eq(Tag::Sequence)?;
            let version = u8::decode(&mut key)?;
            let modulus = UintRef::decode(&mut key)?;
            // An RSAPublicKey begins the same way and ends here.
            UintRef::decode(&mut key)?;
            UintRef::decode(&mut key)?;
            let modulus = modulus.as_bytes();
            let zeros = modulus.first().map_or(0, |first| first.leading_zeros() as usize);
            Ok(Self { bits: modulus.len() * 8 - zeros, has_more_primes: version > 0 })
        };
        read().ok()
    }
}

/// The numbers of an RSAPrivateKey (RFC 8017, A.1.2) within a PKCS#8: n, e, d, p, q, dP, dQ, qInv.
fn numbers(pkcs8: &[u8]) -> Result<[&[u8]; 8], Unspecified> {
    let read = || -> der::Result<[&[u8]; 8]> { numbers_of(pkcs8::fields(pkcs8)?.1.as_bytes()) };
    read().map_err(|_| Unspecified)
}

/// The numbers of an RSAPrivateKey alone, in the same order.
fn numbers_of(pkcs1: &[u8]) -> der::Result<[&[u8]; 8]> {
    SliceReader::new(pkcs1)?.sequence(|fields| {
        u8::decode(fields)?;
        let mut numbers = [&[][..]; 8];
        for number in &mut numbers {
            *number = UintRef::decode(fields)?.as_bytes();
        }
        Ok(numbers)
    })
}

/// A number without leading zeros.
fn bytes_of(number: &BoxedUint) -> Zeroizing<Vec<u8>> {
    let bytes = Zeroizing::new(number.to_be_bytes().to_vec());
    Zeroizing::new(trimmed(&bytes).to_vec())
}

/// A number with room for `length` bytes. The time does not depend on the value.
fn secret(bytes: &[u8], length: usize) -> Result<BoxedUint, Unspecified> {
    let bits = u32::try_from(length * 8)?;
    BoxedUint::from_be_slice(bytes, bits).map_err(|_| Unspecified)
}

fn odd(number: BoxedUint) -> Result<Odd<BoxedUint>, Unspecified> {
    Option::from(Odd::new(number)).ok_or(Unspecified)
}

fn trimmed(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..]
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rsa::KeySize;
    use keyward_proto::PublicKey;
    use proptest::prelude::*;

    use super::*;
    use crate::key::Key;

    fn numbers_of(pair: RsaKeyPair) -> PrivateNumbers {
        PrivateNumbers::read(&Key::from_rsa(pair).unwrap().to_pkcs8().unwrap()).unwrap()
    }

    #[test]
    fn the_private_undoes_the_public_exponent() {
        let numbers = numbers_of(RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
        let modulus = numbers.public.bytes(numbers.public.modulus.modulus().as_ref()).unwrap();
        let (mut one, mut last) = ([0; 256], modulus.clone());
        one[255] = 1;
        last[255] -= 1;
        let mut middle = [0x55; 256];
        middle[0] = 0;
        for input in [[0; 256].as_slice(), &one, &middle, &last] {
            // The blinding factor is random, so these inputs show that it is undone.
            let output = numbers.apply(input).unwrap();
            assert_eq!(numbers.public.apply(&output).unwrap(), input);
        }
        for wrong in [modulus.as_slice(), &[0xff; 256], &one[1..], &[0; 257], &[]] {
            assert!(numbers.apply(wrong).is_err());
            assert!(numbers.public.apply(wrong).is_err());
        }
    }

    #[test]
    fn a_fault_gives_nothing_away() {
        let mut numbers = numbers_of(RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
        // A wrong number in one half of the computation, as a fault of the machine would make it.
        let flipped = numbers.p.exponent.wrapping_add(BoxedUint::one_with_precision(64));
        numbers.p.exponent = Zeroizing::new(flipped);
        assert!(numbers.apply(&[1; 256]).is_err());
    }

    #[test]
    fn another_exponent_keeps_the_modulus() {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let pkcs8 = Key::from_rsa(pair.clone()).unwrap().to_pkcs8().unwrap();
        // A prime of 32 bits divides p - 1 or q - 1 once in a billion times.
        let other = with_exponent(&pkcs8, 4_294_967_291).unwrap().unwrap();
        let public = |pair| match PublicKey::from_spki(Key::from_rsa(pair).unwrap().spki()).unwrap() {
            PublicKey::Rsa { modulus, exponent } => (modulus, exponent),
            other => panic!("{other:?}"),
        };
        let ((modulus, _), (same, exponent)) = (public(pair), public(other));
        assert_eq!(same, modulus);
        assert_eq!(exponent, [0xff, 0xff, 0xff, 0xfb]);
        // Both p - 1 and q - 1 are even.
        assert!(with_exponent(&pkcs8, 65_536).unwrap().is_none());
    }

    proptest! {
        #[test]
        fn garbage_is_no_key(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(PrivateNumbers::read(&bytes).is_err());
        }
    }
}
