//! Padding of an RSA signature, and length of the salt of PSS, as OpenSSL passes them.

use crate::abi;
use crate::params::Value;

/// Padding of an RSA signature.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Padding {
    Pkcs1,
    Pss,
}

impl Padding {
    /// Reads a padding, which OpenSSL passes as a number or as a word.
    pub(crate) fn read(param: &Value<'_>) -> Option<Self> {
        match (param.integer(), param.utf8()) {
            (Some(number), _) if number == i64::from(abi::RSA_PKCS1_PADDING) => Some(Self::Pkcs1),
            (Some(number), _) if number == i64::from(abi::RSA_PKCS1_PSS_PADDING) => Some(Self::Pss),
            (_, Some("pkcs1")) => Some(Self::Pkcs1),
            (_, Some("pss")) => Some(Self::Pss),
            _ => None,
        }
    }
}

/// Reads a salt length, which OpenSSL passes as a number or as a word. "auto" allows any length,
/// and we use the length of the digest. "max" is refused: TLS clients refuse such signatures (RFC
/// 8446, 4.2.3).
pub(crate) fn salt_length(param: &Value<'_>) -> Option<i64> {
    let number = match param.utf8() {
        Some("digest") => abi::RSA_PSS_SALTLEN_DIGEST.into(),
        Some("auto") => abi::RSA_PSS_SALTLEN_AUTO.into(),
        Some("auto-digestmax") => RSA_PSS_SALTLEN_AUTO_DIGEST_MAX,
        Some(text) => text.parse().ok()?,
        None => param.integer()?,
    };
    let named = [
        abi::RSA_PSS_SALTLEN_DIGEST.into(),
        abi::RSA_PSS_SALTLEN_AUTO.into(),
        RSA_PSS_SALTLEN_AUTO_DIGEST_MAX,
    ];
    (number >= 0 || named.contains(&number)).then_some(number)
}

/// `RSA_PSS_SALTLEN_AUTO_DIGEST_MAX` of `openssl/rsa.h`, since OpenSSL 3.1.
const RSA_PSS_SALTLEN_AUTO_DIGEST_MAX: i64 = -4;
