//! Files that somebody renews while the program runs, such as certificates and their keys.

use core::error::Error;
use core::time::Duration;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use crate::causes::causes;

/// What was read from some files, and is read again when they have changed. A file that cannot be
/// used leaves what there is in force. Shared by reference between tasks.
pub(crate) struct Renewed<T> {
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
}

/// What tells that a file is another one, or has other contents: device, inode, and the time of the
/// last change of either, which nobody can set.
type Stamp = (u64, u64, i64, i64);

impl<T: Send + Sync + 'static> Renewed<T> {
    /// Reads the files for the first time; `name` names them in the log.
    ///
    /// # Errors
    /// Whatever `read` says.
    pub(crate) fn new<E: Error>(
        name: String,
        files: Vec<PathBuf>,
        read: impl Fn() -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        let seen = stamps(&files);
        let current = ArcSwap::from_pointee(read()?);
        let read = move || read().map_err(|error| causes(&error));
        let state = Mutex::new(State { seen, failures: 0, problem: None });
        Ok(Self { name, files, read: Box::new(read), current, state })
    }

    /// What there is now.
    pub(crate) fn get(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Why the files as they are now are of no use, if that is so.
    pub(crate) fn problem(&self) -> Option<String> {
        let problem = self.state().problem.clone()?;
        Some(format!("{} cannot be used as they are now, the old ones are in force: {problem}", self.name))
    }

    /// Looks after the files again and again; never returns.
    pub(crate) async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(EVERY).await;
            let this = Arc::clone(&self);
            // Ends only with the runtime.
            let _ = tokio::task::spawn_blocking(move || this.look()).await;
        }
    }

    /// Reads the files if they have changed. Those that belong together change one after the other,
    /// so it is told only the second time that they are of no use.
    fn look(&self) {
        let mut state = self.state();
        let now = stamps(&self.files);
        if now != state.seen || state.failures > 0 {
            self.read_to(&mut state, now, false);
        }
    }

    /// Reads the files, whether or not they have changed, and says what came of that.
    pub(crate) fn read_again(&self) {
        let now = stamps(&self.files);
        self.read_to(&mut self.state(), now, true);
    }

    fn read_to(&self, state: &mut State, now: Vec<Option<Stamp>>, asked: bool) {
        match (self.read)() {
            Ok(new) => {
                self.current.store(Arc::new(new));
                *state = State { seen: now, failures: 0, problem: None };
                tracing::info!("{} read again", self.name);
            }
            Err(problem) => {
                state.failures += 1;
                let news = state.problem.as_ref() != Some(&problem);
                if asked || (state.failures > 1 && news) {
                    tracing::error!("{}: the old ones stay in force: {problem}", self.name);
                    state.problem = Some(problem);
                }
            }
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

#[cfg(test)]
mod tests {
    use core::num::ParseIntError;

    use super::*;

    #[test]
    fn files_are_read_when_they_change_and_broken_ones_are_told_the_second_time() {
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
        let looked = || {
            renewed.look();
            (*renewed.get(), renewed.problem().is_some())
        };
        assert_eq!(looked(), (3, false));
        renew(0, "x");
        assert_eq!(looked(), (3, false), "the other file may come");
        renew(0, "5");
        assert_eq!(looked(), (7, false));
        renew(1, "x");
        assert_eq!((looked(), looked()), ((7, false), (7, true)));
        assert!(renewed.problem().unwrap().contains("invalid digit"));
        renew(1, "3");
        assert_eq!(looked(), (8, false));
        renew(1, "");
        renewed.read_again();
        assert!(renewed.problem().is_some(), "who asks is told at once");
    }
}
