//! The references that a configuration names, with their files and certificates.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use keyward_proto::Reference;

use super::told::{Key, Pair};
use super::{Finding, reference_in};
use crate::cli::output::{from_now, time};
use crate::ground::text::quoted;
use crate::keys::certificates::{Certificate, Chain};

/// The references that the files of a configuration hold.
#[derive(Default)]
pub(super) struct References {
    pub(super) found: Vec<Held>,
    /// Labels of URIs.
    pub(super) labels: Vec<String>,
    pub(super) damaged: Vec<(PathBuf, String)>,
    pub(super) unread: Vec<String>,
    /// Files with the certificate before the reference.
    pub(super) behind: Vec<PathBuf>,
    /// How many files hold a private key.
    pub(super) key_files: usize,
}

impl References {
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty() && self.labels.is_empty() && self.damaged.is_empty()
    }

    /// What the first one stands in, or is called.
    pub(super) fn first(&self) -> String {
        let file =
            self.found.iter().map(|one| &one.path).chain(self.damaged.iter().map(|(path, _)| path)).next();
        file.map_or_else(|| format!("keyward:{}", self.labels.concat()), |path| path.display().to_string())
    }
}

/// A reference and the certificate that it is used with.
pub(super) struct Held {
    pub(super) path: PathBuf,
    pub(super) reference: Reference,
    pub(super) certificate_path: Option<PathBuf>,
    pub(super) certificate: Option<Certificate>,
}

/// Reads the files of keys.
pub(super) fn references(pairs: &[Pair]) -> References {
    let mut references = References::default();
    for pair in pairs {
        let path = match &pair.key {
            Key::File(path) => path,
            Key::Label(label) => {
                references.labels.push(label.clone());
                continue;
            }
        };
        let text = match read_file(path) {
            Ok(text) => text,
            Err(why) => {
                references.unread.push(format!("{}: {why}", path.display()));
                continue;
            }
        };
        references.key_files += usize::from(super::holds_private_key(&text));
        let Some(start) = text.find(BEGIN) else { continue };
        match reference_in(&text[start..]) {
            Ok(reference) => {
                if text.find("-----BEGIN CERTIFICATE-----").is_some_and(|at| at < start) {
                    references.behind.push(path.clone());
                }
                let certificate_path = pair.certificate.clone();
                let certificate = certificate_path.as_deref().and_then(first_certificate);
                if certificate_path.is_none() {
                    references.unread.push(format!("the certificate of the reference in {}", path.display()));
                }
                references.found.push(Held { path: path.clone(), reference, certificate_path, certificate });
            }
            Err(error) => references.damaged.push((path.clone(), error)),
        }
    }
    references
}

/// The text of a file of a moderate length, if it is one.
fn read_file(path: &Path) -> Result<String, String> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(|error| error.to_string())?;
    let file = fs::File::from(file);
    if !file.metadata().is_ok_and(|found| found.is_file()) {
        return Err("it is no file".into());
    }
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The first certificate of a file, in which a reference may stand as well.
fn first_certificate(path: &Path) -> Option<Certificate> {
    let text = read_file(path).ok()?;
    Chain::read(text.as_bytes()).ok()?.certificates.into_iter().next()
}

/// What is wrong with the certificate of a reference.
pub(super) fn certificate(one: &Held) -> Option<Finding> {
    const CHECK: &str = super::openssl::CERTIFICATE;
    let path = one.certificate_path.as_ref()?.display();
    let label = one.reference.label();
    let Some(certificate) = &one.certificate else {
        let detail = format!("{path} holds no certificate that can be read");
        return Some(Finding::fail(CHECK, detail, "give the chain in PEM"));
    };
    if certificate.spki() != one.reference.spki() {
        return Some(Finding::fail(
            CHECK,
            format!(
                "the first certificate in {path} has another public key than the reference to key {label}"
            ),
            "put the certificate of the server itself first, or have one made for this key: keyward csr",
        ));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let end = certificate.not_after();
    let renew = format!("have it renewed: keyward csr {label}");
    if end < now {
        let detail = format!("the certificate in {path} has expired on {}, {}", time(end), from_now(end));
        return Some(Finding::fail(CHECK, detail, renew));
    }
    super::expiry::is_soon(certificate.not_before(), end, now).then(|| {
        Finding::warn(
            CHECK,
            format!("the certificate in {path} expires on {}, {}", time(end), from_now(end)),
            renew,
        )
    })
}

/// That others than its owner can put another reference in the place of one.
pub(super) fn writable(path: &Path) -> Option<Finding> {
    let found = fs::metadata(path).ok().filter(|found| found.mode() & 0o022 != 0)?;
    Some(Finding::warn(
        "reference",
        format!(
            "others than its owner can write to it (mode {:o}), and have the server fail",
            found.mode() & 0o7777
        ),
        format!("chmod go-w {}", quoted(path)),
    ))
}

const BEGIN: &str = "-----BEGIN KEYWARD KEY-----";
/// Longest file of a reference or a chain that is read, in bytes (1 MiB).
const LONGEST: u64 = 1024 * 1024;
