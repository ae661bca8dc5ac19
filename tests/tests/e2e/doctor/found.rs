//! Findings of the doctor without arguments: the running servers.

use std::fs::{self, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use keyward_tests::pki::openssl;
use keyward_tests::server::{Apache, Site, nginx};
use keyward_tests::tool::{Process, as_user, run, succeed, wait_for};
use keyward_tests::{Daemon, Haproxy, Nginx, Pki, has_root};
use serde_json::Value;

use super::OTHER;

/// A finding: check, verdict, detail and what to do.
pub(super) type Finding = [String; 4];

/// Findings of the doctor without arguments.
pub(super) fn all(daemon: &Daemon) -> Vec<Finding> {
    let output = run(daemon.keyward(&["doctor", "--json"]).env_remove("KEYWARD_SOCKET"));
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let field = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    findings.iter().map(|one| ["check", "verdict", "detail", "fix"].map(|name| field(one, name))).collect()
}

/// Findings about one process. Other tests run servers too, so other processes are left out.
pub(super) fn of_process(daemon: &Daemon, pid: u32) -> Vec<Finding> {
    let of_process = format!("(process {pid} ");
    all(daemon).into_iter().filter(|[_, _, detail, _]| detail.contains(&of_process)).collect()
}

pub(super) fn one_with(found: &[Finding], check: &str, verdict: &str, words: &str) -> Finding {
    let is_it = |one: &&Finding| one[0] == check && one[1] == verdict && one[2].contains(words);
    let mut those = found.iter().filter(is_it);
    let one = those.next().unwrap_or_else(|| panic!("no {check} {verdict} {words:?} in {found:#?}"));
    assert!(those.next().is_none(), "{found:#?}");
    one.clone()
}

fn assert_no_fault(found: &[Finding]) {
    assert!(!found.is_empty() && found.iter().all(|one| one[1] == "ok" || one[1] == "note"), "{found:#?}");
}

#[test]
fn servers_that_run_and_what_they_lack() {
    if !has_root() {
        return;
    }
    let mut daemon = Daemon::prepare("");
    let address = format!("@keyward-doctor-{}", std::process::id());
    let text = fs::read_to_string(daemon.path("keyward.toml")).unwrap();
    let also = format!("[socket]\nalso = [{address:?}]\n");
    daemon.configure_more(&also);
    daemon.resume();
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    let site = || Site::with_key(&daemon, &pki, "shop");
    let root = daemon.path("chroot");
    fs::create_dir(&root).unwrap();
    let of_nginx = site();
    let nginx = Nginx::start(&daemon, std::slice::from_ref(&of_nginx));
    let haproxy = Haproxy::start_in_chroot_with(&daemon, &[site()], &root, &address);
    let apache = Apache::start(&daemon, &[site()], "event");

    let servers = [(nginx.id(), "www-data"), (haproxy.id(), "haproxy"), (apache.id(), "www-data")];
    for (pid, user) in servers {
        let found = of_process(&daemon, pid);
        assert_no_fault(&found);
        one_with(&found, "server", "ok", "it has loaded ");
        one_with(&found, "reference", "ok", &format!("valid references, with grants for {user} and "));
    }
    let found = of_process(&daemon, haproxy.id());
    one_with(&found, "socket", "ok", &format!("{address} answers (KEYWARD_SOCKET of process"));
    let found = of_process(&daemon, apache.id());
    one_with(&found, "user", "ok", "www-data can reach ");
    let found = of_process(&daemon, nginx.id());
    one_with(&found, "nginx.conf uses", "ok", "offers TLS 1.3 in each server");
    one_with(&found, "not checked", "note", "its environment, which it has overwritten");
    one_with(&all(&daemon), "not checked", "note", "servers that are not running, in containers");

    // Another daemon does not know these keys.
    let other = Daemon::start();
    for pid in [haproxy.id(), apache.id()] {
        let found = of_process(&other, pid);
        assert_no_fault(&found);
        one_with(&found, "not checked", "note", "is no socket of the daemon in ");
    }
    drop(other);

    // There is no grant. The advice names the user of the worker.
    let only = |grants: &str| {
        daemon.configure(&format!("log = \"debug\"\n{grants}{also}"));
        daemon.reload();
    };
    only("");
    for (pid, user) in servers {
        let words = "and this key";
        let [_, _, _, fix] = one_with(&of_process(&daemon, pid), "grant", "fail", words);
        assert!(fix.contains(&format!("user = \"{user}\" and keys = [\"shop\"]")), "{fix}");
    }
    only("[[grant]]\nuser = \"haproxy\"\nkeys = [\"*\"]\n");
    assert_no_fault(&of_process(&daemon, haproxy.id()));
    one_with(&of_process(&daemon, nginx.id()), "grant", "fail", "no grant covers www-data");
    daemon.configure(&format!("{text}{also}"));
    daemon.reload();

    // Findings about file, certificate and key.
    fs::set_permissions(&of_nginx.key, Permissions::from_mode(0o666)).unwrap();
    let [_, _, _, fix] =
        one_with(&of_process(&daemon, nginx.id()), "reference", "warn", "others than its owner");
    succeed(&mut daemon.shell(&fix));
    let good = fs::read(&of_nginx.certificate).unwrap();
    assert_eq!(pki.certify_as(&daemon, &of_nginx.key, "localhost", -1), of_nginx.certificate);
    one_with(&of_process(&daemon, nginx.id()), "certificate", "fail", "has expired on ");
    fs::copy(pki.leaf("other").0, &of_nginx.certificate).unwrap();
    one_with(
        &of_process(&daemon, nginx.id()),
        "certificate",
        "fail",
        "has another public key than the reference",
    );
    fs::write(&of_nginx.certificate, "").unwrap();
    one_with(&of_process(&daemon, nginx.id()), "certificate", "fail", "no certificate that can be read");
    fs::write(&of_nginx.certificate, good).unwrap();
    succeed(&mut daemon.keyward(&["key", "disable", "shop"]));
    one_with(&of_process(&daemon, apache.id()), "reference", "fail", "key shop is disabled");
    succeed(&mut daemon.keyward(&["key", "enable", "shop"]));
    assert_no_fault(&of_process(&daemon, nginx.id()));

    // A replaced provider, as after an update.
    let module = daemon.path("keyward.so");
    fs::copy(&module, daemon.path("new.so")).unwrap();
    fs::rename(daemon.path("new.so"), &module).unwrap();
    let [_, _, detail, fix] =
        one_with(&of_process(&daemon, haproxy.id()), "server", "warn", "was replaced since");
    assert!(
        !detail.contains("deleted") && fix.contains("which stands after the certificate"),
        "{detail}: {fix}"
    );
    // A removed one, as after the removal of the package: a restart would take the sites down.
    fs::rename(&module, daemon.path("away.so")).unwrap();
    let [_, _, _, fix] = one_with(
        &of_process(&daemon, haproxy.id()),
        "server",
        "fail",
        "was removed since: its next start fails",
    );
    assert_eq!(fix, "install the package keyward-openssl before anything restarts the server");
    fs::rename(daemon.path("away.so"), &module).unwrap();

    // The configuration has changed since the start.
    let conf = of_nginx.key.with_file_name(format!("nginx-{}", of_nginx.address.port())).join("nginx.conf");
    fs::set_permissions(&conf, Permissions::from_mode(0o666)).unwrap();
    let found = of_process(&daemon, nginx.id());
    one_with(&found, "not checked", "note", "of its configuration: others than its owner can write to ");
    assert!(!found.iter().any(|one| one[2].contains("valid references")), "{found:#?}");
}

#[test]
fn a_server_that_has_not_loaded_the_provider() {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    let (certificate, key) = pki.leaf("plain");
    let site = Site::new(certificate, key);
    let directory = nginx::configure(&daemon, std::slice::from_ref(&site), 1);
    let mut command = nginx::command(&daemon, &directory);
    let nginx = Process::start(command.env_remove("OPENSSL_CONF"), &directory.join("output.log"));
    wait_for("nginx", || TcpStream::connect(site.address).ok());
    assert!(of_process(&daemon, nginx.id()).is_empty(), "it has nothing to do with keyward");
    // A reload is refused from now on.
    let conf = directory.join("nginx.conf");
    let text = fs::read_to_string(&conf).unwrap();
    let name = |key: &str| fs::write(&conf, text.replace(&site.key.display().to_string(), key)).unwrap();
    name(&daemon.reference("shop").display().to_string());
    let found = of_process(&daemon, nginx.id());
    let [_, _, _, fix] =
        one_with(&found, "server", "fail", "shop.ref.pem), but it has not loaded the provider");
    assert!(
        fix.contains("OPENSSL_CONF=/etc/keyward/openssl.cnf") && fix.ends_with(", and restart it"),
        "{fix}"
    );
    // The form of nginx 1.29.
    name("store:keyward:shop?certified");
    let found = of_process(&daemon, nginx.id());
    one_with(&found, "server", "fail", "(the first one is keyward:shop)");
    one_with(&found, "reference", "ok", "valid references");
    name("store:keyward:gone");
    one_with(&of_process(&daemon, nginx.id()), "reference", "fail", "gone");
}

/// A process of another user can claim anything about itself.
#[test]
fn a_process_that_means_ill() {
    if !has_root() {
        return;
    }
    let daemon = Daemon::start();
    daemon.generate("shop", "p256");
    let directory = daemon.path("ill");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
    let program = directory.join("nginx");
    fs::copy("/usr/bin/sleep", &program).unwrap();
    // A configuration of that user, which could make OpenSSL load any module.
    let conf = directory.join("keyward.cnf");
    fs::write(&conf, daemon.least_openssl_conf(keyward_tests::OpenSsl::System)).unwrap();
    succeed(Command::new("chown").arg(OTHER).arg(&conf));
    // A program in the place of OpenSSL records the configuration with which it is run.
    let bin = daemon.path("bin");
    fs::create_dir(&bin).unwrap();
    let noted = daemon.path("noted");
    fs::write(bin.join("openssl"), format!("#!/bin/sh\necho \"$OPENSSL_CONF\" >> {}\n", noted.display()))
        .unwrap();
    fs::set_permissions(bin.join("openssl"), Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let notes = |arguments: &[&str]| {
        let mut command = daemon.keyward(&["doctor"]);
        let output = run(command.args(arguments).env("PATH", &path).env_remove("KEYWARD_SOCKET"));
        let notes = fs::read_to_string(&noted).unwrap_or_default();
        (notes.contains("ill/keyward.cnf"), String::from_utf8(output.stdout).unwrap())
    };
    // A socket whose owner accepts no connection.
    let socket = directory.join("deaf.sock");
    let deaf = UnixListener::bind(&socket).unwrap();
    rustix::net::listen(&deaf, 0).unwrap();
    let _waiting: Vec<_> = (0..2).map(|_| connect_soon(&socket)).collect();

    let start = |socket: &Path, name: &str| {
        let mut command = Command::new(&program);
        command.args(["60"]).env("OPENSSL_CONF", &conf).env("KEYWARD_SOCKET", socket);
        command.env("TITLE", "\u{1b}[2J\u{202e}");
        let mut command = as_user(OTHER, &command);
        let process = Process::start(&mut command, &daemon.path(name));
        wait_for("the process", || {
            let name = fs::read_to_string(format!("/proc/{}/comm", process.id())).unwrap();
            (name.trim() == "nginx").then_some(())
        });
        process
    };
    let elsewhere = start(&socket, "elsewhere.log");
    let odd = start(Path::new("/nowhere/\u{1b}[2J\nok    server: forged\u{202e}keyward.sock"), "odd.log");
    let here = start(&daemon.socket(), "here.log");
    for (pid, told) in
        [(elsewhere.id(), "is no socket of the daemon in "), (odd.id(), "is no socket of the daemon in ")]
    {
        let found = of_process(&daemon, pid);
        one_with(&found, "not checked", "note", told);
        assert!(found.iter().all(|one| !one[3].contains("chmod")), "{found:#?}");
    }
    let found = of_process(&daemon, here.id());
    one_with(&found, "not checked", "note", "daemon decides what it is started with");
    one_with(&found, "not checked", "note", "keyward.cnf: others than root can change it");
    one_with(&found, "grant", "warn", "no grant lets daemon (process ");
    let (is_run, text) = notes(&[]);
    assert!(!is_run && text.contains("ill/keyward.cnf"), "{text}");
    // The same if root names the file. If root owns the file, the doctor runs OpenSSL.
    assert!(!notes(&["--openssl-conf", conf.to_str().unwrap()]).0);
    fs::create_dir(daemon.path("kill")).unwrap();
    let own = daemon.path("kill/keyward.cnf");
    fs::copy(&conf, &own).unwrap();
    assert!(notes(&["--openssl-conf", own.to_str().unwrap()]).0, "it is seen when it is run");
    assert!(text.contains("/nowhere/\u{fffd}[2J"), "{text}");
    assert!(!text.contains(['\u{1b}', '\u{202e}']) && !text.contains("\nok    server: forged"), "{text:?}");
}

/// Takes a place in the queue of a socket whose owner accepts no connection.
fn connect_soon(socket: &Path) -> Option<std::os::fd::OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
    connect(&stream, &SocketAddrUnix::new(socket).unwrap()).ok().map(|()| stream)
}

#[test]
fn an_abstract_address_is_of_one_network_namespace() {
    if !has_root() {
        return;
    }
    let mut daemon = Daemon::prepare("");
    let address = format!("@keyward-doctor-net-{}", std::process::id());
    daemon.configure_more(&format!("[socket]\nalso = [{address:?}]\n"));
    daemon.resume();
    let (certificate, key) = Pki::new(daemon.directory()).leaf("plain");
    // The port is in that network namespace too.
    let mut server = openssl(&["s_server", "-quiet", "-accept", "127.0.0.1:4433"]);
    server.arg("-cert").arg(certificate).arg("-key").arg(key);
    let mut command = Command::new("unshare");
    command.args(["--net", "--"]).arg(server.get_program()).args(server.get_args());
    command.env("OPENSSL_CONF", daemon.openssl_conf()).env("KEYWARD_SOCKET", &address);
    let process = Process::start(&mut command, &daemon.path("s_server.log"));
    wait_for("s_server", || {
        let maps = fs::read_to_string(format!("/proc/{}/maps", process.id())).unwrap();
        maps.contains("keyward.so").then_some(())
    });
    let found = of_process(&daemon, process.id());
    let [_, _, _, fix] = one_with(&found, "socket", "fail", "in a network namespace of its own");
    assert!(fix.contains("PrivateNetwork=yes"), "{fix}");
}

#[test]
fn nothing_is_said_to_be_in_order_unseen() {
    let daemon = Daemon::start();
    let user = |more: &[&str]| {
        let words = [&["--user", OTHER], more].concat();
        let arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = words.iter().map(|word| word as _).collect();
        super::doctor(&daemon, "grant", &arguments).remove(0)
    };
    let [verdict, detail, fix] = user(&[]);
    assert!(verdict == "warn" && detail == "there is no key that daemon could use", "{detail}");
    assert!(fix.contains("keyward key generate LABEL"), "{fix}");
    daemon.generate("shop", "p256");
    let [verdict, detail, fix] = user(&[]);
    assert!(verdict == "fail" && detail.starts_with("no grant lets daemon use any enabled key"), "{detail}");
    assert!(fix.contains("[[grant]] with user = \"daemon\" and keys = [\"LABEL\"]"), "{fix}");
    daemon.configure_more(&format!("[[grant]]\nuser = {OTHER:?}\nkeys = [\"shop\"]\n"));
    daemon.reload();
    let [verdict, detail, _] = user(&[]);
    assert!(verdict == "ok" && detail == "daemon may use shop", "{detail}");

    if has_root() {
        let doctor = daemon.keyward(&["doctor"]);
        let text = String::from_utf8(run(&mut as_user(OTHER, &doctor)).stdout).unwrap();
        assert!(text.contains("not checked: processes of other users ("), "{text}");
    }
}
