//! Other users of the machine, for tests that run as root.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use rustix::process::{Gid, Uid};

use crate::fixture::{Daemon, PROGRAM};

/// Numbers of users that do not exist.
pub(crate) const MALLORY: u32 = 7001;
pub(crate) const ALICE: u32 = 7002;

/// Runs a program that ends soon.
pub(crate) fn in_time(command: &Command) -> Output {
    timeout(command).output().unwrap()
}

pub(crate) fn timeout(command: &Command) -> Command {
    let mut timeout = Command::new("timeout");
    timeout.arg("10").arg(command.get_program()).args(command.get_args());
    timeout.env_remove("CREDENTIALS_DIRECTORY");
    timeout
}

/// Runs a function as another user, in a new thread.
pub(crate) fn as_user<T: Send>(id: u32, act: impl FnOnce() -> T + Send) -> T {
    as_ids(id, id, act)
}

/// Runs a function as another user and group, in a new thread.
pub(crate) fn as_ids<T: Send>(uid: u32, gid: u32, act: impl FnOnce() -> T + Send) -> T {
    as_member(uid, gid, &[], act)
}

/// Runs a function as another user and group with supplementary groups, in a new thread.
pub(crate) fn as_member<T: Send>(uid: u32, gid: u32, groups: &[u32], act: impl FnOnce() -> T + Send) -> T {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let groups: Vec<_> = groups.iter().copied().map(Gid::from_raw).collect();
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            rustix::thread::set_thread_groups(&groups).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            act()
        });
        other.join().unwrap()
    })
}

/// Socket on which another user listens, at a path of root.
pub(crate) fn listener_of(uid: u32, path: &Path) -> UnixListener {
    let socket: OwnedFd = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    as_user(uid, || rustix::net::listen(&socket, 8).unwrap());
    socket.into()
}

/// All bytes that the clients, which have closed their connections, have sent.
pub(crate) fn received(listener: &UnixListener) -> String {
    listener.set_nonblocking(true).unwrap();
    let mut all = Vec::new();
    while let Ok((mut stream, _)) = listener.accept() {
        stream.set_nonblocking(false).unwrap();
        let _ = stream.read_to_end(&mut all);
    }
    String::from_utf8_lossy(&all).into_owned()
}

pub(crate) fn private_key() -> Vec<u8> {
    let mut openssl = Command::new("openssl");
    openssl.args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    openssl.output().unwrap().stdout
}

/// A private key with a certificate.
pub(crate) fn identity() -> (String, String) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
    openssl.args([
        "-days",
        "3",
        "-keyout",
        "-",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
    ]);
    let text = String::from_utf8(openssl.output().unwrap().stdout).unwrap();
    let at = text.find("-----BEGIN CERTIFICATE").unwrap();
    (text[..at].to_owned(), text[at..].to_owned())
}

/// Runs a command of the command line as a user.
pub(crate) fn keyward_as(daemon: &Daemon, uid: u32, words: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(words).arg("--runtime-dir").arg(daemon.path("run")).uid(uid).gid(uid);
    command.output().unwrap()
}
