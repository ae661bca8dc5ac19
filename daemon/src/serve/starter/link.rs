//! The daemon's end of the socket between the daemon and its starter.

use std::env;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use super::message::{Order, Verdict};
use crate::serve::sockets::HandedOver;

/// The starter of this daemon.
pub(in crate::serve) struct Starter {
    socket: OwnedFd,
}

impl Starter {
    /// The starter of this process, or `None` if a person or a supervisor has started this process.
    /// From now on, the end of the starter kills this process.
    ///
    /// # Errors
    /// The standard input is no socket of the parent, or the parent is gone.
    pub(in crate::serve) fn of_this_process() -> io::Result<Option<Self>> {
        if env::var_os(STARTED).is_none() {
            return Ok(None);
        }
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // A starter that ended before that has left this process to another parent.
        if getppid() != Some(rustix::net::sockopt::socket_peercred(&socket)?.pid) {
            return Err(io::Error::other("the process that started this one is gone"));
        }
        // Otherwise "exe", from the path that the starter executes.
        rustix::thread::set_name(c"keyward")?;
        Ok(Some(Self { socket }))
    }

    /// Has the starter check the installed program. Returns the path of the program, or the reason
    /// why the program would not start.
    pub(in crate::serve) async fn check(&self) -> Result<String, String> {
        match self.verdict().await {
            Ok(Verdict::Good(program)) => Ok(program),
            Ok(Verdict::Bad(reason)) => Err(reason),
            Err(error) => Err(format!("no answer of the process that started this one: {error}")),
        }
    }

    async fn verdict(&self) -> io::Result<Verdict> {
        let socket = self.socket.try_clone()?;
        // A thread that nobody waits for any more ends with the process.
        let verdict = tokio::task::spawn_blocking(move || {
            Order::Check.send(socket.as_fd())?;
            Verdict::receive(socket.as_fd())
        });
        verdict.await?
    }

    /// Hands over everything that the installed program needs. The starter executes that program
    /// when this process has ended with [`exit::OS`](crate::ground::exit::OS).
    ///
    /// # Errors
    /// The starter does not take something. The starter does not execute a program then.
    pub(in crate::serve) fn hand_over(
        &self,
        sockets: Vec<HandedOver>,
        keys: Option<OwnedFd>,
    ) -> io::Result<()> {
        let sockets = sockets.into_iter().map(Order::Socket);
        for order in sockets.chain(keys.map(Order::MasterKeys)).chain([Order::Continue]) {
            order.send(self.socket.as_fd())?;
        }
        Ok(())
    }
}

/// Environment variable of a process whose standard input is the socket to its starter.
pub(super) const STARTED: &str = "KEYWARD_STARTED";
