//! Public keys as EP11 hands them out: a SubjectPublicKeyInfo, then the fields that authenticate
//! it.
//!
//! ```text
//! SEQUENCE        SubjectPublicKeyInfo
//! OCTET STRING    16  WKID
//! OCTET STRING    32  session: zeros
//! OCTET STRING     8  salt, random
//! OCTET STRING     8  mode: zeros
//! OCTET STRING   12n  attributes: a word 0x10nn0000 with the number nn of further attributes, the
//!                     boolean attributes twice, then number and value of each further one; all
//!                     big-endian
//! OCTET STRING    32  HMAC-SHA-256 of all that stands before it
//! ```
//!
//! Ed25519 and X25519 have the form of EP11 here: id-ecPublicKey with the algorithm in place of the
//! curve. Verification also takes the plain SubjectPublicKeyInfo, because it needs no secret and no
//! permission.

use aws_lc_rs::{hmac, rand};
use der::asn1::{AnyRef, BitStringRef, OctetStringRef};
use der::{Decode, Encode, Header, Reader, SliceReader, Tag};
use keyward_grep11::ckr;
use keyward_proto as words;

use super::crypto::Crypto;
use super::error::Error;
use super::public_material::{PublicMaterial, invalid};
use crate::blob::Attributes;
use crate::error::UnitError;
use crate::master_key::WrappingKeys;
use crate::wkid::Wkid;

/// A public key and its attributes.
#[derive(Debug)]
pub(crate) struct PublicKey {
    /// `None` for a bare SubjectPublicKeyInfo, which no MAC authenticates.
    pub(crate) attributes: Option<Attributes>,
    pub(crate) material: PublicMaterial,
    /// The SubjectPublicKeyInfo in the form of the standards, without a bond to RSASSA-PSS.
    pub(crate) spki: Vec<u8>,
}

/// The attributes of the public key of a private key: verify for sign, encrypt for decrypt, wrap
/// for unwrap.
pub(crate) fn public_attributes(private: Attributes) -> Attributes {
    let halves = [
        (Attributes::SIGN, Attributes::VERIFY),
        (Attributes::DECRYPT, Attributes::ENCRYPT),
        (Attributes::UNWRAP, Attributes::WRAP),
    ];
    let none = Attributes::NONE.with(Attributes::MODIFIABLE, true);
    halves.into_iter().fold(none, |public, (own, other)| public.with(other, private.has(own)))
}

/// The SubjectPublicKeyInfo of an RSA key without its bond to RSASSA-PSS. The library does not know
/// the bond.
fn unbound(spki: &[u8]) -> Option<Vec<u8>> {
    let bits = BitStringRef::from_bytes(words::PublicKey::bits_of(spki)?).ok()?.to_der().ok()?;
    // rsaEncryption with its NULL (RFC 3279, 2.3.1).
    const ALGORITHM: [u8; 15] = [0x30, 13, 6, 9, 42, 134, 72, 134, 247, 13, 1, 1, 1, 5, 0];
    AnyRef::new(Tag::Sequence, &[&ALGORITHM, bits.as_slice()].concat()).ok()?.to_der().ok()
}

/// The SubjectPublicKeyInfo at the head of a public key from any EP11 unit, in the form of the
/// standards (RFC 8410 for Ed25519 and X25519).
///
/// Ignores everything after the SubjectPublicKeyInfo, and does not check the key. `None` if the
/// input does not begin with a whole SEQUENCE.
pub fn spki_of_public_key_blob(bytes: &[u8]) -> Option<Vec<u8>> {
    first_element(bytes).map(|end| to_standard(&bytes[..end]))
}

impl Crypto {
    /// Adds attributes and a MAC to a SubjectPublicKeyInfo.
    pub(crate) fn wrap_public(&self, spki: &[u8], attributes: Attributes) -> Result<Vec<u8>, Error> {
        seal(&*self.unit.keys()?, spki, attributes)
            .ok_or(UnitError::Crypto("encode the public key"))
            .map_err(Error::from)
    }

    /// Reads a public key: with the MAC of a unit with this master key, or a bare
    /// SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// `CKR_IBM_WKID_MISMATCH` and `CKR_IBM_BLOB_ERROR` for a wrong MAC, `CKR_PUBLIC_KEY_INVALID`
    /// for any other input.
    pub(crate) fn public_key(&self, bytes: &[u8]) -> Result<PublicKey, Error> {
        if bytes.len() > MAX_PUBLIC {
            return Err(invalid());
        }
        let (spki, seal) = bytes.split_at(first_element(bytes).ok_or_else(invalid)?);
        let attributes = match seal {
            [] => None,
            _ => Some(verify(&*self.unit.keys()?, bytes, seal)?),
        };
        let material = PublicMaterial::read(spki)?;
        let spki = match &material {
            PublicMaterial::RsaPss { .. } => unbound(spki).ok_or_else(invalid)?,
            _ => to_standard(spki),
        };
        Ok(PublicKey { attributes, material, spki })
    }
}

fn seal(keys: &WrappingKeys, spki: &[u8], attributes: Attributes) -> Option<Vec<u8>> {
    let mut salt = [0; 8];
    rand::fill(&mut salt).ok()?;
    let mut packed = Vec::new();
    // Public keys have attributes in the lower word only.
    let word = u32::try_from(attributes.bits() & 0xffff_ffff).ok()?.to_be_bytes();
    if attributes.has(Attributes::LOCAL) {
        packed.extend_from_slice(&0x1001_0000_u32.to_be_bytes());
        packed.extend_from_slice(&[word, word].concat());
        packed.extend_from_slice(&0x8001_000a_u32.to_be_bytes());
        packed.extend_from_slice(&1_u32.to_be_bytes());
    } else {
        packed.extend_from_slice(&0x1000_0000_u32.to_be_bytes());
        packed.extend_from_slice(&[word, word].concat());
    }
    let mut sealed = to_ep11(spki);
    for part in [keys.wkid.as_bytes().as_slice(), &[0; 32], &salt, &[0; 8], &packed] {
        OctetStringRef::new(part).ok()?.encode_to_vec(&mut sealed).ok()?;
    }
    let mac = hmac::sign(&keys.public_keys, &sealed);
    OctetStringRef::new(mac.as_ref()).ok()?.encode_to_vec(&mut sealed).ok()?;
    Some(sealed)
}

/// Checks the fields after the SubjectPublicKeyInfo of `bytes`.
fn verify(keys: &WrappingKeys, bytes: &[u8], seal: &[u8]) -> Result<Attributes, Error> {
    let damaged = || {
        let detail = "the public key is followed by something that no crypto unit with this master key wrote";
        Error::new(ckr::CKR_IBM_BLOB_ERROR, detail)
    };
    let parts = || -> der::Result<[&[u8]; 6]> {
        let mut reader = SliceReader::new(seal)?;
        let mut parts = [&[][..]; 6];
        for part in &mut parts {
            *part = <&OctetStringRef>::decode(&mut reader)?.as_bytes();
        }
        reader.finish()?;
        Ok(parts)
    };
    let [wkid, _session, _salt, _mode, packed, mac] = parts().map_err(|_| damaged())?;
    let wkid = Wkid::from_bytes(wkid.try_into().map_err(|_| damaged())?);
    if wkid != keys.wkid {
        let detail = format!("the public key is of master key {wkid}, this unit has {}", keys.wkid);
        return Err(Error::new(ckr::CKR_IBM_WKID_MISMATCH, detail));
    }
    // The tag and the length of the MAC take two bytes.
    let authenticated = bytes.len().checked_sub(mac.len() + 2).ok_or_else(damaged)?;
    hmac::verify(&keys.public_keys, &bytes[..authenticated], mac).map_err(|_| damaged())?;
    let word = packed.get(4..).and_then(<[u8]>::first_chunk).ok_or_else(damaged)?;
    Ok(Attributes::from_bits(u32::from_be_bytes(*word).into()))
}

/// Length of the first element with its header, in bytes.
fn first_element(bytes: &[u8]) -> Option<usize> {
    let mut reader = SliceReader::new(bytes).ok()?;
    let header = Header::decode(&mut reader).ok()?;
    let start = usize::try_from(reader.position()).ok()?;
    let end = start.checked_add(usize::try_from(header.length()).ok()?)?;
    (header.tag() == Tag::Sequence && end <= bytes.len()).then_some(end)
}

/// The head of a SubjectPublicKeyInfo up to the raw key: in the form of the standards, and in the
/// form of EP11.
const FORMS: &[(&[u8], &[u8])] = &[
    (
        &[0x30, 42, 0x30, 5, 6, 3, 43, 101, 112, 3, 33, 0],
        &[0x30, 51, 0x30, 14, 6, 7, 42, 134, 72, 206, 61, 2, 1, 6, 3, 43, 101, 112, 3, 33, 0],
    ),
    (
        &[0x30, 42, 0x30, 5, 6, 3, 43, 101, 110, 3, 33, 0],
        &[0x30, 51, 0x30, 14, 6, 7, 42, 134, 72, 206, 61, 2, 1, 6, 3, 43, 101, 110, 3, 33, 0],
    ),
];

fn to_ep11(spki: &[u8]) -> Vec<u8> {
    let replaced = FORMS.iter().find_map(|(from, to)| spki.strip_prefix(*from).map(|raw| [to, raw].concat()));
    replaced.unwrap_or_else(|| spki.to_vec())
}

fn to_standard(spki: &[u8]) -> Vec<u8> {
    let replaced = FORMS.iter().find_map(|(to, from)| spki.strip_prefix(*from).map(|raw| [to, raw].concat()));
    replaced.unwrap_or_else(|| spki.to_vec())
}

/// Longest public key, in bytes (8 KiB). ML-DSA-87 takes less than 3 KiB.
const MAX_PUBLIC: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use core::num::NonZeroUsize;

    use keyward_proto::KeyType;

    use super::*;
    use crate::{MasterKey, Unit};

    /// The fields that a hardware unit puts after the SubjectPublicKeyInfo of a key that it
    /// generated.
    fn seal() -> Vec<u8> {
        let packed = [
            &[0x10, 0x01, 0, 0][..],
            &[0, 0, 0x80, 0x24],
            &[0, 0, 0x80, 0x24],
            &[0x80, 0x01, 0, 0x0a],
            &[0, 0, 0, 1],
        ];
        let parts =
            [&[0x9a; 16][..], &[0; 32], &[0x51; 8], &1_u64.to_be_bytes(), &packed.concat(), &[0xe7; 32]];
        let part = |part: &[u8]| [&[4, u8::try_from(part.len()).unwrap()], part].concat();
        parts.map(part).concat()
    }

    #[test]
    fn the_public_key_of_every_type_is_found() {
        let unit = Unit::new(MasterKey::generate().unwrap(), NonZeroUsize::MIN);
        for key_type in KeyType::GENERATED {
            let spki = unit.generate(key_type).unwrap().spki;
            let of_hardware = [to_ep11(&spki), seal()].concat();
            let of_this = super::seal(&unit.keys().unwrap(), &spki, Attributes::NONE).unwrap();
            for blob in [&of_hardware, &of_this, &to_ep11(&spki), &spki] {
                assert_eq!(spki_of_public_key_blob(blob), Some(spki.clone()), "{key_type}");
            }
        }
    }

    #[test]
    fn ed25519_and_x25519_are_rewritten() {
        for last in [112, 110] {
            let raw = [0xd7; 32];
            let head = [0x30, 51, 0x30, 14, 6, 7, 42, 134, 72, 206, 61, 2, 1, 6, 3, 43, 101, last, 3, 33, 0];
            let standard = [&[0x30, 42, 0x30, 5, 6, 3, 43, 101, last, 3, 33, 0][..], &raw].concat();
            let blob = [&head[..], &raw, &seal()].concat();
            assert_eq!(spki_of_public_key_blob(&blob), Some(standard));
        }
    }

    #[test]
    fn what_does_not_begin_with_a_whole_sequence_has_no_public_key() {
        let spki = Unit::new(MasterKey::generate().unwrap(), NonZeroUsize::MIN)
            .generate(KeyType::P256)
            .unwrap()
            .spki;
        for end in 0..spki.len() {
            assert_eq!(spki_of_public_key_blob(&spki[..end]), None, "cut at {end}");
        }
        for bad in [&seal()[..], &[0; 128], &[0x30, 0x80, 0, 0], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]] {
            assert_eq!(spki_of_public_key_blob(bad), None);
        }
    }
}
