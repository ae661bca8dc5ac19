//! The audit trail when the daemon is killed, and when the disk is full.

use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keyward_client::Input;
use keyward_proto::{Outcome, Scheme};
use rustix::process::Signal;
use serde_json::Value;

use crate::audit::{await_some, records, records_in, sha256, verify, verify_in};
use crate::fixture::{Daemon, certificate_verify, failure_of, has_root, label_of};

/// No act that was answered is missing after `kill -9` under load, and of the signatures at most
/// those of the last 100 ms.
#[test]
fn kill_9_under_load_loses_no_act_and_100_ms_of_signatures() {
    let rounds = if std::env::var_os("KEYWARD_SOAK").is_some() { 200 } else { 10 };
    let mut daemon = Daemon::dev("");
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let (mut signed, mut generated, mut unsigned) = (Vec::new(), Vec::new(), 0);
    for round in 0..rounds {
        let running = AtomicBool::new(true);
        let [signatures_made, keys_made] = [const { AtomicU64::new(0) }; 2];
        let moment = Duration::from_millis(150 + round * 37 % 250);
        let (signatures, labels, killed) = std::thread::scope(|scope| {
            let signatures = scope.spawn(|| signatures(&daemon, round, &running, &signatures_made));
            let labels = scope.spawn(|| generations(&daemon, round, &running, &keys_made));
            let has_load =
                || signatures_made.load(Ordering::Relaxed) > 10 && keys_made.load(Ordering::Relaxed) > 1;
            await_some(|| has_load().then_some(()));
            // The load decides what is written at this moment, so the moment itself is arbitrary.
            std::thread::sleep(moment);
            let killed = Instant::now();
            daemon.signal(Signal::KILL);
            running.store(false, Ordering::Relaxed);
            (signatures.join().unwrap(), labels.join().unwrap(), killed)
        });
        assert!(!daemon.end_of_killed().success());
        let safe = signatures.into_iter().filter(|(at, _)| *at + Duration::from_millis(100) < killed);
        signed.extend(safe.map(|(_, message)| message));
        generated.extend(labels);
        // A kill just after a checkpoint leaves a whole trail.
        let (status, text) = verify(&daemon);
        let is_whole = text.contains("whole and signed");
        assert_eq!((status, is_whole), if is_whole { (0, true) } else { (2, false) }, "{text}");
        assert!(is_whole || text.contains("are not signed"), "{text}");
        unsigned += u64::from(!is_whole);
        daemon.start(&["--dev"]);
    }
    assert!(daemon.end(Signal::TERM).success());
    let (status, text) = verify(&daemon);
    assert_eq!(status, 0, "{text}");

    let records = records(&daemon);
    let of = |action: &str, field: &str| -> HashSet<String> {
        let done = records.iter().filter(|record| record["action"] == action && record["outcome"] == "done");
        done.map(|record| record[field].as_str().unwrap().to_owned()).collect()
    };
    let (uses, acts) = (of("keyward.key.use", "message"), of("keyward.key.generate", "key"));
    assert!(unsigned > 0);
    let missing = signed.iter().filter(|message| !uses.contains(*message)).count();
    assert_eq!(missing, 0, "of {} signatures", signed.len());
    let missing: Vec<_> = generated.iter().filter(|label| !acts.contains(*label)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    println!("{rounds} kills: {} signatures and {} acts found, {text}", signed.len(), generated.len());
}

/// Signs until the daemon is killed. Returns when each signature was answered, and the SHA-256 of
/// the message.
fn signatures(daemon: &Daemon, round: u64, running: &AtomicBool, made: &AtomicU64) -> Vec<(Instant, String)> {
    let (client, label) = (daemon.client(), label_of("shop"));
    let mut answered = Vec::new();
    let mut message = certificate_verify();
    while running.load(Ordering::Relaxed) {
        let end = message.len();
        message[end - 8..end - 4].copy_from_slice(&u32::try_from(round).unwrap().to_be_bytes());
        message[end - 4..].copy_from_slice(&u32::try_from(answered.len()).unwrap().to_be_bytes());
        if client.sign(&label, Scheme::EcdsaSecp256r1Sha256, Input::Message(&message)).is_ok() {
            answered.push((Instant::now(), sha256(&message)));
            made.fetch_add(1, Ordering::Relaxed);
        }
    }
    answered
}

/// Generates keys until the daemon is killed. Returns the labels of the answered requests.
fn generations(daemon: &Daemon, round: u64, running: &AtomicBool, made: &AtomicU64) -> Vec<String> {
    let mut answered = Vec::new();
    while running.load(Ordering::Relaxed) {
        let label = format!("key-{round}-{}", answered.len());
        let wanted = format!(r#"{{"label":"{label}","type":"p256","uses":[]}}"#);
        if daemon.http("POST", "/v1/keys", &wanted).is_ok_and(|(status, _)| status == 201) {
            answered.push(label);
            made.fetch_add(1, Ordering::Relaxed);
        }
    }
    answered
}

/// Acts need a record, except those that stop a key. Uses need one if the configuration says so.
/// When there is room again, no restart is needed.
#[test]
fn on_a_full_disk_acts_are_refused_and_uses_follow_the_setting() {
    if !has_root() {
        return;
    }
    for setting in ["count", "refuse"] {
        let mut daemon = Daemon::prepare(&format!("[audit]\non-failure = {setting:?}\n"));
        fs::create_dir_all(daemon.path("state/audit")).unwrap();
        fs::set_permissions(daemon.path("state"), Permissions::from_mode(0o700)).unwrap();
        daemon.start_as(&mut daemon.serve_on_disk("state/audit", "1m"));
        let pid = daemon.pid().as_raw_nonzero().to_string();
        let on_its_disk = |script: &str| {
            let mut command = Command::new("nsenter");
            command.args(["--mount", "--target", &pid, "sh", "-c", script]).arg(daemon.path("state/audit"));
            assert!(command.status().unwrap().success(), "{script}");
        };
        for label in ["shop", "mail"] {
            daemon.succeed(&["key", "generate", label, "--type", "p256"]);
        }
        let message = certificate_verify();
        assert_eq!(daemon.outcome("shop", &message), Outcome::Done);
        let report =
            || -> Value { serde_json::from_str(&daemon.http("GET", "/v1/status", "").unwrap().1).unwrap() };
        // The audit key is there.
        await_some(|| report()["audit"]["checkpoint"].is_object().then_some(()));
        on_its_disk("cat /dev/zero > $0/junk 2>/dev/null || true");

        // The last block of the file has room for some records.
        let refused = await_some(|| {
            let output = daemon.keyward(&["key", "rotate", "shop"]);
            (!output.status.success()).then_some(output)
        });
        let (status, line) = failure_of(&refused);
        assert!(
            status == 74 && line.contains("not carried out, because every act must be on record"),
            "{line}"
        );
        daemon.succeed(&["key", "disable", "mail"]);
        assert_eq!(daemon.outcome("mail", &message), Outcome::KeyDisabled);
        // A repeat changes nothing, and does not use the room for urgent acts.
        for _ in 0..10 {
            let (status, line) = daemon.fail(&["key", "disable", "mail"]);
            assert!(status == 74 && line.contains("key mail is disabled already, and stays so"), "{line}");
        }
        if setting == "refuse" {
            await_some(|| (daemon.outcome("shop", &message) == Outcome::NotRecorded).then_some(()));
            let words = "and on-failure is \"refuse\" in section [audit]";
            daemon.await_log(words);
            let log = daemon.log();
            let line = log.lines().find(|line| line.contains(words)).unwrap();
            // From the disk, or from the writer, which keeps its last room for acts.
            assert!(line.contains("No space left on device") || line.contains("no storage space"), "{line}");
        } else {
            for _ in 0..20 {
                assert_eq!(daemon.outcome("shop", &message), Outcome::Done);
            }
        }

        await_some(|| {
            let audit = &report()["audit"];
            (audit["failure"].is_string() && audit["unwritten"].as_u64().unwrap() > 0).then_some(())
        });
        let output = daemon.keyward(&["status"]);
        let text = String::from_utf8(output.stdout).unwrap();
        let expected = if setting == "refuse" { 2 } else { 1 };
        assert!(
            output.status.code() == Some(expected) && text.contains("the audit trail cannot be written"),
            "{text}"
        );

        on_its_disk("rm -f $0/junk");
        daemon.succeed(&["key", "rotate", "shop"]);
        await_some(|| (daemon.outcome("shop", &message) == Outcome::Done).then_some(()));
        let copy = daemon.path("copy");
        let records = await_some(|| {
            let _ = fs::remove_dir_all(&copy);
            on_its_disk(&format!("cp -r $0 {}", copy.display()));
            let records = records_in(&copy);
            records.iter().any(|record| record["action"] == "keyward.audit.gap").then_some(records)
        });
        let last = |action: &str| records.iter().rfind(|record| record["action"] == action).unwrap();
        for action in ["keyward.key.disable", "keyward.key.rotate"] {
            assert_eq!(last(action)["outcome"], "done", "{action}");
        }
        let gap: u64 = records.iter().filter_map(|record| record["uses"].as_u64()).sum();
        let disabled = records.iter().filter(|record| record["action"] == "keyward.key.disable");
        assert_eq!(disabled.count(), 2, "no repeat is on record");
        // Uses that were refused have no record either.
        assert!(gap > 0, "{setting}");
        let (status, text) = verify_in(&copy);
        assert!([0, 2].contains(&status), "{text}");
        assert!(daemon.end(Signal::TERM).success());
    }
}
