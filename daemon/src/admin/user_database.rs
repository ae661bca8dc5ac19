//! User ids that the user database knows (passwd(5), nsswitch.conf(5)). Roles by group count for
//! such users only: with subordinate user ids (subuid(5)), one person is many users, all with the
//! groups of that person.
//!
//! A look-up may ask the network. So it runs on a thread of its own, and its answer is remembered.
//! A database that fails or does not answer takes no role from a user who was in it before. Such
//! users do not wait for others, whom one person with subordinate user ids can be.

use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Semaphore;

use crate::ground::names;

/// Answers of the user database.
#[derive(Debug)]
pub(super) struct UserDatabase {
    /// Whether a user id has an entry, and when the database was asked.
    answers: Mutex<HashMap<u32, (bool, Instant)>>,
    turns: Arc<Semaphore>,
    /// Turns of users who were in the database before.
    turns_of_known: Arc<Semaphore>,
    patience: Duration,
}

impl Default for UserDatabase {
    fn default() -> Self {
        let turns = || Arc::new(Semaphore::new(LOOK_UPS));
        Self { answers: Mutex::default(), turns: turns(), turns_of_known: turns(), patience: PATIENCE }
    }
}

impl UserDatabase {
    /// True if a user id has an entry. If the database cannot be read or does not answer in time,
    /// the answer is the one before, or false.
    pub(super) async fn has(self: &Arc<Self>, uid: u32) -> bool {
        self.has_by(uid, has_entry).await
    }

    /// Answer of the database in memory, if there is one that is not old.
    pub(super) fn remembered(&self, uid: u32) -> Option<bool> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(&uid).filter(|(_, at)| at.elapsed() < REMEMBERED).map(|(has, _)| *has)
    }

    async fn has_by(self: &Arc<Self>, uid: u32, look_up: fn(u32) -> Option<bool>) -> bool {
        if let Some(has) = self.remembered(uid) {
            return has;
        }
        let before = self.before(uid);
        let found = tokio::time::timeout(self.patience, self.find(uid, before, look_up)).await;
        found.unwrap_or_else(|_| {
            tracing::warn!(uid, before, "the user database does not answer, so the answer before counts");
            before
        })
    }

    /// The last answer of the database, or false.
    fn before(&self, uid: u32) -> bool {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(&uid).is_some_and(|(has, _)| *has)
    }

    async fn find(self: &Arc<Self>, uid: u32, before: bool, look_up: fn(u32) -> Option<bool>) -> bool {
        let turns = if before { &self.turns_of_known } else { &self.turns };
        // Nobody closes the semaphore.
        let Ok(turn) = Arc::clone(turns).acquire_owned().await else { return false };
        if let Some(has) = self.remembered(uid) {
            return has;
        }
        let database = Arc::clone(self);
        // A caller who hangs up does not pass the turn on early.
        let answer = tokio::task::spawn_blocking(move || {
            let has = look_up(uid).unwrap_or(before);
            database.remember(uid, has);
            drop(turn);
            has
        });
        answer.await.unwrap_or(before)
    }

    fn remember(&self, uid: u32, has: bool) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MOST {
            answers.retain(|_, (has, _)| *has);
        }
        if answers.len() >= MOST {
            answers.clear();
        }
        answers.insert(uid, (has, Instant::now()));
    }
}

/// Whether a user has an entry; `None` if the database cannot be read.
fn has_entry(uid: u32) -> Option<bool> {
    let user = names::user_by_id(uid).inspect_err(|error| {
        tracing::warn!(uid, "cannot look up a user, so the answer before counts: {error}");
    });
    user.ok().map(|user| user.is_some())
}

/// Time for which an answer counts.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Maximum number of answers in memory.
const MOST: usize = 1024;
/// Maximum number of look-ups at a time, of users who were in the database before, and of others.
const LOOK_UPS: usize = 2;
/// Time in which the database answers.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicU32, Ordering};
    use std::sync::Condvar;

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn the_database_is_asked_once_for_each_user() {
        static ASKED: AtomicU32 = AtomicU32::new(0);
        let look_up = |uid| {
            ASKED.fetch_add(1, Ordering::Relaxed);
            Some(uid < 10)
        };
        let database = Arc::new(UserDatabase::default());
        assert_eq!(database.remembered(7), None);
        for _ in 0..3 {
            assert!(database.has_by(7, look_up).await && !database.has_by(100_007, look_up).await);
        }
        assert_eq!((database.remembered(7), database.remembered(100_007)), (Some(true), Some(false)));
        assert_eq!(ASKED.load(Ordering::Relaxed), 2);
        for uid in 0..2 * MOST as u32 {
            database.has_by(uid, look_up).await;
        }
        assert!(database.answers.lock().unwrap().len() <= MOST);
        assert_eq!(database.remembered(7), Some(true), "others do not displace a user");
    }

    /// A database that hangs or fails, and a crowd that waits for it, take no role from a user.
    #[tokio::test]
    async fn the_answer_before_counts_if_there_is_none() {
        static IS_OVER: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());
        let hang = |_| {
            let (is_over, end) = &IS_OVER;
            end.wait_while(is_over.lock().ok()?, |is_over| !*is_over).ok().map(|_| false)
        };
        let patience = Duration::from_millis(50);
        let database = Arc::new(UserDatabase { patience, ..UserDatabase::default() });
        let past = Instant::now().checked_sub(2 * REMEMBERED).unwrap();
        database.answers.lock().unwrap().extend([(7, (true, past)), (8, (true, past))]);
        let mut crowd = JoinSet::new();
        for uid in 100..300 {
            let database = Arc::clone(&database);
            crowd.spawn(async move { database.has_by(uid, hang).await });
        }
        assert_eq!(crowd.join_all().await, [false; 200]);
        assert!(database.has_by(7, |_| Some(true)).await, "the crowd still has its turns");
        assert_eq!(database.remembered(7), Some(true), "the database was asked");
        assert!(database.has_by(8, hang).await, "no answer");
        let patience = Duration::from_secs(600);
        let failing = Arc::new(UserDatabase { patience, ..UserDatabase::default() });
        failing.answers.lock().unwrap().insert(8, (true, past));
        assert!(failing.has_by(8, |_| None).await && !failing.has_by(9, |_| None).await);
        *IS_OVER.0.lock().unwrap() = true;
        IS_OVER.1.notify_all();
    }

    #[tokio::test]
    async fn root_has_an_entry() {
        let database = Arc::new(UserDatabase::default());
        assert!(database.has(0).await && !database.has(u32::MAX - 1).await);
    }
}
