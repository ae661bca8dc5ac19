//! Kinds of files that people give instead of certificates, and advice for each.

use der::asn1::{AnyRef, ObjectIdentifier};
use der::{Decode, Encode, Reader, SliceReader, Tag, Tagged};
use thiserror::Error;

/// A kind of file that is no certificate.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// PKCS#7 (RFC 2315), which some authorities send: the file may contain certificates.
    #[error("PKCS#7; take the certificates out of it: openssl pkcs7 {}-print_certs -in FILE -out NEW", option(*der))]
    Pkcs7 {
        /// True for DER, false for PEM.
        der: bool,
    },
    /// PKCS#12 (RFC 7292).
    #[error(
        "a PKCS#12 archive; keyward key import takes its key with its certificates; for the certificates alone: openssl pkcs12 -legacy -in FILE -nokeys -out NEW"
    )]
    Pkcs12,
    /// A public key.
    #[error("a public key, not a certificate")]
    PublicKey,
    /// A Keyward reference.
    #[error("a Keyward reference, not a certificate")]
    Reference,
    /// PKCS#10 (RFC 2986).
    #[error(
        "a certificate request, not a certificate: the authority returns the certificate for the request"
    )]
    Request,
    /// A list of revoked certificates (RFC 5280, 5).
    #[error("a list of revoked certificates, not a certificate")]
    Revoked,
}

fn option(der: bool) -> &'static str {
    if der { "-inform DER " } else { "" }
}

/// Name of the content that a label of PEM stands for.
pub(super) fn of_label(label: &[u8]) -> Option<Kind> {
    Some(match label {
        b"PKCS7" | b"PKCS #7 SIGNED DATA" | b"CMS" => Kind::Pkcs7 { der: false },
        b"CERTIFICATE REQUEST" | b"NEW CERTIFICATE REQUEST" => Kind::Request,
        b"PUBLIC KEY" | b"RSA PUBLIC KEY" => Kind::PublicKey,
        b"KEYWARD KEY" => Kind::Reference,
        b"X509 CRL" => Kind::Revoked,
        _ => return None,
    })
}

/// Name of the content of a file in DER, by the tags of its fields.
pub(super) fn of_der(file: &[u8]) -> Option<Kind> {
    let fields = sequence(file)?;
    Some(match tags(&fields).as_slice() {
        [Tag::ObjectIdentifier, ..] if fields[0].decode_as() == Ok(SIGNED_DATA) => Kind::Pkcs7 { der: true },
        [Tag::Integer, Tag::Sequence, ..] if fields[0].value() == [3] => Kind::Pkcs12,
        [Tag::Sequence, Tag::BitString] => Kind::PublicKey,
        [Tag::Utf8String, ..] => Kind::Reference,
        [Tag::Sequence, Tag::Sequence, Tag::BitString] => match tags(&inner(&fields[0])?).as_slice() {
            // RFC 2986, 4.1.
            [Tag::Integer, Tag::Sequence, Tag::Sequence]
            | [Tag::Integer, Tag::Sequence, Tag::Sequence, Tag::ContextSpecific { .. }] => Kind::Request,
            // RFC 5280, 5.1: a time stands where a certificate has two in a sequence.
            [Tag::Integer, Tag::Sequence, Tag::Sequence, Tag::UtcTime | Tag::GeneralizedTime, ..]
            | [Tag::Sequence, Tag::Sequence, Tag::UtcTime | Tag::GeneralizedTime, ..] => Kind::Revoked,
            _ => return None,
        },
        _ => return None,
    })
}

/// True if DER is a certificate (RFC 5280, 4.1) with a time before 1970.
pub(super) fn is_from_before_1970(der: &[u8]) -> bool {
    let times = || {
        let fields = inner(sequence(der)?.first()?)?;
        // The version has a tag of its own, and is absent in version 1.
        let mut numbered =
            fields.iter().skip_while(|field| matches!(field.tag(), Tag::ContextSpecific { .. }));
        inner(numbered.nth(3)?)
    };
    let is_before = |time: &AnyRef<'_>| match time.tag() {
        Tag::UtcTime => matches!(time.value(), [b'5' | b'6', ..]),
        Tag::GeneralizedTime => time.value().get(..4).is_some_and(|year| year < b"1970".as_slice()),
        _ => false,
    };
    times().is_some_and(|times| times.iter().any(is_before))
}

/// Fields of a file that is one SEQUENCE.
fn sequence(der: &[u8]) -> Option<Vec<AnyRef<'_>>> {
    inner(&AnyRef::try_from(der).ok()?)
}

fn inner<'a>(sequence: &AnyRef<'a>) -> Option<Vec<AnyRef<'a>>> {
    if sequence.tag() != Tag::Sequence {
        return None;
    }
    let mut reader = SliceReader::new(sequence.value()).ok()?;
    let mut fields = Vec::new();
    while !reader.is_finished() {
        fields.push(AnyRef::decode(&mut reader).ok()?);
    }
    Some(fields)
}

fn tags(fields: &[AnyRef<'_>]) -> Vec<Tag> {
    fields.iter().map(Tagged::tag).collect()
}

/// The first value in DER, without the bytes after it.
pub(super) fn first_value(der: &[u8]) -> Option<Vec<u8>> {
    AnyRef::decode(&mut SliceReader::new(der).ok()?).ok()?.to_der().ok()
}

// RFC 2315, 14.
const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
