//! The choices without a credential, on machines with and without systemd.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use keyward_proto::Outcome;
use rustix::process::Signal;
use serde_json::json;

use super::machine::{Machine, text_of};
use crate::fixture::{PROGRAM, has_root};

#[test]
fn a_plain_file_and_a_passphrase_start_the_service_alone() {
    if !has_root() {
        return;
    }
    for (choice, setting, name) in [
        ("unprotected", "unseal-key", "unseal.key"),
        ("passphrase", "unseal-passphrase", "unseal.passphrase"),
    ] {
        let mut machine = Machine::new(true);
        let report = machine.set_up(&["--unseal", choice]);
        let file = machine.path(&format!("etc/{name}"));
        assert_eq!(report["secret"], file);
        let plain = if choice == "unprotected" { "Environment=KEYWARD_UNSEAL=unprotected\n" } else { "" };
        assert_eq!(machine.drop_in(), format!("[Service]\nLoadCredential={setting}:{file}\n{plain}"));
        let found = fs::metadata(&file).unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid()), (0o600, 0));
        for public in ["etc/keyward.toml", "systemd/keyward.service.d/unseal.conf"] {
            assert_eq!(fs::metadata(machine.path(public)).unwrap().mode() & 0o7777, 0o644, "{public}");
        }
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../conf/keyward.toml");
        assert_eq!(fs::read(machine.path("etc/keyward.toml")).unwrap(), fs::read(shipped).unwrap());
        machine.grant();
        machine.boot();
        machine.assert_starts_alone(Machine::boot);
        assert_eq!(machine.opening(), choice);

        // A second run finds everything there, and a run with another choice changes nothing.
        let before = machine.files();
        let again = machine.set_up(&["--unseal", choice]);
        assert_eq!((&again["made"], &again["secret"]), (&json!([]), &report["secret"]));
        assert_eq!(machine.files(), before);
        let (status, line) = machine.refused(&["--unseal", "owners"]);
        assert!(status == 73 && line.contains("unseal.conf"), "{line}");
    }
}

#[test]
fn owners_get_a_unit_without_a_secret_of_the_host() {
    if !has_root() {
        return;
    }
    let mut machine = Machine::new(true);
    let report = machine.set_up(&["--unseal", "owners"]);
    assert_eq!(machine.drop_in(), "[Service]\n");
    assert!(
        report.get("secret").is_none() && report["next"].to_string().contains("unit ceremony"),
        "{report}"
    );
    assert_eq!(machine.set_up(&[])["made"], json!([]));
    // A secret that the configuration names is in force beside that drop-in. A new unit gets one.
    let (config, secret) =
        (fs::read_to_string(machine.path("etc/keyward.toml")).unwrap(), machine.path("away/unseal"));
    let named = format!("[embedded]\nunseal-key = {secret:?}");
    fs::write(machine.path("etc/keyward.toml"), config.replace("[embedded]", &named)).unwrap();
    let with_secret = machine.set_up(&[]);
    assert_eq!((&with_secret["unseal"], &with_secret["made"]), (&json!("unprotected"), &json!([secret])));
    assert_eq!(fs::read_to_string(&secret).unwrap().trim().len(), 64);
    assert_eq!(machine.set_up(&[])["made"], json!([]));
    // The file has the grants, too: only the line is to be removed.
    let (_, line) = machine.refused(&["--unseal", "owners"]);
    let toml = machine.path("etc/keyward.toml");
    let advice = format!(
        "; to choose again, remove the line unseal-key = ... from section [embedded] of {toml}, and run keyward setup again"
    );
    assert!(line.trim_end().ends_with(&advice), "{line}");
    assert!(
        line.contains(&format!("because of {toml}, the unit gets the key by a secret in a plain file")),
        "{line}"
    );
    fs::write(machine.path("etc/keyward.toml"), config).unwrap();
    machine.boot();
    assert_eq!(machine.opening(), "owners");
    let (_, text) = machine.look("doctor");
    assert!(text.contains("docs/ceremony.md how owners begin") && !text.contains("how to recover"), "{text}");
    // The ceremony takes the claim secret itself, and does not show it.
    let ceremony = format!("keyward unit ceremony --runtime-dir {}", machine.path("run"));
    assert_eq!(report["next"].as_array().unwrap()[1..], [json!(ceremony)]);
    let (_, line) = machine.refused(&["--unseal", "unprotected"]);
    assert!(line.ends_with("remove /etc/systemd/system/keyward.service.d/unseal.conf first\n"), "{line}");
    fs::remove_file(machine.path("systemd/keyward.service.d/unseal.conf")).unwrap();
    // The unit has no master key yet, so another choice is possible.
    machine.set_up(&["--unseal", "unprotected"]);
    machine.grant();
    machine.boot();
    machine.assert_starts_alone(Machine::boot);

    // A unit that has its owners needs no ceremony.
    let mut machine = Machine::new(true);
    machine.set_up(&["--unseal", "owners"]);
    machine.boot();
    fs::write(machine.path("passphrase"), "six random words are long enough").unwrap();
    let (alice, passphrase) = (machine.path("alice"), machine.path("passphrase"));
    fs::set_permissions(&passphrase, Permissions::from_mode(0o600)).unwrap();
    let new = ["unit", "admin", "new", &alice, "--name", "alice", "--passphrase-file", &passphrase];
    assert!(Command::new(PROGRAM).args(new).output().unwrap().status.success());
    let [signed, public] = [
        ["--key", &alice, "--passphrase-file", &passphrase],
        ["--admin", &(alice.clone() + ".pub"), "--signatures", "1"],
    ];
    machine.daemon.succeed(&[&["unit", "claim", "--revocation", "1"], &public[..], &signed].concat());
    let next = machine.set_up(&[])["next"][1].as_str().unwrap().to_owned();
    assert!(next.starts_with("keyward unit unseal FILE --unit-key FINGERPRINT --runtime-dir /"), "{next}");
}

/// Without systemd, the configuration names the secret, and the printed command starts the daemon
/// as its user, who owns the secret.
#[test]
fn without_systemd_the_printed_command_starts_the_daemon() {
    if !has_root() {
        return;
    }
    for (choice, setting) in [("unprotected", "unseal-key"), ("passphrase", "unseal-passphrase")] {
        let mut machine = Machine::new(false);
        for name in ["state", "run"] {
            fs::create_dir(machine.path(name)).unwrap();
            chown(machine.path(name), Some(ALICE), Some(ALICE)).unwrap();
        }
        let report = machine.set_up(&["--unseal", choice]);
        let file = report["secret"].as_str().unwrap();
        let line = format!("{setting} = {file:?}");
        assert_eq!(report["line"], line);
        let config = fs::read_to_string(machine.path("etc/keyward.toml")).unwrap();
        assert!(config.contains(&format!("\n{line}\n")), "{config}");
        let found = fs::metadata(file).unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid()), (0o600, ALICE));
        machine.grant();
        let next = report["next"][0].as_str().unwrap().to_owned();
        chown(machine.path("notify"), Some(ALICE), None).unwrap();
        let remarks = |machine: &Machine| {
            let output = machine.serve().arg("--check-config").output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stderr).unwrap()
        };
        // Before the first start, which makes the master key.
        let told = remarks(&machine);
        assert!(
            !told.contains("no master key") && told.contains("the user of the daemon: to check"),
            "{told}"
        );
        let start = |machine: &mut Machine| {
            let mut shell = Command::new("sh");
            machine.at(shell.args(["-c", &format!("exec {next}")]));
            machine.daemon.start_as(&mut shell);
        };
        start(&mut machine);
        // The administrators' socket is of that user.
        let by_alice = |words: &str| {
            let mut keyward = Command::new("setpriv");
            keyward.args(["--reuid", &ALICE.to_string(), "--clear-groups", PROGRAM]);
            keyward.args(words.split(' ')).arg("--runtime-dir").arg(machine.path("run"));
            text_of(&keyward.output().unwrap())
        };
        assert!(by_alice("unit status --json").contains(&format!("\"opening\": {choice:?}")));
        by_alice("key generate shop --type p256");
        let mut doctor = Command::new("setpriv");
        doctor.args(["--reuid", &ALICE.to_string(), "--clear-groups", PROGRAM, "doctor"]);
        let doctor = doctor.arg("--runtime-dir").arg(machine.path("run")).output().unwrap();
        let told = String::from_utf8(doctor.stdout).unwrap();
        assert!(!told.contains("no master key") && told.contains("is valid, and in force"), "{told}");
        // A file that the daemon cannot read at its next start.
        chown(file, Some(0), None).unwrap();
        let told = remarks(&machine);
        assert!(told.contains("but the daemon runs as user id 7002, who must be able to read it"), "{told}");
        chown(file, Some(ALICE), None).unwrap();
        assert_eq!(machine.outcome(), Outcome::Done);
        machine.daemon.end(Signal::TERM);
        start(&mut machine);
        assert_eq!(machine.outcome(), Outcome::Done);
        let before = machine.files();
        assert_eq!(machine.set_up(&[])["made"], json!([]));
        assert_eq!(machine.files(), before);
    }
    let machine = Machine::new(false);
    let report = machine.set_up(&["--unseal", "owners"]);
    assert!(report["next"][0].as_str().unwrap().starts_with("keyward serve --config "), "{report}");
}

#[test]
fn a_passphrase_file_of_a_person_is_used_where_it_is() {
    if !has_root() {
        return;
    }
    let mut machine = Machine::new(true);
    let file = machine.path("away/passphrase");
    let words = ["--unseal", "passphrase", "--passphrase-file", &file];
    let (status, line) = machine.refused(&words);
    assert!(status == 66 && line.contains("cannot read"), "{line}");
    fs::write(&file, "short\n").unwrap();
    let (status, line) = machine.refused(&words);
    assert!(status == 78 && line.contains("chmod 600"), "{line}");
    assert!(Command::new("chmod").args(["600", &file]).status().unwrap().success());
    let short = Machine::new(true);
    let output = short.setup(&[&words[..], &["--no-start"]].concat()).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && told.contains("is short; take one of at least 16"), "{told}");
    fs::write(&file, "correct horse battery staple\n").unwrap();
    machine.set_up(&words);
    assert_eq!(machine.drop_in(), format!("[Service]\nLoadCredential=unseal-passphrase:{file}\n"));
    assert!(!machine.daemon.path("etc/unseal.passphrase").exists());
    assert_eq!(machine.set_up(&words)["made"], json!([]));
    let (_, line) = machine.refused(&["--passphrase-file", &machine.path("etc/keyward.toml")]);
    assert!(line.contains("another file"), "{line}");
    machine.grant();
    machine.boot();
    machine.assert_starts_alone(Machine::boot);
}

#[test]
fn without_a_choice_a_terminal_is_asked_and_a_script_is_told_the_option() {
    if !has_root() {
        return;
    }
    let machine = Machine::new(true);
    let (status, line) = machine.refused(&[]);
    assert!(
        status == 64 && line.contains("--unseal owners, credential, passphrase or unprotected"),
        "{line}"
    );
    let (_, line) = machine.refused(&["--unseal", "unprotected", "--recovery", &machine.path("away/copy")]);
    assert!(line.contains("for --unseal credential only"), "{line}");
    let before = machine.files();
    let (success, text) = machine.on_terminal("maybe\n", &[]);
    assert!(!success && text.contains("A stolen disk: no keys with a TPM."), "{text}");
    let (success, text) = machine.on_terminal("\n", &["--yes"]);
    assert!(!success && text.contains("--unseal") && !text.contains("stolen"), "{text}");
    assert_eq!(machine.files(), before);
    let (success, text) = machine.on_terminal("Unprotected\n", &[]);
    assert!(success && text.contains("by a secret in a plain file: unprotected"), "{text}");
    assert!(machine.drop_in().contains("LoadCredential=unseal-key:"));
}

/// A user that no test machine has.
const ALICE: u32 = 7002;
