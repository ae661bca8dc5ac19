//! A running server: the part of a change that differs from server to server, and the parts that
//! several servers share.

use core::time::Duration;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Instant, SystemTime};

use nix::unistd::{Uid, User};
use rustix::process::Signal;

use super::journal::digest;
use super::plan::Plan;
use super::{Protect, Server};
use crate::admin::client::AdminClient;
use crate::cli::failure::Failure;
use crate::ground::exit;
use crate::ground::ownership::{self, Owners};
use crate::ground::program::{Limits, run};
use crate::peers::service;
use crate::servers::processes::{self, Child, Master};

/// A server whose keys move.
pub(super) trait Running {
    /// The kind of server.
    fn kind(&self) -> Server;

    /// Text that tells the configuration of this server from those of others of its kind; `None`
    /// for the usual configuration.
    fn own_configuration(&self) -> Option<Vec<u8>>;

    /// Name of its journal and of its drop-in: several servers of a kind have several
    /// configurations.
    fn name(&self) -> String {
        let kind = self.kind().name();
        match self.own_configuration() {
            None => kind.to_owned(),
            Some(text) => format!("{kind}-{}", &digest(&text)[..12]),
        }
    }

    /// Numbers of the sites that the command is about, of sites with these names.
    ///
    /// # Errors
    /// [`Failure`] if no site has a name that was asked for.
    fn chosen(
        &self,
        options: &Protect,
        names: &mut dyn Iterator<Item = &[String]>,
    ) -> Result<Vec<usize>, Failure> {
        let wanted = names.enumerate().filter(|(_, names)| options.wants(names));
        let chosen: Vec<usize> = wanted.map(|(at, _)| at).collect();
        match chosen.is_empty() && !options.site.is_empty() {
            false => Ok(chosen),
            true => {
                let (site, sites) = (self.kind().site(), options.site.join(", "));
                Err(Failure::new(exit::NO_INPUT, format_args!("no {site} has the name {sites}")))
            }
        }
    }

    /// The processes that ask for signatures.
    fn workers(&self) -> &Workers;

    /// Makes the plan.
    ///
    /// # Errors
    /// [`Failure`] for the first thing that cannot be done. Nothing was changed.
    fn plan(&self, options: &Protect, admin: &AdminClient) -> Result<Plan, Failure>;

    /// Has the server check its files.
    ///
    /// # Errors
    /// [`Failure`] has the words of the server.
    fn check(&self, options: &Protect) -> Result<(), Failure>;

    /// The files of the configuration, and every file that it may name.
    ///
    /// # Errors
    /// [`Failure`] if the configuration cannot be read.
    fn files_in_use(&self, options: &Protect) -> Result<BTreeSet<PathBuf>, Failure>;

    /// True if the running server has loaded the provider.
    fn has_provider(&self) -> bool;

    /// The process that was found.
    fn pid(&self) -> i32;

    /// True if the process that was found still runs.
    fn is_alive(&self) -> bool;

    /// True if the server runs, in this process or in another one.
    fn is_running(&self) -> bool {
        true
    }

    /// Has the server read its configuration again, and waits until new connections meet that.
    ///
    /// # Errors
    /// [`Failure`] if the server does not do so in time. The processes of before serve on.
    fn reload(&self, options: &Protect) -> Result<(), Failure>;

    /// Waits until the processes of before have ended, but not for connections that stay open:
    /// these need no key any more.
    fn settle(&self);

    /// Brings the server to the references in a way that loads the provider. Goes on where a stop
    /// has interrupted it. Returns the time during which the server took no connection, if any.
    ///
    /// # Errors
    /// [`Failure`] if the server does not come up.
    fn forward(&self, options: &Protect) -> Result<Option<Duration>, Failure>;

    /// Goes back to the processes of before [`Self::forward`], as far as they are still there.
    ///
    /// # Errors
    /// [`Failure`] if a signal cannot be sent.
    fn back(&self) -> Result<(), Failure>;

    /// Ends the processes of before. Returns false if connections keep one of them alive.
    ///
    /// # Errors
    /// [`Failure`] if a signal cannot be sent.
    fn finish(&self) -> Result<bool, Failure>;
}

/// The processes of a server that ask for signatures.
#[derive(Clone, Debug)]
pub(super) struct Workers {
    /// Process id of one of them.
    pub(super) pid: i32,
    /// User and group.
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Service that they run in, if any.
    pub(super) service: Option<String>,
    /// Time at which this one began: the server had read its files shortly before.
    pub(super) read: Option<SystemTime>,
}

impl Workers {
    /// The workers of which one is this process.
    pub(super) fn of(worker: &Child) -> Self {
        let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", worker.pid)).unwrap_or_default();
        let service =
            service::of_cgroup(&cgroup).filter(|_| service::obstacle().is_none()).map(str::to_owned);
        let read = processes::started(worker.pid);
        Self { pid: worker.pid, uid: worker.uid, gid: worker.gid, service, read }
    }

    /// Name of the user, or its number in words.
    pub(super) fn user_name(&self) -> String {
        self.user().map_or_else(|| format!("uid {}", self.uid), |user| user.name)
    }

    /// The account of the user, if there is one.
    pub(super) fn user(&self) -> Option<User> {
        User::from_uid(Uid::from_raw(self.uid)).ok().flatten()
    }

    /// Text for people.
    pub(super) fn described(&self) -> String {
        let service = self.service.as_ref().map(|service| format!(", service {service}")).unwrap_or_default();
        format!("workers of {}{service}", self.user_name())
    }
}

/// Finds the server of a kind that runs on this host.
///
/// # Errors
/// [`Failure`] if none runs ([`exit::UNAVAILABLE`]), or if several run and none is named.
pub(super) fn master(server: Server, pid: Option<i32>) -> Result<Master, Failure> {
    let title = server.title();
    let mut masters = processes::masters(server.program());
    masters.retain(|master| pid.is_none_or(|pid| pid == master.pid));
    match (masters.pop(), masters.is_empty()) {
        (Some(master), true) => Ok(master),
        (None, _) => {
            let reason = format_args!("no {title} that root has started runs on this host: start it");
            Err(Failure::new(exit::UNAVAILABLE, reason))
        }
        (Some(last), false) => {
            let all: Vec<_> = masters.iter().chain([&last]).map(|one| one.pid.to_string()).collect();
            let reason = format_args!("several {title} run: choose one with --pid, of {}", all.join(", "));
            Err(Failure::new(exit::USAGE, reason))
        }
    }
}

/// Sends a signal to a server.
///
/// # Errors
/// [`Failure`] if the server has ended.
pub(super) fn signal(server: Server, master: &Master, signal: Signal) -> Result<(), Failure> {
    master.signal(Some(signal)).map_err(|error| {
        Failure::new(
            exit::UNAVAILABLE,
            format_args!("cannot send a signal to {} (process {}): {error}", server.title(), master.pid),
        )
    })
}

/// A server that does not run: files are put back, and the next start reads them.
pub(super) struct Stopped {
    server: Server,
    name: String,
    nobody: Workers,
}

impl Stopped {
    /// The server with the journal of this name.
    pub(super) fn new(server: Server, name: String) -> Self {
        Self { server, name, nobody: Workers { pid: 0, uid: 0, gid: 0, service: None, read: None } }
    }
}

impl Running for Stopped {
    fn kind(&self) -> Server {
        self.server
    }

    fn own_configuration(&self) -> Option<Vec<u8>> {
        None
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn workers(&self) -> &Workers {
        &self.nobody
    }

    fn plan(&self, _: &Protect, _: &AdminClient) -> Result<Plan, Failure> {
        Err(Failure::new(exit::UNAVAILABLE, format_args!("{} does not run: start it", self.server.title())))
    }

    fn check(&self, _: &Protect) -> Result<(), Failure> {
        crate::cli::output::note(format_args!(
            "{} does not run, so nothing has checked its files; its next start does",
            self.server.title()
        ));
        Ok(())
    }

    fn files_in_use(&self, _: &Protect) -> Result<BTreeSet<PathBuf>, Failure> {
        Ok(BTreeSet::new())
    }

    fn has_provider(&self) -> bool {
        false
    }

    fn pid(&self) -> i32 {
        0
    }

    fn is_alive(&self) -> bool {
        false
    }

    fn is_running(&self) -> bool {
        false
    }

    fn reload(&self, _: &Protect) -> Result<(), Failure> {
        Ok(())
    }

    fn settle(&self) {}

    fn forward(&self, _: &Protect) -> Result<Option<Duration>, Failure> {
        Ok(None)
    }

    fn back(&self) -> Result<(), Failure> {
        Ok(())
    }

    fn finish(&self) -> Result<bool, Failure> {
        Ok(true)
    }
}

/// Runs a program of a server. Returns standard output and standard error, one after the other, and
/// true if the program succeeded.
///
/// # Errors
/// [`Failure`] if the program cannot be run, takes too long, or prints too much.
pub(super) fn output(command: Command) -> Result<(String, bool), Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let failed =
        |reason: &dyn core::fmt::Display| Failure::new(exit::OS, format_args!("cannot run {name}: {reason}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(&error))?;
    let mut command = tokio::process::Command::from(command);
    let limits = Limits { time: LONGEST_RUN, output: MOST_OUTPUT };
    let ended = runtime.block_on(run(&mut command, Vec::new(), limits));
    let ended = ended.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => {
            failed(&format_args!("it took longer than {} seconds", LONGEST_RUN.as_secs()))
        }
        _ => failed(&error),
    })?;
    if ended.out.len() >= MOST_OUTPUT {
        return Err(failed(&format_args!("it printed more than {} MiB", MOST_OUTPUT >> 20)));
    }
    let words = [ended.out, ended.err].concat();
    Ok((String::from_utf8_lossy(&words).into_owned(), ended.status.success()))
}

/// A new file beside another.
///
/// # Errors
/// [`Failure`] if others can change the directory.
pub(super) fn beside(path: &Path, ending: &str) -> Result<PathBuf, Failure> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    ownership::check_directory(directory, Owners::Own).map_err(|error| {
        Failure::new(
            exit::NO_PERMISSION,
            format_args!("cannot write a reference beside {}: {error}", path.display()),
        )
    })?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{ending}.pem"));
    Ok(name.into())
}

/// Checks that only this user can change a file that the command replaces.
///
/// # Errors
/// [`Failure`] names the owner or the mode that lets others change it.
pub(super) fn safe(path: &Path) -> Result<(), Failure> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let checked =
        ownership::check_directory(directory, Owners::Own).and_then(|()| ownership::open(path).map(drop));
    checked.map_err(|error| {
        Failure::new(exit::NO_PERMISSION, format_args!("cannot change {}: {error}", path.display()))
    })
}

/// The file in which a place of the configuration stands: links lead to the file that is changed.
pub(super) fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// True if new processes of a server take the connections, and none of the processes of before
/// does. A server without listeners of TCP has no other sign than its new processes.
pub(super) fn has_taken_over(before: &BTreeSet<i32>, now: &BTreeSet<i32>) -> bool {
    let takes = |pid: &i32| processes::takes_connections(*pid);
    let mut new = now.difference(before).peekable();
    new.peek().is_some() && !before.intersection(now).any(takes) && (new.any(takes) || !now.iter().any(takes))
}

/// Waits until a server has done what a signal says. False if that takes too long.
pub(super) fn wait(is_so: impl FnMut() -> bool) -> bool {
    wait_for(LIMIT, is_so)
}

/// Waits until something is so. False if that takes longer than `limit`.
pub(super) fn wait_for(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(PAUSE);
    }
}

/// Longest time until a server has done what a signal says.
pub(super) const LIMIT: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(20);
/// Longest time of a program of a server. Large configurations of thousands of sites take seconds.
const LONGEST_RUN: Duration = Duration::from_secs(60);
/// Longest output of such a program, in bytes: a whole configuration (64 MiB).
const MOST_OUTPUT: usize = 64 << 20;
