//! Certificates that lie with their keys in the daemon, and servers and clients on rustls that take
//! them from there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyward_rustls::{Error, Resolver};
use keyward_tests::client::{WISHES, s_client};
use keyward_tests::pki::openssl;
use keyward_tests::server::Site;
use keyward_tests::tool::{fail, run, succeed, wait_for};
use keyward_tests::{
    Backend, Daemon, Handshake, KEY_TYPES, ML_DSA, Nginx, OpenSsl, Pki, RustlsThread, on_both_backends,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use serde_json::Value;

on_both_backends!(certificates_are_attached_and_listed, rotated_keys_are_followed);

fn scene(backend: Backend) -> (Daemon, Pki) {
    let daemon = Daemon::start_on(backend);
    let pki = Pki::new(daemon.directory());
    (daemon, pki)
}

/// A certificate for the current version of a key.
fn certify(daemon: &Daemon, pki: &Pki, label: &str) -> PathBuf {
    pki.certify(daemon, &daemon.reference(label))
}

fn attach(daemon: &Daemon, label: &str, file: &Path) -> Value {
    let words = ["cert", "attach", label, "--json", "--in", file.to_str().unwrap()];
    serde_json::from_str(&succeed(&mut daemon.keyward(&words))).unwrap()
}

/// Label and version of each certificate, in the order of the list.
fn listed(daemon: &Daemon) -> Vec<(String, u64)> {
    let list = succeed(&mut daemon.keyward(&["cert", "list", "--json"]));
    let list: Vec<Value> = serde_json::from_str(&list).unwrap();
    let row = |row: &Value| (row["label"].as_str().unwrap().to_owned(), row["version"].as_u64().unwrap());
    list.iter().map(row).collect()
}

fn certificates_are_attached_and_listed(backend: Backend) {
    let (mut daemon, pki) = scene(backend);
    assert!(listed(&daemon).is_empty());
    daemon.generate("shop", "p256");
    daemon.generate("mail", "rsa-pss2048");
    daemon.generate("bare", "p256");
    let chain = daemon.path("chain.pem");
    let leaf = fs::read_to_string(certify(&daemon, &pki, "shop")).unwrap();
    fs::write(&chain, format!("{leaf}{}", fs::read_to_string(pki.ca()).unwrap())).unwrap();
    let attached = attach(&daemon, "shop", &chain);
    assert_eq!(
        (&attached["version"], &attached["chain"], &attached["current"]),
        (&1.into(), &2.into(), &true.into())
    );
    assert_eq!((&attached["subject"], &attached["issuer"]), (&"CN=localhost".into(), &"CN=Test CA".into()));
    assert_eq!(attached["names"], serde_json::json!(["localhost", "127.0.0.1"]));
    let days = |value: &Value| value["not_after"].as_u64().unwrap() - value["not_before"].as_u64().unwrap();
    assert_eq!(days(&attached), 2 * 24 * 3600);
    let mut fingerprint = openssl(&["x509", "-noout", "-fingerprint", "-sha256", "-in"]);
    let fingerprint = succeed(fingerprint.arg(&chain)).trim().replace(':', "").to_lowercase();
    assert!(fingerprint.ends_with(attached["fingerprint"].as_str().unwrap()), "{fingerprint}");

    // A certificate that expires sooner comes first.
    let short = pki.certify_as(&daemon, &daemon.reference("mail"), "localhost", 1);
    attach(&daemon, "mail", &short);
    let both = [("mail".to_owned(), 1), ("shop".to_owned(), 1)];
    assert_eq!(listed(&daemon), both);
    let table = succeed(&mut daemon.keyward(&["cert", "list"]));
    let rows: Vec<_> = table.lines().collect();
    assert!(
        rows[0].starts_with("LABEL") && rows[1].starts_with("mail") && rows[2].starts_with("shop"),
        "{table}"
    );
    assert!(rows[2].contains("localhost, 127.0.0.1") && rows[2].contains("CN=Test CA"), "{table}");
    assert!(rows[1].contains(" in 2") && rows[1].ends_with(" hours"), "{table}");
    let shown = succeed(&mut daemon.keyward(&["key", "show", "shop"]));
    assert!(shown.contains("certificate for localhost, 127.0.0.1 until 20"), "{shown}");
    assert!(!succeed(&mut daemon.keyward(&["key", "show", "bare"])).contains("certificate"));

    // From standard input, in the place of the old one.
    let again = certify(&daemon, &pki, "shop");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "exec \"$@\" < \"$0\""]).arg(&again);
    let command = daemon.keyward(&["cert", "attach", "shop", "--in", "-"]);
    shell.arg(command.get_program()).args(command.get_args());
    assert!(succeed(&mut shell).contains("1, current"));
    let list = succeed(&mut daemon.keyward(&["cert", "list", "--json"]));
    let list: Vec<Value> = serde_json::from_str(&list).unwrap();
    assert_eq!(list[1]["chain"], 1);
    assert_ne!(list[1]["fingerprint"], attached["fingerprint"]);

    assert!(daemon.stop().success());
    daemon.resume();
    assert_eq!(listed(&daemon), both);
}

#[test]
fn what_cannot_be_attached_says_why_and_changes_nothing() {
    let (daemon, pki) = scene(Backend::Embedded);
    daemon.generate("shop", "p256");
    daemon.generate("mail", "p256");
    let shop = fs::read_to_string(certify(&daemon, &pki, "shop")).unwrap();
    let mail = fs::read_to_string(certify(&daemon, &pki, "mail")).unwrap();
    let ca = fs::read_to_string(pki.ca()).unwrap();
    let bare = fs::read_to_string(pki.certify_bare(&daemon.reference("shop").with_extension("pub"))).unwrap();
    let (_, plain) = pki.leaf("other");
    let key = fs::read_to_string(&plain).unwrap();
    let file = daemon.path("file.pem");
    let twins = (0..11).map(|_| fs::read_to_string(certify(&daemon, &pki, "shop")).unwrap()).collect();
    // Of the same name, with another key.
    let elsewhere = daemon.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let other_ca = Pki::new(&elsewhere).ca();
    let request = succeed(openssl(&["req", "-new", "-subj", "/CN=shop", "-key"]).arg(&plain));
    for (text, expected) in [
        (String::new(), "there is no certificate in the file"),
        ("no PEM at all\n".repeat(1000), "there is no certificate in the file"),
        (shop[..shop.len() - 50].to_owned(), "the PEM in the file is damaged"),
        (shop.replacen("MII", "AAA", 1), "certificate 1 in the file is damaged"),
        (format!("{shop}{key}"), "there is a private key in the file; give the certificates alone"),
        (mail.clone(), "no version of key shop has the public key of the first certificate in the file"),
        (ca.clone(), "no version of key shop has the public key of the first certificate in the file"),
        (format!("{shop}{mail}"), "number 1 is certified by \"CN=Test CA\", so that one has to follow it"),
        (format!("{ca}{shop}"), "the certificate of key shop is number 2 in the file, and has to come first"),
        (bare, "rustls does not take the first certificate in the file"),
        (twins, "there are more than 10 certificates in the file"),
        (
            format!("{shop}{}", fs::read_to_string(&other_ca).unwrap()),
            "certificate 1 in the file was not signed by number 2",
        ),
        (request, "the file holds a certificate request, not a certificate"),
        ("x".repeat(70_000), "longer than 65536 bytes"),
    ] {
        fs::write(&file, &text).unwrap();
        let words = ["cert", "attach", "shop", "--in", file.to_str().unwrap()];
        let (status, line) = fail(&mut daemon.keyward(&words));
        assert_eq!((status.code(), line.lines().count()), (Some(65), 1), "{line}");
        assert!(line.starts_with("keyward: cannot ") && line.contains(expected), "{line}");
        assert!(!daemon.log().contains(key.lines().nth(1).unwrap()), "a private key in the log");
    }
    fs::write(&file, format!("{ca}{ca}")).unwrap();
    let words = ["cert", "attach", "nobody", "--in", file.to_str().unwrap()];
    let (status, line) = fail(&mut daemon.keyward(&words));
    assert!(status.code() == Some(66) && line.contains("there is no key nobody"), "{line}");
    let missing = daemon.path("missing.pem");
    let (status, line) =
        fail(&mut daemon.keyward(&["cert", "attach", "shop", "--in", missing.to_str().unwrap()]));
    assert!(
        status.code() == Some(66) && line.contains("cannot read") && line.contains("missing.pem"),
        "{line}"
    );
    assert!(listed(&daemon).is_empty());
}

/// Reasons of clients to refuse a certificate.
#[test]
fn doubtful_certificates_are_attached_with_a_warning() {
    let (daemon, pki) = scene(Backend::Embedded);
    daemon.generate("shop", "p256");
    let reference = daemon.reference("shop");
    let public = reference.with_extension("pub");
    certify(&daemon, &pki, "shop");
    let attach = |text: &str| {
        let file = daemon.path("doubtful.pem");
        fs::write(&file, text).unwrap();
        let output =
            daemon.keyward(&["cert", "attach", "shop", "--in", file.to_str().unwrap()]).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{told}");
        told
    };
    let with = |extensions: &str, days: i32| {
        fs::read_to_string(pki.certify_with_extensions(&public, extensions, days)).unwrap()
    };
    let sound = with("subjectAltName=DNS:a.example\n", 2);
    let ca = fs::read_to_string(pki.ca()).unwrap();
    assert_eq!(attach(&format!("{sound}{ca}")), "");
    assert_eq!(
        attach(&format!("{sound}{sound}{ca}")),
        "keyward: note: a certificate that is in the file more than once was attached once\n"
    );
    let nameless = attach(&with("basicConstraints=CA:FALSE\n", 2));
    assert!(nameless.starts_with("keyward: warning: the certificate has no SubjectAltName: "), "{nameless}");
    let authority = attach(&with("subjectAltName=DNS:a.example\nbasicConstraints=CA:TRUE\n", 2));
    assert!(
        authority.starts_with("keyward: warning: the certificate is that of an authority"),
        "{authority}"
    );
    for told in [nameless, authority] {
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    // The certificate of the authority is renewed, and the old one is in the file.
    let old = fs::read_to_string(pki.renewed_ca(-1)).unwrap();
    let told = attach(&format!("{sound}{old}"));
    let expected = "keyward: warning: certificate 2 in the file (CN=Test CA) has expired on 20";
    assert!(told.starts_with(expected) && told.lines().count() == 1, "{told}");
}

#[test]
fn an_expired_certificate_is_attached_with_a_warning() {
    let (daemon, pki) = scene(Backend::Embedded);
    daemon.generate("shop", "p256");
    let expired = pki.certify_as(&daemon, &daemon.reference("shop"), "localhost", -1);
    let mut attach = daemon.keyward(&["cert", "attach", "shop", "--in", expired.to_str().unwrap()]);
    let output = attach.output().unwrap();
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && warning.starts_with("keyward: warning: the certificate has expired on 20"),
        "{warning}"
    );
    assert!(succeed(&mut daemon.keyward(&["cert", "list"])).contains("24 hours ago"));
}

/// Of the versions in use, everywhere that somebody looks: the list, the doctor, metrics.
#[test]
fn it_is_told_when_certificates_expire() {
    let (daemon, pki) = scene(Backend::Embedded);
    let mut expires = BTreeMap::new();
    for (label, days) in [("fresh", 90), ("gone", -1), ("off", -1), ("rotated", -1)] {
        daemon.generate(label, "p256");
        let certificate = pki.certify_as(&daemon, &daemon.reference(label), "localhost", days);
        let attached = attach(&daemon, label, &certificate);
        expires.insert((label.to_owned(), 1), attached["not_after"].as_u64().unwrap());
    }
    // The issuer expires before the certificate.
    daemon.generate("chain", "p256");
    let leaf = fs::read_to_string(certify(&daemon, &pki, "chain")).unwrap();
    let file = daemon.path("expired-chain.pem");
    fs::write(&file, leaf + &fs::read_to_string(pki.renewed_ca(-1)).unwrap()).unwrap();
    let attached = attach(&daemon, "chain", &file);
    let (before, end) = (&attached["expires_before"], attached["not_after"].as_u64().unwrap());
    let first = before["not_after"].as_u64().unwrap();
    assert!((&before["number"], &before["subject"]) == (&2.into(), &"CN=Test CA".into()) && first < end);
    expires.insert(("chain".to_owned(), 1), first);
    let list = succeed(&mut daemon.keyward(&["cert", "list"]));
    assert!(list.contains("24 hours ago: certificate 2 of the chain (CN=Test CA)"), "{list}");
    let shown = succeed(&mut daemon.keyward(&["key", "show", "chain"]));
    assert!(shown.contains("certificate 2 of its chain (CN=Test CA) until 20"), "{shown}");
    // Nobody needs that of a key that is disabled.
    succeed(&mut daemon.keyward(&["key", "disable", "off"]));
    expires.remove(&("off".to_owned(), 1));
    // The version that has a certificate stays the one that is in use.
    succeed(&mut daemon.keyward(&["key", "rotate", "rotated"]));

    let metrics = || -> BTreeMap<(String, u64), u64> {
        let (_, page) = daemon.get("/metrics");
        let name = "keyward_certificate_not_after_timestamp_seconds{";
        let lines = page.lines().filter_map(|line| line.strip_prefix(name)?.split_once("} "));
        let value = |text: &str| text.split('"').nth(1).unwrap().to_owned();
        lines
            .map(|(labels, time)| {
                let (key, version) = labels.split_once(',').unwrap();
                ((value(key), value(version).parse().unwrap()), time.parse().unwrap())
            })
            .collect()
    };
    wait_for("the metric of each certificate", || (metrics() == expires).then_some(()));

    let list = succeed(&mut daemon.keyward(&["key", "list"]));
    let told = |label: &str| {
        let row = list.lines().find(|row| row.split_whitespace().next() == Some(label)).unwrap();
        row.split_once("embedded").unwrap().1.trim().to_owned()
    };
    assert_eq!((told("gone"), told("chain")), ("expired 24 hours ago".into(), "expired 24 hours ago".into()));
    assert_eq!(told("rotated"), "expired 24 hours ago (version 1)");
    assert!(told("fresh").starts_with("expires in "), "{list}");
    let list = succeed(&mut daemon.keyward(&["key", "list", "--json"]));
    let list: Vec<Value> = serde_json::from_str(&list).unwrap();
    let fresh =
        &list.iter().find(|key| key["label"] == "fresh").unwrap()["versions"][0]["certificate"]["not_after"];
    assert_eq!(fresh.as_u64(), Some(expires[&("fresh".to_owned(), 1)]));

    let doctor = || -> Vec<String> {
        let findings = run(&mut daemon.keyward(&["doctor", "--json"])).stdout;
        let findings: Vec<Value> = serde_json::from_slice(&findings).unwrap();
        let found = findings.iter().filter(|finding| finding["check"] == "expiry");
        let told = found.map(|found| format!("{} {} {}", found["verdict"], found["detail"], found["mend"]));
        // They may expire in the same second, or not.
        told.collect::<BTreeSet<_>>().into_iter().collect()
    };
    let [chain, gone, rotated] = &doctor()[..] else { panic!("{:?}", doctor()) };
    for (told, label) in [(gone, "gone"), (rotated, "rotated")] {
        let words =
            format!("\"fail\" \"the certificate of key {label} version 1 for localhost has expired on 20");
        assert!(told.starts_with(&words), "{told}");
    }
    let words = "\"fail\" \"certificate 2 (CN=Test CA) in the chain of key chain version 1 for localhost, 127.0.0.1 has expired";
    assert!(chain.starts_with(words), "{chain}");
    succeed(&mut daemon.keyward(&["cert", "detach", "chain"]));
    let command = "keyward cert detach rotated --version 1";
    assert!(rotated.contains(command), "{rotated}");
    succeed(&mut daemon.keyward(&command.split(' ').skip(1).collect::<Vec<_>>()));

    let certificate = pki.certify_as(&daemon, &daemon.reference("gone"), "localhost", 90);
    let renewed = attach(&daemon, "gone", &certificate)["not_after"].as_u64().unwrap();
    let [ok] = &doctor()[..] else { panic!("{:?}", doctor()) };
    assert!(ok.starts_with("\"ok\" \"certificates with the daemon: 2, the first one expires in "), "{ok}");
    succeed(&mut daemon.keyward(&["cert", "detach", "fresh"]));
    succeed(&mut daemon.keyward(&["key", "delete", "off"]));
    let left = BTreeMap::from([(("gone".to_owned(), 1), renewed)]);
    wait_for("the metric of what is left", || (metrics() == left).then_some(()));
}

/// The certificate that a server presents for the label, with a resolver that follows it.
fn presented(server: &RustlsThread, pki: &Pki) -> CertificateDer<'static> {
    Handshake::new(pki, server.address()).certificate().unwrap()
}

fn der(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).unwrap()
}

/// Waits until it is known of a key that there is a problem with these words, or none.
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

/// Everything that can happen to a key while a server has it.
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

    // A new version is of no use without a certificate; the old one goes on.
    let rotated = succeed(&mut daemon.keyward(&["key", "rotate", "shop", "--json"]));
    assert_eq!(serde_json::from_str::<Value>(&rotated).unwrap()["current"], 2);
    // By the time that it has heard of this, it has heard of that.
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

    // Changes while the daemon is away are found when it is back; until then the last certificates
    // are kept.
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
    succeed(&mut daemon.keyward(&["key", "delete", "shop", "--yes"]));
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

/// The certificates go, the key stays; and a program that takes both from the daemon learns of it.
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
    let named = told.trim_end().rsplit_once("that has with --version: ").unwrap().1;
    let version = || resolver.status()[0].version;
    wait_for("the first version", || (version() == Some(1)).then_some(()));
    succeed(&mut detach(&["--version", named]));
    assert!(listed(&daemon).is_empty());
    wait_for_problem(&resolver, Some("has no certificates"));
    let (_, told) = fail(&mut detach(&[]));
    assert!(told.ends_with("nor has any other\n"), "{told}");
    assert_eq!(fail(&mut detach(&["--version", "3"])).0.code(), Some(66));
}

/// A renewal with a new key: the file comes as a new version, whatever its type.
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
    assert!(status.code() == Some(65) && line.contains("is version 1 of key shop already"), "{line}");
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
    // A certificate of before needs the version of before.
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
    let expected = "keyward: cannot rotate key odd: no key of the type of key odd can be made; import one: keyward key import odd --new-version --in FILE\n";
    assert_eq!((status.code(), &*line), (Some(65), expected));
    let next = daemon.path("next.key");
    succeed(
        openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2560", "-out"]).arg(&next),
    );
    succeed(&mut daemon.keyward(&["key", "import", "odd", "--new-version", "--in", next.to_str().unwrap()]));
    let (status, line) = fail(&mut daemon.keyward(&["key", "rotate", "nobody"]));
    assert!(status.code() == Some(66) && line.contains("there is no key nobody"), "{line}");

    // Many at once make as many versions.
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

/// Certificates of kinds that rustls and OpenSSL 3.0 know little of are none the less attached,
/// handed out and used.
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
