//! The audit trail, for people who read it.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::parse::{Parameters, number};
use super::rights::Administrator;
use super::{Admin, AdminError};
use crate::audit::{self, Filter, Reader};
use crate::daemon::Daemon;
use crate::lifecycle::Actor;

/// The query of a request for records.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Wanted {
    key: Option<String>,
    #[serde(deserialize_with = "some_number")]
    user: Option<u32>,
    purpose: Option<String>,
    outcome: Option<String>,
    action: Option<String>,
    since: Option<String>,
    until: Option<String>,
    /// Number of records, counted from the newest one; 0 for all of them.
    #[serde(deserialize_with = "number")]
    last: usize,
    /// True if the answer goes on with new records.
    follow: bool,
}

/// Answers with records, one JSON object on each line. A line that is no record is passed on as it
/// is.
pub(super) async fn records(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Body, AdminError> {
    let directory = directory(&admin.daemon)?;
    let Wanted { key, user, purpose, outcome, action, since, until, last, follow } = wanted;
    if last > MAX_LAST {
        return Err(AdminError::Invalid(format!("last is at most {MAX_LAST}, or 0 for all records")));
    }
    let filter = Filter { key, user, purpose, outcome, action, since, until };
    let reading = admin.trail_readers.admit(actor)?;
    let ending = admin.ending;
    Ok(streamed(reading, PATIENCE, move |to| send_records(&directory, filter, last, follow, &ending, to)))
}

/// Answers with a tar file of the whole trail, which can be verified elsewhere.
pub(super) async fn copy(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
) -> Result<Body, AdminError> {
    let directory = directory(&admin.daemon)?;
    let reading = admin.trail_readers.admit(actor)?;
    Ok(streamed(reading, PATIENCE, move |to| send_files(&directory, to)))
}

/// Readers of the trail by their users. Each one has a thread until its client has everything, and
/// acts of administrators need threads of the same pool.
#[derive(Debug, Default)]
pub(super) struct Readers(Mutex<Vec<Place>>);

/// Place of a reader, the oldest ones first.
#[derive(Clone, Debug)]
struct Place {
    uid: u32,
    /// Cancelled when another reader takes the place.
    taken: Arc<CancellationToken>,
}

/// One of the readers, until it is dropped.
struct Reading {
    readers: Arc<Readers>,
    place: Place,
}

impl Readers {
    /// Admits a reader, up to the limits for its user and for all users. At the limit for all
    /// users, a user without a reader takes a place of a user with several.
    fn admit(self: &Arc<Self>, actor: Actor) -> Result<Reading, AdminError> {
        let uid = actor.uid();
        let mut readers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |uid| readers.iter().filter(|reader| reader.uid == uid).count();
        if of(uid) >= MAX_READERS_OF_USER {
            return Err(AdminError::ManyReaders);
        }
        if readers.len() >= MAX_READERS {
            let second = readers.iter().position(|reader| of(uid) == 0 && of(reader.uid) > 1);
            let replaced = readers.remove(second.ok_or(AdminError::ManyReaders)?);
            replaced.taken.cancel();
        }
        let place = Place { uid, taken: Arc::default() };
        readers.push(place.clone());
        Ok(Reading { readers: Arc::clone(self), place })
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut readers = self.readers.0.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|place| !Arc::ptr_eq(&place.taken, &self.place.taken));
    }
}

fn directory(daemon: &Daemon) -> Result<PathBuf, AdminError> {
    match daemon.trail() {
        Some(Ok(trail)) => Ok(trail.directory().to_owned()),
        Some(Err(error)) => Err(AdminError::NoTrail(error)),
        None => Err(AdminError::NoRoute),
    }
}

/// Sends records; with `follow` until the daemon ends or the client is gone. Gives up early in both
/// cases.
fn send_records(
    directory: &Path,
    filter: Filter,
    last: usize,
    follow: bool,
    ending: &CancellationToken,
    mut to: Sink,
) -> io::Result<()> {
    let (parts, end) = (to.get_ref().clone(), ending.clone());
    let is_unwanted = move || parts.is_closed() || end.is_cancelled();
    let mut reader = Reader::new(directory, filter).unless(is_unwanted);
    let first = match last {
        0 => reader.begin().map(|()| VecDeque::new()),
        last => reader.last(last),
    }
    .map_err(io::Error::other)?;
    for line in first {
        send_line(&mut to, &line.text)?;
    }
    loop {
        while let Some(line) = reader.next().map_err(io::Error::other)? {
            send_line(&mut to, &line.text)?;
        }
        to.flush()?;
        if !follow || ending.is_cancelled() || to.get_ref().is_closed() {
            return to.get_ref().check_place();
        }
        thread::sleep(POLL);
    }
}

fn send_line(to: &mut Sink, line: &[u8]) -> io::Result<()> {
    to.write_all(line)?;
    to.write_all(b"\n")
}

fn send_files(directory: &Path, to: Sink) -> io::Result<()> {
    let mut archive = tar::Builder::new(to);
    for path in audit::files(directory).map_err(io::Error::other)? {
        let name = path.file_name().unwrap_or_default();
        let (file, name) = match File::open(&path) {
            Ok(file) => (file, PathBuf::from(name)),
            // The file was compressed since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let name = PathBuf::from(name).with_added_extension("zst");
                (File::open(directory.join(&name))?, name)
            }
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&metadata);
        header.set_uid(0);
        header.set_gid(0);
        // Records are added in the meantime.
        archive.append_data(&mut header, Path::new(PREFIX).join(name), file.take(metadata.len()))?;
    }
    archive.into_inner()?.flush()
}

/// A body that another thread writes. The connection breaks if that thread fails, so that the
/// client does not take a part for the whole. That thread fails if the client takes no part within
/// the time of `patience`.
fn streamed(
    reading: Reading,
    patience: Duration,
    write: impl FnOnce(Sink) -> io::Result<()> + Send + 'static,
) -> Body {
    let (sender, receiver) = mpsc::channel(2);
    let is_whole = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&is_whole);
    let run = move || {
        let parts = Parts { sender: sender.clone(), taken: Arc::clone(&reading.place.taken), patience };
        let written = write(BufWriter::with_capacity(PART, parts));
        match written {
            Ok(()) => is_whole.store(true, Ordering::Release),
            Err(error) if sender.is_closed() => {
                tracing::debug!("a reader of the audit trail has gone: {error}")
            }
            Err(error) => {
                tracing::warn!(uid = reading.place.uid, "cannot send the audit trail: {error}");
            }
        }
        // Before the body ends, so that a client who asks again at once is not one too many.
        drop(reading);
        drop(sender);
    };
    drop(tokio::task::spawn_blocking(run));
    // The sender is gone by then.
    let last = iter::once_with(move || (!end.load(Ordering::Acquire)).then(|| Err(incomplete())));
    Body::from_stream(ReceiverStream::new(receiver).chain(tokio_stream::iter(last.flatten())))
}

fn incomplete() -> io::Error {
    io::Error::other("the answer is not complete")
}

/// Where the body is written to.
type Sink = BufWriter<Parts>;

/// Parts of a body.
#[derive(Clone)]
struct Parts {
    sender: mpsc::Sender<io::Result<Bytes>>,
    taken: Arc<CancellationToken>,
    patience: Duration,
}

impl Parts {
    fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.taken.is_cancelled()
    }

    fn check_place(&self) -> io::Result<()> {
        match self.taken.is_cancelled() {
            true => {
                Err(io::Error::other("a user without a reader has asked, so a user with two has one less"))
            }
            false => Ok(()),
        }
    }
}

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = Ok(Bytes::copy_from_slice(bytes));
        let sent = Handle::current().block_on(async {
            tokio::select! {
                biased;
                () = self.taken.cancelled() => None,
                sent = self.sender.send_timeout(part, self.patience) => Some(sent),
            }
        });
        match sent {
            Some(Ok(())) => Ok(bytes.len()),
            Some(Err(SendTimeoutError::Closed(_))) => Err(io::ErrorKind::BrokenPipe.into()),
            Some(Err(SendTimeoutError::Timeout(_))) => {
                let patience = self.patience;
                let reason = format!("the reader has taken nothing for {patience:?}");
                Err(io::Error::new(io::ErrorKind::TimedOut, reason))
            }
            None => self.check_place().map(|()| 0),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn some_number<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    number(from).map(Some)
}

/// Directory of the files in the tar file.
const PREFIX: &str = "audit";
/// Most readers of one user.
pub(super) const MAX_READERS_OF_USER: usize = 2;
/// Most readers of all users.
pub(super) const MAX_READERS: usize = 6;
/// Most records that are counted from the newest one.
const MAX_LAST: usize = 10_000;
/// Time between two looks for new records.
const POLL: Duration = Duration::from_millis(200);
/// Bytes that are sent at a time (64 KiB).
const PART: usize = 64 * 1024;
/// Time in which a reader takes a part: a person reads a page of less(1). A reader who takes
/// nothing must not keep a thread for ever.
const PATIENCE: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::policy::roles::Role;

    fn auditor(uid: u32) -> Actor {
        Actor::User { uid, pid: 1, role: Role::Auditor }
    }

    fn places(readers: &Readers) -> Vec<u32> {
        readers.0.lock().unwrap().iter().map(|place| place.uid).collect()
    }

    /// More than the body and the channel take at once.
    fn send_much(mut to: Sink) -> io::Result<()> {
        (0..10).try_for_each(|_| to.write_all(&[b'x'; 2 * PART]))?;
        to.flush()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_reader_who_takes_nothing_loses_the_place() {
        let readers = Arc::new(Readers::default());
        let body = streamed(readers.admit(auditor(1)).unwrap(), Duration::from_millis(20), send_much);
        while !places(&readers).is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(body.collect().await.is_err(), "a part is not the whole");

        let slow = streamed(readers.admit(auditor(1)).unwrap(), Duration::from_secs(600), send_much);
        assert_eq!(slow.collect().await.unwrap().to_bytes().len(), 20 * PART);
        assert!(places(&readers).is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_user_without_a_reader_takes_a_place_of_a_user_with_two() {
        let readers = Arc::new(Readers::default());
        let admit = |uid| readers.admit(auditor(uid));
        let patience = Duration::from_secs(600);
        let slow = streamed(admit(1).unwrap(), patience, send_much);
        let others: Vec<_> = [1, 2, 2, 3, 3].into_iter().map(|uid| admit(uid).unwrap()).collect();
        assert!(admit(1).is_err() && admit(3).is_err(), "two are the most of a user");
        let fourth = admit(4).unwrap();
        assert_eq!(places(&readers), [1, 2, 2, 3, 3, 4]);
        assert!(slow.collect().await.is_err(), "a part is not the whole");
        assert!(admit(1).is_err() && admit(4).is_err(), "they have one");
        let _more = [admit(5).unwrap(), admit(6).unwrap()];
        assert_eq!(places(&readers), [1, 2, 3, 4, 5, 6]);
        assert!(admit(7).is_err(), "each user has one");
        drop((others, fourth));
        assert_eq!(places(&readers), [5, 6]);
    }
}
