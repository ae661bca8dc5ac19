//! Certificates that administrators attach to keys: reads files of certificates, and shows the
//! contents of a certificate.
//!
//! This module does not decide whether a certificate is trusted. Clients decide that when they
//! connect. The signatures inside a chain are checked, because nobody can use a chain whose
//! certificates have not signed each other.

mod chain;
mod kind;
pub(crate) mod request;
mod signature;

use core::time::Duration;
use std::net::IpAddr;

use der::{Decode, Encode};
use sha2::{Digest, Sha256};
use x509_cert::Certificate as X509;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, SubjectAltName};
use x509_cert::name::Name;

use crate::ground::text::printable;

pub use chain::{Chain, InvalidChain, MAX_CHAIN};
pub use kind::Kind;

/// A certificate (RFC 5280, 4.1), with the fields that matter for a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certificate {
    der: Vec<u8>,
    subject: Name,
    issuer: Name,
    names: Vec<String>,
    identifiers: Vec<(&'static str, String)>,
    authority: bool,
    not_before: Duration,
    not_after: Duration,
    spki: Vec<u8>,
}

impl Certificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// An error of the decoder if the bytes are no certificate.
    pub fn from_der(der: &[u8]) -> der::Result<Self> {
        let read = X509::from_der(der)?;
        let fields = read.tbs_certificate();
        let names = fields.get_extension::<SubjectAltName>().ok().flatten();
        let all = || names.iter().flat_map(|(_, names)| &names.0);
        let constraints = fields.get_extension::<BasicConstraints>().ok().flatten();
        Ok(Self {
            der: der.to_vec(),
            subject: fields.subject().clone(),
            issuer: fields.issuer().clone(),
            names: all().filter_map(text_of).collect(),
            identifiers: all().map(identifier_of).collect(),
            authority: constraints.is_some_and(|(_, constraints)| constraints.ca),
            not_before: fields.validity().not_before.to_unix_duration(),
            not_after: fields.validity().not_after.to_unix_duration(),
            spki: fields.subject_public_key_info().to_der()?,
        })
    }

    /// The certificate in DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Subject, in the form of RFC 4514.
    pub fn subject(&self) -> String {
        printable(&self.subject.to_string())
    }

    /// Issuer, in the form of RFC 4514.
    pub fn issuer(&self) -> String {
        printable(&self.issuer.to_string())
    }

    /// DNS names, IP addresses, mailboxes and URIs of the SubjectAltName, in their order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Kind and text of each name of the SubjectAltName, in lower case. The kinds are `dns` and
    /// `ip` as in ACME (RFC 8555, 9.7.7), and `other` for names that are none of a TLS server.
    pub(crate) fn identifiers(&self) -> &[(&'static str, String)] {
        &self.identifiers
    }

    /// True for the certificate of an authority, which certifies others (RFC 5280, 4.2.1.9).
    pub fn is_authority(&self) -> bool {
        self.authority
    }

    /// Start of the validity, in seconds since 1970.
    pub fn not_before(&self) -> u64 {
        self.not_before.as_secs()
    }

    /// End of the validity, in seconds since 1970.
    pub fn not_after(&self) -> u64 {
        self.not_after.as_secs()
    }

    /// Public key as SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of the whole certificate, in hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        base16ct::lower::encode_string(&Sha256::digest(&self.der))
    }
}

/// The certificate of a chain that expires first, with its number from 1. After that time clients
/// refuse the chain.
pub fn first_to_expire(chain: &[Vec<u8>]) -> Option<(usize, Certificate)> {
    let read = (1..).zip(chain).filter_map(|(number, der)| Some((number, Certificate::from_der(der).ok()?)));
    read.min_by_key(|(_, certificate)| certificate.not_after())
}

/// A name as text for people; `None` for the kinds of names that TLS does not use.
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

fn identifier_of(name: &GeneralName) -> (&'static str, String) {
    match (name, text_of(name)) {
        (GeneralName::DnsName(name), _) => ("dns", AsRef::<str>::as_ref(name).to_ascii_lowercase()),
        (GeneralName::IpAddress(_), Some(address)) => ("ip", address),
        (_, text) => ("other", text.unwrap_or_default()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// A certificate that signs itself.
    pub(crate) fn made(subject: &str, names: &str) -> String {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
        openssl.args(["-days", "3", "-keyout", "/dev/null", "-subj", subject]);
        openssl.args(["-addext", &format!("subjectAltName={names}")]);
        String::from_utf8(openssl.output().unwrap().stdout).unwrap()
    }

    #[test]
    fn the_fields_of_a_certificate_are_read() {
        let pem = made(
            "/O=Shop/CN=shop.example",
            "DNS:shop.example,DNS:*.shop.example,IP:192.0.2.1,IP:2001:db8::1",
        );
        let [certificate] =
            &Chain::read(format!("some text\n{pem}\nmore").as_bytes()).unwrap().certificates[..]
        else {
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
    fn names_have_kinds() {
        let names =
            "DNS:Shop.example,IP:192.0.2.1,email:a@shop.example,URI:shop.example,otherName:1.2.3;UTF8:x";
        let pem = made("/CN=shop", names);
        let certificate = Chain::read(pem.as_bytes()).unwrap().certificates.remove(0);
        let expected = [
            ("dns", "shop.example"),
            ("ip", "192.0.2.1"),
            ("other", "a@shop.example"),
            ("other", "shop.example"),
            ("other", ""),
        ];
        assert_eq!(certificate.identifiers(), expected.map(|(kind, text)| (kind, text.to_owned())));
    }

    #[test]
    fn names_are_safe_to_show() {
        let pem = made("/CN=a\u{1b}[2Jb\u{202e}c", "DNS:d\u{7f}");
        let certificate = Chain::read(pem.as_bytes()).unwrap().certificates.remove(0);
        for text in [certificate.subject(), certificate.issuer(), certificate.names().concat()] {
            assert!(
                text.contains('\u{fffd}') && !text.contains(['\u{1b}', '\u{7f}', '\u{202e}']),
                "{text:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Certificate::from_der(&bytes);
            let _ = Chain::read(&bytes);
        }
    }
}
