use thiserror::Error;

use crate::UnitError;
use crate::key::{Algorithm, Key};

/// Why a file was not imported.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum ImportError {
    /// Damaged
    #[error("the key file is cut off or garbled")]
    Damaged,
    /// The unit could not take the key in.
    #[error(transparent)]
    Unit(#[from] UnitError),
}

pub(crate) fn read(file: &[u8]) -> Result<Key, ImportError> {
    let algorithm = Algorithm::of_pkcs8(file).map_err(|_| ImportError::Damaged)?;
    Key::from_pkcs8(algorithm, file).map_err(|_| ImportError::Damaged)
}
