//! What is this message? A pure function over bytes, and the reason why the daemon is no signing oracle.
//!
//! Both OpenSSL and rustls hand over the whole message to be signed, so the daemon can look at it before it
//! hashes it. A message is what exactly one form below says it is, to the last byte, or it is [`Purpose::Other`].
//!
//! What remains open to someone who drives a server process is what its grant and the key both admit:
//!
//! | Use | Bytes of the asker's choice |
//! |---|---|
//! | `tls13-server`, `tls13-client` | a hash of 32 or 48 bytes after 98 fixed ones, made so that it is nothing else (RFC 8446, 4.4.3) |
//! | `tls-server` | those, and in TLS 1.2 56 bytes before the downgrade sentinel, and the public value: 32 bytes for X25519, 56 for X448, for the NIST curves x alone |
//! | `tls12-server` | 64 bytes and the public value |
//! | `tls12-dhe-server` | 64 bytes, and a number as long as the prime of a known group |
//! | `tls-client` | much of a transcript of TLS 1.2, up to 64 KiB |
//!
//! So an attacker there can make signatures that some TLS client somewhere accepts in a handshake,
//! in every protocol that has the same handshake: QUIC, EAP-TLS, STARTTLS. The bytes of TLS 1.2
//! leave room for other formats too. Those of the table in `formats` are refused although they have
//! the shape; the same place names those that cannot be told. Where a server has TLS 1.3 alone,
//! `tls13-server` leaves no such room, nor does `tls13-client` for a client.

mod asn1;
mod formats;
mod groups;
mod points;
mod tls12;

use keyward_proto::Use;
use tls12::KeyExchange;

/// What a message is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Purpose {
    /// CertificateVerify of a server in TLS 1.3 (RFC 8446, 4.4.3).
    Tls13ServerCertificateVerify,
    /// CertificateVerify of a client in TLS 1.3 (RFC 8446, 4.4.3).
    Tls13ClientCertificateVerify,
    /// What ServerKeyExchange signs in TLS 1.2 with ECDHE (RFC 8422, 5.4), by a server that has TLS 1.3 as well: its random
    /// ends in the downgrade sentinel (RFC 8446, 4.1.3).
    Tls12ServerKeyExchange,
    /// The same without the sentinel: the server did not offer TLS 1.3.
    Tls12OnlyServerKeyExchange,
    /// What ServerKeyExchange signs in TLS 1.2 with DHE (RFC 5246, 7.4.3), over a group of RFC 7919 or RFC 3526.
    Tls12DheServerKeyExchange,
    /// The same over any other group.
    Tls12DheOverOtherGroup,
    /// What CertificateVerify signs in TLS 1.2: the handshake so far (RFC 5246, 7.4.8).
    Tls12ClientCertificateVerify,
    /// CertificationRequestInfo for the very key that is to sign it (RFC 2986, 4.1).
    CertificateRequest,
    /// Anything else, and every bare digest.
    Other,
}

impl Purpose {
    /// Every purpose there is.
    pub const ALL: [Self; 9] = [
        Self::Tls13ServerCertificateVerify,
        Self::Tls13ClientCertificateVerify,
        Self::Tls12ServerKeyExchange,
        Self::Tls12OnlyServerKeyExchange,
        Self::Tls12DheServerKeyExchange,
        Self::Tls12DheOverOtherGroup,
        Self::Tls12ClientCertificateVerify,
        Self::CertificateRequest,
        Self::Other,
    ];

    /// Whether a use admits messages of this kind. Key and grant must each have one that does.
    pub fn is_admitted_by(self, one: Use) -> bool {
        match one {
            Use::TlsServer => {
                matches!(self, Self::Tls13ServerCertificateVerify | Self::Tls12ServerKeyExchange)
            }
            Use::Tls13Server => self == Self::Tls13ServerCertificateVerify,
            Use::Tls12Server => {
                matches!(self, Self::Tls12ServerKeyExchange | Self::Tls12OnlyServerKeyExchange)
            }
            Use::Tls12DheServer => self == Self::Tls12DheServerKeyExchange,
            Use::TlsClient => {
                matches!(self, Self::Tls13ClientCertificateVerify | Self::Tls12ClientCertificateVerify)
            }
            Use::Tls13Client => self == Self::Tls13ClientCertificateVerify,
            Use::Csr => self == Self::CertificateRequest,
            Use::Any => true,
            // Which no message on a socket is for. Others may come with newer versions of the protocol.
            Use::RsaKeyExchange | Use::AcmeAccount | _ => false,
        }
    }

    /// A short name, for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tls13ServerCertificateVerify => "tls13-server",
            Self::Tls13ClientCertificateVerify => "tls13-client",
            Self::Tls12ServerKeyExchange => "tls12-server",
            Self::Tls12OnlyServerKeyExchange => "tls12-only-server",
            Self::Tls12DheServerKeyExchange => "tls12-dhe-server",
            Self::Tls12DheOverOtherGroup => "tls12-dhe-other-group",
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
    if asn1::is_certification_request_info(message, spki).is_some() {
        return Purpose::CertificateRequest;
    }
    let shape = match tls12::is_transcript(message) {
        Some(()) => Purpose::Tls12ClientCertificateVerify,
        None => match tls12::server_key_exchange(message) {
            Some(KeyExchange::Ecdhe) => Purpose::Tls12ServerKeyExchange,
            Some(KeyExchange::EcdheOfTls12Only) => Purpose::Tls12OnlyServerKeyExchange,
            Some(KeyExchange::Dhe) => Purpose::Tls12DheServerKeyExchange,
            Some(KeyExchange::DheOverOtherGroup) => Purpose::Tls12DheOverOtherGroup,
            None => return Purpose::Other,
        },
    };
    match formats::of(message) {
        Some(_) => Purpose::Other,
        None => shape,
    }
}

/// The format that a message of TLS 1.2 has the form of beside its own, and is refused for: what the log names.
pub fn other_format(message: &[u8]) -> Option<&'static str> {
    let has_shape = tls12::is_transcript(message).is_some() || tls12::server_key_exchange(message).is_some();
    formats::of(message).filter(|_| has_shape)
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
}

#[cfg(test)]
mod tests;
