//! PKCS#12 archives (RFC 7292).
//!
//! The MAC of an archive is not checked. It would reveal a wrong passphrase, as the padding and the
//! contents do, and it protects nothing else here: a key is checked by itself, and certificates are
//! checked by their signatures.

use der::asn1::{AnyRef, ObjectIdentifier};
use der::{Decode, Reader, SliceReader, Tag, TagNumber, Tagged};
use zeroize::Zeroizing;

use super::ber;
use super::der_fields;
use super::encrypted::{Passphrase, decrypt};
use super::error::ImportError;

/// The content of an archive, in its order.
#[derive(Default)]
pub(super) struct Archive {
    /// Private keys, as PKCS#8.
    pub(super) keys: Vec<Zeroizing<Vec<u8>>>,
    /// Certificates in DER.
    pub(super) certificates: Vec<Vec<u8>>,
}

impl Archive {
    /// Reads an archive in BER or DER.
    pub(super) fn read(file: &[u8], passphrase: Passphrase<'_>) -> Result<Self, ImportError> {
        let mut archive = Self::default();
        let file = ber::to_der(file).ok_or(DAMAGED)?;
        let pfx = fields(&file)?;
        let [_, content, ..] = pfx[..] else { return Err(DAMAGED) };
        let (kind, content) = content_info(content)?;
        if kind != DATA {
            return Err(ImportError::Encryption("public keys, or signed".into()));
        }
        let safes = ber::to_der(octets(content)?.as_slice()).ok_or(DAMAGED)?;
        for safe in fields(&safes)? {
            archive.read_safe(safe, passphrase)?;
        }
        Ok(archive)
    }

    fn read_safe(&mut self, safe: AnyRef<'_>, passphrase: Passphrase<'_>) -> Result<(), ImportError> {
        let (kind, content) = content_info(safe)?;
        let contents = match kind {
            DATA => octets(content)?,
            ENCRYPTED_DATA => {
                let [_, content] = fields_of(content)?[..] else { return Err(DAMAGED) };
                let [_, algorithm, ciphertext] = fields_of(content)?[..] else { return Err(DAMAGED) };
                decrypt(algorithm, &octets(ciphertext)?, passphrase)?
            }
            _ => return Err(ImportError::Encryption("public keys".into())),
        };
        // A wrong passphrase gives a right padding once in 256 times.
        let contents = ber::to_der(&contents).ok_or(ImportError::Passphrase)?;
        for bag in fields(&contents).map_err(|_| ImportError::Passphrase)? {
            self.read_bag(bag, passphrase)?;
        }
        Ok(())
    }

    fn read_bag(&mut self, bag: AnyRef<'_>, passphrase: Passphrase<'_>) -> Result<(), ImportError> {
        let (kind, value) = content_info(bag)?;
        match kind {
            KEY_BAG => self.keys.push(whole(value)),
            SHROUDED_KEY_BAG => {
                let [algorithm, ciphertext] = fields_of(value)?[..] else { return Err(DAMAGED) };
                let key = decrypt(algorithm, &octets(ciphertext)?, passphrase)?;
                // A wrong passphrase, as for the safe.
                der_fields::fields(&key).map_err(|_| ImportError::Passphrase)?;
                self.keys.push(key);
            }
            CERTIFICATE_BAG => {
                let (kind, certificate) = content_info(value)?;
                if kind == X509_CERTIFICATE {
                    self.certificates.push(octets(certificate)?.to_vec());
                }
            }
            // Revocation lists, secrets, and nested bags, which no program writes.
            _ => {}
        }
        Ok(())
    }
}

/// An object identifier and the value with tag 0 after it: ContentInfo, SafeBag, CertBag.
fn content_info(value: AnyRef<'_>) -> Result<(ObjectIdentifier, AnyRef<'_>), ImportError> {
    let fields = fields_of(value)?;
    let [kind, content, ..] = fields[..] else { return Err(DAMAGED) };
    let kind = kind.decode_as().map_err(|_| DAMAGED)?;
    let content = (content.tag() == TAGGED).then(|| AnyRef::from_der(content.value()));
    Ok((kind, content.ok_or(DAMAGED)?.map_err(|_| DAMAGED)?))
}

/// The bytes of an OCTET STRING, or of an implicit one with tag 0; in one part or, as BER allows,
/// in several.
fn octets(value: AnyRef<'_>) -> Result<Zeroizing<Vec<u8>>, ImportError> {
    match value.tag() {
        Tag::OctetString | IMPLICIT => Ok(Zeroizing::new(value.value().to_vec())),
        TAGGED => {
            let mut whole = Zeroizing::new(Vec::with_capacity(value.value().len()));
            for part in all(value.value())? {
                whole.extend_from_slice(part.value());
            }
            Ok(whole)
        }
        _ => Err(DAMAGED),
    }
}

fn whole(value: AnyRef<'_>) -> Zeroizing<Vec<u8>> {
    use der::Encode;
    let length = value.encoded_len().ok().and_then(|length| usize::try_from(length).ok());
    let mut der = Zeroizing::new(Vec::with_capacity(length.unwrap_or_default()));
    // A value that was decoded is short enough to be encoded.
    let _ = value.encode_to_vec(&mut der);
    der
}

fn fields(der: &[u8]) -> Result<Vec<AnyRef<'_>>, ImportError> {
    der_fields::fields(der).map_err(|_| DAMAGED)
}

fn fields_of(sequence: AnyRef<'_>) -> Result<Vec<AnyRef<'_>>, ImportError> {
    if sequence.tag() == Tag::Sequence { all(sequence.value()) } else { Err(DAMAGED) }
}

fn all(values: &[u8]) -> Result<Vec<AnyRef<'_>>, ImportError> {
    let read = || -> der::Result<Vec<AnyRef<'_>>> {
        let mut reader = SliceReader::new(values)?;
        let mut found = Vec::new();
        while !reader.is_finished() {
            found.push(AnyRef::decode(&mut reader)?);
        }
        Ok(found)
    };
    if values.is_empty() { Ok(Vec::new()) } else { read().map_err(|_| DAMAGED) }
}

const DAMAGED: ImportError = ImportError::Pkcs12;

const TAGGED: Tag = Tag::ContextSpecific { number: TagNumber(0), constructed: true };
const IMPLICIT: Tag = Tag::ContextSpecific { number: TagNumber(0), constructed: false };

// RFC 2315, 14.
const DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const ENCRYPTED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.6");
// RFC 7292, D.
const KEY_BAG: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.10.1.1");
const SHROUDED_KEY_BAG: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.10.1.2");
const CERTIFICATE_BAG: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.10.1.3");
const X509_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.22.1");
