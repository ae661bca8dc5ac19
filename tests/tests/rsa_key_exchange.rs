//! RSA key exchange of TLS 1.2: only with keys that are meant for it, and nothing tells whether a secret was sound.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use keyward_client::{Address, Client, Error, premaster_of};
use keyward_proto::Outcome;
use keyward_tests::server::Site;
use keyward_tests::tool::{fail, run, stderr, succeed};
use keyward_tests::{Daemon, Haproxy, Nginx, OpenSsl, Pki};

const KEY_EXCHANGE: [&str; 2] = ["--use", "rsa-key-exchange"];

fn generate(daemon: &Daemon, label: &str, key_type: &str, words: &[&str]) -> Command {
    let mut command = daemon.keyward(&["key", "generate", label, "--type", key_type]);
    command.args(words);
    command
}

/// A client that offers RSA key exchange alone.
fn s_client(openssl: OpenSsl, pki: &Pki, address: SocketAddr, cipher: &str) -> std::process::Output {
    let mut command = openssl.program(&["s_client", "-brief", "-verify_return_error", "-tls1_2", "-cipher"]);
    command.args([cipher, "-servername", "localhost", "-connect", &address.to_string(), "-CAfile"]);
    run(command.arg(pki.ca()))
}

fn site(daemon: &Daemon, pki: &Pki, label: &str) -> Site {
    let reference = daemon.reference(label);
    Site::new(pki.certify(daemon, &reference), reference)
}

#[test]
fn servers_take_part_with_one_request_each() {
    let daemon = Daemon::start_with(&grants());
    let pki = Pki::new(daemon.directory());
    for key_type in ["rsa2048", "rsa3072"] {
        succeed(&mut generate(&daemon, key_type, key_type, &KEY_EXCHANGE));
    }
    let sites = ["rsa2048", "rsa3072"].map(|label| site(&daemon, &pki, label));
    let [for_nginx, for_haproxy] = [0, 1].map(|server: usize| {
        sites.clone().map(|site| if server == 0 { site } else { Site::new(site.certificate, site.key) })
    });
    let _nginx = Nginx::start(&daemon, &for_nginx);
    let _haproxy = Haproxy::start(&daemon, &for_haproxy);
    let mut handshakes = 0;
    for site in for_nginx.iter().chain(&for_haproxy) {
        for openssl in OpenSsl::ALL {
            for cipher in ["AES128-SHA256", "AES256-GCM-SHA384"] {
                let output = s_client(openssl, &pki, site.address, cipher);
                let text = stderr(&output);
                assert!(
                    output.status.success() && text.contains(&format!("Ciphersuite: {cipher}")),
                    "{text}"
                );
                handshakes += 1;
            }
        }
    }
    assert_eq!(daemon.logged(&["decryption", "outcome=done"]), handshakes, "{}", daemon.log());
    assert_eq!(daemon.status()["requests"], handshakes);
    assert_eq!(daemon.metric("keyward_decryptions_total", &["outcome=\"done\""]), handshakes as f64);
}

/// The workers of servers may do it, too.
fn grants() -> String {
    let grant = |uid| format!("[[grant]]\nuid = {uid}\nkeys = [\"*\"]\nuses = [\"rsa-key-exchange\"]\n");
    keyward_tests::server::users().into_iter().map(grant).collect()
}

/// A key that signs does not decrypt, one that decrypts does not sign, and that is said.
#[test]
fn a_key_is_for_the_one_or_the_other() {
    let daemon = Daemon::start_with(&grants());
    let pki = Pki::new(daemon.directory());
    daemon.generate("signs", "rsa2048");
    succeed(&mut generate(&daemon, "decrypts", "rsa2048", &KEY_EXCHANGE));
    let sites = ["signs", "decrypts"].map(|label| site(&daemon, &pki, label));
    let nginx = Nginx::start(&daemon, &sites);
    assert!(!s_client(OpenSsl::System, &pki, sites[0].address, "AES128-SHA256").status.success());
    nginx.wait_for_log("key \"signs\" refused: the uses of the key do not include");
    assert!(!s_client(OpenSsl::System, &pki, sites[1].address, "ECDHE-RSA-AES128-SHA256").status.success());
    nginx.wait_for_log("key \"decrypts\" refused: the uses of the key do not include");

    let both = ["--use", "tls-server", "--use", "rsa-key-exchange"];
    let (status, text) = fail(&mut generate(&daemon, "both", "rsa2048", &both));
    assert!(status.code() == Some(64) && text.contains("--sign-and-decrypt"), "{status}: {text}");
    let (_, text) = fail(&mut generate(&daemon, "ec", "p256", &KEY_EXCHANGE));
    assert!(text.contains("a key of type p256 has no use in rsa-key-exchange"), "{text}");
    let accepted = ["--use", "tls-server", "--use", "rsa-key-exchange", "--sign-and-decrypt"];
    succeed(&mut generate(&daemon, "both", "rsa2048", &accepted));
    let both = [site(&daemon, &pki, "both")];
    let _nginx = Nginx::start(&daemon, &both);
    for cipher in ["AES128-SHA256", "ECDHE-RSA-AES128-SHA256"] {
        let output = s_client(OpenSsl::System, &pki, both[0].address, cipher);
        assert!(output.status.success(), "{cipher}: {}", stderr(&output));
    }
}

/// Whoever sends garbage gets what everybody gets.
#[test]
fn nothing_tells_a_sound_secret_from_another() {
    let daemon = Daemon::start();
    succeed(&mut generate(&daemon, "shop", "rsa2048", &KEY_EXCHANGE));
    let client = Client::new(Address::from_path(&daemon.socket()).unwrap(), Client::DEFAULT_TIMEOUT);
    let ask = |ciphertext: &[u8]| {
        let call = client.start_to_decrypt(&"shop".parse().unwrap(), 0, ciphertext, 0x0303)?;
        client.finish(call).and_then(premaster_of).map(|premaster| *premaster)
    };
    let secret = daemon.path("secret");
    let public = daemon.path("shop.pub");
    succeed(
        daemon.openssl(&["pkey", "-pubout", "-in"]).arg(daemon.reference("shop")).arg("-out").arg(&public),
    );
    let mut premaster = [9; 48];
    premaster[..2].copy_from_slice(&[3, 3]);
    fs::write(&secret, premaster).unwrap();
    let encrypt = ["pkeyutl", "-encrypt", "-pubin", "-inkey"];
    let ciphertext = daemon.path("ciphertext");
    let mut command = OpenSsl::System.program(&encrypt);
    succeed(command.arg(&public).arg("-in").arg(&secret).arg("-out").arg(&ciphertext));
    let sound = fs::read(&ciphertext).unwrap();
    assert_eq!(ask(&sound).unwrap(), premaster);
    let mut garbage = sound.clone();
    garbage[100] ^= 1;
    let (one, other) = (ask(&garbage).unwrap(), ask(&garbage).unwrap());
    assert!(one == other && one != premaster && one[..2] == premaster[..2], "{one:?}");
    for wrong in [&sound[1..], &[0xff; 256]] {
        assert!(matches!(ask(wrong), Err(Error::Refused(Outcome::Malformed))));
    }
    let lines = |words: &[&str]| daemon.logged(words);
    assert_eq!((lines(&["decryption", "outcome=done"]), lines(&["decryption", "malformed"])), (3, 2));

    // Paddings that tell are not offered to anybody.
    for padding in ["pkcs1", "oaep", "none"] {
        let option = format!("rsa_padding_mode:{padding}");
        let mut command = daemon.openssl(&["pkeyutl", "-decrypt", "-pkeyopt", &option, "-inkey"]);
        let (_, text) = fail(command.arg(daemon.reference("shop")).arg("-in").arg(&ciphertext));
        assert!(text.contains("keyward: cannot decrypt with this padding"), "{padding}: {text}");
    }
}
