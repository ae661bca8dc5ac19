//! The signed messages of TLS 1.2: the parameters of a key exchange, and the transcript of a
//! client.

use super::bytes::Bytes;
use super::points::Curve;
use super::{asn1, groups};

/// Kind of a ServerKeyExchange.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum KeyExchange {
    /// ECDHE, from a server that would have negotiated TLS 1.3 if the client had offered it.
    Ecdhe,
    /// ECDHE, from a server that did not offer TLS 1.3.
    EcdheOfTls12Only,
    /// DHE over a group of RFC 7919 or RFC 3526.
    Dhe,
    /// DHE over an unknown group.
    DheOverOtherGroup,
}

/// Kind of a message of two randoms of 32 bytes and the parameters of the key exchange, with
/// nothing after them (RFC 5246, 7.4.3).
pub(super) fn server_key_exchange(message: &[u8]) -> Option<KeyExchange> {
    let (randoms, parameters) = message.split_first_chunk::<64>()?;
    if parameters.first() == Some(&NAMED_CURVE) && ecdhe(parameters).is_some() {
        return Some(match randoms.ends_with(&SENTINEL) {
            true => KeyExchange::Ecdhe,
            false => KeyExchange::EcdheOfTls12Only,
        });
    }
    dhe(parameters)
}

/// ServerECDHParams with a named curve (RFC 8422, 5.4) and a possible point. The point lies on its
/// curve, or has the right length for a curve where every number is a point (RFC 7748, 5).
fn ecdhe(parameters: &[u8]) -> Option<()> {
    let mut rest = Bytes(parameters);
    let [_named_curve, high, low] = *rest.take(3)?.first_chunk()?;
    let point = rest.prefixed::<1>()?;
    // RFC 8422, 5.1.1 and RFC 8446, 4.2.7, with the forms of 4.2.8.2.
    let curve = match u16::from_be_bytes([high, low]) {
        23 => Curve::P256,
        24 => Curve::P384,
        25 => Curve::P521,
        29 => return (point.len() == 32 && rest.0.is_empty()).then_some(()),
        30 => return (point.len() == 56 && rest.0.is_empty()).then_some(()),
        _ => return None,
    };
    (rest.0.is_empty() && curve.has(point.strip_prefix(&[UNCOMPRESSED])?)).then_some(())
}

/// ServerDHParams (RFC 5246, 7.4.3).
fn dhe(parameters: &[u8]) -> Option<KeyExchange> {
    let mut rest = Bytes(parameters);
    let prime = rest.prefixed::<2>()?;
    let generator = rest.prefixed::<2>()?;
    let public = rest.prefixed::<2>()?;
    if !rest.0.is_empty() {
        return None;
    }
    if groups::has_prime(prime) {
        return (generator == [2] && is_public_value(public, prime)).then_some(KeyExchange::Dhe);
    }
    let odd = prime.last().is_some_and(|byte| byte & 1 == 1) && prime.first().is_some_and(|byte| *byte != 0);
    let sizes = (128..=1024).contains(&prime.len())
        && (1..=prime.len()).contains(&generator.len())
        && (1..=prime.len()).contains(&public.len());
    (odd && sizes).then_some(KeyExchange::DheOverOtherGroup)
}

/// 2 <= y <= p - 2 (RFC 7919, 5.1), for a p that ends in eight bytes of ones.
///
/// OpenSSL fills y with zeros up to the length of p (3.0, 3.5 and 4.0,
/// `tls_construct_server_key_exchange`). Other libraries write no zeros before y. No library writes
/// fewer zeros than the length of p needs.
fn is_public_value(y: &[u8], p: &[u8]) -> bool {
    let padded = y.len() == p.len();
    if !padded && (y.len() > p.len() || y.first() == Some(&0)) {
        return false;
    }
    let at_least_two =
        y.split_last().is_some_and(|(last, front)| *last > 1 || front.iter().any(|byte| *byte != 0));
    // p - 1 and p differ only in their last byte.
    let below = match (y.split_last(), p.split_last()) {
        (Some((y_last, y_front)), Some((p_last, p_front))) => {
            !padded || y_front < p_front || (y_front == p_front && *y_last < p_last - 1)
        }
        _ => false,
    };
    at_least_two && below
}

/// The handshake of TLS 1.2 up to the CertificateVerify of the client (RFC 5246, 7.3): ClientHello,
/// ServerHello, Certificate, CertificateStatus if any, ServerKeyExchange if any,
/// CertificateRequest, ServerHelloDone, Certificate, ClientKeyExchange.
pub(super) fn is_transcript(message: &[u8]) -> Option<()> {
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
    certificates(next(CERTIFICATE)?)?;
    if let Some(status) = next(CERTIFICATE_STATUS) {
        certificate_status(status)?;
    }
    let _ = next(SERVER_KEY_EXCHANGE);
    certificate_request(next(CERTIFICATE_REQUEST)?)?;
    next(SERVER_HELLO_DONE).filter(|body| body.is_empty())?;
    certificates(next(CERTIFICATE)?)?;
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
    extensions(rest.prefixed::<2>()?)?;
    rest.0.is_empty().then_some(())
}

/// Extensions, each present once (RFC 5246, 7.4.1.4). Names of servers (RFC 6066, 3) and of
/// protocols (RFC 7301, 3.1) are lists, and padding is zeros (RFC 7685, 3). Other extensions, such
/// as session tickets, have any bytes.
fn extensions(extensions: &[u8]) -> Option<()> {
    let (mut rest, mut seen) = (Bytes(extensions), Vec::new());
    while !rest.0.is_empty() {
        let kind = u16::from_be_bytes(*rest.take(2)?.first_chunk()?);
        let body = rest.prefixed::<2>()?;
        if seen.contains(&kind) || seen.len() == MOST_EXTENSIONS {
            return None;
        }
        seen.push(kind);
        let mut content = Bytes(body);
        match kind {
            // The extension of a server has no name.
            SERVER_NAME if !body.is_empty() => {
                let mut names = Bytes(content.prefixed::<2>()?);
                while !names.0.is_empty() {
                    names.take(1)?;
                    names.prefixed::<2>()?;
                }
                content.0.is_empty().then_some(())?;
            }
            ALPN => {
                let mut names = Bytes(content.prefixed::<2>()?);
                while !names.0.is_empty() {
                    names.prefixed::<1>()?;
                }
                content.0.is_empty().then_some(())?;
            }
            PADDING => body.iter().all(|byte| *byte == 0).then_some(())?,
            _ => {}
        }
    }
    Some(())
}

/// Certificate: a list of certificates in DER (RFC 5246, 7.4.2), or a public key alone (RFC 7250,
/// 3). No certificate is longer than its length says.
fn certificates(body: &[u8]) -> Option<()> {
    let mut rest = Bytes(body);
    let list = rest.prefixed::<3>()?;
    if list.is_empty() || !rest.0.is_empty() {
        return None;
    }
    if asn1::is_public_key(list) {
        return Some(());
    }
    let mut list = Bytes(list);
    while !list.0.is_empty() {
        asn1::is_certificate(list.prefixed::<3>()?).then_some(())?;
    }
    Some(())
}

/// CertificateRequest: kinds of certificates, signature algorithms, and names in DER (RFC 5246,
/// 7.4.4).
fn certificate_request(body: &[u8]) -> Option<()> {
    let mut rest = Bytes(body);
    rest.prefixed::<1>()?;
    rest.prefixed::<2>()?;
    let mut names = Bytes(rest.prefixed::<2>()?);
    while !names.0.is_empty() {
        asn1::is_name(names.prefixed::<2>()?).then_some(())?;
    }
    rest.0.is_empty().then_some(())
}

/// CertificateStatus: its kind, then responses of OCSP (RFC 6066, 8 and RFC 6961, 2.2).
fn certificate_status(body: &[u8]) -> Option<()> {
    let mut rest = Bytes(body);
    rest.take(1)?;
    rest.prefixed::<3>()?;
    rest.0.is_empty().then_some(())
}

/// End of the random of a server that would have negotiated TLS 1.3 if the client had offered it
/// (RFC 8446, 4.1.3).
pub(super) const SENTINEL: [u8; 8] = *b"DOWNGRD\x01";

/// ECCurveType, RFC 8422, 5.4.
const NAMED_CURVE: u8 = 3;

/// PointConversionForm, RFC 8422, 5.4.1.
const UNCOMPRESSED: u8 = 4;

// HandshakeType, RFC 5246, 7.4 and RFC 6066, 8.
pub(super) const CLIENT_HELLO: u8 = 1;
pub(super) const SERVER_HELLO: u8 = 2;
pub(super) const CERTIFICATE: u8 = 11;
pub(super) const SERVER_KEY_EXCHANGE: u8 = 12;
pub(super) const CERTIFICATE_REQUEST: u8 = 13;
pub(super) const SERVER_HELLO_DONE: u8 = 14;
pub(super) const CLIENT_KEY_EXCHANGE: u8 = 16;
pub(super) const CERTIFICATE_STATUS: u8 = 22;

/// Maximum number of extensions of a hello. Browsers send some twenty. A hello has room for 16,000,
/// and to compare all of them with each other would take milliseconds.
const MOST_EXTENSIONS: usize = 128;

// ExtensionType, RFC 6066, RFC 7301 and RFC 7685.
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const PADDING: u16 = 21;
