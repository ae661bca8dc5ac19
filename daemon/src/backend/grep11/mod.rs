//! Remote crypto units, reached over GREP11.
//!
//! [`Grep11`] gives the [pool](super::pool) its operations: [`operation`] for signatures and premaster
//! secrets of peers, [`connection`] for keys of administrators. [`unit`] is the way to one unit;
//! [`mechanism`] and [`wire`] say what is sent and what the answer means, [`status`] what an error means.
//! A signature is verified before it is passed on. A key is proved before it is handed out.

mod connection;
mod http2;
pub(crate) mod mechanism;
mod operation;
mod premaster;
mod status;
mod token;
mod unit;
mod wire;

use core::time::Duration;
use std::sync::Arc;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rsa::{Pkcs1PublicEncryptingKey, PublicEncryptingKey};
use keyward_proto::{KeyType, PublicKey, Scheme};
use keyward_unit::{Header, NewKey, PREMASTER, SigningInput, Wkid};
use tokio::sync::RwLock;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::network::TlsClient;
use super::pool::{Failure, Pool, Settings, Shared, Unit};
use super::{Abilities, BackendError, Context, KeyMaterial, SetupError, Times, UnitHealth};
use crate::config;
use crate::ground::renewed::Verdict;
use connection::{Access, Connection};
use operation::KeyOperation;
use token::{TokenError, Tokens};
use unit::Grep11Unit;

pub(crate) use mechanism::Form;
pub(crate) use wire::making;

/// Backend of units with one master key, reached over GREP11. Shared between threads.
pub(crate) struct Grep11 {
    name: Arc<str>,
    pool: Pool<Grep11Unit>,
    access: Arc<Access>,
    /// Held to read while a key is made and stored, to write while the master key changes.
    pub(crate) settling: RwLock<()>,
}

impl Grep11 {
    /// Backend as configured, not connected yet.
    ///
    /// # Errors
    /// [`SetupError`] says which setting leads nowhere.
    pub(crate) fn new(name: &str, settings: &config::Grep11) -> Result<Self, SetupError> {
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
        let units = units.map(|endpoint| Grep11Unit::new(endpoint.clone(), Arc::clone(&access)));
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
        let pool = Pool::new(Arc::clone(&name), units, pool);
        Ok(Self { name, pool, access, settling: RwLock::new(()) })
    }

    /// Checks that the token or API key can be read. A daemon that runs waits for it.
    ///
    /// # Errors
    /// [`SetupError`] says what is wrong.
    pub(crate) fn check(&self) -> Result<(), SetupError> {
        let backend = || self.name.to_string();
        let failed = |error: TokenError| SetupError { backend: backend(), reason: error.into() };
        self.access.tokens.check().map_err(failed)
    }

    /// Begins to watch over the units, in tasks of this thread, and waits for the first probe of each.
    pub(crate) async fn start(self: &Arc<Self>) {
        let this = Arc::clone(self);
        tokio::spawn(async move { this.access.tokens.keep_fresh().await });
        if let Some(tls) = &self.access.tls {
            let (this, tls) = (Arc::clone(self), Arc::clone(tls));
            tokio::spawn(async move { tls.watch(|new| this.try_out(new)).await });
        }
        self.pool.start().await;
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Name as a cheaply cloned `Arc<str>`.
    pub(crate) fn label(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// True if a unit that is not down has one of these master keys; no master key stands for any.
    pub(crate) fn is_ready(&self, wkids: &[String]) -> bool {
        let fits = |wkid: Wkid| wkids.is_empty() || wkids.contains(&wkid.to_string());
        self.pool.units().iter().any(|unit| unit.health().wkid_in_force().is_some_and(fits))
    }

    /// Units as they are now, in the order of the configuration.
    pub(crate) fn units(&self) -> Vec<UnitHealth> {
        let problem = || self.files_problem().or_else(|| self.access.tokens.problem());
        let health = |unit: &Arc<Unit<Grep11Unit>>| {
            let health = unit.health();
            UnitHealth {
                mechanisms: unit.driver.mechanisms(),
                problem: health.problem.or_else(problem),
                ..health
            }
        };
        self.pool.units().iter().map(health).collect()
    }

    /// Finds out how each unit is now.
    pub(crate) async fn look(&self) {
        self.pool.look().await;
    }

    /// Number of requests that wait for a unit.
    pub(crate) fn waiting(&self) -> usize {
        self.pool.waiting()
    }

    /// Reads the TLS files again. Open connections go on.
    pub(crate) async fn renew(&self) {
        if let Some(tls) = &self.access.tls {
            tls.read_again(|new| self.try_out(new)).await;
        }
    }

    /// Connects to each unit with new TLS files. The files are refused if a unit refuses them that is
    /// not down, or if all units do.
    async fn try_out(&self, tls: Arc<TlsClient>) -> Verdict {
        let mut trials = JoinSet::new();
        for unit in self.pool.units() {
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
                    let reason = format!("unit {}: {reason}", unit.health().address);
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

    /// Problem of the TLS files as they are now, if they cannot be used.
    pub(crate) fn files_problem(&self) -> Option<String> {
        self.access.tls.as_ref()?.problem()
    }

    /// Time for which the token is still valid; none if that is not known, or there is no token.
    pub(crate) fn token_valid_for(&self) -> Option<Duration> {
        self.access.tokens.valid_for()
    }

    /// Signs at a unit that has the master key of the key; at another unit if that fails in time.
    ///
    /// # Errors
    /// [`BackendError`] says why no unit has signed.
    pub(crate) async fn sign(
        &self,
        key: KeyMaterial<'_>,
        scheme: Scheme,
        input: SigningInput<'_>,
        context: &Context,
        times: &mut Times,
    ) -> Result<Vec<u8>, BackendError> {
        let operation = KeyOperation::sign(key, scheme, input)?;
        self.pool.call(&operation, context, times).await
    }

    /// Decrypts the premaster secret of an RSA key exchange. Whatever a unit makes of the ciphertext, the
    /// answer has the same form: `substitute` replaces a secret that is not valid.
    ///
    /// # Errors
    /// [`BackendError`] says why no unit has answered, or what anyone can see to be wrong.
    pub(crate) async fn decrypt_premaster(
        &self,
        key: KeyMaterial<'_>,
        ciphertext: &[u8],
        client_version: u16,
        substitute: Zeroizing<Vec<u8>>,
        context: &Context,
    ) -> Result<Zeroizing<Vec<u8>>, BackendError> {
        let found = self.decrypt(key, ciphertext, context).await?;
        Ok(premaster::settle(substitute, &found, client_version))
    }

    /// Decrypts at a unit. The answer is empty if the unit says that the padding is wrong.
    async fn decrypt(
        &self,
        key: KeyMaterial<'_>,
        ciphertext: &[u8],
        context: &Context,
    ) -> Result<Zeroizing<Vec<u8>>, BackendError> {
        let operation = KeyOperation::decrypt(key, ciphertext)?;
        self.pool.call(&operation, context, &mut Times::default()).await.map(Zeroizing::new)
    }

    /// Makes a new private key at a unit with this master key. The key has these abilities and cannot be extracted.
    ///
    /// # Errors
    /// [`BackendError`] says why not.
    pub(crate) async fn generate(
        &self,
        key_type: KeyType,
        abilities: Abilities,
        wkid: Option<Wkid>,
    ) -> Result<NewKey, BackendError> {
        let generate = |connection: Arc<Shared<Connection>>| async move {
            connection.generate(key_type, abilities).await?.wrapped_by(wkid)
        };
        let pair = self.pool.once(wkid, MAKING, generate).await;
        let pair = pair.map_err(|error| self.while_making(error))?;
        self.proved(NewKey { blob: pair.blob, spki: pair.spki, key_type }, abilities).await
    }

    /// Imports the private key in a file. The daemon wraps the key for a transport key that a unit has made for this
    /// import.
    ///
    /// # Errors
    /// [`BackendError::Import`] says what the file is instead; other errors why no unit took the key.
    pub(crate) async fn import(
        &self,
        file: &[u8],
        abilities: Abilities,
        wkid: Option<Wkid>,
    ) -> Result<NewKey, BackendError> {
        let import = |connection: Arc<Shared<Connection>>| async move {
            let transport_key = connection.generate_transport_key().await?.wrapped_by(wkid)?;
            let wrapped = match keyward_unit::transport(file, &transport_key.spki) {
                Ok(wrapped) => wrapped,
                // The unit has done its part.
                Err(unreadable) => return Ok(Err(unreadable)),
            };
            let abilities = abilities.for_type(wrapped.key_type);
            let pair = connection.import(&transport_key, &wrapped, abilities).await?;
            Ok(Ok(NewKey { blob: pair.blob, spki: pair.spki, key_type: wrapped.key_type }))
        };
        let key = self.pool.once(wkid, MAKING, import).await.map_err(|error| self.while_making(error))??;
        let abilities = abilities.for_type(key.key_type);
        self.proved(key, abilities).await
    }

    /// Takes over a key that a unit has wrapped for another program, with its public key in any form.
    ///
    /// # Errors
    /// [`BackendError`] says what does not fit.
    pub(crate) async fn adopt(
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
        self.proved(NewKey { blob, spki, key_type: key.key_type() }, abilities).await
    }

    /// Wraps a blob by the next master key, at a unit that has the present one.
    ///
    /// # Errors
    /// [`BackendError`] says why not.
    pub(crate) async fn rewrap(&self, blob: &[u8]) -> Result<Vec<u8>, BackendError> {
        let wkid = Header::read(blob).ok_or(BackendError::NoBlob)?.wkid();
        let rewrap = |connection: Arc<Shared<Connection>>| async move { connection.rewrap(blob).await };
        let new = self.pool.once(Some(wkid), MAKING, rewrap).await?;
        match Header::read(&new) {
            Some(header) if header.wkid() != wkid => Ok(new),
            _ => Err(BackendError::NotRewrapped { backend: self.name.to_string() }),
        }
    }

    /// Proves the next blob of a key, as if the key were new.
    ///
    /// # Errors
    /// [`BackendError`] says why the next blob cannot replace the present one.
    pub(crate) async fn prove_next(
        &self,
        key: KeyMaterial<'_>,
        abilities: Abilities,
    ) -> Result<(), BackendError> {
        let Some(blob) = key.next_blob else { return Ok(()) };
        self.prove(KeyMaterial { blob, next_blob: None, ..key }, abilities).await
    }

    /// Proves that the unit has the private half of the public key, before anyone relies on it: signs with the
    /// key and verifies the signature, or decrypts what was encrypted here, or both.
    async fn prove(&self, key: KeyMaterial<'_>, abilities: Abilities) -> Result<(), BackendError> {
        const MESSAGE: &[u8] = b"keyward: first signature of a key";
        let context = Context::of_daemon(MAKING);
        if abilities.signs {
            let public = PublicKey::from_spki(key.spki).map_err(|_| BackendError::NoPublicKey)?;
            let scheme = public.schemes().first().copied().ok_or(BackendError::CannotSign)?;
            self.sign(key, scheme, SigningInput::Message(MESSAGE), &context, &mut Times::default()).await?;
        }
        if abilities.decrypts {
            let (plain, ciphertext) = encrypted(key.spki).map_err(|_| BackendError::CannotDecrypt)?;
            if *self.decrypt(key, &ciphertext, &context).await? != plain {
                return Err(BackendError::WrongPlaintext { backend: self.name.to_string() });
            }
        }
        Ok(())
    }

    /// The key, after its proof.
    async fn proved(&self, key: NewKey, abilities: Abilities) -> Result<NewKey, BackendError> {
        self.prove(KeyMaterial::of_new(&key), abilities).await?;
        Ok(key)
    }

    /// The error, in the words for a key that is still to be made.
    fn while_making(&self, error: BackendError) -> BackendError {
        match error {
            BackendError::OtherMasterKey { key, units } => {
                BackendError::NoUnitForKeys { backend: self.name.to_string(), key, units }
            }
            other => other,
        }
    }
}

/// Random secret, and its ciphertext by a public key.
fn encrypted(spki: &[u8]) -> Result<([u8; PREMASTER], Vec<u8>), Unspecified> {
    let mut plain = [0; PREMASTER];
    aws_lc_rs::rand::fill(&mut plain)?;
    let key = PublicEncryptingKey::from_der(spki).map_err(|_| Unspecified)?;
    let mut ciphertext = vec![0; key.key_size_bytes()];
    Pkcs1PublicEncryptingKey::new(key)?.encrypt(&plain, &mut ciphertext)?;
    Ok((plain, ciphertext))
}

/// Time limit for making or importing a key: an RSA key of 4096 bits takes seconds.
const MAKING: Duration = Duration::from_secs(60);
