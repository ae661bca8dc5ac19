//! The processes of the machine that have to do with keys of the daemon.
//!
//! A process decides itself what it is called, what stands in its environment and in its arguments,
//! and how long the kernel takes to read them. So every look has an end, and nothing here is run or
//! opened for it.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use nix::unistd::geteuid;

use super::environment::{self, OPENSSL_CONF};
use super::grants::Credentials;
use crate::ground::text::printable;

/// A process that loads the provider, or may be meant to.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    parent: u32,
    /// What it calls itself.
    pub(super) name: String,
    pub(super) uid: u32,
    /// Whether nobody but root, and who runs this, decides what it does: not so where a user has
    /// started a program that runs as root (credentials(7)).
    pub(super) is_trusted: bool,
    /// The file of our provider that it has loaded.
    pub(super) provider: Option<String>,
    /// Whether another file is there by now.
    pub(super) is_replaced: bool,
    /// `None` if it cannot be read, or the process has written over it.
    pub(super) environment: Option<BTreeMap<String, String>>,
    /// The words that it was started with.
    pub(super) words: Vec<String>,
}

/// A server: a process and those that it has started, if they have its name.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) main: Process,
    /// Those that make handshakes: one of each user.
    pub(super) workers: Vec<Process>,
}

/// What was found, and what was not looked at.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) servers: Vec<Server>,
    /// Processes whose files in /proc were not for us.
    pub(super) closed: usize,
    /// Processes that did not let themselves be looked at in time.
    pub(super) stuck: Vec<u32>,
    /// How many there are beyond those that were looked at.
    pub(super) more: usize,
}

impl Process {
    /// Whether its environment names something of keyward.
    pub(super) fn is_meant(&self) -> bool {
        self.variable(OPENSSL_CONF).is_some_and(|conf| conf.contains("keyward"))
            || self.variable(environment::SOCKET).is_some()
    }

    /// A variable of its environment, if that is known.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.as_ref()?.get(name).map(String::as_str)
    }

    /// What is in /proc of a process that may matter to us; `None` if it does not, or has ended.
    fn look(pid: u32) -> Look {
        let read =
            |what| environment::read(pid, what).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let Ok(status) = read("status") else { return Look::Other };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let name = printable(field("Name").unwrap_or_default().trim());
        let Some(credentials) = Credentials::of_status(&status) else { return Look::Other };
        // Threads of the kernel have no memory of their own.
        if field("VmSize").is_none() || pid == std::process::id() {
            return Look::Other;
        }
        let Ok(maps) = read("maps") else { return Look::Closed };
        let loaded = environment::loaded(&maps).map(str::to_owned);
        let words = read("cmdline").unwrap_or_default();
        let words = words.split('\0').filter(|word| !word.is_empty()).take(MOST_WORDS).map(str::to_owned);
        let environment = read("environ").ok().map(|text| {
            let variables = text.split('\0').filter_map(|variable| variable.split_once('='));
            variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<BTreeMap<_, _>>()
        });
        let mut uids = field("Uid").unwrap_or_default().split_whitespace();
        let process = Self {
            is_trusted: uids.all(|uid| uid == "0" || uid.parse() == Ok(geteuid().as_raw())),
            pid,
            parent: field("PPid").and_then(|text| text.trim().parse().ok()).unwrap_or_default(),
            name,
            uid: credentials.uid(),
            is_replaced: loaded.as_ref().is_some_and(|file| file.ends_with(DELETED)),
            provider: loaded.map(|file| printable(file.trim_end_matches(DELETED))),
            // nginx puts its title there, and blanks behind it.
            environment: environment.filter(|environment| !environment.is_empty()),
            words: words.collect(),
        };
        let is_meant = maps.contains("/libcrypto.so") && process.is_meant();
        match process.provider.is_some() || is_meant || KNOWN.contains(&&*process.name) {
            true => Look::Seen(process),
            false => Look::Other,
        }
    }
}

/// What comes of a look at a process.
enum Look {
    Seen(Process),
    /// It has nothing to do with us.
    Other,
    Closed,
}

/// Looks at the processes that run.
pub(super) fn find() -> Found {
    let mut found = Found::default();
    let listed = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    found.more = pids.len().saturating_sub(MOST);
    pids.truncate(MOST);
    let mut rest = VecDeque::from(pids);
    let mut seen = BTreeMap::new();
    let end = Instant::now() + ALL;
    while !rest.is_empty() && found.stuck.len() < MOST_STUCK && Instant::now() < end {
        // A thread that a process keeps waiting is left to itself, and ends with us.
        let (send, receive) = mpsc::channel();
        let batch = rest.clone();
        thread::spawn(move || batch.into_iter().all(|pid| send.send(Process::look(pid)).is_ok()));
        while let Some(pid) = rest.pop_front() {
            match receive.recv_timeout(ONE.min(end.saturating_duration_since(Instant::now()))) {
                Ok(Look::Seen(process)) => drop(seen.insert(pid, process)),
                Ok(Look::Closed) => found.closed += 1,
                Ok(Look::Other) => {}
                Err(_) => {
                    found.stuck.push(pid);
                    break;
                }
            }
        }
    }
    found.more += rest.len();
    found.servers = servers(&seen);
    found
}

/// Puts processes together that are one server.
fn servers(seen: &BTreeMap<u32, Process>) -> Vec<Server> {
    let above = |process: &Process| {
        let parent = seen.get(&process.parent).filter(|parent| parent.name == process.name);
        parent.filter(|parent| parent.pid != process.pid).map(|parent| parent.pid)
    };
    // What one program starts several times, as Postfix does with smtpd, is one server.
    let kind = |process: &Process| {
        let told = [OPENSSL_CONF, environment::SOCKET].map(|name| process.variable(name).map(str::to_owned));
        (process.parent, process.uid, process.name.clone(), told)
    };
    let mut kinds = BTreeSet::new();
    let mains = seen.values().filter(|process| above(process).is_none());
    let mains =
        mains.filter(|main| main.parent <= 1 || KNOWN.contains(&&*main.name) || kinds.insert(kind(main)));
    let server = |main: &Process| {
        let is_below = |process: &&Process| above(process) == Some(main.pid);
        let mut workers: Vec<Process> = seen.values().filter(is_below).cloned().collect();
        if workers.is_empty() {
            workers.push(main.clone());
        }
        let mut users = Vec::new();
        workers.retain(|worker| {
            let is_new = !users.contains(&worker.uid);
            users.push(worker.uid);
            is_new
        });
        Server { main: main.clone(), workers }
    };
    mains.map(server).collect()
}

/// Programs whose configurations [`super::told`] reads.
const KNOWN: [&str; 6] = ["nginx", "haproxy", "apache2", "httpd", "master", "dovecot"];
/// Behind the name of a mapped file that is gone (proc_pid_maps(5)).
const DELETED: &str = " (deleted)";
/// Most processes that are looked at.
const MOST: usize = 8192;
/// Most words of a command line.
const MOST_WORDS: usize = 256;
/// So many processes may fail to be looked at in time.
const MOST_STUCK: usize = 10;
/// How long a look at a process may take.
const ONE: Duration = Duration::from_secs(2);
/// How long all of them may take.
const ALL: Duration = Duration::from_secs(30);

#[cfg(test)]
impl Process {
    /// A process of root of a name, which was started with words.
    pub(super) fn of_words(name: &str, words: Vec<String>) -> Self {
        Self {
            pid: 2,
            parent: 1,
            name: name.to_owned(),
            uid: 0,
            is_trusted: true,
            provider: None,
            is_replaced: false,
            environment: None,
            words,
        }
    }
}
