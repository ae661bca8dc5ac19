//! Servers and clients on rustls that take certificates from the daemon and follow their changes.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use keyward_rustls::{Error, Resolver};
use keyward_tests::client::{WISHES, s_client};
use keyward_tests::server::Site;
use keyward_tests::tool::{fail, succeed, wait_for};
use keyward_tests::{
    Backend, Handshake, KEY_TYPES, ML_DSA, Nginx, OpenSsl, Pki, RustlsThread, on_both_backends,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use super::{attach, certify, listed, scene};

on_both_backends!(rotated_keys_are_followed);

/// Follows a key through every change that can happen while a server uses the key.
fn rotated_keys_are_followed(backend: Backend) {
    let (mut daemon, pki) = scene(backend);
    daemon.generate("shop", "p256");
    let resolver = daemon.for_rustls().follow("shop").unwrap();
    let server = RustlsThread::start(Arc::clone(&resolver) as _);
    let handshake = Handshake::new(&pki, server.address());
    assert_eq!(wait_for_problem(&resolver, Some("has no certificates in the daemon; attach them")), None);
    assert!(handshake.make().is_err());
    assert!(server.failure().to_string().contains("no server certificate chain resolved"));

    let first = certify(&daemon, &pki, "shop");
    let first_reference = fs::read_to_string(daemon.reference("shop")).unwrap();
    attach(&daemon, "shop", &first);
    assert_eq!(wait_for_problem(&resolver, None), Some(1));
    let first = der(&first);
    assert_eq!(presented(&server, &pki), first);

    // A new version is not used before it has a certificate; the old version stays in use.
    let rotated = succeed(&mut daemon.keyward(&["key", "rotate", "shop", "--json"]));
    assert_eq!(serde_json::from_str::<Value>(&rotated).unwrap()["current"], 2);
    // The resolver learns of changes in order: when it knows of this change, it knows of the
    // rotation.
    succeed(&mut daemon.keyward(&["key", "disable", "shop"]));
    assert_eq!(wait_for_problem(&resolver, Some("the key is disabled")), Some(1));
    succeed(&mut daemon.keyward(&["key", "enable", "shop"]));
    assert_eq!(wait_for_problem(&resolver, None), Some(1));
    assert_eq!(presented(&server, &pki), first);
    let second = certify(&daemon, &pki, "shop");
    assert_eq!(attach(&daemon, "shop", &second)["version"], 2);
    let second = der(&second);
    wait_for("the second version", || (presented(&server, &pki) == second).then_some(()));
    // A server with the first reference keeps the first version.
    let pinned = daemon.for_rustls().key_from_pem(&first_reference).unwrap();
    let pinned = RustlsThread::start(pinned.with_certificates(vec![first.clone()]).unwrap());
    assert_eq!(presented(&pinned, &pki), first);
    assert_eq!(daemon.for_rustls().key("shop").unwrap().version(), 2);

    // Another certificate for the same version.
    let renewed = certify(&daemon, &pki, "shop");
    attach(&daemon, "shop", &renewed);
    let renewed = der(&renewed);
    assert_ne!(renewed, second);
    wait_for("the new certificate", || (presented(&server, &pki) == renewed).then_some(()));

    succeed(&mut daemon.keyward(&["key", "disable", "shop"]));
    assert_eq!(wait_for_problem(&resolver, Some("the key is disabled")), Some(2));
    assert!(handshake.make().is_err());
    assert!(server.failure().to_string().contains("key \"shop\" refused: the key is disabled"));
    succeed(&mut daemon.keyward(&["key", "enable", "shop"]));
    assert_eq!(wait_for_problem(&resolver, None), Some(2));
    assert_eq!(presented(&server, &pki), renewed);

    // Changes made while the daemon is not running are found when the daemon runs again. Until
    // then the resolver keeps the last certificates.
    assert!(daemon.stop().success());
    assert!(handshake.make().is_err());
    let failure = server.failure();
    assert!(
        failure.to_string().contains("cannot sign with key \"shop\": cannot reach the keyward daemon"),
        "{failure}"
    );
    let away = "cannot follow changes: cannot reach the keyward daemon";
    assert_eq!(wait_for_problem(&resolver, Some(away)), Some(2));
    daemon.resume();
    assert_eq!(presented(&server, &pki), renewed);
    assert_eq!(wait_for_problem(&resolver, None), Some(2));
    daemon.destroy("shop");
    assert_eq!(wait_for_problem(&resolver, Some("no such key")), Some(2));
    assert!(handshake.make().is_err());
    assert!(server.failure().to_string().contains("key \"shop\" refused: no such key"));
    daemon.generate("shop", "ed25519");
    assert_eq!(wait_for_problem(&resolver, Some("has no certificates")), None);
    let other = certify(&daemon, &pki, "shop");
    attach(&daemon, "shop", &other);
    assert_eq!(wait_for_problem(&resolver, None), Some(1));
    assert_eq!(presented(&server, &pki), der(&other));
}

/// Detached certificates are gone and the key stays. A program that follows the key learns of the
/// change.
#[test]
fn certificates_are_detached() {
    let (daemon, pki) = scene(Backend::Embedded);
    daemon.generate("shop", "p256");
    attach(&daemon, "shop", &certify(&daemon, &pki, "shop"));
    succeed(&mut daemon.keyward(&["key", "rotate", "shop"]));
    attach(&daemon, "shop", &certify(&daemon, &pki, "shop"));
    let resolver = daemon.for_rustls().follow("shop").unwrap();
    assert_eq!(wait_for_problem(&resolver, None), Some(2));
    let detach = |more: &[&str]| daemon.keyward(&[&["cert", "detach", "shop"], more].concat());
    let told: Value = serde_json::from_str(&succeed(&mut detach(&["--json"]))).unwrap();
    assert_eq!((&told["version"], &told["subject"]), (&2.into(), &"CN=localhost".into()));
    assert_eq!(listed(&daemon), [("shop".to_owned(), 1)]);
    let (status, told) = fail(&mut detach(&[]));
    assert!(status.code() == Some(66) && told.contains("version 2 of key shop has no cert"), "{told}");
    let named = told.trim_end().rsplit_once("with --version: ").unwrap().1;
    let version = || resolver.status()[0].version;
    wait_for("the first version", || (version() == Some(1)).then_some(()));
    succeed(&mut detach(&["--version", named]));
    assert!(listed(&daemon).is_empty());
    wait_for_problem(&resolver, Some("has no certificates"));
    let (_, told) = fail(&mut detach(&[]));
    assert!(told.ends_with("no other version has a certificate\n"), "{told}");
    assert_eq!(fail(&mut detach(&["--version", "3"])).0.code(), Some(66));
}

#[test]
fn a_server_starts_without_the_daemon_and_has_its_keys_when_that_is_up() {
    let (mut daemon, pki) = scene(Backend::Embedded);
    daemon.generate("shop", "p256");
    let certificate = certify(&daemon, &pki, "shop");
    attach(&daemon, "shop", &certificate);
    assert!(daemon.stop().success());
    let Err(error) = daemon.for_rustls().resolver().fallback("shop").build() else { panic!("loaded") };
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    let resolver = daemon.for_rustls().follow("shop").unwrap();
    let server = RustlsThread::start(Arc::clone(&resolver) as _);
    assert!(Handshake::new(&pki, server.address()).make().is_err());
    wait_for_problem(&resolver, Some("cannot ask for key \"shop\": cannot reach the keyward daemon"));
    daemon.resume();
    assert_eq!(wait_for_problem(&resolver, None), Some(1));
    assert_eq!(presented(&server, &pki), der(&certificate));
}

#[test]
fn names_lead_to_keys() {
    let (daemon, pki) = scene(Backend::Embedded);
    let keys = [("shop", "shop.example"), ("wild", "*.wild.example"), ("rest", "127.0.0.1.example")];
    let certificates = keys.map(|(label, name)| {
        daemon.generate(label, "p256");
        let certificate = pki.certify_as(&daemon, &daemon.reference(label), name, 2);
        attach(&daemon, label, &certificate);
        der(&certificate)
    });
    let builder =
        || daemon.for_rustls().resolver().key("shop", ["shop.example"]).key("wild", ["*.wild.example"]);
    let server = RustlsThread::start(builder().build().unwrap());
    let asked = |name| Handshake::new(&pki, server.address()).asking_for(name).certificate();
    assert_eq!(asked("shop.example").unwrap(), certificates[0]);
    assert_eq!(asked("a.wild.example").unwrap(), certificates[1]);
    for name in ["wild.example", "a.b.wild.example", "other.example", "127.0.0.1"] {
        let error = asked(name).unwrap_err().to_string();
        assert!(error.contains("AccessDenied"), "{name}: {error}");
    }
    let server = RustlsThread::start(builder().fallback("rest").build().unwrap());
    let rest = Handshake::new(&pki, server.address()).asking_for("127.0.0.1.example").certificate();
    assert_eq!(rest.unwrap(), certificates[2]);

    let refused = |label: &str| match builder().fallback(label).build() {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{label} was loaded"),
    };
    assert_eq!(refused("nobody"), "key \"nobody\" refused: no such key; see: keyward key list");
    daemon.generate("bare", "p256");
    let expected =
        "key \"bare\" has no certificates in the daemon; attach them: keyward cert attach bare --in CHAIN";
    assert_eq!(refused("bare"), expected);
}

#[test]
fn a_client_follows_its_key_too() {
    let (daemon, pki) = scene(Backend::Embedded);
    let (certificate, key) = pki.leaf("server");
    let mut site = Site::new(certificate, key);
    site.client_ca = Some(pki.ca());
    let _nginx = Nginx::start(&daemon, std::slice::from_ref(&site));
    daemon.generate_for("robot", "p256", "tls-client");
    let resolver = daemon.for_rustls().follow("robot").unwrap();
    let client = Handshake::with_key(&pki, site.address, WISHES[3], Arc::clone(&resolver) as _);
    assert!(client.make().unwrap_err().to_string().contains("400"), "without a certificate");
    attach(&daemon, "robot", &certify(&daemon, &pki, "robot"));
    wait_for_problem(&resolver, None);
    client.make().unwrap();
}

/// Certificates with key types that rustls or OpenSSL 3.0 hardly know are attached, sent to
/// programs and used like all others.
#[test]
fn every_type_of_key_has_certificates() {
    let (daemon, pki) = scene(Backend::Embedded);
    for key_type in KEY_TYPES.into_iter().chain(ML_DSA) {
        daemon.generate(key_type, key_type);
        let certificate = pki.certify_with(OpenSsl::V3_5, &daemon, &daemon.reference(key_type));
        attach(&daemon, key_type, &certificate);
        let resolver = daemon.for_rustls().resolver().fallback(key_type).build().unwrap();
        let server = RustlsThread::start(resolver);
        if key_type.starts_with("rsa-pss") {
            s_client(&pki, server.address(), WISHES[3]);
        } else {
            assert_eq!(presented(&server, &pki), der(&certificate), "{key_type}");
        }
    }
}

/// The certificate that a server presents.
fn presented(server: &RustlsThread, pki: &Pki) -> CertificateDer<'static> {
    Handshake::new(pki, server.address()).certificate().unwrap()
}

fn der(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).unwrap()
}

/// Waits until the status of the only key has a problem with these words, or no problem. Returns
/// the version in use.
fn wait_for_problem(resolver: &Resolver, words: Option<&str>) -> Option<u32> {
    wait_for(&format!("{words:?} in {:?}", resolver.status()), || {
        let [key] = &resolver.status()[..] else { panic!("one key") };
        let found = match (words, &key.problem) {
            (Some(words), Some(problem)) => problem.to_string().contains(words),
            (words, problem) => words.is_none() && problem.is_none(),
        };
        found.then_some(key.version)
    })
}
