//! The cost of one signature without a clock, on its path from a server to the daemon and back:
//! instructions and allocations, counted by callgrind, and system calls, counted by strace. Unlike
//! times, these numbers are the same on a busy machine.
//!
//! One side is counted, while the other side runs as usual. Each side is counted with few
//! signatures and with many: the difference does not include start and end. A key in the embedded
//! unit, one connection, no other peer.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::pki::plain_key;
use crate::tool::{succeed, wait_for};
use crate::{Daemon, Host, OpenSsl, target};

/// The program that is counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// A program that has the provider and signs.
    Server,
    /// The daemon, with all its threads.
    Daemon,
}

/// Signatures to count.
#[derive(Clone, Copy, Debug)]
pub struct Signatures {
    /// Type of the key.
    pub key_type: &'static str,
    /// Mode of `tests/host/host.c`.
    pub mode: &'static str,
    /// Number of signatures that count, besides the first 100.
    pub number: u32,
}

/// Cost of one signature on one side.
#[derive(Clone, Debug)]
pub struct Cost {
    /// Instructions.
    pub instructions: f64,
    /// Calls of each function, and the instructions in it and in the functions that it calls.
    functions: BTreeMap<String, (f64, f64)>,
}

impl Cost {
    /// Instructions in functions whose names contain a text, and in the functions that they call.
    pub fn within(&self, name: &str) -> f64 {
        self.named(name).map(|(_, instructions)| instructions).sum()
    }

    /// Calls of functions whose names contain a text.
    pub fn calls(&self, name: &str) -> f64 {
        self.named(name).map(|(calls, _)| calls).sum()
    }

    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (f64, f64)> + 'a {
        self.functions.iter().filter(move |(known, _)| known.contains(name)).map(|(_, cost)| *cost)
    }
}

/// Counts instructions.
pub fn instructions(side: Side, signatures: Signatures) -> Cost {
    let count = |number| {
        let counts = run(side, signatures, number, callgrind);
        Profile::read(&counts)
    };
    let (few, many) = (count(FEW), count(FEW + signatures.number));
    let number = f64::from(signatures.number);
    let functions = many.functions.iter().map(|(name, (calls, instructions))| {
        let (few_calls, few_instructions) = few.functions.get(name).copied().unwrap_or_default();
        (name.clone(), ((calls - few_calls) / number, (instructions - few_instructions) / number))
    });
    Cost { instructions: (many.total - few.total) / number, functions: functions.collect() }
}

/// Counts system calls, by name.
pub fn system_calls(side: Side, signatures: Signatures) -> BTreeMap<String, f64> {
    let count = |number| read_strace(&run(side, signatures, number, strace));
    let (few, many) = (count(FEW), count(FEW + signatures.number));
    let each = |(name, calls): (String, f64)| {
        let more = calls - few.get(&name).copied().unwrap_or_default();
        (name, more / f64::from(signatures.number))
    };
    many.into_iter().map(each).filter(|(_, calls)| *calls > 0.0).collect()
}

/// Makes some signatures while a tool counts one side. Returns the output of the tool.
fn run(side: Side, signatures: Signatures, number: u32, tool: fn(&Path) -> Vec<String>) -> String {
    let mut daemon = Daemon::prepare("");
    let counts = daemon.path("counts");
    if side == Side::Daemon {
        daemon.run_without_starter_by(tool(&counts));
    }
    daemon.start_quiet();
    let key = kept_key(signatures.key_type);
    let words = ["import", "shop", "--in", key.to_str().expect("a path in UTF-8")];
    succeed(&mut daemon.new_key(&words));
    let reference = daemon.reference("shop");
    // The program does not use the certificate to sign.
    let mut host = Host::new(&daemon, OpenSsl::System).mode(signatures.mode, &reference, &reference, number);
    if side == Side::Server {
        host.run_by(&tool(&counts));
    }
    host.run();
    assert!(daemon.stop().success(), "{}", daemon.log());
    // strace ends after the program.
    let is_whole = |text: &String| ["totals: ", "total\n"].iter().any(|end| text.contains(end));
    wait_for("the output of the tool", || fs::read_to_string(&counts).ok().filter(is_whole))
}

/// File of a key that all counted builds share, because signatures with two RSA keys differ by up
/// to a tenth in their instructions.
fn kept_key(key_type: &str) -> PathBuf {
    let path = target().join(format!("instructions-{key_type}.key"));
    if !path.exists() {
        fs::write(&path, plain_key(key_type)).expect("a key file");
    }
    path
}

fn callgrind(counts: &Path) -> Vec<String> {
    let out = format!("--callgrind-out-file={}", counts.display());
    // The seed of random numbers comes from the jitter of the processor's clock, which takes a
    // varying time.
    let seed = ["--toggle-collect=*jent_measure_jitter*", "--collect-atstart=yes"];
    ["valgrind", "--quiet", "--tool=callgrind", &out, seed[0], seed[1]].map(str::to_owned).into()
}

/// The program stays a child of its starter (-D), and signals to its group spare strace.
fn strace(counts: &Path) -> Vec<String> {
    let out = counts.display().to_string();
    ["strace", "-DDD", "-f", "-c", "-U", "calls,name", "-o", &out].map(str::to_owned).into()
}

/// Reads the table of `strace -c -U calls,name`.
fn read_strace(text: &str) -> BTreeMap<String, f64> {
    let row = |line: &str| {
        let (calls, name) = line.trim().split_once(char::is_whitespace)?;
        Some((name.trim().to_owned(), calls.parse().ok()?))
    };
    // Lines about threads that strace has left are between the rows.
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    text.lines().filter_map(row).filter(|(name, _)| name != "total" && is_name(name)).collect()
}

/// Counts of callgrind over the whole life of a program and all its threads. The format is in the
/// manual of Valgrind, "Callgrind Format Specification".
#[derive(Default)]
struct Profile {
    total: f64,
    functions: BTreeMap<String, (f64, f64)>,
}

impl Profile {
    fn read(text: &str) -> Self {
        let mut profile = Self::default();
        let mut names = BTreeMap::new();
        let (mut called, mut calls) = (String::new(), None);
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                name_of(name, &mut names);
            } else if let Some(name) = line.strip_prefix("cfn=") {
                called = name_of(name, &mut names);
            } else if let Some(rest) = line.strip_prefix("calls=") {
                calls = rest.split(' ').next().and_then(|calls| calls.parse::<f64>().ok());
            } else if let Some(total) = line.strip_prefix("totals: ") {
                profile.total = total.trim().parse().expect("a sum");
            } else if let Some(calls) = calls.take() {
                // The line after `calls=`: position, and the instructions within the function.
                let instructions = line.split(' ').nth(1).and_then(|cost| cost.parse::<f64>().ok());
                let sums = profile.functions.entry(called.clone()).or_default();
                sums.0 += calls;
                sums.1 += instructions.expect("a cost");
            }
        }
        assert!(profile.total > 0.0 && !profile.functions.is_empty(), "a file of callgrind");
        profile
    }
}

/// Name of a function: `(5) name` the first time, `(5)` later.
fn name_of(text: &str, names: &mut BTreeMap<String, String>) -> String {
    match text.split_once(' ') {
        Some((number, name)) => {
            names.insert(number.to_owned(), name.to_owned());
            name.to_owned()
        }
        None => names.get(text).cloned().unwrap_or_else(|| text.to_owned()),
    }
}

/// Signatures after which all one-time work is done.
const FEW: u32 = 100;
