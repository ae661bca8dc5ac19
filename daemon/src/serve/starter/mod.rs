//! Starter: the process that was started as `keyward serve` or `keyward unit serve`. The starter
//! starts the daemon as its child, passes signals on to the daemon, and ends as the daemon ends.
//!
//! The starter reads no file, serves nobody and holds no secret. At SIGUSR2 the starter executes
//! the installed program, and keeps its process id, so its supervisor or container does not notice.
//! The daemon cannot do that: its confinement would hold for the new program, too (seccomp(2),
//! landlock(7)). The starter executes no program but its own and the one at its own path, and does
//! not continue as another program after a message that it does not expect.

mod check;
mod link;
mod message;
mod program;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::sys::signal::{self, SigSet};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process};

use super::error::ServeError;
use super::sockets::HandedOver;
use super::upgrade;
use crate::ground::{exit, hardening};
use check::Check;
pub(super) use link::Starter;
pub use message::Order;
use message::{Received, Verdict};
use program::{Passed, Program};

/// Starts the daemon, and waits for its end. Returns its exit status. If a signal has ended the
/// daemon, the same signal ends this process.
///
/// # Errors
/// [`ServeError`] if the daemon cannot be started, or the installed program cannot be executed.
pub(super) fn run() -> Result<u8, ServeError> {
    // The pipe with the master keys passes through this process.
    hardening::harden().map_err(ServeError::Hardening)?;
    let passed = Passed::to_this_process();
    let program = Program::running().map_err(ServeError::Start)?;
    let mut running = Running::start(passed, program).map_err(ServeError::Start)?;
    let ended = running.follow().map_err(ServeError::Start)?;
    let Running { program, handed_over, is_stopped, .. } = running;
    if !handed_over.is_complete || ended.exit_status() != Some(exit::OS.into()) {
        return end_as(ended).map_err(ServeError::Start);
    }
    if is_stopped {
        return Ok(0);
    }
    upgrade::set_signals_of_start().map_err(ServeError::Upgrade)?;
    Err(ServeError::Upgrade(program.replace_process(handed_over.sockets, handed_over.keys)))
}

/// The starter while the daemon runs.
struct Running {
    program: Program,
    daemon: Pid,
    signals: SignalFd,
    /// Socket to the daemon; `None` after its end, or after an unexpected message.
    link: Option<OwnedFd>,
    check: Option<Check>,
    handed_over: HandOver,
    /// True after SIGTERM or SIGINT.
    is_stopped: bool,
}

/// Parts of the daemon that the installed program gets.
#[derive(Default)]
struct HandOver {
    sockets: Vec<HandedOver>,
    keys: Option<OwnedFd>,
    is_complete: bool,
}

impl Running {
    /// Starts the daemon. Signals that arrive from now on wait in this process.
    fn start(passed: Passed, program: Program) -> io::Result<Self> {
        let mask: SigSet = SIGNALS.into_iter().collect();
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        // With packets, and with an end.
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (link, of_daemon) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)?;
        let daemon = passed.start_daemon(of_daemon)?;
        let (link, handed_over) = (Some(link), HandOver::default());
        Ok(Self { program, daemon, signals, link, check: None, handed_over, is_stopped: false })
    }

    /// Passes signals on, and carries out the orders of the daemon, until the daemon ends.
    fn follow(&mut self) -> io::Result<WaitStatus> {
        loop {
            self.pass_on_signals()?;
            let ended = self.reap();
            // After the end was noticed: all orders of the daemon have arrived.
            self.carry_out_orders();
            if let Some(ended) = ended {
                self.check.take().map(Check::kill).unwrap_or_default();
                return Ok(ended);
            }
            if let Some(check) = self.check.take_if(|check| check.deadline <= Instant::now()) {
                self.answer(&check.give_up(&self.program));
            }
            // At the end: children that ended before an upgrade send no signal any more.
            self.wait()?;
        }
    }

    /// Waits for a signal, an order, or the deadline of a check.
    fn wait(&self) -> io::Result<()> {
        let left = self.check.as_ref().map(|check| check.deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let sources = [Some(self.signals.as_fd()), self.link.as_ref().map(AsFd::as_fd)];
        let sources = sources.iter().flatten();
        let mut sources: Vec<_> = sources.map(|source| PollFd::new(source, PollFlags::IN)).collect();
        match rustix::event::poll(&mut sources, left.as_ref()) {
            // A machine that stops and continues its processes interrupts the call (signal(7)).
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn pass_on_signals(&mut self) -> io::Result<()> {
        while let Some(received) = self.signals.read_signal()? {
            let signal = Signal::from_named_raw(received.ssi_signo.cast_signed());
            let Some(signal) = signal.filter(|signal| *signal != Signal::CHILD) else { continue };
            self.is_stopped |= [Signal::TERM, Signal::INT].contains(&signal);
            // Nobody has waited for the daemon yet, so no other process has its id.
            kill_process(self.daemon, signal)?;
        }
        Ok(())
    }

    /// Waits for the children that have ended. Returns the status of the daemon. As process 1 of a
    /// container, the starter also has children that others have left.
    fn reap(&mut self) -> Option<WaitStatus> {
        let mut ended = None;
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == self.daemon {
                ended = Some(status);
            } else if let Some(check) = self.check.take_if(|check| check.pid == pid) {
                self.answer(&check.verdict(status, &self.program));
            }
        }
        ended
    }

    fn carry_out_orders(&mut self) {
        while let Some(link) = &self.link {
            match Order::receive(link.as_fd()) {
                Received::Order(order) if self.is_expected(&order) => self.carry_out(order),
                Received::Nothing => break,
                Received::End => self.link = None,
                Received::Order(_) | Received::Unexpected => {
                    eprintln!(
                        "keyward: the daemon sent an unexpected message to its starter, so SIGUSR2 has no effect any more; restart the daemon"
                    );
                    (self.link, self.handed_over) = (None, HandOver::default());
                }
            }
        }
    }

    /// True if the daemon may give this order now.
    fn is_expected(&self, order: &Order) -> bool {
        let HandOver { sockets, keys, is_complete } = &self.handed_over;
        !is_complete
            && match order {
                Order::Check => self.check.is_none(),
                Order::Socket(_) => sockets.len() < MOST_SOCKETS,
                Order::MasterKeys(_) => keys.is_none(),
                Order::Continue => true,
            }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Check => match Check::start(&self.program) {
                Ok(check) => self.check = Some(check),
                Err(reason) => self.answer(&check::refused(&self.program, &reason.to_string())),
            },
            Order::Socket(socket) => self.handed_over.sockets.push(socket),
            Order::MasterKeys(pipe) => self.handed_over.keys = Some(pipe),
            Order::Continue => self.handed_over.is_complete = true,
        }
    }

    fn answer(&self, verdict: &Verdict) {
        if let Some(link) = &self.link {
            verdict.send(link.as_fd());
        }
    }
}

/// Ends this process like the daemon: returns its exit status, or dies by its signal.
fn end_as(ended: WaitStatus) -> io::Result<u8> {
    if let Some(status) = ended.exit_status() {
        return Ok(u8::try_from(status).unwrap_or(exit::SOFTWARE));
    }
    let number = ended.terminating_signal().unwrap_or_default();
    SigSet::empty().thread_set_mask()?;
    if let Ok(fatal) = signal::Signal::try_from(number) {
        signal::raise(fatal)?;
    }
    // Process 1 of a container does not die by a signal from inside. Shells report 128 and the
    // number, too.
    Ok(u8::try_from(128_i32.saturating_add(number)).unwrap_or(exit::SOFTWARE))
}

/// Signals that the starter receives: those of the daemon, and the end of a child.
const SIGNALS: [signal::Signal; 6] = [
    signal::Signal::SIGTERM,
    signal::Signal::SIGINT,
    signal::Signal::SIGHUP,
    signal::Signal::SIGUSR1,
    signal::Signal::SIGUSR2,
    signal::Signal::SIGCHLD,
];

/// Maximum number of sockets that the installed program gets. The usual soft limit of descriptors
/// is 1,024.
const MOST_SOCKETS: usize = 900;
