//! A sealed unit whose key store is locked: the daemon shows keys without verification, stops keys
//! in memory, and uses no key.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use keyward_proto::{KeyState, Outcome};
use rustix::process::Signal;
use serde_json::Value;

use crate::audit::{await_some, records_in, verify};
use crate::ceremony::Ceremony;
use crate::fixture::{Daemon, PROGRAM, certificate_verify, failure_of, has_root, label_of};

/// The daemon cannot open the records before the unseal, so a purge becomes final after it.
#[test]
fn a_purge_waits_while_the_unit_is_sealed() {
    let uid = rustix::process::getuid().as_raw();
    let mut ceremony = ceremony(false, &format!("[[role]]\nrole = \"purger\"\nuid = {uid}\n"));
    for label in ["shop", "purged"] {
        ceremony.daemon.succeed(&["key", "generate", label, "--type", "p256"]);
    }
    ceremony.daemon.succeed(&["key", "delete", "purged", "--yes"]);
    // There is no room for a new secret, so the purge is not final at the restart.
    let [secrets, away] = ["state/shred", "away"].map(|name| ceremony.daemon.path(name));
    fs::rename(&secrets, &away).unwrap();
    fs::write(&secrets, "no directory").unwrap();
    ceremony.daemon.succeed(&["key", "purge", "purged", "--yes"]);
    ceremony.daemon.await_log("purges are not final: ");
    ceremony.daemon.end(Signal::KILL);
    fs::remove_file(&secrets).unwrap();
    fs::rename(&away, &secrets).unwrap();
    ceremony.start();
    let purges = |daemon: &Daemon| json(daemon, &["status", "--json"])["purges"].clone();
    let daemon = &ceremony.daemon;
    let (status, line) = daemon.fail(&["backup", "--recovery", &ceremony.path("recovery")]);
    assert!(status == 78 && line.contains("is locked"), "{status} {line}");
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::UnitSealed);
    assert_eq!(purges(daemon), serde_json::json!({"final": false, "keys_left": 1, "leftovers": []}));
    for owner in ["dave", "erin"] {
        ceremony.unseal(owner).unwrap();
    }
    await_some(|| (purges(&ceremony.daemon)["final"] == true).then_some(()));
    assert_eq!(ceremony.daemon.outcome("shop", &certificate_verify()), Outcome::Done);
    // A unit that is sealed while the daemon runs does not hold up a purge.
    ceremony.daemon.succeed(&["key", "generate", "purged", "--type", "p256"]);
    ceremony.daemon.succeed(&["unit", "seal"]);
    ceremony.daemon.destroy("purged");
    await_some(|| (purges(&ceremony.daemon)["final"] == true).then_some(()));
    for owner in ["dave", "erin"] {
        ceremony.unseal(owner).unwrap();
    }
    assert_eq!(ceremony.daemon.outcome("shop", &certificate_verify()), Outcome::Done);
}

/// A ceremony with grants for every key, and a store key of its own if `store_key`. Its master key
/// is of the parts of dave and erin.
fn ceremony(store_key: bool, more: &str) -> Ceremony {
    let mut ceremony = Ceremony::owned();
    let mut text = configuration(&ceremony.daemon).replace("\"shop\"", "\"*\"");
    if store_key {
        // The store is made anew with the key in the file.
        assert!(ceremony.daemon.end(Signal::TERM).success());
        let _absent = fs::remove_file(ceremony.daemon.path("state/keys.redb"));
        ceremony.daemon.new_key("store.key");
        text += &format!("[store]\nkey = {:?}\n", ceremony.daemon.path("store.key"));
        ceremony.daemon.configure(&(text + more));
        ceremony.start();
    } else {
        ceremony.daemon.configure(&(text + more));
        ceremony.restart();
    }
    ceremony.put_in_force(&["dave", "erin"]);
    ceremony
}

fn configuration(daemon: &Daemon) -> String {
    fs::read_to_string(daemon.path("keyward.toml")).unwrap()
}

fn json(daemon: &Daemon, words: &[&str]) -> Value {
    serde_json::from_slice(&daemon.keyward(words).stdout).unwrap()
}

/// Exit status, output and warnings of a command.
fn told(daemon: &Daemon, words: &[&str]) -> (i32, String, String) {
    let output = daemon.keyward(words);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

const UNVERIFIED: &str = "the unit is sealed or lacks its master key, so this could not be verified";

#[test]
fn keys_are_shown_and_stopped_while_the_unit_is_sealed() {
    if !has_root() {
        return;
    }
    let mut ceremony = ceremony(false, "");
    let message = certificate_verify();
    let [key, certificate] = ["shop.key", "shop.pem"].map(|name| ceremony.path(name));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-subj", "/CN=shop", "-keyout", &key, "-out", &certificate])
        .output();
    assert!(made.unwrap().status.success());
    let uses = ["--use", "tls-server", "--use", "csr"];
    ceremony.daemon.succeed(&[&["key", "import", "shop", "--in", &key][..], &uses].concat());
    ceremony.daemon.succeed(&["cert", "attach", "shop", "--in", &certificate]);
    for label in ["mail", "old"] {
        ceremony.daemon.succeed(&["key", "generate", label, "--type", "p256"]);
        assert_eq!(ceremony.daemon.outcome(label, &message), Outcome::Done);
    }
    let reference = ceremony.daemon.succeed(&["key", "reference", "shop"]);
    let described = ceremony.daemon.client().describe_certified(&label_of("shop")).unwrap();
    ceremony.restart();
    let daemon = &ceremony.daemon;
    let before = fs::read(daemon.path("state/keys.redb")).unwrap();

    // Lists and references, for administrators and for servers.
    let (status, text, warning) = told(daemon, &["key", "list"]);
    assert!(status == 0 && text.contains("mail") && warning.contains(UNVERIFIED), "{text}{warning}");
    let list = json(daemon, &["key", "list", "--json"]);
    let list = list.as_array().unwrap();
    assert!(list.len() == 3 && list.iter().all(|key| key["unverified"] == true), "{list:?}");
    for words in [["key", "show", "shop"], ["key", "reference", "shop"]] {
        let (status, text, warning) = told(daemon, &words);
        assert!(status == 0 && warning.contains(UNVERIFIED), "{words:?}: {warning}");
        assert!(words[1] == "show" || text == reference);
    }
    let (status, body) = daemon.http("GET", "/v1/keys/shop/access?uid=0&gid=0", "").unwrap();
    assert!(status == 200 && body.contains("\"unverified\":true"), "{body}");
    let again = daemon.client().describe_certified(&label_of("shop")).unwrap();
    assert_eq!((again.public_key, again.state), (described.public_key, Some(KeyState::Enabled)));
    assert!(again.certificates.len() == 1 && again.certificates == described.certificates);
    let (status, text, warning) = told(daemon, &["cert", "list"]);
    assert!(status == 0 && text.contains("shop") && warning.contains(UNVERIFIED), "{text}{warning}");
    for label in ["shop", "mail"] {
        assert_eq!(daemon.outcome(label, &message), Outcome::UnitSealed);
    }

    // Other changes are refused, with the reason and what to do.
    for words in [
        &["key", "enable", "shop"][..],
        &["key", "rotate", "shop"],
        &["cert", "detach", "shop"],
        &["cert", "attach", "shop", "--in", &certificate],
        &["key", "delete", "shop", "--yes", "--force"],
        &["key", "set-dates", "shop", "--not-after", "2040-01-01"],
        &["key", "set-deletion", "shop", "--dual"],
        &["key", "set-uses", "shop", "--use", "csr"],
        &["key", "generate", "new", "--type", "p256"],
        &["key", "repair"],
        &["csr", "shop", "--subject", "CN=shop", "--san", "DNS:shop"],
    ] {
        let (status, line) = daemon.fail(words);
        assert!(status == 78 && line.contains("keyward unit unseal FILE --unit-key"), "{words:?}: {line}");
    }
    daemon.succeed(&["unit", "list"]);
    let (status, page) = daemon.http("GET", "/", "").unwrap();
    assert_eq!(status, 200, "{page}");
    for words in ["✗ not possible", "keyward unit unseal FILE", "! not verified", "its backend is not ready"]
    {
        assert!(page.contains(words), "{words}: {page}");
    }
    for words in [["key", "disable", "none"], ["key", "compromise", "none"], ["key", "show", "none"]] {
        let (status, line) = daemon.fail(&words);
        assert!(status == 66 && line.contains("there is no key none"), "{line}");
    }

    // Who must stop a key can.
    for (verb, label, state) in [("disable", "mail", "disabled"), ("compromise", "old", "compromised")] {
        let (status, text, warning) = told(daemon, &["key", verb, label]);
        assert!(status == 74 && text.contains(state), "{status} {text}");
        assert!(
            warning.contains("in memory only") && warning.contains("a restart before loses"),
            "{warning}"
        );
        let shown = json(daemon, &["key", "show", label, "--json"]);
        assert!(shown["state"] == state && shown["unwritten"] == true, "{shown}");
    }
    let (_, line) = daemon.fail(&["key", "disable", "old"]);
    assert!(line.contains("is compromised, which cannot be undone"), "{line}");
    let again = daemon.client().describe(&label_of("mail"), 0).unwrap();
    assert_eq!(again.state, Some(KeyState::Disabled));
    let (status, text, _) = told(daemon, &["status"]);
    assert!(
        status == 2
            && text.contains("2 keys are compromised, disabled or deleted in the running daemon alone"),
        "{text}"
    );
    assert!(text.contains("sealed") && text.contains("mail, old"), "{text}");
    let is_in_doubt = |text: &str| text.contains("plans cannot be known, until the unit is unsealed");
    assert!(is_in_doubt(&text) && text.contains("; not verified\n"), "{text}");
    let (_, page) = daemon.http("GET", "/", "").unwrap();
    assert!(is_in_doubt(&page) && page.contains("these expiry times may be old"), "{page}");
    assert!(told(daemon, &["doctor"]).1.contains("the embedded unit is sealed"));
    assert!(!ceremony.is_ready());
    assert_eq!(fs::read(daemon.path("state/keys.redb")).unwrap(), before, "nothing is written");
    // The new program would not know of the changes.
    daemon.signal(Signal::USR2);
    daemon.await_log("not upgraded");

    // Not one signature, however the requests meet the unseal.
    ceremony.unseal("dave").unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for label in ["mail", "old"] {
            let (daemon, message, is_over) = (&ceremony.daemon, &message, &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let told = daemon.outcome(label, message);
                    assert!([Outcome::UnitSealed, Outcome::KeyDisabled].contains(&told), "{label}: {told:?}");
                }
                assert_eq!(daemon.outcome(label, message), Outcome::KeyDisabled);
            });
        }
        ceremony.unseal("erin").unwrap();
        assert_eq!(ceremony.outcome(), Outcome::Done);
        is_over.store(true, Ordering::Relaxed);
    });
    let daemon = &ceremony.daemon;
    assert_eq!(daemon.log().matches("has the disabled or deleted state").count(), 2);
    // The trail is signed again a second later.
    await_some(|| {
        let (status, text, _) = told(daemon, &["status"]);
        (status == 0 && !text.contains("problem")).then_some(())
    });
    for (label, state) in [("mail", "disabled"), ("old", "compromised"), ("shop", "enabled")] {
        let shown = json(daemon, &["key", "show", label, "--json"]);
        assert!(shown["state"] == state, "{shown}");
        assert!(shown["unwritten"].is_null() && shown["unverified"].is_null(), "{shown}");
    }

    // The changes are in the store. One that a restart overtook is lost, as the answer has said.
    ceremony.restart();
    assert_eq!(told(&ceremony.daemon, &["key", "disable", "shop"]).0, 74);
    ceremony.restart();
    ceremony.unseal("dave").unwrap();
    ceremony.unseal("erin").unwrap();
    assert_eq!(ceremony.outcome(), Outcome::Done);
    for label in ["mail", "old"] {
        assert_eq!(ceremony.daemon.outcome(label, &message), Outcome::KeyDisabled);
    }
    ceremony.daemon.succeed(&["key", "enable", "mail"]);
    assert_eq!(ceremony.daemon.outcome("mail", &message), Outcome::Done);
}

/// The trail goes on without signatures, and the next signature covers its records.
#[test]
fn the_audit_trail_goes_on_without_checkpoints() {
    if !has_root() {
        return;
    }
    let mut ceremony = ceremony(false, "");
    ceremony.daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    assert_eq!(ceremony.outcome(), Outcome::Done);
    ceremony.restart();
    assert_eq!(verify(&ceremony.daemon).0, 2, "the records of the start are not signed");
    let trail = ceremony.daemon.path("state/audit");
    let named = |name: &str| {
        let of_name = |record: &Value| record["action"] == name || record["event"]["action"] == name;
        records_in(&trail).into_iter().filter(of_name).collect::<Vec<_>>()
    };
    let signed = named("keyward.audit.checkpoint").len();
    assert!(signed > 0, "{:?}", records_in(&trail).last());
    assert_eq!(ceremony.outcome(), Outcome::UnitSealed);
    assert_eq!(told(&ceremony.daemon, &["key", "disable", "shop"]).0, 74);
    let acts = named("keyward.key.disable");
    let text = acts.last().unwrap().to_string();
    assert!(acts.len() == 2 && text.contains("in-memory") && !text.contains("tls-server"), "{text}");
    // The end of a daemon asks for a signature, and gets none.
    ceremony.restart();
    assert_eq!(named("keyward.audit.checkpoint").len(), signed);
    let (status, text) = verify(&ceremony.daemon);
    assert!(status == 2, "{text}");
    ceremony.unseal("dave").unwrap();
    ceremony.unseal("erin").unwrap();
    assert_eq!(ceremony.outcome(), Outcome::Done);
    assert!(ceremony.daemon.end(Signal::TERM).success());
    let (status, text) = verify(&ceremony.daemon);
    assert_eq!(status, 0, "{text}");
    assert!(named("keyward.audit.checkpoint").len() > signed);
}

/// Who must seal the unit must be able to, also if there is no room for a record.
#[test]
fn a_full_disk_does_not_keep_the_unit_open() {
    if !has_root() {
        return;
    }
    let mut ceremony = ceremony(false, "");
    ceremony.daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    ceremony.daemon.end(Signal::TERM);
    let mut serve = ceremony.daemon.on_disk(&ceremony.daemon.serve(&[]), "state/audit", "1m");
    ceremony.daemon.start_as(serve.env_remove("CREDENTIALS_DIRECTORY"));
    ceremony.unseal("dave").unwrap();
    ceremony.unseal("erin").unwrap();
    assert_eq!(ceremony.outcome(), Outcome::Done);
    let pid = ceremony.daemon.pid().as_raw_nonzero().to_string();
    let mut fill = Command::new("nsenter");
    fill.args(["--mount", "--target", &pid, "sh", "-c", "cat /dev/zero > $0/junk 2>/dev/null || true"]);
    assert!(fill.arg(ceremony.daemon.path("state/audit")).status().unwrap().success());
    await_some(|| (!ceremony.daemon.keyward(&["key", "rotate", "shop"]).status.success()).then_some(()));
    ceremony.daemon.succeed(&["unit", "seal"]);
    assert_eq!(ceremony.outcome(), Outcome::UnitSealed);
}

/// A software crypto unit as a server.
struct UnitServer {
    child: Child,
    address: String,
}

impl UnitServer {
    fn start(daemon: &Daemon) -> Self {
        daemon.new_key("unit.key");
        let log = fs::File::create(daemon.path("unit.log")).unwrap();
        let mut command = Command::new(PROGRAM);
        command.args(["unit", "serve", "--listen", "127.0.0.1:0", "--plaintext", "--master-key"]);
        command.arg(daemon.path("unit.key")).arg("--state-dir").arg(daemon.path("unit.state"));
        command.arg("--runtime-dir").arg(daemon.path("unit.run"));
        let command = command.stdin(Stdio::null()).stderr(log);
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        let address = await_some(|| {
            let log = fs::read_to_string(daemon.path("unit.log")).unwrap();
            let address = log.split("listen=").nth(1)?.split_whitespace().next()?;
            Some(address.to_owned())
        });
        Self { child, address }
    }

    fn section(&self) -> String {
        format!("[grep11.hsm]\nendpoints = [\"{}\"]\nplaintext = true\n", self.address)
    }
}

impl Drop for UnitServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn keys_at_remote_units_need_a_verified_store() {
    if !has_root() {
        return;
    }
    let message = certificate_verify();
    for store_key in [true, false] {
        let mut ceremony = ceremony(store_key, "");
        let unit = UnitServer::start(&ceremony.daemon);
        let text = configuration(&ceremony.daemon);
        ceremony.daemon.configure(&format!("default-backend = \"embedded\"\n{text}{}", unit.section()));
        ceremony.restart();
        ceremony.unseal("dave").unwrap();
        ceremony.unseal("erin").unwrap();
        for (label, backend) in [("shop", "embedded"), ("far", "hsm")] {
            ceremony.daemon.succeed(&["key", "generate", label, "--type", "p256", "--backend", backend]);
        }
        ceremony.restart();
        let daemon = &ceremony.daemon;
        assert_eq!(ceremony.outcome(), Outcome::UnitSealed);
        let list = json(daemon, &["key", "list", "--json"]);
        let unverified = |key: &Value| key["unverified"] == true;
        assert_eq!(
            list.as_array().unwrap().iter().filter(|key| unverified(key)).count(),
            if store_key { 0 } else { 2 }
        );
        if store_key {
            assert_eq!(daemon.outcome("far", &message), Outcome::Done);
            // The change is durable, because the store is open.
            daemon.succeed(&["key", "disable", "shop"]);
            daemon.succeed(&["key", "enable", "shop"]);
        } else {
            assert_eq!(daemon.outcome("far", &message), Outcome::UnitSealed);
            assert!(daemon.log().contains("the embedded unit is sealed"), "{}", daemon.log());
            assert_eq!(told(daemon, &["key", "disable", "far"]).0, 74);
        }
        assert!(!ceremony.is_ready());
        ceremony.unseal("dave").unwrap();
        ceremony.unseal("erin").unwrap();
        assert_eq!(ceremony.outcome(), Outcome::Done);
        let far = if store_key { Outcome::Done } else { Outcome::KeyDisabled };
        assert_eq!(ceremony.daemon.outcome("far", &message), far);
    }
}

#[test]
fn a_unit_that_serves_grep11_is_told_that_its_clients_are_done() {
    let daemon = Daemon::prepare("");
    let _unit = UnitServer::start(&daemon);
    let runtime_dir = daemon.path("unit.run");
    let run = |words: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(["unit"]).args(words).arg("--runtime-dir").arg(&runtime_dir).output().unwrap()
    };
    assert!(run(&["rotate"]).status.success());
    let status = || -> Value { serde_json::from_slice(&run(&["status", "--json"]).stdout).unwrap() };
    let next = status()["new"]["pattern"].clone();
    assert!(next.is_string());
    let (code, line) = failure_of(&run(&["rotate", "--finish"]));
    assert_eq!(code, 64, "{line}");
    for words in ["keyward key rewrap --backend NAME", "keyward unit rotate --finish --yes --runtime-dir"] {
        assert!(line.contains(words), "{line}");
    }
    assert_eq!(status()["new"]["pattern"], next, "nothing is changed");
    assert!(run(&["rotate", "--finish", "--yes"]).status.success());
    assert_eq!(status()["current"]["pattern"], next);
}

/// The daemon would lose a change in memory before it gets the master key: at its next start.
#[test]
fn no_key_is_stopped_in_memory_while_a_master_key_file_is_missing() {
    let mut daemon = Daemon::production(&[("*", "any")]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    daemon.end(Signal::TERM);
    fs::rename(daemon.path("master.key"), daemon.path("away")).unwrap();
    daemon.start(&[]);
    let (status, text, warning) = told(&daemon, &["key", "list"]);
    assert!(status == 0 && text.contains("shop") && warning.contains(UNVERIFIED), "{text}{warning}");
    for verb in ["disable", "compromise"] {
        let (status, line) = daemon.fail(&["key", verb, "shop"]);
        assert!(status == 78 && line.contains("the reason is in: keyward unit list"), "{line}");
    }
    assert!(!told(&daemon, &["status"]).1.contains("in the running daemon alone"));
}
