//! Starter: the process that was started, and that starts the daemon as its child.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use keyward_proto::Outcome;
use rustix::net::SendFlags;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open};

use crate::fixture::{Daemon, PROGRAM, certificate_verify, children, failure_of, has_root};
use crate::upgrade::{put, start_copy};

/// A container, whose first process must not end, upgrades its daemon for years.
#[test]
fn upgrades_keep_the_process_and_leave_nothing_behind() {
    let mut daemon = Daemon::dev("");
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let (starter, descriptors) = (daemon.pid(), descriptors(daemon.pid()));
    for _ in 0..10 {
        let before = daemon.daemon_pid();
        daemon.signal(Signal::USR2);
        daemon.await_ready();
        assert_eq!(children(starter), [daemon.daemon_pid()]);
        assert_ne!(daemon.daemon_pid(), before);
        assert!(!is_there(before));
        assert_eq!(self::descriptors(starter), descriptors);
    }
    let arguments = |pid: Pid| fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(arguments(daemon.daemon_pid()), arguments(starter));
    let name = fs::read_to_string(format!("/proc/{}/comm", daemon.daemon_pid())).unwrap();
    assert_eq!(name, "keyward\n");
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
    assert!(daemon.end(Signal::TERM).success());
}

/// Who takes over the starter finds no secret there, and nothing of the configuration.
#[test]
fn a_starter_is_small_and_knows_nothing() {
    let daemon = Daemon::dev("[[grant]]\nuid = 4711\nkeys = [\"not-for-the-starter\"]\nuses = [\"any\"]\n");
    let own = |pid: Pid| -> u64 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    // Pages of the program itself are shared with the daemon.
    assert!(own(daemon.pid()) < 4096, "{} KiB", own(daemon.pid()));
    if has_root() {
        let knows = |pid| memory(pid).windows(19).any(|bytes| bytes == b"not-for-the-starter");
        assert!(knows(daemon.daemon_pid()) && !knows(daemon.pid()));
        // The signals, and the socket to the daemon.
        assert_eq!(descriptors(daemon.pid()).iter().filter(|name| name.starts_with("socket:")).count(), 1);
        let files = descriptors(daemon.pid());
        let in_directories = files.iter().filter(|name| name.starts_with(daemon.path("").to_str().unwrap()));
        assert_eq!(in_directories.collect::<Vec<_>>(), [daemon.path("log").to_str().unwrap()]);
    }
}

/// A supervisor without control groups kills the process that it knows, and starts another at once.
#[test]
fn the_end_of_the_starter_kills_the_daemon_and_the_next_can_start_at_once() {
    let mut daemon = Daemon::dev("");
    for _ in 0..5 {
        let before = daemon.daemon_pid();
        kill_process(daemon.pid(), Signal::KILL).unwrap();
        assert_eq!(daemon.end_of_killed().signal(), Some(9));
        daemon.start(&["--dev"]);
        assert!(!is_there(before));
    }
    assert!(daemon.end(Signal::TERM).success());
}

#[test]
fn the_end_of_the_daemon_ends_the_starter_in_the_same_way() {
    let mut daemon = Daemon::dev("");
    for signal in [Signal::KILL, Signal::ABORT] {
        kill_process(daemon.daemon_pid(), signal).unwrap();
        assert_eq!(daemon.end_of_killed().signal(), Some(signal.as_raw()));
        daemon.start(&["--dev"]);
    }
    // An administrator may know the process id from `keyward status`.
    kill_process(daemon.daemon_pid(), Signal::TERM).unwrap();
    assert!(daemon.end_of_killed().success());
}

/// systemd sends SIGTERM to each process of the service, and a terminal sends SIGINT.
#[test]
fn signals_to_both_processes_do_not_shorten_the_drain() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = Daemon::dev("");
        let mut slow = UnixStream::connect(daemon.path("run/admin.sock")).unwrap();
        slow.write_all(b"POST /v1/keys HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n\r\n{").unwrap();
        // When the daemon answers this request, it has begun with the request before.
        daemon.succeed(&["key", "list"]);
        let (began, child) = (Instant::now(), daemon.daemon_pid());
        for pid in [daemon.pid(), child, child] {
            kill_process(pid, signal).unwrap();
        }
        assert!(daemon.end(signal).success());
        let log = daemon.log();
        assert!(log.contains("gave up requests of administrators") && log.contains("stopped"), "{log}");
        assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    }
}

/// systemd passes sockets to the process that it starts.
#[test]
fn the_daemon_takes_sockets_that_were_passed_to_its_starter() {
    for (pid, is_ours) in [("$$", true), ("1", false)] {
        let mut daemon = Daemon::prepare("");
        let path = daemon.path("passed.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let script = format!("exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID={pid} exec \"$@\"");
        let serve = daemon.serve(&["--dev"]);
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, "sh", PROGRAM]).args(serve.get_args());
        daemon.start_with_input(&mut shell, OwnedFd::from(listener).into());
        // With its copy of the listener.
        drop(shell);
        let answers = |daemon: &Daemon| {
            let address = if is_ours { path.clone() } else { daemon.path("run/keyward.sock") };
            let address = address.to_str().unwrap().parse().unwrap();
            keyward_client::Client::new(address, Duration::from_secs(10)).status().is_ok()
        };
        assert!(answers(&daemon));
        assert_eq!(daemon.path("run/keyward.sock").exists(), !is_ours);
        if is_ours {
            daemon.signal(Signal::USR2);
            daemon.await_ready();
            assert!(answers(&daemon));
            // Only the daemon has the sockets, so its end is the end of the sockets.
            let sockets = descriptors(daemon.pid());
            assert_eq!(sockets.iter().filter(|name| name.starts_with("socket:")).count(), 1);
        }
        assert!(daemon.end(Signal::TERM).success());
        assert!(UnixStream::connect(&path).is_err() || !is_ours);
    }
}

/// The program disappears between the check and the execution.
#[test]
fn a_program_that_cannot_be_executed_is_an_error() {
    let mut daemon = Daemon::prepare("");
    let program = start_copy(&mut daemon);
    put(&program, "#!/bin/sh\nrm \"$0\"\n");
    daemon.signal(Signal::USR2);
    assert_eq!(daemon.end_of_killed().code(), Some(71));
    let log = daemon.log();
    assert!(log.contains("keyward: cannot execute the new program: "), "{log}");
}

/// An attacker who has taken over the daemon sends messages to the starter.
#[test]
fn a_starter_executes_nothing_after_an_unexpected_message() {
    if !has_root() {
        return;
    }
    for packets in [&[&b"z"[..]][..], &[b"x", b"c"], &[b"k"], &[b"c", b"c"]] {
        let mut daemon = Daemon::prepare("");
        let program = start_copy(&mut daemon);
        let began = daemon.path("began");
        if packets == [b"c", b"c"] {
            put(&program, "#!/bin/sh\nexec sleep 60\n");
        } else {
            put(&program, &format!("#!/bin/sh\n: > {}\n", began.display()));
        }
        let link = link_of(daemon.daemon_pid());
        for packet in packets {
            rustix::net::send(&link, packet, SendFlags::NOSIGNAL).unwrap();
        }
        daemon.await_log("keyward: the daemon sent an unexpected message to its starter");
        drop(link);
        daemon.signal(Signal::USR2);
        daemon.await_log("not upgraded, this program goes on: no answer of the process that started");
        assert!(!began.exists());
        daemon.client().status().unwrap();
        assert!(daemon.end(Signal::TERM).success());
    }
}

/// Process 1 of a container does not die by its own signals, and gets the children of others.
#[test]
fn a_starter_can_be_the_first_process_of_a_container() {
    if !has_root() {
        return;
    }
    let mut daemon = Daemon::prepare("");
    let serve = daemon.serve(&["--dev"]);
    let mut container = Command::new("unshare");
    container.args(["--pid", "--fork", "--mount-proc", "--kill-child", PROGRAM]).args(serve.get_args());
    daemon.start_as(&mut container);
    let starter = daemon.daemon_pid();
    // An orphan becomes a child of process 1.
    let mut orphan = Command::new("nsenter");
    orphan.args(["--target", &starter.to_string(), "--pid", "--mount"]);
    assert!(orphan.args(["sh", "-c", "sleep 0.01 &"]).stdout(Stdio::null()).status().unwrap().success());
    let before = children(starter)[0];
    kill_process(starter, Signal::USR2).unwrap();
    daemon.await_ready();
    let deadline = Instant::now() + Duration::from_secs(10);
    while children(starter).len() != 1 {
        assert!(Instant::now() < deadline, "{:?}", children(starter));
        thread::sleep(Duration::from_millis(5));
    }
    let after = children(starter)[0];
    assert_ne!(before, after);
    kill_process(after, Signal::KILL).unwrap();
    assert_eq!(daemon.end_of_killed().code(), Some(128 + 9));
}

/// A person who sets the variable of the starter gets no daemon without a starter.
#[test]
fn a_daemon_needs_its_starter() {
    let daemon = Daemon::prepare("");
    let mut serve = daemon.serve(&["--dev"]);
    let output = serve.env("KEYWARD_STARTED", "1").stdin(Stdio::null()).output().unwrap();
    let (status, line) = failure_of(&output);
    assert!(status == 71 && line.starts_with("keyward: cannot start the process of the daemon: "), "{line}");
    // The socket of another process.
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "\"$@\"; exit $?", "sh", PROGRAM]).args(serve.get_args());
    let output = shell.env("KEYWARD_STARTED", "1").stdin(OwnedFd::from(theirs)).output().unwrap();
    let (status, line) = failure_of(&output);
    assert!(status == 71 && line.contains("is gone"), "{line}");
}

/// True if a process has not ended yet. Its parent may not have waited for it.
fn is_there(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

/// Kinds and files of the descriptors of a process; sockets and pipes without their numbers.
fn descriptors(pid: Pid) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut names: Vec<_> = entries
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .map(|link| link.to_str().unwrap().split('[').next().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// Writable memory of a process.
fn memory(pid: Pid) -> Vec<u8> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let file = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut memory = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (begin, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let [begin, end] = [begin, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(end - begin).unwrap()];
        // Some mapped memory cannot be read.
        if file.read_exact_at(&mut bytes, begin).is_ok() {
            memory.append(&mut bytes);
        }
    }
    memory
}

/// A copy of the socket of a daemon to its starter.
fn link_of(daemon: Pid) -> OwnedFd {
    let process = pidfd_open(daemon, PidfdFlags::empty()).unwrap();
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    // SOCK_SEQPACKET of socket(2).
    let sockets = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let inodes: Vec<_> =
        sockets.filter(|words| words[4] == "0005").map(|words| words[6].to_owned()).collect();
    let is_link = |name: &Path| inodes.iter().any(|inode| *name == *format!("socket:[{inode}]"));
    let entries = fs::read_dir(format!("/proc/{daemon}/fd")).unwrap().map(|entry| entry.unwrap());
    let mut links = entries.filter(|entry| fs::read_link(entry.path()).is_ok_and(|name| is_link(&name)));
    let number = links.next().unwrap().file_name().to_str().unwrap().parse().unwrap();
    pidfd_getfd(process, number, PidfdGetfdFlags::empty()).unwrap()
}
