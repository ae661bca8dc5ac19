//! Many uses in a second, in a process of their own: its memory must not grow.
//!
//! `KEYWARD_SOAK=1` makes the test last a minute.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use core::time::Duration;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::thread;
use std::time::{Instant, SystemTime};

use keyward_audit::{Hash, KeyUse, Name, Peer, Policy, Settings, Trail};

#[test]
fn memory_does_not_grow_with_the_number_of_uses() {
    let seconds = if std::env::var_os("KEYWARD_SOAK").is_some() { 60 } else { 2 };
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings {
        directory: directory.path().to_owned(),
        threads: 2,
        checkpoint_interval: Duration::from_secs(60),
        checkpoint_records: 10_000,
        copy: None,
        policy: Policy { rotate_at: 8 << 20, ..Policy::default() },
    };
    let trail = Trail::open(&settings, None).unwrap();
    give(&trail, Duration::from_secs(1));
    let before = resident();
    let given = USES_A_SECOND + give(&trail, Duration::from_secs(seconds));
    let grown = resident().saturating_sub(before);
    let unwritten = trail.unwritten();
    drop(trail);
    println!("{given} uses, {unwritten} without a record, {} KiB more memory", grown >> 10);
    assert!(grown < MOST, "{grown} bytes more memory");
    assert_eq!(recorded(directory.path()), given);
}

/// Records uses at the rate, and returns their number.
fn give(trail: &Trail, time: Duration) -> u64 {
    let (begin, mut given) = (Instant::now(), 0);
    let all = USES_A_SECOND * time.as_secs();
    while given < all {
        for _ in 0..SLICE {
            trail.record_use(key_use());
        }
        given += SLICE;
        let due = begin + Duration::from_nanos(given * 1_000_000_000 / USES_A_SECOND);
        // The rate is a matter of the clock alone.
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    given
}

fn key_use() -> KeyUse {
    KeyUse {
        time: SystemTime::now(),
        peer: Peer { uid: 33, gid: 33, pid: 4711, command: Some("nginx".into()), unit: None },
        key: Name::of("shop"),
        version: 1,
        fingerprint: Some(0x0123_4567_89ab_cdef),
        purpose: Some("tls13-server"),
        scheme: Some("ecdsa_secp256r1_sha256"),
        message: Hash::of(b"message"),
        outcome: "done",
        request: 7,
    }
}

/// Uses that the trail has written or counted.
fn recorded(directory: &Path) -> u64 {
    let mut uses = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let mut text = String::new();
        let mut file = fs::File::open(&path).unwrap();
        match path.extension().and_then(|end| end.to_str()) {
            Some("zst") => zstd::Decoder::new(file).unwrap().read_to_string(&mut text).unwrap(),
            Some("jsonl") => file.read_to_string(&mut text).unwrap(),
            _ => continue,
        };
        for line in text.lines() {
            if line.contains(r#""action":"keyward.key.use""#) {
                uses += 1;
                continue;
            }
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            // Gaps have `uses`, summaries `count`.
            uses += record["uses"].as_u64().or(record["count"].as_u64()).unwrap_or_default();
        }
    }
    uses
}

/// Resident memory of this process in bytes (proc_pid_statm(5)).
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

const USES_A_SECOND: u64 = 50_000;
/// Uses that are recorded without a pause.
const SLICE: u64 = 500;
/// Most memory that may be added in the test, in bytes: the compression of a file takes some.
const MOST: u64 = 48 << 20;
