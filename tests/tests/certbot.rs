//! The hook by which certbot's renewals reach servers, with certbot itself, and by itself with what can go wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use keyward_tests::server::{Page, Site};
use keyward_tests::tool::{run, stderr, succeed, wait_for};
use keyward_tests::{Apache, Daemon, Handshake, Haproxy, Load, Nginx, Pebble, Pki, built};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

const HOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../conf/certbot/keyward-deploy-hook");

/// The hook as a command of a shell.
fn hook(daemon: &Daemon, site: &Site, check: &str, reload: &str) -> String {
    format!(
        "{HOOK} shop --at {} --live {} --runtime-dir {} --check '{check}' --reload '{reload}'",
        site.address,
        daemon.path("live").display(),
        daemon.path("run").display()
    )
}

/// As [`hook`], with the commands for nginx.
fn nginx_hook(daemon: &Daemon, site: &Site) -> String {
    let directory = daemon.path(&format!("nginx-{}", site.address.port()));
    let nginx = format!("nginx -p {0} -c {0}/nginx.conf -e {0}/error.log", directory.display());
    hook(daemon, site, &format!("{nginx} -t -q"), &format!("{nginx} -s reload"))
}

/// A site whose files are where the hook puts them.
fn site(daemon: &Daemon) -> Site {
    Site::new(daemon.path("live/shop/fullchain.pem"), daemon.path("live/shop/key.pem"))
}

/// Gives a command that runs the hook the environment of an installed Keyward.
fn installed(daemon: &Daemon, command: &mut Command) {
    let keyward = built("keyward");
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:/usr/sbin:{path}", keyward.parent().unwrap().display()));
    // In the place of /etc/keyward/openssl.cnf.
    command.env("OPENSSL_CONF", daemon.openssl_conf());
}

/// Runs the hook as a person would.
fn by_hand(daemon: &Daemon, hook: &str, lineage: &Path) -> Output {
    let mut command = Command::new("sh");
    installed(daemon, command.args(["-c", hook]));
    run(command.env("RENEWED_LINEAGE", lineage).env_remove("RENEWED_DOMAINS"))
}

fn leaf(chain: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(chain).unwrap()
}

#[test]
fn certbot_renews_with_a_new_key_under_load() {
    let daemon = Daemon::start();
    let pebble = Pebble::start(&daemon.path("pebble"));
    let lineage = daemon.path("letsencrypt/live/shop.example");
    let [chain, key] = ["fullchain.pem", "privkey.pem"].map(|name| lineage.join(name));
    let site = site(&daemon);
    let hook = format!("{} --remove-key-files", nginx_hook(&daemon, &site));

    // The site as it was, and its conversion.
    let mut first = pebble.certbot(daemon.directory());
    first.args(["certonly", "--agree-tos", "--register-unsafely-without-email", "--domain", "shop.example"]);
    succeed(first.args(["--standalone", "--http-01-port", &pebble.challenges().to_string()]));
    succeed(&mut daemon.keyward(&["key", "import", "shop", "--in", key.to_str().unwrap()]));
    let output = by_hand(&daemon, &hook, &lineage);
    assert!(stderr(&output).contains("now name them in the configuration"), "{}", stderr(&output));
    assert!(fs::read_to_string(&key).unwrap().contains("PRIVATE KEY"), "the server uses it");
    let webroot = daemon.path("www");
    fs::create_dir(&webroot).unwrap();
    let directives = format!(
        "listen 127.0.0.1:{}; location /.well-known/ {{ root {}; }}",
        pebble.challenges(),
        webroot.display()
    );
    let nginx = Nginx::start_with_directives(&daemon, std::slice::from_ref(&site), &directives);
    let handshake = Handshake::new(pebble.issued(), site.address).asking_for("shop.example");
    assert_eq!(handshake.certificate().unwrap(), leaf(&chain));

    let load = Load::start(&handshake, 1);
    let conf = daemon.path("letsencrypt/renewal/shop.example.conf");
    let line = Page::read("certbot").filled("renew_hook", &[("keyward-deploy-hook shop", &hook)]);
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, text.replace("[renewalparams]\n", &format!("[renewalparams]\n{line}"))).unwrap();
    let renew = |more: &[&str]| {
        let mut certbot = pebble.certbot(daemon.directory());
        certbot.args(["renew", "--force-renewal", "--no-random-sleep-on-renew"]).args(more);
        installed(&daemon, &mut certbot);
        let text = stderr(&run(&mut certbot));
        (leaf(&chain), text)
    };
    let issued = leaf(&chain);
    let (renewed, text) = renew(&["--webroot", "--webroot-path", webroot.to_str().unwrap()]);
    assert_ne!(renewed, issued, "{text}");
    assert_eq!(handshake.certificate().unwrap(), renewed, "{text}");
    // The key of before, and the one that certbot has made.
    let archive = key.canonicalize().unwrap().parent().unwrap().to_owned();
    let kept: Vec<_> = fs::read_dir(archive).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(kept.len(), 2 * 4 - 1, "{kept:?}");
    let is_private = |file: &PathBuf| fs::read_to_string(file).unwrap().contains("PRIVATE KEY");
    assert!(!kept.iter().any(is_private), "{kept:?}");
    let list = succeed(pebble.certbot(daemon.directory()).arg("certificates"));
    assert!(list.contains("configurations were invalid"), "as the page says: {list}");

    // A change of somebody else, which nginx does not find out before it tries: the port is taken.
    let conf = daemon.path(&format!("nginx-{}/nginx.conf", site.address.port()));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let more = format!("http {{ server {{ listen {}; }}", taken.local_addr().unwrap());
    fs::write(&conf, fs::read_to_string(&conf).unwrap().replacen("http {", &more, 1)).unwrap();
    let (refused, text) = renew(&["--deploy-hook", &format!("{hook} --wait 1")]);
    assert_ne!(refused, renewed, "{text}");
    assert!(Page::read("certbot").find_in_log(&text).is_some(), "{text}");
    assert_eq!(handshake.certificate().unwrap(), renewed);
    assert_eq!(leaf(&site.certificate), renewed, "nor does a restart find another one");
    assert!(is_private(&key), "nothing else has it on the disk");

    drop(taken);
    let output = by_hand(&daemon, &hook, &lineage);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(handshake.certificate().unwrap(), refused);
    let attempts = load.stop();
    let failed: Vec<_> = attempts.iter().filter(|attempt| attempt.result.is_err()).collect();
    assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), attempts.len(), failed[0]);
    assert!(attempts.len() > 100, "{}", attempts.len());
    drop(nginx);
}

/// What certbot has, without certbot.
struct Renewals {
    daemon: Daemon,
    pki: Pki,
    lineage: PathBuf,
    site: Site,
}

impl Renewals {
    /// One key in the daemon, put in place by the hook.
    fn new() -> Self {
        let daemon = Daemon::start();
        let renewals = Self {
            pki: Pki::new(daemon.directory()),
            lineage: daemon.path("lineage"),
            site: site(&daemon),
            daemon,
        };
        fs::create_dir(&renewals.lineage).unwrap();
        renewals.renew("first");
        let key = renewals.lineage.join("privkey.pem");
        let keyward = |words: &[&str]| succeed(&mut renewals.daemon.keyward(words));
        keyward(&["key", "import", "shop", "--in", key.to_str().unwrap()]);
        let output = renewals.run("false", "false", "");
        assert!(output.status.success(), "{}", stderr(&output));
        renewals
    }

    /// A certificate for a new key.
    fn renew(&self, name: &str) -> CertificateDer<'static> {
        let (certificate, key) = self.pki.leaf(name);
        fs::rename(key, self.lineage.join("privkey.pem")).unwrap();
        fs::rename(certificate, self.lineage.join("fullchain.pem")).unwrap();
        leaf(&self.lineage.join("fullchain.pem"))
    }

    fn run(&self, check: &str, reload: &str, more: &str) -> Output {
        let hook = format!("{} {more}", hook(&self.daemon, &self.site, check, reload));
        by_hand(&self.daemon, &hook, &self.lineage)
    }

    fn served(&self) -> CertificateDer<'static> {
        Handshake::new(&self.pki, self.site.address).certificate().unwrap()
    }

    fn versions(&self) -> usize {
        let shown = succeed(&mut self.daemon.keyward(&["key", "show", "shop", "--json"]));
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        shown["versions"].as_array().unwrap().len()
    }

    /// The new certificate is served, and one renewal is kept beside it.
    fn assert_deployed(&self, reload: &str) {
        for name in ["second", "third"] {
            let renewed = self.renew(name);
            let output = self.run("true", reload, "");
            assert!(output.status.success(), "{}", stderr(&output));
            assert_eq!(self.served(), renewed);
        }
        let kept = fs::read_dir(self.daemon.path("live")).unwrap().map(|file| file.unwrap().file_name());
        let mut kept: Vec<_> = kept.map(|name| name.into_string().unwrap()).collect();
        kept.sort();
        assert_eq!(kept, [".lock", "shop", "shop~2", "shop~3"]);
        // With the key that it has already, as after --reuse-key.
        let versions = self.versions();
        assert!(self.run("true", reload, "").status.success());
        assert_eq!(self.versions(), versions);
    }
}

#[test]
fn haproxy_takes_both_from_one_file() {
    let renewals = Renewals::new();
    let haproxy = Haproxy::start(&renewals.daemon, std::slice::from_ref(&renewals.site));
    let file = renewals.daemon.path(&format!("haproxy-{}/0.pem", renewals.site.address.port()));
    fs::remove_file(&file).unwrap();
    symlink(renewals.daemon.path("live/shop/combined.pem"), file).unwrap();
    renewals.assert_deployed(&format!("kill -USR2 {}", haproxy.id()));
}

#[test]
fn apache_takes_both_with_a_graceful_reload() {
    let renewals = Renewals::new();
    let apache = Apache::start(&renewals.daemon, std::slice::from_ref(&renewals.site), "event");
    renewals.assert_deployed(&format!("kill -USR1 {}", apache.id()));
}

#[test]
fn the_hook_takes_back_what_the_server_refuses() {
    let renewals = Renewals::new();
    let nginx = Nginx::start(&renewals.daemon, std::slice::from_ref(&renewals.site));
    let reload = format!("kill -HUP {}", nginx.id());
    let served = renewals.served();
    renewals.renew("second");
    let disable = format!("keyward key disable shop --runtime-dir {}", renewals.daemon.path("run").display());
    let back = "the server goes on with the former certificate of localhost";
    let calls = renewals.daemon.path("calls");
    let called = |and: &str| format!("echo >>{}; {and}", calls.display());
    for (check, reload, more, why, then, reloads) in [
        // Before anything is changed.
        (
            "true",
            "true",
            "--at 127.0.0.1:1",
            "nobody completes a handshake for localhost at 127.0.0.1:1",
            "",
            0,
        ),
        ("false", "true", "", "the server refuses the new certificate of localhost: false", back, 0),
        ("true", "false", "", "the server cannot be reloaded", "the server does not take back", 2),
        ("true", "true", "--wait 0", "does not show the new certificate", back, 2),
        (&*disable, &*reload, "--wait 0", "does not show the new certificate", "look at the server now", 2),
    ] {
        fs::write(&calls, "").unwrap();
        let output = renewals.run(check, &called(reload), more);
        let text = stderr(&output);
        assert!(!output.status.success() && text.contains(why) && text.contains(then), "{check}: {text}");
        assert_eq!(fs::read_to_string(&calls).unwrap().lines().count(), reloads, "{check}, {reload}: {text}");
        assert_eq!(leaf(&renewals.site.certificate), served, "{text}");
        if check == disable {
            succeed(&mut renewals.daemon.keyward(&["key", "enable", "shop"]));
        }
        wait_for("the former certificate", || (renewals.served() == served).then_some(()));
    }
    assert_eq!(renewals.versions(), 2, "it is imported once");
    let output = renewals.run("true", &reload, "");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_ne!(renewals.served(), served);
}

#[test]
fn the_hook_changes_nothing_where_it_is_called_amiss() {
    let renewals = Renewals::new();
    let Renewals { daemon, lineage, site, .. } = &renewals;
    let good = hook(daemon, site, "true", "true");
    let run = |hook: &str, why: &str| {
        let text = stderr(&by_hand(daemon, hook, lineage));
        assert!(text.contains(why), "{hook}: {text}");
    };
    run(HOOK, "which key?");
    run(&format!("{good} --chekc true"), "unknown option --chekc");
    run(&format!("{good} --wait"), "--wait needs a value");
    run(&format!("unset RENEWED_LINEAGE; {good}"), "RENEWED_LINEAGE is not set");
    let other = daemon.path("live/other");
    fs::create_dir(&other).unwrap();
    run(&good.replace(" shop ", " other "), "is no link of this hook");
    fs::remove_dir(other).unwrap();
    run(&good.replace(" shop ", " other "), "if there is no such key yet: keyward key import other --in");
    let (_, key) = renewals.pki.leaf("other");
    fs::rename(key, lineage.join("privkey.pem")).unwrap();
    let _nginx = Nginx::start(daemon, std::slice::from_ref(site));
    run(&good, "is not the key of the certificate");
    assert_eq!(renewals.versions(), 1);
}
