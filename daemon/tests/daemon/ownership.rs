//! Another user owns, or may write, files and directories that the daemon and the command line rely
//! on.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::CWD;
use rustix::process::{Pid, Signal, Uid, kill_process};

use crate::fixture::{Daemon, PROGRAM, failure_of, has_root};
use crate::users::{ALICE, MALLORY, identity, in_time, timeout};

#[test]
fn a_directory_that_another_user_can_exchange_is_refused() {
    if !has_root() {
        return;
    }
    let everybody = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    for option in ["--runtime-dir", "--state-dir"] {
        let refused = |named: &str, changed: &str, change: &dyn Fn(&Path)| {
            let daemon = Daemon::prepare("");
            fs::create_dir_all(daemon.path("a/b/c")).unwrap();
            change(&daemon.path(changed));
            let serve = daemon.serve(&["--dev"]);
            let mut words: Vec<_> = serve.get_args().map(ToOwned::to_owned).collect();
            let at = words.iter().position(|word| word == option).unwrap();
            words[at + 1] = daemon.path(named).into();
            let output = in_time(Command::new(PROGRAM).args(words));
            let (status, line) = failure_of(&output);
            assert!([69, 73].contains(&status), "{named}, {changed}: {line}");
            let path = daemon.path(changed);
            assert!(line.contains(path.to_str().unwrap()), "{line} does not name {path:?}");
            assert_eq!(line.lines().filter(|line| line.starts_with("keyward: ")).count(), 1, "{line}");
        };
        let of_mallory = |path: &Path| chown(path, Some(MALLORY), None).unwrap();
        for changed in ["a/b/c", "a/b", "a"] {
            refused("a/b/c", changed, &of_mallory);
            refused("a/b/c", changed, &everybody);
            // A directory that does not exist yet would be made there.
            refused("a/b/c/new/newer", changed, &of_mallory);
        }
        refused("a/link", "a/link", &|link| {
            symlink("b/c", link).unwrap();
            rustix::fs::chownat(
                CWD,
                link,
                Some(Uid::from_raw(MALLORY)),
                None,
                rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
            )
            .unwrap();
        });
        // The link is safe, and the directory that it leads to is not.
        refused("link", "a/b", &|owned| {
            of_mallory(owned);
            symlink("a/b/c", owned.parent().unwrap().parent().unwrap().join("link")).unwrap();
        });
    }
}

/// A command that an administrator copies from a refusal must not break other programs.
#[test]
fn no_refusal_says_to_change_a_directory_of_somebody_else() {
    if !has_root() {
        return;
    }
    for option in ["--runtime-dir", "--state-dir"] {
        let refused = |change: &dyn Fn(&Path)| {
            let daemon = Daemon::prepare("");
            let directory = daemon.path("shared");
            fs::create_dir(&directory).unwrap();
            change(&directory);
            let serve = daemon.serve(&["--dev"]);
            let mut words: Vec<_> = serve.get_args().map(ToOwned::to_owned).collect();
            let at = words.iter().position(|word| word == option).unwrap();
            words[at + 1] = directory.into();
            failure_of(&in_time(Command::new(PROGRAM).args(words))).1
        };
        let line = refused(&|tmp| fs::set_permissions(tmp, Permissions::from_mode(0o1777)).unwrap());
        assert!(line.contains("shared/keyward") && !line.contains("chmod"), "{line}");
        let line = refused(&|home| chown(home, Some(MALLORY), None).unwrap());
        assert!(line.contains("run this as that user") && !line.contains("chown"), "{line}");
        let line = refused(&|open| fs::set_permissions(open, Permissions::from_mode(0o775)).unwrap());
        let (elsewhere, chmod) = (line.find("use another directory"), line.find("chmod go-w"));
        assert!(elsewhere.is_some() && elsewhere < chmod, "{line}");
    }
}

/// The directory is safe, and the file that a backup tool has put there is not.
#[test]
fn a_key_store_that_another_user_can_change_is_refused() {
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    daemon.end(Signal::TERM);
    let store = daemon.path("state/keys.redb");
    assert_eq!(fs::metadata(&store).unwrap().permissions().mode() & 0o777, 0o600);
    let refused = |advice: &str| {
        for more in [&[][..], &["--migrate-store"]] {
            let (status, line) = failure_of(&daemon.serve(more).output().unwrap());
            assert!(status == 77 && line.contains("refused the key store: "), "{status} {line}");
            assert!(line.contains(&format!("{advice} {}", store.display())), "{line}");
        }
    };
    for mode in [0o620, 0o602] {
        fs::set_permissions(&store, Permissions::from_mode(mode)).unwrap();
        refused("run: chmod go-w");
    }
    fs::set_permissions(&store, Permissions::from_mode(0o600)).unwrap();
    if has_root() {
        chown(&store, Some(MALLORY), None).unwrap();
        let (status, line) = failure_of(&daemon.serve(&[]).output().unwrap());
        assert!(status == 77 && line.contains("run: chown -h root "), "{status} {line}");
        chown(&store, Some(0), None).unwrap();
    }
    // A link is as safe as its target.
    let elsewhere = daemon.path("elsewhere");
    fs::rename(&store, &elsewhere).unwrap();
    symlink(&elsewhere, &store).unwrap();
    daemon.start(&[]);
    assert!(daemon.succeed(&["key", "list"]).contains("shop"));
}

/// A plain cp by root leaves such a store.
#[test]
fn the_refusal_of_a_key_store_of_root_says_how_to_give_it_to_the_daemon() {
    if !has_root() {
        return;
    }
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    daemon.end(Signal::TERM);
    let [run, store] = [daemon.path("run"), daemon.path("state/keys.redb")];
    let copy = daemon.path("copy");
    fs::set_permissions(daemon.path(""), Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(daemon.path("notify"), Permissions::from_mode(0o777)).unwrap();
    // The sockets of the daemon of root would prevent the start.
    fs::remove_dir_all(&run).unwrap();
    fs::create_dir(&run).unwrap();
    for path in ["state", "run", "master.key", "state/unit", "state/unit/state", "state/unit.known"] {
        chown(daemon.path(path), Some(ALICE), Some(ALICE)).unwrap();
    }
    let alice = |daemon: &Daemon| {
        let mut alice = daemon.serve(&[]);
        alice.uid(ALICE).gid(ALICE);
        alice
    };
    let (status, line) = failure_of(&alice(&daemon).output().unwrap());
    assert!(status == 77 && line.contains("Permission denied"), "{status} {line}");
    assert!(line.contains("belongs to user root (id 0)"), "{line}");
    fs::copy(&store, &copy).unwrap();
    let restore = line.trim_end().rsplit_once("with: ").unwrap().1.to_owned();
    let give = line.split_once("as root, run: ").unwrap().1.split_once("; a copy").unwrap().0.to_owned();
    for command in [give, restore.replace("COPY", copy.to_str().unwrap())] {
        chown(&store, Some(0), Some(0)).unwrap();
        assert!(Command::new("/bin/sh").args(["-c", &command]).status().unwrap().success(), "{command}");
        // The secret of the store has belonged to root, too.
        if std::os::unix::fs::MetadataExt::uid(&fs::metadata(daemon.path("state/shred")).unwrap()) == 0 {
            let (status, line) = failure_of(&alice(&daemon).output().unwrap());
            assert!(status == 77 && line.contains("Permission denied"), "{status} {line}");
            let give = line.trim_end().rsplit_once("as root, run: ").unwrap().1;
            assert!(Command::new("/bin/sh").args(["-c", give]).status().unwrap().success(), "{give}");
        }
        daemon.start_as(&mut alice(&daemon));
        let mut list = Command::new(PROGRAM);
        list.args(["key", "list", "--runtime-dir"]).arg(&run).uid(ALICE);
        assert!(String::from_utf8_lossy(&list.output().unwrap().stdout).contains("shop"), "{command}");
        daemon.end(Signal::TERM);
    }
}

/// Somebody has first run the daemon as root, and then runs it as a user of its own; or has made no
/// directories for that user.
#[test]
fn refusals_of_files_of_root_name_the_commands_that_give_them_to_the_daemon() {
    if !has_root() {
        return;
    }
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    // The sockets of the daemon stay, one of them with a mode that keeps other users out.
    daemon.end(Signal::KILL);
    fs::set_permissions(daemon.path("run/admin.sock"), Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(daemon.path(""), Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(daemon.path("notify"), Permissions::from_mode(0o777)).unwrap();
    chown(daemon.path("master.key"), Some(ALICE), Some(ALICE)).unwrap();
    for (told_of, removes) in [
        (&["state", "state/keys.redb", "state/unit", "state/unit.known", "run", "run/admin.sock"][..], false),
        (&["state", "run"], true),
    ] {
        if removes {
            fs::remove_dir_all(daemon.path("state")).unwrap();
            fs::remove_dir_all(daemon.path("run")).unwrap();
        }
        for name in told_of {
            let mut alice = timeout(&daemon.serve(&[]));
            let (_, line) = failure_of(&alice.uid(ALICE).gid(ALICE).output().unwrap());
            // After the directories that were made before the refusal.
            let line = line.lines().last().unwrap();
            let (what, command) = line.split_once("as root, run: ").unwrap_or_else(|| panic!("{line}"));
            let command = command.split_once("; a copy is restored").map_or(command, |(command, _)| command);
            assert!(what.contains(&format!("/{name}")), "{name}: {line}");
            assert!(Command::new("/bin/sh").args(["-c", command]).status().unwrap().success(), "{line}");
        }
        let mut alice = daemon.serve(&[]);
        daemon.start_as(alice.uid(ALICE).gid(ALICE));
        daemon.end(Signal::TERM);
    }
}

/// On a machine with the package, root checks the files of the service.
#[test]
fn root_is_not_advised_to_take_the_master_key_away_from_the_service() {
    if !has_root() {
        return;
    }
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    daemon.end(Signal::TERM);
    let key = daemon.path("master.key");
    for path in ["state", "state/keys.redb", "state/unit", "state/unit/state"].map(|name| daemon.path(name)) {
        chown(&path, Some(ALICE), Some(ALICE)).unwrap();
    }
    fs::set_permissions(daemon.path(""), Permissions::from_mode(0o711)).unwrap();
    let check = |script: &str| {
        // An /etc that only this command sees.
        let serve = daemon.serve(&["--check-config"]);
        let mut shell = Command::new("unshare");
        let script = format!("mount -t tmpfs none /etc && mkdir -p /etc/keyward && {script} && exec \"$@\"");
        shell.args(["--mount", "sh", "-c", &script]).arg(&key);
        shell.arg(serve.get_program()).args(serve.get_args()).env_remove("CREDENTIALS_DIRECTORY");
        let output = shell.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let copy = "install -m 600 \"$0\" /etc/keyward/master.key";
    let configured = daemon.production_configuration(&[]);
    daemon.configure("");
    let (status, told) = check(copy);
    assert!(status == 0 && !told.contains("warning") && !told.contains("[embedded]"), "{status} {told}");
    assert!(told.contains("note: the daemon runs as user id 7002; with a drop-in of its service"), "{told}");
    let (status, told) = check("umask 022 && echo junk > /etc/keyward/master.key");
    assert!(
        status == 0 && told.contains("warning: refused the master key in /etc/keyward"),
        "{status} {told}"
    );
    let (status, told) = check("umask 077 && echo junk > /etc/keyward/master.key");
    assert!(status == 78 && told.contains("cannot use the master key in /etc/keyward"), "{status} {told}");
    // The service of this version passes a master key or a secret only with a drop-in.
    let unit = "mkdir -p /etc/systemd/system/keyward.service.d; echo '[Service]' >/etc/systemd/system/keyward.service";
    let (status, told) = check(&format!("{copy}; {unit}"));
    assert!(
        status == 0 && told.contains("warning: the service does not pass /etc/keyward"),
        "{status} {told}"
    );
    assert!(told.contains("run keyward setup"), "{told}");
    let drop_in = "echo LoadCredential=unseal-key:/etc/keyward/unseal.key >/etc/systemd/system/keyward.service.d/a.conf";
    let (status, told) = check(&format!("{unit}; {drop_in}"));
    assert!(status == 0 && !told.contains("warning"), "{status} {told}");
    assert!(told.contains("note: systemd passes /etc/keyward/unseal.key to the daemon"), "{told}");
    // Without that file, there is no master key that the check can find.
    let (status, told) = check("true");
    assert!(status == 0 && told.contains("note: the state of the embedded unit was not checked"), "{told}");

    daemon.configure(&configured);
    let (status, told) = check(copy);
    assert!(status == 0 && told.contains("warning: "), "{status} {told}");
    assert!(told.contains("the daemon runs as user id 7002, who must be able to read it"), "{told}");
    chown(&key, Some(ALICE), Some(ALICE)).unwrap();
    let (status, told) = check("true");
    assert!(status == 0 && told.contains("note: ") && !told.contains("chown"), "{status} {told}");
}

/// Root can read every file, and the daemon is another user.
#[test]
fn root_checks_the_configuration_for_the_user_of_the_daemon() {
    if !has_root() {
        return;
    }
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    daemon.end(Signal::TERM);
    for path in ["state", "state/keys.redb", "state/unit", "state/unit/state"].map(|name| daemon.path(name)) {
        chown(&path, Some(ALICE), Some(ALICE)).unwrap();
    }
    fs::create_dir(daemon.path("keyward.d")).unwrap();
    fs::write(daemon.path("keyward.d/nginx.toml"), "").unwrap();
    let fixed = |path: &Path, mode: u32, words: &str| {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let (status, line) = failure_of(&in_time(&daemon.serve(&["--check-config"])));
        assert!(status == 78 && line.contains("the daemon runs as user id 7002"), "{status} {line}");
        assert!(line.contains(words), "{line} lacks {words}");
        let (_, command) = line.split_once("; run: ").unwrap();
        assert!(Command::new("/bin/sh").args(["-c", command.trim()]).status().unwrap().success(), "{line}");
    };
    fixed(&daemon.path(""), 0o700, "user id 7002 cannot pass");
    fixed(&daemon.path("keyward.toml"), 0o600, "keyward.toml (mode 600)");
    fixed(&daemon.path("keyward.d/nginx.toml"), 0o600, "nginx.toml (mode 600)");
    fixed(&daemon.path("keyward.d"), 0o700, "cannot pass");
    fs::remove_file(daemon.path("keyward.d/nginx.toml")).unwrap();
    fixed(&daemon.path("keyward.d"), 0o711, "may not read");
    assert!(in_time(&daemon.serve(&["--check-config"])).status.success());
}

#[test]
fn safe_links_and_sticky_directories_are_used() {
    let mut daemon = Daemon::prepare("");
    fs::create_dir_all(daemon.path("a/b")).unwrap();
    fs::set_permissions(daemon.path("a"), Permissions::from_mode(0o1777)).unwrap();
    symlink(daemon.path("a/b"), daemon.path("link")).unwrap();
    let mut serve = Command::new(PROGRAM);
    serve.args(["serve", "--dev", "--config"]).arg(daemon.path("keyward.toml"));
    serve.arg("--state-dir").arg(daemon.path("link/state")).arg("--runtime-dir").arg(daemon.path("a/b/run"));
    daemon.start_as(&mut serve);
    let listed =
        Command::new(PROGRAM).args(["key", "list", "--runtime-dir"]).arg(daemon.path("link/run")).output();
    assert!(listed.unwrap().status.success());
}

#[test]
fn a_configuration_that_another_user_can_change_is_refused() {
    if !has_root() {
        return;
    }
    let daemon = Daemon::prepare("log = \"info\"\n");
    let config = daemon.path("keyward.toml");
    let refused = |path: &Path, words: &str| {
        for more in [&["--dev"][..], &["--dev", "--check-config"]] {
            let mut serve = Command::new(PROGRAM);
            serve.arg("serve").args(more).arg("--config").arg(path);
            serve.arg("--state-dir").arg(daemon.path("state")).arg("--runtime-dir").arg(daemon.path("run"));
            let (status, line) = failure_of(&in_time(&serve));
            assert_eq!(status, 78, "{line}");
            assert!(line.contains(words), "{line} lacks {words}");
        }
    };
    fs::set_permissions(&config, Permissions::from_mode(0o666)).unwrap();
    refused(&config, "chmod go-w");
    fs::set_permissions(&config, Permissions::from_mode(0o644)).unwrap();
    chown(&config, Some(MALLORY), None).unwrap();
    refused(&config, "keyward.toml belongs to user id 7001");
    symlink(&config, daemon.path("link.toml")).unwrap();
    refused(&daemon.path("link.toml"), "keyward.toml belongs to user id 7001");
    chown(&config, Some(0), None).unwrap();
    fs::create_dir(daemon.path("etc")).unwrap();
    fs::copy(&config, daemon.path("etc/keyward.toml")).unwrap();
    chown(daemon.path("etc"), Some(MALLORY), None).unwrap();
    refused(&daemon.path("etc/keyward.toml"), "/etc belongs to user id 7001");

    // A user who cannot run the daemon may still check the file.
    fs::set_permissions(daemon.path(""), Permissions::from_mode(0o711)).unwrap();
    let mut check = daemon.serve(&["--check-config", "--dev"]);
    assert!(check.uid(ALICE).output().unwrap().status.success());
}

#[test]
fn a_master_key_that_another_user_knows_or_guesses_is_refused() {
    let daemon = Daemon::prepare("");
    daemon.new_master_key();
    daemon.configure(&daemon.production_configuration(&[]));
    let key = daemon.path("master.key");
    let refused = |words: &str| {
        let mut unit = Command::new(PROGRAM);
        unit.args(["unit", "serve", "--plaintext", "--listen", "127.0.0.1:0", "--master-key"]).arg(&key);
        unit.arg("--state-dir").arg(daemon.path("unit")).arg("--runtime-dir").arg(daemon.path("unit-run"));
        let [serve, check] = [daemon.serve(&[]), daemon.serve(&["--check-config"])];
        for command in [&serve, &check, &unit] {
            let (status, line) = failure_of(&in_time(command));
            assert_eq!(status, 78, "{line}");
            assert!(line.contains(words), "{line} lacks {words}");
        }
    };
    for digits in ["00".repeat(32), "0123456789abcdef".repeat(4), "deadbeef".repeat(8)] {
        fs::write(&key, digits).unwrap();
        refused("openssl rand -hex 32");
    }
    daemon.new_master_key();
    if has_root() {
        chown(&key, Some(MALLORY), None).unwrap();
        refused("master.key belongs to user id 7001");
    }
}

#[test]
fn files_that_decide_about_units_are_checked_like_the_configuration() {
    if !has_root() {
        return;
    }
    let daemon = Daemon::prepare("");
    let made = |name: &str, text: &str, mode: u32| {
        let path = daemon.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    };
    let (key, certificate) = identity();
    let [token, key, certificate] = [
        made("token", &"t".repeat(32), 0o600),
        made("key", &key, 0o600),
        made("certificate", &certificate, 0o644),
    ];
    let path = |path: &PathBuf| path.to_str().unwrap().to_owned();
    daemon.configure(&format!(
        "[grep11.hsm]\nendpoints = [\"localhost:1\"]\nca = {certificate:?}\ncertificate = {certificate:?}\nkey = {key:?}\nauth = \"token\"\ntoken-file = {token:?}\n"
    ));
    let check = || {
        let check = daemon.serve(&["--check-config", "--dev"]);
        String::from_utf8(in_time(&check).stderr).unwrap()
    };
    let unit = || {
        let mut unit = Command::new(PROGRAM);
        unit.args([
            "unit",
            "serve",
            "--dev",
            "--listen",
            "127.0.0.1:0",
            "--state-dir",
            &path(&daemon.path("unit")),
        ]);
        unit.args([
            "--tls-cert",
            &path(&certificate),
            "--tls-key",
            &path(&key),
            "--client-ca",
            &path(&certificate),
        ]);
        String::from_utf8(in_time(unit.args(["--token-file", &path(&token)])).stderr).unwrap()
    };
    assert_eq!(check(), "");
    for file in [&token, &key, &certificate] {
        chown(file, Some(MALLORY), None).unwrap();
        for line in [check(), unit()] {
            assert!(line.contains("belongs to user id 7001") && line.contains(&path(file)), "{line}");
        }
        chown(file, Some(0), None).unwrap();
    }
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    for line in [check(), unit()] {
        assert!(line.contains("others can read it; run: chmod o="), "{line}");
    }
}

/// The commands of the pages that try the GREP11 server out, as a user who is not root.
#[test]
fn the_command_of_the_pages_tries_the_grep11_server_as_any_user() {
    for page in ["README.md", "docs/grep11.md"] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page)).unwrap();
        let line = text.lines().find(|line| line.contains("unit serve") && line.contains("--dev")).unwrap();
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), Permissions::from_mode(0o1777)).unwrap();
        let line = line.trim().replace("/tmp/unit", home.path().join("unit").to_str().unwrap());
        let words = line.replace("127.0.0.1:9876", "127.0.0.1:0");
        let mut serve = Command::new(PROGRAM);
        serve.args(words.split(' ').skip(1)).stdin(Stdio::null()).stderr(Stdio::piped());
        if has_root() {
            serve.uid(ALICE).gid(ALICE);
        }
        let mut child = serve.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let listens = log.any(|line| line.contains("listen="));
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success() && listens, "{page}: {words}");
    }
}

/// `keyward setup` sets up the daemon, and not such a unit.
#[test]
fn a_grep11_server_without_a_master_key_says_how_its_unit_gets_one() {
    let daemon = Daemon::prepare("");
    let run = daemon.path("unit.run");
    let mut serve = Command::new(PROGRAM);
    serve.args(["unit", "serve", "--plaintext", "--listen", "127.0.0.1:0", "--state-dir"]);
    serve.arg(daemon.path("unit")).arg("--runtime-dir").arg(&run).env_remove("CREDENTIALS_DIRECTORY");
    let mut child = serve.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let line = log.find(|line| line.contains("no master key")).unwrap();
    let ceremony = format!("keyward unit ceremony --runtime-dir {};", run.display());
    assert!(line.contains(&ceremony) && line.contains("--master-key FILE: docs/grep11.md"), "{line}");
    assert!(!line.contains("keyward setup"), "{line}");
    assert!(log.any(|line| line.contains("ready")));
    let keyward = |words: &[&str]| {
        let output = Command::new(PROGRAM).args(words).arg("--runtime-dir").arg(&run).output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    for words in [&["status"][..], &["unit", "rotate"]] {
        let told = keyward(words);
        assert!(told.contains(&ceremony) && !told.contains("keyward setup"), "{words:?}: {told}");
        assert!(!told.contains("was made with"), "{words:?}: {told}");
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}
