//! Keys at remote units: making and importing keys, choosing the unit that signs, and errors
//! without a unit.

mod adoption;
mod backends;
mod health;
mod imports;
mod mechanisms;
mod owners;
mod rewrap;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyward_client::{Address, Client, Error, Input, Label, Signature};
use keyward_proto::{Hash, KeyType, Scheme};
use keyward_tests::Daemon;
use keyward_tests::pki::openssl;
use keyward_tests::tool::{fail, succeed};
use serde_json::Value;

/// Requests a signature as a server does.
fn sign(daemon: &Daemon, label: &str, scheme: Scheme, input: Input<'_>) -> Result<Signature, Error> {
    let client = Client::new(Address::try_from(daemon.socket().as_path()).unwrap(), Client::DEFAULT_TIMEOUT);
    client.sign(&label.parse::<Label>().unwrap(), scheme, input)
}

/// Asserts that the key signs with every scheme of its type. The openssl program verifies with the
/// public key from the daemon.
fn assert_signs(daemon: &Daemon, label: &str) {
    let key = show(daemon, label);
    let key_type: KeyType = key["type"].as_str().unwrap().parse().unwrap();
    let public = public_key(daemon, label);
    for &scheme in key_type.schemes() {
        let message = format!("signed with {scheme} by {label}");
        let signature = sign(daemon, label, scheme, Input::Message(message.as_bytes()));
        let signature =
            signature.unwrap_or_else(|error| panic!("{label}, {scheme}: {error}\n{}", daemon.log()));
        assert_verifies(daemon, &public, scheme, message.as_bytes(), signature.as_ref());
    }
}

fn assert_verifies(daemon: &Daemon, public: &Path, scheme: Scheme, message: &[u8], signature: &[u8]) {
    let [text, signed] = [("message", message), ("signature", signature)].map(|(name, bytes)| {
        let path = public.with_extension(name);
        fs::write(&path, bytes).unwrap();
        path
    });
    let mut command = openssl(&["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey"]);
    command.arg(public).arg("-in").arg(text).arg("-sigfile").arg(signed);
    match scheme.hash() {
        Some(Hash::Sha256) => drop(command.args(["-digest", "sha256"])),
        Some(Hash::Sha384) => drop(command.args(["-digest", "sha384"])),
        Some(Hash::Sha512) => drop(command.args(["-digest", "sha512"])),
        _ => {}
    }
    if scheme.is_pss() {
        command.args(["-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:digest"]);
    }
    assert!(succeed(&mut command).contains("Verified"), "{scheme}\n{}", daemon.log());
}

/// The public key from the daemon in PEM, as the openssl program writes it. So the test also shows
/// that openssl reads it.
fn public_key(daemon: &Daemon, label: &str) -> PathBuf {
    let shown = show(daemon, label);
    let base64 = shown["versions"][0]["public_key"].as_str().unwrap();
    let lines: String =
        base64.as_bytes().chunks(64).map(|line| format!("{}\n", String::from_utf8_lossy(line))).collect();
    let path = daemon.path(&format!("{label}.pub"));
    fs::write(&path, format!("-----BEGIN PUBLIC KEY-----\n{lines}-----END PUBLIC KEY-----\n")).unwrap();
    let read = succeed(openssl(&["pkey", "-pubin", "-in"]).arg(&path));
    fs::write(&path, read).unwrap();
    path
}

/// `keyward key show`.
fn show(daemon: &Daemon, label: &str) -> Value {
    json(&mut daemon.keyward(&["key", "show", label, "--json"]))
}

fn json(command: &mut Command) -> Value {
    serde_json::from_str(&succeed(command)).unwrap()
}

/// `keyward unit list`, without the embedded unit.
fn unit_list(daemon: &Daemon) -> Vec<Value> {
    let Value::Array(mut units) = json(&mut daemon.keyward(&["unit", "list", "--json"])) else { panic!() };
    units.retain(|unit| unit["backend"] != "embedded");
    units
}

/// Asserts that all units are up, and that no call counted as their fault.
fn assert_in_order(daemon: &Daemon) {
    for unit in unit_list(daemon) {
        let state = ["health", "breaker"].map(|field| unit[field].as_str().unwrap());
        assert!(
            matches!(state, ["up", "closed"] | ["probing", "half-open"]) && unit["failures"] == 0,
            "{unit}"
        );
    }
}

/// Asserts that a command fails with a status and one line that contains all of these words.
fn assert_refused(command: &mut Command, status: i32, words: &[&str]) {
    let (ended, text) = fail(command);
    assert_eq!(ended.code(), Some(status), "{command:?}: {text}");
    let told = text.strip_prefix("keyward: cannot ").unwrap_or_else(|| panic!("{text}"));
    assert!(told.lines().count() == 1 && words.iter().all(|word| told.contains(word)), "{command:?}: {text}");
}
