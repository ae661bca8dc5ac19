//! The openssl program and the key: the parts that it can read, the messages that the key signs,
//! and the private key that it never gets.

use std::fs;
use std::path::Path;
use std::process::Command;

use keyward_tests::client::{WISHES, s_client};
use keyward_tests::pki::openssl;
use keyward_tests::server::Site;
use keyward_tests::tool::{Process, fail, run, stderr, succeed, wait_for};
use keyward_tests::{Backend, Daemon, Handshake, KEY_TYPES, Nginx, OpenSsl, Pki, SServer, on_both_backends};

on_both_backends!(
    a_uri_names_the_same_key_as_the_reference,
    a_uri_names_the_version_that_has_the_certificate,
    the_key_behind_a_uri_is_not_another_one_later,
    requests_are_signed_as_the_default_provider_signs_them,
    keys_that_are_restricted_to_one_hash_of_pss,
    the_key_of_a_server_signs_nothing_else,
    a_key_for_anything_signs_a_file,
    another_provider_by_name_leaves_the_default_one_in_charge,
    certificate_and_reference_may_share_a_file_in_any_order,
    a_certificate_of_another_key_is_noticed,
);

fn a_uri_names_the_same_key_as_the_reference(backend: Backend) {
    let daemon = Daemon::start_on(backend);
    for key_type in KEY_TYPES {
        daemon.generate(key_type, key_type);
        let reference = daemon.reference(key_type);
        let of_file = succeed(daemon.openssl(&["pkey", "-pubout", "-in"]).arg(&reference));
        assert!(of_file.starts_with("-----BEGIN PUBLIC KEY-----"), "{of_file}");
        for uri in [format!("keyward:{key_type}"), format!("keyward:{key_type}?version=1")] {
            assert_eq!(succeed(&mut daemon.openssl(&["pkey", "-pubout", "-in", &uri])), of_file, "{uri}");
        }
        // The default provider reads the public key too, and finds the same type.
        let public = daemon.path("public.pem");
        fs::write(&public, &of_file).unwrap();
        succeed(openssl(&["pkey", "-pubin", "-pubcheck", "-noout", "-in"]).arg(&public));
        let private = run(daemon.openssl(&["pkey", "-in"]).arg(&reference));
        assert!(private.stdout.is_empty(), "{}", String::from_utf8_lossy(&private.stdout));
    }
    for (uri, expected) in [
        ("keyward:p256?version=7", "keyward: key \"p256\" refused: the key has no such version"),
        ("keyward:nowhere", "keyward: key \"nowhere\" refused: no such key"),
        ("keyward:p256?versoin=1", "keyward: cannot read key URI"),
    ] {
        let (_, text) = fail(&mut daemon.openssl(&["pkey", "-pubout", "-in", uri]));
        assert!(text.contains(expected), "{uri}: {text}");
    }
}

fn a_uri_names_the_version_that_has_the_certificate(backend: Backend) {
    let daemon = Daemon::start_on(backend);
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    let public = |query: &str| daemon.openssl(&["pkey", "-pubout", "-in", &format!("keyward:shop{query}")]);
    let (_, text) = fail(&mut public("?certified"));
    let told = "keyward: cannot load key \"shop\": it has no certificates in the daemon; attach them: \
                keyward cert attach shop --in CHAIN";
    assert!(text.contains(told), "{text}");
    let certify = || {
        let chain = pki.certify(&daemon, &daemon.reference("shop"));
        succeed(&mut daemon.keyward(&["cert", "attach", "shop", "--in", chain.to_str().unwrap()]));
    };
    let version = |query: &str| {
        let text = succeed(&mut public(query));
        (1..4).find(|number| succeed(&mut public(&format!("?version={number}"))) == text).unwrap()
    };
    certify();
    assert_eq!((version(""), version("?certified")), (1, 1));
    succeed(&mut daemon.keyward(&["key", "rotate", "shop"]));
    assert_eq!((version(""), version("?certified")), (2, 1));
    certify();
    assert_eq!((version(""), version("?certified")), (2, 2));
}

/// A key from a URI stays the same key after it was loaded, like a key from a reference.
fn the_key_behind_a_uri_is_not_another_one_later(backend: Backend) {
    let daemon = Daemon::start_on(backend);
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    let certificate = pki.certify(&daemon, &daemon.reference("shop"));
    succeed(&mut daemon.keyward(&["cert", "attach", "shop", "--in", certificate.to_str().unwrap()]));
    let uris = ["keyward:shop", "keyward:shop?version=1", "keyward:shop?certified"];
    let sites = uris.map(|uri| Site::new(certificate.clone(), uri.into()));
    let servers = sites.each_ref().map(|site| SServer::start(&daemon, site));
    for site in &sites {
        s_client(&pki, site.address, WISHES[3]);
    }
    daemon.destroy("shop");
    daemon.generate("shop", "p256");
    for site in &sites {
        assert!(Handshake::new(&pki, site.address).make().is_err(), "{site:?}");
    }
    drop(servers);
    let refused = daemon.logged(&["signature", "outcome=other-public-key"]);
    assert_eq!(refused, uris.len(), "{}", daemon.log());
}

fn requests_are_signed_as_the_default_provider_signs_them(backend: Backend) {
    let daemon = Daemon::start_on(backend);
    for key_type in KEY_TYPES {
        let plain = daemon.import_for(key_type, key_type, "csr");
        let reference = daemon.reference(key_type);
        let request = daemon.path("request.pem");
        // OpenSSL's own provider would take the longest salt, and the identifier says so.
        let salt = match key_type {
            "rsa-pss2048" => &["-sigopt", "rsa_pss_saltlen:digest"][..],
            _ => &[],
        };
        succeed(
            daemon
                .openssl(&["req", "-new", "-subj", "/CN=shop"])
                .args(salt)
                .arg("-key")
                .arg(&reference)
                .arg("-out")
                .arg(&request),
        );
        let text = succeed(openssl(&["req", "-verify", "-text", "-noout", "-in"]).arg(&request));
        let algorithm = match key_type {
            "p256" | "p384" | "p521" => "ecdsa-with-SHA256",
            "ed25519" => "ED25519",
            "rsa-pss2048" => "rsassaPss",
            _ => "sha256WithRSAEncryption",
        };
        assert!(text.contains(&format!("Signature Algorithm: {algorithm}")), "{text}");
        // The algorithm identifier has the same bytes as that of the default provider.
        let theirs = daemon.path("plain.pem");
        succeed(
            openssl(&["req", "-new", "-subj", "/CN=shop"])
                .args(salt)
                .arg("-config")
                .arg(daemon.openssl_conf())
                .arg("-key")
                .arg(&plain)
                .arg("-out")
                .arg(&theirs),
        );
        let identifier = |request| {
            let listing = succeed(openssl(&["asn1parse", "-in"]).arg(request));
            let outer = |line: &&str| line.contains(":d=1 ") || line.contains(":d=2 ");
            let lines: Vec<_> = listing.lines().filter(outer).collect();
            let from =
                lines.iter().rposition(|line| line.contains("d=1 ") && line.contains("SEQUENCE")).unwrap();
            // Without the offsets, which depend on the length of the key.
            lines[from..]
                .iter()
                .filter(|line| !line.contains("BIT STRING"))
                .map(|line| line.split_once(':').unwrap().1.to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(identifier(&request), identifier(&theirs), "{key_type}");
    }
    assert_eq!(daemon.logged(&["outcome=done", "purpose=csr"]), KEY_TYPES.len());
}

fn keys_that_are_restricted_to_one_hash_of_pss(backend: Backend) {
    let daemon = Daemon::start_on(backend);
    let pki = Pki::new(daemon.directory());
    let plain = daemon.path("plain.pem");
    let mut genpkey = openssl(&["genpkey", "-algorithm", "RSA-PSS", "-out", plain.to_str().unwrap()]);
    for option in ["rsa_keygen_bits:2048", "rsa_pss_keygen_md:sha384", "rsa_pss_keygen_mgf1_md:sha384"] {
        genpkey.args(["-pkeyopt", option]);
    }
    succeed(genpkey.args(["-pkeyopt", "rsa_pss_keygen_saltlen:48"]));
    let words = ["key", "import", "shop", "--in", plain.to_str().unwrap(), "--use", "any"];
    succeed(daemon.keyward(&words).args(backend.words()));
    let reference = daemon.reference("shop");
    let public = |key: &Path| succeed(daemon.openssl(&["pkey", "-pubout", "-text_pub", "-in"]).arg(key));
    assert_eq!(public(&reference), public(&plain));

    let site = Site::new(pki.certify(&daemon, &reference), reference.clone());
    let _server = SServer::start(&daemon, &site);
    for wish in WISHES {
        s_client(&pki, site.address, wish);
    }
    daemon.assert_one_request_each(WISHES.len());

    // A request by a program that cannot choose the hash, and a request by `keyward csr`.
    let request = daemon.path("request.pem");
    succeed(
        daemon
            .openssl(&["req", "-new", "-subj", "/CN=shop", "-key"])
            .arg(&reference)
            .arg("-out")
            .arg(&request),
    );
    let verify = || succeed(openssl(&["req", "-verify", "-noout", "-text", "-in"]).arg(&request));
    let algorithm = |text: &str| -> String {
        let lines = text.lines().skip_while(|line| !line.contains("Signature Algorithm"));
        let is_hex = |line: &&str| line.chars().all(|c| c == ':' || c == ' ' || c.is_ascii_hexdigit());
        lines.filter(|line| !is_hex(line)).map(|line| format!("{line}\n")).collect()
    };
    let ours = algorithm(&verify());
    assert!(ours.contains("Hash Algorithm: sha384") && ours.contains("Salt Length: 0x30"), "{ours}");
    let mut theirs = openssl(&["req", "-new", "-subj", "/CN=shop", "-config"]);
    theirs.arg(daemon.openssl_conf()).arg("-key").arg(&plain).arg("-out").arg(&request);
    succeed(&mut theirs);
    assert_eq!(algorithm(&verify()), ours);
    fs::write(&request, succeed(&mut daemon.keyward(&["csr", "shop", "--subject", "/CN=shop"]))).unwrap();
    assert_eq!(algorithm(&verify()), ours);

    let sign = |words: &[&str]| {
        let mut command = daemon.openssl(&["dgst"]);
        command
            .args(words)
            .arg("-sign")
            .arg(&reference)
            .arg("-out")
            .arg(daemon.path("signature"))
            .arg(&plain);
        command
    };
    succeed(&mut sign(&["-sha384"]));
    for (words, told) in [
        (&["-sha256"][..], "cannot sign with this digest: the key is restricted to another one"),
        (&["-sha384", "-sigopt", "rsa_padding_mode:pkcs1"], "the key is bound to RSASSA-PSS"),
    ] {
        let (_, text) = fail(&mut sign(words));
        assert!(text.contains(told), "{words:?}: {text}");
    }
}

fn the_key_of_a_server_signs_nothing_else(backend: Backend) {
    let daemon = Daemon::start_on(backend);
    let header_and_claims = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJyb290In0";
    let message = daemon.path("message");
    fs::write(&message, header_and_claims).unwrap();
    let digest = daemon.path("digest");
    succeed(openssl(&["dgst", "-sha256", "-binary", "-out"]).arg(&digest).arg(&message));
    for key_type in ["p256", "rsa2048"] {
        daemon.generate(key_type, key_type);
        let reference = daemon.reference(key_type);
        let jwt = fail(daemon.openssl(&["dgst", "-sha256", "-sign"]).arg(&reference).arg(&message));
        let csr = fail(daemon.openssl(&["req", "-new", "-subj", "/CN=shop", "-key"]).arg(&reference));
        let bare = fail(
            daemon
                .openssl(&["pkeyutl", "-sign", "-pkeyopt", "digest:sha256", "-inkey"])
                .arg(&reference)
                .arg("-in")
                .arg(&digest),
        );
        // Like proxies that make certificates themselves.
        let certificate =
            fail(daemon.openssl(&["req", "-x509", "-new", "-subj", "/CN=shop", "-key"]).arg(&reference));
        let expected =
            format!("keyward: key \"{key_type}\" refused: the uses of the key do not include messages");
        for ((_, text), reason, kind) in [
            (jwt, "key lacks a use for this", "as in: keyward key set-uses"),
            (csr, "key lacks the use csr", "; it was asked to sign a certificate request"),
            (bare, "key is not for signing digests", "; it was asked to sign a bare digest"),
            (certificate, "key is not for signing certificates", "; it was asked to sign a certificate, as"),
        ] {
            for words in [&expected, &format!("keyward::{reason}:"), kind] {
                assert!(text.contains(words), "{words:?} in {text}");
            }
        }
    }
    assert_eq!(daemon.logged(&["outcome=use-refused", "purpose=other"]), 6, "{}", daemon.log());
    assert_eq!(daemon.logged(&["outcome=use-refused", "purpose=csr"]), 2, "{}", daemon.log());
    assert_eq!(daemon.logged(&["outcome=done", "signature"]), 0);
}

fn a_key_for_anything_signs_a_file(backend: Backend) {
    let daemon = Daemon::start_on(backend);
    let message = daemon.path("message");
    // Longer than the longest message that is sent whole.
    fs::write(&message, vec![b'k'; 300_000]).unwrap();
    for key_type in ["p256", "p384", "rsa2048"] {
        daemon.generate_for(key_type, key_type, "any");
        let reference = daemon.reference(key_type);
        let (signature, public) = (daemon.path("signature"), daemon.path("public.pem"));
        succeed(daemon.openssl(&["pkey", "-pubout", "-in"]).arg(&reference).arg("-out").arg(&public));
        for hash in ["-sha256", "-sha384", "-sha512"] {
            let sign = ["dgst", hash, "-sign"];
            succeed(daemon.openssl(&sign).arg(&reference).arg("-out").arg(&signature).arg(&message));
            let verify = ["dgst", hash, "-verify"];
            succeed(openssl(&verify).arg(&public).arg("-signature").arg(&signature).arg(&message));
        }
    }
}

/// Commands that would write the private key say why they do not, and write nothing of it. The
/// public key is written as usual.
#[test]
fn a_private_key_that_is_to_be_written_is_refused_with_a_reason() {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    let out = daemon.path("written");
    for openssl in OpenSsl::ALL {
        for key_type in ["p256", "rsa2048", "rsa-pss2048", "ed25519", "ml-dsa-65"] {
            if !openssl.key_types().any(|known| known == key_type) {
                continue;
            }
            let label = format!("{key_type}-{openssl:?}").to_lowercase().replace('_', ".");
            daemon.generate(&label, key_type);
            let reference = daemon.reference(&label);
            let certificate = pki.certify_with(openssl, &daemon, &reference);
            let pkcs12 =
                ["pkcs12", "-export", "-passout", "pass:secret", "-in", certificate.to_str().unwrap()];
            for words in [
                &["pkey"][..],
                &["pkey", "-aes256", "-passout", "pass:secret"],
                &["pkey", "-outform", "DER"],
                &["pkey", "-text", "-noout"],
                &["pkcs8", "-topk8", "-nocrypt"],
                &["pkcs8", "-topk8", "-passout", "pass:secret"],
                &pkcs12,
            ] {
                let key = if words[0] == "pkcs12" { "-inkey" } else { "-in" };
                let mut command = daemon.openssl_of(openssl, words);
                let (_, text) = fail(command.arg("-out").arg(&out).arg(key).arg(&reference));
                let told = format!(
                    "keyward: cannot write the private key \"{label}\": it does not leave the daemon"
                );
                assert!(text.contains(&told), "{openssl:?}, {words:?}: {text}");
                // Many programs show only this part of the error.
                assert!(text.contains("keyward::private key does not leave the daemon:"), "{text}");
                let written = fs::read_to_string(&out).unwrap_or_default();
                assert!(!written.contains("-----BEGIN"), "{openssl:?}, {words:?}: {written}");
            }
        }
        // Plain keys are written as usual.
        succeed(daemon.openssl_of(openssl, &["genpkey", "-algorithm", "ED25519", "-out"]).arg(&out));
        succeed(daemon.openssl_of(openssl, &["pkey", "-text", "-in"]).arg(&out));
    }
}

/// No invalid access and no lost memory, in a host program from its start to its end.
#[test]
fn valgrind_finds_nothing() {
    let daemon = Daemon::start();
    let valgrind = |command: &Command| {
        let mut checked = Command::new("valgrind");
        checked.args([
            "--quiet",
            "--leak-check=full",
            "--errors-for-leak-kinds=definite",
            "--error-exitcode=99",
        ]);
        checked
            .arg(command.get_program())
            .args(command.get_args())
            .env("OPENSSL_CONF", daemon.openssl_conf());
        succeed(&mut checked);
    };
    for key_type in ["p256", "ed25519", "rsa2048"] {
        daemon.generate_for(key_type, key_type, "csr");
        let reference = daemon.reference(key_type);
        valgrind(daemon.openssl(&["req", "-new", "-subj", "/CN=shop", "-key"]).arg(&reference));
        valgrind(&daemon.openssl(&["pkey", "-pubout", "-in", &format!("keyward:{key_type}")]));
    }
}

/// If a program looks up another provider by its name, OpenSSL sorts all providers by name.
fn another_provider_by_name_leaves_the_default_one_in_charge(backend: Backend) {
    let daemon = Daemon::start_on(backend);
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    let reference = daemon.reference("shop");
    let site = Site::new(pki.certify(&daemon, &reference), reference);
    let mut command =
        daemon.openssl(&["s_server", "-provider", "legacy", "-provider", "default", "-provider"]);
    command.args(["keyward", "-www", "-quiet", "-accept"]).arg(site.address.to_string());
    command.arg("-cert").arg(&site.certificate).arg("-key").arg(&site.key);
    let _server = Process::start(&mut command, &daemon.path("s_server.log"));
    wait_for("s_server", || std::net::TcpStream::connect(site.address).ok());
    for wish in WISHES {
        s_client(&pki, site.address, wish);
    }
}

fn certificate_and_reference_may_share_a_file_in_any_order(backend: Backend) {
    let daemon = Daemon::start_on(backend);
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    let reference = daemon.reference("shop");
    let certificate = fs::read_to_string(pki.certify(&daemon, &reference)).unwrap();
    let reference = fs::read_to_string(reference).unwrap();
    let authority = fs::read_to_string(pki.ca()).unwrap();
    let sites: Vec<_> = [
        [&certificate, &reference].map(String::as_str).concat(),
        [&reference, &certificate].map(String::as_str).concat(),
        [&certificate, &authority, &reference].map(String::as_str).concat(),
        [&reference, &certificate, &authority].map(String::as_str).concat(),
        format!("the key of the shop\n\n{certificate}\nand this\n{reference}\nis all"),
        format!("{certificate}{reference}").replace('\n', "\r\n"),
    ]
    .into_iter()
    .enumerate()
    .map(|(number, text)| {
        let path = daemon.path(&format!("both-{number}.pem"));
        fs::write(&path, text).unwrap();
        Site::new(path.clone(), path)
    })
    .collect();
    let _nginx = Nginx::start(&daemon, &sites);
    for site in &sites {
        s_client(&pki, site.address, WISHES[3]);
    }
}

fn a_certificate_of_another_key_is_noticed(backend: Backend) {
    let daemon = Daemon::start_on(backend);
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    daemon.generate("mail", "p256");
    let certificate = pki.certify(&daemon, &daemon.reference("shop"));
    let other = daemon.reference("mail");
    let mut command = daemon.openssl(&["s_server", "-accept", "127.0.0.1:1", "-cert"]);
    let output = run(command.arg(&certificate).arg("-key").arg(&other));
    assert!(!output.status.success());
    assert!(stderr(&output).contains("key values mismatch"), "{}", stderr(&output));
}
