//! Peers that watch for changes of keys.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use keyward_client::{Error, Progress};
use keyward_proto::message::{Changes, GetStatus, Request, Watch, request, response};
use keyward_proto::{KeyState, Outcome, frame};
use rustix::process::Signal;

use crate::fixture::{Daemon, certificate_verify, label_of, receive, send};

/// A peer that watches.
struct Watcher {
    stream: UnixStream,
    after: u64,
}

impl Watcher {
    /// A watcher that knows the present revision.
    fn new(daemon: &Daemon) -> Self {
        let mut watcher = Self { stream: daemon.connect(), after: 0 };
        assert!(watcher.next().everything, "the first time");
        watcher
    }

    fn ask(&mut self, deadline_ms: u32) {
        send(&mut self.stream, &watch(self.after, deadline_ms));
    }

    fn answer(&mut self) -> Changes {
        let response = receive(&mut self.stream);
        assert_eq!((response.id, response.outcome()), (7, Outcome::Done));
        let Some(response::Body::Changes(changes)) = response.body else { panic!("{response:?}") };
        assert!(changes.revision >= self.after);
        self.after = changes.revision;
        changes
    }

    fn next(&mut self) -> Changes {
        self.ask(0);
        self.answer()
    }

    /// Waits until the daemon has begun to wait for a change.
    fn wait_until_asked(&self, daemon: &Daemon) {
        wait_for(|| status(daemon)["requests"].as_u64() >= Some(2));
    }
}

fn watch(after: u64, deadline_ms: u32) -> Request {
    Request { id: 7, deadline_ms, body: Some(request::Body::Watch(Watch { after })), processor: None }
}

fn status(daemon: &Daemon) -> serde_json::Value {
    let (status, body) = daemon.http("GET", "/v1/status", "").unwrap();
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn wait_for(mut ask: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !ask() {
        assert!(Instant::now() < end, "nothing happened before the time limit");
        thread::sleep(Duration::from_millis(2));
    }
}

fn is_empty(changes: &Changes) -> bool {
    changes.labels.is_empty() && !changes.everything
}

#[test]
fn watchers_learn_of_changes_as_they_happen_and_of_missed_changes_at_once() {
    let daemon = Daemon::dev("");
    let mut watcher = Watcher::new(&daemon);
    watcher.ask(0);
    watcher.wait_until_asked(&daemon);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    assert_eq!(watcher.answer().labels, ["shop"]);
    for words in [&["disable", "shop"][..], &["enable", "shop"], &["delete", "shop", "--yes"]] {
        daemon.succeed(&[&["key"], words].concat());
    }
    daemon.succeed(&["key", "generate", "mail", "--type", "p256"]);
    let mut labels = watcher.next().labels;
    labels.sort_unstable();
    assert_eq!(labels, ["mail", "shop"], "each once");
    // A peer that learns of a change and asks for the key sees the change.
    for state in [KeyState::Disabled, KeyState::Enabled] {
        watcher.ask(0);
        daemon.succeed(&["key", state.name().strip_suffix('d').unwrap(), "mail"]);
        assert_eq!(watcher.answer().labels, ["mail"]);
        assert_eq!(daemon.client().describe(&label_of("mail"), 0).unwrap().state, Some(state));
    }
}

#[test]
fn watchers_learn_of_a_date_that_comes() {
    let daemon = Daemon::dev("");
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let soon = SystemTime::now() + Duration::from_secs(5);
    let date = humantime::format_rfc3339_seconds(soon).to_string();
    daemon.succeed(&["key", "set-dates", "shop", "--not-before", &date]);
    let state = || daemon.client().describe(&label_of("shop"), 0).unwrap().state;
    let mut watcher = Watcher::new(&daemon);
    assert_eq!(state(), Some(KeyState::Disabled));
    watcher.ask(0);
    assert_eq!(watcher.answer().labels, ["shop"]);
    assert_eq!(state(), Some(KeyState::Enabled));
}

#[test]
fn a_peer_learns_only_of_keys_that_a_grant_covers() {
    let daemon = Daemon::production(&[("shop*", "tls-server")]);
    let mut watcher = Watcher::new(&daemon);
    watcher.ask(0);
    watcher.wait_until_asked(&daemon);
    daemon.succeed(&["key", "generate", "mail", "--type", "p256"]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    assert_eq!(watcher.answer().labels, ["shop"]);

    daemon.succeed(&["key", "disable", "mail"]);
    watcher.ask(0);
    daemon.configure(&daemon.production_configuration(&[("mail", "tls-server")]));
    daemon.signal(Signal::HUP);
    assert!(watcher.answer().everything, "other grants");
    daemon.succeed(&["key", "disable", "shop"]);
    daemon.succeed(&["key", "enable", "mail"]);
    assert_eq!(watcher.next().labels, ["mail"]);
}

#[test]
fn after_a_restart_everything_may_have_changed() {
    let mut daemon = Daemon::dev("");
    let mut watcher = Watcher::new(&daemon);
    watcher.ask(0);
    watcher.wait_until_asked(&daemon);
    // A daemon that is stopped does not wait for changes.
    assert!(daemon.end(Signal::TERM).success());
    assert!(is_empty(&watcher.answer()));
    daemon.start(&["--dev"]);
    watcher.stream = daemon.connect();
    assert!(watcher.next().everything);
}

#[test]
fn a_watch_ends_in_time_and_when_more_arrives() {
    let daemon = Daemon::dev("");
    let mut watcher = Watcher::new(&daemon);
    watcher.ask(20);
    assert!(is_empty(&watcher.answer()), "its time is over");

    let request = Request { body: Some(request::Body::GetStatus(GetStatus {})), ..watch(0, 0) };
    watcher.ask(0);
    wait_for(|| status(&daemon)["requests"].as_u64() >= Some(3));
    send(&mut watcher.stream, &request);
    assert!(is_empty(&watcher.answer()));
    assert!(matches!(receive(&mut watcher.stream).body, Some(response::Body::Status(_))));

    // Both requests together in one packet, and also one after the other.
    let together = [watch(watcher.after, 0), watch(watcher.after, 0), request];
    let frames: Vec<u8> = together.iter().flat_map(|request| frame::encode(request).unwrap()).collect();
    watcher.stream.write_all(&frames).unwrap();
    assert!(is_empty(&watcher.answer()) && is_empty(&watcher.answer()));
    assert!(matches!(receive(&mut watcher.stream).body, Some(response::Body::Status(_))));

    // Half a frame ends the watch, too, and the rest of the frame may come later.
    let frame = frame::encode(&watch(watcher.after, 20)).unwrap();
    watcher.ask(0);
    watcher.stream.write_all(&frame[..5]).unwrap();
    assert!(is_empty(&watcher.answer()));
    watcher.stream.write_all(&frame[5..]).unwrap();
    assert!(is_empty(&watcher.answer()));
}

#[test]
fn a_watcher_that_closes_its_connection_frees_its_slot() {
    let daemon = Daemon::dev("[socket]\nconnections-per-user = 4\n");
    for _ in 0..10 {
        let mut watchers: Vec<_> = (0..3).map(|_| Watcher::new(&daemon)).collect();
        watchers.iter_mut().for_each(|watcher| watcher.ask(0));
        drop(watchers);
        wait_for(|| status(&daemon)["connections"] == 0);
    }
}

#[test]
fn one_change_wakes_all_watchers_and_signatures_continue() {
    let daemon = Daemon::dev("");
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let mut watchers: Vec<_> = (0..100).map(|_| Watcher::new(&daemon)).collect();
    watchers.iter_mut().for_each(|watcher| watcher.ask(0));
    for _ in 0..20 {
        daemon.sign("shop", &certificate_verify()).unwrap();
    }
    daemon.succeed(&["key", "disable", "shop"]);
    for watcher in &mut watchers {
        assert_eq!(watcher.answer().labels, ["shop"]);
    }
}

#[test]
fn clients_watch_while_they_do_other_work() {
    let mut daemon = Daemon::dev("");
    let client = daemon.client();
    let hour = Duration::from_secs(3600);
    let first = client.start_watch(0, hour).unwrap().finish().unwrap();
    assert!(first.everything);
    let empty = client.start_watch(first.revision, Duration::from_millis(10)).unwrap().finish().unwrap();
    assert!(empty.labels.is_empty() && !empty.everything);

    let call = client.start_watch(first.revision, hour).unwrap();
    let Progress::Pending(call) = call.poll().unwrap() else { panic!("nothing has changed yet") };
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    call.wait(hour).unwrap();
    let Progress::Ready(changes) = call.poll().unwrap() else { panic!("an answer") };
    assert_eq!(changes.labels, ["shop".parse().unwrap()]);

    drop(client.start_watch(changes.revision, hour).unwrap());
    wait_for(|| status(&daemon)["connections"] == 0);
    let call = client.start_watch(changes.revision, hour).unwrap();
    assert!(daemon.end(Signal::KILL).code().is_none());
    assert!(matches!(call.finish(), Err(Error::Unreachable { .. } | Error::Lost(_))));
    assert!(matches!(client.start_watch(0, hour), Err(Error::Unreachable { .. })));
}
