//! The thread that writes.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Instant, SystemTime};

use crate::acts::in_a_line;
use crate::copy::Copies;
use crate::disk::{Disk, Job};
use crate::files::Files;
use crate::housekeeper::Housekeeper;
use crate::line::{self, Content};
use crate::refusals::Count;
use crate::removals::Removals;
use crate::reserve::{Reserve, Room, is_full};
use crate::shards::{DONE, seconds};
use crate::signing::Signed;
use crate::space::Space;
use crate::summaries::{Summaries, Summary};
use crate::surroundings::Surroundings;
use crate::trail::{Message, Settings, Shared, Then, Unwritten};
use crate::{Act, Hash, KeyUse, Signatures, Summed};

/// State of the thread.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) files: Files,
    pub(crate) disk: Disk,
    /// To the thread that has checkpoints signed.
    pub(crate) signatures: Option<Sender<(u64, Hash)>>,
    pub(crate) is_signing: bool,
    /// True if an act was recorded or a file was closed since the last checkpoint. Both are rare,
    /// so each is signed soon.
    pub(crate) owes_checkpoint: bool,
    pub(crate) signed: Signed,
    /// Time of the oldest record that no checkpoint covers, or a time before it.
    pub(crate) unsigned_since: Option<Instant>,
    /// `None` at the end.
    pub(crate) housekeeper: Option<Housekeeper>,
    pub(crate) removals: Removals,
    summaries: Summaries,
    /// The reason that the status gives.
    summed: Option<Summed>,
    pub(crate) space: Space,
    pub(crate) surroundings: Surroundings,
    pub(crate) settings: Settings,
    copies: Option<Copies>,
    pub(crate) reserve: Reserve,
    /// Length of the lost record that the first record of this run has yet to tell.
    start: Option<u64>,
    /// Records of acts that were carried out without a record, which a record has yet to count.
    lost_acts: u64,
    /// Reason why the file is not the one of the directory any more.
    misplaced: Option<String>,
    /// When the place of the file was last looked at.
    looked_at_file: Instant,
    /// True if records that were written may not be on the disk.
    owes_sync: bool,
    /// When a new file could not be made.
    rotation_failed: Option<Instant>,
    /// Uses that a record has yet to count, because they have none.
    gap: u64,
    /// Lines that are written together.
    lines: Vec<u8>,
    uses: Vec<KeyUse>,
    spare: Vec<KeyUse>,
    /// When uses were last taken, to be written.
    taken: Instant,
    /// True if there were any.
    is_used: bool,
}

impl Writer {
    /// A writer that adds records to some files.
    pub(crate) fn new(
        shared: Arc<Shared>,
        files: Files,
        disk: Disk,
        signatures: Option<Sender<(u64, Hash)>>,
        housekeeper: Housekeeper,
        surroundings: Surroundings,
        settings: Settings,
    ) -> Self {
        Self {
            signed: Signed::new(files.next.saturating_sub(1)),
            owes_checkpoint: files.has_unsigned_end && files.next > 1,
            unsigned_since: None,
            shared,
            files,
            disk,
            signatures,
            is_signing: false,
            housekeeper: Some(housekeeper),
            removals: Removals::default(),
            summaries: Summaries::default(),
            summed: None,
            space: Space::default(),
            copies: settings.copy.as_ref().map(|copy| Copies::new(copy, &surroundings.journal)),
            surroundings,
            reserve: Reserve::open(&settings.directory),
            settings,
            start: None,
            lost_acts: 0,
            misplaced: None,
            looked_at_file: Instant::now(),
            owes_sync: false,
            rotation_failed: None,
            gap: 0,
            lines: Vec::new(),
            uses: Vec::new(),
            spare: Vec::new(),
            taken: Instant::now(),
            is_used: false,
        }
    }

    /// Writes the first record of this run. If the disk is full, the record follows later.
    ///
    /// # Errors
    /// The file does not take the record.
    pub(crate) fn start(&mut self, lost: u64) -> io::Result<()> {
        self.start = Some(lost);
        if let Some(through) = self.files.rewound {
            let directory = self.settings.directory.display();
            self.shared.tell(|status| status.rewound = Some(through));
            tracing::error!(%directory, "record {through} of the audit trail is not as a checkpoint has covered it: the end of the trail was cut off or replaced");
        }
        match self.write(SystemTime::now(), &[]) {
            Err(error) if is_full(&error) => Ok(()),
            written => written,
        }
    }

    /// Writes what is recorded until the trail stops.
    pub(crate) fn run(mut self, messages: &Receiver<Message>) {
        let _panic = Panic(Arc::clone(&self.shared));
        let (mut last, mut next) = (Instant::now(), None);
        self.tidy(0);
        loop {
            let until_tick = TICK.saturating_sub(last.elapsed());
            let received = match next.take() {
                Some(message) => Ok(message),
                None => messages.recv_timeout(until_tick.min(self.until_due())),
            };
            match received {
                Ok(Message::Act(act, room, then)) => {
                    let mut acts = vec![(in_a_line(*act), then)];
                    next = with_others(&mut acts, room, messages);
                    self.write_acts(room, acts);
                }
                Ok(Message::Gap { uses, acts }) => {
                    self.has_gap(uses);
                    self.lost_acts += acts;
                }
                Ok(Message::Policy(policy)) => {
                    self.settings.policy = policy;
                    self.tidy(0);
                }
                Ok(Message::Signed(checkpoint)) => self.signed(checkpoint),
                Ok(Message::Tidied(tidied)) => self.tidied(tidied),
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            // Messages arrive between the ticks, and uses are written more often.
            if last.elapsed() < TICK {
                if self.until_due().is_zero() {
                    self.write_uses();
                }
                continue;
            }
            last = Instant::now();
            self.shared.look();
            self.look_at_space();
            self.look_at_file();
            self.write_uses();
            self.tell_uncopied(self.surroundings.uncopied_every);
            self.sign_if_due();
            self.tidy_if_due();
        }
        self.write_uses();
        let summaries = self.summaries.take_all();
        self.write_summaries(&summaries);
        let counts = self.shared.shards.refusals().take_all();
        self.write_counts(&counts);
        if self.gap > 0 || self.lost_acts > 0 {
            // Nothing else would say that uses have no record.
            let gap = Content::Gap { uses: self.gap, acts: self.lost_acts };
            let _has_failed = self.write_in(Room::Reserved, SystemTime::now(), &[gap]);
        }
        self.tell_uncopied(Duration::ZERO);
        self.sign_at_the_end(messages);
        if let Some(housekeeper) = self.housekeeper.take() {
            housekeeper.stop();
        }
    }

    /// Writes acts, which become durable together. Calls each one back.
    fn write_acts(&mut self, room: Room, acts: Vec<(Act, Then)>) {
        self.write_uses();
        let contents: Vec<_> = acts.iter().map(|(act, _)| Content::Act(act)).collect();
        let together = self.write_in(room, SystemTime::now(), &contents);
        let written: Vec<io::Result<()>> = match together {
            Ok(()) => {
                let synced = self.sync();
                let again = |error: &io::Error| io::Error::new(error.kind(), error.to_string());
                contents.iter().map(|_| synced.as_ref().copied().map_err(again)).collect()
            }
            // There may be room for some of them.
            Err(_) if contents.len() > 1 => {
                let alone = contents.iter().map(|content| {
                    self.write_in(room, SystemTime::now(), core::slice::from_ref(content))
                        .and_then(|()| self.sync())
                });
                alone.collect()
            }
            Err(error) => vec![Err(error)],
        };
        for ((_, then), written) in acts.into_iter().zip(written) {
            if written.is_err() && room == Room::Reserved {
                // The act is carried out nevertheless.
                self.lost_acts += 1;
            }
            then.call(written.map_err(|error| Unwritten(error.to_string())));
        }
        self.owes_checkpoint = true;
    }

    /// Writes all uses that wait, and what earlier writes have left.
    fn write_uses(&mut self) {
        self.write_new();
        if self.owes_sync {
            let _tried_again_later = self.sync();
        }
        if self.start.is_some() {
            let _tried_again_later = self.write(SystemTime::now(), &[]);
        }
        // A record shows that the trail is written again, even if no use is missing.
        let has_failed = self.shared.has_failed.load(Ordering::Relaxed) && !self.owes_sync;
        if self.gap > 0 || self.lost_acts > 0 || has_failed {
            let gap = Content::Gap { uses: self.gap, acts: self.lost_acts };
            if self.write(SystemTime::now(), &[gap]).is_ok() {
                (self.gap, self.lost_acts) = (0, 0);
            }
        }
    }

    /// Writes the uses and refusals that were recorded since the last call.
    fn write_new(&mut self) {
        self.taken = Instant::now();
        let (mut uses, mut spare) = (core::mem::take(&mut self.uses), core::mem::take(&mut self.spare));
        let lost = self.shared.shards.take(&mut uses, &mut spare);
        self.is_used = !uses.is_empty();
        self.has_gap(lost);
        let second = seconds(SystemTime::now());
        let summed = self.summed();
        self.set_summed(summed);
        let summaries = if summed.is_some() {
            uses.retain(|r#use| {
                let is_done = r#use.outcome == DONE;
                if is_done {
                    self.summaries.add(r#use);
                }
                !is_done
            });
            self.summaries.take(second)
        } else {
            self.summaries.take_all()
        };
        self.write_summaries(&summaries);
        for some in uses.chunks(BATCH) {
            let contents: Vec<_> = some.iter().map(Content::Use).collect();
            if self.write(SystemTime::now(), &contents).is_err() {
                self.has_gap(some.len() as u64);
            }
        }
        uses.clear();
        let acts = self.shared.shards.take_refused_acts();
        let contents: Vec<_> = acts.iter().map(Content::Act).collect();
        if !acts.is_empty() && self.write(SystemTime::now(), &contents).is_err() {
            self.has_gap(acts.len() as u64);
        }
        let counts = self.shared.shards.refusals().take(second);
        self.write_counts(&counts);
        (self.uses, self.spare) = (uses, spare);
    }

    fn write_counts(&mut self, counts: &[Count]) {
        let contents: Vec<_> = counts.iter().map(Content::Refusals).collect();
        if !contents.is_empty() && self.write(SystemTime::now(), &contents).is_err() {
            self.has_gap(counts.iter().map(|count| count.refusals).sum());
        }
    }

    fn write_summaries(&mut self, summaries: &[Summary]) {
        for some in summaries.chunks(BATCH) {
            let contents: Vec<_> = some.iter().map(Content::Summary).collect();
            if self.write(SystemTime::now(), &contents).is_err() {
                self.has_gap(some.iter().map(|summary| summary.tally.count).sum());
            }
        }
    }

    /// Reason why uses that are carried out go into summaries.
    fn summed(&self) -> Option<Summed> {
        match self.settings.policy.signatures {
            Signatures::Summary => Some(Summed::Policy),
            Signatures::Each => self.space.is_low.then_some(Summed::Space),
        }
    }

    fn set_summed(&mut self, summed: Option<Summed>) {
        if self.summed != summed {
            self.summed = summed;
            self.shared.tell(|status| status.summaries = summed);
        }
    }

    /// Counts uses without a record.
    fn has_gap(&mut self, uses: u64) {
        self.gap += uses;
        self.shared.unwritten.fetch_add(uses, Ordering::Relaxed);
    }

    /// Writes records in one call. The chain goes on from the last record that was written.
    ///
    /// # Errors
    /// The file does not take them.
    pub(crate) fn write(&mut self, now: SystemTime, contents: &[Content<'_>]) -> io::Result<()> {
        self.write_in(Room::Free, now, contents)
    }

    /// Writes records in one call, in some room.
    ///
    /// # Errors
    /// The file does not take them, or what is left is reserved.
    pub(crate) fn write_in(
        &mut self,
        room: Room,
        now: SystemTime,
        contents: &[Content<'_>],
    ) -> io::Result<()> {
        self.rotate_if_due(now);
        let (mut seq, mut prev) = (self.files.next, self.files.last);
        self.lines.clear();
        // The record of the start comes first in each run: nothing in a trail is taken for granted
        // that no checkpoint covered before this record.
        let start = self.start.map(|lost| Content::Start { lost, rewound: self.files.rewound });
        for content in start.iter().chain(contents) {
            let begin = self.lines.len();
            line::write(&mut self.lines, seq, now, content, prev);
            prev = Hash::of(&self.lines[begin..]);
            self.lines.push(b'\n');
            seq += 1;
        }
        if room == Room::Free && self.reserve.is_spent() {
            // There may be room again.
            self.reserve.keep();
        }
        let mut written = match room {
            _ if self.misplaced.is_some() => {
                Err(io::Error::other(self.misplaced.clone().unwrap_or_default()))
            }
            Room::Free if self.reserve.is_spent() => Err(io::ErrorKind::StorageFull.into()),
            _ => self.files.append(&self.lines, now),
        };
        if room == Room::Reserved && written.as_ref().is_err_and(is_full) && self.reserve.spend() {
            written = self.files.append(&self.lines, now);
        }
        match &written {
            Ok(()) => {
                (self.files.next, self.files.last) = (seq, prev);
                self.shared.last.store(self.last(), Ordering::Relaxed);
                self.start = None;
                self.copy(start.iter().chain(contents));
                if self.unsigned_since.is_none() {
                    self.unsigned_since = Some(Instant::now());
                    self.shared.tell(|status| status.unsigned_since = self.unsigned_since);
                }
                if !self.reserve.is_spent() && !self.owes_sync {
                    self.has_recovered();
                }
            }
            Err(error) => self.has_failed(error),
        }
        written
    }

    /// Sends the collector the records that were just written.
    fn copy<'a>(&mut self, contents: impl Iterator<Item = &'a Content<'a>> + Clone) {
        let Some(copies) = &mut self.copies else { return };
        let first = self.files.next - contents.clone().count() as u64;
        let lines = self.lines.split(|byte| *byte == b'\n');
        let mut missed = 0;
        for ((seq, content), line) in (first..).zip(contents).zip(lines) {
            missed += u64::from(!copies.send(seq, content, line));
        }
        if missed > 0 {
            self.shared.tell(|status| status.uncopied += missed);
        }
    }

    /// Records how many records the collector did not take, at most once in an interval.
    fn tell_uncopied(&mut self, interval: Duration) {
        let Some(records) = self.copies.as_ref().and_then(|copies| copies.missed(interval)) else { return };
        let written = self.write(SystemTime::now(), &[Content::Uncopied { records }]);
        if let (Ok(()), Some(copies)) = (written, &mut self.copies) {
            copies.has_recorded(records);
        }
    }

    /// Looks from time to time whether the open file is still the one of the directory. Otherwise
    /// records would go where nobody finds them.
    fn look_at_file(&mut self) {
        if self.looked_at_file.elapsed() < self.surroundings.look_every {
            return;
        }
        self.looked_at_file = Instant::now();
        match self.files.check_place() {
            Ok(()) => self.misplaced = None,
            Err(error) => {
                self.has_failed(&error);
                self.misplaced = Some(error.to_string());
            }
        }
    }

    /// Waits until all records are on the disk. Uses are written meanwhile.
    ///
    /// # Errors
    /// The disk has failed. The trail has failed then, until the disk takes the records.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        let sync = Arc::clone(&self.surroundings.sync);
        let synced = self.files.open_file().and_then(|file| self.wait_for(Box::new(move || sync(&file))));
        self.owes_sync = synced.is_err();
        if let Err(error) = &synced {
            self.has_failed(error);
        }
        synced
    }

    /// Time until uses are written again.
    fn until_due(&self) -> Duration {
        let interval = if self.is_used { BUSY_TICK } else { TICK };
        interval.saturating_sub(self.taken.elapsed())
    }

    /// Waits for the disk. Uses are written meanwhile: a process that is killed loses those which
    /// are not.
    ///
    /// # Errors
    /// The error of the job.
    pub(crate) fn wait_for(&mut self, job: Job) -> io::Result<()> {
        self.disk.begin(job);
        loop {
            match self.disk.result(self.until_due()) {
                Some(result) => return result,
                None => self.write_new(),
            }
        }
    }

    fn has_failed(&self, error: &io::Error) {
        self.shared.tell(|status| status.failure = Some(error.to_string()));
        if !self.shared.has_failed.swap(true, Ordering::Relaxed) {
            let directory = self.settings.directory.display();
            tracing::error!(%directory, "cannot write the audit trail: {error}");
        }
    }

    fn has_recovered(&self) {
        if self.shared.has_failed.swap(false, Ordering::Relaxed) {
            self.shared.tell(|status| status.failure = None);
            tracing::info!("the audit trail is written again");
        }
    }

    /// Begins a new file if this one is full, and asks for a checkpoint of this one. The writer
    /// does not wait for a unit, so the checkpoint goes to the place where the trail is then.
    fn rotate_if_due(&mut self, now: SystemTime) {
        let has_just_failed = self.rotation_failed.is_some_and(|failed| failed.elapsed() < ROTATE_AGAIN);
        // The file that is waited for goes on.
        if self.disk.is_busy || has_just_failed || !self.files.is_full(&self.settings.policy, now) {
            return;
        }
        // Uses are written while the disk takes most of the file. Then `rotate` waits for the rest.
        match self.sync().and_then(|()| self.files.rotate()) {
            Ok(()) => {
                self.rotation_failed = None;
                self.owes_checkpoint = true;
                self.sign_if_due();
                self.tidy(0);
            }
            // The old file takes more.
            Err(error) => {
                if self.rotation_failed.replace(Instant::now()).is_none() {
                    tracing::warn!("cannot begin a new file of the audit trail: {error}");
                }
            }
        }
    }

    /// Number of the last record.
    pub(crate) fn last(&self) -> u64 {
        self.files.next - 1
    }
}

/// Adds the acts that wait for the same room, in their order. Returns the message after them.
fn with_others(acts: &mut Vec<(Act, Then)>, room: Room, messages: &Receiver<Message>) -> Option<Message> {
    while acts.len() < ACTS {
        match messages.try_recv().ok()? {
            Message::Act(act, of_act, then) if of_act == room => acts.push((in_a_line(*act), then)),
            other => return Some(other),
        }
    }
    None
}

/// Says that the trail has failed, if the thread of the writer ends by a panic.
struct Panic(Arc<Shared>);

impl Drop for Panic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.tell(|status| status.failure = Some("the thread that writes has ended".into()));
            self.0.has_failed.store(true, Ordering::Relaxed);
        }
    }
}

/// Time between two writes while keys are not used. A process that is killed loses the uses of this
/// time.
const TICK: Duration = Duration::from_millis(50);
/// Time between two writes while keys are used. On a busy machine the thread gets a processor some
/// 30 ms late, and the uses of 100 ms are the most that may be lost.
const BUSY_TICK: Duration = Duration::from_millis(20);
/// Time after which a new file is tried again.
const ROTATE_AGAIN: Duration = Duration::from_secs(5);
/// Acts that wait for the disk together, at most.
const ACTS: usize = 64;
/// Records that are written in one call.
const BATCH: usize = 1000;
