//! Tests of the pool and of the health of its units, with units that behave as a test says, in
//! paused time.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::{Arc, Mutex};

use keyward_unit::Wkid;
use tokio::sync::Notify;
use tokio::time::{Instant, advance, sleep, timeout};

use super::health::PROBE;
use super::*;
use crate::backend::{BackendError, Context, Trace, UnitState};

/// Behaviour of a unit, at probes and requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Does {
    Work,
    /// Fails in a way that opens the breaker at once.
    Fail,
    Hang,
    /// Signs, but the signatures do not verify.
    SignWrong,
}

impl Does {
    async fn act(self) -> Result<(), Failure> {
        match self {
            Self::Work => Ok(()),
            Self::Fail => Err(Failure::severe("broken")),
            Self::Hang => core::future::pending().await,
            Self::SignWrong => Err(Failure::WrongSignature),
        }
    }
}

struct Fake {
    wkid: Mutex<Wkid>,
    /// Behaviour at probes and examinations.
    probed: Mutex<Does>,
    /// Behaviour at requests.
    asked: Mutex<Does>,
    probes: AtomicUsize,
    requests: AtomicUsize,
    /// Number of probes after which the unit was down.
    recoveries: AtomicUsize,
    closes: Arc<Notify>,
    /// True if a new connection is refused for its certificate.
    refuses: AtomicBool,
}

impl Fake {
    fn new(wkid: Wkid) -> Self {
        Self {
            wkid: Mutex::new(wkid),
            probed: Mutex::new(Does::Work),
            asked: Mutex::new(Does::Work),
            probes: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            recoveries: AtomicUsize::new(0),
            closes: Arc::default(),
            refuses: AtomicBool::new(false),
        }
    }

    fn wkid(&self) -> Wkid {
        *self.wkid.lock().unwrap()
    }

    /// Puts another master key in force.
    fn set_wkid(&self, wkid: Wkid) {
        *self.wkid.lock().unwrap() = wkid;
    }

    fn set(&self, probed: Does, asked: Does) {
        (*self.probed.lock().unwrap(), *self.asked.lock().unwrap()) = (probed, asked);
    }
}

struct FakeConnection(Wkid, Arc<Notify>);

impl Connection for FakeConnection {
    fn wkid(&self) -> Wkid {
        self.0
    }

    fn round_trip(&self) -> Duration {
        Duration::ZERO
    }

    fn is_closed(&self) -> bool {
        false
    }

    async fn closed(&self) {
        self.1.notified().await;
    }
}

impl Driver for Fake {
    type Connection = FakeConnection;
    type Found = ();

    fn address(&self) -> &str {
        "fake"
    }

    async fn connect(&self) -> Result<FakeConnection, Failure> {
        match self.refuses.load(Ordering::Relaxed) {
            true => Err(Failure::Certificate("of another authority".into())),
            false => Ok(FakeConnection(self.wkid(), Arc::clone(&self.closes))),
        }
    }

    async fn probe(&self) -> Result<(FakeConnection, ()), Failure> {
        self.probes.fetch_add(1, Ordering::Relaxed);
        let does = *self.probed.lock().unwrap();
        if does != Does::SignWrong {
            does.act().await?;
        }
        Ok((self.connect().await?, ()))
    }

    fn learn(&self, (): (), recovered: bool) {
        self.recoveries.fetch_add(usize::from(recovered), Ordering::Relaxed);
    }

    async fn examine(&self, _: &FakeConnection) -> Result<(), Failure> {
        let does = *self.probed.lock().unwrap();
        does.act().await
    }
}

/// Operation with a key that this master key has wrapped.
struct Work([Wkid; 1]);

impl Operation<Fake> for Work {
    fn wkids(&self) -> &[Wkid] {
        &self.0
    }

    async fn ask(&self, fake: &Fake, _: &FakeConnection, _: Trace) -> Result<Vec<u8>, Failure> {
        fake.requests.fetch_add(1, Ordering::Relaxed);
        let does = *fake.asked.lock().unwrap();
        sleep(Duration::from_millis(1)).await;
        if fake.wkid() != self.0[0] {
            return Err(Failure::OtherMasterKey(None));
        }
        does.act().await.map(|()| vec![7])
    }

    fn checked(&self, answer: Vec<u8>) -> Result<Vec<u8>, Failure> {
        Ok(answer)
    }
}

const SETTINGS: Settings = Settings {
    in_flight: 1,
    rate: None,
    queue: 10,
    hedge: true,
    connect_timeout: Duration::from_secs(1),
    timeout: Duration::from_secs(2),
    keepalive: Duration::from_secs(5),
};

fn wkid(byte: u8) -> Wkid {
    Wkid::from_bytes([byte; 16])
}

/// Pool of units with these master keys, each of which takes one call at a time.
fn pool(wkids: &[Wkid]) -> Arc<Pool<Fake>> {
    Arc::new(Pool::new("hsm".into(), wkids.iter().copied().map(Fake::new), SETTINGS))
}

async fn started(wkids: &[Wkid]) -> Arc<Pool<Fake>> {
    let pool = pool(wkids);
    pool.start().await;
    pool
}

async fn ask(pool: &Pool<Fake>) -> Result<Vec<u8>, BackendError> {
    let deadline = (Instant::now() + Duration::from_secs(4)).into_std();
    let mut context = Context::new(deadline, Trace::new(1, 1), 1);
    pool.call(&Work([wkid(1)]), &mut context).await
}

fn count(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::Relaxed)
}

fn state(pool: &Pool<Fake>, number: usize) -> UnitState {
    pool.units[number].health().state
}

async fn wait_for(pool: &Pool<Fake>, wanted: UnitState) -> Duration {
    let begin = Instant::now();
    while state(pool, 0) != wanted {
        sleep(Duration::from_millis(1)).await;
    }
    begin.elapsed()
}

fn request(wkids: &[Wkid]) -> PermitRequest<'_> {
    PermitRequest { wkids, deadline: Instant::now() + Duration::from_secs(1), user: 1, decides: true }
}

#[tokio::test(start_paused = true)]
async fn requests_for_different_master_keys_do_not_wait_for_each_other() {
    let pool = started(&[wkid(1), wkid(2)]).await;
    let (old, new) = ([wkid(1)], [wkid(2)]);
    let held = pool.permit(request(&old), Tried::default()).await.unwrap();
    let waiting = pool.permit(request(&old), Tried::default());
    tokio::pin!(waiting);
    assert!(timeout(Duration::from_millis(1), &mut waiting).await.is_err());
    assert_eq!(pool.waiting(), 1);
    let other = pool.permit(request(&new), Tried::default()).await.unwrap();
    assert_eq!(pool.number(&other.unit), 1);
    drop(held);
    assert_eq!(pool.number(&waiting.await.unwrap().unit), 0);
    assert_eq!(pool.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_another_unit_does_not_delay_requests_for_any_unit() {
    let pool = started(&[wkid(1), wkid(1)]).await;
    for _ in 0..2 {
        ask(&pool).await.unwrap();
    }
    let keys = [wkid(1)];
    let mut tried = Tried::default();
    tried.add(0);
    let _stuck = pool.permit(request(&keys), tried).await.unwrap();
    let again = pool.permit(request(&keys), tried);
    tokio::pin!(again);
    assert!(timeout(Duration::from_millis(1), &mut again).await.is_err());
    // A new request joins the queue after `again`, but does not wait for its turn.
    let any = pool.permit(request(&keys), Tried::default()).await.unwrap();
    assert_eq!(pool.number(&any.unit), 0);
}

#[tokio::test(start_paused = true)]
async fn a_recovery_is_noticed_soon_even_while_probes_hang() {
    let pool = pool(&[wkid(1)]);
    pool.units[0].driver.set(Does::Hang, Does::Work);
    let begin = Instant::now();
    pool.start().await;
    assert_eq!((begin.elapsed(), state(&pool, 0)), (SETTINGS.connect_timeout, UnitState::Down));
    assert!(matches!(ask(&pool).await, Err(BackendError::Down { .. })), "without waiting");
    sleep(3 * PROBE).await;
    pool.units[0].driver.set(Does::Work, Does::Work);
    assert!(wait_for(&pool, UnitState::Probing).await <= PROBE);
    ask(&pool).await.unwrap();
    assert_eq!((state(&pool, 0), count(&pool.units[0].driver.recoveries)), (UnitState::Up, 1));
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_answers_only_probes_gets_fewer_and_fewer_requests() {
    let pool = started(&[wkid(1)]).await;
    let driver = &pool.units[0].driver;
    driver.set(Does::Work, Does::Fail);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(60) {
        ask(&pool).await.unwrap_err();
        sleep(Duration::from_millis(50)).await;
    }
    // After pauses of 0.5, 1, 2, 4, 8 and then 10 seconds.
    assert!((9..=11).contains(&count(&driver.requests)), "{}", count(&driver.requests));
    driver.set(Does::Work, Does::Work);
    wait_for(&pool, UnitState::Probing).await;
    ask(&pool).await.unwrap();
    driver.set(Does::Work, Does::Fail);
    ask(&pool).await.unwrap_err();
    assert!(wait_for(&pool, UnitState::Probing).await <= PROBE, "after one success there are no pauses");
}

#[tokio::test(start_paused = true)]
async fn the_breaker_opens_half_opens_and_closes() {
    let pool = started(&[wkid(1)]).await;
    let driver = &pool.units[0].driver;
    assert_eq!(state(&pool, 0), UnitState::Probing, "a probe has succeeded, and no request yet");
    ask(&pool).await.unwrap();
    assert_eq!(state(&pool, 0), UnitState::Up);

    driver.set(Does::Fail, Does::Fail);
    assert!(matches!(ask(&pool).await, Err(BackendError::Down { .. })));
    let requests = count(&driver.requests);
    sleep(3 * PROBE).await;
    assert!(matches!(ask(&pool).await, Err(BackendError::Down { .. })));
    assert_eq!((state(&pool, 0), count(&driver.requests)), (UnitState::Down, requests), "no request");

    driver.set(Does::Work, Does::Work);
    assert!(wait_for(&pool, UnitState::Probing).await <= PROBE);
    let keys = [wkid(1)];
    let deciding = pool.permit(request(&keys), Tried::default()).await.unwrap();
    let next = pool.permit(request(&keys), Tried::default());
    tokio::pin!(next);
    assert!(timeout(Duration::from_millis(1), &mut next).await.is_err(), "one request at a time");
    drop(deciding);
    let next = next.await.unwrap();
    assert_eq!(state(&pool, 0), UnitState::Probing, "a request without a result decides nothing");
    next.operation_done();
    assert_eq!(state(&pool, 0), UnitState::Up);
}

#[tokio::test(start_paused = true)]
async fn three_timeouts_in_a_row_open_the_breaker_and_a_success_starts_the_count_again() {
    let pool = started(&[wkid(1)]).await;
    let driver = &pool.units[0].driver;
    for _ in 0..2 {
        driver.set(Does::Work, Does::Work);
        ask(&pool).await.unwrap();
        driver.set(Does::Work, Does::Hang);
        // Two attempts before the deadline of the request.
        assert!(matches!(ask(&pool).await, Err(BackendError::Unanswered { .. })));
        assert_eq!(state(&pool, 0), UnitState::Up);
    }
    driver.set(Does::Fail, Does::Hang);
    ask(&pool).await.unwrap_err();
    assert_eq!(state(&pool, 0), UnitState::Down);
}

#[tokio::test(start_paused = true)]
async fn another_master_key_is_noticed_and_is_no_failure_of_the_unit() {
    let pool = started(&[wkid(1)]).await;
    let unit = &pool.units[0];
    ask(&pool).await.unwrap();
    // The open connection still names the old master key.
    unit.driver.set_wkid(wkid(2));
    assert!(matches!(ask(&pool).await, Err(BackendError::OtherMasterKey { .. })));
    let health = unit.health();
    assert_eq!((health.state, health.wkid), (UnitState::Up, Some(wkid(2))));
    assert_eq!(health.load.unwrap().failures, 0);
    let requests = count(&unit.driver.requests);
    assert!(matches!(ask(&pool).await, Err(BackendError::OtherMasterKey { .. })));
    assert_eq!(count(&unit.driver.requests), requests, "the unit is not asked again");

    // The unit is probed, and has the first master key again.
    unit.driver.set_wkid(wkid(1));
    pool.probe().await;
    ask(&pool).await.unwrap();

    // The unit goes down and recovers with another master key.
    unit.driver.set(Does::Fail, Does::Fail);
    ask(&pool).await.unwrap_err();
    assert_eq!(state(&pool, 0), UnitState::Down);
    unit.driver.set(Does::Work, Does::Work);
    unit.driver.set_wkid(wkid(2));
    wait_for(&pool, UnitState::Probing).await;
    assert!(matches!(ask(&pool).await, Err(BackendError::OtherMasterKey { .. })));
    assert_eq!(unit.health().wkid, Some(wkid(2)));
}

#[tokio::test(start_paused = true)]
async fn one_severe_failure_opens_the_breaker_and_the_other_unit_takes_over() {
    let pool = started(&[wkid(1), wkid(1)]).await;
    pool.units[0].driver.set(Does::Fail, Does::Fail);
    for _ in 0..4 {
        assert_eq!(ask(&pool).await.unwrap(), [7]);
    }
    assert_eq!((state(&pool, 0), state(&pool, 1)), (UnitState::Down, UnitState::Up));
    assert_eq!(count(&pool.units[0].driver.requests), 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_unit_is_probed() {
    let pool = started(&[wkid(1)]).await;
    ask(&pool).await.unwrap();
    let driver = &pool.units[0].driver;
    assert_eq!(count(&driver.probes), 1);
    sleep(SETTINGS.keepalive + PROBE).await;
    assert_eq!(count(&driver.probes), 1, "the last request is too recent");
    sleep(SETTINGS.keepalive).await;
    assert_eq!(count(&driver.probes), 2);
    driver.set(Does::Fail, Does::Fail);
    assert!(wait_for(&pool, UnitState::Down).await <= 2 * SETTINGS.keepalive);
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_closes_its_connection_is_probed_at_once() {
    let pool = started(&[wkid(1)]).await;
    // The watch has begun to wait for the end of the connection.
    advance(Duration::from_millis(1)).await;
    pool.units[0].driver.set(Does::Fail, Does::Fail);
    pool.units[0].driver.closes.notify_waiters();
    assert!(wait_for(&pool, UnitState::Down).await <= Duration::from_millis(2));
}

/// Certificates of both sides are renewed one after the other. In between, a thread that has no
/// connection yet cannot open one.
#[tokio::test(start_paused = true)]
async fn a_thread_whose_certificate_is_refused_shares_a_connection() {
    let pool = started(&[wkid(1)]).await;
    pool.units[0].driver.refuses.store(true, Ordering::Relaxed);
    let ask_in_another_thread = || {
        let pool = Arc::clone(&pool);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { [ask(&pool).await.is_ok(), ask(&pool).await.is_ok()] })
        });
        thread.join().unwrap()
    };
    let failures = || pool.units[0].with(|state| state.health.failures());
    let problem = || pool.units[0].health().problem;
    assert_eq!(ask_in_another_thread(), [true; 2]);
    assert_eq!((state(&pool, 0), failures()), (UnitState::Up, 0));
    assert!(problem().is_some_and(|text| text.contains("of another authority")), "{:?}", problem());
    // An idle unit is probed, and stays up as well.
    pool.units[0].probe_once().await;
    assert_eq!((state(&pool, 0), failures()), (UnitState::Up, 0));
    // A thread tries again after a time. The problem is over as soon as a connection is opened.
    pool.units[0].driver.refuses.store(false, Ordering::Relaxed);
    while problem().is_some() {
        assert_eq!(ask_in_another_thread(), [true; 2]);
    }
    // Without any connection, the unit is down.
    pool.units[0].driver.refuses.store(true, Ordering::Relaxed);
    pool.units[0].connections.clear();
    assert_eq!(ask_in_another_thread(), [false; 2]);
    assert_eq!(state(&pool, 0), UnitState::Down);
}

#[tokio::test(start_paused = true)]
async fn a_unit_without_answers_goes_down_although_each_request_is_abandoned() {
    let pool = started(&[wkid(1), wkid(1)]).await;
    for _ in 0..2 {
        ask(&pool).await.unwrap();
    }
    pool.units[0].driver.set(Does::Fail, Does::Hang);
    let begin = Instant::now();
    while state(&pool, 0) != UnitState::Down {
        assert_eq!(ask(&pool).await.unwrap(), [7]);
        // Long enough that the observed latency decays, so the unit is asked again.
        sleep(Duration::from_millis(500)).await;
        assert!(
            begin.elapsed() < Duration::from_secs(120),
            "asked {}",
            count(&pool.units[0].driver.requests)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_signature_of_the_only_unit_is_examined() {
    for (with_new_keys, recoveries) in [(Does::Work, 1), (Does::SignWrong, 2)] {
        let pool = started(&[wkid(1)]).await;
        ask(&pool).await.unwrap();
        pool.units[0].driver.set(with_new_keys, Does::SignWrong);
        let error = ask(&pool).await.unwrap_err();
        assert!(matches!(error, BackendError::WrongSignature { agreed: false, .. }), "{error}");
        sleep(Duration::from_millis(10)).await;
        // A faulty unit goes down, and the next probe succeeds.
        assert_eq!(count(&pool.units[0].driver.recoveries), recoveries);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_signature_counts_as_a_failure_when_another_unit_signs_correctly() {
    let pool = started(&[wkid(1), wkid(1)]).await;
    for _ in 0..2 {
        ask(&pool).await.unwrap();
    }
    for unit in &pool.units {
        unit.driver.set(Does::Work, Does::SignWrong);
    }
    let error = ask(&pool).await.unwrap_err();
    assert!(matches!(error, BackendError::WrongSignature { agreed: true, .. }), "{error}");
    pool.units[1].driver.set(Does::Work, Does::Work);
    assert_eq!(ask(&pool).await.unwrap(), [7]);
    assert_eq!(state(&pool, 1), UnitState::Up);
}
