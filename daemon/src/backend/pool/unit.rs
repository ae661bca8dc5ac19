//! One unit of a pool: decides whether a request may go to the unit now, keeps the connections, and
//! records the results of requests. [`super::watch`] probes the unit while no requests go there.

use core::fmt;
use core::time::Duration;
use std::sync::{Arc, Mutex, PoisonError};

use keyward_unit::Wkid;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Settings;
use super::connections::{Connections, Shared};
use super::driver::{Connection, Driver};
use super::failure::Failure;
use super::health::{Admits, Health};
use super::latency::Latency;
use super::pace::Pace;
use crate::backend::{Load, UnitHealth};
use crate::ground::throttle::Throttle;

/// One unit. Shared between threads.
pub(in crate::backend) struct Unit<D: Driver> {
    pub(in crate::backend) driver: D,
    /// Name of the backend, for the log.
    pub(super) backend: Arc<str>,
    pub(super) settings: Settings,
    pub(super) log: Log,
    pub(super) connections: Connections<D::Connection>,
    state: Mutex<State>,
    /// Notified when the breaker opens.
    pub(super) opened: Notify,
    /// Notified when a unit of the pool may accept another request.
    pub(super) freed: Arc<Notify>,
}

/// Limits of the log lines about a unit, one for each kind of line.
#[derive(Default)]
pub(super) struct Log {
    pub(super) healthy: Throttle,
    pub(super) problem: Throttle,
    pub(super) other_master_key: Throttle,
}

/// State of a unit that changes with every request.
pub(super) struct State {
    pub(super) health: Health,
    pub(super) latency: Latency,
    pub(super) in_flight: usize,
    pace: Option<Pace>,
    wkid: Option<Wkid>,
    /// Time at which a certificate was last refused while another connection was open.
    refused: Option<Instant>,
    /// Network round trip time to the unit: the shortest measured, since longer ones include time
    /// that the daemon waited for a processor.
    round_trip: Duration,
    calls: u64,
}

/// Answer to the question whether a unit can take a request.
#[derive(Debug)]
pub(super) enum Offer {
    /// Yes, with this expected latency in seconds. The unit with the least is the best.
    Free(f64),
    /// Not now: when another request ends, or at this time.
    Busy(Option<Instant>),
    /// No, the unit has another master key.
    OtherMasterKey,
    /// No, the unit is down.
    Down,
}

impl<D: Driver> Unit<D> {
    pub(super) fn new(backend: Arc<str>, driver: D, settings: Settings, freed: Arc<Notify>) -> Self {
        let now = Instant::now();
        let state = State {
            health: Health::new(),
            latency: Latency::new(now),
            in_flight: 0,
            pace: settings.rate.map(|rate| Pace::new(rate, now)),
            wkid: None,
            refused: None,
            round_trip: Duration::MAX,
            calls: 0,
        };
        Self {
            driver,
            backend,
            settings,
            log: Log::default(),
            connections: Connections::new(),
            state: Mutex::new(state),
            opened: Notify::new(),
            freed,
        }
    }

    /// Health of the unit now, without the mechanisms, which only the driver knows.
    pub(in crate::backend) fn health(&self) -> UnitHealth {
        let now = Instant::now();
        self.with(|state| UnitHealth {
            address: self.driver.address().to_owned(),
            state: state.health.state(),
            wkid: state.wkid,
            next_wkid: None,
            mechanisms: Vec::new(),
            problem: state.health.problem().map(str::to_owned),
            load: Some(Load {
                latency: Duration::from_secs_f64(state.latency.cost(0, now)),
                in_flight: state.in_flight,
                calls: state.calls,
                failures: state.health.failures(),
            }),
        })
    }

    pub(in crate::backend) fn is_down(&self) -> bool {
        self.with(|state| state.health.is_down())
    }

    /// Says whether the unit can take a request for a key that one of these master keys has
    /// wrapped. An empty list stands for any master key.
    pub(super) fn offer(&self, wkids: &[Wkid], now: Instant) -> Offer {
        self.with(|state| {
            let fits = state.wkid.is_some_and(|own| wkids.is_empty() || wkids.contains(&own));
            match state.health.admits() {
                Admits::Never => Offer::Down,
                _ if !fits => Offer::OtherMasterKey,
                Admits::Later => Offer::Busy(None),
                Admits::Now if state.in_flight >= self.settings.in_flight => Offer::Busy(None),
                Admits::Now => match state.pace.map(|pace| pace.next()).filter(|next| *next > now) {
                    Some(next) => Offer::Busy(Some(next)),
                    None => Offer::Free(state.latency.cost(state.in_flight, now)),
                },
            }
        })
    }

    /// Begins a request if the limits of the unit admit it. `decides` is true if the result of the
    /// request closes or opens a breaker that is half open. Returns the generation of the unit.
    pub(super) fn begin(&self, now: Instant, decides: bool) -> Option<u64> {
        self.with(|state| {
            let free = state.health.admits() == Admits::Now
                && state.in_flight < self.settings.in_flight
                && state.pace.is_none_or(|pace| pace.next() <= now);
            if !free {
                return None;
            }
            state.in_flight += 1;
            state.calls += 1;
            if let Some(pace) = &mut state.pace {
                pace.take(now);
            }
            Some(state.health.request_begins(decides))
        })
    }

    /// Connection of this thread. Opens a connection if the thread has none.
    ///
    /// # Errors
    /// [`Failure`] says why there is no connection.
    pub(in crate::backend) async fn connection(
        self: &Arc<Self>,
    ) -> Result<Arc<Shared<D::Connection>>, Failure> {
        let slot = self.connections.slot();
        if let Some(connection) = slot.get() {
            return Ok(Arc::clone(connection));
        }
        if self.was_refused_lately()
            && let Some(connection) = self.connections.open_one()
        {
            return Ok(connection);
        }
        // In a task: the first request may give up, and others wait for the same connection.
        let unit = Arc::clone(self);
        let open = async move { slot.get_or_try_init(|| unit.open()).await.map(Arc::clone) };
        let opened = tokio::spawn(open).await;
        match opened.unwrap_or_else(|_| Err(Failure::severe("connecting was given up"))) {
            Err(failure @ Failure::Certificate(_)) => self.connection_of_another_thread(failure),
            opened => opened,
        }
    }

    /// Shares the connection of another thread, after a certificate was refused in this thread: the
    /// certificates of one side are renewed, and those of the other not yet. The unit is not down,
    /// but has a problem until a new connection is opened. This thread tries again after
    /// [`REFUSED`].
    ///
    /// # Errors
    /// `refused`, if no thread has an open connection.
    pub(super) fn connection_of_another_thread(
        &self,
        refused: Failure,
    ) -> Result<Arc<Shared<D::Connection>>, Failure> {
        let Some(connection) = self.connections.open_one() else { return Err(refused) };
        let text = format!("no more connections can be opened: {refused}");
        let is_new = self.with(|state| {
            state.refused = Some(Instant::now());
            state.health.has_problem(&text, Instant::now())
        });
        if is_new && let Some(times) = self.log.problem.admit() {
            let unit = self.driver.address();
            tracing::warn!(backend = &*self.backend, unit, times, "{text}; those that are open stay in use");
        }
        Ok(connection)
    }

    fn was_refused_lately(&self) -> bool {
        self.with(|state| state.refused.is_some_and(|at| at.elapsed() < REFUSED))
    }

    async fn open(&self) -> Result<Arc<Shared<D::Connection>>, Failure> {
        // Requests that waited while another request failed to connect must not try again.
        if let Some(problem) = self.with(|state| {
            let problem = || state.health.problem().unwrap_or_default().to_owned();
            state.health.is_down().then(problem)
        }) {
            return Err(Failure::severe(problem));
        }
        let connection = self.in_time(self.driver.connect()).await?;
        self.connected(&connection);
        Ok(Arc::new(Shared::new(connection)))
    }

    /// Result of connecting, or a failure after the time limit of connecting.
    pub(in crate::backend) async fn in_time<T>(
        &self,
        connecting: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let limit = self.settings.connect_timeout;
        let late = || Failure::severe(format_args!("no connection within {limit:?}"));
        tokio::time::timeout(limit, connecting).await.unwrap_or_else(|_| Err(late()))
    }

    /// Keeps the master key and the round trip time of a new connection.
    pub(super) fn connected(&self, connection: &D::Connection) {
        let wkid = connection.wkid();
        let before = self.with(|state| {
            state.round_trip = state.round_trip.min(connection.round_trip());
            if state.refused.take().is_some() {
                state.health.problem_is_over();
            }
            state.wkid.replace(wkid)
        });
        // Connections of other threads keep the old master key until a request over them fails.
        if before.is_some_and(|before| before != wkid)
            && let Some(times) = self.log.other_master_key.admit()
        {
            let unit = self.driver.address();
            tracing::warn!(backend = &*self.backend, unit, %wkid, times, "unit has another master key now");
        }
    }

    /// Network round trip time to the unit.
    pub(super) fn round_trip(&self) -> Duration {
        self.with(|state| state.round_trip)
    }

    /// Records that the unit failed in a request. `severe` is true if one failure opens the
    /// breaker. `generation` is the generation that [`Self::begin`] returned; `None` if the failure
    /// is known from a later request.
    pub(super) fn request_failed(&self, failure: &Failure, severe: bool, generation: Option<u64>) {
        if self.with(|state| state.health.request_failed(severe, generation)) {
            self.went_down(failure);
        }
    }

    /// Reports that the breaker has opened because of this failure, and removes all connections.
    pub(super) fn went_down(&self, failure: &Failure) {
        self.report(failure);
        self.connections.clear();
        self.opened.notify_one();
    }

    /// Keeps the problem of the unit, and logs a new problem.
    pub(super) fn report(&self, failure: &Failure) {
        let text = failure.to_string();
        let is_new = self.with(|state| state.health.has_problem(&text, Instant::now()));
        if is_new && let Some(times) = self.log.problem.admit() {
            let unit = self.driver.address();
            tracing::warn!(backend = &*self.backend, unit, times, "unit is down: {text}");
        }
    }

    /// Reads or changes the state under its lock. `f` never waits.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<D: Driver> fmt::Debug for Unit<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unit({})", self.driver.address())
    }
}

/// Time between two attempts to open a connection while certificates are refused and another
/// connection is open.
const REFUSED: Duration = Duration::from_secs(1);
