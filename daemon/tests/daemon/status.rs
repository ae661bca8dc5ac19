//! `keyward status`: its exit status for cron, and its one screen.

use core::time::Duration;
use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread;
use std::time::Instant;

use keyward_proto::Outcome;
use rustix::process::Signal;

use crate::audit::await_some;
use crate::fixture::{Daemon, FAKETIME, certificate_verify};

/// Exit status and output.
fn status(daemon: &Daemon) -> (i32, String) {
    let output = daemon.keyward(&["status"]);
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

/// Attaches a certificate to a new key. The certificate was made this many days ago, and is valid
/// for this many days since then.
fn certify(daemon: &Daemon, label: &str, age: u32, days: u32) {
    let (key, chain) = (daemon.path("plain.key"), daemon.path("chain.pem"));
    assert!(std::path::Path::new(FAKETIME).exists(), "the package faketime is missing");
    let mut openssl = Command::new("openssl");
    openssl.env("LD_PRELOAD", FAKETIME).env("FAKETIME", format!("-{age}d"));
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
    openssl.args(["-days", &days.to_string(), "-subj", "/CN=shop", "-keyout"]).arg(&key);
    openssl.args(["-addext", &format!("subjectAltName=DNS:{label}.example"), "-out"]).arg(&chain);
    let made = openssl.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    daemon.succeed(&["key", "import", label, "--in", key.to_str().unwrap()]);
    daemon.succeed(&["cert", "attach", label, "--in", chain.to_str().unwrap()]);
}

/// The command that reloads the service has no answer: the daemon keeps the reason.
#[test]
fn a_refused_reload_is_a_problem_until_one_succeeds() {
    let daemon = Daemon::production(&[("*", "tls-server")]);
    let text = fs::read_to_string(daemon.path("keyward.toml")).unwrap();
    assert_eq!(status(&daemon).0, 0);
    daemon.configure("gant = []");
    daemon.signal(Signal::HUP);
    daemon.await_ready();
    let (code, shown) = status(&daemon);
    let problem = "problem     the last reload was refused, so an older configuration is in force: ";
    assert!(code == 1 && shown.contains(problem) && shown.contains("`gant`"), "{code} {shown}");
    let (_, page) = daemon.http("GET", "/v1/status", "").unwrap();
    assert!(page.contains("the last reload was refused"), "{page}");
    daemon.configure(&text);
    daemon.succeed(&["reload"]);
    assert_eq!(status(&daemon).0, 0);
}

/// systemd holds the sockets of a service whose start fails.
#[test]
fn a_socket_without_a_daemon_does_not_hold_up_the_commands() {
    let daemon = Daemon::prepare("");
    fs::create_dir(daemon.path("run")).unwrap();
    let _listening =
        ["admin.sock", "keyward.sock"].map(|name| UnixListener::bind(daemon.path("run").join(name)).unwrap());
    let asked = Instant::now();
    let words = thread::scope(|scope| {
        let doctor = scope.spawn(|| daemon.keyward(&["doctor"]));
        let told = String::from_utf8(daemon.keyward(&["status"]).stderr).unwrap();
        [told, String::from_utf8(doctor.join().unwrap().stdout).unwrap()]
    });
    assert!(asked.elapsed() < Duration::from_secs(40), "{:?}", asked.elapsed());
    for words in words {
        assert!(words.contains("no answer from the daemon") && words.contains("journalctl"), "{words}");
        assert!(!words.contains("start the daemon (systemctl"), "{words}");
    }
}

#[test]
fn the_exit_status_says_how_bad_it_is() {
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    certify(&daemon, "good", 0, 90);
    let (code, text) = status(&daemon);
    assert!(code == 0 && text.starts_with("state       well\n"), "{code} {text}");

    certify(&daemon, "old", 91, 90);
    let (code, text) = status(&daemon);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("2 certificates, 1 expired, 0 to renew"), "{text}");
    assert!(
        text.contains("problem     1 certificate has expired,") && text.contains("old (old.example)"),
        "{text}"
    );
    assert!(text.contains("by the copies in the daemon, from key import and cert attach"), "{text}");
    assert!(text.contains("for a newer file of a server: keyward cert attach LABEL --in FILE"), "{text}");
    let told = String::from_utf8(daemon.keyward(&["cert", "check"]).stdout).unwrap();
    assert!(told.contains("old version 1: the copy in the daemon expires "), "{told}");
    assert!(told.contains("keyward cert attach old --in FILE"), "{told}");
    daemon.succeed(&["key", "disable", "old"]);
    let listed = daemon.succeed(&["cert", "list"]);
    assert!(listed.contains("old (disabled)") && !listed.contains("good ("), "{listed}");
    daemon.succeed(&["key", "enable", "old"]);
    daemon.succeed(&["cert", "detach", "old"]);
    assert_eq!(status(&daemon).0, 0);
    certify(&daemon, "soon", 80, 90);
    let (code, text) = status(&daemon);
    assert!(code == 1 && text.contains("2 certificates, 0 expired, 1 to renew"), "{code} {text}");
    daemon.succeed(&["cert", "detach", "soon"]);

    daemon.end(Signal::TERM);
    let output = daemon.keyward(&["status"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(69), &b""[..]));
    fs::rename(daemon.path("master.key"), daemon.path("away")).unwrap();
    daemon.start(&[]);
    let (code, text) = status(&daemon);
    assert!(code == 2 && text.starts_with("state       KEYS CANNOT SIGN"), "{code} {text}");
    assert!(text.contains("enabled keys cannot sign now"), "{text}");
}

#[test]
fn one_screen_has_keys_certificates_and_refusals() {
    let daemon = Daemon::dev("");
    for label in ["a", "b", "c"] {
        daemon.succeed(&["key", "generate", label, "--type", "p256"]);
    }
    daemon.succeed(&["key", "disable", "c"]);
    for (label, days) in [("d60", 60), ("d40", 40), ("d50", 50), ("d90", 90), ("d80", 80), ("d70", 70)] {
        certify(&daemon, label, 0, days);
    }
    for _ in 0..2 {
        assert_eq!(daemon.outcome("a", &certificate_verify()), Outcome::Done);
    }
    assert_eq!(daemon.outcome("c", &certificate_verify()), Outcome::KeyDisabled);
    assert_eq!(daemon.outcome("none", &certificate_verify()), Outcome::UnknownKey);
    let (code, text) = status(&daemon);
    assert_eq!(code, 0, "{text}");
    for words in [
        "mode        DEVELOPMENT (--dev)",
        "keys        9: 1 disabled, 8 enabled; 0 grants",
        "expiry      6 certificates, 0 expired, 0 to renew",
        "signatures  2 done, 2 refused\n            1 key-disabled, last 0 minutes ago\n            1 unknown-key, last 0",
        "confined    ",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let rows: Vec<_> = text.lines().filter_map(|line| line.split_once(" (d")).collect();
    let labels: Vec<_> = rows.iter().map(|(before, _)| before.rsplit(' ').next().unwrap()).collect();
    assert_eq!(labels, ["d40", "d50", "d60", "d70", "d80"], "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.len() <= 24, "{} lines: {text}", lines.len());
    for line in lines.iter().filter(|line| !line.starts_with("unconfined")) {
        assert!(line.chars().count() <= 80, "{line}");
    }

    let json: serde_json::Value = serde_json::from_str(&daemon.succeed(&["status", "--json"])).unwrap();
    assert_eq!(json["keys_by_state"], serde_json::json!({"disabled": 1, "enabled": 8}));
    assert_eq!((&json["can_sign"], &json["unusable_keys"]), (&true.into(), &0.into()));
    let first = &json["certificates"]["first"];
    assert_eq!(first.as_array().unwrap().len(), 5);
    assert_eq!((&first[0]["key"], &first[0]["names"]), (&"d40".into(), &serde_json::json!(["d40.example"])));
}

/// A state in which nobody can connect is not called well.
#[test]
fn a_lost_socket_is_a_problem() {
    let daemon = Daemon::production(&[("*", "tls-server")]);
    fs::remove_file(daemon.path("run/keyward.sock")).unwrap();
    let (code, text) = await_some(|| {
        let (code, text) = status(&daemon);
        text.contains("nobody can connect to ").then_some((code, text))
    });
    assert_eq!(code, 1, "{text}");
}

/// Nobody has renewed, and nobody has looked: that is not called well, here and on the page.
#[test]
fn plans_and_watched_files_that_nobody_has_looked_at_are_not_well() {
    let mut daemon = Daemon::prepare("");
    daemon.new_master_key();
    let production = daemon.production_configuration(&[("*", "tls-server")]);
    daemon.configure(&production);
    daemon.start(&[]);
    assert_eq!(status(&daemon).0, 0);
    let plan = "[[certificate]]\nname = \"web\"\nnames = [\"web.example\"]\nissue = [\"/usr/bin/false\"]\n";
    let watch = "[[watch]]\nname = \"mail\"\nfile = \"/nonexistent/mail.pem\"\n";
    for (section, findings) in [
        (
            plan,
            &["plan web has no certificate yet", "no agent has asked for work since the daemon started"][..],
        ),
        (watch, &["nobody has looked lately at the certificate mail"]),
    ] {
        daemon.configure(&format!("{production}{section}"));
        daemon.succeed(&["reload"]);
        let (code, text) = status(&daemon);
        assert_eq!(code, 1, "{text}");
        for words in findings {
            assert!(text.contains(&format!("problem     {words}")), "{words}: {text}");
        }
        // The page of a moment ago is shown again.
        await_some(|| {
            let (_, page) = daemon.http("GET", "/", "").unwrap();
            findings.iter().all(|words| page.contains(words)).then_some(())
        });
    }
    let missing =
        r#"[{"name": "mail", "validity": null, "names": [], "problem": "no such file", "seen": 0}]"#;
    assert_eq!(daemon.http("POST", "/v1/watched", missing).unwrap().0, 200);
    let (code, text) = status(&daemon);
    assert!(code == 1 && text.contains("others renew, is not found: no such file"), "{code} {text}");
    let valid = |until: u64| {
        let seen = format!(
            r#"[{{"name": "mail", "validity": [0, {until}], "names": [], "problem": null, "seen": 0}}]"#
        );
        assert_eq!(daemon.http("POST", "/v1/watched", &seen).unwrap().0, 200);
        status(&daemon)
    };
    let (code, text) = valid(10);
    assert!(code == 1 && text.contains("others renew, has expired"), "{code} {text}");
    let (code, text) = valid(100_000_000_000);
    assert!(code == 0 && text.starts_with("state       well\n"), "{code} {text}");
}

#[test]
fn a_plan_whose_renewals_fail_is_not_well() {
    let plan = "[[certificate]]\nname = \"web\"\nnames = [\"web.example\"]\nissue = [\"/usr/bin/false\"]\n";
    let daemon = Daemon::dev(plan);
    let post = |path: &str, body: &str| assert_eq!(daemon.http("POST", path, body).unwrap().0, 200, "{path}");
    post("/v1/plans/web/prepare", "");
    post("/v1/plans/web/report", "\"begin\"");
    let failed = r#"{"failed": {"kind": "program", "detail": "no such issuer", "retry_after": null}}"#;
    post("/v1/plans/web/report", failed);
    let (code, text) = status(&daemon);
    let words =
        "problem     plan web fails, and has no certificate: no such issuer; see: keyward cert status web";
    assert!(code == 1 && text.contains(words), "{code} {text}");
}

#[test]
fn the_list_of_findings_decides_the_exit_status() {
    let daemon = Daemon::production(&[("*", "tls-server")]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let json = || serde_json::from_str::<serde_json::Value>(&daemon.succeed(&["status", "--json"])).unwrap();
    // A recovery file is to be made, and nothing is wrong.
    let findings = json()["findings"].clone();
    let first = &findings.as_array().unwrap()[0];
    assert_eq!(first["severity"], "note", "{findings}");
    assert!(first["text"].as_str().unwrap().contains("keyward backup --recovery FILE"), "{findings}");
    let (code, text) = status(&daemon);
    assert!(code == 0 && text.contains("to do       no recovery file is known"), "{code} {text}");
    let (_, page) = daemon.http("GET", "/", "").unwrap();
    assert!(page.contains("no recovery file is known"), "{page}");

    // The time of the start does not move with the fractions of seconds.
    let (first, begin) = (json(), Instant::now());
    while begin.elapsed() < Duration::from_secs(2) {
        let now = json();
        assert_eq!(now["started"], first["started"], "{now}");
    }
}
