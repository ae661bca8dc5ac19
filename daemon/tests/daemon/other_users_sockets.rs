//! Sockets of another user, and sockets in directories of another user.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::process::{Pid, Signal, kill_process};

use crate::fixture::{Daemon, PROGRAM, children, failure_of, has_root};
use crate::users::{ALICE, MALLORY, as_user, in_time, listener_of, private_key, received};

#[test]
fn no_key_is_sent_to_a_server_of_another_user() {
    if !has_root() {
        return;
    }
    let daemon = Daemon::prepare("");
    fs::set_permissions(daemon.path(""), Permissions::from_mode(0o711)).unwrap();
    fs::create_dir(daemon.path("run")).unwrap();
    fs::write(daemon.path("plain.pem"), private_key()).unwrap();
    let import = || {
        let mut import = Command::new(PROGRAM);
        import.args(["key", "import", "shop", "--in"]).arg(daemon.path("plain.pem"));
        in_time(import.arg("--runtime-dir").arg(daemon.path("run")))
    };
    let refused = |listener: UnixListener, words: &[&str]| {
        let (status, line) = failure_of(&import());
        assert_eq!(received(&listener), "", "before {line}");
        assert_eq!(status, 77, "{line}");
        assert!(words.iter().all(|word| line.contains(word)), "{line} lacks one of {words:?}");
        fs::remove_file(daemon.path("run/admin.sock")).unwrap();
    };
    // The directory and the socket belong to Mallory.
    chown(daemon.path("run"), Some(MALLORY), None).unwrap();
    let socket = daemon.path("run/admin.sock");
    let listener = as_user(MALLORY, || UnixListener::bind(&socket).unwrap());
    refused(listener, &["belongs to user id 7001", "run this as that user"]);
    // The directory belongs to Mallory, and the socket is a link to a socket of root that would log
    // all that it receives.
    let roots = UnixListener::bind(daemon.path("journal.sock")).unwrap();
    as_user(MALLORY, || symlink(daemon.path("journal.sock"), &socket).unwrap());
    refused(roots, &["belongs to user id 7001"]);
    // The directory is safe now, but was not when another user began to listen there.
    chown(daemon.path("run"), Some(0), None).unwrap();
    refused(listener_of(MALLORY, &socket), &["runs as user id 7001", "setpriv --reuid 7001"]);
}

#[test]
fn a_daemon_of_another_user_is_administered_as_that_user() {
    if !has_root() {
        return;
    }
    let mut daemon = Daemon::prepare("");
    fs::set_permissions(daemon.path(""), Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(daemon.path("notify"), Permissions::from_mode(0o777)).unwrap();
    for directory in ["state", "run"] {
        fs::create_dir(daemon.path(directory)).unwrap();
        chown(daemon.path(directory), Some(ALICE), Some(ALICE)).unwrap();
    }
    let mut serve = daemon.serve(&["--dev"]);
    daemon.start_as(serve.uid(ALICE).gid(ALICE));
    let list = |uid| {
        let mut list = Command::new(PROGRAM);
        list.args(["key", "list", "--runtime-dir"]).arg(daemon.path("run")).uid(uid);
        list.output().unwrap()
    };
    assert!(list(ALICE).status.success());
    let (status, line) = failure_of(&list(0));
    assert_eq!(status, 77);
    assert!(line.contains("user id 7002"), "{line}");
}

#[test]
fn a_running_daemon_does_not_load_files_that_another_user_wrote() {
    if !has_root() {
        return;
    }
    let daemon = Daemon::dev("");
    daemon.configure("log = \"debug\"\n");
    fs::set_permissions(daemon.path("keyward.toml"), Permissions::from_mode(0o666)).unwrap();
    daemon.signal(Signal::HUP);
    daemon.await_ready();
    assert!(daemon.log().contains("not reloaded"), "{}", daemon.log());
    assert!(!daemon.log().contains("configuration reloaded"));
}

#[test]
fn no_socket_is_bound_where_every_user_could_have_put_another_one() {
    for mode in [0o777, 0o1777, 0o1775] {
        let daemon = Daemon::prepare("");
        let room = daemon.path("room");
        fs::create_dir(&room).unwrap();
        fs::set_permissions(&room, Permissions::from_mode(mode)).unwrap();
        daemon.configure(&format!("[socket]\nalso = [{:?}]\n", room.join("s")));
        let (status, line) = failure_of(&in_time(&daemon.serve(&["--dev"])));
        assert_eq!(status, 69, "{line}");
        assert!(line.contains("cannot listen on") && line.contains("room"), "{line}");
        assert_eq!(fs::read_dir(&room).unwrap().count(), 0);
    }
}

/// The daemon of root binds a socket for a server of Mallory in a directory of Mallory. Before the
/// daemon sets the mode of the socket, Mallory replaces the socket by a link. The daemon must not
/// change the mode of a file of root.
#[test]
fn no_mode_is_changed_through_links_of_the_owner_of_a_directory() {
    if !has_root() {
        return;
    }
    let daemon = Daemon::prepare("");
    fs::set_permissions(daemon.path(""), Permissions::from_mode(0o711)).unwrap();
    let (room, victim) = (daemon.path("room"), daemon.path("victim"));
    fs::write(&victim, "secret").unwrap();
    fs::set_permissions(&victim, Permissions::from_mode(0o600)).unwrap();
    daemon.configure(&format!("[socket]\nalso = [{:?}]\n", room.join("s")));
    let mut hits = 0;
    for _ in 0..300 {
        let _ = fs::remove_dir_all(&room);
        fs::create_dir_all(room.join("trap")).unwrap();
        symlink(&victim, room.join("trap/s")).unwrap();
        chown(&room, Some(MALLORY), Some(MALLORY)).unwrap();
        let mut serve = daemon.serve(&["--dev"]);
        let mut child = serve.stderr(Stdio::null()).spawn().unwrap();
        let starter = Pid::from_child(&child);
        let process = loop {
            if let Some(process) = children(starter).first() {
                break *process;
            }
        };
        let made = room.join(format!(".{process}"));
        let is_hit = is_stopped_in_time(process, &mut child, &made, &room.join("s"));
        if is_hit {
            as_user(MALLORY, || {
                renameat_with(CWD, room.join("trap"), CWD, &made, RenameFlags::EXCHANGE).unwrap();
            });
        }
        signal(process, Signal::CONT);
        // Mallory can prevent the daemon from listening there; then the daemon reports that and
        // ends.
        let due = Instant::now() + Duration::from_secs(10);
        while is_hit
            && child.try_wait().unwrap().is_none()
            && !room.join("s").exists()
            && Instant::now() < due
        {
            thread::yield_now();
        }
        let _ = child.kill();
        child.wait().unwrap();
        assert_eq!(fs::metadata(&victim).unwrap().permissions().mode() & 0o777, 0o600);
        hits += u32::from(is_hit);
        if hits == 3 {
            return;
        }
    }
    panic!("Mallory was too late each time");
}

/// Stops a daemon after its socket has a name in the directory `made`, and before the socket has
/// its mode. True if that worked. `child` is the starter of the daemon.
fn is_stopped_in_time(daemon: Pid, child: &mut Child, made: &Path, socket: &Path) -> bool {
    while !made.exists() && !socket.exists() && child.try_wait().unwrap().is_none() {}
    while child.try_wait().unwrap().is_none() && !socket.exists() {
        signal(daemon, Signal::STOP);
        let stat = format!("/proc/{daemon}/stat");
        let is_stopped = || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T "));
        while !is_stopped() && child.try_wait().unwrap().is_none() {}
        if let Ok(metadata) = fs::symlink_metadata(made.join("s")) {
            return metadata.permissions().mode() & 0o777 != 0o666;
        }
        signal(daemon, Signal::CONT);
    }
    false
}

/// Sends a signal, unless the process has ended.
fn signal(process: Pid, signal: Signal) {
    let _ = kill_process(process, signal);
}
