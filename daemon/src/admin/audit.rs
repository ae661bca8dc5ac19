//! The audit trail, for people who read it.

use core::time::Duration;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;

use axum::body::{Body, Bytes};
use axum::extract::State;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::parse::{Parameters, number};
use super::{Admin, AdminError};
use crate::audit::{self, Filter, Reader};
use crate::daemon::Daemon;

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

/// Answers with records, one JSON object on each line.
pub(super) async fn records(
    State(admin): State<Admin>,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Body, AdminError> {
    let directory = directory(&admin.daemon)?;
    let Wanted { key, user, purpose, outcome, action, since, until, last, follow } = wanted;
    if last > MAX_LAST {
        return Err(AdminError::Invalid(format!("last is at most {MAX_LAST}, or 0 for all records")));
    }
    let filter = Filter { key, user, purpose, outcome, action, since, until };
    let ending = follow.then_some(admin.ending);
    Ok(streamed(move |to| send_records(&directory, filter, last, ending.as_ref(), to)))
}

/// Answers with a tar file of the whole trail, which can be verified elsewhere.
pub(super) async fn copy(State(admin): State<Admin>) -> Result<Body, AdminError> {
    let directory = directory(&admin.daemon)?;
    Ok(streamed(move |to| send_files(&directory, to)))
}

fn directory(daemon: &Daemon) -> Result<PathBuf, AdminError> {
    match daemon.trail() {
        Some(Ok(trail)) => Ok(trail.directory().to_owned()),
        Some(Err(error)) => Err(AdminError::NoTrail(error)),
        None => Err(AdminError::NoRoute),
    }
}

/// Sends records; with `follow` until the token is cancelled or the client is gone.
fn send_records(
    directory: &Path,
    filter: Filter,
    last: usize,
    follow: Option<&CancellationToken>,
    mut to: Sink,
) -> io::Result<()> {
    let (first, mut reader) = match last {
        0 => (Vec::new(), Reader::open(directory, filter).map_err(io::Error::other)?),
        last => {
            let (first, reader) = Reader::last(directory, &filter, last).map_err(io::Error::other)?;
            (first.into(), reader)
        }
    };
    for (_, line) in first {
        writeln!(to, "{line}")?;
    }
    loop {
        while let Some((_, line)) = reader.next().map_err(io::Error::other)? {
            writeln!(to, "{line}")?;
        }
        to.flush()?;
        if follow.is_none_or(CancellationToken::is_cancelled) || to.0.get_ref().is_closed() {
            return Ok(());
        }
        thread::sleep(POLL);
    }
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
fn streamed(write: impl FnOnce(Sink) -> io::Result<()> + Send + 'static) -> Body {
    let (sender, receiver) = mpsc::channel(2);
    let run = move || {
        let parts = Parts(sender.clone());
        if let Err(error) = write(Sink(BufWriter::with_capacity(PART, parts)))
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
struct Sink(BufWriter<Parts>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

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
/// Most records that are counted from the newest one.
const MAX_LAST: usize = 10_000;
/// Time between two looks for new records.
const POLL: Duration = Duration::from_millis(200);
/// Bytes that are sent at a time (64 KiB).
const PART: usize = 64 * 1024;
