//! What people have given in the place of certificates, by name.

use der::asn1::{AnyRef, ObjectIdentifier};
use der::{Decode, Encode, Reader, SliceReader, Tag, Tagged};
use thiserror::Error;

/// Something else than certificates.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// PKCS#7 (RFC 2315), as it comes from some authorities: it may hold certificates.
    #[error("PKCS#7; take the certificates out of it: openssl pkcs7 {}-print_certs -in FILE -out NEW", option(*der))]
    Pkcs7 {
        /// Whether it is in DER, not in PEM.
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
    /// A reference of ours.
    #[error("a Keyward reference, not a certificate")]
    Reference,
    /// PKCS#10 (RFC 2986).
    #[error(
        "a certificate request, not a certificate: that is what the authority makes of the request and gives back"
    )]
    Request,
    /// A list of revoked certificates (RFC 5280, 5).
    #[error("a list of revoked certificates, not a certificate")]
    Revoked,
}

fn option(der: bool) -> &'static str {
    if der { "-inform DER " } else { "" }
}

/// What a label of PEM stands for.
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

/// What a file in DER is, by the tags of its fields.
pub(super) fn of_der(file: &[u8]) -> Option<Kind> {
    let fields = SliceReader::new(file).ok()?.sequence(|reader| {
        let mut fields = Vec::new();
        while !reader.is_finished() {
            fields.push(AnyRef::decode(reader)?);
        }
        Ok::<_, der::Error>(fields)
    });
    let fields = fields.ok()?;
    let tags: Vec<Tag> = fields.iter().map(Tagged::tag).collect();
    Some(match tags.as_slice() {
        [Tag::ObjectIdentifier, ..] if fields[0].decode_as() == Ok(SIGNED_DATA) => Kind::Pkcs7 { der: true },
        [Tag::Integer, Tag::Sequence, ..] if fields[0].value() == [3] => Kind::Pkcs12,
        [Tag::Sequence, Tag::BitString] => Kind::PublicKey,
        [Tag::Utf8String, ..] => Kind::Reference,
        // The version of a request is not tagged (RFC 2986, 4.1), and a list begins with an algorithm (RFC 5280, 5.1).
        [Tag::Sequence, Tag::Sequence, Tag::BitString] => match fields[0].value() {
            [2, 1, 0, ..] => Kind::Request,
            [2, 1, 1, 0x30, ..] | [0x30, ..] => Kind::Revoked,
            _ => return None,
        },
        _ => return None,
    })
}

/// The first value in DER, without what is behind it.
pub(super) fn first_value(der: &[u8]) -> Option<Vec<u8>> {
    AnyRef::decode(&mut SliceReader::new(der).ok()?).ok()?.to_der().ok()
}

// RFC 2315, 14.
const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
