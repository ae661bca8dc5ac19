//! `keyward key generate` and `keyward key adopt`: keys that a unit makes, or has already made.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use keyward_proto::{KeyType, Use};

use super::bulk::{Missed, make_all, read_list};
use super::named::{Named, NamedOrListed};
use super::uses::one_use;
use crate::admin::api::{MAX_KEY_FILE, most_labels};
use crate::admin::request;
use crate::cli::failure::Failure;

#[derive(Args, Debug)]
pub(in crate::cli) struct Generate {
    #[command(flatten)]
    key: NamedOrListed,
    /// Type of the key: p256, p384, p521, ed25519, rsa2048, rsa3072, rsa4096, rsa-pss2048,
    /// rsa-pss3072, rsa-pss4096, ml-dsa-44, ml-dsa-65 or ml-dsa-87
    #[arg(long = "type", value_name = "TYPE", value_parser = generated)]
    key_type: KeyType,
    #[command(flatten)]
    properties: Properties,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Adopt {
    #[command(flatten)]
    key: Named,
    /// Private key, wrapped by a unit: the bytes that the unit returned
    #[arg(long, value_name = "FILE")]
    blob: PathBuf,
    /// Public key: a SubjectPublicKeyInfo in PEM or DER, or the bytes that the unit returned
    #[arg(long, value_name = "FILE")]
    public: PathBuf,
    #[command(flatten)]
    properties: Properties,
}

/// The properties of a new key.
#[derive(Args, Debug)]
pub(super) struct Properties {
    /// Use of the key; the option may be repeated: tls-server, tls13-server, tls12-server,
    /// tls12-dhe-server, tls-client, tls13-client, csr, rsa-key-exchange, acme-account, any
    /// [default: tls-server]
    #[arg(long = "use", value_name = "USE", value_parser = one_use)]
    pub(super) uses: Vec<Use>,
    /// Accept that one RSA key both signs and decrypts, which is less safe than two keys
    #[arg(long)]
    pub(super) sign_and_decrypt: bool,
    /// Backend whose units hold the key [default: default-backend in keyward.toml, or the only
    /// backend]
    #[arg(long, value_name = "NAME")]
    pub(super) backend: Option<String>,
}

impl Generate {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { key, key_type, properties } = self;
        let Properties { uses, sign_and_decrypt, backend } = properties;
        let (list, client) = match key.split() {
            Err(listed) => listed,
            Ok(key) => {
                let label = key.label.clone();
                let wanted = request::Generate { label, key_type, uses, sign_and_decrypt, backend };
                return key.run("generate", |admin, _| admin.generate(&wanted));
            }
        };
        let entries = read_list(&list, false)?;
        let some = SOME.min(most_labels(key_type));
        make_all(&entries, &client, ["generate", "generated"], some, |admin, some| {
            let wanted = request::GenerateAll {
                labels: some.iter().map(|entry| entry.label.clone()).collect(),
                key_type,
                uses: uses.clone(),
                sign_and_decrypt,
                backend: backend.clone(),
            };
            Ok(admin.generate_all(&wanted)?.into_iter().map(|made| made.map_err(Missed::from)).collect())
        })
        .result
    }
}

impl Adopt {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { key, blob, public, properties } = self;
        let Properties { uses, sign_and_decrypt, backend } = properties;
        let blob = read_file(&blob)?;
        let public_key = keyward_unit::public_key_of_file(&read_file(&public)?);
        let adopted = request::Adopt { blob, public_key, uses, sign_and_decrypt, backend };
        key.run("adopt", |admin, label| admin.adopt(label, &adopted))
    }
}

/// Keys of a list that a request asks for. A slow unit makes them while the command waits.
const SOME: usize = 50;

/// Parses a key type that units generate. Keys of other types can be imported.
fn generated(text: &str) -> Result<KeyType, String> {
    let found = text.parse().ok().filter(|known| KeyType::GENERATED.contains(known));
    found.ok_or_else(|| {
        let known = KeyType::GENERATED.map(|key_type| key_type.to_string()).join(", ");
        format!("units do not generate keys of this type; they generate {known}")
    })
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_KEY_FILE as u64 / 2).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|error| Failure::reading(path, &error))
}
