//! How the daemon reaches crypto units.

mod abilities;
mod embedded;
mod error;
pub(crate) mod grep11;
mod key_material;
mod network;
mod pool;
mod rejection;
mod request;
mod unit_health;
mod verify;

use std::sync::{Arc, LazyLock};

use keyward_proto::{KeyType, Scheme, Use};
use keyward_unit::{NewKey, Unit, Wkid};
use tokio::sync::RwLock;
use zeroize::Zeroizing;

use crate::config::EMBEDDED;
use grep11::Grep11;

pub(crate) use abilities::Abilities;
pub(crate) use embedded::{Embedded, Unusable};
pub(crate) use error::{BackendError, SetupError};
pub(crate) use key_material::KeyMaterial;
pub(crate) use keyward_unit::SigningInput;
pub(crate) use request::{Context, Times, Trace, random};
pub(crate) use unit_health::{Load, UnitHealth, UnitState};

/// The backends of a daemon, each of which keys name. Shared by reference between tasks.
pub(crate) struct Backends(Vec<Backend>);

/// A way to units that have one master key.
pub(crate) enum Backend {
    /// The software crypto unit in this process.
    Embedded(Embedded),
    /// Units elsewhere.
    Grep11(Arc<Grep11>),
}

impl Backends {
    /// Some backends, at least one, and no two of a name.
    pub(crate) fn new(backends: Vec<Backend>) -> Self {
        Self(backends)
    }

    /// The backend of a name, if it is configured.
    pub(crate) fn get(&self, name: &str) -> Option<&Backend> {
        self.0.iter().find(|backend| backend.name() == name)
    }

    /// The software crypto unit in this process, if there is one that can be used.
    pub(crate) fn embedded_unit(&self) -> Option<Arc<Unit>> {
        self.0.iter().find_map(|backend| match backend {
            Backend::Embedded(embedded) => embedded.unit().ok().cloned(),
            Backend::Grep11(_) => None,
        })
    }

    /// The only one, if there are no others: it needs not be named.
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
    /// Its name, under which keys are stored.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Embedded(_) => EMBEDDED,
            Self::Grep11(grep11) => grep11.name(),
        }
    }

    /// Its name, for many to have.
    pub(crate) fn label(&self) -> Arc<str> {
        match self {
            Self::Embedded(_) => EMBEDDED_LABEL.clone(),
            Self::Grep11(grep11) => grep11.label(),
        }
    }

    /// What kind of unit it has, for people.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Embedded(_) => "software crypto unit",
            Self::Grep11(_) => "crypto unit over GREP11",
        }
    }

    /// Makes a new private key for these uses, by a master key where one is named. Takes up to seconds for RSA.
    ///
    /// # Errors
    /// [`BackendError`] says why not.
    pub(crate) async fn generate(
        &self,
        key_type: KeyType,
        uses: &[Use],
        wkid: Option<Wkid>,
    ) -> Result<NewKey, BackendError> {
        match self {
            Self::Embedded(embedded) => embedded.make(wkid, move |unit| unit.generate(key_type)).await,
            Self::Grep11(grep11) => grep11.generate(key_type, Abilities::needed_for(uses), wkid).await,
        }
    }

    /// Takes in the private key of a file, which is wiped when it is done, for these uses.
    ///
    /// # Errors
    /// [`BackendError`] says what the file is instead, or why no unit took the key.
    pub(crate) async fn import(
        &self,
        file: impl AsRef<[u8]> + Send + 'static,
        uses: &[Use],
        wkid: Option<Wkid>,
    ) -> Result<NewKey, BackendError> {
        match self {
            Self::Embedded(embedded) => embedded.make(wkid, move |unit| unit.import(file.as_ref())).await,
            Self::Grep11(grep11) => grep11.import(file.as_ref(), Abilities::needed_for(uses), wkid).await,
        }
    }

    /// Lock that keeps the master key from being changed while a key is made and stored.
    pub(crate) fn settling(&self) -> &RwLock<()> {
        match self {
            Self::Embedded(embedded) => &embedded.settling,
            Self::Grep11(grep11) => &grep11.settling,
        }
    }

    /// Wraps a key by the master key that is to come: `to`, where that is known.
    ///
    /// # Errors
    /// [`BackendError`] says why not.
    pub(crate) async fn rewrap(&self, blob: &[u8], to: Option<Wkid>) -> Result<Vec<u8>, BackendError> {
        match self {
            Self::Embedded(embedded) => {
                let unit = embedded.unit()?;
                Ok(unit.rewrap(blob, to.unwrap_or_else(|| unit.wkid()))?)
            }
            Self::Grep11(grep11) => grep11.rewrap(blob).await,
        }
    }

    /// Proves that the next blob of a key works, before the present blob is given up.
    ///
    /// # Errors
    /// [`BackendError`] says why it does not.
    pub(crate) async fn prove_next(&self, key: KeyMaterial<'_>, uses: &[Use]) -> Result<(), BackendError> {
        match self {
            Self::Embedded(embedded) => embedded.prove_next(key),
            Self::Grep11(grep11) => grep11.prove_next(key, Abilities::needed_for(uses)).await,
        }
    }

    /// Signs.
    ///
    /// # Errors
    /// [`BackendError`] says why not.
    pub(crate) async fn sign(
        &self,
        key: KeyMaterial<'_>,
        scheme: Scheme,
        input: SigningInput<'_>,
        context: &Context,
        times: &mut Times,
    ) -> Result<Vec<u8>, BackendError> {
        match self {
            Self::Embedded(embedded) => embedded.sign(key, scheme, input, context, times).await,
            // Boxed: what it takes to ask a remote unit is not for every request to have room for.
            Self::Grep11(grep11) => Box::pin(grep11.sign(key, scheme, input, context, times)).await,
        }
    }

    /// Decrypts the premaster secret of an RSA key exchange; see [`Unit::decrypt_premaster`].
    ///
    /// `rejection_secret` derives the answer to a ciphertext that holds no premaster secret. The answer
    /// must be the same after restarts, at every backend and under every master key.
    ///
    /// # Errors
    /// [`BackendError`] says what everybody can see to be wrong, or why no unit has answered.
    pub(crate) async fn decrypt_premaster(
        &self,
        key: KeyMaterial<'_>,
        ciphertext: &[u8],
        client_version: u16,
        rejection_secret: &[u8],
        context: &Context,
    ) -> Result<Zeroizing<Vec<u8>>, BackendError> {
        let substitute = rejection::substitute(rejection_secret, key.spki, ciphertext);
        match self {
            Self::Embedded(embedded) => {
                embedded.decrypt_premaster(key, ciphertext, client_version, substitute, context).await
            }
            Self::Grep11(grep11) => {
                let decrypt = grep11.decrypt_premaster(key, ciphertext, client_version, substitute, context);
                // Boxed as signatures are.
                Box::pin(decrypt).await
            }
        }
    }
}

static EMBEDDED_LABEL: LazyLock<Arc<str>> = LazyLock::new(|| EMBEDDED.into());
