//! Options of `keyward serve`.

use std::path::PathBuf;

/// Options of `keyward serve` on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Configuration file; `None` for the default file if that file exists, or else the default
    /// configuration.
    pub config: Option<PathBuf>,
    /// Directory of the key store.
    pub state_dir: PathBuf,
    /// Directory of the sockets.
    pub runtime_dir: PathBuf,
    /// True for development: makes a master key, and gives the user who started the daemon all
    /// rights.
    pub dev: bool,
}
