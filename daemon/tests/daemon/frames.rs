//! Frames of peers: valid, slow and malformed ones.

use std::io::Write;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use keyward_proto::message::{Decrypt, Describe, GetStatus, Request, Sign, request, response, sign};
use keyward_proto::{Outcome, frame};
use rustix::process::Signal;

use crate::fixture::{Daemon, certificate_verify, is_closed, receive, send};

fn status(id: u64) -> Request {
    Request { id, deadline_ms: 0, body: Some(request::Body::GetStatus(GetStatus {})), processor: None }
}

fn sign_request(id: u64, label: &str) -> Request {
    let sign = Sign {
        label: label.into(),
        version: 0,
        scheme: 0x0403,
        input: Some(sign::Input::Message(certificate_verify())),
        public_key_fingerprint: None,
    };
    Request { id, deadline_ms: 5000, body: Some(request::Body::Sign(sign)), processor: None }
}

#[test]
fn requests_sent_together_are_answered_in_order() {
    let daemon = Daemon::dev("");
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let mut stream = daemon.connect();
    let mut frames = Vec::new();
    for id in 0..1000 {
        let request = if id % 3 == 0 { status(id) } else { sign_request(id, "shop") };
        frames.extend(frame::encode(&request).unwrap());
    }
    let mut writer = stream.try_clone().unwrap();
    let sender = thread::spawn(move || writer.write_all(&frames).unwrap());
    for id in 0..1000 {
        let response = receive(&mut stream);
        assert_eq!((response.id, response.outcome()), (id, Outcome::Done));
    }
    sender.join().unwrap();
}

/// A peer waits for a few slow requests of other peers only, even if there is always another slow
/// request.
#[test]
fn slow_requests_of_one_peer_do_not_delay_other_peers() {
    let daemon = Daemon::dev("");
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    daemon.succeed(&["key", "generate", "slow", "--type", "rsa4096", "--use", "any"]);
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut stream = daemon.connect();
                let mut request = sign_request(1, "slow");
                if let Some(request::Body::Sign(sign)) = &mut request.body {
                    // Longer than the first read of the daemon, and RSASSA-PSS with SHA-256.
                    (sign.scheme, sign.input) = (0x0804, Some(sign::Input::Message(vec![7; 1500])));
                }
                while !stop.load(Ordering::Relaxed) {
                    send(&mut stream, &request);
                    assert_eq!(receive(&mut stream).outcome(), Outcome::Done);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let most = (0..20)
            .map(|_| {
                let before = answered.load(Ordering::Relaxed);
                let mut stream = daemon.connect();
                send(&mut stream, &sign_request(1, "shop"));
                let outcome = receive(&mut stream).outcome();
                (answered.load(Ordering::Relaxed) - before, outcome)
            })
            .max_by_key(|(waited, _)| *waited);
        stop.store(true, Ordering::Relaxed);
        let (most, outcome) = most.unwrap();
        assert!(most <= 40 && outcome == Outcome::Done, "{outcome:?} after {most} answers to others");
    });
}

#[test]
fn a_frame_may_come_byte_by_byte_and_be_of_the_largest_size() {
    let daemon = Daemon::dev("");
    let mut stream = daemon.connect();
    for byte in frame::encode(&status(1)).unwrap() {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(receive(&mut stream).outcome(), Outcome::Done);
    let mut request = sign_request(2, "shop");
    if let Some(request::Body::Sign(sign)) = &mut request.body {
        sign.input = Some(sign::Input::Message(vec![0; frame::MAX_BODY - 40]));
    }
    send(&mut stream, &request);
    assert_eq!(receive(&mut stream).outcome(), Outcome::UnknownKey);
    send(&mut stream, &status(3));
    assert_eq!(receive(&mut stream).id, 3);
}

#[test]
fn a_malformed_frame_closes_its_connection_and_no_other() {
    let daemon = Daemon::dev("[limits]\nrequest-timeout = \"300ms\"\n");
    let mut bystander = daemon.connect();
    let mut garbage = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 4],
        (frame::MAX_BODY as u32 + 1).to_be_bytes().to_vec(),
        [&4u32.to_be_bytes()[..], &[0xff; 4]].concat(),
    ];
    let half = frame::encode(&status(1)).unwrap();
    garbage.push(half[..half.len() - 1].to_vec());
    for (number, bytes) in garbage.iter().enumerate() {
        let mut stream = daemon.connect();
        stream.write_all(bytes).unwrap();
        // The last connection sends a part of a frame, and reaches its time limit.
        assert!(is_closed(&mut stream), "garbage {number}");
    }
    let mut stream = daemon.connect();
    stream.write_all(&half[..half.len() - 1]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(is_closed(&mut stream), "hung up in the middle");

    send(&mut bystander, &status(9));
    assert_eq!(receive(&mut bystander).id, 9);
    let (_, status) = daemon.http("GET", "/v1/status", "").unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["closed_for_malformed"], garbage.len() + 1);
    let lines = daemon.log().matches("closed the connection of a peer").count();
    assert!((1..=3).contains(&lines), "{lines} lines for {} connections", garbage.len() + 1);
}

#[test]
fn requests_before_a_malformed_frame_are_answered() {
    let daemon = Daemon::dev("");
    let mut stream = daemon.connect();
    let together = [frame::encode(&status(1)).unwrap(), frame::encode(&status(2)).unwrap(), vec![0xff; 4]];
    stream.write_all(&together.concat()).unwrap();
    for id in 1..=2 {
        assert_eq!(receive(&mut stream).id, id);
    }
    assert!(is_closed(&mut stream));
}

#[test]
fn requests_without_a_meaning_are_answered() {
    let daemon = Daemon::dev("");
    let mut stream = daemon.connect();
    let mut ask = |body| {
        send(&mut stream, &Request { id: 4, body, ..Request::default() });
        receive(&mut stream)
    };
    assert_eq!(ask(None).outcome(), Outcome::Malformed);
    let describe = Describe { label: "no/label".into(), version: 0, certified: false };
    assert_eq!(ask(Some(request::Body::Describe(describe))).outcome(), Outcome::Malformed);
    assert_eq!(ask(Some(request::Body::Decrypt(Decrypt::default()))).outcome(), Outcome::Malformed);
    let answer = ask(Some(request::Body::GetStatus(GetStatus {})));
    let Some(response::Body::Status(status)) = answer.body else { panic!("{answer:?}") };
    assert_eq!(status.peer_uid, rustix::process::getuid().as_raw());
}

#[test]
fn the_longest_idle_connection_makes_room_for_a_new_one() {
    let daemon = Daemon::dev("[socket]\nconnections-per-user = 2\n");
    let [mut first, mut second] = [1, 2].map(|id| {
        let mut stream = daemon.connect();
        send(&mut stream, &status(id));
        receive(&mut stream);
        // The daemon marks the connection as idle after the answer is sent, which nothing shows.
        thread::sleep(Duration::from_millis(100));
        stream
    });
    let mut third = daemon.connect();
    send(&mut third, &status(3));
    assert_eq!(receive(&mut third).id, 3);
    assert!(is_closed(&mut first));
    send(&mut second, &status(4));
    assert_eq!(receive(&mut second).id, 4);
}

#[test]
fn answers_wait_for_a_peer_that_reads_late() {
    let daemon = Daemon::dev("");
    daemon.succeed(&["key", "generate", "shop", "--type", "ed25519"]);
    let describe = Describe { label: "shop".into(), version: 0, certified: false };
    let request = Request { id: 5, body: Some(request::Body::Describe(describe)), ..Request::default() };
    let many = frame::encode(&request).unwrap().repeat(20_000);
    let mut stream = daemon.connect();
    let mut writer = stream.try_clone().unwrap();
    let sender = thread::spawn(move || writer.write_all(&many));
    // Meanwhile the daemon has more answers than the socket accepts, and serves other peers.
    send(&mut daemon.connect(), &status(1));
    for _ in 0..20_000 {
        assert_eq!(receive(&mut stream).outcome(), Outcome::Done);
    }
    sender.join().unwrap().unwrap();
}

/// Two requests for slow signatures, in one packet.
fn two_slow_requests(daemon: &Daemon, deadline_ms: u32) -> Vec<u8> {
    daemon.succeed(&["key", "generate", "slow", "--type", "rsa4096"]);
    let slow = |id| {
        let mut request = Request { deadline_ms, ..sign_request(id, "slow") };
        if let Some(request::Body::Sign(sign)) = &mut request.body {
            // rsa_pss_rsae_sha256
            sign.scheme = 0x0804;
        }
        frame::encode(&request).unwrap()
    };
    [slow(1), slow(2)].concat()
}

#[test]
fn a_request_that_waited_too_long_is_not_signed() {
    let daemon = Daemon::dev("");
    let both = two_slow_requests(&daemon, 1);
    let mut stream = daemon.connect();
    stream.write_all(&both).unwrap();
    receive(&mut stream);
    // The first request took longer than the deadline of both.
    assert_eq!(receive(&mut stream).outcome(), Outcome::DeadlineExceeded);
    stream.write_all(&frame::encode(&sign_request(3, "slow")).unwrap()).unwrap();
    assert_eq!(receive(&mut stream).outcome(), Outcome::NotSupported, "another scheme than the key's");
}

#[test]
fn requests_that_were_received_are_answered_before_the_daemon_ends() {
    let mut daemon = Daemon::dev("");
    let both = two_slow_requests(&daemon, 0);
    let mut stream = daemon.connect();
    send(&mut stream, &status(0));
    receive(&mut stream);
    stream.write_all(&both).unwrap();
    assert!(daemon.end(Signal::TERM).success());
    for id in [1, 2] {
        let response = receive(&mut stream);
        assert_eq!((response.id, response.outcome()), (id, Outcome::Done));
    }
    assert!(is_closed(&mut stream));
}

#[test]
fn a_connection_is_served_on_the_processor_of_its_peer() {
    let daemon = Daemon::dev("");
    let mut stream = daemon.connect();
    let mut ask = |processor, times| {
        for id in 0..times {
            send(&mut stream, &Request { processor: Some(processor), ..status(id) });
            assert_eq!(receive(&mut stream).id, id);
        }
    };
    let allowed = rustix::thread::sched_getaffinity(None).unwrap();
    let processors = (0..1024).filter(|processor| allowed.is_set(*processor));
    let processors: Vec<_> = processors.map(|processor| u32::try_from(processor).unwrap()).collect();
    // The daemon is ready when it listens. A thread may start and get its name later, but it has
    // both after its first answer.
    for processor in &processors {
        ask(*processor, 3);
    }
    for here in &processors {
        ask(*here, 3);
        let elsewhere =
            || processors.iter().filter(|there| *there != here).map(|there| daemon.switches(*there));
        let before: u64 = elsewhere().sum();
        ask(*here, 100);
        // The other thread may go to sleep only after the last round. Requests would wake it a
        // hundred times.
        let more = elsewhere().sum::<u64>() - before;
        assert!(more < 10, "{more} wake-ups elsewhere while processor {here} asked");
    }
    // A processor that does not exist changes nothing.
    ask(100_000, 10);
}
