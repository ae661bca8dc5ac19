//! Tests for every server, each configured as on its page in docs/servers.

use std::path::Path;
use std::time::{Duration, Instant};

use keyward_tests::client::{WISHES, every_key_type, s_client};
use keyward_tests::server::haproxy::Files;
use keyward_tests::server::{Python, Server, Site};
use keyward_tests::tool::wait_for;
use keyward_tests::{
    Apache, Daemon, Handshake, Haproxy, Lighttpd, Load, Nginx, Pki, Rustls, Stunnel, is_root,
};

/// Makes a module of tests for each server: the bodies below, with the function that starts the
/// server.
macro_rules! on_every_server {
    ($($server:ident: $start:expr, [$($body:ident),+];)+) => {
        $(mod $server {
            use super::*;

            $(#[test]
            fn $body() {
                super::$body(|daemon, sites| Box::new($start(daemon, sites)));
            })+
        })+
    };
}

// handshakes.rs tests every key type with nginx, HAProxy and rustls.
on_every_server! {
    nginx: Nginx::start, [asks_nothing_until_there_is_a_handshake];
    haproxy: Haproxy::start, [asks_nothing_until_there_is_a_handshake];
    rustls: Rustls::start, [asks_nothing_until_there_is_a_handshake];
    apache_event: |daemon, sites| Apache::start(daemon, sites, "event"),
        [uses_every_key_type, asks_nothing_until_there_is_a_handshake];
    apache_prefork: |daemon, sites| Apache::start(daemon, sites, "prefork"),
        [uses_every_key_type, asks_nothing_until_there_is_a_handshake];
    stunnel: Stunnel::start, [uses_every_key_type, asks_nothing_until_there_is_a_handshake];
    lighttpd: Lighttpd::start, [uses_every_key_type, asks_nothing_until_there_is_a_handshake];
    python: Python::start, [uses_every_key_type, asks_nothing_until_there_is_a_handshake];
}

type Start = fn(&Daemon, &[Site]) -> Box<dyn Server>;

fn uses_every_key_type(start: Start) {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    let sites = Site::of_each_key_type(&daemon, &pki, |label, key_type| drop(daemon.import(label, key_type)));
    let server = start(&daemon, &sites);
    daemon.assert_one_request_each(every_key_type(&pki, &*server, &sites));
}

/// Server and daemon start and reload in any order, with only the grant of the page.
fn asks_nothing_until_there_is_a_handshake(start: Start) {
    let (mut daemon, pki, site) = scene();
    assert!(daemon.stop().success());
    let server = start(&daemon, std::slice::from_ref(&site));
    server.reload();
    let handshake = Handshake::new(&pki, site.address);
    let began = Instant::now();
    assert!(handshake.make().is_err(), "without the daemon");
    // Milliseconds, if other tests leave a processor free.
    assert!(began.elapsed() < Duration::from_secs(1), "failed only after {:?}", began.elapsed());
    let page = server.page();
    wait_for(&format!("a line as on the page in {}", server.log()), || {
        page.find_in_log(&server.log()).map(drop)
    });

    if is_root() {
        daemon.configure(&format!("log = \"debug\"\n{}", page.block("[[grant]]")));
    }
    daemon.resume();
    server.reload();
    daemon.assert_one_request_each(0);
    handshake.make().expect("a handshake with the daemon up");
    server.reload();
    daemon.assert_one_request_each(1);
    handshake.make().expect("a handshake after a reload");

    assert!(daemon.stop().success());
    assert!(handshake.make().is_err(), "without the daemon");
    daemon.resume();
    handshake.make().expect("a handshake with the daemon up again");
    assert_eq!(daemon.status()["requests"], 1, "of the daemon that runs now");
}

fn scene() -> (Daemon, Pki, Site) {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    let site = Site::with_key(&daemon, &pki, "shop");
    (daemon, pki, site)
}

#[test]
fn haproxy_takes_references_from_files_of_every_layout() {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    let sites = Site::of_each_key_type(&daemon, &pki, |label, key_type| drop(daemon.import(label, key_type)));
    let mut handshakes = 0;
    for files in [Files::CertificateFirst, Files::Split] {
        let _haproxy = Haproxy::start_from(&daemon, &sites, files);
        for site in &sites {
            for wish in [WISHES[1], WISHES[3]] {
                s_client(&pki, site.address, wish);
                handshakes += 1;
            }
        }
    }
    daemon.assert_one_request_each(handshakes);
}

#[test]
fn reloads_of_apache_event_lose_nothing() {
    reloads_of_apache_lose_nothing("event");
}

#[test]
fn reloads_of_apache_prefork_lose_nothing() {
    reloads_of_apache_lose_nothing("prefork");
}

fn reloads_of_apache_lose_nothing(mpm: &str) {
    let (daemon, pki, site) = scene();
    let apache = Apache::start(&daemon, std::slice::from_ref(&site), mpm);
    let handshake = Handshake::new(&pki, site.address);
    handshake.make().expect("a handshake");

    let load = Load::start(&handshake, 8);
    for _ in 0..2 {
        let_run(&handshake);
        apache.reload();
    }
    let_run(&handshake);
    let attempts = load.stop();
    assert!(attempts.len() > 200, "only {} handshakes", attempts.len());
    let failed: Vec<_> = attempts.iter().filter(|attempt| attempt.result.is_err()).collect();
    assert!(failed.is_empty(), "{} of {} failed: {failed:?}\n{}", failed.len(), attempts.len(), apache.log());

    let children = apache.children();
    assert!(!children.is_empty());
    drop(apache);
    for child in children {
        wait_for("the end of a child", || (!Path::new(&format!("/proc/{child}")).exists()).then_some(()));
    }
}

/// Lets a load run until 50 more handshakes could have been made one after the other.
fn let_run(handshake: &Handshake) {
    for _ in 0..50 {
        handshake.make().expect("a handshake under load");
    }
}
