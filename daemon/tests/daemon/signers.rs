//! Administrators who sign with a program of their own, or with a signing service.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::ceremony::Ceremony;
use crate::fixture::{PROGRAM, failure_of, has_root};
use crate::signing_service::{Service, TOKEN};

/// Runs a command that needs no daemon.
fn alone(home: &Path, words: &[&str]) -> Result<String, (i32, String)> {
    let output = Command::new(PROGRAM).args(words).current_dir(home).stdin(Stdio::null()).output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(failure_of(&output)),
    }
}

fn openssl(home: &Path, words: &[&str]) -> String {
    let output = Command::new("openssl").args(words).current_dir(home).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Makes the key of an administrator with openssl.
fn new_key(home: &Path, name: &str) {
    let curve = "ec_paramgen_curve:P-521";
    openssl(home, &["genpkey", "-algorithm", "EC", "-pkeyopt", curve, "-out", &format!("{name}.pem")]);
}

/// Makes a signing program. `public_key` and `sign` are commands of the shell.
fn program(home: &Path, name: &str, public_key: &str, sign: &str) -> String {
    let file = home.join(name);
    let script = format!(
        "#!/bin/sh\ncd {}\necho $1 >>{name}.log\ncase $1 in\npublic-key) {public_key} ;;\nsign) {sign} ;;\n*) exit 9 ;;\nesac\n",
        home.display()
    );
    fs::write(&file, script).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    file.to_str().unwrap().to_owned()
}

const PUBLIC_KEY: &str = "openssl pkey -in dan.pem -pubout";
const SIGN: &str = "openssl dgst -sha512 -sign dan.pem";

/// A directory with the key `dan.pem`, and with the token of gina.
fn new_home(ceremony: &Ceremony) -> PathBuf {
    let home = PathBuf::from(ceremony.path("people"));
    fs::create_dir(&home).unwrap();
    new_key(&home, "dan");
    for (name, token) in [("gina.token", TOKEN), ("old.token", "an expired token")] {
        let file = home.join(name);
        fs::write(&file, format!("{token}\n")).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    }
    home
}

#[test]
fn a_program_and_a_service_claim_a_unit_and_sign_in_files() {
    if !has_root() {
        return;
    }
    let ceremony = Ceremony::unowned();
    let home = new_home(&ceremony);
    let dan = program(&home, "dan-signer", PUBLIC_KEY, SIGN);
    // The public key in DER, and the signature in base64.
    let also_dan =
        program(&home, "also-dan", &format!("{PUBLIC_KEY} -outform DER"), &format!("{SIGN} | base64"));
    let service = Service::with_tls(&home);
    let url = format!("https://{}/tke/gina", service.address);
    let token = home.join("gina.token").to_str().unwrap().to_owned();
    let ca = home.join("ca.pem").to_str().unwrap().to_owned();
    let gina = ["--signing-service", &url, "--service-token-file", &token, "--service-ca", &ca];

    let said =
        alone(&home, &["unit", "admin", "public", "dan.pub", "--name", "dan", "--signer", &dan]).unwrap();
    let spki = openssl(&home, &["pkey", "-in", "dan.pem", "-pubout"]);
    let base64: String = spki.lines().filter(|line| !line.starts_with('-')).collect();
    assert_eq!(fs::read_to_string(home.join("dan.pub")).unwrap(), format!("dan {base64}\n"));
    assert!(said.contains("wrote the public key of dan, ") && said.contains("dan.pub"), "{said}");
    let words = [&["unit", "admin", "public", "gina.pub", "--name", "gina", "--json"][..], &gina].concat();
    let view: serde_json::Value = serde_json::from_str(&alone(&home, &words).unwrap()).unwrap();
    assert_eq!(view["name"], "gina");

    let [dan_pub, gina_pub] =
        ["dan.pub", "gina.pub"].map(|name| home.join(name).to_str().unwrap().to_owned());
    let claim = ["unit", "claim", "--signatures", "2", "--revocation", "1", "--admin", &dan_pub];
    let both = [&["--admin", &gina_pub, "--signer", &dan][..], &gina].concat();
    let alone_in_it = ["unit", "claim", "--signatures", "1", "--revocation", "1", "--admin", &dan_pub];
    let (status, line) = ceremony.run(&[&alone_in_it[..], &gina].concat()).unwrap_err();
    assert!(status == 77 && line.contains("is of nobody in the claim"), "{status} {line}");
    ceremony.run(&[&claim[..], &both].concat()).unwrap();
    let listed = ceremony.daemon.succeed(&["unit", "admin", "list"]);
    assert!(listed.contains("dan") && listed.contains(view["ski"].as_str().unwrap()), "{listed}");

    // In a file, and with the text shown before.
    ceremony.person(&["unit", "admin", "new"], "alice");
    let out = ceremony.path("add.cmd");
    let add = ["unit", "admin", "add", &ceremony.path("alice.pub"), "--out", &out];
    ceremony.run(&[&add[..], &["--signer", &also_dan]].concat()).unwrap();
    let shown = alone(&home, &[&["unit", "sign", &out][..], &gina].concat()).unwrap();
    assert!(shown.contains("command: add-administrator") && shown.contains("  alice is "), "{shown}");
    assert!(shown.ends_with(&format!("signed {out} with the key gina at {}\n", service.address)), "{shown}");
    ceremony.run(&["unit", "send", &out]).unwrap();
    assert!(ceremony.daemon.succeed(&["unit", "admin", "list"]).contains("alice"));
    let log = fs::read_to_string(home.join("also-dan.log")).unwrap();
    assert_eq!(log, "public-key\nsign\n");

    // Without TLS on this machine, and without a token.
    let plain = Service::plain();
    let url = format!("http://{}/tke/gina", plain.address);
    let words = ["unit", "admin", "public", "other.pub", "--name", "other", "--signing-service", &url];
    alone(&home, &[&words[..], &["--service-token-file", &token]].concat()).unwrap();
    fs::remove_file(home.join("other.pub")).unwrap();
    let (status, line) = alone(&home, &words).unwrap_err();
    assert!(status == 77 && line.contains("status 401"), "{status} {line}");
}

#[test]
fn programs_that_do_not_sign_leave_the_command_as_it_was() {
    if !has_root() {
        return;
    }
    let ceremony = Ceremony::owned();
    let home = new_home(&ceremony);
    new_key(&home, "mallory");
    let dan = program(&home, "dan-signer", PUBLIC_KEY, SIGN);
    alone(&home, &["unit", "admin", "public", "dan.pub", "--name", "dan", "--signer", &dan]).unwrap();
    let (status, line) =
        alone(&home, &["unit", "admin", "public", "dan.pub", "--name", "dan", "--signer", &dan]).unwrap_err();
    assert!(status == 73 && line.contains("exists"), "an existing file stays: {line}");
    let out = ceremony.path("add.cmd");
    let dan_pub = home.join("dan.pub").to_str().unwrap().to_owned();
    ceremony.run(&["unit", "admin", "add", &dan_pub, "--out", &out]).unwrap();
    let before = fs::read_to_string(&out).unwrap();
    for (name, public_key, sign, status, words) in [
        (
            "fails",
            PUBLIC_KEY,
            "echo 'no token in the reader' >&2; exit 1",
            69,
            "exit status: 1: no token in the reader",
        ),
        ("keyless", "exit 1", SIGN, 69, "keyless public-key failed with exit status: 1"),
        ("certificate", "echo hello", SIGN, 65, "a SubjectPublicKeyInfo of the curve P-521 is needed"),
        ("p256", "openssl ecparam -name prime256v1 -genkey | openssl pkey -pubout", SIGN, 65, "curve P-521"),
        (
            "another",
            PUBLIC_KEY,
            "openssl dgst -sha512 -sign mallory.pem",
            65,
            "is not one of the command by the key",
        ),
        ("sha256", PUBLIC_KEY, "openssl dgst -sha256 -sign dan.pem", 65, "ECDSA with SHA-512"),
        ("text", PUBLIC_KEY, "echo done!", 65, "printed no signature"),
        ("nothing", PUBLIC_KEY, "exit 0", 65, "printed no signature"),
        ("long", PUBLIC_KEY, "cat /dev/zero", 65, "printed more than 16384 bytes"),
    ] {
        let signer = program(&home, name, public_key, sign);
        let (found, line) = alone(&home, &["unit", "sign", &out, "--signer", &signer]).unwrap_err();
        assert!(found == status && line.contains(words), "{name}: {found} {line}");
        assert!(line.contains(&format!("keyward: cannot sign with {signer}: ")), "{name}: {line}");
        assert_eq!(fs::read_to_string(&out).unwrap(), before, "{name}");
    }
    let (status, line) = alone(&home, &["unit", "sign", &out, "--signer", "./missing"]).unwrap_err();
    assert!(status == 66 && line.contains("./missing"), "{line}");
    let (status, line) = alone(&home, &["unit", "sign", &out]).unwrap_err();
    assert!(status == 64 && line.contains("--key, --signer or --signing-service"), "{line}");

    // A stranger is not asked to sign, and nobody signs twice.
    let (status, line) = ceremony.run(&["unit", "zeroize", "--yes", "--signer", &dan]).unwrap_err();
    assert!(status == 77 && line.contains("is of nobody who is an administrator of the unit"), "{line}");
    let asked = || fs::read_to_string(home.join("dan-signer.log")).unwrap().matches("sign\n").count();
    assert_eq!(asked(), 0);
    alone(&home, &["unit", "sign", &out, "--signer", &dan]).unwrap();
    let (status, line) = alone(&home, &["unit", "sign", &out, "--signer", &dan]).unwrap_err();
    assert!(status == 65 && line.contains("signed this command already"), "{line}");
    let key = ["--key", &ceremony.path("alice"), "--passphrase-file", &ceremony.path("passphrase")];
    let sign = [&["unit", "sign", &out][..], &key].concat();
    alone(&home, &sign).unwrap();
    let (status, line) = alone(&home, &sign).unwrap_err();
    assert!(status == 65 && line.trim_end().ends_with(": alice has signed this command already"), "{line}");
    // A wrong signature of alice in another copy does not displace the genuine one.
    let copy = ceremony.path("copy.cmd");
    let ski = &ceremony.status()["administrators"][0]["ski"];
    fs::write(&copy, format!("{before}signature: {} MAYCAQECAQE=\n", ski.as_str().unwrap())).unwrap();
    let (_, line) = ceremony.run(&["unit", "send", &copy, &out]).unwrap_err();
    assert!(line.contains("the signature is of ") && line.contains("not an administrator"), "dan: {line}");
    let threshold = ["unit", "threshold", "--signatures", "2", "--revocation", "1"];
    let [one, two] = ["one.cmd", "two.cmd"].map(|name| ceremony.path(name));
    ceremony.run(&[&threshold[..], &["--out", &one]].concat()).unwrap();
    fs::copy(&one, &two).unwrap();
    let unsigned = fs::read_to_string(&one).unwrap();
    fs::write(&one, format!("{unsigned}signature: {} MAYCAQECAQE=\n", ski.as_str().unwrap())).unwrap();
    let (_, line) = ceremony.run(&["unit", "send", &one]).unwrap_err();
    assert!(line.contains("is not one of this command"), "{line}");
    for name in ["alice", "bob"] {
        let key = ["--key", &ceremony.path(name), "--passphrase-file", &ceremony.path("passphrase")];
        alone(&home, &[&["unit", "sign", &two][..], &key].concat()).unwrap();
    }
    ceremony.run(&["unit", "send", &one, &two]).unwrap();
    assert_eq!(ceremony.status()["revocation_threshold"], 1);
    assert_eq!(asked(), 1);
}

#[test]
fn services_that_do_not_sign_leave_the_command_as_it_was() {
    if !has_root() {
        return;
    }
    let ceremony = Ceremony::owned();
    let home = new_home(&ceremony);
    let service = Service::with_tls(&home);
    let out = ceremony.path("seal.cmd");
    ceremony.run(&["unit", "threshold", "--signatures", "1", "--revocation", "1", "--out", &out]).unwrap();
    let before = fs::read_to_string(&out).unwrap();
    let sign = |name: &str, token: &str, more: &[&str]| {
        let url = format!("https://{}/tke/{name}", service.address);
        let words = ["unit", "sign", &out, "--signing-service", &url, "--service-token-file", token];
        let (status, line) = alone(&home, &[&words[..], more].concat()).unwrap_err();
        assert_eq!(fs::read_to_string(&out).unwrap(), before, "{name}");
        assert!(!line.contains(TOKEN) && !line.contains("an expired token"), "{line}");
        (status, line)
    };
    let ca = ["--service-ca", "ca.pem"];
    for (name, status, words) in [
        ("of-another-key", 65, "is not one of the command by the key"),
        ("not-json", 65, "it is not the JSON of the contract"),
        ("not-base64", 65, "signature is not base64"),
        ("long", 65, "is too long"),
        ("no-key", 65, "publickey is no key of P-521"),
        ("elsewhere", 69, "status 307"),
        ("nobody", 66, "status 404 Not Found; check the URL, and that the service has a key nobody"),
    ] {
        let (found, line) = sign(name, "gina.token", &ca);
        assert!(found == status && line.contains(words), "{name}: {found} {line}");
    }
    let (status, line) = sign("gina", "old.token", &ca);
    assert!(status == 77 && line.contains("status 401 Unauthorized; check the token in"), "{line}");
    let (status, line) = sign("gina", "ca.pem", &ca);
    assert!(status == 78 && line.contains("others can read it"), "{line}");
    // The authority of the certificate is unknown.
    let other = home.join("other");
    fs::create_dir(&other).unwrap();
    drop(Service::with_tls(&other));
    let (status, line) = sign("gina", "gina.token", &["--service-ca", "other/ca.pem"]);
    assert!(status == 69 && line.contains("certificate"), "{line}");
    // Nothing is sent without TLS to another machine.
    for url in ["http://192.0.2.1/gina", "http://signer.example.org/gina"] {
        let (status, line) = alone(&home, &["unit", "sign", &out, "--signing-service", url]).unwrap_err();
        assert!(status == 64 && line.contains("on this machine only"), "{line}");
    }
}

/// An administrator follows the section of docs/ceremony.md, command by command.
#[test]
fn the_section_of_the_page_can_be_followed() {
    if !has_root() {
        return;
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ceremony.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, section) = page.split_once("\n## Keys in tokens and signing services\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let ceremony = Ceremony::owned();
    let home = new_home(&ceremony);
    for name in ["alice", "bob"] {
        fs::copy(ceremony.path(name), home.join(format!("{name}.key"))).unwrap();
    }
    let (_, script) = section.split_once("```sh\n").unwrap();
    fs::write(home.join("dan-signer"), script.split("```").next().unwrap()).unwrap();
    fs::set_permissions(home.join("dan-signer"), fs::Permissions::from_mode(0o755)).unwrap();
    let service = Service::with_tls(&home);
    let (passphrase, run_dir) = (ceremony.path("passphrase"), ceremony.path("run"));
    let commands: Vec<_> = section.lines().filter_map(|line| line.strip_prefix("    keyward ")).collect();
    assert_eq!(commands.len(), 8);
    for line in commands {
        let url = format!("https://{}/tke/gina", service.address);
        let line = line.replace("https://signer.example.org/gina", &url);
        let mut words: Vec<_> = line.split(' ').collect();
        if line.contains("--signing-service") {
            words.extend(["--service-ca", "ca.pem"]);
        }
        if line.contains("--key") {
            words.extend(["--passphrase-file", &passphrase]);
        }
        if !line.starts_with("unit sign") && !line.starts_with("unit admin public") {
            words.extend(["--runtime-dir", &run_dir]);
        }
        alone(&home, &words).unwrap_or_else(|(_, error)| panic!("{line}: {error}"));
    }
    let listed = ceremony.daemon.succeed(&["unit", "admin", "list"]);
    assert!(["alice", "bob", "dan", "gina"].iter().all(|name| listed.contains(name)), "{listed}");
    assert!(ceremony.status()["signature_threshold"] == 3, "{listed}");
}
