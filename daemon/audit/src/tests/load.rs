//! More is recorded than the trail can take.

use super::*;
use crate::trail::SHARD;

/// 100,000 refusals in a second of a user without a grant, beside one of another user.
#[test]
fn refusals_do_not_fill_the_disk() {
    let scene = Scene::new();
    let trail = scene.open();
    for number in 0..100_000 {
        let mut refused = key_use("shop");
        refused.outcome = "no-grant";
        if number == 50_000 {
            refused.peer.uid = 34;
        }
        trail.record_use(refused);
    }
    drop(trail);
    let text = scene.text();
    let of = |uid: u64| {
        let records = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        records
            .filter(|record| record["uid"] == uid || record["peer"]["uid"] == uid)
            .map(|record| record["refusals"].as_u64().unwrap_or(1))
            .sum::<u64>()
    };
    assert_eq!((of(33), of(34)), (99_999, 1));
    assert!(text.len() < 100_000, "{}", text.len());
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
    let uses = SHARD + 1000;
    for _ in 0..uses {
        trail.record_use(key_use("shop"));
    }
    drop(go_on);
    drop(trail);
    let text = scene.text();
    assert_eq!(text.matches("keyward.key.use").count(), SHARD);
    assert_eq!(text.matches("\"uses\":1000").count(), 1);
    assert!(scene.verify().unwrap().is_whole());
}
