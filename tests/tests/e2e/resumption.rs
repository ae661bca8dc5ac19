//! Resumed sessions need no key, and so no daemon.

use std::io::Write;
use std::process::Command;

use keyward_tests::server::Site;
use keyward_tests::tool::stderr;
use keyward_tests::{Daemon, Nginx, OpenSsl, Pki};

/// Sessions are in tickets or in the memory of nginx. TLS 1.3 has both as pre-shared keys (RFC
/// 8446, 4.6.1).
#[test]
fn resumed_sessions_ask_for_nothing() {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    let site = Site::with_key(&daemon, &pki, "shop");
    let mut handshakes = 0;
    for kept in [
        "ssl_session_cache off; ssl_session_tickets on;",
        "ssl_session_cache shared:tls:1m; ssl_session_tickets off;",
    ] {
        let site = Site::new(site.certificate.clone(), site.key.clone());
        let _nginx = Nginx::start_with_directives(&daemon, std::slice::from_ref(&site), kept);
        for openssl in OpenSsl::ALL {
            for version in ["-tls1_2", "-tls1_3"] {
                let session = daemon.path("session");
                let connect = |option: &str| {
                    let words = ["s_client", "-verify_return_error", "-servername", "localhost", "-ign_eof"];
                    let mut client = openssl.program(&words);
                    client.args(["-connect", &site.address.to_string(), "-CAfile"]).arg(pki.ca());
                    ask(client.args([version, option]).arg(&session))
                };
                let first = connect("-sess_out");
                assert!(first.contains("\nNew, TLSv1."), "{kept}, {openssl:?}, {version}: {first}");
                handshakes += 1;
                daemon.assert_one_request_each(handshakes);
                for _ in 0..2 {
                    let second = connect("-sess_in");
                    assert!(second.contains("\nReused, TLSv1."), "{kept}, {openssl:?}, {version}: {second}");
                    assert!(second.contains("served"), "{second}");
                }
                daemon.assert_one_request_each(handshakes);
            }
        }
    }
}

/// Sends a request. In TLS 1.3 the answer comes with tickets. Returns the output of the client.
fn ask(client: &mut Command) -> String {
    let (input, mut output) = std::io::pipe().unwrap();
    output.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    drop(output);
    let output = client.stdin(input).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
