//! The way back of `keyward protect nginx`.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use keyward_tests::tool::{fail, run, stderr, succeed, wait_for};
use keyward_tests::{Handshake, Load, free_port, has_root};
use rustix::process::{Pid, Signal, kill_process};

use super::super::{Files, Scene as _, assert_all_shook_hands};
use super::Scene;

/// A second run, for a site that was added since, has a way back of its own.
#[test]
fn a_second_run_does_not_touch_what_the_first_has_done() {
    if !has_root() {
        return;
    }
    let scene = Scene::start();
    let (before, shown) = (scene.files(), scene.certificates());
    succeed(scene.protect(&[]).stderr(Stdio::null()));
    // The administrator edits a site of the first run, and adds one.
    let shop = scene.path("available/shop");
    let edited = fs::read_to_string(&shop).unwrap().replace("served", "served here");
    fs::write(&shop, &edited).unwrap();
    fs::copy(scene.path("ssl/wild.key"), scene.path("ssl/more.key")).unwrap();
    let key = ["genpkey", "-algorithm", "RSA", "-out", "more.key"];
    succeed(Command::new("openssl").args(key).current_dir(scene.path("ssl")));
    let public = ["pkey", "-in", "more.key", "-pubout", "-out", "public"];
    succeed(Command::new("openssl").args(public).current_dir(scene.path("ssl")));
    let certificate =
        scene.pki.certify_with_extensions(&scene.path("ssl/public"), "subjectAltName=DNS:more.example\n", 2);
    fs::rename(certificate, scene.path("ssl/more.crt")).unwrap();
    let more = format!(
        "server {{ listen {} ssl; server_name more.example; ssl_certificate ssl/more.crt; ssl_certificate_key ssl/more.key; location / {{ return 200 \"served\\n\"; }} }}\n",
        scene.addresses[0]
    );
    fs::write(scene.path("sites/more"), &more).unwrap();
    scene.reload();
    let between = scene.files();

    // Killed, and run again: the first run is not touched, and no handshake fails.
    let load = Load::start(&scene.handshakes()[0], 2);
    for pause in [0, 30, 60, 90, 120, 200, 300, 400] {
        let mut command = scene.protect(&[]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        let _ = child.kill();
        child.wait().unwrap();
        assert_eq!(scene.certificates(), shown);
    }
    let done = run(&mut scene.protect(&[]));
    assert!(done.status.success(), "{}", stderr(&done));
    assert_all_shook_hands(vec![load]);
    let of_more = fs::read_to_string(scene.path("sites/more")).unwrap();
    assert!(of_more.contains("more.key.keyward.pem"), "{of_more}");
    assert_eq!(fs::read_to_string(&shop).unwrap(), edited);

    let contents = |all: &Files| {
        all.iter().map(|(path, file)| (path.clone(), file.0.clone())).collect::<BTreeMap<_, _>>()
    };
    // A site that uses a reference of the first run keeps that run.
    let user = more.replace("more.example", "user.example").replace("more.crt", "wild.crt");
    fs::write(scene.path("sites/user"), user.replace("more.key", "wild.key.keyward.pem")).unwrap();
    scene.reload();
    let (_, words) = fail(&mut scene.protect(&["--undo"]));
    assert!(words.contains("nothing was put back: nginx refuses its configuration"), "{words}");
    // The second run is undone, and the first is not: the edits of the administrator are there.
    let mut now = contents(&scene.files());
    now.remove(&scene.path("sites/user"));
    let is_journal = |path: &Path| path.components().any(|part| part.as_os_str() == "protected");
    now.retain(|path, _| !is_journal(path));
    let mut expected = contents(&between);
    expected.retain(|path, _| !is_journal(path));
    assert!(now == expected);
    assert_eq!(scene.certificates(), shown);
    scene.handshakes().iter().for_each(|one| assert!(one.make().is_ok()));
    fs::remove_file(scene.path("sites/user")).unwrap();
    scene.reload();
    // Ordinary edits since: of the main file, of the grants, and of a reference.
    let append = |path: &Path, text: &str| {
        let before = fs::read_to_string(path).unwrap();
        fs::write(path, before.clone() + text).unwrap();
        before
    };
    append(&scene.path("nginx.conf"), "# Mine.\n");
    let grants = scene.grants().unwrap();
    append(&grants, "# Mine.\n");
    append(&scene.path("ssl/wild.key.keyward.pem"), "\n");
    let undone = run(&mut scene.protect(&["--undo"]));
    let words = stderr(&undone);
    assert!(undone.status.success(), "{words}");
    for name in ["nginx.conf", "wild.key.keyward.pem"] {
        assert!(words.contains(&format!("{name} was changed since: that change stays")), "{name}: {words}");
    }
    assert!(words.contains("every other file is as it was"), "{words}");
    let mut expected = contents(&before);
    // Also by the link to it.
    for path in [&shop, &scene.path("sites/shop")] {
        expected.insert(path.clone(), fs::read(&shop).unwrap());
    }
    expected.get_mut(&scene.path("nginx.conf")).unwrap().extend(b"# Mine.\n");
    let after = contents(&scene.files());
    for (path, contents) in expected {
        if !path.ends_with("ssl/public") {
            assert!(after[&path] == contents, "{}", path.display());
        }
    }
    let of_shop = fs::read_to_string(&shop).unwrap();
    assert!(of_shop.contains("served here") && !of_shop.contains("keyward"), "{of_shop}");
    assert_eq!(fs::read_to_string(&grants).unwrap(), "# Mine.\n");
    assert_eq!(scene.certificates(), shown);
}

/// Keys that the daemon had before lose the uses again that only the sites need.
#[test]
fn uses_that_a_run_has_added_are_taken_back() {
    if !has_root() {
        return;
    }
    let scene = Scene::start();
    let import = |label: &str, key: &str, usage: &str| {
        let mut command = scene.daemon.keyward(&["key", "import", label, "--use", usage]);
        succeed(command.arg("--in").arg(scene.path("ssl").join(key)));
    };
    import("own", "shop.key", "csr");
    import("other", "wild.key", "tls-server");
    import("gone", "shop rsa.key", "csr");
    import("alone", "mail.key", "csr");
    succeed(&mut scene.daemon.keyward(&["key", "delete", "gone", "--yes"]));
    let uses = |label: &str| {
        let key = succeed(&mut scene.daemon.keyward(&["key", "show", label, "--json"]));
        let key: serde_json::Value = serde_json::from_str(&key).unwrap();
        key["uses"].as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let before = scene.contents();
    succeed(&mut scene.protect(&["--site", "shop.example"]));
    assert_eq!(uses("own"), ["tls-server", "csr"]);
    // A second run for the same key, and one for another key.
    let wild = scene.path("sites/wild");
    let text = fs::read_to_string(&wild).unwrap();
    fs::write(&wild, text.replace("wild.crt", "shop.crt").replace("wild.key", "shop.key")).unwrap();
    succeed(scene.nginx(&["-s", "reload"]).env("OPENSSL_CONF", scene.daemon.openssl_conf()));
    let handshakes = scene.handshakes();
    wait_for("the other certificate", || handshakes[1].certificate().is_err().then_some(()));
    succeed(&mut scene.protect(&["--site", "*.wild.example", "--site", "mail.example"]));
    assert_eq!(uses("own"), ["tls-server", "csr"]);
    // The administrator takes the only other use of a key meanwhile, and adds one to another key.
    assert_eq!(uses("alone"), ["tls12-server", "csr"]);
    let set_uses = ["key", "set-uses", "alone", "--use"];
    succeed(&mut scene.daemon.keyward(&[&set_uses[..], &["tls12-server"]].concat()));
    succeed(&mut scene.daemon.keyward(&[
        "key",
        "set-uses",
        "own",
        "--use",
        "tls-server",
        "--use",
        "csr",
        "--use",
        "tls13-client",
    ]));
    let undone = run(&mut scene.protect(&["--undo"]));
    let words = stderr(&undone);
    assert!(undone.status.success(), "{words}");
    assert_eq!(words.matches("key own has the uses ").count(), 1, "{words}");
    assert_eq!(uses("own"), ["csr", "tls13-client"]);
    assert_eq!(uses("other"), ["tls-server"]);
    assert!(words.contains("key alone keeps the uses of this server"), "{words}");
    assert!(words.contains("keyward key set-uses alone --use USE"), "{words}");
    succeed(&mut scene.daemon.keyward(&[&set_uses[..], &["csr"]].concat()));
    assert_eq!(uses("gone"), ["csr"]);
    assert!(scene.grants().is_none());
    fs::write(&wild, text).unwrap();
    assert!(scene.contents() == before);
}

/// Two nginx have one key, and one of them has ended: each goes back alone, and the reference stays
/// until both are back.
#[test]
fn a_stopped_nginx_goes_back_and_leaves_the_other_one_alone() {
    if !has_root() {
        return;
    }
    let scene = Scene::start();
    let before = scene.files();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (conf, pid_file) = (scene.path("other.conf"), scene.path("other.pid"));
    let text = fs::read_to_string(scene.path("nginx.conf")).unwrap();
    let site = format!(
        "server {{ listen {address} ssl; server_name www.wild.example; ssl_certificate ssl/wild.crt; ssl_certificate_key ssl/wild.key; location / {{ return 200 \"served\\n\"; }} }}"
    );
    let text = text.replace("include sites/*;", &site).replace("nginx.pid", "other.pid");
    fs::write(&conf, &text).unwrap();
    let mut other = Command::new("/usr/sbin/nginx");
    other.arg("-p").arg(&scene.home).arg("-c").arg(&conf).arg("-e").arg(scene.path("error.log"));
    succeed(other.env_remove("OPENSSL_CONF"));
    let handshake = Handshake::new(&scene.pki, address).asking_for("www.wild.example");
    wait_for("the other nginx", || handshake.make().ok().map(drop));
    let pid = || fs::read_to_string(&pid_file).unwrap().trim().to_owned();
    // The command for another nginx than that of the scene.
    let protect = |words: &[&str]| {
        let mut command = scene.daemon.keyward(&["protect", "nginx"]);
        command.args(words).arg("--config").arg(scene.daemon.path("keyward.toml"));
        command.arg("--openssl-conf").arg(scene.daemon.openssl_conf());
        command.arg("--systemd-dir").arg(scene.path("systemd"));
        command
    };
    succeed(&mut scene.protect(&[]));
    succeed(&mut protect(&["--pid", &pid()]));
    assert!(handshake.make().is_ok());
    let ended: i32 = pid().parse().unwrap();
    kill_process(Pid::from_raw(ended).unwrap(), Signal::TERM).unwrap();
    wait_for("its end", || (!Path::new(&format!("/proc/{ended}")).exists()).then_some(()));
    // Among these processes is no nginx of another test.
    let undo = protect(&["--undo"]);
    let mut alone = Command::new("unshare");
    alone.args(["--pid", "--fork", "--mount-proc"]).arg(undo.get_program()).args(undo.get_args());
    let (_, words) = fail(&mut alone);
    assert!(words.contains("several nginx were changed and do not run: "), "{words}");
    let own = fs::read_to_string(&conf).unwrap();
    assert!(own.contains("wild.key.keyward.pem"), "{own}");
    let name = words.split(&format!("back with {}: ", conf.display())).nth(1).unwrap();
    let name = name.split("--undo=").nth(1).unwrap().split(' ').next().unwrap();
    let (_, words) = fail(&mut protect(&["--undo=nginx-none"]));
    assert!(words.contains("has no changes of a server nginx-none"), "{words}");
    let undone = run(&mut protect(&[&format!("--undo={name}")]));
    let words = stderr(&undone);
    assert!(undone.status.success() && words.contains("every file is as it was"), "{words}");
    // The key was imported for the other one.
    assert!(!words.contains("deleted"), "{words}");
    assert_eq!(fs::read_to_string(&conf).unwrap(), text);
    // The other one still has its reference.
    assert!(scene.path("ssl/wild.key.keyward.pem").exists());
    scene.reload();
    scene.handshakes().iter().for_each(|one| assert!(one.make().is_ok()));
    succeed(&mut scene.protect(&["--undo"]));
    fs::remove_file(&conf).unwrap();
    assert_eq!(scene.files(), before);
}

/// An administrator has put the reference elsewhere: the way back must not take its key away, nor
/// the environment of the next start.
#[test]
fn a_reference_that_is_named_elsewhere_keeps_its_key() {
    if !has_root() {
        return;
    }
    let scene = Scene::start();
    let before = scene.contents();
    let systemd = Systemd::new(&scene);
    succeed(&mut systemd.run(&scene.protect(&["--site", "mail.example"])));
    assert!(systemd.environment().contains("OPENSSL_CONF="), "{}", systemd.environment());
    // The grants are lost: the command writes them again, and they go back with the rest.
    fs::remove_file(scene.grants().unwrap()).unwrap();
    succeed(&mut scene.daemon.keyward(&["reload"]));
    assert!(scene.handshakes()[2].make().is_err());
    let again = ["--site", "mail.example"];
    let missing = "Grants that its workers lack, and that go to ";
    let plan = succeed(&mut scene.protect(&[&again[..], &["--dry-run"]].concat()));
    assert!(plan.contains(missing) && plan.contains("mail.example (tls12-server)\n"), "{plan}");
    assert!(scene.grants().is_none());
    let granted = run(&mut scene.protect(&again));
    assert!(stderr(&granted).contains("ok  the daemon grants the keys to nginx"), "{}", stderr(&granted));
    assert!(scene.handshakes()[2].make().is_ok());
    assert!(!succeed(&mut scene.protect(&again)).contains(missing));
    let (reference, copy) = (scene.path("ssl/mail.pem.keyward.pem"), scene.path("copy.pem"));
    fs::copy(&reference, &copy).unwrap();
    let site = scene.path("sites/zmail");
    let text = fs::read_to_string(&site).unwrap();
    let named = |path: &Path| path.display().to_string();
    fs::write(&site, text.replace(&named(&reference), &named(&copy))).unwrap();
    scene.reload();
    let edited = scene.contents();
    let (_, words) = fail(&mut systemd.run(&scene.protect(&["--undo"])));
    assert!(
        words.contains("nothing was put back: nginx names ")
            && words.contains("copy.pem, a reference to key mail.example, which would go"),
        "{words}"
    );
    assert!(scene.contents() == edited);
    assert!(systemd.environment().contains("OPENSSL_CONF="), "{}", systemd.environment());
    scene.handshakes().iter().for_each(|one| assert!(one.make().is_ok()));
    fs::write(&site, text).unwrap();
    fs::remove_file(&copy).unwrap();
    succeed(&mut systemd.run(&scene.protect(&["--undo"])));
    assert!(scene.contents() == before);
    assert_eq!(systemd.environment(), "");
}

/// An administrator has converted a site by hand, and forgotten the grant.
#[test]
fn a_grant_alone_goes_back_after_its_reference() {
    if !has_root() {
        return;
    }
    let scene = Scene::start();
    let site = ["--site", "mail.example"];
    // nginx has the provider from now on.
    succeed(&mut scene.protect(&site));
    succeed(&mut scene.protect(&["--undo"]));
    let before = scene.contents();
    let mut import = scene.daemon.keyward(&["key", "import", "own", "--use", "tls12-server"]);
    succeed(import.arg("--in").arg(scene.path("ssl/mail.key")));
    let reference = succeed(&mut scene.daemon.keyward(&["key", "reference", "own"]));
    fs::write(scene.path("own.pem"), reference).unwrap();
    let file = scene.path("sites/zmail");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("_key ssl/mail.pem", "_key own.pem")).unwrap();
    scene.reload();
    let handshake = &scene.handshakes()[2];
    assert!(handshake.make().is_err());
    succeed(&mut scene.protect(&site));
    assert!(handshake.make().is_ok());
    let (_, words) = fail(&mut scene.protect(&["--undo"]));
    assert!(words.contains("nothing was put back: nginx names ") && words.contains("key own"), "{words}");
    assert!(handshake.make().is_ok());
    fs::write(&file, text).unwrap();
    fs::remove_file(scene.path("own.pem")).unwrap();
    succeed(&mut scene.protect(&["--undo"]));
    assert!(scene.contents() == before);
    assert!(handshake.make().is_ok());
}

/// Sites are retired after the change, one of them with its key: the way back leaves them so,
/// whether nginx takes the way back or refuses it.
#[test]
fn retired_sites_do_not_come_back() {
    if !has_root() {
        return;
    }
    let scene = Scene::start();
    succeed(&mut scene.protect(&[]));
    let retired = [
        "sites/wild",
        "sites/zmail",
        "ssl/mail.pem",
        "ssl/mail.pem.keyward.pem",
        "ssl/mail.pem.certificates.pem",
    ];
    retired.iter().for_each(|name| fs::remove_file(scene.path(name)).unwrap());
    let user = format!(
        "server {{ listen {} ssl; server_name user.example; ssl_certificate ssl/shop.crt; ssl_certificate_key ssl/shop.key.keyward.pem; }}\n",
        scene.addresses[0]
    );
    fs::write(scene.path("sites/user"), user).unwrap();
    scene.reload();
    let now = scene.contents();
    let (_, words) = fail(&mut scene.protect(&["--undo"]));
    assert!(words.contains("nothing was put back: nginx refuses its configuration"), "{words}");
    assert!(scene.contents() == now);
    scene.reload();
    fs::remove_file(scene.path("sites/user")).unwrap();
    scene.reload();
    let undone = run(&mut scene.protect(&["--undo"]));
    let words = stderr(&undone);
    assert!(undone.status.success() && words.contains("ok  every other file is as it was"), "{words}");
    for name in ["sites/wild", "sites/zmail"] {
        assert!(words.contains(&format!("{name} was removed since, and does not come back")), "{words}");
    }
    assert!(words.contains("key wildcard.wild.example deleted"), "{words}");
    assert!(
        words.contains("key mail.example stays in the daemon, because its key file is not there"),
        "{words}"
    );
    assert!(retired.iter().all(|name| !scene.path(name).exists()));
    assert!(scene.handshakes()[0].make().is_ok());
}

/// A systemd that would start the nginx of a scene, as far as its `systemctl` shows.
struct Systemd {
    directory: PathBuf,
}

impl Systemd {
    fn new(scene: &Scene) -> Self {
        let directory = scene.daemon.path("systemctl");
        fs::create_dir(&directory).unwrap();
        let program = directory.join("systemctl");
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in\n\
             daemon-reload) cat '{}'/nginx.service.d/*.conf > '{}/environment' 2> /dev/null || true ;;\n\
             *ExecStart*) echo 'ExecStart={{ path=/usr/sbin/nginx ; argv[]=/usr/sbin/nginx -c {} ; ignore_errors=no ; }}' ;;\n\
             esac\n",
            scene.path("systemd").display(),
            directory.display(),
            scene.path("nginx.conf").display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        Self { directory }
    }

    /// A command on a host with this systemd.
    fn run(&self, command: &Command) -> Command {
        let mut alone = Command::new("unshare");
        let mount = r#"mount -t tmpfs none /run && mkdir -p /run/systemd/system && PATH="$1:$PATH" && shift && exec "$@""#;
        alone.args(["--mount", "sh", "-c", mount, "sh"]).arg(&self.directory);
        alone.arg(command.get_program()).args(command.get_args());
        alone
    }

    /// The drop-ins of the service, as systemd has read them.
    fn environment(&self) -> String {
        fs::read_to_string(self.directory.join("environment")).unwrap()
    }
}
