use crate::blob::{Attributes, BLOCK, HEADER, MAC, SESSION, VERSION};
use crate::wkid::Wkid;

/// The clear header of a blob of any EP11 unit: this one or a hardware unit.
///
/// The header is not authenticated: only the unit that wrapped the blob can verify its MAC. So the
/// header may spare a client a mistake, and decides nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    wkid: Wkid,
    attributes: Attributes,
}

impl Header {
    /// Reads the header of a blob. `None` if the length or the version is not that of a blob.
    ///
    /// Ignores the session and the compliance mode, which a software crypto unit does not set.
    pub fn read(blob: &[u8]) -> Option<Self> {
        let encrypted = blob.len().checked_sub(HEADER + MAC)?;
        let whole = encrypted > 0 && encrypted.is_multiple_of(BLOCK);
        let (wkid, rest) = blob.get(SESSION..)?.split_first_chunk()?;
        let (attributes, rest) = rest.split_first_chunk()?;
        let (_mode, rest) = rest.split_first_chunk::<8>()?;
        let known = rest.starts_with(&VERSION.to_be_bytes());
        (whole && known).then(|| Self {
            wkid: Wkid::from_bytes(*wkid),
            attributes: Attributes::from_bits(u64::from_be_bytes(*attributes)),
        })
    }

    /// The name of the master key that wrapped the blob.
    pub fn wkid(&self) -> Wkid {
        self.wkid
    }

    /// True if the key may leave its unit, wrapped by another key: `CKA_EXTRACTABLE`.
    pub fn extractable(&self) -> bool {
        self.attributes.has(Attributes::EXTRACTABLE)
    }

    /// True if the key may decrypt: `CKA_DECRYPT`.
    pub fn decrypts(&self) -> bool {
        self.attributes.has(Attributes::DECRYPT)
    }

    /// True if the key may sign: `CKA_SIGN`.
    pub fn signs(&self) -> bool {
        self.attributes.has(Attributes::SIGN)
    }
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroUsize;

    use keyward_proto::KeyType;

    use super::*;
    use crate::{MasterKey, Unit};

    const WKID: [u8; 16] = *b"\x9a\xe2\x1f\x30\x57\xc4\x8b\x66\x0d\x13\xfe\x42\x71\xa5\xb8\x09";

    /// A blob as hardware units make them: in mode FIPS2009, and with a session unless `session` is
    /// zero.
    fn hardware(session: u8, attributes: u64, length: usize) -> Vec<u8> {
        let mut blob = vec![session; 32];
        blob.extend_from_slice(&WKID);
        blob.extend_from_slice(&attributes.to_be_bytes());
        blob.extend_from_slice(&1_u64.to_be_bytes());
        blob.extend_from_slice(&[0x12, 0x34]);
        blob.resize(length, 0xc7);
        blob
    }

    #[test]
    fn headers_of_hardware_units_are_read() {
        // Attributes and lengths as IBM's samples print them: EC keys that were generated,
        // generated and extractable, unwrapped; AES keys that were generated, unwrapped.
        for (attributes, length, extractable, signs) in [
            (0x40_0126, 624, false, true),
            (0x40_1126, 560, false, true),
            (0x40_0125, 624, true, true),
            (0x104, 624, false, true),
            (0x8d25, 256, true, true),
            (0xc01, 272, true, false),
        ] {
            for session in [0, 0x5e] {
                let header = Header::read(&hardware(session, attributes, length)).unwrap();
                assert_eq!(header.wkid(), Wkid::from_bytes(WKID));
                assert_eq!((header.extractable(), header.signs()), (extractable, signs), "{attributes:#x}");
            }
        }
    }

    #[test]
    fn headers_of_this_unit_are_read() {
        let unit = Unit::new(MasterKey::generate().unwrap(), NonZeroUsize::MIN);
        let header = Header::read(&unit.generate(KeyType::P256).unwrap().blob).unwrap();
        assert_eq!(
            (header.wkid(), header.extractable(), header.signs()),
            (unit.wkid().unwrap(), false, true)
        );
    }

    #[test]
    fn what_is_no_blob_has_no_header() {
        for length in 66..300 {
            let whole = length >= 112 + 16 && (length - 112) % 16 == 0;
            assert_eq!(Header::read(&hardware(0, 0x104, length)).is_some(), whole, "{length}");
        }
        let blob = hardware(0, 0x104, 256);
        for end in 0..66 {
            assert_eq!(Header::read(&blob[..end]), None, "cut at {end}");
        }
        for position in [64, 65] {
            let mut other = blob.clone();
            other[position] ^= 1;
            assert_eq!(Header::read(&other), None, "another version");
        }
        assert_eq!(Header::read(&[0x30; 256]), None);
    }
}
