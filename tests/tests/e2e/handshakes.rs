//! Every key type, TLS 1.2 and 1.3, P-256 and X25519, in real servers.

use std::sync::Barrier;
use std::thread;

use keyward_tests::client::{WISHES, every_key_type, s_client};
use keyward_tests::server::Site;
use keyward_tests::{Backend, Daemon, Handshake, Haproxy, Nginx, Pki, Rustls, SServer, on_both_backends};

on_both_backends!(nginx, haproxy, rustls, openssl_s_server, two_hundred_at_once);

/// A daemon with an imported key of each type, and a site for each.
fn imported(backend: Backend) -> (Daemon, Pki, Vec<Site>) {
    let daemon = Daemon::start_on(backend);
    let pki = Pki::new(daemon.directory());
    let sites = Site::of_each_key_type(&daemon, &pki, |label, key_type| drop(daemon.import(label, key_type)));
    (daemon, pki, sites)
}

/// The scene with keys that the daemon has generated.
fn generated(backend: Backend) -> (Daemon, Pki, Vec<Site>) {
    let daemon = Daemon::start_on(backend);
    let pki = Pki::new(daemon.directory());
    let sites = Site::of_each_key_type(&daemon, &pki, |label, key_type| daemon.generate(label, key_type));
    (daemon, pki, sites)
}

fn nginx(backend: Backend) {
    let (daemon, pki, sites) = generated(backend);
    let nginx = Nginx::start(&daemon, &sites);
    let handshakes = every_key_type(&pki, &nginx, &sites);
    // The workers asked, each with its own connection and credentials; the master did not ask for
    // them.
    let workers = nginx.workers();
    let by_workers: usize =
        workers.iter().map(|pid| daemon.logged(&["signature", &format!("pid={pid} ")])).sum();
    assert_eq!((workers.len(), by_workers), (2, handshakes));
    daemon.assert_one_request_each(handshakes);
}

fn haproxy(backend: Backend) {
    let (daemon, pki, sites) = imported(backend);
    let haproxy = Haproxy::start(&daemon, &sites);
    daemon.assert_one_request_each(every_key_type(&pki, &haproxy, &sites));
}

fn rustls(backend: Backend) {
    let (daemon, pki, sites) = generated(backend);
    let rustls = Rustls::start(&daemon, &sites);
    daemon.assert_one_request_each(every_key_type(&pki, &rustls, &sites));
}

fn two_hundred_at_once(backend: Backend) {
    let daemon = Daemon::start_on(backend);
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    let site = Site::with_key(&daemon, &pki, "shop");
    let _nginx = Nginx::start(&daemon, std::slice::from_ref(&site));
    let handshake = Handshake::new(&pki, site.address);
    let together = Barrier::new(200);
    let results: Vec<_> = thread::scope(|scope| {
        let client = || {
            together.wait();
            handshake.make().map(drop)
        };
        let clients: Vec<_> = (0..200).map(|_| scope.spawn(client)).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });
    let failed: Vec<_> = results.iter().filter(|result| result.is_err()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    daemon.assert_one_request_each(200);
}

fn openssl_s_server(backend: Backend) {
    let (daemon, pki, sites) = imported(backend);
    for site in &sites {
        let _server = SServer::start(&daemon, site);
        for wish in WISHES {
            s_client(&pki, site.address, wish);
        }
    }
    let handshakes = sites.len() * WISHES.len();
    daemon.assert_one_request_each(handshakes);
}
