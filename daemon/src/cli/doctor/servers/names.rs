//! Names of servers, and the way to give a server an environment variable.

use crate::cli::doctor::account::Account;
use crate::cli::doctor::environment::OPENSSL_CONF;
use crate::cli::doctor::processes::{Process, Server};
use crate::cli::doctor::{openssl_program, proc};
use crate::ground::text::printable;
use crate::peers::service;

/// Name of a server in findings.
pub(super) fn title(server: &Server) -> String {
    let main = &server.main;
    let users: Vec<_> = server.workers.iter().map(|worker| user_name(worker.pid)).collect();
    let service = service_of(main.pid).map(|service| format!(", {service}")).unwrap_or_default();
    // Other programs have the name master, too.
    let is_postfix = main.name == "master" && main.words.first().is_some_and(|word| word.contains("postfix"));
    let name = if is_postfix { "Postfix" } else { &main.name };
    format!("{name} (process {} as {}{service})", main.pid, users.join(" and "))
}

/// Name of the user that a process runs as.
pub(super) fn user_name(pid: u32) -> String {
    Account::of_process(pid).map_or_else(|| "its user".into(), |account| account.name)
}

/// Advice how to give a program `OPENSSL_CONF`.
pub(super) fn how_to_set_openssl_conf(process: &Process) -> String {
    let conf = openssl_program::CONF;
    let service = service_of(process.pid);
    match (&*process.name, service) {
        ("master" | "smtpd" | "smtp" | "tlsmgr" | "tlsproxy", _) => format!(
            "Postfix clears the environment: postconf -e \"import_environment = $(postconf -h import_environment) \
             {OPENSSL_CONF}={conf}\""
        ),
        (name, _) if name.starts_with("dovecot") || name.ends_with("-login") => format!(
            "Dovecot clears the environment: import_environment = $import_environment {OPENSSL_CONF}={conf} in its configuration"
        ),
        (_, Some(service)) => {
            format!("set Environment={OPENSSL_CONF}={conf} for its service: systemctl edit {service}")
        }
        ("apache2", None) => format!("put export {OPENSSL_CONF}={conf} into /etc/apache2/envvars"),
        _ => format!("set {OPENSSL_CONF}={conf} in the environment that it is started with"),
    }
}

fn service_of(pid: u32) -> Option<String> {
    let text = proc::read(pid, "cgroup").ok()?;
    service::of_cgroup(&String::from_utf8_lossy(&text)).map(printable)
}
