//! The key store: faults of the disk, a damaged or empty store, and the key of the store.

use std::collections::HashSet;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use keyward_proto::Outcome;
use rustix::process::{Resource, Rlimit, Signal, prlimit};

use crate::fixture::{Daemon, certificate_verify, failure_of, has_root};

#[test]
fn every_key_that_was_acknowledged_survives_kill_9() {
    let mut daemon = Daemon::dev("");
    let acknowledged = Mutex::new(Vec::new());
    let next = AtomicU32::new(0);
    for round in 1..=3 {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    loop {
                        let label = format!("key-{}", next.fetch_add(1, Ordering::Relaxed));
                        let wanted = format!(r#"{{"label":"{label}","type":"p256","uses":[]}}"#);
                        match daemon.http("POST", "/v1/keys", &wanted) {
                            Ok((201, _)) => acknowledged.lock().unwrap().push(label),
                            Ok((status, answer)) => panic!("{status}: {answer}"),
                            Err(_) => return,
                        }
                    }
                });
            }
            while acknowledged.lock().unwrap().len() < 300 * round {
                thread::yield_now();
            }
            daemon.signal(Signal::KILL);
        });
        daemon.end_of_killed();
        daemon.start(&["--dev"]);
        let listed = daemon.succeed(&["key", "list"]);
        let listed: HashSet<_> = listed.lines().filter_map(|line| line.split(' ').next()).collect();
        for label in acknowledged.lock().unwrap().iter() {
            assert!(listed.contains(label.as_str()), "{label} is lost after kill {round}");
        }
    }
    let last = acknowledged.lock().unwrap().last().unwrap().clone();
    assert_eq!(daemon.outcome(&last, &certificate_verify()), Outcome::Done);
}

#[test]
fn a_limit_of_the_file_size_fails_only_the_write() {
    let mut daemon = Daemon::prepare("");
    // A shell sets the limit, and ignores the signal of the limit.
    let serve = daemon.serve(&["--dev"]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "trap '' XFSZ; ulimit -S -f 300; exec \"$@\"", "sh"])
        .arg(serve.get_program())
        .args(serve.get_args());
    daemon.start_as(&mut shell);
    let pid = daemon.daemon_pid();
    fill(&daemon, || {
        prlimit(Some(pid), Resource::Fsize, Rlimit { current: None, maximum: None }).unwrap();
    });
}

#[test]
fn a_full_disk_fails_only_the_write() {
    if !has_root() {
        return;
    }
    let mut daemon = Daemon::prepare("");
    std::fs::create_dir(daemon.path("state")).unwrap();
    daemon.start_as(&mut daemon.serve_on_disk("state", "2m"));
    let pid = daemon.pid().to_string();
    fill(&daemon, || {
        let mut mount = Command::new("nsenter");
        mount.args(["--mount", "--target", &pid, "mount", "-o", "remount,size=8m"]).arg(daemon.path("state"));
        assert!(mount.status().unwrap().success());
    });
}

/// Makes keys until there is no space, and again when there is space.
fn fill(daemon: &Daemon, make_room: impl FnOnce()) {
    let generate = |number: u32| {
        let wanted = format!(r#"{{"label":"key-{number}","type":"p256","uses":[]}}"#);
        daemon.http("POST", "/v1/keys", &wanted).unwrap()
    };
    let mut made = 0;
    let refused = loop {
        let (status, answer) = generate(made);
        if status != 201 {
            break (status, answer);
        }
        made += 1;
        assert!(made < 2000, "the limit was never reached");
    };
    assert_eq!(refused.0, 507, "{}", refused.1);
    assert!(made > 0);

    let message = certificate_verify();
    for number in 0..made {
        assert_eq!(daemon.outcome(&format!("key-{number}"), &message), Outcome::Done, "key {number}");
    }
    assert_eq!(daemon.outcome(&format!("key-{made}"), &message), Outcome::UnknownKey);
    assert_eq!(generate(made).0, 507, "still full");

    make_room();
    assert_eq!(generate(made).0, 201, "there is room again, and no restart was needed");
    let count = daemon.succeed(&["key", "list"]).lines().count();
    assert_eq!(count as u32, made + 2, "title and keys");
}

/// Some kinds of damage make the library of the store panic. A panic does not help anyone who reads
/// the log.
#[test]
fn a_damaged_store_is_reported_in_one_line() {
    let mut daemon = Daemon::dev("");
    for label in ["shop", "mail"] {
        daemon.succeed(&["key", "generate", label, "--type", "p256"]);
    }
    assert!(daemon.end(Signal::TERM).success());
    let file = daemon.path("state/keys.redb");
    let sound = std::fs::read(&file).unwrap();
    // The first page is the header, each of the others a node of a tree or free.
    for offset in [0, 8, 100] {
        let mut damaged = sound.clone();
        for page in damaged.chunks_mut(4096).skip(1) {
            page[offset..offset + 60].iter_mut().for_each(|byte| *byte ^= 0xff);
        }
        std::fs::write(&file, damaged).unwrap();
        for more in ["--check-config", "--dev"] {
            let mut serve = daemon.serve(&[more]);
            let output = serve.env("RUST_BACKTRACE", "1").output().unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            assert!(!text.contains("panicked") && text.lines().count() <= 1, "{offset}: {text}");
            if more == "--dev" {
                assert_eq!(output.status.code(), Some(65), "{offset}: {text}");
                assert!(text.contains("keys.redb is damaged; restore it from a backup"), "{text}");
            }
        }
    }
}

/// The state directory is empty, for example because its disk is not mounted. A warning at only one
/// start could be missed.
#[test]
fn an_empty_state_directory_is_reported_until_there_is_a_key() {
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let finding = |daemon: &Daemon| {
        let told = daemon.keyward(&["doctor"]).stdout;
        let text = String::from_utf8(told).unwrap();
        assert!(text.contains("key store created at 20"), "{text}");
        text.contains(
            "warn  key store: there is no key, but there are grants (1); the key store was created at 20",
        )
    };
    assert!(!finding(&daemon));
    daemon.end(Signal::TERM);
    std::fs::remove_dir_all(daemon.path("state")).unwrap();
    daemon.start(&[]);
    daemon.end(Signal::TERM);
    let warning = "has no key, and there are grants; it was made at 20";
    assert!(daemon.log().contains("made a new key store") && !daemon.log().contains(warning));
    daemon.start(&[]);
    assert!(daemon.log().contains(warning), "{}", daemon.log());
    assert!(finding(&daemon));
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    assert!(!finding(&daemon));
}

#[test]
fn without_a_master_key_the_store_has_a_key_of_its_own() {
    let mut daemon = Daemon::prepare("");
    let unit = "[grep11.hsm]\nendpoints = [\"localhost:1\"]\nplaintext = true\n";
    let refused = |daemon: &Daemon, more: &str, part: &str| {
        daemon.configure(&format!("{unit}{more}"));
        let mut serve = daemon.serve(&[]);
        let (status, line) = failure_of(&serve.env_remove("CREDENTIALS_DIRECTORY").output().unwrap());
        assert!(status == 78 && line.contains(part), "{status} {line}");
    };
    refused(&daemon, "", "set key in section [store] of the configuration to a file made with (umask 077;");
    let output = daemon.serve(&["--check-config"]).output().unwrap();
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && warning.contains("warning: no store key"), "{warning}");

    let store = |path: &str| format!("[store]\nkey = {:?}\n", daemon.path(path));
    let (good, beside) = (store("store.key"), store("state/store.key"));
    daemon.new_key("store.key");
    refused(&daemon, &store("none.key"), "cannot read the store key");
    daemon.configure(&format!("{unit}{good}"));
    daemon.start(&[]);
    daemon.end(Signal::TERM);
    daemon.start(&[]);
    daemon.end(Signal::TERM);
    daemon.new_key("state/store.key");
    refused(&daemon, &beside, "the file is in the state directory");
    daemon.new_key("other.key");
    refused(&daemon, &format!("[store]\nkey = {:?}\n", daemon.path("other.key")), "another store key");
    refused(&daemon, "", "it was made with a store key in a file");
    let check = daemon.serve(&["--check-config"]).env_remove("CREDENTIALS_DIRECTORY").output().unwrap();
    let warning = String::from_utf8(check.stderr).unwrap();
    assert!(warning.contains("it was made with a store key in a file"), "{warning}");

    // systemd passes the store key in this way.
    std::fs::create_dir(daemon.path("credentials")).unwrap();
    std::fs::rename(daemon.path("store.key"), daemon.path("credentials/store-key")).unwrap();
    daemon.configure(unit);
    let mut serve = daemon.serve(&[]);
    serve.env("CREDENTIALS_DIRECTORY", daemon.path("credentials"));
    daemon.start_as(&mut serve);
}
