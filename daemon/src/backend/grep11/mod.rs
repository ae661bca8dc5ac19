//! Remote crypto units, reached over GREP11.
//!
//! [`Grep11`] passes operations to the [pool](super::pool): operations of [`operation`] for peers,
//! and calls of [`connection`] for administrators. [`driver`] and [`pool_driver`] give the pool
//! access to one unit. [`mechanism`] and [`wire`] convert requests and answers; [`status`] converts
//! errors.
//!
//! The daemon verifies each signature before the peer gets the signature, and proves each new key
//! before the key is stored.

mod connection;
mod driver;
mod http2;
pub(crate) mod mechanism;
mod operation;
mod pool_driver;
mod premaster;
mod status;
mod token;
mod wire;

use std::sync::Arc;

use keyward_proto::{KeyType, PublicKey, Scheme};
use keyward_unit::{Header, NewKey, SigningInput, Wkid};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::network::TlsClient;
use super::operations::Operations;
use super::pool::{Driver, Failure, Pool, Settings, Shared, Unit};
use super::proof::{self, KEY_TIME_LIMIT, Provable};
use super::{Abilities, BackendError, Context, KeyMaterial, RemoteStatus, SetupError, UnitHealth};
use crate::config;
use crate::ground::renewed::Verdict;
use connection::{Access, Connection};
use driver::Grep11Driver;
use operation::KeyOperation;
pub(crate) use token::iam_server;
use token::{TokenError, Tokens};

pub(crate) use mechanism::InputForm;
pub(crate) use wire::generation;

/// Backend of units with one master key, reached over GREP11. Shared between threads.
pub(super) struct Grep11 {
    name: Arc<str>,
    pool: Arc<Pool<Grep11Driver>>,
    access: Arc<Access>,
}

impl Grep11 {
    /// Backend as configured, not connected yet.
    ///
    /// # Errors
    /// [`SetupError`] names the setting that cannot be used.
    pub(super) fn new(name: &str, settings: &config::Grep11) -> Result<Self, SetupError> {
        let tls = settings.tls.as_ref().map(|tls| TlsClient::renewed(name, tls, b"h2")).transpose();
        let tls = tls.map_err(|error| SetupError { backend: name.to_owned(), reason: error.into() })?;
        let tokens = Tokens::new(name, &settings.auth);
        let tokens = tokens.map_err(|error| SetupError { backend: name.to_owned(), reason: error.into() })?;
        let access = Arc::new(Access {
            tls: tls.map(Arc::new),
            tokens: Arc::new(tokens),
            dialect: settings.dialect,
            keepalive: settings.keepalive,
        });
        let units = settings.endpoints.iter();
        let units = units.map(|endpoint| Grep11Driver::new(endpoint.clone(), Arc::clone(&access)));
        let pool = Settings {
            in_flight: settings.in_flight.get(),
            rate: settings.rate,
            queue: settings.queue,
            hedge: settings.hedge,
            connect_timeout: settings.connect_timeout,
            timeout: settings.timeout,
            keepalive: settings.keepalive,
        };
        let name: Arc<str> = name.into();
        let pool = Arc::new(Pool::new(Arc::clone(&name), units, pool));
        Ok(Self { name, pool, access })
    }
}

impl Operations for Grep11 {
    fn unit_kind(&self) -> &'static str {
        "crypto unit over GREP11"
    }

    fn adopts(&self) -> bool {
        true
    }

    fn has_network_time(&self) -> bool {
        true
    }

    fn check_credentials(&self) -> Result<(), SetupError> {
        let backend = || self.name.to_string();
        let failed = |error: TokenError| SetupError { backend: backend(), reason: error.into() };
        self.access.tokens.check().map_err(failed)
    }

    async fn start(&self) {
        let access = Arc::clone(&self.access);
        tokio::spawn(async move { access.tokens.keep_fresh().await });
        if let Some(tls) = &self.access.tls {
            let (pool, tls) = (Arc::clone(&self.pool), Arc::clone(tls));
            tokio::spawn(async move { tls.watch(|new| test_tls(&pool, new)).await });
        }
        self.pool.start().await;
    }

    async fn reread_files(&self) -> Option<String> {
        if let Some(tls) = &self.access.tls {
            tls.read_again(|new| test_tls(&self.pool, new)).await;
        }
        self.access.files_problem()
    }

    async fn probe(&self) {
        self.pool.probe().await;
    }

    fn master_key_of(&self, blob: &[u8]) -> Option<Wkid> {
        Header::read(blob).map(|header| header.wkid())
    }

    fn fixed_abilities(&self, blob: &[u8]) -> Option<Abilities> {
        Header::read(blob).map(|header| wire::abilities_of(&header))
    }

    fn is_extractable(&self, blob: &[u8]) -> bool {
        Header::read(blob).is_some_and(|header| header.extractable())
    }

    fn is_ready(&self, wkids: &[Wkid]) -> bool {
        let fits = |wkid| wkids.is_empty() || wkids.contains(&wkid);
        self.pool.units().iter().any(|unit| unit.health().wkid_in_force().is_some_and(fits))
    }

    fn units(&self) -> Vec<UnitHealth> {
        let of_access = || self.access.files_problem().or_else(|| self.access.tokens.problem());
        let health = |unit: &Arc<Unit<Grep11Driver>>| {
            let (health, mechanisms) = (unit.health(), unit.driver.mechanisms());
            UnitHealth { mechanisms, problem: health.problem.or_else(of_access), ..health }
        };
        self.pool.units().iter().map(health).collect()
    }

    fn remote_status(&self) -> Option<RemoteStatus> {
        Some(RemoteStatus {
            waiting: self.pool.waiting(),
            files_problem: self.access.files_problem(),
            token_valid_for: self.access.tokens.valid_for(),
        })
    }

    /// Makes a key that cannot be extracted.
    async fn generate(
        &self,
        key_type: KeyType,
        abilities: Abilities,
        wkid: Option<Wkid>,
    ) -> Result<NewKey, BackendError> {
        let generate = |connection: Arc<Shared<Connection>>| async move {
            connection.generate(key_type, abilities).await?.wrapped_by(wkid)
        };
        let pair = self.pool.once(wkid, KEY_TIME_LIMIT, generate).await;
        let pair = pair.map_err(|error| error.while_making(&self.name))?;
        proof::proved(self, NewKey { blob: pair.blob, spki: pair.spki, key_type }, abilities).await
    }

    /// Encrypts the private key here, with a transport key that a unit has made for this import.
    async fn import(
        &self,
        file: impl AsRef<[u8]> + Send + 'static,
        abilities: Abilities,
        wkid: Option<Wkid>,
    ) -> Result<NewKey, BackendError> {
        let file = file.as_ref();
        let import = |connection: Arc<Shared<Connection>>| async move {
            let transport_key = connection.generate_transport_key().await?.wrapped_by(wkid)?;
            let wrapped = match keyward_unit::transport(file, &transport_key.spki) {
                Ok(wrapped) => wrapped,
                // The file cannot be read; the unit is healthy.
                Err(unreadable) => return Ok(Err(unreadable)),
            };
            let abilities = abilities.for_type(wrapped.key_type);
            let pair = connection.import(&transport_key, &wrapped, abilities).await?;
            Ok(Ok(NewKey { blob: pair.blob, spki: pair.spki, key_type: wrapped.key_type }))
        };
        let key = self
            .pool
            .once(wkid, KEY_TIME_LIMIT, import)
            .await
            .map_err(|error| error.while_making(&self.name))??;
        let abilities = abilities.for_type(key.key_type);
        proof::proved(self, key, abilities).await
    }

    async fn adopt(
        &self,
        blob: Vec<u8>,
        public: &[u8],
        abilities: Abilities,
    ) -> Result<NewKey, BackendError> {
        let spki = keyward_unit::spki_of_public_key_blob(public).ok_or(BackendError::NoPublicKey)?;
        let key = PublicKey::from_spki(&spki).map_err(|_| BackendError::NoPublicKey)?;
        let header = Header::read(&blob).ok_or(BackendError::NoBlob)?;
        if abilities.signs && !header.signs() {
            return Err(BackendError::CannotSign);
        }
        if abilities.decrypts && !header.decrypts() {
            return Err(BackendError::CannotDecrypt);
        }
        proof::proved(self, NewKey { blob, spki, key_type: key.key_type() }, abilities).await
    }

    /// Wraps at a unit that has the present master key. Only the unit knows the next master key.
    async fn rewrap(&self, blob: &[u8], _: Option<Wkid>) -> Result<Vec<u8>, BackendError> {
        let wkid = Header::read(blob).ok_or(BackendError::NoBlob)?.wkid();
        let rewrap = |connection: Arc<Shared<Connection>>| async move { connection.rewrap(blob).await };
        let new = self.pool.once(Some(wkid), KEY_TIME_LIMIT, rewrap).await?;
        match Header::read(&new) {
            Some(header) if header.wkid() != wkid => Ok(new),
            _ => Err(BackendError::NotRewrapped { backend: self.name.to_string() }),
        }
    }

    async fn prove_next(&self, key: KeyMaterial<'_>, abilities: Abilities) -> Result<(), BackendError> {
        let Some(blob) = key.next_blob else { return Ok(()) };
        proof::prove(self, KeyMaterial { blob, next_blob: None, ..key }, abilities).await
    }

    async fn sign(
        &self,
        key: KeyMaterial<'_>,
        scheme: Scheme,
        input: SigningInput<'_>,
        context: &mut Context,
    ) -> Result<Vec<u8>, BackendError> {
        let operation = KeyOperation::sign(key, scheme, input)?;
        self.pool.call(&operation, context).await
    }

    /// Returns 48 bytes, for a valid and for an invalid ciphertext.
    async fn decrypt_premaster(
        &self,
        key: KeyMaterial<'_>,
        ciphertext: &[u8],
        client_version: u16,
        substitute: Zeroizing<Vec<u8>>,
        context: &mut Context,
    ) -> Result<Zeroizing<Vec<u8>>, BackendError> {
        let found = self.decrypt(key, ciphertext, context).await?;
        Ok(premaster::select(substitute, &found, client_version))
    }
}

impl Provable for Grep11 {
    fn name(&self) -> &str {
        &self.name
    }

    async fn decrypt(
        &self,
        key: KeyMaterial<'_>,
        ciphertext: &[u8],
        context: &mut Context,
    ) -> Result<Zeroizing<Vec<u8>>, BackendError> {
        let operation = KeyOperation::decrypt(key, ciphertext)?;
        self.pool.call(&operation, context).await.map(Zeroizing::new)
    }
}

/// Connects to each unit with new TLS files. Refuses the files if a healthy unit refuses them, or
/// if every unit that answers refuses them.
async fn test_tls(pool: &Pool<Grep11Driver>, tls: Arc<TlsClient>) -> Verdict {
    let mut trials = JoinSet::new();
    for unit in pool.units() {
        let (unit, tls) = (Arc::clone(unit), Arc::clone(&tls));
        trials.spawn(async move {
            let tried = unit.in_time(unit.driver.connect_with(Some(tls))).await;
            (tried.map(drop), unit)
        });
    }
    let (mut accepted, mut refused) = (false, None);
    for (tried, unit) in trials.join_all().await {
        match tried {
            Ok(()) => accepted = true,
            Err(Failure::Certificate(reason)) => {
                let reason = format!("unit {}: {reason}", unit.driver.address());
                if !unit.is_down() {
                    return Verdict::Refused(reason);
                }
                refused = Some(reason);
            }
            Err(_) => {}
        }
    }
    match refused {
        _ if accepted => Verdict::Accepted,
        Some(reason) => Verdict::Refused(reason),
        None => Verdict::Unknown,
    }
}
