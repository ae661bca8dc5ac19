//! One operation at the units of a pool: attempts one after the other, and a second attempt beside
//! the first if the first takes longer than most calls.

use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyward_unit::Wkid;
use tokio::time::Instant;

use super::driver::{Driver, Operation};
use super::failure::Failure;
use super::permit::Permit;
use super::unit::Unit;
use super::{NoPermit, PermitRequest, Pool, Shared, Tried};
use crate::backend::request::Times;
use crate::backend::{BackendError, Context, Trace};
use crate::ground::fair::{NOBODY, User};

impl<D: Driver> Pool<D> {
    /// Does an operation for a peer at a unit that has the master key of the key. Tries another
    /// unit if a unit fails and time is left. Adds the times of the operation to the times of
    /// `context`.
    ///
    /// # Errors
    /// [`BackendError`] says why no unit has done the operation.
    pub(in crate::backend) async fn call(
        &self,
        operation: &impl Operation<D>,
        context: &mut Context,
    ) -> Result<Vec<u8>, BackendError> {
        let deadline = context.deadline.into();
        let Context { trace, user, .. } = *context;
        let call = Call { pool: self, operation, trace, user, deadline, suspects: Mutex::default() };
        let done = call.run(&mut context.times).await;
        if done.is_err() {
            // A signature with another key shows whether the suspect is faulty.
            call.suspects().iter().for_each(Unit::examine);
        }
        done
    }

    /// Does some work for an administrator once, at a unit with the master key `wkid`, or at any
    /// unit if `None`. Tries another unit only if the work has not begun.
    ///
    /// # Errors
    /// [`BackendError`] says why no unit has done the work.
    pub(in crate::backend) async fn once<T, F>(
        &self,
        wkid: Option<Wkid>,
        time_limit: Duration,
        work: impl Fn(Arc<Shared<D::Connection>>) -> F,
    ) -> Result<T, BackendError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let deadline = Instant::now() + time_limit;
        let request = PermitRequest { wkids: wkid.as_slice(), deadline, user: NOBODY, decides: false };
        let (mut tried, mut attempts) = (Tried::default(), 0);
        loop {
            let permit = self.permit(request, tried).await;
            let permit = permit.map_err(|why| self.no_permit(why, request.wkids))?;
            attempts += 1;
            tried.add(self.number(&permit.unit));
            let mut connection = None;
            let done = async { work(connection.insert(permit.unit.connection().await?).clone()).await };
            let done = tokio::time::timeout_at(deadline, done).await.unwrap_or(Err(Failure::Timeout));
            let failure = match done {
                Ok(done) => {
                    permit.other_work_done();
                    return Ok(done);
                }
                Err(failure) => failure,
            };
            // A result under another master key is discarded, so the work may begin again.
            let nothing_begun = connection.is_none() || matches!(failure, Failure::OtherMasterKey(_));
            permit.failed(&failure, connection.as_deref());
            if !nothing_begun || attempts >= ATTEMPTS {
                return Err(self.failed(failure, false, request.wkids));
            }
        }
    }

    fn no_permit(&self, why: NoPermit, wkids: &[Wkid]) -> BackendError {
        let backend = self.name.to_string();
        match why {
            NoPermit::Late => BackendError::Unanswered { backend },
            NoPermit::Overloaded => BackendError::Busy { backend },
            NoPermit::Down => BackendError::Down { backend, units: self.problems() },
            NoPermit::OtherMasterKey => {
                let key = wkids.iter().map(Wkid::to_string).collect::<Vec<_>>().join(" and ");
                let health = self.units.iter().map(|unit| unit.health());
                let units = health.filter_map(|unit| Some(format!("{} has {}", unit.address, unit.wkid?)));
                BackendError::OtherMasterKey { key, units: units.collect::<Vec<_>>().join(", ") }
            }
        }
    }

    /// Error after the last attempt has failed. `late` is true if the deadline has passed.
    fn failed(&self, failure: Failure, late: bool, wkids: &[Wkid]) -> BackendError {
        let backend = self.name.to_string();
        match failure {
            Failure::Refused { refusal, reason } => {
                BackendError::Refused { backend, outcome: refusal.outcome(), reason }
            }
            Failure::NotOffered(reason) => BackendError::NotOffered { backend, reason },
            Failure::WrongSignature => BackendError::WrongSignature { backend, agreed: false },
            _ if late => BackendError::Unanswered { backend },
            Failure::Busy(_) => BackendError::Busy { backend },
            Failure::OtherMasterKey(_) => self.no_permit(NoPermit::OtherMasterKey, wkids),
            Failure::DeadlinePassed | Failure::Timeout => BackendError::Unanswered { backend },
            other => BackendError::Down { backend, units: other.to_string() },
        }
    }

    fn problems(&self) -> String {
        let problem = |unit: &Arc<Unit<D>>| {
            let problem = unit.health().problem;
            format!("{}: {}", unit.driver.address(), problem.unwrap_or_else(|| "not connected yet".into()))
        };
        self.units.iter().map(problem).collect::<Vec<_>>().join("; ")
    }
}

/// One operation, while units are asked for it.
struct Call<'a, D: Driver, O> {
    pool: &'a Pool<D>,
    operation: &'a O,
    trace: Trace,
    user: User,
    deadline: Instant,
    /// Units whose signatures did not verify. Either the unit is faulty or the key is damaged;
    /// another attempt shows which.
    suspects: Mutex<Vec<Arc<Unit<D>>>>,
}

/// Answer of a unit, with the times that the parts of the attempt took.
struct Answer {
    bytes: Vec<u8>,
    network: Duration,
    unit: Duration,
    verify: Duration,
}

impl<D: Driver, O: Operation<D>> Call<'_, D, O> {
    async fn run(&self, times: &mut Times) -> Result<Vec<u8>, BackendError> {
        let wkids = self.operation.wkids();
        let request = PermitRequest { wkids, deadline: self.deadline, user: self.user, decides: true };
        let (mut tried, mut attempts) = (Tried::default(), 0);
        loop {
            let begin = Instant::now();
            let permit = self.pool.permit(request, tried).await;
            times.queue += begin.elapsed();
            let permit = permit.map_err(|why| self.pool.no_permit(why, wkids))?;
            attempts += 1;
            tried.add(self.pool.number(&permit.unit));
            let begin = Instant::now();
            match self.with_hedge(permit, &mut tried).await {
                Ok(answer) => return Ok(self.note(answer, times)),
                Err(failure) => {
                    times.unit += begin.elapsed();
                    let late = Instant::now() >= self.deadline;
                    if late || attempts >= ATTEMPTS || !failure.is_worth_another_attempt() {
                        return Err(self.failed(failure, late));
                    }
                }
            }
        }
    }

    /// Adds the times of an answer to `times`. Returns the bytes of the answer.
    fn note(&self, answer: Answer, times: &mut Times) -> Vec<u8> {
        times.network += answer.network;
        times.unit += answer.unit;
        times.verify += answer.verify;
        let mut p95 = self.pool.p95.lock().unwrap_or_else(PoisonError::into_inner);
        p95.observe(answer.network + answer.unit);
        answer.bytes
    }

    /// Makes one attempt, and a second attempt at another unit if the first takes longer than 95 of
    /// 100 calls.
    async fn with_hedge(&self, mut permit: Permit<D>, tried: &mut Tried) -> Result<Answer, Failure> {
        if !self.pool.settings.hedge || self.pool.units.len() < 2 || permit.must_wait() {
            return self.attempt(permit).await;
        }
        let first = self.attempt(permit);
        tokio::pin!(first);
        let p95 = self.pool.p95.lock().unwrap_or_else(PoisonError::into_inner).get();
        if let Ok(answer) = tokio::time::timeout(p95, &mut first).await {
            return answer;
        }
        let Some(permit) = self.pool.permit_now(self.operation.wkids(), *tried) else { return first.await };
        tried.add(self.pool.number(&permit.unit));
        let second = self.attempt(permit);
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

    async fn attempt(&self, permit: Permit<D>) -> Result<Answer, Failure> {
        let limit = Instant::now() + self.pool.settings.timeout;
        let due = self.deadline.min(limit);
        let late = if due < limit { Failure::DeadlinePassed } else { Failure::Timeout };
        let unit = &permit.unit;
        let mut connection = None;
        let attempt = async {
            let connection = connection.insert(unit.connection().await?);
            self.ask(unit, connection).await
        };
        let answer = tokio::time::timeout_at(due, attempt).await.unwrap_or(Err(late));
        match &answer {
            Ok(_) => {
                self.clear_suspects(unit);
                permit.operation_done();
            }
            Err(failure) => {
                if let Failure::WrongSignature = failure {
                    self.suspects().push(Arc::clone(unit));
                }
                let (backend, unit) = (&*self.pool.name, unit.driver.address());
                tracing::debug!(backend, unit, "attempt failed: {failure}");
                permit.failed(failure, connection.as_deref());
            }
        }
        answer
    }

    async fn ask(&self, unit: &Arc<Unit<D>>, connection: &Shared<D::Connection>) -> Result<Answer, Failure> {
        let begin = Instant::now();
        let bytes = self.operation.ask(&unit.driver, connection, self.trace).await?;
        let took = begin.elapsed();
        let network = unit.round_trip().min(took);
        let begin = Instant::now();
        let bytes = self.operation.checked(bytes)?;
        Ok(Answer { bytes, network, unit: took - network, verify: begin.elapsed() })
    }

    /// Clears the suspects after `unit` has made a valid signature: the key is not damaged, so the
    /// suspects are faulty.
    fn clear_suspects(&self, unit: &Arc<Unit<D>>) {
        for suspect in self.suspects().drain(..) {
            // One failure does not open the breaker of the unit that succeeded the second time.
            suspect.request_failed(&Failure::WrongSignature, !Arc::ptr_eq(&suspect, unit), None);
        }
    }

    fn failed(&self, failure: Failure, late: bool) -> BackendError {
        match self.pool.failed(failure, late, self.operation.wkids()) {
            BackendError::WrongSignature { backend, .. } => {
                BackendError::WrongSignature { backend, agreed: self.different_units_agree() }
            }
            other => other,
        }
    }

    /// True if signatures of at least two units did not verify.
    fn different_units_agree(&self) -> bool {
        let suspects = self.suspects();
        suspects.iter().any(|suspect| !Arc::ptr_eq(suspect, &suspects[0]))
    }

    fn suspects(&self) -> MutexGuard<'_, Vec<Arc<Unit<D>>>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Maximum number of attempts at one operation.
const ATTEMPTS: u32 = 3;
