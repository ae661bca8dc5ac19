//! The private keys in the files of a server, and the keys of the daemon that they become.

mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hyper::body::Bytes;
use keyward_proto::{KeyType, Label, Reference, Use};
use keyward_unit::{ImportError, KeyFile};
use zeroize::Zeroizing;

use super::journal::{CERTBOT, Facts};
use super::running::real;
use super::tls;
use crate::admin::api::KeyView;
use crate::admin::client::{AdminClient, AdminClientError};
use crate::admin::request;
use crate::cli::failure::Failure;
use crate::ground::exit;
use crate::ground::text::quoted;
use crate::keys::State;
use crate::keys::certificates::Chain;
use files::{BEGIN_REFERENCE, certificates, contents, read};
pub(super) use files::{
    certificates_alone, has_passphrase, has_private_key, holds_dh_parameters, holds_key_or_reference,
    holds_private_key, names, passphrases, public_blocks, reference,
};

/// A private key that a server reads from files, and its key in the daemon.
pub(super) struct PlannedKey {
    pub(super) label: Label,
    pub(super) key_type: KeyType,
    spki: Vec<u8>,
    /// PKCS#8 in DER.
    plain: Zeroizing<Vec<u8>>,
    chain: Option<Chain>,
    pub(super) uses: BTreeSet<Use>,
    /// Files that hold the key.
    pub(super) files: BTreeSet<PathBuf>,
    /// The key of the daemon that has this private key already, and its version.
    known: Option<(KeyView, u32)>,
}

/// A private key file of a server, before the keys of the daemon are known.
pub(super) struct Wanted {
    pub(super) file: PathBuf,
    pub(super) certificate: Option<PathBuf>,
    pub(super) uses: BTreeSet<Use>,
    /// Names of the server, for the label.
    pub(super) names: Vec<String>,
    /// Passphrases of the server for its files.
    pub(super) passphrases: Vec<Zeroizing<Vec<u8>>>,
}

/// The keys of a server.
#[derive(Default)]
pub(super) struct Keys {
    pub(super) planned: Vec<PlannedKey>,
    /// Number of the planned key in each file.
    pub(super) of_file: BTreeMap<PathBuf, usize>,
    /// Files of the certificates of these keys, and of the references.
    pub(super) certificates: BTreeSet<PathBuf>,
    /// Facts about these files at the time of their reading.
    pub(super) facts: BTreeMap<PathBuf, Facts>,
    /// Files that hold a reference already.
    pub(super) references: BTreeMap<PathBuf, Present>,
}

/// A reference that a server names already.
pub(super) struct Present {
    /// The file of its certificate.
    pub(super) certificate: Option<PathBuf>,
    /// Uses that the server needs.
    pub(super) uses: BTreeSet<Use>,
}

impl Keys {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Failure`] names the first file that cannot be used.
    pub(super) fn read(wanted: Vec<Wanted>) -> Result<Self, Failure> {
        let mut keys = Self::default();
        let mut names = Vec::new();
        for wanted in wanted {
            let (bytes, facts) = read(&wanted.file).map_err(|failure| failure.or_else(OTHER_SITES))?;
            keys.certificates.extend(wanted.certificate.clone());
            if bytes.windows(BEGIN_REFERENCE.len()).any(|part| part == BEGIN_REFERENCE) {
                if let Some(certificate) = &wanted.certificate {
                    check_reference(&wanted.file, certificate)?;
                }
                let is_rsa = reference(&wanted.file)
                    .is_some_and(|reference| tls::is_rsa(reference.public_key().key_type()));
                let Wanted { file, certificate, mut uses, .. } = wanted;
                uses.retain(|one| is_rsa || *one != Use::RsaKeyExchange);
                keys.references.insert(file, Present { certificate, uses });
                continue;
            }
            let read = private_key(&wanted, &bytes).map_err(|reason| {
                Failure::new(
                    exit::DATA,
                    format_args!("cannot use the key in {}: {reason}", wanted.file.display()),
                )
                .or_else(OTHER_SITES)
            })?;
            let at = match keys.planned.iter().position(|known| known.spki == read.spki) {
                Some(at) => at,
                None => {
                    keys.planned.push(read);
                    names.push(Vec::new());
                    keys.planned.len() - 1
                }
            };
            let planned = &mut keys.planned[at];
            planned.uses.extend(wanted.uses);
            planned.files.insert(wanted.file.clone());
            names[at].extend(wanted.names);
            keys.facts.insert(wanted.file.clone(), facts);
            keys.of_file.insert(wanted.file, at);
        }
        // Only an RSA key decrypts.
        for key in keys.planned.iter_mut().filter(|key| !tls::is_rsa(key.key_type)) {
            key.uses.remove(&Use::RsaKeyExchange);
        }
        keys.name(&names);
        Ok(keys)
    }

    /// True if certbot renews one of the keys.
    pub(super) fn has_file_of_certbot(&self) -> bool {
        self.of_file.keys().any(|file| file.starts_with(CERTBOT) || real(file).starts_with(CERTBOT))
    }

    /// Checks that nobody has changed a key file since it was read.
    ///
    /// # Errors
    /// [`Failure`] names the file.
    pub(super) fn check_unchanged(&self) -> Result<(), Failure> {
        match self.facts.iter().find(|(path, facts)| !facts.hold_for(path)) {
            None => Ok(()),
            Some((path, _)) => {
                let why = format_args!("{} was changed just now; run the command again", path.display());
                Err(Failure::new(exit::CONFIG, why))
            }
        }
    }

    /// Adds a file of certificates, if it holds a planned private key in plain form as well.
    /// Returns the number of the key.
    ///
    /// # Errors
    /// [`Failure`] if the file cannot be read.
    pub(super) fn add_combined(&mut self, path: &Path) -> Result<Option<usize>, Failure> {
        if let Some(number) = self.of_file.get(path) {
            return Ok(Some(*number));
        }
        let (bytes, facts) = read(path)?;
        let file = KeyFile::read(&bytes, None).ok().filter(|file| file.key_count() == 1);
        let spki = file.as_ref().and_then(|file| file.spki(0).ok());
        let number = self.planned.iter().position(|key| spki.is_some_and(|spki| spki == key.spki));
        if number.is_some() {
            self.facts.insert(path.to_owned(), facts);
        }
        Ok(number)
    }

    /// Chooses the labels: the first name of the server, with the type of the key where several
    /// keys have the same first name.
    fn name(&mut self, names: &[Vec<String>]) {
        let stems: Vec<String> =
            self.planned.iter().zip(names).map(|(key, names)| stem(key, names)).collect();
        for (at, key) in self.planned.iter_mut().enumerate() {
            let is_alone = stems.iter().filter(|stem| **stem == stems[at]).count() == 1;
            let label = if is_alone { stems[at].clone() } else { format!("{}-{}", stems[at], key.key_type) };
            key.label = label.parse().unwrap_or_else(|_| key.label.clone());
        }
    }

    /// Finds the keys that the daemon has already, and labels that are free.
    ///
    /// # Errors
    /// [`Failure`] if the daemon does not answer.
    pub(super) fn compare(&mut self, admin: &AdminClient) -> Result<(), Failure> {
        let (views, _) = admin.list()?;
        let mut taken: BTreeSet<String> = views.iter().map(|view| view.label.clone()).collect();
        for key in &mut self.planned {
            let with_key = |view: &KeyView| {
                let mut numbers = view.versions.iter().map(|version| version.number);
                numbers.find(|number| view.public_key(*number).is_some_and(|spki| spki == key.spki))
            };
            if let Some((label, number)) =
                views.iter().find_map(|view| Some((view.label.clone(), with_key(view)?)))
            {
                let view = admin.show(&label)?;
                if view.deletion.is_none() {
                    check_signs(&view, &key.files)?;
                }
                key.label = label.parse().unwrap_or_else(|_| key.label.clone());
                key.known = Some((view, number));
                continue;
            }
            let wanted = key.label.to_string();
            let numbered = (2..).map(|number| format!("{wanted}-{number}"));
            let free = [wanted.clone()].into_iter().chain(numbered).find(|label| !taken.contains(label));
            key.label = free.and_then(|label| label.parse().ok()).unwrap_or_else(|| key.label.clone());
            taken.insert(key.label.to_string());
        }
        Ok(())
    }
}

impl PlannedKey {
    /// SubjectPublicKeyInfo in DER.
    pub(super) fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// True if the daemon has this key already.
    pub(super) fn is_known(&self) -> bool {
        self.known.is_some()
    }

    /// True if the daemon has this key, and it was deleted: it comes back.
    pub(super) fn is_deleted(&self) -> bool {
        self.known.as_ref().is_some_and(|(view, _)| view.deletion.is_some())
    }

    /// Has the daemon take the key, with the uses that it needs. Returns the reference, and true if
    /// the key is new.
    ///
    /// # Errors
    /// [`Failure`] has the error of the daemon.
    pub(super) fn take(&self, admin: &AdminClient) -> Result<(Reference, bool), Failure> {
        let label = self.label.as_str();
        let (view, number, is_new) = match &self.known {
            Some((view, number)) => {
                let view = if view.deletion.is_some() { admin.restore(label)? } else { admin.show(label)? };
                check_signs(&view, &self.files)?;
                (self.with_uses(admin, view)?, *number, false)
            }
            None => {
                let import = request::Import {
                    uses: self.uses.iter().copied().collect(),
                    sign_and_decrypt: self.uses.contains(&Use::RsaKeyExchange),
                    ..request::Import::default()
                };
                let view = admin.import(label, &import, self.plain.clone())?;
                let number = view.current;
                (view, number, true)
            }
        };
        if let Some(chain) = &self.chain {
            attach(admin, &view, number, chain)?;
        }
        let reference = view.reference(number).filter(|reference| reference.spki() == self.spki);
        let reference = reference.ok_or_else(|| {
            Failure::new(exit::SOFTWARE, format_args!("the daemon sent another public key for key {label}"))
        })?;
        Ok((reference, is_new))
    }

    /// Adds the uses that the key lacks.
    fn with_uses(&self, admin: &AdminClient, view: KeyView) -> Result<KeyView, AdminClientError> {
        let has = |one: &Use| view.uses.iter().any(|known| known == one.name());
        if self.uses.iter().all(has) {
            return Ok(view);
        }
        let known = view.uses.iter().filter_map(|known| known.parse::<Use>().ok());
        let uses: BTreeSet<Use> = known.chain(self.uses.iter().copied()).collect();
        let sign_and_decrypt = uses.contains(&Use::RsaKeyExchange);
        let change = request::Change {
            uses: Some(uses.into_iter().collect()),
            sign_and_decrypt,
            ..request::Change::default()
        };
        admin.change(self.label.as_str(), &change)
    }
}

/// Attaches the certificates that a server reads to a version of a key, unless the version has
/// these or newer ones. Returns true if they are attached now.
fn attach(admin: &AdminClient, key: &KeyView, number: u32, chain: &Chain) -> Result<bool, Failure> {
    let Some(leaf) = chain.certificates.first() else { return Ok(false) };
    let version = key.versions.iter().find(|version| version.number == number);
    let known = version.and_then(|version| version.certificate.as_ref());
    let is_older = known
        .is_some_and(|known| known.fingerprint == leaf.fingerprint() || leaf.not_before() < known.not_before);
    if is_older {
        return Ok(false);
    }
    admin.attach(&key.label, Bytes::from(chain.to_pem()))?;
    Ok(true)
}

/// Attaches the certificates that a server reads beside a reference to the key. Returns the label
/// if these are new.
///
/// # Errors
/// [`Failure`] if the daemon does not answer.
pub(super) fn attach_present(
    admin: &AdminClient,
    reference: &Path,
    certificate: &Path,
) -> Result<Option<Label>, Failure> {
    let chain = contents(certificate).ok().and_then(|bytes| certificates(&bytes).ok());
    // A chain that the daemon does not take is no reason for an error.
    let chain = chain.filter(|chain| chain.check().is_ok());
    let (Some(chain), Some(reference)) = (chain, self::reference(reference)) else { return Ok(None) };
    let key = admin.show(reference.label().as_str())?;
    let is_new = key.deletion.is_none() && attach(admin, &key, reference.version(), &chain)?;
    Ok(is_new.then(|| reference.label().clone()))
}

/// Checks that a reference is for the key of a certificate. A renewal with a new key gives a server
/// another certificate, and the reference stays.
fn check_reference(file: &Path, certificate: &Path) -> Result<(), Failure> {
    let chain = contents(certificate).ok().and_then(|bytes| certificates(&bytes).ok());
    let leaf = chain.as_ref().and_then(|chain| chain.certificates.first());
    let (Some(leaf), Some(reference)) = (leaf, reference(file)) else { return Ok(()) };
    match leaf.spki() == reference.spki() {
        true => Ok(()),
        false => {
            let reason = format_args!(
                "the certificate in {} is for another key than the reference in {}; {}",
                certificate.display(),
                file.display(),
                other_key(file)
            );
            Err(Failure::new(exit::CONFIG, reason))
        }
    }
}

/// The commands that give a file the reference to the key of a renewed certificate.
pub(super) fn other_key(file: &Path) -> String {
    let label = reference(file).map_or_else(|| "LABEL".to_owned(), |reference| reference.label().to_string());
    let file = quoted(file);
    let key_file = file.strip_suffix(".keyward.pem").unwrap_or("KEYFILE");
    format!(
        "if a renewal has made a new key: keyward key import {label} --new-version --in {key_file} && keyward key reference {label} > {file}; then reload the server; docs/certbot.md has a hook that does so at each renewal"
    )
}

/// Refuses a key of the daemon that signs for nobody, before a server needs it.
fn check_signs(key: &KeyView, files: &BTreeSet<PathBuf>) -> Result<(), Failure> {
    if key.state == "enabled" {
        return Ok(());
    }
    let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    let label = &key.label;
    let what_to_do = match State::of_name(&key.state) {
        Some(State::Disabled) => format!("keyward key enable {label}, and run this command again"),
        Some(State::Compromised) => "give the server a new key and a new certificate".to_owned(),
        _ => format!("keyward key show {label} says more"),
    };
    let reason = format_args!(
        "the private key in {} is key {label} of the daemon, which is {}, so handshakes would fail: {what_to_do}",
        files.join(" and "),
        key.state
    );
    Err(Failure::new(exit::CONFIG, reason))
}

/// Reads the private key of a file with the passphrases of the server.
fn private_key(wanted: &Wanted, bytes: &[u8]) -> Result<PlannedKey, String> {
    let explained = |error: ImportError| error.to_string();
    let mut read = KeyFile::read(bytes, None);
    for passphrase in &wanted.passphrases {
        if !matches!(read, Err(ImportError::Encrypted | ImportError::Passphrase)) {
            break;
        }
        read = KeyFile::read(bytes, Some(passphrase));
    }
    let file = match read {
        Err(ImportError::Encrypted) => {
            let file = wanted.file.display();
            return Err(format!(
                "it has a passphrase, which this command takes from ssl_password_file of nginx alone; decrypt it (openssl pkey -in {file} -out {file}.plain), name the new file in the configuration, reload the server, and run this command again"
            ));
        }
        read => read.map_err(explained)?,
    };
    if file.key_count() != 1 {
        return Err(format!("it holds {} private keys", file.key_count()));
    }
    let spki = file.spki(0).map_err(explained)?.to_vec();
    let chain = match &wanted.certificate {
        None => None,
        Some(path) => {
            let bytes = contents(path).map_err(Failure::into_reason)?;
            let chain = certificates(&bytes)
                .map_err(|error| format!("its certificate in {}: {error}", path.display()))?;
            let is_of_key = chain.certificates.first().is_some_and(|leaf| leaf.spki() == spki);
            if !is_of_key {
                return Err(format!("the first certificate in {} is for another key", path.display()));
            }
            // A chain that the daemon does not take is no reason to leave the key in a file.
            chain.check().is_ok().then_some(chain)
        }
    };
    Ok(PlannedKey {
        label: FALLBACK.parse().map_err(|error| format!("{error}"))?,
        key_type: file.key_type(0).map_err(explained)?,
        spki,
        plain: file.pkcs8(0).map_err(explained)?,
        chain,
        uses: BTreeSet::new(),
        files: BTreeSet::new(),
        known: None,
    })
}

/// A text for the label of a key: the first name of its servers that can be one, or the first name
/// of its certificate, or the name of its file.
fn stem(key: &PlannedKey, names: &[String]) -> String {
    let leaf = key.chain.as_ref().and_then(|chain| chain.certificates.first());
    let of_leaf = leaf.map(|leaf| leaf.names().to_vec()).unwrap_or_default();
    let of_file = key.files.first().and_then(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
    let all = names.iter().chain(&of_leaf).cloned().chain(of_file);
    let all = all.map(|name| match name.strip_prefix("*.") {
        Some(rest) => format!("wildcard.{rest}"),
        None => name.trim_start_matches('.').to_owned(),
    });
    // The types of keys need some room.
    let fits = |name: &String| name != "_" && name.len() <= 100 && name.parse::<Label>().is_ok();
    all.into_iter().find(fits).unwrap_or_else(|| FALLBACK.to_owned())
}

/// Label of a key without any other name.
const FALLBACK: &str = "server";
/// A note for a server with key files of certbot.
pub(super) const CERTBOT_RENEWS: &str = "certbot writes a new key at each renewal, which the reference does not fit: before the next renewal, install the hook that takes the key in, with the label of the key above: docs/certbot.md, After keyward protect";

/// The way to leave a site with an unusable key as it is.
const OTHER_SITES: &str = "--site NAME chooses the other sites";

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_was_changed_since_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shop.key");
        fs::write(&path, "one").unwrap();
        let (_, facts) = read(&path).unwrap();
        let keys = Keys { facts: [(path.clone(), facts)].into_iter().collect(), ..Keys::default() };
        assert!(keys.check_unchanged().is_ok());
        let other = directory.path().join("other");
        fs::write(&other, "two").unwrap();
        fs::rename(&other, &path).unwrap();
        let refused = keys.check_unchanged().unwrap_err().into_reason();
        assert!(refused.contains("shop.key was changed just now"), "{refused}");
    }
}
