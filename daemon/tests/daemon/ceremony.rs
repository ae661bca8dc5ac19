//! A unit that belongs to its owners: master key from parts, administrators with a quorum, sealed
//! start.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use keyward_client::Input;
use keyward_proto::{Outcome, Scheme};
use rustix::process::Signal;
use serde_json::Value;

use crate::fixture::{Daemon, certificate_verify, has_root, label_of};
use crate::terminal::Terminal;

/// Writes the file of a passphrase, which other users must not be able to read.
pub(crate) fn write_passphrase(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A daemon whose master key comes from no file, and the files of the people. Each of them has the
/// passphrase in `passphrase`. To open one file takes half a second in a program that is not
/// optimised, so the tests make few of them.
pub(crate) struct Ceremony {
    pub(crate) daemon: Daemon,
    pub(crate) unit_key: String,
}

impl Ceremony {
    /// A daemon that nobody owns yet.
    pub(crate) fn unowned() -> Self {
        let mut daemon = Daemon::prepare("");
        let uid = rustix::process::getuid().as_raw();
        let grant = format!("[[grant]]\nuid = {uid}\nkeys = [\"shop\"]\nuses = [\"tls-server\"]\n");
        daemon.configure(&(grant + &format!("[[role]]\nrole = \"auditor\"\nuid = {uid}\n")));
        write_passphrase(&daemon.path("passphrase"), "six random words are long enough\n");
        let mut serve = daemon.serve(&[]);
        daemon.start_as(serve.env_remove("CREDENTIALS_DIRECTORY"));
        let mut ceremony = Self { daemon, unit_key: String::new() };
        ceremony.unit_key = ceremony.status()["unit_key"].as_str().unwrap().to_owned();
        ceremony
    }

    /// A daemon with the administrators alice, bob and carol: two of them sign.
    pub(crate) fn owned() -> Self {
        let ceremony = Self::unowned();
        for name in ["alice", "bob", "carol"] {
            ceremony.person(&["unit", "admin", "new"], name);
        }
        ceremony.claim();
        ceremony
    }

    pub(crate) fn claim(&self) {
        let mut words = vec!["unit", "claim", "--signatures", "2", "--revocation", "2"];
        let people = ["alice.pub", "bob.pub", "carol.pub"].map(|name| self.path(name));
        people.iter().for_each(|file| words.extend(["--admin", file]));
        self.command(&words, &["alice", "bob"]).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.daemon.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.daemon.succeed(&["unit", "status", "--json"])).unwrap()
    }

    /// Runs a command of a person, who needs no daemon.
    pub(crate) fn person(&self, words: &[&str], name: &str) -> String {
        let (file, passphrase) = (self.path(name), self.path("passphrase"));
        let more = [&file, "--name", name, "--passphrase-file", &passphrase];
        let mut command = std::process::Command::new(crate::fixture::PROGRAM);
        let output = command.args(words).args(more).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that administrators sign where it is made.
    pub(crate) fn command(&self, words: &[&str], signers: &[&str]) -> Result<String, (i32, String)> {
        let keys: Vec<_> = signers.iter().map(|name| self.path(name)).collect();
        let passphrase = self.path("passphrase");
        let mut words = words.to_vec();
        keys.iter().for_each(|key| words.extend(["--key", key]));
        words.extend(["--passphrase-file", &passphrase]);
        self.run(&words)
    }

    pub(crate) fn run(&self, words: &[&str]) -> Result<String, (i32, String)> {
        let output = self.daemon.keyward(words);
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap()),
            false => Err(crate::fixture::failure_of(&output)),
        }
    }

    /// Makes parts unless they are there, and returns their patterns.
    pub(crate) fn parts(&self, names: &[&str]) -> Vec<String> {
        let pattern = |name: &&str| {
            if !self.daemon.path(name).exists() {
                self.person(&["unit", "part", "new"], name);
            }
            let shown = self.daemon_less(&["unit", "part", "show", &self.path(name)]);
            shown.split(' ').next().unwrap().to_owned()
        };
        names.iter().map(pattern).collect()
    }

    pub(crate) fn daemon_less(&self, words: &[&str]) -> String {
        let output = std::process::Command::new(crate::fixture::PROGRAM).args(words).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn unseal(&self, name: &str) -> Result<String, (i32, String)> {
        self.bring(name, &[])
    }

    pub(crate) fn bring(&self, name: &str, more: &[&str]) -> Result<String, (i32, String)> {
        let (file, passphrase) = (self.path(name), self.path("passphrase"));
        let words = ["unit", "unseal", &file, "--unit-key", &self.unit_key, "--passphrase-file", &passphrase];
        self.run(&[&words, more].concat())
    }

    /// Loads the new register with parts. Returns the pattern of the master key.
    pub(crate) fn load(&self, names: &[&str]) -> String {
        let patterns = self.parts(names);
        let mut words = vec!["unit", "load"];
        patterns.iter().for_each(|pattern| words.extend(["--part", pattern]));
        self.command(&words, &["carol"]).unwrap();
        for name in names {
            self.bring(name, &["--load"]).unwrap();
        }
        self.status()["new"]["pattern"].as_str().unwrap().to_owned()
    }

    /// Puts a master key of parts in force.
    pub(crate) fn put_in_force(&self, names: &[&str]) -> String {
        let pattern = self.load(names);
        self.command(&["unit", "commit", &pattern], &["alice", "carol"]).unwrap();
        self.command(&["unit", "activate", &pattern], &["bob"]).unwrap();
        pattern
    }

    pub(crate) fn restart(&mut self) {
        assert!(self.daemon.end(Signal::TERM).success());
        self.start();
    }

    pub(crate) fn start(&mut self) {
        let mut serve = self.daemon.serve(&[]);
        self.daemon.start_as(serve.env_remove("CREDENTIALS_DIRECTORY"));
    }

    pub(crate) fn outcome(&self) -> Outcome {
        self.daemon.outcome("shop", &certificate_verify())
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.daemon.http("GET", "/ready", "").unwrap().0 == 200
    }
}

#[test]
fn owners_put_a_master_key_in_force_and_unseal_after_a_restart() {
    if !has_root() {
        return;
    }
    let mut ceremony = Ceremony::owned();
    assert!(!ceremony.is_ready());
    let (status, line) = ceremony.daemon.fail(&["key", "generate", "shop", "--type", "p256"]);
    assert!(status == 78 && line.contains("no master key yet"), "{status} {line}");
    ceremony.put_in_force(&["dave", "erin", "frank"]);
    assert!(ceremony.is_ready());
    ceremony.daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    assert_eq!(ceremony.outcome(), Outcome::Done);

    ceremony.restart();
    assert!(!ceremony.is_ready());
    assert_eq!(ceremony.outcome(), Outcome::UnitSealed);
    let (_, ready) = ceremony.daemon.http("GET", "/ready", "").unwrap();
    assert!(ready.contains("sealed") && ready.contains("keyward unit unseal"), "{ready}");
    for (name, missing) in [("frank", 2), ("dave", 1), ("dave", 1), ("erin", 0)] {
        let said = ceremony.unseal(name).unwrap();
        let expected = match missing {
            0 => "has the master key of the current register".to_owned(),
            1 => "1 more is missing".to_owned(),
            more => format!("{more} more are missing"),
        };
        assert!(said.contains(&expected), "{said}");
    }
    assert_eq!(ceremony.outcome(), Outcome::Done);
    assert!(ceremony.is_ready());
    // An upgrade goes on with the master key.
    ceremony.daemon.signal(Signal::USR2);
    ceremony.daemon.await_ready();
    assert_eq!(ceremony.outcome(), Outcome::Done);
    assert!(ceremony.is_ready());
    ceremony.daemon.succeed(&["unit", "seal"]);
    assert_eq!(ceremony.outcome(), Outcome::UnitSealed);
    ceremony.daemon.signal(Signal::USR2);
    ceremony.daemon.await_ready();
    assert_eq!(ceremony.outcome(), Outcome::UnitSealed);

    // The trail has each act, with who has signed.
    let shown = ceremony.daemon.succeed(&["audit", "show", "--json"]);
    for action in [
        "unit.claim",
        "unit-master-key-register.add",
        "unit-master-key-register.commit",
        "unit-master-key-register.activate",
        "unit-part.bring",
        "unit.seal",
    ] {
        let name = format!("\"keyward.{action}\"");
        assert!(shown.lines().filter(|line| line.contains(&name)).count() >= 2, "{action}: {shown}");
    }
    let commit = shown.lines().rfind(|line| line.contains("register.commit")).unwrap();
    assert!(commit.contains("\"name\":\"alice\"") && commit.contains("\"name\":\"carol\""), "{commit}");
}

#[test]
fn a_part_is_not_sent_to_another_unit() {
    if !has_root() {
        return;
    }
    let mut ceremony = Ceremony::owned();
    ceremony.put_in_force(&["dave", "erin"]);
    ceremony.restart();
    let other = Ceremony::unowned();
    let (mine, theirs) = (ceremony.unit_key.clone(), other.unit_key);
    ceremony.unit_key = theirs;
    let (status, line) = ceremony.unseal("dave").unwrap_err();
    assert!(status == 77 && line.contains("do not send the part"), "{line}");
    ceremony.unit_key = mine;
    ceremony.parts(&["mallory"]);
    let (_, line) = ceremony.unseal("mallory").unwrap_err();
    assert!(line.contains("is not one that the unit waits for"), "{line}");
    let (_, line) = ceremony.bring("dave", &["--load"]).unwrap_err();
    assert!(line.contains("bring it without --load"), "{line}");
    ceremony.unseal("dave").unwrap();
    ceremony.unseal("erin").unwrap();
    assert!(ceremony.is_ready());
    let (_, line) = ceremony.unseal("erin").unwrap_err();
    assert!(line.contains("the unit has its master key, and needs no part"), "{line}");
    let (_, line) = ceremony.daemon.fail(&["unit", "rotate"]);
    assert!(line.contains("its owners") || line.contains("the owners of the unit load"), "{line}");
    assert!(line.contains("keyward unit ceremony") && !line.contains("unit rotate"), "{line}");
    let other = Ceremony::unowned();
    let (status, line) = other.run(&["unit", "seal"]).unwrap_err();
    assert!(status == 73 && line.contains("nothing to seal"), "{line}");
}

#[test]
fn the_master_key_is_rotated_and_the_unit_erased() {
    if !has_root() {
        return;
    }
    let mut ceremony = Ceremony::owned();
    ceremony.put_in_force(&["dave", "erin"]);
    ceremony.daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let pattern = ceremony.load(&["frank", "grace"]);
    ceremony.command(&["unit", "commit", &pattern], &["alice", "bob"]).unwrap();
    let (_, line) = ceremony.command(&["unit", "activate", &pattern], &["bob"]).unwrap_err();
    assert!(line.contains("not wrapped by the new master key"), "{line}");
    assert!(line.contains("run: keyward unit rotate"), "{line}");
    assert_eq!(ceremony.outcome(), Outcome::Done);
    // No signature fails meanwhile.
    let ended = AtomicBool::new(false);
    let signed = std::thread::scope(|scope| {
        let signatures = scope.spawn(|| {
            let (client, mut signed) = (ceremony.daemon.client(), 0);
            while !ended.load(Ordering::Relaxed) {
                let message = certificate_verify();
                let input = Input::Message(&message);
                client.sign(&label_of("shop"), Scheme::EcdsaSecp256r1Sha256, input).unwrap();
                signed += 1;
            }
            signed
        });
        ceremony.daemon.succeed(&["unit", "rotate"]);
        let said = ceremony.daemon.succeed(&["key", "rewrap", "--backend", "embedded"]);
        assert!(said.contains(&format!("run: keyward unit activate {pattern} --key FILE")), "{said}");
        ceremony.command(&["unit", "activate", &pattern], &["bob"]).unwrap();
        ended.store(true, Ordering::Relaxed);
        signatures.join().unwrap()
    });
    assert!(signed > 500, "{signed}");
    assert_eq!(ceremony.outcome(), Outcome::Done);
    ceremony.restart();
    let (_, line) = ceremony.unseal("dave").unwrap_err();
    assert!(line.contains("is not one that the unit waits for"), "{line}");
    ceremony.unseal("frank").unwrap();
    ceremony.unseal("grace").unwrap();
    assert_eq!(ceremony.outcome(), Outcome::Done);
    ceremony.daemon.succeed(&["key", "generate", "more", "--type", "p256"]);

    let (_, line) = ceremony.daemon.fail(&["key", "rewrap", "--backend", "embedded", "--finish"]);
    assert!(line.contains("keyward unit activate"), "no operator puts it in force: {line}");
    let (_, line) = ceremony.command(&["unit", "zeroize", "--yes"], &[]).unwrap_err();
    assert!(line.contains("needs 1"), "{line}");
    // Without a terminal, and without --yes, the unit is not erased.
    let (status, line) = ceremony.command(&["unit", "zeroize"], &["carol"]).unwrap_err();
    let advised = format!("keyward unit zeroize --yes --key FILE --runtime-dir {}", ceremony.path("run"));
    assert!(
        status == 64 && line.contains("the key store has 2 keys") && line.trim_end().ends_with(&advised),
        "{line}"
    );
    assert_eq!(ceremony.outcome(), Outcome::Done);
    let (status, shown) = on_a_terminal(&ceremony, &["unit", "zeroize"], "zeroize", "yes");
    assert!(status == Some(64) && shown.contains("cannot zeroize the unit: nothing was done"), "{shown}");
    assert_eq!(ceremony.outcome(), Outcome::Done);
    ceremony.command(&["unit", "zeroize", "--yes"], &["carol"]).unwrap();
    assert_ne!(ceremony.outcome(), Outcome::Done);
    let status = ceremony.status();
    assert!(status["owned"] == false && status["current"]["state"] == "empty", "{status}");
    assert_ne!(status["unit_key"].as_str().unwrap(), ceremony.unit_key);

    // Nobody agrees to a master key that opens none of the keys.
    ceremony.unit_key = status["unit_key"].as_str().unwrap().to_owned();
    ceremony.claim();
    let other = ceremony.load(&["dave", "erin"]);
    let (_, line) = ceremony.command(&["unit", "commit", &other], &["alice", "bob"]).unwrap_err();
    assert!(line.contains("would open none of its keys"), "{line}");
    ceremony.command(&["unit", "clear", "new", &other], &["bob"]).unwrap();
    assert_eq!(ceremony.put_in_force(&["frank", "grace"]), pattern);
    assert_eq!(ceremony.outcome(), Outcome::Done);

    // One administrator takes the master key away, and the same parts bring the keys back.
    let clear = ["unit", "clear", "current", &pattern];
    let (status, line) = ceremony.command(&clear, &["carol"]).unwrap_err();
    assert!(status == 64 && line.contains(&format!("clear current {pattern} --yes --key FILE")), "{line}");
    let (status, shown) = on_a_terminal(&ceremony, &clear, "clear current", "clear current");
    assert!(status == Some(0) && shown.contains("the current register is empty"), "{shown}");
    assert_ne!(ceremony.outcome(), Outcome::Done);
    assert_eq!(ceremony.put_in_force(&["frank", "grace"]), pattern);
    assert_eq!(ceremony.outcome(), Outcome::Done);
}

/// Runs a command of carol on a terminal, and answers its question. Returns the exit status, and
/// what the screen has shown since.
fn on_a_terminal(ceremony: &Ceremony, words: &[&str], what: &str, answer: &str) -> (Option<i32>, String) {
    let [key, passphrase, run] = ["carol", "passphrase", "run"].map(|name| ceremony.path(name));
    let more = ["--key", &key, "--passphrase-file", &passphrase, "--runtime-dir", &run];
    let mut terminal = Terminal::run(&ceremony.daemon.path(""), &[words, &more].concat());
    let asked = terminal.answer(&format!("Type {what} to go on: "), answer);
    assert!(asked.contains("Careful: the unit loses its master key at once"), "{asked}");
    let (status, shown) = terminal.end();
    (status.code(), shown)
}

#[test]
fn shares_are_written_wherever_the_command_is_sent() {
    if !has_root() {
        return;
    }
    let ceremony = Ceremony::owned();
    for name in ["owner1", "owner2"] {
        ceremony.person(&["unit", "part", "owner"], name);
    }
    let [one, two] = ["owner1.pub", "owner2.pub"].map(|name| ceremony.path(name));
    let (out, dir) = (ceremony.path("load.cmd"), ceremony.path("shares"));
    fs::create_dir(&dir).unwrap();
    let twice = ["unit", "load", "--needed", "2", "--owner", &one, "--owner", &one];
    let (_, line) = ceremony.command(&twice, &["alice", "bob"]).unwrap_err();
    assert!(line.contains("each owner gets one share"), "one person with two shares: {line}");
    let load = ["unit", "load", "--needed", "2", "--owner", &one, "--owner", &two, "--out", &out];
    ceremony.command(&load, &["alice", "bob"]).unwrap();
    ceremony.daemon.succeed(&["unit", "send", &out, "--shares-dir", &dir]);
    let read = |name: &str| fs::read_to_string(PathBuf::from(&dir).join(name)).unwrap();
    let first = read("owner1.share");
    assert_ne!(first, read("owner2.share"));
    // A file that is lost is written again, and one of another master key stays.
    fs::remove_file(PathBuf::from(&dir).join("owner1.share")).unwrap();
    ceremony.daemon.succeed(&["unit", "shares", "--dir", &dir]);
    assert_eq!(read("owner1.share"), first);
    let kept = ["first", "second"].map(|name| ceremony.path(name));
    kept.iter()
        .zip(["owner1.share", "owner2.share"])
        .for_each(|(to, name)| fs::write(to, read(name)).unwrap());
    fs::write(PathBuf::from(&dir).join("owner2.share"), "of another").unwrap();
    let (_, line) = ceremony.daemon.fail(&["unit", "shares", "--dir", &dir]);
    let again = format!("keyward unit shares --dir DIR --runtime-dir {}", ceremony.path("run"));
    assert!(line.contains(&again) && line.contains("exists"), "{line}");
    let away = ceremony.path("away");
    let (_, line) = ceremony.daemon.fail(&["unit", "shares", "--dir", &away]);
    assert!(line.contains(&format!("run: mkdir {away}; then: keyward unit shares --dir {away} ")), "{line}");

    // The same shares are loaded again.
    let pattern = ceremony.status()["new"]["pattern"].as_str().unwrap().to_owned();
    ceremony.command(&["unit", "clear", "new", &pattern], &["bob"]).unwrap();
    let load = ["unit", "load", "--share", &kept[0], "--share", &kept[1]];
    let said = ceremony.command(&load, &["alice", "bob"]).unwrap();
    assert!(said.contains("only these 2 shares open the unit from now on; name the files of all owners"));
    for (share, owner) in kept.iter().zip(["owner1", "owner2"]) {
        let share = Path::new(share).file_name().unwrap().to_str().unwrap();
        ceremony.bring(share, &["--load", "--owner-key", &ceremony.path(owner)]).unwrap();
    }
    assert_eq!(ceremony.status()["new"]["pattern"], pattern);
}

/// Somebody who has never done it follows docs/ceremony.md, command by command.
#[test]
fn the_page_can_be_followed() {
    if !has_root() {
        return;
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ceremony.md");
    let page = fs::read_to_string(page).unwrap();
    let mut ceremony = Ceremony::unowned();
    let home = PathBuf::from(ceremony.path("people"));
    fs::create_dir(&home).unwrap();
    let passphrase = ceremony.path("passphrase");
    let run = |ceremony: &Ceremony, line: &str| {
        let mut words: Vec<String> = line.split(' ').skip(1).map(str::to_owned).collect();
        let status = ceremony.status();
        for word in &mut words {
            if let Some(name) = word.strip_prefix("PATTERN_OF_") {
                let file = home.join(format!("{}.part", name.to_lowercase()));
                let shown = ceremony.daemon_less(&["unit", "part", "show", file.to_str().unwrap()]);
                *word = shown.split(' ').next().unwrap().to_owned();
            } else if word == "PATTERN" {
                *word = status["new"]["pattern"].as_str().unwrap().to_owned();
            } else if word == "UNIT_KEY" {
                word.clone_from(&ceremony.unit_key);
            }
        }
        let is_alone = ["admin new", "part new", "part owner", "part encrypt", "sign"].iter();
        if !is_alone.clone().any(|verb| line.starts_with(&format!("keyward unit {verb} "))) {
            words.extend(["--runtime-dir".into(), ceremony.path("run")]);
        }
        let asks = ["--key", "admin new", "part new", "part owner", "part encrypt", "unseal"];
        if asks.iter().any(|word| line.contains(word)) && !line.contains("--encrypted") {
            words.extend(["--passphrase-file".into(), passphrase.clone()]);
        }
        let mut command = std::process::Command::new(crate::fixture::PROGRAM);
        let output = command.args(&words).current_dir(&home).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let section = |title: &str| -> Vec<String> {
        let (_, text) = page.split_once(&format!("\n## {title}\n")).unwrap();
        let text = text.split("\n## ").next().unwrap();
        let lines = text.lines().filter(|line| line.starts_with("    ")).map(str::trim);
        lines.filter(|line| line.starts_with("keyward ")).map(str::to_owned).collect()
    };
    let first = section("The first ceremony");
    assert_eq!(first.len(), 21);
    first.iter().for_each(|line| run(&ceremony, line));
    ceremony.daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    assert_eq!(ceremony.outcome(), Outcome::Done);

    // After a start, each owner has the part encrypted elsewhere.
    ceremony.restart();
    let [importer, encrypted @ ..] = &section("Encrypt a part on a machine of its owner")[..] else {
        panic!()
    };
    run(&ceremony, importer);
    assert_eq!(encrypted.len(), 2);
    for owner in ["dave", "erin", "frank"] {
        encrypted.iter().for_each(|line| run(&ceremony, &line.replace("dave", owner)));
    }
    assert_eq!(ceremony.outcome(), Outcome::Done);

    // The next master key is one of shares.
    let [made @ .., unseal] = &section("Shares instead of parts")[..] else { panic!() };
    made.iter().for_each(|line| run(&ceremony, line));
    let pattern = ceremony.status()["new"]["pattern"].as_str().unwrap().to_owned();
    run(&ceremony, &format!("keyward unit commit {pattern} --key alice.key --key carol.key"));
    section("Change the master key").iter().for_each(|line| run(&ceremony, line));
    assert_eq!(ceremony.outcome(), Outcome::Done);
    ceremony.restart();
    assert_eq!(ceremony.outcome(), Outcome::UnitSealed);
    for owner in ["owner5", "owner1", "owner3"] {
        run(&ceremony, &unseal.replace("owner1", owner));
    }
    assert_eq!(ceremony.outcome(), Outcome::Done);
}
