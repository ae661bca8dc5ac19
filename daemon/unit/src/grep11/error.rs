use core::fmt;

use aws_lc_rs::error::{KeyRejected, Unspecified};
use keyward_grep11::ckr;

use crate::error::UnitError;

/// Why a call of GREP11 failed: a number of PKCS #11, and a sentence for a person.
///
/// The sentence never holds more of a key, a plaintext or a blob than its length.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Error {
    code: u64,
    detail: String,
}

impl Error {
    /// An error with a number of [`ckr`], and what went wrong.
    pub fn new(code: u64, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// The number: one of [`ckr`].
    pub fn code(&self) -> u64 {
        self.code
    }

    /// What went wrong, for a person.
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

impl fmt::Display for Error {
    /// The name of the number comes first: there are clients that look for it.
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
            _ => ckr::CKR_FUNCTION_FAILED,
        };
        Self::new(code, error.to_string())
    }
}

/// The crypto library failed where nothing that the caller sent should make it fail.
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
    Error::new(ckr::CKR_SIGNATURE_INVALID, "the signature is not that of these data by this key")
}
