//! Known inputs of the fuzz targets: the well-formed inputs that `tests/fuzz/seed` makes, the
//! corpus of this machine, and inputs that once broke a target.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyward_fuzz_targets::TARGETS;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

/// The files of a directory of inputs; none if there is no such directory.
fn inputs(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn known_inputs_break_no_target() {
    let seeds = tempfile::tempdir().unwrap();
    let output = Command::new(fuzz().join("seed")).arg(seeds.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (name, run) in TARGETS {
        let places = [seeds.path().to_owned(), fuzz().join("corpus"), fuzz().join("artifacts")];
        let mut inputs: Vec<_> = places.iter().flat_map(|place| inputs(&place.join(name))).collect();
        inputs.sort();
        println!("{name}: {} inputs", inputs.len());
        run(b"");
        for input in inputs {
            // The last printed name is the input that broke the target.
            println!("{name}: {}", input.display());
            run(&fs::read(&input).unwrap());
        }
    }
}

/// Nothing would run a target without an entry here, or without a program in tests/fuzz.
#[test]
fn every_target_is_a_program_of_the_fuzzer() {
    let mut programs: Vec<_> = inputs(&fuzz().join("fuzz_targets"))
        .iter()
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    programs.sort();
    assert_eq!(programs, TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in programs {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
}
