//! Parts that their owners check and encrypt without a daemon, and bring as files.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::ceremony::{Ceremony, write_passphrase};
use crate::fixture::{Daemon, PROGRAM, failure_of, has_root};

/// Runs `part encrypt` without a daemon, for a part with the importer key in `importer`.
fn encrypt(ceremony: &Ceremony, name: &str, unit_key: &str, more: &[&str]) -> Output {
    let out = ceremony.path(&format!("{name}.encrypted"));
    // A part is encrypted anew after each start.
    let _ = fs::remove_file(&out);
    encrypt_to(ceremony, name, unit_key, more, &out)
}

fn encrypt_to(ceremony: &Ceremony, name: &str, unit_key: &str, more: &[&str], out: &str) -> Output {
    let [part, importer, passphrase] = [name, "importer", "passphrase"].map(|name| ceremony.path(name));
    let mut command = Command::new(PROGRAM);
    command.args(["unit", "part", "encrypt", &part, "--importer", &importer, "--unit-key", unit_key]);
    command.args(["--passphrase-file", &passphrase, "--out", out]).args(more).output().unwrap()
}

fn get_importer(ceremony: &Ceremony) {
    fs::write(ceremony.path("importer"), ceremony.daemon.succeed(&["unit", "importer"])).unwrap();
}

fn encrypt_and_bring(ceremony: &Ceremony, name: &str, more: &[&str]) -> Result<String, (i32, String)> {
    let output = encrypt(ceremony, name, &ceremony.unit_key, more);
    assert!(output.status.success(), "{}", failure_of(&output).1);
    bring(ceremony, name)
}

fn bring(ceremony: &Ceremony, name: &str) -> Result<String, (i32, String)> {
    ceremony.run(&["unit", "unseal", "--encrypted", &ceremony.path(&format!("{name}.encrypted"))])
}

#[test]
fn parts_are_encrypted_elsewhere_to_load_and_to_unseal() {
    if !has_root() {
        return;
    }
    let mut ceremony = Ceremony::owned();
    let names = ["dave", "erin"];
    let patterns = ceremony.parts(&names);
    ceremony.command(&["unit", "load", "--part", &patterns[0], "--part", &patterns[1]], &["carol"]).unwrap();
    get_importer(&ceremony);
    let (_, line) = encrypt_and_bring(&ceremony, "dave", &[]).unwrap_err();
    assert!(line.contains("waits for the part") && line.contains("add --load"), "loads nothing: {line}");
    for (name, pattern) in names.iter().zip(&patterns) {
        let said = encrypt_and_bring(&ceremony, name, &["--load"]).unwrap();
        assert!(said.contains(pattern), "{said}");
    }
    let pattern = ceremony.status()["new"]["pattern"].as_str().unwrap().to_owned();
    ceremony.command(&["unit", "commit", &pattern], &["alice", "carol"]).unwrap();
    ceremony.command(&["unit", "activate", &pattern], &["bob"]).unwrap();

    // Parts that were encrypted before a start.
    ceremony.restart();
    get_importer(&ceremony);
    for name in names {
        assert!(encrypt(&ceremony, name, &ceremony.unit_key, &[]).status.success());
    }
    ceremony.restart();
    let (status, line) = bring(&ceremony, "dave").unwrap_err();
    let unit = ceremony.status()["unit"].as_str().unwrap().to_owned();
    assert!(status == 65 && line.contains(&format!("key of this unit, {unit}: it is for another")), "{line}");
    assert!(line.trim_end().ends_with(&format!("use --runtime-dir {}", ceremony.path("run"))), "{line}");
    get_importer(&ceremony);
    for name in names {
        encrypt_and_bring(&ceremony, name, &[]).unwrap();
    }
    assert!(ceremony.is_ready());
    let (_, line) = bring(&ceremony, "dave").unwrap_err();
    assert!(line.contains(&format!("this unit, {unit}, waits for no part")), "{line}");
}

#[test]
fn a_part_is_encrypted_to_no_other_unit_and_damaged_files_are_refused() {
    if !has_root() {
        return;
    }
    let ceremony = Ceremony::owned();
    ceremony.parts(&["dave"]);
    let written = ceremony.path("importer");
    ceremony.daemon.succeed(&["unit", "importer", "--out", &written]);
    let importer = fs::read_to_string(&written).unwrap();
    let out = ceremony.path("dave.encrypted");
    let refused = |unit_key: &str, status: i32, reason: &str| {
        let output = encrypt(&ceremony, "dave", unit_key, &[]);
        let (found, line) = failure_of(&output);
        assert!(found == status && line.contains(reason), "{found} {line}");
        assert!(!Path::new(&out).exists(), "{reason}");
    };
    refused(&"0".repeat(64), 77, "do not send the part");
    for (bad, reason) in [
        (importer[..importer.len() - 9].to_owned(), "not an importer key"),
        (format!("{importer}{}", "x".repeat(4096)), "not an importer key"),
        ("x".repeat(2 << 20), "longer than"),
    ] {
        fs::write(&written, bad).unwrap();
        refused(&ceremony.unit_key, 65, reason);
    }
    fs::write(&written, importer).unwrap();

    let output = encrypt(&ceremony, "dave", &ceremony.unit_key, &[]);
    let said = String::from_utf8(output.stdout).unwrap();
    let unit = ceremony.status()["unit"].as_str().unwrap().to_owned();
    assert!(said.contains(&format!("to the machine of the unit {unit}\n")), "{said}");
    let (status, line) = failure_of(&encrypt_to(&ceremony, "dave", &ceremony.unit_key, &[], &out));
    assert!(status == 73 && line.contains("exists, and stays as it is; choose another name"), "{line}");
    // A file of another kind, before the passphrase is asked for.
    let (status, line) =
        ceremony.run(&["unit", "unseal", &out, "--unit-key", &ceremony.unit_key]).unwrap_err();
    assert!(status == 65 && line.contains("is an encrypted part, and a part is needed"), "{line}");
    let text = fs::read_to_string(&out).unwrap();
    for (bad, reason) in [
        (text[..100].to_owned(), "damaged"),
        (text.repeat(2), "longer than 512 bytes"),
        (fs::read_to_string(ceremony.path("dave")).unwrap(), "the first line is not"),
    ] {
        fs::write(&out, bad).unwrap();
        let (status, line) = bring(&ceremony, "dave").unwrap_err();
        assert!(status == 65 && line.contains(reason), "{status} {line}");
    }
    let (status, _) = ceremony.run(&["unit", "unseal", "--encrypted", &out, "--load"]).unwrap_err();
    assert_eq!(status, 64, "the aim is in the encrypted part");
}

/// A copy of a part is good only if the passphrase opens the copy.
#[test]
fn a_copy_of_a_part_is_checked() {
    let daemon = Daemon::prepare("");
    write_passphrase(&daemon.path("passphrase"), "six random words are long enough\n");
    let ceremony = Ceremony { daemon, unit_key: String::new() };
    let pattern = ceremony.parts(&["dave"]).remove(0);
    let check = |file: &str| {
        let mut command = Command::new(PROGRAM);
        command.args(["unit", "part", "check", &ceremony.path(file)]);
        command.args(["--passphrase-file", &ceremony.path("passphrase")]).output().unwrap()
    };
    assert!(
        String::from_utf8(check("dave").stdout).unwrap().ends_with(&format!("its pattern is\n{pattern}\n"))
    );
    let text = fs::read_to_string(ceremony.path("dave")).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    let secret = value["secret"].as_str().unwrap().to_owned();
    let middle = if secret.as_bytes()[20] == b'A' { "B" } else { "A" };
    value["secret"] = format!("{}{middle}{}", &secret[..20], &secret[21..]).into();
    fs::write(ceremony.path("copy"), value.to_string()).unwrap();
    let (status, line) = failure_of(&check("copy"));
    assert!(status == 65 && line.contains("the passphrase is wrong, or the file was changed"), "{line}");
}
