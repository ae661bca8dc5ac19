//! Signals of a server in the foreground: SIGHUP, SIGINT, SIGTERM, SIGUSR2.

use core::pin::pin;
use std::collections::VecDeque;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Handlers of signals. The handler of SIGUSR1 does nothing: without a handler, SIGUSR1 would end
/// the process.
pub struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
    user: Signal,
    _ignored: Signal,
    /// Instructions received while the server waited for something else.
    later: VecDeque<Instruction>,
}

/// Instruction of a signal.
#[derive(Eq, PartialEq)]
pub enum Instruction {
    /// SIGHUP: read the files again.
    Reload,
    /// SIGINT or SIGTERM: stop.
    Stop,
    /// SIGUSR2: continue as the program that is installed now.
    Upgrade,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// The system refuses, or no tokio runtime runs.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            user: signal(SignalKind::user_defined2())?,
            _ignored: signal(SignalKind::user_defined1())?,
            later: VecDeque::new(),
        })
    }

    /// Waits for the next instruction.
    pub async fn next(&mut self) -> Instruction {
        match self.later.pop_front() {
            Some(instruction) => instruction,
            None => self.receive().await,
        }
    }

    /// Waits for a future. `None` if [`Instruction::Stop`] arrives first. Other instructions are
    /// kept for [`Self::next`].
    pub async fn unless_stopped<T>(&mut self, awaited: impl Future<Output = T>) -> Option<T> {
        let mut awaited = pin!(awaited);
        loop {
            let instruction = tokio::select! {
                done = &mut awaited => return Some(done),
                instruction = self.receive() => instruction,
            };
            match instruction {
                Instruction::Stop => return None,
                instruction if self.later.contains(&instruction) => {}
                instruction => self.later.push_back(instruction),
            }
        }
    }

    async fn receive(&mut self) -> Instruction {
        tokio::select! {
            _ = self.hangup.recv() => Instruction::Reload,
            _ = self.interrupt.recv() => Instruction::Stop,
            _ = self.terminate.recv() => Instruction::Stop,
            _ = self.user.recv() => Instruction::Upgrade,
        }
    }
}
