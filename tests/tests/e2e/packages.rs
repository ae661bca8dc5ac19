//! The Debian packages in a clean Debian: from there to protected sites in three commands, over an
//! upgrade, and away again with the keys left.

use std::path::Path;
use std::process::Command;

use keyward_tests::machine::run_in_debian;
use keyward_tests::scratch_in_memory;
use keyward_tests::tool::{stderr, succeed};

#[test]
fn three_commands_from_the_packages_to_protected_sites() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    succeed(&mut Command::new(source.join("tests/debian/build")));
    // In memory: the other tests beside this one wait for the disk.
    let scratch = scratch_in_memory();
    // The short form has the same programs under an older version.
    let previous = match std::env::var_os("KEYWARD_SOAK").is_some() {
        true => {
            succeed(&mut Command::new(source.join("tests/debian/previous")));
            "previous/release"
        }
        false => "release",
    };
    for (profile, version, directory) in [(previous, "0.0.1", "before"), ("release", "", "")] {
        let to = scratch.path().join(directory);
        let mut make = Command::new(source.join(".ci/packages"));
        make.arg(profile).arg(version).arg(&to).env("TMPDIR", scratch.path());
        make.env("DOCUMENTED_BY", source.join("target/release/keyward"));
        succeed(make.env("COMPRESSION", "none").current_dir(&source));
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
