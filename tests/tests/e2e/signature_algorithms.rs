//! Signature algorithms that a client may request, in addition to its default.

use keyward_tests::server::Site;
use keyward_tests::tool::{run, stderr};
use keyward_tests::{Daemon, OpenSsl, Pki, Rustls, SServer};

/// Key type, version, signature algorithm, and its name in the output of the client.
const ALGORITHMS: [(&str, &str, &str, &str); 15] = [
    ("rsa2048", "-tls1_2", "rsa_pkcs1_sha256", "Hash used: SHA256\nSignature type: RSA\n"),
    ("rsa2048", "-tls1_2", "rsa_pkcs1_sha384", "Hash used: SHA384\nSignature type: RSA\n"),
    ("rsa2048", "-tls1_2", "rsa_pkcs1_sha512", "Hash used: SHA512\nSignature type: RSA\n"),
    ("rsa2048", "-tls1_2", "rsa_pss_rsae_sha256", "Hash used: SHA256\nSignature type: RSA-PSS\n"),
    ("rsa2048", "-tls1_2", "rsa_pss_rsae_sha512", "Hash used: SHA512\nSignature type: RSA-PSS\n"),
    ("rsa2048", "-tls1_3", "rsa_pss_rsae_sha256", "Hash used: SHA256\nSignature type: RSA-PSS\n"),
    ("rsa2048", "-tls1_3", "rsa_pss_rsae_sha384", "Hash used: SHA384\nSignature type: RSA-PSS\n"),
    ("rsa2048", "-tls1_3", "rsa_pss_rsae_sha512", "Hash used: SHA512\nSignature type: RSA-PSS\n"),
    ("p256", "-tls1_2", "ECDSA+SHA256", "Hash used: SHA256\nSignature type: ECDSA\n"),
    // The curve of the scheme counts only in TLS 1.3 (RFC 8446, 4.2.3).
    ("p256", "-tls1_2", "ECDSA+SHA384", "Hash used: SHA384\nSignature type: ECDSA\n"),
    ("p256", "-tls1_2", "ECDSA+SHA512", "Hash used: SHA512\nSignature type: ECDSA\n"),
    ("p256", "-tls1_3", "ecdsa_secp256r1_sha256", "Hash used: SHA256\nSignature type: ECDSA\n"),
    ("p384", "-tls1_2", "ECDSA+SHA256", "Hash used: SHA256\nSignature type: ECDSA\n"),
    ("ed25519", "-tls1_2", "ed25519", "Signature type: ed25519\n"),
    ("ed25519", "-tls1_3", "ed25519", "Signature type: ed25519\n"),
];

#[test]
fn clients_choose_among_all_that_a_key_can() {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    let mut handshakes = 0;
    for key_type in ["rsa2048", "p256", "p384", "ed25519"] {
        daemon.generate(key_type, key_type);
        let site = Site::with_key(&daemon, &pki, key_type);
        for openssl in OpenSsl::ALL {
            let site = Site::new(site.certificate.clone(), site.key.clone());
            let _server = SServer::start_of(&daemon, &site, openssl, &[]);
            for (_, version, algorithm, told) in ALGORITHMS.iter().filter(|row| row.0 == key_type) {
                let text = s_client(&pki, &site, version, algorithm);
                assert!(text.contains(told), "{key_type}, {openssl:?}, {version}, {algorithm}: {text}");
                handshakes += 1;
            }
        }
    }
    assert_eq!(handshakes, ALGORITHMS.len() * OpenSsl::ALL.len());
    daemon.assert_one_request_each(handshakes);
}

/// Debian's security level allows SHA-224, level 0 allows SHA-1. A client may prefer them, as with
/// a key file.
#[test]
fn of_what_a_client_offers_the_first_that_a_key_can_is_taken() {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    let mut handshakes = 0;
    for (key_type, signs) in [("rsa2048", "RSA"), ("p256", "ECDSA")] {
        daemon.generate(key_type, key_type);
        let site = Site::with_key(&daemon, &pki, key_type);
        for openssl in OpenSsl::ALL {
            for (level, weak) in [(1, "SHA224"), (0, "SHA224"), (0, "SHA1")] {
                let cipher = format!("DEFAULT@SECLEVEL={level}");
                let site = Site::new(site.certificate.clone(), site.key.clone());
                let _server = SServer::start_of(&daemon, &site, openssl, &["-cipher", &cipher]);
                let client =
                    |offered: &str| s_client_with(&pki, &site, "-tls1_2", offered, &["-cipher", &cipher]);
                let text = client(&format!("{signs}+{weak}:{signs}+SHA384:{signs}+SHA256"));
                let told = format!("Hash used: SHA384\nSignature type: {signs}\n");
                assert!(text.contains(&told), "{key_type}, {openssl:?}, level {level}, {weak}: {text}");
                handshakes += 1;
                // Without another digest, there is no signature, and nothing else fails.
                let text = client(&format!("{signs}+{weak}"));
                assert!(text.contains("handshake failure"), "{key_type}, {openssl:?}, {weak}: {text}");
            }
        }
    }
    daemon.assert_one_request_each(handshakes);
}

/// The reverse: a server of TLS 1.2 names the algorithms with which clients may sign.
#[test]
fn of_what_a_server_asks_for_the_first_that_the_key_of_a_client_can_is_taken() {
    let own = rustix::process::getuid().as_raw();
    let daemon = Daemon::start_with(&format!(
        "[[grant]]\nuid = {own}\nkeys = [\"client\"]\nuses = [\"tls-client\"]\n"
    ));
    let pki = Pki::new(daemon.directory());
    daemon.generate("server", "p256");
    daemon.generate_for("client", "rsa2048", "tls-client");
    let ca = pki.ca();
    let client = Site::with_key(&daemon, &pki, "client");
    for openssl in OpenSsl::ALL {
        let site = Site::with_key(&daemon, &pki, "server");
        let asking = ["-verify_return_error", "-Verify", "1", "-CAfile", ca.to_str().unwrap()];
        let asking = [&asking[..], &["-client_sigalgs", "RSA+SHA224:RSA+SHA384:ECDSA+SHA256"]].concat();
        let _server = SServer::start_of(&daemon, &site, openssl, &asking);
        let mut s_client = daemon.openssl_of(openssl, &["s_client", "-brief", "-tls1_2", "-connect"]);
        s_client.arg(site.address.to_string()).arg("-cert").arg(&client.certificate);
        let output = run(s_client.arg("-key").arg(&client.key));
        assert!(output.status.success(), "{openssl:?}: {}", stderr(&output));
    }
    let signed = daemon.logged(&["purpose=tls12-client", "scheme=rsa_pkcs1_sha384", "outcome=done"]);
    assert_eq!(signed, OpenSsl::ALL.len(), "{}", daemon.log());
}

/// rustls does not tell the key which version it chooses. So a curve signs only with the one hash
/// that is right in both versions.
#[test]
fn clients_of_rustls_choose_among_what_is_right_in_each_version() {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    let mut handshakes = 0;
    for key_type in ["rsa2048", "p256", "p384", "ed25519"] {
        daemon.generate(key_type, key_type);
        let site = Site::with_key(&daemon, &pki, key_type);
        let _server = Rustls::start(&daemon, std::slice::from_ref(&site));
        for (_, version, algorithm, told) in ALGORITHMS.iter().filter(|row| row.0 == key_type) {
            let text = s_client(&pki, &site, version, algorithm);
            let other_hash = ["ECDSA+SHA384", "ECDSA+SHA512"].contains(algorithm) || key_type == "p384";
            assert_eq!(text.contains(told), !other_hash, "{key_type}, {version}, {algorithm}: {text}");
            handshakes += usize::from(!other_hash);
        }
    }
    daemon.assert_one_request_each(handshakes);
}

/// The output of an `openssl s_client` that offers these signature algorithms.
fn s_client(pki: &Pki, site: &Site, version: &str, algorithms: &str) -> String {
    s_client_with(pki, site, version, algorithms, &[])
}

fn s_client_with(pki: &Pki, site: &Site, version: &str, algorithms: &str, more: &[&str]) -> String {
    let mut client = OpenSsl::System.program(&["s_client", "-brief", "-verify_return_error", version]);
    client.args(more).args(["-sigalgs", algorithms, "-servername", "localhost", "-connect"]);
    stderr(&run(client.arg(site.address.to_string()).arg("-CAfile").arg(pki.ca())))
}
