//! The peers' socket: whether servers reach it, from their root directory and as their user.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use keyward_client::{Address, Client, Error, InvalidAddress};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Pid;

use super::account::{self, Account, Obstacle};
use super::finding::{Finding, Verdict};
use crate::ground::text::quoted;

/// Address of the socket, as a server is configured.
#[derive(Clone)]
pub(super) struct SocketSetting {
    /// Address in the form that the provider takes.
    pub(super) socket: String,
    /// Name of the setting.
    pub(super) setting: &'static str,
    /// Name of the setting, and its place.
    pub(super) source: String,
}

/// Checks that the daemon answers at the socket in the runtime directory and at the socket that
/// servers are configured to use, and that the user of a server, where named, reaches the latter.
pub(super) fn check(
    own: &Path,
    setting: Option<&SocketSetting>,
    chroot: Option<&Path>,
    account: Option<&Account>,
) -> Vec<Finding> {
    let own = own.display().to_string();
    let socket = setting.map_or(&*own, |setting| &setting.socket);
    let source = setting.map_or(String::new(), |setting| format!(" ({})", setting.source));
    let answer = |address: &str, source: &str, fix: &str| match ask(address) {
        Ok(uid) => Finding::ok(SOCKET, format!("{address} answers, to user id {uid}{source}")),
        Err(error) => Finding::fail(SOCKET, format!("{error}{source}"), fix),
    };
    let own_source = if socket == own { &*source } else { "" };
    let mut findings = vec![answer(&own, own_source, "start the daemon, or see its log if it runs")];
    let elsewhere = || {
        let name = setting.map_or("socket in openssl.cnf", |setting| setting.setting);
        let fix = format!(
            "let {name} name a socket of the daemon, or add this address to [socket] also; if the server is in a chroot, \
             name it: --chroot DIR"
        );
        answer(socket, &source, &fix)
    };
    match chroot {
        // An abstract address is in no directory (unix(7)).
        _ if socket.starts_with('@') => findings.push(elsewhere()),
        Some(root) => findings.push(check_in_chroot(root, socket, &source, account)),
        None => {
            if socket != own {
                findings.push(elsewhere());
            }
            findings.extend(account.map(|account| check_path(account, Path::new(socket), Path::new("/"))));
        }
    }
    findings
}

/// Checks that a server reaches this daemon at the address of its setting. `own` is the socket in
/// the runtime directory, `root` the chroot of the server.
pub(super) fn check_for_server(
    own: &Path,
    setting: &SocketSetting,
    root: Option<&Path>,
    account: &Account,
) -> Vec<Finding> {
    let (socket, source) = (&*setting.socket, format!(" ({})", setting.source));
    if let Some(root) = root.filter(|_| !socket.starts_with('@')) {
        return vec![check_in_chroot(root, socket, &source, Some(account))];
    }
    let answer = match ask(socket) {
        Ok(_) => Finding::ok(SOCKET, format!("{socket} answers{source}")),
        Err(error) => Finding::fail(
            SOCKET,
            format!("{error}{source}"),
            format!("let {} name a socket of the daemon, such as {}", setting.setting, own.display()),
        ),
    };
    let is_path = socket.starts_with('/');
    [answer]
        .into_iter()
        .chain(is_path.then(|| check_path(account, Path::new(socket), Path::new("/"))))
        .collect()
}

/// True if one process listens on an address and on our own socket: the daemon, or systemd for the
/// daemon.
pub(super) fn is_of_daemon(own: &Path, address: &str) -> bool {
    let own = own.to_string_lossy();
    address == own || listener(&own).is_some_and(|own| listener(address) == Some(own))
}

/// True if another process than the daemon listens on an address.
pub(super) fn is_of_another(own: &Path, address: &str) -> bool {
    listener(address).is_some() && !is_of_daemon(own, address)
}

/// The process that listens on an address.
fn listener(address: &str) -> Option<Pid> {
    let name = match address.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()).ok()?,
        None => SocketAddrUnix::new(address).ok()?,
    };
    // Nonblocking: a listener that accepts no connections must not delay this process.
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let stream = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    rustix::net::connect(&stream, &name).ok()?;
    rustix::net::sockopt::socket_peercred(&stream).ok().map(|peer| peer.pid)
}

/// Asks the daemon at an address for its status. Returns the user id that the daemon sees.
///
/// # Errors
/// Reason why no daemon answers.
fn ask(address: &str) -> Result<u32, String> {
    let address: Address = address.parse().map_err(|error: InvalidAddress| error.to_string())?;
    let status = Client::new(address, Client::DEFAULT_TIMEOUT).status();
    status.map(|status| status.peer_uid).map_err(|error: Error| error.to_string())
}

/// Checks that a process in a chroot finds a socket there. `source` names the setting that has the
/// address.
fn check_in_chroot(root: &Path, socket: &str, source: &str, account: Option<&Account>) -> Finding {
    let is_missing = match fs::metadata(root) {
        Ok(found) => !found.is_dir(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if is_missing {
        let detail = format!("there is no directory {}", root.display());
        return Finding::fail(CHROOT, detail, "name the chroot of the server: --chroot DIR");
    }
    let outside = root.join(socket.trim_start_matches('/'));
    let shown = outside.display();
    let fail = |why: String| {
        Finding::fail(
            CHROOT,
            format!("from inside {} the socket {socket}{source} cannot be reached: {why}", root.display()),
            format!(
                "give the daemon a socket there: also = [\"{shown}\"] under [socket] of keyward.toml, or with systemd \
                 ListenStream={shown} for keyward.socket; and give the server its address: socket = {socket} in its \
                 openssl.cnf, or KEYWARD_SOCKET={socket} in its environment"
            ),
        )
    };
    let found = match fs::metadata(&outside) {
        Ok(found) => found,
        Err(error) => return fail(format!("cannot examine {shown}: {error}")),
    };
    if !found.file_type().is_socket() {
        return fail(format!("{shown} is no socket"));
    }
    let within = |path: &Path| path.canonicalize().ok().zip(root.canonicalize().ok());
    if !within(&outside).is_some_and(|(path, root)| path.starts_with(root)) {
        return fail(format!("{shown} leads out of the chroot through a symbolic link"));
    }
    if let Some(account) = account {
        let finding = check_path(account, &outside, root);
        if finding.verdict == Verdict::Fail {
            return finding;
        }
    }
    match ask(&outside.display().to_string()) {
        Ok(_) => {
            Finding::ok(CHROOT, format!("from inside {} the socket {socket} answers{source}", root.display()))
        }
        Err(error) => fail(error),
    }
}

/// Checks by owners and modes that an account reaches the socket, from the directory `from` on.
fn check_path(account: &Account, socket: &Path, from: &Path) -> Finding {
    const CHECK: &str = account::CHECK;
    let name = &account.name;
    match account.passes(socket, from) {
        Ok(()) => {}
        Err(Obstacle::Closed(directory, mode)) => {
            return Finding::fail(
                CHECK,
                format!("{name} cannot pass {} (mode {mode:o})", directory.display()),
                format!(
                    "chmod a+x {}, or add a socket that {name} can reach to [socket] also",
                    quoted(directory)
                ),
            );
        }
        Err(Obstacle::Unknown(directory, error)) => {
            let detail = format!("cannot examine {}: {error}", directory.display());
            return Finding::fail(CHECK, detail, "start the daemon");
        }
    }
    match fs::metadata(socket) {
        Ok(found) if account.may_write(&found) => {
            Finding::ok(CHECK, format!("{name} can reach {}", socket.display()))
        }
        Ok(found) => Finding::fail(
            CHECK,
            format!("{name} may not write to {} (mode {:o})", socket.display(), found.mode() & 0o7777),
            format!("chmod a+w {}; grants decide who may use which key", quoted(socket)),
        ),
        Err(error) => {
            Finding::fail(CHECK, format!("cannot examine {}: {error}", socket.display()), "start the daemon")
        }
    }
}

const SOCKET: &str = "socket";
pub(super) const CHROOT: &str = "chroot";
