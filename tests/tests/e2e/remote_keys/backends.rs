//! Several backends: each signs with its own keys, and no backend signs in the place of another.

use std::fs;
use std::path::PathBuf;

use keyward_client::{Error, Input};
use keyward_proto::{Outcome, Scheme};
use keyward_tests::tool::{succeed, wait_for};
use keyward_tests::{Daemon, Proxy, UnitServer, Units, scratch};
use tempfile::TempDir;

use super::{assert_refused, show, sign, unit_list};

/// The embedded unit, and two backends whose units have their own master keys.
struct Scene {
    daemon: Daemon,
    servers: [UnitServer; 2],
    proxies: [Proxy; 2],
    units: Units,
    master_keys: [PathBuf; 2],
    section: String,
    _directory: TempDir,
}

const BACKENDS: [&str; 3] = ["embedded", "hsm", "spare"];

impl Scene {
    fn new() -> Self {
        let directory = scratch();
        let units = Units::new(&directory.path().join("units"));
        let master_keys = ["hsm.key", "spare.key"].map(|name| units.master_key(name));
        let servers = [0, 1].map(|number: usize| {
            units.start_with_master_key(BACKENDS[number + 1], &master_keys[number], &[])
        });
        let proxies = [0, 1].map(|number: usize| Proxy::start(servers[number].socket_address()));
        let section = units.section_of("hsm", &[proxies[0].address()], "");
        let spare = units.section_of("spare", &[proxies[1].address()], "");
        let mut daemon = Daemon::prepare_for_units(format!("{section}{spare}"), "");
        daemon.resume();
        for backend in BACKENDS {
            let words = ["key", "generate", backend, "--type", "p256", "--use", "any", "--backend", backend];
            succeed(&mut daemon.keyward(&words));
        }
        Self { daemon, servers, proxies, units, master_keys, section, _directory: directory }
    }

    fn sign(&self, label: &str) -> Result<(), Outcome> {
        match sign(&self.daemon, label, Scheme::EcdsaSecp256r1Sha256, Input::Message(b"text")) {
            Ok(_) => Ok(()),
            Err(Error::Refused(outcome)) => Err(outcome),
            Err(error) => panic!("{label}: {error}\n{}", self.daemon.log()),
        }
    }

    /// Number of calls to the units of the two backends.
    fn calls(&self) -> [u64; 2] {
        let units = unit_list(&self.daemon);
        ["hsm", "spare"].map(|backend| {
            let unit = units.iter().find(|unit| unit["backend"] == backend).unwrap();
            unit["calls"].as_u64().unwrap()
        })
    }
}

#[test]
fn each_key_is_signed_with_at_its_own_backend() {
    let scene = Scene::new();
    let before = scene.calls();
    for (label, times) in [("embedded", 2), ("hsm", 3), ("spare", 5)] {
        (0..times).for_each(|_| scene.sign(label).unwrap());
        assert_eq!(show(&scene.daemon, label)["backend"], label);
    }
    assert_eq!(scene.calls(), [before[0] + 3, before[1] + 5]);
    let kind = |label| show(&scene.daemon, label)["unit"].as_str().unwrap().to_owned();
    assert_eq!(
        BACKENDS.map(kind),
        ["software crypto unit", "crypto unit over GREP11", "crypto unit over GREP11"]
    );
}

#[test]
fn a_backend_is_named_where_there_are_several() {
    let scene = Scene::new();
    let file = scene.daemon.path("shop.key");
    fs::write(&file, keyward_tests::pki::plain_key("p256")).unwrap();
    let file = file.to_str().unwrap();
    for (words, attempt) in [
        (&["generate", "shop", "--type", "p256"][..], "generate"),
        (&["import", "shop", "--in", file], "import"),
        (&["adopt", "shop", "--blob", file, "--public", file], "adopt"),
    ] {
        let key = |more: &[&str]| scene.daemon.keyward(&[&["key"], words, more].concat());
        let attempt = format!("{attempt} key shop: ");
        assert_refused(&mut key(&[]), 64, &[&attempt, "name a backend with --backend: embedded, hsm, spare"]);
        let unknown = "no backend \"hms\"; there are embedded, hsm, spare";
        assert_refused(&mut key(&["--backend", "hms"]), 64, &[&attempt, unknown]);
    }
    let adopt = ["key", "adopt", "shop", "--blob", file, "--public", file, "--backend", "embedded"];
    assert_refused(&mut scene.daemon.keyward(&adopt), 64, &["only backends over GREP11 adopt blobs"]);
    assert_refused(&mut scene.daemon.keyward(&["key", "show", "shop"]), 66, &["no key shop"]);
}

/// A reload names the settings that need a restart, and so do the commands that need these
/// settings.
#[test]
fn a_default_backend_and_one_that_is_new() {
    let mut scene = Scene::new();
    let sections = fs::read_to_string(scene.daemon.path("keyward.toml")).unwrap();
    let sections = &sections[sections.find("[grep11.hsm]").unwrap()..];
    let configure = |scene: &Scene, default: &str, more: &str| {
        let text = format!("log = \"debug\"\ndefault-backend = {default:?}\n{sections}{more}");
        fs::write(scene.daemon.path("keyward.toml"), text).unwrap();
    };
    let generate = |scene: &Scene, label: &str| {
        scene.daemon.keyward(&["key", "generate", label, "--type", "p256", "--use", "any"])
    };
    configure(&scene, "spare", "");
    scene.daemon.reload();
    succeed(&mut generate(&scene, "shop"));
    assert_eq!(show(&scene.daemon, "shop")["backend"], "spare");
    assert_eq!(scene.daemon.logged(&["need a restart"]), 0, "{}", scene.daemon.log());

    let third = scene.units.section_of("third", &[scene.proxies[1].address()], "");
    configure(&scene, "third", &third);
    for times in 1..3 {
        scene.daemon.reload();
        let told = "except for settings that need a restart of the daemon: [grep11.third] (new)";
        assert_eq!(scene.daemon.logged(&["WARN", told]), times, "{}", scene.daemon.log());
    }
    let told = "the backend third is in the configuration file, and takes effect after a restart";
    assert_refused(&mut generate(&scene, "mail"), 64, &[told]);
    assert!(scene.daemon.stop().success());
    scene.daemon.resume();
    succeed(&mut generate(&scene, "mail"));
    assert_eq!(show(&scene.daemon, "mail")["backend"], "third");
}

#[test]
fn nothing_else_signs_while_a_backend_is_down() {
    let mut scene = Scene::new();
    scene.servers[0].stop();
    wait_for("the unit to be missed", || (scene.daemon.get("/ready").0 == 503).then_some(()));
    let [_, spare] = scene.calls();
    for _ in 0..5 {
        assert_eq!(scene.sign("hsm"), Err(Outcome::UnitUnavailable));
    }
    assert_eq!(scene.calls()[1], spare);
    assert!(
        scene.daemon.logged(&["WARN", "key=\"hsm\"", "cannot sign: no unit of backend hsm is healthy"]) > 0
    );
    let ready = scene.daemon.get("/ready").1;
    assert!(ready.starts_with("no unit of backend hsm can sign with its keys\n"), "{ready}");
    let mut shop = scene.daemon.keyward(&["key", "generate", "shop", "--type", "p256", "--backend", "hsm"]);
    assert_refused(&mut shop, 69, &["generate key shop: ", "no unit of backend hsm is healthy: "]);
    ["embedded", "spare"].iter().for_each(|label| scene.sign(label).unwrap());

    // A unit with another master key does not help, not even the unit of the other backend.
    let impostor = scene.units.start_with_master_key("impostor", &scene.master_keys[1], &[]);
    scene.proxies[0].retarget(impostor.socket_address());
    wait_for("a unit", || (unit_list(&scene.daemon)[0]["health"] != "down").then_some(()));
    assert_eq!(scene.sign("hsm"), Err(Outcome::OtherMasterKey));
    assert_eq!(scene.daemon.get("/ready").0, 503);

    let again = scene.units.start_with_master_key("again", &scene.master_keys[0], &[]);
    drop(impostor);
    scene.proxies[0].retarget(again.socket_address());
    wait_for("a signature", || scene.sign("hsm").ok());
    let (status, text) = scene.daemon.get("/ready");
    assert!(status == 200 && text.starts_with("ready\n"), "{status} {text}");
}

#[test]
fn keys_of_a_backend_that_was_removed() {
    let mut scene = Scene::new();
    let configuration = scene.daemon.path("keyward.toml");
    let text = fs::read_to_string(&configuration).unwrap();
    let restart = |scene: &mut Scene, text: &str| {
        fs::write(&configuration, text).unwrap();
        assert!(scene.daemon.stop().success());
        scene.daemon.resume();
    };
    let without = text.replace(&scene.section, "");
    restart(&mut scene, &without);
    assert_eq!(scene.sign("hsm"), Err(Outcome::UnitUnavailable));
    let told =
        scene.daemon.logged(&["WARN", "key=\"hsm\"", "cannot sign: its backend hsm is not configured"]);
    assert_eq!(told, 1, "{}", scene.daemon.log());
    ["embedded", "spare"].iter().for_each(|label| scene.sign(label).unwrap());
    let text_of_key = succeed(&mut scene.daemon.keyward(&["key", "show", "hsm"]));
    assert!(text_of_key.contains("\nbackend     hsm (backend not configured)\n"), "{text_of_key}");
    assert!(succeed(&mut scene.daemon.keyward(&["key", "list"])).contains("hsm"));
    assert_eq!(scene.daemon.get("/ready").0, 200);

    restart(&mut scene, &text);
    BACKENDS.iter().for_each(|label| scene.sign(label).unwrap());
}
