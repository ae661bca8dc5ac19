//! The environment of a server: `OPENSSL_CONF`, `KEYWARD_SOCKET`, and the root directory.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::files::read_text;
use super::finding::Finding;
use super::socket::{CHROOT, SocketSetting};
use super::{openssl_program, proc};
use crate::ground::text::quoted;
use crate::servers::nginx::{DUMP, NginxConf};
use crate::servers::processes::loaded_provider;

/// Checks that an nginx.conf passes `OPENSSL_CONF` on. nginx loads keys before it forks its
/// workers, which inherit the loaded keys. The new binary of an upgrade inherits only the
/// environment that is passed on. `has_provider` is true if the running nginx has loaded the
/// provider.
pub(super) fn check_nginx(nginx_conf: &Path, openssl_conf: Option<&Path>, has_provider: bool) -> Finding {
    match read_text(nginx_conf) {
        Ok(text) => check_nginx_text(nginx_conf, &text, openssl_conf, has_provider),
        Err(error) => {
            let detail = format!("cannot read {}: {error}", nginx_conf.display());
            Finding::fail(NGINX_CONF, detail, "name the file that nginx -T prints first")
        }
    }
}

/// Does the check of [`check_nginx`] on the text of the file, or of all files of a configuration.
pub(super) fn check_nginx_text(
    nginx_conf: &Path,
    text: &str,
    openssl_conf: Option<&Path>,
    has_provider: bool,
) -> Finding {
    let path = nginx_conf.display();
    let conf = NginxConf::parse(text);
    let top_level: Vec<_> = conf.directives.into_iter().filter(|one| one.within.is_empty()).collect();
    let passed = top_level.iter().find_map(|one| match one.words.as_slice() {
        [env, variable] if env == "env" => variable.strip_prefix(OPENSSL_CONF),
        _ => None,
    });
    let fix = format!("put env {OPENSSL_CONF}; at the top of {path}, outside of all braces");
    match passed.filter(|rest| rest.is_empty() || rest.starts_with('=')) {
        Some(rest) => match rest.strip_prefix('=') {
            None => Finding::ok(NGINX_CONF, format!("{path} passes {OPENSSL_CONF} on")),
            Some(value) if openssl_conf.is_some_and(|conf| !is_same_file(conf, Path::new(value))) => {
                let detail = format!("{path} sets {OPENSSL_CONF} to {value}, which is another file");
                Finding::fail(NGINX_CONF, detail, fix)
            }
            // As keyward protect leaves it.
            Some(value) if has_provider => Finding::ok(
                NGINX_CONF,
                format!(
                    "{path} sets {OPENSSL_CONF} to {value} for workers and new binaries, and nginx has loaded the provider"
                ),
            ),
            Some(value) => Finding::warn(
                NGINX_CONF,
                format!(
                    "{path} sets {OPENSSL_CONF} to {value} for workers and new binaries, but not for nginx itself, which \
                     has loaded OpenSSL before it reads this line"
                ),
                format!("set {SYSTEMD_SETTING}={value} for the service of nginx, and restart it"),
            ),
        },
        None => {
            let has_includes = top_level.iter().any(|one| one.is("include"));
            let unread =
                if has_includes && !text.starts_with(DUMP) { "; include is not followed" } else { "" };
            Finding::warn(
                NGINX_CONF,
                format!(
                    "{path} does not pass {OPENSSL_CONF} on: nginx clears the environment, so workers do not have it, \
                     and a new binary (USR2) cannot load the keys{unread}"
                ),
                fix,
            )
        }
    }
}

/// Checks that a process has `OPENSSL_CONF` in its environment, and has loaded the provider.
pub(super) fn check_process(pid: u32, openssl_conf: Option<&Path>) -> Finding {
    let environment = match proc::read(pid, "environ") {
        Ok(environment) => environment,
        Err(error) => return unreadable(pid, &error),
    };
    let maps = proc::read(pid, "maps").unwrap_or_default();
    let maps = String::from_utf8_lossy(&maps);
    let provider = loaded_provider(&maps);
    let loaded = match &provider {
        Some(provider) => format!("it has loaded {provider}"),
        None => "it has not loaded keyward".to_owned(),
    };
    // The file of the system is for every program, so no advice gives it to a service. Another
    // finding reports that file.
    let is_of_system = openssl_conf.is_some_and(openssl_program::is_of_system);
    let file = openssl_conf
        .filter(|_| !is_of_system)
        .map_or(openssl_program::CONF.to_owned(), |conf| conf.display().to_string());
    let fix = format!(
        "set {SYSTEMD_SETTING}={file} for the service, and restart it: OpenSSL reads its configuration once, at the start"
    );
    let environment = String::from_utf8_lossy(&environment);
    let mut variables = environment.split('\0').filter_map(|variable| variable.split_once('='));
    if let Some((_, value)) = variables.clone().find(|(name, _)| *name == OPENSSL_CONF) {
        let detail = format!("process {pid} has {OPENSSL_CONF}={value}; {loaded}");
        return match openssl_conf {
            Some(conf) if !is_same_file(conf, Path::new(value)) => {
                let fix = match is_of_system {
                    true => format!(
                        "check that file instead: keyward doctor --openssl-conf {}",
                        quoted(Path::new(value))
                    ),
                    false => fix,
                };
                Finding::fail(PROCESS, format!("{detail}; that is not {}", conf.display()), fix)
            }
            _ if provider.is_none() => Finding::warn(PROCESS, detail, fix),
            _ => Finding::ok(PROCESS, detail),
        };
    }
    // nginx writes its title and blanks over its environment.
    let is_overwritten = variables.next().is_none();
    let detail = match is_overwritten {
        true => format!("process {pid} has overwritten its environment, as nginx does; {loaded}"),
        false => format!("process {pid} has no {OPENSSL_CONF}; {loaded}"),
    };
    match provider {
        None => Finding::fail(PROCESS, detail, fix),
        Some(_) if is_overwritten || is_of_system => Finding::ok(PROCESS, detail),
        Some(_) => Finding::warn(PROCESS, format!("{detail}, by another configuration"), fix),
    }
}

fn unreadable(pid: u32, error: &io::Error) -> Finding {
    match error.kind() {
        io::ErrorKind::PermissionDenied if geteuid().is_root() => Finding::warn(
            PROCESS,
            format!("the kernel does not show the environment of process {pid}, not even to root"),
            "in a container, run keyward doctor outside of it; otherwise name the process of a server",
        ),
        io::ErrorKind::PermissionDenied => Finding::warn(
            PROCESS,
            format!("this user may not see the environment of process {pid}"),
            "run keyward doctor as root",
        ),
        _ => Finding::fail(
            PROCESS,
            format!("cannot see the environment of process {pid}: {error}"),
            "name a running process, for example one of: pgrep nginx",
        ),
    }
}

/// The socket that `KEYWARD_SOCKET` names, which takes precedence over openssl.cnf: in the
/// environment of a process or, where none is named, of this one. [`check_process`] reports a
/// process that cannot be examined.
pub(super) fn socket_setting(pid: Option<u32>) -> Option<SocketSetting> {
    let (socket, source) = match pid {
        None => (env::var(SOCKET).ok()?, format!("{SOCKET} of this environment")),
        Some(pid) => (proc::variable(pid, SOCKET)?, format!("{SOCKET} of process {pid}")),
    };
    Some(SocketSetting { socket, setting: SOCKET, source })
}

/// The openssl.cnf that `OPENSSL_CONF` of a process names, if the path is absolute and leads to a
/// file.
pub(super) fn openssl_conf(pid: u32) -> Option<PathBuf> {
    proc::variable(pid, OPENSSL_CONF).map(PathBuf::from).filter(|path| path.is_absolute() && path.is_file())
}

/// The chroot of a process; `None` if the process has the root directory of this one, or cannot be
/// examined, which [`check_process`] reports.
///
/// # Errors
/// A finding, if the process has other mounts, as in a container, so that no path here leads there.
pub(super) fn chroot(pid: u32) -> Option<Result<PathBuf, Finding>> {
    let link = PathBuf::from(format!("/proc/{pid}/root"));
    let (root, path) = (fs::metadata(&link).ok()?, fs::read_link(&link).ok()?);
    let is_root = |path: &Path| {
        fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (root.dev(), root.ino()))
    };
    if is_root(Path::new("/")) {
        return None;
    }
    // With other mounts, the path that the link names leads to another directory here, or to none.
    Some(is_root(&path).then_some(path).ok_or_else(|| {
        let detail = format!("process {pid} sees other files than this one, as in a container");
        Finding::warn(CHROOT, detail, "run keyward doctor in the container, or name its root: --chroot DIR")
    }))
}

/// True if two paths lead to one file.
fn is_same_file(one: &Path, other: &Path) -> bool {
    one == other
        || fs::canonicalize(one).is_ok_and(|one| fs::canonicalize(other).is_ok_and(|other| one == other))
}

pub(super) const OPENSSL_CONF: &str = "OPENSSL_CONF";
pub(super) const SOCKET: &str = "KEYWARD_SOCKET";
const NGINX_CONF: &str = "nginx.conf";
const PROCESS: &str = "process";
/// The setting of a systemd service, without its value.
const SYSTEMD_SETTING: &str = "Environment=OPENSSL_CONF";
