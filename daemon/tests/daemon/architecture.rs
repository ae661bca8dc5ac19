//! Imports between the rooms of the daemon point down, as ARCHITECTURE.md lists them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn imports_point_down() {
    let daemon = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(daemon.join("../ARCHITECTURE.md")).unwrap();
    let list = page.split("```rooms\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let names =
        |line: &str| line.split("  ").next().unwrap().split(", ").map(str::to_owned).collect::<Vec<_>>();
    let floors: BTreeMap<String, usize> = list
        .lines()
        .enumerate()
        .flat_map(|(floor, line)| names(line).into_iter().map(move |room| (room, floor)))
        .collect();

    let source = daemon.join("src");
    let mut arrows = 0;
    for file in rust_files(&source) {
        let path = file.strip_prefix(&source).unwrap();
        let room = path.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if ["lib", "main"].contains(&room) {
            continue;
        }
        let from = floors.get(room).unwrap_or_else(|| panic!("room {room} is not in ARCHITECTURE.md"));
        for used in rooms_used_by(&fs::read_to_string(&file).unwrap()) {
            let to = floors
                .get(&used)
                .unwrap_or_else(|| panic!("{}: room {used:?} is not in ARCHITECTURE.md", path.display()));
            assert!(used == room || from < to, "{} must not use {used}", path.display());
            arrows += usize::from(used != room);
        }
    }
    assert!(arrows > 100, "imports were found: {arrows}");
}

/// Rooms that a file names as `crate::ROOM`, unit tests and comments excluded.
fn rooms_used_by(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let paths = lines.flat_map(|line| line.split("crate::").skip(1));
    let rooms =
        paths.map(|path| path.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap());
    rooms.map(str::to_owned).collect()
}

/// Every source file below a directory, except files of unit tests.
fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] });
    files.filter(|path| !path.ends_with("tests.rs")).collect()
}
