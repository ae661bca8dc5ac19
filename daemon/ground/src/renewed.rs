//! Files that somebody renews while the program runs, such as certificates and their keys.

use core::error::Error;
use core::future::Future;
use core::time::Duration;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::causes::causes;

/// What was read from some files, and is read again when they have changed. Files that cannot be
/// used, or that others refuse, leave what there is in force. Shared by reference between tasks.
pub struct Renewed<T> {
    /// For the log.
    name: String,
    files: Vec<PathBuf>,
    read: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
    current: ArcSwap<T>,
    state: Mutex<State>,
}

struct State {
    /// The files as they were when they were last read to some use.
    seen: Vec<Option<Stamp>>,
    /// How often in a row they were of no use.
    failures: u32,
    /// Why, if that was told.
    problem: Option<String>,
    /// Files that can be read and were refused, and before when nobody is asked again.
    refused: Option<(Vec<Option<Stamp>>, Instant)>,
}

/// What tells that a file is another one, or has other contents: device, inode, and the time of the
/// last change of either, which nobody can set.
type Stamp = (u64, u64, i64, i64);

/// What was read and is not in force yet.
struct Candidate<T> {
    new: Arc<T>,
    stamps: Vec<Option<Stamp>>,
    changed: bool,
    asked: bool,
}

/// The answer of another program to what was read.
#[derive(Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The other program accepts it.
    Accepted,
    /// The other program refuses it, for this reason.
    Refused(String),
    /// The other program gave no answer.
    Unknown,
}

/// Takes what can be read, where there is nobody to ask.
pub async fn untried<T>(_: Arc<T>) -> Verdict {
    Verdict::Accepted
}

impl<T: Send + Sync + 'static> Renewed<T> {
    /// Reads the files for the first time; `name` names them in the log.
    ///
    /// # Errors
    /// Whatever `read` says.
    pub fn new<E: Error>(
        name: String,
        files: Vec<PathBuf>,
        read: impl Fn() -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        let seen = stamps(&files);
        let current = ArcSwap::from_pointee(read()?);
        let read = move || read().map_err(|error| causes(&error));
        let state = Mutex::new(State { seen, failures: 0, problem: None, refused: None });
        Ok(Self { name, files, read: Box::new(read), current, state })
    }

    /// What there is now.
    pub fn get(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Why the files as they are now are of no use, if that is so.
    pub fn problem(&self) -> Option<String> {
        let problem = self.state().problem.clone()?;
        Some(format!("{} cannot be used as they are now, the old ones are in force: {problem}", self.name))
    }

    /// Looks after the files again and again; never returns. What was read is in force unless
    /// `try_out` refuses that.
    pub async fn watch<F>(self: Arc<Self>, try_out: impl Fn(Arc<T>) -> F)
    where
        F: Future<Output = Verdict>,
    {
        loop {
            tokio::time::sleep(EVERY).await;
            let this = Arc::clone(&self);
            // Ends only with the runtime.
            if let Ok(Some(candidate)) = tokio::task::spawn_blocking(move || this.look()).await {
                self.settle(candidate, &try_out).await;
            }
        }
    }

    /// Reads the files, whether or not they have changed, and says what came of that.
    pub async fn read_again<F>(&self, try_out: impl Fn(Arc<T>) -> F)
    where
        F: Future<Output = Verdict>,
    {
        let now = stamps(&self.files);
        let candidate = self.read_to(&mut self.state(), now, true);
        if let Some(candidate) = candidate {
            self.settle(candidate, try_out).await;
        }
    }

    /// Reads the files if they have changed. Those that belong together change one after the other,
    /// so it is told only the second time that they are of no use.
    fn look(&self) -> Option<Candidate<T>> {
        let mut state = self.state();
        let now = stamps(&self.files);
        match &state.refused {
            Some((refused, until)) if *refused == now && Instant::now() < *until => None,
            _ if now == state.seen && state.failures == 0 => None,
            _ => self.read_to(&mut state, now, false),
        }
    }

    fn read_to(&self, state: &mut State, stamps: Vec<Option<Stamp>>, asked: bool) -> Option<Candidate<T>> {
        match (self.read)() {
            Ok(new) => {
                let changed = stamps != state.seen || state.failures > 0;
                Some(Candidate { new: Arc::new(new), stamps, changed, asked })
            }
            Err(problem) => {
                self.failed(state, problem, asked);
                None
            }
        }
    }

    /// Puts what was read in force, unless it is refused. Once refused, it must be accepted.
    async fn settle<F>(&self, candidate: Candidate<T>, try_out: impl Fn(Arc<T>) -> F)
    where
        F: Future<Output = Verdict>,
    {
        let Candidate { new, stamps, changed, asked } = candidate;
        let verdict = match changed {
            true => try_out(Arc::clone(&new)).await,
            false => Verdict::Accepted,
        };
        let mut state = self.state();
        let refused_before = state.refused.as_ref().is_some_and(|(refused, _)| *refused == stamps);
        match verdict {
            Verdict::Refused(problem) => {
                self.failed(&mut state, problem, asked);
                let pause = (EVERY * state.failures).min(LONGEST_PAUSE);
                state.refused = Some((stamps, Instant::now() + pause));
            }
            Verdict::Unknown if refused_before => {}
            Verdict::Accepted | Verdict::Unknown => {
                self.current.store(new);
                *state = State { seen: stamps, failures: 0, problem: None, refused: None };
                tracing::info!("{} read again", self.name);
            }
        }
    }

    fn failed(&self, state: &mut State, problem: String, asked: bool) {
        state.failures = state.failures.saturating_add(1);
        let news = state.problem.as_ref() != Some(&problem);
        if asked || (state.failures > 1 && news) {
            tracing::error!("{}: the old ones stay in force: {problem}", self.name);
            state.problem = Some(problem);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |file: &PathBuf| {
        let found = fs::metadata(file).ok()?;
        Some((found.dev(), found.ino(), found.ctime(), found.ctime_nsec()))
    };
    files.iter().map(stamp).collect()
}

/// How often files are looked at.
const EVERY: Duration = Duration::from_secs(3);
/// The longest time before somebody who has refused files is asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use core::num::ParseIntError;

    use super::*;

    #[tokio::test]
    async fn files_are_read_when_they_change_and_broken_ones_are_told_the_second_time() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| dir.path().join(name));
        let write = |which: usize, text: &str| fs::write(&paths[which], text).unwrap();
        // Each write must be seen, also on a file system whose times are coarse.
        let renew = |which: usize, text: &str| {
            let new = dir.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(&new, &paths[which]).unwrap();
        };
        write(0, "1");
        write(1, "2");
        let files = paths.clone();
        let read = move || -> Result<u32, ParseIntError> {
            files.iter().map(|path| fs::read_to_string(path).unwrap().parse::<u32>()).sum()
        };
        let renewed = Renewed::new("numbers".into(), paths.to_vec(), read).unwrap();
        let looked = async || {
            if let Some(candidate) = renewed.look() {
                renewed.settle(candidate, untried).await;
            }
            (*renewed.get(), renewed.problem().is_some())
        };
        assert_eq!(looked().await, (3, false));
        renew(0, "x");
        assert_eq!(looked().await, (3, false), "the other file may come");
        renew(0, "5");
        assert_eq!(looked().await, (7, false));
        renew(1, "x");
        assert_eq!((looked().await, looked().await), ((7, false), (7, true)));
        assert!(renewed.problem().unwrap().contains("invalid digit"));
        renew(1, "3");
        assert_eq!(looked().await, (8, false));
        renew(1, "");
        renewed.read_again(untried).await;
        assert!(renewed.problem().is_some(), "who asks is told at once");

        // Somebody has the last word, if there is somebody.
        let asked = async |verdict: fn() -> Verdict| {
            renewed.read_again(|_| async move { verdict() }).await;
            (*renewed.get(), renewed.problem().is_some())
        };
        let refused = || Verdict::Refused("no".into());
        renew(1, "4");
        assert_eq!(asked(refused).await, (8, true));
        assert!(renewed.problem().unwrap().ends_with("the old ones are in force: no"));
        assert_eq!(asked(|| Verdict::Unknown).await, (8, true), "what was refused must be accepted");
        assert!(renewed.look().is_none(), "nobody is asked all the time");
        assert_eq!(asked(|| Verdict::Accepted).await, (9, false));
        renew(1, "5");
        assert_eq!(asked(|| Verdict::Unknown).await, (10, false));
        assert_eq!(asked(refused).await, (10, false), "the files are those that are in force");
    }
}
