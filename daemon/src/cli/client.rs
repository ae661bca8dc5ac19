//! Options of the commands that use the administrators' socket.

use std::path::PathBuf;

use clap::Args;

/// The daemon that a command talks to, and the form of its output.
#[derive(Args, Debug)]
pub(super) struct Client {
    /// Directory of the daemon's sockets
    #[arg(long, value_name = "DIR", default_value = RUNTIME_DIR)]
    pub(super) runtime_dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) const RUNTIME_DIR: &str = "/run/keyward";
pub(super) const STATE_DIR: &str = "/var/lib/keyward";
