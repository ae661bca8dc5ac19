//! `keyward protect nginx`: a running nginx with key files becomes one with references, under load,
//! and the other way round.

mod plan;
mod undo;

use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use keyward_tests::tool::{children, fail, run, stderr, succeed, wait_for};
use keyward_tests::{Daemon, Load, has_root};
use rustix::process::{Pid, Signal, kill_process};

use super::{Scene as _, Stage, assert_all_shook_hands, contents_of, keys_in_memory, secrets};

/// An nginx with three sites whose keys are in files: a pair of RSA and ECDSA, a wildcard, and a
/// certificate and its encrypted key in one file.
struct Scene {
    stage: Stage,
}

impl Scene {
    fn start() -> Self {
        Self::start_with(Daemon::start())
    }

    fn start_with(daemon: Daemon) -> Self {
        let scene = Self { stage: Stage::new(daemon, "nginx", &["sites", "temp"]) };
        scene.configure();
        succeed(&mut scene.nginx(&[]));
        scene
    }

    fn configure(&self) {
        let [first, second] = self.addresses;
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {}/temp/{name};\n", self.home.display()))
            .collect();
        let log = self.path("error.log");
        fs::write(
            self.path("nginx.conf"),
            format!(
                "# The first line of an administrator.\nuser www-data;\nworker_processes 2;\npid {};\nerror_log {};\n\
                 events {{ worker_connections 1024; }}\nhttp {{\n  access_log off;\n  {temp}\n  ssl_protocols TLSv1.2 TLSv1.3;\n\
                 ssl_session_cache off; ssl_session_tickets off;\n  include sites/*;\n}}\n",
                self.path("nginx.pid").display(),
                log.display(),
            ),
        )
        .unwrap();
        let site = |name: &str, address: SocketAddr, more: &str| {
            format!(
                "server {{\n  listen {address} ssl; # its place\n  server_name {name};\n{more}  location / {{ return 200 \"served\\n\"; }}\n}}\n"
            )
        };
        let shop = "  ssl_certificate ssl/shop.crt;\n  ssl_certificate_key ssl/shop.key;\n\
                    \x20 ssl_certificate \"ssl/shop rsa.crt\";\n  ssl_certificate_key 'ssl/shop rsa.key';\n";
        let wild = "  ssl_certificate ssl/wild.crt; ssl_certificate_key ssl/wild.key;\n";
        let mail = "  ssl_protocols TLSv1.2;\n  ssl_certificate ssl/mail.pem;\n  ssl_certificate_key ssl/mail.pem;\n  ssl_password_file ssl/pass;\n";
        fs::create_dir_all(self.path("available")).unwrap();
        fs::write(self.path("available/shop"), site("shop.example", first, shop)).unwrap();
        std::os::unix::fs::symlink("../available/shop", self.path("sites/shop")).unwrap();
        fs::write(self.path("sites/wild"), site("*.wild.example", first, wild)).unwrap();
        fs::write(self.path("sites/zmail"), site("mail.example", second, mail)).unwrap();
    }

    /// The program of nginx.
    fn nginx(&self, words: &[&str]) -> Command {
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-p").arg(&self.home).arg("-c").arg(self.path("nginx.conf"));
        command.arg("-e").arg(self.path("error.log")).args(words).env_remove("OPENSSL_CONF");
        command
    }

    fn master(&self) -> u32 {
        let read = || fs::read_to_string(self.path("nginx.pid")).ok()?.trim().parse::<u32>().ok();
        let is_alive = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
        wait_for("the master", || read().filter(is_alive))
    }

    /// Has nginx read its files again, with the provider, and waits for its new workers.
    fn reload(&self) {
        let workers = children(self.master());
        succeed(self.nginx(&["-s", "reload"]).env("OPENSSL_CONF", self.daemon.openssl_conf()));
        wait_for("new workers", || {
            let now = children(self.master());
            (!now.is_empty() && now.iter().all(|pid| !workers.contains(pid))).then_some(())
        });
    }

    /// The drop-in with the grants.
    fn grants(&self) -> Option<PathBuf> {
        let mut all = fs::read_dir(self.daemon.path("keyward.d")).ok()?.flatten();
        all.next().map(|entry| entry.path())
    }

    /// Parts of the private keys that are in the memory of the processes of nginx.
    fn keys_in_memory(&self) -> usize {
        keys_in_memory(self.master(), &secrets(&self.path("ssl")))
    }
}

impl Deref for Scene {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.stage
    }
}

impl super::Scene for Scene {
    const SERVER: &str = "nginx";
    const DIRECTORIES: &[&str] = &["sites", "available"];
    const FILES_OF_SERVER: &[&str] = &["error.log", "nginx.pid"];

    fn pid(&self) -> Option<u32> {
        Some(self.master())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("error.log")).unwrap_or_default()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for name in ["nginx.pid", "nginx.pid.oldbin", "other.pid"] {
            let pid = fs::read_to_string(self.path(name)).ok().and_then(|text| text.trim().parse().ok());
            if let Some(pid) = pid.and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
    }
}

#[test]
fn three_sites_move_under_load_and_back() {
    if !has_root() {
        return;
    }
    let scene = Scene::start_with(Daemon::start_with_master_key());
    let (before, shown) = (scene.files(), scene.certificates());
    assert!(scene.keys_in_memory() > 0, "the scan finds keys");
    // A plan, and nothing else.
    let plan = succeed(&mut scene.protect(&["--dry-run"]));
    for words in [
        "shop.example-p256 (p256, tls-server)",
        "shop.example-rsa2048 (rsa2048, tls-server)",
        "wildcard.wild.example (p256, tls-server)",
        "mail.example (rsa2048, tls12-server)",
        "nginx.conf, line 2\n      env OPENSSL_CONF=",
        "available/shop, line 7\n      \"",
        "mail.pem.certificates.pem",
        "replaces its program",
        "shop.example offers the RSA key exchange",
        "Nothing was changed",
    ] {
        assert!(plan.contains(words), "{plan} lacks {words}");
    }
    let start = format!(
        "the line that has started it fails from now on, because it refuses the references without keyward env: keyward env --openssl-conf {} /usr/sbin/nginx -p {} -c {} -e ",
        scene.daemon.openssl_conf().display(),
        scene.home.display(),
        scene.path("nginx.conf").display()
    );
    assert!(plan.contains(&start), "{plan} lacks {start}");
    let json = succeed(&mut scene.protect(&["--dry-run", "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["keys"].as_array().unwrap().len(), 4);
    fs::remove_dir(scene.daemon.path("protected")).ok();
    assert_eq!(scene.files(), before);

    let loads = scene.loads();
    let begin = Instant::now();
    let old = scene.master();
    let done = run(&mut scene.protect(&[]));
    assert!(done.status.success(), "{}\n{}", stderr(&done), scene.log());
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    assert_ne!(scene.master(), old);
    assert_eq!(scene.certificates(), shown);
    assert_eq!(scene.keys_in_memory(), 0);
    assert!(scene.daemon.logged(&["signature", "outcome=done"]) > 3);
    let conf = fs::read_to_string(scene.path("nginx.conf")).unwrap();
    assert!(conf.starts_with("# The first line of an administrator.\nenv OPENSSL_CONF="), "{conf}");
    let grants = fs::read_to_string(scene.grants().unwrap()).unwrap();
    assert!(
        grants.contains("user = \"www-data\"\n") && grants.contains("uses = [\"tls12-server\"]"),
        "{grants}"
    );
    // The key files are there, and nginx does not need them.
    for name in ["shop.key", "wild.key", "shop rsa.key", "mail.pem"] {
        assert_eq!(fs::read(scene.path("ssl").join(name)).unwrap(), before[&scene.path("ssl").join(name)].0);
    }
    let again = succeed(&mut scene.protect(&[]));
    assert!(again.contains("every key of nginx is in the daemon already"), "{again}");

    // A key file is removed only if nobody has changed it, and then for good.
    succeed(Command::new("touch").arg(scene.path("ssl/wild.key")));
    let (_, words) = fail(&mut scene.protect(&["--remove-key-files"]));
    assert!(words.contains("wild.key stays: it was changed since"), "{words}");
    let time = format!("@{}", before[&scene.path("ssl/wild.key")].3);
    succeed(Command::new("touch").args(["-d", &time]).arg(scene.path("ssl/wild.key")));

    let undone = run(&mut scene.protect(&["--undo"]));
    assert!(undone.status.success(), "{}", stderr(&undone));
    assert_eq!(scene.files(), before);
    assert_eq!(scene.certificates(), shown);
    assert!(scene.keys_in_memory() > 0);
    assert_all_shook_hands(loads);
    let (_, words) = fail(&mut scene.protect(&["--undo"]));
    assert!(words.contains("has changed nothing here"), "{words}");

    // Once more, and for good.
    let (_, words) = fail(&mut scene.protect(&["--remove-key-files"]));
    assert!(words.contains("first run keyward protect nginx"), "{words}");
    succeed(&mut scene.protect(&[]));
    // Without its secret, the daemon could not open the keys at its next start.
    let [secret, away] = ["master.key", "away.key"].map(|name| scene.daemon.path(name));
    fs::rename(&secret, &away).unwrap();
    let (_, words) = fail(&mut scene.protect(&["--remove-key-files", "--yes"]));
    assert!(
        words.contains("the key files stay: the next start of the daemon would leave its unit"),
        "{words}"
    );
    fs::rename(&away, &secret).unwrap();
    succeed(&mut scene.protect(&["--remove-key-files", "--yes"]));
    for name in ["shop.key", "wild.key", "shop rsa.key", "mail.pem"] {
        assert!(!scene.path("ssl").join(name).exists(), "{name}");
    }
    let (_, words) = fail(&mut scene.protect(&["--undo"]));
    assert!(words.contains("the key files were removed"), "{words}");
    succeed(scene.nginx(&["-s", "reload"]).env("OPENSSL_CONF", scene.daemon.openssl_conf()));
    assert_eq!(scene.certificates(), shown);
}

/// The command is killed at many moments. Run again, it ends as if it had not been.
#[test]
fn a_killed_protect_ends_right_when_it_is_run_again() {
    if !has_root() {
        return;
    }
    Scene::start().assert_killed_ends_right(&[], 8, |_| {});
}

/// Wrong situations: nothing is changed, and one line says why.
#[test]
fn what_cannot_be_protected_is_left_alone() {
    if !has_root() {
        return;
    }
    let mut scene = Scene::start();
    let before = scene.contents();
    let refused = |scene: &Scene, words: &[&str], expected: &str| {
        let (_, said) = fail(&mut scene.protect(words));
        let line = said.lines().last().unwrap_or_default().to_owned();
        assert!(line.contains("cannot protect nginx") && line.contains(expected), "{expected}: {said}");
    };
    let unchanged = |scene: &Scene| {
        fs::remove_dir_all(scene.daemon.path("protected")).ok();
        assert!(scene.contents() == before);
    };
    refused(&scene, &["--site", "other.example"], "no server of nginx with a key has the name other.example");
    // A key that is damaged, a configuration that does not parse, a passphrase that is missing.
    let key = scene.path("ssl/wild.key");
    let good = fs::read(&key).unwrap();
    fs::write(&key, "text").unwrap();
    refused(&scene, &[], "wild.key");
    fs::write(&key, &good).unwrap();
    let site = scene.path("sites/wild");
    let text = fs::read_to_string(&site).unwrap();
    fs::write(&site, format!("{text}}}")).unwrap();
    refused(&scene, &[], "nginx refuses its configuration");
    fs::write(&site, &text).unwrap();
    // A key of another certificate.
    fs::copy(scene.path("ssl/shop.key"), &key).unwrap();
    refused(&scene, &[], "wild.key");
    fs::write(&key, &good).unwrap();
    // Another user could change a file.
    succeed(Command::new("chmod").arg("go+w").arg(&site));
    refused(&scene, &[], "sites/wild");
    succeed(Command::new("chmod").arg("go-w").arg(&site));
    unchanged(&scene);
    // The workers would ask at another address: no handshake may be lost to find out.
    let good = scene.daemon.openssl_conf();
    let text = fs::read_to_string(&good).unwrap().replace("keyward.sock", "other.sock");
    fs::write(scene.path("other.cnf"), text).unwrap();
    let load = Load::start(&scene.handshakes()[0], 2);
    let config = scene.daemon.path("keyward.toml");
    let mut command = scene.protect_by(&config, &scene.path("other.cnf"), &[]);
    let (_, said) = fail(&mut command);
    assert!(said.contains("the workers of nginx do not reach the daemon"), "{said}");
    assert!(said.contains("everything was put back"), "{said}");
    assert_all_shook_hands(vec![load]);
    fs::remove_file(scene.path("other.cnf")).unwrap();
    unchanged(&scene);
    // The daemon has another configuration than the one that gets the grants.
    fs::write(scene.path("other.toml"), "log = \"warn\"\n").unwrap();
    let (_, said) = fail(&mut scene.protect_by(&scene.path("other.toml"), &good, &[]));
    assert!(said.contains("the daemon has another configuration"), "{said}");
    fs::remove_file(scene.path("other.toml")).unwrap();
    unchanged(&scene);
    // No grant can be given: there is no place for it, or the configuration has a fault.
    fs::write(scene.daemon.path("keyward.d"), "a file").unwrap();
    let (_, said) = fail(&mut scene.protect(&[]));
    assert!(said.contains("everything was put back") && said.contains("keyward.d"), "{said}");
    fs::remove_file(scene.daemon.path("keyward.d")).unwrap();
    unchanged(&scene);
    fs::create_dir(scene.daemon.path("keyward.d")).unwrap();
    fs::write(
        scene.daemon.path("keyward.d/other.toml"),
        "[[grant]]\nuser = \"no-such-user\"\nkeys = [\"a\"]\n",
    )
    .unwrap();
    refused(&scene, &[], "no-such-user");
    fs::remove_dir_all(scene.daemon.path("keyward.d")).unwrap();
    unchanged(&scene);
    // A unit that waits for its owners takes no key.
    let mut sealed = Daemon::prepare_for_owners("");
    sealed.resume();
    let mut command = sealed.keyward(&["protect", "nginx", "--pid", &scene.master().to_string()]);
    command.arg("--config").arg(sealed.path("keyward.toml")).arg("--openssl-conf").arg(sealed.openssl_conf());
    let (_, said) = fail(&mut command);
    assert!(said.contains("the backend embedded of the daemon is not ready"), "{said}");
    unchanged(&scene);
    scene.stage.daemon.stop();
    refused(&scene, &[], "the daemon");
    unchanged(&scene);
    scene.stage.daemon.resume();
    scene.handshakes().iter().for_each(|one| assert!(one.make().is_ok()));
}

/// The journal finds no space at one of its steps: everything is put back, and one line says so.
#[test]
fn a_full_disk_of_the_journal_changes_nothing() {
    if !has_root() {
        return;
    }
    let scene = Scene::start();
    let (before, shown) = (scene.files(), scene.certificates());
    fs::create_dir(scene.daemon.path("protected")).unwrap();
    let mut refusals = Vec::new();
    // No file in it, and then some pages of space.
    let pages = (2..).step_by(5).map(|pages| format!("size={}k", 4 * pages));
    for limit in ["nr_inodes=3".to_owned()].into_iter().chain(pages) {
        let protect = scene.protect(&[]);
        let mut small = Command::new("unshare");
        let mount = r#"mount -t tmpfs -o "$1" journal "$2" && shift 2 && exec "$@""#;
        small.args(["--mount", "sh", "-c", mount, "sh", &limit]).arg(scene.daemon.path("protected"));
        let done = run(small.arg(protect.get_program()).args(protect.get_args()));
        let words = stderr(&done);
        if done.status.success() {
            break;
        }
        let line = words.lines().last().unwrap_or_default().to_owned();
        assert!(
            line.starts_with("keyward: cannot protect nginx: ")
                && (line.contains(": nothing was changed: ") || line.contains(": everything was put back: "))
                && line.contains(&format!("cannot write {}", scene.daemon.path("protected").display()))
                && line.contains("free some space on its file system, and run the command again"),
            "{limit}: {words}"
        );
        assert_eq!(scene.contents(), contents_of(&before), "{limit}");
        assert_eq!(scene.certificates(), shown);
        let keys: serde_json::Value =
            serde_json::from_str(&succeed(&mut scene.daemon.keyward(&["key", "list", "--json"]))).unwrap();
        let is_gone = |key: &serde_json::Value| key["deletion"].is_object();
        assert!(keys.as_array().unwrap().iter().all(is_gone), "{limit}: {keys}");
        refusals.push(line);
    }
    // At its beginning, and later.
    for words in ["nothing was changed", "everything was put back"] {
        assert!(refusals.iter().any(|line| line.contains(words)), "{refusals:?}");
    }
}
