//! Adopts keys that a unit has made for somebody else. The public key must be the right one.

use std::fs;
use std::process::Command;

use keyward_tests::tool::succeed;
use keyward_tests::unit_server::Python;
use keyward_tests::{Daemon, UnitServer, Units, scratch};
use tempfile::TempDir;

use super::{assert_refused, assert_signs, public_key, unit_list};

/// A unit with a client in Python that makes keys there, and a daemon that adopts the keys.
struct Scene {
    daemon: Daemon,
    unit: UnitServer,
    units: Units,
    python: Python,
    directory: TempDir,
}

impl Scene {
    fn new() -> Self {
        let directory = scratch();
        let units = Units::new(&directory.path().join("units"));
        let unit = units.start("unit", &[]);
        let mut daemon = Daemon::prepare_for_units(units.section(&[unit.address()], ""), "");
        daemon.resume();
        // So that the daemon knows that the unit signs correctly.
        daemon.generate("first", "p256");
        let python = Python::generate(directory.path());
        Self { daemon, unit, units, python, directory }
    }

    /// Makes a key pair, and returns the path of its files without their suffixes; see
    /// tests/grep11/probe.py.
    fn pair(&self, unit: &UnitServer, kind: &str, files: &str) -> String {
        let files = self.directory.path().join(files).to_str().unwrap().to_owned();
        assert_eq!(self.units.probe(&self.python, unit, &[&format!("pair={kind},{files}")]), "written");
        files
    }

    fn file(&self, name: &str, content: Vec<u8>) -> String {
        let path = self.directory.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn adopt(&self, label: &str, blob: &str, public: &str) -> Command {
        self.daemon.new_key(&["adopt", label, "--use", "any", "--blob", blob, "--public", public])
    }
}

#[test]
fn public_keys_in_the_form_of_the_unit_and_in_everybody_elses() {
    let scene = Scene::new();
    for kind in ["P-256", "P-521", "Ed25519", "RSA-2048"] {
        let files = scene.pair(&scene.unit, kind, kind);
        for form in ["public", "pem"] {
            let label = format!("{kind}-{form}");
            succeed(&mut scene.adopt(&label, &format!("{files}.blob"), &format!("{files}.{form}")));
            let told = fs::read_to_string(public_key(&scene.daemon, &label)).unwrap();
            let expected = fs::read_to_string(format!("{files}.pem")).unwrap().replace('\n', "");
            assert_eq!(told.replace('\n', ""), expected);
            assert_signs(&scene.daemon, &label);
        }
    }
    let again = scene.adopt("P-256-pem", "/dev/null", "/dev/null");
    assert_refused(&mut { again }, 73, &["adopt key P-256-pem: ", "already"]);
}

/// Keys for RSA key exchange are tested by a decryption.
#[test]
fn keys_that_decrypt_are_taken_over_for_that() {
    let scene = Scene::new();
    let adopt = |label: &str, files: &str, more: &[&str]| {
        let [blob, public] = [".blob", ".public"].map(|suffix| format!("{files}{suffix}"));
        let mut command = scene.daemon.new_key(&["adopt", label, "--blob", &blob, "--public", &public]);
        command.args(["--use", "rsa-key-exchange"]).args(more);
        command
    };
    let old = scene.pair(&scene.unit, "RSA-2048,CKA_SIGN=0,CKA_DECRYPT=1", "old");
    let both = scene.pair(&scene.unit, "RSA-2048,CKA_SIGN=1,CKA_DECRYPT=1", "both");
    let signs = scene.pair(&scene.unit, "RSA-2048,CKA_SIGN=1,CKA_DECRYPT=0", "signs");
    succeed(&mut adopt("old", &old, &[]));
    let and_signs = ["--use", "tls-server"];
    assert_refused(&mut adopt("both", &both, &and_signs), 64, &["--sign-and-decrypt"]);
    succeed(adopt("both", &both, &and_signs).arg("--sign-and-decrypt"));
    assert_refused(&mut adopt("signs", &signs, &[]), 65, &["cannot decrypt", "attributes"]);
    assert_refused(&mut adopt("old-signs", &old, &and_signs), 65, &["cannot sign", "attributes"]);
    // Private and public key of two pairs.
    fs::copy(format!("{both}.public"), format!("{old}.public")).unwrap();
    assert_refused(&mut adopt("mixed", &old, &[]), 65, &["of another key, or the unit is faulty"]);
    assert_eq!(unit_list(&scene.daemon)[0]["failures"], 0);
}

#[test]
fn what_does_not_fit_is_refused_and_no_unit_is_blamed() {
    let scene = Scene::new();
    let stranger = scene.units.start_with_master_key("stranger", &scene.units.master_key("strange.key"), &[]);
    let shop = scene.pair(&scene.unit, "P-256", "shop");
    let mail = scene.pair(&scene.unit, "P-256", "mail");
    let large = scene.pair(&scene.unit, "P-384", "large");
    let rsa = scene.pair(&scene.unit, "RSA-2048", "rsa");
    let strange = scene.pair(&stranger, "P-256", "strange");
    let mute = scene.pair(&scene.unit, "P-256,CKA_SIGN=0,CKA_DERIVE=1", "mute");
    let garbage = scene.file("garbage", b"garbage".repeat(50));
    let mut damaged = fs::read(format!("{shop}.blob")).unwrap();
    damaged[120] ^= 1;
    let damaged = scene.file("damaged", damaged);
    let [blob, public] = [".blob", ".public"].map(|suffix| move |files: &str| format!("{files}{suffix}"));
    for (blob, public, told) in [
        (blob(&strange), public(&strange), &[&stranger.wkid(), &scene.unit.wkid(), "master key"][..]),
        (blob(&mute), public(&mute), &["cannot sign", "attributes"]),
        (garbage.clone(), public(&shop), &["no key blob"]),
        (blob(&shop), garbage, &["no public key"]),
        (damaged, public(&shop), &["CKR_IBM_BLOB_ERROR"]),
        // Private and public key of two pairs, of the same type and of different types.
        (blob(&shop), public(&mail), &["public key", "another"]),
        (blob(&shop), public(&large), &["public key", "another"]),
        (blob(&large), public(&shop), &["public key", "another"]),
        (blob(&rsa), public(&shop), &["CKR_KEY_TYPE_INCONSISTENT"]),
    ] {
        assert_refused(&mut scene.adopt("shop", &blob, &public), 65, &[&["adopt key shop: "], told].concat());
        let units = unit_list(&scene.daemon);
        let state = ["health", "breaker"].map(|field| units[0][field].as_str().unwrap());
        assert_eq!(
            (state, &units[0]["failures"]),
            (["up", "closed"], &0.into()),
            "{blob}, {public}: {units:?}"
        );
    }
    assert_refused(&mut scene.daemon.keyward(&["key", "show", "shop"]), 66, &["no key shop"]);
    succeed(&mut scene.adopt("shop", &blob(&shop), &public(&shop)));
    assert_signs(&scene.daemon, "shop");
}
