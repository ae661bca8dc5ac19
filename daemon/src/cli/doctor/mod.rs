//! `keyward doctor`: finds common misconfigurations, and says how to fix each.

mod account;
mod configuration;
mod configured;
mod daemon;
mod dns;
mod environment;
mod expiry;
mod files;
mod finding;
mod grants;
mod openssl_conf;
mod openssl_program;
mod proc;
mod processes;
mod reference;
mod refusals;
mod renewals;
mod server_conf;
mod server_keys;
mod servers;
mod socket;
mod uses;

use std::path::{Path, PathBuf};

use clap::Args;

use super::client::Client;
use super::failure::Failure;
use super::output::{print, print_json};
use super::protect::health::{Fault, Protected, ProtectedServers};
use crate::admin::client::{AdminClient, AdminClientError};
use crate::admin::status_view::StatusView;
use crate::ground::exit;
use crate::peers;
use crate::servers::processes::has_provider;
use account::Account;
pub(super) use configured::configured_keys;
use finding::{Finding, Verdict, or_report};
use openssl_conf::Conf;
pub(super) use openssl_conf::check_owners;

#[derive(Args, Debug)]
pub(super) struct Doctor {
    /// User of a TLS server: check whether it reaches the socket, can read --reference, and may use
    /// the key
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Chroot of a server: check whether it reaches the socket of KEYWARD_SOCKET or --openssl-conf
    /// from there [default: the chroot of --pid, if any]
    #[arg(long, value_name = "DIR")]
    chroot: Option<PathBuf>,
    /// Provider that the system's OpenSSL is to load [default: the installed provider, if any]
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    /// openssl.cnf to check: it must activate the providers, and leave everything except the keys
    /// of keyward to default
    #[arg(long, value_name = "FILE")]
    openssl_conf: Option<PathBuf>,
    /// nginx.conf to check: it must pass OPENSSL_CONF on
    #[arg(long, value_name = "FILE")]
    nginx_conf: Option<PathBuf>,
    /// Process of a server to check: it must have OPENSSL_CONF and the provider; its KEYWARD_SOCKET
    /// is used instead of the one in this environment, and its groups and service count for grants
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Option<u32>,
    /// Configuration of the daemon to check, as serve --check-config does [default: the file that
    /// the daemon has read, or /etc/keyward/keyward.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the key store [default: the directory of the daemon, or /var/lib/keyward]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Reference to check: the daemon must have its key
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
    /// Certificate to check: it must be for the key of --reference
    #[arg(long, value_name = "FILE", requires = "reference")]
    cert: Option<PathBuf>,
    #[command(flatten)]
    client: Client,
}

impl Doctor {
    pub(super) fn run(self) -> Result<(), Failure> {
        let runtime_dir = std::path::absolute(&self.client.runtime_dir).map_err(|error| {
            Failure::new(exit::USAGE, format_args!("cannot use the runtime directory: {error}"))
        })?;
        let admin = AdminClient::new(&runtime_dir)?.for_a_look();
        let status = admin.status();
        let is_silent = matches!(status, Err(AdminClientError::Late { .. }));
        let options = configuration::options(
            self.config.as_deref(),
            self.state_dir.as_deref(),
            &runtime_dir,
            status.as_ref().ok(),
        );
        let mut findings = configuration::check(&options, status.as_ref().ok());
        if status.is_ok() {
            findings.extend(configuration::check_granted_keys(&options, &admin));
        }
        findings.extend(daemon::check(&admin, &runtime_dir, status));
        let account = or_report(&mut findings, self.user.as_deref().map(Account::of_name));
        let conf = or_report(&mut findings, self.openssl_conf.as_deref().map(Conf::open));
        self.check_socket(&runtime_dir, conf.as_ref(), account.as_ref(), &mut findings);
        findings.extend(self.check_module());
        findings.extend(conf.iter().flat_map(|conf| openssl_conf::check(conf, account.as_ref())));
        let conf = self.openssl_conf.as_deref();
        let has_provider = self.pid.is_some_and(|pid| has_provider(pid.cast_signed()));
        let of_file = |file: &PathBuf| environment::check_nginx(file, conf, has_provider);
        findings.extend(self.nginx_conf.as_ref().map(of_file));
        findings.extend(self.nginx_conf.iter().flat_map(|file| uses::check_nginx(file)));
        findings.extend(self.pid.map(|pid| environment::check_process(pid, conf)));
        match (&self.reference, &account) {
            (Some(path), _) => {
                self.check_reference(path, &admin, &runtime_dir, account.as_ref(), &mut findings);
            }
            (None, Some(account)) => {
                findings.push(grants::check_any(&admin, &runtime_dir, account, self.pid));
            }
            (None, None) => {}
        }
        if !self.names_server() {
            let ProtectedServers { faults, running } = ProtectedServers::look(options.config_file());
            findings.extend(servers::check(&runtime_dir, is_silent, &running));
            let faults = faults.into_iter();
            findings.extend(faults.map(|Fault { detail, fix }| Finding::fail(servers::CHECK, detail, fix)));
        }
        self.report(&findings)
    }

    fn check_socket(
        &self,
        runtime_dir: &Path,
        conf: Option<&Conf<'_>>,
        account: Option<&Account>,
        findings: &mut Vec<Finding>,
    ) {
        let setting = environment::socket_setting(self.pid).or_else(|| match (conf, self.pid) {
            (None, Some(pid)) => Conf::open(&environment::openssl_conf(pid)?).ok()?.socket(),
            (conf, _) => conf?.socket(),
        });
        let chroot = self.chroot.clone().or_else(|| self.chroot_of_process(findings));
        let own = runtime_dir.join(peers::SOCKET);
        findings.extend(socket::check(&own, setting.as_ref(), chroot.as_deref(), account));
    }

    /// The chroot of the process of --pid, if any, which is also a finding.
    fn chroot_of_process(&self, findings: &mut Vec<Finding>) -> Option<PathBuf> {
        let pid = self.pid?;
        let chroot = or_report(findings, environment::chroot(pid))?;
        let detail = format!("process {pid} has {} for its root", chroot.display());
        findings.push(Finding::ok(socket::CHROOT, detail));
        Some(chroot)
    }

    fn check_module(&self) -> Option<Finding> {
        let installed = Path::new(openssl_program::INSTALLED);
        let module = self.module.as_deref().or_else(|| installed.exists().then_some(installed))?;
        Some(openssl_program::check_module(module))
    }

    fn check_reference(
        &self,
        path: &Path,
        admin: &AdminClient,
        runtime_dir: &Path,
        account: Option<&Account>,
        findings: &mut Vec<Finding>,
    ) {
        let reference = match reference::read(path) {
            Ok(reference) => reference,
            Err(finding) => {
                findings.push(finding);
                findings.extend(account.map(|_| reference::missing(grants::CHECK)));
                findings.extend(self.cert.as_ref().map(|_| reference::missing(openssl_program::CERTIFICATE)));
                return;
            }
        };
        let key = admin.show(reference.label().as_str());
        let spki = self.cert.as_deref().map(openssl_program::public_key);
        let certified = spki.as_ref().and_then(|spki| spki.as_deref().ok());
        findings.push(reference::check_key(&key, &reference, certified, runtime_dir));
        findings.extend(uses::check_key(admin, &reference));
        findings.extend(account.and_then(|account| reference::check_readable(account, path)));
        let grant = |account| grants::check(admin, runtime_dir, account, self.pid, &reference);
        findings.extend(account.and_then(grant));
        findings.extend(self.cert.iter().zip(spki).map(|(cert, spki)| match spki {
            Ok(spki) => {
                openssl_program::check_certificate(cert, &spki, &reference, key.as_ref().ok(), runtime_dir)
            }
            Err(finding) => finding,
        }));
    }

    /// True if an option names a server, or a file of a server.
    fn names_server(&self) -> bool {
        let files =
            [&self.chroot, &self.module, &self.openssl_conf, &self.nginx_conf, &self.reference, &self.cert];
        self.user.is_some() || self.pid.is_some() || files.iter().any(|file| file.is_some())
    }

    fn report(&self, findings: &[Finding]) -> Result<(), Failure> {
        if self.client.json {
            print_json(&findings)?;
        } else {
            print(&findings.iter().map(Finding::lines).collect::<String>())?;
        }
        match findings.iter().any(|finding| finding.verdict == Verdict::Fail) {
            true => Err(Failure::silent(exit::CONFIG)),
            false => Ok(()),
        }
    }
}

/// Faults that keep an openssl.cnf from loading the provider, or make the provider do harm, and the
/// fix of each.
pub(super) fn faults_of_openssl_conf(path: &Path) -> Vec<String> {
    let faults = openssl_conf::faults(path, None).into_iter();
    let faults = faults.filter(|finding| finding.verdict == Verdict::Fail);
    faults.map(|fault| [fault.detail, fault.fix.unwrap_or_default()].join("; ")).collect()
}

/// Faults of the keys of protected servers that run, and refusals to their workers.
pub(super) fn faults_of_protected(
    running: &[Protected],
    status: &StatusView,
    admin: &AdminClient,
    runtime_dir: &Path,
) -> Vec<Fault> {
    let of_keys = running.iter().flat_map(|server| servers::faults_of_keys(server, runtime_dir));
    let all = of_keys.chain(refusals::of_protected(status, running, admin));
    all.map(|Finding { detail, fix, .. }| Fault { detail, fix: fix.unwrap_or_default() }).collect()
}

/// Reason why a user cannot read an existing file or list a directory, and the command that lets
/// its group do so; `None` if the user can.
pub(super) fn closed_to_reader(user: u32, file: &Path) -> Option<(String, String)> {
    Account::of_uid(user).closed_to_reader(file)
}

/// Reasons why a process does not reach the daemon at the address of its provider, from its root
/// directory and with its user. `own` is the socket in the runtime directory of the daemon. Without
/// `address`, the address is that of an openssl.cnf, or the usual one.
pub(super) fn faults_of_socket(
    own: &Path,
    address: Option<&str>,
    openssl_conf: &Path,
    pid: i32,
) -> Vec<String> {
    let (Ok(pid), of_conf) =
        (u32::try_from(pid), Conf::open(openssl_conf).ok().and_then(|conf| conf.socket()))
    else {
        return Vec::new();
    };
    let named = address.map(|address| socket::SocketSetting {
        socket: address.to_owned(),
        setting: environment::SOCKET,
        source: environment::SOCKET.to_owned(),
    });
    let setting = named.or(of_conf).unwrap_or_else(|| socket::SocketSetting {
        socket: keyward_client::Address::DEFAULT.to_string(),
        setting: "socket in openssl.cnf",
        source: "by default".to_owned(),
    });
    let root = match environment::chroot(pid) {
        None => None,
        Some(Ok(root)) => Some(root),
        Some(Err(finding)) => return vec![finding.detail],
    };
    let Some(account) = Account::of_process(pid) else { return vec![format!("process {pid} has ended")] };
    let seen_here = match &root {
        Some(root) if setting.socket.starts_with('/') => {
            root.join(setting.socket.trim_start_matches('/')).display().to_string()
        }
        _ => setting.socket.clone(),
    };
    if socket::is_of_another(own, &seen_here) {
        return vec![format!("{} ({}) is a socket of another daemon", setting.socket, setting.source)];
    }
    let found = socket::check_for_server(own, &setting, root.as_deref(), &account).into_iter();
    let faults = found.filter(|finding| finding.verdict == Verdict::Fail);
    faults.map(|fault| [fault.detail, fault.fix.unwrap_or_default()].join("; ")).collect()
}

/// True if a daemon listens on an address, and on its socket `own` in the runtime directory.
pub(super) fn is_socket_of_daemon(own: &Path, address: &str) -> bool {
    socket::is_of_daemon(own, address)
}

/// The file of the provider that an openssl.cnf names, or the usual name of that file.
pub(super) fn module_of(openssl_conf: &Path) -> String {
    let conf = Conf::open(openssl_conf).ok();
    conf.and_then(|conf| conf.module_name()).unwrap_or_else(|| USUAL_MODULE.to_owned())
}

/// The file of the provider that an openssl.cnf names, if the file is missing.
pub(super) fn missing_module(openssl_conf: &Path) -> Option<PathBuf> {
    let conf = Conf::open(openssl_conf).ok()?;
    let name = conf.module_name().unwrap_or_else(|| USUAL_MODULE.to_owned());
    openssl_conf::module_file(&name).filter(|module| !module.exists())
}

/// Name of the provider in the directory of modules of OpenSSL.
const USUAL_MODULE: &str = "keyward.so";
