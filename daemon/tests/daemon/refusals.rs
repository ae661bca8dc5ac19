//! Messages that the daemon refuses to sign, and the outcome of each refusal.

use keyward_client::{Input, KeyId};
use keyward_proto::{Outcome, Reference, Scheme};

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
        outcome(daemon.client().sign(KeyId::new(&label_of(label), version), scheme, input))
    };
    let p256 = Scheme::EcdsaSecp256r1Sha256;
    assert_eq!(sign("shop", 2, p256, Input::Message(&message)), Outcome::UnknownVersion);
    assert_eq!(sign("shop", 0, Scheme::Ed25519, Input::Message(&message)), Outcome::NotSupported);
    assert_eq!(sign("shop", 0, p256, Input::Digest(&[0; 32])), Outcome::UseRefused);
    assert_eq!(sign("open", 0, p256, Input::Digest(&[0; 32])), Outcome::Done);
    assert_eq!(sign("open", 0, p256, Input::Digest(&[0; 31])), Outcome::Malformed);
    assert!(daemon.client().describe(&label_of("mail"), 0).is_err());

    daemon.succeed(&["key", "delete", "shop", "--yes", "--force"]);
    assert_eq!(daemon.outcome("shop", &message), Outcome::KeyDisabled, "deleted, and not yet destroyed");
    daemon.succeed(&["key", "purge", "shop", "--yes"]);
    assert_eq!(daemon.outcome("shop", &message), Outcome::UnknownKey, "a grant covers it");
    let (_, status) = daemon.http("GET", "/v1/status", "").unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["outcomes"]["no-grant"], 2, "{status}");
    assert_eq!(status["outcomes"]["use-refused"], 2, "{status}");
}

/// An error that advises a command ends with the command, and the command corrects the error.
#[test]
fn the_commands_that_refusals_advise_can_be_run() {
    let daemon = Daemon::dev("");
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let mut ran = Vec::new();
    for outcome in (0..32).filter_map(|number| Outcome::try_from(number).ok()) {
        let reason = outcome.reason_for("shop");
        assert!(!reason.contains("LABEL") && !reason.contains("(keyward"), "{reason}");
        let Some((_, command)) = reason.split_once(": keyward ") else { continue };
        daemon.succeed(&command.split(' ').collect::<Vec<_>>());
        ran.push(command.to_owned());
        if outcome == Outcome::UseRefused {
            let names = ["--subject", "CN=shop.example"];
            daemon.succeed(&[&["csr", "shop"], &names[..]].concat());
        }
    }
    assert_eq!(ran.len(), 9, "{ran:#?}");
}

/// Label and version are as in the reference, but the key is another one.
#[test]
fn a_key_that_replaced_another_key_does_not_sign_for_the_old_reference() {
    let daemon = Daemon::production(&[("shop", "tls-server"), ("old", "rsa-key-exchange")]);
    for (label, key_type, uses) in [("shop", "p256", "tls-server"), ("old", "rsa2048", "rsa-key-exchange")] {
        daemon.succeed(&["key", "generate", label, "--type", key_type, "--use", uses]);
    }
    let reference = |label| Reference::from_pem(&daemon.succeed(&["key", "reference", label])).unwrap();
    let (client, message) = (daemon.client(), certificate_verify());
    let sign =
        |key: &Reference| outcome(client.sign(key, Scheme::EcdsaSecp256r1Sha256, Input::Message(&message)));
    let decrypt = |key: &Reference| {
        let call = client.start_decrypt(key, &[1; 256], 0x0303);
        outcome(call.unwrap().finish())
    };
    let (shop, old) = (reference("shop"), reference("old"));
    assert_eq!((sign(&shop), decrypt(&old)), (Outcome::Done, Outcome::Done));
    let unnamed = || {
        let metrics = daemon.http("GET", "/metrics", "").unwrap().1;
        let count = metrics.lines().find_map(|line| {
            line.strip_prefix("keyward_requests_without_public_key_total ").map(str::to_owned)
        });
        count.unwrap()
    };
    assert_eq!(unnamed(), "0");

    for label in ["shop", "old"] {
        daemon.destroy(label);
    }
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    daemon.succeed(&["key", "generate", "old", "--type", "rsa2048", "--use", "rsa-key-exchange"]);
    assert_eq!(sign(&shop), Outcome::OtherPublicKey);
    assert_eq!(decrypt(&old), Outcome::OtherPublicKey);
    assert_eq!(sign(&reference("shop")), Outcome::Done);
    assert_eq!(decrypt(&reference("old")), Outcome::Done);
    let line = "refused a peer";
    let log = daemon.log();
    let told = log.lines().find(|text| text.contains(line) && text.contains("other-public-key"));
    assert!(told.is_some_and(|text| text.contains("key=\"shop\"")), "{log}");
    // A server that was started before the daemon checked public keys.
    assert_eq!(daemon.outcome("shop", &message), Outcome::Done);
    assert_eq!(unnamed(), "1");
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
