//! Starts of a unit that has owners: by a secret of the host, and with a state that is lost or
//! damaged.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use keyward_proto::Outcome;
use rustix::process::Signal;

use crate::ceremony::Ceremony;
use crate::fixture::{Daemon, has_root};

#[test]
fn an_unseal_key_lets_the_unit_start_without_people() {
    if !has_root() {
        return;
    }
    let mut ceremony = Ceremony::owned();
    ceremony.put_in_force(&["dave", "erin"]);
    ceremony.daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    ceremony.daemon.new_key("unseal.key");
    let configuration = fs::read_to_string(ceremony.daemon.path("keyward.toml")).unwrap();
    let file = ceremony.path("unseal.key");
    ceremony.daemon.configure(&format!("{configuration}[embedded]\nunseal-key = {file:?}\n"));
    ceremony.restart();
    assert_eq!(ceremony.outcome(), Outcome::UnitSealed, "the secret keeps nothing yet");
    assert!(ceremony.daemon.log().contains("keeps no master key yet"), "{}", ceremony.daemon.log());
    ceremony.unseal("dave").unwrap();
    ceremony.unseal("erin").unwrap();
    ceremony.restart();
    assert_eq!(ceremony.outcome(), Outcome::Done);
    // The secret is replaced while the unit is open.
    ceremony.daemon.new_key("unseal.key");
    ceremony.daemon.succeed(&["reload"]);
    ceremony.daemon.await_ready();
    ceremony.restart();
    assert_eq!(ceremony.outcome(), Outcome::Done);
    ceremony.daemon.new_key("unseal.key");
    ceremony.restart();
    assert_eq!(ceremony.outcome(), Outcome::UnitSealed, "another secret");
    assert!(ceremony.daemon.log().contains("does not open the master keys"), "{}", ceremony.daemon.log());
    ceremony.unseal("dave").unwrap();
    ceremony.unseal("erin").unwrap();
    ceremony.restart();
    assert_eq!(ceremony.outcome(), Outcome::Done, "the new secret has replaced the old one");
    let told = ceremony.daemon.succeed(&["unit", "status"]);
    assert!(told.contains("opened           by a plain file at each start: unprotected"), "{told}");

    // The next start would not open the unit.
    let unsafe_start = |ceremony: &Ceremony, why: &str| {
        ceremony.daemon.keyward(&["reload"]);
        ceremony.daemon.await_ready();
        assert_fails_next_start(ceremony, why);
    };
    fs::rename(&file, ceremony.daemon.path("away.key")).unwrap();
    unsafe_start(&ceremony, "there is no such file");
    ceremony.daemon.new_key("unseal.key");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    unsafe_start(&ceremony, "run: chmod 600");
    fs::write(&file, "a passphrase").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    unsafe_start(&ceremony, "cannot use the unseal key");
    // Parts open a unit whose secret keeps nothing.
    fs::remove_file(&file).unwrap();
    ceremony.restart();
    let told = ceremony.daemon.succeed(&["unit", "status"]);
    assert!(told.contains("opened           not at this start"), "{told}");
    ceremony.unseal("dave").unwrap();
    ceremony.unseal("erin").unwrap();
    assert_eq!(ceremony.outcome(), Outcome::Done);
    assert_fails_next_start(&ceremony, "there is no such file");
    // Another secret is one that keeps nothing yet, until the reload.
    ceremony.daemon.new_key("unseal.key");
    ceremony.daemon.succeed(&["reload"]);
    ceremony.daemon.await_ready();
    let status = String::from_utf8(ceremony.daemon.keyward(&["status"]).stdout).unwrap();
    assert!(
        !status.contains("next start")
            && status.contains("opened by a plain file at each start: unprotected"),
        "{status}"
    );
    // Without the setting, the unit is again one of its owners.
    ceremony.daemon.configure(&configuration);
    ceremony.daemon.succeed(&["reload"]);
    ceremony.daemon.await_ready();
    let status = String::from_utf8(ceremony.daemon.keyward(&["status"]).stdout).unwrap();
    assert!(
        !status.contains("next start") && status.contains("opened by its owners after each start"),
        "{status}"
    );
    assert!(ceremony.daemon.http("GET", "/ready", "").unwrap().1.contains("by its owners"));
}

/// Status and doctor say that the next start would leave the unit sealed, and nothing else.
#[track_caller]
fn assert_fails_next_start(ceremony: &Ceremony, why: &str) {
    let words = "the next start cannot open the embedded unit";
    for command in ["status", "doctor"] {
        let output = ceremony.daemon.keyward(&[command]);
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(!output.status.success() && told.contains(words) && told.contains(why), "{command}: {told}");
        assert!(!told.contains("by a plain file at each start"), "{command}: {told}");
    }
    let told = ceremony.daemon.succeed(&["unit", "status"]);
    assert!(told.contains("opened           not at the next start"), "{told}");
    let (_, ready) = ceremony.daemon.http("GET", "/ready", "").unwrap();
    assert!(!ready.contains("by a plain file at each start"), "{ready}");
}

#[test]
fn a_weak_passphrase_and_a_secret_beside_the_keys_are_named() {
    let mut daemon = Daemon::prepare("");
    fs::create_dir(daemon.path("state")).unwrap();
    let file = daemon.path("state/passphrase");
    fs::write(&file, "fifteen chars..\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let configure = |daemon: &Daemon, file: &Path| {
        daemon.configure(&format!("[embedded]\nunseal-passphrase = {file:?}\n"));
    };
    configure(&daemon, &file);
    let warnings = |daemon: &Daemon| {
        let output = daemon.serve(&["--check-config"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        told.lines().filter(|line| line.contains("warning: ")).collect::<Vec<_>>().join("\n")
    };
    let expected = ["the unseal passphrase is short", "one backup has both", "at least 16 characters"];
    let told = warnings(&daemon);
    assert!(expected.iter().all(|words| told.contains(words)) && told.lines().count() == 2, "{told}");
    let mut serve = daemon.serve(&[]);
    daemon.start_as(serve.env_remove("CREDENTIALS_DIRECTORY"));
    assert!(expected.iter().all(|words| daemon.log().contains(words)), "{}", daemon.log());
    let doctor = String::from_utf8(daemon.keyward(&["doctor"]).stdout).unwrap();
    assert!(expected.iter().all(|words| doctor.contains(words)), "{doctor}");
    // As the warnings advise.
    let file = daemon.path("passphrase");
    fs::write(&file, "sixteen chars...\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    configure(&daemon, &file);
    daemon.succeed(&["reload"]);
    daemon.await_ready();
    assert_eq!(warnings(&daemon), "");
    daemon.end(Signal::TERM);
    let mut serve = daemon.serve(&[]);
    daemon.start_as(serve.env_remove("CREDENTIALS_DIRECTORY"));
    assert_eq!(daemon.http("GET", "/ready", "").unwrap().0, 200);
}

/// A unit whose master key has no owners asks nobody for parts, and says why it is sealed.
#[test]
fn a_wrong_secret_of_a_unit_without_owners_is_named() {
    if !has_root() {
        return;
    }
    let mut ceremony = Ceremony::unowned();
    ceremony.daemon.new_key("unseal.key");
    let configuration = fs::read_to_string(ceremony.daemon.path("keyward.toml")).unwrap();
    let file = ceremony.path("unseal.key");
    ceremony.daemon.configure(&format!("{configuration}[embedded]\nunseal-key = {file:?}\n"));
    ceremony.restart();
    ceremony.daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    for name in ["alice", "bob", "carol"] {
        ceremony.person(&["unit", "admin", "new"], name);
    }
    ceremony.claim();
    ceremony.daemon.new_key("unseal.key");
    ceremony.restart();
    let shown = ceremony.daemon.succeed(&["unit", "status"]);
    assert!(shown.contains("sealed: no secret of this host opens it\nreason  "), "{shown}");
    assert!(!shown.contains("bring their parts"), "{shown}");
    let flat = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("the secret does not open the master keys"), "{shown}");
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    let (status, line) = ceremony.run(&["unit", "seal"]).unwrap_err();
    assert!(status == 73 && line.contains("no owners who could bring it again"), "{line}");
}

#[test]
fn a_lost_state_is_claimed_again_and_a_file_is_no_owner() {
    if !has_root() {
        return;
    }
    let mut ceremony = Ceremony::owned();
    ceremony.put_in_force(&["dave", "erin"]);
    ceremony.daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let said = ceremony.daemon.succeed(&["backup", &ceremony.path("copy")]);
    assert!(said.contains("/unit") && !said.contains("backup check"), "{said}");
    assert!(ceremony.daemon.end(Signal::TERM).success());
    let check = |ceremony: &Ceremony| {
        let mut check = ceremony.daemon.serve(&["--check-config"]);
        check.env_remove("CREDENTIALS_DIRECTORY").output().unwrap()
    };
    let output = check(&ceremony);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("bring their parts"), "{output:?}");
    // A master key file beside owners.
    let configuration = fs::read_to_string(ceremony.daemon.path("keyward.toml")).unwrap();
    ceremony.daemon.new_master_key();
    let file = ceremony.path("master.key");
    ceremony.daemon.configure(&format!("{configuration}[embedded]\nmaster-key = {file:?}\n"));
    assert!(check(&ceremony).status.success());
    ceremony.daemon.start(&[]);
    assert_eq!(ceremony.outcome(), Outcome::UnitSealed, "the file opens nothing that is of the owners");
    ceremony.daemon.end(Signal::TERM);
    ceremony.daemon.configure(&configuration);
    // A damaged state.
    let state = ceremony.daemon.path("state/unit/state");
    let text = fs::read_to_string(&state).unwrap();
    fs::write(&state, &text[..200]).unwrap();
    let output = check(&ceremony);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("is damaged"));
    // The directory is lost: the owners load the same parts again.
    fs::remove_dir_all(ceremony.daemon.path("state/unit")).unwrap();
    let mut serve = ceremony.daemon.serve(&[]);
    ceremony.daemon.start_as(serve.env_remove("CREDENTIALS_DIRECTORY"));
    let (_, ready) = ceremony.daemon.http("GET", "/ready", "").unwrap();
    assert!(ready.contains("load the same parts") && !ready.contains("openssl rand"), "{ready}");
    ceremony.unit_key = ceremony.status()["unit_key"].as_str().unwrap().to_owned();
    ceremony.claim();
    ceremony.put_in_force(&["dave", "erin"]);
    assert_eq!(ceremony.outcome(), Outcome::Done);
}

/// A unit whose state is gone does not begin anew without its owners, though a file has its master
/// key.
#[test]
fn a_unit_with_owners_does_not_forget_them() {
    if !has_root() {
        return;
    }
    let mut ceremony = Ceremony::unowned();
    ceremony.daemon.new_master_key();
    let configuration = fs::read_to_string(ceremony.daemon.path("keyward.toml")).unwrap();
    let file = ceremony.path("master.key");
    ceremony.daemon.configure(&format!("{configuration}[embedded]\nmaster-key = {file:?}\n"));
    ceremony.restart();
    ceremony.daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let (status, line) = ceremony.daemon.fail(&["unit", "seal"]);
    assert!(status != 0 && line.contains("no owners who could bring it"), "{line}");
    ["alice", "bob", "carol"].iter().for_each(|name| drop(ceremony.person(&["unit", "admin", "new"], name)));
    let state = ceremony.daemon.path("state/unit/state");
    let before_claim = fs::read(&state).unwrap();
    ceremony.claim();
    assert_eq!(ceremony.outcome(), Outcome::Done);
    let [unit, away] = ["state/unit", "away"].map(|name| ceremony.daemon.path(name));
    ceremony.daemon.end(Signal::TERM);
    fs::rename(&unit, &away).unwrap();
    for old in [false, true] {
        // An old state of the same unit, which nobody owned then, is no better than none.
        if old {
            fs::write(&state, &before_claim).unwrap();
        }
        ceremony.start();
        let (status, ready) = ceremony.daemon.http("GET", "/ready", "").unwrap();
        assert!(status == 503 && ready.contains("which had owners, is lost or an old one"), "{ready}");
        ceremony.daemon.succeed(&["reload"]);
        ceremony.daemon.await_ready();
        assert_ne!(ceremony.outcome(), Outcome::Done);
        ceremony.daemon.end(Signal::TERM);
    }
    // From a backup; and as the message says, without these owners.
    fs::rename(&unit, ceremony.daemon.path("new")).unwrap();
    fs::rename(&away, &unit).unwrap();
    ceremony.start();
    assert_eq!(ceremony.outcome(), Outcome::Done);
    ceremony.daemon.end(Signal::TERM);
    fs::remove_dir_all(&unit).unwrap();
    fs::remove_file(ceremony.daemon.path("state/unit.known")).unwrap();
    ceremony.start();
    assert_eq!(ceremony.outcome(), Outcome::Done);
}
