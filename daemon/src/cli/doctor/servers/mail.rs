//! Check of a mail server, which starts its processes on demand, with the environment that its
//! configuration names.

use std::path::{Path, PathBuf};

use keyward_client::Address;

use super::keys;
use super::names::how_to_set_openssl_conf;
use super::report::{CHECK, Report};
use crate::admin::client::AdminClient;
use crate::cli::doctor::account::Account;
use crate::cli::doctor::environment::{OPENSSL_CONF, SOCKET};
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::openssl_conf::{self, Conf};
use crate::cli::doctor::processes::Process;
use crate::cli::doctor::server_conf::{MailEnvironment, ServerConf};
use crate::cli::doctor::server_keys::ServerKeys;
use crate::cli::doctor::socket::{self, SocketSetting};
use crate::ground::ownership;
use crate::peers;

/// Checks the environment, the socket and the keys of a mail server.
pub(super) fn check(
    main: &Process,
    runtime_dir: &Path,
    conf: &ServerConf,
    environment: &MailEnvironment,
    server_keys: &ServerKeys,
    report: &mut Report,
) {
    let own = runtime_dir.join(peers::SOCKET);
    let file = conf.file.display();
    let Some(openssl_conf) = environment.value(OPENSSL_CONF, main.variable(OPENSSL_CONF)).map(PathBuf::from)
    else {
        let more = match environment.user {
            "postfix" => ", and goes on without TLS",
            _ => "",
        };
        report.findings.push(Finding::fail(
            CHECK,
            format!(
                "{file} names references (the first one is {}), but import_environment has no {OPENSSL_CONF}: the server \
                 cannot load them{more}",
                server_keys.first()
            ),
            format!("{}, and restart it", how_to_set_openssl_conf(main)),
        ));
        return;
    };
    let account = match Account::of_name(environment.user) {
        Ok(account) => account,
        Err(finding) => {
            report.findings.push(finding);
            return;
        }
    };
    match ownership::open(&openssl_conf) {
        Err(error) => {
            report.unchecked.push(format!("{OPENSSL_CONF}={} of {file}: {error}", openssl_conf.display()));
        }
        Ok(_) => report.findings.extend(openssl_conf::faults(&openssl_conf, Some(&account))),
    }
    let of_conf = Conf::open(&openssl_conf).ok().and_then(|conf| conf.socket());
    let variable = environment.value(SOCKET, main.variable(SOCKET)).map(|socket| SocketSetting {
        socket: socket.to_owned(),
        setting: SETTING,
        source: format!("import_environment of {file}"),
    });
    let setting = variable.or(of_conf).unwrap_or_else(|| SocketSetting {
        socket: Address::DEFAULT.to_string(),
        setting: SETTING,
        source: "by default".into(),
    });
    if !setting.socket.starts_with('@') {
        report.unchecked.push(format!("whether {} exists in the chroot of its processes", setting.socket));
    }
    report.findings.extend(socket::check_for_server(&own, &setting, None, &account));
    if let Ok(admin) = AdminClient::new(runtime_dir) {
        keys::check(&admin, runtime_dir, main, Some(conf), server_keys, &[(None, account)], report);
        report.findings.extend(keys::private_keys(&admin, server_keys, None));
    }
}

const SETTING: &str = "KEYWARD_SOCKET of import_environment";
