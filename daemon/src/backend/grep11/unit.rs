//! One unit as the pool drives it over GREP11.

use std::sync::{Arc, Mutex, PoisonError};

use keyward_grep11::ckm;
use keyward_proto::{KeyType, Scheme};
use keyward_unit::SigningInput;

use super::connection::{Access, Connection};
use super::mechanism::{self, Form};
use super::operation::KeyOperation;
use crate::backend::network::TlsClient;
use crate::backend::pool::{Driver, Failure, Operation};
use crate::backend::{Abilities, KeyMaterial, Trace, random};
use crate::config::Endpoint;

/// Way to one unit over GREP11.
pub(super) struct Grep11Unit {
    endpoint: Endpoint,
    address: String,
    access: Arc<Access>,
    offered: Mutex<Offered>,
}

/// Operations that the unit offers, as far as known.
#[derive(Default)]
struct Offered {
    /// Mechanisms, sorted.
    mechanisms: Vec<u64>,
    /// True after the unit refused to sign a digest with PSS.
    no_digest_pss: bool,
}

impl Grep11Unit {
    pub(super) fn new(endpoint: Endpoint, access: Arc<Access>) -> Self {
        let address = endpoint.to_string();
        Self { endpoint, address, access, offered: Mutex::default() }
    }

    /// Opens a connection with TLS files that may not be in force.
    ///
    /// # Errors
    /// [`Failure`] says how far it came.
    pub(super) async fn connect_with(&self, tls: Option<Arc<TlsClient>>) -> Result<Connection, Failure> {
        Connection::open(&self.endpoint, &self.access, tls).await
    }

    /// Form in which the unit takes the input of a scheme: the digest, if possible.
    pub(super) fn form(&self, scheme: Scheme) -> Option<Form> {
        self.with(|offered| {
            let no_digest = scheme.is_pss() && offered.no_digest_pss;
            [Form::Digest, Form::Message]
                .into_iter()
                .filter(|form| !no_digest || *form == Form::Message)
                .find(|form| {
                    let number = mechanism::number(scheme, *form);
                    number.is_some_and(|number| offered.mechanisms.binary_search(&number).is_ok())
                })
        })
    }

    /// Notes that the unit has refused to sign a digest with PSS.
    pub(super) fn refused_digest_pss(&self) {
        self.with(|offered| offered.no_digest_pss = true);
    }

    /// Names of the mechanisms that the unit offers.
    pub(super) fn mechanisms(&self) -> Vec<String> {
        let name = |number: &u64| ckm::name(*number).map_or_else(|| format!("{number:#x}"), str::to_owned);
        self.with(|offered| offered.mechanisms.iter().map(name).collect())
    }

    fn with<T>(&self, f: impl FnOnce(&mut Offered) -> T) -> T {
        f(&mut self.offered.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Driver for Grep11Unit {
    type Connection = Connection;
    type Found = Vec<u64>;

    fn address(&self) -> &str {
        &self.address
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        self.connect_with(self.access.tls()).await
    }

    async fn probe(&self) -> Result<(Connection, Vec<u64>), Failure> {
        let connection = self.connect().await?;
        let mechanisms = connection.mechanisms().await?;
        Ok((connection, mechanisms))
    }

    fn learn(&self, mechanisms: Vec<u64>, recovered: bool) {
        self.with(|offered| {
            offered.mechanisms = mechanisms;
            offered.no_digest_pss &= !recovered;
        });
    }

    async fn examine(&self, connection: &Connection) -> Result<(), Failure> {
        let pair = connection.generate(KEY_TYPE, Abilities::SIGNS).await?;
        let key = KeyMaterial { key_type: KEY_TYPE, spki: &pair.spki, blob: &pair.blob, next_blob: None };
        let message = SigningInput::Message(b"keyward: signature of a unit in doubt");
        let operation = KeyOperation::sign(key, SCHEME, message).map_err(Failure::severe)?;
        let answer = operation.ask(self, connection, Trace::new(random(), 0)).await?;
        operation.checked(answer).map(drop)
    }
}

/// Type of the key of an examination: the one that is made fastest, and its scheme.
const KEY_TYPE: KeyType = KeyType::P256;
const SCHEME: Scheme = Scheme::EcdsaSecp256r1Sha256;
