//! Points of the NIST curves (SP 800-186, 3.2.1): checks that (x, y) satisfies the equation of the
//! curve.
//!
//! Without this check an attacker could choose twice as many bytes. With the check, y follows from
//! x except for its sign. The cofactor of these curves is 1, so every point on a curve is a valid
//! public key. All inputs are public, so nothing needs constant time.

use crypto_bigint::modular::{ConstMontyForm, ConstMontyParams};
use crypto_bigint::{U256, U384, U576, Uint};

/// A curve with an equation to check.
#[derive(Clone, Copy, Debug)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    /// True if the point `x | y` lies on the curve. Both numbers have the length of the field.
    pub(super) fn has(self, point: &[u8]) -> bool {
        match self {
            Self::P256 => satisfies::<field::P256, 4>(point, 32, &B_256),
            Self::P384 => satisfies::<field::P384, 6>(point, 48, &B_384),
            Self::P521 => satisfies::<field::P521, 9>(point, 66, &B_521),
        }
    }
}

/// True if y^2 = x^3 - 3x + b.
fn satisfies<P: ConstMontyParams<LIMBS>, const LIMBS: usize>(
    point: &[u8],
    length: usize,
    b: &ConstMontyForm<P, LIMBS>,
) -> bool {
    let Some((x, y)) = point.split_at_checked(length).filter(|(_, y)| y.len() == length) else {
        return false;
    };
    let (x, y) = (number::<LIMBS>(x), number::<LIMBS>(y));
    let modulus = P::PARAMS.modulus().as_ref();
    if x.cmp_vartime(modulus).is_ge() || y.cmp_vartime(modulus).is_ge() {
        return false;
    }
    let (x, y) = (ConstMontyForm::<P, LIMBS>::new(&x), ConstMontyForm::<P, LIMBS>::new(&y));
    let three_x = x + x + x;
    y.square() == x.square() * x - three_x + *b
}

/// Reads a number in big-endian bytes. The number has room for all of the bytes.
fn number<const LIMBS: usize>(bytes: &[u8]) -> Uint<LIMBS> {
    let mut words = [0; LIMBS];
    for (word, chunk) in words.iter_mut().zip(bytes.rchunks(size_of::<crypto_bigint::Word>())) {
        *word = chunk.iter().fold(0, |word, byte| word << 8 | crypto_bigint::Word::from(*byte));
    }
    Uint::from_words(words)
}

/// The fields of the curves, by their primes.
#[allow(missing_docs, unreachable_pub, reason = "made by a macro")]
mod field {
    use crypto_bigint::{U256, U384, U576, const_monty_params};

    const_monty_params!(P256, U256, "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff");
    const_monty_params!(
        P384,
        U384,
        "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000ffffffff"
    );
    const_monty_params!(
        P521,
        U576,
        "00000000000001ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
         ffffffffffffffffffffffffffffffffffffffffffff"
    );
}

// The coefficients b.
const B_256: ConstMontyForm<field::P256, 4> = ConstMontyForm::new(&U256::from_be_hex(
    "5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b",
));
const B_384: ConstMontyForm<field::P384, 6> = ConstMontyForm::new(&U384::from_be_hex(
    "b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aef",
));
const B_521: ConstMontyForm<field::P521, 9> = ConstMontyForm::new(&U576::from_be_hex(
    "000000000000\
     0051953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109e156193951ec7e937b1652c0bd3bb1bf073573df88\
     3d2c34f1ef451fd46b503f00",
));

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().chunks(2);
        digits.map(|two| u8::from_str_radix(core::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
    }

    /// The generator of each curve (SP 800-186, 3.2.1), as x | y.
    pub(in super::super) fn generators() -> [(Curve, Vec<u8>); 3] {
        [
            (
                Curve::P256,
                bytes(
                    "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
                     4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
                ),
            ),
            (
                Curve::P384,
                bytes(
                    "aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7\
                     3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f",
                ),
            ),
            (
                Curve::P521,
                bytes(
                    "00c6858e06b70404e9cd9e3ecb662395b4429c648139053fb521f828af606b4d3dbaa14b5e77efe75928fe1dc127a2ffa8\
                     de3348b3c1856a429bf97e7e31c2e5bd66\
                     011839296a789a3bc0045c8a5fb42c7d1bd998f54449579b446817afbd17273e662c97ee72995ef42640c550b9013fad07\
                     61353c7086a272c24088be94769fd16650",
                ),
            ),
        ]
    }

    #[test]
    fn generators_are_points_and_points_with_a_changed_bit_are_not() {
        for (curve, point) in generators() {
            assert!(curve.has(&point), "{curve:?}");
            for at in 0..point.len() {
                for bit in 0..8 {
                    let mut changed = point.clone();
                    changed[at] ^= 1 << bit;
                    assert!(!curve.has(&changed), "{curve:?}, byte {at}");
                }
            }
            assert!(!curve.has(&point[1..]) && !curve.has(&[&point[..], &[0]].concat()));
            assert!(!curve.has(&vec![0; point.len()]), "the point at infinity has no such form");
            // The point with a coordinate that is not reduced.
            assert!(!curve.has(&vec![0xff; point.len()]));
        }
    }

    #[test]
    fn a_coordinate_is_below_the_prime() {
        // (0, sqrt(b)) of P-256, and that point with x = p.
        let y = "66485c780e2f83d72433bd5d84a06bb6541c2af31dae871728bf856a174f93f4";
        assert!(Curve::P256.has(&bytes(&["00".repeat(32).as_str(), y].concat())));
        let p = "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff";
        assert!(!Curve::P256.has(&bytes(&[p, y].concat())));
    }
}
