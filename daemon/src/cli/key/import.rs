//! `keyward key import`: a private key from a file, with its certificates if the file has any.

use std::path::{Path, PathBuf};

use clap::Args;
use hyper::body::Bytes;
use keyward_unit::{ImportError, KeyFile};
use zeroize::Zeroizing;

use super::create::Properties;
use super::named::{Named, for_daemon};
use super::print::print_key;
use crate::admin::api::KeyView;
use crate::admin::client::{AdminClient, AdminClientError};
use crate::admin::request;
use crate::cli::chain_warnings::warn_of_chain;
use crate::cli::failure::Failure;
use crate::cli::input::read_input;
use crate::cli::output::{note, print_json, warn};
use crate::cli::passphrase;
use crate::ground::exit;
use crate::ground::hardening;
use crate::keys::certificates::{Chain, InvalidChain};

#[derive(Args, Debug)]
pub(in crate::cli) struct Import {
    #[command(flatten)]
    key: Named,
    /// File with the private key: PKCS#8, PKCS#1, SEC1 or OpenSSH in PEM or DER, or PKCS#12; the
    /// certificates of the key in the file are attached; - for standard input
    #[arg(long = "in", value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    passphrase: passphrase::Source,
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

impl Import {
    pub(super) fn run(self) -> Result<(), Failure> {
        hardening::harden().map_err(|error| {
            Failure::new(exit::OS, format_args!("cannot keep the key out of core dumps: {error}"))
        })?;
        let bytes = read_input(&self.file)?;
        let attempt = format!("cannot import key {}", self.key.label);
        let (plain, chain) = self.chosen(&bytes).map_err(|failure| failure.while_trying(&attempt))?;
        drop(bytes);
        let key = self.key.call("import", |admin, label| self.send(admin, label, plain))?;
        let key = match chain {
            Some(chain) => self.attach(&chain)?,
            None => key,
        };
        if self.key.client.json {
            print_json(&key)?;
        } else {
            print_key(&key)?;
        }
        if self.file != Path::new("-") {
            let command =
                for_daemon(format!("keyward key reference {}", self.key.label), &self.key.client.runtime_dir);
            note(format_args!(
                "{} still holds the private key: remove the file and its copies when every server has the reference ({command}), or keep it offline",
                self.file.display(),
            ));
        }
        Ok(())
    }

    /// The private key that the options choose, as PKCS#8, and its certificates.
    fn chosen(&self, bytes: &[u8]) -> Result<(Zeroizing<Vec<u8>>, Option<Chain>), Failure> {
        let failed = |error: ImportError| Failure::new(exit::DATA, error);
        let file = match KeyFile::read(bytes, None) {
            Err(ImportError::Encrypted) => {
                let passphrase = self.passphrase.read(&self.file)?;
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
        if file.certificates().is_empty() {
            return Ok((plain, None));
        }
        let assembled = certificates.clone().and_then(|chain| chain.assembled(spki)).and_then(|chain| {
            chain.as_ref().map(Chain::check).transpose()?;
            Ok::<_, InvalidChain>(chain)
        });
        match assembled {
            Ok(Some(chain)) => Ok((plain, Some(chain))),
            Ok(None) if self.index.is_none() => Err(ambiguous(
                "the certificates in the file are not for its private key; to import the key without them, add --index 1",
            )),
            Ok(None) => Ok((plain, None)),
            Err(reason) => {
                let command = for_daemon(
                    format!("keyward cert attach {} --in CHAIN", self.key.label),
                    &self.key.client.runtime_dir,
                );
                warn(format_args!(
                    "the certificates in the file are not attached: {reason}; attach others: {command}"
                ));
                Ok((plain, None))
            }
        }
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

    /// Attaches the certificates, and returns the changed key.
    fn attach(&self, chain: &Chain) -> Result<KeyView, Failure> {
        let attached = self.key.call("attach the certificates in the file to", |admin, label| {
            admin.attach(label, Bytes::from(chain.to_pem()))?;
            admin.show(label)
        });
        let key = attached.map_err(|failure| failure.while_trying("the key is imported, but"))?;
        match chain.certificates.len() {
            1 => note("the certificate in the file was attached to the key"),
            count => note(format_args!("{count} certificates in the file were attached to the key")),
        }
        warn_of_chain(chain);
        Ok(key)
    }
}

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
