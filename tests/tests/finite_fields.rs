//! Handshakes of TLS 1.2 with groups of finite fields, in the place of elliptic curves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::PathBuf;

use keyward_tests::server::Site;
use keyward_tests::tool::{run, stderr, succeed};
use keyward_tests::{Daemon, Nginx, OpenSsl, Pki, SServer};

/// RFC 7919, 4: a group of each length whose length begins with another byte, 6144 bits with that of a named curve.
#[test]
fn finite_field_groups() {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "rsa2048");
    let site = Site::with_key(&daemon, &pki, "shop");
    let mut handshakes = 0;
    for bits in ["2048", "3072", "6144"] {
        let parameters = parameters(&daemon, bits);
        let shake_hands = |site: &Site| {
            for client in OpenSsl::ALL {
                let mut command = client.program(&["s_client", "-brief", "-verify_return_error", "-tls1_2"]);
                command.args(["-cipher", "DHE-RSA-AES128-GCM-SHA256", "-servername", "localhost"]);
                // A client of 4.0 that names finite fields itself gets one of those (RFC 7919, 4).
                command.args(["-groups", "P-256"]);
                command.args(["-connect", &site.address.to_string(), "-CAfile"]).arg(pki.ca());
                let output = run(&mut command);
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

/// A file of parameters, as administrators have them.
fn parameters(daemon: &Daemon, bits: &str) -> PathBuf {
    let path = daemon.path(&format!("dh{bits}.pem"));
    let group = format!("group:ffdhe{bits}");
    let mut command = OpenSsl::System.program(&["genpkey", "-genparam", "-algorithm", "DH", "-pkeyopt"]);
    succeed(command.args([&group, "-out"]).arg(&path));
    path
}
