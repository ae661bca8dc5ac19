//! The audit trail, for people who read it.

use core::time::Duration;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use serde::Deserialize;
use tokio::sync::mpsc;
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
    Ok(streamed(reading, move |to| send_records(&directory, filter, last, follow, &ending, to)))
}

/// Answers with a tar file of the whole trail, which can be verified elsewhere.
pub(super) async fn copy(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
) -> Result<Body, AdminError> {
    let directory = directory(&admin.daemon)?;
    let reading = admin.trail_readers.admit(actor)?;
    Ok(streamed(reading, move |to| send_files(&directory, to)))
}

/// Readers of the trail by their users. Each one has a thread until its client has everything, and
/// acts of administrators need threads of the same pool.
#[derive(Debug, Default)]
pub(super) struct Readers(Mutex<Vec<u32>>);

/// One of the readers, until it is dropped.
struct Reading {
    readers: Arc<Readers>,
    uid: u32,
}

impl Readers {
    /// Admits a reader, up to the limits for its user and for all users.
    fn admit(self: &Arc<Self>, actor: Actor) -> Result<Reading, AdminError> {
        let uid = actor.uid();
        let mut readers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_user = readers.iter().filter(|reader| **reader == uid).count();
        if of_user >= MAX_READERS_OF_USER || readers.len() >= MAX_READERS {
            return Err(AdminError::ManyReaders);
        }
        readers.push(uid);
        Ok(Reading { readers: Arc::clone(self), uid })
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut readers = self.readers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = readers.iter().position(|reader| *reader == self.uid) {
            readers.swap_remove(place);
        }
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
    let (parts, end) = (to.get_ref().0.clone(), ending.clone());
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
            return Ok(());
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
/// client does not take a part for the whole.
fn streamed(reading: Reading, write: impl FnOnce(Sink) -> io::Result<()> + Send + 'static) -> Body {
    let (sender, receiver) = mpsc::channel(2);
    let run = move || {
        let parts = Parts(sender.clone());
        let written = write(BufWriter::with_capacity(PART, parts));
        // Before the body ends, so that a client who asks again at once is not one too many.
        drop(reading);
        if let Err(error) = written
            && !sender.is_closed()
        {
            tracing::error!("cannot send the audit trail: {error}");
            let _closed = sender.blocking_send(Err(error));
        }
    };
    drop(tokio::task::spawn_blocking(run));
    Body::from_stream(ReceiverStream::new(receiver))
}

/// Where the body is written to.
type Sink = BufWriter<Parts>;

/// Parts of a body.
struct Parts(mpsc::Sender<io::Result<Bytes>>);

impl Parts {
    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
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
