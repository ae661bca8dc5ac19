//! Attacks on the check of messages, over the socket, and the reports of handshakes that key or
//! grant do not admit.

use std::process::Command;

use keyward_client::Input;
use keyward_proto::{Outcome, Scheme};

use crate::attacks::{attacks, over_x25519, own_prime};
use crate::fixture::{Daemon, label_of, outcome};
use crate::messages::{dhe, ecdhe, point, prime, randoms, tls13, transcript};

/// Uses for handshakes that a web server or a client may have.
const USES: [&str; 6] =
    ["tls-server", "tls13-server", "tls12-server", "tls12-dhe-server", "tls-client", "tls13-client"];

/// A daemon with a key for each of these uses, and a grant of this user for all of these keys.
fn daemon() -> Daemon {
    let daemon = Daemon::production(&USES.map(|one| ("*", one)));
    for one in USES {
        daemon.succeed(&["key", "generate", one, "--type", "p256", "--use", one]);
    }
    daemon
}

#[test]
fn other_signed_formats_in_the_shape_of_a_handshake_are_refused() {
    let daemon = daemon();
    let mut signed = Vec::new();
    for (name, message) in attacks() {
        for one in USES {
            if daemon.outcome(one, &message) == Outcome::Done {
                signed.push((name, one));
            }
        }
    }
    assert!(signed.is_empty(), "{signed:#?}");
}

/// A check that refuses every message would pass the test above.
#[test]
fn handshakes_are_signed_by_the_uses_that_admit_them() {
    let daemon = daemon();
    let known = prime("ffdhe2048");
    let without = [&randoms()[..56], &[7; 8]].concat();
    let y = [&[0x5a], &vec![0x11; 255][..]].concat();
    for (message, admitted) in [
        (tls13("server", 32), &["tls-server", "tls13-server"][..]),
        (tls13("server", 48), &["tls-server", "tls13-server"]),
        (tls13("client", 32), &["tls-client", "tls13-client"]),
        (transcript([7; 32], &[9; 256]), &["tls-client"]),
        (ecdhe(&randoms(), 23, &point(23)), &["tls-server", "tls12-server"]),
        (ecdhe(&randoms(), 24, &point(24)), &["tls-server", "tls12-server"]),
        (ecdhe(&randoms(), 25, &point(25)), &["tls-server", "tls12-server"]),
        (ecdhe(&randoms(), 29, &point(29)), &["tls-server", "tls12-server"]),
        (ecdhe(&randoms(), 30, &point(30)), &["tls-server", "tls12-server"]),
        (ecdhe(&without, 23, &point(23)), &["tls12-server"]),
        (ecdhe(&without, 29, &point(29)), &["tls12-server"]),
        (dhe(&without, &known, &[2], &y), &["tls12-dhe-server"]),
        (dhe(&randoms(), &prime("modp_2048"), &[2], &y), &["tls12-dhe-server"]),
    ] {
        for one in USES {
            let done = daemon.outcome(one, &message) == Outcome::Done;
            assert_eq!(done, admitted.contains(&one), "{one}: {:x?}", &message[56..70]);
        }
    }
}

/// Key and grant must each have a use that admits the message.
#[test]
fn refusals_name_the_use_that_would_help() {
    let daemon = Daemon::production(&[
        ("shop", "tls-server"),
        ("other", "any"),
        ("open", "tls-server"),
        ("thirteen", "tls13-server"),
        ("finite", "tls12-dhe-server"),
        ("account", "any"),
    ]);
    for (label, one) in [
        ("shop", "tls-server"),
        ("other", "tls13-server"),
        ("open", "any"),
        ("thirteen", "tls-server"),
        ("finite", "tls12-dhe-server"),
        ("account", "acme-account"),
    ] {
        daemon.succeed(&["key", "generate", label, "--type", "p256", "--use", one]);
    }
    let without = ecdhe(&[7; 64], 29, &point(29));
    let with = ecdhe(&randoms(), 29, &point(29));
    let finite = dhe(&[7; 64], &prime("ffdhe2048"), &[2], &[0x5a; 256]);
    let own = dhe(&[7; 64], &own_prime(256), &[2], &[0x5a; 256]);
    let (server, client) = (tls13("server", 32), tls13("client", 32));
    for (label, message, expected) in [
        ("shop", &without, Outcome::NoDowngradeSentinel),
        ("shop", &with, Outcome::Done),
        ("shop", &finite, Outcome::DheRefused),
        ("shop", &own, Outcome::OtherDhGroup),
        ("shop", &client, Outcome::UseRefused),
        ("other", &without, Outcome::NoDowngradeSentinel),
        ("other", &with, Outcome::UseRefused),
        ("other", &server, Outcome::Done),
        ("open", &without, Outcome::NoDowngradeSentinel),
        ("open", &finite, Outcome::DheRefused),
        ("open", &own, Outcome::OtherDhGroup),
        ("open", &client, Outcome::UseNotGranted),
        ("thirteen", &server, Outcome::Done),
        ("thirteen", &with, Outcome::UseNotGranted),
        ("finite", &finite, Outcome::Done),
        ("finite", &own, Outcome::OtherDhGroup),
        ("finite", &with, Outcome::UseRefused),
        ("account", &server, Outcome::UseRefused),
        ("account", &b"eyJhbGciOiJFUzI1NiJ9.eyJ9".to_vec(), Outcome::UseRefused),
    ] {
        assert_eq!(daemon.outcome(label, message), expected, "{label}: {:x?}", &message[..10]);
    }
    let digest =
        daemon.client().sign(&label_of("account"), Scheme::EcdsaSecp256r1Sha256, Input::Digest(&[7; 32]));
    assert_eq!(outcome(digest), Outcome::UseRefused);
    for (refusal, words) in [
        (Outcome::NoDowngradeSentinel, &["did not offer TLS 1.3", "DTLS 1.2", "tls12-server"][..]),
        (Outcome::DheRefused, &["tls12-dhe-server"]),
        (Outcome::OtherDhGroup, &["RFC 7919", "drop DHE"]),
    ] {
        for word in words {
            assert!(refusal.reason().contains(word), "{refusal:?}");
        }
    }
    let line = "purpose=\"tls12-only-server\"";
    let log = daemon.log();
    assert!(log.contains(line) && log.contains("outcome=\"no-downgrade-sentinel\""), "{log}");
}

/// After refusals the doctor reports a problem, and the setting that would help.
#[test]
fn the_doctor_reports_refusals() {
    let daemon = Daemon::production(&[("*", "tls-server"), ("*", "tls12-server"), ("*", "rsa-key-exchange")]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let told = || {
        let findings = daemon.keyward(&["doctor", "--json"]).stdout;
        let findings: serde_json::Value = serde_json::from_slice(&findings).unwrap();
        let found = findings.as_array().unwrap().iter().filter(|found| found["check"] == "signatures");
        found
            .map(|found| format!("{} {} {}", found["verdict"], found["detail"], found["fix"]))
            .collect::<Vec<_>>()
    };
    assert_eq!(daemon.outcome("shop", &tls13("server", 32)), Outcome::Done);
    assert_eq!(told(), [""; 0], "nothing to tell");
    let finite = dhe(&[7; 64], &prime("ffdhe2048"), &[2], &[0x5a; 256]);
    let own = dhe(&[7; 64], &own_prime(256), &[2], &[0x5a; 256]);
    let refused = [
        (ecdhe(&[7; 64], 29, &point(29)), Outcome::NoDowngradeSentinel, "add tls12-server to the uses"),
        (finite, Outcome::DheRefused, "add tls12-dhe-server to the uses"),
        (own, Outcome::OtherDhGroup, "group:ffdhe2048"),
        (tls13("client", 32), Outcome::UseRefused, "keyward key set-uses LABEL --use USE --use USE"),
    ];
    for (message, outcome, _) in &refused {
        assert_eq!(daemon.outcome("shop", message), *outcome);
    }
    let client = daemon.client();
    let call = client.start_decrypt(&label_of("shop"), &[7; 256], 0x0303).unwrap();
    assert!(call.finish().is_err());
    daemon.succeed(&["key", "disable", "shop"]);
    assert_eq!(daemon.outcome("shop", &tls13("server", 32)), Outcome::KeyDisabled);
    let told = told();
    for (name, fix) in refused.iter().map(|(_, outcome, fix)| (outcome.name(), *fix)).chain([(
        Outcome::KeyDisabled.name(),
        "ask who disabled it, and why; then: keyward key enable LABEL",
    )]) {
        let is_told = |line: &String| {
            line.starts_with("\"warn\"") && line.contains(&format!("ended with {name}")) && line.contains(fix)
        };
        assert!(told.iter().any(is_told), "{name}: {told:#?}");
    }
    // One signature, and one decryption.
    assert!(
        told.iter().any(|line| line.contains("2 requests since the start ended with use-refused")),
        "{told:#?}"
    );
}

#[test]
fn the_log_names_the_other_format() {
    let daemon = Daemon::production(&[("shop", "tls-server")]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    assert_eq!(daemon.outcome("shop", &over_x25519(b"#!/bin/sh\nid\n", b"")), Outcome::UseRefused);
    let log = daemon.log();
    assert!(log.contains("purpose=\"other, as script\""), "{log}");
}

#[test]
fn check_config_tells_what_uses_admit_and_refuses_a_grant_for_acme() {
    let daemon = Daemon::prepare("");
    daemon.new_master_key();
    let check = |grants: &[(&str, &str)]| {
        daemon.configure(&daemon.production_configuration(grants));
        let mut command: Command = daemon.serve(&["--check-config"]);
        command.output().unwrap()
    };
    let output = check(&[("shop", "tls-server"), ("old", "tls12-server"), ("robot", "tls-client")]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    for words in [
        "note: tls-server is granted for keys shop:",
        "a server with TLS 1.2 alone, and DTLS 1.2, need tls12-server too",
        "DHE needs tls12-dhe-server",
        "tls13-server is enough",
        "note: tls12-server is granted for keys old:",
        "note: tls-client is granted for keys robot: in TLS 1.2, an attacker who controls the client chooses",
        "grant tls13-client",
    ] {
        assert!(text.contains(words), "{text}");
    }
    let output = check(&[("shop", "acme-account")]);
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("acme-account cannot be granted") && text.lines().count() == 1, "{text}");
}
