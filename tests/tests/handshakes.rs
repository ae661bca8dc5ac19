//! Every key type, TLS 1.2 and 1.3, P-256 and X25519, in the servers that people run.

use keyward_tests::client::{WISHES, curl, s_client};
use keyward_tests::server::Site;
use keyward_tests::{Backend, Daemon, Haproxy, KEY_TYPES, Nginx, Pki, SServer, on_both_backends};

on_both_backends!(nginx_with_openssl_and_curl_as_clients, haproxy, openssl_s_server);

/// How a scene comes by its keys.
#[derive(Clone, Copy)]
enum Keys {
    Generated,
    Imported,
}

/// A daemon with a key of each type, and a site for each.
fn scene(backend: Backend, keys: Keys) -> (Daemon, Pki, Vec<Site>) {
    let daemon = Daemon::start_on(backend);
    let pki = Pki::new(daemon.directory());
    let sites = KEY_TYPES
        .iter()
        .map(|key_type| {
            match keys {
                Keys::Generated => daemon.generate(key_type, key_type),
                Keys::Imported => drop(daemon.import(key_type, key_type)),
            }
            let reference = daemon.reference(key_type);
            Site::new(pki.certify(&daemon, &reference), reference)
        })
        .collect();
    (daemon, pki, sites)
}

/// Every request that came over the peers' socket was the one signature of a handshake.
fn assert_one_request_each(daemon: &Daemon, handshakes: usize) {
    let signatures = daemon.logged(&["outcome=done", "purpose=tls1"]);
    assert_eq!(signatures, handshakes, "{}", daemon.log());
    assert_eq!(daemon.status()["requests"], handshakes, "requests of every kind");
}

fn nginx_with_openssl_and_curl_as_clients(backend: Backend) {
    let (daemon, pki, sites) = scene(backend, Keys::Generated);
    let nginx = Nginx::start(&daemon, &sites);
    for site in &sites {
        for wish in WISHES {
            s_client(&pki, site.address, wish);
            assert_eq!(curl(&pki, site.address, wish), "served\n");
        }
    }
    let handshakes = sites.len() * WISHES.len() * 2;
    // The workers asked, each with a connection and the credentials of its own, not the master for them.
    let workers = nginx.workers();
    let by_workers: usize =
        workers.iter().map(|pid| daemon.logged(&["signature", &format!("pid={pid} ")])).sum();
    assert_eq!((workers.len(), by_workers), (2, handshakes));
    assert_one_request_each(&daemon, handshakes);
}

fn haproxy(backend: Backend) {
    let (daemon, pki, sites) = scene(backend, Keys::Imported);
    let _haproxy = Haproxy::start(&daemon, &sites);
    for site in &sites {
        for wish in WISHES {
            s_client(&pki, site.address, wish);
        }
        assert_eq!(curl(&pki, site.address, WISHES[3]), "served");
    }
    let handshakes = sites.len() * (WISHES.len() + 1);
    assert_one_request_each(&daemon, handshakes);
}

fn openssl_s_server(backend: Backend) {
    let (daemon, pki, sites) = scene(backend, Keys::Imported);
    for site in &sites {
        let _server = SServer::start(&daemon, site);
        for wish in WISHES {
            s_client(&pki, site.address, wish);
        }
    }
    let handshakes = sites.len() * WISHES.len();
    assert_one_request_each(&daemon, handshakes);
}
