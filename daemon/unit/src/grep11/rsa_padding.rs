//! The paddings of RSA signatures (RFC 8017, 9) that aws-lc-rs does not offer.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;

use super::hash::{HashFunction, Hashing};
use super::pss::Pss;

/// The padding of PKCS #1 v1.5 (RFC 8017, 9.2): 00 01 FF .. FF 00, then the data, in `length`
/// bytes.
///
/// # Errors
/// If the data are longer than `length` less 11.
pub(crate) fn pkcs1(data: &[u8], length: usize) -> Result<Vec<u8>, Unspecified> {
    let filling = length.checked_sub(data.len() + 3).filter(|filling| *filling >= 8).ok_or(Unspecified)?;
    let mut padded = Vec::with_capacity(length);
    padded.extend_from_slice(&[0, 1]);
    padded.resize(2 + filling, 0xff);
    padded.push(0);
    padded.extend_from_slice(data);
    Ok(padded)
}

/// The padding of PSS (RFC 8017, 9.1.1) for a modulus of `bits` bits. The output is as long as the
/// modulus.
///
/// # Errors
/// If the modulus is too short for hash and salt, or the system gives no random bytes.
pub(crate) fn pss(pss: Pss, digest: &[u8], bits: usize) -> Result<Vec<u8>, Unspecified> {
    let mut salt = vec![0; pss.salt];
    rand::fill(&mut salt)?;
    let length = (bits - 1).div_ceil(8);
    let hash = salted(pss, digest, &salt);
    let zeros = length.checked_sub(hash.len() + salt.len() + 2).ok_or(Unspecified)?;
    let mut block = vec![0; zeros];
    block.push(1);
    block.extend_from_slice(&salt);
    mask(pss, &hash, &mut block);
    block[0] &= top(bits);
    block.extend_from_slice(&hash);
    block.push(0xbc);
    // If `bits` is one more than a multiple of eight, the modulus has one byte more.
    let mut padded = vec![0; bits.div_ceil(8) - length];
    padded.extend_from_slice(&block);
    Ok(padded)
}

/// Verifies the padding of PSS (RFC 8017, 9.1.2).
///
/// # Errors
/// If the padding is not that of the digest.
pub(crate) fn verify_pss(pss: Pss, digest: &[u8], bits: usize, padded: &[u8]) -> Result<(), Unspecified> {
    let length = (bits - 1).div_ceil(8);
    let (left_over, block) = padded.split_at_checked(padded.len() - length).ok_or(Unspecified)?;
    let (block, trailer) = block.split_at_checked(length - 1).ok_or(Unspecified)?;
    let masked = block.len().checked_sub(pss.hash.length()).ok_or(Unspecified)?;
    let (masked, hash) = block.split_at(masked);
    let first = *masked.first().ok_or(Unspecified)?;
    if left_over.iter().any(|byte| *byte != 0) || trailer != [0xbc] || first & !top(bits) != 0 {
        return Err(Unspecified);
    }
    let mut block = masked.to_vec();
    mask(pss, hash, &mut block);
    block[0] &= top(bits);
    let zeros = block.len().checked_sub(pss.salt + 1).ok_or(Unspecified)?;
    let (zeros, salt) = block.split_at(zeros);
    if zeros.iter().any(|byte| *byte != 0) || salt.first() != Some(&1) {
        return Err(Unspecified);
    }
    verify_slices_are_equal(&salted(pss, digest, &salt[1..]), hash)
}

fn salted(pss: Pss, digest: &[u8], salt: &[u8]) -> Vec<u8> {
    let mut hashing = Hashing::new(pss.hash);
    hashing.update(&[0; 8]);
    hashing.update(digest);
    hashing.update(salt);
    hashing.finish()
}

/// Combines a block with the mask that MGF1 makes of a seed (RFC 8017, B.2.1).
fn mask(pss: Pss, seed: &[u8], block: &mut [u8]) {
    for (counter, chunk) in (0_u32..).zip(block.chunks_mut(pss.mask.length())) {
        let mut hashing = Hashing::new(pss.mask);
        hashing.update(seed);
        hashing.update(&counter.to_be_bytes());
        for (byte, mask) in chunk.iter_mut().zip(hashing.finish()) {
            *byte ^= mask;
        }
    }
}

/// The bits of the first byte that belong to a number below 2^(bits - 1).
fn top(bits: usize) -> u8 {
    0xff >> (8 * (bits - 1).div_ceil(8) - (bits - 1))
}

/// The bytes before the digest in a DigestInfo (RFC 8017, 9.2, note 1).
pub(crate) fn digest_info_head(hash: HashFunction) -> Option<Vec<u8>> {
    // The last part of the object identifier 2.16.840.1.101.3.4.2.x (RFC 8017, appendix C).
    let arc = match hash {
        HashFunction::Sha1 => return Some(SHA1_HEAD.to_vec()),
        HashFunction::Sha224 => 4,
        HashFunction::Sha256 => 1,
        HashFunction::Sha384 => 2,
        HashFunction::Sha512 => 3,
        _ => return None,
    };
    let length = u8::try_from(hash.length()).ok()?;
    let oid = [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, arc];
    Some([&[0x30, length + 17, 0x30, 13, 6, 9][..], &oid, &[5, 0, 4, length]].concat())
}

/// The bytes before a digest of SHA-1, whose object identifier is 1.3.14.3.2.26.
const SHA1_HEAD: [u8; 15] = [0x30, 33, 0x30, 9, 6, 5, 43, 14, 3, 2, 26, 5, 0, 4, 20];
