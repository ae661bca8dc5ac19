//! Files that change while the program runs, such as certificates and their keys.

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

/// Value that was read from files, and is read again when the files change. The old value stays in
/// force if the new files cannot be used, or another program refuses them. Shared by reference
/// between tasks.
pub struct Renewed<T> {
    /// Name for the log.
    name: String,
    files: Vec<PathBuf>,
    read: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
    current: ArcSwap<T>,
    state: Mutex<State>,
}

struct State {
    /// Stamps of the files whose value is in force.
    seen: Vec<Option<Stamp>>,
    /// Number of consecutive failures.
    failures: u32,
    /// Reason of the failures, once it is logged.
    problem: Option<String>,
    /// Stamps of files that another program refused, and the time of the next attempt.
    refused: Option<(Vec<Option<Stamp>>, Instant)>,
}

/// Stamp that changes with a file or its contents: device, inode, and the ctime in seconds and
/// nanoseconds, which no program can set.
type Stamp = (u64, u64, i64, i64);

/// Value that was read and is not in force yet.
struct Candidate<T> {
    new: Arc<T>,
    stamps: Vec<Option<Stamp>>,
    is_changed: bool,
    /// True if a person asked for the reload.
    on_request: bool,
}

/// Answer of another program to a new value.
#[derive(Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The other program accepts the value.
    Accepted,
    /// The other program refuses the value, for this reason.
    Refused(String),
    /// The other program gave no answer.
    Unknown,
}

/// Accepts every value, if there is no other program to ask.
pub async fn untried<T>(_: Arc<T>) -> Verdict {
    Verdict::Accepted
}

impl<T: Send + Sync + 'static> Renewed<T> {
    /// Reads the files for the first time. `name` is their name in the log.
    ///
    /// # Errors
    /// The error of `read`.
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

    /// The value in force.
    pub fn get(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Reason why the present files cannot be used; `None` if they can.
    pub fn problem(&self) -> Option<String> {
        let problem = self.state().problem.clone()?;
        Some(format!("{} cannot be used as they are now, the old ones are in force: {problem}", self.name))
    }

    /// Checks the files at regular times, and reads changed files. Never returns. A new value is
    /// put in force unless `try_out` refuses it.
    pub async fn watch<F>(self: Arc<Self>, try_out: impl Fn(Arc<T>) -> F)
    where
        F: Future<Output = Verdict>,
    {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let this = Arc::clone(&self);
            // The error is the end of the runtime.
            if let Ok(Some(candidate)) = tokio::task::spawn_blocking(move || this.read_if_changed()).await {
                self.install(candidate, &try_out).await;
            }
        }
    }

    /// Reads the files even if they have not changed, and logs the result.
    pub async fn read_again<F>(&self, try_out: impl Fn(Arc<T>) -> F)
    where
        F: Future<Output = Verdict>,
    {
        let now = stamps(&self.files);
        let candidate = self.read_to(&mut self.state(), now, true);
        if let Some(candidate) = candidate {
            self.install(candidate, try_out).await;
        }
    }

    /// Reads the files if they have changed. A failure is logged only the second time: files that
    /// belong together change one after the other.
    fn read_if_changed(&self) -> Option<Candidate<T>> {
        let mut state = self.state();
        let now = stamps(&self.files);
        match &state.refused {
            Some((refused, until)) if *refused == now && Instant::now() < *until => None,
            _ if now == state.seen && state.failures == 0 => None,
            _ => self.read_to(&mut state, now, false),
        }
    }

    fn read_to(
        &self,
        state: &mut State,
        stamps: Vec<Option<Stamp>>,
        on_request: bool,
    ) -> Option<Candidate<T>> {
        match (self.read)() {
            Ok(new) => {
                let is_changed = stamps != state.seen || state.failures > 0;
                Some(Candidate { new: Arc::new(new), stamps, is_changed, on_request })
            }
            Err(problem) => {
                self.failed(state, problem, on_request);
                None
            }
        }
    }

    /// Puts a new value in force, unless it is refused. A value that was refused once must be
    /// accepted explicitly.
    async fn install<F>(&self, candidate: Candidate<T>, try_out: impl Fn(Arc<T>) -> F)
    where
        F: Future<Output = Verdict>,
    {
        let Candidate { new, stamps, is_changed, on_request } = candidate;
        let verdict = match is_changed {
            true => try_out(Arc::clone(&new)).await,
            false => Verdict::Accepted,
        };
        let mut state = self.state();
        let was_refused = state.refused.as_ref().is_some_and(|(refused, _)| *refused == stamps);
        match verdict {
            Verdict::Refused(problem) => {
                self.failed(&mut state, problem, on_request);
                let pause = (INTERVAL * state.failures).min(MAX_PAUSE);
                state.refused = Some((stamps, Instant::now() + pause));
            }
            Verdict::Unknown if was_refused => {}
            Verdict::Accepted | Verdict::Unknown => {
                self.current.store(new);
                *state = State { seen: stamps, failures: 0, problem: None, refused: None };
                tracing::info!("{} read again", self.name);
            }
        }
    }

    fn failed(&self, state: &mut State, problem: String, on_request: bool) {
        state.failures = state.failures.saturating_add(1);
        let is_new = state.problem.as_ref() != Some(&problem);
        if on_request || (state.failures > 1 && is_new) {
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

/// Interval between two checks of the files.
const INTERVAL: Duration = Duration::from_secs(3);
/// Maximum pause before a program that refused files is asked again.
const MAX_PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use core::num::ParseIntError;

    use super::*;

    #[tokio::test]
    async fn changed_files_are_read_and_broken_files_are_logged_the_second_time() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| dir.path().join(name));
        let write = |which: usize, text: &str| fs::write(&paths[which], text).unwrap();
        // Renamed, so that the change is noticed also on a file system with coarse times.
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
        let checked = async || {
            if let Some(candidate) = renewed.read_if_changed() {
                renewed.install(candidate, untried).await;
            }
            (*renewed.get(), renewed.problem().is_some())
        };
        assert_eq!(checked().await, (3, false));
        renew(0, "x");
        assert_eq!(checked().await, (3, false), "the second file may change next");
        renew(0, "5");
        assert_eq!(checked().await, (7, false));
        renew(1, "x");
        assert_eq!((checked().await, checked().await), ((7, false), (7, true)));
        assert!(renewed.problem().unwrap().contains("invalid digit"));
        renew(1, "3");
        assert_eq!(checked().await, (8, false));
        renew(1, "");
        renewed.read_again(untried).await;
        assert!(renewed.problem().is_some(), "a reload on request reports the problem at once");

        // Another program decides.
        let asked = async |verdict: fn() -> Verdict| {
            renewed.read_again(|_| async move { verdict() }).await;
            (*renewed.get(), renewed.problem().is_some())
        };
        let refused = || Verdict::Refused("no".into());
        renew(1, "4");
        assert_eq!(asked(refused).await, (8, true));
        assert!(renewed.problem().unwrap().ends_with("the old ones are in force: no"));
        assert_eq!(
            asked(|| Verdict::Unknown).await,
            (8, true),
            "a refused value must be accepted explicitly"
        );
        assert!(renewed.read_if_changed().is_none(), "a pause before the next attempt");
        assert_eq!(asked(|| Verdict::Accepted).await, (9, false));
        renew(1, "5");
        assert_eq!(asked(|| Verdict::Unknown).await, (10, false));
        assert_eq!(asked(refused).await, (10, false), "the files are those in force");
    }
}
