//! The trail of a running daemon: a thread writes, and another one has checkpoints signed.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime};

use crate::files::{Files, TrailError};
use crate::line::{self, Content};
use crate::refusals::Count;
use crate::shards::{Shards, seconds};
use crate::{Act, Checkpoint, Hash, KeyUse, Signer};

/// Settings of a trail.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of the files. It is made if there is none.
    pub directory: PathBuf,
    /// Length at which a new file begins, in bytes.
    pub rotate_at: u64,
    /// Number of threads that record uses of keys.
    pub threads: usize,
    /// Longest time between two checkpoints, if there is a new record.
    pub checkpoint_interval: Duration,
    /// Most records between two checkpoints.
    pub checkpoint_records: u64,
}

/// Takes records. Dropping it writes all of them, and has them signed.
#[derive(Debug)]
pub struct Trail {
    shared: Arc<Shared>,
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
        let (files, lost) = Files::open(&settings.directory, settings.rotate_at)?;
        let shared = Arc::new(Shared {
            shards: Shards::new(settings.threads, SHARD),
            has_failed: AtomicBool::new(false),
            unwritten: AtomicU64::new(0),
        });
        let (messages, received) = mpsc::channel();
        let thread_error = |source| TrailError::File {
            act: "start the thread that writes to",
            path: settings.directory.clone(),
            source,
        };
        let signatures = signer.map(|signer| start_signer(signer, messages.clone())).transpose();
        let signatures = signatures.map_err(thread_error)?;
        let mut writer = Writer {
            shared: Arc::clone(&shared),
            files,
            signatures,
            is_signing: false,
            has_new_act: false,
            signed: Signed { records: 0, at: Instant::now() },
            settings: settings.clone(),
            gap: 0,
            lines: Vec::new(),
            uses: Vec::new(),
            spare: Vec::new(),
        };
        writer.signed.records = writer.files.next.saturating_sub(1);
        writer.start(lost).map_err(|source| TrailError::File {
            act: "write to",
            path: settings.directory.clone(),
            source,
        })?;
        let run = move || writer.run(&received);
        let writer = thread::Builder::new().name("audit".into()).spawn(run).map_err(thread_error)?;
        Ok(Self { shared, messages: Mutex::new(messages), writer: Mutex::new(Some(writer)) })
    }

    /// Records a use of a key. The use is written within [`TICK`] if the disk takes it. Without
    /// room the use is counted, and the count is a record.
    pub fn record_use(&self, r#use: KeyUse) {
        self.shared.shards.add(r#use);
    }

    /// Records a step of an administrative act, and calls `then` when the record is on the disk.
    pub fn record_act(&self, act: Act, then: impl FnOnce(Result<(), Unwritten>) + Send + 'static) {
        let message = Message::Act(Box::new(act), Box::new(then));
        let sent = self.messages.lock().unwrap_or_else(PoisonError::into_inner).send(message);
        if let Err(mpsc::SendError(Message::Act(_, then))) = sent {
            then(Err(Unwritten("the thread that writes the audit trail has ended".into())));
        }
    }

    /// Writes all records, and has them signed if a unit signs within [`LAST_SIGNATURE`]. Later
    /// records are lost.
    pub fn stop(&self) {
        let sent = self.messages.lock().unwrap_or_else(PoisonError::into_inner).send(Message::Stop);
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Ok(()), Some(writer)) = (sent, writer) {
            // A panic of the thread has its own line in the log.
            let _panicked = writer.join();
        }
    }

    /// True from the moment that a record could not be written, until one is written again.
    pub fn has_failed(&self) -> bool {
        self.shared.has_failed.load(Ordering::Relaxed)
    }

    /// Uses of keys without a record since the start.
    pub fn unwritten(&self) -> u64 {
        self.shared.unwritten.load(Ordering::Relaxed)
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
pub struct Unwritten(String);

#[derive(Debug)]
struct Shared {
    shards: Shards,
    has_failed: AtomicBool,
    unwritten: AtomicU64,
}

enum Message {
    Act(Box<Act>, Box<dyn FnOnce(Result<(), Unwritten>) + Send>),
    Signed(Result<Option<Checkpoint>, String>),
    Stop,
}

/// Extent of the last checkpoint.
struct Signed {
    /// Number of its last record.
    records: u64,
    /// When it was asked for.
    at: Instant,
}

struct Writer {
    shared: Arc<Shared>,
    files: Files,
    /// To the thread that has checkpoints signed.
    signatures: Option<Sender<(u64, Hash)>>,
    is_signing: bool,
    /// True if an act was recorded since the last checkpoint. Acts are rare, so each is signed
    /// soon.
    has_new_act: bool,
    signed: Signed,
    settings: Settings,
    /// Uses that a record has yet to count, because they have none.
    gap: u64,
    /// Lines that are written together.
    lines: Vec<u8>,
    uses: Vec<KeyUse>,
    spare: Vec<KeyUse>,
}

impl Writer {
    fn start(&mut self, lost: u64) -> io::Result<()> {
        self.write(SystemTime::now(), &[Content::Start { lost }])
    }

    fn run(mut self, messages: &Receiver<Message>) {
        let mut last = SystemTime::now();
        loop {
            match messages.recv_timeout(TICK) {
                Ok(Message::Act(act, then)) => {
                    self.write_uses();
                    let written = self
                        .write(SystemTime::now(), &[Content::Act(&act)])
                        .and_then(|()| self.files.sync())
                        .map_err(|error| Unwritten(error.to_string()));
                    then(written);
                    self.has_new_act = true;
                }
                Ok(Message::Signed(checkpoint)) => self.signed(checkpoint),
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            // Messages may arrive faster than the ticks.
            let now = SystemTime::now();
            if now.duration_since(last).is_ok_and(|since| since < TICK) {
                continue;
            }
            last = now;
            self.write_uses();
            self.sign_if_due();
        }
        self.write_uses();
        let counts = self.shared.shards.refusals().take_all();
        self.write_counts(&counts);
        self.sign_at_the_end(messages);
    }

    /// Writes all uses that wait.
    fn write_uses(&mut self) {
        let (mut uses, mut spare) = (core::mem::take(&mut self.uses), core::mem::take(&mut self.spare));
        let lost = self.shared.shards.take(&mut uses, &mut spare);
        self.gap += lost;
        self.shared.unwritten.fetch_add(lost, Ordering::Relaxed);
        for some in uses.chunks(BATCH) {
            let contents: Vec<_> = some.iter().map(Content::Use).collect();
            if self.write(SystemTime::now(), &contents).is_err() {
                self.gap += some.len() as u64;
                self.shared.unwritten.fetch_add(some.len() as u64, Ordering::Relaxed);
            }
        }
        uses.clear();
        let counts = self.shared.shards.refusals().take(seconds(SystemTime::now()));
        self.write_counts(&counts);
        (self.uses, self.spare) = (uses, spare);
        if self.gap > 0 || self.shared.has_failed.load(Ordering::Relaxed) {
            let gap = Content::Gap { uses: self.gap };
            if self.write(SystemTime::now(), &[gap]).is_ok() {
                self.gap = 0;
            }
        }
    }

    fn write_counts(&mut self, counts: &[Count]) {
        let contents: Vec<_> = counts.iter().map(Content::Refusals).collect();
        if !contents.is_empty() && self.write(SystemTime::now(), &contents).is_err() {
            let refusals = counts.iter().map(|count| count.refusals).sum::<u64>();
            self.gap += refusals;
            self.shared.unwritten.fetch_add(refusals, Ordering::Relaxed);
        }
    }

    /// Writes records in one call. The chain goes on from the last record that was written.
    fn write(&mut self, now: SystemTime, contents: &[Content<'_>]) -> io::Result<()> {
        let (mut seq, mut prev) = (self.files.next, self.files.last);
        self.lines.clear();
        for content in contents {
            let begin = self.lines.len();
            line::write(&mut self.lines, seq, now, content, prev);
            prev = Hash::of(&self.lines[begin..]);
            self.lines.push(b'\n');
            seq += 1;
        }
        let written = self.files.append(&self.lines);
        match &written {
            Ok(()) => (self.files.next, self.files.last) = (seq, prev),
            Err(error) if !self.shared.has_failed.load(Ordering::Relaxed) => {
                tracing::error!(directory = %self.settings.directory.display(), "cannot write the audit trail: {error}");
            }
            Err(_) => {}
        }
        if self.shared.has_failed.swap(written.is_err(), Ordering::Relaxed) && written.is_ok() {
            tracing::info!("the audit trail is written again");
        }
        written
    }

    /// Asks for a checkpoint if there are many records, or old ones, since the last one.
    fn sign_if_due(&mut self) {
        let new = self.last().saturating_sub(self.signed.records);
        let is_due = (self.has_new_act && new > 0)
            || new >= self.settings.checkpoint_records
            || (new > 0 && self.signed.at.elapsed() >= self.settings.checkpoint_interval);
        if is_due && !self.is_signing {
            self.sign();
        }
    }

    fn sign(&mut self) {
        let Some(signatures) = &self.signatures else { return };
        self.signed.at = Instant::now();
        self.has_new_act = false;
        self.is_signing = signatures.send((self.last(), self.files.last)).is_ok();
    }

    /// Writes a checkpoint that is signed.
    fn signed(&mut self, checkpoint: Result<Option<Checkpoint>, String>) {
        self.is_signing = false;
        let checkpoint = match checkpoint {
            Ok(Some(checkpoint)) => checkpoint,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!("the audit trail is not signed: {error}");
                return;
            }
        };
        self.signed.records = checkpoint.through;
        let written = self.write(SystemTime::now(), &[Content::Checkpoint(&checkpoint)]);
        if written.is_ok() {
            // The checkpoint covers itself as far as a next one is concerned.
            if checkpoint.through + 1 == self.last() {
                self.signed.records = self.last();
            }
            if let Err(error) = self.files.sync().and_then(|()| self.files.set_head(&checkpoint)) {
                tracing::warn!("cannot write the head of the audit trail: {error}");
            }
        }
    }

    /// Has all records signed, if a unit signs in time.
    fn sign_at_the_end(&mut self, messages: &Receiver<Message>) {
        let end = Instant::now() + LAST_SIGNATURE;
        while self.last() > self.signed.records {
            if !self.is_signing {
                self.sign();
            }
            let left = end.saturating_duration_since(Instant::now());
            match messages.recv_timeout(left) {
                Ok(Message::Signed(Err(_) | Ok(None))) | Err(_) => break,
                Ok(Message::Signed(checkpoint)) => self.signed(checkpoint),
                Ok(Message::Act(_, then)) => then(Err(Unwritten("the daemon is about to end".into()))),
                Ok(Message::Stop) => {}
            }
        }
        if let Err(error) = self.files.sync() {
            tracing::warn!("cannot write the end of the audit trail: {error}");
        }
    }

    /// Number of the last record.
    fn last(&self) -> u64 {
        self.files.next - 1
    }
}

/// Starts a thread that has checkpoints signed, since a unit may take seconds.
fn start_signer(signer: Box<dyn Signer>, done: Sender<Message>) -> io::Result<Sender<(u64, Hash)>> {
    let (requests, received) = mpsc::channel::<(u64, Hash)>();
    let run = move || {
        for (through, hash) in received {
            if done.send(Message::Signed(Checkpoint::make(&*signer, through, hash))).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("audit-signer".into()).spawn(run)?;
    Ok(requests)
}

/// Time between two writes. A process that is killed loses the uses of this time.
const TICK: Duration = Duration::from_millis(50);
/// Uses that wait for a write, for each thread, of some 300 bytes each: 400,000 uses a second.
const SHARD: usize = 20_000;
/// Records that are written in one call.
const BATCH: usize = 1000;
/// Time that a unit has for the last signature.
const LAST_SIGNATURE: Duration = Duration::from_secs(5);
