use der::asn1::ObjectIdentifier;

/// A parameter set of ML-DSA (FIPS 204, 4).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum MlDsa {
    /// Security category 2.
    MlDsa44,
    /// Security category 3.
    MlDsa65,
    /// Security category 5.
    MlDsa87,
}

impl MlDsa {
    /// Every parameter set, the smallest first.
    pub const ALL: [Self; 3] = [Self::MlDsa44, Self::MlDsa65, Self::MlDsa87];

    /// The parameter set of an algorithm in a SubjectPublicKeyInfo or a PKCS#8.
    pub fn of_oid(oid: ObjectIdentifier) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.oid() == oid)
    }

    /// Identifier of the algorithm, for keys and for signatures (RFC 9881, 2). There are no
    /// parameters.
    pub fn oid(self) -> ObjectIdentifier {
        match self {
            Self::MlDsa44 => ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.3.17"),
            Self::MlDsa65 => ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.3.18"),
            Self::MlDsa87 => ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.3.19"),
        }
    }

    /// The name in FIPS 204, which is also the name in OpenSSL since 3.5.
    pub fn name(self) -> &'static str {
        match self {
            Self::MlDsa44 => "ML-DSA-44",
            Self::MlDsa65 => "ML-DSA-65",
            Self::MlDsa87 => "ML-DSA-87",
        }
    }

    /// Length of a public key, in bytes (FIPS 204, table 2).
    pub fn public_length(self) -> usize {
        match self {
            Self::MlDsa44 => 1312,
            Self::MlDsa65 => 1952,
            Self::MlDsa87 => 2592,
        }
    }

    /// Length of a signature, in bytes (FIPS 204, table 2).
    pub fn signature_length(self) -> usize {
        match self {
            Self::MlDsa44 => 2420,
            Self::MlDsa65 => 3309,
            Self::MlDsa87 => 4627,
        }
    }

    /// Security in bits: λ in FIPS 204, table 1.
    pub fn security_bits(self) -> usize {
        match self {
            Self::MlDsa44 => 128,
            Self::MlDsa65 => 192,
            Self::MlDsa87 => 256,
        }
    }
}
