//! The bytes of a certificate request (PKCS #10, RFC 2986).

use der::asn1::{Any, BitString, ObjectIdentifier};
use der::{Encode, Tag, TagNumber};
use keyward_proto::{Scheme, SchemeFamily};

use super::san::San;
use super::subject::Subject;

/// CertificationRequestInfo for a public key: what is to be signed.
///
/// # Errors
/// If it would be longer than DER can be here, which is 256 MiB.
pub(super) fn info(subject: Option<&Subject>, names: &[San], spki: &[u8]) -> der::Result<Vec<u8>> {
    let subject_der = match subject {
        Some(subject) => subject.to_der()?,
        None => value(Tag::Sequence, Vec::new())?,
    };
    let attributes = match names {
        [] => Vec::new(),
        names => extension_request(&alternative_names(names, subject.is_none())?)?,
    };
    let fields = [0u8.to_der()?, subject_der, spki.to_vec(), value(context(0, true), attributes)?];
    value(Tag::Sequence, fields.concat())
}

/// The whole request; `None` if it is signed with a scheme that is not used for requests.
pub(super) fn whole(info: Vec<u8>, scheme: Scheme, signature: &[u8]) -> Option<Vec<u8>> {
    // Not every authority takes RSASSA-PSS by keys that could do otherwise.
    if scheme.family() == SchemeFamily::RsaPss {
        return None;
    }
    let signature = BitString::from_bytes(signature).and_then(|bits| bits.to_der()).ok()?;
    value(Tag::Sequence, [info, scheme.algorithm_identifier(), signature].concat()).ok()
}

/// The attribute extensionRequest with one extension (RFC 2985, 5.4.2).
fn extension_request(extension: &[u8]) -> der::Result<Vec<u8>> {
    let extensions = value(Tag::Sequence, extension)?;
    let attribute = [EXTENSION_REQUEST.to_der()?, value(Tag::Set, extensions)?];
    value(Tag::Sequence, attribute.concat())
}

/// The extension subjectAltName (RFC 5280, 4.2.1.6), which is critical where there is no other name.
fn alternative_names(names: &[San], critical: bool) -> der::Result<Vec<u8>> {
    let mut general_names = Vec::new();
    for (place, name) in names.iter().enumerate() {
        if !names[..place].contains(name) {
            general_names.extend(name.to_der()?);
        }
    }
    let mut fields = SUBJECT_ALT_NAME.to_der()?;
    if critical {
        fields.extend(true.to_der()?);
    }
    fields.extend(value(Tag::OctetString, value(Tag::Sequence, general_names)?)?);
    value(Tag::Sequence, fields)
}

/// A value of DER.
pub(super) fn value(tag: Tag, content: impl Into<Box<[u8]>>) -> der::Result<Vec<u8>> {
    Any::new(tag, content)?.to_der()
}

/// The tag of a field that is told by its number.
pub(super) fn context(number: u32, constructed: bool) -> Tag {
    Tag::ContextSpecific { constructed, number: TagNumber(number) }
}

/// pkcs-9-at-extensionRequest (RFC 2985, 5.4.2).
const EXTENSION_REQUEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.14");
/// id-ce-subjectAltName (RFC 5280, 4.2.1.6).
const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::purpose::{Purpose, classify};

    /// Ed25519, any point.
    fn spki() -> Vec<u8> {
        let header = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        [&header[..], &[7; 32]].concat()
    }

    #[test]
    fn the_daemon_takes_it_for_what_it_is() {
        let subject: Subject = "CN=shop.example,O=Shop+OU=Web".parse().unwrap();
        let names: Vec<San> = ["shop.example", "192.0.2.1"].map(|name| name.parse().unwrap()).into();
        for (subject, names) in [(Some(&subject), &names[..]), (Some(&subject), &[]), (None, &names)] {
            let info = info(subject, names, &spki()).unwrap();
            assert_eq!(classify(&info, &spki()), Purpose::CertificateRequest);
        }
    }

    #[test]
    fn each_name_stands_there_once() {
        let names: Vec<San> =
            ["shop.example", "DNS:shop.example", "a.example"].map(|name| name.parse().unwrap()).into();
        let twice = info(None, &names, &spki()).unwrap();
        assert_eq!(twice, info(None, &names[1..], &spki()).unwrap());
    }

    #[test]
    fn only_by_schemes_that_authorities_know() {
        assert!(whole(vec![0x30, 0], Scheme::RsaPssRsaeSha256, &[1]).is_none());
        assert!(whole(vec![0x30, 0], Scheme::Ed25519, &[1; 64]).is_some());
    }
}
