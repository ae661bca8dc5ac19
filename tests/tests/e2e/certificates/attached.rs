//! Certificates that administrators attach, list and detach, and the time when they expire.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use keyward_tests::pki::openssl;
use keyward_tests::tool::{fail, run, succeed, wait_for};
use keyward_tests::{Backend, Pki, on_both_backends};
use serde_json::Value;

use super::{attach, certify, listed, scene};

on_both_backends!(certificates_are_attached_and_listed);

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

    // The certificate that expires first is listed first.
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

    // From standard input, replacing the old certificate.
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
    // An authority of the same name with another key.
    let elsewhere = daemon.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let other_ca = Pki::new(&elsewhere).ca();
    let request = succeed(openssl(&["req", "-new", "-subj", "/CN=shop", "-key"]).arg(&plain));
    for (text, expected) in [
        (String::new(), "there is no certificate in the file"),
        ("no PEM at all\n".repeat(1000), "there is no certificate in the file"),
        (shop[..shop.len() - 50].to_owned(), "the PEM in the file is damaged"),
        (shop.replacen("MII", "AAA", 1), "certificate 1 in the file is damaged"),
        (
            format!("{shop}{key}"),
            "there is a private key in the file; give a file with the certificates only",
        ),
        (mail.clone(), "no version of key shop has the public key of the first certificate in the file"),
        (ca.clone(), "no version of key shop has the public key of the first certificate in the file"),
        (
            format!("{shop}{mail}"),
            "number 1 is certified by \"CN=Test CA\", so the certificate of that issuer must follow it",
        ),
        (format!("{ca}{shop}"), "the certificate of key shop is number 2 in the file, and must come first"),
        (bare, "rustls does not accept the first certificate in the file"),
        (twins, "there are more than 10 certificates in the file"),
        (
            format!("{shop}{}", fs::read_to_string(&other_ca).unwrap()),
            "certificate 1 in the file was not signed by certificate 2",
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

/// Certificates that clients are likely to refuse.
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
        "keyward: note: a certificate that is in the file several times was attached once\n"
    );
    let nameless = attach(&with("basicConstraints=CA:FALSE\n", 2));
    assert!(nameless.starts_with("keyward: warning: the certificate has no SubjectAltName: "), "{nameless}");
    let authority = attach(&with("subjectAltName=DNS:a.example\nbasicConstraints=CA:TRUE\n", 2));
    assert!(authority.starts_with("keyward: warning: the certificate is for an authority"), "{authority}");
    for told in [nameless, authority] {
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    // The authority has renewed its certificate, and the file has the old certificate.
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

/// The list, the doctor and the metrics report when certificates of versions in use expire.
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
    // The certificate of the issuer expires before the certificate of the key.
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
    // The certificate of a disabled key is not reported.
    succeed(&mut daemon.keyward(&["key", "disable", "off"]));
    expires.remove(&("off".to_owned(), 1));
    // The version with a certificate stays in use.
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
        let told = found.map(|found| format!("{} {} {}", found["verdict"], found["detail"], found["fix"]));
        // Several certificates may expire in the same second, so findings may repeat.
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
    assert!(ok.starts_with("\"ok\" \"certificates in the daemon: 2, the first expires in "), "{ok}");
    succeed(&mut daemon.keyward(&["cert", "detach", "fresh"]));
    succeed(&mut daemon.keyward(&["key", "delete", "off"]));
    let left = BTreeMap::from([(("gone".to_owned(), 1), renewed)]);
    wait_for("the metric of what is left", || (metrics() == left).then_some(()));
}
