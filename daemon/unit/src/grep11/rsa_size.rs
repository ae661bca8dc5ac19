//! Sizes of RSA keys.

use core::ops::RangeInclusive;

use keyward_grep11::ckr;

use super::error::Error;

/// Sizes in bits that signing, encrypting and wrapping take.
pub(super) const OFFERED: RangeInclusive<usize> = 2048..=4096;

/// Sizes in bits that verifying takes. Keys below 2048 bits verify old signatures with
/// `CKM_RSA_PKCS`, for which EP11 has this range, and do nothing else.
pub(super) const VERIFIED: RangeInclusive<usize> = 512..=4096;

/// Length in bits of a number without leading zeros.
pub(super) fn bit_length(number: &[u8]) -> usize {
    number.len() * 8 - number.first().map_or(0, |first| first.leading_zeros() as usize)
}

/// Refuses the size of an RSA key.
pub(super) fn rsa_size() -> Error {
    let detail = "RSA keys of 2048 to 4096 bits are offered, and smaller ones for nothing but to verify with \
                  CKM_RSA_PKCS";
    Error::new(ckr::CKR_KEY_SIZE_RANGE, detail)
}
