//! The confinement of the process, tried from inside and from outside. The example `inside` is a
//! daemon that tries from inside.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use seccompiler::{SeccompAction, SeccompFilter, apply_filter};
use serde_json::Value;

use crate::audit::await_some;
use crate::fixture::{Daemon, PROGRAM, children, has_root, leave_out};
use crate::users::ALICE;

/// A daemon that has tried something, and the result of each attempt.
struct Inside {
    daemon: Daemon,
    said: BTreeMap<String, String>,
}

impl Inside {
    /// Starts the daemon, or the unit that serves GREP11, and waits until it has tried everything.
    fn new(kind: &str, mut daemon: Daemon, attempts: &[String]) -> Self {
        let output = daemon.path("attempts");
        let mut command = Command::new(example());
        command.arg(kind).args(["keyward.toml", "state", "run"].map(|name| daemon.path(name))).args(attempts);
        command.stdout(File::create(&output).unwrap());
        daemon.start_as(&mut command);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let text = fs::read_to_string(&output).unwrap();
            if text.contains(&format!("{MARK} end: done")) {
                let lines = text.lines().filter_map(|line| line.strip_prefix(MARK)?.trim().split_once(": "));
                let said = lines.map(|(attempt, result)| (attempt.to_owned(), result.to_owned())).collect();
                return Self { daemon, said };
            }
            assert!(Instant::now() < deadline, "{text}\n{}", daemon.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn refused(&self, attempt: &str) {
        let said = &self.said[attempt];
        assert!(said.contains("denied") || said.contains("not permitted"), "{attempt}: {said}");
    }

    fn done(&self, attempt: &str) {
        assert_eq!(self.said[attempt], "done", "{attempt}");
    }
}

fn example() -> PathBuf {
    let example = Path::new(PROGRAM).with_file_name("examples").join("inside");
    assert!(example.exists(), "build the examples too: cargo build --release --examples");
    example
}

/// The measures of a daemon by name: whether each is in force, and its words.
fn measures(daemon: &Daemon) -> BTreeMap<String, (bool, String)> {
    measures_in(&daemon.keyward(&["status", "--json"]).stdout)
}

fn measures_in(status: &[u8]) -> BTreeMap<String, (bool, String)> {
    let status: Value = serde_json::from_slice(status).unwrap();
    let of = |one: &Value| {
        let text = |field: &str| one[field].as_str().unwrap().to_owned();
        (text("measure"), (one["in_force"].as_bool().unwrap(), text("detail")))
    };
    status["confinement"].as_array().unwrap().iter().map(of).collect()
}

/// True if the kernel has Landlock with ports. Otherwise notes the calling test as left out.
fn has_landlock(measures: &BTreeMap<String, (bool, String)>) -> bool {
    let has = measures["files"].0;
    if !has {
        leave_out("needs a kernel with Landlock");
    }
    has
}

fn ended(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_confined_process_cannot_leave() {
    let other = tempfile::tempdir().unwrap();
    let secret = other.path().join("secret");
    fs::write(&secret, "of somebody else").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let sleep = Command::new("sleep").arg("1000").spawn().unwrap();
    let refused = [
        format!("read={}", secret.display()),
        format!("write={}", secret.display()),
        format!("write={}", other.path().join("new").display()),
        "read=/etc/passwd".to_owned(),
        "read=/etc/shadow".to_owned(),
        format!("read={PROGRAM}"),
        format!("connect={port}"),
        "listen".to_owned(),
        "udp".to_owned(),
        "spawn".to_owned(),
        "execute".to_owned(),
        format!("trace={}", sleep.id()),
        format!("signal={}", sleep.id()),
        "user".to_owned(),
    ];
    for kind in ["serve", "unit"] {
        let daemon = Daemon::prepare("");
        let own = [
            format!("read={}", daemon.path("keyward.toml").display()),
            format!("write={}", daemon.path("state/new").display()),
            format!("read=/proc/{}/comm", sleep.id()),
        ];
        let mut refused = refused.to_vec();
        refused.push(format!("setuid={}", daemon.path("state/program").display()));
        let attempts = [own.as_slice(), &refused].concat();
        let mut inside = Inside::new(kind, daemon, &attempts);
        let measures = measures(&inside.daemon);
        if !has_landlock(&measures) {
            break;
        }
        own.iter().for_each(|attempt| inside.done(attempt));
        refused.iter().for_each(|attempt| inside.refused(attempt));
        let not_confined =
            measures.iter().filter(|(_, (in_force, _))| !in_force).map(|(name, _)| name.as_str());
        // Without root, the limit of locked memory can be low.
        assert!(not_confined.clone().all(|name| name == "memory"), "{measures:?}");
        assert_eq!(measures.len(), 6);
        assert!(inside.daemon.end(Signal::TERM).success(), "{}", inside.daemon.log());
    }
    ended(sleep);
}

/// A directory service that hangs keeps nobody from asking the daemon, or from stopping it.
#[test]
fn a_lookup_of_names_that_hangs_stops_nothing_else() {
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    let text = fs::read_to_string(daemon.path("keyward.toml")).unwrap();
    daemon
        .configure(&format!("{text}[[grant]]\nuser = \"nobody\"\nkeys = [\"*\"]\nuses = [\"tls-server\"]\n"));
    let pid = daemon.daemon_pid();
    let helper = children(pid).into_iter().next().unwrap();
    kill_process(helper, Signal::STOP).unwrap();
    daemon.signal(Signal::HUP);
    let begin = Instant::now();
    daemon.succeed(&["status"]);
    assert!(daemon.end(Signal::TERM).success());
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    kill_process(helper, Signal::KILL).unwrap();
}

/// Control: the attempts of the other test succeed in a daemon without its confinement.
#[test]
fn the_attempts_succeed_where_nothing_is_confined() {
    let other = tempfile::tempdir().unwrap();
    let secret = other.path().join("secret");
    fs::write(&secret, "of somebody else").unwrap();
    let attempts = [format!("read={}", secret.display()), "udp".to_owned(), "spawn".to_owned()];
    let old_kernel = [libc::SYS_landlock_create_ruleset, libc::SYS_seccomp];
    let inside = on_kernel_without(&old_kernel, || Inside::new("serve", Daemon::prepare(""), &attempts));
    attempts.iter().for_each(|attempt| inside.done(attempt));
}

/// Acts on a kernel that does not know some system calls. Programs that start there are there, too.
fn on_kernel_without<T: Send>(calls: &[i64], act: impl FnOnce() -> T + Send) -> T {
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    let unknown = SeccompAction::Errno(rustix::io::Errno::NOSYS.raw_os_error() as u32);
    let filter =
        SeccompFilter::new(rules, SeccompAction::Allow, unknown, std::env::consts::ARCH.try_into().unwrap());
    let filter: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
    thread::scope(|scope| {
        let old = scope.spawn(|| {
            apply_filter(&filter).unwrap();
            act()
        });
        old.join().unwrap()
    })
}

#[test]
fn the_status_tells_what_an_older_kernel_cannot_do() {
    let daemon = on_kernel_without(&[libc::SYS_landlock_create_ruleset], || Daemon::dev(""));
    let now = measures(&daemon);
    assert!(!now["files"].0 && now["files"].1.contains("Linux 5.19"), "{now:?}");
    assert!(now["calls"].0 && now["network"].0 && now["dumps"].0 && now["privileges"].0, "{now:?}");
    let told = daemon.keyward(&["status"]);
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(text.contains("unconfined  files: all files of its user") && told.status.success(), "{text}");
    let doctor = String::from_utf8(daemon.keyward(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains("files is not confined") && doctor.contains("docs/security.md"), "{doctor}");

    let daemon = on_kernel_without(&[libc::SYS_seccomp], || Daemon::dev(""));
    let now = measures(&daemon);
    assert!(!now["calls"].0 && now["calls"].1.contains("the kernel refuses the filter"), "{now:?}");
    // Landlock stops TCP alone.
    assert!(!now["network"].0 && now["network"].1 == "every kind of network socket", "{now:?}");

    let daemon = on_kernel_without(&[libc::SYS_mlockall], || Daemon::dev(""));
    let now = measures(&daemon);
    assert!(!now["memory"].0 && now["memory"].1.starts_with("memory can be in the swap space: "), "{now:?}");
}

/// A limit of locked memory could make a later allocation fail.
#[test]
fn memory_is_not_locked_under_a_limit() {
    if !has_root() {
        return;
    }
    let mut daemon = Daemon::prepare("");
    fs::set_permissions(daemon.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    fs::set_permissions(daemon.path("notify"), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    for name in ["state", "run"] {
        fs::create_dir(daemon.path(name)).unwrap();
        std::os::unix::fs::chown(daemon.path(name), Some(ALICE), Some(ALICE)).unwrap();
    }
    fs::set_permissions(daemon.path("state"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let serve = daemon.serve(&["--dev"]);
    let mut limited = Command::new("prlimit");
    limited.arg("--memlock=65536:65536").arg("--").arg(serve.get_program()).args(serve.get_args());
    daemon.start_as(limited.uid(ALICE).gid(ALICE));
    let mut status = Command::new(PROGRAM);
    status.args(["status", "--json", "--runtime-dir"]).arg(daemon.path("run")).uid(ALICE).gid(ALICE);
    let now = measures_in(&status.output().unwrap().stdout);
    assert!(!now["memory"].0 && now["memory"].1.contains("LimitMEMLOCK=infinity"), "{now:?}");
    let others = now.iter().filter(|(name, _)| *name != "memory");
    assert!(others.clone().all(|(_, (in_force, _))| *in_force), "{now:?}");
    assert!(daemon.end(Signal::TERM).success());
}

#[test]
fn a_secret_in_another_directory_waits_for_a_restart() {
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    if !has_landlock(&measures(&daemon)) {
        return;
    }
    let configuration = fs::read_to_string(daemon.path("keyward.toml")).unwrap();
    let other = tempfile::tempdir().unwrap();
    let with_secret = |file: &Path| {
        let text = configuration.replace("[embedded]", &format!("[embedded]\nunseal-passphrase = {file:?}"));
        // An editor puts a new file in the place of the old one.
        fs::write(daemon.path("keyward.toml.new"), text).unwrap();
        fs::rename(daemon.path("keyward.toml.new"), daemon.path("keyward.toml")).unwrap();
        let told = daemon.keyward(&["reload"]);
        assert!(told.status.success() && told.stderr.is_empty(), "{told:?}");
        String::from_utf8(told.stdout).unwrap()
    };
    let secret = |directory: &Path| {
        let file = directory.join("passphrase");
        fs::write(&file, "correct horse battery staple").unwrap();
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        file
    };
    let (far, near) = (secret(other.path()), secret(&daemon.path("")));
    let told = with_secret(&far);
    assert!(told.contains("need a restart") && told.contains("unseal-passphrase ("), "{told}");
    assert_eq!(with_secret(&near), "configuration reloaded\n");
    daemon.end(Signal::TERM);
    let text = configuration.replace("[embedded]", &format!("[embedded]\nunseal-passphrase = {far:?}"));
    daemon.configure(&text);
    daemon.start(&[]);
}

/// A machine with an /etc of its own, in which files are replaced while the daemon runs.
#[test]
fn users_groups_and_hosts_that_come_later_are_known() {
    if !has_root() {
        return;
    }
    let mut unit = Daemon::prepare("");
    let mut serve_unit = Command::new(PROGRAM);
    serve_unit.args(["unit", "serve", "--listen", "127.0.0.1:0", "--plaintext", "--dev"]);
    serve_unit.arg("--state-dir").arg(unit.path("state")).arg("--runtime-dir").arg(unit.path("run"));
    unit.start_as(&mut serve_unit);
    unit.await_log("listen=127.0.0.1:");
    let log = unit.log();
    let port = log.split("listen=127.0.0.1:").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();

    let remote = format!("[grep11.hsm]\nendpoints = [\"localhost:{port}\"]\nplaintext = true\n");
    let daemon = Daemon::prepare(&remote);
    let etc = daemon.path("etc");
    assert!(Command::new("cp").arg("-a").args([Path::new("/etc"), &etc]).status().unwrap().success());
    let replace = |name: &str, line: &str| {
        let text = fs::read_to_string(etc.join(name)).unwrap() + line;
        fs::write(etc.join("new"), text).unwrap();
        fs::rename(etc.join("new"), etc.join(name)).unwrap();
    };
    let other = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let there = other.local_addr().unwrap().port();
    let mut attempts = vec![format!("connect={port}"), "udp".to_owned(), "listen".to_owned()];
    attempts.extend(["connect", "multipath", "fastopen"].map(|verb| format!("{verb}={there}")));
    // The mount is gone with the daemon.
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc && exec \"$@\""]).arg(&etc).arg(example());
    shell.arg("serve").args(["keyward.toml", "state", "run"].map(|name| daemon.path(name))).args(&attempts);
    let output = daemon.path("attempts");
    shell.stdout(File::create(&output).unwrap()).stdin(Stdio::null());
    let mut daemon = daemon;
    daemon.start_as(&mut shell);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256", "--backend", "hsm"]);
    let now = measures(&daemon);
    if !has_landlock(&now) {
        return;
    }
    assert_eq!(now["network"], (true, format!("only TCP connections to the ports {port}")));
    let said = fs::read_to_string(&output).unwrap();
    assert!(said.contains(&format!("connect={port}: done")), "{said}");
    for refused in &attempts[1..] {
        let line = said.lines().find(|line| line.contains(refused)).unwrap();
        let is_refused = ["denied", "not permitted", "not implemented"].iter().any(|why| line.contains(why));
        assert!(is_refused, "{refused}: {said}");
    }

    let grants =
        "[[grant]]\nuser = \"newcomer\"\nkeys = [\"*\"]\n[[grant]]\ngroup = \"newcomers\"\nkeys = [\"*\"]\n";
    daemon.configure(&(remote + grants));
    let (_, line) = daemon.fail(&["reload"]);
    assert!(line.contains("there is no user \"newcomer\" on this machine"), "{line}");
    replace("passwd", "newcomer:x:7010:7010::/:/bin/false\n");
    replace("group", "newcomers:x:7011:\n");
    assert_eq!(daemon.succeed(&["reload"]), "configuration reloaded\n");
    replace("hosts", "127.0.0.1 later.test\n");
    daemon.succeed(&["key", "generate", "later", "--type", "p256", "--backend", "hsm"]);

    // The helper is gone: whom the daemon does not know any more is said in the status.
    let children =
        fs::read_to_string(format!("/proc/{0}/task/{0}/children", daemon.daemon_pid().as_raw_nonzero()));
    let helper = children.unwrap().trim().parse().ok().and_then(Pid::from_raw).unwrap();
    // A confined daemon on a kernel without Landlock could change a process that it can trace.
    let memory = fs::metadata(format!("/proc/{}/mem", helper.as_raw_nonzero())).unwrap();
    assert_eq!(memory.uid(), 0, "the helper is not dumpable");
    kill_process(helper, Signal::KILL).unwrap();
    await_some(|| {
        let told = String::from_utf8(daemon.keyward(&["status"]).stdout).unwrap();
        told.contains("problem     the process that looks up names").then_some(())
    });
    let (_, line) = daemon.fail(&["reload"]);
    assert!(line.contains("has ended") && line.contains("restart the daemon"), "{line}");
    let told = String::from_utf8(daemon.keyward(&["status"]).stdout).unwrap();
    assert!(told.contains("problem     the process that looks up names"), "{told}");
    daemon.succeed(&["key", "generate", "still", "--type", "p256", "--backend", "hsm"]);
}

/// No program that is installed can be made to try what the example tries.
#[test]
fn the_program_has_no_way_to_the_attempts() {
    let has = |program: &Path| {
        let bytes = fs::read(program).unwrap();
        bytes.windows(MARK.len()).any(|window| window == MARK.as_bytes())
    };
    assert!(has(&example()));
    assert!(!has(Path::new(PROGRAM)));
}

/// Begins each line of the example.
const MARK: &str = "attempted from inside:";
