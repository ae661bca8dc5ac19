//! The daemon itself: its configuration, as the next start will read it.

use std::fs;
use std::process::Command;

use keyward_tests::Daemon;
use keyward_tests::tool::{fail, succeed};

use super::{doctor, findings};

#[test]
fn the_configuration_is_read_before_the_daemon_does() {
    let mut daemon = Daemon::start();
    let find = || {
        let found = doctor(&daemon, "configuration", &[]);
        // There is a warning about grants for the user of the tests.
        found.into_iter().filter(|[_, detail, _]| !detail.contains("a grant lets root")).collect::<Vec<_>>()
    };
    let one = |found: Vec<super::Finding>, verdict: &str, told: &str| {
        let [[got, detail, fix]] = &found[..] else { panic!("{found:#?}") };
        assert!(got == verdict && detail.contains(told), "{told:?} in {got}: {detail}");
        fix.clone()
    };
    let path = daemon.path("keyward.toml");
    one(find(), "ok", &format!("{} is valid, and in force", path.display()));
    let good = fs::read_to_string(&path).unwrap();

    // A typo, which the next start would report.
    fs::write(&path, format!("{good}[sokcet]\nconnections = 9\n")).unwrap();
    let fix = one(find(), "fail", "the next start of the daemon would fail: configuration ");
    let again = fix.split_once("then check again: ").unwrap().1;
    assert!(fail(&mut daemon.shell(again)).1.contains("sokcet"));

    let text = format!("{good}[[grant]]\nuser = \"daemon\"\nkeys = [\"shop\"]\n");
    fs::write(&path, &text).unwrap();
    let fix = one(find(), "warn", "differs from the configuration that the daemon has read");
    succeed(&mut daemon.shell(again));
    succeed(&mut daemon.shell(fix.strip_prefix("reload the daemon: ").unwrap()));
    one(find(), "ok", "in force");

    // There is a key, but not that one.
    daemon.generate("other", "p256");
    let found = find();
    let [_, [verdict, detail, fix]] = &found[..] else { panic!("{found:#?}") };
    assert!(
        verdict == "warn" && detail == "grants name keys that the daemon does not have: shop",
        "{detail}"
    );
    let list = fix.strip_prefix("compare the labels with: ").unwrap().split_once(';').unwrap().0;
    assert!(succeed(&mut daemon.shell(list)).contains("other"));
    daemon.generate("shop", "p256");
    one(find(), "ok", "in force");

    fs::write(&path, format!("{text}[socket]\nalso = [\"@keyward-doctor\"]\n")).unwrap();
    daemon.reload();
    let found = find();
    let [[_, in_force, _], [verdict, detail, _]] = &found[..] else { panic!("{found:#?}") };
    assert!(in_force.contains("in force") && verdict == "warn", "{found:#?}");
    assert!(detail.contains("take effect with a restart of the daemon: socket.also"), "{detail}");

    // Without a daemon, and with another file.
    fs::write(&path, "[sokcet]\n").unwrap();
    daemon.stop();
    let of_file = |command: &mut Command| {
        let state = daemon.path("state");
        findings(command.arg("--config").arg(&path).arg("--state-dir").arg(state), "configuration")
    };
    one(of_file(&mut daemon.keyward(&["doctor", "--json"])), "fail", "sokcet");
}
