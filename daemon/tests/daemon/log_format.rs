//! The log for programs: one object of JSON in each line.

use std::fs;

use keyward_proto::Outcome;
use keyward_proto::message::{Request, Sign, request, sign};
use rustix::process::{Signal, getuid};
use serde_json::Value;

use crate::fixture::{Daemon, certificate_verify, receive, send};

fn objects(log: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    log.lines().map(parse).collect()
}

#[test]
fn with_json_each_line_is_an_object_and_a_refusal_has_its_fields() {
    let mut daemon = Daemon::prepare("log = \"debug\"\nlog-format = \"json\"\n");
    // The first line: a note about the configuration.
    fs::create_dir(daemon.path("keyward.d")).unwrap();
    fs::write(daemon.path("keyward.d/shop.toml~"), "").unwrap();
    daemon.start(&["--dev"]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    daemon.sign("shop", &certificate_verify()).unwrap();
    assert_eq!(daemon.outcome("shop", b"not a handshake"), Outcome::UseRefused);
    // A peer chooses the label of a request, and tries to write a line of its own.
    let label = "x\",\"uid\":0}\n{\"level\":\"error\"}\u{1b}[2J";
    let mut stream = daemon.connect();
    let sign = Sign {
        label: label.into(),
        version: 0,
        scheme: 0x0403,
        input: Some(sign::Input::Message(certificate_verify())),
        public_key_fingerprint: None,
    };
    let body = Some(request::Body::Sign(sign));
    send(&mut stream, &Request { id: 1, deadline_ms: 5000, body, processor: None });
    assert_ne!(receive(&mut stream).outcome(), Outcome::Done);
    send(&mut stream, &Request { id: 2, deadline_ms: 5000, body: None, processor: None });
    assert_eq!(receive(&mut stream).outcome(), Outcome::Malformed);
    assert!(daemon.end(Signal::TERM).success());

    let lines = objects(&daemon.log());
    let uid = getuid().as_raw();
    for line in &lines {
        let has = |name: &str| line[name].as_str().is_some_and(|text| !text.is_empty());
        assert!(has("time") && has("level") && has("message"), "{line}");
        assert!(line["uid"].is_null() || line["uid"] == uid, "{line}");
        assert!(!line.to_string().contains("not a handshake"), "{line}");
    }
    let with = |message: &'static str| lines.iter().filter(move |line| line["message"] == message);
    let refused = with("refused a peer").find(|line| line["key"] == "shop").unwrap();
    let fields = [("outcome", "use-refused"), ("purpose", "other"), ("level", "info")];
    assert!(fields.iter().all(|(name, value)| refused[*name] == *value), "{refused}");
    assert!(refused["uid"] == uid && refused["pid"].is_u64() && refused["times"] == 1, "{refused}");
    let signed = with("signature").find(|line| line["outcome"] == "done").unwrap();
    assert!(signed["key"] == "shop" && signed["scheme"] == "ecdsa_secp256r1_sha256", "{signed}");
    assert_eq!(signed["purpose"], "tls13-server");
    assert!(with("signature").any(|line| line["key"] == label), "{lines:?}");
    // Refusals of requests that make no sense are told like others, with a count.
    let malformed: Vec<_> = with("refused a peer").filter(|line| line["outcome"] == "malformed").collect();
    assert!(malformed[0]["key"] == label && malformed[0]["level"] == "info", "{lines:?}");
    let counted: u64 = malformed.iter().filter_map(|line| line["times"].as_u64()).sum();
    let later = lines.iter().filter(|line| line["reason"] == "malformed");
    assert_eq!(counted + later.filter_map(|line| line["times"].as_u64()).sum::<u64>(), 2, "{lines:?}");
    let generated = with("key generated").next().unwrap();
    assert_eq!(generated["uses"], serde_json::json!(["tls-server"]));
    assert_eq!((&generated["type"], &generated["role"]), (&"p256".into(), &"manager".into()));
    assert!(lines[0]["message"].as_str().unwrap().contains("shop.toml~ does not count"), "{}", lines[0]);
    assert_eq!(with("ready").next().unwrap()["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn a_reload_changes_the_form_of_the_lines() {
    let daemon = Daemon::dev("");
    daemon.await_log(" ready version=");
    let before = daemon.log().len();
    assert!(
        daemon.log().lines().all(|line| serde_json::from_str::<Value>(line).is_err()),
        "{}",
        daemon.log()
    );
    daemon.configure("log-format = \"json\"\n");
    daemon.succeed(&["reload"]);
    let lines = objects(&daemon.log()[before..]);
    assert!(lines.iter().any(|line| line["message"] == "configuration reloaded"), "{lines:?}");
}
