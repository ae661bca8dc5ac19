use core::fmt;

use aws_lc_rs::error::{KeyRejected, Unspecified};
use keyward_grep11::ckr;

use crate::error::UnitError;

/// The reason why a call of GREP11 failed: a CKR number of PKCS #11, and a sentence for a person.
///
/// The sentence holds nothing of a key, a plaintext or a blob except a length.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Error {
    code: u64,
    detail: String,
}

impl Error {
    /// Creates an error with a number of [`ckr`] and its sentence.
    pub fn new(code: u64, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// The number: one of [`ckr`].
    pub fn code(&self) -> u64 {
        self.code
    }

    /// The sentence for a person.
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

impl fmt::Display for Error {
    /// Writes the name of the number first, because some clients search for it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ckr::name(self.code) {
            Some(name) => write!(f, "{name}: {}", self.detail),
            None => write!(f, "{:#x}: {}", self.code, self.detail),
        }
    }
}

impl core::error::Error for Error {}

impl From<UnitError> for Error {
    fn from(error: UnitError) -> Self {
        let code = match error {
            UnitError::BlobDamaged => ckr::CKR_IBM_BLOB_ERROR,
            UnitError::OtherMasterKey { .. } => ckr::CKR_IBM_WKID_MISMATCH,
            UnitError::Sealed => ckr::CKR_IBM_WK_NOT_INITIALIZED,
            _ => ckr::CKR_FUNCTION_FAILED,
        };
        Self::new(code, error.to_string())
    }
}

/// A failure of the crypto library that no input of the caller explains.
impl From<Unspecified> for Error {
    fn from(_: Unspecified) -> Self {
        Self::new(ckr::CKR_FUNCTION_FAILED, "the crypto library failed")
    }
}

impl From<KeyRejected> for Error {
    fn from(_: KeyRejected) -> Self {
        Self::from(Unspecified)
    }
}

pub(super) fn signature_invalid() -> Error {
    Error::new(ckr::CKR_SIGNATURE_INVALID, "the signature is not one of these data by this key")
}
