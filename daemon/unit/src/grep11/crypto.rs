use std::sync::Arc;

use crate::unit::Unit;

/// A crypto unit, as the service `grep11.Crypto` has it.
pub struct Crypto {
    pub(super) unit: Arc<Unit>,
    /// Whether it is an error of decryption that a padding of PKCS #1 v1.5 is wrong.
    pub(super) padding_errors: bool,
}

impl Crypto {
    /// Serves a unit.
    pub fn new(unit: impl Into<Arc<Unit>>) -> Self {
        Self { unit: unit.into(), padding_errors: false }
    }

    /// The same with older firmware, which tells in decryption that a padding of PKCS #1 v1.5 is wrong.
    pub fn with_padding_errors(self) -> Self {
        Self { padding_errors: true, ..self }
    }
}
