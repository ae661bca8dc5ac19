//! Remote units that die, hang, slow down, lie and come back, under a load of signatures.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use keyward_client::{Address, Client, Error, Input, Label, Signature};
use keyward_proto::{Outcome, Reference, Scheme};
use keyward_tests::backend::Units;
use keyward_tests::proxy::{Fault, Proxy};
use keyward_tests::signers::{Signed, due_within, failures, percentile};
use keyward_tests::tool::{fail, succeed, wait_for};
use keyward_tests::{Daemon, Signers, UnitServer, scratch};
use serde_json::Value;
use tempfile::TempDir;

/// Units with one master key, each behind a proxy, and a daemon that knows the proxies only.
struct Scene {
    daemon: Daemon,
    proxies: Vec<Proxy>,
    servers: Vec<UnitServer>,
    units: Units,
    _directory: TempDir,
}

impl Scene {
    /// Makes a scene of `count` units, with more settings for the backend.
    fn new(count: usize, settings: &str) -> Self {
        Self::with_arguments(count, settings, &[])
    }

    /// Makes a scene like [`Scene::new`], with more arguments for the units.
    fn with_arguments(count: usize, settings: &str, arguments: &[&str]) -> Self {
        let directory = scratch();
        let units = Units::new(&directory.path().join("units"));
        let servers: Vec<_> =
            (0..count).map(|number| units.start(&format!("unit-{number}"), arguments)).collect();
        let proxies: Vec<_> = servers.iter().map(|server| Proxy::start(server.socket_address())).collect();
        let endpoints: Vec<_> = proxies.iter().map(Proxy::address).collect();
        let mut daemon = Daemon::prepare_for_units(units.section(&endpoints, settings), "");
        daemon.resume();
        daemon.generate("shop", "p256");
        Self { daemon, proxies, servers, units, _directory: directory }
    }

    /// Starts a load of P-256 signatures.
    fn load(&self, rate: f64) -> Signers {
        Signers::start(&self.daemon, "shop", SCHEME, rate, 64)
    }

    fn health(&self, unit: usize) -> String {
        self.unit(unit)["health"].as_str().unwrap().to_owned()
    }

    fn unit(&self, unit: usize) -> Value {
        let text = succeed(&mut self.daemon.keyward(&["unit", "list", "--json"]));
        let units: Value = serde_json::from_str(&text).unwrap();
        let remote = units.as_array().unwrap().iter().filter(|unit| unit["backend"] == Units::BACKEND);
        remote.into_iter().nth(unit).unwrap().clone()
    }

    fn wait_for_health(&self, unit: usize, healths: &[&str]) {
        wait_for(&format!("unit {unit} to be {healths:?}"), || {
            healths.contains(&&*self.health(unit)).then_some(())
        });
    }

    /// Makes one signature.
    fn sign(&self) -> Result<Signature, Error> {
        client(&self.daemon).sign(&"shop".parse::<Label>().unwrap(), SCHEME, Input::Message(&message()))
    }

    fn refusal(&self) -> Outcome {
        match self.sign() {
            Err(Error::Refused(outcome)) => outcome,
            other => panic!("not refused: {other:?}"),
        }
    }
}

#[test]
fn one_unit_killed_one_slow_one_restarted_and_nobody_notices() {
    let mut scene = Scene::new(3, "timeout = \"500ms\"\nhedge = true\n");
    let load = scene.load(500.0);
    load.let_sign(700);
    let trouble = Instant::now();
    // Killed during its work, and not restarted.
    scene.servers[0].kill();
    load.let_sign(350);
    scene.proxies[1].set(Fault::Delay(Duration::from_millis(150)));
    load.let_sign(350);
    // Restarted: the unit is gone for a moment, and then listens on another port.
    scene.servers[2].stop();
    let restarted = scene.units.start("unit-2-again", &[]);
    scene.proxies[2].retarget(restarted.socket_address());
    scene.servers[2] = restarted;
    load.let_sign(700);
    scene.proxies[1].set(Fault::None);
    let after = Instant::now();
    load.let_sign(700);
    let signed = load.stop();
    none_failed(&signed, &scene.daemon.log());
    let end = signed.last().unwrap().due + Duration::from_secs(1);
    let p99 = |from, to| percentile(due_within(&signed, from..to), 0.99);
    let start = signed[0].due;
    println!(
        "{} signatures at 500/s, p99: before {:?}, during {:?}, after {:?}",
        signed.len(),
        p99(start, trouble),
        p99(trouble, after),
        p99(after, end),
    );
    assert!(scene.health(0) == "down", "{}", scene.unit(0));
    scene.wait_for_health(2, &["up"]);
}

#[test]
fn resets_and_damage_lose_nothing_as_long_as_one_unit_is_whole() {
    let scene = Scene::new(3, "timeout = \"500ms\"\n");
    let load = scene.load(300.0);
    load.let_sign(100);
    for fault in [Fault::Reset, Fault::Corrupt, Fault::Refuse, Fault::Drop] {
        for unit in [0, 1] {
            scene.proxies[unit].set(fault);
        }
        load.let_sign(150);
        for unit in [0, 1] {
            scene.proxies[unit].set(Fault::None);
        }
        for unit in [0, 1] {
            scene.wait_for_health(unit, &["up", "probing"]);
        }
        load.let_sign(50);
    }
    none_failed(&load.stop(), &scene.daemon.log());
}

#[test]
fn without_any_unit_signatures_fail_at_once_and_come_back_with_it() {
    let scene = Scene::new(2, "timeout = \"500ms\"\nconnect-timeout = \"1s\"\n");
    scene.sign().unwrap();
    for fault in [Fault::Refuse, Fault::Drop, Fault::Reset] {
        for proxy in &scene.proxies {
            proxy.set(fault);
        }
        // The first requests find out that the units are down.
        wait_for("both units to be down", || {
            let begin = Instant::now();
            let outcome = scene.refusal();
            assert!(begin.elapsed() < Duration::from_secs(5), "{fault:?} took {:?}", begin.elapsed());
            let expected = [Outcome::UnitUnavailable, Outcome::DeadlineExceeded];
            assert!(expected.contains(&outcome), "{fault:?}: {outcome:?}");
            (outcome == Outcome::UnitUnavailable).then_some(())
        });
        let begin = Instant::now();
        assert_eq!(scene.refusal(), Outcome::UnitUnavailable, "{fault:?}");
        assert!(begin.elapsed() < Duration::from_millis(250), "{fault:?} took {:?}", begin.elapsed());
        let line = format!("no unit of backend {} is healthy", Units::BACKEND);
        wait_for("a line that says why", || {
            (scene.daemon.logged(&["WARN", "cannot sign", &line]) > 0).then_some(())
        });
        scene.proxies[0].set(Fault::None);
        let back = Instant::now();
        wait_for("a signature", || scene.sign().ok());
        assert!(back.elapsed() < Duration::from_secs(1), "{fault:?}: back after {:?}", back.elapsed());
        scene.proxies[1].set(Fault::None);
        scene.wait_for_health(1, &["up", "probing"]);
    }
}

#[test]
fn signatures_that_do_not_verify_go_nowhere() {
    let directory = scratch();
    let units = Units::new(&directory.path().join("units"));
    let liar = units.start("liar", &["--simulate-corruption", "SignSingle=1"]);
    let honest = units.start("honest", &[]);
    let section = |endpoints: &[String]| units.section(endpoints, "");
    let mut daemon = Daemon::prepare_for_units(section(&[liar.address(), honest.address()]), "");
    daemon.resume();
    daemon.generate("shop", "p256");
    let load = Signers::start(&daemon, "shop", SCHEME, 200.0, 16);
    load.let_sign(300);
    none_failed(&load.stop(), &daemon.log());
    let found_out = daemon.logged(&["unit is down", "does not verify"]);
    // Each probe succeeds, and each failure afterwards makes the next trial wait longer.
    assert!((1..6).contains(&found_out), "{}", daemon.log());

    // Without an honest unit, nothing is signed and no key is made.
    daemon.stop();
    let text = fs::read_to_string(daemon.path("keyward.toml")).unwrap();
    fs::write(daemon.path("keyward.toml"), text.replace(&format!(", {:?}", honest.address()), "")).unwrap();
    daemon.resume();
    let refused = client(&daemon).sign(&"shop".parse::<Label>().unwrap(), SCHEME, Input::Message(&message()));
    assert!(matches!(refused, Err(Error::Refused(Outcome::UnitUnavailable))), "{refused:?}");
    wait_for("the liar to be found out", || {
        (daemon.logged(&["unit is down", "does not verify"]) > found_out).then_some(())
    });
    let (_, text) = fail(&mut daemon.new_key(&["generate", "mail", "--type", "p256"]));
    assert!(text.lines().count() == 1 && text.contains("cannot generate key mail"), "{text}");
}

#[test]
fn what_is_no_unit_is_told_from_one() {
    let directory = scratch();
    let units = Units::new(&directory.path().join("units"));
    let sound = units.start("sound", &[]);
    // Units with another authority, with another master key, and without TLS.
    let strangers = Units::new(&directory.path().join("strangers"));
    let stranger = strangers.start("stranger", &[]);
    let other_key = directory.path().join("other.key");
    succeed(Command::new("openssl").args(["rand", "-hex", "-out"]).arg(&other_key).arg("32"));
    fs::set_permissions(&other_key, Permissions::from_mode(0o600)).unwrap();
    let wrong_key = units.start_with_master_key("wrong-key", &other_key, &[]);
    let plain = UnitServer::start(
        directory.path(),
        "plain",
        &["--plaintext", "--dev", "--state-dir", path(&directory.path().join("plain"))],
    );
    let endpoints = [sound.address(), stranger.address(), wrong_key.address(), plain.address()];
    let mut daemon = Daemon::prepare_for_units(units.section(&endpoints, ""), "");
    daemon.resume();
    // If units have different master keys, the first key decides which master key the backend uses.
    daemon.generate("first", "p256");
    let list = || -> Vec<Value> {
        let text = succeed(&mut daemon.keyward(&["unit", "list", "--json"]));
        let units: Value = serde_json::from_str(&text).unwrap();
        units.as_array().unwrap().iter().filter(|unit| unit["backend"] == Units::BACKEND).cloned().collect()
    };
    let problem = |number: usize| list()[number]["problem"].as_str().unwrap_or_default().to_owned();
    assert!(
        problem(1).contains("cannot agree on TLS") && problem(1).contains("certificate"),
        "{}",
        problem(1)
    );
    assert!(problem(3).contains("cannot agree on TLS"), "{}", problem(3));
    let wrong: Vec<bool> = list().iter().map(|unit| unit["other_master_key"] == true).collect();
    assert_eq!(wrong.iter().filter(|wrong| **wrong).count(), 1, "{:?}", list());
    // Only the unit with the master key of the key gets requests, under any load.
    let load = Signers::start(&daemon, "first", SCHEME, 300.0, 16);
    load.let_sign(300);
    none_failed(&load.stop(), &daemon.log());
    let calls = |number: usize| list()[number]["calls"].as_u64().unwrap();
    let idle = if wrong[0] { 0 } else { 2 };
    assert!(calls(2 - idle) >= 300 && calls(idle) < 5, "{:?}", list());

    // Without that unit, the daemon refuses.
    let (mut right, mut wrong_one) = (sound, wrong_key);
    if wrong[0] {
        std::mem::swap(&mut right, &mut wrong_one);
    }
    right.stop();
    wait_for("a refusal that names the master keys", || {
        let refused =
            client(&daemon).sign(&"first".parse::<Label>().unwrap(), SCHEME, Input::Message(&message()));
        matches!(refused, Err(Error::Refused(Outcome::OtherMasterKey))).then_some(())
    });
    wait_for("a line that names both", || {
        (daemon.logged(&["cannot sign", "wrapped by master key", "and no healthy unit has that"]) > 0)
            .then_some(())
    });
}

#[test]
fn garbage_in_the_place_of_answers() {
    // Without TLS, damaged bytes reach HTTP/2, gRPC and the messages.
    let directory = scratch();
    let master_key = directory.path().join("master.key");
    keyward_tests::unit_server::master_key(&master_key);
    let arguments = ["--plaintext", "--master-key", path(&master_key)];
    let servers = ["first", "second"].map(|name| UnitServer::start(directory.path(), name, &arguments));
    let proxies = [0, 1].map(|number: usize| Proxy::start(servers[number].socket_address()));
    let section = format!(
        "[grep11.{}]\nendpoints = {:?}\nplaintext = true\ntimeout = \"300ms\"\n",
        Units::BACKEND,
        [&proxies[0], &proxies[1]].map(Proxy::address)
    );
    let mut daemon = Daemon::prepare_for_units(section, "");
    daemon.resume();
    daemon.generate("shop", "p256");
    let load = Signers::start(&daemon, "shop", SCHEME, 200.0, 32);
    for _ in 0..5 {
        load.let_sign(50);
        proxies[0].set(Fault::Corrupt);
        load.let_sign(50);
        proxies[0].set(Fault::None);
    }
    none_failed(&load.stop(), &daemon.log());
}

/// A half-open connection is noticed although no request is sent.
#[test]
fn a_unit_that_went_silent_is_noticed_without_anybody_asking() {
    let scene = Scene::new(1, "keepalive = \"300ms\"\nconnect-timeout = \"500ms\"\n");
    scene.sign().unwrap();
    scene.proxies[0].set(Fault::Drop);
    scene.wait_for_health(0, &["down"]);
    scene.proxies[0].set(Fault::None);
    scene.wait_for_health(0, &["up", "probing"]);
    scene.sign().unwrap();
}

#[test]
fn more_than_the_units_can_do_is_refused_at_once() {
    let scene = Scene::with_arguments(
        2,
        "rate = 100\nqueue = 10\n",
        &["--simulate-rate", "100", "--simulate-latency", "5ms"],
    );
    let load = scene.load(400.0);
    load.let_sign(400);
    let signed = load.stop();
    let refused = failures(&signed);
    assert!(refused.iter().all(|failed| {
        failed.outcome.as_ref().is_err_and(|why| why.outcome == Some(Outcome::Overloaded))
    }));
    // The load is twice the capacity of the units.
    let share = refused.len() as f64 / signed.len() as f64;
    assert!((0.35..0.65).contains(&share), "{} of {} refused", refused.len(), signed.len());
    let mut slow: Vec<_> = refused.iter().map(|refused| refused.latency()).collect();
    slow.sort_unstable();
    let p90 = slow[slow.len() * 9 / 10];
    assert!(p90 < Duration::from_millis(10), "refused after {p90:?}");
    let p99 = percentile(&signed, 0.99);
    assert!(p99 < Duration::from_millis(200), "those that were not refused took {p99:?}");
}

#[test]
fn references_are_made_without_any_unit() {
    let scene = Scene::new(1, "");
    scene.proxies[0].set(Fault::Refuse);
    let reference =
        Reference::from_pem(&fs::read_to_string(scene.daemon.reference("shop")).unwrap()).unwrap();
    assert_eq!(reference.label().as_str(), "shop");
}

pub(crate) const SCHEME: Scheme = Scheme::EcdsaSecp256r1Sha256;

pub(crate) fn client(daemon: &Daemon) -> Client {
    Client::new(Address::try_from(daemon.socket().as_path()).unwrap(), Client::DEFAULT_TIMEOUT)
}

/// The message that a server signs in TLS 1.3 (RFC 8446, 4.4.3).
pub(crate) fn message() -> Vec<u8> {
    [&[b' '; 64][..], b"TLS 1.3, server CertificateVerify", &[0], &[7; 32]].concat()
}

pub(crate) fn none_failed(signed: &[Signed], log: &str) {
    let failed = failures(signed);
    assert!(failed.is_empty(), "{} of {} failed: {:?}\n{log}", failed.len(), signed.len(), failed[0]);
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
