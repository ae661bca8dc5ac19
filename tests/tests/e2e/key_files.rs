//! Private keys in different file formats, imported with the command line.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use keyward_tests::pki::{openssl, plain_key};
use keyward_tests::tool::{fail, run, stderr, succeed};
use keyward_tests::{Daemon, Pki};
use serde_json::Value;

/// A daemon, an authority, and a key with its certificate.
struct Scene {
    daemon: Daemon,
    pki: Pki,
    certificate: PathBuf,
    key: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let daemon = Daemon::start();
        let pki = Pki::new(daemon.directory());
        let (certificate, key) = pki.leaf("server");
        Self { daemon, pki, certificate, key }
    }

    fn write(&self, name: &str, parts: &[&Path]) -> PathBuf {
        let text: String = parts.iter().map(|part| fs::read_to_string(part).unwrap()).collect();
        let path = self.daemon.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn import(&self, label: &str, file: &Path, more: &[&str]) -> Command {
        let words = [&["key", "import", label, "--in", file.to_str().unwrap()], more].concat();
        self.daemon.keyward(&words)
    }

    fn attached(&self, label: &str) -> Option<u64> {
        let list = succeed(&mut self.daemon.keyward(&["cert", "list", "--json"]));
        let list: Vec<Value> = serde_json::from_str(&list).unwrap();
        list.iter().find(|row| row["label"] == label).map(|row| row["chain"].as_u64().unwrap())
    }

    /// Asserts that a label and a file have the same key.
    fn assert_same(&self, label: &str, key: &Path) {
        let public = succeed(openssl(&["pkey", "-pubout", "-in"]).arg(key));
        let reference = self.daemon.reference(label);
        assert_eq!(succeed(self.daemon.openssl(&["pkey", "-pubout", "-in"]).arg(reference)), public);
    }

    /// A PKCS#12 archive of the key, its certificate and the certificate of the authority.
    fn archive(&self, name: &str, options: &[&str]) -> PathBuf {
        let path = self.daemon.path(name);
        let mut pkcs12 = openssl(&["pkcs12", "-export", "-in"]);
        pkcs12.arg(&self.certificate).arg("-inkey").arg(&self.key).arg("-certfile").arg(self.pki.ca());
        succeed(pkcs12.args(options).arg("-out").arg(&path));
        path
    }
}

#[test]
fn archives_are_imported_with_a_passphrase_and_their_certificates() {
    let scene = Scene::new();
    let modern = scene.archive("modern.p12", &["-passout", "pass:very secret"]);
    let passphrase = scene.daemon.path("passphrase");
    fs::write(&passphrase, "very secret\n").unwrap();
    let chmod = |file: &Path, mode| fs::set_permissions(file, Permissions::from_mode(mode)).unwrap();
    chmod(&passphrase, 0o644);
    let file = ["--passphrase-file", passphrase.to_str().unwrap()];

    let (status, line) = fail(&mut scene.import("shop", &modern, &[]));
    let advised = "the private key in the file is encrypted; give its passphrase with --passphrase-file FILE";
    assert!(status.code() == Some(65) && line.contains(advised), "{line}");
    let (status, line) = fail(&mut scene.import("shop", &modern, &file));
    let advised = format!("others can read it; run: chmod o= {}", passphrase.display());
    assert!(status.code() == Some(78) && line.contains(&advised), "{line}");
    chmod(&passphrase, 0o600);
    let output = run(&mut scene.import("shop", &modern, &file));
    let told = stderr(&output);
    assert!(output.status.success(), "{told}");
    let told: Vec<_> = told.lines().collect();
    assert_eq!(told[0], "keyward: note: 2 certificates in the file were attached to the key");
    assert!(
        told[1].starts_with(&format!("keyward: note: {} still holds the private key: ", modern.display()))
    );
    assert_eq!((told.len(), scene.attached("shop")), (2, Some(2)));
    scene.assert_same("shop", &scene.key);

    // By a descriptor, as a new version, from standard input, and without a passphrase.
    let legacy = scene.archive("legacy.p12", &["-legacy", "-passout", "pass:very secret"]);
    let by_descriptor = |label: &str, file: &Path, more: &[&str]| {
        let command = scene.import(label, file, &[&["--passphrase-fd", "3"], more].concat());
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$@\" 3< \"$0\" < \"$KEY\""]).arg(&passphrase);
        shell.env("KEY", &legacy).arg(command.get_program()).args(command.get_args());
        shell
    };
    succeed(&mut by_descriptor("legacy", &legacy, &[]));
    succeed(&mut by_descriptor("stdin", Path::new("-"), &[]));
    let mut piped = Command::new("sh");
    let command = scene.import("piped", &legacy, &["--passphrase-fd", "0"]);
    piped
        .args(["-c", "echo very secret | \"$0\" \"$@\""])
        .arg(command.get_program())
        .args(command.get_args());
    succeed(&mut piped);
    let bare = scene.archive("bare.p12", &["-passout", "pass:", "-keypbe", "NONE", "-certpbe", "NONE"]);
    succeed(&mut scene.import("bare", &bare, &[]));
    for label in ["legacy", "stdin", "piped", "bare"] {
        scene.assert_same(label, &scene.key);
        assert_eq!(scene.attached(label), Some(2), "{label}");
    }
    scene.daemon.generate("old", "p384");
    let shown = succeed(&mut by_descriptor("old", &legacy, &["--new-version", "--json"]));
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["current"], 2);
    assert_eq!(shown["versions"][1]["certificate"]["subject"], "CN=localhost", "{shown}");

    let wrong = scene.daemon.path("wrong");
    fs::write(&wrong, "secret").unwrap();
    chmod(&wrong, 0o600);
    for (option, expected) in [
        (["--passphrase-file", wrong.to_str().unwrap()], "the passphrase does not fit the file"),
        (["--passphrase-file", "/nowhere"], "cannot read /nowhere: "),
        (["--passphrase-fd", "99"], "cannot read /dev/fd/99: "),
    ] {
        let (_, line) = fail(&mut scene.import("wrong", &modern, &option));
        assert!(line.starts_with("keyward: cannot import key wrong: ") && line.contains(expected), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
    assert!(!scene.daemon.log().contains("very secret"));
}

/// The terminal does not show the passphrase.
#[test]
fn a_passphrase_is_asked_for_on_the_terminal() {
    let scene = Scene::new();
    let encrypted = scene.daemon.path("encrypted.pem");
    let mut pkcs8 = openssl(&["pkcs8", "-topk8", "-passout", "pass:very secret", "-in"]);
    succeed(pkcs8.arg(&scene.key).arg("-out").arg(&encrypted));
    let command = scene.import("shop", &encrypted, &[]);
    let words: Vec<_> = [command.get_program()].into_iter().chain(command.get_args()).collect();
    let words: Vec<_> = words.iter().map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]);
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut shown, mut byte) = (Vec::new(), [0]);
    let mut output = script.stdout.take().unwrap();
    while !shown.ends_with(b": ") {
        output.read_exact(&mut byte).unwrap();
        shown.extend(byte);
    }
    assert_eq!(String::from_utf8_lossy(&shown), format!("Passphrase of {}: ", encrypted.display()));
    let mut input = script.stdin.take().unwrap();
    input.write_all(b"very secret\n").unwrap();
    output.read_to_end(&mut shown).unwrap();
    let shown = String::from_utf8(shown).unwrap();
    assert!(script.wait().unwrap().success() && !shown.contains("very secret"), "{shown}");
    scene.assert_same("shop", &scene.key);
}

#[test]
fn a_key_is_imported_with_the_certificates_behind_it() {
    let scene = Scene::new();
    let (certificate, key, ca) = (&*scene.certificate, &*scene.key, &*scene.pki.ca());
    // The order of HAProxy, and other orders.
    for (label, parts) in
        [("haproxy", [certificate, key, ca]), ("key", [key, certificate, ca]), ("ca", [ca, key, certificate])]
    {
        succeed(&mut scene.import(label, &scene.write("combined.pem", &parts), &[]));
        assert_eq!(scene.attached(label), Some(2), "{label}");
    }
    // With two certificates of the key, it is unclear which of them is meant.
    let renewed = scene.daemon.path("renewed.pem");
    fs::copy(certificate, &renewed).unwrap();
    scene.pki.leaf_again("server");
    let output = run(&mut scene.import("two", &scene.write("two.pem", &[key, &renewed, certificate]), &[]));
    let told = stderr(&output);
    assert!(
        output.status.success() && told.contains("are not attached: there are 2 certificates of the key"),
        "{told}"
    );
    assert_eq!(scene.attached("two"), None);
}

#[test]
fn files_that_leave_a_choice_are_not_guessed_at() {
    let scene = Scene::new();
    let rsa = scene.daemon.path("rsa.key");
    fs::write(&rsa, plain_key("rsa2048")).unwrap();
    let (certificate, key) = (&*scene.certificate, &*scene.key);
    let several = scene.write("several.pem", &[key, &rsa, certificate]);
    let (status, line) = fail(&mut scene.import("shop", &several, &[]));
    let expected = "keyward: cannot import key shop: the file has several private keys; choose one with --index NUMBER: \
                    key 1 (p256), key 2 (rsa2048), certificate of \"CN=localhost\" for key 1\n";
    assert_eq!((status.code(), &*line), (Some(65), expected));
    let (_, line) = fail(&mut scene.import("shop", &several, &["--index", "3"]));
    assert!(line.contains("the file has no private key number 3: key 1 (p256), key 2"), "{line}");
    for (label, index, file, chain) in [("one", "1", key, Some(1)), ("two", "2", &rsa, None)] {
        succeed(&mut scene.import(label, &several, &["--index", index]));
        scene.assert_same(label, file);
        assert_eq!(scene.attached(label), chain, "{label}");
    }

    let mismatch = scene.write("mismatch.pem", &[&rsa, certificate]);
    let (status, line) = fail(&mut scene.import("shop", &mismatch, &[]));
    let expected = "keyward: cannot import key shop: the certificates in the file are not for its private key; to \
                    import the key without them, add --index 1: key 1 (rsa2048), certificate of \"CN=localhost\"\n";
    assert_eq!((status.code(), &*line), (Some(65), expected));
    succeed(&mut scene.import("three", &mismatch, &["--index", "1"]));
    assert_eq!(scene.attached("three"), None);
    // A file with the same key twice needs no choice.
    succeed(&mut scene.import("same", &scene.write("same.pem", &[key, key]), &[]));
}
