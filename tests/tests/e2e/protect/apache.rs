//! `keyward protect apache`.

use std::fs;
use std::ops::Deref;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keyward_tests::tool::{fail, run, stderr, succeed, wait_for};
use keyward_tests::{Daemon, Load, has_root};
use rustix::process::{Pid, Signal, kill_process};

use super::{Scene as _, Stage, assert_all_shook_hands, contents_of, keys_in_memory, secrets};

/// An Apache in the background with three sites whose keys are in files: a pair of RSA and ECDSA
/// with a path of several words, a wildcard from a macro, and a site of TLS 1.2 whose certificate
/// and key are in one file.
struct Scene {
    stage: Stage,
}

impl Scene {
    fn start() -> Self {
        let scene = Self { stage: Stage::new(Daemon::start(), "apache", &["sites", "www"]) };
        scene.configure();
        scene.start_server();
        scene
    }

    fn start_server(&self) {
        succeed(&mut self.apache(&["-k", "start"]));
        self.wait_until_all_answer();
    }

    fn configure(&self) {
        let home = self.home.display();
        let text = |name: &str| fs::read_to_string(self.path("ssl").join(name)).unwrap();
        fs::write(self.path("ssl/mail.pem"), text("mail.crt") + &text("mail.key")).unwrap();
        let modules: String = ["mpm_event", "authz_core", "dir", "ssl", "macro"]
            .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
            .concat();
        let [first, second] = self.addresses;
        fs::write(
            self.path("apache.conf"),
            format!(
                "# The first line of an administrator.\nServerRoot {home}\nServerName localhost\nPidFile apache.pid\n\
                 ErrorLog error.log\nMutex posixsem\nStartServers 1\nThreadsPerChild 8\nMinSpareThreads 4\nMaxSpareThreads 64\nMaxRequestWorkers 64\n{modules}User www-data\nGroup www-data\n\
                 DocumentRoot {home}/www\nDefine KEYS {home}/ssl\nListen {first}\nListen {second}\n\
                 SSLVHostSNIPolicy insecure\nSSLProtocol -all +TLSv1.2 +TLSv1.3\nSSLCipherSuite ECDHE+AESGCM\nIncludeOptional sites/*.conf\n"
            ),
        )
        .unwrap();
        fs::write(self.path("www/index.html"), "served\n").unwrap();
        let shop = format!(
            "<VirtualHost {first}>\n  ServerName shop.example\n  SSLEngine on\n\
             \x20 SSLCertificateFile ssl/shop.crt\n  SSLCertificateKeyFile \\\n    ${{KEYS}}/shop.key\n\
             \x20 SSLCertificateFile \"ssl/shop rsa.crt\"\n  SSLCertificateKeyFile \"ssl/shop rsa.key\" \n</VirtualHost>\n"
        );
        fs::write(self.path("sites/1-shop.conf"), shop).unwrap();
        let wild = format!(
            "<Macro Site $name $file>\n<VirtualHost {first}>\n  ServerName www.$name\n  ServerAlias *.$name\n  SSLEngine on\n\
             \x20 SSLCertificateFile ssl/$file.crt\n  SSLCertificateKeyFile ssl/$file.key\n</VirtualHost>\n</Macro>\nUse Site wild.example wild\n"
        );
        fs::write(self.path("sites/2-wild.conf"), wild).unwrap();
        let mail = format!(
            "<IfModule ssl_module>\n<VirtualHost {second}>\n  ServerName mail.example\n  SSLEngine on\n  SSLProtocol TLSv1.2\n\
             \x20 SSLCertificateFile ssl/mail.pem\n</VirtualHost>\n</IfModule>\n"
        );
        fs::write(self.path("sites/3-mail.conf"), mail).unwrap();
    }

    /// The program of Apache.
    fn apache(&self, words: &[&str]) -> Command {
        let mut command = Command::new("/usr/sbin/apache2");
        command.arg("-f").arg(self.path("apache.conf")).args(words).env_remove("OPENSSL_CONF");
        command
    }

    fn master(&self) -> u32 {
        wait_for("the master", || running(&self.path("apache.pid")))
    }

    /// Ends Apache. Its processes log into the directory of the scene until then.
    fn stop(&self) {
        let Some(pid) = running(&self.path("apache.pid")) else { return };
        if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        wait_for("the end of Apache", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    }
}

impl Deref for Scene {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.stage
    }
}

impl super::Scene for Scene {
    const SERVER: &str = "apache";
    const DIRECTORIES: &[&str] = &["sites"];
    const FILES_OF_SERVER: &[&str] = &["error.log", "apache.pid"];
    const RESTARTS: bool = true;

    fn pid(&self) -> Option<u32> {
        Some(self.master())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("error.log")).unwrap_or_default()
    }
}

/// The process whose number is in a file, if it runs.
fn running(file: &Path) -> Option<u32> {
    let pid = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    Path::new(&format!("/proc/{pid}")).exists().then_some(pid)
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
fn sites_of_apache_move_with_one_restart_and_back_without() {
    if !has_root() {
        return;
    }
    let scene = Scene::start();
    let (before, shown) = (scene.files(), scene.certificates());
    let secrets = secrets(&scene.path("ssl"));
    assert!(keys_in_memory(scene.master(), &secrets) > 0, "the scan finds keys");
    let plan = succeed(&mut scene.protect(&["--dry-run"]));
    for words in [
        "shop.example-p256 (p256, tls-server)",
        "shop.example-rsa2048 (rsa2048, tls-server)",
        "www.wild.example (p256, tls-server)",
        "mail.example (rsa2048, tls12-server)",
        "ssl/shop.key\n      the key file stays beside it, as .shop.key.before-keyward.key",
        "sites/1-shop.conf, line 8\n      \"",
        "ssl/wild.key\n      the key file stays beside it, as .wild.key.before-keyward.key",
        "ssl/mail.pem\n",
        "Apache restarts once: open connections end",
        "let each later start have OPENSSL_CONF=",
        "Nothing was changed",
    ] {
        assert!(plan.contains(words), "{plan} lacks {words}");
    }
    let (_, words) = fail(scene.protect(&[]).stdin(Stdio::null()));
    assert!(
        words.contains("nothing was changed: Apache must restart once, which --restart allows"),
        "{words}"
    );
    fs::remove_dir(scene.daemon.path("protected")).ok();
    assert_eq!(scene.files(), before);

    let old = scene.master();
    let umask = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find(|line| line.starts_with("Umask:")).unwrap().to_owned()
    };
    // A hard limit is raised again only with a right that root of some containers lacks.
    let limits = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        text.lines().filter(|line| !line.starts_with("Max core")).collect::<Vec<_>>().join("\n")
    };
    let inherited = (umask(old), limits(old));
    let load = Load::start(&scene.handshakes()[0], 2);
    let begin = Instant::now();
    let done = run(&mut scene.protect(&["--restart"]));
    let words = stderr(&done);
    assert!(done.status.success(), "{words}\n{}", scene.log());
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    // Handshakes fail during the restart alone.
    let mut attempts = load.stop();
    attempts.sort_by_key(|attempt| attempt.ended);
    let failed: Vec<_> = attempts.iter().filter(|attempt| attempt.result.is_err()).collect();
    let said = words.split("no handshakes for ").nth(1).and_then(|rest| rest.split(' ').next());
    let pause: f64 = said.expect("the pause").parse().unwrap();
    let (first, last) = (failed.first(), failed.last());
    let seen = first.zip(last).map_or(0.0, |(first, last)| (last.ended - first.began).as_secs_f64());
    assert!(seen <= pause + 0.5 && pause < 10.0, "{seen} s of failures, {pause} s said: {words}");
    assert!(attempts.last().unwrap().result.is_ok());

    assert_ne!(scene.master(), old);
    assert_eq!((umask(scene.master()), limits(scene.master())), inherited);
    assert_eq!(scene.certificates(), shown);
    assert_eq!(keys_in_memory(scene.master(), &secrets), 0);
    let again = succeed(&mut scene.protect(&[]));
    assert!(again.contains("every key of Apache is in the daemon already"), "{again}");
    // A reference whose key does not sign is no good news.
    succeed(&mut scene.daemon.keyward(&["key", "disable", "mail.example"]));
    let (_, words) = fail(&mut scene.protect(&[]));
    assert!(words.contains("key mail.example of ") && words.contains("does not sign"), "{words}");
    succeed(&mut scene.daemon.keyward(&["key", "enable", "mail.example"]));

    // The provider is there now, so the way back and the second change lose no handshake.
    let loads = scene.loads();
    let undone = run(&mut scene.protect(&["--undo"]));
    assert!(undone.status.success(), "{}\n{}", stderr(&undone), scene.log());
    assert_eq!(scene.files(), before);
    assert_eq!(scene.certificates(), shown);
    assert!(keys_in_memory(scene.master(), &secrets) > 0);
    let plan = succeed(&mut scene.protect(&["--site", "mail.example"]));
    assert!(plan.contains("Apache restarts gracefully") && !plan.contains("shop.key"), "{plan}");
    succeed(&mut scene.protect(&["--undo"]));
    assert_all_shook_hands(loads);
    assert_eq!(scene.files(), before);
    // A key that had come back from its deletion is deleted again.
    let key = succeed(&mut scene.daemon.keyward(&["key", "show", "mail.example"]));
    assert!(key.contains("deleted"), "{key}");
}

/// The command is killed at many moments. Apache comes up all the same, and the command, run again,
/// ends as if it had not been killed.
#[test]
fn a_killed_protect_of_apache_ends_right_when_it_is_run_again() {
    if !has_root() {
        return;
    }
    Scene::start().assert_killed_ends_right(&["--restart"], 4, |scene| {
        // Without the provider again, so that each round has its restart.
        scene.stop();
        scene.start_server();
    });
}

/// Wrong situations: nothing is changed, and one line says why.
#[test]
fn an_apache_that_cannot_be_protected_is_left_alone() {
    if !has_root() {
        return;
    }
    let scene = Scene::start();
    let (before, old) = (scene.files(), scene.master());
    let refused = |words: &[&str], expected: &str| {
        let (_, said) = fail(scene.protect(words).stdin(Stdio::null()));
        let line = said.lines().last().unwrap_or_default();
        assert!(line.contains("cannot protect Apache") && line.contains(expected), "{expected}: {said}");
    };
    refused(&["--site", "other.example"], "no virtual host of Apache with a key has the name other.example");
    let site = scene.path("sites/3-mail.conf");
    let text = fs::read_to_string(&site).unwrap();
    fs::write(&site, format!("{text}\nNonsense on\n")).unwrap();
    refused(&["--restart"], "Apache refuses its configuration: ");
    fs::write(&site, &text).unwrap();
    let key = scene.path("ssl/wild.key");
    let good = fs::read(&key).unwrap();
    fs::copy(scene.path("ssl/shop.key"), &key).unwrap();
    refused(&["--restart"], "wild.crt is for another key");
    fs::write(&key, good).unwrap();
    // A key with a passphrase, and a restart at which Apache would ask a person for it.
    let program = scene.path("ask-for-passphrase");
    std::os::unix::fs::symlink("/bin/true", &program).unwrap();
    let asks = format!("exec:{}", program.display());
    let plain = scene.path("ssl/wild.plain");
    fs::rename(&key, &plain).unwrap();
    let conf = scene.path("apache.conf");
    let text = fs::read_to_string(&conf).unwrap();
    for (format, dialog) in [("", "builtin"), ("-traditional", &asks), ("", "exec:/bin/true")] {
        let mut encrypt = Command::new("openssl");
        encrypt.args(["pkey", "-aes256", "-passout", "pass:secret", "-in"]).arg(&plain).arg("-out").arg(&key);
        succeed(encrypt.args(Some(format).filter(|word| !word.is_empty())));
        fs::write(&conf, format!("{text}SSLPassPhraseDialog {dialog}\n")).unwrap();
        refused(&["--restart"], &format!("cannot use the key in {}: it has a passphrase", key.display()));
        let site = ["--site", "mail.example"];
        match dialog.ends_with("true") {
            false => refused(
                &[&site[..], &["--restart"]].concat(),
                &format!(
                    "would ask a person for the passphrase of {} (SSLPassPhraseDialog {dialog}); decrypt that key",
                    key.display()
                ),
            ),
            true => drop(succeed(&mut scene.protect(&[&site[..], &["--dry-run"]].concat()))),
        }
    }
    fs::write(&conf, text).unwrap();
    fs::rename(&plain, &key).unwrap();
    fs::remove_file(&program).unwrap();
    // The provider cannot be loaded: Apache would not come up again.
    let conf = scene.path("broken.cnf");
    let text = fs::read_to_string(scene.daemon.openssl_conf()).unwrap();
    fs::write(&conf, text.replace("keyward.so", "missing.so")).unwrap();
    let mut command = scene.protect_by(&scene.daemon.path("keyward.toml"), &conf, &["--restart"]);
    let (_, said) = fail(&mut command);
    assert!(said.contains("Apache could not load the provider"), "{said}");
    fs::remove_file(&conf).unwrap();
    fs::remove_dir_all(scene.daemon.path("protected")).ok();
    assert_eq!(scene.contents(), contents_of(&before));
    assert_eq!(scene.master(), old, "Apache was not touched");
    scene.handshakes().iter().for_each(|one| assert!(one.make().is_ok()));
}
