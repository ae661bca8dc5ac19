//! Shares of a master key: `k` of `n` shares make the key, and fewer reveal nothing.
//!
//! This is Shamir's scheme, byte by byte: each byte of the key is the value at 0 of a random
//! polynomial of degree `k - 1` over GF(256), and a share has the values at its index. The field
//! has the polynomial of AES, x^8 + x^4 + x^3 + x + 1 (FIPS 197, 4.2). No step depends on a secret
//! byte by a branch or by an address.

use core::fmt;

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::pattern::Pattern;
use crate::error::UnitError;
use crate::master_key::MasterKey;

/// A share of a master key. Dropping the share wipes its value, and debug output shows none of it.
// Boxed, so that a move leaves no copy behind.
pub struct Share {
    needed: u8,
    index: u8,
    value: Box<Zeroizing<[u8; 32]>>,
}

impl Share {
    /// A share from its fields; `None` if no split makes such a share.
    pub(crate) fn new(needed: u8, index: u8, value: &[u8; 32]) -> Option<Self> {
        let mut own = Box::new(Zeroizing::new([0; 32]));
        own.copy_from_slice(value);
        (is_number_of_shares(needed) && (1..=MAX_SHARES).contains(&index)).then_some(Self {
            needed,
            index,
            value: own,
        })
    }

    /// Number of shares that make the master key.
    pub fn needed(&self) -> u8 {
        self.needed
    }

    /// Index of the share, from 1.
    pub fn index(&self) -> u8 {
        self.index
    }

    /// The fingerprint of the share.
    pub fn pattern(&self) -> Pattern {
        Pattern::of_share(self.needed, self.index, &self.value)
    }

    pub(crate) fn value(&self) -> &[u8; 32] {
        &self.value
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({} of index {})", self.pattern(), self.index)
    }
}

/// Splits a master key into `number` shares, of which `needed` make the key.
///
/// # Errors
/// [`UnitError::Crypto`] if the system gives no random bytes, or no split makes such shares:
/// callers have checked the numbers.
pub(crate) fn split(key: &MasterKey, needed: u8, number: u8) -> Result<Vec<Share>, UnitError> {
    let failed = UnitError::Crypto("split the master key");
    if !is_number_of_shares(needed) || !(needed..=MAX_SHARES).contains(&number) {
        return Err(failed);
    }
    // The coefficients of each byte, the key first.
    let mut coefficients = vec![Zeroizing::new([0; 32]); usize::from(needed)];
    for (power, row) in coefficients.iter_mut().enumerate() {
        match power {
            0 => row.copy_from_slice(key.bytes()),
            _ => rand::fill(row.as_mut_slice()).map_err(|_| failed)?,
        }
    }
    let share = |index: u8| {
        let mut value = Box::new(Zeroizing::new([0; 32]));
        // Horner's rule, from the highest power down.
        for row in coefficients.iter().rev() {
            for (sum, coefficient) in value.iter_mut().zip(row.iter()) {
                *sum = times(*sum, index) ^ coefficient;
            }
        }
        Share { needed, index, value }
    };
    Ok((1..=number).map(share).collect())
}

/// Makes the master key of shares: the values at 0 of the polynomials through them. `None` if the
/// shares do not fit together: too few, two of one index, or shares of different splits.
pub(crate) fn combine(shares: &[&Share]) -> Option<MasterKey> {
    let needed = shares.first()?.needed;
    let fit = shares.len() == usize::from(needed)
        && shares.iter().enumerate().all(|(place, share)| {
            share.needed == needed && shares[..place].iter().all(|other| other.index != share.index)
        });
    let mut key = MasterKey::zeros();
    for share in shares.iter().filter(|_| fit) {
        // The polynomial that is 1 at this index and 0 at all others, at 0 (Lagrange).
        let others = shares.iter().filter(|other| other.index != share.index);
        let weight = others
            .fold(1, |weight, other| times(weight, times(other.index, inverse(other.index ^ share.index))));
        for (byte, value) in key.bytes_mut().iter_mut().zip(share.value.iter()) {
            *byte ^= times(*value, weight);
        }
    }
    fit.then_some(key)
}

/// True for a number of shares that can make a master key.
pub(crate) fn is_number_of_shares(needed: u8) -> bool {
    (2..=MAX_SHARES).contains(&needed)
}

/// Product in the field. Always the same eight steps.
fn times(a: u8, b: u8) -> u8 {
    (0..8).rev().fold(0, |product: u8, bit| {
        let doubled = (product << 1) ^ (REDUCTION & 0u8.wrapping_sub(product >> 7));
        doubled ^ (a & 0u8.wrapping_sub((b >> bit) & 1))
    })
}

/// The inverse in the field: the 254th power. 0 for 0.
fn inverse(a: u8) -> u8 {
    // 254 is 0b1111_1110.
    (0..7)
        .fold((1, a), |(power, square), _| {
            let square = times(square, square);
            (times(power, square), square)
        })
        .0
}

/// The polynomial of the field without x^8.
const REDUCTION: u8 = 0x1b;

/// Most shares of a key: as many people as can come to one ceremony.
pub const MAX_SHARES: u8 = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Products and inverses of FIPS 197 (4.2, and the S-box of 5.1.1 without its last step).
    #[test]
    fn the_field_is_that_of_aes() {
        assert_eq!(times(0x57, 0x83), 0xc1);
        assert_eq!(times(0x57, 0x13), 0xfe);
        assert_eq!((inverse(0), inverse(1), inverse(0x53)), (0, 1, 0xca));
        for a in 1..=255 {
            assert_eq!(times(a, inverse(a)), 1);
        }
    }

    /// The two shares of "test" and a zero byte in draft-mcgrew-tss-03, section 9.
    #[test]
    fn published_shares_combine() {
        let share = |index, digits: &str| {
            let mut value = [0; 32];
            base16ct::lower::decode(digits, &mut value).unwrap();
            Share::new(2, index, &value).unwrap()
        };
        let key = combine(&[&share(1, "b9fa07e185"), &share(2, "f5409b4511")]).unwrap();
        assert_eq!(&key.bytes()[..5], b"test\0");
    }

    #[test]
    fn every_choice_of_three_of_five_makes_the_key() {
        let key = MasterKey::generate().unwrap();
        let split_up = || split(&key, 3, 5).unwrap();
        let choose = |shares: Vec<Share>, mask: u32| {
            shares.into_iter().enumerate().filter(move |(at, _)| mask >> at & 1 == 1).map(|(_, share)| share)
        };
        let (mut right, mut refused) = (0, 0);
        let shares = split_up();
        let values: Vec<_> = shares.iter().map(|share| (share.index, **share.value)).collect();
        let again = || values.iter().map(|(index, value)| Share::new(3, *index, value).unwrap()).collect();
        for mask in 0..32u32 {
            let chosen: Vec<Share> = choose(again(), mask).collect();
            match combine(&chosen.iter().collect::<Vec<_>>()) {
                Some(made) => {
                    assert_eq!(made.bytes(), key.bytes());
                    right += 1;
                }
                None => refused += 1,
            }
        }
        assert_eq!((right, refused), (10, 22));
        // Two splits of one key do not mix.
        let other = split_up();
        let mixed: Vec<_> = choose(again(), 0b11).chain(choose(other, 0b100)).collect();
        assert_ne!(combine(&mixed.iter().collect::<Vec<_>>()).unwrap().bytes(), key.bytes());
    }

    #[test]
    fn shares_that_do_not_fit_are_refused() {
        let key = MasterKey::generate().unwrap();
        let mut shares = split(&key, 2, 3).unwrap();
        let twice = Share::new(2, shares[0].index, shares[0].value()).unwrap();
        assert!(combine(&[]).is_none());
        assert!(combine(&shares.iter().collect::<Vec<_>>()).is_none(), "three, and two are needed");
        let first = shares.remove(0);
        let of_another_split = Share::new(3, 2, &[1; 32]).unwrap();
        assert!(combine(&[&first, &twice]).is_none(), "one share twice");
        assert!(combine(&[&shares.remove(0), &of_another_split]).is_none(), "another number is needed");
        for (needed, index) in [(0, 1), (1, 1), (17, 1), (2, 0), (2, 17)] {
            assert!(Share::new(needed, index, &[0; 32]).is_none());
        }
        for (needed, number) in [(1, 3), (0, 0), (3, 2), (2, 17)] {
            assert!(split(&key, needed, number).is_err());
        }
    }

    #[test]
    fn fewer_shares_reveal_nothing() {
        // Whatever the key is, one of two shares takes each value: 256 keys, one fixed share.
        let share = Share::new(2, 1, &[0x5a; 32]).unwrap();
        let keys: std::collections::HashSet<u8> = (0..=255)
            .map(|value| {
                let first = Share::new(2, 1, share.value()).unwrap();
                combine(&[&first, &Share::new(2, 2, &[value; 32]).unwrap()]).unwrap().bytes()[0]
            })
            .collect();
        assert_eq!(keys.len(), 256);
    }

    proptest! {
        #[test]
        fn any_split_combines(needed in 2u8..=8, more in 0u8..=8, key: [u8; 32]) {
            let mut master_key = MasterKey::zeros();
            master_key.bytes_mut().copy_from_slice(&key);
            let mut shares = split(&master_key, needed, needed + more).unwrap();
            let chosen = shares.split_off(usize::from(more));
            let combined = combine(&chosen.iter().collect::<Vec<_>>()).unwrap();
            prop_assert_eq!(combined.bytes(), &key);
        }
    }
}
