//! Texts that a run has put into files, and that the way back takes out of files that somebody else
//! has changed meanwhile.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A text that a run has put in the place of another.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(in crate::cli::protect) struct Replaced {
    /// Empty for a text that was added.
    pub(in crate::cli::protect) old: String,
    pub(in crate::cli::protect) new: String,
}

/// A file without the texts of a run: wherever one of these stands as a word of its own, the text
/// of before comes back. Everything else stays.
pub(super) fn reversed(text: &str, edits: &[Replaced]) -> String {
    let mut by_new: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for edit in edits.iter().filter(|edit| !edit.new.is_empty()) {
        by_new.entry(&edit.new).or_default().push(&edit.old);
    }
    let mut text = text.to_owned();
    // A text may be a part of a longer one.
    let mut all: Vec<_> = by_new.into_iter().collect();
    all.sort_by_key(|(new, _)| core::cmp::Reverse(new.len()));
    for (new, olds) in all {
        // The first place has the text that stood first, and so on.
        let mut olds = olds.into_iter().peekable();
        let mut at = 0;
        while let Some(found) = text.get(at..).and_then(|rest| rest.find(new)).map(|found| at + found) {
            let end = found + new.len();
            if !is_word(&text, found, end) {
                at = end;
                continue;
            }
            let old = olds.next().unwrap_or_default();
            if olds.peek().is_none() {
                olds = vec![old].into_iter().peekable();
            }
            text.replace_range(found..end, old);
            at = found + old.len();
        }
    }
    text
}

/// True if no part of a longer path or name begins before a place of a text, or ends behind it.
fn is_word(text: &str, start: usize, end: usize) -> bool {
    let goes_on = |c: char| c.is_alphanumeric() || "/._-".contains(c);
    let (before, place) = text.split_at(start);
    let (place, behind) = place.split_at(end - start);
    let goes_before = before.ends_with(goes_on) && place.starts_with(goes_on);
    let goes_behind = behind.starts_with(goes_on) && place.ends_with(goes_on);
    !goes_before && !goes_behind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_a_run_are_taken_out_of_a_changed_file() {
        let edit = |old: &str, new: &str| Replaced { old: old.into(), new: new.into() };
        let edits = [
            edit("a.key", "/ssl/a.key.keyward.pem"),
            edit("'a.key'", "/ssl/a.key.keyward.pem"),
            edit("", "env OPENSSL_CONF=/x;\n"),
            edit("", ""),
        ];
        let text = "user www;\nenv OPENSSL_CONF=/x;\nkey /ssl/a.key.keyward.pem; # mine\n\
                    key /ssl/a.key.keyward.pem;\nkey /ssl/a.key.keyward.pem;\nold /ssl/a.key.keyward.pem.bak;\n";
        assert_eq!(
            reversed(text, &edits),
            "user www;\nkey a.key; # mine\nkey 'a.key';\nkey 'a.key';\nold /ssl/a.key.keyward.pem.bak;\n"
        );
        assert_eq!(reversed("nothing of it\n", &edits), "nothing of it\n");
    }
}
