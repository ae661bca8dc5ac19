//! Certificates as administrators attach them to keys: what is in a file, and what each of them says.
//!
//! Nothing here decides whether a certificate is to be trusted; that is the matter of those who connect.

use core::time::Duration;

use der::{Decode, Encode};
use rustls::pki_types::pem::{PemObject, SectionKind};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use thiserror::Error;
use x509_cert::Certificate as X509;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;

use crate::ground::text::printable;

/// A certificate (RFC 5280, 4.1), as far as it matters for the key that it is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certificate {
    der: Vec<u8>,
    subject: Name,
    issuer: Name,
    names: Vec<String>,
    not_before: Duration,
    not_after: Duration,
    spki: Vec<u8>,
}

impl Certificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// If it is none.
    pub fn from_der(der: &[u8]) -> der::Result<Self> {
        let read = X509::from_der(der)?;
        let fields = read.tbs_certificate();
        let names = fields.get_extension::<SubjectAltName>().ok().flatten();
        let names = names.iter().flat_map(|(_, names)| &names.0).filter_map(text_of).collect();
        Ok(Self {
            der: der.to_vec(),
            subject: fields.subject().clone(),
            issuer: fields.issuer().clone(),
            names,
            not_before: fields.validity().not_before.to_unix_duration(),
            not_after: fields.validity().not_after.to_unix_duration(),
            spki: fields.subject_public_key_info().to_der()?,
        })
    }

    /// The certificate in DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whom it is for, in the form of RFC 4514.
    pub fn subject(&self) -> String {
        printable(&self.subject.to_string())
    }

    /// Who has signed it, in the form of RFC 4514.
    pub fn issuer(&self) -> String {
        printable(&self.issuer.to_string())
    }

    /// The DNS names, IP addresses, mailboxes and URIs of its SubjectAltName, in their order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// From when on it is valid, in seconds since 1970.
    pub fn not_before(&self) -> u64 {
        self.not_before.as_secs()
    }

    /// Until when it is valid, in seconds since 1970.
    pub fn not_after(&self) -> u64 {
        self.not_after.as_secs()
    }

    /// Its public key as SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of the whole certificate, in hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        Sha256::digest(&self.der).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What clients compare, for a person; none for the kinds of names that TLS has no use for.
fn text_of(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(text)
        | GeneralName::Rfc822Name(text)
        | GeneralName::UniformResourceIdentifier(text) => Some(printable(text.as_ref())),
        GeneralName::IpAddress(octets) => {
            let bytes = octets.as_bytes();
            let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
            let address = four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
            address.ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

/// Reads a file of certificates in PEM (RFC 7468), in whatever order; see [`in_order`]. Whatever stands around the blocks does
/// not matter.
///
/// # Errors
/// [`InvalidChain`] says what is wrong with it.
pub fn chain_of_pem(pem: &[u8]) -> Result<Vec<Certificate>, InvalidChain> {
    // Of whatever kind, encrypted or cut off: it should not have been sent here.
    if pem.windows(PRIVATE_KEY.len()).any(|part| part == PRIVATE_KEY) {
        return Err(InvalidChain::PrivateKey);
    }
    let mut chain: Vec<Certificate> = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (kind, body) = section.map_err(|_| InvalidChain::Pem)?;
        let number = chain.len() + 1;
        match kind {
            SectionKind::Certificate if number > MAX_CHAIN => return Err(InvalidChain::TooMany),
            SectionKind::Certificate => {
                let certificate =
                    Certificate::from_der(&body).map_err(|_| InvalidChain::Certificate(number))?;
                chain.push(certificate);
            }
            _ => {}
        }
    }
    if chain.is_empty() {
        return Err(InvalidChain::Empty);
    }
    Ok(chain)
}

/// Checks that each certificate is certified by the one behind it, as TLS sends them (RFC 5246, 7.4.2).
///
/// # Errors
/// [`InvalidChain::Order`] if one is not.
pub fn in_order(chain: &[Certificate]) -> Result<(), InvalidChain> {
    let mut pairs = chain.iter().zip(chain.iter().skip(1)).zip(1..);
    match pairs.find(|((lower, upper), _)| lower.issuer != upper.subject) {
        Some(((lower, _), number)) => Err(InvalidChain::Order { number, issuer: lower.issuer() }),
        None => Ok(()),
    }
}

/// Why a file is no chain of certificates.
#[derive(Clone, Debug, Error, Eq, PartialEq)]
#[non_exhaustive]
pub enum InvalidChain {
    /// A PEM block that is no certificate inside; counted from 1.
    #[error("certificate {0} in the file is damaged")]
    Certificate(usize),
    /// There is no PEM block of a certificate.
    #[error(
        "there is no certificate in the file, which has to be PEM; openssl x509 -inform DER makes that of DER"
    )]
    Empty,
    /// One is not certified by the one behind it.
    #[error(
        "the certificates in the file are not in order: number {number} is certified by {issuer:?}, so that one has to follow it"
    )]
    Order {
        /// Which, from 1.
        number: usize,
        /// By whom it is certified.
        issuer: String,
    },
    /// A block is cut off or garbled.
    #[error("the PEM in the file is damaged")]
    Pem,
    /// A file that should not have been given away.
    #[error("there is a private key in the file; give the certificates alone")]
    PrivateKey,
    /// More than [`MAX_CHAIN`].
    #[error("there are more than {MAX_CHAIN} certificates in the file")]
    TooMany,
}

/// The end of the first line of a private key in PEM.
const PRIVATE_KEY: &[u8] = b"PRIVATE KEY-----";

/// Most certificates of one key: real chains have two to four.
pub const MAX_CHAIN: usize = 10;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// A certificate that signs itself.
    fn made(subject: &str, names: &str) -> String {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
        openssl.args(["-days", "3", "-keyout", "/dev/null", "-subj", subject]);
        openssl.args(["-addext", &format!("subjectAltName={names}")]);
        String::from_utf8(openssl.output().unwrap().stdout).unwrap()
    }

    #[test]
    fn what_a_certificate_says() {
        let pem = made(
            "/O=Shop/CN=shop.example",
            "DNS:shop.example,DNS:*.shop.example,IP:192.0.2.1,IP:2001:db8::1",
        );
        let [certificate] = &chain_of_pem(format!("some text\n{pem}\nmore").as_bytes()).unwrap()[..] else {
            panic!()
        };
        assert_eq!(certificate.subject(), "CN=shop.example,O=Shop");
        assert_eq!(certificate.issuer(), certificate.subject());
        assert_eq!(certificate.names(), ["shop.example", "*.shop.example", "192.0.2.1", "2001:db8::1"]);
        assert_eq!(certificate.not_after() - certificate.not_before(), 3 * 24 * 3600);
        assert_eq!(certificate.fingerprint().len(), 64);
        assert_eq!(Certificate::from_der(certificate.der()).as_ref(), Ok(certificate));
    }

    #[test]
    fn names_are_safe_to_show() {
        let pem = made("/CN=a\u{1b}[2Jb\u{202e}c", "DNS:d\u{7f}");
        let certificate = chain_of_pem(pem.as_bytes()).unwrap().remove(0);
        for text in [certificate.subject(), certificate.issuer(), certificate.names().concat()] {
            assert!(
                text.contains('\u{fffd}') && !text.contains(['\u{1b}', '\u{7f}', '\u{202e}']),
                "{text:?}"
            );
        }
    }

    #[test]
    fn what_is_wrong_with_a_file() {
        let (a, b) = (made("/CN=a", "DNS:a"), made("/CN=b", "DNS:b"));
        let refused = |text: &str| chain_of_pem(text.as_bytes()).unwrap_err();
        assert_eq!(refused(""), InvalidChain::Empty);
        assert_eq!(refused(&a.replace("CERTIFICATE", "PUBLIC KEY")), InvalidChain::Empty);
        assert_eq!(refused(&a[..a.len() - 40]), InvalidChain::Pem);
        assert_eq!(
            refused(&format!("{a}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
            InvalidChain::Certificate(2)
        );
        for kind in ["", "RSA ", "ENCRYPTED ", "OPENSSH "] {
            let key = format!("-----BEGIN {kind}PRIVATE KEY-----\nAAAA\n");
            assert_eq!(refused(&format!("{a}{key}")), InvalidChain::PrivateKey, "{kind}");
        }
        let order = |text: String| in_order(&chain_of_pem(text.as_bytes()).unwrap());
        assert_eq!(order(format!("{a}{b}")), Err(InvalidChain::Order { number: 1, issuer: "CN=a".into() }));
        assert_eq!(
            order(format!("{a}{a}{b}")),
            Err(InvalidChain::Order { number: 2, issuer: "CN=a".into() })
        );
        assert_eq!(order(format!("{a}{a}")), Ok(()));
        assert_eq!(chain_of_pem(a.repeat(MAX_CHAIN).as_bytes()).unwrap().len(), MAX_CHAIN);
        assert_eq!(refused(&a.repeat(MAX_CHAIN + 1)), InvalidChain::TooMany);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Certificate::from_der(&bytes);
            let _ = chain_of_pem(&bytes);
        }
    }
}
