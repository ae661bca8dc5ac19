//! The start of the service. There is no systemd in a test: a script takes the place of systemctl,
//! and the test that of systemd.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::machine::{Machine, text_of};
use crate::fixture::{PROGRAM, has_root};

/// Waits until the script that stands for systemctl has been called with a verb, and lets it go on
/// after an act.
fn after(machine: &mut Machine, verb: &str, act: impl FnOnce(&mut Machine)) {
    let (called, go) = (machine.path(&format!("called.{verb}")), machine.path(&format!("go.{verb}")));
    let deadline = Instant::now() + Duration::from_secs(20);
    while !Path::new(&called).exists() {
        assert!(Instant::now() < deadline, "no systemctl {verb} in: {}", machine.calls());
        std::thread::sleep(Duration::from_millis(5));
    }
    act(machine);
    fs::write(go, "").unwrap();
}

/// A machine whose systemctl waits for the test.
fn machine() -> Machine {
    let machine = Machine::new(true);
    let directory = machine.path("");
    machine.program(
        "systemctl",
        &format!(
            "cd {directory}; echo \"systemctl $*\" >>programs.log; [ $1 != daemon-reload ] || exit 0\n\
             touch called.$1; until [ -e go.$1 ]; do sleep 0.01; done; rm called.$1 go.$1"
        ),
    );
    machine
}

fn begin(machine: &Machine, words: &[&str]) -> Child {
    let mut setup = machine.setup(words);
    setup.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

const ENABLE: &str = "systemctl daemon-reload\n\
                      systemctl enable --now keyward.socket keyward-admin.socket keyward.service\n";

#[test]
fn the_service_is_started_and_is_ready() {
    if !has_root() {
        return;
    }
    let mut machine = machine();
    let setup = begin(&machine, &["--unseal", "unprotected"]);
    after(&mut machine, "enable", Machine::boot);
    let text = text_of(&setup.wait_with_output().unwrap());
    assert!(text.contains("service     runs"), "{text}");
    assert_eq!(machine.calls(), ENABLE);
    machine.daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    // Once more, with a service that runs already.
    let setup = begin(&machine, &[]);
    after(&mut machine, "enable", |_| {});
    text_of(&setup.wait_with_output().unwrap());
    assert_eq!(machine.calls(), ENABLE.repeat(2), "it is not restarted");
}

/// A service of a version without the drop-in, which was started before the setup.
#[test]
fn a_service_that_runs_without_the_secret_is_restarted() {
    if !has_root() {
        return;
    }
    let mut machine = machine();
    fs::write(machine.path("etc/keyward.toml"), "").unwrap();
    let mut serve = machine.serve();
    machine.daemon.start_as(&mut serve);
    let setup = begin(&machine, &["--unseal", "unprotected"]);
    after(&mut machine, "enable", |_| {});
    after(&mut machine, "restart", Machine::boot);
    text_of(&setup.wait_with_output().unwrap());
    assert_eq!(machine.calls(), format!("{ENABLE}systemctl restart keyward.service\n"));
    assert_eq!(machine.opening(), "unprotected");
    // With owners, a restart would seal the unit.
    let mut machine = self::machine();
    let setup = begin(&machine, &["--unseal", "owners"]);
    after(&mut machine, "enable", Machine::boot);
    text_of(&setup.wait_with_output().unwrap());
    assert_eq!(machine.calls(), ENABLE);
}

#[test]
fn a_service_that_does_not_start_is_reported_and_the_next_run_starts_it() {
    if !has_root() {
        return;
    }
    let mut machine = machine();
    machine.program(
        "systemctl",
        "[ $1 = daemon-reload ] || { echo 'Unit keyward.service not found.' >&2; exit 5; }",
    );
    let output = begin(&machine, &["--unseal", "unprotected"]).wait_with_output().unwrap();
    let made = String::from_utf8(output.stdout).unwrap();
    assert!(made.contains("made        /etc/systemd/system/keyward.service.d/unseal.conf"), "{made}");
    let line = String::from_utf8(output.stderr).unwrap();
    let line = line.lines().last().unwrap();
    assert!(line.contains("exit status: 5: Unit keyward.service not found.; "), "{line}");
    assert!(line.ends_with("run keyward setup again"), "{line}");
    // It starts, and answers nothing.
    machine.program("systemctl", "");
    let output = begin(&machine, &[]).wait_with_output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.contains("does not answer; its log says more: journalctl --unit keyward"), "{line}");
    // It starts without its secret.
    let mut serve = machine.serve();
    machine.daemon.start_as(&mut serve);
    let output = begin(&machine, &[]).wait_with_output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.contains("the embedded unit is not ready: "), "{line}");
    machine.daemon.end(Signal::TERM);
    machine.boot();
    let report = text_of(&begin(&machine, &["--json"]).wait_with_output().unwrap());
    assert!(report.contains("\"started\": true"), "{report}");
}

#[test]
fn a_grant_for_a_service_that_is_not_there_is_doubtful() {
    if !has_root() {
        return;
    }
    let machine = Machine::new(true);
    for unit in ["shop.service", "site@.service"] {
        fs::write(machine.daemon.path("systemd").join(unit), "[Service]\n").unwrap();
    }
    let grant = |unit: &str| format!("[[grant]]\nuid = 7002\nkeys = [\"*\"]\nunit = {unit:?}\n");
    let units = ["shop.service", "site@one.service", "shopp.service"];
    machine.daemon.configure(&units.map(grant).concat());
    let config = machine.path("keyward.toml");
    let mut check = machine.inside(&[PROGRAM, "serve", "--check-config", "--dev", "--config", &config]);
    check.args(["--state-dir", &machine.path("state"), "--runtime-dir", &machine.path("run")]);
    let told = String::from_utf8(check.output().unwrap().stderr).unwrap();
    let warning =
        "grants name services that this host does not have, so nobody has these grants: shopp.service\n";
    assert!(told.contains(warning), "{told}");
}

#[test]
fn before_the_setup_commands_name_the_setup() {
    if !has_root() || Path::new("/var/lib/keyward").exists() {
        return;
    }
    let machine = Machine::new(true);
    let names_setup = || {
        let words = [("status", "not set up yet: run keyward setup"), ("doctor", "fix: run keyward setup: ")];
        words.map(|(command, words)| {
            let output = machine.inside(&[PROGRAM, command]).output().unwrap();
            String::from_utf8([output.stdout, output.stderr].concat()).unwrap().contains(words)
        })
    };
    // Without packages, there is nothing to set up.
    assert_eq!(names_setup(), [false, false]);
    fs::write(machine.path("systemd/keyward.service"), "[Service]\n").unwrap();
    assert_eq!(names_setup(), [true, true]);
    machine.set_up(&["--unseal", "unprotected"]);
    assert_eq!(names_setup(), [false, false]);
}
