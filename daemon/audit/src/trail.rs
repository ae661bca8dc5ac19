//! The trail of a running daemon: a thread writes, another one has checkpoints signed, and a
//! third one looks after closed files.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime};

use crate::acts;
use crate::disk::Disk;
use crate::files::{Files, TrailError};
use crate::housekeeper::{Housekeeper, Tidied};
use crate::reserve::Room;
use crate::shards::Shards;
use crate::signing::start_signer;
use crate::surroundings::Surroundings;
use crate::writer::Writer;
use crate::{Act, Checkpoint, Copy, KeyUse, Policy, Signer, Status};

/// Settings of a trail.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of the files. It is made if there is none.
    pub directory: PathBuf,
    /// Number of threads that record uses of keys.
    pub threads: usize,
    /// Longest time between two checkpoints, if there is a new record.
    pub checkpoint_interval: Duration,
    /// Most records between two checkpoints.
    pub checkpoint_records: u64,
    /// Collector that gets a copy of each record.
    pub copy: Option<Copy>,
    /// Settings that [`Trail::set_policy`] can replace.
    pub policy: Policy,
}

/// Takes records. Dropping it writes all of them, and has them signed.
#[derive(Debug)]
pub struct Trail {
    directory: PathBuf,
    pub(crate) shared: Arc<Shared>,
    messages: Mutex<Sender<Message>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Trail {
    /// Opens a trail, and starts its threads. Without a signer nothing is signed.
    ///
    /// # Errors
    /// The files cannot be read or written, the last record is none, or the system refuses a
    /// thread.
    pub fn open(settings: &Settings, signer: Option<Box<dyn Signer>>) -> Result<Self, TrailError> {
        Self::open_in(Surroundings::default(), settings, signer)
    }

    /// Opens a trail that looks at some parts of the system.
    pub(crate) fn open_in(
        surroundings: Surroundings,
        settings: &Settings,
        signer: Option<Box<dyn Signer>>,
    ) -> Result<Self, TrailError> {
        let (files, lost) = Files::open(&settings.directory)?;
        let last = files.next.saturating_sub(1);
        let shared = Arc::new(Shared {
            shards: Shards::new(settings.threads, SHARD),
            has_failed: AtomicBool::new(false),
            unwritten: AtomicU64::new(0),
            last: AtomicU64::new(last),
            opened: Instant::now(),
            looked: AtomicU64::new(0),
            status: Mutex::new(Status::new(last, files.head())),
        });
        let (messages, received) = mpsc::channel();
        let thread_error = |source: io::Error| TrailError::File {
            act: "start the thread that writes to",
            path: settings.directory.clone(),
            source,
        };
        let signatures = signer.map(|signer| start_signer(signer, messages.clone())).transpose();
        let signatures = signatures.map_err(thread_error)?;
        let housekeeper = Housekeeper::start(settings.directory.clone(), messages.clone());
        let housekeeper = housekeeper.map_err(thread_error)?;
        let disk = Disk::start().map_err(thread_error)?;
        let mut writer = Writer::new(
            Arc::clone(&shared),
            files,
            disk,
            signatures,
            housekeeper,
            surroundings,
            settings.clone(),
        );
        writer.start(lost).map_err(|source| TrailError::File {
            act: "write to",
            path: settings.directory.clone(),
            source,
        })?;
        let run = move || writer.run(&received);
        let writer = thread::Builder::new().name("audit".into()).spawn(run).map_err(thread_error)?;
        Ok(Self {
            directory: settings.directory.clone(),
            shared,
            messages: Mutex::new(messages),
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Records a use of a key. The use is written within 50 milliseconds if the disk takes it.
    /// Without room the use is counted, and the count is a record.
    pub fn record_use(&self, r#use: KeyUse) {
        self.shared.shards.add(r#use);
    }

    /// Records a step of an administrative act, and calls `then` when the record is on the disk.
    pub fn record_act(&self, act: Act, then: impl FnOnce(Result<(), Unwritten>) + Send + 'static) {
        self.send_act(act, Room::Free, Then(Some(Box::new(then))));
    }

    /// Records a step of an act that is carried out whatever happens, as `disable` and
    /// `compromise` are. Room is reserved for its record when the disk is full. Calls `then` when
    /// the record is on the disk.
    pub fn record_urgent_act(&self, act: Act, then: impl FnOnce(Result<(), Unwritten>) + Send + 'static) {
        self.send_act(act, Room::Reserved, Then(Some(Box::new(then))));
    }

    /// Records that a user without the role has asked for an act: `phase` is [`Phase::Refused`].
    /// The record has the limits of refused uses, so that nobody fills the disk: ten in a second
    /// for a user, each of at most 4 KiB, and further ones are counted. Does not wait for the
    /// disk, and cuts what is too long.
    ///
    /// [`Phase::Refused`]: crate::Phase::Refused
    pub fn record_refused_act(&self, act: Act) {
        let uid = acts::uid_of(&act.actor);
        self.shared.shards.add_refused_act(uid, act, SystemTime::now());
    }

    /// Counts uses of keys, and records of acts that were carried out nevertheless, which have no
    /// record because this trail was not open yet. The numbers are a record.
    pub fn record_gap(&self, uses: u64, acts: u64) {
        let message = Message::Gap { uses, acts };
        // A trail that has stopped tells nothing more.
        let _sent = self.messages.lock().unwrap_or_else(PoisonError::into_inner).send(message);
    }

    fn send_act(&self, act: Act, room: Room, then: Then) {
        let message = Message::Act(Box::new(act), room, then);
        // Without a writer, dropping the message calls `then`.
        let _sent = self.messages.lock().unwrap_or_else(PoisonError::into_inner).send(message);
    }

    /// Replaces the policy. The trail follows it from the next record on.
    pub fn set_policy(&self, policy: Policy) {
        let message = Message::Policy(policy);
        // A trail that has stopped has no use for a policy.
        let _sent = self.messages.lock().unwrap_or_else(PoisonError::into_inner).send(message);
    }

    /// Writes all records, and has them signed if a unit signs within five seconds. Later records
    /// are lost.
    pub fn stop(&self) {
        let sent = self.messages.lock().unwrap_or_else(PoisonError::into_inner).send(Message::Stop);
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Ok(()), Some(writer)) = (sent, writer) {
            // A panic of the thread has its own line in the log.
            let _panicked = writer.join();
        }
    }

    /// Directory of the files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// True from the moment that a record could not be written, until records are written again.
    pub fn has_failed(&self) -> bool {
        self.shared.has_failed.load(Ordering::Relaxed) || self.shared.shards.lost() > 0 || self.shared.hangs()
    }

    /// Uses of keys, refused ones too, and refused acts without a record since the start.
    pub fn unwritten(&self) -> u64 {
        self.shared.unwritten.load(Ordering::Relaxed) + self.shared.shards.lost()
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Reason why an act has no record.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("cannot write the audit trail: {0}")]
pub struct Unwritten(pub String);

/// State that the writer shares with the threads that record.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) shards: Shards,
    pub(crate) has_failed: AtomicBool,
    pub(crate) unwritten: AtomicU64,
    /// Number of the last record.
    pub(crate) last: AtomicU64,
    /// When the trail was opened.
    pub(crate) opened: Instant,
    /// When the writer has last looked for work, in milliseconds since `opened`, plus one. 0: not
    /// yet.
    pub(crate) looked: AtomicU64,
    /// Status but for the numbers above.
    pub(crate) status: Mutex<Status>,
}

/// Function that is called when a record is on the disk, or when it never will be.
pub(crate) struct Then(Option<Box<Called>>);

type Called = dyn FnOnce(Result<(), Unwritten>) + Send;

impl Then {
    /// Calls the function with a result.
    pub(crate) fn call(mut self, written: Result<(), Unwritten>) {
        if let Some(then) = self.0.take() {
            then(written);
        }
    }
}

impl Drop for Then {
    /// Calls the function for an act that the writer has not got to.
    fn drop(&mut self) {
        if let Some(then) = self.0.take() {
            then(Err(Unwritten("the thread that writes has ended".into())));
        }
    }
}

/// Message to the thread that writes.
pub(crate) enum Message {
    Act(Box<Act>, Room, Then),
    Gap { uses: u64, acts: u64 },
    Policy(Policy),
    Signed(Result<Option<Checkpoint>, String>),
    Tidied(Tidied),
    Stop,
}

/// Uses that wait for a write, for each thread, of some 300 bytes each: 400,000 uses a second.
pub(crate) const SHARD: usize = 20_000;
