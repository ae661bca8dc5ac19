//! A process that looks up names for a confined process.
//!
//! The helper is started before the confinement, and before its parent reads a secret. It looks up
//! users, groups, and the hosts that it was started with: so a parent that somebody has taken over
//! cannot send data away in the names of hosts. The helper ends with its parent.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::{fs, thread};

use nix::sys::signal::SigSet;

use super::question::{Question, format_answer, parse_answer};
use crate::hardening;

/// The helper of this process, if it has one.
static HELPER: OnceLock<Helper> = OnceLock::new();

struct Helper {
    questions: Mutex<UnixStream>,
    /// Questions whose answer somebody waits for, by number.
    waiting: Mutex<HashMap<u64, SyncSender<String>>>,
    last: AtomicU64,
    /// Number of questions that the helper has not answered, also if nobody waits any more.
    unanswered: AtomicUsize,
    has_ended: AtomicBool,
}

/// Starts the helper of this process: the same program with the argument `names`, which calls
/// [`answer_questions`].
///
/// # Errors
/// The error of the system.
pub fn start_helper(hosts: &[String]) -> io::Result<()> {
    let (own, of_helper) = UnixStream::pair()?;
    own.set_write_timeout(Some(LONGEST_WAIT))?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("keyward")
        .arg(COMMAND)
        .arg("--")
        .args(hosts)
        .stdin(OwnedFd::from(of_helper))
        .stdout(Stdio::null());
    // The helper ends when the socket closes.
    drop(command.spawn()?);
    // Fails only for a second helper, which nobody needs.
    let _ = HELPER.set(Helper::new(own));
    Ok(())
}

/// The problem of the helper, if there is one.
pub fn problem() -> Option<String> {
    HELPER.get().filter(|helper| helper.has_ended.load(Ordering::Relaxed)).map(|_| ENDED.to_owned())
}

/// Asks the helper of this process, or else the system.
///
/// # Errors
/// The error of the system, or the end of the helper.
pub(super) fn ask(question: &Question) -> io::Result<Option<Vec<String>>> {
    if question.is_about_nobody() {
        return Ok(None);
    }
    match HELPER.get() {
        Some(helper) => helper.ask(question, LONGEST_WAIT),
        None => question.answer(),
    }
}

/// Starts the thread that reads the answers of the helper, and notices its end. Call this after the
/// process has confined itself, which it does while it has one thread.
///
/// # Errors
/// The system refuses a thread.
pub fn start_reader() -> io::Result<()> {
    let Some(helper) = HELPER.get() else { return Ok(()) };
    let answers = lock(&helper.questions).try_clone()?;
    thread::Builder::new().name("names".into()).spawn(move || helper.read(answers)).map(drop)
}

impl Helper {
    fn new(questions: UnixStream) -> Self {
        Self {
            questions: Mutex::new(questions),
            waiting: Mutex::default(),
            last: AtomicU64::new(0),
            unanswered: AtomicUsize::new(0),
            has_ended: AtomicBool::new(false),
        }
    }

    /// Asks a question, and waits for the answer this long.
    fn ask(&self, question: &Question, patience: Duration) -> io::Result<Option<Vec<String>>> {
        // The system may take long for a name. The socket always has room for these questions, so
        // that none is written in part, after which no other one could follow.
        if self.unanswered.fetch_add(1, Ordering::SeqCst) >= MOST_UNANSWERED {
            self.unanswered.fetch_sub(1, Ordering::SeqCst);
            let problem = if self.has_ended.load(Ordering::SeqCst) { ENDED } else { TOO_MANY };
            return Err(io::Error::new(io::ErrorKind::TimedOut, problem));
        }
        let (sender, answer) = sync_channel(1);
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        lock(&self.waiting).insert(number, sender);
        let line = format!("{number}\t{question}\n");
        let sent = lock(&self.questions).write_all(line.as_bytes());
        if sent.is_err() {
            // A part of the question may be on its way, so no other one can follow.
            self.has_ended.store(true, Ordering::SeqCst);
        }
        if self.has_ended.load(Ordering::SeqCst) {
            lock(&self.waiting).remove(&number);
        }
        let answer = answer.recv_timeout(patience).map_err(|error| match error {
            RecvTimeoutError::Disconnected => io::Error::new(io::ErrorKind::BrokenPipe, ENDED),
            RecvTimeoutError::Timeout => {
                lock(&self.waiting).remove(&number);
                let seconds = patience.as_secs();
                let late =
                    format!("the system had no answer to a question about a name for {seconds} seconds");
                io::Error::new(io::ErrorKind::TimedOut, late)
            }
        })?;
        parse_answer(&answer)
    }

    /// Passes answers on until the helper ends.
    fn read(&self, answers: UnixStream) {
        let lines = BufReader::new(answers).lines();
        for line in lines.map_while(Result::ok) {
            let Some((number, answer)) = line.split_once('\t') else { continue };
            self.unanswered.fetch_sub(1, Ordering::SeqCst);
            let sender = number.parse().ok().and_then(|number| lock(&self.waiting).remove(&number));
            if let Some(sender) = sender {
                // Has room for the one answer.
                let _ = sender.send(answer.to_owned());
            }
        }
        self.has_ended.store(true, Ordering::SeqCst);
        lock(&self.waiting).clear();
        tracing::error!("{ENDED}");
    }
}

/// Answers questions from standard input, which is a socket, until the other end closes. Looks up
/// no host except these.
///
/// # Errors
/// Standard input is not a socket.
pub fn answer_questions(hosts: &[String]) -> io::Result<()> {
    // Without Landlock, the confined parent could change the memory of a process that it can trace.
    hardening::harden()?;
    close_inherited()?;
    // The helper ends after its parent, which answers requests after SIGTERM.
    SigSet::all().thread_block()?;
    let questions = io::stdin().as_fd().try_clone_to_owned()?;
    let answers = Mutex::new(UnixStream::from(questions.try_clone()?));
    let questions = Mutex::new(BufReader::new(UnixStream::from(questions)));
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(line) = next(&questions) {
                    let Some((number, question)) = line.split_once('\t') else { continue };
                    let answer = format_answer(answer(question, hosts));
                    let line = format!("{number}\t{answer}\n");
                    if lock(&answers).write_all(line.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(())
}

fn answer(question: &str, hosts: &[String]) -> io::Result<Option<Vec<String>>> {
    let question: Question = question.parse().map_err(|()| super::unexpected())?;
    match &question {
        Question::AddressesOf(host) if !hosts.contains(host) => Err(io::Error::other(
            "the configuration did not name this host when the daemon started; restart the daemon",
        )),
        _ if question.is_about_nobody() => Ok(None),
        _ => question.answer(),
    }
}

/// The next line; `None` at the end, or if the line is too long.
fn next(questions: &Mutex<BufReader<UnixStream>>) -> Option<String> {
    let mut line = String::new();
    let mut questions = lock(questions);
    let length = questions.by_ref().take(LONGEST_LINE).read_line(&mut line).ok()?;
    (length > 0 && line.ends_with('\n')).then(|| line.trim_end_matches('\n').to_owned())
}

/// Closes descriptors of the parent except the standard ones. After an upgrade, a daemon has
/// descriptors that its programs inherit (sd_listen_fds(3)).
fn close_inherited() -> io::Result<()> {
    let names: Vec<_> = fs::read_dir("/proc/self/fd")?.flatten().map(|entry| entry.file_name()).collect();
    let numbers = names.iter().filter_map(|name| name.to_str()?.parse::<RawFd>().ok());
    for number in numbers.filter(|number| *number > 2) {
        // The list itself was open, too.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Argument of the program that makes it a helper.
const COMMAND: &str = "names";
/// Time for an answer, and for the helper to take a question. A resolver gives up a host after 30
/// seconds (resolv.conf(5): 5 seconds, two attempts, three servers).
const LONGEST_WAIT: Duration = Duration::from_secs(30);
const ENDED: &str = "the process that looks up names of users, groups and hosts has ended, so new names are not known; restart the daemon";
const TOO_MANY: &str =
    "the system has no answer yet to many questions about names: the user database or a name server is slow";
/// Maximum number of questions without an answer. With [`LONGEST_LINE`], all of them fit into the
/// buffer of the socket (net.core.wmem_default is 208 KiB, and a message takes up to twice its
/// length).
const MOST_UNANSWERED: usize = 64;
/// Maximum number of names that are looked up at a time. A directory service may be slow.
const AT_A_TIME: usize = 8;
/// Longest question, in bytes.
const LONGEST_LINE: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_user_database_is_asked_again_when_it_answers() {
        let (own, of_helper) = UnixStream::pair().unwrap();
        own.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
        let (answers, helper) = (own.try_clone().unwrap(), Helper::new(own));
        let long = Question::UserByName("u".repeat(200));
        thread::scope(|scope| {
            scope.spawn(|| helper.read(answers));
            // Nobody answers. More questions than the buffer of a socket holds.
            for _ in 0..2000 {
                helper.ask(&long, Duration::from_millis(5)).unwrap_err();
            }
            assert!(!helper.has_ended.load(Ordering::SeqCst), "it is slow, and has not ended");
            assert_eq!(helper.ask(&long, Duration::ZERO).unwrap_err().to_string(), TOO_MANY);
            let mut writer = of_helper.try_clone().unwrap();
            scope.spawn(move || {
                for line in BufReader::new(of_helper).lines().map_while(Result::ok) {
                    let (number, _) = line.split_once('\t').unwrap();
                    let answer = format_answer(Ok(Some(vec!["7".into(), "8".into(), "u".into()])));
                    writer.write_all(format!("{number}\t{answer}\n").as_bytes()).unwrap();
                }
            });
            let end = std::time::Instant::now() + Duration::from_secs(20);
            let answer = loop {
                match helper.ask(&long, Duration::from_secs(20)) {
                    Ok(answer) => break answer.unwrap(),
                    Err(error) => assert!(std::time::Instant::now() < end, "{error}"),
                }
                thread::yield_now();
            };
            assert_eq!(answer, ["7", "8", "u"]);
            lock(&helper.questions).shutdown(std::net::Shutdown::Both).unwrap();
        });
        assert!(helper.has_ended.load(Ordering::SeqCst));
        assert_eq!(helper.ask(&long, Duration::from_secs(9)).unwrap_err().to_string(), ENDED);
    }
}
