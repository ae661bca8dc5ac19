//! Behaviour of the client when the daemon is gone, goes away, is stuck, or answers nonsense.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use keyward_client::{Client, Error, Progress};
use keyward_proto::message::{Changes, Request, Response, Status, response};
use keyward_proto::{Outcome, frame};

/// A client, and a daemon that calls `serve` for each connection with the number of the connection,
/// from 0.
fn scene(
    timeout: Duration,
    serve: impl Fn(usize, UnixStream) + Send + Sync + 'static,
) -> (Client, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keyward.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let serve = std::sync::Arc::new(serve);
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let serve = std::sync::Arc::clone(&serve);
            thread::spawn(move || serve(number, stream.unwrap()));
        }
    });
    (Client::new(path.to_str().unwrap().parse().unwrap(), timeout), directory)
}

fn read_request(stream: &mut UnixStream) -> Option<Request> {
    let mut header = [0; frame::HEADER];
    stream.read_exact(&mut header).ok()?;
    let mut body = vec![0; frame::body_length(header).unwrap()];
    stream.read_exact(&mut body).ok()?;
    Some(frame::decode(&body).unwrap())
}

/// A status answer whose `peer_uid` is the number of the connection.
fn answer(id: u64, number: usize) -> Vec<u8> {
    let status = Status { version: "test".into(), peer_uid: number as u32 };
    let body = Some(response::Body::Status(status));
    frame::encode(&Response { id, outcome: Outcome::Done.into(), body }).unwrap()
}

#[test]
fn a_connection_is_kept_between_requests() {
    let (client, _directory) = scene(Duration::from_secs(5), |number, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            stream.write_all(&answer(request.id, number)).unwrap();
        }
    });
    for _ in 0..5 {
        assert_eq!(client.status().unwrap().peer_uid, 0);
    }
}

#[test]
fn a_dead_connection_costs_one_second_attempt() {
    let (client, _directory) = scene(Duration::from_secs(5), |number, mut stream| {
        let request = read_request(&mut stream).unwrap();
        stream.write_all(&answer(request.id, number)).unwrap();
    });
    for expected in 0..5 {
        assert_eq!(client.status().unwrap().peer_uid, expected);
    }
}

#[test]
fn a_daemon_that_dies_in_the_middle_is_asked_once_more_and_not_twice() {
    let (asked, count) = mpsc::channel();
    let (client, _directory) = scene(Duration::from_secs(5), move |number, mut stream| {
        let _ = read_request(&mut stream);
        asked.send(number).unwrap();
    });
    let error = client.status().unwrap_err();
    assert!(matches!(error, Error::Lost(_)), "{error}");
    assert_eq!(count.try_iter().collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn nobody_there_is_said_at_once() {
    let (client, directory) = scene(Duration::from_secs(5), |_, _| ());
    let path = directory.path().join("keyward.sock");
    std::fs::remove_file(&path).unwrap();
    let began = Instant::now();
    let error = client.status().unwrap_err().to_string();
    assert!(began.elapsed() < Duration::from_millis(100));
    let expected =
        format!("cannot reach the keyward daemon at {}: no such file or directory", path.display());
    assert!(error.starts_with(&expected), "{error}");
}

#[test]
fn a_stuck_daemon_costs_the_deadline_and_its_late_answer_reaches_nobody() {
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let (client, _directory) = scene(Duration::from_millis(200), move |number, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            if number == 0 {
                let _ = released.lock().unwrap().recv();
            }
            let _ = stream.write_all(&answer(request.id, number));
        }
    });
    let began = Instant::now();
    let error = client.status().unwrap_err();
    let took = began.elapsed();
    assert!(matches!(error, Error::DeadlineExceeded(_)), "{error}");
    assert!(took >= Duration::from_millis(200) && took < Duration::from_millis(600), "{took:?}");
    release.send(()).unwrap();
    assert_eq!(client.status().unwrap().peer_uid, 1, "on a connection of its own");
}

/// A receive with a timeout fails with EINTR when the process was stopped and continues (signal(7),
/// "Interruption of system calls and library functions by stop signals").
#[test]
fn the_deadline_holds_although_signals_interrupt_the_wait() {
    let (client, _directory) = scene(Duration::from_millis(300), |_, mut stream| {
        let _request = read_request(&mut stream);
        // Silent until the client hangs up.
        let _ = read_request(&mut stream);
    });
    let script = "for each in $(seq 25); do kill -STOP $PPID; sleep 0.01; kill -CONT $PPID; sleep 0.03; done";
    let mut interrupter = Command::new("sh").args(["-c", script]).spawn().unwrap();
    let began = Instant::now();
    let error = client.status().unwrap_err();
    let took = began.elapsed();
    assert!(interrupter.try_wait().unwrap().is_none(), "interrupted to the end");
    assert!(interrupter.wait().unwrap().success());
    assert!(matches!(error, Error::DeadlineExceeded(_)), "{error}");
    assert!(took >= Duration::from_millis(300) && took < Duration::from_millis(600), "{took:?}");
}

#[test]
fn the_deadline_holds_for_both_attempts_together() {
    let (client, _directory) = scene(Duration::from_millis(400), |number, mut stream| {
        let _request = read_request(&mut stream);
        if number == 0 {
            thread::sleep(Duration::from_millis(350));
        } else {
            // Silent until the client hangs up.
            let _ = read_request(&mut stream);
        }
    });
    let began = Instant::now();
    let error = client.status().unwrap_err();
    let took = began.elapsed();
    assert!(matches!(error, Error::DeadlineExceeded(_)), "{error}");
    assert!(took >= Duration::from_millis(400) && took < Duration::from_millis(650), "{took:?}");
}

#[test]
fn a_connection_is_not_kept_for_another_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (client, directory) = scene(Duration::from_secs(5), |number, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            stream.write_all(&answer(request.id, number)).unwrap();
        }
    });
    for (path, mode) in [(directory.path().to_owned(), 0o755), (directory.path().join("keyward.sock"), 0o666)]
    {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    assert_eq!(client.status().unwrap().peer_uid, 0);
    // In the kernel each thread has a user of its own; this thread ends after the change.
    let changed = thread::spawn(move || {
        let somebody = rustix::process::Uid::from_raw(12345);
        rustix::thread::set_thread_res_uid(None, Some(somebody), None).unwrap();
        [client.status().unwrap().peer_uid, client.status().unwrap().peer_uid]
    });
    assert_eq!(changed.join().unwrap(), [1, 1], "the connection of root is left alone");
}

#[test]
fn a_connection_that_is_out_of_step_is_not_kept() {
    let (client, _directory) = scene(Duration::from_secs(5), |number, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            let id = if number == 0 { request.id + 1 } else { request.id };
            let _ = stream.write_all(&answer(id, number));
        }
    });
    assert!(matches!(client.status(), Err(Error::Garbled)));
    assert_eq!(client.status().unwrap().peer_uid, 1);
}

#[test]
fn the_deadline_holds_for_an_answer_that_trickles() {
    let (client, _directory) = scene(Duration::from_millis(200), |number, mut stream| {
        let request = read_request(&mut stream).unwrap();
        for byte in answer(request.id, number) {
            if stream.write_all(&[byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(60));
        }
    });
    let began = Instant::now();
    let error = client.status().unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded(_)), "{error}");
    assert!(began.elapsed() < Duration::from_millis(600), "{:?}", began.elapsed());
}

#[test]
fn an_answer_in_pieces_is_put_together() {
    let (client, _directory) = scene(Duration::from_secs(5), |number, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            for byte in answer(request.id, number) {
                stream.write_all(&[byte]).unwrap();
            }
        }
    });
    assert_eq!(client.status().unwrap().version, "test");
    assert_eq!(client.status().unwrap().peer_uid, 0, "the connection was kept");
}

#[test]
fn nonsense_is_refused() {
    let nonsense: [fn(u64) -> Vec<u8>; 5] = [
        |_| vec![0xff; 64],
        |_| vec![0, 0, 0, 3, 0xff, 0xff, 0xff],
        |id| answer(id + 1, 0),
        |id| [answer(id, 0), vec![0]].concat(),
        |id| frame::encode(&Response { id, outcome: Outcome::Done.into(), body: None }).unwrap(),
    ];
    for make in nonsense {
        let (client, _directory) = scene(Duration::from_secs(5), move |_, mut stream| {
            let request = read_request(&mut stream).unwrap();
            stream.write_all(&make(request.id)).unwrap();
        });
        let error = client.status().unwrap_err();
        assert!(matches!(error, Error::Garbled), "{error}");
    }
}

#[test]
fn an_answer_to_another_kind_of_request_is_refused() {
    let (client, _directory) = scene(Duration::from_secs(5), |number, mut stream| {
        let request = read_request(&mut stream).unwrap();
        stream.write_all(&answer(request.id, number)).unwrap();
    });
    let error = client.describe(&"shop".parse().unwrap(), 0).unwrap_err();
    assert!(matches!(error, Error::Garbled), "{error}");
}

#[test]
fn a_call_is_pending_until_its_answer_arrives() {
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let (client, _directory) = scene(Duration::from_secs(5), move |_, mut stream| {
        let request = read_request(&mut stream).unwrap();
        let _ = released.lock().unwrap().recv();
        let changes = Changes { revision: 7, labels: vec!["shop".into()], everything: false };
        let body = Some(response::Body::Changes(changes));
        let response = Response { id: request.id, outcome: Outcome::Done.into(), body };
        stream.write_all(&frame::encode(&response).unwrap()).unwrap();
    });
    let call = client.start_watch(0, Duration::MAX).unwrap();
    let Progress::Pending(call) = call.poll().unwrap() else { panic!("an answer too early") };
    let at_most = Duration::from_millis(10);
    let Progress::Pending(call) = call.finish_within(at_most).unwrap() else { panic!("too early") };
    release.send(()).unwrap();
    call.wait(Duration::MAX).unwrap();
    let Progress::Ready(changes) = call.poll().unwrap() else { panic!("no answer") };
    assert_eq!((changes.revision, changes.labels), (7, vec!["shop".parse().unwrap()]));
}

#[test]
fn many_threads_at_once_each_get_their_own_answer() {
    let (client, _directory) = scene(Duration::from_secs(5), |_, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            stream.write_all(&answer(request.id, request.id as usize)).unwrap();
        }
    });
    // The client would refuse the answer to another request as garbled.
    thread::scope(|scope| {
        for _ in 0..80 {
            scope.spawn(|| (0..50).for_each(|_| drop(client.status().unwrap())));
        }
    });
}
