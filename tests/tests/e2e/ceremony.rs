//! A unit that belongs to people: from the claim to the end, while nginx serves with its key.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use keyward_client::{Address, Client, Input, Label};
use keyward_proto::{Outcome, Scheme};
use keyward_tests::people::CeremonyUnit;
use keyward_tests::server::Site;
use keyward_tests::signers::failures;
use keyward_tests::tool::{fail, succeed, wait_for};
use keyward_tests::unit_server::master_key;
use keyward_tests::{Daemon, Handshake, Load, Nginx, People, Pki, Signers};

/// Three administrators, of whom two must sign, and three owners of parts.
#[test]
fn six_people_own_the_unit() {
    let mut scene = Scene::new();
    scene.claim_and_load();
    scene.serve_nginx();
    scene.change_the_master_key_under_load();
    scene.refuse_what_the_quorum_did_not_sign();
    scene.refuse_another_importer();
    scene.restart_sealed_and_unseal();
    scene.start_without_people();
    scene.restore_from_a_backup();
    scene.zeroize();
}

struct Scene {
    daemon: Daemon,
    people: People,
    pki: Pki,
    /// The configuration without a secret that unseals.
    configuration: String,
    site: Option<Site>,
    nginx: Option<Nginx>,
    /// File of the parts of the master key in force.
    parts: &'static str,
}

impl Scene {
    fn new() -> Self {
        let mut daemon = Daemon::prepare_for_owners("");
        daemon.resume();
        let configuration = fs::read_to_string(daemon.path("keyward.toml")).unwrap();
        let people = People::new(&daemon.path("people"));
        let pki = Pki::new(daemon.directory());
        Self { daemon, people, pki, configuration, site: None, nginx: None, parts: "first" }
    }

    fn unit(&self) -> CeremonyUnit<'_> {
        self.people.unit(&self.daemon.path("run"))
    }

    fn handshake(&self) -> Handshake {
        Handshake::new(&self.pki, self.site.as_ref().unwrap().address)
    }

    fn assert_serves(&self) {
        self.handshake().make().unwrap_or_else(|error| panic!("{error}: {}", self.daemon.log()));
    }

    fn assert_sealed(&self) {
        assert!(self.handshake().make().is_err());
        assert_eq!(sign(&self.daemon), Outcome::UnitSealed);
        let (status, ready) = self.daemon.get("/ready");
        assert!(status == 503 && ready.contains("the embedded unit is sealed"), "{status} {ready}");
    }

    fn claim_and_load(&self) {
        let unit = self.unit();
        let (_, line) = fail(&mut self.daemon.keyward(&["key", "generate", "shop", "--type", "p256"]));
        assert!(line.contains("has no master key yet"), "{line}");
        unit.claim();
        let pattern = unit.put_in_force(&OWNERS, self.parts);
        assert_eq!(unit.pattern("current"), pattern);
        self.daemon.generate("shop", "p256");
        let sealed = unit.bring("dave", self.parts, &[]).unwrap_err();
        assert!(sealed.contains("not one that the unit waits for"), "{sealed}");
    }

    fn serve_nginx(&mut self) {
        let site = Site::with_key(&self.daemon, &self.pki, "shop");
        self.nginx = Some(Nginx::start(&self.daemon, std::slice::from_ref(&site)));
        self.site = Some(site);
        self.assert_serves();
    }

    /// 500 signatures a second, and handshakes beside them.
    fn change_the_master_key_under_load(&mut self) {
        self.daemon.generate_for("load", "p256", "any");
        let load = Signers::start(&self.daemon, "load", P256, 500.0, 4);
        let handshakes = Load::start(&self.handshake(), 1);
        load.let_sign(200);
        let unit = self.unit();
        let pattern = unit.load_and_commit(&OWNERS, "second");
        load.let_sign(200);
        let early = unit.quorum(&["activate", &pattern], &["bob"]).unwrap_err();
        assert!(early.contains("not wrapped by the new master key"), "{early}");
        succeed(&mut unit.command(&["rotate"]));
        load.let_sign(200);
        unit.quorum(&["activate", &pattern], &["bob"]).unwrap();
        load.let_sign(200);
        let signed = load.stop();
        let failed = failures(&signed);
        assert!(failed.is_empty(), "{} of {}: {:?}", failed.len(), signed.len(), failed[0]);
        let attempts = handshakes.stop();
        let failed = attempts.iter().find(|attempt| attempt.result.is_err());
        assert!(failed.is_none() && attempts.len() > 20, "{} handshakes: {failed:?}", attempts.len());
        self.parts = "second";
    }

    /// Each fault of a command has an error of its own.
    fn refuse_what_the_quorum_did_not_sign(&self) {
        let unit = self.unit();
        let file = |name: &str| self.people.file("alice", name);
        let carol = unit.status()["administrators"][2]["ski"].as_str().unwrap().to_owned();
        // One of two, and a stranger.
        let few = unit.quorum(&["admin", "remove", &carol], &["alice"]).unwrap_err();
        assert!(few.contains("1 signature of administrators, and needs 2"), "{few}");
        let thresholds = ["threshold", "--signatures", "3", "--revocation", "2"];
        // Replayed.
        let [first, second] = [file("first.cmd"), file("second.cmd")];
        unit.prepare(&thresholds, &first);
        ["alice", "bob"].iter().for_each(|name| self.people.sign(name, &first));
        // Tampered with, after it was signed.
        let tampered = file("tampered.cmd");
        let text = fs::read_to_string(&first).unwrap();
        let altered = text.replace("signature-threshold: 3", "signature-threshold: 1");
        assert_ne!(altered, text, "{text}");
        fs::write(&tampered, altered).unwrap();
        let refused = unit.send(&[&tampered]).unwrap_err();
        assert!(refused.contains("signature"), "{refused}");
        unit.send(&[&first]).unwrap();
        let again = unit.send(&[&first]).unwrap_err();
        assert!(again.contains("it was carried out already"), "{again}");
        // Out of order: two commands that were prepared for one place after the other.
        unit.prepare(&["threshold", "--signatures", "2", "--revocation", "2"], &second);
        let number = unit.status()["next_counter"].as_u64().unwrap();
        let text = fs::read_to_string(&second).unwrap();
        let later = file("later.cmd");
        let [here, next] = [number, number + 1].map(|number| format!("counter: {number}\n"));
        assert!(text.contains(&here), "{text}");
        fs::write(&later, text.replace(&here, &next)).unwrap();
        for commands in [&second, &later] {
            ["alice", "bob", "carol"].iter().for_each(|name| self.people.sign(name, commands));
        }
        let early = unit.send(&[&later]).unwrap_err();
        assert!(early.contains("send the commands in their order"), "{early}");
        unit.send(&[&second]).unwrap();
        unit.send(&[&later]).unwrap();
        // Expired.
        let expired = file("expired.cmd");
        succeed(unit.command(&thresholds).args(["--expires", "1s", "--out"]).arg(&expired));
        ["alice", "bob"].iter().for_each(|name| self.people.sign(name, &expired));
        let prepared = Instant::now();
        wait_for("the command to expire", || (prepared.elapsed() > Duration::from_secs(1)).then_some(()));
        let refused = unit.send(&[&expired]).unwrap_err();
        assert!(refused.contains("has expired"), "{refused}");
        // For another unit.
        let mut other = Daemon::prepare_for_owners("");
        other.resume();
        let elsewhere = self.people.unit(&other.path("run"));
        let redirected = file("redirected.cmd");
        unit.prepare(&thresholds, &redirected);
        ["alice", "bob"].iter().for_each(|name| self.people.sign(name, &redirected));
        let refused = elsewhere.send(&[&redirected]).unwrap_err();
        assert!(refused.contains("the command is for the unit"), "{refused}");
    }

    /// A man in the middle gives owners an importer key of his own.
    fn refuse_another_importer(&self) {
        let mut other = Daemon::prepare_for_owners("");
        other.resume();
        let middle = self.people.unit(&other.path("run"));
        let refused = middle.bring_for(&self.unit().unit_key(), "dave", self.parts, &[]).unwrap_err();
        assert!(refused.contains("not the unit") || refused.contains("another unit"), "{refused}");
    }

    fn restart_sealed_and_unseal(&mut self) {
        self.restart();
        self.assert_sealed();
        let unit = self.unit();
        self.people.part("grace", "stranger");
        let wrong = unit.bring("grace", "stranger", &[]).unwrap_err();
        assert!(wrong.contains("not one that the unit waits for"), "{wrong}");
        unit.unseal(&OWNERS[..2], self.parts);
        self.assert_sealed();
        unit.unseal(&OWNERS[2..], self.parts);
        self.assert_serves();
        succeed(&mut unit.command(&["seal"]));
        self.assert_sealed();
        unit.unseal(&OWNERS, self.parts);
        self.assert_serves();
        self.daemon.upgrade();
        self.assert_serves();
    }

    /// An unseal key, a passphrase and a credential keep the master key, one after the other.
    fn start_without_people(&mut self) {
        let [key, passphrase] = ["unseal.key", "unseal.passphrase"].map(|name| self.daemon.path(name));
        master_key(&key);
        secret(&passphrase, "correct horse battery staple");
        for (setting, opening) in [
            (format!("unseal-key = {key:?}\n"), "unprotected"),
            (format!("unseal-passphrase = {passphrase:?}\n"), "passphrase"),
        ] {
            self.daemon.configure(&format!("{}[embedded]\n{setting}", self.configuration));
            self.assert_keeps(opening);
        }
        self.daemon.configure(&self.configuration);
        let credentials = self.daemon.path("credentials");
        fs::create_dir(&credentials).unwrap();
        master_key(&credentials.join("unseal-key"));
        self.daemon.set_variable("CREDENTIALS_DIRECTORY", credentials.clone());
        self.assert_keeps("credential");
        fs::remove_dir_all(&credentials).unwrap();
        self.restart();
        self.assert_sealed();
        self.unit().unseal(&OWNERS, self.parts);
    }

    /// The owners come once more, and from then on a start needs nobody.
    fn assert_keeps(&mut self, opening: &str) {
        self.restart();
        self.assert_sealed();
        self.unit().unseal(&OWNERS, self.parts);
        self.restart();
        self.assert_serves();
        assert_eq!(self.unit().status()["opening"], opening);
        let status = self.daemon.status();
        assert_eq!(status["backends"][0]["opening"], opening);
    }

    fn restore_from_a_backup(&mut self) {
        let copy = self.daemon.path("copy");
        succeed(self.daemon.keyward(&["backup"]).arg(&copy));
        let recovery = self.daemon.path("recovery");
        succeed(&mut self.daemon.keyward(&["backup", &format!("--recovery={}", recovery.display())]));
        let [state, unit_copy] = [self.daemon.path("state"), self.daemon.path("unit.copy")];
        for has_state_of_unit in [true, false] {
            assert!(self.daemon.stop().success());
            copy_directory(&state.join("unit"), &unit_copy);
            fs::remove_dir_all(&state).unwrap();
            let mut restore = self.daemon.keyward(&["restore"]);
            succeed(restore.arg(&copy).arg("--recovery").arg(&recovery).arg("--state-dir").arg(&state));
            if has_state_of_unit {
                copy_directory(&unit_copy, &state.join("unit"));
            }
            self.daemon.resume();
            assert!(self.handshake().make().is_err());
            if has_state_of_unit {
                self.unit().unseal(&OWNERS, self.parts);
            } else {
                self.unit().claim();
                self.unit().put_in_force(&OWNERS, self.parts);
            }
            self.assert_serves();
        }
    }

    /// One administrator makes the keys unusable. Only the same parts bring them back.
    fn zeroize(&mut self) {
        let unit = self.unit();
        let before = unit.status();
        unit.quorum(&["zeroize", "--yes"], &["carol"]).unwrap();
        assert!(self.handshake().make().is_err());
        let after = unit.status();
        assert_eq!(after["owned"], false);
        assert_ne!(after["unit"], before["unit"]);
        self.restart();
        assert!(self.handshake().make().is_err());
        let unit = self.unit();
        unit.claim();
        unit.put_in_force(&OWNERS, self.parts);
        self.assert_serves();
    }

    fn restart(&mut self) {
        assert!(self.daemon.stop().success());
        self.daemon.resume();
    }
}

fn sign(daemon: &Daemon) -> Outcome {
    let client = Client::new(Address::try_from(daemon.socket().as_path()).unwrap(), Client::DEFAULT_TIMEOUT);
    let message = [&[b' '; 64][..], b"TLS 1.3, server CertificateVerify", &[0], &[7; 32]].concat();
    match client.sign(&"shop".parse::<Label>().unwrap(), P256, Input::Message(&message)) {
        Ok(_) => Outcome::Done,
        Err(keyward_client::Error::Refused(outcome)) => outcome,
        Err(error) => panic!("{error}: {}", daemon.log()),
    }
}

/// Writes a file for its owner alone.
fn secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;

    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn copy_directory(from: &Path, to: &PathBuf) {
    let _ = fs::remove_dir_all(to);
    succeed(Command::new("cp").arg("-a").arg(from).arg(to));
}

const OWNERS: [&str; 3] = ["dave", "erin", "frank"];
const P256: Scheme = Scheme::EcdsaSecp256r1Sha256;
