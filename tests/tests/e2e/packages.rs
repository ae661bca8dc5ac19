//! The Debian packages in a clean Debian: from there to protected sites in three commands, over an
//! upgrade, and away again with the keys left.

use std::fs;
use std::path::Path;
use std::process::Command;

use keyward_tests::machine::run_in_debian;
use keyward_tests::tool::{stderr, succeed};

#[test]
fn three_commands_from_the_packages_to_protected_sites() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    succeed(&mut Command::new(source.join("tests/debian/build")));
    let scratch = tempfile::tempdir().unwrap();
    // The short form has the same programs under an older version.
    let previous = match std::env::var_os("KEYWARD_SOAK").is_some() {
        true => {
            succeed(&mut Command::new(source.join("tests/debian/previous")));
            "previous/release"
        }
        false => "release",
    };
    for (profile, version, directory) in [(previous, "0.0.1", "before"), ("release", "", "")] {
        let mut make = Command::new(source.join(".ci/packages"));
        make.arg(profile).args(Some(version).filter(|version| !version.is_empty()));
        make.env("DOCUMENTED_BY", source.join("target/release/keyward"));
        let list = succeed(make.env("COMPRESSION", "none").current_dir(&source));
        let to = scratch.path().join(directory);
        fs::create_dir_all(&to).unwrap();
        for package in list.lines().filter(|line| !line.contains("dbgsym")) {
            let from = source.join(package);
            fs::copy(&from, to.join(from.file_name().unwrap())).unwrap();
        }
        if !version.is_empty() {
            list.lines().for_each(|package| fs::remove_file(source.join(package)).unwrap());
        }
    }
    let Some(output) = run_in_debian(scratch.path()) else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{}\n{text}{}", output.status, stderr(&output));
    for words in [
        if previous == "release" { "in the chroot by setup: 1" } else { "in the chroot by setup: 0" },
        "keys in the memory of nginx before: 4",
        "keys in the memory of nginx after: 0",
        "keys in the memory of HAProxy after: 0",
        "keys in the memory of Apache after: 0",
        "every file is as it was",
        "test is successful",
        "unit = \"nginx.service\"",
        "== done",
    ] {
        assert!(text.contains(words), "{text} lacks {words}");
    }
}
