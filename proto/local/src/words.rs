use core::fmt;
use core::str::FromStr;

use thiserror::Error;

use crate::MlDsa;

/// Type of a key.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum KeyType {
    /// ECDSA on NIST P-256.
    P256,
    /// ECDSA on NIST P-384.
    P384,
    /// ECDSA on NIST P-521.
    P521,
    /// Ed25519 (RFC 8032).
    Ed25519,
    /// RSA with a modulus of this many bits.
    Rsa(u16),
    /// RSA with a modulus of this many bits, bound to RSASSA-PSS (RFC 4055, 1.2).
    RsaPss(u16),
    /// ML-DSA (FIPS 204).
    MlDsa(MlDsa),
}

impl KeyType {
    /// The types that a unit generates. Imported RSA keys may have other sizes.
    pub const GENERATED: [Self; 13] = [
        Self::P256,
        Self::P384,
        Self::P521,
        Self::Ed25519,
        Self::Rsa(2048),
        Self::Rsa(3072),
        Self::Rsa(4096),
        Self::RsaPss(2048),
        Self::RsaPss(3072),
        Self::RsaPss(4096),
        Self::MlDsa(MlDsa::MlDsa44),
        Self::MlDsa(MlDsa::MlDsa65),
        Self::MlDsa(MlDsa::MlDsa87),
    ];

    /// The schemes that a key of this type can sign with, the preferred scheme first.
    pub fn schemes(self) -> &'static [Scheme] {
        const SHA256: Scheme = Scheme::EcdsaSecp256r1Sha256;
        const SHA384: Scheme = Scheme::EcdsaSecp384r1Sha384;
        const SHA512: Scheme = Scheme::EcdsaSecp521r1Sha512;
        match self {
            Self::P256 => &[SHA256, SHA384, SHA512],
            Self::P384 => &[SHA384, SHA512, SHA256],
            Self::P521 => &[SHA512, SHA384, SHA256],
            Self::Ed25519 => &[Scheme::Ed25519],
            Self::Rsa(_) => &[
                Scheme::RsaPssRsaeSha256,
                Scheme::RsaPssRsaeSha384,
                Scheme::RsaPssRsaeSha512,
                Scheme::RsaPkcs1Sha256,
                Scheme::RsaPkcs1Sha384,
                Scheme::RsaPkcs1Sha512,
            ],
            Self::RsaPss(_) => &[Scheme::RsaPssPssSha256, Scheme::RsaPssPssSha384, Scheme::RsaPssPssSha512],
            Self::MlDsa(MlDsa::MlDsa44) => &[Scheme::MlDsa44],
            Self::MlDsa(MlDsa::MlDsa65) => &[Scheme::MlDsa65],
            Self::MlDsa(MlDsa::MlDsa87) => &[Scheme::MlDsa87],
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::P256 => f.pad("p256"),
            Self::P384 => f.pad("p384"),
            Self::P521 => f.pad("p521"),
            Self::Ed25519 => f.pad("ed25519"),
            Self::Rsa(bits) => f.pad(&format!("rsa{bits}")),
            Self::RsaPss(bits) => f.pad(&format!("rsa-pss{bits}")),
            Self::MlDsa(parameters) => f.pad(&parameters.name().to_ascii_lowercase()),
        }
    }
}

impl FromStr for KeyType {
    type Err = UnknownWord;

    /// Reads the name of a type, such as `p256`, `rsa2048` or `ml-dsa-65`.
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let rsa = |bits: &str| bits.parse().ok().filter(|bits| (2048..=8192).contains(bits));
        if let Some(bits) = text.strip_prefix("rsa-pss").and_then(rsa) {
            return Ok(Self::RsaPss(bits));
        }
        match text {
            "p256" => Ok(Self::P256),
            "p384" => Ok(Self::P384),
            "p521" => Ok(Self::P521),
            "ed25519" => Ok(Self::Ed25519),
            "ml-dsa-44" => Ok(Self::MlDsa(MlDsa::MlDsa44)),
            "ml-dsa-65" => Ok(Self::MlDsa(MlDsa::MlDsa65)),
            "ml-dsa-87" => Ok(Self::MlDsa(MlDsa::MlDsa87)),
            _ => text
                .strip_prefix("rsa")
                .and_then(rsa)
                .map(Self::Rsa)
                .ok_or(UnknownWord(
                    "key type; known are p256, p384, p521, ed25519, rsa2048 to rsa8192, rsa-pss2048 to rsa-pss8192, ml-dsa-44, ml-dsa-65 and ml-dsa-87",
                )),
        }
    }
}

/// State of a key.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum KeyState {
    /// The key signs for every peer with a grant.
    Enabled,
    /// The key signs for nobody.
    Disabled,
}

impl KeyState {
    /// Every state.
    pub const ALL: [Self; 2] = [Self::Enabled, Self::Disabled];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
        }
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for KeyState {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let named = |state: &Self| state.name() == text;
        Self::ALL.into_iter().find(named).ok_or(UnknownWord("state of a key"))
    }
}

/// A TLS SignatureScheme (RFC 8446, 4.2.3): the name of every signing algorithm here.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
#[repr(u16)]
pub enum Scheme {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RsaPkcs1Sha256 = 0x0401,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RsaPkcs1Sha384 = 0x0501,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RsaPkcs1Sha512 = 0x0601,
    /// ECDSA with SHA-256; on P-256 in TLS 1.3, on the curve of the key elsewhere.
    EcdsaSecp256r1Sha256 = 0x0403,
    /// ECDSA with SHA-384; on P-384 in TLS 1.3, on the curve of the key elsewhere.
    EcdsaSecp384r1Sha384 = 0x0503,
    /// ECDSA with SHA-512; on P-521 in TLS 1.3, on the curve of the key elsewhere.
    EcdsaSecp521r1Sha512 = 0x0603,
    /// RSASSA-PSS with SHA-256, MGF1 with SHA-256 and a salt of 32 bytes.
    RsaPssRsaeSha256 = 0x0804,
    /// RSASSA-PSS with SHA-384, MGF1 with SHA-384 and a salt of 48 bytes.
    RsaPssRsaeSha384 = 0x0805,
    /// RSASSA-PSS with SHA-512, MGF1 with SHA-512 and a salt of 64 bytes.
    RsaPssRsaeSha512 = 0x0806,
    /// Ed25519 (RFC 8032), over the whole message.
    Ed25519 = 0x0807,
    /// RSASSA-PSS with SHA-256, for keys that are bound to RSASSA-PSS; see
    /// [`Scheme::RsaPssRsaeSha256`].
    RsaPssPssSha256 = 0x0809,
    /// RSASSA-PSS with SHA-384, for keys that are bound to RSASSA-PSS; see
    /// [`Scheme::RsaPssRsaeSha384`].
    RsaPssPssSha384 = 0x080a,
    /// RSASSA-PSS with SHA-512, for keys that are bound to RSASSA-PSS; see
    /// [`Scheme::RsaPssRsaeSha512`].
    RsaPssPssSha512 = 0x080b,
    /// ML-DSA-44 (FIPS 204), over the whole message, with an empty context; TLS 1.3 only
    /// (draft-ietf-tls-mldsa).
    MlDsa44 = 0x0904,
    /// ML-DSA-65, likewise.
    MlDsa65 = 0x0905,
    /// ML-DSA-87, likewise.
    MlDsa87 = 0x0906,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Self; 16] = [
        Self::RsaPkcs1Sha256,
        Self::RsaPkcs1Sha384,
        Self::RsaPkcs1Sha512,
        Self::EcdsaSecp256r1Sha256,
        Self::EcdsaSecp384r1Sha384,
        Self::EcdsaSecp521r1Sha512,
        Self::RsaPssRsaeSha256,
        Self::RsaPssRsaeSha384,
        Self::RsaPssRsaeSha512,
        Self::Ed25519,
        Self::RsaPssPssSha256,
        Self::RsaPssPssSha384,
        Self::RsaPssPssSha512,
        Self::MlDsa44,
        Self::MlDsa65,
        Self::MlDsa87,
    ];

    /// The code point on the wire.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The scheme of a family with a hash; `None` if there is no such scheme.
    /// [`SchemeFamily::Ed25519`] and [`SchemeFamily::MlDsa`] have no hash.
    pub fn of(family: SchemeFamily, hash: Option<Hash>) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.family() == family && scheme.hash() == hash)
    }

    /// The algorithm and padding, without the hash.
    pub fn family(self) -> SchemeFamily {
        match self {
            Self::RsaPkcs1Sha256 | Self::RsaPkcs1Sha384 | Self::RsaPkcs1Sha512 => SchemeFamily::RsaPkcs1,
            Self::RsaPssRsaeSha256 | Self::RsaPssRsaeSha384 | Self::RsaPssRsaeSha512 => SchemeFamily::RsaPss,
            Self::EcdsaSecp256r1Sha256 | Self::EcdsaSecp384r1Sha384 | Self::EcdsaSecp521r1Sha512 => {
                SchemeFamily::Ecdsa
            }
            Self::Ed25519 => SchemeFamily::Ed25519,
            Self::RsaPssPssSha256 | Self::RsaPssPssSha384 | Self::RsaPssPssSha512 => SchemeFamily::RsaPssPss,
            Self::MlDsa44 => SchemeFamily::MlDsa(MlDsa::MlDsa44),
            Self::MlDsa65 => SchemeFamily::MlDsa(MlDsa::MlDsa65),
            Self::MlDsa87 => SchemeFamily::MlDsa(MlDsa::MlDsa87),
        }
    }

    /// True for RSASSA-PSS, whether the key is bound to RSASSA-PSS or not.
    pub fn is_pss(self) -> bool {
        matches!(self.family(), SchemeFamily::RsaPss | SchemeFamily::RsaPssPss)
    }

    /// The hash that is applied to the message first; `None` if the algorithm takes the whole
    /// message.
    pub fn hash(self) -> Option<Hash> {
        match self {
            Self::RsaPkcs1Sha256
            | Self::RsaPssRsaeSha256
            | Self::RsaPssPssSha256
            | Self::EcdsaSecp256r1Sha256 => Some(Hash::Sha256),
            Self::RsaPkcs1Sha384
            | Self::RsaPssRsaeSha384
            | Self::RsaPssPssSha384
            | Self::EcdsaSecp384r1Sha384 => Some(Hash::Sha384),
            Self::RsaPkcs1Sha512
            | Self::RsaPssRsaeSha512
            | Self::RsaPssPssSha512
            | Self::EcdsaSecp521r1Sha512 => Some(Hash::Sha512),
            Self::Ed25519 | Self::MlDsa44 | Self::MlDsa65 | Self::MlDsa87 => None,
        }
    }

    /// The name in the registry of TLS SignatureSchemes (RFC 8446, 4.2.3).
    pub fn name(self) -> &'static str {
        match self {
            Self::RsaPkcs1Sha256 => "rsa_pkcs1_sha256",
            Self::RsaPkcs1Sha384 => "rsa_pkcs1_sha384",
            Self::RsaPkcs1Sha512 => "rsa_pkcs1_sha512",
            Self::EcdsaSecp256r1Sha256 => "ecdsa_secp256r1_sha256",
            Self::EcdsaSecp384r1Sha384 => "ecdsa_secp384r1_sha384",
            Self::EcdsaSecp521r1Sha512 => "ecdsa_secp521r1_sha512",
            Self::RsaPssRsaeSha256 => "rsa_pss_rsae_sha256",
            Self::RsaPssRsaeSha384 => "rsa_pss_rsae_sha384",
            Self::RsaPssRsaeSha512 => "rsa_pss_rsae_sha512",
            Self::Ed25519 => "ed25519",
            Self::RsaPssPssSha256 => "rsa_pss_pss_sha256",
            Self::RsaPssPssSha384 => "rsa_pss_pss_sha384",
            Self::RsaPssPssSha512 => "rsa_pss_pss_sha512",
            Self::MlDsa44 => "mldsa44",
            Self::MlDsa65 => "mldsa65",
            Self::MlDsa87 => "mldsa87",
        }
    }
}

impl TryFrom<u32> for Scheme {
    type Error = UnknownWord;

    fn try_from(code: u32) -> Result<Self, UnknownWord> {
        let known = |scheme: &Self| u32::from(scheme.code()) == code;
        Self::ALL.into_iter().find(known).ok_or(UnknownWord("signature scheme"))
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A signing algorithm with its padding, without the hash.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum SchemeFamily {
    /// ECDSA.
    Ecdsa,
    /// Ed25519.
    Ed25519,
    /// ML-DSA with a parameter set.
    MlDsa(MlDsa),
    /// RSASSA-PKCS1-v1_5.
    RsaPkcs1,
    /// RSASSA-PSS with an rsaEncryption key, salt as long as the hash.
    RsaPss,
    /// RSASSA-PSS with a key that is bound to RSASSA-PSS, salt as long as the hash.
    RsaPssPss,
}

/// A hash function of the SHA-2 family.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// Length of a digest, in bytes.
    pub fn length(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

/// Use that a key is for, or that a grant lets a peer ask for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Use {
    /// The server's side of TLS 1.3, and of TLS 1.2 with ECDHE if the server offers TLS 1.3 as
    /// well.
    TlsServer,
    /// The server's side of TLS 1.3 only.
    Tls13Server,
    /// The server's side of TLS 1.2 with ECDHE, even if the server does not offer TLS 1.3; DTLS
    /// 1.2.
    Tls12Server,
    /// The server's side of TLS 1.2 with DHE over a group of RFC 7919 or RFC 3526.
    Tls12DheServer,
    /// The client's side of TLS 1.2 and 1.3.
    TlsClient,
    /// The client's side of TLS 1.3 only.
    Tls13Client,
    /// Certificate requests for the key itself.
    Csr,
    /// RSA key exchange of TLS 1.2.
    RsaKeyExchange,
    /// Requests of an ACME account, which the daemon builds itself. No grant can give this use to a
    /// peer.
    AcmeAccount,
    /// Any message and any digest. For every peer with such a grant the key is a signing oracle.
    Any,
}

impl Use {
    /// Every use.
    pub const ALL: [Self; 10] = [
        Self::TlsServer,
        Self::Tls13Server,
        Self::Tls12Server,
        Self::Tls12DheServer,
        Self::TlsClient,
        Self::Tls13Client,
        Self::Csr,
        Self::RsaKeyExchange,
        Self::AcmeAccount,
        Self::Any,
    ];

    /// The name on the command line, in the configuration and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::TlsServer => "tls-server",
            Self::Tls13Server => "tls13-server",
            Self::Tls12Server => "tls12-server",
            Self::Tls12DheServer => "tls12-dhe-server",
            Self::TlsClient => "tls-client",
            Self::Tls13Client => "tls13-client",
            Self::Csr => "csr",
            Self::RsaKeyExchange => "rsa-key-exchange",
            Self::AcmeAccount => "acme-account",
            Self::Any => "any",
        }
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Use {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL.into_iter().find(|u| u.name() == text).ok_or(UnknownWord(
            "use; known are tls-server, tls13-server, tls12-server, tls12-dhe-server, tls-client, tls13-client, csr, \
             rsa-key-exchange, acme-account and any",
        ))
    }
}

/// A word that does not name a key type, a scheme, a state or a use.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
#[error("unknown {0}")]
pub struct UnknownWord(&'static str);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_what_they_name() {
        for key_type in KeyType::GENERATED {
            assert_eq!(key_type.to_string().parse(), Ok(key_type));
        }
        for u in Use::ALL {
            assert_eq!(u.name().parse(), Ok(u));
        }
        for state in KeyState::ALL {
            assert_eq!(state.name().parse(), Ok(state));
        }
        for scheme in Scheme::ALL {
            assert_eq!(Scheme::try_from(u32::from(scheme.code())), Ok(scheme));
            assert_eq!(Scheme::of(scheme.family(), scheme.hash()), Some(scheme));
        }
        for bad in ["", "P256", "rsa", "rsa1024", "rsa99999", "rsa-2048", "ed448"] {
            assert!(bad.parse::<KeyType>().is_err(), "{bad}");
        }
        assert!(Scheme::try_from(0x0201).is_err());
        assert!(Scheme::try_from(0x1_0403).is_err());
    }
}
