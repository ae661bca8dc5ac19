//! Tests of the pool with units that do as the test says, in paused time.

use core::sync::atomic::{AtomicUsize, Ordering};
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
    Fail,
    Hang,
    /// Answers with signatures that do not verify.
    Err,
}

impl Does {
    async fn act(self) -> Result<(), Failure> {
        match self {
            Self::Work => Ok(()),
            Self::Fail => Err(Failure::severe("broken")),
            Self::Hang => core::future::pending().await,
            Self::Err => Err(Failure::WrongSignature),
        }
    }
}

struct Fake {
    wkid: Wkid,
    /// Behaviour at probes, and with new keys.
    probed: Mutex<Does>,
    /// Behaviour at requests.
    asked: Mutex<Does>,
    probes: AtomicUsize,
    requests: AtomicUsize,
    /// Number of probes after which the unit was down.
    recoveries: AtomicUsize,
    hangs_up: Arc<Notify>,
}

impl Fake {
    fn new(wkid: Wkid) -> Self {
        Self {
            wkid,
            probed: Mutex::new(Does::Work),
            asked: Mutex::new(Does::Work),
            probes: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            recoveries: AtomicUsize::new(0),
            hangs_up: Arc::default(),
        }
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
        Ok(FakeConnection(self.wkid, Arc::clone(&self.hangs_up)))
    }

    async fn probe(&self) -> Result<(FakeConnection, ()), Failure> {
        self.probes.fetch_add(1, Ordering::Relaxed);
        let does = *self.probed.lock().unwrap();
        if does != Does::Err {
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

fn wish(wkids: &[Wkid]) -> Wish<'_> {
    Wish { wkids, deadline: Instant::now() + Duration::from_secs(1), user: 1, decides: true }
}

#[tokio::test(start_paused = true)]
async fn requests_that_need_another_master_key_do_not_stand_in_the_way() {
    let pool = started(&[wkid(1), wkid(2)]).await;
    let (old, new) = ([wkid(1)], [wkid(2)]);
    let held = pool.permit(wish(&old), Tried::default()).await.unwrap();
    let waiting = pool.permit(wish(&old), Tried::default());
    tokio::pin!(waiting);
    assert!(timeout(Duration::from_millis(1), &mut waiting).await.is_err());
    assert_eq!(pool.waiting(), 1);
    let other = pool.permit(wish(&new), Tried::default()).await.unwrap();
    assert_eq!(pool.number(&other.unit), 1);
    drop(held);
    assert_eq!(pool.number(&waiting.await.unwrap().unit), 0);
    assert_eq!(pool.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_another_unit_does_not_stand_in_the_way_of_those_who_take_any() {
    let pool = started(&[wkid(1), wkid(1)]).await;
    for _ in 0..2 {
        ask(&pool).await.unwrap();
    }
    let keys = [wkid(1)];
    let mut tried = Tried::default();
    tried.add(0);
    let _stuck = pool.permit(wish(&keys), tried).await.unwrap();
    let again = pool.permit(wish(&keys), tried);
    tokio::pin!(again);
    assert!(timeout(Duration::from_millis(1), &mut again).await.is_err());
    // The request waits in the queue, so this one does, too; but nobody waits for the other's turn.
    let any = pool.permit(wish(&keys), Tried::default()).await.unwrap();
    assert_eq!(pool.number(&any.unit), 0);
}

#[tokio::test(start_paused = true)]
async fn a_unit_is_found_healthy_soon_after_it_is_also_after_probes_that_hang() {
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
    assert!(wait_for(&pool, UnitState::Probing).await <= PROBE, "one success ends the pauses");
}

#[tokio::test(start_paused = true)]
async fn three_failures_in_a_row_or_one_severe_one_take_a_unit_down() {
    let pool = started(&[wkid(1), wkid(1)]).await;
    pool.units[0].driver.set(Does::Fail, Does::Fail);
    // The other unit takes over.
    for _ in 0..4 {
        assert_eq!(ask(&pool).await.unwrap(), [7]);
    }
    assert_eq!((state(&pool, 0), state(&pool, 1)), (UnitState::Down, UnitState::Up));
    assert_eq!(count(&pool.units[0].driver.requests), 1);
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_nobody_asks_is_looked_after() {
    let pool = started(&[wkid(1)]).await;
    ask(&pool).await.unwrap();
    let driver = &pool.units[0].driver;
    assert_eq!(count(&driver.probes), 1);
    sleep(SETTINGS.keepalive + PROBE).await;
    assert_eq!(count(&driver.probes), 1, "the request was less than that ago");
    sleep(SETTINGS.keepalive).await;
    assert_eq!(count(&driver.probes), 2);
    driver.set(Does::Fail, Does::Fail);
    assert!(wait_for(&pool, UnitState::Down).await <= 2 * SETTINGS.keepalive);
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_hangs_up_is_looked_after_at_once() {
    let pool = started(&[wkid(1)]).await;
    // The watch has begun to wait for the end of the connection.
    advance(Duration::from_millis(1)).await;
    pool.units[0].driver.set(Does::Fail, Does::Fail);
    pool.units[0].driver.hangs_up.notify_waiters();
    assert!(wait_for(&pool, UnitState::Down).await <= Duration::from_millis(2));
}

#[tokio::test(start_paused = true)]
async fn a_unit_whose_answers_nobody_waits_for_is_found_out() {
    let pool = started(&[wkid(1), wkid(1)]).await;
    for _ in 0..2 {
        ask(&pool).await.unwrap();
    }
    pool.units[0].driver.set(Does::Fail, Does::Hang);
    let begin = Instant::now();
    while state(&pool, 0) != UnitState::Down {
        assert_eq!(ask(&pool).await.unwrap(), [7]);
        // As if what is known of the latency were forgotten.
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
    for (with_new_keys, recoveries) in [(Does::Work, 1), (Does::Err, 2)] {
        let pool = started(&[wkid(1)]).await;
        ask(&pool).await.unwrap();
        pool.units[0].driver.set(with_new_keys, Does::Err);
        let error = ask(&pool).await.unwrap_err();
        assert!(matches!(error, BackendError::WrongSignature { agreed: false, .. }), "{error}");
        sleep(Duration::from_millis(10)).await;
        // A unit that errs goes down, and the next probe finds it again.
        assert_eq!(count(&pool.units[0].driver.recoveries), recoveries);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_signature_counts_against_a_unit_when_another_one_is_right() {
    let pool = started(&[wkid(1), wkid(1)]).await;
    for _ in 0..2 {
        ask(&pool).await.unwrap();
    }
    for unit in &pool.units {
        unit.driver.set(Does::Work, Does::Err);
    }
    let error = ask(&pool).await.unwrap_err();
    assert!(matches!(error, BackendError::WrongSignature { agreed: true, .. }), "{error}");
    pool.units[1].driver.set(Does::Work, Does::Work);
    assert_eq!(ask(&pool).await.unwrap(), [7]);
    assert_eq!(state(&pool, 1), UnitState::Up);
}
