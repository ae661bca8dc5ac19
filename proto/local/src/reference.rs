use core::str;

use der::asn1::{AnyRef, Utf8StringRef};
use der::{Decode, Encode, Reader, SliceReader, Tag};
use pem_rfc7468::LineEnding;
use thiserror::Error;

use crate::{Fingerprint, InvalidPublicKey, Label, PublicKey, pem};

/// The file that a server is given instead of a key file. It names the key to ask the daemon for,
/// and holds the public key.
///
/// The file is PEM (RFC 7468) with the label `KEYWARD KEY` around
///
/// ```text
/// KeywardReference ::= SEQUENCE {
///     marker   UTF8String,              -- "keyward reference 1"
///     label    UTF8String,
///     version  INTEGER (1..4294967295), -- of the key
///     public   SubjectPublicKeyInfo }
/// ```
///
/// The marker comes first, so no decoder of a standard structure accepts the body.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reference {
    label: Label,
    version: u32,
    spki: Vec<u8>,
    public_key: PublicKey,
    fingerprint: Fingerprint,
}

impl Reference {
    /// The PEM label, as in `-----BEGIN KEYWARD KEY-----`.
    pub const PEM_LABEL: &str = "KEYWARD KEY";

    /// Longest reference, in bytes of PEM (16 KiB): an RSA key of 8192 bits takes about 1.6 KiB.
    pub const MAX_PEM: usize = 16 * 1024;

    /// A reference to a version of a key whose SubjectPublicKeyInfo is `spki`.
    ///
    /// # Errors
    /// [`InvalidPublicKey`] if `spki` is not the SubjectPublicKeyInfo of a supported key.
    pub fn new(label: Label, version: u32, spki: Vec<u8>) -> Result<Self, InvalidPublicKey> {
        let public_key = PublicKey::from_spki(&spki)?;
        let fingerprint = Fingerprint::of(&spki);
        Ok(Self { label, version, spki, public_key, fingerprint })
    }

    /// Reads the first reference in `text`, which may have other text around it.
    ///
    /// # Errors
    /// [`InvalidReference`] says what is wrong with the reference.
    pub fn from_pem(text: &str) -> Result<Self, InvalidReference> {
        if text.len() > Self::MAX_PEM {
            return Err(InvalidReference::TooLong);
        }
        let mut blocks = pem::blocks(text.as_bytes()).peekable();
        let none = if blocks.peek().is_some() { InvalidReference::OtherPem } else { InvalidReference::Pem };
        let block = blocks.find(|block| block.label() == Self::PEM_LABEL.as_bytes()).ok_or(none)?;
        Self::from_der(&block.decode().ok_or(InvalidReference::Pem)?)
    }

    /// Reads the body of the PEM block.
    ///
    /// # Errors
    /// [`InvalidReference`] says what is wrong with the reference.
    pub fn from_der(der: &[u8]) -> Result<Self, InvalidReference> {
        let (marker, label, version, spki) = Self::fields(der).map_err(|_| InvalidReference::Body)?;
        if marker != MARKER {
            return Err(InvalidReference::Body);
        }
        let label = label.parse().map_err(|_| InvalidReference::Body)?;
        let version = Some(version).filter(|version| *version > 0).ok_or(InvalidReference::Body)?;
        Self::new(label, version, spki).map_err(|_| InvalidReference::PublicKey)
    }

    fn fields(der: &[u8]) -> der::Result<(String, String, u32, Vec<u8>)> {
        let mut reader = SliceReader::new(der)?;
        let fields = reader.sequence(|fields| {
            let marker = Utf8StringRef::decode(fields)?;
            let label = Utf8StringRef::decode(fields)?;
            let version = u32::decode(fields)?;
            let spki = AnyRef::decode(fields)?.to_der()?;
            Ok::<_, der::Error>((marker.to_string(), label.to_string(), version, spki))
        })?;
        reader.finish()?;
        Ok(fields)
    }

    /// The reference as a file. Lines at the beginning say what the file is, that it holds no
    /// secret, and what to do about a program that cannot read it.
    pub fn to_pem(&self) -> String {
        // The encoder fails only for lengths near the end of memory; a reference has a few KiB.
        let pem = pem_rfc7468::encode_string(Self::PEM_LABEL, LineEnding::LF, &self.to_der());
        let pem = pem.unwrap_or_default();
        format!(
            "# Keyward reference to key {} version {} ({}). It holds no secret: the private key is with the daemon.\n\
             # A program that finds \"No supported data to decode\", or no private key, has not \
             loaded the provider: it needs\n\
             # OPENSSL_CONF=/etc/keyward/openssl.cnf in its environment, and so does a check in a \
             shell, such as nginx -t.\n\
             {pem}",
            self.label,
            self.version,
            self.public_key.key_type(),
        )
    }

    /// The body of the PEM block.
    pub fn to_der(&self) -> Vec<u8> {
        // The encoder fails only for lengths beyond 256 MiB; `new` bounds what is encoded here to a
        // few KiB.
        self.encode().unwrap_or_default()
    }

    fn encode(&self) -> der::Result<Vec<u8>> {
        let mut body = Utf8StringRef::new(MARKER)?.to_der()?;
        body.extend(Utf8StringRef::new(self.label.as_str())?.to_der()?);
        body.extend(self.version.to_der()?);
        body.extend_from_slice(&self.spki);
        AnyRef::new(Tag::Sequence, &body)?.to_der()
    }

    /// The label of the key.
    pub fn label(&self) -> &Label {
        &self.label
    }

    /// The version of the key, from 1.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The public key as SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Fingerprint of the public key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The public key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }
}

/// Reason why a text is not a reference.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
#[non_exhaustive]
pub enum InvalidReference {
    /// The PEM is well formed, but its body is not a reference.
    #[error("the body of the reference is damaged; make a new reference: keyward key reference LABEL > FILE")]
    Body,
    /// The PEM block has another label.
    #[error("not a reference: the PEM label is not {}", Reference::PEM_LABEL)]
    OtherPem,
    /// There is no PEM block, or the block is cut off or garbled.
    #[error("the PEM of the reference is damaged; make a new reference: keyward key reference LABEL > FILE")]
    Pem,
    /// The public key is damaged, or of a type that this version does not know.
    #[error("the public key in the reference is damaged or of an unknown type")]
    PublicKey,
    /// The text is longer than [`Reference::MAX_PEM`].
    #[error("longer than a reference can be ({} bytes)", Reference::MAX_PEM)]
    TooLong,
}

const MARKER: &str = "keyward reference 1";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::public_key::tests::ed25519_spki;

    fn reference() -> Reference {
        Reference::new("shop".parse().unwrap(), 3, ed25519_spki()).unwrap()
    }

    #[test]
    fn pem_round_trip() {
        let pem = reference().to_pem();
        let (head, _) = pem.split_once("-----BEGIN KEYWARD KEY-----\n").unwrap();
        assert!(
            head.contains("version 3 (ed25519)") && head.contains("No supported data to decode"),
            "{head}"
        );
        assert!(head.lines().all(|line| line.starts_with("# ") && line.len() <= 120), "{head}");
        assert_eq!(Reference::from_pem(&pem), Ok(reference()));
        assert_eq!(Reference::from_pem(&pem.replace('\n', "\r\n")), Ok(reference()));
        let body = pem.lines().filter(|line| !line.starts_with(['-', '#'])).collect::<Vec<_>>();
        let one_line = pem.replace(&body.join("\n"), &body.concat());
        assert_ne!(one_line, pem);
        let other = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";
        for text in [
            one_line,
            pem.replace('\n', "  \n"),
            pem.replace('\n', "\n  "),
            format!("\u{feff}{pem}"),
            format!("{other}{pem}{other}"),
        ] {
            assert_eq!(Reference::from_pem(&text), Ok(reference()), "{text:?}");
        }
    }

    #[test]
    fn no_standard_structure_starts_like_it() {
        let der = reference().to_der();
        // SEQUENCE, then a UTF8String: PKCS#8 and SEC1 have an INTEGER there, SPKI a SEQUENCE.
        assert_eq!((der[0], der[2]), (0x30, 0x0c));
    }

    #[test]
    fn each_damage_has_its_word() {
        let pem = reference().to_pem();
        let refused = |text: &str| Reference::from_pem(text).unwrap_err();
        assert_eq!(refused(""), InvalidReference::Pem);
        assert_eq!(refused(&pem[..pem.len() - 20]), InvalidReference::Pem);
        assert_eq!(refused(&pem.replace("KEYWARD KEY", "PUBLIC KEY")), InvalidReference::OtherPem);
        assert_eq!(refused(&"x".repeat(Reference::MAX_PEM + 1)), InvalidReference::TooLong);
        let der = reference().to_der();
        for end in 0..der.len() {
            assert_eq!(Reference::from_der(&der[..end]), Err(InvalidReference::Body), "cut at {end}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>, text: String) {
            let _ = Reference::from_der(&bytes);
            let _ = Reference::from_pem(&text);
        }
    }
}
