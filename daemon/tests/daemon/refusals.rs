//! What the daemon does not sign, and what it says instead.

use keyward_client::Input;
use keyward_proto::{Outcome, Scheme};

use crate::fixture::{Daemon, certificate_verify, label_of, outcome};

#[test]
fn each_refusal_has_its_outcome() {
    let daemon = Daemon::production(&[("shop", "tls-server"), ("raw", "tls-server"), ("open", "any")]);
    for (label, uses) in [("shop", "tls-server"), ("raw", "any"), ("open", "any"), ("mail", "tls-server")] {
        daemon.succeed(&["key", "generate", label, "--type", "p256", "--use", uses]);
    }
    let message = certificate_verify();
    assert_eq!(daemon.outcome("shop", &message), Outcome::Done);
    assert_eq!(daemon.outcome("shop", b"sign this"), Outcome::UseRefused);
    assert_eq!(daemon.outcome("raw", b"sign this"), Outcome::UseNotGranted);
    assert_eq!(daemon.outcome("open", b"sign this"), Outcome::Done);
    assert_eq!(daemon.outcome("mail", &message), Outcome::NoGrant);
    assert_eq!(daemon.outcome("nowhere", &message), Outcome::NoGrant, "as if it existed");

    let sign = |label: &str, version, scheme, input| {
        outcome(daemon.client().sign(&label_of(label), version, scheme, input))
    };
    let p256 = Scheme::EcdsaSecp256r1Sha256;
    assert_eq!(sign("shop", 2, p256, Input::Message(&message)), Outcome::UnknownVersion);
    assert_eq!(sign("shop", 0, Scheme::Ed25519, Input::Message(&message)), Outcome::NotSupported);
    assert_eq!(sign("shop", 0, p256, Input::Digest(&[0; 32])), Outcome::UseRefused);
    assert_eq!(sign("open", 0, p256, Input::Digest(&[0; 32])), Outcome::Done);
    assert_eq!(sign("open", 0, p256, Input::Digest(&[0; 31])), Outcome::Malformed);
    assert!(daemon.client().describe(&label_of("mail"), 0).is_err());

    daemon.succeed(&["key", "delete", "shop"]);
    assert_eq!(daemon.outcome("shop", &message), Outcome::UnknownKey, "a grant covers it");
    let (_, status) = daemon.http("GET", "/v1/status", "").unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["outcomes"]["no-grant"], 2, "{status}");
    assert_eq!(status["outcomes"]["use-refused"], 2, "{status}");
}

#[test]
fn at_debug_every_signature_has_a_line_without_secrets() {
    let daemon = Daemon::dev("log = \"debug\"\n");
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    daemon.sign("shop", &certificate_verify()).unwrap();
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("DEBUG") && line.contains("signature")).unwrap();
    for part in ["key=\"shop\"", "scheme=ecdsa_secp256r1_sha256", "purpose=", "uid=", "pid=", "outcome=done"]
    {
        assert!(line.contains(part), "{line} lacks {part}");
    }
}
