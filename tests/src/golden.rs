//! Golden files: each line in `tests/golden` is one fact about an interface that people depend on.
//!
//! The unit tests of the command line include this file too, so it uses nothing but std.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Compares the facts about an interface with its golden file. With `KEYWARD_GOLDEN=write` in the
/// environment, writes the file instead.
///
/// # Panics
/// If a fact is new, or a fact of the file holds no more. The message names each, and what to do.
#[track_caller]
pub fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name);
    if std::env::var_os("KEYWARD_GOLDEN").is_some_and(|value| value == "write") {
        fs::write(&path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        return;
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    if let Some(difference) = difference(&golden, text) {
        panic!("{name}: {difference}");
    }
}

/// The lines in which two lists of facts differ, and what to do; `None` if the lists are equal.
fn difference(golden: &str, now: &str) -> Option<String> {
    if golden == now {
        return None;
    }
    let (before, after) = (golden.lines().collect::<BTreeSet<_>>(), now.lines().collect::<BTreeSet<_>>());
    let gone = golden.lines().filter(|line| !after.contains(line));
    let new = now.lines().filter(|line| !before.contains(line));
    let lines: Vec<_> =
        gone.clone().map(|line| format!("- {line}")).chain(new.map(|line| format!("+ {line}"))).collect();
    let advice = match gone.count() {
        0 => "Nothing is gone, so nobody is hurt.",
        _ => {
            "A line with - is a promise to users, and it is broken. Keep it; or, if that cannot be, say so in \
             CHANGELOG.md under \"Changed\"."
        }
    };
    Some(format!(
        "the interface is not the one of tests/golden:\n{}\n{advice} Then write the file anew, and commit it: {REWRITE}",
        lines.join("\n")
    ))
}

/// Command that writes all golden files. CONTRIBUTING.md has it too.
const REWRITE: &str = "KEYWARD_GOLDEN=write cargo test --release --workspace --lib --test e2e golden";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_gone_needs_a_line_in_the_changelog() {
        assert_eq!(difference("a\nb\n", "a\nb\n"), None);
        let more = difference("a\n", "a\nb\n").unwrap();
        assert!(more.contains("\n+ b\nNothing is gone") && !more.contains("CHANGELOG"), "{more}");
        for changed in ["a\n", "a\nc\n"] {
            let less = difference("a\nb\n", changed).unwrap();
            assert!(
                less.contains("\n- b\n") && less.contains("\"Changed\"") && less.contains(REWRITE),
                "{less}"
            );
        }
    }
}
