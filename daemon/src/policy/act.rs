//! The acts that a peer can ask of a key, and the uses that admit each act.

use keyward_proto::{Outcome, Use};
use thiserror::Error;

use super::purpose::Purpose;

/// An act that a peer asks of a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Act {
    /// Sign a message of one kind.
    Sign(Purpose),
    /// Decrypt the premaster secret of an RSA key exchange.
    DecryptPremaster,
}

/// Reason why a peer may not ask for an act.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
pub enum Refusal {
    /// No grant covers the peer and the key.
    #[error("no grant covers this peer and this key")]
    NoGrant,
    /// The key does not admit the act for any peer.
    #[error("the uses of the key do not include this")]
    UseRefused,
    /// The key admits the act, and the grants of the peer do not.
    #[error("the grants of the peer do not include this use")]
    UseNotGranted,
}

impl Act {
    /// True if one of the uses of a key or of a grant admits the act. `any` admits every kind of
    /// signature, and no decryption.
    pub fn is_admitted_by(self, uses: &[Use]) -> bool {
        uses.iter().any(|one| match self {
            Self::Sign(purpose) => purpose.is_admitted_by(*one),
            Self::DecryptPremaster => *one == Use::RsaKeyExchange,
        })
    }

    /// Every act that a use admits.
    pub fn admitted_by(one: Use) -> impl Iterator<Item = Self> {
        let acts = Purpose::ALL.into_iter().map(Self::Sign).chain([Self::DecryptPremaster]);
        acts.filter(move |act| act.is_admitted_by(&[one]))
    }

    /// Outcome for the peer after a refusal. Some outcomes name the setting of the server, or the
    /// use, that would help.
    pub fn refused_as(self, refusal: Refusal) -> Outcome {
        match (refusal, self) {
            (Refusal::NoGrant, _) => Outcome::NoGrant,
            (_, Self::Sign(Purpose::Tls12OnlyServerKeyExchange)) => Outcome::NoDowngradeSentinel,
            (_, Self::Sign(Purpose::Tls12DheServerKeyExchange)) => Outcome::DheRefused,
            (_, Self::Sign(Purpose::Tls12DheOverOtherGroup)) => Outcome::OtherDhGroup,
            (refusal, _) => refusal.into(),
        }
    }
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoGrant => Self::NoGrant,
            Refusal::UseRefused => Self::UseRefused,
            Refusal::UseNotGranted => Self::UseNotGranted,
        }
    }
}

/// The narrowest use that would admit a refused message; `None` if no use should be advised.
/// `purpose` is the name of the purpose of the message.
pub fn lacking(outcome: Outcome, purpose: &str) -> Option<Use> {
    match outcome {
        Outcome::NoDowngradeSentinel => return Some(Use::Tls12Server),
        Outcome::DheRefused => return Some(Use::Tls12DheServer),
        Outcome::UseRefused | Outcome::UseNotGranted => {}
        _ => return None,
    }
    if purpose == Use::RsaKeyExchange.name() {
        return Some(Use::RsaKeyExchange);
    }
    Some(match Purpose::ALL.into_iter().find(|known| known.name() == purpose)? {
        Purpose::Tls13ServerCertificateVerify => Use::Tls13Server,
        Purpose::Tls13ClientCertificateVerify => Use::Tls13Client,
        Purpose::Tls12ServerKeyExchange => Use::TlsServer,
        Purpose::Tls12OnlyServerKeyExchange => Use::Tls12Server,
        Purpose::Tls12DheServerKeyExchange => Use::Tls12DheServer,
        Purpose::Tls12ClientCertificateVerify => Use::TlsClient,
        Purpose::CertificateRequest => Use::Csr,
        // Only `any` admits these messages. `any` admits too much to be advised.
        Purpose::Tls12DheOverOtherGroup | Purpose::Other => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advised_use_admits_the_message() {
        let refusals = [Refusal::UseRefused, Refusal::UseNotGranted];
        for act in Purpose::ALL.into_iter().map(Act::Sign).chain([Act::DecryptPremaster]) {
            let purpose = match act {
                Act::Sign(purpose) => purpose.name(),
                Act::DecryptPremaster => "rsa-key-exchange",
            };
            for refusal in refusals {
                match lacking(act.refused_as(refusal), purpose) {
                    Some(one) => assert!(act.is_admitted_by(&[one]), "{act:?}, {one}"),
                    None => {
                        assert!(matches!(act, Act::Sign(Purpose::Other | Purpose::Tls12DheOverOtherGroup)));
                    }
                }
            }
        }
        assert_eq!(lacking(Outcome::UseRefused, "other, as JSON"), None);
        assert_eq!(lacking(Outcome::NoGrant, "tls13-server"), None);
    }

    /// The table of the uses, row by row.
    #[test]
    fn each_use_admits_the_purposes_of_the_table() {
        use Purpose::*;
        for (one, admitted) in [
            (Use::TlsServer, &[Tls13ServerCertificateVerify, Tls12ServerKeyExchange][..]),
            (Use::Tls13Server, &[Tls13ServerCertificateVerify]),
            (Use::Tls12Server, &[Tls12ServerKeyExchange, Tls12OnlyServerKeyExchange]),
            (Use::Tls12DheServer, &[Tls12DheServerKeyExchange]),
            (Use::TlsClient, &[Tls13ClientCertificateVerify, Tls12ClientCertificateVerify]),
            (Use::Tls13Client, &[Tls13ClientCertificateVerify]),
            (Use::Csr, &[CertificateRequest]),
            (Use::RsaKeyExchange, &[]),
            (Use::AcmeAccount, &[]),
            (Use::Any, &Purpose::ALL),
        ] {
            for purpose in Purpose::ALL {
                assert_eq!(purpose.is_admitted_by(one), admitted.contains(&purpose), "{one}, {purpose:?}");
            }
            assert_eq!(Act::DecryptPremaster.is_admitted_by(&[one]), one == Use::RsaKeyExchange, "{one}");
        }
    }
}
