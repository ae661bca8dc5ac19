//! `keyward protect`: a running server with key files becomes one with references, under load, and
//! the other way round.

mod apache;
mod haproxy;
mod nginx;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use keyward_tests::tool::{children, run, stderr, succeed, wait_for};
use keyward_tests::{Daemon, Handshake, Load, Pki, free_port, memory};

/// Contents, mode, owner, and time of the last change of each file.
type Files = BTreeMap<PathBuf, (Vec<u8>, u32, u32, String)>;
/// Contents, mode and owner of each file.
type Contents = BTreeMap<PathBuf, (Vec<u8>, u32, u32)>;

/// A daemon, and the home of a server with the sites of [`make_keys`] at two addresses.
struct Stage {
    daemon: Daemon,
    pki: Pki,
    home: PathBuf,
    addresses: [SocketAddr; 2],
}

impl Stage {
    /// Makes the home of a server with some directories, and the keys in `ssl`.
    fn new(daemon: Daemon, server: &str, directories: &[&str]) -> Self {
        let pki = Pki::new(daemon.directory());
        let home = daemon.path(server);
        for directory in ["ssl"].iter().chain(directories) {
            fs::create_dir_all(home.join(directory)).unwrap();
        }
        make_keys(&pki, &home.join("ssl"));
        let addresses = [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        Self { daemon, pki, home, addresses }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// Handshakes with each of the sites.
    fn handshakes(&self) -> Vec<Handshake> {
        let [first, second] = self.addresses;
        vec![
            Handshake::new(&self.pki, first).asking_for("shop.example"),
            Handshake::new(&self.pki, first).asking_for("www.wild.example"),
            Handshake::with_version(&self.pki, second, &rustls::version::TLS12).asking_for("mail.example"),
        ]
    }

    fn certificates(&self) -> Vec<Vec<u8>> {
        self.handshakes().iter().map(|one| one.certificate().unwrap().to_vec()).collect()
    }

    fn loads(&self) -> Vec<Load> {
        self.handshakes().iter().map(|one| Load::start(one, 2)).collect()
    }

    fn wait_until_all_answer(&self) {
        self.handshakes().iter().for_each(|one| wait_for("handshakes", || one.make().ok().map(drop)));
    }
}

/// A running server on its stage.
trait Scene: Deref<Target = Stage> {
    /// Name of the server on the command line.
    const SERVER: &str;
    /// Directories of the home whose files the command may change.
    const DIRECTORIES: &[&str];
    /// Names of files that the server itself changes.
    const FILES_OF_SERVER: &[&str];
    /// True if the change restarts the server, and handshakes fail meanwhile.
    const RESTARTS: bool = false;

    /// Process id of the server, if it runs.
    fn pid(&self) -> Option<u32>;

    /// The log of the server.
    fn log(&self) -> String;

    fn protect(&self, words: &[&str]) -> Command {
        self.protect_by(&self.daemon.path("keyward.toml"), &self.daemon.openssl_conf(), words)
    }

    /// The command with another configuration of the daemon, and another openssl.cnf.
    fn protect_by(&self, config: &Path, openssl_conf: &Path, words: &[&str]) -> Command {
        let mut command = self.daemon.keyward(&["protect", Self::SERVER]);
        command.args(words).arg("--config").arg(config).arg("--openssl-conf").arg(openssl_conf);
        command.arg("--systemd-dir").arg(self.path("systemd"));
        if let Some(pid) = self.pid() {
            command.arg("--pid").arg(pid.to_string());
        }
        command
    }

    /// The files of the server, the journal, and the grants.
    fn files(&self) -> Files {
        let mut directories: Vec<_> = Self::DIRECTORIES.iter().map(|name| self.path(name)).collect();
        directories.extend(["", "ssl", "systemd"].map(|name| self.path(name)));
        directories.push(self.daemon.path("protected"));
        directories.push(self.daemon.path("keyward.d"));
        let mut files = stored_files(&directories);
        files.retain(|path, _| !Self::FILES_OF_SERVER.iter().any(|name| path.ends_with(name)));
        files
    }

    /// Contents, modes and owners of [`Self::files`].
    fn contents(&self) -> Contents {
        contents_of(&self.files())
    }

    /// Kills the command at many moments of its way there and back. Run again, it ends as if it had
    /// not been killed. `words` are options of the way there, and `prepare` comes before each
    /// round.
    fn assert_killed_ends_right(&self, words: &[&str], rounds: u32, prepare: impl Fn(&Self)) {
        let (before, shown) = (self.contents(), self.certificates());
        let begin = Instant::now();
        succeed(self.protect(words).stderr(Stdio::null()));
        let whole = begin.elapsed();
        let after = self.contents();
        succeed(self.protect(&["--undo"]).stderr(Stdio::null()));
        let rounds = if std::env::var_os("KEYWARD_SOAK").is_some() { 60 } else { rounds };
        for round in 0..rounds {
            prepare(self);
            for (words, expected) in [(words, &after), (&["--undo"], &before)] {
                let mut command = self.protect(words);
                let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
                thread::sleep(whole * round / rounds);
                let _ = child.kill();
                child.wait().unwrap();
                match Self::RESTARTS {
                    true => self.wait_until_all_answer(),
                    false => {
                        self.handshakes().iter().for_each(|one| assert!(one.make().is_ok(), "{}", self.log()))
                    }
                }
                let again = run(&mut self.protect(words));
                let words_of = stderr(&again);
                // The undo may have been whole already.
                let is_done = again.status.success() || words_of.contains("has changed nothing here");
                assert!(is_done, "round {round} {words:?}: {words_of}\n{}", self.log());
                assert_eq!(self.certificates(), shown, "round {round} {words:?}");
                let now = self.contents();
                assert!(now.keys().eq(expected.keys()), "round {round} {words:?}: {:?}", now.keys());
                assert!(now == *expected, "round {round} {words:?}");
            }
        }
    }
}

/// Files by their contents, modes and owners, without the journal.
fn contents_of(files: &Files) -> Contents {
    let is_journal = |path: &Path| path.components().any(|part| part.as_os_str() == "protected");
    let files = files.iter().filter(|(path, _)| !is_journal(path));
    files.map(|(path, file)| (path.clone(), (file.0.clone(), file.1, file.2))).collect()
}

/// The files in some directories.
fn stored_files(directories: &[PathBuf]) -> Files {
    let mut files = Files::new();
    for directory in directories {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_file() {
                let found = path.metadata().unwrap();
                let time = format!("{}.{:09}", found.mtime(), found.mtime_nsec());
                files.insert(path.clone(), (fs::read(&path).unwrap(), found.mode(), found.uid(), time));
            }
        }
    }
    files
}

/// Makes keys and certificates: a pair of RSA and ECDSA for one name, one for a wildcard, and one
/// whose certificate and encrypted key are in one file.
fn make_keys(pki: &Pki, directory: &Path) {
    let openssl = |words: &[&str]| succeed(Command::new("openssl").args(words).current_dir(directory));
    let ec = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"];
    for name in ["shop.key", "wild.key"] {
        openssl(&[&ec[..], &[name]].concat());
    }
    for name in ["shop rsa.key", "mail.key"] {
        openssl(&["genpkey", "-algorithm", "RSA", "-out", name]);
    }
    for (key, name) in [
        ("shop.key", "shop.example"),
        ("shop rsa.key", "shop.example"),
        ("wild.key", "*.wild.example"),
        ("mail.key", "mail.example"),
    ] {
        openssl(&["pkey", "-in", key, "-pubout", "-out", "public"]);
        let extensions = format!("subjectAltName=DNS:{name}\n");
        let certificate = pki.certify_with_extensions(&directory.join("public"), &extensions, 2);
        fs::rename(certificate, directory.join(key.replace(".key", ".crt"))).unwrap();
    }
    // One file with both, and the key encrypted.
    fs::write(directory.join("pass"), "wrong\nsecret\n").unwrap();
    openssl(&["pkey", "-in", "mail.key", "-aes256", "-passout", "pass:secret", "-out", "mail.enc"]);
    let [certificate, key] =
        ["mail.crt", "mail.enc"].map(|name| fs::read_to_string(directory.join(name)).unwrap());
    fs::write(directory.join("mail.pem"), certificate + &key).unwrap();
}

/// Secret bytes of the keys of [`make_keys`].
fn secrets(directory: &Path) -> Vec<Vec<u8>> {
    let names = ["shop.key", "wild.key", "mail.key", "shop rsa.key"];
    names.iter().map(|name| secret(&directory.join(name))).collect()
}

/// Parts of private keys that are in the memory of a server. A server ends processes of its own
/// accord, and a process that has ended has no memory.
fn keys_in_memory(master: u32, secrets: &[Vec<u8>]) -> usize {
    let secrets: Vec<&[u8]> = secrets.iter().map(Vec::as_slice).collect();
    let children = children(master).into_iter().filter_map(|pid| memory::count_unless_ended(pid, &secrets));
    [memory::count(master, &secrets)].into_iter().chain(children).flatten().sum()
}

/// Secret bytes of a key file: the scalar of a curve, or the first prime.
fn secret(file: &Path) -> Vec<u8> {
    let text = succeed(Command::new("openssl").args(["pkey", "-noout", "-text", "-in"]).arg(file));
    let field = if text.contains("prime1:") { "prime1:" } else { "priv:" };
    let lines = text.lines().skip_while(|line| *line != field).skip(1);
    let digits: String =
        lines.take_while(|line| line.starts_with(' ')).map(|line| line.trim().replace(':', "")).collect();
    let bytes: Vec<u8> = (0..digits.len() / 2)
        .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    assert!(bytes.len() >= 32, "{text}");
    bytes[bytes.len() - 32..].to_vec()
}

/// Ends loads, of which no handshake may have failed.
fn assert_all_shook_hands(loads: Vec<Load>) {
    for load in loads {
        let attempts = load.stop();
        let failed: Vec<_> = attempts.iter().filter(|attempt| attempt.result.is_err()).collect();
        assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), attempts.len(), failed[0]);
        assert!(!attempts.is_empty());
    }
}
