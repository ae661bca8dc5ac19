//! RSA key exchange of TLS 1.2: only with keys for this use, and no answer reveals whether a
//! padding was right.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::process::Command;

use aws_lc_rs::hmac;
use keyward_client::{Address, Client, Error, Label};
use keyward_proto::{Outcome, Reference};
use keyward_tests::memory;
use keyward_tests::pki::plain_key;
use keyward_tests::server::Site;
use keyward_tests::tool::{fail, run, stderr, succeed, wait_for};
use keyward_tests::{
    Backend, Daemon, Haproxy, Nginx, OpenSsl, Pki, Units, has_root, on_both_backends, scratch,
};

on_both_backends!(
    servers_take_part_with_one_request_each,
    a_key_is_for_the_one_or_the_other,
    nothing_tells_a_sound_secret_from_another,
    a_copy_of_the_store_tells_nothing_of_a_padding,
);

const KEY_EXCHANGE: [&str; 2] = ["--use", "rsa-key-exchange"];

fn generate(daemon: &Daemon, label: &str, key_type: &str, words: &[&str]) -> Command {
    let mut command = daemon.new_key(&["generate", label, "--type", key_type]);
    command.args(words);
    command
}

/// A client that offers only RSA key exchange.
fn s_client(openssl: OpenSsl, pki: &Pki, address: SocketAddr, cipher: &str) -> std::process::Output {
    let mut command = openssl.program(&["s_client", "-brief", "-verify_return_error", "-tls1_2", "-cipher"]);
    command.args([cipher, "-servername", "localhost", "-connect", &address.to_string(), "-CAfile"]);
    run(command.arg(pki.ca()))
}

fn site(daemon: &Daemon, pki: &Pki, label: &str) -> Site {
    let reference = daemon.reference(label);
    Site::new(pki.certify(daemon, &reference), reference)
}

/// A daemon whose grants allow RSA key exchange to the workers of servers.
fn start(backend: Backend) -> Daemon {
    let mut daemon = Daemon::prepare_on(backend, &grants());
    daemon.resume();
    daemon
}

/// Asks for a premaster secret as a server does. The client speaks TLS 1.2.
fn ask(daemon: &Daemon, label: &str, ciphertext: &[u8]) -> Result<[u8; 48], Error> {
    let client = Client::new(Address::try_from(daemon.socket().as_path()).unwrap(), Client::DEFAULT_TIMEOUT);
    let label: Label = label.parse().unwrap();
    let premaster = client.start_decrypt(&label, ciphertext, 0x0303)?.finish()?;
    Ok(premaster.as_ref().try_into().unwrap())
}

/// Encrypts bytes for a key with the openssl program.
fn encrypted(daemon: &Daemon, label: &str, plain: &[u8]) -> Vec<u8> {
    let [secret, public, ciphertext] = ["secret", "public", "ciphertext"].map(|name| daemon.path(name));
    fs::write(&secret, plain).unwrap();
    let mut command = daemon.openssl(&["pkey", "-pubout", "-in"]);
    succeed(command.arg(daemon.reference(label)).arg("-out").arg(&public));
    let mut command = OpenSsl::System.program(&["pkeyutl", "-encrypt", "-pubin", "-inkey"]);
    succeed(command.arg(&public).arg("-in").arg(&secret).arg("-out").arg(&ciphertext));
    fs::read(&ciphertext).unwrap()
}

fn servers_take_part_with_one_request_each(backend: Backend) {
    let daemon = start(backend);
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

/// With grants for the workers of servers.
fn grants() -> String {
    let grant = |uid| format!("[[grant]]\nuid = {uid}\nkeys = [\"*\"]\nuses = [\"rsa-key-exchange\"]\n");
    keyward_tests::server::users().into_iter().map(grant).collect()
}

/// A key that signs does not decrypt, a key that decrypts does not sign, and the errors say so.
fn a_key_is_for_the_one_or_the_other(backend: Backend) {
    let daemon = start(backend);
    let pki = Pki::new(daemon.directory());
    daemon.generate("signs", "rsa2048");
    succeed(&mut generate(&daemon, "decrypts", "rsa2048", &KEY_EXCHANGE));
    let sites = ["signs", "decrypts"].map(|label| site(&daemon, &pki, label));
    let nginx = Nginx::start(&daemon, &sites);
    assert!(!s_client(OpenSsl::System, &pki, sites[0].address, "AES128-SHA256").status.success());
    let line = nginx.wait_for_log("key \"signs\" refused: the uses of the key do not include");
    assert!(line.contains("needs the use rsa-key-exchange"), "{line}");
    assert!(!s_client(OpenSsl::System, &pki, sites[1].address, "ECDHE-RSA-AES128-SHA256").status.success());
    nginx.wait_for_log("key \"decrypts\" refused: the uses of the key do not include");

    let both = ["--use", "tls-server", "--use", "rsa-key-exchange"];
    let (status, text) = fail(&mut generate(&daemon, "both", "rsa2048", &both));
    assert!(status.code() == Some(64) && text.contains("--sign-and-decrypt"), "{status}: {text}");
    let (_, text) = fail(&mut generate(&daemon, "ec", "p256", &KEY_EXCHANGE));
    assert!(text.contains("a key of type p256 cannot be used for rsa-key-exchange"), "{text}");
    let accepted = ["--use", "tls-server", "--use", "rsa-key-exchange", "--sign-and-decrypt"];
    succeed(&mut generate(&daemon, "both", "rsa2048", &accepted));
    let both = [site(&daemon, &pki, "both")];
    let _nginx = Nginx::start(&daemon, &both);
    for cipher in ["AES128-SHA256", "ECDHE-RSA-AES128-SHA256"] {
        let output = s_client(OpenSsl::System, &pki, both[0].address, cipher);
        assert!(output.status.success(), "{cipher}: {}", stderr(&output));
    }
}

/// A peer that sends invalid ciphertexts gets the same kind of answer as every peer.
fn nothing_tells_a_sound_secret_from_another(backend: Backend) {
    let mut daemon = Daemon::start_on(backend);
    succeed(&mut generate(&daemon, "shop", "rsa2048", &KEY_EXCHANGE));
    let mut premaster = [9; 48];
    premaster[..2].copy_from_slice(&[3, 3]);
    let sound = encrypted(&daemon, "shop", &premaster);
    assert_eq!(ask(&daemon, "shop", &sound).unwrap(), premaster);
    let mut garbage = sound.clone();
    garbage[100] ^= 1;
    // The padding is right, but the padded bytes are not a premaster secret.
    let [shorter, longer] = [47, 49].map(|length| encrypted(&daemon, "shop", &vec![9; length]));
    let wrong = [&garbage, &shorter, &longer];
    let answers = wrong.map(|ciphertext| ask(&daemon, "shop", ciphertext).unwrap());
    for answer in &answers {
        assert!(
            answer[..2] == [3, 3] && answer[2..] != premaster[2..] && answer[2..] != [9; 46],
            "{answer:?}"
        );
    }
    assert!(answers[0] != answers[1] && answers[1] != answers[2], "{answers:?}");
    for wrong in [&sound[1..], &[0xff; 256]] {
        assert!(matches!(ask(&daemon, "shop", wrong), Err(Error::Refused(Outcome::Malformed))));
    }
    let lines = |words: &[&str]| daemon.logged(words);
    assert_eq!((lines(&["decryption", "outcome=done"]), lines(&["decryption", "malformed"])), (4, 2));

    // The provider offers no padding that reveals a wrong padding.
    let ciphertext = daemon.path("ciphertext");
    for padding in ["pkcs1", "oaep", "none"] {
        let option = format!("rsa_padding_mode:{padding}");
        let mut command = daemon.openssl(&["pkeyutl", "-decrypt", "-pkeyopt", &option, "-inkey"]);
        let (_, text) = fail(command.arg(daemon.reference("shop")).arg("-in").arg(&ciphertext));
        assert!(text.contains("keyward: cannot decrypt with this padding"), "{padding}: {text}");
    }

    // The answer is the same at another time.
    assert!(daemon.stop().success());
    daemon.resume();
    let again = wrong.map(|ciphertext| ask(&daemon, "shop", ciphertext).unwrap());
    assert_eq!(again, answers);
}

/// A copy of the store and a grant do not help to recognise replacements: the secret from which
/// they are derived is nowhere in the file, in any form.
fn a_copy_of_the_store_tells_nothing_of_a_padding(backend: Backend) {
    let mut daemon = Daemon::start_on(backend);
    succeed(&mut generate(&daemon, "shop", "rsa2048", &KEY_EXCHANGE));
    let mut garbage = encrypted(&daemon, "shop", &[9; 48]);
    garbage[100] ^= 1;
    let answer = ask(&daemon, "shop", &garbage).unwrap();
    let reference = fs::read_to_string(daemon.reference("shop")).unwrap();
    let reference = Reference::from_pem(&reference).unwrap();
    assert!(daemon.stop().success());
    let store = fs::read(daemon.path("state/keys.redb")).unwrap();

    // The daemon derives the answer in this way from the right secret. The public key is known to
    // everybody.
    let is_secret = |secret: &[u8]| {
        let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), reference.spki());
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA384, key.as_ref()), &garbage);
        tag.as_ref()[2..] == answer[2..]
    };
    assert!(!store.windows(32).any(|bytes| bytes != [0; 32] && is_secret(bytes)));
    // In base64, 32 bytes are 44 characters.
    let text = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    for run in store.split(|byte| !text(byte)).filter(|run| run.len() >= 44) {
        assert!(!run.windows(44).filter_map(from_base64).any(|bytes| is_secret(&bytes)));
    }
}

/// Decodes 32 bytes from 44 characters.
fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = text.strip_suffix(b"=")?;
    let digits = text.iter().map(|digit| DIGITS.iter().position(|known| known == digit));
    let bits = digits.collect::<Option<Vec<_>>>()?;
    let bytes = bits.chunks(4).flat_map(|group| {
        let word = group.iter().fold(0, |word, digit| word << 6 | digit) << (6 * (4 - group.len()));
        [(word >> 16) as u8, (word >> 8) as u8, word as u8]
    });
    Some(bytes.take(32).collect())
}

/// Two different answers to one ciphertext would show that its padding is wrong.
#[test]
fn a_key_at_two_backends_has_one_answer() {
    let daemon = Daemon::start_on(Backend::Grep11);
    let file = daemon.path("plain.pem");
    fs::write(&file, plain_key("rsa2048")).unwrap();
    for backend in ["embedded", Units::BACKEND] {
        let mut import = daemon.keyward(&["key", "import", backend, "--in", file.to_str().unwrap()]);
        succeed(import.args(KEY_EXCHANGE).args(["--backend", backend]));
    }
    let sound = encrypted(&daemon, "embedded", &[9; 48]);
    let mut garbage = sound.clone();
    garbage[100] ^= 1;
    let shorter = encrypted(&daemon, "embedded", &[9; 47]);
    for ciphertext in [sound, garbage, shorter] {
        let answers = ["embedded", Units::BACKEND].map(|label| ask(&daemon, label, &ciphertext).unwrap());
        assert_eq!(answers[0], answers[1]);
    }
}

/// After the answer, the daemon wipes the secret everywhere.
#[test]
fn no_secret_stays_in_the_memory_of_the_daemon() {
    // Only root may read the memory.
    if !has_root() {
        return;
    }
    let daemon = Daemon::start();
    let label = "a-label-that-is-looked-for";
    succeed(&mut generate(&daemon, label, "rsa2048", &KEY_EXCHANGE));
    for round in 0..3 {
        let mut premaster = [0; 48];
        fs::File::open("/dev/urandom").unwrap().read_exact(&mut premaster[2..]).unwrap();
        let ciphertext = encrypted(&daemon, label, &premaster);
        assert_eq!(ask(&daemon, label, &ciphertext).unwrap()[2..], premaster[2..]);
        // The answer arrives a moment before the daemon wipes the secret.
        wait_for(&format!("the daemon to wipe secret {round}"), || {
            let found = memory::count(daemon.id(), &[&premaster[8..24], &premaster[32..]]);
            (found == [0, 0]).then_some(())
        });
    }
    assert!(memory::count(daemon.id(), &[label.as_bytes()])[0] > 0, "nothing at all is found");
}

/// The remote units in `keyward unit list`.
fn units(daemon: &Daemon) -> Vec<serde_json::Value> {
    let text = succeed(&mut daemon.keyward(&["unit", "list", "--json"]));
    let units: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    units.into_iter().filter(|unit| unit["backend"] == Units::BACKEND).collect()
}

/// A wrong padding is no failure of a unit, and has the same answer at each unit. An error says if
/// there is no unit.
#[test]
fn remote_units_are_asked_once_whatever_the_client_sent() {
    ask_two_units(&[]);
}

/// Units with old firmware report a wrong padding as an error. They are asked once too.
#[test]
fn remote_units_that_tell_of_the_padding_are_asked_once() {
    ask_two_units(&["--simulate-padding-errors"]);
}

fn ask_two_units(arguments: &[&str]) {
    let directory = scratch();
    let remote = Units::new(&directory.path().join("units"));
    let mut servers = ["first", "second"].map(|name| remote.start(name, arguments));
    let endpoints: Vec<_> = servers.iter().map(keyward_tests::UnitServer::address).collect();
    let mut daemon = Daemon::prepare_for_units(remote.section(&endpoints, ""), "");
    daemon.resume();
    succeed(&mut generate(&daemon, "shop", "rsa2048", &KEY_EXCHANGE));
    let calls = || units(&daemon).iter().map(|unit| unit["calls"].as_u64().unwrap()).sum::<u64>();
    let mut garbage = encrypted(&daemon, "shop", &[9; 48]);
    garbage[100] ^= 1;
    let before = calls();
    let answers: Vec<_> = (0..10).map(|_| ask(&daemon, "shop", &garbage).unwrap()).collect();
    assert_eq!(calls(), before + 10, "one call for each");
    for unit in units(&daemon) {
        assert!(unit["failures"] == 0 && unit["breaker"] != "open", "{unit}");
    }
    servers[0].kill();
    assert_eq!(ask(&daemon, "shop", &garbage).unwrap(), answers[0], "from the other unit");
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    servers[1].kill();
    let refused = ask(&daemon, "shop", &garbage);
    assert!(matches!(refused, Err(Error::Refused(Outcome::UnitUnavailable))), "{refused:?}");
}

/// The abilities of a key at a remote unit are fixed when it is made or imported: no more than the
/// key needs.
#[test]
fn remote_units_make_keys_for_the_one_or_the_other() {
    let daemon = Daemon::start_on(Backend::Grep11);
    succeed(&mut generate(&daemon, "decrypts", "rsa2048", &KEY_EXCHANGE));
    daemon.import_for("imported", "rsa2048", "rsa-key-exchange");
    daemon.generate("signs", "rsa2048");
    for label in ["decrypts", "imported"] {
        let ciphertext = encrypted(&daemon, label, &[9; 48]);
        assert_eq!(ask(&daemon, label, &ciphertext).unwrap()[2..], [9; 46], "{label}");
    }
    let patch = |label: &str, uses: &str| {
        let mut command = daemon.curl();
        let change = format!(r#"{{"uses":[{uses:?}]}}"#);
        succeed(command.args(["-X", "PATCH", "-d", &change, &format!("http://localhost/v1/keys/{label}")]))
    };
    for (label, uses, told) in [
        ("signs", "rsa-key-exchange", "do not allow it to decrypt"),
        ("decrypts", "csr", "do not allow it to sign"),
        ("imported", "any", "do not allow it to sign"),
    ] {
        let answer = patch(label, uses);
        assert!(answer.contains(told) && answer.contains("make another key"), "{answer}");
    }
    assert!(patch("signs", "csr").contains(r#""uses":["csr"]"#));

    // The type of this key is known only after the import.
    let mut command = OpenSsl::System.program(&["genpkey", "-algorithm", "EC", "-pkeyopt"]);
    let ec = daemon.path("ec.key");
    succeed(command.arg("ec_paramgen_curve:P-256").arg("-out").arg(&ec));
    let mut command = daemon.new_key(&["import", "ec", "--use", "rsa-key-exchange"]);
    let (_, text) = fail(command.arg("--in").arg(&ec));
    assert!(text.contains("a key of type p256 cannot be used for rsa-key-exchange"), "{text}");
}
