//! Sessions, which are not offered: the unit keeps no state that could belong to a session.

use keyward_grep11::{LoginRequest, LoginResponse, LogoutRequest, LogoutResponse, ckr};

use super::crypto::Crypto;
use super::error::Error;

impl Crypto {
    /// Opens a session.
    ///
    /// # Errors
    /// `CKR_FUNCTION_NOT_SUPPORTED`, always.
    pub fn login(&self, _: LoginRequest) -> Result<LoginResponse, Error> {
        Err(not_offered())
    }

    /// Closes a session.
    ///
    /// # Errors
    /// `CKR_FUNCTION_NOT_SUPPORTED`, always.
    pub fn logout(&self, _: LogoutRequest) -> Result<LogoutResponse, Error> {
        Err(not_offered())
    }
}

fn not_offered() -> Error {
    Error::new(
        ckr::CKR_FUNCTION_NOT_SUPPORTED,
        "this crypto unit has no sessions: every key works without one",
    )
}
