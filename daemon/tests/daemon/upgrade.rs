//! SIGUSR2, which makes the starter of the daemon execute another program, and the drain that
//! SIGUSR2 and SIGTERM have in common.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use keyward_client::Error;
use keyward_proto::Outcome;
use keyward_proto::frame;
use keyward_proto::message::{GetStatus, Request, request};
use rustix::process::{Pid, Signal, kill_process};

use crate::fixture::{Daemon, PROGRAM, certificate_verify, failure_of, has_root};

/// Maximum time of a drain with users who send requests without end, or with slow administrators.
const SOON: Duration = Duration::from_secs(3);

/// A user without a grant must not make other users wait for the daemon.
#[test]
fn users_who_send_requests_without_end_do_not_delay_the_end() {
    let mut daemon = Daemon::production(&[]);
    for signal in [Signal::USR2, Signal::TERM] {
        let streams: Vec<_> = (0..16).map(|_| daemon.connect()).collect();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for (number, stream) in streams.iter().enumerate() {
                let is_over = &is_over;
                // Some connections read their answers.
                scope.spawn(move || flood(stream, is_over, number % 2 == 0));
            }
            let _over = Over(&is_over);
            // So that all of the requests are in progress. On a busy machine, so many of them wait
            // that this one is refused.
            let answer = daemon.client().status().map(drop);
            let is_refused = matches!(answer, Err(Error::Refused(Outcome::Overloaded)));
            assert!(answer.is_ok() || is_refused, "{answer:?}");
            let began = Instant::now();
            match signal {
                Signal::TERM => assert!(daemon.end(signal).success()),
                _ => {
                    daemon.signal(signal);
                    daemon.await_ready();
                }
            }
            let took = began.elapsed();
            assert!(took < SOON, "{signal:?}: {took:?}");
        });
    }
    assert!(!daemon.log().contains("unanswered"), "{}", daemon.log());
}

/// Ends the flood, also if the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks for the status again and again, and reads the answers if `takes`.
fn flood(mut stream: &UnixStream, is_over: &AtomicBool, takes: bool) {
    let body = Some(request::Body::GetStatus(GetStatus {}));
    let ask = frame::encode(&Request { id: 1, body, ..Request::default() }).unwrap();
    let asks = ask.repeat(4096 / ask.len());
    stream.set_nonblocking(true).unwrap();
    // The rest of a frame that was not sent completely comes first.
    let (mut at, mut answers) = (0, [0; 64 * 1024]);
    let would_block = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    while !is_over.load(Ordering::Relaxed) {
        match stream.write(&asks[at..]) {
            Ok(count) => at = (at + count) % asks.len(),
            Err(error) if would_block(&error) => thread::yield_now(),
            Err(_) => return,
        }
        while takes && !is_over.load(Ordering::Relaxed) {
            match stream.read(&mut answers) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if would_block(&error) => break,
                Err(_) => return,
            }
        }
    }
}

/// An administrator who reads a backup slowly must not make servers wait.
#[test]
fn a_slow_administrator_does_not_delay_the_others() {
    let mut daemon = Daemon::dev("");
    for stops in [false, true] {
        let mut slow = UnixStream::connect(daemon.path("run/admin.sock")).unwrap();
        slow.write_all(b"POST /v1/keys HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n\r\n{").unwrap();
        // When the daemon answers this request, it has begun with the request before.
        daemon.succeed(&["key", "list"]);
        let began = Instant::now();
        daemon.signal(Signal::USR2);
        match stops {
            false => daemon.await_ready(),
            true => {
                daemon.await_log_times("upgrading", 2);
                assert!(daemon.end(Signal::TERM).success(), "who is told to stop does not go on");
            }
        }
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        let mut answer = Vec::new();
        let _ = slow.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
    let log = daemon.log();
    assert!(log.contains("gave up requests of administrators") && log.contains("not going on"), "{log}");
}

/// The next program checks the configuration slowly.
#[test]
fn signals_take_effect_while_the_next_program_is_checked() {
    let mut daemon = Daemon::prepare("");
    let program = start_copy(&mut daemon);
    let go = daemon.path("go");
    put(&program, &format!("#!/bin/sh\nwhile ! [ -e {} ]; do sleep 0.01; done\nexit 1\n", go.display()));
    daemon.signal(Signal::USR2);
    daemon.signal(Signal::HUP);
    fs::write(&go, "").unwrap();
    daemon.await_log("not upgraded");
    daemon.await_ready();
    assert!(daemon.log().contains("reloaded"), "{}", daemon.log());

    let began = daemon.path("began");
    put(&program, &format!("#!/bin/sh\n: > {}\nexec sleep 60\n", began.display()));
    daemon.signal(Signal::USR2);
    while !began.exists() {
        thread::sleep(Duration::from_millis(5));
    }
    let at = Instant::now();
    assert!(daemon.end(Signal::TERM).success());
    assert!(at.elapsed() < SOON, "{:?}", at.elapsed());
}

/// A unit that accepts connections and sends no answer delays the start of the daemon, and no
/// signal prevents the daemon from being stopped.
#[test]
fn a_daemon_that_is_starting_can_be_stopped_after_other_signals() {
    let unit = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = unit.local_addr().unwrap();
    let config = format!("[grep11.hsm]\nendpoints = [\"{address}\"]\nplaintext = true\n");
    let daemon = Daemon::prepare(&config);
    let mut child = daemon.serve(&["--dev"]).stderr(Stdio::null()).spawn().unwrap();
    let _connection = unit.accept().unwrap();
    let pid = Pid::from_child(&child);
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2] {
        kill_process(pid, signal).unwrap();
        // A signal without effect leaves no trace that the test could wait for.
        thread::sleep(Duration::from_millis(50));
    }
    let at = Instant::now();
    kill_process(pid, Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    // The daemon waits two seconds for the unit.
    assert!(at.elapsed() < Duration::from_secs(1), "{:?}", at.elapsed());
}

/// A supervisor and an administrator may send signals at the same time.
#[test]
fn no_signal_kills_a_daemon_that_executes_another_program() {
    let daemon = Daemon::dev("");
    let (is_over, deadline) = (AtomicBool::new(false), Instant::now() + Duration::from_secs(20));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) && Instant::now() < deadline {
                for signal in [Signal::USR2, Signal::HUP, Signal::USR1] {
                    // The daemon may have ended.
                    let _ = kill_process(daemon.pid(), signal);
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        while daemon.log().matches("runtime_dir=").count() < 5 {
            let is_alive = daemon.client().status().is_ok() && Instant::now() < deadline;
            is_over.fetch_or(!is_alive, Ordering::Relaxed);
            assert!(is_alive, "{}", daemon.log());
            daemon.await_ready();
        }
        is_over.store(true, Ordering::Relaxed);
    });
    daemon.client().status().unwrap();
}

/// Only this program has the open file of the store, so the store would be lost with the program.
#[test]
fn a_daemon_whose_store_is_gone_does_not_execute_another_program() {
    let daemon = Daemon::dev("");
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let (store, aside) = (daemon.path("state/keys.redb"), daemon.path("state/aside"));
    fs::rename(&store, &aside).unwrap();
    daemon.signal(Signal::USR2);
    daemon.await_log("not upgraded");
    assert!(daemon.log().contains("keys.redb"), "{}", daemon.log());
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
    fs::rename(&aside, &store).unwrap();
    daemon.signal(Signal::USR2);
    daemon.await_ready();
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
}

/// The configuration is valid, and the files on the disk are not: the next program would not start,
/// or other users could read its files.
#[test]
fn a_daemon_does_not_execute_a_program_that_would_not_start() {
    let mut daemon = Daemon::prepare("");
    let extra = daemon.path("extra");
    fs::create_dir(&extra).unwrap();
    daemon.configure(&format!("[socket]\nalso = [{:?}]\n", extra.join("x.sock")));
    daemon.start(&["--dev"]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let cases = [
        ("state", 0o777, 0o700),
        ("state/keys.redb", 0o666, 0o600),
        ("run", 0o777, 0o755),
        ("extra", 0o1777, 0o755),
    ];
    for (number, (name, open, closed)) in cases.into_iter().enumerate() {
        let (path, mode) = (daemon.path(name), Permissions::from_mode);
        fs::set_permissions(&path, mode(open)).unwrap();
        daemon.signal(Signal::USR2);
        daemon.await_log_times("not upgraded", number + 1);
        let log = daemon.log();
        assert!(log.lines().last().unwrap().contains(path.to_str().unwrap()), "{log}");
        // `serve --check-config` reports the same.
        let (status, line) = failure_of(&daemon.serve(&["--dev", "--check-config"]).output().unwrap());
        assert!(status == 78 && line.contains(path.to_str().unwrap()), "{status} {line}");
        fs::set_permissions(&path, mode(closed)).unwrap();
    }
    // A problem that arises after the check must not take the keys from servers.
    fs::remove_file(extra.join("x.sock")).unwrap();
    daemon.signal(Signal::USR2);
    daemon.await_ready();
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);

    // The running daemon reports problems of files that only the daemon can read.
    for (format, is_known) in [("2", false), ("3", true), ("1", false), ("4", false)] {
        let mut check = daemon.serve(&["--dev", "--check-config"]);
        let output = check.env("KEYWARD_RUNNING_FORMAT", format).output().unwrap();
        assert_eq!(output.status.success(), is_known, "{format}: {output:?}");
    }
    // A daemon of this version has no store to migrate.
    let migrate = daemon.serve(&["--dev", "--migrate-store"]).output().unwrap();
    assert!(String::from_utf8(migrate.stdout).unwrap().contains("has the format of this version already"));
    // The permit for the file, as for a daemon of an earlier version.
    let file = fs::metadata(daemon.path("state/keys.redb")).unwrap();
    let permit = format!("{} {}\n", file.dev(), file.ino());
    fs::write(daemon.path("state/keys.redb.migrate"), permit).unwrap();
    let mut check = daemon.serve(&["--dev", "--check-config"]);
    assert!(check.env("KEYWARD_RUNNING_FORMAT", "2").output().unwrap().status.success());
    daemon.signal(Signal::USR2);
    daemon.await_ready();
    assert!(!daemon.path("state/keys.redb.migrate").exists(), "the permit is not for this format");
}

/// A check by root accepts files that are right for the user of the daemon.
#[test]
fn root_checks_for_the_user_of_the_daemon() {
    if !has_root() {
        return;
    }
    let daemon = Daemon::prepare("");
    for name in ["state", "run"] {
        fs::create_dir(daemon.path(name)).unwrap();
        chown(daemon.path(name), Some(7001), Some(7001)).unwrap();
    }
    fs::set_permissions(daemon.path("state"), Permissions::from_mode(0o700)).unwrap();
    let mut check = daemon.serve(&["--dev", "--check-config"]);
    let output = check.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    // A daemon that runs as root would not start with these files.
    let output = check.env("KEYWARD_RUNNING_FORMAT", "3").output().unwrap();
    assert!(!output.status.success(), "{output:?}");
}

/// A path with a line break is one path. A socket that is no longer configured is removed.
#[test]
fn after_an_upgrade_the_sockets_are_as_configured() {
    let mut daemon = Daemon::prepare("");
    let extra = daemon.path("extra.sock");
    daemon.configure(&format!("[socket]\nalso = [{extra:?}]\n"));
    let run = daemon.path("a\nb");
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--dev", "--config"]).arg(daemon.path("keyward.toml"));
    command.arg("--state-dir").arg(daemon.path("state")).arg("--runtime-dir").arg(&run);
    daemon.start_as(&mut command);
    let inode = || fs::metadata(run.join("keyward.sock")).unwrap().ino();
    let before = inode();
    daemon.configure("");
    daemon.signal(Signal::USR2);
    daemon.await_ready();
    assert_eq!(inode(), before);
    assert!(UnixStream::connect(run.join("admin.sock")).is_ok());
    assert!(!extra.exists());
}

/// Packages of other systems and `/etc/alternatives` use such links.
#[test]
fn the_next_program_is_the_present_target_of_the_link() {
    let mut daemon = Daemon::prepare("");
    let link = daemon.path("keyward");
    for (name, by_path) in [("one", true), ("two", false)] {
        let program = daemon.path(name);
        copy(Path::new(PROGRAM), &program);
        let _ = fs::remove_file(&link);
        symlink(&program, &link).unwrap();
        let mut command = if by_path { Command::new(&link) } else { Command::new("keyward") };
        command.env("PATH", daemon.path(""));
        daemon.start_as(command.args(daemon.serve(&["--dev"]).get_args()));
        for round in 0..2 {
            let next = daemon.path(&format!("{name}-{round}"));
            copy(Path::new(PROGRAM), &next);
            fs::remove_file(&link).unwrap();
            symlink(&next, &link).unwrap();
            daemon.signal(Signal::USR2);
            daemon.await_ready();
            let runs = fs::read_link(format!("/proc/{}/exe", daemon.pid().as_raw_nonzero())).unwrap();
            assert_eq!(runs, next);
        }
        daemon.end(Signal::TERM);
    }
}

/// Starts a copy of the program, so that a test can replace the copy. Returns the path of the copy.
pub(crate) fn start_copy(daemon: &mut Daemon) -> PathBuf {
    let program = daemon.path("keyward");
    copy(Path::new(PROGRAM), &program);
    let mut command = Command::new(&program);
    daemon.start_as(command.args(daemon.serve(&["--dev"]).get_args()));
    program
}

/// Replaces a program by a script, as a package does.
pub(crate) fn put(program: &Path, script: &str) {
    let [text, next] = ["text", "next"].map(|extension| program.with_extension(extension));
    fs::write(&text, script).unwrap();
    copy(&text, &next);
    fs::set_permissions(&next, Permissions::from_mode(0o755)).unwrap();
    fs::rename(&next, program).unwrap();
}

/// Copies a program in a process of its own: a test that starts a process at this moment hands its
/// child a copy of every descriptor, and nobody can execute a file that is open for writing.
pub(crate) fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success());
}
