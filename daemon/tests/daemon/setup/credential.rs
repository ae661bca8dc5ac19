//! The encrypted credential, with the real systemd-creds and a software TPM.

use std::fs;
use std::process::Command;

use keyward_proto::Outcome;
use rustix::process::Signal;

use super::machine::{Machine, Tpm, has_systemd_creds, text_of};
use crate::fixture::has_root;

#[test]
fn a_credential_is_bound_to_the_tpm_and_is_restored_from_its_copy() {
    if !has_root() {
        return;
    }
    let mut machine = Machine::new(true);
    let Some(tpm) = Tpm::start(&machine, "tpm") else { return };
    machine.tpm = Some(tpm);
    let (copy, file) = (machine.path("away/copy"), machine.path("etc/unseal-key.cred"));
    let report = machine.set_up(&["--unseal", "credential", "--recovery", &copy]);
    assert_eq!((&report["unseal"], &report["bound_to"]), (&"credential".into(), &"tpm".into()), "{report}");
    let setting = format!("[Service]\nLoadCredentialEncrypted=unseal-key:{file}\n");
    assert_eq!(machine.drop_in(), setting);

    // The secret is in its copy alone: no program got it as an argument, and no file has it.
    let secret = fs::read_to_string(&copy).unwrap().trim().to_owned();
    assert_eq!(secret.len(), 64);
    assert!(!machine.calls().contains(&secret) && machine.calls().contains("--with-key=host+tpm2"));
    let with =
        machine.files().into_iter().filter(|(_, bytes)| String::from_utf8_lossy(bytes).contains(&secret));
    assert_eq!(with.map(|(path, _)| path).collect::<Vec<_>>(), [machine.daemon.path("away/copy")]);

    machine.grant();
    machine.boot();
    assert_eq!(machine.opening(), "credential");
    machine.assert_starts_alone(Machine::boot);

    // The disk in another machine: systemd cannot decrypt the credential, and without it the unit
    // has no master key.
    let Some(other) = Tpm::start(&machine, "other-tpm") else { return };
    machine.tpm = Some(other);
    assert!(machine.service().is_none(), "another TPM decrypts the credential");
    machine.daemon.end(Signal::TERM);
    let mut serve = machine.serve();
    machine.daemon.start_as(&mut serve);
    assert_ne!(machine.outcome(), Outcome::Done);
    let (status, ready) = machine.daemon.http("GET", "/ready", "").unwrap();
    assert!(status == 503 && ready.contains("no master key"), "{ready}");

    // The command that the setup has printed.
    let restore = report["restore"].as_str().unwrap();
    let mut shell = Command::new("sh");
    text_of(&machine.at(shell.args(["-c", restore])).output().unwrap());
    machine.boot();
    assert_eq!(machine.outcome(), Outcome::Done);
    assert_eq!(machine.set_up(&[])["made"], serde_json::json!([]), "the setup is finished");
    machine.tpm = None;
    assert!(machine.service().is_none(), "it is bound to the other TPM");
}

#[test]
fn without_a_tpm_the_key_of_the_host_encrypts_and_the_report_says_so() {
    if !has_root() || !has_systemd_creds() {
        return;
    }
    let mut machine = Machine::new(true);
    let words = ["--unseal", "credential", "--no-start"];
    let output = machine.setup(&words).output().unwrap();
    let (text, told) = (text_of(&output), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(text.contains("bound to    the key of this host") && text.contains("a stolen disk"), "{text}");
    assert!(told.contains("warning: there is no recovery copy"), "{told}");
    assert!(text.contains("systemctl enable --now"), "{text}");
    machine.grant();
    machine.boot();
    machine.assert_starts_alone(Machine::boot);

    // The command of the warning, at any later time.
    let copy = machine.path("away/copy");
    let inside = machine.path("etc/copy");
    let (_, line) = machine.refused(&["--recovery", &inside]);
    assert!(line.contains("another medium"), "{line}");
    let report = machine.set_up(&["--recovery", &copy]);
    assert_eq!(report["made"], serde_json::json!([copy]));
    assert_eq!(machine.set_up(&["--recovery", &copy])["made"], serde_json::json!([]));
    fs::write(machine.path("away/other"), "of somebody").unwrap();
    let (_, line) = machine.refused(&["--recovery", &machine.path("away/other")]);
    assert!(line.contains("the file exists"), "{line}");

    // Another host.
    fs::remove_file(machine.path("host.secret")).unwrap();
    assert!(machine.service().is_none());
    let (_, line) = machine.refused(&["--recovery", &machine.path("away/late")]);
    assert!(line.contains("cannot decrypt the unseal key: systemd-creds failed"), "{line}");
}

#[test]
fn a_tpm_that_cannot_be_used_is_not_left_out_silently() {
    if !has_root() || !has_systemd_creds() {
        return;
    }
    let machine = Machine::new(true);
    machine.announce_tpm(true);
    let (status, line) = machine.refused(&["--unseal", "credential"]);
    assert!(status == 69 && line.contains("this machine has a TPM"), "{line}");
    let (_, command) = line.rsplit_once("keyward setup ").unwrap();
    let words: Vec<_> = command.split_whitespace().collect();
    let report = machine.set_up(&words);
    assert_eq!(report["bound_to"], "host", "{report}");

    let machine = Machine::new(true);
    machine.program("systemd-creds", "exec /no/such/program");
    let (status, line) = machine.refused(&["--unseal", "credential"]);
    assert!(status == 69 && line.contains("systemd-creds failed"), "{line}");
    let machine = Machine::new(false);
    let (status, line) = machine.refused(&["--unseal", "credential"]);
    assert!(status == 64 && line.contains("systemd does not run here"), "{line}");
}

/// systemd itself reads the unit with each drop-in.
#[test]
fn systemd_accepts_the_drop_ins() {
    let analyze = "/usr/bin/systemd-analyze";
    if !has_root() || !has_systemd_creds() {
        return;
    }
    for choice in ["owners", "credential", "passphrase", "unprotected"] {
        let machine = Machine::new(true);
        machine.set_up(&["--unseal", choice]);
        for name in ["keyward.service", "keyward.socket", "keyward-admin.socket"] {
            let shipped = format!("{}/../conf/systemd/{name}", env!("CARGO_MANIFEST_DIR"));
            let text = fs::read_to_string(shipped).unwrap().replace("/usr/bin/keyward", "/bin/true");
            fs::write(machine.path(&format!("systemd/{name}")), text).unwrap();
        }
        let verify = || {
            let mut verify = Command::new(analyze);
            verify.args(["verify", "--man=no"]).arg(machine.path("systemd/keyward.service"));
            let output = verify.output().unwrap();
            String::from_utf8(output.stderr).unwrap()
        };
        let said = verify();
        assert!(!said.contains("unseal.conf"), "{choice}: {said}");
        // The check would see a mistake.
        let file = machine.path("systemd/keyward.service.d/unseal.conf");
        let text = fs::read_to_string(&file).unwrap() + "LoadCredentialEncryptd=a:b\n";
        fs::write(&file, text).unwrap();
        assert!(verify().contains("unseal.conf"), "{choice}: {}", verify());
    }
}

#[test]
fn the_secret_of_a_credential_is_shown_once_on_a_terminal() {
    if !has_root() || !has_systemd_creds() {
        return;
    }
    let machine = Machine::new(true);
    let (success, text) = machine.on_terminal("credential\nyes\n", &[]);
    assert!(success, "{text}");
    let is_secret = |word: &&str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let shown: Vec<_> = text.split_whitespace().filter(is_secret).collect();
    let copy = machine.path("away/copy");
    machine.set_up(&["--recovery", &copy]);
    assert_eq!(shown, [fs::read_to_string(copy).unwrap().trim()], "{text}");
}
