//! Common parts of the end-to-end tests and benchmarks: a daemon, a small PKI, the real servers,
//! and clients.
//!
//! Everything runs on loopback in a directory of its own, and ends when its value is dropped.

#![forbid(unsafe_code)]
// A test that cannot set up its scene stops.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod acme_proxy;
pub mod attacker;
pub mod backend;
pub mod browser;
pub mod cgroup;
pub mod client;
pub mod cost;
pub mod daemon;
pub mod golden;
pub mod host;
pub mod knot;
pub mod machine;
pub mod memory;
pub mod openssl;
pub mod pebble;
pub mod people;
pub mod pki;
pub mod proxy;
pub mod server;
pub mod signers;
pub mod tool;
pub mod unit_server;

pub use acme_proxy::AcmeProxy;
pub use attacker::Attacker;
pub use backend::{Backend, Units};
pub use browser::Browser;
pub use client::{Handshake, Load};
pub use daemon::Daemon;
pub use host::Host;
pub use knot::Knot;
pub use openssl::OpenSsl;
pub use pebble::Pebble;
pub use people::People;
pub use pki::Pki;
pub use proxy::{Fault, Proxy};
pub use server::{Apache, Haproxy, Lighttpd, Nginx, Rustls, RustlsThread, SServer, Stunnel};
pub use signers::Signers;
pub use unit_server::UnitServer;

use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

/// The key types of the test matrix, as the command line names them.
pub const KEY_TYPES: [&str; 8] =
    ["p256", "p384", "p521", "ed25519", "rsa2048", "rsa3072", "rsa4096", "rsa-pss2048"];

/// The key types that OpenSSL knows since 3.5.
pub const ML_DSA: [&str; 3] = ["ml-dsa-44", "ml-dsa-65", "ml-dsa-87"];

/// A directory for one test, removed at its end. Other users may enter it.
pub fn scratch() -> tempfile::TempDir {
    let directory =
        tempfile::Builder::new().prefix("keyward-test-").tempdir().expect("a temporary directory");
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    directory
}

/// A directory for much data of one test, in memory where there is room: tests beside it wait for
/// the disk. No program can be run there on some machines.
pub fn scratch_in_memory() -> tempfile::TempDir {
    const ROOM: u64 = 2 << 30;
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).map_or(0, |found| found.f_bavail * found.f_frsize);
    match room > ROOM {
        true => tempfile::Builder::new().prefix("keyward-test-").tempdir_in(memory).expect("a directory"),
        false => scratch(),
    }
}

/// A port of loopback without a listener.
pub fn free_port() -> u16 {
    // Below the range from which the kernel takes ports for clients (ip_local_port_range, ip(7)). A
    // port of that range could be in use before the server binds it.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 10_000 + u16::try_from(std::process::id() % 20_000).unwrap_or(0);
    let mut ports = std::iter::repeat_with(|| start + NEXT.fetch_add(1, Ordering::Relaxed));
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.by_ref().take(1000).find(free).expect("a free port")
}

/// True if the tests run as root, and so can act as other users.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// True if the tests run as root. Otherwise reports the calling test as left out.
///
/// For tests, or parts of tests, that act as other users, mount file systems or read the memory of
/// a daemon.
#[track_caller]
pub fn has_root() -> bool {
    if !is_root() {
        leave_out("needs root");
    }
    is_root()
}

/// Reports the calling test as left out: in `target/left-out`, which `make test` prints at its end.
/// Without this report, nobody would notice a test that returns early.
#[track_caller]
pub fn leave_out(reason: &str) {
    let thread = std::thread::current();
    let line = format!("{} ({}): {reason}\n", thread.name().unwrap_or("test"), Location::caller());
    eprint!("left out: {line}");
    let mut list = File::options().append(true).create(true).open(target().join("left-out")).expect("a list");
    // In one call, because many tests write to the list.
    list.write_all(line.as_bytes()).expect("an entry");
}

/// Path of a file of the build that is tested.
pub fn built(name: &str) -> PathBuf {
    let path = build().join(name);
    path.canonicalize().unwrap_or_else(|_| panic!("{} is missing: build the workspace", path.display()))
}

/// Directory of the build that is tested: `KEYWARD_BUILD`, or the one of this program, so that a
/// measurement is not of a build that was made for tests.
pub fn build() -> PathBuf {
    std::env::var_os("KEYWARD_BUILD").map_or_else(own_build, PathBuf::from)
}

/// Directory of the build of this program.
fn own_build() -> PathBuf {
    let program = std::env::current_exe().expect("the path of this program");
    let directory = program.parent().expect("a directory");
    // Cargo has the programs of tests in a directory of their own.
    directory.parent().filter(|_| directory.ends_with("deps")).unwrap_or(directory).to_owned()
}

/// Directory of builds.
pub fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}
