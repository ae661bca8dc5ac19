use der::asn1::AnyRef;
use der::{Decode, Reader, SliceReader};

/// The values in a SEQUENCE that is the whole input.
pub(super) fn fields(der: &[u8]) -> der::Result<Vec<AnyRef<'_>>> {
    let mut reader = SliceReader::new(der)?;
    let fields = reader.sequence(|reader| {
        let mut fields = Vec::new();
        while !reader.is_finished() {
            fields.push(AnyRef::decode(reader)?);
        }
        Ok::<_, der::Error>(fields)
    })?;
    reader.finish()?;
    Ok(fields)
}
