//! One connection of a peer: requests in, answers out, in the order of the requests.
//!
//! The session reads also while an answer is made: the deadline of a request counts from its
//! arrival, and requests above the limit of their user are refused, not left in the socket.
//! [`Turns`](super::turns::Turns) divides the time of the thread between users, so nothing that a
//! peer sends costs other users more than the turn of its own user.

use core::future::{pending, poll_fn};
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use keyward_proto::Outcome;
use keyward_proto::frame::{self, FrameError};
use keyward_proto::message::{Request, Response, request};

use crate::backend::{Trace, random};
use crate::peers::answer::{self, answer};
use crate::peers::connections::Slot;
use crate::peers::incoming::{Incoming, IncomingRequest};
use crate::peers::outgoing::Outgoing;
use crate::peers::reactors::Reactor;
use crate::peers::session_end::SessionEnd;
use crate::peers::shared::Shared;
use crate::peers::stream::Stream;
use crate::policy::authorise::Peer;

/// Result of a session on one reactor.
pub(super) enum Served {
    /// The connection is closed.
    Closed,
    /// The peer now asks from the processor of this reactor, which is to serve the connection next.
    Moved(Stream, Arc<Reactor>),
}

/// Serves a peer on a reactor until the peer hangs up or sends a malformed frame, the slot is taken
/// away, or the peer asks from the processor of another reactor.
///
/// Requests that have arrived by then are answered.
pub(super) async fn serve(
    shared: &Shared,
    peer: &Peer,
    slot: &Slot,
    reactor: &Reactor,
    stream: Stream,
) -> Served {
    let mut session = Session {
        shared,
        peer,
        slot,
        reactor,
        stream,
        incoming: Incoming::new(shared, slot.account(), &reactor.turns),
        outgoing: Outgoing::new(),
        peer_processor: reactor.processor,
        number: random(),
        now: Instant::now(),
    };
    let ended = tokio::select! {
        biased;
        ended = session.run() => ended,
        () = slot.abort_token().cancelled() => return Served::Closed,
    };
    match ended {
        Ok(Some(reactor)) => return Served::Moved(session.stream, Arc::clone(reactor)),
        Ok(None) => {}
        Err(end) => end.record(shared, peer),
    }
    Served::Closed
}

struct Session<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
    slot: &'a Slot,
    /// Reactor on whose thread the session runs.
    reactor: &'a Reactor,
    stream: Stream,
    incoming: Incoming<'a>,
    outgoing: Outgoing,
    /// Processor that the last request named, or that of the reactor if the request named none.
    peer_processor: u32,
    /// Number of the connection in traces.
    number: u64,
    /// Time of the last event. Kept here because reading the clock for each use costs too much.
    now: Instant,
}

/// Result of the first turn of a request.
enum Answered {
    With(Response),
    /// A request to watch, which `Session::watch` answers.
    Watch(Request),
}

impl<'a> Session<'a> {
    /// Serves the peer. Returns the reactor that is to serve the connection next, if any.
    async fn run(&mut self) -> Result<Option<&'a Arc<Reactor>>, SessionEnd> {
        let slot = self.slot;
        let mut close = pin!(slot.close_token().cancelled());
        loop {
            let (previous, answers) = (self.peer_processor, self.incoming.has_requests());
            while let Some(next) = self.incoming.pop() {
                slot.set_busy();
                self.serve_request(next).await?;
                if !self.incoming.has_requests() {
                    self.incoming.cut(self.now);
                }
                if !self.incoming.has_requests() || self.outgoing.is_full() {
                    self.send().await?;
                }
            }
            if let Some(end) = self.incoming.take_end() {
                return Err(end);
            }
            if answers {
                self.incoming.restart_frame_deadline(self.now);
            }
            if let Some(reactor) = self.next_reactor(previous) {
                return Ok(Some(reactor));
            }
            slot.set_idle(self.now);
            let deadline = self.incoming.frame_deadline();
            let timeout = timeout_at(deadline.or_else(|| Some(self.now + slot.idle_limit()?)));
            tokio::select! {
                biased;
                // First, because a peer may send without end.
                () = &mut close => {
                    self.answer_the_last().await?;
                    return Ok(None);
                }
                read = self.incoming.read(&self.stream, &mut self.now) => read?,
                () = timeout => return Err(if deadline.is_some() { SessionEnd::Stalled } else { SessionEnd::Idle }),
            }
        }
    }

    /// Reactor on the processor of the peer, if the connection is to move there: the last two
    /// requests came from there, and nothing of another request has arrived. A peer that changes
    /// between processors is not followed, because a move costs more than it saves.
    fn next_reactor(&self, previous: u32) -> Option<&'a Arc<Reactor>> {
        let processor = self.peer_processor;
        if processor == self.reactor.processor || processor != previous || !self.incoming.is_between_frames()
        {
            return None;
        }
        self.shared.reactors.on(processor)
    }

    /// Answers the requests that have arrived on a connection that is to be closed.
    async fn answer_the_last(&mut self) -> Result<(), SessionEnd> {
        self.incoming.read_last(&self.stream, &mut self.now)?;
        while let Some(next) = self.incoming.pop() {
            self.serve_request(next).await?;
        }
        self.send().await
    }

    /// Answers one request. Reads on while the answer is made, if that takes time.
    async fn serve_request(&mut self, next: IncomingRequest<'a>) -> Result<(), SessionEnd> {
        let IncomingRequest { body, arrived, permit, frame_permit: _frame_permit } = next;
        let (shared, peer, account) = (self.shared, self.peer, self.slot.account());
        let (number, is_refused, close) = (self.number, permit.is_none(), self.slot.close_token());
        let answering = async move {
            let request: Request = frame::decode(&body)?;
            drop(body);
            let processor = request.processor;
            Ok::<_, FrameError>(match request.body {
                _ if is_refused => (processor, Answered::With(answer::overloaded(shared, peer, &request))),
                Some(request::Body::Watch(_)) => (processor, Answered::Watch(request)),
                _ => {
                    let trace = Trace::new(number, request.id);
                    let response = answer(shared, peer, account, request, arrived, trace).await;
                    (processor, Answered::With(response))
                }
            })
        };
        let mut answering = pin!(self.reactor.turns.run_in_turn(account, self.now, answering));
        let mut first = pin!(poll_fn(|context| Poll::Ready(answering.as_mut().poll(context))));
        let (answered, ended) = match first.as_mut().await {
            Poll::Ready(done) => done,
            Poll::Pending => {
                // Earlier answers need not wait for this one. And this answer must not wait for a
                // peer that does not read, because the answer may hold a permit that other users
                // need.
                self.outgoing.try_send(&self.stream)?;
                loop {
                    tokio::select! {
                        biased;
                        done = &mut answering => break done,
                        read = self.incoming.read(&self.stream, &mut self.now), if !close.is_cancelled() => read?,
                    }
                    if self.incoming.is_over() && self.stream.is_hung_up() {
                        // Nobody is there to read the answer.
                        return Err(SessionEnd::Closed);
                    }
                }
            }
        };
        self.now = ended;
        drop(permit);
        let (processor, answered) = match answered {
            Ok(answered) => answered,
            Err(malformed) => {
                // Requests before the malformed one get their answers.
                self.send().await?;
                return Err(malformed.into());
            }
        };
        self.peer_processor = processor.unwrap_or(self.reactor.processor);
        let response = match answered {
            Answered::With(response) => response,
            // Boxed, because most sessions need no memory for it.
            Answered::Watch(request) => Box::pin(self.watch(&request)).await?,
        };
        if response.outcome() == Outcome::Overloaded {
            // Idle, so that another connection may get the slot during the wait.
            self.slot.set_idle(self.now);
            account.wait_to_send_refusal().await;
            self.now = Instant::now();
        }
        self.outgoing.push(response);
        Ok(())
    }

    /// Answers a request to watch after a change, at the time limit of the request, when the
    /// connection is to be closed, or when more arrives.
    async fn watch(&mut self, request: &Request) -> Result<Response, SessionEnd> {
        let Some(request::Body::Watch(watch)) = &request.body else {
            return Err(FrameError::Malformed.into());
        };
        self.send().await?;
        self.slot.set_idle(self.now);
        let (has_more, idle_limit) = (self.incoming.has_input(), self.slot.idle_limit());
        let (shared, peer, stream, close) = (self.shared, self.peer, &self.stream, self.slot.close_token());
        let end = async {
            if has_more {
                return;
            }
            let requested =
                Some(Duration::from_millis(request.deadline_ms.into())).filter(|time| !time.is_zero());
            let timeout = async {
                match requested.into_iter().chain(idle_limit).min() {
                    Some(time) => tokio::time::sleep(time).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = close.cancelled() => {}
                _ = stream.wait() => {}
                () = timeout => {}
            }
        };
        let watching = answer::watch(shared, peer, request.id, watch, end);
        Ok(self.reactor.turns.run_in_turn(self.slot.account(), self.now, watching).await.0)
    }

    /// Sends all answers.
    async fn send(&mut self) -> Result<(), SessionEnd> {
        let patience = || self.shared.daemon.config().request_timeout;
        let has_waited = self.outgoing.send(&self.stream, patience, self.slot.close_token()).await?;
        if has_waited {
            self.now = Instant::now();
        }
        Ok(())
    }
}

/// Waits until a time; forever without one.
async fn timeout_at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => pending().await,
    }
}
