//! Certificate requests of `keyward csr`: their contents as the openssl program reads them, and
//! refused requests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyward_tests::pki::{openssl, plain_key};
use keyward_tests::server::Page;
use keyward_tests::tool::{fail, run, succeed};
use keyward_tests::{Backend, Daemon, KEY_TYPES, Pki, built, on_both_backends};

on_both_backends!(
    the_request_is_for_the_key_and_the_names,
    a_certificate_comes_of_it,
    a_key_that_may_not_sign_requests_does_not,
    nothing_but_a_request_for_the_key_is_signed,
);

const NAMES: [&str; 6] = [
    "shop.example",
    "*.shop.example",
    "192.0.2.1",
    "IP:2001:db8::1",
    "email:admin@shop.example",
    "URI:spiffe://shop.example/web",
];

/// `keyward csr` with a name that has no effect on the test.
fn csr(daemon: &Daemon, label: &str) -> Command {
    daemon.keyward(&["csr", label, "--subject", "/CN=shop.example"])
}

/// Writes a request into a file. Returns the text of the openssl program after it has verified the
/// signature.
fn shown(daemon: &Daemon, pem: &str) -> (PathBuf, String) {
    let path = daemon.path("request.pem");
    fs::write(&path, pem).unwrap();
    let words = ["req", "-verify", "-noout", "-text", "-nameopt", "RFC2253,-esc_msb,utf8", "-in"];
    let text = succeed(openssl(&words).arg(&path));
    (path, text)
}

fn the_request_is_for_the_key_and_the_names(backend: Backend) {
    let daemon = Daemon::start_on(backend);
    let subject = concat!(
        r"CN=shop.example,OU=Shop+OU=Web,O=Sons\, Co,L=München,ST=Bayern,C=DE,DC=shop,DC=example,",
        "emailAddress=a@shop.example,serialNumber=7"
    );
    for key_type in KEY_TYPES {
        daemon.generate_for(key_type, key_type, "csr");
        let names = NAMES.into_iter().flat_map(|name| ["--san", name]);
        let pem = succeed(daemon.keyward(&["csr", key_type, "--subject", subject]).args(names));
        let (path, text) = shown(&daemon, &pem);
        let algorithm = match key_type {
            "p256" => "ecdsa-with-SHA256",
            "p384" => "ecdsa-with-SHA384",
            "p521" => "ecdsa-with-SHA512",
            "ed25519" => "ED25519",
            "rsa-pss2048" => "rsassaPss",
            _ => "sha256WithRSAEncryption",
        };
        assert!(text.contains(&format!("Signature Algorithm: {algorithm}")), "{text}");
        assert!(text.contains(&format!("Subject: {subject}\n")), "{text}");
        let names = "DNS:shop.example, DNS:*.shop.example, IP Address:192.0.2.1, IP Address:2001:DB8:0:0:0:0:0:1, \
                     email:admin@shop.example, URI:spiffe://shop.example/web";
        assert!(text.contains(names), "{text}");
        let reference = daemon.reference(key_type);
        let of_key = succeed(daemon.openssl(&["pkey", "-pubout", "-in"]).arg(&reference));
        let of_request = succeed(openssl(&["req", "-noout", "-pubkey", "-in"]).arg(&path));
        assert_eq!(of_request, of_key);
    }
    assert_eq!(daemon.logged(&["certificate request signed", "uid="]), KEY_TYPES.len(), "{}", daemon.log());

    // The form of `openssl req -subj` is encoded in the written order, as openssl encodes it.
    daemon.import_for("imported", "p256", "csr");
    let subject = "/C=DE/O=Sons, Co/CN=a+serialNumber=7";
    let ours = shown(&daemon, &succeed(&mut daemon.keyward(&["csr", "imported", "--subject", subject]))).1;
    let mut theirs = openssl(&["req", "-new", "-subj", subject, "-key"]);
    theirs.arg(daemon.path("imported.key")).arg("-config").arg(daemon.openssl_conf());
    let theirs = shown(&daemon, &succeed(&mut theirs)).1;
    let subject = |text: &str| text.lines().find(|line| line.contains("Subject:")).unwrap().to_owned();
    assert_eq!(subject(&ours), subject(&theirs));
}

fn a_certificate_comes_of_it(backend: Backend) {
    let daemon = Daemon::start_on(backend);
    let pki = Pki::new(daemon.directory());
    daemon.generate_for("shop", "p384", "any");
    // Without a subject, the other names are critical (RFC 5280, 4.2.1.6).
    let words = ["csr", "shop", "--version", "1", "--json", "--san", "shop.example", "::1"];
    let json: serde_json::Value = serde_json::from_str(&succeed(&mut daemon.keyward(&words))).unwrap();
    assert_eq!((&json["label"], &json["version"]), (&"shop".into(), &1.into()), "{json}");
    let (path, text) = shown(&daemon, json["pem"].as_str().unwrap());
    assert!(text.contains("X509v3 Subject Alternative Name: critical"), "{text}");
    let certificate = daemon.path("shop.crt");
    let mut sign = openssl(&["x509", "-req", "-copy_extensions", "copy", "-days", "2", "-CA"]);
    sign.arg(pki.ca()).arg("-CAkey").arg(daemon.path("ca.key")).arg("-in").arg(path);
    succeed(sign.arg("-out").arg(&certificate));
    let doctor = run(daemon
        .keyward(&["doctor"])
        .arg("--cert")
        .arg(&certificate)
        .arg("--reference")
        .arg(daemon.reference("shop")));
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(text.contains("shop.crt belongs to key shop version 1"), "{text}");
}

fn a_key_that_may_not_sign_requests_does_not(backend: Backend) {
    let daemon = Daemon::start_on(backend);
    let refused = |command: &mut Command, status: i32, words: &[&str]| {
        let (ended, text) = fail(command);
        assert_eq!(ended.code(), Some(status), "{text}");
        assert!(text.starts_with("keyward: ") && text.lines().count() == 1, "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {text}");
        text
    };
    daemon.generate("shop", "p256");
    let text = refused(
        &mut csr(&daemon, "shop"),
        77,
        &[
            "cannot make a certificate request for key shop",
            "the uses of the key are tls-server, without csr",
        ],
    );
    // The advised command works unchanged.
    let told = text.split_once("allow it: ").unwrap().1;
    let changed = succeed(&mut daemon.shell(told));
    assert!(changed.contains("tls-server, csr\n"), "{changed}");
    succeed(&mut csr(&daemon, "shop"));

    // The administrator accepted earlier that this key signs and decrypts.
    let words = ["generate", "both", "--type", "rsa2048", "--sign-and-decrypt"];
    let uses = ["--use", "tls-server", "--use", "rsa-key-exchange"];
    succeed(daemon.new_key(&words).args(uses));
    let text =
        refused(&mut csr(&daemon, "both"), 77, &["the uses of the key are tls-server, rsa-key-exchange"]);
    let told = text.split_once("allow it: ").unwrap().1;
    let changed = succeed(&mut daemon.shell(told));
    assert!(changed.contains("tls-server, rsa-key-exchange, csr\n"), "{changed}");

    succeed(&mut daemon.keyward(&["key", "disable", "shop"]));
    refused(&mut csr(&daemon, "shop"), 77, &["key shop is disabled", "keyward key enable shop"]);
    refused(&mut csr(&daemon, "mail"), 66, &["key mail"]);
    succeed(&mut daemon.keyward(&["key", "enable", "shop"]));
    refused(csr(&daemon, "shop").args(["--version", "2"]), 66, &["no version 2"]);
    refused(&mut daemon.keyward(&["csr", "shop"]), 64, &["give --subject, --san or both"]);
    refused(&mut daemon.keyward(&["csr", "shop", "--subject", "shop"]), 64, &["TYPE=VALUE"]);
    refused(&mut daemon.keyward(&["csr", "shop", "--san", "a..b"]), 64, &["not a DNS name"]);
    refused(&mut daemon.keyward(&["csr", "shop", "--san", "a.b:443"]), 64, &["leave out the port"]);
    refused(&mut daemon.keyward(&["csr", "shop", "--san", "a.b,c.d"]), 64, &["one name for each --san"]);
    let url = ["csr", "shop", "--san", "https://shop.example/"];
    refused(&mut daemon.keyward(&url), 64, &["to name the host, write --san shop.example"]);
    let words = ["csr", "--san", "a.example", "b.example", "shop"];
    refused(&mut daemon.keyward(&words), 64, &["without a label", "keyward csr LABEL --san NAME..."]);
    refused(&mut daemon.keyward(&["csr", "--subject", "CN=a"]), 64, &["LABEL"]);
    let many = (0..1500).map(|n| format!("a-name-that-is-rather-long-{n}.shop.example"));
    refused(csr(&daemon, "shop").arg("--san").args(many), 65, &["give fewer names"]);
    assert_eq!(daemon.logged(&["certificate request signed"]), 1, "{}", daemon.log());
}

/// The CertificationRequestInfo of a request: the first value in it.
fn info(daemon: &Daemon, request: &Path) -> Vec<u8> {
    let listing = succeed(openssl(&["asn1parse", "-in"]).arg(request));
    let first = listing.lines().find(|line| line.contains(":d=1 ")).unwrap();
    let offset = first.split(':').next().unwrap().trim();
    let out = daemon.path("info.der");
    succeed(openssl(&["asn1parse", "-noout", "-strparse", offset, "-in"]).arg(request).arg("-out").arg(&out));
    fs::read(out).unwrap()
}

/// The route itself, with requests that only other callers than the command line send.
fn nothing_but_a_request_for_the_key_is_signed(backend: Backend) {
    let daemon = Daemon::start_on(backend);
    for label in ["shop", "mail"] {
        daemon.generate_for(label, "p256", "csr");
    }
    daemon.generate("server", "p256");
    let post = |path: &str, body: &[u8]| {
        let file = daemon.path("body");
        fs::write(&file, body).unwrap();
        let mut curl = daemon.curl();
        curl.args(["--write-out", "\n%{http_code}", "--data-binary"]).arg(format!("@{}", file.display()));
        let answer = succeed(curl.arg(format!("http://localhost/v1/keys/{path}")));
        let (body, status) = answer.rsplit_once('\n').unwrap();
        (status.to_owned(), body.to_owned())
    };
    let (request, _) = shown(&daemon, &succeed(&mut csr(&daemon, "shop")));
    let info = info(&daemon, &request);
    let (status, answer) = post("shop/csr?version=1", &info);
    assert_eq!(status, "200", "{answer}");
    assert!(answer.contains(r#""scheme":"ecdsa_secp256r1_sha256""#), "{answer}");

    let tls = [&[0x20; 64][..], b"TLS 1.3, server CertificateVerify\0", &[7; 32]].concat();
    for (path, body, status, words) in [
        ("mail/csr", &info[..], "422", "public key of key mail version 1"),
        ("shop/csr", b"garbage", "422", "no CertificationRequestInfo"),
        ("shop/csr", b"", "422", "no CertificationRequestInfo"),
        ("shop/csr", &[&info[..], &[0]].concat(), "422", "no CertificationRequestInfo"),
        ("shop/csr", &tls, "422", "no CertificationRequestInfo"),
        ("shop/csr", &[0; 70_000], "413", "length limit"),
        ("shop/csr?version=2", &info, "404", "has no version 2"),
        ("shop/csr?version=x", &info, "400", "not a number"),
        ("shop/csr?scheme=1", &info, "400", "unknown parameter"),
        ("server/csr", &info, "403", "without csr"),
        ("nowhere/csr", &info, "404", "nowhere"),
    ] {
        let (got, answer) = post(path, body);
        assert_eq!(got, status, "{path}: {answer}");
        assert!(answer.contains(words), "{path}: {answer}");
    }
    assert_eq!(daemon.logged(&["certificate request signed"]), 2, "{}", daemon.log());
}

/// The steps in the order of the page about conversion.
#[test]
fn an_imported_key_gives_way_to_one_that_was_never_in_a_file() {
    let daemon = Daemon::start();
    let file = daemon.path("shop.key");
    fs::write(&file, plain_key("p256")).unwrap();
    succeed(&mut daemon.keyward(&["key", "import", "shop", "--in", file.to_str().unwrap()]));
    let former = daemon.reference("shop");
    let script = Page::read("convert").block("key rotate").replace("keyward ", "run_keyward ");
    let run_keyward = format!(
        "run_keyward() {{ {} \"$@\" --runtime-dir {}; }}\n",
        built("keyward").display(),
        daemon.path("run").display()
    );
    let mut shell = Command::new("sh");
    succeed(shell.args(["-e", "-c", &(run_keyward + &script)]).current_dir(daemon.directory()));
    let (request, _) = shown(&daemon, &fs::read_to_string(daemon.path("shop.csr")).unwrap());
    let certified = succeed(openssl(&["req", "-noout", "-pubkey", "-in"]).arg(request));
    let public = |reference: &Path| succeed(daemon.openssl(&["pkey", "-pubout", "-in"]).arg(reference));
    assert_ne!(public(&former), certified);
    assert_eq!(public(&daemon.reference("shop")), certified);
}
