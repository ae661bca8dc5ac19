//! The life of a key, from the command line.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use keyward_proto::{KeyType, Outcome, Reference};

use crate::fixture::{Daemon, PROGRAM, certificate_verify, label_of};

#[test]
fn a_key_is_made_shown_used_disabled_and_destroyed() {
    let daemon = Daemon::dev("");
    let shown = daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    assert!(shown.contains("software crypto unit") && shown.contains("tls-server"), "{shown}");
    assert!(daemon.succeed(&["key", "list"]).lines().any(|line| line.starts_with("shop ")));
    let pem = daemon.succeed(&["key", "reference", "shop"]);
    let reference = Reference::from_pem(&pem).unwrap();
    assert_eq!((reference.label().as_str(), reference.version()), ("shop", 1));

    let message = certificate_verify();
    let signature = daemon.sign("shop", &message).unwrap();
    assert!(openssl_verifies(&daemon, reference.spki(), &message, signature.as_ref()));
    assert!(!openssl_verifies(&daemon, reference.spki(), b"another", signature.as_ref()));

    daemon.succeed(&["key", "disable", "shop"]);
    assert_eq!(daemon.outcome("shop", &message), Outcome::KeyDisabled);
    daemon.succeed(&["key", "enable", "shop"]);
    assert_eq!(daemon.outcome("shop", &message), Outcome::Done);
    daemon.destroy("shop");
    assert_eq!(daemon.outcome("shop", &message), Outcome::UnknownKey);
}

/// The servers of a deleted key fail at once. Without a terminal nobody can confirm the deletion.
#[test]
fn a_key_that_signs_is_not_deleted_without_confirmation() {
    let daemon = Daemon::dev("");
    let exists = |label: &str| {
        let shown: serde_json::Value =
            serde_json::from_str(&daemon.succeed(&["key", "show", label, "--json"])).unwrap();
        shown["state"] != "deleted"
    };
    let generate = |label: &str| drop(daemon.succeed(&["key", "generate", label, "--type", "p256"]));
    for label in ["shop", "mail", "asked"] {
        generate(label);
    }
    let (code, line) = daemon.fail(&["key", "delete", "shop", "--json"]);
    assert!(code == 64 && exists("shop"), "{line}");
    assert!(line.contains("key shop was not deleted: it is enabled"), "{line}");
    let command = line.trim_end().rsplit_once("run: keyward ").unwrap().1.replace('\'', "");
    assert!(Command::new(PROGRAM).args(command.split(' ')).status().unwrap().success());
    assert!(!exists("shop"));
    daemon.succeed(&["key", "disable", "mail"]);
    daemon.succeed(&["key", "delete", "mail"]);
    assert!(!exists("mail"));

    // script(1) gives the command a terminal.
    let at_a_terminal = |more: &str, answer: &str| {
        let runtime_dir = daemon.path("run");
        let command = format!("{PROGRAM} key delete asked --runtime-dir {} {more}", runtime_dir.display());
        let mut script = Command::new("script");
        let script = script.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
        let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        script.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let output = script.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (deleted, told) = at_a_terminal("", "y\n");
    assert!(!deleted && told.contains("Type its label") && exists("asked"), "{told}");
    let (deleted, told) = at_a_terminal("", "asked\n");
    assert!(deleted && !exists("asked"), "{told}");
    daemon.succeed(&["key", "restore", "asked"]);
    assert!(exists("asked"));
    let (deleted, told) = at_a_terminal("--yes", "");
    assert!(deleted && !told.contains("Type its label") && !exists("asked"), "{told}");
}

#[test]
fn the_uses_of_a_key_are_replaced() {
    let daemon = Daemon::dev("");
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let message = certificate_verify();
    let shown = daemon.succeed(&["key", "set-uses", "shop", "--use", "csr", "--use", "tls-client"]);
    assert!(shown.contains("uses        csr, tls-client\n"), "{shown}");
    assert!(shown.ends_with("added       csr, tls-client\ntaken away  tls-server\n"), "{shown}");
    assert_eq!(daemon.outcome("shop", &message), Outcome::UseRefused);
    let shown = daemon.succeed(&["key", "set-uses", "shop", "--use", "tls13-server", "--use", "csr"]);
    assert!(shown.ends_with("added       tls13-server\ntaken away  tls-client\n"), "{shown}");
    assert_eq!(daemon.outcome("shop", &message), Outcome::Done);

    daemon.succeed(&["key", "generate", "both", "--type", "rsa2048"]);
    let uses = ["--use", "tls13-server", "--use", "rsa-key-exchange"];
    let set_both = [&["key", "set-uses", "both", "--json"], &uses[..]].concat();
    let (code, line) = daemon.fail(&set_both);
    assert!(code == 64 && line.contains("cannot set the uses of key both: "), "{line}");
    assert!(line.contains("--sign-and-decrypt"), "{line}");
    let shown = daemon.succeed(&[&set_both[..], &["--sign-and-decrypt"]].concat());
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["uses"], serde_json::json!(["tls13-server", "rsa-key-exchange"]));
    assert_eq!(shown["uses_added"], shown["uses"]);
    assert_eq!(shown["uses_taken_away"], serde_json::json!(["tls-server"]));
}

/// A new version needs a certificate of its own before a server can have it.
#[test]
fn the_doctor_keeps_a_certificate_with_its_version() {
    let daemon = Daemon::dev("");
    daemon.succeed(&["key", "generate", "shop", "--type", "p256", "--use", "tls-server", "--use", "csr"]);
    let path = |name: &str| daemon.path(name).to_str().unwrap().to_owned();
    let [ca, ca_key] = [path("ca.crt"), path("ca.key")];
    let words = ["req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=ca"];
    openssl(&[&words[..], &["-keyout", &ca_key, "-out", &ca]].concat());
    let certify = |name: &str| {
        let [csr, cert] = [path("csr"), path(name)];
        fs::write(&csr, daemon.succeed(&["csr", "shop", "--subject", "CN=shop"])).unwrap();
        openssl(&["x509", "-req", "-in", &csr, "-CA", &ca, "-CAkey", &ca_key, "-out", &cert]);
        cert
    };
    let reference = path("shop.pem");
    fs::write(&reference, daemon.succeed(&["key", "reference", "shop"])).unwrap();
    let finding = |check: &str, more: &[&str]| {
        let words = [&["doctor", "--json", "--reference", &reference], more].concat();
        let told = daemon.keyward(&words).stdout;
        let findings: Vec<serde_json::Value> = serde_json::from_slice(&told).unwrap();
        let found = findings.iter().find(|finding| finding["check"] == check).unwrap();
        let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
        (text("verdict"), text("detail"), text("fix"))
    };
    let first = certify("first.crt");
    assert_eq!(finding("reference", &["--cert", &first]).0, "ok");
    daemon.succeed(&["key", "rotate", "shop"]);
    let (verdict, detail, _) = finding("reference", &["--cert", &first]);
    assert!(verdict == "ok" && detail.contains("the certificate is for it; version 2 is newer"), "{detail}");
    assert!(detail.contains("first get a certificate for version 2 (keyward csr shop "), "{detail}");
    assert_eq!(finding("certificate", &["--cert", &first]).0, "ok");
    let (verdict, _, fix) = finding("reference", &[]);
    assert!(verdict == "warn" && fix.starts_with("first get a certificate for version 2"), "{fix}");
    let second = certify("second.crt");
    let (verdict, _, fix) = finding("reference", &["--cert", &second]);
    assert!(verdict == "warn" && fix.starts_with("make it again: "), "{fix}");
    let (verdict, detail, fix) = finding("certificate", &["--cert", &second]);
    assert!(verdict == "fail" && detail.contains("version 2, the reference to version 1"), "{detail}");
    assert!(fix.starts_with("make the reference again: "), "{fix}");
    fs::write(&reference, daemon.succeed(&["key", "reference", "shop"])).unwrap();
    assert_eq!(finding("reference", &["--cert", &second]).0, "ok");

    // The administrator who disabled the key may have had a reason.
    daemon.succeed(&["key", "disable", "shop"]);
    let (verdict, _, fix) = finding("reference", &[]);
    assert!(
        verdict == "fail"
            && fix.starts_with("ask who disabled it, and why; then: keyward key enable shop --runtime-dir "),
        "{fix}"
    );
    daemon.succeed(&["key", "delete", "shop"]);
    let (verdict, detail, fix) = finding("reference", &[]);
    assert!(verdict == "fail" && detail == "key shop is deleted", "{detail}");
    assert!(
        fix.starts_with("ask who deleted it, and why; then: keyward key restore shop --runtime-dir "),
        "{fix}"
    );
}

#[test]
fn keys_are_imported_and_described() {
    let daemon = Daemon::dev("");
    let file = daemon.path("key.pem");
    openssl(&["genpkey", "-algorithm", "ED25519", "-out", file.to_str().unwrap()]);
    let shown = daemon.succeed(&[
        "key",
        "import",
        "mail",
        "--use",
        "csr",
        "--use",
        "tls-server",
        "--use",
        "csr",
        "--json",
        "--in",
        file.to_str().unwrap(),
    ]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["uses"], serde_json::json!(["csr", "tls-server"]));
    let described = daemon.client().describe(&label_of("mail"), 0).unwrap();
    assert_eq!(
        (described.key_type, described.version, &described.versions[..]),
        (Some(KeyType::Ed25519), 1, &[1][..])
    );
    let spki = openssl(&["pkey", "-in", file.to_str().unwrap(), "-pubout", "-outform", "DER"]);
    assert_eq!(described.public_key, spki);
}

#[test]
fn each_mistake_has_its_status() {
    let daemon = Daemon::dev("");
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    fs::write(daemon.path("junk"), "junk").unwrap();
    let junk = daemon.path("junk");
    let long = daemon.path("long");
    fs::write(&long, vec![b'x'; 70_000]).unwrap();
    for (words, status, part) in [
        (&["key", "generate", "shop", "--type", "p256"][..], 73, "already"),
        (&["key", "generate", "a/b", "--type", "p256"], 64, "label"),
        (&["key", "generate", "a", "--type", "p255"], 64, "p255"),
        (&["key", "generate", "a", "--type", "rsa2056"], 64, "rsa2056"),
        (&["key", "generate", "a", "--type", "rsa8192"], 64, "rsa4096, rsa-pss2048"),
        (&["key", "generate", "a", "--type", "p256", "--use", "tls"], 64, "unknown use"),
        (
            &["key", "generate", "a", "--type", "p256", "--use", "tls-server,csr"],
            64,
            "one use for each --use",
        ),
        (&["key", "generate", "a"], 64, "--type"),
        (&["key", "genrate", "a"], 64, "generate"),
        (&["key", "show", "nope"], 66, "nope"),
        (&["key", "reference", "nope"], 66, "nope"),
        (&["key", "disable", "nope"], 66, "nope"),
        (&["key", "set-uses", "nope", "--use", "csr"], 66, "nope"),
        (&["key", "set-uses", "shop"], 64, "--use"),
        (&["key", "set-uses", "shop", "--use", "tls"], 64, "unknown use"),
        (&["key", "delete", "nope"], 66, "nope"),
        (&["key", "import", "a", "--in", junk.to_str().unwrap()], 65, "neither PEM nor DER"),
        (&["key", "import", "a", "--in", long.to_str().unwrap()], 65, "longer"),
        (&["key", "import", "a", "--in", "/no/such/file"], 66, "/no/such/file"),
    ] {
        let (code, line) = daemon.fail(words);
        assert_eq!(code, status, "{words:?}: {line}");
        assert!(line.contains(part), "{words:?}: {line}");
        assert!(line.starts_with("keyward: ") && line.lines().count() == 1, "{words:?}: {line}");
    }
    let no_daemon = Daemon::prepare("");
    let (code, line) = no_daemon.fail(&["key", "list"]);
    assert_eq!(code, 69);
    assert!(line.contains("admin.sock") && line.contains("is keyward serve running?"), "{line}");
}

#[test]
fn http_errors_are_json_with_a_status() {
    let daemon = Daemon::dev("");
    for (method, path, body, status) in [
        ("GET", "/v1/nope", "", 404),
        ("PUT", "/v1/keys", "", 404),
        ("POST", "/v1/keys", "{", 400),
        ("POST", "/v1/keys", r#"{"label":"a","type":"p256","uses":[],"more":1}"#, 400),
        ("POST", "/v1/keys", r#"{"label":"a","type":"p256","uses":["rsa-key-exchange"]}"#, 400),
        ("GET", "/v1/keys?limit=-1", "", 400),
        ("GET", "/v1/keys/..%2f..", "", 400),
        ("PATCH", "/v1/keys/nope", r#"{"state":"disabled"}"#, 404),
        ("PATCH", "/v1/keys/nope", "{}", 400),
        ("PATCH", "/v1/keys/nope", r#"{"state":"disabled","uses":["csr"]}"#, 400),
        ("PATCH", "/v1/keys/nope", r#"{"sign_and_decrypt":true}"#, 400),
        ("POST", "/v1/keys/a/import", &"x".repeat(70_000), 413),
        ("POST", "/v1/keys/a/import", "x", 422),
    ] {
        let (got, answer) = daemon.http(method, path, body).unwrap();
        assert_eq!(got, status, "{method} {path}: {answer}");
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert!(answer["error"].is_string(), "{method} {path}");
    }
}

#[test]
fn lists_of_many_keys_come_in_pages() {
    let daemon = Daemon::dev("");
    let labels = ["a", "a+b", "b", "c@d"];
    for label in labels {
        daemon.succeed(&["key", "generate", label, "--type", "p256"]);
    }
    let mut after = String::new();
    let mut seen = Vec::new();
    loop {
        let (_, page) = daemon.http("GET", &format!("/v1/keys?limit=1{after}"), "").unwrap();
        let page: serde_json::Value = serde_json::from_str(&page).unwrap();
        let label = page["keys"][0]["label"].as_str().unwrap().to_owned();
        after = format!("&after={}", label.replace('+', "%2B"));
        seen.push(label);
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(seen, labels);
}

/// More keys than a page has, in a list that does not know all labels when it begins.
#[test]
fn the_keys_of_a_list_are_made_and_listed() {
    let daemon = Daemon::dev("");
    let labels: Vec<_> = (0..1203).map(|number| format!("key-{number}")).collect();
    let list = daemon.path("list").display().to_string();
    fs::write(&list, format!("# keys\n\n{}\n", labels.join("\n"))).unwrap();
    let generate = ["key", "generate", "--from", &list, "--type", "p256", "--use", "csr"];
    assert_eq!(daemon.succeed(&generate), "1203 keys generated\n");
    let text = daemon.succeed(&["key", "list"]);
    let mut sorted = labels;
    sorted.sort();
    let listed: Vec<_> = text.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(listed, sorted);
    let places: HashSet<_> = text.lines().skip(1).map(|line| line.find(" p256 ").unwrap()).collect();
    assert_eq!(places.len(), 1, "{text}");
    let json: serde_json::Value = serde_json::from_str(&daemon.succeed(&["key", "list", "--json"])).unwrap();
    let of_json: Vec<_> = json.as_array().unwrap().iter().map(|key| key["label"].as_str().unwrap()).collect();
    assert_eq!(of_json, sorted);
    assert!(json.as_array().unwrap().iter().all(|key| key["uses"] == serde_json::json!(["csr"])));
    assert_eq!(daemon.outcome("key-77", &certificate_verify()), Outcome::UseRefused);
    // Each of them has its own records.
    let records = daemon.succeed(&["audit", "show", "--key", "key-1202", "--json"]);
    let phases = records.lines().filter(|line| line.contains("keyward.key.generate")).count();
    assert_eq!(phases, 2, "{records}");

    // The next list has labels in use and new ones: each of those keeps its key.
    let before = daemon.succeed(&["key", "show", "key-3", "--json"]);
    fs::write(&list, "key-3\nnew-1\nkey-5\nnew-2\n").unwrap();
    let output = daemon.keyward(&["key", "generate", "--from", &list, "--type", "rsa2048", "--json"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(73), "{told}");
    for line in [
        "cannot generate key key-3: there is a key key-3 already",
        "of 4 keys, there already, and left as they are: 2 keys",
    ] {
        assert!(told.contains(line), "{told}");
    }
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut made: Vec<_> =
        made.as_array().unwrap().iter().map(|key| key["label"].as_str().unwrap()).collect();
    made.sort_unstable();
    assert_eq!(made, ["new-1", "new-2"]);
    assert_eq!(daemon.succeed(&["key", "show", "key-3", "--json"]), before);
}

#[test]
fn a_list_that_cannot_be_carried_out_makes_nothing() {
    let daemon = Daemon::dev("");
    let list = daemon.path("list").display().to_string();
    for (text, code, line) in [
        ("a\nb c\n", 65, "line 2 has no label"),
        ("a\nb\na\n", 65, "lines 1 and 3 have the same label, a"),
        ("# nothing\n", 65, "there is no label in the list"),
    ] {
        fs::write(&list, text).unwrap();
        let (found, told) = daemon.fail(&["key", "generate", "--from", &list, "--type", "p256"]);
        assert!(found == code && told.contains(line), "{found} {told}");
    }
    fs::write(&list, "a\nb\n").unwrap();
    let output = daemon.keyward(&["key", "generate", "--from", &list, "--type", "p256", "--backend", "hsm"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("cannot generate the next keys: there is no backend"), "{told}");
    assert!(told.contains("of 2 keys, without an answer, or not tried: 2 keys"), "{told}");
    let many: Vec<_> = (0..201).map(|number| format!("\"a{number}\"")).collect();
    for labels in [String::new(), many.join(",")] {
        let body = format!(r#"{{"labels": [{labels}], "type": "p256", "uses": []}}"#);
        assert_eq!(daemon.http("POST", "/v1/generate", &body).unwrap().0, 400);
    }
    // Keys of RSA would keep a request, and the threads of others, for long.
    let slow = r#"{"labels": ["a", "b"], "type": "rsa2048", "uses": []}"#;
    assert_eq!(daemon.http("POST", "/v1/generate", slow).unwrap().0, 400);
    // One label twice in a request: the second one is refused.
    let twice = r#"{"labels": ["a", "a"], "type": "p256", "uses": []}"#;
    let (status, made) = daemon.http("POST", "/v1/generate", twice).unwrap();
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    assert_eq!(
        (status, &made[0]["key"]["label"], &made[1]["refused"]["status"]),
        (200, &"a".into(), &409.into())
    );
    assert_eq!(daemon.succeed(&["key", "list"]).lines().count(), 2);
}

#[test]
fn the_keys_in_the_files_of_a_list_are_imported() {
    let daemon = Daemon::dev("");
    let path = |name: &str| daemon.path(name).display().to_string();
    let make = |name: &str, more: &[&str]| {
        let mut openssl = Command::new("openssl");
        openssl.args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"]);
        assert!(openssl.arg(path(name)).args(more).stderr(Stdio::null()).status().unwrap().success());
    };
    make("one key.pem", &[]);
    make("sealed.pem", &["-aes256", "-pass", "pass:secret"]);
    fs::write(path("bad.pem"), "no key").unwrap();
    let lines = [("one", "one key.pem"), ("bad", "bad.pem"), ("sealed", "sealed.pem"), ("gone", "gone.pem")];
    let text: String = lines.iter().map(|(label, file)| format!("{label} {}\n", path(file))).collect();
    fs::write(path("list"), text).unwrap();
    let import = |more: &[&str]| {
        let list = path("list");
        let output = daemon.keyward(&[&["key", "import", "--from", &list], more].concat());
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, told) = import(&[]);
    assert!(code == 65 || code == 66, "the first failure: {code} {told}");
    for line in [
        "cannot import key bad: the file is not a key file",
        "cannot import key gone: cannot read",
        "cannot import key sealed: ",
        "of 4 keys, not imported: 3 keys",
    ] {
        assert!(told.contains(line), "{told}");
    }
    fs::write(path("passphrase"), "secret\n").unwrap();
    fs::set_permissions(path("passphrase"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path("list"), format!("sealed {}\none {}\n", path("sealed.pem"), path("one key.pem"))).unwrap();
    // Another run finds the key that the first one has imported.
    let (code, told) = import(&["--passphrase-file", &path("passphrase")]);
    assert!(code == 0 && told.contains("the files still hold the private keys"), "{told}");
    let listed = daemon.succeed(&["key", "list"]);
    assert!(listed.contains("\none ") && listed.contains("\nsealed "), "{listed}");
    let (code, told) = import(&["--passphrase-file", &path("passphrase"), "--use", "csr"]);
    assert!(
        code == 73 && told.contains("there already, and left as they are: 2 keys"),
        "with other uses: {told}"
    );
    // A key that is about to be destroyed is not imported.
    daemon.succeed(&["key", "delete", "one", "--yes"]);
    let (code, told) = import(&["--passphrase-file", &path("passphrase")]);
    assert!(code == 73 && told.contains("left as they are: 1 key"), "{told}");
    daemon.succeed(&["key", "restore", "one"]);
    let both = daemon.keyward(&["key", "import", "--from", "-", "--passphrase-fd", "0"]);
    assert_eq!(both.status.code(), Some(64));

    // A run that was interrupted before a certificate was attached: the next one attaches it.
    let site = path("site.pem");
    let certificate = path("site.crt");
    let words =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=a"];
    let mut openssl = Command::new("openssl");
    openssl.args(words).args(["-keyout", &site, "-out", &certificate]).stderr(Stdio::null());
    assert!(openssl.status().unwrap().success());
    daemon.succeed(&["key", "import", "site", "--in", &site]);
    let has_certificate = || daemon.succeed(&["key", "list", "--json"]).contains("\"subject\"");
    assert!(!has_certificate());
    fs::write(&site, fs::read_to_string(&site).unwrap() + &fs::read_to_string(&certificate).unwrap())
        .unwrap();
    fs::write(path("list"), format!("unknown {}\nsite {site}\n", path("gone.pem"))).unwrap();
    let (code, told) = import(&[]);
    assert!(code == 66 && told.contains("of 2 keys, not imported: 1 key"), "{told}");
    assert!(has_certificate() && told.contains("the files still hold the private keys"), "{told}");
    // A label that there is no key of does not end the list.
    let (code, told) = import(&["--new-version"]);
    assert!(code == 66 && !told.contains("not tried"), "{told}");
}

#[test]
fn a_benchmark_leaves_no_key_in_the_store() {
    let daemon = Daemon::dev("");
    let words = ["bench", "--seconds", "1", "--connections", "2", "--type", "p256", "--json"];
    let results: serde_json::Value = serde_json::from_str(&daemon.succeed(&words)).unwrap();
    assert!(results[0]["signatures"].as_u64().unwrap() > 0);
    let keys: serde_json::Value = serde_json::from_str(&daemon.succeed(&["key", "list", "--json"])).unwrap();
    assert_eq!(keys, serde_json::json!([]));
}

/// Root is no purger by default, so its keys wait for their destruction, for the shortest time.
#[test]
fn a_benchmark_without_the_role_purger_says_that_its_keys_are_left() {
    let mut daemon = Daemon::prepare("");
    daemon.new_master_key();
    daemon.configure(&daemon.production_configuration(&[("keyward-bench-*", "tls-server")]));
    daemon.start(&[]);
    let output = daemon.keyward(&["bench", "--seconds", "1", "--connections", "1", "--type", "p256"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && told.lines().count() == 1, "{told}");
    assert!(told.contains("keyward-bench-* are deleted, and will be destroyed in an hour"), "{told}");
    let keys: serde_json::Value = serde_json::from_str(&daemon.succeed(&["key", "list", "--json"])).unwrap();
    let deletion = &keys[0]["deletion"];
    let wait = deletion["destroy_at"].as_u64().unwrap() - deletion["at"].as_u64().unwrap();
    assert_eq!((keys.as_array().unwrap().len(), wait), (1, 3600), "{keys}");
}

#[test]
fn the_doctor_reports_each_problem() {
    let daemon = Daemon::dev("");
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let reference = daemon.path("shop.pem");
    fs::write(&reference, daemon.succeed(&["key", "reference", "shop"])).unwrap();
    let reference = reference.to_str().unwrap();
    assert!(
        daemon.succeed(&["doctor", "--reference", reference]).contains("the daemon has key shop version 1")
    );
    let cert = daemon.path("cert.pem");
    let cert = cert.to_str().unwrap();
    let key = daemon.path("other.key");
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=x",
        "-out",
        cert,
        "-keyout",
        key.to_str().unwrap(),
    ]);
    let both = daemon.path("both.pem");
    let parts = [fs::read(cert).unwrap(), fs::read(reference).unwrap()];
    fs::write(&both, [&parts[0][..], &parts[1], &parts[0]].concat()).unwrap();
    assert!(
        daemon
            .succeed(&["doctor", "--reference", both.to_str().unwrap()])
            .contains("the daemon has key shop version 1")
    );
    let output = daemon.keyward(&["doctor", "--reference", reference, "--cert", cert, "--json"]);
    assert_eq!(output.status.code(), Some(78));
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let failed: Vec<_> =
        findings.as_array().unwrap().iter().filter(|finding| finding["verdict"] == "fail").collect();
    assert_eq!(failed.len(), 1, "{findings}");
    assert_eq!(failed[0]["check"], "certificate");
    assert!(failed[0]["fix"].is_string());
}

fn openssl_verifies(daemon: &Daemon, spki: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let write = |name: &str, bytes: &[u8]| {
        let path = daemon.path(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let mut command = Command::new("openssl");
    command.args(["dgst", "-sha256", "-keyform", "DER", "-verify"]).arg(write("spki", spki));
    command.arg("-signature").arg(write("signature", signature)).arg(write("message", message));
    command.output().unwrap().status.success()
}

fn openssl(words: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
