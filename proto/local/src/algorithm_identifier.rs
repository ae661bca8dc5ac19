use crate::{Hash, MlDsa, PssParameters, Scheme, SchemeFamily};

impl Scheme {
    /// AlgorithmIdentifier of signatures in DER, for certificates, certificate requests and CMS, in
    /// the form that OpenSSL writes.
    pub fn algorithm_identifier(self) -> Vec<u8> {
        // RFC 5758, 3.2 and RFC 4055, 5: the last arc of each object identifier.
        let (ecdsa, pkcs1) = match self.hash() {
            Some(Hash::Sha512) => (4, 13),
            Some(Hash::Sha384) => (3, 12),
            _ => (2, 11),
        };
        match self.family() {
            SchemeFamily::Ecdsa => {
                vec![0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, ecdsa]
            }
            // The parameters are NULL (RFC 4055, 5).
            SchemeFamily::RsaPkcs1 => {
                vec![
                    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, pkcs1, 0x05, 0x00,
                ]
            }
            // RFC 8410, 3.
            SchemeFamily::Ed25519 => vec![0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70],
            // RFC 9881, 3: the last arc is the parameter set.
            SchemeFamily::MlDsa(parameters) => {
                let arc = match parameters {
                    MlDsa::MlDsa44 => 17,
                    MlDsa::MlDsa65 => 18,
                    MlDsa::MlDsa87 => 19,
                };
                vec![0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, arc]
            }
            SchemeFamily::RsaPss | SchemeFamily::RsaPssPss => {
                PssParameters::algorithm_identifier(self.hash().map(PssParameters::of))
            }
        }
    }
}
