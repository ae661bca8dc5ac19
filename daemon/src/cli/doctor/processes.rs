//! Running processes that use keys of the daemon, or may be meant to.
//!
//! A process controls its own name, environment and arguments, and the time that the kernel takes
//! to read them. So reading has a time limit, and no file that a process names is run or opened
//! here.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use nix::unistd::geteuid;

use super::environment::{OPENSSL_CONF, SOCKET};
use super::proc::{self, Credentials};
use crate::ground::text::printable;
use crate::servers::processes::{children, loaded_provider, master};

/// A process that has loaded the provider, or may be meant to.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    parent: u32,
    /// Name that the process has chosen.
    pub(super) name: String,
    pub(super) uid: u32,
    /// True if only root or the user of this command controls the process. False if another user
    /// has started a program that runs as root (credentials(7)).
    pub(super) is_trusted: bool,
    /// File of the loaded provider.
    pub(super) provider: Option<String>,
    /// True if that file was replaced or removed since.
    pub(super) is_replaced: bool,
    /// `None` if the environment cannot be read, or the process has overwritten it.
    pub(super) environment: Option<BTreeMap<String, String>>,
    /// Command line.
    pub(super) words: Vec<String>,
}

/// A server: a process, and its child processes of the same name.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) main: Process,
    /// Processes that make handshakes: one for each user.
    pub(super) workers: Vec<Process>,
}

/// The servers, and the processes that were not examined.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) servers: Vec<Server>,
    /// Number of processes whose files in /proc this user may not read.
    pub(super) closed: usize,
    /// Processes that could not be examined within the time limit.
    pub(super) stuck: Vec<u32>,
    /// Number of further processes that were not examined.
    pub(super) more: usize,
}

impl Process {
    /// True if the environment names an openssl.cnf or a socket of keyward.
    pub(super) fn names_keyward(&self) -> bool {
        self.variable(OPENSSL_CONF).is_some_and(|conf| conf.contains("keyward"))
            || self.variable(SOCKET).is_some()
    }

    /// A variable of the environment, if the environment is known.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.as_ref()?.get(name).map(String::as_str)
    }

    /// A process that is relevant.
    fn of_pid(pid: i32) -> Option<Self> {
        match Self::examine(pid.try_into().ok()?) {
            Examined::Relevant(process) => Some(process),
            Examined::Other | Examined::Closed => None,
        }
    }

    /// A server of root that does not run, with a name and a command line.
    pub(super) fn of_words(name: &str, words: Vec<String>) -> Self {
        Self {
            pid: 0,
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

    /// Reads the files of a process in /proc.
    fn examine(pid: u32) -> Examined {
        let read = |file| proc::read(pid, file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let Ok(status) = read("status") else { return Examined::Other };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let name = printable(field("Name").unwrap_or_default().trim());
        let Some(credentials) = Credentials::of_status(&status) else { return Examined::Other };
        // A kernel thread has no memory of its own.
        if field("VmSize").is_none() || pid == std::process::id() {
            return Examined::Other;
        }
        let Ok(maps) = read("maps") else { return Examined::Closed };
        let loaded = loaded_provider(&maps).map(str::to_owned);
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
            uid: credentials.uid,
            is_replaced: loaded.as_ref().is_some_and(|file| file.ends_with(DELETED)),
            provider: loaded.map(|file| printable(file.trim_end_matches(DELETED))),
            // nginx writes its title and blanks over its environment.
            environment: environment.filter(|environment| !environment.is_empty()),
            words: words.collect(),
        };
        let may_load = maps.contains("/libcrypto.so") && process.names_keyward();
        match process.provider.is_some() || may_load || KNOWN.contains(&&*process.name) {
            true => Examined::Relevant(process),
            false => Examined::Other,
        }
    }
}

/// Result of examining a process.
enum Examined {
    Relevant(Process),
    /// The process does not use keyward, or has ended.
    Other,
    /// This user may not read the files of the process.
    Closed,
}

/// Examines all running processes.
pub(super) fn find() -> Found {
    let mut found = Found::default();
    let listed = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    found.more = pids.len().saturating_sub(MOST);
    pids.truncate(MOST);
    let mut rest = VecDeque::from(pids);
    let mut seen = BTreeMap::new();
    let end = Instant::now() + ALL_LIMIT;
    while !rest.is_empty() && found.stuck.len() < MOST_STUCK && Instant::now() < end {
        // A thread that waits for a process too long is abandoned, and ends with this command.
        let (send, receive) = mpsc::channel();
        let batch = rest.clone();
        thread::spawn(move || batch.into_iter().all(|pid| send.send(Process::examine(pid)).is_ok()));
        while let Some(pid) = rest.pop_front() {
            match receive.recv_timeout(ONE_LIMIT.min(end.saturating_duration_since(Instant::now()))) {
                Ok(Examined::Relevant(process)) => drop(seen.insert(pid, process)),
                Ok(Examined::Closed) => found.closed += 1,
                Ok(Examined::Other) => {}
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

/// The server with this first process, if its program is known here and nobody but this user
/// controls it.
pub(super) fn server(pid: i32) -> Option<Server> {
    let main = Process::of_pid(pid)?;
    let of_main = children(&master(pid, &main.name)?);
    let workers = of_main.into_iter().filter_map(|child| Process::of_pid(child.pid));
    let seen = workers.chain([main]).map(|process| (process.pid, process)).collect();
    servers(&seen).into_iter().find(|server| server.main.pid == pid.cast_unsigned())
}

/// Groups processes into servers.
fn servers(seen: &BTreeMap<u32, Process>) -> Vec<Server> {
    let parent_of = |process: &Process| {
        let parent = seen.get(&process.parent).filter(|parent| parent.name == process.name);
        parent.filter(|parent| parent.pid != process.pid).map(|parent| parent.pid)
    };
    // Equal children of one program, such as the smtpd processes of Postfix, are one server.
    let kind = |process: &Process| {
        let variables = [OPENSSL_CONF, SOCKET].map(|name| process.variable(name).map(str::to_owned));
        (process.parent, process.uid, process.name.clone(), variables)
    };
    let mut kinds = BTreeSet::new();
    let mains = seen.values().filter(|process| parent_of(process).is_none());
    let mains =
        mains.filter(|main| main.parent <= 1 || KNOWN.contains(&&*main.name) || kinds.insert(kind(main)));
    let server = |main: &Process| {
        let is_child = |process: &&Process| parent_of(process) == Some(main.pid);
        let mut workers: Vec<Process> = seen.values().filter(is_child).cloned().collect();
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

/// Programs whose configurations [`super::server_conf`] reads.
const KNOWN: [&str; 6] = ["nginx", "haproxy", "apache2", "httpd", "master", "dovecot"];
/// End of the name of a mapped file that was removed (proc_pid_maps(5)).
const DELETED: &str = " (deleted)";
/// Maximum number of processes that are examined.
const MOST: usize = 8192;
/// Maximum number of words of a command line.
const MOST_WORDS: usize = 256;
/// Maximum number of processes that may exceed the time limit.
const MOST_STUCK: usize = 10;
/// Time limit for one process.
const ONE_LIMIT: Duration = Duration::from_secs(2);
/// Time limit for all processes.
const ALL_LIMIT: Duration = Duration::from_secs(30);
