//! User ids that the user database knows (passwd(5), nsswitch.conf(5)). Roles by group count for
//! such users only: with subordinate user ids (subuid(5)), one person is many users, all with the
//! groups of that person.
//!
//! A look-up may ask the network. So it runs on a thread of its own, and its answer is remembered.

use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use nix::unistd::{Uid, User};
use tokio::sync::Semaphore;

/// Answers of the user database.
#[derive(Debug)]
pub(super) struct UserDatabase {
    /// Whether a user id has an entry, and when the database was asked.
    answers: Mutex<HashMap<u32, (bool, Instant)>>,
    turns: Arc<Semaphore>,
}

impl Default for UserDatabase {
    fn default() -> Self {
        Self { answers: Mutex::default(), turns: Arc::new(Semaphore::new(LOOK_UPS)) }
    }
}

impl UserDatabase {
    /// True if a user id has an entry. False also if the database cannot be read.
    pub(super) async fn has(self: &Arc<Self>, uid: u32) -> bool {
        self.has_by(uid, has_entry).await
    }

    /// Answer of the database in memory, if there is one that is not old.
    pub(super) fn remembered(&self, uid: u32) -> Option<bool> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(&uid).filter(|(_, at)| at.elapsed() < REMEMBERED).map(|(has, _)| *has)
    }

    async fn has_by(self: &Arc<Self>, uid: u32, look_up: fn(u32) -> bool) -> bool {
        if let Some(has) = self.remembered(uid) {
            return has;
        }
        // Nobody closes the semaphore.
        let Ok(turn) = Arc::clone(&self.turns).acquire_owned().await else { return false };
        if let Some(has) = self.remembered(uid) {
            return has;
        }
        let database = Arc::clone(self);
        // A caller who hangs up does not pass the turn on early.
        let answer = tokio::task::spawn_blocking(move || {
            let has = look_up(uid);
            database.remember(uid, has);
            drop(turn);
            has
        });
        answer.await.unwrap_or(false)
    }

    fn remember(&self, uid: u32, has: bool) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MOST {
            answers.clear();
        }
        answers.insert(uid, (has, Instant::now()));
    }
}

fn has_entry(uid: u32) -> bool {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(user) => user.is_some(),
        Err(error) => {
            tracing::warn!(uid, "cannot look up a user, so roles by group do not count: {}", error.desc());
            false
        }
    }
}

/// Time for which an answer counts.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Maximum number of answers in memory.
const MOST: usize = 1024;
/// Maximum number of look-ups at a time.
const LOOK_UPS: usize = 2;

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn the_database_is_asked_once_for_each_user() {
        static ASKED: AtomicU32 = AtomicU32::new(0);
        let look_up = |uid| {
            ASKED.fetch_add(1, Ordering::Relaxed);
            uid < 10
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
    }

    #[tokio::test]
    async fn root_has_an_entry() {
        let database = Arc::new(UserDatabase::default());
        assert!(database.has(0).await && !database.has(u32::MAX - 1).await);
    }
}
