//! What a peer asks a key to do, and which uses admit it.

use keyward_proto::{Outcome, Use};

use super::authorise::Refusal;
use super::purpose::Purpose;

/// One thing that a key is asked to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Act {
    /// To sign a message of some kind.
    Sign(Purpose),
    /// To decrypt the premaster secret of an RSA key exchange.
    DecryptPremaster,
}

impl Act {
    /// Whether one of these uses, of a key or of a grant, admits it. Decryption is always named by itself: `any` stands for
    /// every kind of signature.
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

    /// What a refusal is for the peer: for messages that a setting of the server or a use more would mend, which.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the uses, row by row.
    #[test]
    fn uses_admit_what_they_say() {
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
