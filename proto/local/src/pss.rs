use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier};
use der::{Decode, Encode, Reader, SliceReader, Tag, TagNumber};

use crate::Hash;
use crate::oid::{MGF1, RSASSA_PSS, SHA256, SHA384, SHA512};

/// Restriction of an RSA key that is bound to RSASSA-PSS (RFC 4055, 1.2): one hash for the message
/// and for MGF1, and a salt as long as the hash, as in TLS (RFC 8446, 4.2.3).
///
/// An AlgorithmIdentifier carries these parameters to say how a signature was made (RFC 4055, 3.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PssParameters {
    hash: Hash,
}

impl PssParameters {
    /// The parameters with this hash.
    pub fn of(hash: Hash) -> Self {
        Self { hash }
    }

    /// The hash of the message and of MGF1.
    pub fn hash(self) -> Hash {
        self.hash
    }

    /// Length of the salt, in bytes.
    pub fn salt(self) -> u8 {
        self.hash.length() as u8
    }

    /// AlgorithmIdentifier in DER for keys with this restriction or without one, and for
    /// signatures. Where RFC 4055 leaves a choice, the form is the form of OpenSSL: the parameters
    /// of the hash are NULL.
    pub fn algorithm_identifier(parameters: Option<Self>) -> Vec<u8> {
        // The encoder fails only for lengths near the end of memory; these are 67 bytes.
        Self::encode(parameters).unwrap_or_default()
    }

    fn encode(parameters: Option<Self>) -> der::Result<Vec<u8>> {
        let mut identifier = RSASSA_PSS.to_der()?;
        if let Some(parameters) = parameters {
            let hash = match parameters.hash {
                Hash::Sha256 => SHA256,
                Hash::Sha384 => SHA384,
                Hash::Sha512 => SHA512,
            };
            let hash = value(Tag::Sequence, &[hash.to_der()?, value(Tag::Null, &[])?].concat())?;
            let mask = value(Tag::Sequence, &[MGF1.to_der()?, hash.clone()].concat())?;
            let salt = parameters.salt().to_der()?;
            let fields = [value(field(0), &hash)?, value(field(1), &mask)?, value(field(2), &salt)?].concat();
            identifier.extend(value(Tag::Sequence, &fields)?);
        }
        value(Tag::Sequence, &identifier)
    }

    /// Reads the parameters of an AlgorithmIdentifier. `None` for parameters that are not
    /// supported: SHA-1, which an empty SEQUENCE stands for; two different hashes; a salt of
    /// another length than the hash. The salt of a key is a minimum, and OpenSSL signs with exactly
    /// that length.
    pub fn read(parameters: AnyRef<'_>) -> Option<Self> {
        let mut fields = [None; 4];
        let read = parameters.sequence(|reader| {
            while !reader.is_finished() {
                let next = AnyRef::decode(reader)?;
                let place = (0..4).find(|number| field(*number) == der::Tagged::tag(&next));
                // Each field at most once, and in this order.
                let free = place.filter(|place| fields.iter().skip(*place as usize).all(Option::is_none));
                let place = free.ok_or(der::ErrorKind::Failed)? as usize;
                fields[place] = Some(next);
            }
            Ok::<_, der::Error>(())
        });
        read.ok()?;
        let [hash, mask, salt, trailer] = fields;
        let hash = hash_of(hash?.value())?;
        let (algorithm, of_mask) = algorithm(mask?.value())?;
        // A salt that is left out has the length for SHA-1.
        let salt = u8::from_der(salt?.value()).ok()?;
        let trailer = trailer.is_none_or(|trailer| u8::from_der(trailer.value()) == Ok(1));
        let same = algorithm == MGF1 && hash_of(&of_mask?.to_der().ok()?) == Some(hash);
        (same && trailer && usize::from(salt) == hash.length()).then_some(Self { hash })
    }
}

/// The SubjectPublicKeyInfo of an RSA key, bound to RSASSA-PSS. `None` if the key is not an RSA
/// key.
pub(crate) fn bound(rsa_public_key: &[u8], parameters: Option<PssParameters>) -> Option<Vec<u8>> {
    let bits = BitStringRef::from_bytes(rsa_public_key).and_then(|bits| bits.to_der()).ok()?;
    let identifier = PssParameters::algorithm_identifier(parameters);
    value(Tag::Sequence, &[identifier, bits].concat()).ok()
}

fn hash_of(identifier: &[u8]) -> Option<Hash> {
    let (hash, parameters) = algorithm(identifier)?;
    // Parameters are absent or NULL (RFC 4055, 2.1).
    if parameters.is_some_and(|parameters| parameters != AnyRef::NULL) {
        return None;
    }
    match hash {
        SHA256 => Some(Hash::Sha256),
        SHA384 => Some(Hash::Sha384),
        SHA512 => Some(Hash::Sha512),
        _ => None,
    }
}

fn algorithm(identifier: &[u8]) -> Option<(ObjectIdentifier, Option<AnyRef<'_>>)> {
    let mut reader = SliceReader::new(identifier).ok()?;
    let fields = reader.sequence(|fields| {
        Ok::<_, der::Error>((ObjectIdentifier::decode(fields)?, Option::<AnyRef<'_>>::decode(fields)?))
    });
    reader.finish().ok()?;
    fields.ok()
}

fn value(tag: Tag, bytes: &[u8]) -> der::Result<Vec<u8>> {
    AnyRef::new(tag, bytes)?.to_der()
}

const fn field(number: u32) -> Tag {
    Tag::ContextSpecific { number: TagNumber(number), constructed: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(identifier: &[u8]) -> Option<PssParameters> {
        let (oid, parameters) = algorithm(identifier).unwrap();
        assert_eq!(oid, RSASSA_PSS);
        PssParameters::read(parameters?)
    }

    #[test]
    fn what_is_written_is_read() {
        for hash in [Hash::Sha256, Hash::Sha384, Hash::Sha512] {
            let parameters = PssParameters::of(hash);
            assert_eq!(read(&PssParameters::algorithm_identifier(Some(parameters))), Some(parameters));
        }
        assert_eq!(PssParameters::algorithm_identifier(None).len(), 13);
    }

    #[test]
    fn the_form_is_that_of_openssl() {
        // Signature algorithm of `openssl req -sigopt rsa_padding_mode:pss -sigopt
        // rsa_pss_saltlen:digest -sha256`.
        let expected = concat!(
            "304106092a864886f70d01010a3034a00f300d06096086480165030402010500",
            "a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120"
        );
        let written = PssParameters::algorithm_identifier(Some(PssParameters::of(Hash::Sha256)));
        assert_eq!(written.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), expected);
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        let good = PssParameters::algorithm_identifier(Some(PssParameters::of(Hash::Sha256)));
        let with = |position: usize, byte: u8| {
            let mut changed = good.clone();
            changed[position] = byte;
            read(&changed)
        };
        let last = good.len() - 1;
        assert!(with(last, 32).is_some());
        // Salts of 33 and 20 bytes, another hash in the mask, SHA-224 for the hash.
        for (position, byte) in [(last, 33), (last, 20), (last - 7, 2), (last - 37, 4)] {
            assert_eq!(with(position, byte), None, "{position}");
        }
        // The defaults, which stand for SHA-1.
        let mut empty = PssParameters::algorithm_identifier(None);
        empty.extend([0x30, 0]);
        empty[1] += 2;
        assert_eq!(read(&empty), None);
        for end in 0..good.len() {
            assert!(algorithm(&good[..end]).is_none(), "cut at {end}");
        }
    }
}
