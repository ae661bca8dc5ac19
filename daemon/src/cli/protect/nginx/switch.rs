//! The running nginx takes up new files: by a reload if its master has the provider, or else by a
//! new master beside the old one (nginx.org/en/docs/control.html, "Upgrading Executable on the
//! Fly").

use std::collections::BTreeSet;

use rustix::process::Signal;

use super::super::Server;
use super::super::running::{LIMIT, Running, signal as signal_to, wait};
use super::{ENDING, MASTER, Nginx, WORKER};
use crate::cli::failure::Failure;
use crate::ground::exit;
use crate::servers::processes::{self, Master};

/// Has nginx read its configuration again, and waits for its new workers.
///
/// # Errors
/// [`Failure`] if nginx has no new workers in time. The old ones serve on.
pub(super) fn reload(master: &Master) -> Result<(), Failure> {
    let before: BTreeSet<i32> = workers(master);
    signal(master, Signal::HUP)?;
    // The old workers take connections until they end.
    wait(|| workers(master).iter().any(|pid| !before.contains(pid)) && workers(master).is_disjoint(&before)).then_some(()).ok_or_else(|| {
        let reason = format_args!(
            "nginx (process {}) did not take up its configuration within {} seconds; its error log says why",
            master.pid,
            LIMIT.as_secs()
        );
        Failure::new(exit::UNAVAILABLE, reason)
    })
}

/// Waits until the workers of before have ended, but not for connections that stay open: these need
/// no key any more.
pub(super) fn settle(master: &Master) {
    let is_ending = |title: &str| title.contains(ENDING);
    wait(|| !processes::children(master).iter().any(|child| is_ending(&child.title)));
}

/// Brings nginx to a new master whose workers take every new connection. The old master stays, so
/// that [`back`] can return to it. Goes on where a stop has interrupted it. Without effect for a
/// master that has the provider.
///
/// # Errors
/// [`Failure`] if nginx starts no new master.
pub(super) fn forward(nginx: &Nginx) -> Result<(), Failure> {
    if nginx.has_provider() {
        return reload(&nginx.master);
    }
    let old = &nginx.master;
    if successor(old).is_none() {
        signal(old, Signal::USR2)?;
    }
    let is_there = wait(|| successor(old).is_some_and(|new| !workers(&new).is_empty()));
    if !is_there {
        let reason = format_args!(
            "nginx (process {}) started no successor within {} seconds: its error log says why; an nginx with daemon off; in its configuration, as in a container, starts none: restart it with OPENSSL_CONF in its environment instead",
            old.pid,
            LIMIT.as_secs()
        );
        return Err(Failure::new(exit::UNAVAILABLE, reason));
    }
    signal(old, Signal::WINCH)?;
    // A worker that ends takes no new connection, and serves those that it has.
    match wait(|| workers(old).is_empty()) {
        true => Ok(()),
        false => Err(Failure::new(exit::UNAVAILABLE, "the old workers of nginx do not end")),
    }
}

/// Goes back to the old master. Its workers have the configuration of before.
///
/// # Errors
/// [`Failure`] if a signal cannot be sent.
pub(super) fn back(old: &Master) -> Result<(), Failure> {
    let Some(new) = successor(old) else { return Ok(()) };
    signal(old, Signal::HUP)?;
    wait(|| !workers(old).is_empty());
    signal(&new, Signal::QUIT)?;
    wait(|| successor(old).is_none());
    Ok(())
}

/// Ends the old master. Returns false if connections of before keep it alive.
///
/// # Errors
/// [`Failure`] if the signal cannot be sent.
pub(super) fn finish(nginx: &Nginx) -> Result<bool, Failure> {
    if nginx.has_provider() {
        return Ok(true);
    }
    signal(&nginx.master, Signal::QUIT)?;
    Ok(wait(|| nginx.master.signal(None).is_err()))
}

/// Process ids of the workers that take connections.
fn workers(master: &Master) -> BTreeSet<i32> {
    let children = processes::children(master);
    let is_worker = |title: &str| title.starts_with(WORKER) && !title.contains(ENDING);
    children.into_iter().filter(|child| is_worker(&child.title)).map(|child| child.pid).collect()
}

/// The new master that an old one has started.
fn successor(old: &Master) -> Option<Master> {
    let children = processes::children(old);
    let new = children.into_iter().find(|child| child.title.starts_with(MASTER))?;
    processes::master(new.pid, "nginx")
}

fn signal(master: &Master, signal: Signal) -> Result<(), Failure> {
    signal_to(Server::Nginx, master, signal)
}
