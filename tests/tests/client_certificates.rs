//! Clients that prove themselves with a key of the daemon.

use std::process::Command;

use keyward_tests::client::{WISHES, Wish, curl_command};
use keyward_tests::pki::openssl;
use keyward_tests::server::Site;
use keyward_tests::tool::{fail, succeed};
use keyward_tests::{Daemon, KEY_TYPES, Nginx, Pki};

/// nginx with a key in a file, which lets nobody in without a certificate of the authority.
fn server(daemon: &Daemon, pki: &Pki) -> (Nginx, Site) {
    let key = daemon.path("server.key");
    succeed(openssl(&["genpkey", "-algorithm", "ED25519", "-out"]).arg(&key));
    let public = daemon.path("server.pub");
    succeed(openssl(&["pkey", "-pubout", "-in"]).arg(&key).arg("-out").arg(&public));
    let mut site = Site::new(pki.certify_public(&public), key);
    site.client_ca = Some(pki.ca());
    (Nginx::start(daemon, std::slice::from_ref(&site)), site)
}

/// curl with the certificate and the reference of a key.
fn curl(daemon: &Daemon, pki: &Pki, site: &Site, client: &Site, wish: Wish) -> Command {
    let mut command = curl_command(pki, site.address, wish);
    command.arg("--cert").arg(&client.certificate).arg("--key").arg(&client.key);
    command.env("OPENSSL_CONF", daemon.openssl_conf());
    command
}

fn client(daemon: &Daemon, pki: &Pki, label: &str, key_type: &str, use_: &str) -> Site {
    succeed(&mut daemon.keyward(&["key", "generate", label, "--type", key_type, "--use", use_]));
    let reference = daemon.reference(label);
    Site::new(pki.certify(daemon, &reference), reference)
}

#[test]
fn curl_and_s_client_prove_themselves_with_every_key_type() {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    let (_nginx, site) = server(&daemon, &pki);
    assert!(
        fail(&mut curl_command(&pki, site.address, WISHES[3])).0.code().is_some(),
        "without a certificate"
    );
    for key_type in KEY_TYPES {
        let client = client(&daemon, &pki, key_type, key_type, "tls-client");
        for wish in WISHES {
            assert_eq!(succeed(&mut curl(&daemon, &pki, &site, &client, wish)), "served\n");
        }
        for version in ["-tls1_2", "-tls1_3"] {
            let mut command = daemon.openssl(&["s_client", "-brief", version, "-connect"]);
            command.arg(site.address.to_string()).arg("-CAfile").arg(pki.ca());
            command.arg("-cert").arg(&client.certificate).arg("-key").arg(&client.key);
            succeed(&mut command);
        }
    }
    let each = KEY_TYPES.len() * (WISHES.len() / 2 + 1);
    for purpose in ["purpose=tls12-client", "purpose=tls13-client"] {
        assert_eq!(daemon.logged(&["outcome=done", purpose]), each, "{purpose}\n{}", daemon.log());
    }
    assert_eq!(daemon.status()["requests"], 2 * each, "requests of every kind");
}

#[test]
fn a_key_of_a_server_is_no_key_of_a_client() {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    let (_nginx, site) = server(&daemon, &pki);
    let client = client(&daemon, &pki, "shop", "p256", "tls-server");
    for wish in WISHES {
        let mut command = curl(&daemon, &pki, &site, &client, wish);
        let (_, text) = fail(command.arg("--verbose"));
        assert!(text.contains("curl: ("), "{text}");
    }
    assert_eq!(daemon.logged(&["outcome=use-refused", "purpose=tls12-client"]), 2, "{}", daemon.log());
    assert_eq!(daemon.logged(&["outcome=use-refused", "purpose=tls13-client"]), 2, "{}", daemon.log());
}
