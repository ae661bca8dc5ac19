//! Copies of records for a collector.

use std::io;
use std::os::unix::net::UnixDatagram;

use super::*;

struct Collector {
    _directory: tempfile::TempDir,
    path: PathBuf,
    socket: UnixDatagram,
}

impl Collector {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { _directory: directory, path, socket }
    }

    /// Datagrams that were sent by now.
    fn received(&self) -> Vec<Vec<u8>> {
        let mut datagrams = Vec::new();
        let mut datagram = vec![0; 1 << 20];
        loop {
            match self.socket.recv(&mut datagram) {
                Ok(length) => datagrams.push(datagram[..length].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return datagrams,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn open_with_copy(scene: &Scene, copy: Copy, journal: &Path) -> Trail {
    let settings = Settings { copy: Some(copy), ..scene.settings() };
    let surroundings = Surroundings {
        free: Box::new(|_| Ok(50)),
        journal: journal.to_owned(),
        uncopied_every: Duration::ZERO,
        ..Surroundings::default()
    };
    Trail::open_in(surroundings, &settings, Some(Box::new(scene.unit.again()))).unwrap()
}

#[test]
fn a_collector_gets_each_line() {
    let (scene, collector) = (Scene::new(), Collector::new());
    let trail = open_with_copy(&scene, Copy::Datagram(collector.path.clone()), Path::new(""));
    let mut lines = Vec::new();
    for number in 0..50 {
        trail.record_use(key_use(&format!("key-{number}")));
        act(&trail, Phase::Done).unwrap();
        lines.extend(collector.received());
    }
    assert_eq!(trail.status().uncopied, 0);
    drop(trail);
    lines.extend(collector.received());
    let lines: String =
        lines.iter().map(|line| format!("{}\n", core::str::from_utf8(line).unwrap())).collect();
    assert_eq!(lines, scene.text());
}

#[test]
fn the_journal_gets_fields() {
    let (scene, collector) = (Scene::new(), Collector::new());
    let trail = open_with_copy(&scene, Copy::Journald, &collector.path);
    trail.record_use(KeyUse { outcome: "no-grant", ..key_use("of\nPRIORITY=0") });
    act(&trail, Phase::Failed("no".into())).unwrap();
    drop(trail);
    let datagrams = collector.received();
    let text = scene.text();
    assert_eq!(datagrams.len(), text.lines().count());
    for (datagram, line) in datagrams.iter().zip(text.lines()) {
        let datagram = String::from_utf8_lossy(datagram);
        assert!(datagram.contains(&format!("\nMESSAGE={line}\n")), "{datagram}");
        assert!(
            datagram.starts_with("SYSLOG_IDENTIFIER=keyward-audit\nKEYWARD_ACTION=keyward."),
            "{datagram}"
        );
    }
    let of_use = String::from_utf8_lossy(&datagrams[1]);
    let fields = "KEYWARD_ACTION=keyward.key.use\nKEYWARD_SEQ=2\nKEYWARD_OUTCOME=no-grant\nKEYWARD_KEY\n\x0d\0\0\0\0\0\0\0of\nPRIORITY=0\nKEYWARD_VERSION=1\nKEYWARD_UID=33\nPRIORITY=4\n";
    assert!(of_use.contains(fields), "{of_use}");
    let of_act = String::from_utf8_lossy(&datagrams[2]);
    let fields = "KEYWARD_ACTION=keyward.key.disable\nKEYWARD_SEQ=3\nKEYWARD_OUTCOME=failed\nKEYWARD_KEY=shop\nKEYWARD_UID=0\nPRIORITY=4\n";
    assert!(of_act.contains(fields), "{of_act}");
}

/// A collector that takes nothing, and one that is not there: the trail goes on, and says how much
/// is missing.
#[test]
fn what_is_not_copied_is_counted() {
    let collector = Collector::new();
    for path in [collector.path.as_path(), Path::new("/nonexistent/socket")] {
        let scene = Scene::new();
        let trail = open_with_copy(&scene, Copy::Datagram(path.to_owned()), Path::new(""));
        for _ in 0..5000 {
            trail.record_use(key_use("shop"));
        }
        act(&trail, Phase::Done).unwrap();
        await_state(|| scene.text().contains("keyward.audit.uncopied"));
        let before = trail.status();
        // Neither a record about missing copies nor its checkpoint is worth another one.
        await_state(|| trail.status().unsigned_since.is_none());
        assert!(trail.status().last <= before.last + 2, "{before:?}");
        assert!(!trail.has_failed());
        drop(trail);
        let text = scene.text();
        assert_eq!(text.matches("keyward.key.use").count(), 5000);
        let records: u64 = text
            .lines()
            .filter(|line| line.contains("keyward.audit.uncopied"))
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["records"].as_u64().unwrap())
            .sum();
        let taken = collector.received().len() as u64;
        let all = text.lines().count() as u64;
        assert!((5001..=all).contains(&(records + taken)), "{records} {taken} {all}");
        assert!(scene.verify().unwrap().is_whole());
    }
}

#[test]
fn a_collector_may_be_started_again() {
    let scene = Scene::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let first = UnixDatagram::bind(&path).unwrap();
    let trail = open_with_copy(&scene, Copy::Datagram(path.clone()), Path::new(""));
    act(&trail, Phase::Done).unwrap();
    drop(first);
    fs::remove_file(&path).unwrap();
    act(&trail, Phase::Done).unwrap();
    let second = UnixDatagram::bind(&path).unwrap();
    second.set_nonblocking(true).unwrap();
    await_state(|| {
        act(&trail, Phase::Done).unwrap();
        second.recv(&mut [0; 4096]).is_ok()
    });
    drop(trail);
    assert!(scene.verify().unwrap().is_whole());
}
