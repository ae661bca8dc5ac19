//! Backends: the ways of the daemon to crypto units.
//!
//! [`Backend`] is what other modules know: one type, whatever kind of unit is behind it. A kind
//! implements [`Operations`]. There are two kinds: the software crypto unit in this process
//! ([`embedded`]), and remote units over GREP11 ([`grep11`]). A kind with several units or with
//! connections uses [`pool`]. A new kind is a module here, a variant of [`Kind`], and a section of
//! the configuration.
//!
//! `Backend` finds the kind by a `match`, not by a trait object: a signature of the embedded unit
//! is made in the future of its request, without an allocation and without a virtual call. The
//! trait keeps the kinds alike. Only remote operations are boxed, since most requests need no room
//! for them.
//!
//! Nothing here knows the key store, the sockets or their users. The caller passes the key as
//! [`KeyMaterial`] and the request as [`Context`].

mod abilities;
mod embedded;
mod error;
pub(crate) mod grep11;
mod https;
mod key_material;
mod network;
mod operations;
mod pool;
mod rejection;
mod request;
mod unit_health;
mod verify;

use std::io;
use std::sync::Arc;

use keyward_proto::{KeyType, Scheme, Use};
use keyward_unit::{NewKey, Unit, Wkid};
use tokio::sync::RwLock;
use zeroize::Zeroizing;

use crate::config::{self, EMBEDDED};
use embedded::Embedded;
use grep11::Grep11;
use operations::Operations;

pub(crate) use abilities::Abilities;
pub(crate) use embedded::Unusable;
pub(crate) use error::{BackendError, SetupError};
pub(crate) use key_material::KeyMaterial;
pub(crate) use keyward_unit::SigningInput;
pub(crate) use request::{Context, Trace, random};
pub(crate) use unit_health::{Load, RemoteStatus, UnitHealth, UnitState};

/// Backends of a daemon. Each key names one. Shared by reference between tasks.
pub(crate) struct Backends(Vec<Backend>);

/// Way to units that share a master key.
pub(crate) struct Backend {
    name: Arc<str>,
    kind: Kind,
    /// Held to read while a key is made and stored, to write while the master key changes.
    settling: RwLock<()>,
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
    /// Backends, no two of which have the same name.
    pub(crate) fn new(backends: Vec<Backend>) -> Self {
        Self(backends)
    }

    /// The backend of this name, if configured.
    pub(crate) fn get(&self, name: &str) -> Option<&Backend> {
        self.0.iter().find(|backend| backend.name() == name)
    }

    /// The software crypto unit in this process, if there is one that is usable.
    pub(crate) fn embedded_unit(&self) -> Option<Arc<Unit>> {
        self.0.iter().find_map(|backend| backend.embedded_unit()?.ok().cloned())
    }

    /// The only backend, which needs not be named; none if there are several.
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
    /// The software crypto unit in this process, or the reason why it has no usable master key.
    ///
    /// # Errors
    /// The system has no more threads.
    pub(crate) fn embedded(unit: Result<Unit, Unusable>) -> io::Result<Self> {
        Ok(Self::new(EMBEDDED, Kind::Embedded(Embedded::new(unit)?)))
    }

    /// Remote units over GREP11, not connected yet.
    ///
    /// # Errors
    /// [`SetupError`] says which setting leads nowhere.
    pub(crate) fn grep11(name: &str, settings: &config::Grep11) -> Result<Self, SetupError> {
        Ok(Self::new(name, Kind::Grep11(Grep11::new(name, settings)?)))
    }

    fn new(name: &str, kind: Kind) -> Self {
        Self { name: name.into(), kind, settling: RwLock::new(()) }
    }

    /// Name, under which keys are stored.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Name as a cheaply cloned `Arc<str>` (metric label).
    pub(crate) fn label(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// Kind of the units, for people.
    pub(crate) fn unit(&self) -> &'static str {
        match &self.kind {
            Kind::Embedded(_) => Embedded::UNIT,
            Kind::Grep11(_) => Grep11::UNIT,
        }
    }

    /// True if the units are outside of this process.
    pub(crate) fn is_remote(&self) -> bool {
        !matches!(self.kind, Kind::Embedded(_))
    }

    /// True if the backend takes over blobs that units have wrapped for other programs.
    pub(crate) fn adopts(&self) -> bool {
        self.is_remote()
    }

    /// The unit in this process, if the backend has one. The daemon gives this unit its master
    /// keys; remote units get theirs from their own administrators.
    pub(crate) fn embedded_unit(&self) -> Option<Result<&Arc<Unit>, Unusable>> {
        match &self.kind {
            Kind::Embedded(embedded) => Some(embedded.unit()),
            Kind::Grep11(_) => None,
        }
    }

    /// Whether the backend can be used at all with this key store.
    ///
    /// # Errors
    /// [`Unusable`]: the unit does not have the master key of the key store.
    pub(crate) fn usable(&self) -> Result<(), &Unusable> {
        by_kind!(self, kind => kind.usable())
    }

    /// Lock that keeps the master key from changing while a key is made and stored.
    pub(crate) fn settling(&self) -> &RwLock<()> {
        &self.settling
    }

    /// Checks that the daemon can read its credentials for the units.
    ///
    /// # Errors
    /// [`SetupError`] says what is wrong. A running daemon waits for the credentials.
    pub(crate) fn check(&self) -> Result<(), SetupError> {
        by_kind!(self, kind => kind.check())
    }

    /// Begins to watch over the units, in tasks of this thread, and waits for the first probe of
    /// each.
    pub(crate) async fn start(&self) {
        by_kind!(self, kind => kind.start().await);
    }

    /// Reads the files of the backend again. Open connections go on.
    pub(crate) async fn renew(&self) {
        by_kind!(self, kind => kind.renew().await);
    }

    /// Finds out how each unit is now.
    pub(crate) async fn look(&self) {
        by_kind!(self, kind => kind.look().await);
    }

    /// True if a unit that is not down has one of these master keys; no master key stands for any.
    pub(crate) fn is_ready(&self, wkids: &[Wkid]) -> bool {
        by_kind!(self, kind => kind.is_ready(wkids))
    }

    /// Units as they are now, in the order of the configuration.
    pub(crate) fn units(&self) -> Vec<UnitHealth> {
        by_kind!(self, kind => kind.units())
    }

    /// State of the way to remote units; none for a unit in this process.
    pub(crate) fn remote(&self) -> Option<RemoteStatus> {
        by_kind!(self, kind => kind.remote())
    }

    /// Makes a new private key for these uses, wrapped by this master key if one is named. Takes up
    /// to seconds for RSA.
    ///
    /// # Errors
    /// [`BackendError`] says why not.
    pub(crate) async fn generate(
        &self,
        key_type: KeyType,
        uses: &[Use],
        wkid: Option<Wkid>,
    ) -> Result<NewKey, BackendError> {
        let abilities = Abilities::needed_for(uses);
        by_kind!(self, kind => kind.generate(key_type, abilities, wkid).await)
    }

    /// Imports the private key in a file for these uses. The file is wiped when it is dropped.
    ///
    /// # Errors
    /// [`BackendError`] says what the file is instead, or why no unit took the key.
    pub(crate) async fn import(
        &self,
        file: impl AsRef<[u8]> + Send + 'static,
        uses: &[Use],
        wkid: Option<Wkid>,
    ) -> Result<NewKey, BackendError> {
        let abilities = Abilities::needed_for(uses);
        by_kind!(self, kind => kind.import(file, abilities, wkid).await)
    }

    /// Takes over a key that a unit has wrapped for another program, with its public key in any
    /// form.
    ///
    /// # Errors
    /// [`BackendError`] says what does not fit.
    pub(crate) async fn adopt(
        &self,
        blob: Vec<u8>,
        public: &[u8],
        uses: &[Use],
    ) -> Result<NewKey, BackendError> {
        let abilities = Abilities::needed_for(uses);
        by_kind!(self, kind => kind.adopt(blob, public, abilities).await)
    }

    /// Wraps a blob by the next master key: `to`, if the caller knows it.
    ///
    /// # Errors
    /// [`BackendError`] says why not.
    pub(crate) async fn rewrap(&self, blob: &[u8], to: Option<Wkid>) -> Result<Vec<u8>, BackendError> {
        by_kind!(self, kind => kind.rewrap(blob, to).await)
    }

    /// Proves that the next blob of a key works, before the present blob is given up.
    ///
    /// # Errors
    /// [`BackendError`] says why it does not.
    pub(crate) async fn prove_next(&self, key: KeyMaterial<'_>, uses: &[Use]) -> Result<(), BackendError> {
        let abilities = Abilities::needed_for(uses);
        by_kind!(self, kind => kind.prove_next(key, abilities).await)
    }

    /// Signs. Adds to the times of the context.
    ///
    /// # Errors
    /// [`BackendError`] says why not.
    pub(crate) async fn sign(
        &self,
        key: KeyMaterial<'_>,
        scheme: Scheme,
        input: SigningInput<'_>,
        context: &mut Context,
    ) -> Result<Vec<u8>, BackendError> {
        match &self.kind {
            Kind::Embedded(embedded) => embedded.sign(key, scheme, input, context).await,
            // Boxed: most requests need no room for a remote call.
            Kind::Grep11(grep11) => Box::pin(grep11.sign(key, scheme, input, context)).await,
        }
    }

    /// Decrypts the premaster secret of an RSA key exchange; see [`Unit::decrypt_premaster`].
    ///
    /// `rejection_secret` derives the answer to a ciphertext that holds no premaster secret. The
    /// answer must be the same after restarts, at every backend and under every master key.
    ///
    /// # Errors
    /// [`BackendError`] says what anyone can see to be wrong, or why no unit has answered.
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
