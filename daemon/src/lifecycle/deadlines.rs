//! Deadlines of keys: the end of a waiting period, after which the daemon destroys the key, and the
//! dates of a key, of which peers that watch the key learn.
//!
//! The clock of the machine may be wrong, and a destruction cannot be undone. So the destructions
//! wait if the clock has moved by more than [`JUMP`] since the daemon looked at it last.

use core::time::Duration;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use keyward_proto::Label;
use tokio::time::{Instant, sleep};

use super::life::destroy_overdue;
use crate::daemon::Daemon;
use crate::keys::{Key, SAVE_INTERVAL, StoreError, now};

/// Destroys keys whose waiting period has ended, and tells peers that watch keys of dates that have
/// come. Also saves the last uses of keys. Never returns.
pub(crate) async fn follow_deadlines(daemon: &Daemon) {
    let changes = daemon.keys.changes();
    let mut revisions = changes.subscribe();
    let mut deadlines = Deadlines::default();
    let mut clock = Clock::of_file(daemon.keys.state_dir().join(FILE));
    let (mut seen, mut saved) = (0, None::<Instant>);
    loop {
        // A change that comes while keys are read is handled in the next round.
        revisions.mark_unchanged();
        let new = changes.since(seen, |_| true);
        let read = match new.everything {
            true => deadlines.read_all(daemon).await,
            false => deadlines.read_some(daemon, &new.labels).await,
        };
        match read {
            Ok(()) => seen = new.revision,
            // The daemon has said at its start that the store is locked.
            Err(StoreError::Locked(_)) => {}
            Err(error) => tracing::warn!("the dates of keys are not up to date: {error}"),
        }
        let moment = Instant::now();
        clock.look(now(), moment);
        deadlines.meet(daemon, &mut clock).await;
        if saved.is_none_or(|saved| moment - saved >= SAVE_INTERVAL) {
            saved = Some(moment);
            clock.save().await;
            daemon.keys.save_usage(false).await;
        }
        let wait = deadlines.wait();
        tokio::select! {
            _ = revisions.changed() => {}
            () = sleep(wait) => {}
        }
    }
}

/// Has the next daemon on a state directory destroy nothing for an hour.
///
/// # Errors
/// The error of the system.
pub(crate) fn hold_destructions(state_dir: &Path) -> io::Result<()> {
    match fs::remove_file(state_dir.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The next deadline of each key that has one, in seconds since 1970.
#[derive(Default)]
struct Deadlines(BTreeMap<Label, u64>);

impl Deadlines {
    /// Reads a page at a time, so that other work with the store does not wait long.
    async fn read_all(&mut self, daemon: &Daemon) -> Result<(), StoreError> {
        let (mut found, mut after) = (BTreeMap::new(), None);
        loop {
            let page = daemon.keys.list(after, PAGE).await?;
            let is_last = page.len() < PAGE;
            after = page.last().map(|listed| listed.label().to_string());
            let keys = page.into_iter().filter_map(|listed| listed.key().ok());
            found.extend(keys.filter_map(|key| Some((key.label.clone(), key.next_deadline(now())?))));
            if is_last {
                break;
            }
        }
        self.0 = found;
        Ok(())
    }

    async fn read_some(&mut self, daemon: &Daemon, labels: &[String]) -> Result<(), StoreError> {
        for label in labels.iter().filter_map(|label| label.parse::<Label>().ok()) {
            self.read(daemon, label).await?;
        }
        Ok(())
    }

    async fn read(&mut self, daemon: &Daemon, label: Label) -> Result<(), StoreError> {
        let key = match daemon.keys.stored(&label).await {
            Err(StoreError::Altered(_) | StoreError::Unlisted(_)) => None,
            read => read?,
        };
        match key.as_ref().and_then(|key: &Key| key.next_deadline(now())) {
            Some(deadline) => self.0.insert(label, deadline),
            None => self.0.remove(&label),
        };
        Ok(())
    }

    /// Time until the next look. A deadline that has come, and could not be met, waits for the look
    /// after the longest time.
    fn wait(&self) -> Duration {
        let now = now();
        let next = self.0.values().filter(|deadline| **deadline > now).min();
        next.map_or(LOOK, |next| Duration::from_secs(next - now).min(LOOK))
    }

    /// Does what the deadlines that have come ask for.
    async fn meet(&mut self, daemon: &Daemon, clock: &mut Clock) {
        let now = now();
        let due: Vec<Label> =
            self.0.iter().filter(|(_, at)| **at <= now).map(|(label, _)| label.clone()).collect();
        let mut held = Vec::new();
        for label in due {
            let is_deletion = match daemon.keys.stored(&label).await {
                Ok(key) => key.is_some_and(|key| key.life.deletion.is_some()),
                Err(_) => false,
            };
            if is_deletion {
                if !clock.may_destroy() {
                    held.push(label);
                    continue;
                }
                match destroy_overdue(daemon, &label).await {
                    Ok(()) => {}
                    // Another deadline, which the change feed has told by now.
                    Err(super::Error::Store(StoreError::Changed(_) | StoreError::Unknown(_))) => {}
                    Err(error) => {
                        tracing::error!(key = label.as_str(), "cannot destroy a deleted key: {error}");
                    }
                }
            } else {
                daemon.keys.changes().of_key(label.clone());
            }
            if let Err(error) = self.read(daemon, label).await {
                tracing::warn!("the dates of keys are not up to date: {error}");
            }
        }
        clock.warn_of(&held);
    }
}

/// The clock of the machine, as the daemon has looked at it.
struct Clock {
    file: PathBuf,
    /// Time of the last look in seconds since 1970; none if the daemon never looked.
    last: Option<u64>,
    /// Moment until which no key is destroyed.
    held_until: Option<Instant>,
    /// True if the log has the reason already.
    is_told: bool,
}

impl Clock {
    /// The clock with the last look of an earlier daemon on this state directory.
    fn of_file(file: PathBuf) -> Self {
        let last = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        Self { file, last, held_until: None, is_told: false }
    }

    /// Looks at the clock: `now` is its time, and `moment` the time that nobody can set.
    fn look(&mut self, now: u64, moment: Instant) {
        if self.last.is_none_or(|last| now.saturating_sub(last) > JUMP) {
            self.held_until = Some(moment + HOLD);
            self.is_told = false;
        }
        self.held_until.take_if(|end| *end <= moment);
        self.last = Some(now);
    }

    fn may_destroy(&self) -> bool {
        self.held_until.is_none()
    }

    /// Logs once that the destruction of keys waits.
    fn warn_of(&mut self, held: &[Label]) {
        if held.is_empty() || self.is_told {
            return;
        }
        self.is_told = true;
        let labels: Vec<_> = held.iter().take(SHOWN).map(Label::as_str).collect();
        let count = held.len();
        tracing::warn!(
            count,
            keys = labels.join(", "),
            "deleted keys are not destroyed for an hour, because the clock has moved by more than an hour since the daemon last looked at it; if the clock is wrong, set it; to keep a key, run: keyward key restore LABEL"
        );
    }

    /// Writes the time of the last look. A time that is not trusted yet is not written, so that the
    /// next daemon holds for a full hour if this daemon ends within its hold.
    async fn save(&self) {
        let (file, Some(last)) = (self.file.clone(), self.last) else { return };
        if !self.may_destroy() {
            return;
        }
        let write = move || fs::write(&file, format!("{last}\n"));
        if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
            tracing::warn!("cannot write {}: {error}", self.file.display());
        }
    }
}

/// Name of the file in the state directory with the time of the last look.
const FILE: &str = "clock";
/// Longest time between two looks at the clock.
const LOOK: Duration = Duration::from_secs(60);
/// Distance between two looks from which the clock may be wrong, in seconds.
const JUMP: u64 = 3600;
/// Time for which no key is destroyed then.
const HOLD: Duration = Duration::from_secs(3600);
/// Number of keys that are read from the store at a time.
const PAGE: usize = 256;
/// Maximum number of labels in a line of the log.
const SHOWN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_holds_destructions_for_an_hour() {
        let dir = tempfile::tempdir().unwrap();
        let mut clock = Clock::of_file(dir.path().join(FILE));
        let (now, moment) = (1_700_000_000, Instant::now());
        let mut look = |now, later| {
            clock.look(now, moment + Duration::from_secs(later));
            clock.may_destroy()
        };
        assert!(!look(now, 0), "nobody has looked before");
        assert!(!look(now + 3599, 3599));
        assert!(look(now + 3600, 3600));
        assert!(look(now + 7200, 3660), "an hour is no jump");
        assert!(!look(now + 10_801, 3720), "more than an hour");
        assert!(!look(now, 7319), "set right, and still held");
        assert!(look(now + 1, 7320));
        assert!(look(now - 90_000, 7380), "a clock that is set back destroys nothing");
    }

    #[tokio::test]
    async fn the_next_daemon_knows_the_last_look() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let now = 1_700_000_000;
        fs::write(&file, now.to_string()).unwrap();
        let mut clock = Clock::of_file(file.clone());
        clock.look(now, Instant::now());
        clock.save().await;
        let unheld = fs::read(&file).unwrap();
        hold_destructions(dir.path()).unwrap();
        hold_destructions(dir.path()).unwrap();
        let mut held = Clock::of_file(file.clone());
        held.look(now, Instant::now());
        assert!(!held.may_destroy());
        fs::write(&file, unheld).unwrap();
        for (later, may_destroy) in [(0, true), (3600, true), (3601, false)] {
            let mut next = Clock::of_file(file.clone());
            next.look(now + later, Instant::now());
            assert_eq!(next.may_destroy(), may_destroy, "{later}");
        }
    }

    #[tokio::test]
    async fn a_restart_within_the_hold_begins_the_hold_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let (now, moment) = (1_700_000_000, Instant::now());
        // The clock is a week ahead, then nobody has looked yet.
        for trusted in [Some(now - 7 * 86_400), None] {
            let _absent = fs::remove_file(&file);
            if let Some(trusted) = trusted {
                fs::write(&file, trusted.to_string()).unwrap();
            }
            for start in [0, 60, 3659, 7258] {
                let mut clock = Clock::of_file(file.clone());
                for later in [0, 60, 3599] {
                    clock.look(now + start + later, moment + Duration::from_secs(start + later));
                    clock.save().await;
                    assert!(!clock.may_destroy(), "{start} {later}");
                }
            }
            let mut clock = Clock::of_file(file.clone());
            for (later, may_destroy) in [(0, false), (3600, true)] {
                clock.look(now + later, moment + Duration::from_secs(later));
                clock.save().await;
                assert_eq!(clock.may_destroy(), may_destroy);
            }
            let mut next = Clock::of_file(file.clone());
            next.look(now + 3660, moment);
            assert!(next.may_destroy(), "the hold is over, and its end is on the disk");
        }
    }
}
