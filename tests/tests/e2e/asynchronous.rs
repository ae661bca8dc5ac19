//! Servers that continue with other handshakes while one handshake waits for its signature.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Instant;

use keyward_tests::client::{WISHES, s_client};
use keyward_tests::server::{Server, Site};
use keyward_tests::tool::wait_for;
use keyward_tests::{Daemon, Handshake, Haproxy, KEY_TYPES, OpenSsl, Pki, SServer};
use rustix::process::{Pid, Signal, kill_process};

fn site(daemon: &Daemon, pki: &Pki, key_type: &str) -> Site {
    daemon.generate(key_type, key_type);
    let reference = daemon.reference(key_type);
    Site::new(pki.certify(daemon, &reference), reference)
}

/// One thread, and a unit that takes 400 ms. Ten clients with three handshakes each take 1.2
/// seconds at best, and ten times as long one after the other.
#[test]
fn one_thread_of_haproxy_has_many_handshakes_under_way() {
    let daemon = Daemon::start_slow("400ms");
    let pki = Pki::new(daemon.directory());
    let sites = ["p256", "rsa2048"].map(|key_type| site(&daemon, &pki, key_type));
    let _haproxy = Haproxy::start_asynchronous(&daemon, &sites);
    let ten_clients = |site: &Site, handshakes: usize| {
        let handshake = Handshake::new(&pki, site.address);
        let clients: Vec<_> = (0..10)
            .map(|_| {
                let handshake = handshake.clone();
                thread::spawn(move || (0..handshakes).try_for_each(|_| handshake.make().map(drop)))
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap().unwrap());
    };
    // The first handshakes also wait until the daemon has opened its connections to the unit.
    ten_clients(&sites[0], 1);
    for site in &sites {
        let begin = Instant::now();
        ten_clients(site, 3);
        let ratio = 1.2 / begin.elapsed().as_secs_f64();
        assert!((0.7..=1.0).contains(&ratio), "{ratio} of what is possible");
    }
}

#[test]
fn every_key_type_in_haproxy_and_s_server() {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    let sites: Vec<_> = KEY_TYPES.iter().map(|key_type| site(&daemon, &pki, key_type)).collect();
    let _haproxy = Haproxy::start_asynchronous(&daemon, &sites);
    for site in &sites {
        WISHES.iter().for_each(|wish| s_client(&pki, site.address, *wish));
    }
    let mut handshakes = sites.len() * WISHES.len();
    for openssl in OpenSsl::ALL {
        // s_server sleeps for a second each time that it has to wait, so it gets fewer handshakes.
        for (site, wish) in [(&sites[0], WISHES[3]), (&sites[4], WISHES[0])] {
            let site = Site::new(site.certificate.clone(), site.key.clone());
            let _server = SServer::start_of(&daemon, &site, openssl, &["-async"]);
            s_client(&pki, site.address, wish);
            handshakes += 1;
        }
    }
    assert_eq!(daemon.status()["requests"], handshakes, "one for each handshake");
}

/// Clients that hang up while HAProxy waits cost no descriptor, and other clients are served.
#[test]
fn clients_that_hang_up_while_a_handshake_is_paused() {
    // Longer than the time between two looks at the metric, on a busy machine too.
    let daemon = Daemon::start_slow("300ms");
    let pki = Pki::new(daemon.directory());
    let site = site(&daemon, &pki, "p256");
    let haproxy = Haproxy::start_asynchronous(&daemon, std::slice::from_ref(&site));
    let handshake = Handshake::new(&pki, site.address);
    handshake.make().unwrap();
    let [worker] = haproxy.workers()[..] else { panic!("{:?}", haproxy.workers()) };
    let open = || fs::read_dir(format!("/proc/{worker}/fd")).unwrap().count();
    let before = open();
    for _ in 0..3 {
        let clients = greet(&site, 20);
        wait_for("requests", || (daemon.metric("keyward_unit_in_flight", &[]) >= 20.0).then_some(()));
        drop(clients);
        wait_for("the requests to end", || {
            (daemon.metric("keyward_unit_in_flight", &[]) == 0.0).then_some(())
        });
        handshake.make().unwrap();
    }
    // Connections to the daemon are kept for the next handshakes: as many as there were at the same
    // time.
    wait_for("descriptors to be closed", || (open() <= before + 20).then_some(()));
    assert_eq!(haproxy.workers(), [worker], "{}", haproxy.log());
}

/// The advice of the page about `maxconn`, with a daemon that does not answer while all connections
/// wait for it.
#[test]
fn the_tables_of_haproxy_suffice_for_a_daemon_that_is_stuck() {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    let site = site(&daemon, &pki, "p256");
    let sites = std::slice::from_ref(&site);
    let haproxy = Haproxy::start_asynchronous_with(&daemon, sites, "maxconn 100\n", "maxconn 50\n");
    let handshake = Handshake::new(&pki, site.address);
    handshake.make().unwrap();
    let [worker] = haproxy.workers()[..] else { panic!("{:?}", haproxy.workers()) };
    // Each connection that waits has a timer, besides its socket, one to the daemon and an epoll.
    let waiting = || {
        let descriptors = fs::read_dir(format!("/proc/{worker}/fd")).unwrap().flatten();
        let files = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        files.filter(|file| file.to_string_lossy().contains("[timerfd]")).count()
    };
    let signal = |signal| {
        let daemon = Pid::from_raw(daemon.id().cast_signed()).unwrap();
        kill_process(daemon, signal).unwrap();
    };
    signal(Signal::STOP);
    let clients = greet(&site, 60);
    wait_for("all connections to wait", || (waiting() >= 50).then_some(()));
    signal(Signal::CONT);
    drop(clients);
    wait_for("a handshake", || handshake.make().ok());
    assert_eq!(haproxy.workers(), [worker], "{}", haproxy.log());
}

/// Clients that have sent their first flight, and send nothing more.
fn greet(site: &Site, count: usize) -> Vec<TcpStream> {
    let greet = |_| {
        let mut socket = TcpStream::connect(site.address).unwrap();
        socket.write_all(&client_hello()).unwrap();
        socket
    };
    (0..count).map(greet).collect()
}

/// The first flight of a client, as rustls writes it.
fn client_hello() -> Vec<u8> {
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let mut connection = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}
