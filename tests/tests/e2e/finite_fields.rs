//! TLS 1.2 handshakes with DHE, over finite fields instead of elliptic curves.

use std::path::PathBuf;
use std::process::Output;

use keyward_tests::server::Site;
use keyward_tests::tool::{run, stderr, succeed};
use keyward_tests::{Daemon, Nginx, OpenSsl, Pki, SServer};

/// The daemon with a key for DHE, and grants for the users of servers.
fn start() -> Daemon {
    let grant = |uid| format!("[[grant]]\nuid = {uid}\nkeys = [\"*\"]\nuses = [\"tls12-dhe-server\"]\n");
    let grants: String = keyward_tests::server::users().into_iter().map(grant).collect();
    let daemon = Daemon::start_with(&grants);
    daemon.generate_for("shop", "rsa2048", "tls12-dhe-server");
    daemon
}

/// Makes a handshake with DHE.
fn s_client(client: OpenSsl, pki: &Pki, site: &Site) -> Output {
    let mut command = client.program(&["s_client", "-brief", "-verify_return_error", "-tls1_2"]);
    command.args(["-cipher", "DHE-RSA-AES128-GCM-SHA256", "-servername", "localhost"]);
    // If a client of 4.0 itself names finite fields, it gets one of them (RFC 7919, 4).
    command.args(["-groups", "P-256"]);
    command.args(["-connect", &site.address.to_string(), "-CAfile"]).arg(pki.ca());
    run(&mut command)
}

/// RFC 7919, 4: a group of each length whose length begins with another byte; for 6144 bits, with
/// the byte of a named curve.
#[test]
fn finite_field_groups() {
    let daemon = start();
    let pki = Pki::new(daemon.directory());
    let site = Site::with_key(&daemon, &pki, "shop");
    let mut handshakes = 0;
    for bits in ["2048", "3072", "6144"] {
        let parameters = parameters(&daemon, bits);
        let shake_hands = |site: &Site| {
            for client in OpenSsl::ALL {
                let output = s_client(client, &pki, site);
                let text = stderr(&output);
                let complete =
                    output.status.success() && text.contains(&format!("Temp Key: DH, {bits} bits"));
                assert!(complete, "{bits}, {client:?}: {text}");
            }
        };
        for openssl in OpenSsl::ALL {
            let site = Site::new(site.certificate.clone(), site.key.clone());
            let words = ["-dhparam", parameters.to_str().unwrap()];
            let _server = SServer::start_of(&daemon, &site, openssl, &words);
            shake_hands(&site);
        }
        let site = Site::new(site.certificate.clone(), site.key.clone());
        let directive = format!("ssl_dhparam {};", parameters.display());
        let _nginx = Nginx::start_with_directives(&daemon, std::slice::from_ref(&site), &directive);
        shake_hands(&site);
        handshakes += (OpenSsl::ALL.len() + 1) * OpenSsl::ALL.len();
    }
    daemon.assert_one_request_each(handshakes);
}

/// Without a file, OpenSSL takes a group of RFC 3526 that is as strong as the key.
#[test]
fn automatic_groups() {
    let daemon = start();
    let pki = Pki::new(daemon.directory());
    let site = Site::with_key(&daemon, &pki, "shop");
    for openssl in OpenSsl::ALL {
        let site = Site::new(site.certificate.clone(), site.key.clone());
        let _server = SServer::start_of(&daemon, &site, openssl, &[]);
        let output = s_client(OpenSsl::System, &pki, &site);
        let text = stderr(&output);
        assert!(output.status.success() && text.contains("Temp Key: DH, 2048 bits"), "{openssl:?}: {text}");
    }
    daemon.assert_one_request_each(OpenSsl::ALL.len());
}

/// The log of the server says what to do instead: for a private prime, and for a key without the
/// use for DHE.
#[test]
fn refusals_of_dhe_are_told() {
    let daemon = start();
    let pki = Pki::new(daemon.directory());
    daemon.generate("plain", "rsa2048");
    let own = daemon.path("own.pem");
    // Not a safe prime, which would take minutes to find: a server does not check this.
    let mut command = OpenSsl::System.program(&["dhparam", "-dsaparam", "-out"]);
    succeed(command.arg(&own).arg("2048"));
    for (label, parameters, told) in [
        (
            "shop",
            own,
            "key \"shop\" refused: the parameters for DHE are of no known group; use a group of RFC 7919",
        ),
        ("plain", parameters(&daemon, "2048"), "key \"plain\" refused: key or grant do not include DHE"),
    ] {
        let site = Site::with_key(&daemon, &pki, label);
        let directive = format!("ssl_dhparam {};", parameters.display());
        let nginx = Nginx::start_with_directives(&daemon, std::slice::from_ref(&site), &directive);
        assert!(!s_client(OpenSsl::System, &pki, &site).status.success());
        nginx.wait_for_log(told);
    }
}

/// A parameter file, as administrators have it.
fn parameters(daemon: &Daemon, bits: &str) -> PathBuf {
    let path = daemon.path(&format!("dh{bits}.pem"));
    let group = format!("group:ffdhe{bits}");
    let mut command = OpenSsl::System.program(&["genpkey", "-genparam", "-algorithm", "DH", "-pkeyopt"]);
    succeed(command.args([&group, "-out"]).arg(&path));
    path
}
