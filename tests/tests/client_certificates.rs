//! Clients that prove themselves with a key of the daemon.

use std::process::Command;

use keyward_tests::client::{WISHES, Wish, curl_command};
use keyward_tests::pki::openssl;
use keyward_tests::server::Site;
use keyward_tests::tool::{fail, succeed};
use keyward_tests::{Backend, Daemon, KEY_TYPES, Nginx, Pki, on_both_backends};

on_both_backends!(
    curl_and_s_client_prove_themselves_with_every_key_type,
    a_key_of_a_server_is_no_key_of_a_client,
);

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

/// The certificate and the reference of a client's key.
fn client(daemon: &Daemon, pki: &Pki, label: &str) -> Site {
    let reference = daemon.reference(label);
    Site::new(pki.certify(daemon, &reference), reference)
}

fn curl_and_s_client_prove_themselves_with_every_key_type(backend: Backend) {
    let daemon = Daemon::start_on(backend);
    let pki = Pki::new(daemon.directory());
    let (_nginx, site) = server(&daemon, &pki);
    assert!(
        fail(&mut curl_command(&pki, site.address, WISHES[3])).0.code().is_some(),
        "without a certificate"
    );
    for key_type in KEY_TYPES {
        daemon.import_for(key_type, key_type, "tls-client");
        let client = client(&daemon, &pki, key_type);
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

fn a_key_of_a_server_is_no_key_of_a_client(backend: Backend) {
    let daemon = Daemon::start_on(backend);
    let pki = Pki::new(daemon.directory());
    let (_nginx, site) = server(&daemon, &pki);
    daemon.generate_for("shop", "p256", "tls-server");
    let client = client(&daemon, &pki, "shop");
    for wish in WISHES {
        let mut command = curl(&daemon, &pki, &site, &client, wish);
        let (_, text) = fail(command.arg("--verbose"));
        assert!(text.contains("curl: ("), "{text}");
    }
    assert_eq!(daemon.logged(&["outcome=use-refused", "purpose=tls12-client"]), 2, "{}", daemon.log());
    assert_eq!(daemon.logged(&["outcome=use-refused", "purpose=tls13-client"]), 2, "{}", daemon.log());
}
