//! Signatures over the trail: when a checkpoint is asked for, and where it goes.

use core::time::Duration;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Instant, SystemTime};

use crate::files::set_head;
use crate::line::Content;
use crate::reserve::Room;
use crate::trail::{Message, Unwritten};
use crate::writer::Writer;
use crate::{Checkpoint, Hash, Signer};

/// Extent of the last checkpoint.
pub(crate) struct Signed {
    /// Number of its last record.
    pub(crate) records: u64,
    /// When it was asked for.
    pub(crate) at: Instant,
    /// Answer of the unit.
    pub(crate) state: Signing,
    /// When there was no signature for the last time, if there was none since.
    pub(crate) failed: Option<Instant>,
}

impl Signed {
    /// Nothing is signed in this run. Records of earlier runs are covered by the next checkpoint.
    pub(crate) fn new(records: u64) -> Self {
        Self { records, at: Instant::now(), state: Signing::NotAsked, failed: None }
    }
}

/// Answer of the unit when it was last asked to sign.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Signing {
    /// The unit was not asked since the start.
    NotAsked,
    /// There is no audit key yet.
    NoKey,
    /// The unit has signed.
    Works,
    /// The unit has not signed.
    Fails {
        /// Reason that the unit gave last.
        reason: String,
        /// Time of the first attempt that failed since the unit has signed.
        since: SystemTime,
    },
}

impl Writer {
    /// Asks for a checkpoint if there are many records, or old ones, since the last one.
    pub(crate) fn sign_if_due(&mut self) {
        let new = self.last().saturating_sub(self.signed.records);
        let is_due = (self.owes_checkpoint && new > 0)
            || new >= self.settings.checkpoint_records
            || (new > 0 && self.signed.at.elapsed() >= self.settings.checkpoint_interval);
        let has_just_failed = self.signed.failed.is_some_and(|failed| failed.elapsed() < SIGN_AGAIN);
        if is_due && !has_just_failed && !self.is_signing {
            self.sign();
        }
    }

    fn sign(&mut self) {
        let Some(signatures) = &self.signatures else { return };
        self.signed.at = Instant::now();
        self.owes_checkpoint = false;
        self.is_signing = signatures.send((self.last(), self.files.last)).is_ok();
    }

    /// Writes a checkpoint that is signed.
    pub(crate) fn signed(&mut self, checkpoint: Result<Option<Checkpoint>, String>) {
        self.is_signing = false;
        let checkpoint = match checkpoint {
            Ok(Some(checkpoint)) => checkpoint,
            Ok(None) => {
                // A key comes with the first key of the backend, so an act waits for it.
                self.set_signing(Signing::NoKey);
                return;
            }
            Err(error) => {
                let since = if let Signing::Fails { since, .. } = self.signed.state {
                    since
                } else {
                    tracing::warn!("the audit trail is not signed: {error}");
                    SystemTime::now()
                };
                self.signed.failed = Some(Instant::now());
                self.set_signing(Signing::Fails { reason: error, since });
                return;
            }
        };
        let has_begun = self.signed.state != Signing::Works;
        if matches!(self.signed.state, Signing::Fails { .. }) {
            tracing::info!("the audit trail is signed again");
        }
        self.set_signing(Signing::Works);
        // The record may begin a new file, which asks for no second checkpoint of the same records.
        let before = core::mem::replace(&mut self.signed.records, checkpoint.through);
        let written = self.write_in(Room::Left, SystemTime::now(), &[Content::Checkpoint(&checkpoint)]);
        self.signed.failed = written.is_err().then(Instant::now);
        if written.is_err() {
            self.signed.records = before;
        } else {
            // The checkpoint covers itself as far as a next one is concerned.
            if checkpoint.through + 1 == self.last() {
                self.signed.records = self.last();
            }
            // Later records were written after the signature was asked for.
            self.unsigned_since = (self.signed.records < self.last()).then_some(self.signed.at);
            self.shared.tell(|status| status.unsigned_since = self.unsigned_since);
            let (directory, head) = (self.settings.directory.clone(), checkpoint.clone());
            match self.sync().and_then(|()| self.wait_for(Box::new(move || set_head(&directory, &head)))) {
                Ok(()) => {
                    let through = checkpoint.through;
                    self.shared.tell(|status| status.checkpoint = Some(checkpoint));
                    self.remove_what_is_signed(through);
                }
                Err(error) => {
                    tracing::warn!("cannot write the head of the audit trail: {error}");
                    let reason = format!("cannot write head: {error}");
                    self.set_signing(Signing::Fails { reason, since: SystemTime::now() });
                }
            }
        }
        if has_begun {
            // Files may have waited for a signature of their removal.
            self.tidy(0);
        }
    }

    fn set_signing(&mut self, state: Signing) {
        self.signed.state = state.clone();
        self.shared.tell(|status| status.signing = state);
    }

    /// Has all records signed, if a unit signs in time.
    pub(crate) fn sign_at_the_end(&mut self, messages: &Receiver<Message>) {
        let end = Instant::now() + LAST_SIGNATURE;
        while self.last() > self.signed.records {
            if !self.is_signing {
                self.sign();
            }
            let left = end.saturating_duration_since(Instant::now());
            match messages.recv_timeout(left) {
                Ok(Message::Signed(Err(_) | Ok(None))) | Err(_) => break,
                Ok(Message::Signed(checkpoint)) => {
                    self.signed(checkpoint);
                    if self.signed.failed.is_some() {
                        break;
                    }
                }
                Ok(Message::Act(_, _, then)) => {
                    then.call(Err(Unwritten("the daemon is about to end".into())))
                }
                Ok(Message::Gap { .. } | Message::Policy(_) | Message::Tidied(_) | Message::Stop) => {}
            }
        }
        if let Err(error) = self.sync() {
            tracing::warn!("cannot write the end of the audit trail: {error}");
        }
    }
}

/// Starts a thread that has checkpoints signed, since a unit may take seconds.
pub(crate) fn start_signer(
    signer: Box<dyn Signer>,
    done: Sender<Message>,
) -> io::Result<Sender<(u64, Hash)>> {
    let (requests, received) = mpsc::channel::<(u64, Hash)>();
    let run = move || {
        for (through, hash) in received {
            // A signer that panics must not be waited for forever.
            let make = AssertUnwindSafe(|| Checkpoint::make(&*signer, through, hash));
            let made = catch_unwind(make).unwrap_or_else(|_| Err("the signature has panicked".into()));
            if done.send(Message::Signed(made)).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("audit-signer".into()).spawn(run)?;
    Ok(requests)
}

/// Time after which a unit that has not signed is asked again.
const SIGN_AGAIN: Duration = Duration::from_secs(1);
/// Time that a unit has for the last signature.
const LAST_SIGNATURE: Duration = Duration::from_secs(5);
