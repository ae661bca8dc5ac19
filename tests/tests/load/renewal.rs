//! Certificates and keys of the daemon and of units are renewed while both run.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyward_client::{Address, Client, Input, Label};
use keyward_proto::Scheme;
use keyward_tests::proxy::{Fault, Proxy};
use keyward_tests::signers::failures;
use keyward_tests::tool::{run, succeed, wait_for};
use keyward_tests::{Daemon, Pki, Signers, UnitServer, scratch};
use serde_json::Value;
use tempfile::TempDir;

/// A unit and a daemon, each with its own directory of files.
struct Scene {
    daemon: Daemon,
    unit: UnitServer,
    /// The proxy between them.
    proxy: Proxy,
    unit_files: PathBuf,
    daemon_files: PathBuf,
    directory: TempDir,
}

impl Scene {
    fn new() -> Self {
        let directory = scratch();
        let [unit_files, daemon_files] = ["unit", "daemon"].map(|name| directory.path().join(name));
        for files in [&unit_files, &daemon_files] {
            fs::create_dir(files).unwrap();
        }
        Authority::new(directory.path(), "first").certify(&unit_files, &daemon_files);
        let path = |name: &str| unit_files.join(name).to_str().unwrap().to_owned();
        let state = directory.path().join("state");
        let (certificate, key, ca) = (path("certificate"), path("key"), path("ca"));
        let arguments = [
            ["--tls-cert", &certificate],
            ["--tls-key", &key],
            ["--client-ca", &ca],
            ["--state-dir", state.to_str().unwrap()],
        ];
        let unit =
            UnitServer::start(directory.path(), "server", &[&["--dev"], arguments.as_flattened()].concat());
        let proxy = Proxy::start(unit.socket_address());
        let file = |name: &str| daemon_files.join(name);
        let section = format!(
            "[grep11.hsm]\nendpoints = [{:?}]\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n",
            proxy.address(),
            file("ca"),
            file("certificate"),
            file("key")
        );
        let mut daemon = Daemon::prepare_for_units(section, "");
        daemon.resume();
        daemon.generate_for("shop", "p256", "any");
        Self { daemon, unit, proxy, unit_files, daemon_files, directory }
    }

    /// Renews both certificates by an authority that neither side knows.
    fn renew(&self, name: &str) -> Authority {
        let authority = Authority::new(self.directory.path(), name);
        authority.certify(&self.unit_files, &self.daemon_files);
        authority
    }

    /// Ends the present connections, and signs over a new connection.
    fn sign_over_a_new_connection(&self) {
        self.proxy.set(Fault::Reset);
        wait_for("the unit to be missed", || (self.health() == "down").then_some(()));
        self.proxy.set(Fault::None);
        wait_for("the unit to be found", || (self.health() != "down").then_some(()));
        let address = Address::try_from(self.daemon.socket().as_path()).unwrap();
        let client = Client::new(address, Client::DEFAULT_TIMEOUT);
        let signed = client.sign(
            &"shop".parse::<Label>().unwrap(),
            Scheme::EcdsaSecp256r1Sha256,
            Input::Message(b"text"),
        );
        assert!(signed.is_ok(), "{signed:?}\n{}\n{}", self.daemon.log(), self.unit.log());
    }

    fn health(&self) -> String {
        self.listed()["health"].as_str().unwrap().to_owned()
    }

    fn listed(&self) -> Value {
        let list = succeed(&mut self.daemon.keyward(&["unit", "list", "--json"]));
        let list: Vec<Value> = serde_json::from_str(&list).unwrap();
        list.into_iter().find(|unit| unit["backend"] == "hsm").unwrap()
    }

    fn unusable(&self) -> f64 {
        self.daemon.metric("keyward_backend_files_unusable", &["backend=\"hsm\""])
    }
}

/// An authority, with its certificates and their keys.
struct Authority {
    pki: Pki,
    unit: (PathBuf, PathBuf),
    daemon: (PathBuf, PathBuf),
}

impl Authority {
    fn new(directory: &Path, name: &str) -> Self {
        let directory = directory.join(name);
        fs::create_dir(&directory).unwrap();
        let pki = Pki::new(&directory);
        let (unit, daemon) = (pki.leaf("unit"), pki.leaf("daemon"));
        Self { pki, unit, daemon }
    }

    /// Installs certificates, keys and the certificate of the authority.
    fn certify(&self, unit_files: &Path, daemon_files: &Path) {
        for (files, (certificate, key)) in [(unit_files, &self.unit), (daemon_files, &self.daemon)] {
            put(certificate, &files.join("certificate"));
            put(key, &files.join("key"));
            put(&self.pki.ca(), &files.join("ca"));
        }
    }

    /// True if this authority has certified the server's certificate.
    fn certifies(&self, server: &UnitServer) -> bool {
        let mut s_client = Command::new("openssl");
        s_client.args(["s_client", "-verify_return_error", "-alpn", "h2", "-connect"]);
        s_client.arg(server.socket_address().to_string()).arg("-CAfile").arg(self.pki.ca());
        s_client.arg("-cert").arg(&self.daemon.0).arg("-key").arg(&self.daemon.1);
        String::from_utf8_lossy(&run(&mut s_client).stdout).contains("Verify return code: 0 (ok)")
    }
}

/// Replaces a file by a rename.
fn put(from: &Path, to: &Path) {
    let new = to.with_extension("new");
    fs::copy(from, &new).unwrap();
    fs::set_permissions(&new, Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, to).unwrap();
}

#[test]
fn renewed_files_are_in_force_without_a_lost_call() {
    let scene = Scene::new();
    let start = || Signers::start(&scene.daemon, "shop", Scheme::EcdsaSecp256r1Sha256, 200.0, 16);
    let stop = |load: Signers| {
        load.let_sign(20);
        let failures = format!("{:?}", failures(&load.stop()));
        assert_eq!(failures, "[]", "{}\n{}", scene.daemon.log(), scene.unit.log());
    };
    // After a reload, both sides read the files at once. Between the two reloads, calls go over the
    // present connection, also from threads of the daemon that have none yet.
    let second = scene.renew("second");
    scene.unit.reload("certificate, key and client CA read again");
    let load = start();
    load.let_sign(20);
    scene.daemon.reload();
    assert!(second.certifies(&scene.unit), "{}", scene.unit.log());
    stop(load);
    scene.sign_over_a_new_connection();

    // Without a reload, they notice the change.
    let load = start();
    let third = scene.renew("third");
    wait_for("the third certificate", || third.certifies(&scene.unit).then_some(()));
    let read = || scene.daemon.logged(&["INFO", "TLS files of backend hsm read again"]);
    wait_for("the daemon to read its files", || (read() >= 2).then_some(()));
    stop(load);
    scene.sign_over_a_new_connection();

    // After a broken file, both sides keep the old files and report it.
    let key = scene.daemon_files.join("key");
    let told = || scene.daemon.logged(&["ERROR", "TLS files of backend hsm: the old ones stay in force"]);
    put(&third.unit.1, &key);
    scene.daemon.reload();
    assert_eq!((told(), scene.unusable()), (1, 1.0), "{}", scene.daemon.log());
    let problem = scene.listed()["problem"].as_str().unwrap().to_owned();
    assert!(problem.contains("the old ones are in force") && problem.contains("keys may not"), "{problem}");
    fs::write(scene.unit_files.join("certificate"), "").unwrap();
    scene.unit.reload("ERROR certificate, key and client CA: the old ones stay in force: ");
    scene.sign_over_a_new_connection();
    assert!(third.certifies(&scene.unit));
    assert_eq!(told(), 1, "once");
    put(&third.daemon.1, &key);
    scene.daemon.reload();
    assert_eq!((scene.unusable(), &scene.listed()["problem"]), (0.0, &Value::Null));
}

/// Valid files with which the next connection to the unit would fail.
#[test]
fn renewed_files_that_the_unit_refuses_are_told_at_once() {
    let scene = Scene::new();
    let told = || scene.daemon.logged(&["ERROR", "TLS files of backend hsm: the old ones stay in force"]);
    let problem = || scene.listed()["problem"].as_str().unwrap_or_default().to_owned();
    let file = |name: &str| scene.daemon_files.join(name);
    let stranger = Authority::new(scene.directory.path(), "stranger");
    let show = |from: &Authority| {
        put(&from.daemon.0, &file("certificate"));
        put(&from.daemon.1, &file("key"));
    };
    // A certificate of an authority that the unit does not know.
    show(&stranger);
    scene.daemon.reload();
    assert_eq!((told(), scene.unusable()), (1, 1.0), "{}", scene.daemon.log());
    assert!(problem().contains("it refused the certificate of the client ("), "{}", problem());
    assert_eq!(scene.health(), "up");
    // The same if no unit can be asked. Later the unit is found again.
    scene.proxy.set(Fault::Reset);
    scene.daemon.reload();
    scene.sign_over_a_new_connection();
    assert_eq!((told(), scene.unusable()), (1, 1.0), "once: {}", scene.daemon.log());
    // The unit now knows the authority.
    put(&stranger.pki.ca(), &scene.unit_files.join("ca"));
    scene.unit.reload("certificate, key and client CA read again");
    scene.daemon.reload();
    assert_eq!((scene.unusable(), problem().as_str()), (0.0, ""), "{}", scene.daemon.log());
    scene.sign_over_a_new_connection();

    // An authority that has not certified the unit, while no unit can be asked.
    let own = file("own-ca");
    fs::copy(file("ca"), &own).unwrap();
    put(&stranger.pki.ca(), &file("ca"));
    wait_for("the daemon to find out", || (scene.unusable() == 1.0).then_some(()));
    assert!(problem().contains("cannot agree on TLS: invalid peer certificate"), "{}", problem());
    scene.sign_over_a_new_connection();
    put(&own, &file("ca"));
    scene.daemon.reload();
    assert_eq!((told(), scene.unusable()), (2, 0.0), "{}", scene.daemon.log());

    // A unit that is away has not refused anything.
    scene.proxy.set(Fault::Reset);
    let authority = scene.renew("second");
    scene.daemon.reload();
    scene.unit.reload("certificate, key and client CA read again");
    assert!(authority.certifies(&scene.unit));
    scene.sign_over_a_new_connection();
    assert_eq!((told(), scene.unusable()), (2, 0.0), "{}", scene.daemon.log());
}

/// The log of each side has the reason.
#[test]
fn a_client_without_the_right_certificate_is_told() {
    let mut scene = Scene::new();
    let section = fs::read_to_string(scene.daemon.path("keyward.toml")).unwrap();
    let without: String = section
        .lines()
        .filter(|line| !line.starts_with("certificate = ") && !line.starts_with("key = "))
        .map(|line| format!("{line}\n"))
        .collect();
    let restart = |scene: &mut Scene, text: &str| {
        fs::write(scene.daemon.path("keyward.toml"), text).unwrap();
        assert!(scene.daemon.stop().success());
        scene.daemon.resume();
    };
    restart(&mut scene, &without);
    let asks = "unit is down: it asks for a certificate of the client, and none is configured; name certificate and key";
    assert!(scene.daemon.logged(&["WARN", asks]) > 0, "{}", scene.daemon.log());
    let lines =
        || scene.unit.log().matches("the client has no certificate, and --client-ca requires one").count();
    assert!((1..5).contains(&lines()), "{}", scene.unit.log());

    let stranger = Authority::new(scene.directory.path(), "stranger");
    for (from, name) in [(&stranger.daemon.0, "certificate"), (&stranger.daemon.1, "key")] {
        put(from, &scene.daemon_files.join(name));
    }
    restart(&mut scene, &section);
    let refused = "unit is down: it refused the certificate of the client (";
    assert!(scene.daemon.logged(&["WARN", refused]) > 0, "{}", scene.daemon.log());
    wait_for("a line of the unit", || {
        scene.unit.log().contains("the certificate of the client is not valid for --client-ca").then_some(())
    });

    // The same in the other direction.
    put(&stranger.pki.ca(), &scene.daemon_files.join("ca"));
    restart(&mut scene, &section);
    assert!(scene.daemon.logged(&["WARN", "cannot agree on TLS: invalid peer certificate"]) > 0);
    wait_for("a line of the unit", || {
        scene.unit.log().contains("the client refused this server: ").then_some(())
    });
}
