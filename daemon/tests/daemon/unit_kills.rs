//! The daemon is killed while its unit changes. The state afterwards is the one before the change
//! or the one after it, and the keys sign.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use keyward_proto::Outcome;
use rustix::process::Signal;
use serde_json::Value;

use crate::ceremony::Ceremony;
use crate::fixture::{PROGRAM, has_root};

#[test]
fn a_killed_unit_has_the_state_before_or_after() {
    if !has_root() {
        return;
    }
    let rounds = if std::env::var_os("KEYWARD_SOAK").is_some() { 40 } else { 3 };
    let mut scene = Scene::new();
    let mut kills = [[0_usize; 2]; 4];
    for round in 0..rounds {
        let load = scene.prepare(&["unit", "load", "--needed", "2"], true);
        scene.kill_during(&["unit", "send", &load], round, "empty", "uncommitted", &mut kills[0]);
        let pattern = scene.pattern("new");
        let commit = scene.prepare(&["unit", "commit", &pattern], false);
        scene.kill_during(&["unit", "send", &commit], round, "uncommitted", "committed", &mut kills[1]);
        scene.kill_during(&["unit", "rotate"], round, "committed", "committed", &mut kills[2]);
        let activate = scene.prepare(&["unit", "activate", &pattern], false);
        scene.kill_during(&["unit", "send", &activate], round, "committed", "empty", &mut kills[3]);
        assert_eq!(scene.pattern("current"), pattern);
    }
    // The kills came before the change at times, and after the change at times.
    let both = kills.iter().fold([0, 0], |sum, one| [sum[0] + one[0], sum[1] + one[1]]);
    println!("kills with the state before and after, at load, commit, rotate, activate: {kills:?}");
    assert!(both.iter().all(|count| *count > 0), "{kills:?}");
}

/// An owned unit that starts without people, with a key.
struct Scene {
    ceremony: Ceremony,
    files: usize,
}

impl Scene {
    fn new() -> Self {
        let mut ceremony = Ceremony::owned();
        ceremony.daemon.new_key("unseal.key");
        let configuration = fs::read_to_string(ceremony.daemon.path("keyward.toml")).unwrap();
        let file = ceremony.path("unseal.key");
        ceremony.daemon.configure(&format!("{configuration}[embedded]\nunseal-key = {file:?}\n"));
        ceremony.restart();
        ceremony.put_in_force(&["dave", "erin"]);
        ceremony.daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
        for name in ["owner1", "owner2", "owner3"] {
            ceremony.person(&["unit", "part", "owner"], name);
        }
        Self { ceremony, files: 0 }
    }

    /// A command in a file, signed by a quorum.
    fn prepare(&mut self, words: &[&str], names_owners: bool) -> String {
        self.files += 1;
        let file = self.ceremony.path(&format!("command-{}", self.files));
        let owners = ["owner1.pub", "owner2.pub", "owner3.pub"].map(|name| self.ceremony.path(name));
        let mut words = [words, &["--out", &file]].concat();
        if names_owners {
            owners.iter().for_each(|owner| words.extend(["--owner", owner]));
        }
        self.ceremony.command(&words, &["alice", "bob"]).unwrap();
        file
    }

    fn pattern(&self, register: &str) -> String {
        self.ceremony.status()[register]["pattern"].as_str().unwrap().to_owned()
    }

    /// Runs a command, and kills the daemon meanwhile, each time a bit later, until the command has
    /// succeeded. Counts the kills that left the state before, and those that left the one after.
    fn kill_during(&mut self, words: &[&str], round: u64, before: &str, after: &str, kills: &mut [usize; 2]) {
        for attempt in 0.. {
            let shares = self.ceremony.path("shares");
            let _ = fs::create_dir(&shares);
            let mut command = Command::new(PROGRAM);
            command.args(words).arg("--runtime-dir").arg(self.ceremony.path("run"));
            let mut child =
                command.current_dir(shares).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
            // The moment of a kill is no readiness to wait for: all moments are tried.
            thread::sleep(Duration::from_micros(1500 * (attempt * 7 + round % 7)));
            self.ceremony.daemon.end(Signal::KILL);
            let has_succeeded = child.wait().unwrap().success();
            self.ceremony.start();
            let status = self.ceremony.status();
            let state = status["new"]["state"].as_str().unwrap();
            assert!([before, after].contains(&state), "{words:?}: {status}");
            assert!(state == after || !has_succeeded, "{words:?} was answered, and is lost: {status}");
            assert_eq!(status["sealed"], false);
            self.assert_signs(&status);
            let is_done = has_succeeded || before != after && state == after;
            kills[usize::from(is_done)] += 1;
            if is_done {
                return;
            }
        }
    }

    fn assert_signs(&self, status: &Value) {
        assert_eq!(self.ceremony.outcome(), Outcome::Done, "{status}: {}", self.ceremony.daemon.log());
    }
}
