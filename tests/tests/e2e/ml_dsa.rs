//! ML-DSA, which OpenSSL knows since 3.5: generated and imported keys, servers, clients and
//! requests.

use std::any::Any;
use std::fs;
use std::path::Path;

use keyward_tests::client::WISHES;
use keyward_tests::server::Site;
use keyward_tests::tool::{fail, stderr, succeed};
use keyward_tests::{Backend, Daemon, Handshake, ML_DSA, OpenSsl, Pki, Rustls, SServer, on_both_backends};

on_both_backends!(servers_and_clients_of_newer_versions, files_of_every_form_are_imported, requests);

/// Servers with a key of the daemon, which require a client certificate. Some clients also have a
/// key of the daemon.
fn servers_and_clients_of_newer_versions(backend: Backend) {
    let daemon = Daemon::start_on(backend);
    daemon.configure_more(
        "[[grant]]\nuser = \"root\"\nkeys = [\"*\"]\nuses = [\"tls-server\", \"tls-client\"]\n",
    );
    let pki = Pki::new(daemon.directory());
    let mut signatures = 0;
    for key_type in ML_DSA {
        let [server, client] = ["server", "client"].map(|side| {
            let label = format!("{side}-{key_type}");
            daemon.generate_for(&label, key_type, &format!("tls-{side}"));
            let reference = daemon.reference(&label);
            Site::new(pki.certify_with(OpenSsl::V3_5, &daemon, &reference), reference)
        });
        for start in [s_server, rustls_server] {
            let site = Site {
                client_ca: Some(pki.ca()),
                ..Site::new(server.certificate.clone(), server.key.clone())
            };
            let server = start(&daemon, &site);
            let text = page(&daemon, &pki, &site, Some(&client));
            let scheme = format!("Peer signature type: {}", key_type.replace('-', ""));
            for expected in ["Verification: OK", "200 ok", &scheme] {
                assert!(text.contains(expected), "{key_type}: no {expected}: {text}");
            }
            let text = page(&daemon, &pki, &site, None);
            assert!(!text.contains("200 ok"), "{key_type}: {text}");
            let rustls = Handshake::with_key(&pki, site.address, WISHES[3], daemon.key_for_rustls(&client));
            rustls.make().unwrap();
            // Two signatures for each handshake, and one of the server for the client without a
            // certificate.
            signatures += 5;
            drop(server);
        }
    }
    daemon.assert_one_request_each(signatures);
}

fn s_server(daemon: &Daemon, site: &Site) -> Box<dyn Any> {
    let ca = site.client_ca.as_ref().unwrap().to_str().unwrap();
    let words = ["-Verify", "1", "-verify_return_error", "-CAfile", ca];
    Box::new(SServer::start_of(daemon, site, OpenSsl::V3_5, &words))
}

fn rustls_server(daemon: &Daemon, site: &Site) -> Box<dyn Any> {
    Box::new(Rustls::start(daemon, std::slice::from_ref(site)))
}

/// The output of `openssl s_client` about a connection, followed by the answer of the server in
/// small letters.
fn page(daemon: &Daemon, pki: &Pki, site: &Site, client: Option<&Site>) -> String {
    let asks = daemon.path("asks");
    fs::write(&asks, "GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut s_client = daemon.openssl_of(OpenSsl::V3_5, &["s_client", "-ign_eof", "-verify_return_error"]);
    s_client.args(["-servername", "localhost", "-connect", &site.address.to_string(), "-CAfile"]);
    s_client.arg(pki.ca()).stdin(fs::File::open(&asks).unwrap());
    if let Some(client) = client {
        s_client.arg("-cert").arg(&client.certificate).arg("-key").arg(&client.key);
    }
    let output = s_client.output().unwrap();
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    answer.clone() + &stderr(&output) + &answer.to_lowercase()
}

/// OpenSSL writes the seed, the expanded key or both (RFC 9881, 6), or a form from before the
/// standard.
fn files_of_every_form_are_imported(backend: Backend) {
    let daemon = Daemon::start_on(backend);
    for key_type in ML_DSA {
        let import = |label: &str, file: &Path| {
            let mut import = daemon.keyward(&["key", "import", label, "--in", file.to_str().unwrap()]);
            import.args(backend.words());
            import
        };
        for form in ["seed-priv", "seed-only", "priv-only", "bare-seed", "bare-priv"] {
            let file = daemon.path("file.pem");
            let mut genpkey = OpenSsl::V3_5.program(&["genpkey", "-algorithm", key_type, "-provparam"]);
            succeed(genpkey.arg(format!("ml-dsa.output_formats={form}")).arg("-out").arg(&file));
            let label = format!("{key_type}-{form}");
            if form.starts_with("seed") {
                succeed(&mut import(&label, &file));
                let mut pkey = daemon.openssl_of(OpenSsl::V3_5, &["pkey", "-pubout", "-in"]);
                let shown = succeed(pkey.arg(daemon.reference(&label)));
                let plain = succeed(OpenSsl::V3_5.program(&["pkey", "-pubout", "-in"]).arg(&file));
                assert_eq!(shown, plain, "{label}");
                continue;
            }
            let (_, text) = fail(&mut import(&label, &file));
            assert!(text.contains("the ML-DSA key in the file has no seed"), "{label}: {text}");
            if form == "bare-seed" {
                // The advice of the message.
                let new = daemon.path("new.pem");
                let words = ["pkey", "-provparam", "ml-dsa.output_formats=seed-only", "-in"];
                succeed(OpenSsl::V3_5.program(&words).arg(&file).arg("-out").arg(&new));
                succeed(&mut import(&label, &new));
            }
        }
    }
}

fn requests(backend: Backend) {
    let daemon = Daemon::start_on(backend);
    for key_type in ML_DSA {
        daemon.generate_for(key_type, key_type, "csr");
        let request = daemon.path("request.pem");
        fs::write(&request, succeed(&mut daemon.keyward(&["csr", key_type, "--subject", "/CN=shop"])))
            .unwrap();
        let mut req = OpenSsl::V3_5.program(&["req", "-verify", "-noout", "-text", "-in"]);
        let text = succeed(req.arg(&request));
        let algorithm = format!("Signature Algorithm: {}", key_type.to_uppercase());
        assert!(text.contains(&algorithm), "{text}");
        // The algorithm identifier of the provider equals that of OpenSSL itself.
        let mut req = daemon.openssl_of(OpenSsl::V3_5, &["req", "-new", "-subj", "/CN=shop", "-key"]);
        succeed(req.arg(daemon.reference(key_type)).arg("-out").arg(&request));
        let mut req = OpenSsl::V3_5.program(&["req", "-verify", "-noout", "-text", "-in"]);
        assert!(succeed(req.arg(&request)).contains(&algorithm), "{key_type}");
    }
}

#[test]
fn older_versions_say_that_they_do_not_know_it() {
    let daemon = Daemon::start();
    daemon.generate("shop", "ml-dsa-65");
    let (_, text) = fail(daemon.openssl(&["pkey", "-pubout", "-in"]).arg(daemon.reference("shop")));
    let told = "cannot load key \"shop\": this OpenSSL does not know ML-DSA; 3.5 and later do";
    assert!(text.contains(told), "{text}");
}
