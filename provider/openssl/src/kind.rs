//! Kind of a refused request, for the log of a program that signs more than handshakes.
//!
//! The daemon reads the whole message and answers only with its decision. Here the beginning of the
//! message is enough, because only the words of an error depend on the kind.

use keyward_client::Input;
use keyward_proto::Outcome;

/// A kind of request that an administrator may not expect from a program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Certificate,
    CertificateRequest,
    ClientHandshake,
    Digest,
    KeyExchange,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Certificate, Self::CertificateRequest, Self::ClientHandshake, Self::Digest, Self::KeyExchange];

    /// The kind of a request that was refused for lack of a use; `None` for other outcomes and
    /// kinds.
    pub(crate) fn refused(outcome: Outcome, input: Input<'_>) -> Option<Self> {
        match (outcome, input) {
            (Outcome::UseRefused | Outcome::UseNotGranted, Input::Message(message)) => {
                Self::recognise(message)
            }
            (Outcome::UseRefused | Outcome::UseNotGranted, Input::Digest(_)) => Some(Self::Digest),
            _ => None,
        }
    }

    fn recognise(message: &[u8]) -> Option<Self> {
        const TLS13_CLIENT: &[u8] = b"    TLS 1.3, client CertificateVerify\0";
        let begins = |start| sequence(message).is_some_and(|content: &[u8]| content.starts_with(start));
        // TBSCertificate of version 3 (RFC 5280, 4.1), and CertificationRequestInfo (RFC 2986,
        // 4.1).
        if begins(&[0xa0, 3, 2, 1, 2, 2]) {
            Some(Self::Certificate)
        } else if begins(&[2, 1, 0, 0x30]) {
            Some(Self::CertificateRequest)
        // CertificateVerify after the last of 64 spaces (RFC 8446, 4.4.3), and ClientHello of TLS
        // 1.2 (RFC 5246, 7.4.1.2).
        } else if message.get(60..).is_some_and(|message| message.starts_with(TLS13_CLIENT))
            || (message.first() == Some(&1) && message.get(4..6) == Some(&[3, 3]))
        {
            Some(Self::ClientHandshake)
        } else {
            None
        }
    }

    /// Words to add to the text of a refusal.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Certificate => "it was asked to sign a certificate, as authorities do",
            Self::CertificateRequest => "it was asked to sign a certificate request, which needs the use csr",
            Self::ClientHandshake => {
                "it was asked to sign the handshake of a TLS client, which needs the use tls-client"
            }
            Self::Digest => "it was asked to sign a bare digest, which is no handshake",
            Self::KeyExchange => {
                "it was asked for an RSA key exchange of TLS 1.2, which needs the use rsa-key-exchange"
            }
        }
    }
}

/// The content of a DER SEQUENCE.
fn sequence(message: &[u8]) -> Option<&[u8]> {
    let (head, rest) = message.split_first_chunk::<2>()?;
    match *head {
        [0x30, 0..=0x7f] => Some(rest),
        [0x30, length @ 0x81..=0x84] => rest.get(usize::from(length & 0x7f)..),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beginnings of messages. End-to-end tests use real messages of the openssl program.
    #[test]
    fn messages_are_recognised_by_their_beginning() {
        let tls13 = |side: &str| {
            [&[0x20; 64][..], format!("TLS 1.3, {side} CertificateVerify\0").as_bytes()].concat()
        };
        for (message, kind) in [
            (tls13("client"), Some(Kind::ClientHandshake)),
            (tls13("server"), None),
            (b"\x01\0\0\x30\x03\x03".to_vec(), Some(Kind::ClientHandshake)),
            (b"\x30\x0a\xa0\x03\x02\x01\x02\x02".to_vec(), Some(Kind::Certificate)),
            (b"\x30\x82\x01\x00\xa0\x03\x02\x01\x02\x02".to_vec(), Some(Kind::Certificate)),
            (b"\x30\x81\xb0\x02\x01\x00\x30".to_vec(), Some(Kind::CertificateRequest)),
            (b"\x30\x84".to_vec(), None),
            (b"\x30".to_vec(), None),
            (Vec::new(), None),
            (b"eyJhbGciOiJFUzI1NiJ9.eyJ9".to_vec(), None),
        ] {
            let input = Input::Message(&message);
            assert_eq!(Kind::refused(Outcome::UseRefused, input), kind, "{message:?}");
            assert_eq!(Kind::refused(Outcome::UseNotGranted, input), kind, "{message:?}");
            assert_eq!(Kind::refused(Outcome::KeyDisabled, input), None, "{message:?}");
        }
        assert_eq!(Kind::refused(Outcome::UseRefused, Input::Digest(&[0; 32])), Some(Kind::Digest));
    }
}
