//! ASN.1: certificate requests for the key itself, and other signed structures in DER or BER.

use super::bytes::Bytes;

/// `SEQUENCE { INTEGER 0, Name, this very SubjectPublicKeyInfo, [0] attributes }` (RFC 2986, 4.1).
pub(super) fn is_certification_request_info(message: &[u8], spki: &[u8]) -> Option<()> {
    let mut outer = Bytes(message);
    let (tag, content, _) = outer.der()?;
    if tag != SEQUENCE || !outer.0.is_empty() {
        return None;
    }
    let mut fields = Bytes(content);
    let (tag, version, _) = fields.der()?;
    if tag != INTEGER || version != [0] {
        return None;
    }
    let (tag, name, _) = fields.der()?;
    if tag != SEQUENCE || !tiles(name) {
        return None;
    }
    let (_, _, public_key) = fields.der()?;
    let (tag, attributes, _) = fields.der()?;
    let complete = tag == CONTEXT_0 && tiles(attributes) && fields.0.is_empty();
    (public_key == spki && complete).then_some(())
}

/// True if the whole message is one SEQUENCE or SET whose content is a row of values, and begins
/// like a signed structure (TBSCertificate, CertificationRequestInfo, TBSCertList, ResponseData,
/// SignedAttributes, ...).
///
/// The reader is as lenient as the most lenient verifier of such signatures: BER with lengths of
/// any form, and tags with more bytes than they need. An indefinite length counts as correct.
///
/// A ServerKeyExchange is refused by chance only if its random bytes fit. Tag and length of the
/// outer value fit in one of 16,000 handshakes (X25519, where the length has one byte), and the
/// content in about one of 600 (counted over a million random messages). Together that is one in
/// 10^7, and only in TLS 1.2. The next attempt of the client has other randoms.
pub(super) fn is_signed_structure(message: &[u8]) -> bool {
    let mut outer = Bytes(message);
    let content = match outer.ber() {
        Some((Tag { class: UNIVERSAL, number: 16 | 17 }, content)) if outer.0.is_empty() => content,
        _ => return false,
    };
    let begins = match Bytes(content).ber() {
        // INTEGER, OBJECT IDENTIFIER, ENUMERATED, SEQUENCE, SET. A short message must meet more
        // conditions, because its length is one byte that text has, too.
        Some((Tag { class: UNIVERSAL, number: 16 | 17 }, first)) => message.len() > 129 || is_row(first),
        Some((Tag { class: UNIVERSAL, number }, _)) => matches!(number, 2 | 6 | 10),
        Some((Tag { class: CONTEXT, number }, _)) => number <= 3,
        _ => false,
    };
    begins && is_row(content)
}

/// True if the bytes are a row of BER values without a rest.
fn is_row(content: &[u8]) -> bool {
    let mut values = Bytes(content);
    while !values.0.is_empty() {
        if values.ber().is_none() {
            return false;
        }
    }
    true
}

/// True if the message is a certificate in DER and up to 64 bytes after it. In OPC UA a server
/// signs the certificate and the nonce of the client in this form (part 4, 5.6.2 and 7.36).
pub(super) fn is_certificate_with_nonce(message: &[u8]) -> bool {
    let mut rest = Bytes(message);
    message.starts_with(&[SEQUENCE, 0x82])
        && rest.der().is_some_and(|(_, content, _)| {
            let mut fields = Bytes(content);
            let signed = fields.der().is_some_and(|(tag, signed, _)| tag == SEQUENCE && tiles(signed));
            signed && tiles(fields.0) && (1..=64).contains(&rest.0.len())
        })
}

/// True if the bytes are a certificate in DER and no more: the signed part, the algorithm, and the
/// signature (RFC 5280, 4.1).
pub(super) fn is_certificate(bytes: &[u8]) -> bool {
    is_sequence_of(bytes, &[SEQUENCE, SEQUENCE, BIT_STRING])
}

/// True if the bytes are a SubjectPublicKeyInfo in DER and no more (RFC 5280, 4.1).
pub(super) fn is_public_key(bytes: &[u8]) -> bool {
    is_sequence_of(bytes, &[SEQUENCE, BIT_STRING])
}

/// True if the bytes are a Name in DER and no more (RFC 5280, 4.1.2.4).
pub(super) fn is_name(bytes: &[u8]) -> bool {
    let mut rest = Bytes(bytes);
    rest.der().is_some_and(|(tag, content, _)| tag == SEQUENCE && rest.0.is_empty() && tiles(content))
}

/// True if the bytes are a SEQUENCE of values with these tags. The content of each inner SEQUENCE
/// must be a row of values.
fn is_sequence_of(bytes: &[u8], tags: &[u8]) -> bool {
    let mut rest = Bytes(bytes);
    let Some((SEQUENCE, content, _)) = rest.der() else { return false };
    let mut fields = Bytes(content);
    let is_next = |tag: &u8| {
        fields.der().is_some_and(|(one, value, _)| one == *tag && (one != SEQUENCE || tiles(value)))
    };
    tags.iter().all(is_next) && fields.0.is_empty() && rest.0.is_empty()
}

/// True if the bytes are a row of DER values without a rest.
fn tiles(content: &[u8]) -> bool {
    let mut rest = Bytes(content);
    while !rest.0.is_empty() {
        if rest.der().is_none() {
            return false;
        }
    }
    true
}

impl<'a> Bytes<'a> {
    /// Tag and content of a BER value, read as leniently as the most lenient reader does (X.690,
    /// 8.1). A value with an indefinite length takes all remaining bytes.
    fn ber(&mut self) -> Option<(Tag, &'a [u8])> {
        let [first] = *self.take(1)?.first_chunk()?;
        let mut number = u32::from(first & 0x1f);
        if number == 0x1f {
            number = 0;
            loop {
                let [byte] = *self.take(1)?.first_chunk()?;
                number = number.saturating_mul(128).saturating_add(u32::from(byte & 0x7f));
                if byte & 0x80 == 0 {
                    break;
                }
            }
        }
        let [length] = *self.take(1)?.first_chunk()?;
        let length = match length {
            0..=0x7f => usize::from(length),
            0x80 => self.0.len(),
            _ => {
                let bytes = self.take(usize::from(length & 0x7f))?;
                bytes.iter().try_fold(0usize, |length, byte| {
                    length.checked_mul(256).map(|length| length | usize::from(*byte))
                })?
            }
        };
        Some((Tag { class: first >> 6, number }, self.take(length)?))
    }

    /// A DER value: tag, content, and the whole value with its length (X.690, 8.1 and 10.1).
    /// Accepts only tags of one byte and minimal definite lengths.
    pub(super) fn der(&mut self) -> Option<(u8, &'a [u8], &'a [u8])> {
        let whole = self.0;
        let [tag, first] = *self.take(2)?.first_chunk()?;
        if tag & 0x1f == 0x1f || tag == 0 {
            return None;
        }
        let length = match first {
            0..=0x7f => usize::from(first),
            0x81..=0x83 => {
                let bytes = self.take(usize::from(first & 0x7f))?;
                let length = bytes.iter().fold(0usize, |length, byte| length << 8 | usize::from(*byte));
                let minimal = bytes.first().is_some_and(|byte| *byte != 0) && length > 0x7f;
                Some(length).filter(|_| minimal)?
            }
            _ => return None,
        };
        let content = self.take(length)?;
        Some((tag, content, whole.get(..whole.len() - self.0.len())?))
    }
}

/// A tag of BER (X.690, 8.1.2).
struct Tag {
    class: u8,
    number: u32,
}

const UNIVERSAL: u8 = 0;
const CONTEXT: u8 = 2;

// Tags, X.690, 8.
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;
const CONTEXT_0: u8 = 0xa0;
