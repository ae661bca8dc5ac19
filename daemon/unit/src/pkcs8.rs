use der::asn1::{AnyRef, OctetStringRef};
use der::{Decode, Reader, SliceReader};

/// Reads the AlgorithmIdentifier and the private key of a PKCS#8 (RFC 5958, 2).
pub(crate) fn fields(pkcs8: &[u8]) -> der::Result<(AnyRef<'_>, &OctetStringRef)> {
    SliceReader::new(pkcs8)?.sequence(|fields| {
        u8::decode(fields)?;
        let algorithm = AnyRef::decode(fields)?;
        let key = <&OctetStringRef>::decode(fields)?;
        while !fields.is_finished() {
            AnyRef::decode(fields)?;
        }
        Ok::<_, der::Error>((algorithm, key))
    })
}
