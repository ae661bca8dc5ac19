//! A unit imports private keys of every supported type from files, and refuses all others.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyward_tests::pki::openssl;
use keyward_tests::tool::succeed;
use keyward_tests::{Backend, Daemon, KEY_TYPES};

use super::{assert_in_order, assert_refused, assert_signs, public_key, show};

#[test]
fn key_files_of_every_type_and_form() {
    let daemon = Daemon::start_on(Backend::Grep11);
    for key_type in KEY_TYPES {
        let file = daemon.import_for(key_type, key_type, "any");
        assert_imported(&daemon, key_type, &file);
    }
    for (label, from, form) in
        [("pkcs1", "rsa2048", &["rsa", "-traditional"][..]), ("sec1-der", "p384", &["ec", "-outform", "DER"])]
    {
        let file = daemon.path(&format!("{label}.key"));
        succeed(openssl(form).arg("-in").arg(daemon.path(&format!("{from}.key"))).arg("-out").arg(&file));
        succeed(import(label, &daemon).arg(&file).args(["--use", "any"]));
        assert_imported(&daemon, label, &file);
    }
    assert!(fs::read_to_string(daemon.path("pkcs1.key")).unwrap().starts_with("-----BEGIN RSA PRIVATE KEY"));
    assert_eq!(fs::read(daemon.path("sec1-der.key")).unwrap()[..2], [0x30, 0x81], "a SEQUENCE");
}

/// The command that imports a key; the name of the file comes last.
fn import(label: &str, daemon: &Daemon) -> Command {
    let mut command = daemon.new_key(&["import", label]);
    command.arg("--in");
    command
}

/// Asserts that the key is in the unit: it has the public key of the file, shows where it is, and
/// signs like the file.
fn assert_imported(daemon: &Daemon, label: &str, file: &Path) {
    let expected = succeed(openssl(&["pkey", "-pubout", "-in"]).arg(file));
    let public = public_key(daemon, label);
    assert_eq!(fs::read_to_string(&public).unwrap(), expected, "{label}");
    assert_eq!(show(daemon, label)["backend"], "hsm");
    let text = succeed(&mut daemon.keyward(&["key", "show", label]));
    assert!(text.contains("\nbackend     hsm (crypto unit over GREP11)\n"), "{text}");
    assert_signs(daemon, label);

    // With the openssl program, where the key may be Ed25519 and the message longer than the
    // longest message that is sent whole.
    let (message, signature) = (daemon.path("text"), daemon.path("text.signature"));
    let length = if label == "ed25519" { 1000 } else { 300_000 };
    fs::write(&message, vec![b'k'; length]).unwrap();
    let reference = daemon.reference(label);
    let mut sign = daemon.openssl(&["pkeyutl", "-sign", "-rawin", "-inkey"]);
    succeed(sign.arg(&reference).arg("-in").arg(&message).arg("-out").arg(&signature));
    let mut verify = openssl(&["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey"]);
    succeed(verify.arg(&public).arg("-in").arg(&message).arg("-sigfile").arg(&signature));
}

#[test]
fn files_that_hold_no_key_for_tls() {
    let daemon = Daemon::start_on(Backend::Grep11);
    let file = |name: &str, text: &str| -> PathBuf {
        fs::write(daemon.path(name), text).unwrap();
        daemon.path(name)
    };
    let made = |name: &str, words: &[&str]| file(name, &succeed(&mut openssl(words)));
    let key = made("key.pem", &["genpkey", "-algorithm", "ED25519"]);
    let key = key.to_str().unwrap();
    for (file, told) in [
        (file("text", "hello\n"), "neither PEM nor DER"),
        (made("public", &["pkey", "-pubout", "-in", key]), "a public key"),
        (made("encrypted", &["pkey", "-aes128", "-passout", "pass:secret", "-in", key]), "--passphrase-file"),
        (made("short", &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]), "1024 bits"),
    ] {
        assert_refused(import("shop", &daemon).arg(&file), 65, &["import key shop: ", told]);
    }
    assert_refused(&mut daemon.keyward(&["key", "show", "shop"]), 66, &["no key shop"]);
    assert_in_order(&daemon);
}
