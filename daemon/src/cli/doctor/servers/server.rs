//! Check of one running server.

use std::path::{Path, PathBuf};

use super::names::{how_to_set_openssl_conf, user_name};
use super::report::{CHECK, Report};
use super::{keys, mail, sockets};
use crate::admin::client::AdminClient;
use crate::cli::doctor::account::Account;
use crate::cli::doctor::environment::{self, OPENSSL_CONF};
use crate::cli::doctor::finding::{Finding, Verdict};
use crate::cli::doctor::processes::{Process, Server};
use crate::cli::doctor::server_keys::ServerKeys;
use crate::cli::doctor::{openssl_conf, server_conf, uses};
use crate::cli::protect::health::Protected;
use crate::ground::ownership;

/// Checks a server; `None` if the server uses no key of the daemon. A daemon that is silent is not
/// asked about the keys. `protected` is the server if `keyward protect` has changed it.
pub(super) fn check(
    server: &Server,
    runtime_dir: &Path,
    is_silent: bool,
    protected: Option<&Protected>,
) -> Option<Report> {
    let main = &server.main;
    let loaded = server.workers.iter().chain([main]).find(|process| process.provider.is_some());
    let root = environment::chroot(main.pid);
    let conf = match (main.is_trusted, &root) {
        (true, None) => server_conf::read(main),
        _ => None,
    };
    let server_keys = conf.as_ref().map(|conf| ServerKeys::read(&conf.keys)).unwrap_or_default();
    let is_mail = conf.as_ref().is_some_and(|conf| conf.mail.is_some());
    // A server that went back to key files may still have the variables of before.
    let has_none = conf.as_ref().is_some_and(|conf| conf.unread.is_empty() && server_keys.names_nothing());
    if loaded.is_none() && server_keys.is_empty() && (is_mail || has_none || !main.names_keyward()) {
        return None;
    }
    let mut report = Report::default();
    if let Some(Err(_)) = root {
        report.unchecked.push(
            "it sees other files than this process, as in a container: run keyward doctor in the container"
                .into(),
        );
        return Some(report);
    }
    let silent = "its socket and its keys: the daemon does not answer";
    if let Some(conf) = &conf
        && let Some(environment) = &conf.mail
    {
        if is_silent {
            report.unchecked.push(silent.into());
            return Some(report);
        }
        mail::check(main, runtime_dir, conf, environment, &server_keys, &mut report);
        return Some(report);
    }
    report.findings.push(check_provider(main, loaded, &server_keys));
    // Without a reference, nothing needs the provider as far as is known here.
    let most = if server_keys.is_empty() { Verdict::Warn } else { Verdict::Fail };
    let openssl_conf = check_openssl_conf(main, loaded.is_some(), most, &mut report);
    if is_silent {
        report.unchecked.push(silent.into());
        return Some(report);
    }
    if !sockets::check(server, runtime_dir, openssl_conf.as_deref(), &mut report) {
        return Some(report);
    }
    let Ok(admin) = AdminClient::new(runtime_dir) else { return Some(report) };
    if !main.is_trusted {
        report.unchecked.push(format!(
            "its keys: {} decides what it is started with; name one: --pid {} --reference FILE",
            user_name(main.pid),
            main.pid
        ));
    }
    let accounts = accounts(server);
    keys::check(&admin, runtime_dir, main, conf.as_ref(), &server_keys, &accounts, &mut report);
    report.findings.extend(keys::private_keys(&admin, &server_keys, protected));
    if let Some(conf) = conf.filter(|conf| !conf.dump.is_empty() && !server_keys.is_empty()) {
        report.findings.push(environment::check_nginx_text(
            &conf.file,
            &conf.dump,
            openssl_conf.as_deref(),
            main.provider.is_some(),
        ));
        let may = |wanted| keys::labels_for(&admin, &server_keys, &accounts, wanted);
        report.findings.extend(uses::check_nginx_text(&conf.file, &conf.dump, &may));
    }
    Some(report)
}

/// Checks the keys of a protected server alone, which are quick to check.
pub(super) fn check_keys(server: &Server, runtime_dir: &Path, protected: &Protected) -> Report {
    let mut report = Report::default();
    let Some(conf) = server_conf::read(&server.main) else { return report };
    let server_keys = ServerKeys::read(&conf.keys);
    if let Ok(admin) = AdminClient::new(runtime_dir) {
        let (admin, accounts) = (admin.for_a_look(), accounts(server));
        keys::check(&admin, runtime_dir, &server.main, Some(&conf), &server_keys, &accounts, &mut report);
        report.findings.extend(keys::private_keys(&admin, &server_keys, Some(protected)));
    }
    report
}

/// The users of the workers of a server, each with the process of one of them.
fn accounts(server: &Server) -> Vec<(Option<u32>, Account)> {
    let worker = |worker: &Process| Some((Some(worker.pid), Account::of_process(worker.pid)?));
    server.workers.iter().filter_map(worker).collect()
}

/// Checks that the server has loaded the provider, and that its file still exists.
fn check_provider(main: &Process, loaded: Option<&Process>, server_keys: &ServerKeys) -> Finding {
    match loaded.and_then(|process| Some((process, process.provider.as_ref()?))) {
        Some((process, provider)) if process.is_replaced && !Path::new(provider).exists() => Finding::fail(
            CHECK,
            format!("it has loaded {provider}, which was removed since: its next start fails"),
            "install the package keyward-openssl before anything restarts the server",
        ),
        Some((process, provider)) if process.is_replaced => Finding::warn(
            CHECK,
            format!("it has loaded {provider}, which was replaced since"),
            match server_keys.certificate_first.first() {
                Some(path) => format!(
                    "restart it: until then it may not find the reference in {}, which stands after the certificate",
                    path.display()
                ),
                None => "restart it at a convenient time: it runs the old provider until then".into(),
            },
        ),
        Some((_, provider)) => Finding::ok(CHECK, format!("it has loaded {provider}")),
        None if server_keys.is_empty() => Finding::warn(
            CHECK,
            "its environment names an openssl.cnf or a socket of keyward, but it has not loaded the provider",
            "if it uses keys of the daemon, restart it: OpenSSL reads its configuration once; otherwise ignore this",
        ),
        None => Finding::fail(
            CHECK,
            format!(
                "its configuration names references (the first one is {}), but it has not loaded the provider, so it \
                 cannot load them",
                server_keys.first()
            ),
            format!("{}, and restart it", how_to_set_openssl_conf(main)),
        ),
    }
}

/// Checks the openssl.cnf that the environment of the server names. Returns its path, if it is
/// known and can be read. `most` is the severity of a server without such a file.
fn check_openssl_conf(
    main: &Process,
    is_loaded: bool,
    most: Verdict,
    report: &mut Report,
) -> Option<PathBuf> {
    let Some(environment) = &main.environment else {
        let unchecked = "its environment, which it has overwritten, or which the kernel does not show";
        report.unchecked.push(unchecked.into());
        return None;
    };
    let Some(path) = environment.get(OPENSSL_CONF).map(PathBuf::from) else {
        if !is_loaded {
            let detail = format!("it has no {OPENSSL_CONF} in its environment");
            let missing = Finding::fail(CHECK, detail, how_to_set_openssl_conf(main));
            report.findings.push(missing.at_most(most));
        }
        return None;
    };
    // The check runs OpenSSL, which loads the modules that the file names.
    if let Err(error) = ownership::open(&path) {
        match error.into_io() {
            Ok(error) => report.findings.push(Finding::fail(
                CHECK,
                format!("it has {OPENSSL_CONF}={}, which cannot be read: {error}", path.display()),
                format!("{}, and restart it", how_to_set_openssl_conf(main)),
            )),
            // The error gives advice that fits only a file of this user.
            Err(_) => report.unchecked.push(format!(
                "{OPENSSL_CONF}={}: others than root can change it, so OpenSSL was not run with it",
                path.display()
            )),
        }
        return None;
    }
    if main.is_trusted {
        report.findings.extend(openssl_conf::faults(&path, Account::of_process(main.pid).as_ref()));
    }
    Some(path)
}
