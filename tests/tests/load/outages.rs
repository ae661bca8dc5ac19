//! Daemons that are missing, come back, and end under load; servers that reload.

use std::time::{Duration, Instant};
use std::{fs, io};

use keyward_rustls::{Error, Outcome, RequestError};
use keyward_tests::client::{Attempt, WISHES, s_client};
use keyward_tests::server::{Server, Site, nginx as nginx_server};
use keyward_tests::tool::{succeed, wait_for};
use keyward_tests::{
    Backend, Daemon, Handshake, Haproxy, Load, Nginx, Pki, Rustls, RustlsThread, on_both_backends,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

on_both_backends!(
    nginx_starts_without_the_daemon_and_recovers_by_itself,
    a_disabled_key_says_so_in_the_log_of_nginx,
    rustls_says_why_and_recovers_by_itself,
    servers_with_a_reference_to_another_key_say_so,
    restarts_and_crashes_under_a_load_of_nginx,
    restarts_and_crashes_under_a_load_of_rustls,
    planned_restarts_lose_nothing_of_nginx_where_the_socket_is_held,
    planned_restarts_lose_nothing_of_rustls_where_the_socket_is_held,
    upgrades_lose_nothing_of_nginx_and_rustls,
    reloads_of_nginx_lose_nothing,
);

fn scene(backend: Backend) -> (Daemon, Pki, Site) {
    let daemon = Daemon::start_on(backend);
    let pki = Pki::new(daemon.directory());
    let site = site(&daemon, &pki);
    (daemon, pki, site)
}

fn site(daemon: &Daemon, pki: &Pki) -> Site {
    daemon.generate("shop", "p256");
    let reference = daemon.reference("shop");
    Site::new(pki.certify(daemon, &reference), reference)
}

/// Lets a load run until `count` more handshakes could have been made one after the other.
fn let_run(handshake: &Handshake, count: usize) {
    for _ in 0..count {
        let _ = handshake.make();
    }
}

fn failed(attempts: &[Attempt]) -> Vec<&Attempt> {
    attempts.iter().filter(|attempt| attempt.result.is_err()).collect()
}

/// Asserts that handshakes failed only if they overlap with the times in which the daemon was away.
fn assert_failures_within(attempts: &[Attempt], away: &[(Instant, Instant)]) {
    for attempt in failed(attempts) {
        let touches = |(gone, back): &(Instant, Instant)| attempt.ended >= *gone && attempt.began <= *back;
        assert!(away.iter().any(touches), "failed while the daemon was there: {attempt:?}");
    }
    let longest = attempts.iter().map(|attempt| attempt.ended - attempt.began).max().unwrap_or_default();
    assert!(longest < Duration::from_secs(2), "a handshake hung for {longest:?}");
}

fn nginx_starts_without_the_daemon_and_recovers_by_itself(backend: Backend) {
    let (mut daemon, pki, site) = scene(backend);
    assert!(daemon.stop().success());

    let directory = nginx_server::configure(&daemon, std::slice::from_ref(&site), 2);
    succeed(nginx_server::command(&daemon, &directory).arg("-t"));
    let nginx = Nginx::start(&daemon, std::slice::from_ref(&site));
    let handshake = Handshake::new(&pki, site.address);
    // The median, because one of them may have waited for a processor that other tests used.
    let mut took = [(); 5].map(|()| {
        let began = Instant::now();
        assert!(handshake.make().is_err());
        began.elapsed()
    });
    took.sort_unstable();
    assert!(took[2] < Duration::from_millis(100), "failed only after {took:?}");
    let line = nginx.wait_for_log("keyward: ");
    assert!(line.contains("[crit]") && line.contains("cannot reach the keyward daemon"), "{line}");

    daemon.resume();
    handshake.make().expect("a handshake with the daemon up");
    for wish in WISHES {
        s_client(&pki, site.address, wish);
    }
}

fn a_disabled_key_says_so_in_the_log_of_nginx(backend: Backend) {
    let (daemon, pki, site) = scene(backend);
    let nginx = Nginx::start(&daemon, std::slice::from_ref(&site));
    let handshake = Handshake::new(&pki, site.address);
    if let Err(error) = handshake.make() {
        panic!("{error:?}\n{}\n{}", nginx.log(), daemon.log());
    }
    succeed(&mut daemon.keyward(&["key", "disable", "shop"]));
    assert!(handshake.make().is_err());
    let line = nginx.wait_for_log("keyward: key \"shop\" refused: the key is disabled");
    assert!(line.contains("[crit]"), "{line}");
    succeed(&mut daemon.keyward(&["key", "enable", "shop"]));
    handshake.make().expect("a handshake after it was enabled");
}

fn rustls_says_why_and_recovers_by_itself(backend: Backend) {
    let (mut daemon, pki, site) = scene(backend);
    let rustls = Rustls::start(&daemon, std::slice::from_ref(&site));
    let handshake = Handshake::new(&pki, site.address);
    let fails = |expected: &str| {
        assert!(handshake.make().is_err(), "{expected}");
        wait_for(&format!("{expected:?} in the log"), || (rustls.logged(expected) > 0).then_some(()));
    };
    handshake.make().unwrap();
    succeed(&mut daemon.keyward(&["key", "disable", "shop"]));
    fails(
        "other error: key \"shop\" refused: the key is disabled, deleted, compromised or outside its dates; to see which, run: keyward key show shop",
    );
    succeed(&mut daemon.keyward(&["key", "enable", "shop"]));
    handshake.make().unwrap();
    daemon.destroy("shop");
    fails("other error: key \"shop\" refused: no such key; see: keyward key list");
    assert!(daemon.stop().success());
    fails("other error: cannot sign with key \"shop\": cannot reach the keyward daemon at ");
    daemon.resume();
    daemon.generate("shop", "p256");
    fails("other error: key \"shop\" refused: the reference is for another public key than the daemon has");
}

/// Another key has the label and the version of the references: made after a deletion, and by a
/// rotation after a restore of an older key store.
fn servers_with_a_reference_to_another_key_say_so(backend: Backend) {
    let mut daemon = Daemon::start_on(backend);
    let pki = Pki::new(daemon.directory());
    let store = daemon.path("state").join("keys.redb");
    let copy = daemon.path("older.redb");
    let start: [(Start, &str); 3] = [
        (nginx, "keyward: key \"shop\" refused: the reference is for another public key"),
        (haproxy, "keyward::reference is for another key of this label"),
        (rustls, "other error: key \"shop\" refused: the reference is for another public key"),
    ];
    let serve = |daemon: &Daemon| {
        let reference = daemon.reference("shop");
        let certificate = pki.certify(daemon, &reference);
        start.map(|(start, told)| {
            let site = Site::new(certificate.clone(), reference.clone());
            let server = start(daemon, &site);
            let handshake = Handshake::new(&pki, site.address);
            handshake.make().unwrap();
            (server, handshake, told)
        })
    };
    let expect_all_to_tell = |servers: [(Box<dyn Server>, Handshake, &str); 3]| {
        for (server, handshake, told) in servers {
            assert!(handshake.make().is_err(), "{told}");
            wait_for(&format!("{told:?} in the log"), || (server.logged(told) > 0).then_some(()));
        }
    };

    daemon.generate("shop", "p256");
    let servers = serve(&daemon);
    daemon.destroy("shop");
    daemon.generate("shop", "p256");
    expect_all_to_tell(servers);

    assert!(daemon.stop().success());
    fs::copy(&store, &copy).unwrap();
    daemon.resume();
    succeed(&mut daemon.keyward(&["key", "rotate", "shop"]));
    let servers = serve(&daemon);
    assert!(daemon.stop().success());
    fs::copy(&copy, &store).unwrap();
    daemon.resume();
    succeed(&mut daemon.keyward(&["key", "rotate", "shop"]));
    expect_all_to_tell(servers);
    let lines = daemon.logged(&["refused a peer", "other-public-key"]);
    assert!(lines > 0, "the daemon tells as well");
}

fn haproxy(daemon: &Daemon, site: &Site) -> Box<dyn Server> {
    Box::new(Haproxy::start(daemon, std::slice::from_ref(site)))
}

fn nginx(daemon: &Daemon, site: &Site) -> Box<dyn Server> {
    Box::new(Nginx::start(daemon, std::slice::from_ref(site)))
}

fn rustls(daemon: &Daemon, site: &Site) -> Box<dyn Server> {
    Box::new(Rustls::start(daemon, std::slice::from_ref(site)))
}

type Start = fn(&Daemon, &Site) -> Box<dyn Server>;

fn restarts_and_crashes_under_a_load_of_nginx(backend: Backend) {
    restarts_and_crashes_under_load(backend, nginx);
}

fn restarts_and_crashes_under_a_load_of_rustls(backend: Backend) {
    restarts_and_crashes_under_load(backend, rustls);
}

fn restarts_and_crashes_under_load(backend: Backend, start: Start) {
    let (mut daemon, pki, site) = scene(backend);
    let _server = start(&daemon, &site);
    let handshake = Handshake::new(&pki, site.address);
    handshake.make().expect("a handshake");

    let load = Load::start(&handshake, 8);
    let mut away = Vec::new();
    for crash in [false, true, false, true] {
        let_run(&handshake, 100);
        let gone = Instant::now();
        if crash {
            daemon.kill();
        } else {
            assert!(daemon.stop().success());
        }
        daemon.resume();
        away.push((gone, Instant::now()));
    }
    let_run(&handshake, 100);
    let attempts = load.stop();
    let done = attempts.len() - failed(&attempts).len();
    assert!(done > 400, "only {done} of {} handshakes", attempts.len());
    assert_failures_within(&attempts, &away);
}

fn planned_restarts_lose_nothing_of_nginx_where_the_socket_is_held(backend: Backend) {
    planned_restarts_lose_nothing(backend, nginx);
}

fn planned_restarts_lose_nothing_of_rustls_where_the_socket_is_held(backend: Backend) {
    planned_restarts_lose_nothing(backend, rustls);
}

fn planned_restarts_lose_nothing(backend: Backend, start: Start) {
    let mut daemon = Daemon::prepare_on(backend, "");
    daemon.hold_socket();
    daemon.resume();
    let pki = Pki::new(daemon.directory());
    let site = site(&daemon, &pki);
    let _server = start(&daemon, &site);
    let handshake = Handshake::new(&pki, site.address);
    handshake.make().expect("a handshake");

    let load = Load::start(&handshake, 8);
    for _ in 0..3 {
        let_run(&handshake, 100);
        assert!(daemon.stop().success());
        daemon.resume();
    }
    let_run(&handshake, 100);
    assert_nothing_lost(&load.stop());
}

/// Asserts that no handshake of a load failed, and that there were many.
fn assert_nothing_lost(attempts: &[Attempt]) {
    assert!(attempts.len() > 400, "only {} handshakes", attempts.len());
    let failed = failed(attempts);
    assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), attempts.len(), failed[0]);
}

/// Without systemd: the daemon becomes another program, and its sockets stay.
fn upgrades_lose_nothing_of_nginx_and_rustls(backend: Backend) {
    for start in [nginx as Start, rustls] {
        let (daemon, pki, site) = scene(backend);
        let _server = start(&daemon, &site);
        let handshake = Handshake::new(&pki, site.address);
        handshake.make().expect("a handshake");
        let load = Load::start(&handshake, 8);
        for _ in 0..3 {
            let_run(&handshake, 100);
            daemon.upgrade();
        }
        let_run(&handshake, 100);
        assert_nothing_lost(&load.stop());
    }
}

fn reloads_of_nginx_lose_nothing(backend: Backend) {
    let (daemon, pki, site) = scene(backend);
    let nginx = Nginx::start(&daemon, std::slice::from_ref(&site));
    let handshake = Handshake::new(&pki, site.address);
    handshake.make().expect("a handshake");
    let master = nginx.id();

    let load = Load::start(&handshake, 8);
    for _ in 0..2 {
        let_run(&handshake, 100);
        nginx.reload();
    }
    let_run(&handshake, 100);
    let attempts = load.stop();
    assert!(attempts.len() > 300, "only {} handshakes", attempts.len());
    let failed = failed(&attempts);
    assert!(
        failed.is_empty(),
        "{} of {} failed: {:?}\n{}",
        failed.len(),
        attempts.len(),
        failed[0],
        nginx.log()
    );
    assert_eq!(nginx.id(), master);
}

/// Errors that a program on rustls can distinguish without reading the text.
#[test]
fn rustls_has_an_error_for_each_trouble() {
    let mut daemon = Daemon::start_slow("300ms");
    let pki = Pki::new(daemon.directory());
    let site = site(&daemon, &pki);
    let handshake = |keyward: keyward_rustls::Keyward| {
        let certificates = vec![CertificateDer::from_pem_file(&site.certificate).unwrap()];
        let key = keyward.key_from_pem_file(&site.key).unwrap();
        let server = RustlsThread::start(key.with_certificates(certificates).unwrap());
        assert!(Handshake::new(&pki, server.address()).make().is_err());
        server.failure()
    };
    let outcome = |failure: &io::Error| match ours(failure) {
        Error::Refused { label, outcome } => {
            assert_eq!(label, "shop");
            Some(*outcome)
        }
        Error::Unavailable { .. } => None,
        other => panic!("{other}"),
    };
    let hurried = handshake(daemon.for_rustls().with_timeout(Duration::from_millis(100)));
    // Client or daemon, whichever notices the deadline first.
    assert!([None, Some(Outcome::DeadlineExceeded)].contains(&outcome(&hurried)), "{hurried}");
    succeed(&mut daemon.keyward(&["key", "disable", "shop"]));
    assert_eq!(outcome(&handshake(daemon.for_rustls())), Some(Outcome::KeyDisabled));
    daemon.stop();
    let failure = handshake(daemon.for_rustls());
    let Error::Unavailable { source: RequestError::Unreachable { address, .. }, .. } = ours(&failure) else {
        panic!("{failure}")
    };
    assert_eq!(address.to_string(), daemon.socket().display().to_string());
}

/// The error of keyward-rustls inside the error of a rustls stream.
fn ours(failure: &io::Error) -> &Error {
    let error = failure.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::Other(other)) = error else { panic!("{failure:?}") };
    other.0.downcast_ref().unwrap()
}

#[test]
fn a_broken_reference_keeps_nginx_from_starting_and_says_why() {
    let (daemon, _pki, site) = scene(Backend::Embedded);
    let pem = fs::read_to_string(&site.key).unwrap();
    let line = pem.lines().skip_while(|line| !line.starts_with('-')).nth(1).unwrap();
    for (damaged, expected) in [
        (
            pem.replace(line, &line.replace(|c: char| c.is_ascii_lowercase(), "A")),
            "keyward: cannot read key reference",
        ),
        (pem.replace("-----END KEYWARD KEY-----", ""), "keyward: cannot read key reference"),
        (pem[..pem.len() - 80].to_owned(), "keyward: cannot read key reference"),
    ] {
        fs::write(&site.key, damaged).unwrap();
        let directory = nginx_server::configure(&daemon, std::slice::from_ref(&site), 2);
        let (_, text) = keyward_tests::tool::fail(nginx_server::command(&daemon, &directory).arg("-t"));
        assert!(text.contains(expected), "{text}");
    }
}

/// The variable of a held socket: nobody else can make the socket again for its clients.
#[test]
fn a_deleted_socket_of_systemd_is_told() {
    let mut daemon = Daemon::prepare("");
    daemon.hold_socket();
    daemon.resume();
    fs::remove_file(daemon.socket()).unwrap();
    daemon.reload();
    wait_for("what to do", || {
        let told = ["ERROR", "keyward.sock is gone", "systemctl restart keyward.socket"];
        (daemon.logged(&told) == 1).then_some(())
    });
    assert!(!daemon.socket().exists());
    succeed(&mut daemon.keyward(&["key", "list"]));
}
