//! Status of a trail.

use super::*;

/// A unit that waits for each signature until the test lets it go on.
struct Slow(Unit, mpsc::Receiver<bool>);

impl Signer for Slow {
    fn sign(&self, message: &[u8]) -> Result<Option<Vec<u8>>, String> {
        if self.1.recv().unwrap_or_default() {
            self.0.sign(message)
        } else {
            Err("the unit is sealed".into())
        }
    }
}

#[test]
fn the_status_says_what_was_looked_at() {
    let scene = Scene::new();
    let (go_on, wait) = mpsc::channel();
    let Scene { unit, .. } = &scene;
    let trail = open_trail(scene.settings(), Slow(unit.again(), wait));
    let begin = trail.status();
    assert_eq!((begin.last, &begin.checkpoint, &begin.signing), (1, &None, &Signing::NotAsked));
    assert_eq!((begin.failure, begin.summaries, begin.unwritten), (None, None, 0));
    act(&trail, Phase::Done).unwrap();
    go_on.send(false).unwrap();
    await_state(|| trail.status().signing != Signing::NotAsked);
    let status = trail.status();
    let Signing::Fails { reason, since } = status.signing else { panic!("{status:?}") };
    assert_eq!(reason, "the unit is sealed");
    assert!(since <= SystemTime::now() && status.unsigned_since.unwrap() <= Instant::now());
    trail.set_policy(Policy { signatures: Signatures::Summary, ..scene.settings().policy });
    act(&trail, Phase::Done).unwrap();
    go_on.send(true).unwrap();
    await_state(|| trail.status().unsigned_since.is_none());
    await_state(|| trail.status().checkpoint.is_some());
    await_state(|| trail.status().extent.is_some() && trail.status().looked.is_some());
    let status = trail.status();
    assert_eq!((status.free, status.summaries), (Some(50), Some(Summed::Policy)));
    assert_eq!((status.last, status.signing), (4, Signing::Works));
    let head: Checkpoint = serde_json::from_slice(&fs::read(scene.path().join(HEAD)).unwrap()).unwrap();
    assert_eq!(status.checkpoint, Some(head.clone()));
    assert!(status.extent.unwrap().files >= 1 && status.extent.unwrap().bytes > 64 << 10);
    drop(go_on);
    drop(trail);
    let again = open_trail(scene.settings(), Down).status();
    assert_eq!((again.checkpoint, again.signing), (Some(head), Signing::NotAsked));
}

#[test]
fn the_status_says_that_the_writer_is_gone() {
    let scene = Scene::new();
    let trail = scene.open();
    trail.record_act(an_act(Phase::Done), |_| panic!("of the test"));
    await_state(|| trail.has_failed());
    assert!(trail.status().failure.unwrap().contains("has ended"));
    act(&trail, Phase::Done).unwrap_err();
}
