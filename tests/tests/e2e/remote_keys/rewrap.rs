//! The master key of units changes, and no signature fails. An interruption loses no key.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use keyward_client::{Address, Client, Error, Input, Label, Signature};
use keyward_proto::{Outcome, Scheme};
use keyward_tests::signers::failures;
use keyward_tests::tool::{Process, fail, succeed, wait_for};
use keyward_tests::{Daemon, Proxy, Signers, UnitServer, Units, scratch};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{assert_refused, assert_signs, sign, unit_list};

/// Units that can be started again with another master key at the same address, and their daemon.
struct Scene {
    daemon: Daemon,
    servers: Vec<UnitServer>,
    proxies: Vec<Proxy>,
    units: Units,
    old: PathBuf,
    new: PathBuf,
    starts: usize,
    _directory: TempDir,
}

impl Scene {
    /// Makes units that have the old master key, and know the next one.
    fn new(count: usize, settings: &str, arguments: &[&str]) -> Self {
        let directory = scratch();
        let units = Units::new(&directory.path().join("units"));
        let [old, new] = ["old.key", "new.key"].map(|name| units.master_key(name));
        let arguments = [&["--simulate-next-master-key", path(&new)], arguments].concat();
        let servers: Vec<_> = (0..count)
            .map(|number| units.start_with_master_key(&format!("first-{number}"), &old, &arguments))
            .collect();
        let proxies: Vec<_> = servers.iter().map(|server| Proxy::start(server.socket_address())).collect();
        let endpoints: Vec<_> = proxies.iter().map(Proxy::address).collect();
        let mut daemon = Daemon::prepare_for_units(units.section(&endpoints, settings), "");
        daemon.resume();
        Self { daemon, servers, proxies, units, old, new, starts: 0, _directory: directory }
    }

    /// Starts a unit again, and waits until the daemon has noticed, with or without requests.
    fn restart(&mut self, number: usize, master_key: &Path, arguments: &[&str]) {
        assert!(self.servers[number].stop().success());
        self.starts += 1;
        let name = format!("again-{}", self.starts);
        let server = self.units.start_with_master_key(&name, master_key, arguments);
        self.proxies[number].retarget(server.socket_address());
        self.servers[number] = server;
        let wkid = self.wkid(number);
        wait_for("a unit with another master key", || {
            let unit = &unit_list(&self.daemon)[number];
            (unit["wkid"] == *wkid && unit["health"] != "down").then_some(())
        });
    }

    fn wkid(&self, number: usize) -> String {
        self.servers[number].wkid()
    }

    fn address(&self, number: usize) -> String {
        self.proxies[number].address()
    }

    fn rewrap(&self, more: &[&str]) -> Command {
        self.daemon.keyward(&[&["key", "rewrap", "--backend", Units::BACKEND], more].concat())
    }

    /// Rewraps all keys, and asserts how many of how many keys it has wrapped.
    fn assert_wraps(&self, wrapped: u64, keys: u64) {
        let done: Value = serde_json::from_str(&succeed(&mut self.rewrap(&["--json"]))).unwrap();
        assert_eq!(done, json!({ "backend": "hsm", "keys": keys, "wrapped": wrapped }));
    }

    fn assert_finishes(&self, wkid: &str, keys: u64) {
        let done: Value = serde_json::from_str(&succeed(&mut self.rewrap(&["--finish", "--json"]))).unwrap();
        assert_eq!(done, json!({ "backend": "hsm", "keys": keys, "wkid": wkid }));
        let statuses = &self.daemon.status()["backends"];
        assert!(statuses.as_array().unwrap().iter().any(|one| one["wkid"] == *wkid), "{statuses}");
    }

    /// Asserts that the change cannot be finished, and that the reason contains some words and
    /// lacks others.
    fn assert_unfinished(&self, words: &[&str], others: &[&str]) {
        let mut command = self.rewrap(&["--finish"]);
        assert_refused(&mut command, 73, &[&["finish rewrapping the keys of backend hsm: "], words].concat());
        let (_, text) = fail(&mut command);
        assert!(!others.iter().any(|other| text.contains(other)), "{text}");
    }

    fn sign(&self, label: &str) -> Result<Signature, Error> {
        sign(&self.daemon, label, P256, Input::Message(label.as_bytes()))
    }

    fn assert_no_unit_for(&self, label: &str) {
        let refused = self.sign(label);
        assert!(matches!(refused, Err(Error::Refused(Outcome::OtherMasterKey))), "{label}: {refused:?}");
    }

    /// Number of calls to the first unit.
    fn calls(&self) -> u64 {
        unit_list(&self.daemon)[0]["calls"].as_u64().unwrap()
    }
}

/// A key for RSA key exchange tests its new blob by a decryption. Peers notice no difference.
#[test]
fn premaster_secrets_outlive_the_master_key() {
    let mut scene = Scene::new(1, "", &[]);
    let new = scene.new.clone();
    scene.daemon.generate_for("old", "rsa2048", "rsa-key-exchange");
    let ask = |scene: &Scene| {
        let client =
            Client::new(Address::try_from(scene.daemon.socket().as_path()).unwrap(), Client::DEFAULT_TIMEOUT);
        // Smaller than every modulus, and not a ciphertext of a valid secret.
        let old: Label = "old".parse().unwrap();
        client.start_decrypt(&old, &[1; 256], 0x0303).unwrap().finish().unwrap().as_ref().to_vec()
    };
    let before = ask(&scene);
    scene.assert_wraps(1, 1);
    scene.restart(0, &new, &[]);
    assert_eq!(ask(&scene), before);
    scene.assert_finishes(&scene.wkid(0), 1);
    assert_eq!(ask(&scene), before);
}

#[test]
fn a_new_master_key_is_put_in_force_under_load() {
    let mut scene = Scene::new(2, "", &[]);
    let (old, new) = (scene.old.clone(), scene.new.clone());
    let old_wkid = scene.wkid(0);
    for (label, key_type) in [("shop", "p256"), ("mail", "rsa2048"), ("web", "ed25519"), ("idle", "p256")] {
        scene.daemon.generate_for(label, key_type, "any");
    }
    succeed(&mut scene.daemon.keyward(&["key", "disable", "idle"]));
    scene.assert_unfinished(&[&old_wkid, "first run: keyward key rewrap --backend hsm"], &[]);
    scene.assert_wraps(4, 4);
    scene.assert_wraps(0, 4);
    let text = succeed(&mut scene.rewrap(&[]));
    assert!(text.starts_with("0 blobs wrapped, 4 keys of backend hsm are ready"), "{text}");
    assert!(text.contains("keyward key rewrap --backend hsm --finish"), "{text}");
    ["shop", "mail", "web"].iter().for_each(|label| assert_signs(&scene.daemon, label));

    // A key that was made since then is reported as long as a unit can wrap it.
    scene.daemon.generate_for("late", "p256", "any");
    scene.assert_unfinished(&["late;", "keyward key rewrap --backend hsm"], &["shop"]);
    scene.assert_wraps(1, 5);
    let has_old = |number| format!("{} has {old_wkid}", scene.address(number));
    scene.assert_unfinished(&[&has_old(0), &has_old(1)], &[]);

    let load = Signers::start(&scene.daemon, "shop", P256, 200.0, 4);
    load.let_sign(50);
    scene.restart(0, &new, &[]);
    let new_wkid = scene.wkid(0);
    load.let_sign(50);
    scene.assert_unfinished(
        &[&new_wkid, &format!("{} has {old_wkid}", scene.address(1))],
        &[&scene.address(0)],
    );
    let units = unit_list(&scene.daemon);
    let marks = |unit: &Value| (unit["other_master_key"] == true, unit["next_master_key"] == true);
    assert_eq!((marks(&units[0]), marks(&units[1])), ((false, true), (false, false)), "{units:?}");
    let table = succeed(&mut scene.daemon.keyward(&["unit", "list"]));
    assert!(table.contains(&format!("{}, next", &new_wkid[..8])) && !table.contains("wrong"), "{table}");
    scene.daemon.generate_for("last", "p256", "any");
    scene.restart(1, &new, &[]);
    load.let_sign(50);
    let signed = load.stop();
    let failed = failures(&signed);
    assert!(
        failed.is_empty(),
        "{} of {}: {:?}\n{}",
        failed.len(),
        signed.len(),
        failed[0],
        scene.daemon.log()
    );

    // The last key is left, until a unit has the old master key again.
    scene.assert_unfinished(&["last;", "keyward key rewrap --backend hsm"], &["shop", "late"]);
    scene.assert_no_unit_for("last");
    let mut never = scene.daemon.new_key(&["generate", "never", "--type", "p256"]);
    assert_refused(&mut never, 65, &["generate key never: ", &old_wkid, &new_wkid, "--finish"]);
    assert_refused(&mut scene.rewrap(&[]), 65, &["rewrap the keys of backend hsm: ", &old_wkid, &new_wkid]);
    scene.restart(0, &old, &["--simulate-next-master-key", path(&new)]);
    scene.assert_wraps(1, 6);
    scene.restart(0, &new, &[]);
    scene.assert_finishes(&new_wkid, 6);
    scene.assert_unfinished(&[&new_wkid, "first run"], &[&old_wkid]);

    succeed(&mut scene.daemon.keyward(&["key", "enable", "idle"]));
    let all = ["shop", "mail", "web", "idle", "late", "last"];
    all.iter().for_each(|label| assert_signs(&scene.daemon, label));
    assert!(scene.daemon.stop().success());
    scene.daemon.resume();
    all.iter().for_each(|label| assert_signs(&scene.daemon, label));
    scene.daemon.generate_for("new", "p256", "any");

    // No blob of the old master key is left.
    scene.restart(0, &old, &[]);
    scene.restart(1, &old, &[]);
    ["shop", "idle", "late", "last"].iter().for_each(|label| scene.assert_no_unit_for(label));
    assert!(unit_list(&scene.daemon).iter().all(|unit| unit["other_master_key"] == true));
}

#[test]
fn the_older_dialect() {
    let mut scene = Scene::new(1, "dialect = \"bytes\"\n", &[]);
    scene.daemon.import_for("imported", "rsa2048", "any");
    scene.daemon.import_for("edwards", "ed25519", "any");
    scene.daemon.generate_for("made", "p384", "any");
    let all = ["imported", "edwards", "made"];
    all.iter().for_each(|label| assert_signs(&scene.daemon, label));
    scene.assert_wraps(3, 3);
    scene.restart(0, &scene.new.clone(), &[]);
    all.iter().for_each(|label| assert_signs(&scene.daemon, label));
    scene.assert_finishes(&scene.wkid(0), 3);
    all.iter().for_each(|label| assert_signs(&scene.daemon, label));
}

#[test]
fn another_new_master_key_in_the_place_of_the_first() {
    let mut scene = Scene::new(1, "", &[]);
    scene.daemon.generate_for("shop", "p256", "any");
    scene.assert_wraps(1, 1);
    // The units get another master key than the one that wraps the keys.
    let better = scene.units.master_key("better.key");
    scene.restart(0, &better, &[]);
    scene.assert_no_unit_for("shop");
    let better_wkid = scene.wkid(0);
    scene.assert_unfinished(&[&format!("{} has {better_wkid}", scene.address(0))], &[]);
    scene.restart(0, &scene.old.clone(), &["--simulate-next-master-key", path(&better)]);
    scene.assert_wraps(1, 1);
    scene.assert_wraps(0, 1);
    scene.restart(0, &better, &[]);
    scene.assert_finishes(&better_wkid, 1);
    assert_signs(&scene.daemon, "shop");
}

#[test]
fn a_backend_without_keys_takes_the_master_key_that_its_units_have() {
    let mut scene = Scene::new(1, "", &[]);
    scene.daemon.generate("trial", "p256");
    scene.daemon.destroy("trial");
    scene.restart(0, &scene.new.clone(), &[]);
    let mut shop = scene.daemon.new_key(&["generate", "shop", "--type", "p256", "--use", "any"]);
    assert_refused(&mut shop, 65, &["keyward key rewrap --backend hsm --finish"]);
    scene.assert_finishes(&scene.wkid(0), 0);
    succeed(&mut shop);
    assert_signs(&scene.daemon, "shop");
}

#[test]
fn what_cannot_be_rewrapped_says_so() {
    let mut scene = Scene::new(1, "", &[]);
    assert_refused(&mut scene.rewrap(&[]), 64, &["rewrap the keys of backend hsm: ", "has no keys"]);
    let mut unknown = scene.daemon.keyward(&["key", "rewrap", "--backend", "hms"]);
    assert_refused(&mut unknown, 64, &["no backend \"hms\""]);
    scene.daemon.generate("shop", "p256");
    scene.restart(0, &scene.old.clone(), &[]);
    assert_refused(&mut scene.rewrap(&[]), 65, &["a unit of backend hsm refused: CKR_"]);
    scene.servers[0].stop();
    wait_for("the unit to be missed", || (unit_list(&scene.daemon)[0]["health"] == "down").then_some(()));
    assert_refused(&mut scene.rewrap(&[]), 69, &["no unit of backend hsm is healthy"]);
    scene.assert_unfinished(&["first run"], &[]);
}

#[test]
fn a_rewrap_that_breaks_off_loses_nothing() {
    // Slow enough to be interrupted in the middle.
    let mut scene = Scene::new(1, "", &["--simulate-latency", "2ms"]);
    let labels: Vec<_> = (0..KEYS).map(|number| format!("key-{number:03}")).collect();
    generate_all(&scene.daemon, &labels);
    let all_sign = |scene: &Scene| {
        for label in &labels {
            scene.sign(label).unwrap_or_else(|error| panic!("{label}: {error}\n{}", scene.daemon.log()));
        }
    };

    // The daemon is killed during the first request, the command during the second.
    let log = scene.daemon.path("rewrap.log");
    let start = |scene: &Scene| Process::start(&mut scene.rewrap(&[]), &log);
    let wait_for_calls = |scene: &Scene, count: u64| {
        let enough = scene.calls() + count;
        let rewrap = start(scene);
        wait_for("some keys to be wrapped", || (scene.calls() >= enough).then_some(()));
        rewrap
    };
    let mut rewrap = wait_for_calls(&scene, 20);
    scene.daemon.kill();
    assert_eq!(rewrap.wait().code(), Some(69));
    let text = fs::read_to_string(&log).unwrap();
    assert!(
        text.starts_with("keyward: cannot rewrap the keys of backend hsm: ") && text.lines().count() == 1,
        "{text}"
    );
    scene.daemon.resume();
    let mut rewrap = wait_for_calls(&scene, 60);
    rewrap.signal(Signal::KILL);
    assert_eq!(rewrap.wait().code(), None);
    let done: Value = serde_json::from_str(&succeed(&mut scene.rewrap(&["--json"]))).unwrap();
    assert_eq!(done["keys"], KEYS);
    assert!((1..KEYS - 50).contains(&done["wrapped"].as_u64().unwrap()), "{done}");
    scene.assert_wraps(0, KEYS);
    all_sign(&scene);
    scene.restart(0, &scene.new.clone(), &[]);
    all_sign(&scene);

    // The daemon is killed when the first keys have lost their old blobs.
    let store = scene.daemon.path("state/keys.redb");
    let changed = || -> SystemTime { fs::metadata(&store).unwrap().modified().unwrap() };
    let before = changed();
    let mut finish = Process::start(&mut scene.rewrap(&["--finish"]), &log);
    wait_for("some keys to be settled", || (changed() > before).then_some(()));
    scene.daemon.kill();
    let finished = finish.wait().success();
    scene.daemon.resume();
    all_sign(&scene);
    if !finished {
        scene.assert_finishes(&scene.wkid(0), KEYS);
    }
    all_sign(&scene);
}

/// Makes many keys over few connections.
fn generate_all(daemon: &Daemon, labels: &[String]) {
    std::thread::scope(|scope| {
        for (number, labels) in labels.chunks(labels.len() / 4).enumerate() {
            scope.spawn(move || {
                let socket = daemon.path("run/admin.sock");
                let requests: String = labels
                    .iter()
                    .map(|label| {
                        let key = json!({ "label": label, "type": "p256", "uses": ["any"], "backend": "hsm" });
                        format!(
                            "next\nsilent\nfail\nunix-socket = {socket:?}\nurl = \"http://localhost/v1/keys\"\ndata = {:?}\noutput = \"/dev/null\"\n",
                            key.to_string()
                        )
                    })
                    .collect();
                let file = daemon.path(&format!("requests-{number}"));
                fs::write(&file, requests).unwrap();
                succeed(Command::new("curl").arg("--fail-early").arg("--config").arg(&file));
            });
        }
    });
    assert_eq!(daemon.status()["keys"], labels.len());
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

const P256: Scheme = Scheme::EcdsaSecp256r1Sha256;
/// More keys than three requests can handle.
const KEYS: u64 = 200;
