//! Start, reload and stop of the daemon.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::Duration;

use keyward_client::Client;
use keyward_proto::Outcome;
use keyward_proto::message::{GetStatus, Request, request};
use rustix::process::Signal;

use crate::fixture::{Daemon, PROGRAM, certificate_verify, failure_of, has_root, is_closed, receive, send};

#[test]
fn sighup_loads_a_valid_configuration_and_refuses_an_invalid_one() {
    let daemon = Daemon::production(&[]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let message = certificate_verify();
    assert_eq!(daemon.outcome("shop", &message), Outcome::NoGrant);
    let client = daemon.client();
    client.status().unwrap();

    daemon.configure(&daemon.production_configuration(&[("shop", "tls-server")]));
    daemon.signal(Signal::HUP);
    daemon.await_ready();
    assert_eq!(daemon.outcome("shop", &message), Outcome::Done);
    client.status().unwrap();

    daemon.configure("gant = []");
    daemon.signal(Signal::HUP);
    daemon.await_ready();
    assert_eq!(daemon.outcome("shop", &message), Outcome::Done, "the old one stays in force");
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("ERROR")).unwrap();
    assert!(line.contains("not reloaded") && line.contains("unknown field `gant`"), "{line}");
}

#[test]
fn a_reload_takes_a_file_without_settings_for_a_mistake() {
    let daemon = Daemon::production(&[("shop", "tls-server")]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let file = daemon.path("keyward.toml");
    let text = fs::read_to_string(&file).unwrap();
    let refused = |reason: &str| {
        let (status, line) = failure_of(&daemon.keyward(&["reload"]));
        assert!(status != 0 && line.contains(reason) && line.contains("keyward.toml"), "{line}");
        assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done, "{reason}");
    };
    daemon.configure("# log = \"debug\"\n");
    refused("would take away all grants and roles");
    fs::remove_file(&file).unwrap();
    refused("No such file");
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRUSR).unwrap();
    refused("it is a pipe");
    fs::remove_file(&file).unwrap();
    daemon.configure(&text.replace("\"shop\"", "\"other\""));
    daemon.succeed(&["reload"]);
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::NoGrant);
}

#[test]
fn sigterm_ends_the_daemon_with_success_and_closes_connections() {
    let mut daemon = Daemon::dev("");
    let mut stream = daemon.connect();
    send(
        &mut stream,
        &Request { id: 1, body: Some(request::Body::GetStatus(GetStatus {})), ..Request::default() },
    );
    receive(&mut stream);
    assert!(daemon.end(Signal::TERM).success());
    assert!(is_closed(&mut stream));
    daemon.start(&["--dev"]);
    assert!(daemon.end(Signal::INT).success());
}

#[test]
fn a_mistake_in_the_configuration_is_reported_at_start() {
    let daemon = Daemon::prepare("[socket]\nconections = 7\n");
    for more in [&["--dev"][..], &["--check-config"]] {
        let (status, line) = failure_of(&daemon.serve(more).output().unwrap());
        assert_eq!(status, 78);
        assert!(line.contains("line 2") && line.contains("conections"), "{line}");
    }
    assert!(!daemon.path("state").exists());
}

#[test]
fn check_config_prints_what_is_in_force() {
    let daemon = Daemon::prepare("[limits]\nrequest-timeout = \"700ms\"\n");
    let output = daemon.serve(&["--check-config"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(text.contains("request-timeout = \"700ms\"") && text.contains("drain-timeout"), "{text}");
}

/// A token may be missing at the start of the daemon, but the check of the configuration reports
/// that.
#[test]
fn check_config_looks_for_secrets() {
    let unit = "[grep11.hsm]\nendpoints = [\"localhost:1\"]\nplaintext = true\nauth = \"token\"\n";
    let daemon = Daemon::prepare(&format!("{unit}token-file = \"/no/such/token\"\n"));
    let output = daemon.serve(&["--check-config"]).output().unwrap();
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && warning.starts_with("keyward: warning: "), "{warning}");
    assert!(warning.contains("hsm") && warning.contains("/no/such/token"), "{warning}");

    // The check also reports a missing master key, which systemd may still provide.
    daemon.configure("");
    let output = daemon.serve(&["--check-config"]).output().unwrap();
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && warning.contains("warning: no master key"), "{warning}");
    for file in ["/no/such/key", "/etc/passwd"] {
        daemon.configure(&format!("[embedded]\nmaster-key = {file:?}\n"));
        let (status, line) = failure_of(&daemon.serve(&["--check-config"]).output().unwrap());
        assert!(status == 78 && line.contains(file), "{status} {line}");
    }
}

#[test]
fn one_daemon_for_each_directory() {
    let daemon = Daemon::dev("");
    let (status, line) = failure_of(&daemon.serve(&["--dev"]).output().unwrap());
    assert_eq!(status, 69);
    assert!(line.contains("in use") && line.contains("keys.redb"), "{line}");

    let other = Daemon::prepare("");
    let mut serve = Command::new(PROGRAM);
    serve.args(["serve", "--dev", "--config"]).arg(other.path("keyward.toml"));
    serve.arg("--state-dir").arg(other.path("state")).arg("--runtime-dir").arg(daemon.path("run"));
    let (status, line) = failure_of(&serve.output().unwrap());
    assert_eq!(status, 69);
    assert!(line.contains("another daemon answers there"), "{line}");
    daemon.client().status().unwrap();
}

#[test]
fn directories_above_the_runtime_directory_are_open_to_others() {
    let mut daemon = Daemon::prepare("");
    let mut serve = Command::new(PROGRAM);
    serve.args(["serve", "--dev", "--config"]).arg(daemon.path("keyward.toml"));
    serve.arg("--state-dir").arg(daemon.path("lib/keyward/state"));
    serve.arg("--runtime-dir").arg(daemon.path("run/keyward/run"));
    daemon.start_as(&mut serve);
    let mode = |path| fs::metadata(daemon.path(path)).unwrap().permissions().mode() & 0o777;
    for open in ["lib", "lib/keyward", "run", "run/keyward", "run/keyward/run"] {
        assert_eq!(mode(open), 0o755, "{open}");
    }
    assert_eq!(mode("lib/keyward/state"), 0o700);
}

#[test]
fn a_state_directory_of_another_user_is_refused() {
    if !has_root() {
        return;
    }
    let daemon = Daemon::prepare("");
    fs::create_dir(daemon.path("state")).unwrap();
    std::os::unix::fs::chown(daemon.path("state"), Some(12345), None).unwrap();
    let (status, line) = failure_of(&daemon.serve(&["--dev"]).output().unwrap());
    assert_ne!(status, 0);
    assert!(line.contains("belongs to user id 12345"), "{line}");
}

#[test]
fn the_sockets_of_a_dead_daemon_are_bound_again() {
    let mut daemon = Daemon::dev("");
    daemon.end(Signal::KILL);
    assert!(daemon.path("run/keyward.sock").exists());
    daemon.start(&["--dev"]);
    daemon.client().status().unwrap();
}

#[test]
fn development_and_production_are_not_mixed() {
    let mut daemon = Daemon::dev("");
    assert!(daemon.log().contains("DEVELOPMENT MODE"));
    daemon.end(Signal::TERM);
    let (status, line) = failure_of(&daemon.serve(&[]).output().unwrap());
    assert_eq!(status, 78);
    assert!(line.contains("was made with --dev"), "{line}");

    let mut daemon = Daemon::production(&[]);
    daemon.end(Signal::TERM);
    let (status, line) = failure_of(&daemon.serve(&["--dev"]).output().unwrap());
    assert_eq!(status, 78);
    assert!(line.contains("refused --dev"), "{line}");
}

#[test]
fn without_a_master_key_the_daemon_says_how_to_make_one() {
    let mut daemon = Daemon::prepare("");
    let mut serve = daemon.serve(&[]);
    daemon.start_as(serve.env_remove("CREDENTIALS_DIRECTORY"));
    let (status, ready) = daemon.http("GET", "/ready", "").unwrap();
    assert_eq!(status, 503);
    for part in [
        "no master key yet: its owners make one with: keyward unit ceremony",
        "run keyward setup; if owners were chosen before, first remove /etc/systemd/",
    ] {
        assert!(daemon.log().contains(part) && ready.contains(part), "{ready}");
    }
    assert!(daemon.end(Signal::TERM).success());

    daemon.new_master_key();
    daemon.configure(&daemon.production_configuration(&[]));
    fs::set_permissions(daemon.path("master.key"), Permissions::from_mode(0o644)).unwrap();
    let (status, line) = failure_of(&daemon.serve(&[]).output().unwrap());
    assert_eq!(status, 78);
    assert!(line.contains("chmod 600"), "{line}");
}

#[test]
fn a_master_key_may_come_as_a_credential() {
    let mut daemon = Daemon::prepare("");
    daemon.new_master_key();
    fs::create_dir(daemon.path("credentials")).unwrap();
    fs::rename(daemon.path("master.key"), daemon.path("credentials/master-key")).unwrap();
    let mut serve = daemon.serve(&[]);
    serve.env("CREDENTIALS_DIRECTORY", daemon.path("credentials"));
    daemon.start_as(&mut serve);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
}

#[test]
fn extra_sockets_are_served() {
    let name = format!("@keyward-test-{}", std::process::id());
    let daemon = Daemon::prepare("");
    let path = daemon.path("chroot.sock");
    daemon.configure(&format!("[socket]\nalso = [{path:?}, {name:?}]\n"));
    let mut daemon = daemon;
    daemon.start(&["--dev"]);
    for address in [path.to_str().unwrap(), &name] {
        let client = Client::new(address.parse().unwrap(), Duration::from_secs(5));
        client.status().unwrap();
    }
}

/// A program that deletes files in `/run` does not make the daemon unreachable for good, and does
/// not disturb open connections.
#[test]
fn sockets_that_were_deleted_are_bound_again() {
    let mut daemon = Daemon::prepare("");
    let extra = daemon.path("chroot.sock");
    daemon.configure(&format!("[socket]\nalso = [{extra:?}]\n"));
    daemon.start(&["--dev"]);
    let sockets = [daemon.path("run/keyward.sock"), daemon.path("run/admin.sock"), extra.clone()];
    let inodes = || sockets.each_ref().map(|path| fs::symlink_metadata(path).unwrap().ino());
    let clients = [&sockets[0], &extra]
        .map(|path| Client::new(path.to_str().unwrap().parse().unwrap(), Duration::from_secs(5)));
    let mut connected = daemon.connect();
    let ask = |stream: &mut _| {
        let body = Some(request::Body::GetStatus(GetStatus {}));
        send(stream, &Request { id: 1, body, ..Request::default() });
        receive(stream)
    };
    let before = inodes();
    for _ in 0..2 {
        fs::remove_dir_all(daemon.path("run")).unwrap();
        fs::remove_file(&extra).unwrap();
        daemon.signal(Signal::HUP);
        daemon.await_ready();
        for client in &clients {
            client.status().unwrap();
        }
        ask(&mut connected);
        daemon.succeed(&["key", "list"]);
        let modes = sockets.each_ref().map(|path| fs::metadata(path).unwrap().permissions().mode() & 0o777);
        assert_eq!(modes, [0o666, 0o666, 0o666]);
    }
    let now = inodes();
    assert_ne!(before, now);
    daemon.signal(Signal::HUP);
    daemon.await_ready();
    assert_eq!(inodes(), now, "there was nothing to bind");
    assert_eq!(daemon.log().matches("bound again").count(), 6, "{}", daemon.log());
    assert!(daemon.end(Signal::TERM).success());
}

/// Administrators send such signals to servers that reopen their logs.
#[test]
fn signals_without_a_meaning_are_ignored() {
    let mut daemon = Daemon::dev("");
    let mut stream = daemon.connect();
    daemon.signal(Signal::USR1);
    // When the daemon answers, the signal has been delivered.
    daemon.client().status().unwrap();
    send(
        &mut stream,
        &Request { id: 1, body: Some(request::Body::GetStatus(GetStatus {})), ..Request::default() },
    );
    receive(&mut stream);
    assert!(daemon.end(Signal::TERM).success());
}

/// SIGUSR2 makes the daemon execute the program that is installed now, in the same process and with
/// the same sockets: its own, extra and abstract sockets.
#[test]
fn the_daemon_continues_as_another_program() {
    let mut daemon = Daemon::prepare("");
    let program = daemon.path("keyward");
    fs::copy(PROGRAM, &program).unwrap();
    let name = format!("keyward-test-{}", std::process::id());
    let extra = daemon.path("extra.sock");
    let configuration = format!("[socket]\nalso = [{extra:?}, \"@{name}\"]\n");
    daemon.configure(&configuration);
    let serve = daemon.serve(&["--dev"]);
    let mut command = Command::new(&program);
    daemon.start_as(command.args(serve.get_args()));
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let pid = daemon.pid();
    let files = ["run/keyward.sock", "run/admin.sock", "extra.sock"].map(|name| daemon.path(name));
    let inodes = || files.each_ref().map(|path| fs::metadata(path).unwrap().ino());
    let before = inodes();

    // A program that would not start is not executed.
    daemon.configure("[limits]\nnothing = 1\n");
    daemon.signal(Signal::USR2);
    daemon.await_log("not upgraded, this program goes on");
    assert!(daemon.log().contains("nothing"), "{}", daemon.log());
    daemon.configure(&configuration);

    // The package has replaced the file, twice.
    for round in 0..2 {
        let next = daemon.path("next");
        fs::copy(PROGRAM, &next).unwrap();
        fs::rename(&next, &program).unwrap();
        let replaced = fs::metadata(&program).unwrap().ino();
        daemon.signal(Signal::USR2);
        daemon.await_ready();
        assert_eq!(daemon.pid(), pid);
        let runs = fs::metadata(format!("/proc/{}/exe", pid.as_raw_nonzero())).unwrap().ino();
        assert_eq!(runs, replaced, "round {round}");
        assert_eq!(inodes(), before);
        for address in [files[0].to_str().unwrap(), files[2].to_str().unwrap(), &format!("@{name}")] {
            Client::new(address.parse().unwrap(), Duration::from_secs(10)).status().unwrap();
        }
        assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
        daemon.succeed(&["key", "list"]);
    }
    // The sockets still belong to the daemon: a deleted socket is bound again, even one that was
    // deleted before the upgrade.
    for becomes in [false, true] {
        files.iter().for_each(|file| fs::remove_file(file).unwrap());
        if becomes {
            daemon.signal(Signal::USR2);
            daemon.await_ready();
        }
        daemon.signal(Signal::HUP);
        daemon.await_ready();
        files.iter().for_each(|file| assert!(file.exists(), "{}", daemon.log()));
        daemon.succeed(&["key", "list"]);
    }
    assert!(daemon.end(Signal::TERM).success());
}

#[test]
fn no_other_process_can_read_the_memory_of_the_daemon() {
    let daemon = Daemon::dev("");
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.daemon_pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    for entry in fs::read_dir(daemon.path("state")).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }
}
