//! Users without a role at the administrators' socket: what they learn, and whom they disturb.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::fixture::{Daemon, has_root};
use crate::users::{ALICE, MALLORY, as_user};

/// A daemon with one key and a viewer, whose sockets every user can reach.
fn daemon() -> Daemon {
    let daemon = Daemon::dev(&format!("[[role]]\nrole = \"viewer\"\nuid = {ALICE}\n"));
    fs::set_permissions(daemon.path(""), fs::Permissions::from_mode(0o711)).unwrap();
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    daemon
}

fn connect(daemon: &Daemon) -> UnixStream {
    let stream = UnixStream::connect(daemon.path("run/admin.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// All that the daemon sends until it closes the connection.
fn answer(stream: &mut UnixStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_user_without_a_role_does_not_learn_whether_a_key_exists() {
    if !has_root() {
        return;
    }
    let daemon = daemon();
    for (method, end, body) in [
        ("GET", "", ""),
        ("GET", "/access?uid=0&gid=0", ""),
        ("DELETE", "", ""),
        ("PATCH", "", r#"{"state": "disabled"}"#),
        ("PATCH", "", "garbage"),
        ("POST", "/rotate", ""),
        ("POST", "/import?use=tls-server", "key"),
        ("POST", "/csr", "info"),
        ("PUT", "/certificates", "chain"),
    ] {
        let ask = |label: &str| {
            let path = format!("/v1/keys/{label}{end}");
            as_user(MALLORY, || daemon.http(method, &path, body).unwrap())
        };
        let (status, answer) = ask("shop");
        assert_eq!(status, 403, "{method} {end}: {answer}");
        for other in ["ghost", "%20no%2Flabel"] {
            assert_eq!(ask(other), (status, answer.clone()), "{method} {end} of {other}");
        }
    }
    // A page of metrics for these users is at most a second old.
    let generated = |uid: u32| {
        let (status, text) = as_user(uid, || daemon.http("GET", "/metrics", "").unwrap());
        assert_eq!(status, 200);
        text.lines().find_map(|line| line.strip_prefix("keyward_keys ")).unwrap().to_owned()
    };
    assert_eq!(generated(MALLORY), "1");
    daemon.succeed(&["key", "generate", "mail", "--type", "p256"]);
    assert_eq!(generated(ALICE), "2");
    let end = Instant::now() + Duration::from_secs(5);
    while generated(MALLORY) != "2" {
        assert!(Instant::now() < end, "the page stays old");
    }
}

#[test]
fn the_body_of_a_user_without_a_right_is_not_read() {
    if !has_root() {
        return;
    }
    let daemon = daemon();
    for (uid, path) in
        [(MALLORY, "/v1/keys/shop/import"), (ALICE, "/v1/keys/shop/import"), (MALLORY, "/v1/keys")]
    {
        let mut stream = as_user(uid, || connect(&daemon));
        // The body never comes.
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 60000\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let begin = Instant::now();
        let answer = answer(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    }
}

#[test]
fn a_connection_without_a_role_is_short() {
    if !has_root() {
        return;
    }
    let daemon = daemon();
    // One answer, although the client asks for more.
    let mut stream = as_user(MALLORY, || connect(&daemon));
    let _ = stream.write_all(&b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(3));
    let text = answer(&mut stream);
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{text}");
    assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("connection: close"), "{text}");
    // A header without an end.
    let mut stream = as_user(MALLORY, || connect(&daemon));
    let mut sent = 0;
    let line = format!("x: {}\r\n", "y".repeat(1000));
    let _ = stream.write_all(b"GET /live HTTP/1.1\r\n");
    while sent < 4_000_000 && stream.write_all(line.as_bytes()).is_ok() {
        sent += line.len();
    }
    assert!(sent < 400_000, "{sent} bytes were taken, more than the buffer of a socket has");
    // A request that comes slowly, or not at all. A viewer may take longer.
    let begin = Instant::now();
    let [mut silent, mut slow, mut viewer] =
        [MALLORY, MALLORY, ALICE].map(|uid| as_user(uid, || connect(&daemon)));
    viewer.write_all(b"GET /v1/keys/shop HTTP/1.1\r\nconnection: close\r\nhost:").unwrap();
    let hung_up = thread::scope(|scope| {
        let end = scope.spawn(|| {
            assert_eq!(answer(&mut silent), "");
            begin.elapsed()
        });
        let mut reader = slow.try_clone().unwrap();
        reader.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let _ = slow.write_all(b"GET /live HTTP/1.1\r\nx: ");
        while begin.elapsed() < Duration::from_secs(20) && slow.write_all(b"y").is_ok() {
            if reader.read(&mut [0; 100]).is_ok_and(|length| length == 0) {
                break;
            }
        }
        assert!(begin.elapsed() < Duration::from_secs(12), "{:?}", begin.elapsed());
        end.join().unwrap()
    });
    assert!((1..4).contains(&hung_up.as_secs()), "{hung_up:?}");
    viewer.write_all(b" localhost\r\n\r\n").unwrap();
    assert!(answer(&mut viewer).starts_with("HTTP/1.1 200 "));
}

#[test]
fn users_without_a_role_keep_no_administrator_out_and_do_not_delay_the_end() {
    if !has_root() {
        return;
    }
    let mut daemon = daemon();
    let (over, answered, start) = (AtomicBool::new(false), AtomicU32::new(0), Instant::now());
    thread::scope(|scope| {
        let daemon = &daemon;
        let (over, answered) = (&over, &answered);
        // Half a request on each of many connections, and requests as fast as possible.
        let halves = scope.spawn(move || {
            as_user(MALLORY, || {
                let mut open = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let mut stream = connect(daemon);
                    let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nhost:");
                    open.push(stream);
                    if open.len() > 200 {
                        open.remove(0);
                    }
                }
            });
        });
        let floods = [(), ()].map(|()| {
            scope.spawn(move || {
                as_user(MALLORY, || {
                    while !over.load(Ordering::Relaxed) {
                        let status = daemon.http("GET", "/metrics", "").map(|(status, _)| status);
                        answered.fetch_add(
                            u32::from(status.is_ok_and(|status| status == 200)),
                            Ordering::Relaxed,
                        );
                    }
                });
            })
        });
        for uid in [0, ALICE].repeat(5) {
            let begin = Instant::now();
            let (status, _) = as_user(uid, || daemon.http("GET", "/v1/keys", "").unwrap());
            assert_eq!(status, 200);
            assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
            let begin = Instant::now();
            daemon.succeed(&["key", "list"]);
            assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
        }
        over.store(true, Ordering::Relaxed);
        halves.join().unwrap();
        floods.into_iter().for_each(|flood| flood.join().unwrap());
    });
    // At most one answer each millisecond, and a first one without waiting. The half requests may
    // keep the others of this user out.
    let answered = u128::from(answered.into_inner());
    assert!(answered <= start.elapsed().as_millis() + 1, "{answered} in {:?}", start.elapsed());
    let _half = as_user(MALLORY, || {
        let mut stream = connect(&daemon);
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost:").unwrap();
        stream
    });
    // The daemon has accepted that connection: connections are accepted in their order.
    daemon.succeed(&["key", "list"]);
    assert!(daemon.end(Signal::TERM).success());
    assert!(!daemon.log().contains("gave up requests of administrators"), "{}", daemon.log());
}
