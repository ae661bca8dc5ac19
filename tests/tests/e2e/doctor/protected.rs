//! Findings about servers that `keyward protect` has changed, or could change.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyward_tests::server::{Site, nginx};
use keyward_tests::tool::{Process, run, succeed, wait_for};
use keyward_tests::{Daemon, Nginx, Pki, has_root};
use serde_json::{Value, json};

use super::found::{of_process, one_with};

/// The file with the configuration of the nginx of a site.
fn configuration(daemon: &Daemon, site: &Site) -> PathBuf {
    daemon.path(&format!("nginx-{}", site.address.port())).join("nginx.conf")
}

/// A command that sees no process but its own, as if no server ran.
fn alone(daemon: &Daemon, words: &[&str]) -> Command {
    let keyward = daemon.keyward(words);
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]).arg(keyward.get_program()).args(keyward.get_args());
    command.env_remove("KEYWARD_SOCKET");
    command
}

#[test]
fn the_result_of_protect_is_in_order() {
    if !has_root() {
        return;
    }
    let daemon = Daemon::start();
    daemon.generate("old", "p256");
    let uses = |list: &[&str]| {
        let words = list.iter().flat_map(|one| ["--use", one]);
        succeed(daemon.keyward(&["key", "set-uses", "old"]).args(words));
    };
    let site = Site::with_key(&daemon, &Pki::new(daemon.directory()), "old");
    let nginx = Nginx::start(&daemon, std::slice::from_ref(&site));
    let conf = configuration(&daemon, &site);
    let text = fs::read_to_string(&conf).unwrap();
    let set = format!("env OPENSSL_CONF={};", daemon.openssl_conf().display());
    let changed = text
        .replace("env OPENSSL_CONF;", &set)
        .replace("ssl_protocols TLSv1.2 TLSv1.3;", "ssl_protocols TLSv1.2; ssl_dhparam dh.pem;");
    assert!(changed.contains(&set) && changed.contains("ssl_dhparam"), "{text}");
    fs::write(&conf, changed).unwrap();

    let found = of_process(&daemon, nginx.id());
    one_with(&found, "nginx.conf", "ok", "and nginx has loaded the provider");
    one_with(&found, "nginx.conf uses", "warn", "without TLS 1.3");
    one_with(&found, "nginx.conf uses", "warn", "ssl_dhparam");
    // The key has the uses, and the grants do not.
    uses(&["tls-server", "tls12-server", "tls12-dhe-server"]);
    one_with(&of_process(&daemon, nginx.id()), "nginx.conf uses", "warn", "without TLS 1.3");
    let granted: String = keyward_tests::server::users()
        .iter()
        .map(|uid| {
            format!(
                "[[grant]]\nuid = {uid}\nkeys = [\"old\"]\nuses = [\"tls12-server\", \"tls12-dhe-server\"]\n"
            )
        })
        .collect();
    daemon.configure_more(&granted);
    daemon.reload();
    one_with(&of_process(&daemon, nginx.id()), "nginx.conf uses", "ok", "keys with this use: old");
}

#[test]
fn a_missing_reference_is_a_failure() {
    let daemon = Daemon::start();
    daemon.generate("shop", "p256");
    let site = Site::with_key(&daemon, &Pki::new(daemon.directory()), "shop");
    let nginx = Nginx::start(&daemon, std::slice::from_ref(&site));
    fs::rename(&site.key, daemon.path("away")).unwrap();
    let found = of_process(&daemon, nginx.id());
    let told = format!("its configuration names {}, which does not exist", site.key.display());
    one_with(&found, "reference", "fail", &told);
    fs::rename(daemon.path("away"), &site.key).unwrap();
    assert!(of_process(&daemon, nginx.id()).iter().all(|one| one[1] != "fail"));
}

/// The daemon watches the copy of a certificate that it was given, and the server shows its file.
#[test]
fn a_served_certificate_is_compared_with_the_copy() {
    let daemon = Daemon::start();
    daemon.generate("shop", "p256");
    let pki = Pki::new(daemon.directory());
    let site = Site::with_key(&daemon, &pki, "shop");
    let attach = ["cert", "attach", "shop", "--in", site.certificate.to_str().unwrap()];
    succeed(&mut daemon.keyward(&attach));
    let nginx = Nginx::start(&daemon, std::slice::from_ref(&site));
    let faults = || {
        let found = of_process(&daemon, nginx.id()).into_iter();
        found.filter(|one| one[0] == "certificate").collect::<Vec<_>>()
    };
    assert!(faults().is_empty(), "{:?}", faults());
    assert_eq!(pki.certify_as(&daemon, &site.key, "localhost", 90), site.certificate);
    let [_, _, _, fix] = one_with(&faults(), "certificate", "warn", "has another certificate for key shop");
    succeed(&mut daemon.shell(fix.strip_prefix("refresh the copy: ").unwrap()));
    assert!(faults().is_empty(), "{:?}", faults());
    // The other way round, the server is behind.
    pki.certify_as(&daemon, &site.key, "localhost", 30);
    let [_, _, _, fix] = one_with(&faults(), "certificate", "warn", "has another certificate for key shop");
    assert!(fix.starts_with("put the certificate of the daemon into "), "{fix}");
}

#[test]
fn private_keys_in_files_are_compared_with_the_daemon() {
    let daemon = Daemon::start();
    daemon.generate("shop", "p256");
    let pki = Pki::new(daemon.directory());
    let (certificate, key) = pki.leaf("plain");
    let sites = [Site::with_key(&daemon, &pki, "shop"), Site::new(certificate, key)];
    let nginx = Nginx::start(&daemon, &sites);
    let told = |words: &str| {
        let found = of_process(&daemon, nginx.id());
        one_with(&found, "key file", "note", &format!("private keys in files of the server, {words}: 1"));
    };
    told("which the daemon does not have");
    let file = sites[1].key.to_str().unwrap();
    succeed(&mut daemon.keyward(&["key", "import", "plain", "--in", file]));
    told("which the daemon has, too, so that the server could use references");
}

#[test]
fn a_protected_server_that_does_not_run_is_a_problem() {
    if !has_root() {
        return;
    }
    let daemon = Daemon::start();
    let faults = || {
        let output = run(&mut alone(&daemon, &["doctor", "--json"]));
        let found: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let failed = found.into_iter().filter(|one| one["check"] == "server" && one["verdict"] == "fail");
        failed.map(|one| one["detail"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let status = |command: &mut Command| {
        let output = run(command);
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    assert!(faults().is_empty(), "{:?}", faults());
    assert_eq!(status(&mut alone(&daemon, &["status"])).0, 0);

    daemon.generate("shop", "p256");
    let site = Site::with_key(&daemon, &Pki::new(daemon.directory()), "shop");
    let main = configuration(&daemon, &site);
    let digest = succeed(Command::new("sh").args(["-c", "printf %s \"$1\" | sha256sum", "sh"]).arg(main));
    let own = format!("nginx-{:.12}", digest);
    let protected = |name: &str| {
        let journal = daemon.path("protected").join(name).join("1");
        fs::create_dir_all(&journal).unwrap();
        fs::write(journal.join("journal.json"), "{}").unwrap();
    };
    protected("nginx");
    let down = "nginx does not run, and keyward protect has moved its keys into the daemon";
    let fix = "see its state: systemctl status nginx; if it is to use key files again: keyward protect nginx --undo";
    assert_eq!(faults(), [down]);
    let (code, text) = status(&mut alone(&daemon, &["status"]));
    assert!(code == 1 && text.contains(&format!("problem     {down}; {fix}\n")), "{code} {text}");
    // Its service is not the one of another nginx.
    fs::rename(daemon.path("protected/nginx"), daemon.path("protected").join(&own)).unwrap();
    let (code, text) = status(&mut alone(&daemon, &["status"]));
    let back =
        format!("start it again; if it is to use key files again: keyward protect nginx --undo={own}\n");
    assert!(code == 1 && text.contains(&back), "{code} {text}");
    fs::remove_dir_all(daemon.path("protected")).unwrap();
    protected("nginx");

    // Another nginx runs: the one with the usual configuration is down as before.
    let _nginx = Nginx::start(&daemon, std::slice::from_ref(&site));
    protected(&own);
    let (code, text) = status(&mut daemon.keyward(&["status"]));
    assert!(code == 1 && text.contains(down) && !text.contains(&own), "{code} {text}");
    fs::remove_dir_all(daemon.path("protected/nginx")).unwrap();
    let (code, text) = status(&mut daemon.keyward(&["status"]));
    assert!(code == 0 && !text.contains("nginx"), "{code} {text}");

    // The provider is gone: no restart would succeed.
    let module = "module = /nowhere/keyward.so";
    let conf = daemon.least_openssl_conf(keyward_tests::OpenSsl::System);
    let shown = format!("module = {}", daemon.path("keyward.so").display());
    assert!(conf.contains(&shown), "{conf}");
    fs::write(daemon.path("openssl.cnf"), conf.replace(&shown, module)).unwrap();
    let gone = "the provider /nowhere/keyward.so is missing, so a protected server does not start again";
    assert!(faults().contains(&gone.to_owned()), "{:?}", faults());
    let (code, text) = status(&mut daemon.keyward(&["status"]));
    assert!(
        code == 1 && text.contains(gone) && text.contains("install the package keyward-openssl"),
        "{text}"
    );
}

/// A protected nginx that runs, with its journal.
struct Protected {
    daemon: Daemon,
    pki: Pki,
    site: Site,
    nginx: Nginx,
}

impl Protected {
    fn start() -> Self {
        let daemon = Daemon::start();
        daemon.generate("shop", "p256");
        let pki = Pki::new(daemon.directory());
        let site = Site::with_key(&daemon, &pki, "shop");
        let nginx = Nginx::start(&daemon, std::slice::from_ref(&site));
        let main = configuration(&daemon, &site);
        let digest = succeed(Command::new("sh").args(["-c", "printf %s \"$1\" | sha256sum", "sh"]).arg(main));
        let run = daemon.path("protected").join(format!("nginx-{digest:.12}")).join("1");
        fs::create_dir_all(&run).unwrap();
        let file = json!({"path": site.key, "after": [], "copy_of_after": "", "is_made": true});
        let path = daemon.path("shop.key");
        let key_file = json!({
            "path": path, "real": path, "label": "shop", "device": 0, "inode": 0, "length": 0, "modified": 0,
        });
        let journal = json!({
            "phase": "done", "files": [file], "imported": [], "key_files": [key_file], "made": [],
        });
        fs::write(run.join("journal.json"), journal.to_string()).unwrap();
        Self { daemon, pki, site, nginx }
    }

    /// Exit status and problems of `keyward status`.
    fn status(&self) -> (i32, Vec<String>) {
        let output = run(&mut self.daemon.keyward(&["status"]));
        let text = String::from_utf8(output.stdout).unwrap();
        let problems = text.lines().filter_map(|line| line.strip_prefix("problem     ")).map(str::to_owned);
        (output.status.code().unwrap(), problems.collect())
    }

    /// The only problem that `keyward status` has about nginx.
    fn problem(&self) -> String {
        let (code, problems) = self.status();
        assert!(code == 1 && problems.len() == 1, "{code} {problems:#?}");
        let title = format!("nginx (process {} as www-data", self.nginx.id());
        assert!(problems[0].starts_with(&title), "{problems:#?}");
        problems[0].clone()
    }

    fn assert_well(&self) {
        assert_eq!(self.status(), (0, Vec::new()));
    }
}

#[test]
fn a_protected_server_without_its_grant_is_a_problem() {
    if !has_root() {
        return;
    }
    let scene = Protected::start();
    let daemon = &scene.daemon;
    scene.assert_well();
    let text = fs::read_to_string(daemon.path("keyward.toml")).unwrap();
    let configure = |text: &str| {
        daemon.configure(text);
        daemon.reload();
    };
    configure("log = \"debug\"\n");
    let told = scene.problem();
    assert!(told.contains("may not use key shop for tls-server: no grant covers www-data"), "{told}");
    assert!(told.contains("[[grant]] with user = \"www-data\" and keys = [\"shop\"]"), "{told}");
    // Clients meet failures, which the daemon counts.
    let client = keyward_tests::Handshake::new(&scene.pki, scene.site.address);
    assert!(client.make().is_err());
    let (code, problems) = scene.status();
    let refused = "handshakes fail, because no grant covers www-data for key shop, refused ";
    assert!(code == 1 && problems.iter().any(|one| one.starts_with(refused)), "{problems:#?}");
    let all = super::found::all(daemon);
    one_with(
        &all,
        "signatures",
        "warn",
        "ended with no-grant, the last one 0 minutes ago: www-data for key shop",
    );
    // The grant of another service does not help this process. A kernel without services says so.
    configure(
        "log = \"debug\"\n[[grant]]\nuser = \"www-data\"\nunit = \"nginx.service\"\nkeys = [\"shop\"]\n",
    );
    let (code, problems) = scene.status();
    let told = |words: &str| problems.iter().any(|one| one.contains(words));
    let is_told = told(
        "its grant is for nginx.service, and the process runs outside of that service; stop the server, \
                        and start it as a service: systemctl start nginx.service",
    );
    assert!(code == 1 && (is_told || told("grants with unit do not work")), "{problems:#?}");
    // Repaired: no warning is left of the refusals.
    configure(&text);
    assert!(client.make().is_ok());
    scene.assert_well();
    assert!(super::found::all(daemon).iter().all(|one| one[0] != "signatures"));
}

#[test]
fn a_private_key_that_is_back_is_a_problem() {
    if !has_root() {
        return;
    }
    let scene = Protected::start();
    // As a renewal that knows nothing of the daemon leaves it.
    let good = fs::read(&scene.site.key).unwrap();
    let (_, key) = scene.pki.leaf("renewed");
    fs::copy(&key, &scene.site.key).unwrap();
    let back = format!("{} holds a private key again", scene.site.key.display());
    let told = scene.problem();
    assert!(told.contains(&back) && told.contains("; move the key, too: keyward protect nginx"), "{told}");
    one_with(&of_process(&scene.daemon, scene.nginx.id()), "key file", "fail", &back);
    fs::write(&scene.site.key, good).unwrap();
    scene.assert_well();
}

#[test]
fn a_protected_server_with_another_certificate_is_a_problem() {
    if !has_root() {
        return;
    }
    let scene = Protected::start();
    let Protected { daemon, pki, site, .. } = &scene;
    let attach = |file: &Path| {
        succeed(&mut daemon.keyward(&["cert", "attach", "shop", "--in", file.to_str().unwrap()]));
    };
    attach(&site.certificate);
    scene.assert_well();
    // The daemon has a newer one.
    let old = fs::read(&site.certificate).unwrap();
    assert_eq!(pki.certify_as(daemon, &site.key, "localhost", 90), site.certificate);
    attach(&site.certificate);
    fs::write(&site.certificate, old).unwrap();
    assert!(scene.problem().contains("has another certificate for key shop than the daemon"));
    pki.certify_as(daemon, &site.key, "localhost", -1);
    // Keys from the files of a server have no use for requests.
    let told = scene.problem();
    assert!(told.contains("has expired on ") && told.contains("; renew it: as it was made"), "{told}");
    assert!(told.contains("keyward key set-uses shop --use tls-server --use csr"), "{told}");

    // A renewal with a new key, as a new version without a copy of its certificate.
    let (certificate, key) = pki.leaf("localhost");
    fs::copy(&certificate, &site.certificate).unwrap();
    let told = scene.problem();
    assert!(told.contains("has another public key than the reference to key shop"), "{told}");
    let (_, advice) = told.split_once("if a renewal has made a new key: ").unwrap();
    let advice = advice.split(';').next().unwrap();
    assert!(
        advice.starts_with("keyward key import shop --new-version --in ") && advice.contains(" && "),
        "{advice}"
    );
    succeed(&mut daemon.keyward(&["key", "import", "shop", "--new-version", "--in", key.to_str().unwrap()]));
    fs::write(&site.key, succeed(&mut daemon.keyward(&["key", "reference", "shop"]))).unwrap();
    let told = scene.problem();
    assert!(
        told.contains("has no copy of the certificate in ") && told.contains("version 2 of key shop"),
        "{told}"
    );
    attach(&site.certificate);
    scene.assert_well();
}

/// A HAProxy that went back to key files has the variables of before.
#[test]
fn a_server_without_a_reference_has_no_fault() {
    let daemon = Daemon::start();
    let (certificate, key) = Pki::new(daemon.directory()).leaf("plain");
    let site = Site::new(certificate, key);
    let directory = nginx::configure(&daemon, std::slice::from_ref(&site), 1);
    let mut command = nginx::command(&daemon, &directory);
    command.env_remove("OPENSSL_CONF").env("KEYWARD_SOCKET", daemon.socket());
    let nginx = Process::start(&mut command, &directory.join("output.log"));
    wait_for("nginx", || std::net::TcpStream::connect(site.address).ok());
    assert!(of_process(&daemon, nginx.id()).is_empty(), "{:#?}", of_process(&daemon, nginx.id()));
}
