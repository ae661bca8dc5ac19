//! Remote crypto units, reached over GREP11.
//!
//! A request for a signature comes to [`Grep11::sign`]. The [`pool`] gives it a place at the unit that will be done
//! first; [`unit`] knows what each can do and whether it may be asked ([`breaker`], [`pace`], [`latency`]), and has a
//! [`connection`] to it; [`mechanism`] says what to send and what the answer means. The signature is verified before
//! it is passed on. If the unit fails, another one is asked, as long as the peer waits.

mod breaker;
mod connection;
mod failure;
mod http2;
mod key;
mod latency;
pub(crate) mod mechanism;
mod network;
mod pace;
mod pool;
mod token;
mod trace;
mod unit;

use core::time::Duration;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use aws_lc_rs::digest::{self, Digest};
use keyward_proto::{KeyType, Outcome, PublicKey, Scheme, SchemeFamily};
use keyward_unit::{Header, ImportError, Input, NewKey, Wkid};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::verify::{Signed, verifies};
use super::{Asked, Times};
use crate::config;
use crate::keys::Version;
use connection::{Connection, Line};
use failure::Failure;
use latency::Percentile95;
use network::TlsClient;
use pool::{NoSeat, Pool, Tried};
use token::Tokens;
use unit::{Seat, Unit};

pub(crate) use breaker::Breaker;
pub(crate) use key::making;
pub(crate) use mechanism::Form;
pub(crate) use trace::{Trace, random};
pub(crate) use unit::Status;

/// A backend: units with one master key, reached over GREP11. Shared between threads.
pub(crate) struct Grep11 {
    name: Arc<str>,
    pool: Pool,
    line: Arc<Line>,
    timeout: Duration,
    hedge: bool,
    p95: Mutex<Percentile95>,
}

impl Grep11 {
    /// A backend as configured, which is not connected yet.
    ///
    /// # Errors
    /// [`SetupError`] says which setting leads nowhere.
    pub(crate) fn new(name: &str, settings: &config::Grep11) -> Result<Self, SetupError> {
        let failed =
            |reason: &dyn core::error::Error| SetupError(name.to_owned(), crate::causes::causes(reason));
        let tls = settings.tls.as_ref().map(|tls| TlsClient::new(tls, b"h2")).transpose();
        let tokens = Tokens::new(name, &settings.auth).map_err(|error| failed(&error))?;
        let line = Arc::new(Line {
            tls: tls.map_err(|error| failed(&error))?,
            tokens,
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
        })
    }

    /// Begins to watch over the units, in tasks of this thread, and waits until each was probed once.
    pub(crate) async fn start(self: &Arc<Self>) {
        let this = Arc::clone(self);
        tokio::spawn(async move { this.line.tokens.keep_fresh().await });
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

    /// Whether any unit may be asked.
    pub(crate) fn is_ready(&self) -> bool {
        self.units().any(|unit| unit.status().breaker != Breaker::Open)
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

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.line.tokens
    }

    /// Signs at a unit that has the master key of the key; at another one if that fails in time.
    ///
    /// # Errors
    /// [`Grep11Error`] says why no unit has signed.
    pub(crate) async fn sign(
        &self,
        version: &Version,
        scheme: Scheme,
        input: Input<'_>,
        asked: &Asked,
        times: &mut Times,
    ) -> Result<Vec<u8>, Grep11Error> {
        self.do_job(&Job::new(version, scheme, input)?, asked, times).await
    }

    async fn do_job(&self, job: &Job<'_>, asked: &Asked, times: &mut Times) -> Result<Vec<u8>, Grep11Error> {
        let mut tried = Tried::default();
        let mut attempts = 0;
        loop {
            let begin = Instant::now();
            let seat = self.pool.seat(&job.wkids, tried, asked.deadline).await;
            times.queue += begin.elapsed();
            let seat = seat.map_err(|why| self.no_seat(why, &job.wkids))?;
            attempts += 1;
            tried.add(self.pool.number(&seat.unit));
            let begin = Instant::now();
            match self.with_hedge(seat, job, asked, &mut tried).await {
                Ok(answer) => {
                    times.network += answer.network;
                    times.unit += answer.unit;
                    times.verify += answer.verify;
                    let mut p95 = self.p95.lock().unwrap_or_else(PoisonError::into_inner);
                    p95.observe(answer.network + answer.unit);
                    return Ok(answer.signature);
                }
                Err(failure) => {
                    times.unit += begin.elapsed();
                    let late = Instant::now() >= asked.deadline;
                    if late || attempts >= ATTEMPTS || !failure.is_worth_another_attempt() {
                        return Err(self.failed(failure, late, &job.wkids));
                    }
                }
            }
        }
    }

    /// One attempt, and a second one at another unit if the first takes longer than most.
    async fn with_hedge(
        &self,
        seat: Seat,
        job: &Job<'_>,
        asked: &Asked,
        tried: &mut Tried,
    ) -> Result<Answer, Failure> {
        let first = self.attempt(seat, job, asked);
        if !self.hedge || self.pool.units.len() < 2 {
            return first.await;
        }
        tokio::pin!(first);
        let p95 = self.p95.lock().unwrap_or_else(PoisonError::into_inner).get();
        if let Ok(answer) = tokio::time::timeout(p95, &mut first).await {
            return answer;
        }
        let Some(seat) = self.pool.seat_now(&job.wkids, *tried) else { return first.await };
        tried.add(self.pool.number(&seat.unit));
        let second = self.attempt(seat, job, asked);
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

    async fn attempt(&self, seat: Seat, job: &Job<'_>, asked: &Asked) -> Result<Answer, Failure> {
        let due = asked.deadline.min(Instant::now() + self.timeout);
        let mut connection = None;
        let attempt = async {
            let connection = connection.insert(seat.unit.connection().await?);
            let begin = Instant::now();
            let raw = job.sign_over(connection, &seat.unit, &asked.trace).await?;
            let took = begin.elapsed();
            let network = seat.unit.round_trip().min(took);
            let begin = Instant::now();
            let signature = job.checked(raw)?;
            Ok(Answer { signature, network, unit: took - network, verify: begin.elapsed() })
        };
        let answer = tokio::time::timeout_at(due.into(), attempt).await.unwrap_or(Err(Failure::Late));
        match &answer {
            Ok(_) => seat.signed(),
            Err(failure) => {
                tracing::debug!(backend = &*self.name, unit = %seat.unit.endpoint, "attempt failed: {failure}");
                seat.failed(failure, connection.as_deref());
            }
        }
        answer
    }

    /// Makes a new private key at a unit with that master key, which signs and cannot be taken out.
    ///
    /// # Errors
    /// [`Grep11Error`] says why not.
    pub(crate) async fn generate(
        &self,
        key_type: KeyType,
        wkid: Option<Wkid>,
    ) -> Result<NewKey, Grep11Error> {
        let generate = |connection: Arc<Connection>| async move {
            connection.generate(key_type).await?.wrapped_by(wkid)
        };
        let pair = self.at_some_unit(wkid, generate).await.map_err(|error| self.while_making(error))?;
        self.proved(NewKey { blob: pair.blob, spki: pair.spki, key_type }, Pairing::OfUnit).await
    }

    /// Takes in the private key of a file: it is wrapped here for a key that a unit has made for that alone.
    ///
    /// # Errors
    /// [`ImportError`] says what the file is instead; [`Grep11Error`] why no unit took it in.
    pub(crate) async fn import(
        &self,
        file: &[u8],
        wkid: Option<Wkid>,
    ) -> Result<Result<NewKey, Grep11Error>, ImportError> {
        let import = |connection: Arc<Connection>| async move {
            let transport_key = connection.generate_transport_key().await?.wrapped_by(wkid)?;
            let wrapped = match keyward_unit::transport(file, &transport_key.spki) {
                Ok(wrapped) => wrapped,
                // The unit has done its part.
                Err(unreadable) => return Ok(Err(unreadable)),
            };
            let pair = connection.import(&transport_key, &wrapped).await?;
            Ok(Ok(NewKey { blob: pair.blob, spki: pair.spki, key_type: wrapped.key_type }))
        };
        match self.at_some_unit(wkid, import).await {
            Ok(Ok(key)) => Ok(self.proved(key, Pairing::OfUnit).await),
            Ok(Err(unreadable)) => Err(unreadable),
            Err(error) => Ok(Err(self.while_making(error))),
        }
    }

    /// Takes over a key that a unit has wrapped for somebody else, with its public key in any form.
    ///
    /// # Errors
    /// [`Grep11Error`] says what does not fit.
    pub(crate) async fn adopt(&self, blob: Vec<u8>, public: &[u8]) -> Result<NewKey, Grep11Error> {
        let spki = keyward_unit::spki_of_public_key_blob(public).ok_or(Grep11Error::NoPublicKey)?;
        let key = PublicKey::from_spki(&spki).map_err(|_| Grep11Error::NoPublicKey)?;
        let header = Header::read(&blob).ok_or(Grep11Error::NoBlob)?;
        if !header.signs() {
            return Err(Grep11Error::CannotSign);
        }
        self.proved(NewKey { blob, spki, key_type: key.key_type() }, Pairing::Claimed).await
    }

    /// Wraps a blob by the master key that is to come, at a unit that has the present one.
    ///
    /// # Errors
    /// [`Grep11Error`] says why not.
    pub(crate) async fn rewrap(&self, blob: &[u8]) -> Result<Vec<u8>, Grep11Error> {
        let wkid = Header::read(blob).ok_or(Grep11Error::NoBlob)?.wkid();
        let rewrap = |connection: Arc<Connection>| async move { connection.rewrap(blob).await };
        let new = self.at_some_unit(Some(wkid), rewrap).await?;
        match Header::read(&new) {
            Some(header) if header.wkid() != wkid => Ok(new),
            _ => Err(Grep11Error::NotRewrapped { backend: self.name.to_string() }),
        }
    }

    /// Signs with a key and verifies the signature: proof, before anyone relies on it, that the unit has the private
    /// half of the public key.
    async fn proved(&self, key: NewKey, pairing: Pairing) -> Result<NewKey, Grep11Error> {
        const MESSAGE: &[u8] = b"keyward: first signature of a key";
        let scheme = key.key_type.schemes().first().copied().ok_or(Grep11Error::CannotSign)?;
        let version = Version {
            number: 1,
            key_type: key.key_type,
            blob: key.blob.clone(),
            next_blob: None,
            spki: key.spki.clone(),
            created: 0,
        };
        let asked = Asked { deadline: Instant::now() + MAKING, trace: Trace::new(random(), 0) };
        let job = Job { pairing, ..Job::new(&version, scheme, Input::Message(MESSAGE))? };
        self.do_job(&job, &asked, &mut Times::default()).await?;
        Ok(key)
    }

    /// Does something at a unit with a master key, or with any.
    async fn at_some_unit<T, F>(
        &self,
        wkid: Option<Wkid>,
        f: impl Fn(Arc<Connection>) -> F,
    ) -> Result<T, Grep11Error>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let wkids: Vec<_> = wkid.into_iter().collect();
        let deadline = Instant::now() + MAKING;
        let (mut tried, mut attempts) = (Tried::default(), 0);
        loop {
            let seat = self.pool.seat(&wkids, tried, deadline).await;
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

    fn no_seat(&self, why: NoSeat, wkids: &[Wkid]) -> Grep11Error {
        let backend = self.name.to_string();
        match why {
            NoSeat::Late => Grep11Error::Late { backend },
            NoSeat::Overloaded => Grep11Error::Overloaded { backend },
            NoSeat::Down => Grep11Error::Down { backend, units: self.problems() },
            NoSeat::OtherMasterKey => {
                let key = wkids.iter().map(Wkid::to_string).collect::<Vec<_>>().join(" and ");
                let units = self
                    .units()
                    .filter_map(|unit| Some(format!("{} has {}", unit.endpoint, unit.status().wkid?)));
                Grep11Error::OtherMasterKey { key, units: units.collect::<Vec<_>>().join(", ") }
            }
        }
    }

    /// The same error, of a key that is yet to be made.
    fn while_making(&self, error: Grep11Error) -> Grep11Error {
        match error {
            Grep11Error::OtherMasterKey { key, units } => {
                Grep11Error::NoHome { backend: self.name.to_string(), key, units }
            }
            other => other,
        }
    }

    fn failed(&self, failure: Failure, late: bool, wkids: &[Wkid]) -> Grep11Error {
        let backend = self.name.to_string();
        match failure {
            Failure::Refused { code, reason } => Grep11Error::Refused { backend, code, reason },
            Failure::NotOffered(reason) => Grep11Error::NotOffered { backend, reason },
            Failure::OtherPublicKey => Grep11Error::OtherPublicKey,
            _ if late => Grep11Error::Late { backend },
            Failure::Busy(_) => Grep11Error::Overloaded { backend },
            Failure::OtherMasterKey(_) => self.no_seat(NoSeat::OtherMasterKey, wkids),
            Failure::Late => Grep11Error::Late { backend },
            other => Grep11Error::Down { backend, units: other.to_string() },
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

/// What is to be signed, with everything that does not depend on the unit.
struct Job<'a> {
    version: &'a Version,
    key: PublicKey,
    pairing: Pairing,
    scheme: Scheme,
    message: Option<&'a [u8]>,
    digest: Option<Digest>,
    /// The master keys by which the key is wrapped.
    wkids: Vec<Wkid>,
}

impl<'a> Job<'a> {
    fn new(version: &'a Version, scheme: Scheme, input: Input<'a>) -> Result<Self, Grep11Error> {
        let key = PublicKey::from_spki(&version.spki).map_err(|_| Grep11Error::NoPublicKey)?;
        let key_type = version.key_type;
        if !key_type.schemes().contains(&scheme) {
            return Err(Grep11Error::SchemeNotSupported { scheme, key_type });
        }
        let (message, digest) = match (input, scheme.hash()) {
            (Input::Message(message), Some(hash)) => {
                (Some(message), Some(digest::digest(mechanism::algorithm(hash), message)))
            }
            (Input::Message(message), None) => (Some(message), None),
            (Input::Digest(_), None) => return Err(Grep11Error::WholeMessageNeeded(scheme)),
            (Input::Digest(digest), Some(hash)) => {
                let given = digest.len();
                let digest = Digest::import_less_safe(digest, mechanism::algorithm(hash));
                let wrong = |_| Grep11Error::DigestLength { needed: hash.length(), given };
                (None, Some(digest.map_err(wrong)?))
            }
        };
        let blobs = core::iter::once(&version.blob).chain(&version.next_blob);
        let wkids: Vec<_> = blobs.filter_map(|blob| Some(Header::read(blob)?.wkid())).collect();
        if wkids.is_empty() {
            return Err(Grep11Error::NoBlob);
        }
        Ok(Self { version, key, pairing: Pairing::OfUnit, scheme, message, digest, wkids })
    }

    /// Has a unit sign, in a form that it can.
    async fn sign_over(
        &self,
        connection: &Connection,
        unit: &Unit,
        trace: &Trace,
    ) -> Result<Vec<u8>, Failure> {
        let blobs = core::iter::once(&self.version.blob).chain(&self.version.next_blob);
        let wrapped_by_its_key =
            |blob: &&Vec<u8>| Header::read(blob).is_some_and(|header| header.wkid() == connection.wkid);
        let blob = blobs.into_iter().find(wrapped_by_its_key);
        let blob = blob.ok_or(Failure::OtherMasterKey(Some(connection.wkid)))?;
        let not_offered = || Failure::NotOffered(format!("it has no mechanism for {}", self.scheme));
        let form = unit.form(self.scheme).ok_or_else(not_offered)?;
        let signed = self.sign_as(form, connection, blob, trace).await;
        match signed {
            Err(Failure::NotOffered(_))
                if form == Form::Digest && self.scheme.family() == SchemeFamily::RsaPss =>
            {
                unit.refused_digest_pss();
                match unit.form(self.scheme) {
                    Some(Form::Message) => self.sign_as(Form::Message, connection, blob, trace).await,
                    _ => signed,
                }
            }
            signed => signed,
        }
    }

    async fn sign_as(
        &self,
        form: Form,
        connection: &Connection,
        blob: &[u8],
        trace: &Trace,
    ) -> Result<Vec<u8>, Failure> {
        let not_offered = || Failure::NotOffered(format!("it signs digests with {} no way", self.scheme));
        let data = match (form, &self.digest, self.message) {
            (Form::Digest, Some(digest), _) => mechanism::data(self.scheme, digest.as_ref()),
            (Form::Message, _, Some(message)) => message.to_vec(),
            _ => return Err(not_offered()),
        };
        let number = mechanism::number(self.scheme, form).ok_or_else(not_offered)?;
        connection.sign(blob, mechanism::mechanism(self.scheme, number), data, trace).await
    }

    /// The signature as TLS has it, if it is one of this message by this key.
    fn checked(&self, raw: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let signed = match (self.digest, self.message) {
            (Some(digest), _) => Signed::Digest(digest),
            (None, message) => Signed::Message(message.unwrap_or_default()),
        };
        mechanism::signature(&self.key, raw)
            .filter(|signature| verifies(&self.key, &self.version.spki, self.scheme, &signed, signature))
            .ok_or_else(|| match self.pairing {
                Pairing::Claimed => Failure::OtherPublicKey,
                Pairing::OfUnit => Failure::severe("it answered with a signature that does not verify"),
            })
    }
}

/// How it is known that the halves of a pair belong together, and so whose fault it is if they do not.
#[derive(Clone, Copy)]
enum Pairing {
    /// Somebody says so.
    Claimed,
    /// A unit has said so, or has proved it already.
    OfUnit,
}

/// A signature, and what it took.
struct Answer {
    signature: Vec<u8>,
    network: Duration,
    unit: Duration,
    verify: Duration,
}

/// A backend that cannot be used as configured.
#[derive(Debug, Error)]
#[error("cannot use backend {0}: {1}")]
pub struct SetupError(String, String);

/// Why no unit did what was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum Grep11Error {
    /// The attributes of the key do not allow it to sign.
    #[error("the key cannot sign: its attributes do not allow it")]
    CannotSign,
    /// The caller's digest is of another length than the hash gives.
    #[error("cannot sign a digest of {given} bytes: the scheme needs one of {needed}")]
    DigestLength {
        /// In bytes.
        needed: usize,
        /// In bytes.
        given: usize,
    },
    /// No unit is in order.
    #[error("no unit of backend {backend} is in order: {units}")]
    Down {
        /// The backend.
        backend: String,
        /// What is wrong with each.
        units: String,
    },
    /// The deadline passed.
    #[error("no unit of backend {backend} gave an answer in time")]
    Late {
        /// The backend.
        backend: String,
    },
    /// It is not a blob.
    #[error("this is no key blob of Enterprise PKCS #11; it must be the bytes that a unit gave, as they are")]
    NoBlob,
    /// No unit has the master key of the other keys.
    #[error(
        "the keys of backend {backend} are wrapped by master key {key}, and no unit that is in order has that: {units}; if it was changed, run: keyward key rewrap --backend {backend} --finish"
    )]
    NoHome {
        /// The backend.
        backend: String,
        /// By which the other keys are wrapped.
        key: String,
        /// What each unit has.
        units: String,
    },
    /// It is not a public key.
    #[error(
        "this is no public key of a type that TLS signs with; give its SubjectPublicKeyInfo, or the public key that the unit gave"
    )]
    NoPublicKey,
    /// No unit has the mechanism.
    #[error("the units of backend {backend} cannot do this: {reason}")]
    NotOffered {
        /// The backend.
        backend: String,
        /// What a unit said.
        reason: String,
    },
    /// There is no master key to come.
    #[error(
        "a unit of backend {backend} rewrapped a key by the same master key; is a new one committed there?"
    )]
    NotRewrapped {
        /// The backend.
        backend: String,
    },
    /// The key is wrapped by another master key.
    #[error("the key is wrapped by master key {key}, and no unit that is in order has that: {units}")]
    OtherMasterKey {
        /// By which the key is wrapped.
        key: String,
        /// What each unit has.
        units: String,
    },
    /// The halves of a pair do not belong together.
    #[error(
        "the public key is that of another private key: what a unit signs with the blob does not verify by it"
    )]
    OtherPublicKey,
    /// More than the units can do.
    #[error("the units of backend {backend} have more to do than they can")]
    Overloaded {
        /// The backend.
        backend: String,
    },
    /// A unit said no, and so would the others.
    #[error("a unit of backend {backend} refused: {reason}")]
    Refused {
        /// The backend.
        backend: String,
        /// The number of PKCS #11.
        code: u64,
        /// What the unit said.
        reason: String,
    },
    /// The key is of another type than the scheme.
    #[error("a key of type {key_type} cannot sign with {scheme}")]
    SchemeNotSupported {
        /// The scheme.
        scheme: Scheme,
        /// The type of the key.
        key_type: KeyType,
    },
    /// The scheme takes no digest.
    #[error("{0} signs whole messages, not digests")]
    WholeMessageNeeded(Scheme),
}

impl Grep11Error {
    /// What a peer is told.
    pub(crate) fn outcome(&self) -> Outcome {
        use keyward_grep11::ckr;
        match self {
            Self::DigestLength { .. } => Outcome::Malformed,
            Self::Down { .. } => Outcome::UnitUnavailable,
            Self::Late { .. } => Outcome::DeadlineExceeded,
            Self::NoHome { .. } | Self::OtherMasterKey { .. } => Outcome::OtherMasterKey,
            Self::Overloaded { .. } => Outcome::Overloaded,
            Self::CannotSign
            | Self::NotOffered { .. }
            | Self::SchemeNotSupported { .. }
            | Self::WholeMessageNeeded(_) => Outcome::NotSupported,
            Self::NoBlob => Outcome::BlobDamaged,
            Self::Refused { code, .. } => match *code {
                ckr::CKR_IBM_BLOB_ERROR | ckr::CKR_KEY_HANDLE_INVALID | ckr::CKR_OBJECT_HANDLE_INVALID => {
                    Outcome::BlobDamaged
                }
                ckr::CKR_KEY_FUNCTION_NOT_PERMITTED
                | ckr::CKR_KEY_TYPE_INCONSISTENT
                | ckr::CKR_KEY_SIZE_RANGE
                | ckr::CKR_IBM_STATIC_POLICY => Outcome::NotSupported,
                _ => Outcome::Internal,
            },
            Self::NoPublicKey | Self::NotRewrapped { .. } | Self::OtherPublicKey => Outcome::Internal,
        }
    }
}

/// How many units are asked for one thing, one after the other.
const ATTEMPTS: u32 = 3;
/// How long it may take to make a key or take one in: RSA keys of 4096 bits take seconds.
const MAKING: Duration = Duration::from_secs(60);
