//! Options of `keyward serve`.

use std::path::PathBuf;

use super::error::ServeError;

/// Options of `keyward serve` on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Configuration file; `None` for [`DEFAULT_CONFIG`](super::DEFAULT_CONFIG) if that file
    /// exists, or else the default configuration.
    pub config: Option<PathBuf>,
    /// Directory of the key store.
    pub state_dir: PathBuf,
    /// Directory of the sockets.
    pub runtime_dir: PathBuf,
    /// True for development: makes a master key, and gives the user who started the daemon all
    /// rights.
    pub dev: bool,
}

impl Options {
    /// Refuses a store that was made with the other value of `dev`.
    ///
    /// # Errors
    /// [`ServeError::Dev`] for such a store.
    pub(crate) fn check_dev(&self, made_with_dev: Option<bool>) -> Result<(), ServeError> {
        match made_with_dev.filter(|dev| *dev != self.dev) {
            Some(made_with_dev) => Err(ServeError::Dev(self.state_dir.clone(), made_with_dev)),
            None => Ok(()),
        }
    }
}
