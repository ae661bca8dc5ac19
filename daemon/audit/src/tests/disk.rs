//! A disk is full. The tests need root.

use std::fs;
use std::io::Write;
use std::process::Command;
use std::sync::{Arc, Mutex};

use super::*;

/// A file system of 1 MiB.
struct Disk(tempfile::TempDir);

impl Disk {
    /// `None` if this user cannot mount one.
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(directory.path());
        let is_mounted = mount.output().is_ok_and(|output| output.status.success());
        is_mounted.then_some(Self(directory))
    }

    /// Fills the disk. The return value makes room again.
    fn fill(&self) -> impl FnOnce() + use<> {
        let path = self.0.path().join("filler");
        let mut file = fs::File::create(&path).unwrap();
        while file.write(&[1; 4096]).is_ok_and(|size| size > 0) {}
        move || fs::remove_file(path).unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _left_behind = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Records an urgent act, and waits until the record is on the disk.
fn urgent_act(trail: &Trail) -> Result<(), Unwritten> {
    let (sender, receiver) = mpsc::channel();
    let act = Act { action: "keyward.key.compromise", ..an_act(Phase::Done) };
    trail.record_urgent_act(act, move |written| sender.send(written).unwrap());
    receiver.recv().unwrap()
}

/// While an act waits for a slow disk, uses go on being written: a process that is killed then does
/// not lose them.
#[test]
fn uses_are_written_while_an_act_waits_for_the_disk() {
    let scene = Scene::new();
    let answers = Arc::new(Mutex::new(()));
    let disk = Arc::clone(&answers);
    let sync = move |file: &fs::File| {
        let _answers = disk.lock().unwrap();
        file.sync_data()
    };
    let surroundings =
        Surroundings { sync: Arc::new(sync), free: Box::new(|_| Ok(50)), ..Surroundings::default() };
    let trail = Trail::open_in(surroundings, &scene.settings(), None).unwrap();
    let waits = answers.lock().unwrap();
    let (sender, receiver) = mpsc::channel();
    trail.record_act(an_act(Phase::Begun), move |written| sender.send(written).unwrap());
    // More than one file has room for.
    for number in 0..20 {
        trail.record_use(key_use(&format!("key-{number}")));
        await_state(|| scene.text().contains(&format!("key-{number}\"")));
    }
    assert_eq!(receiver.try_recv(), Err(mpsc::TryRecvError::Empty));
    drop(waits);
    receiver.recv().unwrap().unwrap();
    trail.stop();
    assert_eq!((trail.unwritten(), scene.verify().unwrap().records), (0, 22));
}

#[test]
fn room_is_reserved_for_urgent_acts() {
    let Some(disk) = Disk::mount() else { return };
    let (scene, directory) = (Scene::new(), disk.0.path().join("audit"));
    let policy = Policy { rotate_at: 1 << 30, ..Policy::default() };
    let settings = Settings { directory: directory.clone(), policy, ..scene.settings() };
    let reserve = directory.join("reserve");
    let surroundings =
        Surroundings { free: Box::new(|_| Ok(50)), look_every: Duration::ZERO, ..Surroundings::default() };
    let unit = Box::new(scene.unit.again());
    let trail = Trail::open_in(surroundings, &settings, Some(unit)).unwrap();
    act(&trail, Phase::Done).unwrap();
    assert_eq!(fs::metadata(&reserve).unwrap().len(), 64 << 10);
    let make_room = disk.fill();
    // The last page of the file has some room.
    while act(&trail, Phase::Done).is_ok() {}
    assert!(trail.has_failed());
    assert!(reserve.exists(), "other records leave the reserve alone");
    // Before there is room, so that the trail has failed and uses are lost.
    urgent_act(&trail).unwrap();
    for _ in 0..20 {
        urgent_act(&trail).unwrap();
        act(&trail, Phase::Done).unwrap_err();
        trail.record_use(key_use("shop"));
    }
    act(&trail, Phase::Done).unwrap_err();
    assert!(!reserve.exists() && trail.has_failed());
    make_room();
    await_state(|| reserve.exists() && !trail.has_failed());
    act(&trail, Phase::Done).unwrap();
    assert_eq!(trail.unwritten(), 20);
    drop(trail);
    let text = fs::read_to_string(list(&directory).unwrap().pop().unwrap().1).unwrap();
    assert_eq!(text.matches("keyward.key.compromise").count(), 21);
    let gaps = text.lines().filter(|line| line.contains("keyward.audit.gap"));
    let gaps = gaps.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    assert_eq!(gaps.map(|gap| gap["uses"].as_u64().unwrap()).sum::<u64>(), 20);
    let report = verify(&directory, &scene.unit.key(), None).unwrap().unwrap();
    assert!(report.is_whole(), "{report:?}");
}

/// A daemon that starts while the disk is full has a trail as soon as there is room.
#[test]
fn a_trail_begins_on_a_full_disk() {
    let Some(disk) = Disk::mount() else { return };
    let (scene, directory) = (Scene::new(), disk.0.path().join("audit"));
    fs::create_dir(&directory).unwrap();
    let make_room = disk.fill();
    let settings = Settings { directory: directory.clone(), ..scene.settings() };
    let trail = open_trail(settings, scene.unit.again());
    assert!(trail.has_failed());
    make_room();
    await_state(|| !trail.has_failed());
    drop(trail);
    let report = verify(&directory, &scene.unit.key(), None).unwrap().unwrap();
    assert!(report.is_whole() && report.records >= 2, "{report:?}");
}

/// A disk without room for a compressed file has old files removed.
#[test]
fn files_are_removed_from_a_full_disk() {
    let Some(disk) = Disk::mount() else { return };
    let (scene, directory) = (Scene::new(), disk.0.path().join("audit"));
    let settings = Settings { directory: directory.clone(), ..scene.settings() };
    drop(open_trail(settings.clone(), scene.unit.again()));
    let trail = open_trail(settings, scene.unit.again());
    let make_room = disk.fill();
    let mut written = 0;
    while written < 20 || act(&trail, Phase::Done).is_ok() {
        trail.record_use(key_use("shop"));
        written += 1;
    }
    trail.set_policy(Policy { keep: Some(Duration::ZERO), ..scene.settings().policy });
    await_state(|| !directory.join("00000000000000000001.jsonl").exists());
    make_room();
    await_state(|| !trail.has_failed());
    drop(trail);
    let report = verify(&directory, &scene.unit.key(), None).unwrap().unwrap();
    assert!(report.first > 1, "{report:?}");
}
