//! One unit: whether it may be asked now, what is known of it, and the connections to it.

use core::fmt;
use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Instant;

use keyward_proto::Scheme;
use keyward_unit::Wkid;
use tokio::sync::{Notify, OnceCell};
use tokio::task::JoinSet;

use super::breaker::{Admits, Breaker};
use super::failure::Failure;
use super::latency::Latency;
use super::pace::Pace;
use super::permit::Seat;
use crate::backend::grep11::connection::{Connection, Line};
use crate::backend::grep11::mechanism::{self, Form};
use crate::backend::network::TlsClient;
use crate::config::{self, Endpoint};
use crate::ground::throttle::Throttle;

/// A unit. Shared between threads.
pub(crate) struct Unit {
    pub(crate) endpoint: Endpoint,
    pub(in crate::backend) backend: String,
    line: Arc<Line>,
    in_flight_limit: usize,
    connect_timeout: Duration,
    pub(in crate::backend) timeout: Duration,
    /// That it is in order, that it is not, that it has another master key.
    lines: [Throttle; 3],
    state: Mutex<State>,
    /// A thread waits for the answers that come over its own connection, so no other one has to be woken.
    connections: Mutex<HashMap<ThreadId, Arc<OnceCell<Arc<Connection>>>>>,
    /// Told when the breaker opens.
    opened: Notify,
    /// Told when there may be room at a unit of the backend.
    pub(in crate::backend) freed: Arc<Notify>,
}

/// What is known of a unit.
pub(in crate::backend) struct State {
    pub(in crate::backend) breaker: Breaker,
    pub(in crate::backend) pace: Option<Pace>,
    pub(in crate::backend) latency: Latency,
    pub(in crate::backend) in_flight: usize,
    pub(in crate::backend) wkid: Option<Wkid>,
    pub(in crate::backend) mechanisms: Arc<[u64]>,
    /// Whether it signs digests with PSS: so until it has refused to.
    pub(in crate::backend) digest_pss: bool,
    /// How long a packet takes there and back: the shortest that was seen, since the others waited for a processor.
    pub(in crate::backend) round_trip: Duration,
    /// What was wrong with it last, while it is out of order.
    pub(in crate::backend) problem: Option<String>,
    /// When that was last said.
    pub(in crate::backend) said: Option<Instant>,
    /// How often in a row a probe found it in order and a request did not.
    pub(in crate::backend) relapses: u32,
    /// How often it was found in order: what was asked before that says nothing of how it is now.
    pub(in crate::backend) epoch: u64,
    /// Since when all requests there were given up for another unit's answer.
    pub(in crate::backend) unanswered: Option<Instant>,
    /// Until then it need not show again whether it signs as it should.
    pub(in crate::backend) examined: Option<Instant>,
    /// When it last did what it was asked.
    pub(in crate::backend) succeeded: Option<Instant>,
    pub(in crate::backend) calls: u64,
    pub(in crate::backend) failures: u64,
}

/// A unit as it is, for people and metrics.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    pub(crate) breaker: Breaker,
    pub(crate) in_flight: usize,
    pub(crate) latency: Duration,
    pub(crate) wkid: Option<Wkid>,
    pub(crate) mechanisms: Arc<[u64]>,
    pub(crate) problem: Option<String>,
    pub(crate) calls: u64,
    pub(crate) failures: u64,
}

/// How a unit takes files of TLS that are not in force.
#[derive(Debug)]
pub(in crate::backend) enum Trial {
    Accepted,
    /// For this reason; and whether it is in order with those that are.
    Refused {
        reason: String,
        in_order: bool,
    },
    Unknown,
}

/// Whether a unit can take a request.
#[derive(Debug)]
pub(in crate::backend) enum Offer {
    /// At this cost: the least is the best.
    Free(f64),
    /// Not now; at that time, or when another request is done.
    Busy(Option<Instant>),
    /// It has another master key.
    Unfit,
    Down,
}

impl Unit {
    pub(in crate::backend) fn new(
        backend: &str,
        endpoint: Endpoint,
        settings: &config::Grep11,
        line: Arc<Line>,
        freed: Arc<Notify>,
    ) -> Self {
        let now = Instant::now();
        let state = State {
            // Until it was found in order.
            breaker: Breaker::Open,
            pace: settings.rate.map(|rate| Pace::new(rate, now)),
            latency: Latency::new(now),
            in_flight: 0,
            wkid: None,
            mechanisms: Arc::default(),
            digest_pss: true,
            round_trip: Duration::MAX,
            problem: None,
            said: None,
            relapses: 0,
            epoch: 0,
            unanswered: None,
            examined: None,
            succeeded: None,
            calls: 0,
            failures: 0,
        };
        Self {
            endpoint,
            backend: backend.to_owned(),
            line,
            in_flight_limit: settings.in_flight.get(),
            connect_timeout: settings.connect_timeout,
            timeout: settings.timeout,
            lines: [Throttle::default(), Throttle::default(), Throttle::default()],
            state: Mutex::new(state),
            connections: Mutex::default(),
            opened: Notify::new(),
            freed,
        }
    }

    /// Whether it can take a request for a key that is wrapped by one of these master keys; none stands for any.
    pub(in crate::backend) fn offer(&self, wkids: &[Wkid], now: Instant) -> Offer {
        self.with(|state| {
            let fits = state.wkid.is_some_and(|own| wkids.is_empty() || wkids.contains(&own));
            match state.breaker.admits() {
                Admits::Never => Offer::Down,
                _ if !fits => Offer::Unfit,
                Admits::Later => Offer::Busy(None),
                Admits::Now if state.in_flight >= self.in_flight_limit => Offer::Busy(None),
                Admits::Now => match state.pace.map(|pace| pace.next()).filter(|next| *next > now) {
                    Some(next) => Offer::Busy(Some(next)),
                    None => Offer::Free(state.latency.cost(state.in_flight, now)),
                },
            }
        })
    }

    /// Takes a place, if there is one still.
    ///
    /// Where it is half open, the request tries it out if `trial`: one that takes long had better not.
    pub(in crate::backend) fn enter(self: &Arc<Self>, now: Instant, trial: bool) -> Option<Seat> {
        let entered = self.with(|state| {
            let free = state.breaker.admits() == Admits::Now
                && state.in_flight < self.in_flight_limit
                && state.pace.is_none_or(|pace| pace.next() <= now);
            if free {
                if trial {
                    state.breaker.enter();
                }
                state.in_flight += 1;
                state.calls += 1;
                if let Some(pace) = &mut state.pace {
                    pace.take(now);
                }
            }
            free.then_some(state.epoch)
        });
        entered.map(|epoch| Seat::new(self, epoch, trial, now))
    }

    /// This thread's connection to it.
    ///
    /// # Errors
    /// [`Failure`] says why there is none to be had.
    pub(in crate::backend) async fn connection(self: &Arc<Self>) -> Result<Arc<Connection>, Failure> {
        let place = {
            let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            let place = connections.entry(thread::current().id()).or_default();
            if place.get().is_some_and(|connection| connection.is_closed()) {
                *place = Arc::default();
            }
            Arc::clone(place)
        };
        if let Some(connection) = place.get() {
            return Ok(Arc::clone(connection));
        }
        // In a task of its own: whoever asks first may lose patience, and others wait for the same connection.
        let unit = Arc::clone(self);
        let open = async move { place.get_or_try_init(|| unit.open()).await.map(Arc::clone) };
        tokio::spawn(open).await.unwrap_or_else(|_| Err(Failure::severe("connecting was given up")))
    }

    async fn open(&self) -> Result<Arc<Connection>, Failure> {
        // Those who waited while another one tried in vain need not try again.
        if self.with(|state| state.breaker) == Breaker::Open {
            return Err(Failure::severe(self.with(|state| state.problem.clone()).unwrap_or_default()));
        }
        let opened = Connection::open(&self.endpoint, &self.line);
        let Ok(opened) = tokio::time::timeout(self.connect_timeout, opened).await else {
            return Err(Failure::severe(format_args!("no connection within {:?}", self.connect_timeout)));
        };
        let connection = Arc::new(opened?);
        self.connected(&connection);
        Ok(connection)
    }

    /// Notes what a connection has found.
    fn connected(&self, connection: &Connection) {
        let wkid = connection.wkid;
        let before = self.with(|state| {
            state.round_trip = state.round_trip.min(connection.round_trip);
            state.wkid.replace(wkid)
        });
        // The connections of other threads will find out by themselves.
        if before.is_some_and(|before| before != wkid)
            && let Some(times) = self.lines[2].admit()
        {
            tracing::warn!(backend = self.backend, unit = %self.endpoint, %wkid, times, "unit has another master key now");
        }
    }

    /// Has the thread of a connection connect anew.
    pub(in crate::backend) fn forget(&self, connection: &Connection) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections
            .retain(|_, place| !place.get().is_some_and(|one| core::ptr::eq(&raw const **one, connection)));
    }

    /// Has every thread connect anew.
    fn forget_connections(&self) {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// How long a packet takes there and back.
    pub(in crate::backend) fn round_trip(&self) -> Duration {
        self.with(|state| state.round_trip)
    }

    /// What to send it for a scheme: a digest where it takes one, or else the message.
    pub(in crate::backend) fn form(&self, scheme: Scheme) -> Option<Form> {
        self.with(|state| {
            let pss = scheme.is_pss();
            [Form::Digest, Form::Message].into_iter().find(|form| {
                let number = mechanism::number(scheme, *form);
                number.is_some_and(|number| state.mechanisms.binary_search(&number).is_ok())
                    && (*form == Form::Message || !pss || state.digest_pss)
            })
        })
    }

    /// It has refused to sign a digest with PSS.
    pub(in crate::backend) fn refused_digest_pss(&self) {
        self.with(|state| state.digest_pss = false);
    }

    pub(crate) fn status(&self) -> Status {
        let now = Instant::now();
        self.with(|state| Status {
            breaker: state.breaker,
            in_flight: state.in_flight,
            latency: Duration::from_secs_f64(state.latency.cost(0, now)),
            wkid: state.wkid,
            mechanisms: Arc::clone(&state.mechanisms),
            problem: state.problem.clone(),
            calls: state.calls,
            failures: state.failures,
        })
    }

    /// Watches over it: probes it while it is out of order, and looks after it while nobody asks.
    pub(in crate::backend) async fn watch(&self, first: &Notify) {
        let mut told_first = false;
        loop {
            match self.probe_once_or_again(told_first).await {
                Ok((connection, mechanisms)) => self.is_back(connection, mechanisms),
                // Only the first probe comes back with this.
                Err(failure) => self.problem(&failure),
            }
            if !told_first {
                first.notify_one();
                told_first = true;
            }
            while self.with(|state| state.breaker) != Breaker::Open {
                tokio::select! {
                    () = self.opened.notified() => {}
                    () = tokio::time::sleep(self.line.keepalive) => self.look_after().await,
                    // Whoever hangs up may go for good, or come back with another master key.
                    () = self.hung_up() => {
                        self.look().await;
                        tokio::time::sleep(PROBE).await;
                    }
                }
            }
            // One that only probes find in order is tried out by fewer and fewer requests.
            let relapses = self.with(|state| state.relapses);
            if relapses > 0 {
                tokio::time::sleep((PROBE * 2_u32.saturating_pow(relapses.min(16))).min(LONGEST_PAUSE)).await;
            }
        }
    }

    /// Probes until it is in order. Probes that hang do not keep others from being tried, so it is found in order
    /// soon after it is.
    async fn probe_once_or_again(&self, again: bool) -> Result<(Arc<Connection>, Vec<u64>), Failure> {
        if !again {
            return self.probe().await;
        }
        let mut probes = JoinSet::new();
        loop {
            let probe =
                Connection::probe(self.endpoint.clone(), Arc::clone(&self.line), self.connect_timeout);
            probes.spawn(probe);
            let pause = tokio::time::sleep(PROBE);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    Some(probed) = probes.join_next() => match probed {
                        Ok(Ok(found)) => return Ok(found),
                        Ok(Err(failure)) => self.problem(&failure),
                        Err(_) => {}
                    },
                }
            }
        }
    }

    async fn probe(&self) -> Result<(Arc<Connection>, Vec<u64>), Failure> {
        Connection::probe(self.endpoint.clone(), Arc::clone(&self.line), self.connect_timeout).await
    }

    fn is_back(&self, connection: Arc<Connection>, mechanisms: Vec<u64>) {
        let wkid = connection.wkid;
        self.connected(&connection);
        self.keep(connection);
        self.with(|state| {
            state.breaker.probed();
            state.epoch += 1;
            state.mechanisms = mechanisms.into();
            state.digest_pss = true;
            (state.problem, state.said) = (None, None);
            state.succeeded = Some(Instant::now());
        });
        self.freed.notify_waiters();
        if let Some(times) = self.lines[0].admit() {
            tracing::info!(backend = self.backend, unit = %self.endpoint, %wkid, times, "unit is in order");
        }
    }

    /// Notes what is wrong, and says it: at first, and if it is something else now and then.
    fn problem(&self, failure: &Failure) {
        let text = failure.to_string();
        let news = self.with(|state| {
            let other = state.problem.as_ref() != Some(&text);
            let news = other && state.said.is_none_or(|said| said.elapsed() >= SAID);
            if news {
                state.said = Some(Instant::now());
            }
            state.problem = Some(text.clone());
            news
        });
        if news && let Some(times) = self.lines[1].admit() {
            tracing::warn!(backend = self.backend, unit = %self.endpoint, times, "unit is out of order: {text}");
        }
    }

    /// Finds out whether it is in order, if nobody else did of late.
    async fn look_after(&self) {
        let idle = |state: &mut State| state.succeeded.is_none_or(|at| at.elapsed() >= self.line.keepalive);
        if !self.with(idle) {
            return;
        }
        self.look().await;
    }

    /// Finds out how it is now.
    pub(in crate::backend) async fn look(&self) {
        match self.probe().await {
            Ok((connection, mechanisms)) if self.with(|state| state.breaker) == Breaker::Open => {
                self.is_back(connection, mechanisms);
            }
            // Over a connection of its own, so that a new master key is noticed.
            Ok((connection, mechanisms)) => {
                self.with(|state| {
                    state.succeeded = Some(Instant::now());
                    state.mechanisms = mechanisms.into();
                });
                self.connected(&connection);
                self.keep(connection);
            }
            Err(failure) => self.fault(&failure, true),
        }
    }

    /// Connects once with other files of TLS than those that are in force. Nothing else comes of
    /// that.
    pub(in crate::backend) async fn try_out(&self, tls: Arc<TlsClient>) -> Trial {
        let opened = Connection::open_with(&self.endpoint, &self.line, Some(tls));
        match tokio::time::timeout(self.connect_timeout, opened).await {
            Ok(Ok(_)) => Trial::Accepted,
            Ok(Err(Failure::Certificate(reason))) => Trial::Refused {
                reason: format!("unit {}: {reason}", self.endpoint),
                in_order: self.with(|state| state.breaker) != Breaker::Open,
            },
            Ok(Err(_)) | Err(_) => Trial::Unknown,
        }
    }

    /// Makes a connection that of this thread, unless that has a better one.
    fn keep(&self, connection: Arc<Connection>) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let place = connections.entry(thread::current().id()).or_default();
        if place.get().is_none_or(|old| old.is_closed()) {
            *place = Arc::new(OnceCell::new_with(Some(connection)));
        }
    }

    /// Waits until this thread's connection ends.
    async fn hung_up(&self) {
        let place = {
            let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            connections.get(&thread::current().id()).and_then(|place| place.get().cloned())
        };
        match place {
            Some(connection) => connection.closed().await,
            None => core::future::pending().await,
        }
    }

    /// It did not do what it was asked; `severe` if once is enough to ask it no more.
    ///
    /// `epoch` is that of the request, if it was asked only once.
    pub(in crate::backend) fn failed(&self, failure: &Failure, severe: bool, epoch: Option<u64>) {
        let counts = self.with(|state| {
            state.unanswered = None;
            let counts = epoch.is_none_or(|epoch| epoch == state.epoch);
            match state.breaker {
                Breaker::HalfOpen(_) if counts => state.relapses += 1,
                _ if counts => {}
                _ => state.failures += 1,
            }
            counts
        });
        if counts {
            self.fault(failure, severe);
        }
    }

    /// It is not as it should be, whether or not it was asked for anything.
    fn fault(&self, failure: &Failure, severe: bool) {
        let opened = self.with(|state| {
            state.failures += 1;
            state.breaker.failed(severe)
        });
        if opened {
            self.problem(failure);
            self.forget_connections();
            self.opened.notify_one();
        }
    }

    /// Holds the lock for a look or a change, never while waiting.
    pub(in crate::backend) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unit({})", self.endpoint)
    }
}

impl Connection {
    /// Opens a connection, and asks what the unit can do.
    async fn probe(
        endpoint: Endpoint,
        line: Arc<Line>,
        patience: Duration,
    ) -> Result<(Arc<Self>, Vec<u64>), Failure> {
        let probe = async {
            let connection = Self::open(&endpoint, &line).await?;
            let mechanisms = connection.mechanisms().await?;
            Ok((Arc::new(connection), mechanisms))
        };
        let late = || Failure::severe(format_args!("no connection within {patience:?}"));
        tokio::time::timeout(patience, probe).await.unwrap_or_else(|_| Err(late()))
    }
}

/// How long nothing more is said of a unit that is out of order, whatever its probes find.
const SAID: Duration = Duration::from_secs(30);
/// How often a unit that is out of order is probed.
const PROBE: Duration = Duration::from_millis(250);
/// How long a unit is left alone at most that answers probes and nothing else.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
