//! Remote crypto units, reached over GREP11.
//!
//! A request for a signature comes to [`Grep11::sign`], one for a premaster secret to [`Grep11::decrypt_premaster`]. The [pool](super::pool) gives it a place at the unit that will be done
//! first; its unit knows what each can do and whether it may be asked (breaker, pace, latency), and has a
//! [`connection`] to it; [`mechanism`] says what to send and what the answer means. The signature is verified before
//! it is passed on. If the unit fails, another one is asked, as long as the peer waits.

pub(super) mod connection;
mod examine;
mod http2;
mod job;
mod key;
pub(crate) mod mechanism;
mod premaster;
mod token;

use core::time::Duration;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rsa::{Pkcs1PublicEncryptingKey, PublicEncryptingKey};
use keyward_proto::{KeyType, PublicKey, Scheme};
use keyward_unit::{Header, Input, NewKey, PREMASTER, Wkid};
use tokio::sync::{Notify, RwLock};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::network::TlsClient;
use super::pool::failure::{self, Failure};
use super::pool::latency::Percentile95;
use super::pool::permit::Seat;
use super::pool::unit::Trial;
use super::pool::{NoSeat, Pool, Tried};
use super::{Abilities, BackendError, Context, KeyMaterial, SetupError, Times};
use crate::config;
use crate::ground::fair::NOBODY;
use crate::ground::renewed::Verdict;
use connection::{Connection, Line};
use job::{Answer, Job};
use token::Tokens;

pub(crate) use super::pool::breaker::Breaker;
pub(crate) use super::pool::unit::{Status, Unit};
pub(crate) use key::making;
pub(crate) use mechanism::Form;

/// A backend: units with one master key, reached over GREP11. Shared between threads.
pub(crate) struct Grep11 {
    name: Arc<str>,
    pool: Pool,
    line: Arc<Line>,
    timeout: Duration,
    hedge: bool,
    p95: Mutex<Percentile95>,
    /// Held to read by who makes keys, to write by who changes their master key or finds that it is to be settled.
    pub(crate) settling: RwLock<()>,
}

impl Grep11 {
    /// A backend as configured, which is not connected yet.
    ///
    /// # Errors
    /// [`SetupError`] says which setting leads nowhere.
    pub(crate) fn new(name: &str, settings: &config::Grep11) -> Result<Self, SetupError> {
        let tls = settings.tls.as_ref().map(|tls| TlsClient::renewed(name, tls, b"h2")).transpose();
        let tls = tls.map_err(|error| SetupError { backend: name.to_owned(), reason: error.into() })?;
        let tokens = Tokens::new(name, &settings.auth)
            .map_err(|error| SetupError { backend: name.to_owned(), reason: error.into() })?;
        let line = Arc::new(Line {
            tls: tls.map(Arc::new),
            tokens: Arc::new(tokens),
            dialect: settings.dialect,
            keepalive: settings.keepalive,
        });
        let freed = Arc::new(Notify::new());
        let units = settings.endpoints.iter().map(|endpoint| {
            let unit = Unit::new(name, endpoint.clone(), settings, Arc::clone(&line), Arc::clone(&freed));
            Arc::new(unit)
        });
        let pool = Pool::new(units.collect(), settings.queue, Arc::clone(&freed));
        Ok(Self {
            name: name.into(),
            pool,
            line,
            timeout: settings.timeout,
            hedge: settings.hedge,
            p95: Mutex::new(Percentile95::new()),
            settling: RwLock::new(()),
        })
    }

    /// Whether there is what it proves itself with. A daemon that runs waits for it.
    ///
    /// # Errors
    /// [`SetupError`] says what is wrong with a token or an API key.
    pub(crate) fn check(&self) -> Result<(), SetupError> {
        let failed =
            |error: token::TokenError| SetupError { backend: self.name.to_string(), reason: error.into() };
        self.line.tokens.check().map_err(failed)
    }

    /// Begins to watch over the units, in tasks of this thread, and waits until each was probed once.
    pub(crate) async fn start(self: &Arc<Self>) {
        let this = Arc::clone(self);
        tokio::spawn(async move { this.line.tokens.keep_fresh().await });
        if let Some(tls) = &self.line.tls {
            let (this, tls) = (Arc::clone(self), Arc::clone(tls));
            tokio::spawn(async move { tls.watch(|new| this.try_out(new)).await });
        }
        let probed: Vec<_> = (self.pool.units.iter())
            .map(|unit| {
                let (unit, probed) = (Arc::clone(unit), Arc::new(Notify::new()));
                let first = Arc::clone(&probed);
                tokio::spawn(async move { unit.watch(&first).await });
                probed
            })
            .collect();
        for probed in probed {
            probed.notified().await;
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its name, for many to have.
    pub(crate) fn label(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// Whether a unit that may be asked has one of these master keys; none stands for any.
    pub(crate) fn is_ready(&self, wkids: &[String]) -> bool {
        let fits = |wkid: Wkid| wkids.is_empty() || wkids.contains(&wkid.to_string());
        self.units()
            .map(Unit::status)
            .any(|status| status.breaker != Breaker::Open && status.wkid.is_some_and(fits))
    }

    /// The units, in the order of the configuration.
    pub(crate) fn units(&self) -> impl Iterator<Item = &Unit> {
        self.pool.units.iter().map(|unit| &**unit)
    }

    /// Finds out how each unit is now.
    pub(crate) async fn look(&self) {
        let mut looks = JoinSet::new();
        for unit in &self.pool.units {
            let unit = Arc::clone(unit);
            looks.spawn(async move { unit.look().await });
        }
        looks.join_all().await;
    }

    /// How many requests wait for a unit.
    pub(crate) fn waiting(&self) -> usize {
        self.pool.waiting()
    }

    /// Reads the files of TLS again; connections that are open go on.
    pub(crate) async fn renew(&self) {
        if let Some(tls) = &self.line.tls {
            tls.read_again(|new| self.try_out(new)).await;
        }
    }

    /// Whether new files of TLS would lose a unit: one that is in order now, or all.
    async fn try_out(&self, tls: Arc<TlsClient>) -> Verdict {
        let mut trials = JoinSet::new();
        for unit in &self.pool.units {
            let (unit, tls) = (Arc::clone(unit), Arc::clone(&tls));
            trials.spawn(async move { unit.try_out(tls).await });
        }
        let (mut accepted, mut refused) = (false, None);
        for trial in trials.join_all().await {
            match trial {
                Trial::Refused { reason, in_order: true } => return Verdict::Refused(reason),
                Trial::Refused { reason, in_order: false } => refused = Some(reason),
                Trial::Accepted => accepted = true,
                Trial::Unknown => {}
            }
        }
        match refused {
            _ if accepted => Verdict::Accepted,
            Some(reason) => Verdict::Refused(reason),
            None => Verdict::Unknown,
        }
    }

    /// Why the files of TLS cannot be used as they are now, if that is so.
    pub(crate) fn tls_problem(&self) -> Option<String> {
        self.line.tls.as_ref()?.problem()
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.line.tokens
    }

    /// Signs at a unit that has the master key of the key; at another one if that fails in time.
    ///
    /// # Errors
    /// [`BackendError`] says why no unit has signed.
    pub(crate) async fn sign(
        &self,
        key: KeyMaterial<'_>,
        scheme: Scheme,
        input: Input<'_>,
        context: &Context,
        times: &mut Times,
    ) -> Result<Vec<u8>, BackendError> {
        let job = Job::to_sign(key, scheme, input)?;
        let signed = self.ask_some_unit(&job, context, times).await;
        if signed.is_err() {
            job.examine_suspects();
        }
        signed
    }

    /// Has the premaster secret of an RSA key exchange decrypted, on the road of signatures. Whatever a unit makes of the
    /// ciphertext, the answer has the same form: `substitute` stands for what is not sound.
    ///
    /// # Errors
    /// [`BackendError`] says why no unit has answered, or what everybody can see to be wrong.
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

    /// Decrypts at a unit; nothing is found where it says that the padding is wrong.
    async fn decrypt(
        &self,
        key: KeyMaterial<'_>,
        ciphertext: &[u8],
        context: &Context,
    ) -> Result<Zeroizing<Vec<u8>>, BackendError> {
        let job = Job::to_decrypt(key, ciphertext)?;
        let found = self.ask_some_unit(&job, context, &mut Times::default()).await;
        found.map(Zeroizing::new)
    }

    async fn ask_some_unit(
        &self,
        job: &Job<'_>,
        context: &Context,
        times: &mut Times,
    ) -> Result<Vec<u8>, BackendError> {
        let mut tried = Tried::default();
        let mut attempts = 0;
        loop {
            let begin = Instant::now();
            let seat = self.pool.seat(&job.wkids, tried, context.deadline, true, context.user).await;
            times.queue += begin.elapsed();
            let seat = seat.map_err(|why| self.no_seat(why, &job.wkids))?;
            attempts += 1;
            tried.add(self.pool.number(&seat.unit));
            let begin = Instant::now();
            match self.with_hedge(seat, job, context, &mut tried).await {
                Ok(answer) => {
                    times.network += answer.network;
                    times.unit += answer.unit;
                    times.verify += answer.verify;
                    let mut p95 = self.p95.lock().unwrap_or_else(PoisonError::into_inner);
                    p95.observe(answer.network + answer.unit);
                    return Ok(answer.outcome);
                }
                Err(failure) => {
                    times.unit += begin.elapsed();
                    let late = Instant::now() >= context.deadline;
                    if late || attempts >= ATTEMPTS || !failure.is_worth_another_attempt() {
                        return Err(match self.failed(failure, late, &job.wkids) {
                            BackendError::WrongSignature { backend, .. } => {
                                BackendError::WrongSignature { backend, agreed: job.is_unsound() }
                            }
                            other => other,
                        });
                    }
                }
            }
        }
    }

    /// One attempt, and a second one at another unit if the first takes longer than most.
    async fn with_hedge(
        &self,
        mut seat: Seat,
        job: &Job<'_>,
        context: &Context,
        tried: &mut Tried,
    ) -> Result<Answer, Failure> {
        if !self.hedge || self.pool.units.len() < 2 || seat.is_to_find_out() {
            return self.attempt(seat, job, context).await;
        }
        let first = self.attempt(seat, job, context);
        tokio::pin!(first);
        let p95 = self.p95.lock().unwrap_or_else(PoisonError::into_inner).get();
        if let Ok(answer) = tokio::time::timeout(p95, &mut first).await {
            return answer;
        }
        let Some(seat) = self.pool.seat_now(&job.wkids, *tried) else { return first.await };
        tried.add(self.pool.number(&seat.unit));
        let second = self.attempt(seat, job, context);
        tokio::pin!(second);
        tokio::select! {
            answer = &mut first => match answer {
                Ok(answer) => Ok(answer),
                Err(_) => second.await,
            },
            answer = &mut second => match answer {
                Ok(answer) => Ok(answer),
                Err(_) => first.await,
            },
        }
    }

    async fn attempt(&self, seat: Seat, job: &Job<'_>, context: &Context) -> Result<Answer, Failure> {
        let full = Instant::now() + self.timeout;
        let due = context.deadline.min(full);
        let late = if due < full { Failure::Hurried } else { Failure::Late };
        let mut connection = None;
        let attempt = async {
            let connection = connection.insert(seat.unit.connection().await?);
            let begin = Instant::now();
            let raw = job.ask(connection, &seat.unit, &context.trace).await?;
            let took = begin.elapsed();
            let network = seat.unit.round_trip().min(took);
            let begin = Instant::now();
            let outcome = job.checked(raw)?;
            Ok(Answer { outcome, network, unit: took - network, verify: begin.elapsed() })
        };
        let answer = tokio::time::timeout_at(due.into(), attempt).await.unwrap_or(Err(late));
        match &answer {
            Ok(_) => {
                job.signed_by(&seat.unit);
                seat.signed();
            }
            Err(failure) => {
                if let Failure::WrongSignature = failure {
                    job.suspect(&seat.unit);
                }
                tracing::debug!(backend = &*self.name, unit = %seat.unit.endpoint, "attempt failed: {failure}");
                seat.failed(failure, connection.as_deref());
            }
        }
        answer
    }

    /// Makes a new private key at a unit with that master key, which is able to do this and cannot be taken out.
    ///
    /// # Errors
    /// [`BackendError`] says why not.
    pub(crate) async fn generate(
        &self,
        key_type: KeyType,
        abilities: Abilities,
        wkid: Option<Wkid>,
    ) -> Result<NewKey, BackendError> {
        let generate = |connection: Arc<Connection>| async move {
            connection.generate(key_type, abilities).await?.wrapped_by(wkid)
        };
        let pair = self.at_some_unit(wkid, generate).await.map_err(|error| self.while_making(error))?;
        self.proved(NewKey { blob: pair.blob, spki: pair.spki, key_type }, abilities).await
    }

    /// Takes in the private key of a file: it is wrapped here for a key that a unit has made for that alone.
    ///
    /// # Errors
    /// [`BackendError::Import`] says what the file is instead; other errors why no unit took it in.
    pub(crate) async fn import(
        &self,
        file: &[u8],
        abilities: Abilities,
        wkid: Option<Wkid>,
    ) -> Result<NewKey, BackendError> {
        let import = |connection: Arc<Connection>| async move {
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
        match self.at_some_unit(wkid, import).await {
            Ok(Ok(key)) => {
                let abilities = abilities.for_type(key.key_type);
                self.proved(key, abilities).await
            }
            Ok(Err(unreadable)) => Err(unreadable.into()),
            Err(error) => Err(self.while_making(error)),
        }
    }

    /// Takes over a key that a unit has wrapped for somebody else, with its public key in any form.
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

    /// Wraps a blob by the master key that is to come, at a unit that has the present one.
    ///
    /// # Errors
    /// [`BackendError`] says why not.
    pub(crate) async fn rewrap(&self, blob: &[u8]) -> Result<Vec<u8>, BackendError> {
        let wkid = Header::read(blob).ok_or(BackendError::NoBlob)?.wkid();
        let rewrap = |connection: Arc<Connection>| async move { connection.rewrap(blob).await };
        let new = self.at_some_unit(Some(wkid), rewrap).await?;
        match Header::read(&new) {
            Some(header) if header.wkid() != wkid => Ok(new),
            _ => Err(BackendError::NotRewrapped { backend: self.name.to_string() }),
        }
    }

    /// Proves the next blob of a key, as if the key were new.
    ///
    /// # Errors
    /// [`BackendError`] says why it cannot take the place of the present one.
    pub(crate) async fn prove_next(
        &self,
        key: KeyMaterial<'_>,
        abilities: Abilities,
    ) -> Result<(), BackendError> {
        let Some(blob) = key.next_blob else { return Ok(()) };
        self.prove(KeyMaterial { blob, next_blob: None, ..key }, abilities).await
    }

    /// Signs with a key and verifies the signature, or has decrypted what was encrypted here, or both: proof, before anyone
    /// relies on it, that the unit has the private half of the public key.
    async fn prove(&self, key: KeyMaterial<'_>, abilities: Abilities) -> Result<(), BackendError> {
        const MESSAGE: &[u8] = b"keyward: first signature of a key";
        let context = Context::of_daemon(MAKING);
        if abilities.signs {
            let public = PublicKey::from_spki(key.spki).map_err(|_| BackendError::NoPublicKey)?;
            let scheme = public.schemes().first().copied().ok_or(BackendError::CannotSign)?;
            self.sign(key, scheme, Input::Message(MESSAGE), &context, &mut Times::default()).await?;
        }
        if abilities.decrypts {
            let (plain, ciphertext) = encrypted(key.spki).map_err(|_| BackendError::CannotDecrypt)?;
            if *self.decrypt(key, &ciphertext, &context).await? != plain {
                return Err(BackendError::WrongPlaintext { backend: self.name.to_string() });
            }
        }
        Ok(())
    }

    /// The same for a key that is yet to be handed out.
    async fn proved(&self, key: NewKey, abilities: Abilities) -> Result<NewKey, BackendError> {
        self.prove(KeyMaterial::of_new(&key), abilities).await?;
        Ok(key)
    }

    /// Does something at a unit with a master key, or with any.
    async fn at_some_unit<T, F>(
        &self,
        wkid: Option<Wkid>,
        f: impl Fn(Arc<Connection>) -> F,
    ) -> Result<T, BackendError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let wkids: Vec<_> = wkid.into_iter().collect();
        let deadline = Instant::now() + MAKING;
        let (mut tried, mut attempts) = (Tried::default(), 0);
        loop {
            let seat = self.pool.seat(&wkids, tried, deadline, false, NOBODY).await;
            let seat = seat.map_err(|why| self.no_seat(why, &wkids))?;
            attempts += 1;
            tried.add(self.pool.number(&seat.unit));
            let mut connection = None;
            let done = async { f(connection.insert(seat.unit.connection().await?).clone()).await };
            let done = tokio::time::timeout_at(deadline.into(), done).await.unwrap_or(Err(Failure::Late));
            let failure = match done {
                Ok(done) => {
                    seat.succeeded();
                    return Ok(done);
                }
                Err(failure) => failure,
            };
            // Nothing has begun at a unit that was not reached, and what another master key has wrapped counts for
            // nothing.
            let again = connection.is_none() || matches!(failure, Failure::OtherMasterKey(_));
            seat.failed(&failure, connection.as_deref());
            if !again || attempts >= ATTEMPTS {
                return Err(self.failed(failure, false, &wkids));
            }
        }
    }

    fn no_seat(&self, why: NoSeat, wkids: &[Wkid]) -> BackendError {
        let backend = self.name.to_string();
        match why {
            NoSeat::Late => BackendError::Unanswered { backend },
            NoSeat::Overloaded => BackendError::Busy { backend },
            NoSeat::Down => BackendError::Down { backend, units: self.problems() },
            NoSeat::OtherMasterKey => {
                let key = wkids.iter().map(Wkid::to_string).collect::<Vec<_>>().join(" and ");
                let units = self
                    .units()
                    .filter_map(|unit| Some(format!("{} has {}", unit.endpoint, unit.status().wkid?)));
                BackendError::OtherMasterKey { key, units: units.collect::<Vec<_>>().join(", ") }
            }
        }
    }

    /// The same error, of a key that is yet to be made.
    fn while_making(&self, error: BackendError) -> BackendError {
        match error {
            BackendError::OtherMasterKey { key, units } => {
                BackendError::NoUnitForKeys { backend: self.name.to_string(), key, units }
            }
            other => other,
        }
    }

    fn failed(&self, failure: Failure, late: bool, wkids: &[Wkid]) -> BackendError {
        let backend = self.name.to_string();
        match failure {
            Failure::Refused { code, reason } => {
                BackendError::Refused { backend, outcome: failure::outcome_of(code), reason }
            }
            Failure::NotOffered(reason) => BackendError::NotOffered { backend, reason },
            Failure::WrongSignature => BackendError::WrongSignature { backend, agreed: false },
            _ if late => BackendError::Unanswered { backend },
            Failure::Busy(_) => BackendError::Busy { backend },
            Failure::OtherMasterKey(_) => self.no_seat(NoSeat::OtherMasterKey, wkids),
            Failure::Hurried | Failure::Late => BackendError::Unanswered { backend },
            other => BackendError::Down { backend, units: other.to_string() },
        }
    }

    fn problems(&self) -> String {
        let problem = |unit: &Unit| {
            let problem = unit.status().problem;
            format!("{}: {}", unit.endpoint, problem.unwrap_or_else(|| "not connected yet".into()))
        };
        self.units().map(problem).collect::<Vec<_>>().join("; ")
    }
}

/// Something that nobody can guess, and the same encrypted by a public key.
fn encrypted(spki: &[u8]) -> Result<([u8; PREMASTER], Vec<u8>), Unspecified> {
    let mut plain = [0; PREMASTER];
    aws_lc_rs::rand::fill(&mut plain)?;
    let key = PublicEncryptingKey::from_der(spki).map_err(|_| Unspecified)?;
    let mut ciphertext = vec![0; key.key_size_bytes()];
    Pkcs1PublicEncryptingKey::new(key)?.encrypt(&plain, &mut ciphertext)?;
    Ok((plain, ciphertext))
}

/// How many units are asked for one thing, one after the other.
const ATTEMPTS: u32 = 3;
/// How long it may take to make a key or take one in: RSA keys of 4096 bits take seconds.
const MAKING: Duration = Duration::from_secs(60);
