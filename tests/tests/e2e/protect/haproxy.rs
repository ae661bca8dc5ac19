//! `keyward protect haproxy`.

use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keyward_tests::tool::{Process, children, fail, run, stderr, succeed, wait_for};
use keyward_tests::{Daemon, Handshake, free_port, has_root};
use rustix::process::Signal;

use super::{Scene as _, Stage, assert_all_shook_hands, contents_of, keys_in_memory, secrets};

/// An HAProxy as Debian runs it, in a chroot, whose keys are in files: a directory with an RSA key,
/// an ECDSA key in one file with its certificate, and a wildcard with the key beside its file; and
/// a list with a certificate for TLS 1.2.
struct Scene {
    stage: Stage,
    haproxy: Option<Process>,
}

impl Scene {
    fn start() -> Self {
        let scene = Self::start_with(|text| text);
        scene.wait_until_all_answer();
        scene
    }

    /// Starts HAProxy with an edited configuration, and waits for the first of its sites.
    fn start_with(edit: impl Fn(String) -> String) -> Self {
        let mut daemon = Daemon::prepare("");
        let root = daemon.path("haproxy/root");
        daemon.configure_more(&format!("[socket]\nalso = [\"{}/keyward.sock\"]\n", root.display()));
        fs::create_dir_all(&root).unwrap();
        daemon.resume();
        let mut scene = Self { stage: Stage::new(daemon, "haproxy", &["certs"]), haproxy: None };
        scene.configure();
        let text = fs::read_to_string(scene.path("haproxy.cfg")).unwrap();
        fs::write(scene.path("haproxy.cfg"), edit(text)).unwrap();
        let mut command = Command::new("/usr/sbin/haproxy");
        command.args(["-W", "-db", "-f"]).arg(scene.path("haproxy.cfg"));
        command.env_remove("OPENSSL_CONF").env_remove("KEYWARD_SOCKET");
        scene.haproxy = Some(Process::start(&mut command, &scene.path("output.log")));
        wait_for("handshakes", || scene.handshakes()[0].make().ok().map(drop));
        scene
    }

    fn configure(&self) {
        let text = |name: &str| fs::read_to_string(self.path("ssl").join(name)).unwrap();
        let write = |name: &str, text: String| fs::write(self.path("certs").join(name), text).unwrap();
        write("shop.pem", text("shop.crt") + &text("shop.key"));
        write("shop-rsa.pem", text("shop rsa.key") + &text("shop rsa.crt"));
        write("wild.pem", text("wild.crt"));
        write("wild.pem.key", text("wild.key"));
        write("readme.pem.ocsp", String::new());
        // A link to the key, as other programs use the file, too.
        fs::write(self.path("mail.pem"), text("mail.crt") + &text("mail.key")).unwrap();
        std::os::unix::fs::symlink("mail.pem", self.path("link.pem")).unwrap();
        fs::write(self.path("list"), "link.pem [ssl-max-ver TLSv1.2] mail.example\n").unwrap();
        let [first, second] = self.addresses;
        let home = self.home.display();
        fs::write(
            self.path("haproxy.cfg"),
            format!(
                "# The first line of an administrator.\nglobal\n\tuser haproxy\n\tgroup haproxy\n\tchroot {home}/root\n\tcrt-base {home}\n\
                 \tssl-default-bind-options ssl-min-ver TLSv1.2\n\
                 defaults\n\tmode http\n\ttimeout client 10s\n\ttimeout server 10s\n\ttimeout connect 1s\n\
                 frontend shop\n\tbind {first} ssl crt certs\n\
                 \thttp-request return status 200 content-type text/plain string served\n\
                 frontend mail\n\tbind {second} ssl crt-list {home}/list\n\
                 \thttp-request return status 200 content-type text/plain string served\n"
            ),
        )
        .unwrap();
    }

    fn master(&self) -> u32 {
        self.haproxy.as_ref().unwrap().id()
    }
}

impl Deref for Scene {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.stage
    }
}

impl super::Scene for Scene {
    const SERVER: &str = "haproxy";
    const DIRECTORIES: &[&str] = &["certs"];
    const FILES_OF_SERVER: &[&str] = &["output.log"];

    fn pid(&self) -> Option<u32> {
        self.haproxy.as_ref().map(Process::id)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("output.log")).unwrap_or_default()
    }
}

#[test]
fn sites_of_haproxy_move_under_load_and_back() {
    if !has_root() {
        return;
    }
    let mut scene = Scene::start();
    let (before, shown) = (scene.files(), scene.certificates());
    let secrets = secrets(&scene.path("ssl"));
    assert!(keys_in_memory(scene.master(), &secrets) > 0, "the scan finds keys");
    let plan = succeed(&mut scene.protect(&["--dry-run"]));
    for words in [
        "shop.example-p256 (p256, tls-server)",
        "shop.example-rsa2048 (rsa2048, tls-server)",
        "wildcard.wild.example (p256, tls-server)",
        "mail.example (rsa2048, tls12-server)",
        "certs/shop.pem\n      the key file stays beside it, as .shop.pem.before-keyward.key",
        "certs/wild.pem.key\n",
        "setenv KEYWARD_SOCKET /keyward.sock",
        "ssl-provider default\n",
        "Nothing was changed",
    ] {
        assert!(plan.contains(words), "{plan} lacks {words}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&succeed(&mut scene.protect(&["--dry-run", "--json"]))).unwrap();
    assert_eq!(json["replaced_files"].as_array().unwrap().len(), 4);
    fs::remove_dir(scene.daemon.path("protected")).ok();
    assert_eq!(scene.files(), before);

    let loads = scene.loads();
    let begin = Instant::now();
    let done = run(&mut scene.protect(&[]));
    assert!(done.status.success(), "{}\n{}", stderr(&done), scene.log());
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    assert_eq!(scene.certificates(), shown);
    assert_eq!(keys_in_memory(scene.master(), &secrets), 0);
    assert!(scene.daemon.logged(&["signature", "outcome=done"]) > 3);
    let conf = fs::read_to_string(scene.path("haproxy.cfg")).unwrap();
    assert!(
        conf.starts_with(
            "# The first line of an administrator.\nglobal\n\tsetenv KEYWARD_SOCKET /keyward.sock\n\tssl-provider default\n"
        ),
        "{conf}"
    );
    let grants = fs::read_dir(scene.daemon.path("keyward.d")).unwrap().flatten().next().unwrap();
    let grants = fs::read_to_string(grants.path()).unwrap();
    assert!(
        grants.contains("user = \"haproxy\"\n") && grants.contains("uses = [\"tls12-server\"]"),
        "{grants}"
    );
    // The key files stay, and the file behind the link, which others may read, is not touched.
    let mail = scene.path("mail.pem");
    assert_eq!(fs::read(&mail).unwrap(), before[&mail].0);
    let kept = scene.path("certs/.shop.pem.before-keyward.key");
    assert_eq!(fs::read(&kept).unwrap(), before[&scene.path("certs/shop.pem")].0);
    let found = run(&mut scene.daemon.keyward(&["doctor"]));
    let found = String::from_utf8_lossy(&found.stdout);
    assert!(found.contains("the socket /keyward.sock answers (KEYWARD_SOCKET of process "), "{found}");
    let again = succeed(&mut scene.protect(&[]));
    assert!(again.contains("every key of HAProxy is in the daemon already"), "{again}");

    let undone = run(&mut scene.protect(&["--undo"]));
    assert!(undone.status.success(), "{}", stderr(&undone));
    assert_eq!(scene.files(), before);
    assert!(scene.path("link.pem").is_symlink());
    assert_eq!(scene.certificates(), shown);
    assert!(keys_in_memory(scene.master(), &secrets) > 0);
    assert_all_shook_hands(loads);

    // A renewal puts a key file into the place of the reference. The command takes that, too, and
    // the way back does not exchange it for an older one.
    succeed(&mut scene.protect(&[]));
    let shop = scene.path("certs/shop.pem");
    fs::write(&shop, &before[&shop].0).unwrap();
    succeed(&mut scene.protect(&[]));
    assert!(scene.path("certs/.shop.pem.before-keyward-2.key").exists());
    // HAProxy does not run: files are put back, and the next start reads them.
    scene.haproxy = None;
    // Among these processes is no HAProxy of another test.
    let alone = |words: &[&str]| {
        let protect = scene.protect(words);
        let mut alone = Command::new("unshare");
        alone.args(["--pid", "--fork", "--mount-proc"]).arg(protect.get_program()).args(protect.get_args());
        run(&mut alone)
    };
    let words = stderr(&alone(&[]));
    assert!(words.contains("no HAProxy that root has started runs on this host: start it"), "{words}");
    let undone = alone(&["--undo"]);
    let words = stderr(&undone);
    assert!(undone.status.success() && words.contains("does not run"), "{words}");
    assert!(words.contains("shop.pem has a key of its own again, and stays"), "{words}");
    assert!(words.contains("every other file is as it was"), "{words}");
    fs::remove_file(kept).unwrap();
    assert_eq!(scene.contents(), contents_of(&before));
}

/// Two HAProxy use one key, and one of them a file of the other.
#[test]
fn a_key_that_another_server_uses_stays() {
    if !has_root() {
        return;
    }
    let scene = Scene::start();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let configure = |file: &str| {
        let text = fs::read_to_string(scene.path("haproxy.cfg")).unwrap();
        let sites = text.find("frontend shop").unwrap();
        let frontend = format!(
            "frontend other\n\tbind {address} ssl crt {file} ssl-min-ver TLSv1.3\n\thttp-request return status 200 content-type text/plain string served\n"
        );
        fs::write(scene.path("other.cfg"), format!("{}{frontend}", &text[..sites])).unwrap();
    };
    configure("certs/shop.pem");
    let mut command = Command::new("/usr/sbin/haproxy");
    command.args(["-W", "-db", "-f"]).arg(scene.path("other.cfg"));
    let other = Process::start(&mut command, &scene.path("output.log"));
    let handshake = Handshake::new(&scene.pki, address).asking_for("shop.example");
    wait_for("the other HAProxy", || handshake.certificate().ok().map(drop));
    let (_, words) = fail(&mut scene.protect(&[]));
    assert!(
        words.contains(&format!("HAProxy (process {}) uses ", other.id())) && words.contains("shop.pem too"),
        "{words}"
    );
    // With a file of its own, both can move.
    fs::copy(scene.path("certs/shop.pem"), scene.path("other.pem")).unwrap();
    configure("other.pem");
    let workers = children(other.id());
    other.signal(Signal::USR2);
    wait_for("a new worker", || children(other.id()).iter().all(|pid| !workers.contains(pid)).then_some(()));
    succeed(&mut scene.protect(&[]));
    let mut protect_other = scene.daemon.keyward(&["protect", "haproxy", "--pid", &other.id().to_string()]);
    protect_other.arg("--config").arg(scene.daemon.path("keyward.toml"));
    protect_other.arg("--openssl-conf").arg(scene.daemon.openssl_conf());
    let done = run(&mut protect_other);
    assert!(stderr(&done).contains("is in the daemon already"), "{}", stderr(&done));
    let undone = run(&mut scene.protect(&["--undo"]));
    let words = stderr(&undone);
    assert!(undone.status.success(), "{words}");
    assert!(
        words.contains("key shop.example-p256 stays in the daemon, because another protected server uses it"),
        "{words}"
    );
    assert!(words.contains("key mail.example deleted"), "{words}");
    // The other one needs TLS 1.3 alone.
    assert!(words.contains("key shop.example-p256 has the uses tls13-server again"), "{words}");
    assert!(handshake.make().is_ok());
}

#[test]
fn key_files_of_haproxy_are_removed_for_good() {
    if !has_root() {
        return;
    }
    let scene = Scene::start();
    let shown = scene.certificates();
    // Another section names the file behind the link.
    let text = fs::read_to_string(scene.path("haproxy.cfg")).unwrap();
    let direct =
        format!("frontend direct\n\tbind 127.0.0.1:{} ssl crt mail.pem\n\thttp-request deny\n", free_port());
    fs::write(scene.path("haproxy.cfg"), format!("{text}{direct}")).unwrap();
    succeed(&mut scene.protect(&["--site", "mail"]));
    let (_, words) = fail(&mut scene.protect(&["--remove-key-files"]));
    assert!(words.contains("link.pem.before-keyward.key stays: HAProxy uses the file"), "{words}");
    let text = fs::read_to_string(scene.path("haproxy.cfg")).unwrap();
    fs::write(scene.path("haproxy.cfg"), text.replace(&direct, "")).unwrap();
    succeed(&mut scene.protect(&[]));
    // A copy would be empty, or the key would be nowhere.
    fs::hard_link(scene.path("mail.pem"), scene.path("copy.pem")).unwrap();
    let (_, words) = fail(&mut scene.protect(&["--remove-key-files"]));
    assert!(words.contains("it has another name (a hard link)"), "{words}");
    fs::remove_file(scene.path("copy.pem")).unwrap();
    succeed(&mut scene.daemon.keyward(&["key", "disable", "mail.example"]));
    let (_, words) = fail(&mut scene.protect(&["--remove-key-files"]));
    assert!(words.contains("no key of the daemon that signs now has its public key"), "{words}");
    succeed(&mut scene.daemon.keyward(&["key", "enable", "mail.example"]));
    // Somebody else needs a key file, or did not mean it.
    let mut reader = Command::new("tail");
    reader.args(["-f"]).arg(scene.path("mail.pem")).stdout(Stdio::null());
    let reader = Process::start(&mut reader, &scene.path("output.log"));
    let (_, words) = fail(&mut scene.protect(&["--remove-key-files", "--yes"]));
    let naming = format!("the command line of process {} (tail) names the file", reader.id());
    assert!(words.contains(&naming), "{words}");
    drop(reader);
    let dovecot = scene.path("dovecot.conf");
    fs::write(&dovecot, format!("ssl_key = <{}\n", scene.path("mail.pem").display())).unwrap();
    let alone = |words: &[&str]| {
        let protect = scene.protect(words);
        let mut alone = Command::new("unshare");
        let mount = r#"mount -t tmpfs none /etc/dovecot && cp "$1" /etc/dovecot/ && shift && exec "$@""#;
        alone.args(["--mount", "sh", "-c", mount, "sh"]).arg(&dovecot);
        alone.arg(protect.get_program()).args(protect.get_args());
        alone
    };
    let (_, words) = fail(&mut alone(&["--remove-key-files", "--yes"]));
    assert!(words.contains("stays: Dovecot (/etc/dovecot/dovecot.conf) uses the file"), "{words}");
    let (_, words) = fail(scene.protect(&["--remove-key-files"]).stdin(Stdio::null()));
    assert!(words.contains("nothing was changed: there is no way back"), "{words}");
    let removed = run(&mut scene.protect(&["--remove-key-files", "--yes"]));
    assert!(removed.status.success(), "{}", stderr(&removed));
    for name in ["certs/.shop.pem.before-keyward.key", "certs/.wild.pem.key.before-keyward.key", "mail.pem"] {
        assert!(!scene.path(name).exists(), "{name}");
    }
    // A renewal puts a key file there again, and another run takes that: nothing goes back.
    let shop = scene.path("certs/shop.pem");
    let text = |name: &str| fs::read_to_string(scene.path("ssl").join(name)).unwrap();
    fs::write(&shop, text("shop.crt") + &text("shop.key")).unwrap();
    let removed = run(&mut scene.protect(&["--remove-key-files", "--yes"]));
    let words = stderr(&removed);
    assert!(removed.status.success(), "{words}");
    let still =
        format!("HAProxy has a private key in {}, which keyward protect haproxy may move", shop.display());
    assert!(words.contains(&still) && !words.contains("the keys are in the daemon alone"), "{words}");
    succeed(&mut scene.protect(&[]));
    let protected = scene.contents();
    let (_, words) = fail(&mut scene.protect(&["--undo"]));
    assert!(words.contains("no change that is done was put back: the key files were removed"), "{words}");
    assert!(scene.contents() == protected);
    let workers = children(scene.master());
    scene.haproxy.as_ref().unwrap().signal(Signal::USR2);
    wait_for("a new worker", || {
        let now = children(scene.master());
        (!now.is_empty() && now.iter().all(|pid| !workers.contains(pid))).then_some(())
    });
    assert_eq!(scene.certificates(), shown);
}

/// A renewal has put a key file into the place of a reference, and the way back has left an older
/// key file under its hidden name: the removal does not forget that one.
#[test]
fn a_key_file_of_an_earlier_change_is_not_forgotten() {
    if !has_root() {
        return;
    }
    // HAProxy takes connections of one listener only with the header of a proxy.
    let scene = Scene::start_with(|text| text.replace(" ssl crt-list", " accept-proxy ssl crt-list"));
    let shop = scene.path("certs/shop.pem");
    let key = fs::read(&shop).unwrap();
    let done = run(&mut scene.protect(&[]));
    let words = stderr(&done);
    assert!(done.status.success() && !words.contains("no handshake shows"), "{words}");
    fs::write(&shop, &key).unwrap();
    succeed(&mut scene.protect(&[]));
    let undone = run(&mut scene.protect(&["--undo"]));
    let kept = scene.path("certs/.shop.pem.before-keyward.key");
    let words = stderr(&undone);
    assert!(undone.status.success() && words.contains(&format!("shred -u {}", kept.display())), "{words}");
    assert!(kept.exists());
    succeed(&mut scene.protect(&[]));
    let removed = run(&mut scene.protect(&["--remove-key-files", "--yes"]));
    let words = stderr(&removed);
    assert!(removed.status.success(), "{words}");
    assert!(words.contains(&format!("{} still has a key", kept.display())), "{words}");
    assert!(!words.contains("the keys are in the daemon alone"), "{words}");
    fs::remove_file(&kept).unwrap();
    let words = stderr(&run(&mut scene.protect(&["--remove-key-files"])));
    assert!(words.contains("the keys are in the daemon alone"), "{words}");
}

/// The command is killed at many moments. Run again, it ends as if it had not been.
#[test]
fn a_killed_protect_of_haproxy_ends_right_when_it_is_run_again() {
    if !has_root() {
        return;
    }
    Scene::start().assert_killed_ends_right(&[], 6, |_| {});
}

/// Wrong situations: nothing is changed, and one line says why.
#[test]
fn an_haproxy_that_cannot_be_protected_is_left_alone() {
    if !has_root() {
        return;
    }
    let scene = Scene::start();
    let before = scene.files();
    let refused = |words: &[&str], expected: &str| {
        let (_, said) = fail(&mut scene.protect(words));
        let line = said.lines().last().unwrap_or_default();
        assert!(line.contains("cannot protect HAProxy") && line.contains(expected), "{expected}: {said}");
    };
    let edit = |name: &str, from: &str, to: &str| {
        let path = scene.path(name);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        text
    };
    let put_back = |name: &str, text: String| fs::write(scene.path(name), text).unwrap();
    refused(&["--site", "other.example"], "no certificate of HAProxy has the name other.example");
    let text = edit("haproxy.cfg", "mode http", "mode nothing");
    refused(&[], "HAProxy refuses its configuration: ");
    put_back("haproxy.cfg", text);
    // Another root, in which the daemon has no socket.
    fs::create_dir(scene.path("other")).unwrap();
    let text = edit("haproxy.cfg", "/root\n", "/other\n");
    refused(&[], &format!("also = [\"{}/other/keyward.sock\"]", scene.home.display()));
    put_back("haproxy.cfg", text);
    // A socket of another daemon.
    let text = edit("haproxy.cfg", "\tuser", "\tsetenv KEYWARD_SOCKET /elsewhere\n\tuser");
    refused(&[], "line 3 sets KEYWARD_SOCKET to /elsewhere");
    put_back("haproxy.cfg", text);
    // Others may change a directory of keys, or the key is not one.
    succeed(Command::new("chmod").arg("go+w").arg(scene.path("certs")));
    refused(&[], "certs");
    succeed(Command::new("chmod").arg("go-w").arg(scene.path("certs")));
    let key = fs::read_to_string(scene.path("ssl/wild.key")).unwrap();
    let text = edit("certs/wild.pem.key", &key, &fs::read_to_string(scene.path("ssl/shop.key")).unwrap());
    refused(&[], "wild.pem");
    put_back("certs/wild.pem.key", text);
    fs::remove_dir_all(scene.daemon.path("protected")).ok();
    assert_eq!(scene.contents(), contents_of(&before));
    // The rest of a plan of one site is not touched.
    let plan = succeed(&mut scene.protect(&["--dry-run", "--site", "mail.example"]));
    assert!(plan.contains("link.pem") && !plan.contains("shop.pem"), "{plan}");
    assert!(Path::new(&scene.path("haproxy.cfg")).exists());
}
