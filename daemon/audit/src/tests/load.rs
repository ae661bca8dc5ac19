//! More is recorded than the trail can take.

use core::sync::atomic::{AtomicU8, Ordering};
use std::collections::HashMap;
use std::sync::Arc;

use super::*;
use crate::trail::SHARD;

/// 100,000 refusals in a second of a user without a grant, who chooses the longest label, beside
/// one refusal of each of 200 other users.
#[test]
fn refusals_do_not_fill_the_disk() {
    let scene = Scene::new();
    let begin = Instant::now();
    let trail = scene.open();
    let long = "\u{1}".repeat(Name::MAX);
    for number in 0..100_000 {
        let mut refused = KeyUse { outcome: "no-grant", ..key_use(&long) };
        if number % 500 == 250 {
            refused.peer.uid = 1000 + number / 500;
        }
        trail.record_use(refused);
    }
    let seconds = begin.elapsed().as_secs() + 2;
    drop(trail);
    let text = scene.text();
    let mut found = HashMap::<u64, u64>::new();
    for line in text.lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        if let Some(uid) = record["uid"].as_u64().or(record["peer"]["uid"].as_u64()) {
            *found.entry(uid).or_default() += record["refusals"].as_u64().unwrap_or(1);
        }
    }
    assert_eq!(found.remove(&33), Some(99_800));
    assert_eq!(found.len(), 200);
    assert!(found.values().all(|refusals| *refusals == 1), "{found:?}");
    assert!(text.len() as u64 <= 100_000 * seconds, "{} bytes in {seconds} s", text.len());
}

#[test]
fn uses_without_room_are_counted() {
    let scene = Scene::new();
    let trail = scene.open();
    // The writer calls this, and so cannot write.
    let (go_on, wait) = mpsc::channel::<()>();
    let (stopped, has_stopped) = mpsc::channel();
    trail.record_act(an_act(Phase::Done), move |_| {
        stopped.send(()).unwrap();
        wait.recv().unwrap_err();
    });
    has_stopped.recv().unwrap();
    assert!(!trail.has_failed());
    let uses = SHARD + 1000;
    for _ in 0..uses {
        trail.record_use(key_use("shop"));
    }
    assert!(trail.has_failed() && trail.unwritten() == 1000, "before the writer knows");
    drop(go_on);
    drop(trail);
    let text = scene.text();
    assert_eq!(text.matches("keyward.key.use").count(), SHARD);
    assert_eq!(text.matches("\"uses\":1000").count(), 1);
    assert!(scene.verify().unwrap().is_whole());
}

/// The sum of `count` of all summaries.
fn summed(text: &str) -> u64 {
    let lines = text.lines().filter(|line| line.contains(r#""action":"keyward.key.uses""#));
    lines
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["count"].as_u64().unwrap())
        .sum()
}

#[test]
fn a_policy_has_uses_summed() {
    let scene = Scene::new();
    let policy = Policy { signatures: Signatures::Summary, ..scene.settings().policy };
    let trail = scene.open_with(Settings { policy, ..scene.settings() });
    for _ in 0..5000 {
        trail.record_use(key_use("shop"));
    }
    trail.record_use(KeyUse { outcome: "no-grant", ..key_use("shop") });
    // The uses are counted by then, and the next policy writes what is counted.
    act(&trail, Phase::Done).unwrap();
    trail.set_policy(scene.settings().policy);
    act(&trail, Phase::Done).unwrap();
    trail.record_use(key_use("blog"));
    drop(trail);
    let text = scene.text();
    let alone = text.matches(r#""action":"keyward.key.use","outcome":"done""#).count() as u64;
    assert_eq!((summed(&text), alone), (5000, 1));
    assert_eq!(text.matches(r#""outcome":"no-grant""#).count(), 1);
    assert!(scene.verify().unwrap().is_whole());
}

#[test]
fn uses_are_summed_while_there_is_little_space() {
    let scene = Scene::new();
    let free = Arc::new(AtomicU8::new(9));
    let now = Arc::clone(&free);
    let surroundings = Surroundings {
        free: Box::new(move |_| Ok(now.load(Ordering::Relaxed))),
        look_every: Duration::ZERO,
        ..Surroundings::default()
    };
    let unit = Box::new(scene.unit.again());
    let trail = Trail::open_in(surroundings, &scene.settings(), Some(unit)).unwrap();
    await_state(|| scene.text().contains(r#""action":"keyward.audit.space","free":9,"summaries":true"#));
    trail.record_use(key_use("shop"));
    await_state(|| summed(&scene.text()) == 1);
    free.store(12, Ordering::Relaxed);
    trail.record_use(key_use("shop"));
    await_state(|| summed(&scene.text()) == 2);
    free.store(13, Ordering::Relaxed);
    await_state(|| scene.text().contains(r#""action":"keyward.audit.space","free":13,"summaries":false"#));
    trail.record_use(key_use("blog"));
    drop(trail);
    assert_eq!(scene.text().matches(r#""key":"blog","version":1,"fingerprint""#).count(), 1);
    assert!(scene.verify().unwrap().is_whole());
}

/// A user without the role asks again and again, beside another one who asks once.
#[test]
fn refused_acts_are_bounded_by_user() {
    let scene = Scene::new();
    let trail = scene.open();
    let refuse = |uid: u32, details: usize| {
        let details = serde_json::json!({ "text": "x".repeat(details) });
        let act = an_act(Phase::Refused("no role allows this".into()));
        let (actor, details) = (Actor { uid, ..act.actor }, details.as_object().unwrap().clone());
        trail.record_refused_act(Act { actor, details, key: Some("k".repeat(100_000)), ..act });
    };
    for _ in 0..1000 {
        refuse(33, 10_000);
    }
    refuse(34, 10);
    drop(trail);
    let text = scene.text();
    let of = |uid: u64| {
        let records = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let (mut alone, mut counted) = (0, 0);
        for record in records {
            if record["actor"]["uid"] == uid {
                assert_eq!(record["outcome"], "refused");
                alone += 1;
            } else if record["uid"] == uid {
                assert_eq!(record["action"], "keyward.admin.refusals");
                counted += record["refusals"].as_u64().unwrap();
            }
        }
        (alone, counted)
    };
    let (alone, counted) = of(33);
    // The test may last for a few seconds.
    assert!((10..=200).contains(&alone) && alone + counted == 1000, "{alone} {counted}");
    assert_eq!(of(34), (1, 0));
    assert!(text.lines().all(|line| line.len() < 2048));
    assert_eq!(text.matches("omitted_bytes").count() as u64, alone);
    assert!(scene.verify().unwrap().is_whole());
}

/// Details of any length have a record that verification accepts.
#[test]
fn an_act_has_a_record_of_bounded_length() {
    let scene = Scene::new();
    let trail = scene.open();
    let (sender, receiver) = mpsc::channel();
    let details = serde_json::json!({ "removed": "x".repeat(2 << 20) });
    let act = Act { details: details.as_object().unwrap().clone(), ..an_act(Phase::Done) };
    trail.record_act(act, move |written| sender.send(written).unwrap());
    receiver.recv().unwrap().unwrap();
    drop(trail);
    assert!(scene.verify().unwrap().is_whole());
}
