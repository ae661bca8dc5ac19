//! What the end-to-end tests and benchmarks share: a daemon, a small PKI, the real servers, and clients.
//!
//! Everything runs on loopback in a directory of its own, and ends with the value that stands for it.

#![forbid(unsafe_code)]
// A test that cannot set up its scene has nothing better to do than to stop.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod backend;
pub mod client;
pub mod daemon;
pub mod pki;
pub mod server;
pub mod tool;
pub mod unit_server;

pub use backend::{Backend, Units};
pub use client::{Handshake, Load};
pub use daemon::Daemon;
pub use pki::Pki;
pub use server::{Haproxy, Nginx, SServer};
pub use unit_server::UnitServer;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The key types of the test matrix, as the command line names them.
pub const KEY_TYPES: [&str; 7] = ["p256", "p384", "p521", "ed25519", "rsa2048", "rsa3072", "rsa4096"];

/// A directory for one test that other users may enter, removed at its end.
pub fn scratch() -> tempfile::TempDir {
    let directory =
        tempfile::Builder::new().prefix("keyward-test-").tempdir().expect("a temporary directory");
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    directory
}

/// Whether the tests run as root, and so can play with other users.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A file that the release build makes.
pub fn built(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release").join(name);
    path.canonicalize().unwrap_or_else(|_| panic!("{} is missing: cargo build --release", path.display()))
}
