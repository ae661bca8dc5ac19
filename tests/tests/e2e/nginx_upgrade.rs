//! The binary of nginx is replaced while nginx serves: to get a newer nginx, or to get the
//! provider.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use keyward_tests::server::{Page, Site, nginx};
use keyward_tests::tool::{children, succeed, wait_for};
use keyward_tests::{Daemon, Handshake, Load, Pki, built};
use rustix::process::{Pid, Signal, kill_process};

/// The steps of nginx.org/en/docs/control.html: the old master starts a new master, and ends when
/// the new master serves.
#[test]
fn an_upgrade_under_load_loses_nothing() {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    let site = Site::with_key(&daemon, &pki, "shop");
    let masters = Masters { directory: nginx::configure(&daemon, std::slice::from_ref(&site), 2) };
    // A master that is the child of its starter does not replace itself.
    let conf = masters.directory.join("nginx.conf");
    fs::write(&conf, fs::read_to_string(&conf).unwrap().replace("daemon off;", "")).unwrap();
    succeed(&mut nginx::command(&daemon, &masters.directory));
    let old = wait_for("the master", || masters.id(PID));
    let old_workers = wait_for("its workers", || two(children(old)));
    let handshake = Handshake::new(&pki, site.address);
    handshake.make().expect("a handshake");

    let load = Load::start(&handshake, 8);
    let let_run = || (0..50).for_each(|_| handshake.make().map(drop).expect("a handshake under load"));
    let_run();
    signal(old, Signal::USR2);
    let new = wait_for("a new master", || masters.id(OLD_PID).and(masters.id(PID)).filter(|new| *new != old));
    let new_workers = wait_for("its workers", || two(children(new)));
    let_run();
    signal(old, Signal::WINCH);
    wait_for("the old workers to end", || old_workers.iter().all(|pid| is_gone(*pid)).then_some(()));
    let_run();
    signal(old, Signal::QUIT);
    wait_for("the old master to end", || is_gone(old).then_some(()));
    let_run();
    let attempts = load.stop();

    let failed: Vec<_> = attempts.iter().filter(|attempt| attempt.result.is_err()).collect();
    assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), attempts.len(), failed[0]);
    assert_eq!(children(new), new_workers);
    // Each worker asked over its own connections. The daemon knows the id that the worker had when
    // it connected.
    let signatures = |pid: &u32| daemon.logged(&["signature", "outcome=done", &format!("pid={pid} ")]);
    let [by_old, by_new] = [&old_workers, &new_workers].map(|workers| workers.map(|pid| signatures(&pid)));
    assert!(by_old.iter().chain(&by_new).all(|count| *count > 0), "{by_old:?}, {by_new:?}");
    let handshakes = 1 + 4 * 50 + attempts.len();
    assert_eq!(by_old.iter().chain(&by_new).sum::<usize>(), handshakes);
    daemon.assert_one_request_each(handshakes);
}

/// The steps of docs/convert.md: from a key file, in an nginx that was started without the
/// provider.
#[test]
fn a_conversion_under_load_loses_nothing() {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    let page = Page::read("convert");
    let (certificate, key) = pki.leaf("shop");
    let site = Site::new(certificate, key);
    let masters = Masters { directory: nginx::configure(&daemon, std::slice::from_ref(&site), 2) };
    let conf = masters.directory.join("nginx.conf");
    let change = |from: &str, to: &str| {
        let text = fs::read_to_string(&conf).unwrap();
        assert!(text.contains(from), "{from:?} in {text}");
        fs::write(&conf, text.replace(from, to)).unwrap();
    };
    change("daemon off;", "");
    change("env OPENSSL_CONF;", "");
    succeed(nginx::command(&daemon, &masters.directory).env_remove("OPENSSL_CONF"));
    let old = wait_for("the master", || masters.id(PID));
    let workers = wait_for("its workers", || two(children(old)));
    let handshake = Handshake::new(&pki, site.address);
    handshake.make().expect("a handshake");

    let load = Load::start(&handshake, 4);
    let let_run = || (0..20).for_each(|_| handshake.make().map(drop).expect("a handshake under load"));
    succeed(&mut daemon.keyward(&["key", "import", "shop", "--in", site.key.to_str().unwrap()]));
    let reference = daemon.reference("shop");
    let openssl_conf = daemon.openssl_conf();
    let line = page.filled("env OPENSSL_CONF", &[("/etc/keyward/openssl.cnf", &openssl_conf.display())]);
    change("events", &format!("{line} events"));
    signal(old, Signal::HUP);
    let others = |pids: &[u32; 2]| pids.iter().all(|pid| !workers.contains(pid));
    let old_workers = wait_for("new workers", || two(children(old)).filter(others));

    change(&site.key.display().to_string(), &reference.display().to_string());
    let mut check = Command::new(built("keyward"));
    check.arg("env").arg("--openssl-conf").arg(&openssl_conf).arg("nginx").arg("-t");
    succeed(check.args(nginx::command(&daemon, &masters.directory).get_args()).env_remove("OPENSSL_CONF"));
    // A reload is not enough, as the page says.
    signal(old, Signal::HUP);
    wait_for("a refusal", || {
        let log = fs::read_to_string(masters.directory.join("error.log")).unwrap();
        log.contains("cannot load certificate key").then_some(())
    });
    let step = |kill: &str| {
        let pid = masters.directory.join(PID);
        let line = page.filled(kill, &[("/run/nginx.pid", &pid.display())]);
        succeed(Command::new("sh").args(["-c", &line]));
    };
    let_run();
    assert_eq!(daemon.status()["requests"], 0);
    step("kill -USR2");
    let new = wait_for("a new master", || masters.id(OLD_PID).and(masters.id(PID)).filter(|new| *new != old));
    wait_for("its workers", || two(children(new)));
    let_run();
    step("kill -WINCH");
    wait_for("the old workers to end", || old_workers.iter().all(|pid| is_gone(*pid)).then_some(()));
    let_run();
    step("kill -QUIT");
    wait_for("the old master to end", || is_gone(old).then_some(()));
    let signatures = || daemon.logged(&["signature", "outcome=done"]);
    let before = signatures();
    let_run();
    assert!(signatures() >= before + 20);
    let attempts = load.stop();
    let failed: Vec<_> = attempts.iter().filter(|attempt| attempt.result.is_err()).collect();
    assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), attempts.len(), failed[0]);
    // Without the drop-in too: from now on a reload can load references.
    let workers = wait_for("its workers", || two(children(new)));
    signal(new, Signal::HUP);
    wait_for("new workers", || {
        two(children(new)).filter(|pids| pids.iter().all(|pid| !workers.contains(pid)))
    });
    handshake.make().expect("a handshake after a reload");
}

/// The masters of one configuration. They end when this value is dropped.
struct Masters {
    directory: PathBuf,
}

const PID: &str = "nginx.pid";
/// File with the id of the old master, as long as there are two masters.
const OLD_PID: &str = "nginx.pid.oldbin";

impl Masters {
    /// The id of a running master.
    fn id(&self, file: &str) -> Option<u32> {
        let id = fs::read_to_string(self.directory.join(file)).ok()?.trim().parse().ok()?;
        (!is_gone(id)).then_some(id)
    }
}

impl Drop for Masters {
    fn drop(&mut self) {
        for id in [PID, OLD_PID].iter().filter_map(|file| self.id(file)) {
            let mut left = children(id);
            left.push(id);
            signal(id, Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(5);
            while Instant::now() < deadline && left.iter().any(|pid| !is_gone(*pid)) {
                std::thread::sleep(Duration::from_millis(2));
            }
            left.into_iter().filter(|pid| !is_gone(*pid)).for_each(|pid| signal(pid, Signal::KILL));
        }
    }
}

fn two(workers: Vec<u32>) -> Option<[u32; 2]> {
    workers.try_into().ok()
}

fn signal(id: u32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(id.cast_signed()).unwrap(), signal);
}

/// True after the end of a process. An ended process that nobody has waited for has no command line
/// (proc(5)).
fn is_gone(id: u32) -> bool {
    fs::read(format!("/proc/{id}/cmdline")).map_or(true, |words| words.is_empty())
}
