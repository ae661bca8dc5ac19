use std::sync::Arc;

use crate::unit::Unit;

/// A crypto unit as the service `grep11.Crypto`.
pub struct Crypto {
    pub(super) unit: Arc<Unit>,
    /// True if decryption reports a wrong PKCS #1 v1.5 padding as an error.
    pub(super) padding_errors: bool,
}

impl Crypto {
    /// Serves a unit.
    pub fn new(unit: impl Into<Arc<Unit>>) -> Self {
        Self { unit: unit.into(), padding_errors: false }
    }

    /// Behaves as older firmware: decryption reports a wrong PKCS #1 v1.5 padding as an error.
    pub fn with_padding_errors(self) -> Self {
        Self { padding_errors: true, ..self }
    }
}
