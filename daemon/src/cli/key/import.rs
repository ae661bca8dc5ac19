//! `keyward key import`: a private key from a file, with its certificates if the file has any.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use hyper::StatusCode;
use hyper::body::Bytes;
use keyward_proto::{Label, Use};
use keyward_unit::{ImportError, KeyFile};
use zeroize::Zeroizing;

use super::bulk::{Entry, Missed, make_all, read_list};
use super::create::Properties;
use super::named::{Named, NamedOrListed, for_daemon};
use super::print::print_key;
use crate::admin::api::KeyView;
use crate::admin::client::{AdminClient, AdminClientError};
use crate::admin::request;
use crate::cli::chain_warnings::warn_of_chain;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::input::read_input;
use crate::cli::output::{note, print_json, warn};
use crate::cli::passphrase;
use crate::ground::exit;
use crate::ground::hardening;
use crate::keys::State;
use crate::keys::certificates::{Chain, InvalidChain};

#[derive(Args, Debug)]
pub(in crate::cli) struct Import {
    #[command(flatten)]
    key: NamedOrListed,
    /// File with the private key: PKCS#8, PKCS#1, SEC1 or OpenSSH in PEM or DER, or PKCS#12; the
    /// certificates of the key in the file are attached; - for standard input
    #[arg(long = "in", value_name = "FILE", required_unless_present = "from", conflicts_with = "from")]
    file: Option<PathBuf>,
    #[command(flatten)]
    passphrase: passphrase::Source,
    #[command(flatten)]
    choice: Choice,
}

/// The private key in a file, and the key that it becomes.
#[derive(Args, Debug)]
struct Choice {
    /// Number of the private key, from 1, in a file with several; certificates of other keys are
    /// then ignored
    #[arg(long, value_name = "NUMBER")]
    index: Option<usize>,
    #[command(flatten)]
    properties: Properties,
    /// Import the key as a new version of an existing key, with the uses of that key; the new
    /// version becomes the current one
    #[arg(long, conflicts_with_all = ["uses", "sign_and_decrypt", "backend"])]
    new_version: bool,
}

/// A private key in a file.
struct Chosen {
    /// PKCS#8.
    plain: Zeroizing<Vec<u8>>,
    /// The public key as SubjectPublicKeyInfo.
    public: Vec<u8>,
    /// The certificates of the key in the file.
    chain: Option<Chain>,
}

impl Import {
    pub(super) fn run(self) -> Result<(), Failure> {
        hardening::harden().map_err(|error| {
            Failure::new(exit::OS, format_args!("cannot keep the key out of core dumps: {error}"))
        })?;
        let Self { key, file, passphrase, choice } = self;
        match key.split() {
            Ok(key) => choice.import_one(&key, &file.unwrap_or_default(), &passphrase),
            Err((list, client)) => choice.import_all(&list, client, &passphrase),
        }
    }
}

impl Choice {
    fn import_one(&self, key: &Named, file: &Path, passphrase: &passphrase::Source) -> Result<(), Failure> {
        let bytes = read_input(file)?;
        let attempt = format!("cannot import key {}", key.label);
        let Chosen { plain, chain, .. } = self
            .chosen(&bytes, || passphrase.read(file), &key.label, &key.client.runtime_dir)
            .map_err(|failure| failure.while_trying(&attempt))?;
        drop(bytes);
        let mut imported = key.call("import", |admin, label| self.send(admin, label, plain))?;
        if let Some(chain) = chain {
            let attached = key
                .call("attach the certificates in the file to", |admin, label| attach(admin, label, &chain));
            imported = attached.map_err(|failure| failure.while_trying(IMPORTED))?;
            match chain.certificates.len() {
                1 => note("the certificate in the file was attached to the key"),
                count => note(format_args!("{count} certificates in the file were attached to the key")),
            }
            warn_of_chain(&chain);
        }
        if key.client.json {
            print_json(&imported)?;
        } else {
            print_key(&imported)?;
        }
        if file != Path::new("-") {
            let command = for_daemon(format!("keyward key reference {}", key.label), &key.client.runtime_dir);
            note(format_args!(
                "{} still holds the private key: remove the file and its copies when every server has the reference ({command}), or keep it offline",
                file.display(),
            ));
        }
        Ok(())
    }

    /// Imports the keys of a list. The passphrase is that of each encrypted file.
    fn import_all(
        &self,
        list: &Path,
        client: Client,
        passphrase: &passphrase::Source,
    ) -> Result<(), Failure> {
        if list == Path::new("-") && passphrase.is_standard_input() {
            return Err(Failure::new(
                exit::USAGE,
                "the list and the passphrase cannot both be standard input",
            ));
        }
        let entries = read_list(list, true)?;
        // Read once, and never asked for: there can be many encrypted files.
        let passphrase = passphrase.read(Path::new("-"))?;
        let import = |admin: &AdminClient, Entry { label, file }: &Entry| -> Result<KeyView, Missed> {
            let bytes = read_input(file)?;
            let passphrase = || Ok(passphrase.clone());
            let Chosen { plain, public, chain } =
                self.chosen(&bytes, passphrase, label, &client.runtime_dir)?;
            drop(bytes);
            let imported = match self.send(admin, label.as_str(), plain) {
                // An earlier run may have imported this key, and have been interrupted.
                Err(AdminClientError::Refused { status, reason })
                    if status == StatusCode::CONFLICT
                        || (self.new_version && status == StatusCode::UNPROCESSABLE_ENTITY) =>
                {
                    let stored = admin.show(label.as_str())?;
                    if !self.is_done(&stored, &public) {
                        return Err(AdminClientError::Refused { status, reason }.into());
                    }
                    if stored.certified().is_some() {
                        return Ok(stored);
                    }
                    stored
                }
                sent => sent?,
            };
            let Some(chain) = chain else { return Ok(imported) };
            let attached = attach(admin, label.as_str(), &chain);
            Ok(attached.map_err(|error| {
                let attempt = format_args!("cannot attach the certificates in the file to key {label}");
                Failure::from(error).while_trying(attempt).while_trying(IMPORTED)
            })?)
        };
        let done = make_all(&entries, &client, ["import", "imported"], 1, |admin, some| {
            // Without an answer, nobody knows whether the key was imported.
            match some.first().map(|entry| import(admin, entry)) {
                Some(Err(missed)) if !missed.is_of_the_key() => Err(missed),
                first => Ok(first.into_iter().collect()),
            }
        });
        if done.made > 0 {
            note(
                "the files still hold the private keys: remove them and their copies when every server has the references, or keep them offline",
            );
        }
        done.result
    }

    /// The private key that the options choose.
    fn chosen(
        &self,
        bytes: &[u8],
        passphrase: impl FnOnce() -> Result<Option<Zeroizing<Vec<u8>>>, Failure>,
        label: &Label,
        runtime_dir: &Path,
    ) -> Result<Chosen, Failure> {
        let failed = |error: ImportError| Failure::new(exit::DATA, error);
        let file = match KeyFile::read(bytes, None) {
            Err(ImportError::Encrypted) => {
                let passphrase = passphrase()?;
                KeyFile::read(bytes, passphrase.as_ref().map(|passphrase| passphrase.as_slice()))
            }
            read => read,
        };
        let file = file.map_err(failed)?;
        let certificates = Chain::of_ders(file.certificates().to_vec());
        let ambiguous = |text: &str| {
            Failure::new(exit::DATA, format_args!("{text}: {}", listed(&file, certificates.as_ref().ok())))
        };
        let index = match (self.index, file.key_count()) {
            (None, 1) => 0,
            (None, _) => {
                return Err(ambiguous("the file has several private keys; choose one with --index NUMBER"));
            }
            (Some(number), count) if (1..=count).contains(&number) => number - 1,
            (Some(number), _) => {
                return Err(ambiguous(&format!("the file has no private key number {number}")));
            }
        };
        let plain = file.pkcs8(index).map_err(failed)?;
        let spki = file.spki(index).map_err(failed)?;
        let public = spki.to_vec();
        let chosen = |chain| Chosen { plain, public, chain };
        if file.certificates().is_empty() {
            return Ok(chosen(None));
        }
        let assembled = certificates.clone().and_then(|chain| chain.assembled(spki)).and_then(|chain| {
            chain.as_ref().map(Chain::check).transpose()?;
            Ok::<_, InvalidChain>(chain)
        });
        match assembled {
            Ok(Some(chain)) => Ok(chosen(Some(chain))),
            Ok(None) if self.index.is_none() => Err(ambiguous(
                "the certificates in the file are not for its private key; to import the key without them, add --index 1",
            )),
            Ok(None) => Ok(chosen(None)),
            Err(reason) => {
                let command = for_daemon(format!("keyward cert attach {label} --in CHAIN"), runtime_dir);
                warn(format_args!(
                    "the certificates in the file are not attached: {reason}; attach others: {command}"
                ));
                Ok(chosen(None))
            }
        }
    }

    /// True if a key is the one that this import would make: it signs, and is at the same place.
    fn is_done(&self, key: &KeyView, public: &[u8]) -> bool {
        let is_same = key.public_key(key.current).is_some_and(|known| known == public);
        let signs = key.state == State::Enabled.name() && key.deletion.is_none();
        let is_there = self.properties.backend.as_ref().is_none_or(|backend| *backend == key.backend);
        is_same && signs && is_there && self.has_uses(key)
    }

    /// True if a key has the uses that a new key would get.
    fn has_uses(&self, key: &KeyView) -> bool {
        let wanted: BTreeSet<_> = self.properties.uses.iter().map(|one| one.name()).collect();
        let wanted = if wanted.is_empty() { BTreeSet::from([Use::TlsServer.name()]) } else { wanted };
        self.new_version || key.uses.iter().map(String::as_str).collect::<BTreeSet<_>>() == wanted
    }

    fn send(
        &self,
        admin: &AdminClient,
        label: &str,
        plain: Zeroizing<Vec<u8>>,
    ) -> Result<KeyView, AdminClientError> {
        let Properties { uses, sign_and_decrypt, backend } = &self.properties;
        let import = request::Import {
            uses: uses.clone(),
            sign_and_decrypt: *sign_and_decrypt,
            backend: backend.clone(),
            new_version: self.new_version,
        };
        admin.import(label, &import, plain)
    }
}

/// Attaches the certificates to an imported key, and returns the changed key.
fn attach(admin: &AdminClient, label: &str, chain: &Chain) -> Result<KeyView, AdminClientError> {
    admin.attach(label, Bytes::from(chain.to_pem()))?;
    admin.show(label)
}

/// Begin of the reason why the certificates are not attached.
const IMPORTED: &str = "the key is imported, but";

/// The contents of a file, for a person who has to choose a key.
fn listed(file: &KeyFile, certificates: Option<&Chain>) -> String {
    let keys = (0..file.key_count()).map(|index| {
        let what = file.key_type(index).map_or_else(|error| error.to_string(), |known| known.to_string());
        format!("key {} ({what})", index + 1)
    });
    let certificates = certificates.iter().flat_map(|chain| &chain.certificates).map(|certificate| {
        let key = (0..file.key_count())
            .find(|index| file.spki(*index).is_ok_and(|spki| spki == certificate.spki()));
        let key = key.map(|index| format!(" for key {}", index + 1)).unwrap_or_default();
        format!("certificate of {:?}{key}", certificate.subject())
    });
    keys.chain(certificates).collect::<Vec<_>>().join(", ")
}
