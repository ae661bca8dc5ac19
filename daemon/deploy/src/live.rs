//! The files of servers: a directory for each generation, and a link to the one in use.
//!
//! ```text
//! /etc/keyward/live/shop -> shop.7
//! /etc/keyward/live/shop.7/fullchain.pem  cert.pem  chain.pem  key.pem  combined.pem
//! ```
//!
//! `key.pem` is a reference, so nothing here is secret. The link changes in one step, and always
//! leads to a whole generation. The one before is kept. A file `.told` in a generation says which
//! servers and which hook were told of it, whatever has ended or has changed meanwhile.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use keyward::keys::certificates::Certificate;
use keyward_plans::{Files, PLACEHOLDER};
use keyward_proto::{Label, Reference};
use pem_rfc7468::LineEnding;
use serde_json::{Value, json};
use thiserror::Error;

/// Reason why a generation cannot be written.
#[derive(Debug, Error)]
pub(crate) enum LiveError {
    #[error("cannot write {}: {}", .0.display(), .1)]
    Io(PathBuf, #[source] io::Error),
    #[error("the daemon sent a chain that is not certificates in PEM")]
    Chain,
    #[error("the daemon sent a reference that is none, or is for another key")]
    Reference,
}

/// The files of one generation.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Generation {
    certificates: Vec<String>,
    reference: String,
}

impl Generation {
    /// Checks the files of the daemon, and writes them anew: a server must not get anything but
    /// certificates, and the reference to the key of the first one.
    ///
    /// # Errors
    /// [`LiveError`] for other contents.
    pub(crate) fn of(files: &Files, key: &Label) -> Result<Self, LiveError> {
        if files.chain.len() > LONGEST_CHAIN {
            return Err(LiveError::Chain);
        }
        let (mut certificates, mut leaf) = (Vec::new(), None);
        for part in files
            .chain
            .split_inclusive("-----END CERTIFICATE-----\n")
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (label, der) = pem_rfc7468::decode_vec(part.as_bytes()).map_err(|_| LiveError::Chain)?;
            if label != "CERTIFICATE" || certificates.len() == MAX_CHAIN {
                return Err(LiveError::Chain);
            }
            let read = Certificate::from_der(&der).map_err(|_| LiveError::Chain)?;
            leaf.get_or_insert(read);
            let pem = pem_rfc7468::encode_string("CERTIFICATE", LineEnding::LF, &der);
            certificates.push(pem.map_err(|_| LiveError::Chain)?);
        }
        let reference = Reference::from_pem(&files.reference).map_err(|_| LiveError::Reference)?;
        let leaf = leaf.ok_or(LiveError::Chain)?;
        match reference.label() == key && reference.spki() == leaf.spki() {
            true => Ok(Self { certificates, reference: reference.to_pem() }),
            false => Err(LiveError::Reference),
        }
    }

    fn files(&self) -> [(&'static str, String); 5] {
        let all = self.certificates.concat();
        let (leaf, rest) =
            (self.certificates.first().cloned().unwrap_or_default(), self.certificates.get(1..));
        // OpenSSL finds a reference behind a certificate only while its error queue is empty.
        let combined = format!("{}{all}", self.reference);
        [
            ("fullchain.pem", all),
            ("cert.pem", leaf),
            ("chain.pem", rest.unwrap_or_default().concat()),
            ("key.pem", self.reference.clone()),
            ("combined.pem", combined),
        ]
    }

    /// True if the link of a plan leads to these files.
    pub(crate) fn is_in_use(&self, live: &Path, plan: &Label) -> bool {
        let directory = live.join(plan.as_str());
        self.files()
            .iter()
            .all(|(name, text)| fs::read(directory.join(name)).is_ok_and(|found| found == text.as_bytes()))
    }

    /// Writes the files as a new generation, and puts it in use.
    ///
    /// # Errors
    /// The error of the system. What was in use stays.
    pub(crate) fn put(&self, live: &Path, plan: &Label) -> Result<(), LiveError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |reason| LiveError::Io(path, reason)
        };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o755).create(live).map_err(io(live))?;
        let number = generations(live, plan).last().map_or(1, |(number, _)| number + 1);
        let name = format!("{plan}.{number}");
        let directory = live.join(&name);
        let written = || -> Result<(), LiveError> {
            fs::DirBuilder::new().mode(0o755).create(&directory).map_err(io(&directory))?;
            let files = self.files();
            for (name, text) in &files {
                let path = directory.join(name);
                let mut options = fs::OpenOptions::new();
                let file = options.write(true).create_new(true).mode(0o644).open(&path);
                let mut file = file.map_err(io(&path))?;
                file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io(&path))?;
            }
            File::open(&directory).and_then(|dir| dir.sync_all()).map_err(io(&directory))?;
            point(live, plan, Path::new(&name)).map_err(io(&live.join(plan.as_str())))
        };
        let is_in_use = || fs::read_link(live.join(plan.as_str())).is_ok_and(|link| link == Path::new(&name));
        if let Err(error) = written() {
            // The link may lead there already, although the disk was not told in time.
            if !is_in_use() {
                let _ = fs::remove_dir_all(&directory);
            }
            return Err(error);
        }
        Ok(())
    }
}

/// The servers and the hook that were told of a generation.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Told {
    /// Kinds of servers, by their names.
    pub(crate) servers: BTreeSet<String>,
    pub(crate) hook: Option<Vec<String>>,
}

impl Told {
    /// The servers and the hook that were told of the files in use. A file that is missing or
    /// damaged says that nobody was.
    pub(crate) fn read(live: &Path, plan: &Label) -> Self {
        let text = fs::read(live.join(plan.as_str()).join(TOLD)).unwrap_or_default();
        let value: Value = serde_json::from_slice(&text).unwrap_or_default();
        let words = |value: &Value| {
            let words = value.as_array().into_iter().flatten();
            words.filter_map(|word| word.as_str().map(str::to_owned)).collect::<Vec<_>>()
        };
        let hook = Some(&value["hook"]).filter(|hook| hook.is_array()).map(words);
        Self { servers: words(&value["servers"]).into_iter().collect(), hook }
    }

    /// Notes who was told of the files in use.
    ///
    /// # Errors
    /// The error of the system.
    pub(crate) fn write(&self, live: &Path, plan: &Label) -> io::Result<()> {
        let directory = live.join(plan.as_str());
        let part = directory.join(format!("{TOLD}.new"));
        fs::write(&part, json!({ "servers": self.servers, "hook": self.hook }).to_string())?;
        File::open(&part)?.sync_all()?;
        fs::rename(&part, directory.join(TOLD))
    }
}

/// The files in use as one text for the socket of HAProxy, which an empty line would end.
///
/// # Errors
/// The error of the system.
pub(crate) fn combined(live: &Path, plan: &Label) -> io::Result<String> {
    fs::read_to_string(live.join(plan.as_str()).join("combined.pem"))
}

/// The certificate in use; `None` if there is none.
pub(crate) fn certificate(live: &Path, plan: &Label) -> Option<Certificate> {
    let pem = fs::read_to_string(live.join(plan.as_str()).join("cert.pem")).ok()?;
    let (_, der) = pem_rfc7468::decode_vec(pem.trim().as_bytes()).ok()?;
    Certificate::from_der(&der).ok()
}

/// True for a certificate that the daemon has made, until there is one of an authority.
pub(crate) fn is_placeholder(certificate: &Certificate) -> bool {
    certificate.issuer() == PLACEHOLDER
}

/// True if the files of the daemon replace nothing that is in use: a placeholder is there for
/// servers without files, and a makeshift also for servers with a placeholder.
pub(crate) fn keeps_what_is_there(files: &Files, in_use: Option<&Certificate>) -> bool {
    match in_use {
        None => false,
        Some(in_use) => files.is_placeholder || files.is_makeshift && !is_placeholder(in_use),
    }
}

/// The newest generation before the one in use of which servers were told: they go back to that one
/// if they refuse the files in use. `None` if they were told of the files in use, or of none.
pub(crate) fn before(live: &Path, plan: &Label) -> Option<PathBuf> {
    let was_told = |name: &str| live.join(name).join(TOLD).exists();
    let current = fs::read_link(live.join(plan.as_str())).ok()?;
    let all = generations(live, plan);
    let at = all.iter().position(|(_, name)| current == Path::new(name))?;
    if was_told(&all.get(at)?.1) {
        return None;
    }
    let mut earlier = all.iter().take(at).rev();
    earlier.find(|(_, name)| was_told(name)).map(|(_, name)| PathBuf::from(name))
}

/// Gives a plan the files of `before` back, and removes those that a server has refused.
///
/// # Errors
/// The error of the system; the files stay as they are.
pub(crate) fn undo(live: &Path, plan: &Label, before: &Path) -> io::Result<()> {
    let refused = fs::read_link(live.join(plan.as_str()))?;
    point(live, plan, before)?;
    match generations(live, plan).into_iter().find(|(_, name)| Path::new(name) == refused) {
        Some((_, name)) if refused != before => fs::remove_dir_all(live.join(name)),
        _ => Ok(()),
    }
}

/// Leads the link of a plan to a generation.
///
/// # Errors
/// The error of the system; the link stays as it is.
fn point(live: &Path, plan: &Label, generation: &Path) -> io::Result<()> {
    let part = live.join(format!(".{plan}.new"));
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(generation, &part)?;
    fs::rename(&part, live.join(plan.as_str()))?;
    File::open(live)?.sync_all()
}

/// Removes generations except the one in use and the one before.
pub(crate) fn clean(live: &Path, plan: &Label) {
    let all = generations(live, plan);
    let current = fs::read_link(live.join(plan.as_str())).ok();
    let Some(at) = all.iter().position(|(_, name)| current.as_deref() == Some(Path::new(name))) else {
        return;
    };
    for (_, name) in
        all.iter().enumerate().filter(|(place, _)| *place != at && place + 1 != at).map(|(_, one)| one)
    {
        if let Err(error) = fs::remove_dir_all(live.join(name)) {
            tracing::warn!("cannot remove the old files in {}: {error}", live.join(name).display());
        }
    }
}

/// Generations of a plan with their numbers, ascending.
fn generations(live: &Path, plan: &Label) -> Vec<(u64, String)> {
    let entries = fs::read_dir(live).into_iter().flatten().flatten();
    // A link is another plan, whose name only looks like a generation.
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let names = directories.filter_map(|entry| entry.file_name().into_string().ok());
    let prefix = format!("{plan}.");
    let mut all: Vec<_> = names
        .filter_map(|name| {
            let number = name.strip_prefix(&prefix)?;
            let read = number.parse().ok().filter(|read: &u64| read.to_string() == number)?;
            Some((read, name))
        })
        .collect();
    all.sort_unstable();
    all
}

/// Name of the file in a generation that says who was told of it.
const TOLD: &str = ".told";
/// Longest chain, in bytes of PEM (64 KiB).
const LONGEST_CHAIN: usize = 64 << 10;
/// Maximum number of certificates of a chain, as in the daemon.
const MAX_CHAIN: usize = 10;

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::OnceLock;

    use super::*;

    fn files(chain: &str, reference: &str) -> Files {
        Files {
            plan: "shop".into(),
            chain: chain.into(),
            reference: reference.into(),
            certificate: String::new(),
            not_after: 0,
            is_placeholder: false,
            is_makeshift: false,
            servers: Vec::new(),
            hook: None,
            listeners: Vec::new(),
            server_name: String::new(),
        }
    }

    /// Certificates of one key, made with openssl, and the key as SubjectPublicKeyInfo.
    fn made() -> &'static (Vec<String>, Vec<u8>) {
        static MADE: OnceLock<(Vec<String>, Vec<u8>)> = OnceLock::new();
        MADE.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let key = dir.path().join("key");
            let openssl = |words: &[&str]| {
                let output = Command::new("openssl").args(words).arg(&key).output().unwrap();
                assert!(output.status.success(), "{output:?}");
                String::from_utf8(output.stdout).unwrap()
            };
            openssl(&["genpkey", "-algorithm", "ed25519", "-out"]);
            let certificates: Vec<_> = (0..7)
                .map(|number| {
                    let subject =
                        if number == 6 { format!("/{PLACEHOLDER}") } else { format!("/CN={number}") };
                    let pem = openssl(&["req", "-x509", "-subj", &subject, "-days", "2", "-key"]);
                    pem[pem.find("-----BEGIN").unwrap()..].to_owned()
                })
                .collect();
            let (_, der) = pem_rfc7468::decode_vec(certificates[0].trim().as_bytes()).unwrap();
            (certificates, Certificate::from_der(&der).unwrap().spki().to_vec())
        })
    }

    fn reference(label: &str) -> String {
        Reference::new(label.parse().unwrap(), 1, made().1.clone()).unwrap().to_pem()
    }

    fn certificate(number: usize) -> String {
        made().0[number].clone()
    }

    #[test]
    fn a_generation_replaces_the_one_before_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (live, plan): (_, Label) = (dir.path().join("live"), "shop".parse().unwrap());
        let generation = |number| {
            Generation::of(&files(&(certificate(number) + &certificate(0)), &reference("shop")), &plan)
                .unwrap()
        };
        let first = generation(1);
        assert!(!first.is_in_use(&live, &plan));
        first.put(&live, &plan).unwrap();
        assert_eq!(before(&live, &plan), None, "it is the first one");
        assert!(first.is_in_use(&live, &plan));
        let read = |name: &str| fs::read_to_string(live.join("shop").join(name)).unwrap();
        assert_eq!(read("fullchain.pem"), certificate(1) + &certificate(0));
        assert_eq!((read("cert.pem"), read("chain.pem")), (certificate(1), certificate(0)));
        let combined = read("combined.pem");
        let at = |label: &str| combined.find(&format!("-----BEGIN {label}-----")).unwrap();
        assert!(at("KEYWARD KEY") < at("CERTIFICATE"), "{combined}");
        assert!(combined == super::combined(&live, &plan).unwrap() && !combined.contains("\n\n"));
        let second = generation(2);
        second.put(&live, &plan).unwrap();
        assert_eq!(before(&live, &plan), None, "nobody was told of the first one");
        fs::write(live.join("shop.1").join(TOLD), "{}").unwrap();
        // The servers were told of the first one only. Whatever became of the deployer, they go
        // back to that one when they refuse the others.
        generation(3).put(&live, &plan).unwrap();
        assert_eq!(before(&live, &plan).unwrap(), Path::new("shop.1"));
        assert_eq!(Told::read(&live, &plan), Told::default());
        undo(&live, &plan, Path::new("shop.1")).unwrap();
        assert!(first.is_in_use(&live, &plan) && !live.join("shop.3").exists());
        assert_eq!(before(&live, &plan), None, "the servers were told");
        clean(&live, &plan);
        assert!(!live.join("shop.2").exists());
        let told = Told {
            servers: ["nginx".to_owned()].into(),
            hook: Some(vec!["/bin/hook".to_owned(), "a b".to_owned()]),
        };
        told.write(&live, &plan).unwrap();
        assert_eq!(Told::read(&live, &plan), told);
        // The link of another plan is no generation of this one, and a generation that lies behind
        // goes too.
        symlink("elsewhere", live.join("shop.5000")).unwrap();
        fs::create_dir(live.join("shop.999")).unwrap();
        for number in 3..6 {
            generation(number).put(&live, &plan).unwrap();
            clean(&live, &plan);
        }
        let mut names: Vec<_> = fs::read_dir(&live)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["shop", "shop.1001", "shop.1002", "shop.5000"]);
    }

    #[test]
    fn a_makeshift_replaces_nothing_but_a_placeholder() {
        let der = |pem: &str| pem_rfc7468::decode_vec(pem.trim().as_bytes()).unwrap().1;
        let real = Certificate::from_der(&der(&certificate(1))).unwrap();
        let placeholder = Certificate::from_der(&der(&made().0[6])).unwrap();
        assert!(is_placeholder(&placeholder) && !is_placeholder(&real));
        let keeps = |is_placeholder, is_makeshift| {
            let files = Files { is_placeholder, is_makeshift, ..files("", "") };
            [None, Some(&placeholder), Some(&real)].map(|in_use| keeps_what_is_there(&files, in_use))
        };
        assert_eq!(keeps(false, false), [false, false, false]);
        assert_eq!(keeps(false, true), [false, false, true]);
        assert_eq!(keeps(true, false), [false, true, true]);
    }

    #[test]
    fn a_server_gets_certificates_and_a_reference_and_nothing_else() {
        let plan = "shop".parse().unwrap();
        let refused = |chain: &str, reference: &str| Generation::of(&files(chain, reference), &plan).is_err();
        assert!(refused("", &reference("shop")) && refused("text", &reference("shop")));
        assert!(refused(&certificate(1), &reference("other")) && refused(&certificate(1), "text"));
        let other = pem_rfc7468::encode_string("PRIVATE KEY", LineEnding::LF, &[1; 40]).unwrap();
        assert!(
            refused(&other, &reference("shop")) && refused(&(certificate(1) + &other), &reference("shop"))
        );
        assert!(refused(&certificate(1).repeat(11), &reference("shop")));
        let (mut other_key, len) = (made().1.clone(), made().1.len());
        other_key[len - 1] ^= 1;
        let other_key = Reference::new("shop".parse().unwrap(), 1, other_key).unwrap().to_pem();
        assert!(refused(&certificate(1), &other_key), "the reference of another key");
        let bytes = pem_rfc7468::encode_string("CERTIFICATE", LineEnding::LF, &[1; 90]).unwrap();
        assert!(refused(&bytes, &reference("shop")), "bytes that are no certificate");
        // Commands for HAProxy behind an empty line.
        let commands = format!("{}\n\nshutdown sessions server x\n", certificate(1));
        assert!(refused(&commands, &reference("shop")));
    }
}
