//! The socket that the workers of a server use.

use std::path::Path;

use keyward_client::Address;

use super::report::Report;
use crate::cli::doctor::account::Account;
use crate::cli::doctor::environment::{self, SOCKET};
use crate::cli::doctor::finding::{Finding, Verdict};
use crate::cli::doctor::openssl_conf::Conf;
use crate::cli::doctor::proc;
use crate::cli::doctor::processes::{Process, Server};
use crate::cli::doctor::socket::{self, SocketSetting};
use crate::peers;

/// Checks that each worker reaches the daemon, with its own user, root directory and network.
/// Returns false if the server uses another daemon.
pub(super) fn check(
    server: &Server,
    runtime_dir: &Path,
    openssl_conf: Option<&Path>,
    report: &mut Report,
) -> bool {
    let own = runtime_dir.join(peers::SOCKET);
    let main = &server.main;
    let of_conf = openssl_conf.and_then(|conf| Conf::open(conf).ok()?.socket());
    for worker in &server.workers {
        let known = setting_of(worker, main, of_conf.as_ref());
        let is_known = known.is_some();
        let setting = known.unwrap_or_else(|| SocketSetting {
            socket: own.display().to_string(),
            setting: "socket in openssl.cnf",
            source: "if it uses that address, which nothing here shows".into(),
        });
        let root = match environment::chroot(worker.pid) {
            None => None,
            Some(Ok(root)) => Some(root),
            Some(Err(finding)) => {
                report.unchecked.push(finding.detail);
                continue;
            }
        };
        let address = match &root {
            Some(root) if !setting.socket.starts_with('@') => {
                root.join(setting.socket.trim_start_matches('/')).display().to_string()
            }
            _ => setting.socket.clone(),
        };
        let is_ours = socket::is_of_daemon(&own, &address);
        if !is_ours && (!main.is_trusted || socket::is_of_another(&own, &address)) {
            report.unchecked.push(format!(
                "its keys: {} ({}) is no socket of the daemon in {}; for another daemon name its directory: --runtime-dir DIR",
                setting.socket,
                setting.source,
                runtime_dir.display()
            ));
            return false;
        }
        if setting.socket.starts_with('@') && proc::has_other_network(worker.pid) {
            report.findings.push(Finding::fail(
                "socket",
                format!(
                    "{} ({}) is an abstract address, which the process cannot reach: it is in a network namespace of its own",
                    setting.socket, setting.source
                ),
                "remove PrivateNetwork=yes from its service, or give it a socket in a directory: see docs/chroot.md",
            ));
            continue;
        }
        let Some(account) = Account::of_process(worker.pid) else { continue };
        let found = socket::check_for_server(&own, &setting, root.as_deref(), &account).into_iter();
        // A server whose address is unknown may use another one.
        let most = if is_known { None } else { Some(Verdict::Note) };
        report.findings.extend(found.map(|one| match most {
            Some(most) => one.at_most(most),
            None => one,
        }));
    }
    true
}

/// The address that a worker uses: of its environment, of openssl.cnf, or the default one; `None`
/// if its environment is unknown.
fn setting_of(worker: &Process, main: &Process, of_conf: Option<&SocketSetting>) -> Option<SocketSetting> {
    if let Some(socket) = worker.variable(SOCKET).or_else(|| main.variable(SOCKET)) {
        return Some(SocketSetting {
            socket: socket.to_owned(),
            setting: SOCKET,
            source: format!("{SOCKET} of process {}", worker.pid),
        });
    }
    let default = main.environment.as_ref().map(|_| SocketSetting {
        socket: Address::DEFAULT.to_string(),
        setting: "socket in openssl.cnf",
        source: "by default".into(),
    });
    of_conf.cloned().or(default)
}
