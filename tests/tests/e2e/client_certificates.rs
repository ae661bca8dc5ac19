//! Clients that authenticate with a key of the daemon.

use std::fmt::Display;
use std::process::Command;

use keyward_tests::client::{WISHES, Wish, curl_command};
use keyward_tests::server::{Page, Site};
use keyward_tests::tool::{as_user, fail, succeed};
use keyward_tests::{Backend, Daemon, Handshake, KEY_TYPES, Nginx, Pki, is_root, on_both_backends};

on_both_backends!(clients_prove_themselves_with_every_key_type, a_key_of_a_server_is_no_key_of_a_client,);

/// nginx with a key in a file. It requires a client certificate of the authority.
fn server(daemon: &Daemon, pki: &Pki) -> (Nginx, Site) {
    let site = Site::for_certified_clients(daemon, pki);
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
    // This command already has the address.
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

fn clients_prove_themselves_with_every_key_type(backend: Backend) {
    let daemon = Daemon::start_on(backend);
    let pki = Pki::new(daemon.directory());
    let (_nginx, site) = server(&daemon, &pki);
    assert!(
        fail(&mut curl_command(&pki, site.address, WISHES[3])).0.code().is_some(),
        "without a certificate"
    );
    let mut made = [0, 0];
    for key_type in KEY_TYPES {
        daemon.import_for(key_type, key_type, "tls-client");
        let client = Site::with_key(&daemon, &pki, key_type);
        for wish in WISHES {
            let made = &mut made[usize::from(wish.version == "1.3")];
            assert_eq!(succeed(&mut curl(&daemon, &pki, &site, &client, wish)), "served\n");
            *made += 1;
            let rustls = Handshake::with_key(&pki, site.address, wish, daemon.key_for_rustls(&client));
            match rustls.make() {
                Ok(_) => *made += 1,
                // OpenSSL accepts certificates on a curve only if the curve is among the groups of
                // the client. This curve is not a group of rustls. OpenSSL notices after the client
                // has signed.
                Err(_) if wish.version == "1.2" && key_type == "p521" => *made += 1,
                // rustls has no scheme for this type in TLS 1.2, so it sends no certificate.
                Err(error) if wish.version == "1.2" && key_type == "rsa-pss2048" => {
                    assert!(error.to_string().contains("answered HTTP/1.1 400"), "{error}");
                }
                Err(error) => panic!("{key_type}, {wish:?}: {error}"),
            }
        }
        for (number, version) in ["-tls1_2", "-tls1_3"].into_iter().enumerate() {
            succeed(&mut s_client(&daemon, &pki, &site, &client, version));
            made[number] += 1;
        }
    }
    for (purpose, made) in ["purpose=tls12-client", "purpose=tls13-client"].into_iter().zip(made) {
        assert_eq!(daemon.logged(&["outcome=done", purpose]), made, "{purpose}\n{}", daemon.log());
    }
    assert_eq!(daemon.status()["requests"], made[0] + made[1], "requests of every kind");
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
        let rustls = Handshake::with_key(&pki, site.address, wish, daemon.key_for_rustls(&client));
        let error = rustls.make().unwrap_err().to_string();
        let expected = "key \"shop\" refused: the uses of the key do not include messages of this kind";
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(daemon.logged(&["outcome=use-refused", "purpose=tls12-client"]), 4, "{}", daemon.log());
    assert_eq!(daemon.logged(&["outcome=use-refused", "purpose=tls13-client"]), 4, "{}", daemon.log());
}

/// The steps of the page. The grant of the page is used if another user is available.
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
    let rustls = |wish| Handshake::with_key(&pki, site.address, wish, daemon.key_for_rustls(&client));
    let rustls = [WISHES[1], WISHES[3]].map(rustls);
    let (mut curls, mut s_clients) = ([WISHES[1], WISHES[3]].map(curl), ["-tls1_2", "-tls1_3"].map(s_client));

    assert!(daemon.stop().success());
    for command in &mut curls {
        assert_eq!(fail(command).0.code(), Some(35));
    }
    for command in &mut s_clients {
        let (_, text) = fail(command);
        assert!(page.find_in_log(&text).is_some(), "{text}");
    }
    for rustls in &rustls {
        let error = rustls.make().unwrap_err().to_string();
        let expected = "cannot sign with key \"robot\": cannot reach the keyward daemon at ";
        assert!(error.contains(expected), "{error}");
    }
    if is_root() {
        let grant = page.filled("[[grant]]", &[("user = \"robot\"", &"user = \"www-data\"")]);
        let own = "[[grant]]\nuser = \"root\"\nkeys = [\"robot\"]\nuses = [\"tls-client\"]\n";
        daemon.configure(&format!("log = \"debug\"\n{grant}{own}"));
    }
    daemon.resume();
    for command in curls.iter_mut().chain(&mut s_clients) {
        succeed(command);
    }
    for rustls in &rustls {
        rustls.make().unwrap();
    }
}
