//! `keyward unit compare`: units that are interchangeable, and units that are not.

use std::fs;

use serde_json::Value;

use crate::ceremony::Ceremony;
use crate::fixture::has_root;

#[test]
fn units_of_the_same_owners_and_master_key_are_the_same() {
    if !has_root() {
        return;
    }
    let ceremony = Ceremony::owned();
    let pattern = ceremony.put_in_force(&["dave", "erin"]);
    let mut other = Ceremony::unowned();
    for name in ["alice", "bob", "carol", "dave", "erin"] {
        fs::copy(ceremony.path(name), other.path(name)).unwrap();
    }
    for name in ["alice.pub", "bob.pub", "carol.pub"] {
        fs::copy(ceremony.path(name), other.path(name)).unwrap();
    }
    let file = ceremony.path("other.json");
    let compare = |other: &Ceremony, words: &[&str]| {
        fs::write(&file, other.daemon.succeed(&["unit", "status", "--json"])).unwrap();
        ceremony.daemon.keyward(&[&["unit", "compare", &file], words].concat())
    };
    let facts = |other: &Ceremony| -> Vec<String> {
        let output = compare(other, &["--json"]);
        let compared: Value = serde_json::from_slice(&output.stdout).unwrap();
        let differences = compared["differences"].as_array().unwrap();
        assert_eq!(compared["same"], differences.is_empty());
        assert_eq!(output.status.code(), Some(i32::from(!differences.is_empty())));
        assert_eq!(compared["units"].as_array().unwrap().len(), 2);
        differences.iter().map(|difference| difference["fact"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(facts(&other), ["owned", "thresholds", "administrators", "current register"]);
    let output = compare(&other, &[]);
    let shown = String::from_utf8(output.stdout).unwrap();
    let digits = format!("    {pattern}\n    2 of 2 parts or shares make it\n");
    assert!(shown.contains(&digits) && shown.contains("\n  this machine:\n    "), "{shown}");
    other.claim();
    assert_eq!(facts(&other), ["current register"]);
    assert_eq!(other.put_in_force(&["erin", "dave"]), pattern);
    assert!(facts(&other).is_empty());
    let output = compare(&other, &[]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !shown.contains("differs"), "{shown}");
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    assert!(
        shown.contains("this machine") && shown.contains(&pattern[..8]) && shown.contains("alice"),
        "{shown}"
    );
    // A sealed unit is the same. One that a plain file opens, and that nobody has parts of, is not.
    other.restart();
    assert!(facts(&other).is_empty());
    let mut state = other.status();
    state["opening"] = "unprotected".into();
    state["current"]["needed"] = 0.into();
    fs::write(&file, state.to_string()).unwrap();
    let output = ceremony.daemon.keyward(&["unit", "compare", &file]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.contains("differs in: opened\n"), "{shown}");
    assert!(shown.contains("no owners have parts of it"), "{shown}");

    let more = ["unit", "threshold", "--signatures", "1", "--revocation", "3"];
    ceremony.command(&more, &["alice", "bob"]).unwrap();
    let output = compare(&other, &[]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{shown}");
    let lines = format!("{file} differs in: thresholds\n  this machine: 1 and 3\n  {file}: 2 and 2\n");
    assert!(shown.ends_with(&lines), "{shown}");

    // The unit itself, a damaged file, a long one, and none.
    let own = ceremony.path("own.json");
    fs::write(&own, ceremony.daemon.succeed(&["unit", "status", "--json"])).unwrap();
    let output = ceremony.daemon.keyward(&["unit", "compare", &own]);
    let warned = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && warned.contains("of one unit") && warned.contains("end one"),
        "{warned}"
    );
    let text = fs::read(&own).unwrap();
    for (bytes, reason) in [
        (&text[..text.len() / 2], "keyward unit status --json"),
        (b"{}", "keyward unit status --json"),
        (&[b' '; 70_000], "longer than 65536 bytes"),
    ] {
        fs::write(&own, bytes).unwrap();
        let (status, line) = ceremony.run(&["unit", "compare", &own]).unwrap_err();
        assert!(status == 65 && line.contains(reason), "{line}");
    }
    let (status, _) = ceremony.run(&["unit", "compare", &ceremony.path("nothing.json")]).unwrap_err();
    assert_eq!(status, 66);
}
