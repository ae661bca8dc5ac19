//! The keys that a server is configured with: references, labels and key files, and their
//! certificates.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use keyward_proto::Reference;

use super::files::read_start;
use super::finding::Finding;
use super::server_conf::{ConfiguredKey, KeySource};
use super::{expiry, openssl_program, reference};
use crate::admin::api::KeyView;
use crate::cli::key::for_daemon;
use crate::cli::output::{from_now, time};
use crate::cli::protect::health;
use crate::ground::text::quoted;
use crate::keys::certificates::{Certificate, Chain};
use crate::keys::expiry::is_soon;

/// Keys of a configuration, by the contents of their files.
#[derive(Default)]
pub(super) struct ServerKeys {
    pub(super) references: Vec<ServerReference>,
    /// Labels in URIs.
    pub(super) labels: Vec<String>,
    /// Files with a damaged reference, and the damage.
    pub(super) damaged: Vec<(PathBuf, String)>,
    /// Files that do not exist.
    pub(super) missing: Vec<PathBuf>,
    /// Files that were not read, with the reasons.
    pub(super) unread: Vec<String>,
    /// Files in which a certificate stands before the reference.
    pub(super) certificate_first: Vec<PathBuf>,
    /// Files that hold a private key, each with the public key of its certificate, if known.
    pub(super) private_keys: Vec<(PathBuf, Option<Vec<u8>>)>,
}

/// A reference in a file, and the certificate that the server uses with it.
pub(super) struct ServerReference {
    pub(super) path: PathBuf,
    pub(super) reference: Reference,
    certificate_path: Option<PathBuf>,
    pub(super) certificate: Option<Certificate>,
}

impl ServerKeys {
    /// Reads the files of the keys.
    pub(super) fn read(configured: &[ConfiguredKey]) -> Self {
        let mut keys = Self::default();
        for key in configured {
            match &key.source {
                KeySource::File(path) => keys.add_file(path, key.certificate.as_deref()),
                KeySource::Label(label) => keys.labels.push(label.clone()),
            }
        }
        keys
    }

    /// True if the configuration names no key of the daemon.
    pub(super) fn is_empty(&self) -> bool {
        self.references.is_empty() && self.labels.is_empty() && self.damaged.is_empty()
    }

    /// True if the configuration names no key of the daemon, and every file that it names was read.
    pub(super) fn names_nothing(&self) -> bool {
        self.is_empty() && self.missing.is_empty() && self.unread.is_empty()
    }

    /// File or URI of the first key of the daemon.
    pub(super) fn first(&self) -> String {
        let references = self.references.iter().map(|one| &one.path);
        let file = references.chain(self.damaged.iter().map(|(path, _)| path)).next();
        file.map_or_else(|| format!("keyward:{}", self.labels.concat()), |path| path.display().to_string())
    }

    fn add_file(&mut self, path: &Path, certificate_path: Option<&Path>) {
        let text = match read_start(path) {
            Ok(text) => text,
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                self.missing.push(path.to_owned());
                return;
            }
            Err(why) => {
                self.unread.push(format!("{}: {why}", path.display()));
                return;
            }
        };
        if reference::holds_private_key(&text) {
            let certificate = certificate_path.and_then(first_certificate);
            let spki = certificate.map(|certificate| certificate.spki().to_vec());
            self.private_keys.push((path.to_owned(), spki));
        }
        let Some(start) = text.find(reference::BEGIN) else { return };
        let reference = match reference::parse(&text[start..]) {
            Ok(reference) => reference,
            Err(error) => {
                self.damaged.push((path.to_owned(), error));
                return;
            }
        };
        if text.find("-----BEGIN CERTIFICATE-----").is_some_and(|at| at < start) {
            self.certificate_first.push(path.to_owned());
        }
        if certificate_path.is_none() {
            self.unread.push(format!("the certificate of the reference in {}", path.display()));
        }
        self.references.push(ServerReference {
            path: path.to_owned(),
            reference,
            certificate_path: certificate_path.map(Path::to_owned),
            certificate: certificate_path.and_then(first_certificate),
        });
    }
}

impl ServerReference {
    /// Checks that the certificate is for the key, valid, and the same as the copy that the daemon
    /// has. `key` is the key in the daemon, if known.
    pub(super) fn check_certificate(&self, key: Option<&KeyView>, runtime_dir: &Path) -> Option<Finding> {
        const CHECK: &str = openssl_program::CERTIFICATE;
        let path = self.certificate_path.as_ref()?.display();
        let label = self.reference.label();
        let request = expiry::how_to_request(key, label.as_str(), runtime_dir);
        let Some(certificate) = &self.certificate else {
            let detail = format!("{path} holds no certificate that can be read");
            return Some(Finding::fail(CHECK, detail, "put the chain there in PEM"));
        };
        if certificate.spki() != self.reference.spki() {
            return Some(Finding::fail(
                CHECK,
                format!(
                    "the first certificate in {path} has another public key than the reference to key {label}"
                ),
                format!(
                    "put the certificate of the server itself first; {}; for a certificate of the old key: {request}",
                    health::commands_for_new_key(&self.path)
                ),
            ));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let end = certificate.not_after();
        let renew = format!("renew it: {request}");
        if end < now {
            let detail = format!("the certificate in {path} has expired on {}, {}", time(end), from_now(end));
            return Some(Finding::fail(CHECK, detail, renew));
        }
        // The daemon watches its copy.
        let used = self.reference.version();
        let copy = key.and_then(|key| {
            let version = key.versions.iter().find(|one| one.number == used)?;
            version.certificate.as_ref()
        });
        let file = self.certificate_path.as_deref().map(quoted).unwrap_or_default();
        let attach = for_daemon(format!("keyward cert attach {label} --in {file}"), runtime_dir);
        let older = key.and_then(KeyView::certified).filter(|(number, _)| copy.is_none() && *number < used);
        if let Some((number, _)) = older {
            return Some(Finding::warn(
                CHECK,
                format!(
                    "the daemon has no copy of the certificate in {path} for version {used} of key {label}: keyward status and \
                     the metrics show the date of version {number}"
                ),
                format!("give it the copy: {attach}"),
            ));
        }
        if let Some(copy) = copy.filter(|copy| copy.fingerprint != certificate.fingerprint()) {
            return Some(Finding::warn(
                CHECK,
                format!(
                    "{path} has another certificate for key {label} than the daemon: that file expires on {}, and the copy in \
                     the daemon, whose date keyward status, keyward cert check and the metrics show, on {}",
                    time(end),
                    time(copy.not_after)
                ),
                match end < copy.not_after {
                    true => format!(
                        "put the certificate of the daemon into {path} and reload the server; or else: {attach}"
                    ),
                    false => format!("refresh the copy: {attach}"),
                },
            ));
        }
        is_soon(certificate.not_before(), end, now).then(|| {
            Finding::warn(
                CHECK,
                format!("the certificate in {path} expires on {}, {}", time(end), from_now(end)),
                renew,
            )
        })
    }

    /// Warns if others than the owner can replace the reference.
    pub(super) fn check_permissions(&self) -> Option<Finding> {
        let found = fs::metadata(&self.path).ok().filter(|found| found.mode() & 0o022 != 0)?;
        Some(Finding::warn(
            reference::CHECK,
            format!(
                "others than its owner can write to it (mode {:o}), so they can make the server fail",
                found.mode() & 0o7777
            ),
            format!("chmod go-w {}", quoted(&self.path)),
        ))
    }
}

/// The first certificate of a file, which may hold a reference as well.
fn first_certificate(path: &Path) -> Option<Certificate> {
    let text = read_start(path).ok()?;
    Chain::read(text.as_bytes()).ok()?.certificates.into_iter().next()
}
