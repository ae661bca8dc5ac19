//! One connection of a peer: frames in, answers out, in order.
//!
//! Whatever the peer sends, it costs at most one buffer of the size of a frame, and never another peer.

use core::future::pending;
use core::pin::pin;
use core::time::Duration;
use std::io;
use std::time::Instant;

use keyward_proto::frame::{self, FrameError};
use keyward_proto::message::{Request, Response, Watch, request, response};
use thiserror::Error;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;
use zeroize::{Zeroize, Zeroizing};

use crate::backend::grep11::{Trace, random};
use crate::daemon::Daemon;
use crate::peers::answer::{self, answer};
use crate::peers::stream::Stream;
use crate::policy::authorise::Peer;

/// Serves a peer until it hangs up, sends garbage, `stop` is cancelled, or it has come to ask from another
/// processor than `here`: then the connection and that processor are returned.
///
/// Requests that have arrived by then are answered.
pub(crate) async fn serve(
    daemon: &Daemon,
    peer: &Peer,
    stream: Stream,
    here: u32,
    stop: &CancellationToken,
) -> Option<(Stream, u32)> {
    let mut session = Session {
        daemon,
        peer,
        stream,
        input: Vec::with_capacity(SMALL),
        output: Zeroizing::new(Vec::with_capacity(SMALL)),
        is_secret: false,
        frame: Vec::new(),
        here,
        asked_from: here,
        number: random(),
    };
    let end = match session.run(stop).await {
        Ok(moved) => return moved.map(|there| (session.stream, there)),
        Err(end) => end,
    };
    if matches!(end, End::Lost(_)) {
        tracing::debug!(uid = peer.uid, pid = peer.pid, "peer is gone: {end}");
        return None;
    }
    daemon.metrics.garbage();
    if let Some(times) = daemon.lines.garbage.admit() {
        tracing::warn!(uid = peer.uid, pid = peer.pid, times, "closed the connection of a peer: {end}");
    }
    None
}

struct Session<'a> {
    daemon: &'a Daemon,
    peer: &'a Peer,
    stream: Stream,
    /// What has arrived and is not answered.
    input: Vec<u8>,
    /// Answers that are not sent. Wiped at the end, should it come before they are.
    output: Zeroizing<Vec<u8>>,
    /// Whether there is a premaster secret among them, or was since they were sent last.
    is_secret: bool,
    /// One answer, on its way to `output`.
    frame: Vec<u8>,
    /// The processor of this thread.
    here: u32,
    /// The processor that the last request came from, as far as its peer said.
    asked_from: u32,
    /// Names this connection in traces.
    number: u64,
}

impl Session<'_> {
    /// Returns the processor to move to, if any.
    async fn run(&mut self, stop: &CancellationToken) -> Result<Option<u32>, End> {
        let mut stopped = pin!(stop.cancelled());
        // When the frame that has begun to arrive must be there.
        let mut due: Option<Instant> = None;
        loop {
            self.make_room();
            let read = async {
                tokio::select! {
                    biased;
                    read = self.stream.read(&mut self.input) => Ok::<_, End>(Some(read?)),
                    () = &mut stopped => Ok(None),
                }
            };
            let read = match due {
                None => read.await?,
                Some(due) => timeout_at(due.into(), read).await.map_err(|_| End::Stalled)??,
            };
            let arrived = Instant::now();
            // Told to stop, it may not have been told yet of what has arrived before.
            let read = match read {
                None => self.stream.read_now(&mut self.input)?,
                some => some,
            };
            match read {
                None => return Ok(None),
                Some(0) if self.input.is_empty() => return Ok(None),
                Some(0) => return Err(End::Truncated),
                Some(_) => {}
            }
            let before = self.asked_from;
            let used = self.answer_all(arrived, stop).await?;
            self.input.drain(..used);
            if !self.input.is_empty() {
                if used > 0 || due.is_none() {
                    due = Some(arrived + self.daemon.config().request_timeout);
                }
                continue;
            }
            due = None;
            // Twice in a row: a peer that goes back and forth is not worth following.
            let there = self.asked_from;
            if there != self.here && there == before && self.daemon.reactors.on(there).is_some() {
                return Ok(Some(there));
            }
        }
    }

    /// Answers the complete frames that have arrived; returns how many bytes they took. Those before one that is
    /// garbage get their answers, too.
    async fn answer_all(&mut self, arrived: Instant, stop: &CancellationToken) -> Result<usize, End> {
        let used = self.answer_frames(arrived, stop).await;
        self.send().await?;
        used
    }

    async fn answer_frames(&mut self, arrived: Instant, stop: &CancellationToken) -> Result<usize, End> {
        let mut used = 0;
        let mut since = arrived;
        while let Some((body, length)) = frame::split(self.input.get(used..).unwrap_or_default())? {
            let request: Request = frame::decode(body)?;
            used += length;
            self.asked_from = request.processor.unwrap_or(self.here);
            let mut response = match &request.body {
                Some(request::Body::Watch(watch)) => {
                    // Boxed, for the sake of all the sessions that never come here.
                    Box::pin(self.watch(&request, watch, self.input.len() > used, stop)).await?
                }
                _ => {
                    let trace = Trace::new(self.number, request.id);
                    answer(self.daemon, self.peer, request, arrived, trace).await
                }
            };
            if frame::encode_into(&response, &mut self.frame).is_ok() {
                // A buffer that has to move leaves behind what it held.
                if self.is_secret && self.output.capacity() - self.output.len() < self.frame.len() {
                    self.send().await?;
                }
                self.output.extend_from_slice(&self.frame);
            }
            if let Some(response::Body::Plaintext(secret)) = &mut response.body {
                secret.plaintext.zeroize();
                self.frame.zeroize();
                self.is_secret = true;
            }
            let more = self.input.len() > used;
            // A peer that sends many requests at once, or one that takes long as soon as the one before is answered, must not
            // keep the others from this thread.
            if since.elapsed() >= TURN || more && self.output.len() >= MAX_OUTPUT {
                self.send().await?;
                tokio::task::yield_now().await;
                since = Instant::now();
            }
        }
        Ok(used)
    }

    /// Answers a request to watch: when there is something, its time is over, the daemon stops, or more arrives.
    async fn watch(
        &mut self,
        request: &Request,
        watch: &Watch,
        more: bool,
        stop: &CancellationToken,
    ) -> Result<Response, End> {
        self.send().await?;
        let (daemon, peer, stream) = (self.daemon, self.peer, &self.stream);
        let end = async {
            if more {
                return;
            }
            let time = async {
                match request.deadline_ms {
                    0 => pending().await,
                    time => tokio::time::sleep(Duration::from_millis(time.into())).await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                _ = stream.wait() => {}
                () = time => {}
            }
        };
        Ok(answer::watch(daemon, peer, request.id, watch, end).await)
    }

    async fn send(&mut self) -> Result<(), End> {
        if self.output.is_empty() {
            return Ok(());
        }
        // Nearly always the socket takes it at once, and no timer is needed.
        let sent = self.stream.write_now(&self.output)?;
        if let Some(rest) = self.output.get(sent..).filter(|rest| !rest.is_empty()) {
            let patience = self.daemon.config().request_timeout;
            let deaf = tokio::time::timeout(patience, self.stream.write_all(rest)).await;
            deaf.map_err(|_| End::Deaf(patience))??;
        }
        if core::mem::take(&mut self.is_secret) {
            self.output.zeroize();
        }
        self.output.clear();
        self.output.shrink_to(MAX_IDLE);
        Ok(())
    }

    /// Makes room for what comes next: a little at first, then as much as the frame has brought so far again,
    /// and never more than it announced.
    fn make_room(&mut self) {
        if self.input.is_empty() {
            if self.input.capacity() > MAX_IDLE {
                self.input = Vec::with_capacity(SMALL);
            }
            return;
        }
        // `answer_all` has refused lengths beyond the limit.
        let announced = match self.input.first_chunk() {
            Some(header) => frame::HEADER + frame::body_length(*header).unwrap_or(0),
            None => frame::HEADER,
        };
        let missing = announced.saturating_sub(self.input.len());
        if missing > 0 && self.input.capacity() == self.input.len() {
            self.input.reserve_exact(missing.min(self.input.len().max(SMALL)));
        }
    }
}

/// Why a connection came to an end that was not the peer's plan.
#[derive(Debug, Error)]
enum End {
    #[error("it did not take its answers for {0:?}")]
    Deaf(Duration),
    #[error(transparent)]
    Garbage(#[from] FrameError),
    #[error(transparent)]
    Lost(#[from] io::Error),
    #[error("it did not complete a frame in time")]
    Stalled,
    #[error("it hung up in the middle of a frame")]
    Truncated,
}

/// Room for what comes over a connection, in bytes: a request for a signature has 150 to 400.
const SMALL: usize = 1024;

/// A buffer larger than this is given back when it is empty, in bytes.
const MAX_IDLE: usize = 4096;

/// Answers are sent at the latest when there are so many bytes of them (64 KiB).
const MAX_OUTPUT: usize = 64 * 1024;

/// How long requests that arrived together are worked on at a stretch.
const TURN: Duration = Duration::from_millis(1);
