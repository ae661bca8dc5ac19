//! A local user who means harm to the daemon, or wants a signature meanwhile: `attacker MODE
//! NAME=VALUE...`.
//!
//! ```text
//! flood        keeps `connections`, with `in-flight` requests on each; none and nothing to send means idle ones
//! burn         the same, answered by this very process: what the client costs without a daemon
//! churn        connects and hangs up again, over and over
//! drip         sends one byte after the other, of frames that are not complete, on `connections` in turn
//! probe        asks for one signature after the other on one connection, or each on a new one (`reconnect`)
//!
//! socket       the daemon's socket for peers
//! cgroup       directory of a control group to enter first
//! uid, gid     who to be from then on; without gid, the group has the number of the user
//! groups       in how many other groups to be
//! request      sign, decrypt, describe, status, large, half, watch, garbage; large and half are frames of 256 KiB
//! label        which key
//! scheme       the code of a scheme of TLS
//! deadline     of each request, in milliseconds
//! processor    the hint of each request
//! connections, in-flight, threads
//! count        how many requests on each connection; without it, until the end
//! reopen       yes: connections that the daemon closes are opened again
//! seconds      when to end; standard input that is closed ends it, too
//! hold         yes: begins when a line has come on standard input
//! ```
//!
//! The program prints `ready` as soon as all of that is under way, and one line of JSON at its end.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an attacker that cannot attack fails its test")]

mod flood;
mod probe;
mod request;

use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn main() {
    let mut words = std::env::args().skip(1);
    let mode = words.next().expect("a mode");
    let settings = Settings::new(words);
    raise_descriptor_limit();
    settings.become_somebody();
    if settings.text("hold") == Some("yes") {
        println!("held");
        let _ = std::io::stdin().read_line(&mut String::new());
    }
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        OVER.store(true, Ordering::Relaxed);
    });
    let report = match mode.as_str() {
        "flood" => flood::run(&settings, settings.socket()),
        "burn" => flood::run(&settings, flood::echo()),
        "churn" => probe::churn(&settings),
        "drip" => probe::drip(&settings),
        "probe" => probe::run(&settings),
        _ => panic!("no such mode: {mode}"),
    };
    println!("{report}");
}

static OVER: AtomicBool = AtomicBool::new(false);

/// The words of the command line.
struct Settings {
    words: HashMap<String, String>,
    end: Option<Instant>,
}

impl Settings {
    fn new(words: impl Iterator<Item = String>) -> Self {
        let words: HashMap<_, _> = words
            .map(|word| {
                let (name, value) = word.split_once('=').expect("NAME=VALUE");
                assert!(NAMES.contains(&name), "no such setting: {name}");
                (name.to_owned(), value.to_owned())
            })
            .collect();
        let seconds =
            words.get("seconds").map(|text| Duration::from_secs_f64(text.parse().expect("seconds")));
        Self { words, end: seconds.map(|seconds| Instant::now() + seconds) }
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.words.get(name).map(String::as_str)
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.text(name).map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
    }

    fn socket(&self) -> PathBuf {
        self.text("socket").expect("a socket").into()
    }

    fn is_over(&self) -> bool {
        OVER.load(Ordering::Relaxed) || self.end.is_some_and(|end| Instant::now() >= end)
    }

    fn become_somebody(&self) {
        if let Some(cgroup) = self.text("cgroup") {
            std::fs::write(PathBuf::from(cgroup).join("cgroup.procs"), "0")
                .expect("entry to a control group");
        }
        let Some(uid) = self.number("uid") else { return };
        let id = |number: usize| u32::try_from(number).expect("an id");
        // The kernel accepts the same group several times.
        let groups = vec![Gid::from_raw(OTHER_GROUP); self.number("groups").unwrap_or(0)];
        setgroups(&groups).expect("setgroups");
        setgid(Gid::from_raw(id(self.number("gid").unwrap_or(uid)))).expect("setgid");
        setuid(Uid::from_raw(id(uid))).expect("setuid");
    }
}

fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("descriptors");
}

/// A group that no grant names.
const OTHER_GROUP: u32 = 300_000;

const NAMES: [&str; 18] = [
    "cgroup",
    "connections",
    "count",
    "deadline",
    "gid",
    "groups",
    "hold",
    "in-flight",
    "label",
    "processor",
    "reconnect",
    "reopen",
    "request",
    "scheme",
    "seconds",
    "socket",
    "threads",
    "uid",
];
