//! Installations of earlier versions, lost secrets, and setups that were interrupted.

use std::fs;
use std::os::unix::fs::chown;
use std::process::Command;

use keyward_proto::Outcome;
use rustix::process::Signal;
use serde_json::json;

use super::machine::{Machine, has_systemd_creds, text_of};
use crate::fixture::has_root;

/// A machine with an installation of an earlier version, whose store has a key.
fn existing(has_systemd: bool) -> Machine {
    let mut machine = Machine::new(has_systemd);
    machine.daemon.new_key("etc/master.key");
    fs::write(machine.path("etc/keyward.toml"), "").unwrap();
    machine.grant();
    let credentials = machine.daemon.path("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::copy(machine.path("etc/master.key"), credentials.join("master-key")).unwrap();
    let mut serve = machine.serve();
    machine.daemon.start_as(serve.env("CREDENTIALS_DIRECTORY", &credentials));
    machine.daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    machine.daemon.end(Signal::TERM);
    machine
}

#[test]
fn an_existing_installation_keeps_its_key_file() {
    if !has_root() {
        return;
    }
    let mut machine = existing(true);
    // The unit file of that version, which the new one replaces.
    let earlier = format!("[Service]\nLoadCredential=master-key:{}\n", machine.path("etc/master.key"));
    fs::write(machine.path("systemd/keyward.service"), &earlier).unwrap();
    let (status, line) = machine.refused(&["--unseal", "credential"]);
    assert!(status == 73 && line.contains("etc/master.key"), "{line}");
    let before = machine.files();
    let report = machine.set_up(&[]);
    assert_eq!(report["unseal"], "master-key");
    let drop_in = machine.daemon.path("systemd/keyward.service.d/unseal.conf");
    assert_eq!(report["made"], json!(["/etc/systemd/system/keyward.service.d/unseal.conf"]));
    assert_eq!(machine.drop_in(), earlier + PLAIN);
    let after: Vec<_> = machine.files().into_iter().filter(|(path, _)| *path != drop_in).collect();
    assert_eq!(after, before, "nothing else has changed");
    machine.boot();
    assert_eq!(machine.outcome(), Outcome::Done);
    assert_eq!(machine.set_up(&["--unseal", "unprotected"])["made"], json!([]));
    // In a drop-in of another name.
    fs::rename(&drop_in, drop_in.with_file_name("mine.conf")).unwrap();
    assert_eq!(machine.set_up(&[])["made"], json!([]));
    fs::remove_file(drop_in.with_file_name("mine.conf")).unwrap();
    // By hand, as the page says.
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/setup.md")).unwrap();
    let by_hand = page.split("\n\n").find(|block| block.contains("printf")).unwrap();
    text_of(&machine.inside(&["sh", "-euc", by_hand]).output().unwrap());
    let named = "[Service]\nLoadCredential=master-key:/etc/keyward/master.key\n".to_owned();
    assert_eq!(machine.drop_in(), named + PLAIN);
    assert!(machine.calls().contains("restart keyward"));
    // This machine has the file in another place.
    let (status, line) = machine.refused(&[]);
    assert!(status == 78 && line.contains("/etc/keyward/master.key, which /etc/systemd/"), "{line}");
    let by_hand = by_hand.replace("/etc/keyward/master.key", &machine.path("etc/master.key"));
    text_of(&machine.inside(&["sh", "-euc", &by_hand]).output().unwrap());
    assert_eq!(machine.set_up(&[])["made"], json!([]));
}

#[test]
fn an_existing_installation_without_systemd_keeps_its_key_file() {
    if !has_root() {
        return;
    }
    let mut machine = existing(false);
    let report = machine.set_up(&[]);
    assert_eq!(report["line"], format!("master-key = {:?}", machine.path("etc/master.key")));
    let mut serve = machine.serve();
    machine.daemon.start_as(&mut serve);
    assert_eq!(machine.outcome(), Outcome::Done);
    assert_eq!(machine.set_up(&[])["made"], json!([]));
}

#[test]
fn no_secret_is_made_beside_a_store_with_keys() {
    if !has_root() {
        return;
    }
    let mut machine = existing(true);
    let [file, away] = ["etc/master.key", "away/master.key"].map(|name| machine.path(name));
    fs::rename(&file, &away).unwrap();
    for choice in ["credential", "passphrase", "unprotected"] {
        let (status, line) = machine.refused(&["--unseal", choice]);
        assert!(status == 78 && line.contains("would open none of its keys"), "{line}");
    }
    let (_, line) = machine.refused(&[]);
    assert!(line.contains(&file) && line.contains("keyward setup --unseal owners"), "{line}");
    // While the daemon runs, and has the store open.
    let mut serve = machine.serve();
    machine.daemon.start_as(&mut serve);
    let (_, line) = machine.refused(&["--unseal", "unprotected"]);
    assert!(line.contains("would open none of its keys"), "{line}");
    fs::rename(&away, &file).unwrap();
    machine.set_up(&[]);
    machine.boot();
    assert_eq!(machine.outcome(), Outcome::Done);
}

/// A configured secret that would leave the unit sealed at the next start.
#[test]
fn a_secret_that_does_not_open_the_unit_is_refused() {
    if !has_root() {
        return;
    }
    for (choice, has_systemd) in
        [("unprotected", true), ("passphrase", true), ("credential", true), ("unprotected", false)]
    {
        if choice == "credential" && !has_systemd_creds() {
            continue;
        }
        let mut machine = Machine::new(has_systemd);
        let file = machine.set_up(&["--unseal", choice])["secret"].as_str().unwrap().to_owned();
        machine.grant();
        match has_systemd {
            true => machine.boot(),
            false => machine.daemon.start_as(&mut machine.serve()),
        }
        machine.daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
        // While the daemon runs, its unit is open.
        let away = machine.path("away/secret");
        let (code, text) = machine.look("status");
        assert!(code == 0 && text.starts_with("state       well\n"), "{code} {text}");
        fs::rename(&file, &away).unwrap();
        let lost = "the next start of the daemon would leave its unit sealed: ";
        let (code, text) = machine.look("status");
        assert!(code == 1 && text.contains(&format!("problem     {lost}{file}, which ")), "{code} {text}");
        let (code, text) = machine.look("doctor");
        assert!(code == 78 && text.contains(&format!("FAIL  master key: {lost}")), "{code} {text}");
        fs::rename(&away, &file).unwrap();
        machine.daemon.end(Signal::TERM);
        assert_eq!(machine.set_up(&[])["made"], json!([]));
        fs::rename(&file, &away).unwrap();
        let (status, line) = machine.refused(&["--yes"]);
        let gone = format!("{file}, which ");
        assert!(status == 78 && line.contains(&gone) && line.contains("is not there"), "{line}");
        assert!(line.contains(&format!("restore {file} from its copy")), "{line}");
        // Another secret of the same form. Only the key of its host opens a credential.
        let other = Machine::new(true);
        if choice == "credential" {
            fs::copy(machine.path("host.secret"), other.path("host.secret")).unwrap();
        }
        let another = other.set_up(&["--unseal", choice])["secret"].as_str().unwrap().to_owned();
        fs::copy(&another, &file).unwrap();
        let (status, line) = machine.refused(&["--yes"]);
        let does_not = format!("the secret in {file} does not open the master key of the unit");
        assert!(status == 78 && line.contains(&does_not), "{line}");
        let other_secret = machine.path("away/other");
        fs::rename(&file, &other_secret).unwrap();
        fs::rename(&away, &file).unwrap();
        assert_eq!(machine.set_up(&[])["made"], json!([]));
        match has_systemd {
            true => machine.boot(),
            false => machine.daemon.start_as(&mut machine.serve()),
        }
        fs::rename(&file, &away).unwrap();
        fs::rename(&other_secret, &file).unwrap();
        let (code, text) = machine.look("status");
        assert!(code == 1 && text.contains(&format!("problem     {lost}{does_not}")), "{code} {text}");
        fs::rename(&away, &file).unwrap();
        machine.daemon.end(Signal::TERM);
        if has_systemd {
            // Without the state of the unit, no secret has anything to open.
            let unit = machine.path("state/unit");
            fs::rename(&unit, machine.path("away/unit")).unwrap();
            let (status, line) = machine.refused(&[]);
            assert!(status == 78 && line.contains(&format!("{unit} does not have that key")), "{line}");
            continue;
        }
        // A file that the user of the daemon cannot read.
        for path in ["state", "state/keys.redb", "state/unit", "state/unit/state"] {
            chown(machine.path(path), Some(7002), Some(7002)).unwrap();
        }
        let (status, line) = machine.refused(&[]);
        let advice = format!("run: chown 7002 {file}\n");
        assert!(status == 77 && line.ends_with(&advice), "{line}");
        chown(&file, Some(7002), None).unwrap();
        assert_eq!(machine.set_up(&[])["made"], json!([]));
    }
}

/// A setup stops between two steps: the next one uses the same secret.
#[test]
fn an_interrupted_setup_is_completed() {
    if !has_root() {
        return;
    }
    for choice in ["credential", "passphrase", "unprotected"] {
        if choice == "credential" && !has_systemd_creds() {
            continue;
        }
        let mut machine = Machine::new(true);
        let copy = machine.path("away/copy");
        let more: &[&str] = if choice == "credential" { &["--recovery", &copy] } else { &[] };
        // A file in the place of the directory for the drop-in.
        let obstacle = machine.path("systemd/keyward.service.d");
        fs::write(&obstacle, "").unwrap();
        let words = [&["--unseal", choice, "--no-start"], more].concat();
        let output = machine.setup(&words).output().unwrap();
        let line = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && line.contains("unseal.conf"), "{line}");
        fs::remove_file(&obstacle).unwrap();
        let made = machine.files();
        // Even before the copy.
        let _ = fs::remove_file(&copy);
        // The choice need not be made again.
        machine.set_up(more);
        let after = machine.files();
        assert!(made.iter().all(|file| after.contains(file)), "{choice}: another secret");
        machine.grant();
        machine.boot();
        machine.assert_starts_alone(Machine::boot);
    }
}

#[test]
fn a_killed_setup_leaves_whole_files_or_none() {
    if !has_root() {
        return;
    }
    let mut kills = 0;
    for delay in (0..40).step_by(4) {
        let machine = Machine::new(true);
        let mut setup = machine.setup(&["--unseal", "unprotected", "--no-start"]);
        let mut child = setup.stdout(std::process::Stdio::null()).spawn().unwrap();
        // The moment of the kill varies, so the test sleeps and waits for no event.
        std::thread::sleep(std::time::Duration::from_millis(delay));
        kills += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        let before = fs::read(machine.path("etc/unseal.key"));
        machine.set_up(&["--unseal", "unprotected"]);
        let after = fs::read(machine.path("etc/unseal.key")).unwrap();
        assert_eq!(after.len(), 65);
        assert!(before.is_err() || before.unwrap() == after);
        assert!(machine.drop_in().contains("LoadCredential=unseal-key:"));
    }
    assert!(kills > 0, "every setup was finished before");
}

#[test]
fn what_another_choice_has_left_is_named() {
    if !has_root() {
        return;
    }
    let machine = Machine::new(true);
    machine.daemon.new_key("etc/unseal.key");
    let output = machine.setup(&["--unseal", "passphrase", "--no-start"]).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && told.contains("unseal.key, which is of another choice"), "{told}");
    // Another user can exchange the secret.
    let machine = Machine::new(true);
    assert!(Command::new("chmod").args(["777", &machine.path("etc")]).status().unwrap().success());
    let (status, line) = machine.refused(&["--unseal", "unprotected"]);
    assert!(status == 77 && line.contains("chmod go-w"), "{line}");
}

/// The line by which the daemon knows that its secret is a plain file.
const PLAIN: &str = "Environment=KEYWARD_UNSEAL=unprotected\n";
