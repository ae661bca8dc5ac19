//! Backends: how the daemon reaches crypto units.
//!
//! [`Backend`] is the type that other modules use, for every kind of unit. Each kind implements
//! [`Operations`]. There are two kinds: the software crypto unit in this process ([`embedded`]),
//! and remote units over GREP11 ([`grep11`]). A kind with several units or with connections uses
//! [`pool`]. A new kind is a module here, a variant of [`Kind`], and a section of the
//! configuration.
//!
//! `Backend` selects the kind by a `match`, not by a trait object: the future of a request contains
//! a signature of the embedded unit, without an allocation and without a virtual call. The trait
//! gives all kinds the same methods. Only remote operations are boxed: the futures of most requests
//! then need no space for a remote call.
//!
//! This module does not know the key store, the sockets or their users. The caller passes the key
//! as [`KeyMaterial`] and the request as [`Context`].

mod abilities;
mod embedded;
mod error;
pub(crate) mod grep11;
pub(crate) mod host_secrets;
pub(crate) mod https;
mod in_turn;
mod key_material;
pub(crate) mod network;
mod operations;
mod pool;
mod proof;
mod rejection;
mod request;
pub(crate) mod secret_file;
mod unit_health;
mod unusable;
mod verify;

use std::sync::Arc;

use futures_util::future::join_all;
use keyward_proto::{KeyType, Scheme, Use};
use keyward_unit::{NewKey, Unit, Wkid};
use tokio::sync::RwLock;
use zeroize::Zeroizing;

use crate::config::{self, EMBEDDED};
use crate::ground::opening::Opening;
pub(crate) use embedded::Embedded;
use grep11::Grep11;
use operations::Operations;

pub(crate) use abilities::Abilities;
pub(crate) use error::{BackendError, SetupError};
pub(crate) use key_material::KeyMaterial;
pub(crate) use keyward_unit::SigningInput;
pub(crate) use request::{Context, Trace, random};
pub(crate) use unit_health::{Load, RemoteStatus, UnitHealth, UnitState};
pub(crate) use unusable::Unusable;

/// Backends of a daemon. Each key names its backend. Shared by reference between tasks.
pub(crate) struct Backends(Vec<Backend>);

/// Access to units that share a master key.
pub(crate) struct Backend {
    name: Arc<str>,
    kind: Kind,
    /// Locked for reading while a key is made and stored, for writing while the master key changes.
    master_key_lock: RwLock<()>,
}

enum Kind {
    Embedded(Embedded),
    Grep11(Grep11),
}

/// Evaluates a call for the kind of a backend.
macro_rules! by_kind {
    ($backend:expr, $kind:ident => $call:expr) => {
        match &$backend.kind {
            Kind::Embedded($kind) => $call,
            Kind::Grep11($kind) => $call,
        }
    };
}

impl Backends {
    /// Backends. The names must differ.
    pub(crate) fn new(backends: Vec<Backend>) -> Self {
        Self(backends)
    }

    /// Backend with a name, if configured.
    pub(crate) fn get(&self, name: &str) -> Option<&Backend> {
        self.0.iter().find(|backend| backend.name() == name)
    }

    /// Software crypto unit in this process, if configured. The unit may be sealed.
    pub(crate) fn embedded_unit(&self) -> Option<Arc<Unit>> {
        self.embedded().map(|backend| Arc::clone(backend.unit()))
    }

    /// Backend of the unit in this process, if configured.
    pub(crate) fn embedded(&self) -> Option<&Embedded> {
        self.0.iter().find_map(Backend::embedded_backend)
    }

    /// The only backend, which requests need not name; `None` if there are several.
    pub(crate) fn only(&self) -> Option<&Backend> {
        match self.0.as_slice() {
            [only] => Some(only),
            _ => None,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Backend> {
        self.0.iter()
    }
}

impl Backend {
    /// Software crypto unit in this process.
    pub(crate) fn embedded(embedded: Embedded) -> Self {
        Self::new(EMBEDDED, Kind::Embedded(embedded))
    }

    /// Remote units over GREP11, not connected yet.
    ///
    /// # Errors
    /// [`SetupError`] names the setting that cannot be used.
    pub(crate) fn grep11(name: &str, settings: &config::Grep11) -> Result<Self, SetupError> {
        Ok(Self::new(name, Kind::Grep11(Grep11::new(name, settings)?)))
    }

    fn new(name: &str, kind: Kind) -> Self {
        Self { name: name.into(), kind, master_key_lock: RwLock::new(()) }
    }

    /// Name of the backend, as keys in the store name it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Name as a cheaply cloned `Arc<str>` (metric label).
    pub(crate) fn shared_name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// Kind of the units, for people.
    pub(crate) fn unit_kind(&self) -> &'static str {
        by_kind!(self, kind => kind.unit_kind())
    }

    /// True if the backend can adopt blobs that units have wrapped for other programs.
    pub(crate) fn adopts(&self) -> bool {
        by_kind!(self, kind => kind.adopts())
    }

    /// True if each signature takes network time and is verified, so that metrics have these times.
    pub(crate) fn has_network_time(&self) -> bool {
        by_kind!(self, kind => kind.has_network_time())
    }

    /// Unit in this process, if the backend has one, or the reason why the unit cannot be used. The
    /// daemon gives this unit its master keys. Remote units get their master keys from their own
    /// administrators.
    pub(crate) fn embedded_unit(&self) -> Option<Result<&Arc<Unit>, Unusable>> {
        self.embedded_backend().map(Embedded::usable_unit)
    }

    /// The way in which the embedded unit gets its master key. `None` for remote units.
    pub(crate) fn opening(&self) -> Option<Opening> {
        self.embedded_backend().map(Embedded::opening)
    }

    fn embedded_backend(&self) -> Option<&Embedded> {
        match &self.kind {
            Kind::Embedded(embedded) => Some(embedded),
            Kind::Grep11(_) => None,
        }
    }

    /// Checks that the backend can be used with this key store.
    ///
    /// # Errors
    /// [`Unusable`] if the unit does not have the master key of the key store.
    pub(crate) fn usable(&self) -> Result<(), Unusable> {
        by_kind!(self, kind => kind.usable())
    }

    /// Lock of the master key: locked for reading while a key is made and stored, for writing while
    /// the master key changes.
    pub(crate) fn master_key_lock(&self) -> &RwLock<()> {
        &self.master_key_lock
    }

    /// Checks that the daemon can read its credentials for the units.
    ///
    /// # Errors
    /// [`SetupError`] says why a credential cannot be read. A running daemon waits for the
    /// credentials.
    pub(crate) fn check_credentials(&self) -> Result<(), SetupError> {
        by_kind!(self, kind => kind.check_credentials())
    }

    /// Starts to watch the units, in tasks of this thread, and waits for the first probe of each
    /// unit.
    pub(crate) async fn start(&self) {
        by_kind!(self, kind => kind.start().await);
    }

    /// Reads the files of the backend again. Open connections stay open. Returns the problem of
    /// files that cannot be used.
    pub(crate) async fn reread_files(&self) -> Option<String> {
        by_kind!(self, kind => kind.reread_files().await)
    }

    /// Probes each unit now.
    pub(crate) async fn probe(&self) {
        by_kind!(self, kind => kind.probe().await);
    }

    /// Master key that has wrapped a key, read from the blob without a unit; `None` if the blob
    /// does not name a master key.
    pub(crate) fn master_key_of(&self, blob: &[u8]) -> Option<Wkid> {
        by_kind!(self, kind => kind.master_key_of(blob))
    }

    /// Abilities that the unit fixed when it made the key, read from the blob without a unit;
    /// `None` if the units fix no abilities, or the blob does not name them.
    pub(crate) fn fixed_abilities(&self, blob: &[u8]) -> Option<Abilities> {
        by_kind!(self, kind => kind.fixed_abilities(blob))
    }

    /// True if the blob says that the key may leave its unit (`CKA_EXTRACTABLE`).
    pub(crate) fn is_extractable(&self, blob: &[u8]) -> bool {
        by_kind!(self, kind => kind.is_extractable(blob))
    }

    /// True if a unit that is not down has one of these master keys. An empty list stands for any
    /// master key.
    pub(crate) fn is_ready(&self, wkids: &[Wkid]) -> bool {
        by_kind!(self, kind => kind.is_ready(wkids))
    }

    /// Units as they are now, in the order of the configuration.
    pub(crate) fn units(&self) -> Vec<UnitHealth> {
        by_kind!(self, kind => kind.units())
    }

    /// State of the access to remote units; `None` for a unit in this process.
    pub(crate) fn remote_status(&self) -> Option<RemoteStatus> {
        by_kind!(self, kind => kind.remote_status())
    }

    /// Makes a new private key for these uses, wrapped by the master key `wkid`, or by any if
    /// `None`. Takes up to seconds for RSA.
    ///
    /// # Errors
    /// [`BackendError`] says why no key was made.
    pub(crate) async fn generate(
        &self,
        key_type: KeyType,
        uses: &[Use],
        wkid: Option<Wkid>,
    ) -> Result<NewKey, BackendError> {
        let abilities = Abilities::needed_for(uses);
        by_kind!(self, kind => kind.generate(key_type, abilities, wkid).await)
    }

    /// Makes several private keys as [`Self::generate`] does, and returns as many results.
    pub(crate) async fn generate_all(
        &self,
        key_type: KeyType,
        uses: &[Use],
        wkid: Option<Wkid>,
        count: usize,
    ) -> Vec<Result<NewKey, BackendError>> {
        match &self.kind {
            Kind::Embedded(embedded) if count > 1 => embedded.generate_all(key_type, wkid, count).await,
            _ => join_all((0..count).map(|_| self.generate(key_type, uses, wkid))).await,
        }
    }

    /// Number of keys that the backend makes at a time. If the daemon ends, keys that are made and
    /// not stored are lost.
    pub(crate) fn at_a_time(&self) -> usize {
        match &self.kind {
            Kind::Embedded(_) => usize::MAX,
            Kind::Grep11(_) => AT_A_TIME,
        }
    }

    /// Imports the private key in a file for these uses. The file is wiped when `file` is dropped.
    ///
    /// # Errors
    /// [`BackendError`] says why the file is not a private key, or why no unit imported the key.
    pub(crate) async fn import(
        &self,
        file: impl AsRef<[u8]> + Send + 'static,
        uses: &[Use],
        wkid: Option<Wkid>,
    ) -> Result<NewKey, BackendError> {
        let abilities = Abilities::needed_for(uses);
        by_kind!(self, kind => kind.import(file, abilities, wkid).await)
    }

    /// Adopts a key that a unit has wrapped for another program. `public` is the public key as
    /// SubjectPublicKeyInfo, or in the form of the unit.
    ///
    /// # Errors
    /// [`BackendError`] says why the key cannot be used.
    pub(crate) async fn adopt(
        &self,
        blob: Vec<u8>,
        public: &[u8],
        uses: &[Use],
    ) -> Result<NewKey, BackendError> {
        let abilities = Abilities::needed_for(uses);
        by_kind!(self, kind => kind.adopt(blob, public, abilities).await)
    }

    /// Wraps a blob by the next master key, which is `to` if the caller knows it.
    ///
    /// # Errors
    /// [`BackendError`] says why the blob was not wrapped.
    pub(crate) async fn rewrap(&self, blob: &[u8], to: Option<Wkid>) -> Result<Vec<u8>, BackendError> {
        by_kind!(self, kind => kind.rewrap(blob, to).await)
    }

    /// Proves that the next blob of a key works, before the present blob is deleted.
    ///
    /// # Errors
    /// [`BackendError`] says why the next blob does not work.
    pub(crate) async fn prove_next(&self, key: KeyMaterial<'_>, uses: &[Use]) -> Result<(), BackendError> {
        let abilities = Abilities::needed_for(uses);
        by_kind!(self, kind => kind.prove_next(key, abilities).await)
    }

    /// True if each unit signs a digest as well as a message. Some remote units accept whole
    /// messages only.
    pub(crate) fn signs_digests(&self) -> bool {
        matches!(self.kind, Kind::Embedded(_))
    }

    /// Signs. Adds the times of the signature to the times of `context`.
    ///
    /// # Errors
    /// [`BackendError`] says why there is no signature.
    pub(crate) async fn sign(
        &self,
        key: KeyMaterial<'_>,
        scheme: Scheme,
        input: SigningInput<'_>,
        context: &mut Context,
    ) -> Result<Vec<u8>, BackendError> {
        match &self.kind {
            Kind::Embedded(embedded) => embedded.sign(key, scheme, input, context).await,
            // Boxed: the futures of most requests then need no space for a remote call.
            Kind::Grep11(grep11) => Box::pin(grep11.sign(key, scheme, input, context)).await,
        }
    }

    /// Decrypts the premaster secret of an RSA key exchange; see [`Unit::decrypt_premaster`].
    ///
    /// `rejection_secret` derives the answer to a ciphertext that contains no valid premaster
    /// secret. The answer must be the same after restarts, at every backend and under every master
    /// key.
    ///
    /// # Errors
    /// [`BackendError`] says why the ciphertext cannot be one of the key, which is no secret, or
    /// why no unit has answered.
    pub(crate) async fn decrypt_premaster(
        &self,
        key: KeyMaterial<'_>,
        ciphertext: &[u8],
        client_version: u16,
        rejection_secret: &[u8],
        context: &mut Context,
    ) -> Result<Zeroizing<Vec<u8>>, BackendError> {
        let substitute = rejection::substitute(rejection_secret, key.spki, ciphertext);
        // Boxed like remote signatures.
        by_kind!(self, kind => {
            Box::pin(kind.decrypt_premaster(key, ciphertext, client_version, substitute, context)).await
        })
    }
}

/// Keys that remote units make at a time, of the keys that one request asks for.
const AT_A_TIME: usize = 8;
