//! What is this message? A pure function over bytes, and the reason why the daemon is no signing oracle.
//!
//! Both OpenSSL and rustls hand over the whole message to be signed, so the daemon can look at it before it
//! hashes it. A message is what exactly one form below says it is, to the last byte, or it is [`Purpose::Other`].
//!
//! What remains open to someone who drives a server process that holds a `tls-server` grant: signatures that
//! some TLS client somewhere would accept in a handshake, for as long as the process is driven. The TLS 1.3
//! form (RFC 8446, 4.4.3) begins with 64 spaces and a context string, made so that it is nothing else. The TLS
//! 1.2 form begins with 64 bytes of the attacker's choice; what follows them is binary and of a fixed shape, which
//! rules out text (JWT and the like). With the numbers of a finite-field key exchange there is room enough to hide
//! in it what another binary format signs. So what is at the same time a structure of ASN.1 (certificates,
//! revocation lists, OCSP, CMS), in DER or in whatever a lenient reader takes for it, or begins as what SSH signs,
//! is refused although it has the shape. Other binary formats with room for bytes of one's choice are not looked
//! for: do not use the key of a TLS server for them.

use keyward_proto::Use;

/// What a message is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Purpose {
    /// CertificateVerify of a server in TLS 1.3 (RFC 8446, 4.4.3).
    Tls13ServerCertificateVerify,
    /// CertificateVerify of a client in TLS 1.3 (RFC 8446, 4.4.3).
    Tls13ClientCertificateVerify,
    /// What ServerKeyExchange signs in TLS 1.2 (RFC 5246, 7.4.3 and RFC 8422, 5.4).
    Tls12ServerKeyExchange,
    /// What CertificateVerify signs in TLS 1.2: the handshake so far (RFC 5246, 7.4.8).
    Tls12ClientCertificateVerify,
    /// CertificationRequestInfo for the very key that is to sign it (RFC 2986, 4.1).
    CertificateRequest,
    /// Anything else, and every bare digest.
    Other,
}

impl Purpose {
    /// Every purpose there is.
    pub const ALL: [Self; 6] = [
        Self::Tls13ServerCertificateVerify,
        Self::Tls13ClientCertificateVerify,
        Self::Tls12ServerKeyExchange,
        Self::Tls12ClientCertificateVerify,
        Self::CertificateRequest,
        Self::Other,
    ];

    /// The use that key and grant must include.
    pub fn required_use(self) -> Use {
        match self {
            Self::Tls13ServerCertificateVerify | Self::Tls12ServerKeyExchange => Use::TlsServer,
            Self::Tls13ClientCertificateVerify | Self::Tls12ClientCertificateVerify => Use::TlsClient,
            Self::CertificateRequest => Use::Csr,
            Self::Other => Use::Any,
        }
    }

    /// A short name, for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tls13ServerCertificateVerify => "tls13-server",
            Self::Tls13ClientCertificateVerify => "tls13-client",
            Self::Tls12ServerKeyExchange => "tls12-server",
            Self::Tls12ClientCertificateVerify => "tls12-client",
            Self::CertificateRequest => "csr",
            Self::Other => "other",
        }
    }
}

/// Decides what a message is. `spki` is the SubjectPublicKeyInfo, in DER, of the key that is to sign it.
pub fn classify(message: &[u8], spki: &[u8]) -> Purpose {
    if let Some(side) = tls13_certificate_verify(message) {
        return side;
    }
    if is_certification_request_info(message, spki).is_some() {
        return Purpose::CertificateRequest;
    }
    if is_tls12_transcript(message).is_some() {
        return Purpose::Tls12ClientCertificateVerify;
    }
    let else_too = || is_signed_structure(message) || is_of_ssh(message);
    if is_server_key_exchange(message).is_some() && !else_too() {
        return Purpose::Tls12ServerKeyExchange;
    }
    Purpose::Other
}

/// RFC 8446, 4.4.3: 64 spaces, context string, one zero byte, transcript hash.
fn tls13_certificate_verify(message: &[u8]) -> Option<Purpose> {
    let (spaces, rest) = message.split_first_chunk::<64>()?;
    if *spaces != [0x20; 64] {
        return None;
    }
    let (side, hash) = match rest.strip_prefix(b"TLS 1.3, server CertificateVerify\0") {
        Some(hash) => (Purpose::Tls13ServerCertificateVerify, hash),
        None => {
            let hash = rest.strip_prefix(b"TLS 1.3, client CertificateVerify\0")?;
            (Purpose::Tls13ClientCertificateVerify, hash)
        }
    };
    // The hash of the cipher suite: SHA-256 or SHA-384 (RFC 8446, B.4).
    matches!(hash.len(), 32 | 48).then_some(side)
}

/// Two randoms of 32 bytes, then the parameters of the key exchange and nothing behind them.
fn is_server_key_exchange(message: &[u8]) -> Option<()> {
    let (_randoms, parameters) = message.split_first_chunk::<64>()?;
    let mut rest = Bytes(parameters);
    if parameters.first() == Some(&NAMED_CURVE) {
        if let Some(()) = ecdhe(&mut rest) {
            return Some(());
        }
        rest = Bytes(parameters);
    }
    dhe(&mut rest)
}

/// ServerECDHParams with a named curve (RFC 8422, 5.4).
fn ecdhe(rest: &mut Bytes<'_>) -> Option<()> {
    let [_named_curve, high, low] = *rest.take(3)?.first_chunk()?;
    let point = rest.prefixed::<1>()?;
    // RFC 8422, 5.1.1 and RFC 8446, 4.2.7, with the lengths of 4.2.8.2.
    let (length, uncompressed) = match u16::from_be_bytes([high, low]) {
        23 => (65, true),
        24 => (97, true),
        25 => (133, true),
        29 => (32, false),
        30 => (56, false),
        _ => return None,
    };
    let form = !uncompressed || point.first() == Some(&4);
    (point.len() == length && form && rest.0.is_empty()).then_some(())
}

/// ServerDHParams (RFC 5246, 7.4.3): a prime of 1024 to 8192 bits, generator and public value below it.
fn dhe(rest: &mut Bytes<'_>) -> Option<()> {
    let prime = rest.prefixed::<2>()?;
    let generator = rest.prefixed::<2>()?;
    let public = rest.prefixed::<2>()?;
    let odd = prime.last().is_some_and(|byte| byte & 1 == 1) && prime.first().is_some_and(|byte| *byte != 0);
    let sizes = (128..=1024).contains(&prime.len())
        && (1..=prime.len()).contains(&generator.len())
        && (1..=prime.len()).contains(&public.len());
    (odd && sizes && rest.0.is_empty()).then_some(())
}

/// A handshake of TLS 1.2 as it stands when the client proves its key (RFC 5246, 7.3): ClientHello,
/// ServerHello, Certificate, CertificateStatus if any, ServerKeyExchange if any, CertificateRequest,
/// ServerHelloDone, Certificate, ClientKeyExchange.
fn is_tls12_transcript(message: &[u8]) -> Option<()> {
    if message.len() > keyward_proto::frame::MAX_WHOLE_MESSAGE {
        return None;
    }
    let mut rest = Bytes(message);
    let mut next = |kind: u8| -> Option<&[u8]> {
        let body = rest.0.first().filter(|byte| **byte == kind).and_then(|_| {
            let mut ahead = Bytes(rest.0.get(1..)?);
            let body = ahead.prefixed::<3>()?;
            rest = ahead;
            Some(body)
        })?;
        Some(body)
    };
    hello(next(CLIENT_HELLO)?, true)?;
    hello(next(SERVER_HELLO)?, false)?;
    next(CERTIFICATE).filter(|body| !body.is_empty())?;
    let _ = next(CERTIFICATE_STATUS);
    let _ = next(SERVER_KEY_EXCHANGE);
    next(CERTIFICATE_REQUEST).filter(|body| !body.is_empty())?;
    next(SERVER_HELLO_DONE).filter(|body| body.is_empty())?;
    next(CERTIFICATE).filter(|body| !body.is_empty())?;
    next(CLIENT_KEY_EXCHANGE).filter(|body| !body.is_empty())?;
    rest.0.is_empty().then_some(())
}

/// ClientHello or ServerHello (RFC 5246, 7.4.1), to the last byte.
fn hello(body: &[u8], client: bool) -> Option<()> {
    let mut rest = Bytes(body);
    if rest.take(2)? != [3, 3] {
        return None;
    }
    rest.take(32)?;
    if rest.prefixed::<1>()?.len() > 32 {
        return None;
    }
    if client {
        let suites = rest.prefixed::<2>()?;
        if suites.is_empty() || suites.len() % 2 != 0 || rest.prefixed::<1>()?.is_empty() {
            return None;
        }
    } else {
        rest.take(3)?;
    }
    if rest.0.is_empty() {
        return Some(());
    }
    let mut extensions = Bytes(rest.prefixed::<2>()?);
    while !extensions.0.is_empty() {
        extensions.take(2)?;
        extensions.prefixed::<2>()?;
    }
    rest.0.is_empty().then_some(())
}

/// `SEQUENCE { INTEGER 0, Name, this very SubjectPublicKeyInfo, [0] attributes }` (RFC 2986, 4.1).
fn is_certification_request_info(message: &[u8], spki: &[u8]) -> Option<()> {
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

/// Whether the whole message is one SEQUENCE or SET whose content is again a row of values, beginning as signed
/// structures do (TBSCertificate, CertificationRequestInfo, TBSCertList, ResponseData, SignedAttributes, ...).
///
/// It is read as leniently as the most lenient of those that verify such signatures: BER with lengths of any form,
/// and tags of more bytes than they need. An indefinite length counts as if it was right.
///
/// A ServerKeyExchange that is refused for this would need random bytes that say so: tag and length of the outer
/// value fit by chance in one of 16,000 handshakes (X25519, where the length has one byte), and what is inside in
/// about one of 600 (counted over a million random messages): together one in 10^7, and only in TLS 1.2. The
/// client's next attempt has other randoms.
fn is_signed_structure(message: &[u8]) -> bool {
    let mut outer = Bytes(message);
    let content = match outer.ber() {
        Some((Tag { class: UNIVERSAL, number: 16 | 17 }, content)) if outer.0.is_empty() => content,
        _ => return false,
    };
    let begins = match Bytes(content).ber() {
        // INTEGER, OBJECT IDENTIFIER, ENUMERATED, SEQUENCE, SET.
        Some((Tag { class: UNIVERSAL, number }, _)) => matches!(number, 2 | 6 | 10 | 16 | 17),
        Some((Tag { class: CONTEXT, number }, _)) => number <= 3,
        _ => false,
    };
    let mut values = Bytes(content);
    while begins && !values.0.is_empty() {
        if values.ber().is_none() {
            return false;
        }
    }
    begins
}

/// Whether the message begins as what SSH signs: with a string of fewer than 256 bytes (RFC 4252, 7 and the
/// certificates of OpenSSH), or as a signature of a file does. By chance a random begins so once in 10^7.
fn is_of_ssh(message: &[u8]) -> bool {
    message.starts_with(&[0, 0, 0]) || message.starts_with(b"SSHSIG")
}

/// Whether bytes are a row of DER values without a rest.
fn tiles(content: &[u8]) -> bool {
    let mut rest = Bytes(content);
    while !rest.0.is_empty() {
        if rest.der().is_none() {
            return false;
        }
    }
    true
}

/// What is still to be read of a message.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A vector of TLS: its length in `N` bytes, then as many bytes (RFC 8446, 3.4).
    fn prefixed<const N: usize>(&mut self) -> Option<&'a [u8]> {
        let length = self.take(N)?.iter().fold(0usize, |length, byte| length << 8 | usize::from(*byte));
        self.take(length)
    }

    /// A value of BER, as leniently as anybody reads it: tag and content (X.690, 8.1). One with an indefinite length
    /// takes all there is.
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

    /// A value of DER: tag, content, and both with the length between them (X.690, 8.1 and 10.1). Only tags of
    /// one byte and minimal definite lengths.
    fn der(&mut self) -> Option<(u8, &'a [u8], &'a [u8])> {
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

// ECCurveType, RFC 8422, 5.4.
const NAMED_CURVE: u8 = 3;

// HandshakeType, RFC 5246, 7.4 and RFC 6066, 8.
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const CERTIFICATE: u8 = 11;
const SERVER_KEY_EXCHANGE: u8 = 12;
const CERTIFICATE_REQUEST: u8 = 13;
const SERVER_HELLO_DONE: u8 = 14;
const CLIENT_KEY_EXCHANGE: u8 = 16;
const CERTIFICATE_STATUS: u8 = 22;

// Tags, X.690, 8.
const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
const CONTEXT_0: u8 = 0xa0;

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    const OID: u8 = 0x06;
    const SET: u8 = 0x31;

    fn tls13(context: &str, hash: usize) -> Vec<u8> {
        [&[0x20; 64][..], context.as_bytes(), &[0], &vec![0xab; hash]].concat()
    }

    fn ske(group: u16, point: &[u8]) -> Vec<u8> {
        let mut message: Vec<u8> = (0..64u8).map(|byte| byte.wrapping_mul(37) | 1).collect();
        message.push(NAMED_CURVE);
        message.extend_from_slice(&group.to_be_bytes());
        message.push(point.len() as u8);
        message.extend_from_slice(point);
        message
    }

    fn uncompressed(length: usize) -> Vec<u8> {
        [&[4][..], &vec![0x5a; length - 1]].concat()
    }

    fn dh(prime: &[u8], generator: &[u8], public: &[u8]) -> Vec<u8> {
        let mut message = vec![0xee; 64];
        for part in [prime, generator, public] {
            message.extend_from_slice(&(part.len() as u16).to_be_bytes());
            message.extend_from_slice(part);
        }
        message
    }

    fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32).to_be_bytes();
        [&[kind], &length[1..], body].concat()
    }

    fn transcript() -> Vec<Vec<u8>> {
        let client =
            [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0xc0, 0x2b], &[1, 0], &[0, 5, 0, 23, 0, 1, 9]].concat();
        let server = [&[3, 3][..], &[8; 32], &[0], &[0xc0, 0x2b, 0]].concat();
        vec![
            handshake(CLIENT_HELLO, &client),
            handshake(SERVER_HELLO, &server),
            handshake(CERTIFICATE, &[0, 0, 3, 1, 2, 3]),
            handshake(SERVER_KEY_EXCHANGE, &[3, 0, 29, 1, 0]),
            handshake(CERTIFICATE_REQUEST, &[1, 64, 0, 2, 4, 3, 0, 0]),
            handshake(SERVER_HELLO_DONE, &[]),
            handshake(CERTIFICATE, &[0, 0, 3, 1, 2, 3]),
            handshake(CLIENT_KEY_EXCHANGE, &[32; 33]),
        ]
    }

    fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = content.len();
        let head = match length {
            0..=0x7f => vec![tag, length as u8],
            0x80..=0xff => vec![tag, 0x81, length as u8],
            _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
        };
        [head, content.to_vec()].concat()
    }

    /// A key and a request for it, made by the openssl program: SubjectPublicKeyInfo and the signed part.
    fn real_request() -> (Vec<u8>, Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let openssl = |words: &[&str]| {
            let mut command = Command::new("openssl");
            command.args(words).current_dir(directory.path()).stdout(Stdio::null()).stderr(Stdio::null());
            assert!(command.status().unwrap().success(), "{words:?}");
        };
        openssl(&[
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            "key.pem",
            "-subj",
            "/C=DE/O=Shop/CN=shop.example",
            "-addext",
            "subjectAltName=DNS:shop.example",
            "-outform",
            "DER",
            "-out",
            "request.der",
        ]);
        openssl(&["pkey", "-in", "key.pem", "-pubout", "-outform", "DER", "-out", "public.der"]);
        let request = std::fs::read(path("request.der")).unwrap();
        let (_, content, _) = Bytes(&request).der().unwrap();
        let (_, _, signed) = Bytes(content).der().unwrap();
        (std::fs::read(path("public.der")).unwrap(), signed.to_vec())
    }

    fn kind(message: &[u8]) -> Purpose {
        classify(message, b"no key")
    }

    #[test]
    fn tls13_of_both_sides() {
        for hash in [32, 48] {
            let server = tls13("TLS 1.3, server CertificateVerify", hash);
            assert_eq!(kind(&server), Purpose::Tls13ServerCertificateVerify);
            let client = tls13("TLS 1.3, client CertificateVerify", hash);
            assert_eq!(kind(&client), Purpose::Tls13ClientCertificateVerify);
        }
        for wrong in [
            tls13("TLS 1.3, server CertificateVerify", 31),
            tls13("TLS 1.3, server CertificateVerify", 33),
            tls13("TLS 1.3, server CertificateVerify", 64),
            tls13("TLS 1.3, server CertificateVerify ", 32),
            tls13("TLS 1.2, server CertificateVerify", 32),
            tls13("tls 1.3, server certificateverify", 32),
            tls13("QUIC, server CertificateVerify", 32),
            tls13("TLS 1.3, server CertificateVerify", 32)[1..].to_vec(),
        ] {
            assert_eq!(kind(&wrong), Purpose::Other);
        }
    }

    #[test]
    fn ecdhe_with_the_exact_point_of_each_group() {
        let good = [(23, 65), (24, 97), (25, 133)].map(|(group, length)| ske(group, &uncompressed(length)));
        let good = good.into_iter().chain([ske(29, &[9; 32]), ske(30, &[9; 56])]);
        for message in good {
            assert_eq!(kind(&message), Purpose::Tls12ServerKeyExchange);
            let longer = [&message[..], &[0]].concat();
            assert_eq!(kind(&longer), Purpose::Other);
            assert_eq!(kind(&message[..message.len() - 1]), Purpose::Other);
            assert_eq!(kind(&message[1..]), Purpose::Other);
        }
        for wrong in [
            ske(23, &uncompressed(64)),
            ske(23, &uncompressed(97)),
            ske(23, &[&[2][..], &[1; 64]].concat()),
            ske(29, &[9; 33]),
            ske(22, &uncompressed(65)),
            ske(0, &[9; 32]),
        ] {
            assert_eq!(kind(&wrong), Purpose::Other);
        }
        let mut explicit = ske(29, &[9; 32]);
        explicit[64] = 1;
        assert_eq!(kind(&explicit), Purpose::Other);
    }

    #[test]
    fn dhe_with_sound_sizes() {
        let prime = |length: usize| [&[0xff][..], &vec![0x13; length - 1]].concat();
        for length in [128, 256, 384, 1024] {
            assert_eq!(kind(&dh(&prime(length), &[2], &vec![1; length])), Purpose::Tls12ServerKeyExchange);
        }
        let mut even = prime(256);
        even[255] = 0x12;
        for wrong in [
            dh(&prime(127), &[2], &[1; 127]),
            dh(&prime(1025), &[2], &[1; 1025]),
            dh(&even, &[2], &[1; 256]),
            dh(&[&[0][..], &prime(255)].concat(), &[2], &[1; 256]),
            dh(&prime(256), &[], &[1; 256]),
            dh(&prime(256), &[2], &[]),
            dh(&prime(256), &[2], &[1; 257]),
            [&dh(&prime(256), &[2], &[1; 256])[..], &[0]].concat(),
        ] {
            assert_eq!(kind(&wrong), Purpose::Other);
        }
    }

    #[test]
    fn a_structure_that_has_the_shape_of_dhe_is_refused() {
        // Whoever drives a server chooses the first 64 bytes and all three numbers: enough to build a structure
        // around them, with a key exchange inside of an OCTET STRING (in a certificate: an extension's).
        let parameters = dh(&[0xff; 256], &[2], &[1; 256]).split_off(64);
        let length = |length: usize, form: &[u8]| match form {
            [0x80] => vec![0x80],
            [first, zeros @ ..] => [&[*first][..], zeros, &(length as u16).to_be_bytes()].concat(),
            [] => panic!("no form"),
        };
        // Minimal, with zeros before it, and indefinite.
        let forms: &[&[u8]] = &[&[0x82], &[0x83, 0], &[0x84, 0, 0], &[0x88, 0, 0, 0, 0, 0, 0], &[0x80]];
        let sequences: &[&[u8]] = &[&[0x30], &[0x31], &[0x3f, 0x10], &[0x3f, 0x80, 0x11]];
        // As TBSCertificate, TBSCertList and ResponseData begin, and the first with its tag in two bytes.
        let begins: &[&[u8]] = &[&[2], &[0xa0], &[0xa1], &[0xa2], &[0x30], &[0xbf, 0], &[0x1f, 2]];
        for sequence in sequences {
            for outer in forms {
                for inner in forms {
                    for first in begins {
                        let content = |filled: usize| {
                            let filling = [first, &[filled as u8][..], &vec![1; filled]].concat();
                            let octets = [&[4][..], &length(parameters.len(), inner), &parameters].concat();
                            [filling, octets].concat()
                        };
                        let message = |filled: usize| {
                            let content = content(filled);
                            [sequence, length(content.len(), outer).as_slice(), &content].concat()
                        };
                        let filled = 64 - (message(0).len() - parameters.len());
                        let message = message(filled);
                        assert_eq!(message.len(), 64 + parameters.len());
                        assert!(is_server_key_exchange(&message).is_some(), "the shape is right");
                        assert_eq!(kind(&message), Purpose::Other, "{:x?}", &message[..16]);
                    }
                }
            }
        }
    }

    #[test]
    fn what_ssh_signs_is_refused_though_it_has_the_shape_of_dhe() {
        let prime = [&[0xff][..], &[0x13; 127]].concat();
        let shaped = dh(&prime, &[2], &[1; 128]);
        for begin in [&b"\0\0\0\x28ecdsa-sha2-nistp256-cert-v01@openssh.com"[..], b"\0\0\0\x20", b"SSHSIG"] {
            let mut message = shaped.clone();
            message[..begin.len()].copy_from_slice(begin);
            assert!(is_server_key_exchange(&message).is_some(), "the shape is right");
            assert_eq!(kind(&message), Purpose::Other);
        }
        assert_eq!(kind(&shaped), Purpose::Tls12ServerKeyExchange);
    }

    #[test]
    fn tls12_transcripts_of_clients() {
        let whole = transcript().concat();
        assert_eq!(kind(&whole), Purpose::Tls12ClientCertificateVerify);
        let mut without = transcript();
        without.remove(3);
        assert_eq!(kind(&without.concat()), Purpose::Tls12ClientCertificateVerify, "RSA key exchange");
        let mut stapled = transcript();
        stapled.insert(3, handshake(CERTIFICATE_STATUS, &[1, 0, 0, 1, 5]));
        assert_eq!(kind(&stapled.concat()), Purpose::Tls12ClientCertificateVerify);
        for missing in [0, 1, 2, 4, 5, 6, 7] {
            let mut parts = transcript();
            parts.remove(missing);
            assert_eq!(kind(&parts.concat()), Purpose::Other, "without part {missing}");
        }
        let mut swapped = transcript();
        swapped.swap(0, 1);
        assert_eq!(kind(&swapped.concat()), Purpose::Other);
        for end in 0..whole.len() {
            assert_eq!(kind(&whole[..end]), Purpose::Other, "cut at {end}");
        }
        let longer = [&whole[..], &[0]].concat();
        assert_eq!(kind(&longer), Purpose::Other);
        let mut old = whole;
        old[5] = 2;
        assert_eq!(kind(&old), Purpose::Other, "TLS 1.1");
    }

    #[test]
    fn requests_for_this_very_key() {
        let (spki, request) = real_request();
        assert_eq!(classify(&request, &spki), Purpose::CertificateRequest);
        let (other, _) = real_request();
        assert_eq!(classify(&request, &other), Purpose::Other, "for another key");
        for end in 0..request.len() {
            assert_eq!(classify(&request[..end], &spki), Purpose::Other, "cut at {end}");
        }
        let longer = [&request[..], &[0]].concat();
        assert_eq!(classify(&longer, &spki), Purpose::Other);
    }

    #[test]
    fn what_else_people_sign_is_other() {
        let (spki, _) = real_request();
        let jwt = "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIn0";
        let name = tlv(
            SEQUENCE,
            &tlv(SET, &tlv(SEQUENCE, &[&tlv(OID, &[0x55, 4, 3])[..], &tlv(0x0c, b"CA")].concat())),
        );
        let algorithm = tlv(SEQUENCE, &tlv(OID, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]));
        let validity = tlv(SEQUENCE, &[tlv(0x17, b"260101000000Z"), tlv(0x17, b"270101000000Z")].concat());
        let version = tlv(CONTEXT_0, &tlv(INTEGER, &[2]));
        let serial = tlv(INTEGER, &[7; 16]);
        let certificate = [&version[..], &serial, &algorithm, &name, &validity, &name, &spki].concat();
        let signed_attributes =
            tlv(SET, &tlv(SEQUENCE, &[tlv(OID, &[1, 2, 3]), tlv(SET, &tlv(4, &[9; 32]))].concat()));
        let ssh =
            [&[0, 0, 0, 32][..], &[7; 32], &[50, 0, 0, 0, 4], b"root", &[0, 0, 0, 14], b"ssh-connection"]
                .concat();
        for message in [
            jwt.as_bytes().to_vec(),
            tlv(SEQUENCE, &certificate),
            signed_attributes,
            ssh,
            Vec::new(),
            vec![0; 20],
            vec![0xaa; 32],
            vec![0xaa; 48],
            vec![0xaa; 64],
            vec![0x20; 64],
            vec![0x20; 150],
        ] {
            assert_eq!(classify(&message, &spki), Purpose::Other);
        }
    }

    proptest! {
        #[test]
        fn random_bytes_are_other(message: Vec<u8>, spki: Vec<u8>) {
            prop_assert_eq!(classify(&message, &spki), Purpose::Other);
        }

        #[test]
        fn random_points_are_key_exchanges(randoms in any::<[u8; 32]>(), point in any::<[u8; 32]>()) {
            let mut message = ske(29, &point);
            message[..32].copy_from_slice(&randoms);
            prop_assert_eq!(kind(&message), Purpose::Tls12ServerKeyExchange);
        }
    }
}
