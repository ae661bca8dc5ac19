//! The page of metrics over TCP: who may connect, what is answered, and whom a flood disturbs.

use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::fixture::{Daemon, PROGRAM, certificate_verify, failure_of, has_root, leave_out};

/// An address that nobody uses.
fn free_address(host: &str) -> SocketAddr {
    TcpListener::bind(format!("{host}:0")).unwrap().local_addr().unwrap()
}

fn section(address: SocketAddr) -> String {
    format!("[metrics]\nlisten = \"{address}\"\n")
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Sends a request. Returns all that the daemon sends until it closes the connection.
fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = connect(address);
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn scrape(address: SocketAddr) -> String {
    ask(address, "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

fn assert_page(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("\nkeyward_build_info{") && answer.contains("\nkeyward_keys "), "{answer}");
}

/// Starts the daemon with a socket that is passed as systemd does.
fn start_with_socket(daemon: &mut Daemon, listener: TcpListener) {
    start_by(&[], daemon, listener);
}

/// Starts the daemon as [`start_with_socket`] does, by a command that runs another one.
fn start_by(runner: &[&str], daemon: &mut Daemon, listener: TcpListener) {
    let script = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_FDNAMES=metrics LISTEN_PID=$$ exec \"$@\"";
    let serve = daemon.serve(&["--dev"]);
    let words = [runner, &["sh", "-c", script, "sh", PROGRAM]].concat();
    let mut shell = Command::new(words[0]);
    shell.args(&words[1..]).args(serve.get_args());
    daemon.start_with_input(&mut shell, OwnedFd::from(listener).into());
}

#[test]
fn the_port_has_the_page_and_nothing_else() {
    for host in ["127.0.0.1", "[::1]"] {
        if TcpListener::bind(format!("{host}:0")).is_err() {
            leave_out("needs IPv6");
            continue;
        }
        let address = free_address(host);
        let daemon = Daemon::dev(&section(address));
        assert_page(&scrape(address));
        // HEAD has the headers alone.
        let head = ask(address, "HEAD /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
        let keys = daemon.http("GET", "/v1/keys", "").unwrap();
        assert_eq!(keys.0, 200, "the caller has a role at the administrators' socket");
        for path in ["/", "/live", "/ready", "/v1/keys", "/v1/status", "/metrics/", "/metrics/../v1/keys"] {
            for method in ["GET", "POST", "DELETE"] {
                let answer = ask(address, &format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
                assert!(answer.starts_with("HTTP/1.1 404 "), "{method} {path}: {answer}");
            }
        }
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            let answer = ask(address, &format!("{method} /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n"));
            assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer}");
        }
        // The answer does not wait for the body.
        let body = ask(address, "POST /metrics HTTP/1.1\r\nhost: localhost\r\ncontent-length: 60000\r\n\r\n");
        assert!(body.starts_with("HTTP/1.1 405 "), "{body}");
        for garbage in
            ["\x16\x03\x01\x02\x00\x01", "GET /metrics\r\n\r\n", "GET /metrics HTTP/1.1\r\nx\r\n\r\n"]
        {
            let answer = ask(address, &format!("{garbage}{}", "\r\n".repeat(4)));
            assert!(answer.starts_with("HTTP/1.1 400 "), "{garbage:?}: {answer}");
        }
        assert_page(&scrape(address));
    }
}

#[test]
fn a_passed_socket_serves_the_page_although_the_daemon_makes_no_network_sockets() {
    for host in ["127.0.0.1", "[::1]"] {
        let Ok(listener) = TcpListener::bind(format!("{host}:0")) else {
            leave_out("needs IPv6");
            continue;
        };
        let address = listener.local_addr().unwrap();
        let mut daemon = Daemon::prepare("");
        start_with_socket(&mut daemon, listener);
        assert_page(&scrape(address));
        assert!(
            ask(address, "GET /v1/keys HTTP/1.1\r\nhost: localhost\r\n\r\n").starts_with("HTTP/1.1 404 ")
        );
        // Its name makes the socket no socket for peers: the daemon has bound that one itself.
        assert!(daemon.path("run/keyward.sock").exists() && daemon.client().status().is_ok());
        let status: Value = serde_json::from_slice(&daemon.keyward(&["status", "--json"]).stdout).unwrap();
        let measures = status["confinement"].as_array().unwrap();
        let network = measures.iter().find(|one| one["measure"] == "network").unwrap();
        assert_eq!(
            (&network["in_force"], &network["detail"]),
            (&true.into(), &"no new network sockets".into())
        );
        // The socket goes to the next program. A scrape that comes meanwhile waits.
        daemon.signal(Signal::USR2);
        assert_page(&scrape(address));
        daemon.await_ready();
        assert_page(&scrape(address));
        assert!(daemon.end(Signal::TERM).success());
    }
}

#[test]
fn a_unit_that_serves_grep11_has_the_port_too() {
    let address = free_address("127.0.0.1");
    let mut unit = Daemon::prepare(&section(address));
    let mut command = Command::new(PROGRAM);
    command.args(["unit", "serve", "--listen", "127.0.0.1:0", "--plaintext", "--dev", "--config"]);
    command.arg(unit.path("keyward.toml"));
    command.arg("--state-dir").arg(unit.path("state")).arg("--runtime-dir").arg(unit.path("run"));
    unit.start_as(&mut command);
    assert_page(&scrape(address));
    assert!(ask(address, "GET /v1/unit HTTP/1.1\r\nhost: localhost\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(unit.end(Signal::TERM).success());
}

/// PrivateNetwork=yes of the service: the daemon has no network but the socket.
#[test]
fn a_passed_socket_serves_the_page_of_a_daemon_without_a_network() {
    if !has_root() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut daemon = Daemon::prepare("");
    start_by(&["unshare", "--net"], &mut daemon, listener);
    assert_page(&scrape(address));
    let own = fs::read_link(format!("/proc/{}/ns/net", daemon.daemon_pid().as_raw_nonzero())).unwrap();
    assert_ne!(own, fs::read_link("/proc/self/ns/net").unwrap());
    assert!(daemon.end(Signal::TERM).success());
}

#[test]
fn an_upgrade_takes_the_port_along_or_moves_to_another_one() {
    let (one, other) = (free_address("127.0.0.1"), free_address("127.0.0.1"));
    let mut daemon = Daemon::dev(&section(one));
    daemon.signal(Signal::USR2);
    daemon.await_ready();
    assert_page(&scrape(one));
    // A reload says that the setting takes a restart, and keeps the port.
    daemon.configure(&section(other));
    let told = daemon.succeed(&["reload"]);
    assert!(told.contains("metrics.listen"), "{told}");
    assert_page(&scrape(one));
    assert!(TcpStream::connect(other).is_err());
    daemon.signal(Signal::USR2);
    daemon.await_log_times(" ready version=", 3);
    assert_page(&scrape(other));
    assert!(TcpStream::connect(one).is_err());
    assert!(daemon.end(Signal::TERM).success());
    assert!(TcpStream::connect(other).is_err());
}

#[test]
fn only_loopback_addresses_are_served() {
    let daemon = Daemon::prepare("[metrics]\nlisten = \"0.0.0.0:9463\"\n");
    for command in [daemon.serve(&["--dev"]), daemon.serve(&["--dev", "--check-config"])] {
        let (status, error) = failure_of(&{ command }.output().unwrap());
        assert_eq!(status, 78, "{error}");
        assert!(error.contains("metrics.listen") && error.contains("not a loopback address"), "{error}");
    }
    // systemd passes what somebody has written into its unit.
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
    let mut daemon = Daemon::prepare("");
    start_with_socket(&mut daemon, listener);
    assert!(daemon.log().contains("not a loopback address; put ListenStream="), "{}", daemon.log());
    assert!(TcpStream::connect(address).is_err());
    assert!(daemon.client().status().is_ok());
    assert!(daemon.end(Signal::TERM).success());
}

#[test]
fn a_port_in_use_does_not_keep_the_daemon_from_its_start() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap();
    let daemon = Daemon::dev(&section(address));
    assert!(daemon.client().status().is_ok());
    let problem = format!("cannot listen on {address} for metrics: ");
    assert!(
        daemon.log().contains(&problem) && daemon.log().contains("restart the daemon"),
        "{}",
        daemon.log()
    );
    let reloaded = daemon.keyward(&["reload"]);
    assert!(String::from_utf8_lossy(&reloaded.stderr).contains(&problem), "{reloaded:?}");
}

#[test]
fn slow_and_endless_requests_end() {
    let address = free_address("127.0.0.1");
    let _daemon = Daemon::dev(&section(address));
    let begin = Instant::now();
    let (mut silent, mut slow) = (connect(address), connect(address));
    let _ = slow.write_all(b"GET /metrics HTTP/1.1\r\nx: ");
    let mut long = connect(address);
    let _ = long.write_all(b"GET /metrics HTTP/1.1\r\n");
    let line = format!("x: {}\r\n", "y".repeat(1000));
    let mut sent = 0;
    while sent < 20_000_000 && long.write_all(line.as_bytes()).is_ok() {
        sent += line.len();
    }
    // The buffers of two sockets hold some megabytes.
    assert!(sent < 20_000_000, "{sent} bytes were taken");
    assert!(begin.elapsed() < Duration::from_secs(12), "{:?}", begin.elapsed());
    let mut answer = Vec::new();
    assert_eq!(silent.read_to_end(&mut answer).unwrap_or(0), 0);
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
    let _ = slow.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains(" 200 "));
    assert!(begin.elapsed() < Duration::from_secs(12), "{:?}", begin.elapsed());
    assert_page(&scrape(address));
}

#[test]
fn a_flood_at_the_port_disturbs_nobody_else() {
    let address = free_address("127.0.0.1");
    let mut daemon = Daemon::dev(&section(address));
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let descriptors = |daemon: &Daemon| {
        fs::read_dir(format!("/proc/{}/fd", daemon.daemon_pid().as_raw_nonzero())).unwrap().count()
    };
    let before = descriptors(&daemon);
    // Many more connections than the port keeps, with half a request each.
    let mut open: Vec<_> = (0..500).map(|_| connect(address)).collect();
    for stream in &mut open {
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nhost:");
    }
    let start = Instant::now();
    thread::scope(|scope| {
        let scrapes = scope.spawn(|| {
            while start.elapsed() < Duration::from_secs(2) {
                scrape(address);
            }
        });
        while !scrapes.is_finished() {
            let begin = Instant::now();
            daemon.sign("shop", &certificate_verify()).unwrap();
            assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
            let begin = Instant::now();
            assert_eq!(daemon.http("GET", "/v1/keys", "").unwrap().0, 200);
            assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        }
    });
    // A collector gets in, too: the connections that were idle longest make room.
    assert_page(&scrape(address));
    assert_no_scrape_is_cut(address);
    assert_scraped_beside_floods(address);
    let now = descriptors(&daemon);
    assert!(now <= before + 80, "{now} descriptors, {before} before");
    assert!(daemon.end(Signal::TERM).success());
    assert!(!daemon.log().contains("gave up requests"), "{}", daemon.log());
}

/// Fills the port with requests, which wait for their turn, and makes more connections meanwhile.
fn assert_no_scrape_is_cut(address: SocketAddr) {
    let mut scrapes: Vec<_> = (0..60).map(|_| connect(address)).collect();
    for stream in &mut scrapes {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    }
    let _flood: Vec<_> = (0..300).map(|_| connect(address)).collect();
    let read = |mut stream: TcpStream| {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"\n")
    };
    let whole = scrapes.into_iter().map(read).filter(|is_whole| *is_whole).count();
    assert_eq!(whole, 60, "the others were cut");
}

/// Scrapes beside floods of connections without a request, and of requests whose answers nobody
/// reads.
fn assert_scraped_beside_floods(address: SocketAddr) {
    let is_page = |answer: &str| answer.starts_with("HTTP/1.1 200 ") && answer.contains("\nkeyward_keys ");
    for request in ["", "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n"] {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut open = VecDeque::new();
                    while !over.load(Ordering::Relaxed) {
                        let mut stream = connect(address);
                        let _ = stream.write_all(request.as_bytes());
                        open.push_back(stream);
                        if open.len() > 300 {
                            open.pop_front();
                        }
                    }
                });
            }
            let end = Instant::now() + Duration::from_secs(60);
            let (mut whole, mut cut) = (0, 0);
            while whole < 20 && Instant::now() < end {
                let answer = scrape(address);
                whole += u32::from(is_page(&answer));
                cut += u32::from(!answer.is_empty() && !is_page(&answer));
            }
            over.store(true, Ordering::Relaxed);
            assert!(whole == 20 && cut == 0, "{whole} scrapes, {cut} cut, beside {request:?}");
        });
    }
}

/// systemd itself reads the unit of the port, with the units that the unit names.
#[test]
fn systemd_accepts_the_unit_of_the_port() {
    let directory = tempfile::tempdir().unwrap();
    let verify = |mistake: &str| {
        for name in ["keyward.service", "keyward.socket", "keyward-admin.socket", "keyward-metrics.socket"] {
            let shipped = format!("{}/../conf/systemd/{name}", env!("CARGO_MANIFEST_DIR"));
            let text = fs::read_to_string(shipped).unwrap().replace("/usr/bin/keyward", "/bin/true");
            fs::write(directory.path().join(name), text.replace("Backlog=", mistake)).unwrap();
        }
        let mut verify = Command::new("/usr/bin/systemd-analyze");
        verify.args(["verify", "--man=no"]).arg(directory.path().join("keyward-metrics.socket"));
        String::from_utf8(verify.output().unwrap().stderr).unwrap()
    };
    let said = verify("Backlog=");
    assert!(!said.contains("keyward-metrics.socket"), "{said}");
    // The check would see a mistake.
    assert!(verify("Backlgo=").contains("keyward-metrics.socket"));
    let unit = fs::read_to_string(directory.path().join("keyward-metrics.socket")).unwrap();
    for line in ["ListenStream=127.0.0.1:9463", "FileDescriptorName=metrics", "Service=keyward.service"] {
        assert!(unit.lines().any(|one| one == line), "{line}");
    }
    let service = fs::read_to_string(directory.path().join("keyward.service")).unwrap();
    for line in ["PrivateNetwork=yes", "RestrictAddressFamilies=AF_UNIX"] {
        assert!(service.lines().any(|one| one == line), "{line}");
    }
}
