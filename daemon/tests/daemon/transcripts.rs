//! Transcripts of TLS 1.2 that real clients sign: none is refused as another format.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use keyward::policy::purpose::{Purpose, classify, other_format};
use rustls::client::{ClientConnection, ResolvesClientCert};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{ClientConfig, RootCertStore, SignatureAlgorithm, SignatureScheme};

use crate::messages::{handshake, transcript};

/// Text of every usual kind: names with characters that end commands, a notice, a comment, and many
/// names of ten bytes, whose length byte is a line feed.
const EXTENSIONS: &str = "
[req]
distinguished_name = dn
[dn]
[all]
subjectAltName = DNS:www.foo.de, DNS:shop.example, DNS:ab.example, URI:https://foo.example/?a=1;b=2&c#d, email:a@foo.de
certificatePolicies = 1.2.3.4, @policy
nsComment = Made for tests & nothing else; see https://ca.example/cps#1 | all rights reserved
crlDistributionPoints = URI:http://crl.example/ca.crl
authorityInfoAccess = OCSP;URI:http://ocsp.example/
[policy]
policyIdentifier = 1.3.6.1.4.1.1.2
CPS.1 = https://ca.example/cps;v=2
userNotice.1 = @notice
[notice]
explicitText = Reliance on this certificate by any party assumes acceptance of the terms & conditions; see #7.
organization = Foo & Sons; Ltd | Bar
noticeNumbers = 1, 2
";

const SUBJECT: &str = "/C=DE/ST=New Jersey/L=Scottsdale/O=M\u{fc}ller & S\u{f6}hne; Bau GmbH/OU=GlobalSign/OU=Terms of use at https://ca.example/rpa (c)26; #1/CN=www.foo.de";

fn openssl(directory: &Path, words: &[&str]) {
    let output = Command::new("openssl").args(words).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A certificate and its key in `NAME.pem` and `NAME.key`.
fn certify(directory: &Path, name: &str, key: &[&str]) {
    std::fs::write(directory.join("extensions.cnf"), EXTENSIONS).unwrap();
    let (out, key_out) = (format!("{name}.pem"), format!("{name}.key"));
    let words =
        ["req", "-x509", "-nodes", "-utf8", "-days", "30", "-config", "extensions.cnf", "-extensions", "all"];
    let files = ["-subj", SUBJECT, "-keyout", &key_out, "-out", &out];
    openssl(directory, &[&words[..], key, &files].concat());
}

/// A server of the openssl program with TLS 1.2, which asks every client for a certificate.
struct Server(Child, u16);

impl Server {
    fn start(directory: &Path, more: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let words = [
            "s_server",
            "-tls1_2",
            "-Verify",
            "1",
            "-cert",
            "server.pem",
            "-key",
            "server.key",
            "-CAfile",
            "server.pem",
        ];
        let rest = ["-quiet", "-alpn", "acme-tls/1,h2,http/1.1", "-accept", &format!("127.0.0.1:{port}")];
        let mut command = Command::new("openssl");
        command.args(words).args(rest).args(more).current_dir(directory);
        let child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self(child, port);
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return server;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("no server");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Message that the openssl program signs as a client, from the messages that it shows.
fn of_openssl(directory: &Path, server: &Server, more: &[&str]) -> Vec<u8> {
    let to = format!("127.0.0.1:{}", server.1);
    let mut command = Command::new("openssl");
    command.args(["s_client", "-msg", "-connect", &to, "-cert", "client.pem", "-key", "client.key"]);
    let output = command.args(more).current_dir(directory).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let (mut message, mut is_handshake, mut is_signed) = (Vec::new(), false, false);
    for line in text.lines() {
        if line.starts_with(">>> ") || line.starts_with("<<< ") {
            is_signed |= line.ends_with("CertificateVerify");
            is_handshake = line.contains(", Handshake ") && !is_signed;
        } else if is_handshake && line.starts_with("    ") {
            let bytes = line.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap());
            message.extend(bytes);
        } else {
            is_handshake = false;
        }
    }
    assert!(is_signed, "{text}{}", String::from_utf8_lossy(&output.stderr));
    message
}

/// Key of a client that keeps each message that it signs.
#[derive(Clone, Debug)]
struct Recorder {
    key: Arc<dyn SigningKey>,
    signed: Arc<Mutex<Vec<u8>>>,
}

impl SigningKey for Recorder {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = self.key.choose_scheme(offered)?;
        Some(Box::new(RecordingSigner { signer, signed: Arc::clone(&self.signed) }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}

#[derive(Debug)]
struct RecordingSigner {
    signer: Box<dyn Signer>,
    signed: Arc<Mutex<Vec<u8>>>,
}

impl Signer for RecordingSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        message.clone_into(&mut self.signed.lock().unwrap());
        self.signer.sign(message)
    }

    fn scheme(&self) -> SignatureScheme {
        self.signer.scheme()
    }
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Message that rustls signs as a client.
fn of_rustls(directory: &Path, server: &Server) -> Vec<u8> {
    let certificate = |name: &str| CertificateDer::from_pem_file(directory.join(name)).unwrap();
    let key = PrivateKeyDer::from_pem_file(directory.join("client.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = provider.key_provider.load_private_key(key).unwrap();
    let recorder = Recorder { key, signed: Arc::default() };
    let mut roots = RootCertStore::empty();
    roots.add(certificate("server.pem")).unwrap();
    let certified = CertifiedKey::new(vec![certificate("client.pem")], Arc::new(recorder.clone()));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(Always(Arc::new(certified))));
    config.alpn_protocols = vec![b"acme-tls/1".to_vec(), b"http/1.1".to_vec()];
    let mut connection = ClientConnection::new(Arc::new(config), "www.foo.de".try_into().unwrap()).unwrap();
    let mut socket = TcpStream::connect(("127.0.0.1", server.1)).unwrap();
    let mut stream = rustls::Stream::new(&mut connection, &mut socket);
    stream.write_all(b"x").unwrap();
    recorder.signed.lock().unwrap().clone()
}

fn check(message: &[u8], name: &str) {
    let purpose = (classify(message, b"no key"), other_format(message));
    assert_eq!(purpose, (Purpose::Tls12ClientCertificateVerify, None), "{name}: {message:x?}");
}

#[test]
fn transcripts_of_real_clients_are_admitted() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    for (kind, key) in [
        ("P-256", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"][..]),
        ("RSA-2048", &["-newkey", "rsa:2048"]),
    ] {
        certify(directory, "server", key);
        certify(directory, "client", key);
        let server = Server::start(directory, &[]);
        for more in [
            &[][..],
            &["-tls1_2"],
            &["-tls1_2", "-servername", "www.foo.de", "-alpn", "acme-tls/1,http/1.1,h2"],
            &["-cipher", "ALL:@SECLEVEL=0", "-servername", "ab.example", "-status", "-sess_out", "session"],
            &["-noservername", "-cipher", "kRSA:ECDHE", "-groups", "P-256:X25519"],
        ] {
            check(&of_openssl(directory, &server, more), &format!("{kind}: {more:?}"));
        }
        for _ in 0..10 {
            let message = of_rustls(directory, &server);
            check(&message, "rustls, which puts extensions in an order of its own each time");
        }
        // Another server does not know the ticket, so the client signs a transcript whose hello has
        // the ticket.
        let other = Server::start(directory, &[]);
        let more = ["-tls1_2", "-servername", "www.foo.de", "-sess_in", "session"];
        check(&of_openssl(directory, &other, &more), "with a ticket");
    }
}

/// Takes each certificate that the machine trusts as the chain of a server and in the names of a
/// request.
#[test]
fn no_certificate_of_a_public_authority_is_refused() {
    let Ok(bundle) = CertificateDer::pem_file_iter("/etc/ssl/certs/ca-certificates.crt") else { return };
    let parts = transcript([7; 32], &[9; 256]);
    // Both hellos, and the certificate.
    let hellos = 4 + 41 + 4 + 38;
    let (before, behind) = (&parts[..hellos], &parts[hellos + 22..]);
    let mut count = 0;
    for certificate in bundle.map(Result::unwrap) {
        let entry = [&(certificate.len() as u32).to_be_bytes()[1..], &certificate].concat();
        let body = [&(entry.len() as u32).to_be_bytes()[1..], &entry].concat();
        check(&[before, &handshake(11, &body), behind].concat(), "an authority");
        count += 1;
    }
    assert!(count > 100, "{count}");
}
