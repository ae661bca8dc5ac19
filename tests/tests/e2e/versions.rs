//! Every version of OpenSSL that the provider supports: servers, clients, and all operations of the
//! openssl program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyward_tests::client::{WISHES, s_client};
use keyward_tests::server::Site;
use keyward_tests::tool::{fail, run, stderr, succeed};
use keyward_tests::{Daemon, Host, KEY_TYPES, ML_DSA, Nginx, OpenSsl, Pki, SServer};

/// Makes a key for a use. Returns its reference and its certificate.
fn pair(daemon: &Daemon, pki: &Pki, key_type: &str, usage: &str) -> (PathBuf, PathBuf) {
    daemon.generate_for(key_type, key_type, usage);
    let reference = daemon.reference(key_type);
    (pki.certify_with(OpenSsl::V3_5, daemon, &reference), reference)
}

#[test]
fn servers_of_each_version_serve_clients_of_each() {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    let mut handshakes = 0;
    for key_type in OpenSsl::V3_5.key_types() {
        let (certificate, reference) = pair(&daemon, &pki, key_type, "tls-server");
        for openssl in OpenSsl::that_know(key_type) {
            let site = Site::new(certificate.clone(), reference.clone());
            let _server = SServer::start_of(&daemon, &site, openssl, &[]);
            let (wishes, versions) = match ML_DSA.contains(&key_type) {
                false => (&WISHES[..], &["-tls1_2", "-tls1_3"][..]),
                // Not for TLS 1.2, and unknown to the system's client.
                true => (&[][..], &["-tls1_3"][..]),
            };
            for wish in wishes {
                s_client(&pki, site.address, *wish);
            }
            for version in versions {
                let mut client =
                    OpenSsl::V3_5.program(&["s_client", "-brief", "-verify_return_error", version]);
                client.args(["-servername", "localhost", "-connect", &site.address.to_string(), "-CAfile"]);
                let output = run(client.arg(pki.ca()));
                assert!(output.status.success(), "{key_type}, {version}: {}", stderr(&output));
            }
            handshakes += wishes.len() + versions.len();
        }
    }
    daemon.assert_one_request_each(handshakes);
}

/// Clients authenticate with keys of the daemon to an nginx with a plain key.
#[test]
fn clients_of_each_version_have_certificates() {
    let daemon = Daemon::start_with("[[grant]]\nuser = \"root\"\nkeys = [\"*\"]\nuses = [\"tls-client\"]\n");
    let pki = Pki::new(daemon.directory());
    let [certificate, key] = <[PathBuf; 2]>::from(pki.leaf("server"));
    let site = Site { client_ca: Some(pki.ca()), ..Site::new(certificate, key) };
    let _nginx = Nginx::start(&daemon, std::slice::from_ref(&site));
    let mut handshakes = 0;
    for key_type in KEY_TYPES {
        let (certificate, reference) = pair(&daemon, &pki, key_type, "tls-client");
        for openssl in OpenSsl::ALL {
            for version in ["-tls1_2", "-tls1_3"] {
                let mut client =
                    daemon.openssl_of(openssl, &["s_client", "-quiet", "-verify_return_error", version]);
                client.args(["-servername", "localhost", "-connect", &site.address.to_string(), "-cert"]);
                client.arg(&certificate).arg("-key").arg(&reference).arg("-CAfile").arg(pki.ca());
                let asks = daemon.path("asks");
                fs::write(&asks, "GET / HTTP/1.0\r\n\r\n").unwrap();
                let output = client.stdin(fs::File::open(&asks).unwrap()).output().unwrap();
                let text = String::from_utf8_lossy(&output.stdout);
                assert!(text.contains("served"), "{key_type}, {openssl:?}, {version}: {}", stderr(&output));
                handshakes += 1;
            }
        }
    }
    daemon.assert_one_request_each(handshakes);
}

/// Every operation of the openssl program with a key for any use. Another version checks the
/// results.
#[test]
fn the_program_signs_with_a_key_for_anything() {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    let message = daemon.path("message");
    fs::write(&message, "text\n").unwrap();
    let digest = daemon.path("digest");
    succeed(OpenSsl::System.program(&["dgst", "-sha256", "-binary", "-out"]).arg(&digest).arg(&message));
    for key_type in OpenSsl::V3_5.key_types() {
        let (certificate, reference) = pair(&daemon, &pki, key_type, "any");
        let public = reference.with_extension("pub");
        for openssl in OpenSsl::that_know(key_type) {
            let signature = daemon.path("signature");
            let shown =
                succeed(daemon.openssl_of(openssl, &["pkey", "-text_pub", "-noout", "-in"]).arg(&reference));
            let plain =
                succeed(openssl.program(&["pkey", "-pubin", "-text_pub", "-noout", "-in"]).arg(&public));
            assert_eq!(shown, plain, "{key_type}, {openssl:?}");

            sign_and_verify(&daemon, openssl, key_type, [&reference, &public, &message, &digest, &signature]);

            // A self-signed certificate, and a message in CMS.
            let own = daemon.path("own.crt");
            let mut req = daemon.openssl_of(openssl, &["req", "-x509", "-new", "-subj", "/CN=own", "-key"]);
            succeed(req.arg(&reference).arg("-out").arg(&own));
            for other in OpenSsl::that_know(key_type) {
                succeed(other.program(&["verify", "-CAfile"]).arg(&own).arg(&own));
            }
            // OpenSSL's own provider does not sign CMS with these keys either: libcrypto names a
            // digest, for which they have no use.
            if hashes_for_itself(key_type) {
                continue;
            }
            // Without an explicit request, CMS is not signed with PSS, even if the key knows only
            // PSS. OpenSSL's own provider has the same limit.
            let (plain, pss) = (&[][..], &["-keyopt", "rsa_padding_mode:pss"][..]);
            let paddings = match key_type {
                "rsa2048" => &[plain, pss][..],
                "rsa-pss2048" => &[pss],
                _ => &[plain],
            };
            for padding in paddings {
                let signed = daemon.path("signed.cms");
                let mut cms = daemon.openssl_of(
                    openssl,
                    &["cms", "-sign", "-md", "sha512", "-outform", "DER", "-nodetach", "-signer"],
                );
                succeed(
                    cms.arg(&certificate)
                        .arg("-inkey")
                        .arg(&reference)
                        .args(*padding)
                        .arg("-in")
                        .arg(&message)
                        .arg("-out")
                        .arg(&signed),
                );
                let text = succeed(openssl.program(&["asn1parse", "-inform", "DER", "-in"]).arg(&signed));
                assert_eq!(
                    text.contains("rsassaPss"),
                    !padding.is_empty() || key_type == "rsa-pss2048",
                    "{text}"
                );
                for other in OpenSsl::ALL {
                    let mut verify =
                        other.program(&["cms", "-verify", "-inform", "DER", "-purpose", "any", "-CAfile"]);
                    let text = succeed(verify.arg(pki.ca()).arg("-in").arg(&signed));
                    assert_eq!(text.trim_end(), "text", "{key_type}, {openssl:?}, {other:?}");
                }
            }
        }
    }
}

/// True if keys of a type sign only whole messages.
fn hashes_for_itself(key_type: &str) -> bool {
    key_type == "ed25519" || ML_DSA.contains(&key_type)
}

/// `dgst` and `pkeyutl`, over the message and over its digest.
fn sign_and_verify(daemon: &Daemon, openssl: OpenSsl, key_type: &str, files: [&Path; 5]) {
    let [reference, public, message, digest, signature] = files;
    let whole = |sign: bool| -> Command {
        let words: &[&str] =
            if sign { &["pkeyutl", "-sign", "-rawin"] } else { &["pkeyutl", "-verify", "-rawin", "-pubin"] };
        let mut command = if sign { daemon.openssl_of(openssl, words) } else { openssl.program(words) };
        command.arg("-inkey").arg(if sign { reference } else { public }).arg("-in").arg(message);
        if !hashes_for_itself(key_type) {
            command.args(["-digest", "sha256"]);
        }
        command.arg(if sign { "-out" } else { "-sigfile" }).arg(signature);
        command
    };
    succeed(&mut whole(true));
    succeed(&mut whole(false));
    if hashes_for_itself(key_type) {
        return;
    }
    let over_digest = |words: &[&str]| {
        let mut command = daemon.openssl_of(openssl, &["pkeyutl", "-sign", "-inkey"]);
        command.arg(reference).arg("-in").arg(digest).arg("-out").arg(signature);
        succeed(command.args(["-pkeyopt", "digest:sha256"]).args(words));
        let mut command = openssl.program(&["pkeyutl", "-verify", "-pubin", "-inkey"]);
        command.arg(public).arg("-in").arg(digest).arg("-sigfile").arg(signature);
        succeed(command.args(["-pkeyopt", "digest:sha256"]).args(words));
    };
    over_digest(&[]);
    if key_type.starts_with("rsa") {
        over_digest(&["-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:digest"]);
    }
    for hash in ["-sha256", "-sha384", "-sha512"] {
        let mut sign = daemon.openssl_of(openssl, &["dgst", hash, "-sign"]);
        succeed(sign.arg(reference).arg("-out").arg(signature).arg(message));
        let mut verify = openssl.program(&["dgst", hash, "-verify"]);
        succeed(verify.arg(public).arg("-signature").arg(signature).arg(message));
    }
}

/// All these operations are refused with a key of a server, and each refusal says why.
#[test]
fn the_program_is_refused_with_a_key_of_a_server() {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    let message = daemon.path("message");
    fs::write(&message, "text\n").unwrap();
    let digest = daemon.path("digest");
    fs::write(&digest, [7; 32]).unwrap();
    for key_type in ["p256", "rsa2048", "ed25519", "ml-dsa-65"] {
        let (certificate, reference) = pair(&daemon, &pki, key_type, "tls-server");
        let told = format!("keyward: key \"{key_type}\" refused: the uses of the key do not include");
        for openssl in OpenSsl::that_know(key_type) {
            let of = |words: &[&str]| daemon.openssl_of(openssl, words);
            let mut cms = of(&["cms", "-sign", "-signer"]);
            cms.arg(&certificate).arg("-inkey").arg(&reference).arg("-in").arg(&message);
            let mut raw = of(&["pkeyutl", "-sign", "-rawin", "-inkey"]);
            raw.arg(&reference).arg("-in").arg(&message).arg("-out").arg(daemon.path("signature"));
            let mut request = of(&["req", "-new", "-subj", "/CN=own", "-key"]);
            request.arg(&reference);
            let mut certificate = of(&["req", "-x509", "-new", "-subj", "/CN=own", "-key"]);
            certificate.arg(&reference);
            let mut hashed = of(&["dgst", "-sha256", "-sign"]);
            hashed.arg(&reference).arg("-out").arg(daemon.path("signature")).arg(&message);
            let mut digested = of(&["pkeyutl", "-sign", "-pkeyopt", "digest:sha256", "-inkey"]);
            digested.arg(&reference).arg("-in").arg(&digest).arg("-out").arg(daemon.path("signature"));
            let commands = [cms, hashed, digested, raw, request, certificate];
            // The reason is above.
            for mut command in commands.into_iter().skip(if hashes_for_itself(key_type) { 3 } else { 0 }) {
                let (_, text) = fail(&mut command);
                assert!(text.contains(&told), "{command:?}: {text}");
            }
        }
    }
    assert_eq!(daemon.logged(&["outcome=done", "signature"]), 0);
}

/// The number of calls of libssl to the provider determines the cost of a handshake.
#[test]
fn a_handshake_is_two_inits_a_size_and_a_signature() {
    for key_type in ["p256", "rsa2048", "rsa-pss2048", "ed25519", "ml-dsa-65"] {
        assert_calls(key_type, "tls-server", None, &SIGNATURE);
    }
}

#[test]
fn a_handshake_of_tls_1_2_is_the_same() {
    for key_type in ["p256", "rsa2048", "rsa-pss2048"] {
        assert_calls(key_type, "tls-server", Some("ECDHE"), &SIGNATURE);
    }
}

/// libssl calls these before it knows the signature algorithm, to find out whether the key signs.
#[test]
fn a_handshake_with_rsa_key_exchange_is_two_inits_and_a_decryption() {
    let expected = [
        ("signature::digest_sign_init", 1),
        ("decrypt::decrypt_init", 1),
        ("decrypt::decrypt", 1),
        ("key::DaemonKey::decrypt_premaster", 1),
    ];
    assert_calls("rsa2048", "rsa-key-exchange", Some("AES128-SHA256"), &expected);
}

/// Calls of a handshake that signs. One of the two calls of `digest_sign` asks only for the size.
const SIGNATURE: [(&str, u64); 3] = [
    ("signature::digest_sign_init", 2),
    ("signature::digest_sign", 2),
    ("signature::SignatureContext::sign_message", 1),
];

/// All functions that work during a handshake.
const WATCHED: [&str; 10] = [
    "signature::digest_sign_init",
    "signature::digest_sign",
    "signature::digest_sign_update",
    "signature::digest_sign_final",
    "signature::sign_init",
    "signature::sign",
    "signature::SignatureContext::sign_message",
    "decrypt::decrypt_init",
    "decrypt::decrypt",
    "key::DaemonKey::decrypt_premaster",
];

/// Asserts that each handshake makes the expected calls of these functions and no others, and one
/// request. Loading the key makes no such call.
fn assert_calls(key_type: &str, usage: &str, tls12: Option<&str>, expected: &[(&str, u64)]) {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    let (certificate, reference) = pair(&daemon, &pki, key_type, usage);
    for openssl in OpenSsl::that_know(key_type) {
        let mut host = Host::new(&daemon, openssl).mode("handshakes", &certificate, &reference, 3);
        if let Some(ciphers) = tls12 {
            host = host.tls12(ciphers);
        }
        let before = daemon.status()["requests"].as_u64().unwrap();
        let calls = calls(&daemon, &host.command);
        let asked = daemon.status()["requests"].as_u64().unwrap() - before;
        let sum = |name| calls.iter().filter(|call| call.0 == name).map(|call| call.1).sum::<u64>();
        let made = WATCHED.map(|name| (name, sum(name)));
        let of = |name| expected.iter().find(|call| call.0 == name).map_or(0, |call| call.1);
        let wanted = WATCHED.map(|name| (name, 3 * of(name)));
        assert_eq!(made, wanted, "three handshakes, {key_type}, {openssl:?}: {calls:?}");
        assert_eq!(asked, 3, "{key_type}, {openssl:?}");
    }
}

/// Number of calls of each function of the provider while a program ran, as callgrind counts them.
fn calls(daemon: &Daemon, command: &Command) -> Vec<(String, u64)> {
    let file = daemon.path("calls");
    let mut counted = Command::new("valgrind");
    counted.args(["--tool=callgrind", "--quiet"]).arg(format!("--callgrind-out-file={}", file.display()));
    counted.arg(command.get_program()).args(command.get_args());
    counted.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    succeed(&mut counted);
    // A name stands only once beside its number (Callgrind Format Specification): fn=(7) name, and
    // from then on fn=(7).
    let text = fs::read_to_string(&file).unwrap();
    let mut names = std::collections::HashMap::new();
    let (mut called, mut counts) = (String::new(), Vec::new());
    for line in text.lines() {
        let function = ["fn=", "cfn="].iter().find_map(|key| Some((*key, line.strip_prefix(key)?)));
        if let Some((key, function)) = function {
            let (number, name) = function.split_once(' ').unwrap_or((function, ""));
            if !name.is_empty() {
                names.insert(number.to_owned(), name.to_owned());
            }
            if key == "cfn=" {
                called = names.get(number).cloned().unwrap_or_default();
            }
        } else if let Some(count) = line.strip_prefix("calls=")
            && let Some((_, function)) = called.split_once("keyward_openssl::")
        {
            let count = count.split_whitespace().next().unwrap().parse().unwrap();
            counts.push((function.to_owned(), count));
        }
    }
    counts
}
