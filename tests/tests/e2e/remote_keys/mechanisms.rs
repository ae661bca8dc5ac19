//! Units without some mechanisms, like older firmware.

use std::time::{Duration, Instant};

use keyward_client::{Error, Input};
use keyward_proto::{Outcome, Scheme};
use keyward_tests::client::{WISHES, s_client};
use keyward_tests::server::Site;
use keyward_tests::signers::failures;
use keyward_tests::{Daemon, Nginx, Pki, Signers, Units, scratch};
use tempfile::TempDir;

use super::{assert_in_order, assert_refused, assert_signs, sign};

/// A daemon with a unit for each list of arguments.
fn scene(arguments: &[&[&str]]) -> (Daemon, Vec<keyward_tests::UnitServer>, TempDir) {
    let directory = scratch();
    let units = Units::new(&directory.path().join("units"));
    let servers: Vec<_> = (arguments.iter().enumerate())
        .map(|(number, arguments)| units.start(&format!("unit-{number}"), arguments))
        .collect();
    let endpoints: Vec<_> = servers.iter().map(|server| server.address()).collect();
    let mut daemon = Daemon::prepare_for_units(units.section(&endpoints, ""), "");
    daemon.resume();
    (daemon, servers, directory)
}

const NO_DIGESTS: [&str; 6] = [
    "--simulate-without",
    "CKM_ECDSA",
    "--simulate-without",
    "CKM_RSA_PKCS",
    "--simulate-without",
    "CKM_RSA_PKCS_PSS",
];

fn refused(daemon: &Daemon, label: &str, scheme: Scheme, input: Input<'_>) -> Outcome {
    match sign(daemon, label, scheme, input) {
        Err(Error::Refused(outcome)) => outcome,
        other => panic!("{label}, {scheme}: {other:?}"),
    }
}

#[test]
fn messages_go_where_digests_do_not() {
    let (daemon, _servers, _directory) = scene(&[&NO_DIGESTS]);
    for key_type in ["p256", "p384", "p521", "ed25519", "rsa2048"] {
        daemon.generate_for(key_type, key_type, "any");
        assert_signs(&daemon, key_type);
    }
    daemon.import_for("imported", "rsa2048", "any");
    assert_signs(&daemon, "imported");
    for (label, scheme, length) in [
        ("p256", Scheme::EcdsaSecp256r1Sha256, 32),
        ("p384", Scheme::EcdsaSecp384r1Sha384, 48),
        ("rsa2048", Scheme::RsaPssRsaeSha256, 32),
        ("rsa2048", Scheme::RsaPkcs1Sha512, 64),
        ("ed25519", Scheme::Ed25519, 64),
    ] {
        let outcome = refused(&daemon, label, scheme, Input::Digest(&vec![7; length]));
        assert_eq!(outcome, Outcome::NotSupported, "{label}, {scheme}");
    }
    assert_in_order(&daemon);

    let pki = Pki::new(daemon.directory());
    let sites = ["shop", "mail"].map(|label| {
        daemon.generate(label, if label == "shop" { "p256" } else { "rsa2048" });
        let reference = daemon.reference(label);
        Site::new(pki.certify(&daemon, &reference), reference)
    });
    let _nginx = Nginx::start(&daemon, &sites);
    for site in &sites {
        WISHES.iter().for_each(|wish| s_client(&pki, site.address, *wish));
    }
}

#[test]
fn digests_go_where_messages_do_not() {
    let without: Vec<&str> =
        ["CKM_ECDSA_SHA256", "CKM_SHA256_RSA_PKCS", "CKM_SHA256_RSA_PKCS_PSS", "CKM_IBM_ED25519_SHA512"]
            .iter()
            .flat_map(|name| ["--simulate-without", name])
            .collect();
    let (daemon, _servers, _directory) = scene(&[&without]);
    for (key_type, schemes) in [
        ("p256", &[Scheme::EcdsaSecp256r1Sha256][..]),
        ("rsa2048", &[Scheme::RsaPssRsaeSha256, Scheme::RsaPkcs1Sha256]),
    ] {
        daemon.generate_for(key_type, key_type, "any");
        assert_signs(&daemon, key_type);
        for scheme in schemes {
            sign(&daemon, key_type, *scheme, Input::Digest(&[7; 32])).unwrap();
        }
    }
    let mut edwards = daemon.new_key(&["generate", "edwards", "--type", "ed25519"]);
    assert_refused(&mut edwards, 65, &["generate key edwards: ", "no mechanism for ed25519"]);
    assert_in_order(&daemon);
}

/// A unit may list PSS and refuse digests for it. The daemon notices with the first signature,
/// which succeeds.
#[test]
fn pss_that_is_listed_and_takes_no_digests() {
    let (daemon, servers, _directory) = scene(&[&["--simulate-refused", "CKM_RSA_PKCS_PSS"]]);
    daemon.generate_for("shop", "rsa2048", "any");
    // The unit logs refusals once a second: others would have appeared by now.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(1500) {
        assert_signs(&daemon, "shop");
    }
    assert_in_order(&daemon);
    let refusals = servers[0].log().matches("call refused").count();
    assert_eq!(refusals, 1, "it is asked once: {}", servers[0].log());
    let pss = refused(&daemon, "shop", Scheme::RsaPssRsaeSha256, Input::Digest(&[7; 32]));
    assert_eq!(pss, Outcome::NotSupported);
    sign(&daemon, "shop", Scheme::RsaPkcs1Sha256, Input::Digest(&[7; 32])).unwrap();
    assert_in_order(&daemon);
}

#[test]
fn what_a_unit_cannot_do_at_all_is_refused_unless_another_one_can() {
    let without = ["--simulate-without", "CKM_ECDSA", "--simulate-without", "CKM_ECDSA_SHA256"];
    let (mut daemon, mut servers, _directory) = scene(&[&[], &without]);
    daemon.generate_for("shop", "p256", "any");
    let load = Signers::start(&daemon, "shop", P256, 300.0, 4);
    load.let_sign(60);
    let signed = load.stop();
    assert!(failures(&signed).is_empty(), "{:?}\n{}", failures(&signed)[0], daemon.log());
    assert_in_order(&daemon);

    let text = std::fs::read_to_string(daemon.path("keyward.toml")).unwrap();
    let alone = text.replace(&format!("{:?}, ", servers[0].address()), "");
    std::fs::write(daemon.path("keyward.toml"), alone).unwrap();
    servers[0].stop();
    daemon.stop();
    daemon.resume();
    for _ in 0..5 {
        assert_eq!(refused(&daemon, "shop", P256, Input::Message(b"text")), Outcome::NotSupported);
    }
    sign(&daemon, "shop", Scheme::EcdsaSecp384r1Sha384, Input::Message(b"text")).unwrap();
    let mut mail = daemon.new_key(&["generate", "mail", "--type", "p256"]);
    let told = [
        "generate key mail: ",
        "units of backend hsm do not offer",
        "no mechanism for ecdsa_secp256r1_sha256",
    ];
    assert_refused(&mut mail, 65, &told);
    assert_in_order(&daemon);
}

/// The daemon asks a unit for its mechanisms when it connects. After that, each signature is one
/// call.
#[test]
fn a_signature_is_one_call() {
    let late = Duration::from_millis(100);
    let (daemon, _servers, _directory) =
        scene(&[&[&NO_DIGESTS[..], &["--simulate-latency", "100ms"]].concat()]);
    daemon.generate_for("shop", "p256", "any");
    // One connection, like a server: the first signature may have to connect to the unit.
    let load = Signers::start(&daemon, "shop", P256, 4.0, 1);
    load.let_sign(6);
    let mut took: Vec<_> = load.stop().iter().map(|signed| signed.latency()).collect();
    took.sort_unstable();
    assert!(took[0] >= late, "{took:?}");
    // The median, because one of them may have waited for a processor.
    assert!(took[took.len() / 2] < 2 * late, "{took:?}");
}

const P256: Scheme = Scheme::EcdsaSecp256r1Sha256;
