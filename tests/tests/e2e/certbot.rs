//! The deploy hook for certbot: with certbot itself, and alone with possible failures.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use keyward_tests::pki::{openssl, plain_key};
use keyward_tests::server::{Page, Site};
use keyward_tests::tool::{run, stderr, succeed, wait_for};
use keyward_tests::{Apache, Daemon, Handshake, Haproxy, Load, Nginx, Pebble, Pki, built, has_root};
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

/// The hook with the commands for nginx.
fn nginx_hook(daemon: &Daemon, site: &Site) -> String {
    let directory = daemon.path(&format!("nginx-{}", site.address.port()));
    let nginx = format!("nginx -p {0} -c {0}/nginx.conf -e {0}/error.log", directory.display());
    hook(daemon, site, &format!("{nginx} -t -q"), &format!("{nginx} -s reload"))
}

/// A site with its files where the hook puts them.
fn site(daemon: &Daemon) -> Site {
    Site::new(daemon.path("live/shop/fullchain.pem"), daemon.path("live/shop/key.pem"))
}

/// Gives a command that runs the hook the environment of an installed Keyward.
fn installed(daemon: &Daemon, command: &mut Command) {
    let keyward = built("keyward");
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:/usr/sbin:{path}", keyward.parent().unwrap().display()));
    // Replaces /etc/keyward/openssl.cnf.
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
    let hook = nginx_hook(&daemon, &site);

    // The site with a key file, and its conversion.
    let mut first = pebble.certbot(daemon.directory());
    first.args(["certonly", "--agree-tos", "--register-unsafely-without-email", "--domain", "shop.example"]);
    succeed(first.args(["--standalone", "--http-01-port", &pebble.challenges().to_string()]));
    succeed(&mut daemon.keyward(&["key", "import", "shop", "--in", key.to_str().unwrap()]));
    let output = by_hand(&daemon, &hook, &lineage);
    assert!(stderr(&output).contains("now name them in the configuration"), "{}", stderr(&output));
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
    // The old key and the key that certbot has made stay on the disk; a person removes them.
    let shredded = Page::read("certbot").filled(
        "shred -u",
        &[
            ("/etc/letsencrypt", &daemon.path("letsencrypt").display()),
            ("/etc/keyward/live", &daemon.path("live").display()),
        ],
    );
    succeed(Command::new("sh").args(["-e", "-c", &shredded]));
    let archive = key.canonicalize().unwrap().parent().unwrap().to_owned();
    let kept: Vec<_> = fs::read_dir(archive).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(kept.len(), 2 * 4 - 1, "{kept:?}");
    let is_private = |file: &PathBuf| fs::read_to_string(file).unwrap().contains("PRIVATE KEY");
    assert!(!kept.iter().any(is_private), "{kept:?}");
    let list = succeed(pebble.certbot(daemon.directory()).arg("certificates"));
    assert!(list.contains("configurations were invalid"), "as the page says: {list}");

    // Somebody else has changed the configuration. nginx notices only when it tries: the port is in
    // use.
    let conf = daemon.path(&format!("nginx-{}/nginx.conf", site.address.port()));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let more = format!("http {{ server {{ listen {}; }}", taken.local_addr().unwrap());
    fs::write(&conf, fs::read_to_string(&conf).unwrap().replacen("http {", &more, 1)).unwrap();
    let (refused, text) = renew(&["--deploy-hook", &format!("{hook} --wait 3")]);
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

/// The files of certbot, without certbot.
struct Renewals {
    daemon: Daemon,
    pki: Pki,
    lineage: PathBuf,
    site: Site,
}

impl Renewals {
    /// Makes a key in the daemon, and lets the hook put it in place.
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

    /// Makes a certificate for a new key.
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

    /// Asserts that the new certificate is served, and that one earlier renewal is kept.
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
        assert_eq!(kept, [".lock", "shop", "shop~2", "shop~3", "shop~served"]);
        // With the same key as before, as after --reuse-key.
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
        // Refused before anything is changed.
        (
            "true",
            "true",
            "--at 127.0.0.1:1",
            "nobody completes a handshake for localhost at 127.0.0.1:1",
            "",
            0,
        ),
        ("false", "true", "", "the server refuses the new certificate of localhost", back, 0),
        ("true", "false", "", "the server cannot be reloaded", "the server does not take back", 2),
        ("true", "true", "--wait 1", "does not show the new certificate", back, 2),
        ("sleep 60", "true", "--wait 1", "takes more than 1 seconds for it: sleep 60", back, 0),
        (&*disable, &*reload, "--wait 1", "does not show the new certificate", "look at the server now", 2),
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

/// `certbot renew --deploy-hook` calls the hook for each certificate.
#[test]
fn the_hook_refuses_the_certificate_of_another_site() {
    let renewals = Renewals::new();
    let Renewals { daemon, pki, site, .. } = &renewals;
    let nginx = Nginx::start(daemon, std::slice::from_ref(site));
    let served = renewals.served();
    let reload = format!("kill -HUP {}", nginx.id());
    let other = daemon.path("other");
    fs::create_dir(&other).unwrap();
    let run_hook = || by_hand(daemon, &hook(daemon, site, "true", &reload), &other);
    let mut suggested = Vec::new();
    for (names, why, command) in [
        ("DNS:other.example", "is for no name that the certificate in", "rm /"),
        ("IP:127.0.0.1,DNS:localhost", "live/shop is for", "echo /"),
    ] {
        let (_, key) = pki.leaf("other");
        let certificate =
            pki.certify_with_extensions(&key.with_extension("pub"), &format!("subjectAltName={names}\n"), 2);
        fs::rename(key, other.join("privkey.pem")).unwrap();
        fs::rename(certificate, other.join("fullchain.pem")).unwrap();
        let output = run_hook();
        let text = stderr(&output);
        assert!(!output.status.success() && text.contains(why), "{text}");
        assert_eq!((leaf(&site.certificate), renewals.versions()), (served.clone(), 1));
        let line = text.lines().find_map(|line| Some(&line[line.find(command)?..])).unwrap();
        suggested.push(line.split("; then").next().unwrap().to_owned());
    }
    for command in suggested.iter().rev() {
        succeed(Command::new("sh").args(["-c", command]));
        let output = run_hook();
        assert!(output.status.success(), "{command}: {}", stderr(&output));
        assert_eq!(leaf(&site.certificate), leaf(&other.join("fullchain.pem")));
    }
}

#[test]
fn the_hook_goes_on_after_a_run_that_was_killed() {
    let renewals = Renewals::new();
    let Renewals { daemon, lineage, site, .. } = &renewals;
    let nginx = Nginx::start(daemon, std::slice::from_ref(site));
    let reload = format!("kill -HUP {}", nginx.id());
    let served = renewals.served();
    let renewed = renewals.renew("second");
    for reload in ["true", &reload] {
        // The first command after the link names the new directory, or after the reload.
        let kill = format!("{reload}; kill -KILL $HOOK");
        let killed = format!("export HOOK=$$; exec {}", hook(daemon, site, &kill, "true"));
        assert!(!by_hand(daemon, &killed, lineage).status.success());
        assert_eq!(leaf(&site.certificate), renewed);
    }
    wait_for("the new certificate", || (renewals.served() == renewed).then_some(()));
    fs::create_dir(daemon.path("live/.work.killed")).unwrap();
    let text = stderr(&renewals.run("false", &reload, ""));
    assert!(text.contains("goes on with the former certificate"), "{text}");
    assert_eq!((leaf(&site.certificate), renewals.served()), (served.clone(), served));

    // A reload that starts a background process, and the next run.
    let output = renewals.run(
        "true",
        &format!("sleep 60 >/dev/null 2>&1 & echo $! >{}; {reload}", daemon.path("pid").display()),
        "",
    );
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!daemon.path("live/.work.killed").exists());
    // The key has a newer version meanwhile, and the certificate has not.
    succeed(&mut daemon.keyward(&["key", "rotate", "shop"]));
    let output = renewals.run("true", &reload, "");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!((renewals.served(), renewals.versions()), (renewed, 3));
    succeed(Command::new("kill").arg(fs::read_to_string(daemon.path("pid")).unwrap().trim()));
}

/// The hook must see its own certificate, although clients that know keys of both types get the
/// other certificate.
#[test]
fn two_types_of_keys_at_one_site() {
    let grant = |user| {
        format!("[[grant]]\nuser = \"{user}\"\nkeys = [\"*\"]\nuses = [\"tls-server\", \"tls12-server\"]\n")
    };
    let daemon = Daemon::start_with(&["root", "www-data"].map(grant).concat());
    let pki = Pki::new(daemon.directory());
    let (certificate, key) = pki.leaf("ecdsa");
    let both = format!("ssl_certificate {}; ssl_certificate_key {};", certificate.display(), key.display());
    let lineage = daemon.path("lineage");
    fs::create_dir(&lineage).unwrap();
    let key = lineage.join("privkey.pem");
    fs::write(&key, plain_key("rsa2048")).unwrap();
    let public = daemon.path("rsa.pub");
    succeed(openssl(&["pkey", "-pubout", "-in"]).arg(&key).arg("-out").arg(&public));
    let renew = || fs::rename(pki.certify_public(&public), lineage.join("fullchain.pem")).unwrap();
    renew();
    let uses = ["--use", "tls-server", "--use", "tls12-server"];
    succeed(daemon.keyward(&["key", "import", "shop", "--in", key.to_str().unwrap()]).args(uses));
    assert!(by_hand(&daemon, &hook(&daemon, &site(&daemon), "true", "true"), &lineage).status.success());
    for version in ["TLSv1.2", "TLSv1.3"] {
        let site = site(&daemon);
        let nginx = Nginx::start_with_directives(
            &daemon,
            std::slice::from_ref(&site),
            &format!("{both} ssl_protocols {version};"),
        );
        renew();
        let reload = format!("kill -HUP {}", nginx.id());
        let output = by_hand(&daemon, &hook(&daemon, &site, "true", &reload), &lineage);
        assert!(output.status.success(), "{version}: {}", stderr(&output));
    }
}

#[test]
fn the_hook_changes_nothing_where_it_is_called_amiss() {
    let renewals = Renewals::new();
    let Renewals { daemon, lineage, site, .. } = &renewals;
    let good = hook(daemon, site, "true", "true");
    let run = |hook: &str, why: &str| {
        let output = by_hand(daemon, hook, lineage);
        let text = stderr(&output);
        assert!(!output.status.success() && text.contains(why), "{hook}: {text}");
        text
    };
    run(HOOK, "which key?");
    run(&format!("{HOOK} --live /"), "which key?");
    let help = by_hand(daemon, &format!("{HOOK} --help"), lineage);
    assert!(
        help.status.success() && String::from_utf8_lossy(&help.stdout).contains("--check COMMAND"),
        "{help:?}"
    );
    run(&format!("{good} --chekc true"), "unknown option --chekc");
    run(&format!("{good} --wait"), "--wait needs a value");
    run(&format!("{good} --wait 0"), "at least 1");
    run(&format!("unset RENEWED_LINEAGE; {good}"), "RENEWED_LINEAGE is not set");
    let other = daemon.path("live/other");
    fs::create_dir(&other).unwrap();
    let no_key = run(&good.replace(" shop ", " other "), "keyward key import other --in");
    assert!(no_key.contains("there is no key other"), "{no_key}");
    daemon.generate("other", "p256");
    run(&good.replace(" shop ", " other "), "is no link of this hook");
    fs::remove_dir(&other).unwrap();
    for target in ["/etc", "shop~1", "other~x"] {
        symlink(target, &other).unwrap();
        run(&good.replace(" shop ", " other "), "is not of this hook");
        fs::remove_file(&other).unwrap();
    }
    let text = run(&good.replace("/run", "/none"), "cannot reach");
    assert!(!text.contains("key import"), "{text}");
    // Another user could replace any file there.
    let live = daemon.path("live");
    for (directory, mode) in [(&live, 0o777), (&live, 0o1777), (&daemon.directory().to_owned(), 0o770)] {
        let before = fs::metadata(directory).unwrap().permissions();
        fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
        run(&good, "can be changed by other users");
        fs::set_permissions(directory, before).unwrap();
    }
    if has_root() {
        std::os::unix::fs::chown(&live, Some(65534), None).unwrap();
        run(&good, "can be changed by other users");
        std::os::unix::fs::chown(&live, Some(0), None).unwrap();
    }
    let lock = fs::File::open(live.join(".lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    run(&format!("{good} --wait 1"), "another run has not ended for 5 seconds");
    drop(lock);

    let (_, key) = renewals.pki.leaf("other");
    fs::rename(key, lineage.join("privkey.pem")).unwrap();
    let _nginx = Nginx::start(daemon, std::slice::from_ref(site));
    fs::rename(renewals.pki.leaf("third").0, lineage.join("fullchain.pem")).unwrap();
    run(&good, "is not the key of the certificate");
    fs::write(lineage.join("fullchain.pem"), "").unwrap();
    run(&good, "there is no certificate in");
    assert_eq!(renewals.versions(), 1);
}
