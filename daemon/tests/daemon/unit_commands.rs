//! Commands of administrators: signed in different places, sent together, and refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::ceremony::Ceremony;
use crate::fixture::{PROGRAM, failure_of, has_root};

#[test]
fn commands_are_signed_elsewhere_and_sent_together() {
    if !has_root() {
        return;
    }
    let ceremony = Ceremony::owned();
    ceremony.person(&["unit", "admin", "new"], "dave");
    let passphrase = ceremony.path("passphrase");
    let sign = |file: &str, name: &str| {
        let key = ceremony.path(name);
        ceremony.daemon_less(&["unit", "sign", file, "--key", &key, "--passphrase-file", &passphrase])
    };
    let out = ceremony.path("add.cmd");
    let said = ceremony.daemon.succeed(&["unit", "admin", "add", &ceremony.path("dave.pub"), "--out", &out]);
    let send = format!("then: keyward unit send {out} --runtime-dir {}\n", ceremony.path("run"));
    assert!(said.ends_with(&send), "{said}");
    refuse_what_is_impossible(&ceremony);
    let copy = ceremony.path("copy.cmd");
    fs::copy(&out, &copy).unwrap();
    let shown = sign(&out, "alice");
    assert!(shown.contains("command: add-administrator") && shown.contains("administrator: dave"), "{shown}");
    sign(&copy, "carol");
    let (status, line) = ceremony.run(&["unit", "send", &out]).unwrap_err();
    assert!(status == 73 && line.contains("has 1 signature of administrators, and needs 2"), "{line}");
    assert!(line.contains("--out FILE") && line.contains("keyward unit sign FILE --key KEY"), "{line}");
    ceremony.daemon.succeed(&["unit", "send", &out, &copy]);
    assert!(ceremony.daemon.succeed(&["unit", "admin", "list"]).contains("dave"));
    let (_, line) = ceremony.run(&["unit", "send", &out, &copy]).unwrap_err();
    assert!(line.contains("carried out already"), "a replay: {line}");

    // Tampered with, and for another unit.
    let next = ceremony.path("next.cmd");
    let made = ["unit", "threshold", "--signatures", "1", "--revocation", "1", "--json", "--out", &next];
    let made: Value = serde_json::from_str(&ceremony.daemon.succeed(&made)).unwrap();
    assert!(made["file"] == next.as_str() && made["done"].as_array().unwrap().is_empty(), "{made}");
    sign(&next, "alice");
    sign(&next, "bob");
    let text = fs::read_to_string(&next).unwrap();
    let altered = PathBuf::from(ceremony.path("altered.cmd"));
    for (from, to, reason) in [
        ("signature-threshold: 1", "signature-threshold: 2", "is not one of this command"),
        ("counter: 3", "counter: 4", "send the commands in their order"),
        ("command: set-thresholds", "command: zeroize", "in the form in which commands are written"),
    ] {
        assert!(text.contains(from), "{text}");
        fs::write(&altered, text.replace(from, to)).unwrap();
        let (_, line) = ceremony.run(&["unit", "send", altered.to_str().unwrap()]).unwrap_err();
        assert!(line.contains(reason), "{line}");
    }
    let other = Ceremony::unowned();
    let (_, line) = other.run(&["unit", "send", &next]).unwrap_err();
    assert!(line.contains("the command is for the unit"), "{line}");
    ceremony.daemon.succeed(&["unit", "send", &next]);
    assert_eq!(ceremony.status()["signature_threshold"], 1);
}

#[test]
fn the_unit_is_claimed_by_root_with_its_secret() {
    if !has_root() {
        return;
    }
    let ceremony = Ceremony::unowned();
    let secret = ceremony.daemon.succeed(&["unit", "claim", "--show"]);
    let shown = ceremony.daemon.succeed(&["unit", "claim", "--show", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap()["secret"], secret.trim());
    assert_eq!(secret.trim().len(), 39, "{secret}");
    let file = fs::read_to_string(ceremony.daemon.path("state/unit/state")).unwrap();
    assert!(file.contains(secret.trim()));
    // One administrator cannot sign for two.
    ceremony.person(&["unit", "admin", "new"], "alice");
    let claim =
        ["unit", "claim", "--admin", &ceremony.path("alice.pub"), "--signatures", "2", "--revocation", "1"];
    let (_, line) = ceremony.command(&claim, &["alice"]).unwrap_err();
    assert!(line.contains("thresholds of at least 1 that they can reach"), "{line}");
    let claim =
        ["unit", "claim", "--admin", &ceremony.path("alice.pub"), "--signatures", "1", "--revocation", "1"];
    ceremony.command(&claim, &["alice"]).unwrap();
    assert!(ceremony.daemon.succeed(&["unit", "claim", "--show"]).contains("somebody owns the unit"));
    let file = fs::read_to_string(ceremony.daemon.path("state/unit/state")).unwrap();
    assert!(!file.contains(secret.trim()));
}

/// A command that the unit would never carry out is refused before people sign it. A quorum of
/// everybody is possible, and makes a warning.
fn refuse_what_is_impossible(ceremony: &Ceremony) {
    let [out, alice, dave] = ["vain.cmd", "alice.pub", "dave.pub"].map(|name| ceremony.path(name));
    let pattern = format!("{}{}", "1".repeat(56), "0".repeat(8));
    let claim = ["unit", "claim", "--signatures", "1", "--revocation", "1", "--admin", &dave];
    for (words, reason) in [
        (&claim[..], "has owners already"),
        (&["unit", "admin", "add", &alice], "alice is an administrator"),
        (&["unit", "threshold", "--signatures", "9", "--revocation", "1"], "are not possible"),
        (&["unit", "commit", &pattern], "the new register has no master key"),
        (&["unit", "activate", &pattern], "the new register has no master key"),
        (&["unit", "clear", "new", &pattern], "the new register has no master key"),
        (&["unit", "clear", "current", &pattern], "the current register has no master key"),
    ] {
        let (status, line) = ceremony.run(&[words, &["--out", &out]].concat()).unwrap_err();
        assert!(status == 73 && line.contains(reason), "{words:?}: {line}");
        assert!(!Path::new(&out).exists(), "{words:?}");
    }
    let load = ["unit", "load", "--part", &pattern];
    for words in [&load[..], &[&load[..], &["--part", &pattern]].concat()] {
        let (status, line) = ceremony.run(words).unwrap_err();
        assert!(status == 64 && line.contains("2 or 3 different parts are needed"), "{line}");
    }
    let warned = |signatures: &str| {
        let words = ["unit", "threshold", "--signatures", signatures, "--revocation", "1", "--out", &out];
        let output = ceremony.daemon.keyward(&words);
        fs::remove_file(&out).unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(warned("3").contains("all 3 administrators must sign: if one of them is lost"));
    assert_eq!(warned("2"), "");
    // No passphrase is asked for a file that is there.
    let mut command = Command::new(PROGRAM);
    command.args(["unit", "admin", "new", &alice, "--name", "alice"]).stdin(Stdio::null());
    let (status, line) = failure_of(&command.output().unwrap());
    assert!(status == 73 && line.contains("choose another name"), "{line}");
    let key = ["unit", "unseal", &alice, "--unit-key", "12"];
    let (status, line) = ceremony.run(&key).unwrap_err();
    assert!(status == 64 && line.contains("not an identity or a fingerprint"), "{line}");
}
