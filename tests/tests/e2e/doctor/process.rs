//! Processes of servers: their environment, their root, and the socket that they reach from there.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use keyward_tests::pki::openssl;
use keyward_tests::server::Site;
use keyward_tests::tool::{Process, as_user, run, wait_for};
use keyward_tests::{Daemon, Haproxy, Nginx, OpenSsl, Pki, free_port, has_root};

use super::{Finding, OTHER, Scene, doctor, findings};

#[test]
fn a_process_is_without_the_variable() {
    let scene = Scene::new();
    let conf = scene.daemon.openssl_conf();
    let find = |pid: u32| {
        let pid = pid.to_string();
        let mut found = doctor(&scene.daemon, "process", &[&"--openssl-conf", &conf, &"--pid", &pid]);
        assert_eq!(found.len(), 1, "{found:#?}");
        found.remove(0)
    };
    // A server that has loaded OpenSSL when it starts to listen.
    let pki = Pki::new(scene.daemon.directory());
    let (certificate, key) = pki.leaf("plain");
    let server = |number: u8, variable: Option<&Path>| {
        let mut command = openssl(&["s_server", "-quiet"]);
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        command.arg("-accept").arg(address.to_string()).arg("-cert").arg(&certificate).arg("-key").arg(&key);
        command.envs(variable.map(|path| ("OPENSSL_CONF", path)));
        let process = Process::start(&mut command, &scene.daemon.path(&format!("s_server-{number}.log")));
        wait_for("s_server", || TcpStream::connect(address).ok());
        process
    };
    let fixes = format!("OPENSSL_CONF={} for the service, and restart it", conf.display());

    let right = server(1, Some(&conf));
    let [verdict, detail, _] = find(right.id());
    assert!(verdict == "ok" && detail.contains("keyward.so"), "{verdict}: {detail}");

    let other = scene.daemon.path("other.cnf");
    fs::write(&other, "").unwrap();
    let wrong = server(2, Some(&other));
    let [verdict, detail, fix] = find(wrong.id());
    assert!(verdict == "fail" && detail.contains("that is not"), "{verdict}: {detail}");
    assert!(fix.contains(&fixes), "{fix}");

    let without = server(3, None);
    let [verdict, detail, fix] = find(without.id());
    assert!(verdict == "fail" && detail.contains("has no OPENSSL_CONF; it has not loaded"), "{detail}");
    assert!(fix.contains(&fixes), "{fix}");

    // nginx overwrites its environment. The doctor then finds the provider among the loaded
    // libraries.
    let site = Site::new(certificate, key);
    let nginx = Nginx::start(&scene.daemon, &[site]);
    for pid in nginx.workers().into_iter().chain([nginx.id()]) {
        let [verdict, detail, _] = find(pid);
        assert!(verdict == "ok" && detail.contains("keyward.so"), "{verdict}: {detail}");
    }

    let [verdict, detail, _] = find(u32::MAX / 4);
    assert!(verdict == "fail" && detail.contains("No such file"), "{detail}");
    if has_root() {
        let mut doctor = scene.daemon.keyward(&["doctor"]);
        let output = run(&mut as_user(OTHER, doctor.arg("--pid").arg(right.id().to_string())));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("may not see the environment of process"), "{text}");
        // Root without the capabilities that the kernel requires, as in a container.
        let mut lesser = Command::new("setpriv");
        lesser.args(["--bounding-set", "-all", "--inh-caps", "-all", "--"]).arg(doctor.get_program());
        lesser.args(doctor.get_args());
        let text = String::from_utf8_lossy(&run(&mut lesser).stdout).into_owned();
        let told = format!("the kernel does not show the environment of process {}, not even", right.id());
        assert!(text.contains(&told) && !text.contains("doctor as root\n"), "{text}");
    }
}

#[test]
fn the_socket_of_the_configuration_is_no_socket_of_the_daemon() {
    let scene = Scene::new();
    let socket = scene.daemon.socket().display().to_string();
    let find = |conf: &Path| doctor(&scene.daemon, "socket", &[&"--openssl-conf", &conf]);
    assert_eq!(find(&scene.conf("", "")).len(), 1);
    for elsewhere in ["/nowhere/keyward.sock", "@keyward-nowhere"] {
        let found = find(&scene.conf(&socket, elsewhere));
        let [[own, ..], [verdict, detail, fix]] = &found[..] else { panic!("{found:#?}") };
        assert!(own == "ok" && verdict == "fail" && detail.contains(elsewhere), "{detail}");
        assert!(fix.contains("let socket in openssl.cnf name a socket of the daemon"), "{fix}");
    }
}

#[test]
fn the_socket_is_out_of_reach_from_a_chroot() {
    let mut daemon = Daemon::prepare("");
    let root = daemon.path("chroot");
    fs::create_dir(&root).unwrap();
    let inside = root.join("keyward.sock");
    daemon.configure_more(&format!("[socket]\nalso = [{inside:?}]\n"));
    daemon.resume();
    let good = daemon.least_openssl_conf(OpenSsl::System);
    let scene = Scene { daemon, good };
    let socket = format!("socket = {}", scene.daemon.socket().display());
    let find = |conf: &Path, more: &[&dyn AsRef<OsStr>]| {
        let arguments =
            [&[&"--openssl-conf" as &dyn AsRef<OsStr>, &conf, &"--chroot", &root][..], more].concat();
        ["chroot", "user"]
            .into_iter()
            .flat_map(|check| doctor(&scene.daemon, check, &arguments))
            .collect::<Vec<_>>()
    };
    let one = |found: Vec<Finding>, verdict: &str, told: &str, fix: &str| {
        let [[got, detail, fixes]] = &found[..] else { panic!("{found:#?}") };
        assert!(got == verdict && detail.contains(told), "{told:?} in {got}: {detail}");
        assert!(fixes.contains(fix), "{fix:?} in {fixes:?}");
    };
    let found = doctor(&scene.daemon, "chroot", &[&"--chroot", &"/nowhere"]);
    one(found, "fail", "there is no directory /nowhere", "--chroot DIR");
    // The path outside of the chroot does not exist inside.
    let also = format!("also = [\"{}", root.display());
    one(find(&scene.conf("", ""), &[]), "fail", "cannot be reached: cannot examine", &also);
    let good = scene.conf(&socket, "socket = /keyward.sock");
    one(find(&good, &[]), "ok", "the socket /keyward.sock answers", "");
    fs::write(root.join("file"), "").unwrap();
    one(find(&scene.conf(&socket, "socket = /file"), &[]), "fail", "is no socket", &also);
    std::os::unix::fs::symlink(scene.daemon.socket(), root.join("link")).unwrap();
    one(find(&scene.conf(&socket, "socket = /link"), &[]), "fail", "leads out of the chroot", &also);
    // A socket whose listener is gone.
    drop(std::os::unix::net::UnixListener::bind(root.join("left")).unwrap());
    one(find(&scene.conf(&socket, "socket = /left"), &[]), "fail", "cannot be reached: ", &also);

    let good = scene.conf(&socket, "socket = /keyward.sock");
    one(find(&good, &[&"--user", &OTHER]), "ok", "the socket /keyward.sock answers", "");
    if has_root() {
        fs::set_permissions(&inside, Permissions::from_mode(0o600)).unwrap();
        one(find(&good, &[&"--user", &OTHER]), "fail", "daemon may not write to", "chmod a+w");
        fs::set_permissions(&inside, Permissions::from_mode(0o666)).unwrap();
        fs::set_permissions(&root, Permissions::from_mode(0o700)).unwrap();
        one(find(&good, &[&"--user", &OTHER]), "fail", "daemon cannot pass", "chmod a+x");
        // A process that enters a chroot as root need not be able to pass the directories above the
        // chroot.
        fs::set_permissions(&root, Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(scene.daemon.directory(), Permissions::from_mode(0o700)).unwrap();
        let found = find(&good, &[&"--user", &OTHER]);
        assert!(found[0][0] == "ok", "{found:#?}");
    }
}

/// HAProxy as docs/servers/haproxy.md sets it up, and then a process that has the address of the
/// socket only from its openssl.cnf.
#[test]
fn the_chroot_is_that_of_the_process() {
    if !has_root() {
        return;
    }
    let mut daemon = Daemon::prepare("");
    let root = daemon.path("chroot");
    fs::create_dir(&root).unwrap();
    daemon.configure_more(&format!("[socket]\nalso = [{:?}]\n", root.join("keyward.sock")));
    daemon.resume();
    daemon.generate("shop", "p256");
    let pki = Pki::new(daemon.directory());
    let site = Site::with_key(&daemon, &pki, "shop");
    let good = daemon.least_openssl_conf(OpenSsl::System);
    let scene = Scene { daemon, good };
    let daemon = &scene.daemon;
    let find = |pid: u32, more: &[&dyn AsRef<OsStr>]| {
        let pid = pid.to_string();
        doctor(daemon, "chroot", &[&[&"--pid", &pid as &dyn AsRef<OsStr>], more].concat())
    };
    let is_told = |found: &[Finding], pid: u32, socket: &str| {
        let [[first, place, _], [second, answer, _]] = found else { panic!("{found:#?}") };
        assert_eq!([first, second], ["ok", "ok"], "{found:#?}");
        assert_eq!(*place, format!("process {pid} has {} for its root", root.display()));
        let told = format!("from inside {} the socket /keyward.sock answers ({socket})", root.display());
        assert_eq!(*answer, told);
    };

    let haproxy = Haproxy::start_in_chroot(daemon, &[site], &root);
    let workers = haproxy.workers();
    assert!(!workers.is_empty());
    for pid in workers {
        is_told(&find(pid, &[]), pid, &format!("KEYWARD_SOCKET of process {pid}"));
        let found = doctor(daemon, "process", &[&"--pid", &pid.to_string()]);
        assert!(found.iter().all(|[verdict, ..]| verdict == "ok"), "{found:#?}");
        // An argument takes precedence over a finding.
        let found = find(pid, &[&"--chroot", &daemon.directory()]);
        let [[verdict, detail, _]] = &found[..] else { panic!("{found:#?}") };
        let inside = format!("from inside {} the socket", daemon.directory().display());
        assert!(verdict == "fail" && detail.starts_with(&inside), "{detail}");
    }

    let conf = scene.conf(&format!("socket = {}", daemon.socket().display()), "socket = /keyward.sock");
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", "import os, sys, time; os.chroot(sys.argv[1]); time.sleep(600)"]).arg(&root);
    command.env_remove("KEYWARD_SOCKET").env("OPENSSL_CONF", &conf);
    let server = Process::start(&mut command, &daemon.path("server.log"));
    let link = format!("/proc/{}/root", server.id());
    wait_for("the process in its chroot", || (fs::read_link(&link).ok()? == root).then_some(()));
    is_told(&find(server.id(), &[]), server.id(), &format!("socket of {}", conf.display()));
    assert!(find(std::process::id(), &[]).is_empty(), "our root is that of the doctor");

    // A root to which no path leads, as in a container.
    drop(haproxy);
    fs::remove_dir_all(&root).unwrap();
    let found = find(server.id(), &[]);
    let [[verdict, detail, fix]] = &found[..] else { panic!("{found:#?}") };
    assert!(verdict == "warn" && detail.contains("sees other files than this one"), "{detail}");
    assert!(fix.contains("--chroot DIR"), "{fix}");
}

/// The configuration of docs/servers/haproxy.md: the environment names the socket, and takes
/// precedence over openssl.cnf.
#[test]
fn the_environment_says_where_the_socket_is() {
    let mut daemon = Daemon::prepare("");
    let root = daemon.path("chroot");
    fs::create_dir(&root).unwrap();
    daemon.configure_more(&format!("[socket]\nalso = [{:?}]\n", root.join("keyward.sock")));
    daemon.resume();
    let conf = daemon.openssl_conf();
    let find = |check: &str, variable: Option<&str>, more: &[&dyn AsRef<OsStr>]| {
        let mut command = daemon.keyward(&["doctor", "--json"]);
        command.env_remove("KEYWARD_SOCKET").envs(variable.map(|socket| ("KEYWARD_SOCKET", socket)));
        command.arg("--openssl-conf").arg(&conf).args(more);
        let mut found = findings(&mut command, check);
        assert!(!found.is_empty(), "no finding about {check}");
        found.remove(found.len() - 1)
    };
    let in_chroot: [&dyn AsRef<OsStr>; 2] = [&"--chroot", &root];

    let [verdict, detail, _] = find("chroot", Some("/keyward.sock"), &in_chroot);
    let told = "the socket /keyward.sock answers (KEYWARD_SOCKET of this environment)";
    assert!(verdict == "ok" && detail.contains(told), "{detail}");
    let [verdict, detail, _] = find("chroot", None, &in_chroot);
    let told = format!("(socket of {}) cannot be reached", conf.display());
    assert!(verdict == "fail" && detail.contains(&told), "{detail}");
    let [verdict, detail, fix] = find("socket", Some("/keyward.sock"), &[]);
    assert!(verdict == "fail" && detail.ends_with("(KEYWARD_SOCKET of this environment)"), "{detail}");
    assert!(fix.contains("let KEYWARD_SOCKET name a socket") && fix.contains("--chroot DIR"), "{fix}");
    let [verdict, detail, _] = find("socket", Some("keyward.sock"), &[]);
    assert!(verdict == "fail" && detail.contains("keyward.sock"), "{detail}");

    // If a process is named, the environment of that process counts.
    let mut server = Command::new("sleep");
    let server =
        Process::start(server.arg("60").env("KEYWARD_SOCKET", "/keyward.sock"), &daemon.path("sleep.log"));
    let pid = server.id().to_string();
    let of_process = [&in_chroot[..], &[&"--pid", &pid]].concat();
    wait_for("the process", || {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
        String::from_utf8_lossy(&environment).contains("KEYWARD_SOCKET=").then_some(())
    });
    let [verdict, detail, _] = find("chroot", Some("/nowhere"), &of_process);
    let told = format!("(KEYWARD_SOCKET of process {pid})");
    assert!(verdict == "ok" && detail.ends_with(&told), "{detail}");
}
