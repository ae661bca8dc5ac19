//! Clients that prove themselves with a key of the daemon.

use std::fmt::Display;
use std::process::Command;

use keyward_tests::client::{WISHES, Wish, curl_command};
use keyward_tests::pki::openssl;
use keyward_tests::server::{Page, Site};
use keyward_tests::tool::{as_user, fail, succeed};
use keyward_tests::{Backend, Daemon, KEY_TYPES, Nginx, Pki, is_root, on_both_backends};

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

/// The command of the page that begins with these words, for a client and a site.
fn command_of_the_page(begin: &str, host: &str, site: &Site, client: &Site) -> Vec<String> {
    let places: [(&str, &dyn Display); 3] = [
        ("/etc/ssl/robot.crt", &client.certificate.display()),
        ("/etc/keyward/robot.pem", &client.key.display()),
        (host, &site.address),
    ];
    Page::read("curl").filled(begin, &places).split_whitespace().map(str::to_owned).collect()
}

/// curl with the certificate and the reference of a key.
fn curl(daemon: &Daemon, pki: &Pki, site: &Site, client: &Site, wish: Wish) -> Command {
    let words = command_of_the_page("curl --cert", "shop.example", site, client);
    let mut command = curl_command(pki, site.address, wish);
    // Which has the address already.
    command.args(&words[1..words.len() - 1]).env("OPENSSL_CONF", daemon.openssl_conf());
    command
}

/// `openssl s_client` with the certificate and the reference of a key.
fn s_client(daemon: &Daemon, pki: &Pki, site: &Site, client: &Site, version: &str) -> Command {
    let words = command_of_the_page("openssl s_client", "shop.example:443", site, client);
    let mut command = daemon.openssl(&[]);
    command.args(&words[1..]).args(["-brief", version, "-CAfile"]).arg(pki.ca());
    command
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
        let client = Site::with_key(&daemon, &pki, key_type);
        for wish in WISHES {
            assert_eq!(succeed(&mut curl(&daemon, &pki, &site, &client, wish)), "served\n");
        }
        for version in ["-tls1_2", "-tls1_3"] {
            succeed(&mut s_client(&daemon, &pki, &site, &client, version));
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
    let client = Site::with_key(&daemon, &pki, "shop");
    for wish in WISHES {
        let mut command = curl(&daemon, &pki, &site, &client, wish);
        let (_, text) = fail(command.arg("--verbose"));
        assert!(text.contains("curl: ("), "{text}");
    }
    assert_eq!(daemon.logged(&["outcome=use-refused", "purpose=tls12-client"]), 2, "{}", daemon.log());
    assert_eq!(daemon.logged(&["outcome=use-refused", "purpose=tls13-client"]), 2, "{}", daemon.log());
}

/// As the page says, with its grant where there is another user to give it to.
#[test]
fn a_client_says_why_it_fails_while_the_daemon_is_away() {
    let mut daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    let (_nginx, site) = server(&daemon, &pki);
    daemon.generate_for("robot", "p256", "tls-client");
    let client = Site::with_key(&daemon, &pki, "robot");
    let page = Page::read("curl");
    let as_client = |command: Command| if is_root() { as_user("www-data", &command) } else { command };
    let curl = |wish| as_client(curl(&daemon, &pki, &site, &client, wish));
    let s_client = |version| as_client(s_client(&daemon, &pki, &site, &client, version));
    let (mut curls, mut s_clients) = ([WISHES[1], WISHES[3]].map(curl), ["-tls1_2", "-tls1_3"].map(s_client));

    assert!(daemon.stop().success());
    for command in &mut curls {
        assert_eq!(fail(command).0.code(), Some(35));
    }
    for command in &mut s_clients {
        let (_, text) = fail(command);
        assert!(page.find_in_log(&text).is_some(), "{text}");
    }
    if is_root() {
        let grant = page.filled("[[grant]]", &[("user = \"robot\"", &"user = \"www-data\"")]);
        daemon.configure(&format!("log = \"debug\"\n{grant}"));
    }
    daemon.resume();
    for command in curls.iter_mut().chain(&mut s_clients) {
        succeed(command);
    }
}
