//! The people of a ceremony: administrators and owners, each with a directory and a passphrase of
//! their own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::built;
use crate::tool::{run, succeed};

/// Directories of people.
#[derive(Debug)]
pub struct People {
    directory: PathBuf,
}

impl People {
    /// The administrators alice, bob and carol, with their keys in a new directory. Owners are
    /// there once they have made a part.
    pub fn new(directory: &Path) -> Self {
        let people = Self { directory: directory.to_owned() };
        for name in ADMINISTRATORS {
            people.welcome(name);
            succeed(&mut people.command(name, &["admin", "new", "key", "--name", name]));
        }
        people
    }

    /// Path of a file of a person.
    pub fn file(&self, name: &str, file: &str) -> PathBuf {
        self.directory.join(name).join(file)
    }

    /// Makes a part of a person, and returns its pattern.
    pub fn part(&self, name: &str, file: &str) -> String {
        self.welcome(name);
        succeed(&mut self.command(name, &["part", "new", file, "--name", name]));
        pattern_of(&self.file(name, file))
    }

    /// A unit whose administrators' socket is in a directory.
    pub fn unit(&self, runtime_dir: &Path) -> CeremonyUnit<'_> {
        CeremonyUnit { people: self, runtime_dir: runtime_dir.to_owned() }
    }

    /// A person signs the commands in a file.
    pub fn sign(&self, name: &str, commands: &Path) {
        succeed(self.command(name, &["sign"]).arg(commands).args(["--key", "key"]));
    }

    fn welcome(&self, name: &str) {
        let home = self.directory.join(name);
        fs::create_dir_all(&home).expect("a directory");
        let passphrase = home.join("passphrase");
        fs::write(&passphrase, format!("the six random words of {name}\n")).expect("a file");
        // The program refuses a passphrase that other users can read.
        fs::set_permissions(passphrase, fs::Permissions::from_mode(0o600)).expect("a mode");
    }

    /// `keyward unit` in the directory of a person, with the passphrase of that person.
    fn command(&self, name: &str, words: &[&str]) -> Command {
        let mut command = Command::new(built("keyward"));
        command.current_dir(self.directory.join(name)).arg("unit").args(words);
        command.args(["--passphrase-file", "passphrase"]);
        command
    }
}

/// A unit, as people reach it.
#[derive(Debug)]
pub struct CeremonyUnit<'a> {
    people: &'a People,
    runtime_dir: PathBuf,
}

impl CeremonyUnit<'_> {
    /// `keyward unit` with these words.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(built("keyward"));
        command.arg("unit").args(words).arg("--runtime-dir").arg(&self.runtime_dir);
        command
    }

    /// The state of the unit.
    pub fn status(&self) -> Value {
        serde_json::from_str(&succeed(&mut self.command(&["status", "--json"]))).expect("JSON")
    }

    /// Pattern of the master key in a register.
    pub fn pattern(&self, register: &str) -> String {
        self.status()[register]["pattern"].as_str().expect("a master key").to_owned()
    }

    /// Fingerprint of the key of the unit.
    pub fn unit_key(&self) -> String {
        self.status()["unit_key"].as_str().expect("a fingerprint").to_owned()
    }

    /// A command that is written to a new file, for others to sign.
    pub fn prepare(&self, words: &[&str], file: &Path) {
        succeed(self.command(words).arg("--out").arg(file));
    }

    /// Sends the commands in files.
    pub fn send(&self, files: &[&Path]) -> Result<String, String> {
        result(self.command(&["send"]).args(files))
    }

    /// Prepares a command, has it signed, and sends it.
    pub fn quorum(&self, words: &[&str], signers: &[&str]) -> Result<String, String> {
        let file = self.people.directory.join("command");
        let _ = fs::remove_file(&file);
        self.prepare(words, &file);
        signers.iter().for_each(|name| self.people.sign(name, &file));
        self.send(&[&file])
    }

    /// The three administrators own the unit: two must sign.
    pub fn claim(&self) {
        let files = ADMINISTRATORS.map(|name| self.people.file(name, "key.pub"));
        let mut words = vec!["claim", "--signatures", "2", "--revocation", "2"];
        files.iter().for_each(|file| words.extend(["--admin", file.to_str().expect("text")]));
        self.quorum(&words, &["alice", "bob"]).expect("a claim");
    }

    /// A person brings a part.
    pub fn bring(&self, name: &str, file: &str, more: &[&str]) -> Result<String, String> {
        self.bring_for(&self.unit_key(), name, file, more)
    }

    /// A person brings a part to the unit whose key has this fingerprint.
    pub fn bring_for(&self, unit_key: &str, name: &str, file: &str, more: &[&str]) -> Result<String, String> {
        let mut command = self.people.command(name, &["unseal", file, "--unit-key", unit_key]);
        result(command.args(more).arg("--runtime-dir").arg(&self.runtime_dir))
    }

    /// Loads parts of these people into the new register, and commits. Returns the pattern.
    pub fn load_and_commit(&self, owners: &[&str], file: &str) -> String {
        let shown = |name: &&str| {
            let part = self.people.file(name, file);
            match part.exists() {
                true => pattern_of(&part),
                false => self.people.part(name, file),
            }
        };
        let patterns: Vec<_> = owners.iter().map(shown).collect();
        let mut words = vec!["load"];
        patterns.iter().for_each(|pattern| words.extend(["--part", pattern]));
        self.quorum(&words, &["carol"]).expect("a command to load");
        for name in owners {
            self.bring(name, file, &["--load"]).expect("a part");
        }
        let pattern = self.pattern("new");
        self.quorum(&["commit", &pattern], &["alice", "carol"]).expect("a commit");
        pattern
    }

    /// Puts a master key of parts in force.
    pub fn put_in_force(&self, owners: &[&str], file: &str) -> String {
        let pattern = self.load_and_commit(owners, file);
        self.quorum(&["activate", &pattern], &["bob"]).expect("an activation");
        pattern
    }

    /// All of these people bring their parts after a start.
    pub fn unseal(&self, owners: &[&str], file: &str) {
        for name in owners {
            self.bring(name, file, &[]).expect("a part");
        }
    }
}

/// Pattern of the part in a file.
fn pattern_of(part: &Path) -> String {
    let shown = succeed(Command::new(built("keyward")).args(["unit", "part", "show"]).arg(part));
    shown.split(' ').next().expect("a pattern").to_owned()
}

/// The output of a command, or its error.
fn result(command: &mut Command) -> Result<String, String> {
    let output = run(command);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// The administrators.
pub const ADMINISTRATORS: [&str; 3] = ["alice", "bob", "carol"];
