//! Finds the purpose of a message: a pure function over bytes, and the reason why the daemon is no
//! signing oracle.
//!
//! Both OpenSSL and rustls send the whole message, so the daemon can examine the message before it
//! hashes the message. A message has exactly one of the forms below, to the last byte, or its
//! purpose is [`Purpose::Other`].
//!
//! An attacker who controls a server process gets signatures over messages that the grant and the
//! key both admit. For each use the attacker can choose these bytes:
//!
//! - `tls13-server`, `tls13-client`: a hash of 32 or 48 bytes after 98 fixed bytes, a form that
//!   nothing else has (RFC 8446, 4.4.3).
//! - `tls-server`: the same, and in TLS 1.2 the 56 bytes before the downgrade sentinel and the
//!   public value: 32 bytes for X25519, 56 for X448, and x for the NIST curves.
//! - `tls12-server`: 64 bytes and the public value.
//! - `tls12-dhe-server`: 64 bytes, and a number as long as the prime of a known group.
//! - `tls-client`: much of a transcript of TLS 1.2, up to 64 KiB.
//!
//! So the attacker can make signatures that a TLS client accepts in a handshake, in every protocol
//! with the same handshake: QUIC, EAP-TLS, STARTTLS. The bytes of TLS 1.2 leave room for other
//! formats, too. A message that also has a format of the table in `formats` is refused. `formats`
//! also names formats that cannot be recognised. `tls13-server` and `tls13-client` leave no such
//! room.

mod asn1;
mod bytes;
mod formats;
mod groups;
mod points;
mod tls12;

use keyward_proto::Use;
use tls12::KeyExchange;

/// The purpose of a message.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Purpose {
    /// CertificateVerify of a server in TLS 1.3 (RFC 8446, 4.4.3).
    Tls13ServerCertificateVerify,
    /// CertificateVerify of a client in TLS 1.3 (RFC 8446, 4.4.3).
    Tls13ClientCertificateVerify,
    /// The signed part of ServerKeyExchange in TLS 1.2 with ECDHE (RFC 8422, 5.4), from a server
    /// that also offers TLS 1.3: the random of the server ends in the downgrade sentinel (RFC 8446,
    /// 4.1.3).
    Tls12ServerKeyExchange,
    /// [`Self::Tls12ServerKeyExchange`] without the sentinel: the server did not offer TLS 1.3.
    Tls12OnlyServerKeyExchange,
    /// The signed part of ServerKeyExchange in TLS 1.2 with DHE (RFC 5246, 7.4.3), over a group of
    /// RFC 7919 or RFC 3526.
    Tls12DheServerKeyExchange,
    /// [`Self::Tls12DheServerKeyExchange`] over any other group.
    Tls12DheOverOtherGroup,
    /// The signed part of CertificateVerify of a client in TLS 1.2: the handshake so far (RFC 5246,
    /// 7.4.8).
    Tls12ClientCertificateVerify,
    /// CertificationRequestInfo for the key that signs the request (RFC 2986, 4.1).
    CertificateRequest,
    /// Anything else, and every bare digest.
    Other,
}

impl Purpose {
    /// Every purpose.
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

    /// True if a use admits messages of this purpose. Key and grant must each have such a use.
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
            // No message on a socket has these uses. Newer versions of the protocol may add others.
            Use::RsaKeyExchange | Use::AcmeAccount | _ => false,
        }
    }

    /// Index of the purpose in [`Self::ALL`].
    pub fn index(self) -> usize {
        self as usize
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

/// Finds the purpose of a message. `spki` is the SubjectPublicKeyInfo, in DER, of the key that the
/// peer asks for.
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

/// Name of the other format for which a message of TLS 1.2 is refused, for the log.
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

#[cfg(test)]
pub(crate) use groups::tests::prime;

#[cfg(test)]
mod tests;
