//! One connection of a peer: frames in, answers out, in order.
//!
//! Frames are read as they come, also while an answer is being made: the time at which a request arrived counts
//! for its deadline, and requests beyond those that a user may have waiting are refused, not left in the socket.
//! Whatever the peer sends costs another user nothing but the turn that [`Turns`] gives.

use core::future::{pending, poll_fn};
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;
use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use keyward_proto::Outcome;
use keyward_proto::frame::{self, FrameError};
use keyward_proto::message::{Request, Response, request, response};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::backend::{Trace, random};
use crate::peers::answer::{self, answer};
use crate::peers::connections::Place;
use crate::peers::shared::Shared;
use crate::peers::stream::Stream;
use crate::peers::turns::{Turn, Turns};
use crate::peers::users::{Account, Held, NoRoom, Waiting};
use crate::policy::authorise::Peer;

/// Serves a peer until it hangs up, sends garbage, its place is to be given up, or it has come to ask from
/// another processor than `here`: then the connection and that processor are returned.
///
/// Requests that have arrived by then are answered.
pub(super) async fn serve(
    shared: &Shared,
    peer: &Peer,
    place: &Place,
    turns: &Turns,
    stream: Stream,
    here: u32,
) -> Option<(Stream, u32)> {
    let mut session = Session {
        shared,
        peer,
        place,
        turns,
        stream,
        input: Vec::with_capacity(SMALL),
        long: None,
        due: None,
        arrived: VecDeque::new(),
        reading: Reading::On,
        output: Zeroizing::new(Vec::with_capacity(SMALL)),
        is_secret: false,
        frame: Vec::new(),
        here,
        asked_from: here,
        number: random(),
        now: Instant::now(),
    };
    let ended = tokio::select! {
        biased;
        ended = session.run() => ended,
        () = place.cut().cancelled() => return None,
    };
    let end = match ended {
        Ok(moved) => return moved.map(|there| (session.stream, there)),
        Err(end) => end,
    };
    match end {
        End::Closed => {}
        End::Idle => shared.daemon.metrics.idle(),
        End::Lost(_) => tracing::debug!(uid = peer.uid, pid = peer.pid, "peer is gone: {end}"),
        _ => {
            shared.daemon.metrics.malformed();
            if let Some(times) = shared.lines.malformed.admit(peer, end.name()) {
                tracing::warn!(
                    uid = peer.uid,
                    service = peer.service.as_deref(),
                    pid = peer.pid,
                    times,
                    "closed the connection of a peer: {end}"
                );
            }
        }
    }
    None
}

struct Session<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
    place: &'a Place,
    turns: &'a Turns,
    stream: Stream,
    /// Bytes that have been read and are not a whole frame yet, or are not taken in.
    input: Vec<u8>,
    /// The memory of the frame that is arriving, if that is a long one.
    long: Option<Held>,
    /// When the frame that has begun to arrive must be there.
    due: Option<Instant>,
    /// Requests that have arrived and are not answered.
    arrived: VecDeque<Arrived<'a>>,
    reading: Reading,
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
    /// When the last thing happened: a clock that is looked at once for all who need it.
    now: Instant,
}

/// A request that has arrived.
struct Arrived<'a> {
    /// As it came.
    body: Vec<u8>,
    at: Instant,
    /// None if it is to be refused, since too many others of its user wait.
    waiting: Option<Waiting<'a>>,
    _long: Option<Held>,
}

/// What came of a request.
enum Answered {
    With(Response),
    /// It asks to watch, which is no work of the user's.
    NotYet(Request),
}

/// Whether more is read from the socket.
enum Reading {
    On,
    /// Not until fewer requests of the user wait.
    Parked,
    /// Not any more, for this reason.
    Over(End),
}

impl<'a> Session<'a> {
    /// Returns the processor to move to, if any.
    async fn run(&mut self) -> Result<Option<u32>, End> {
        let place = self.place;
        let mut stopped = pin!(place.close().cancelled());
        loop {
            let (before, answers) = (self.asked_from, !self.arrived.is_empty());
            while let Some(next) = self.arrived.pop_front() {
                place.busy();
                self.answer(next).await?;
                if self.arrived.is_empty() {
                    self.take_in();
                }
                if self.arrived.is_empty() || self.output.len() >= MAX_OUTPUT {
                    self.send().await?;
                }
            }
            if let Reading::Over(_) = self.reading
                && let Reading::Over(end) = core::mem::replace(&mut self.reading, Reading::On)
            {
                return Err(end);
            }
            // Meanwhile nothing was read: a frame that was arriving has all of its time again.
            if answers && self.due.is_some() {
                self.due = Some(self.now + self.shared.daemon.config().request_timeout);
            }
            // Twice in a row: a peer that goes back and forth is not worth following.
            let there = self.asked_from;
            let is_quiet = self.input.is_empty() && matches!(self.reading, Reading::On);
            if there != self.here && there == before && is_quiet && self.shared.reactors.on(there).is_some() {
                return Ok(Some(there));
            }
            place.idle(self.now);
            let due = self.due.or_else(|| Some(self.now + place.patience()?));
            let until = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                // First, since a peer may send more without end.
                () = &mut stopped => return self.answer_the_rest().await,
                more = self.more() => more?,
                () = until => return Err(if self.due.is_some() { End::Stalled } else { End::Idle }),
            }
        }
    }

    /// Told to stop, it may not have been told yet of what has arrived before. Nobody is waited for
    /// who sends on: a few requests are answered, and the others come over a new connection.
    async fn answer_the_rest(&mut self) -> Result<Option<u32>, End> {
        self.take_in();
        while self.arrived.len() < MOST_AT_THE_END
            && self.make_room()
            && self.stream.read_now(&mut self.input)?.is_some_and(|read| read > 0)
        {
            self.now = Instant::now();
            self.take_in();
        }
        while let Some(next) = self.arrived.pop_front() {
            self.answer(next).await?;
        }
        self.send().await?;
        Ok(None)
    }

    /// Waits for bytes, and takes in the requests that they complete. Nothing is lost if the future is dropped.
    async fn more(&mut self) -> Result<(), End> {
        match self.reading {
            // The rest may wait in the socket: the peer has enough under way.
            Reading::On if self.arrived.len() >= MOST_AHEAD => pending().await,
            Reading::On => {}
            Reading::Parked => {
                self.place.account().room().await;
                self.now = Instant::now();
                self.take_in();
                return Ok(());
            }
            Reading::Over(_) => pending().await,
        }
        while !self.make_room() {
            // Nobody tells when there is memory again; the frame is given up when it is due.
            tokio::time::sleep(RETRY).await;
        }
        let read = self.stream.read(&mut self.input).await?;
        if read == 0 {
            let whole = self.input.is_empty();
            self.reading = Reading::Over(if whole { End::Closed } else { End::Truncated });
        }
        self.now = Instant::now();
        let before = self.arrived.len();
        self.take_in();
        if self.arrived.len() == before && matches!(self.reading, Reading::On) {
            self.pay_for_a_part().await;
        }
        Ok(())
    }

    /// Waits for a turn where bytes have come that complete no frame: somebody who sends them one
    /// by one, over many connections, would have the thread to itself.
    async fn pay_for_a_part(&self) {
        let user = self.place.account().id_of_parts;
        let turn = match self.turns.now(user) {
            Some(turn) => turn,
            None => self.turns.wait(user, PART).await,
        };
        self.turns.charge(user, turn, PART);
    }

    /// Makes requests of the complete frames that have been read.
    fn take_in(&mut self) {
        let (place, now) = (self.place, self.now);
        if self.input.is_empty() {
            return;
        }
        if matches!(self.reading, Reading::Parked) {
            // There may be room by now, and then the next frame is waited for as any other.
            self.reading = Reading::On;
        }
        let (mut used, mut is_partial) = (0, false);
        while self.arrived.len() < MOST_AHEAD {
            let (body, length) = match frame::split(self.input.get(used..).unwrap_or_default()) {
                Ok(Some(found)) => found,
                Ok(None) => {
                    is_partial = used < self.input.len();
                    break;
                }
                Err(error) => {
                    self.reading = Reading::Over(error.into());
                    break;
                }
            };
            let waiting = match place.account().arrive() {
                Ok(waiting) => Some(waiting),
                Err(NoRoom::Refuse) => None,
                Err(NoRoom::Leave) => {
                    self.reading = Reading::Parked;
                    break;
                }
            };
            // Decoded later, in a turn of the user: some take long.
            self.arrived.push_back(Arrived {
                body: body.to_vec(),
                at: now,
                waiting,
                _long: self.long.take(),
            });
            used += length;
        }
        self.input.drain(..used);
        if !is_partial {
            self.due = None;
        } else if used > 0 || self.due.is_none() {
            self.due = Some(now + self.shared.daemon.config().request_timeout);
        }
    }

    /// Answers one request; reads on meanwhile, if that takes time.
    async fn answer(&mut self, next: Arrived<'a>) -> Result<(), End> {
        let Arrived { body, at, waiting, _long } = next;
        let (shared, peer, account, turns) = (self.shared, self.peer, self.place.account(), self.turns);
        let (number, is_refused, close) = (self.number, waiting.is_none(), self.place.close());
        let answer = async move {
            let request: Request = frame::decode(&body)?;
            drop(body);
            let processor = request.processor;
            Ok::<_, FrameError>(match request.body {
                _ if is_refused => (processor, Answered::With(answer::overloaded(shared, peer, &request))),
                Some(request::Body::Watch(_)) => (processor, Answered::NotYet(request)),
                _ => {
                    let trace = Trace::new(number, request.id);
                    (processor, Answered::With(answer(shared, peer, account, request, at, trace).await))
                }
            })
        };
        let mut work = pin!(in_turn(turns, account, self.now, answer));
        let mut first = pin!(poll_fn(|context| Poll::Ready(work.as_mut().poll(context))));
        let (answered, ended) = match first.as_mut().await {
            Poll::Ready(done) => done,
            Poll::Pending => {
                // The answers so far need not wait for this one. Nor may this one wait for a peer that does not
                // take them: it may have a place by now that others want.
                self.send_now()?;
                loop {
                    tokio::select! {
                        biased;
                        done = &mut work => break done,
                        more = self.more(), if !close.is_cancelled() => more?,
                    }
                    if matches!(self.reading, Reading::Over(_)) && self.stream.is_hung_up() {
                        // Nobody is there to take the answer.
                        return Err(End::Closed);
                    }
                }
            }
        };
        self.now = ended;
        drop(waiting);
        let (processor, answered) = match answered {
            Ok(answered) => answered,
            Err(garbage) => {
                // Those before it get their answers.
                self.send().await?;
                return Err(garbage.into());
            }
        };
        self.asked_from = processor.unwrap_or(self.here);
        let response = match answered {
            Answered::With(response) => response,
            // Boxed, for the sake of all the sessions that never come here.
            Answered::NotYet(request) => Box::pin(self.watch(&request)).await?,
        };
        if response.outcome() == Outcome::Overloaded {
            // Somebody else may have the place meanwhile.
            self.place.idle(self.now);
            account.may_be_told().await;
            self.now = Instant::now();
        }
        self.append(response);
        Ok(())
    }

    fn append(&mut self, mut response: Response) {
        if frame::encode_into(&response, &mut self.frame).is_ok() {
            // A buffer that has to move leaves behind what it held.
            if self.is_secret && self.output.capacity() - self.output.len() < self.frame.len() {
                let mut moved = Zeroizing::new(Vec::with_capacity(self.output.len() + self.frame.len()));
                moved.extend_from_slice(&self.output);
                // The old one is wiped.
                self.output = moved;
            }
            self.output.extend_from_slice(&self.frame);
        }
        if let Some(response::Body::Plaintext(secret)) = &mut response.body {
            secret.plaintext.zeroize();
            self.frame.zeroize();
            self.is_secret = true;
        }
    }

    /// Answers a request to watch: when there is something, its time is over, the place is to be given up, or more
    /// arrives.
    async fn watch(&mut self, request: &Request) -> Result<Response, End> {
        let Some(request::Body::Watch(watch)) = &request.body else {
            return Err(FrameError::Malformed.into());
        };
        self.send().await?;
        self.place.idle(self.now);
        let (more, patience) = (!self.arrived.is_empty() || !self.input.is_empty(), self.place.patience());
        let (shared, peer, stream, close) = (self.shared, self.peer, &self.stream, self.place.close());
        let end = async {
            if more {
                return;
            }
            let theirs =
                Some(Duration::from_millis(request.deadline_ms.into())).filter(|time| !time.is_zero());
            let time = async {
                match theirs.into_iter().chain(patience).min() {
                    Some(time) => tokio::time::sleep(time).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = close.cancelled() => {}
                _ = stream.wait() => {}
                () = time => {}
            }
        };
        let (account, turns) = (self.place.account(), self.turns);
        let answer = answer::watch(shared, peer, request.id, watch, end);
        Ok(in_turn(turns, account, self.now, answer).await.0)
    }

    async fn send(&mut self) -> Result<(), End> {
        // Nearly always the socket takes it at once, and no timer is needed.
        self.send_now()?;
        if self.output.is_empty() {
            return Ok(());
        }
        let (patience, close) = (self.shared.daemon.config().request_timeout, self.place.close());
        let patience_at_the_end = patience.min(PATIENCE_AT_THE_END);
        let deaf = async {
            tokio::select! {
                () = tokio::time::sleep(patience) => patience,
                () = async {
                    close.cancelled().await;
                    tokio::time::sleep(patience_at_the_end).await;
                } => patience_at_the_end,
            }
        };
        tokio::select! {
            biased;
            sent = self.stream.write_all(&self.output) => sent?,
            patience = deaf => return Err(End::Deaf(patience)),
        }
        self.now = Instant::now();
        self.sent();
        Ok(())
    }

    /// Sends as much as the socket takes.
    fn send_now(&mut self) -> Result<(), End> {
        if self.output.is_empty() {
            return Ok(());
        }
        let sent = self.stream.write_now(&self.output)?;
        if sent == self.output.len() {
            self.sent();
        } else {
            self.output.drain(..sent);
        }
        Ok(())
    }

    fn sent(&mut self) {
        if core::mem::take(&mut self.is_secret) {
            self.output.zeroize();
        }
        self.output.clear();
        self.output.shrink_to(MAX_IDLE);
    }

    /// Makes room for what comes next: a little at first, then as much as the frame has brought so far again,
    /// and never more than it announced. Fails if long frames have taken the memory that there is for them.
    fn make_room(&mut self) -> bool {
        if self.input.is_empty() {
            if self.input.capacity() > MAX_IDLE {
                self.input = Vec::with_capacity(SMALL);
            }
            return true;
        }
        // `take_in` has refused lengths beyond the limit.
        let announced = match self.input.first_chunk() {
            Some(header) => frame::HEADER + frame::body_length(*header).unwrap_or(0),
            None => frame::HEADER,
        };
        let missing = announced.saturating_sub(self.input.len());
        if missing > 0 && self.input.capacity() == self.input.len() {
            if announced > MAX_IDLE && self.long.is_none() {
                self.long = self.place.account().hold(announced);
                if self.long.is_none() {
                    return false;
                }
            }
            self.input.reserve_exact(missing.min(self.input.len().max(SMALL)));
        }
        true
    }
}

/// Makes an answer when it is the user's turn, and charges the user for it. `begin` is now; the time at which the
/// answer was there comes with it.
async fn in_turn<T>(
    turns: &Turns,
    account: &Account,
    begin: Instant,
    answer: impl Future<Output = T>,
) -> (T, Instant) {
    let (mut turn, mut begin) = match turns.now(account.id) {
        Some(turn) => (turn, Some(begin)),
        None => (turns.wait(account.id, account.typical()).await, None),
    };
    let mut answer = pin!(answer);
    poll_fn(|context| {
        let begin = begin.take().unwrap_or_else(Instant::now);
        let polled = answer.as_mut().poll(context);
        let end = Instant::now();
        let time = end.saturating_duration_since(begin);
        turns.charge(account.id, turn, time);
        account.took(time);
        // The rest of an answer that comes from elsewhere is short.
        turn = Turn::AtOnce;
        polled.map(|answer| (answer, end))
    })
    .await
}

/// Why a connection came to an end that was not the peer's plan.
#[derive(Debug, Error)]
enum End {
    #[error("it hung up")]
    Closed,
    #[error("it did not take its answers for {0:?}")]
    Deaf(Duration),
    #[error(transparent)]
    Garbage(#[from] FrameError),
    #[error("no grant names it, and it asked for nothing for some time")]
    Idle,
    #[error(transparent)]
    Lost(#[from] io::Error),
    #[error("it did not complete a frame in time")]
    Stalled,
    #[error("it hung up in the middle of a frame")]
    Truncated,
}

impl End {
    /// One word for the log.
    fn name(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Deaf(_) => "deaf",
            Self::Garbage(_) => "garbage",
            Self::Idle => "idle",
            Self::Lost(_) => "lost",
            Self::Stalled => "stalled",
            Self::Truncated => "truncated",
        }
    }
}

/// Room for what comes over a connection, in bytes: a request for a signature has 150 to 400.
const SMALL: usize = 1024;

/// A buffer larger than this is given back when it is empty, and a frame longer than this is a long one, in bytes.
const MAX_IDLE: usize = 4096;

/// Answers are sent at the latest when there are so many bytes of them (16 KiB).
const MAX_OUTPUT: usize = 16 * 1024;

/// Most requests of one connection that are taken in before the first of them is answered.
const MOST_AHEAD: usize = 512;

/// Requests of one connection from which on nothing more is read when it is to end.
const MOST_AT_THE_END: usize = 32;

/// How long a connection that is to end waits for its peer to take the answers.
const PATIENCE_AT_THE_END: Duration = Duration::from_millis(250);

/// What it costs to take in bytes that complete no frame.
const PART: Duration = Duration::from_micros(10);

/// How long to wait for memory.
const RETRY: Duration = Duration::from_millis(20);
