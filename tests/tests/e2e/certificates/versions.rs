//! Versions of keys: key files that become new versions, and rotations.

use std::path::Path;

use keyward_tests::Backend;
use keyward_tests::pki::openssl;
use keyward_tests::tool::{fail, succeed};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use super::scene;

/// A renewal with a new key: the key file becomes a new version, whatever the type of the key.
#[test]
fn a_key_file_becomes_a_new_version() {
    let (daemon, _) = scene(Backend::Embedded);
    let make = |name: &str, curve: &str| {
        let file = daemon.path(name);
        let curve = format!("ec_paramgen_curve:{curve}");
        succeed(openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", &curve, "-out"]).arg(&file));
        file
    };
    let (first, second, third) = (make("1.key", "P-256"), make("2.key", "P-256"), make("3.key", "P-384"));
    let import = |file: &Path, more: &[&str]| {
        let words = [&["key", "import", "shop", "--in", file.to_str().unwrap()], more].concat();
        daemon.keyward(&words)
    };
    let (status, line) = fail(&mut import(&first, &["--new-version"]));
    assert!(status.code() == Some(66) && line.contains("there is no key shop"), "{line}");
    succeed(&mut import(&first, &["--use", "tls-server", "--use", "csr"]));
    let (status, line) = fail(&mut import(&second, &[]));
    let advised = "keyward key import shop --new-version --in FILE";
    assert!(status.code() == Some(73) && line.contains(advised), "{line}");
    let (status, line) = fail(&mut import(&first, &["--new-version"]));
    assert!(status.code() == Some(65) && line.contains("is already version 1 of key shop"), "{line}");
    let (_, line) = fail(&mut import(&second, &["--new-version", "--use", "csr"]));
    assert!(line.contains("cannot be used with"), "{line}");

    for (file, number) in [(&second, 2), (&third, 3)] {
        let shown = succeed(&mut import(file, &["--new-version", "--json"]));
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["current"].as_u64(), Some(number));
        assert_eq!(shown["uses"], serde_json::json!(["tls-server", "csr"]));
        let public = succeed(openssl(&["pkey", "-pubout", "-in"]).arg(file));
        let reference =
            keyward_proto::Reference::from_pem(&succeed(&mut daemon.keyward(&["key", "reference", "shop"])));
        let reference = reference.unwrap();
        let spki = SubjectPublicKeyInfoDer::from_pem_slice(public.as_bytes()).unwrap();
        assert_eq!((reference.version(), reference.spki()), (u32::try_from(number).unwrap(), spki.as_ref()));
    }
    // An older certificate needs the older version.
    let reference = |version| daemon.keyward(&["key", "reference", "shop", "--version", version]);
    let former = keyward_proto::Reference::from_pem(&succeed(&mut reference("1"))).unwrap();
    let public = succeed(openssl(&["pkey", "-pubout", "-in"]).arg(&first));
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(public.as_bytes()).unwrap();
    assert_eq!((former.version(), former.spki()), (1, spki.as_ref()));
    let (status, line) = fail(&mut reference("4"));
    assert!(
        status.code() == Some(66) && line.contains("version 4 of key shop: there is no such version"),
        "{line}"
    );
}

#[test]
fn what_cannot_be_rotated_says_why() {
    let (daemon, _) = scene(Backend::Embedded);
    let odd = daemon.path("odd.key");
    succeed(openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2560", "-out"]).arg(&odd));
    succeed(&mut daemon.keyward(&["key", "import", "odd", "--in", odd.to_str().unwrap()]));
    let (status, line) = fail(&mut daemon.keyward(&["key", "rotate", "odd"]));
    let expected = "keyward: cannot rotate key odd: units do not generate keys of the type of key odd; import a new version: keyward key import odd --new-version --in FILE\n";
    assert_eq!((status.code(), &*line), (Some(65), expected));
    let next = daemon.path("next.key");
    succeed(
        openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2560", "-out"]).arg(&next),
    );
    succeed(&mut daemon.keyward(&["key", "import", "odd", "--new-version", "--in", next.to_str().unwrap()]));
    let (status, line) = fail(&mut daemon.keyward(&["key", "rotate", "nobody"]));
    assert!(status.code() == Some(66) && line.contains("there is no key nobody"), "{line}");

    // Parallel rotations make one version each.
    daemon.generate("shop", "p256");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| succeed(&mut daemon.keyward(&["key", "rotate", "shop"])));
        }
    });
    let shown = succeed(&mut daemon.keyward(&["key", "show", "shop", "--json"]));
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let numbers =
        shown["versions"].as_array().unwrap().iter().map(|version| version["number"].as_u64().unwrap());
    assert_eq!(numbers.collect::<Vec<_>>(), (1..=9).collect::<Vec<_>>());
    assert_eq!(shown["current"], 9);
}
