use keyward_proto::pem;
use keyward_unit::unfolded;
use pem_rfc7468::LineEnding;
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;
use thiserror::Error;
use x509_cert::name::Name;

use super::signature::{Signed, signed};
use super::{Certificate, Kind, kind};

/// The certificates of a file, each once, in the order of the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Chain {
    /// The certificates, of which there is at least one.
    pub certificates: Vec<Certificate>,
    /// Number of certificates that were left out because they are in the chain already.
    pub repeated: usize,
}

impl Chain {
    /// Reads a file of certificates: PEM blocks in any order, with any text around them, or one
    /// certificate in DER.
    ///
    /// # Errors
    /// [`InvalidChain`] says why the file cannot be used, or which other kind of file it is.
    pub fn read(file: &[u8]) -> Result<Self, InvalidChain> {
        Self::read_inside(file, FORMS)
    }

    /// Reads a file that has at most `forms` other forms around its certificates.
    fn read_inside(file: &[u8], forms: u32) -> Result<Self, InvalidChain> {
        // Any kind of private key, encrypted or truncated: the file should not have been sent.
        if file.windows(PRIVATE_KEY.len()).any(|part| part == PRIVATE_KEY) {
            return Err(InvalidChain::PrivateKey);
        }
        if pem::is_utf16(file) {
            return Err(InvalidChain::Utf16);
        }
        if let Ok(certificate) = Certificate::from_der(file) {
            return Ok(Self { certificates: vec![certificate], repeated: 0 });
        }
        if let Some(kind) = kind::of_der(file) {
            return Err(InvalidChain::Other(kind));
        }
        if kind::is_from_before_1970(file) {
            return Err(InvalidChain::Before1970(1));
        }
        match unfolded(file) {
            Some(inside) if forms > 1 && pem::blocks(&inside).next().is_none() => {
                Self::read_inside(&inside, forms - 1)
            }
            Some(inside) if inside.windows(PRIVATE_KEY.len()).any(|part| part == PRIVATE_KEY) => {
                Err(InvalidChain::PrivateKey)
            }
            Some(inside) => Self::of_pem(&inside),
            None => Self::of_pem(file),
        }
    }

    fn of_pem(file: &[u8]) -> Result<Self, InvalidChain> {
        let (mut ders, mut other) = (Vec::new(), InvalidChain::Empty);
        for block in pem::blocks(file) {
            match block.label() {
                b"CERTIFICATE" | b"X509 CERTIFICATE" => {
                    ders.push(block.decode().ok_or(InvalidChain::Pem)?.to_vec());
                }
                // After the certificate OpenSSL stores the uses that it trusts.
                b"TRUSTED CERTIFICATE" => {
                    let body = block.decode().ok_or(InvalidChain::Pem)?;
                    ders.push(kind::first_value(&body).unwrap_or_default());
                }
                label => other = kind::of_label(label).map_or(other, InvalidChain::Other),
            }
        }
        if ders.is_empty() { Err(other) } else { Self::of_ders(ders) }
    }

    /// Reads certificates in DER.
    ///
    /// # Errors
    /// [`InvalidChain`] if one of them is damaged, or there are too many.
    pub fn of_ders(ders: Vec<Vec<u8>>) -> Result<Self, InvalidChain> {
        let mut chain = Self { certificates: Vec::new(), repeated: 0 };
        for (der, number) in ders.iter().zip(1..) {
            let certificate = Certificate::from_der(der).map_err(|_| {
                // A PKCS#7 or a request under a wrong label.
                match kind::of_der(der) {
                    Some(kind) => InvalidChain::Other(kind),
                    None if kind::is_from_before_1970(der) => InvalidChain::Before1970(number),
                    None => InvalidChain::Certificate(number),
                }
            })?;
            if chain.certificates.iter().any(|before| before.der() == certificate.der()) {
                chain.repeated += 1;
                continue;
            }
            if chain.certificates.len() == MAX_CHAIN {
                return Err(InvalidChain::TooMany);
            }
            chain.certificates.push(certificate);
        }
        Ok(chain)
    }

    /// Puts the certificate of a key first, and after it each certificate that certifies an earlier
    /// one. Leaves out the others. `None` if there is no certificate of the key.
    ///
    /// # Errors
    /// [`InvalidChain::SeveralFirst`] if there are several certificates of the key.
    pub fn assembled(self, spki: &[u8]) -> Result<Option<Self>, InvalidChain> {
        let (mut certificates, mut others): (Vec<_>, Vec<_>) =
            self.certificates.into_iter().partition(|certificate| certificate.spki() == spki);
        match certificates.len() {
            0 => return Ok(None),
            1 => {}
            count => return Err(InvalidChain::SeveralFirst(count)),
        }
        while let Some(next) = others.iter().position(|upper| {
            certificates.iter().any(|lower| {
                same_name(&lower.issuer, &upper.subject) && signed(lower, upper) != Signed::ByAnother
            })
        }) {
            certificates.push(others.remove(next));
        }
        Ok(Some(Self { certificates, repeated: self.repeated }))
    }

    /// The certificates in PEM.
    pub fn to_pem(&self) -> String {
        // The encoder fails only for lengths near the end of memory.
        let one = |certificate: &Certificate| {
            pem_rfc7468::encode_string("CERTIFICATE", LineEnding::LF, certificate.der()).unwrap_or_default()
        };
        self.certificates.iter().map(one).collect()
    }

    /// Checks that each certificate except the first has certified an earlier certificate, in the
    /// order of TLS (RFC 8446, 4.4.2), and verifies these signatures. Two certificates may certify
    /// the same certificate, which is then cross-signed.
    ///
    /// Also checks that servers on rustls accept the first certificate. Returns the numbers, from
    /// 1, of certificates whose signature algorithm cannot be verified here.
    ///
    /// # Errors
    /// [`InvalidChain::Order`], [`InvalidChain::Signature`] or [`InvalidChain::Rustls`].
    pub fn check(&self) -> Result<Vec<usize>, InvalidChain> {
        let mut unverified = Vec::new();
        for (upper, at) in self.certificates.iter().zip(0..).skip(1) {
            let before = self.certificates.iter().zip(1..).take(at);
            let named: Vec<_> =
                before.filter(|(lower, _)| same_name(&lower.issuer, &upper.subject)).collect();
            let Some((_, lower)) = named.first() else {
                let issuer = self.certificates.get(at - 1).map(Certificate::issuer).unwrap_or_default();
                return Err(InvalidChain::Order { number: at, issuer });
            };
            let verdicts: Vec<_> = named.iter().map(|(lower, _)| signed(lower, upper)).collect();
            if verdicts.iter().all(|verdict| *verdict == Signed::ByAnother) {
                return Err(InvalidChain::Signature { lower: *lower, upper: at + 1, name: upper.subject() });
            }
            let unknown = named.iter().zip(&verdicts).filter(|(_, verdict)| **verdict == Signed::Unknown);
            unverified.extend(unknown.map(|((_, number), _)| *number));
        }
        let first = self.certificates.first().map(Certificate::der).unwrap_or_default();
        // A server on rustls would refuse the certificate, and then have none.
        if let Err(reason) = ParsedCertificate::try_from(&CertificateDer::from(first)) {
            return Err(InvalidChain::Rustls(reason.to_string()));
        }
        Ok(unverified)
    }
}

/// True if two names are equal. The type of the strings and capital letters do not matter (RFC
/// 5280, 7.1).
fn same_name(one: &Name, other: &Name) -> bool {
    one == other || one.to_string().eq_ignore_ascii_case(&other.to_string())
}

/// Reason why a file is no chain of certificates.
#[derive(Clone, Debug, Error, Eq, PartialEq)]
#[non_exhaustive]
pub enum InvalidChain {
    /// A PEM block whose content is no certificate; number from 1.
    #[error("certificate {0} in the file is damaged")]
    Certificate(usize),
    /// A certificate with a time before 1970; number from 1.
    #[error(
        "certificate {0} in the file is valid from or until a time before 1970, which is not supported; ask the authority for a new certificate"
    )]
    Before1970(usize),
    /// There is no certificate in PEM or DER.
    #[error("there is no certificate in the file, neither in PEM nor in DER")]
    Empty,
    /// A certificate is not certified by the certificate after it.
    #[error(
        "the certificates in the file are not in order: number {number} is certified by {issuer:?}, so the certificate of that issuer must follow it"
    )]
    Order {
        /// Number of the certificate, from 1.
        number: usize,
        /// Issuer of the certificate.
        issuer: String,
    },
    /// A file that holds no certificates.
    #[error("the file holds {0}")]
    Other(Kind),
    /// A block is truncated or garbled.
    #[error("the PEM in the file is damaged")]
    Pem,
    /// A private key, which nobody should send.
    #[error("there is a private key in the file; give a file with the certificates only")]
    PrivateKey,
    /// A certificate that servers on rustls refuse.
    #[error(
        "rustls does not accept the first certificate in the file ({0}); the certificate must be of version 3 of X.509, for example with a SubjectAltName"
    )]
    Rustls(String),
    /// Several certificates of the same key. The administrator must choose one.
    #[error(
        "there are {0} certificates of the key in the file; keep only the certificate that the servers should use"
    )]
    SeveralFirst(usize),
    /// A signature was not made by the certificate that has the name of the issuer.
    #[error(
        "certificate {lower} in the file was not signed by certificate {upper}, although {upper} has the name of its issuer, {name:?}: certificate {upper} is of another key; get the intermediate certificate that belongs to certificate {lower}"
    )]
    Signature {
        /// Number of the certificate that was signed, from 1.
        lower: usize,
        /// Number of the certificate that has the name of the issuer.
        upper: usize,
        /// Name of the issuer.
        name: String,
    },
    /// More than [`MAX_CHAIN`] certificates.
    #[error("there are more than {MAX_CHAIN} certificates in the file")]
    TooMany,
    /// Text in UTF-16, which some Windows programs write.
    #[error("the file is text in UTF-16; write it as ASCII first: iconv -f UTF-16 -t ASCII FILE > NEW")]
    Utf16,
}

/// The end of the first line of a private key in PEM.
const PRIVATE_KEY: &[u8] = b"PRIVATE KEY-----";

/// Maximum number of forms around certificates: base64 around PEM in one line has two.
const FORMS: u32 = 2;
/// Maximum number of certificates of one key. Real chains have two to four.
pub const MAX_CHAIN: usize = 10;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use tempfile::TempDir;

    use super::*;

    /// Certificates made by the openssl program, each with its key, in a directory.
    struct Pki(TempDir);

    impl Pki {
        fn new() -> Self {
            let pki = Self(tempfile::tempdir().unwrap());
            for (name, args) in [
                ("root", "-subj /CN=Root -x509"),
                ("other", "-subj /CN=Other -x509"),
                ("inter", "-subj /CN=Inter"),
                ("twin", "-subj /CN=Inter"),
                ("leaf", "-subj /CN=leaf"),
            ] {
                let key = format!("-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key");
                pki.openssl(&format!("req {args} {key} -out {name}.pem"));
            }
            pki.issue("inter", "root", "");
            pki.issue("twin", "root", "");
            pki.issue("leaf", "inter", "");
            pki
        }

        fn openssl(&self, args: &str) -> Vec<u8> {
            let mut openssl = Command::new("openssl");
            let output = openssl.args(args.split_ascii_whitespace()).current_dir(&self.0).output().unwrap();
            assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        }

        /// Certifies the key of `name` with the key of `by`.
        fn issue(&self, name: &str, by: &str, more: &str) -> String {
            self.openssl(&format!("pkey -in {name}.key -pubout -out {name}.pub"));
            let subject = match name {
                "inter" | "twin" => "Inter",
                other => other,
            };
            fs::write(self.0.path().join("ext"), format!("subjectAltName=DNS:{name}\n")).unwrap();
            let new = format!("x509 -new -subj /CN={subject} -force_pubkey {name}.pub -extfile ext {more}");
            self.openssl(&format!("{new} -CA {by}.pem -CAkey {by}.key -out {name}.pem"));
            self.text(name)
        }

        fn text(&self, name: &str) -> String {
            fs::read_to_string(self.0.path().join(format!("{name}.pem"))).unwrap()
        }
    }

    fn read(text: &str) -> Chain {
        Chain::read(text.as_bytes()).unwrap()
    }

    fn refused(text: &str) -> InvalidChain {
        Chain::read(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn certificates_are_found_in_every_form() {
        let pki = Pki::new();
        let text = pki.text("leaf");
        let lines: Vec<_> = text.lines().collect();
        let body = lines[1..lines.len() - 1].concat();
        let trusted =
            String::from_utf8(pki.openssl("x509 -in leaf.pem -trustout -addtrust serverAuth")).unwrap();
        assert!(trusted.contains("BEGIN TRUSTED CERTIFICATE"));
        let der = pki.openssl("x509 -in leaf.pem -outform DER");
        for written in [
            text.clone(),
            format!("\u{feff}{text}"),
            text.replace('\n', "\n   "),
            text.replace('\n', "\r\n"),
            text.replace('\n', " \n"),
            text.replace("CERTIFICATE", "X509 CERTIFICATE"),
            trusted,
            format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"),
            text.replace('\n', r"\n"),
            body,
        ] {
            assert_eq!(read(&written), read(&text), "{written}");
        }
        assert_eq!(Chain::read(&der).unwrap(), read(&text));
    }

    #[test]
    fn other_files_are_named_with_commands_that_work() {
        let pki = Pki::new();
        let text = pki.text("leaf");
        assert_eq!(refused(""), InvalidChain::Empty);
        assert_eq!(refused(&text.replace("CERTIFICATE", "SOMETHING")), InvalidChain::Empty);
        assert_eq!(refused(&text[..text.len() - 40]), InvalidChain::Pem);
        assert_eq!(
            refused(&format!("{text}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
            InvalidChain::Certificate(2)
        );
        for kind in ["", "RSA ", "ENCRYPTED ", "OPENSSH "] {
            let key = format!("-----BEGIN {kind}PRIVATE KEY-----\nAAAA\n");
            assert_eq!(refused(&format!("{text}{key}")), InvalidChain::PrivateKey, "{kind}");
            let encoded = format!("tls.key: {}\n", STANDARD.encode(key));
            assert_eq!(refused(&encoded), InvalidChain::PrivateKey, "{kind}");
        }

        let archive = "pkcs12 -export -passout pass:x -in leaf.pem -inkey leaf.key";
        let public = pki.openssl("pkey -in leaf.key -pubout -outform DER");
        let file = |args: &str| pki.openssl(args);
        for (file, kind) in [
            (file("crl2pkcs7 -nocrl -certfile leaf.pem"), Kind::Pkcs7 { der: false }),
            (file("crl2pkcs7 -nocrl -certfile leaf.pem -outform DER"), Kind::Pkcs7 { der: true }),
            (file(archive), Kind::Pkcs12),
            (file(&format!("{archive} -legacy")), Kind::Pkcs12),
            (file("req -new -subj /CN=a -key leaf.key"), Kind::Request),
            (file("req -new -subj /CN=a -key leaf.key -outform DER"), Kind::Request),
            (public, Kind::PublicKey),
        ] {
            let error = Chain::read(&file).unwrap_err();
            assert_eq!(error, InvalidChain::Other(kind));
            let message = error.to_string();
            let Some((_, command)) = message.split_once(": openssl ") else { continue };
            fs::write(pki.0.path().join("FILE"), &file).unwrap();
            pki.openssl(&command.replace("-nokeys", "-nokeys -passin pass:x"));
            assert_eq!(Chain::read(&fs::read(pki.0.path().join("NEW")).unwrap()), Ok(read(&text)), "{kind}");
        }

        // A boundary that begins no block, which no other form makes plainer.
        for hollow in ["-----BEGIN ", "-----BEGIN X", "-----BEGIN -----BEGIN X-----"] {
            assert_eq!(Chain::read(hollow.as_bytes()), Err(InvalidChain::Empty), "{hollow}");
        }
        // Base64 around PEM in one line.
        let line = STANDARD.encode(text.replace('\n', "\\n"));
        assert_eq!(Chain::read(line.as_bytes()), Ok(read(&text)));

        let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let utf16 = [b"\xff\xfe", utf16.as_slice()].concat();
        let message = Chain::read(&utf16).unwrap_err().to_string();
        let (_, command) = message.split_once("first: ").unwrap();
        fs::write(pki.0.path().join("FILE"), &utf16).unwrap();
        let status = Command::new("sh").args(["-c", command]).current_dir(&pki.0).status().unwrap();
        assert!(status.success(), "{command}");
        assert_eq!(Chain::read(&fs::read(pki.0.path().join("NEW")).unwrap()), Ok(read(&text)));
    }

    #[test]
    fn unreadable_certificates_are_not_taken_for_other_files() {
        let pki = Pki::new();
        // With and without a version, with a number that a list and a request have as well.
        for extensions in ["", "basicConstraints=CA:FALSE\n"] {
            fs::write(pki.0.path().join("old.ext"), extensions).unwrap();
            for serial in [0, 1, 77] {
                pki.openssl("req -new -subj /CN=a -key leaf.key -out old.csr");
                let sign = "x509 -req -in old.csr -signkey leaf.key -days 30 -extfile old.ext -outform DER";
                let der = pki.openssl(&format!("{sign} -set_serial {serial}"));
                let at = der.windows(2).position(|part| part == [0x17, 13]).unwrap() + 2;
                assert_eq!(Chain::read(&der).unwrap().certificates.len(), 1, "{serial} {extensions}");
                for (year, expected) in
                    [(b"69", InvalidChain::Before1970(1)), (b"xx", InvalidChain::Certificate(1))]
                {
                    let mut old = der.clone();
                    old[at..at + 2].copy_from_slice(year);
                    let body = STANDARD.encode(&old);
                    let text = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
                    assert_eq!(refused(&text), expected, "{serial} {extensions}");
                    if year == b"69" {
                        assert_eq!(Chain::read(&old), Err(expected));
                    }
                }
            }
        }
        pki.openssl("req -new -subj /CN=a -key leaf.key -out old.csr");
        fs::write(pki.0.path().join("index"), "").unwrap();
        let conf = "[ca]\ndefault_ca=ca\n[ca]\ndatabase=index\ndefault_md=sha256\n";
        fs::write(pki.0.path().join("ca.cnf"), conf).unwrap();
        let list = "ca -config ca.cnf -gencrl -crldays 1 -keyfile inter.key -cert inter.pem";
        let list = String::from_utf8(pki.openssl(list)).unwrap();
        assert_eq!(refused(&list), InvalidChain::Other(Kind::Revoked));
        assert_eq!(refused(&list.replace("X509 CRL", "CERTIFICATE")), InvalidChain::Other(Kind::Revoked));
    }

    #[test]
    fn repeated_certificates_are_left_out() {
        let pki = Pki::new();
        let (leaf, inter) = (pki.text("leaf"), pki.text("inter"));
        for text in [format!("{leaf}{leaf}{inter}"), format!("{leaf}{inter}{inter}{leaf}")] {
            let chain = read(&text);
            assert_eq!(chain.certificates, read(&format!("{leaf}{inter}")).certificates);
            assert_eq!(chain.check(), Ok(vec![]));
            assert_ne!(chain.repeated, 0);
        }
        let many: String = (0..=MAX_CHAIN).map(|_| pki.issue("leaf", "inter", "")).collect();
        assert_eq!(refused(&many), InvalidChain::TooMany);
        let last = many.rfind("-----BEGIN").unwrap();
        assert_eq!(read(&many[..last]).certificates.len(), MAX_CHAIN);
    }

    #[test]
    fn each_certificate_must_have_signed_an_earlier_certificate() {
        let pki = Pki::new();
        let text = |names: &[&str]| names.iter().map(|name| pki.text(name)).collect::<String>();
        let check = |names: &[&str]| read(&text(names)).check();
        let order = |number, issuer: &str| Err(InvalidChain::Order { number, issuer: issuer.into() });
        assert_eq!(check(&["leaf", "inter", "root"]), Ok(vec![]));
        assert_eq!(check(&["leaf", "root", "inter"]), order(1, "CN=Inter"));
        assert_eq!(check(&["leaf", "inter", "other"]), order(2, "CN=Root"));
        // A certificate with the right name and another key.
        let wrong = InvalidChain::Signature { lower: 1, upper: 2, name: "CN=Inter".into() };
        assert_eq!(check(&["leaf", "twin", "root"]), Err(wrong));
        assert!(matches!(check(&["leaf", "inter", "twin"]), Err(InvalidChain::Signature { upper: 3, .. })));
        // Cross-signed: the same key, certified by two authorities.
        let (one, leaf) = (pki.text("inter"), pki.text("leaf"));
        let two = pki.issue("inter", "other", "");
        for tail in
            [String::new(), pki.text("root"), pki.text("other"), pki.text("root") + &pki.text("other")]
        {
            assert_eq!(read(&format!("{leaf}{one}{two}{tail}")).check(), Ok(vec![]));
        }
        // A certificate with one changed byte.
        let der = pki.openssl("x509 -in leaf.pem -outform DER");
        let mut altered = der.clone();
        let at = der.windows(4).rposition(|part| part == b"leaf").unwrap();
        altered[at] ^= 1;
        let chain = Chain::of_ders(vec![altered, read(&one).certificates[0].der().to_vec()]).unwrap();
        assert!(matches!(chain.check(), Err(InvalidChain::Signature { .. })));
    }

    #[test]
    fn signatures_of_every_kind_are_verified_or_reported_as_not_verified() {
        let pki = Pki::new();
        let (leaf, key) = (pki.text("leaf"), |args: &str| pki.openssl(&format!("genpkey -out a.key {args}")));
        assert!(!leaf.is_empty());
        for (algorithm, digest, expected) in [
            ("-algorithm EC -pkeyopt ec_paramgen_curve:P-384", "-sha384", vec![]),
            ("-algorithm EC -pkeyopt ec_paramgen_curve:P-521", "-sha512", vec![]),
            ("-algorithm ED25519", "", vec![]),
            ("-algorithm RSA -pkeyopt rsa_keygen_bits:2048", "-sha256", vec![]),
            (
                "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
                "-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32",
                vec![],
            ),
            ("-algorithm RSA -pkeyopt rsa_keygen_bits:2048", "-sha1", vec![1]),
            ("-algorithm RSA -pkeyopt rsa_keygen_bits:1024", "-sha256", vec![1]),
            ("-algorithm ED448", "", vec![1]),
        ] {
            key(algorithm);
            pki.openssl("req -x509 -subj /CN=a -key a.key -out a.pem");
            let leaf = pki.issue("leaf", "a", digest);
            assert_eq!(
                read(&format!("{leaf}{}", pki.text("a"))).check(),
                Ok(expected),
                "{algorithm} {digest}"
            );
        }
    }

    #[test]
    fn a_chain_is_assembled_from_any_order() {
        let pki = Pki::new();
        let names = ["root", "twin", "inter", "other", "leaf"];
        let all: String = names.iter().map(|name| pki.text(name)).collect();
        let leaf = read(&pki.text("leaf")).certificates.remove(0);
        let chain = read(&all).assembled(leaf.spki()).unwrap().unwrap();
        let expected: String = ["leaf", "inter", "root"].iter().map(|name| pki.text(name)).collect();
        assert_eq!(chain.certificates, read(&expected).certificates);
        assert_eq!(read(&pki.text("root")).assembled(leaf.spki()), Ok(None));
        let again = pki.text("leaf") + &pki.issue("leaf", "inter", "");
        assert_eq!(read(&again).assembled(leaf.spki()), Err(InvalidChain::SeveralFirst(2)));
    }
}
