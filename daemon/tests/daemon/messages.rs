//! Messages that TLS signs, built byte by byte.

use std::process::Command;

use aws_lc_rs::agreement::{ECDH_P256, ECDH_P384, ECDH_P521, EphemeralPrivateKey, X25519};
use aws_lc_rs::rand::SystemRandom;

/// End of the random of a server that offers TLS 1.3 (RFC 8446, 4.1.3).
pub(crate) const SENTINEL: &[u8; 8] = b"DOWNGRD\x01";

/// The groups for ECDHE by their numbers (RFC 8422, 5.1.1).
pub(crate) const CURVES: [u16; 5] = [23, 24, 25, 29, 30];

/// Message that CertificateVerify of a side signs in TLS 1.3 (RFC 8446, 4.4.3).
pub(crate) fn tls13(side: &str, hash: usize) -> Vec<u8> {
    [&[b' '; 64][..], format!("TLS 1.3, {side} CertificateVerify\0").as_bytes(), &vec![7; hash]].concat()
}

/// Message that ServerKeyExchange signs with ECDHE (RFC 8422, 5.4).
pub(crate) fn ecdhe(randoms: &[u8], group: u16, point: &[u8]) -> Vec<u8> {
    [randoms, &[3], &group.to_be_bytes(), &[point.len() as u8], point].concat()
}

/// Message that ServerKeyExchange signs with DHE (RFC 5246, 7.4.3).
pub(crate) fn dhe(randoms: &[u8], p: &[u8], g: &[u8], y: &[u8]) -> Vec<u8> {
    let mut message = randoms.to_vec();
    for number in [p, g, y] {
        message.extend((number.len() as u16).to_be_bytes());
        message.extend(number);
    }
    message
}

/// Randoms of a handshake, of a server that offers TLS 1.3 as well.
pub(crate) fn randoms() -> [u8; 64] {
    let mut randoms: [u8; 64] = core::array::from_fn(|at| (at as u8).wrapping_mul(37) | 1);
    randoms[56..].copy_from_slice(SENTINEL);
    randoms
}

/// New public value of a group, in the form of TLS.
pub(crate) fn point(group: u16) -> Vec<u8> {
    let algorithm = match group {
        23 => &ECDH_P256,
        24 => &ECDH_P384,
        25 => &ECDH_P521,
        29 => &X25519,
        // X448 takes any 56 bytes (RFC 7748, 5).
        _ => return [point(29), point(29)].concat()[..56].to_vec(),
    };
    let key = EphemeralPrivateKey::generate(algorithm, &SystemRandom::new()).unwrap();
    key.compute_public_key().unwrap().as_ref().to_vec()
}

/// Prime of a group by its name in the openssl program: `ffdhe2048` (RFC 7919), `modp_2048` (RFC
/// 3526).
pub(crate) fn prime(name: &str) -> Vec<u8> {
    let words = ["genpkey", "-genparam", "-algorithm", "DHX", "-pkeyopt", &format!("group:{name}")];
    let output = Command::new("openssl").args(words).output().unwrap();
    let (_, der) = pem_rfc7468::decode_vec(&output.stdout).unwrap();
    // SEQUENCE { INTEGER p, ... }: a zero byte comes before the number, since the first bit of the
    // number is set.
    let length = usize::from(u16::from_be_bytes([der[6], der[7]]));
    assert_eq!((der[4], der[8]), (2, 0), "{name}");
    der[9..8 + length].to_vec()
}

/// A message of the handshake with its header (RFC 5246, 7.4).
pub(crate) fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], &(body.len() as u32).to_be_bytes()[1..], body].concat()
}

/// Message that CertificateVerify of a client signs in TLS 1.2: the handshake so far, with this
/// random and this key exchange of the client.
pub(crate) fn transcript(random: [u8; 32], exchange: &[u8]) -> Vec<u8> {
    let client = [&[3, 3][..], &random, &[0, 0, 2, 0xc0, 0x2f, 1, 0]].concat();
    let server = [&[3, 3][..], &[8; 32], &[0, 0xc0, 0x2f, 0]].concat();
    let certificate = handshake(11, b"\0\0\x0f\0\0\x0c\x30\x0a\x30\x03\x02\x01\x01\x30\0\x03\x01\0");
    [
        handshake(1, &client),
        handshake(2, &server),
        certificate.clone(),
        handshake(13, &[1, 64, 0, 2, 4, 3, 0, 0]),
        handshake(14, &[]),
        certificate,
        handshake(16, exchange),
    ]
    .concat()
}
